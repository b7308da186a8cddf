//! `kappa topic`.

use crate::harness::Broker;
use serde_json::json;

#[test]
fn a_topic_lives_from_create_to_delete() {
    let broker = Broker::start();
    assert_eq!(
        broker.kappa(&["topic", "list"]).ok(),
        "no topics; create one with `kappa topic create NAME`\n"
    );

    let created = broker.kappa(&["topic", "create", "flights", "-p", "6", "-c", "retention.ms=-1"]).ok();
    assert_eq!(created, "topic 'flights' created with 6 partitions\n");
    assert_eq!(broker.kappa(&["topic", "list"]).ok(), "TOPIC    PARTITIONS\nflights           6\n");

    broker.kappa(&["topic", "alter", "flights", "-p", "8", "-c", "max.message.bytes=2000000"]).ok();
    let described = broker.kappa(&["topic", "describe", "flights", "--output", "json"]).json();
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 8);
    assert_eq!(described[0]["configs"], json!({"max.message.bytes": "2000000", "retention.ms": "-1"}));
    broker.kappa(&["topic", "alter", "flights", "--unset", "max.message.bytes"]).ok();
    let described = broker.kappa(&["topic", "describe", "flights"]).ok();
    assert!(
        described.starts_with("topic flights ") && described.contains("\n  retention.ms=-1\n"),
        "{described}"
    );
    assert!(!described.contains("max.message.bytes"), "{described}");

    assert_eq!(broker.kappa(&["topic", "delete", "flights"]).ok(), "topic 'flights' deleted\n");
    assert_eq!(broker.kappa(&["topic", "list", "--output", "json"]).json(), json!([]));
}

#[test]
fn what_exists_already_or_not_at_all_is_said_with_its_cure() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "t"]).ok();
    broker.kappa(&["topic", "create", "t"]).failed(
        1,
        "kappa: topic 't' exists already; look at it with `kappa topic describe t`, or pass --if-not-exists",
    );
    assert_eq!(broker.kappa(&["topic", "create", "t", "--if-not-exists"]).ok(), "topic 't' exists already\n");

    let missing = "kappa: topic 'x' does not exist; create it with `kappa topic create x`";
    broker.kappa(&["topic", "describe", "x"]).failed(4, missing);
    broker.kappa(&["topic", "alter", "x", "-p", "2"]).failed(4, missing);
    broker.kappa(&["topic", "alter", "x", "-c", "retention.ms=1"]).failed(4, missing);
    let absent = "kappa: topic 'x' does not exist; see `kappa topic list`, or pass --if-exists";
    broker.kappa(&["topic", "delete", "x"]).failed(4, absent);
    assert_eq!(broker.kappa(&["topic", "delete", "x", "--if-exists"]).ok(), "topic 'x' does not exist\n");
}

#[test]
fn a_topic_that_the_broker_refuses_is_refused_in_its_words() {
    let broker = Broker::start();
    for arguments in [
        &["topic", "create", "no spaces"][..],
        &["topic", "create", "t", "-c", "retention.ms=soon"],
        &["topic", "create", "t", "-c", "retention.sm=1"],
    ] {
        let ran = broker.kappa(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}");
        assert!(ran.stderr.starts_with("kappa: cannot create topic '"), "{}", ran.stderr);
    }
}

#[test]
fn the_oldest_records_are_deleted_up_to_an_offset_or_all() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "t", "-p", "2"]).ok();
    for (partition, count) in [("0", 10), ("1", 4)] {
        let lines: String = (0..count).map(|number| format!("{number}\n")).collect();
        broker.kappa_with(&["produce", "t", "-p", partition], lines.as_bytes()).ok();
    }
    let delete = |more: &[&str]| broker.kappa(&[&["topic", "delete-records", "t"], more].concat());
    let left = || {
        let read = broker.kappa(&["consume", "t", "-o", "beginning", "-e", "-f", "%p:%o\\n"]).ok();
        let mut read: Vec<_> = read.lines().map(str::to_owned).collect();
        read.sort();
        read
    };
    delete(&["--before", "6"]).failed(
        1,
        "kappa: t-1 ends at 4, before offset 6; nothing was deleted; \
         name an offset up to its end, other partitions with -p, or --all",
    );
    assert_eq!(left().len(), 14);
    let deleted = delete(&["--before", "8", "-p", "0", "--output", "json"]).json();
    assert_eq!((&deleted[0]["start_offset"], &deleted[0]["deleted"]), (&8.into(), &8.into()));
    assert_eq!(left(), ["0:8", "0:9", "1:0", "1:1", "1:2", "1:3"]);
    // What is gone already stays so.
    assert_eq!(delete(&["--before", "3", "-p", "0", "--output", "json"]).json()[0]["deleted"], 0);
    assert!(delete(&["--all"]).ok().contains("PARTITION"));
    assert!(left().is_empty());
    broker.kappa_with(&["produce", "t", "-p", "0"], b"new\n").ok();
    assert_eq!(left(), ["0:10"]);
    let missing = broker.kappa(&["topic", "delete-records", "x", "--all"]);
    assert_eq!(missing.code, 4);
    assert_eq!(delete(&["--all", "-p", "2"]).code, 4);
}
