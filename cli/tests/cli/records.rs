//! `kappa produce` and `kappa consume`.

use crate::harness::{Broker, Ran};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    time::{Duration, Instant},
};

fn broker_with(topic: &str, partitions: &str) -> Broker {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", topic, "-p", partitions]).ok();
    broker
}

fn numbers(count: usize) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

/// Everything in `topic`, printed with more arguments.
fn consumed(broker: &Broker, topic: &str, arguments: &[&str]) -> Ran {
    broker.kappa(&[&["consume", topic, "-o", "beginning", "-e"], arguments].concat())
}

#[test]
fn lines_come_back_in_order() {
    let broker = broker_with("numbers", "1");
    let lines = numbers(20_000);
    assert_eq!(broker.kappa_with(&["produce", "numbers"], lines.as_bytes()).ok(), "");
    assert_eq!(consumed(&broker, "numbers", &[]).ok(), lines);
}

#[test]
fn every_codec_and_acknowledgement_carries_the_same_lines() {
    let broker = broker_with("codecs", "1");
    let mut expected = String::new();
    for arguments in [
        &["-z", "gzip"][..],
        &["-z", "snappy"],
        &["-z", "lz4"],
        &["-z", "zstd"],
        &["--acks", "1"],
        &["--acks", "0"],
    ] {
        let lines = numbers(500);
        broker.kappa_with(&[&["produce", "codecs"], arguments].concat(), lines.as_bytes()).ok();
        expected.push_str(&lines);
    }
    // With --acks 0 nobody says when the last ones are there.
    wait_for(&broker, "codecs", 3000);
    assert_eq!(consumed(&broker, "codecs", &[]).ok(), expected);
}

#[test]
fn keys_choose_partitions_and_show_in_a_format() {
    let broker = broker_with("users", "3");
    let lines = "alice:1\nbob:2\nalice:3\n";
    broker
        .kappa_with(
            &["produce", "users", "-K", ":", "-H", "source=test", "-t", "2013-01-01T10:00:00Z"],
            lines.as_bytes(),
        )
        .ok();
    let printed = consumed(&broker, "users", &["-f", r"%k=%s %T %h %K %S\n"]).ok();
    let mut printed: Vec<_> = printed.lines().collect();
    printed.sort_unstable();
    let expected = [
        "alice=1 1357034400000 source=test 5 1",
        "alice=3 1357034400000 source=test 5 1",
        "bob=2 1357034400000 source=test 3 1",
    ];
    assert_eq!(printed, expected);
    let partitions = consumed(&broker, "users", &["-f", r"%k %p\n"]).ok();
    let partitions: std::collections::BTreeSet<_> =
        partitions.lines().filter(|line| line.starts_with("alice")).collect();
    assert_eq!(partitions.len(), 1);
}

#[test]
fn a_record_as_json_goes_out_and_comes_back_the_same() {
    let broker = broker_with("a", "1");
    broker.kappa(&["topic", "create", "b"]).ok();
    let lines = concat!(
        r#"{"key":"k","value":"ü \"quoted\"","timestamp":1,"headers":[{"name":"h","value":"1"},{"name":"h","value":null}]}"#,
        "\n",
        r#"{"key":null,"value":null,"timestamp":2}"#,
        "\n",
        r#"{"key_hex":"ff00","value_hex":"80","timestamp":3}"#,
        "\n",
    );
    broker.kappa_with(&["produce", "a", "--json"], lines.as_bytes()).ok();
    let first = consumed(&broker, "a", &["--output", "json"]).ok();
    assert!(first.starts_with(
        r#"{"topic":"a","partition":0,"offset":0,"timestamp":1,"headers":[{"name":"h","value":"1"},"#
    ));
    assert!(first.contains(r#""key_hex":"ff00","key":null,"value_hex":"80""#), "{first}");
    broker.kappa_with(&["produce", "b", "--json"], first.as_bytes()).ok();
    let second = consumed(&broker, "b", &["--output", "json"]).ok();
    assert_eq!(second, first.replace(r#""topic":"a""#, r#""topic":"b""#));
}

#[test]
fn reading_starts_where_it_is_told_and_stops_when_it_is_told() {
    let broker = broker_with("numbers", "1");
    let lines: String = (0..10)
        .map(|number| format!("{{\"value\":\"{number}\",\"timestamp\":{}}}\n", 1_000 + number * 10))
        .collect();
    broker.kappa_with(&["produce", "numbers", "--json"], lines.as_bytes()).ok();
    let read = |place: &str, more: &[&str]| {
        broker.kappa(&[&["consume", "numbers", "-o", place, "-e"], more].concat()).ok().replace('\n', "")
    };
    assert_eq!(read("7", &[]), "789");
    assert_eq!(read("-2", &[]), "89");
    assert_eq!(read("-20", &[]), "0123456789");
    assert_eq!(read("end", &[]), "");
    assert_eq!(read("@1050", &[]), "56789");
    assert_eq!(read("@1970-01-01T00:00:01.085Z", &[]), "9");
    assert_eq!(read("beginning", &["-n", "3"]), "012");
    assert_eq!(read("beginning", &["-p", "0", "-n", "1"]), "0");
}

#[test]
fn files_are_read_one_after_the_other() {
    let broker = broker_with("files", "1");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("1"), "a\nb").unwrap();
    std::fs::write(at("2"), "c\n").unwrap();
    broker.kappa_with(&["produce", "files", &at("1"), "-", &at("2")], b"stdin\n").ok();
    assert_eq!(consumed(&broker, "files", &[]).ok(), "a\nb\nstdin\nc\n");
    let ran = broker.kappa(&["produce", "files", &at("3")]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.starts_with(&format!("kappa: cannot open '{}'", at("3"))), "{}", ran.stderr);
}

#[test]
fn a_topic_that_is_not_there_is_named_and_not_created() {
    let broker = Broker::start();
    let missing = "kappa: topic 'x' does not exist; create it with `kappa topic create x`";
    broker.kappa_with(&["produce", "x"], b"1\n").failed(4, missing);
    broker.kappa(&["consume", "x", "-e"]).failed(4, missing);
    broker.kappa(&["topic", "create", "t"]).ok();
    let partition = "kappa: topic 't' has no partition 3: it has 1, numbered from 0";
    broker.kappa(&["consume", "t", "-p", "3"]).failed(4, partition);
    broker.kappa(&["produce", "t", "-p", "3"]).failed(4, partition);
}

#[test]
fn an_offset_that_is_not_there_is_told() {
    let broker = broker_with("f", "1");
    broker.kappa_with(&["produce", "f"], numbers(10).as_bytes()).ok();
    let read = |place: &str| broker.kappa(&["consume", "f", "-o", place, "-e"]);
    read("1000").failed(0, "kappa: offset 1000 is beyond the end of partition 0 at 10; reading from there");
    assert_eq!(read("10").ok(), "");
    broker.kappa(&["topic", "delete-records", "f", "--before", "6"]).ok();
    let ran = read("2");
    ran.failed(0, "kappa: offset 2 is gone, the first left is of partition 0 at 6; reading from there");
    assert_eq!(ran.stdout, "7\n8\n9\n10\n");
}

#[test]
fn a_topic_of_the_broker_s_own_is_not_advised_to_be_created() {
    let broker = Broker::start();
    broker.kappa_with(&["produce", "__consumer_offsets"], b"1\n").failed(
        4,
        "kappa: topic '__consumer_offsets' does not exist; the broker makes it by itself, such as when a group first commits",
    );
}

#[test]
fn a_line_that_is_no_record_is_named_and_what_came_before_it_is_kept() {
    let broker = broker_with("lines", "1");
    let ran = broker.kappa_with(&["produce", "lines", "-K", ":"], b"a:1\nb\nc:3\n");
    ran.failed(1, "kappa: line 2 of stdin has no key separator ':'; the record before it was delivered");
    let ran = broker.kappa_with(&["produce", "lines", "--json"], b"{\"value\":\"2\"}\n{\"valu\":\"\"}\n");
    assert!(
        ran.stderr.starts_with("kappa: line 2 of stdin is not a record in JSON: unknown field `valu`"),
        "{}",
        ran.stderr
    );
    assert_eq!(consumed(&broker, "lines", &[]).ok(), "1\n2\n");
    let ran = broker.kappa_with(&["produce", "lines", "--json"], b"{\"value\":{\"a\":1}}\n");
    assert!(
        ran.stderr.contains(r#"expected a string (JSON goes in as text, such as "{\"a\": 1}")"#),
        "{}",
        ran.stderr
    );
    let ran = broker.kappa_with(&["produce", "lines"], b"3\n4\n");
    assert_eq!(ran.ok(), "");
    let ran = broker.kappa_with(&["produce", "lines", "-K", ":"], b"a:5\nb:6\nc\n");
    ran.failed(1, "kappa: line 3 of stdin has no key separator ':'; the 2 records before it were delivered");
}

/// A `kappa produce` that goes on reading, with its stderr.
struct Producing {
    child: std::process::Child,
    stdin: Option<std::process::ChildStdin>,
    stderr: BufReader<std::process::ChildStderr>,
    sent: usize,
}

impl Producing {
    fn start(broker: &Broker, arguments: &[&str]) -> Producing {
        let mut command = broker.command(&[&["produce"], arguments].concat());
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdin, stderr) = (child.stdin.take(), BufReader::new(child.stderr.take().unwrap()));
        Producing { child, stdin, stderr, sent: 0 }
    }

    /// Writes lines that count on.
    fn lines(&mut self, count: usize) {
        let lines: String =
            (self.sent..self.sent + count).map(|number| format!("{}\n", number + 1)).collect();
        self.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
        self.sent += count;
    }

    fn line_of_stderr(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    fn end(mut self) -> (Option<i32>, String) {
        drop(self.stdin.take());
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

/// Waits until a topic of one partition has so many records.
fn wait_for(broker: &Broker, topic: &str, count: usize) {
    let started = Instant::now();
    while consumed(broker, topic, &[]).ok().lines().count() < count {
        assert!(started.elapsed() < Duration::from_secs(20), "{count} records did not come");
    }
}

#[test]
fn a_broker_that_goes_away_ends_the_command_at_the_first_line_that_it_did_not_get() {
    let mut broker = broker_with("g", "1");
    let mut producing = Producing::start(&broker, &["g", "--timeout", "5"]);
    producing.lines(1000);
    wait_for(&broker, "g", 1000);
    broker.kill();
    let killed = Instant::now();
    producing.lines(500);
    let told = producing.line_of_stderr();
    assert!(
        told.starts_with("kappa: nothing was acknowledged for 2 s: ")
            && told.contains("is the broker running?"),
        "{told}"
    );
    assert!(told.ends_with("500 records wait, for up to 5 s\n"), "{told}");
    // It ends though its input does not.
    let ended = producing.line_of_stderr();
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    assert!(ended.starts_with("kappa: cannot produce: g-0: not acknowledged within 5000 ms"), "{ended}");
    let place = "1000 records were delivered, line 1001 of stdin is the first that was not; \
                 to resume, send from that line on (`tail -n +1001`)";
    assert!(ended.contains(place), "{ended}");
    assert_eq!(producing.end(), (Some(1), String::new()));
    broker.restart();
    assert_eq!(consumed(&broker, "g", &[]).ok(), numbers(1000));
}

#[test]
fn a_broker_that_comes_back_gets_everything_once() {
    let mut broker = broker_with("g", "1");
    let mut producing = Producing::start(&broker, &["g"]);
    producing.lines(1000);
    wait_for(&broker, "g", 1000);
    broker.kill();
    producing.lines(1000);
    assert!(producing.line_of_stderr().starts_with("kappa: nothing was acknowledged for 2 s: "));
    broker.restart();
    let again = producing.line_of_stderr();
    assert!(again.starts_with("kappa: the broker acknowledges again, after "), "{again}");
    producing.lines(1000);
    assert_eq!(producing.end(), (Some(0), String::new()));
    assert_eq!(consumed(&broker, "g", &[]).ok(), numbers(3000));
}

#[test]
fn a_reader_is_told_once_that_the_broker_is_gone_and_once_that_it_is_back() {
    let mut broker = broker_with("read", "1");
    let mut command = broker.command(&["consume", "read"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What is written once it reads, it prints.
    let (mut out, mut said) =
        (BufReader::new(child.stdout.take().unwrap()), BufReader::new(child.stderr.take().unwrap()));
    let (sender, printed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while out.read_line(&mut line).is_ok_and(|read| read > 0) && sender.send(()).is_ok() {}
    });
    let write_until_printed = |broker: &Broker| {
        let started = Instant::now();
        broker.kappa_with(&["produce", "read"], b"x\n").ok();
        while printed.recv_timeout(Duration::from_millis(500)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30));
            broker.kappa_with(&["produce", "read"], b"x\n").ok();
        }
    };
    write_until_printed(&broker);
    broker.kill();
    let mut lines = [String::new(), String::new()];
    said.read_line(&mut lines[0]).unwrap();
    assert!(lines[0].contains("no broker answers"), "{lines:?}");
    broker.restart();
    said.read_line(&mut lines[1]).unwrap();
    assert!(lines[1].contains("a broker answers again"), "{lines:?}");
    write_until_printed(&broker);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_line_that_the_topic_does_not_take_is_named_and_nothing_behind_it_is_sent() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "small", "-c", "max.message.bytes=1000"]).ok();
    let mut producing = Producing::start(&broker, &["small", "--rate", "20"]);
    producing.lines(3);
    producing.stdin.as_mut().unwrap().write_all(format!("{}\n", "x".repeat(2000)).as_bytes()).unwrap();
    producing.lines(20);
    let (code, stderr) = producing.end();
    let place = "3 records were delivered, line 4 of stdin is the first that was not";
    assert!(code == Some(1) && stderr.contains(place) && stderr.lines().count() == 1, "{code:?} {stderr}");
    assert_eq!(consumed(&broker, "small", &[]).ok(), numbers(3));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let broker = broker_with("numbers", "1");
    broker.kappa_with(&["produce", "numbers"], numbers(100_000).as_bytes()).ok();
    let mut child = broker
        .command(&["consume", "numbers", "-o", "beginning"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "1\n");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn what_is_produced_shows_at_once_to_who_is_reading() {
    let broker = broker_with("live", "1");
    let mut child = broker
        .command(&["consume", "live", "-n", "1", "-o", "beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    broker.kappa_with(&["produce", "live"], b"hello\n").ok();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), child.wait().unwrap().code()), ("hello\n", Some(0)));
}

#[test]
fn first_example_of_produce_works_as_it_stands() {
    let broker = Broker::start();
    let help = broker.kappa(&["produce", "--help"]).ok();
    let example = help.lines().skip_while(|line| *line != "Examples:").nth(1).unwrap().trim();
    assert!(example.ends_with("kappa produce numbers"), "{example}");
    let command = broker.command(&[]);
    let address = command.get_args().nth(1).unwrap();
    let binaries = std::path::Path::new(command.get_program()).parent().unwrap().display().to_string();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", example]).env("PATH", path).env("KAPPA_BOOTSTRAP_SERVER", address);
    let ran = crate::harness::run(&mut shell, b"");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(consumed(&broker, "numbers", &[]).ok(), numbers(1000));
}

#[test]
fn damage_ends_a_consumer_with_the_place_and_the_cures() {
    let broker = broker_with("t", "1");
    for number in 0..6 {
        broker.kappa_with(&["produce", "t"], format!("{number}\n").as_bytes()).ok();
    }
    let path = broker.data_dir().join("t-0").join("00000000000000000000.log");
    let sound = std::fs::read(&path).unwrap();
    let batch = sound.windows(8).position(|bytes| bytes == 3_i64.to_be_bytes()).unwrap();
    // A bit of the base offset, of the length, of the checksum.
    for (round, byte) in [2, 10, 17].into_iter().enumerate() {
        let mut bytes = sound.clone();
        bytes[batch + byte] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let group = format!("g{round}");
        for (arguments, cure) in [
            (&["-o", "beginning", "-e"][..], "`kappa consume t -p 0 -o OFFSET`"),
            (&["-g", &group], "group reset-offsets g"),
        ] {
            let ran = broker.kappa(&[&["consume", "t"], arguments].concat());
            assert_eq!((ran.code, ran.stdout.as_str()), (5, "0\n1\n2\n"), "{byte}: {}", ran.stderr);
            for words in ["t-0 is damaged at offset 3: ", "`kappa log verify ", "`kappa log repair ", cure] {
                assert!(ran.stderr.contains(words), "{byte}: {}", ran.stderr);
            }
        }
        let described = broker.kappa(&["group", "describe", &group, "--output", "json"]).ok();
        assert!(described.contains("\"committed\":3"), "{described}");
    }
}
