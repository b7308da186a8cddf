//! `kappa log`: offline, on what a broker left.

use crate::harness::{Broker, Ran, kappa, run};
use std::{fs, path::PathBuf};

fn stopped_broker() -> Broker {
    let mut broker = Broker::start();
    broker.kappa(&["topic", "create", "t", "-p", "1"]).ok();
    for number in 0..5 {
        broker
            .kappa_with(&["produce", "t", "-k", "key", "-z", "lz4"], format!("value {number}\n").as_bytes())
            .ok();
    }
    broker.stop();
    broker
}

fn log(broker: &Broker, command: &str, more: &[&str]) -> Ran {
    run(kappa().args(["log", command]).arg(broker.data_dir()).args(["--topic", "t"]).args(more), b"")
}

fn segment(broker: &Broker) -> PathBuf {
    broker.data_dir().join("t-0").join("00000000000000000000.log")
}

#[test]
fn a_stopped_broker_leaves_a_sound_log() {
    let broker = stopped_broker();
    let verified = log(&broker, "verify", &["--output", "json"]).json();
    assert_eq!(verified.as_array().unwrap().len(), 1);
    assert_eq!((&verified[0]["records"], &verified[0]["end_offset"]), (&5.into(), &5.into()));
    assert_eq!(verified[0]["problems"], serde_json::json!([]));
    let all = run(kappa().args(["log", "verify"]).arg(broker.data_dir()), b"").ok();
    assert!(all.contains("t-0 ") && all.contains("__kappa_catalog-0 ") && !all.contains("problem"), "{all}");
}

#[test]
fn a_header_name_that_is_not_utf8_is_no_damage() {
    let mut broker = Broker::start();
    broker.kappa(&["topic", "create", "t", "-p", "1"]).ok();
    broker.kappa_with(&["produce", "t", "-H", "cafe=1"], b"value\n").ok();
    broker.stop();
    let mut bytes = fs::read(segment(&broker)).unwrap();
    let name = bytes.windows(4).position(|window| window == b"cafe").unwrap();
    bytes[name + 3] = 0xe9;
    let crc = kappa_protocol::record::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    fs::write(segment(&broker), &bytes).unwrap();
    let verified = log(&broker, "verify", &["--output", "json"]).json();
    assert_eq!((&verified[0]["records"], &verified[0]["problems"]), (&1.into(), &serde_json::json!([])));
    assert_eq!(log(&broker, "dump", &[]).code, 0);
}

#[test]
fn batches_and_records_are_dumped_as_they_lie() {
    let broker = stopped_broker();
    let dumped = log(&broker, "dump", &["--from-offset", "3"]).ok();
    let lines: Vec<_> = dumped.lines().collect();
    assert_eq!(lines.len(), 3, "{dumped}");
    assert!(
        lines[1].starts_with("offsets 3..3 records 1 position ") && lines[1].contains(" compression lz4 "),
        "{dumped}"
    );
    let dumped = log(&broker, "dump", &["--records", "--output", "json"]).ok();
    let values: Vec<_> = dumped
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(values, ["value 0", "value 1", "value 2", "value 3", "value 4"]);
}

#[test]
fn damage_is_found_and_told_with_its_place() {
    let broker = stopped_broker();
    let path = segment(&broker);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let ran = log(&broker, "verify", &[]);
    assert_eq!(ran.code, 5);
    assert!(
        ran.stdout.contains("\nsegment 0, position ") && ran.stdout.contains("checksum"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.starts_with("kappa: 1 problem found"), "{}", ran.stderr);
    assert_eq!(log(&broker, "dump", &[]).code, 5);

    fs::write(&path, &bytes[..end - 1]).unwrap();
    assert_eq!(log(&broker, "verify", &[]).code, 5);
}

/// A crash after a roll leaves the last batches in a file that no sync has named yet.
#[test]
fn the_segment_without_a_name_is_looked_at_too() {
    let broker = stopped_broker();
    let bytes = fs::read(segment(&broker)).unwrap();
    // Offset 3 begins the next segment.
    let len = |at: usize| 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let cut = (0..3).fold(0, |at, _| at + len(at));
    let unnamed = segment(&broker).with_file_name("next-segment");
    fs::write(segment(&broker), &bytes[..cut]).unwrap();
    fs::write(&unnamed, &bytes[cut..]).unwrap();
    let verify = || log(&broker, "verify", &["--output", "json"]);
    let verified = verify().json();
    let facts = ["segments", "records", "end_offset"].map(|fact| verified[0][fact].as_u64());
    assert_eq!(facts, [Some(2), Some(5), Some(5)], "{verified}");
    let dumped = log(&broker, "dump", &["--from-offset", "3"]).ok();
    assert!(dumped.contains("/next-segment\noffsets 3..3 records 1 position 0 "), "{dumped}");

    for (content, problem) in [
        (&bytes[..cut], "next-segment: offset 0 does not follow segment 0"),
        (&bytes[cut..cut + 30], "next-segment, position 0: "),
        (&[&bytes[cut..bytes.len() - 1], &[!bytes[bytes.len() - 1]]].concat(), "segment 3, position "),
    ] {
        fs::write(&unnamed, content).unwrap();
        let ran = log(&broker, "verify", &[]);
        assert_eq!(ran.code, 5, "{problem}");
        assert!(ran.stdout.contains(problem), "{}", ran.stdout);
        assert_eq!(log(&broker, "dump", &[]).code, 5, "{problem}");
    }
    fs::write(&unnamed, b"").unwrap();
    assert_eq!(verify().json()[0]["records"], 3);
}

#[test]
fn a_directory_without_partitions_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    run(kappa().args(["log", "verify"]).arg(dir.path()), b"").failed(
        4,
        &format!(
            "kappa: '{path}' holds no partitions; give the broker's --data-dir, or the directory of one partition in it"
        ),
    );
    assert_eq!(run(kappa().args(["log", "verify", "/no/such/directory"]), b"").code, 4);
}

#[test]
fn a_damaged_directory_is_repaired_in_a_copy() {
    let broker = stopped_broker();
    let mut bytes = fs::read(segment(&broker)).unwrap();
    bytes[70] ^= 1;
    fs::write(segment(&broker), &bytes).unwrap();
    let repair = |more: &[&std::ffi::OsStr]| {
        run(kappa().args(["log", "repair"]).arg(broker.data_dir()).args(more), b"")
    };
    let planned = repair(&[]);
    for part in ["t-0/00000000000000000000.log", "offsets 0 to 0", "__kappa_catalog-0"] {
        assert!(planned.stdout.contains(part), "{}", planned.stdout);
    }
    planned.failed(5, "kappa: 1 problem found, nothing was written; --to NEW_DIR makes a copy without it");
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy");
    let done = repair(&["--output".as_ref(), "json".as_ref(), "--to".as_ref(), copy.as_ref()]).json();
    assert_eq!(done["findings"][0]["lost"], "offsets 0 to 0");
    let kept = done["kept"].as_array().unwrap().iter().find(|kept| kept["topic"] == "t").unwrap();
    assert_eq!((&kept["start_offset"], &kept["end_offset"]), (&1.into(), &5.into()));
    assert_eq!(fs::read(segment(&broker)).unwrap(), bytes, "the original stays");
    run(kappa().args(["log", "verify"]).arg(&copy), b"").ok();
    repair(&["--to".as_ref(), copy.as_ref()])
        .failed(1, &format!("kappa: {} is there already: name a directory that is not", copy.display()));
    assert_eq!(run(kappa().args(["log", "repair", "/no/such/directory"]), b"").code, 4);
}

#[test]
fn a_directory_that_a_broker_uses_is_not_repaired() {
    let broker = Broker::start();
    let ran = run(kappa().args(["log", "repair"]).arg(broker.data_dir()), b"");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("another broker is using"), "{}", ran.stderr);
}

/// Whatever a start refuses, `log verify` does not call sound.
#[test]
fn what_stands_beside_the_segments_is_verified_too() {
    let flip = |path: PathBuf| {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        fs::write(path, bytes).unwrap();
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(PathBuf), &'a str);
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    let remove_all = |path: PathBuf| fs::remove_dir_all(path).unwrap();
    let garbage = |path: PathBuf| fs::write(path, b"garbage").unwrap();
    let damages: [Damage<'_>; 5] = [
        ("t-0/partition.metadata", &remove, "t-0"),
        ("t-0/partition.metadata", &garbage, "t-0/partition.metadata"),
        ("__kappa_catalog-0", &remove_all, "catalog"),
        ("meta.properties", &remove, "meta.properties"),
        ("kappa-checkpoint", &flip, "kappa-checkpoint"),
    ];
    for (name, damage, words) in damages {
        let broker = stopped_broker();
        let path = broker.data_dir().join(name);
        assert!(path.exists(), "{name}: {:?}", fs::read_dir(broker.data_dir()).unwrap().collect::<Vec<_>>());
        damage(path);
        let ran = run(kappa().args(["log", "verify"]).arg(broker.data_dir()), b"");
        assert_eq!(ran.code, 5, "{name}: {}", ran.stdout);
        assert!(ran.stdout.contains(words), "{name}: {}", ran.stdout);
    }
}

#[test]
fn a_running_broker_is_told_of() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "t"]).ok();
    let ran = run(kappa().args(["log", "verify"]).arg(broker.data_dir()), b"");
    assert!(ran.stderr.contains("a broker runs on it: only segments were checked"), "{}", ran.stderr);
}

#[test]
fn offsets_between_segments_that_are_in_no_file_are_told() {
    let broker = stopped_broker();
    for suffix in ["log", "index", "timeindex"] {
        let of = |offset: u32| broker.data_dir().join("t-0").join(format!("{offset:020}.{suffix}"));
        if of(0).exists() {
            fs::copy(of(0), of(7)).unwrap();
        }
    }
    fs::write(broker.data_dir().join("t-0").join(format!("{:020}.log", 7)), b"").unwrap();
    let ran = log(&broker, "verify", &[]);
    assert!(ran.stdout.contains("t-0: no record of offsets 5 to 6 before segment 7"), "{}", ran.stdout);
}

#[test]
fn a_place_for_the_copy_that_cannot_be_is_not_found() {
    let broker = stopped_broker();
    let ran = run(kappa().args(["log", "repair"]).arg(broker.data_dir()).args(["--to", "/no/such/x"]), b"");
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}

#[test]
fn what_was_set_aside_is_dumped_under_its_new_name() {
    let broker = stopped_broker();
    let dump =
        |path: &std::path::Path, more: &[&str]| run(kappa().args(["log", "dump"]).arg(path).args(more), b"");
    let whole = dump(&segment(&broker), &["--output", "json"]).ok();
    assert_eq!(whole.lines().count(), 5);
    assert!(
        whole.starts_with(r#"{"topic":"t","partition":0,"segment":0,"position":0,"base_offset":0,"#),
        "{whole}"
    );

    let set_aside = broker.data_dir().join("set-aside");
    let renamed = set_aside.join("t-0.1690000000000");
    fs::create_dir(&set_aside).unwrap();
    fs::rename(broker.data_dir().join("t-0"), &renamed).unwrap();
    for path in [&renamed, &set_aside] {
        assert_eq!(dump(path, &["--output", "json"]).ok(), whole);
    }

    // What recovery cuts off begins with damage.
    let mut bytes = fs::read(renamed.join("00000000000000000000.log")).unwrap();
    let len = |at: usize| 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let (second, third) = (len(0), len(0) + len(len(0)));
    bytes[second + 20] ^= 1;
    let remainder = renamed.join(format!("00000000000000000000.log.{second}.corrupt"));
    fs::write(&remainder, &bytes[second..]).unwrap();
    let ran = dump(&remainder, &[]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{}", ran.stdout);
    let told = format!("no batch from position 0 to {}: record batch checksum ", third - second);
    assert!(lines[1].starts_with(&told) && lines[2].starts_with("offsets 2..2 "), "{}", ran.stdout);
    assert!(lines[4].starts_with("offsets 4..4 "), "{}", ran.stdout);

    // Garbage in front, and a cut batch at the end.
    fs::write(&remainder, [&[0xff; 100][..], &bytes[third..bytes.len() - 1]].concat()).unwrap();
    let ran = dump(&remainder, &["--output", "json"]);
    let offsets: Vec<_> = ran.stdout.lines().map(|line| line.contains("\"base_offset\":2,")).collect();
    assert_eq!((ran.code, offsets), (5, vec![true, false]), "{}", ran.stdout);
}
