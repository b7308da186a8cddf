//! Data directories that a broker refuses or that are damaged, repaired in a copy: it starts, serves all that can be read,
//! and what is lost was told.

use crate::client::Running;
use kappa_broker::{Broker, BrokerConfig, RepairError, Repaired, repair};
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::{FindCoordinatorRequest, OffsetCommitRequest};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// A stopped broker's directory with two topics: `a` of two partitions, `b` of one, three records in each.
pub(crate) fn stopped() -> TempDir {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("a", 2);
    client.create_topic("b", 1);
    for (topic, partition) in [("a", 0), ("a", 1), ("b", 0)] {
        for value in ["one", "two", "three"] {
            client.produce(topic, partition, &[value]);
        }
    }
    running.stop();
    dir
}

pub(crate) fn refusal(dir: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(Broker::start(BrokerConfig::new(dir))) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

/// Every file and its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

/// Says what is wrong, twice the same, makes the copy, and leaves the original as it is.
pub(crate) fn repaired(dir: &Path) -> (Repaired, TempDir) {
    let before = contents(dir);
    let planned = repair(dir, None).unwrap();
    let home = tempdir().unwrap();
    let done = repair(dir, Some(&home.path().join("copy"))).unwrap();
    assert_eq!(planned.findings, done.findings);
    assert_eq!(planned.kept, done.kept);
    assert_eq!(contents(dir), before);
    (done, home)
}

pub(crate) fn told(repaired: &Repaired) -> String {
    repaired.findings.iter().map(|f| format!("{}: {}; {}; {}\n", f.path, f.found, f.done, f.lost)).collect()
}

/// What the copy serves, from each partition's first offset; it also takes another record, and starts once more.
pub(crate) fn served(home: &TempDir) -> BTreeMap<(&'static str, i32), Vec<String>> {
    let copy = home.path().join("copy");
    let running = Running::start(&copy);
    let mut client = running.client();
    let places = [("a", 0), ("a", 1), ("b", 0)];
    let mut served = BTreeMap::new();
    for (topic, partition) in places {
        served.insert((topic, partition), values(&mut client, topic, partition));
    }
    for (topic, partition) in places {
        client.produce(topic, partition, &["more"]);
    }
    running.stop();
    let running = Running::start(&copy);
    let mut client = running.client();
    for (topic, partition) in places {
        assert_eq!(values(&mut client, topic, partition).last().unwrap(), "more");
    }
    running.stop();
    served
}

/// All values, wherever the log begins.
pub(crate) fn values(client: &mut crate::client::Client, topic: &str, partition: i32) -> Vec<String> {
    use kappa_protocol::messages::ListOffsetsRequest;
    use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let wanted = ListOffsetsPartition { partition_index: partition, timestamp: -2, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: topic.into(), partitions: vec![wanted] }];
    let listed = client.call(7, ListOffsetsRequest { replica_id: -1, topics, ..Default::default() });
    client.values(topic, partition, listed.topics[0].partitions[0].offset)
}

const ALL: [&str; 3] = ["one", "two", "three"];

pub(crate) fn check_all(served: &BTreeMap<(&'static str, i32), Vec<String>>) {
    assert_eq!(served.len(), 3);
    served.iter().for_each(|(place, values)| assert_eq!(values, &ALL, "{place:?}"));
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_directory_is_copied_and_nothing_is_wrong() {
    let dir = stopped();
    let (repaired, home) = repaired(dir.path());
    assert_eq!(told(&repaired), "");
    assert_eq!(repaired.kept.len(), 4);
    check_all(&served(&home));
}

#[test]
fn files_that_say_what_is_where_are_made_again() {
    for file in ["a-1/partition.metadata", "__kappa_catalog-0/partition.metadata", "kappa-checkpoint"] {
        let dir = stopped();
        flip(&dir.path().join(file), 5);
        let refused = refusal(dir.path());
        assert!(refused.contains("kappa log repair"), "{refused}");
        let (repaired, home) = repaired(dir.path());
        let name = file.split('/').next().unwrap();
        assert!(repaired.findings.iter().any(|finding| finding.path == name), "{}", told(&repaired));
        check_all(&served(&home));
    }
}

#[test]
fn a_directory_that_is_gone_is_empty_and_its_offsets_are_not_given_again() {
    let dir = stopped();
    fs::remove_dir_all(dir.path().join("a-1")).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("a-1") && refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(
        told(&repaired).contains("a-1: missing; empty, it goes on at offset 3; offsets 0 to 2"),
        "{}",
        told(&repaired)
    );
    let served = served(&home);
    assert_eq!(served[&("a", 1)], [] as [&str; 0]);
    assert_eq!(
        (&served[&("a", 0)][..], &served[&("b", 0)][..]),
        (&ALL.map(String::from)[..], &ALL.map(String::from)[..])
    );
    let running = Running::start(&home.path().join("copy"));
    assert_eq!(running.client().produce("a", 1, &["x"]), 4);
    running.stop();
}

#[test]
fn without_a_catalog_topics_are_found_by_their_directories() {
    let dir = stopped();
    fs::remove_dir_all(dir.path().join("__kappa_catalog-0")).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("topic a is recorded with 2 partitions"), "{}", told(&repaired));
    check_all(&served(&home));
}

#[test]
fn a_flipped_byte_in_the_catalog_loses_a_record_and_no_topic() {
    let dir = stopped();
    let log = dir.path().join("__kappa_catalog-0/00000000000000000000.log");
    // In the first batch, which records topic a.
    flip(&log, 80);
    let refused = refusal(dir.path());
    assert!(refused.contains("__kappa_catalog-0") && refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    let told = told(&repaired);
    assert!(
        told.contains("offsets 0 to 0") && told.contains("topic a is recorded with 2 partitions"),
        "{told}"
    );
    check_all(&served(&home));
}

#[test]
fn a_record_of_another_version_in_the_catalog_is_left_out() {
    use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, patched_prefix};
    use std::io::Write;
    let dir = stopped();
    let log = dir.path().join("__kappa_catalog-0/00000000000000000000.log");
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(1, Some(b"future/thing"), Some(b"{}"), std::iter::empty());
    let bytes = builder.finish(0);
    let prefix = patched_prefix(Batch::produced(&bytes).unwrap().bytes(), 2, 0);
    let mut file = fs::OpenOptions::new().append(true).open(log).unwrap();
    file.write_all(&[&prefix[..], &bytes[prefix.len()..]].concat()).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("future/thing") || refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("future/thing"), "{}", told(&repaired));
    check_all(&served(&home));
}

#[test]
fn damage_in_the_middle_of_a_segment_is_left_out_and_told_by_its_offsets() {
    let dir = stopped();
    let log = dir.path().join("a-0/00000000000000000000.log");
    let third = fs::metadata(&log).unwrap().len() as usize / 3;
    flip(&log, third + 70);
    let (repaired, home) = repaired(dir.path());
    let told = told(&repaired);
    assert!(told.contains("a-0/00000000000000000000.log") && told.contains("offsets 1 to 1"), "{told}");
    let served = served(&home);
    assert_eq!(served[&("a", 0)], ["one", "three"]);
    assert_eq!(served[&("b", 0)], ALL);
}

pub(crate) fn committing(group: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let partitions = vec![partition];
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic { name: "a".into(), partitions, ..Default::default() }],
        ..Default::default()
    }
}

#[test]
fn a_damaged_commit_refuses_the_start_and_its_group_begins_where_it_was_before() {
    let dir = stopped();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let found = client.call(3, FindCoordinatorRequest { key: "g".into(), ..Default::default() });
    assert_eq!(found.error_code, 0);
    for (group, offset) in [("g", 1), ("h", 2), ("g", 3)] {
        let committed = client.call(7, committing(group, offset));
        assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    }
    running.stop();
    let log = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let len = fs::metadata(&log).unwrap().len() as usize;
    flip(&log, len - 1);
    let refused = refusal(dir.path());
    assert!(refused.contains("__consumer_offsets") && refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("offsets 2 to 2"), "{}", told(&repaired));
    let running = Running::start(&home.path().join("copy"));
    let dump = running.broker.group_dump().unwrap();
    running.stop();
    let commits: Vec<&str> = dump.lines().filter(|line| line.starts_with("offset")).collect();
    assert!(
        commits.len() == 2 && commits[0].contains("offset: 1,") && commits[1].contains("offset: 2,"),
        "{dump}"
    );
    check_all(&served(&home));
}

#[test]
fn directories_that_swapped_names_get_them_back() {
    let dir = stopped();
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("a-0"), at("away")).unwrap();
    fs::rename(at("b-0"), at("a-0")).unwrap();
    fs::rename(at("away"), at("b-0")).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("a-0") && refused.contains("kappa log repair"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("copied as a-0"), "{}", told(&repaired));
    check_all(&served(&home));
}

#[test]
fn partitions_of_a_topic_that_swapped_directories_get_them_back() {
    let dir = stopped();
    let [a0, a1, aside] = ["a-0", "a-1", "aside"].map(|name| dir.path().join(name));
    let running = Running::start(dir.path());
    running.client().produce("a", 1, &["of partition 1"]);
    running.stop();
    fs::rename(&a0, &aside).unwrap();
    fs::rename(&a1, &a0).unwrap();
    fs::rename(&aside, &a1).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("a-0 is partition 1 of its topic"), "{refused}");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("copied as a-1"), "{}", told(&repaired));
    let served = served(&home);
    assert_eq!(served[&("a", 0)], ["one", "two", "three"]);
    assert_eq!(served[&("a", 1)], ["one", "two", "three", "of partition 1"]);
}

#[test]
fn a_statement_whose_a_directory_is_that_is_damaged_is_called_that() {
    let dir = stopped();
    fs::write(dir.path().join("a-0/partition.metadata"), "garbage").unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("it names no topic id") && !refused.contains("kappa-checkpoint"), "{refused}");
}

#[test]
fn a_journal_that_cannot_be_read_is_left_out() {
    let dir = stopped();
    // A directory where a file should be: opened, it cannot be read.
    let journal = dir.path().join("journal-7.kappa");
    fs::write(&journal, b"").unwrap();
    fs::remove_file(&journal).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a-0"), &journal).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("journal") && refused.contains("kappa log repair"), "{refused}");
    let planned = repair(dir.path(), None).unwrap();
    assert!(told(&planned).contains("journal"), "{}", told(&planned));
    let home = tempdir().unwrap();
    repair(dir.path(), Some(&home.path().join("copy"))).unwrap();
    check_all(&served(&home));
}

#[test]
fn what_only_the_journal_has_is_in_the_copy() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("a", 2);
    client.create_topic("b", 1);
    for (topic, partition) in [("a", 0), ("a", 1), ("b", 0)] {
        for value in ALL {
            client.produce(topic, partition, &[value]);
        }
    }
    // As a power cut may leave it: the journal has what was acknowledged, the segments have not.
    let home = tempdir().unwrap();
    let cut = home.path().join("cut");
    copy_dir(dir.path(), &cut);
    running.stop();
    let has_journal = cut.join("journal-0.kappa").exists();
    if has_journal {
        fs::write(cut.join("a-0/00000000000000000000.log"), b"").unwrap();
    }
    repair(&cut, Some(&home.path().join("copy"))).unwrap();
    let served = served(&home);
    assert_eq!(served[&("a", 1)], ALL);
    if has_journal {
        assert_eq!(served[&("a", 0)].last().map(String::as_str), Some("three"));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_dir(&entry.path(), &target),
            // The broker runs on: what it has replaced or removed meanwhile is not there any more.
            false => match fs::copy(entry.path(), target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
        }
    }
}

#[test]
fn a_broker_that_runs_and_a_place_that_is_taken_are_refused() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    assert!(matches!(repair(dir.path(), None), Err(RepairError::DataDir(_))));
    running.stop();
    let taken = tempdir().unwrap();
    assert!(matches!(repair(dir.path(), Some(taken.path())), Err(RepairError::Occupied(_))));
    let within = dir.path().join("copy");
    assert!(matches!(repair(dir.path(), Some(&within)), Err(RepairError::Within(_))));
    assert!(!within.exists());
    assert!(matches!(repair(taken.path(), None), Err(RepairError::DataDir(_))));
    assert!(matches!(repair(&taken.path().join("none"), None), Err(RepairError::DataDir(_))));
    assert_eq!(fs::read_dir(taken.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn leader_epochs_go_on_in_the_copy() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let home = tempdir().unwrap();
    let killed = home.path().join("killed");
    copy_dir(dir.path(), &killed);
    running.stop();
    Running::start(&killed).stop();
    let epochs = |dir: &Path| fs::read_to_string(dir.join("kappa-leader-epoch")).unwrap();
    assert!(epochs(&killed).contains("\n1\n"), "{}", epochs(&killed));
    repair(&killed, Some(&home.path().join("copy"))).unwrap();
    assert!(epochs(&home.path().join("copy")).contains("\n2\n"), "what the copy lost is lost in a newer one");

    fs::write(killed.join("kappa-leader-epoch"), "nonsense").unwrap();
    let refused = refusal(&killed);
    assert!(refused.contains("kappa-leader-epoch"), "{refused}");
    let found = repair(&killed, Some(&home.path().join("other"))).unwrap();
    assert!(told(&found).contains("kappa-leader-epoch"), "{}", told(&found));
    Running::start(&home.path().join("other")).stop();
}

/// A directory after a power cut that took the last batch of `a-0` from its segment, so that only the journal has it.
fn cut_back_to_the_journal() -> (TempDir, i64) {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("a", 1);
    for _ in 0..60 {
        client.produce("a", 0, &["x"]);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let journal = dir.path().join("journal-0.kappa");
    let has_frame = || fs::read(&journal).is_ok_and(|bytes| bytes.iter().skip(4096).any(|byte| *byte != 0));
    while !has_frame() {
        assert!(std::time::Instant::now() < deadline, "the broker made no journal");
        client.produce("a", 0, &["x"]);
    }
    let end = client.produce("a", 0, &["last"]) + 1;
    drop((client, running));
    let log = dir.path().join("a-0/00000000000000000000.log");
    let (bytes, mut at, mut last) = (fs::read(&log).unwrap(), 0, 0);
    while at < bytes.len() {
        last = at;
        at += 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    fs::write(&log, &bytes[..last]).unwrap();
    (dir, end)
}

fn end_of_a(repaired: &Repaired) -> i64 {
    repaired.kept.iter().find(|kept| kept.topic == "a").unwrap().end
}

#[test]
fn a_look_sees_what_only_the_journal_has_as_the_copy_does() {
    let (dir, end) = cut_back_to_the_journal();
    let (done, _home) = repaired(dir.path());
    assert_eq!((end_of_a(&done), told(&done)), (end, String::new()));
    // Its directory was not durable: a start makes it.
    fs::remove_dir_all(dir.path().join("a-0")).unwrap();
    let (done, _home) = repaired(dir.path());
    assert_eq!(end_of_a(&done), end);
}

#[test]
fn a_journal_file_that_cannot_be_read_costs_what_it_has_and_no_more() {
    let (dir, end) = cut_back_to_the_journal();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("journal-9.kappa")).unwrap();
    let (planned, home) = (repair(dir.path(), None).unwrap(), tempdir().unwrap());
    let done = repair(dir.path(), Some(&home.path().join("copy"))).unwrap();
    assert_eq!((&planned.findings, &planned.kept), (&done.findings, &done.kept));
    assert_eq!(end_of_a(&done), end, "{}", told(&done));
    assert!(done.findings.len() == 1 && told(&done).contains("journal-9.kappa"), "{}", told(&done));
    // Nor does a damaged frame cost those behind it.
    fs::remove_file(dir.path().join("journal-9.kappa")).unwrap();
    flip(&dir.path().join("journal-0.kappa"), 4096 + 40);
    assert!(refusal(dir.path()).contains("journal-0.kappa"));
    let (done, _home) = repaired(dir.path());
    assert!(done.findings.len() == 1 && told(&done).contains("damaged"), "{}", told(&done));
    assert_eq!(end_of_a(&done), end);
}

#[test]
fn damage_of_what_the_journal_has_is_mended_and_told() {
    let (dir, end) = cut_back_to_the_journal();
    Running::start(dir.path()).stop();
    let running = Running::start(dir.path());
    let mut client = running.client();
    for _ in 0..60 {
        client.produce("a", 0, &["y"]);
    }
    // All is synced, and the journal still has it.
    let journal = dir.path().join("journal-0.kappa");
    let frames = fs::read(&journal).unwrap();
    running.stop();
    fs::write(&journal, frames).unwrap();
    let log = dir.path().join("a-0/00000000000000000000.log");
    let len = fs::metadata(&log).unwrap().len() as usize;
    flip(&log, len - 1);
    let (done, home) = repaired(dir.path());
    assert!(
        done.findings.len() == 1 && told(&done).contains("taken from the journal; \n"),
        "{}",
        told(&done)
    );
    let running = Running::start(&home.path().join("copy"));
    assert_eq!(values(&mut running.client(), "a", 0).len() as i64, end + 60);
    running.stop();
}

#[test]
fn what_was_deleted_is_not_taken_from_the_journal() {
    use kappa_protocol::messages::DeleteRecordsRequest;
    use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let dir = tempdir().unwrap();
    let settings = [
        ("log.retention.check.interval.ms", "200"),
        ("log.segment.bytes", "8192"),
        ("log.segment.delete.delay.ms", "0"),
    ];
    let config = settings
        .iter()
        .fold(BrokerConfig::new(dir.path()), |config, (name, value)| config.with(name, value).unwrap());
    let running = Running::with(config);
    let mut client = running.client();
    client.create_topic("a", 1);
    let value = "x".repeat(300);
    for _ in 0..300 {
        client.produce("a", 0, &[value.as_str()]);
    }
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 290 }];
    let topics = vec![DeleteRecordsTopic { name: "a".into(), partitions }];
    let deleted = client.call(1, DeleteRecordsRequest { topics, timeout_ms: 1000 });
    assert_eq!(deleted.topics[0].partitions[0].error_code, 0);
    let first = dir.path().join("a-0/00000000000000000000.log");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while first.exists() {
        assert!(std::time::Instant::now() < deadline, "the segments stay");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let journal = dir.path().join("journal-0.kappa");
    let frames = fs::read(&journal).unwrap();
    running.stop();
    fs::write(&journal, frames).unwrap();
    let (done, home) = repaired(dir.path());
    assert_eq!(told(&done), "");
    let running = Running::start(&home.path().join("copy"));
    assert_eq!(values(&mut running.client(), "a", 0).len(), 10);
    running.stop();
    // Nor where the directory is gone with what was not deleted.
    let (there, away) = (dir.path().join("a-0"), home.path().join("away"));
    fs::rename(&there, &away).unwrap();
    let (done, gone) = repaired(dir.path());
    let findings = told(&done);
    assert!(findings.contains("a-0: missing; made of what the journal has"), "{findings}");
    let segments: Vec<i64> =
        done.findings.iter().filter_map(|f| f.path.get("a-0/".len()..)?.get(..20)?.parse().ok()).collect();
    assert!(!segments.is_empty() && segments.iter().all(|segment| *segment > 250), "{findings}");
    assert_eq!(end_of_a(&done), 300);
    let running = Running::start(&gone.path().join("copy"));
    assert_eq!(values(&mut running.client(), "a", 0).last().unwrap(), &value);
    running.stop();
    fs::rename(&away, &there).unwrap();
    // Not even where nothing says what was deleted.
    flip(&dir.path().join("kappa-checkpoint"), 5);
    let (done, _home) = repaired(dir.path());
    assert!(done.findings.len() == 1 && end_of_a(&done) == 300, "{}", told(&done));
}

#[test]
fn what_was_left_out_of_a_copy_ends_no_log_of_a_later_copy() {
    let dir = stopped();
    let log = dir.path().join("a-0/00000000000000000000.log");
    let third = fs::metadata(&log).unwrap().len() as usize / 3;
    flip(&log, third + 70);
    let (_, first) = repaired(dir.path());
    let copy = first.path().join("copy");
    // Its checkpoint is damaged before a broker ran on it, and the log is repaired from what is left.
    flip(&copy.join("kappa-checkpoint"), 30);
    fs::write(copy.join(".lock"), b"").unwrap();
    let (_, second) = repaired(&copy);
    assert_eq!(served(&second)[&("a", 0)], ["one", "three"]);
}
