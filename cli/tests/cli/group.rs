//! `kappa group`, and reading as a member of a group.

use crate::harness::Broker;
use serde_json::json;

fn broker_with_numbers() -> Broker {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "numbers", "-p", "1"]).ok();
    broker.kappa_with(&["produce", "numbers"], b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").ok();
    broker
}

fn read(broker: &Broker, more: &[&str]) -> String {
    broker.kappa(&[&["consume", "numbers", "-g", "readers", "-e"], more].concat()).ok().replace('\n', "")
}

#[test]
fn a_group_goes_on_behind_what_it_printed() {
    let broker = broker_with_numbers();
    assert_eq!(read(&broker, &["-n", "4"]), "0123");
    let described = broker.kappa(&["group", "describe", "readers", "--output", "json"]).json();
    let partition = &described[0]["partitions"][0];
    assert_eq!((&partition["committed"], &partition["lag"]), (&json!(4), &json!(6)));
    assert_eq!(read(&broker, &[]), "456789");
    assert_eq!(read(&broker, &[]), "");
    let text = broker.kappa(&["group", "describe", "readers"]).ok();
    assert!(text.starts_with("group readers   state Empty   members 0"), "{text}");
    assert!(text.contains("\nnumbers          0         10   10    0"), "{text}");
}

#[test]
fn offsets_are_shown_before_they_are_reset() {
    let broker = broker_with_numbers();
    assert_eq!(read(&broker, &[]), "0123456789");
    let reset = |more: &[&str]| {
        broker.kappa(&[&["group", "reset-offsets", "readers", "--topic", "numbers"], more].concat()).ok()
    };
    let shown = reset(&["--to", "7"]);
    assert!(shown.ends_with("nothing was changed; add --execute to do it\n"), "{shown}");
    assert_eq!(read(&broker, &[]), "");
    assert_eq!(
        reset(&["--to", "7", "--execute"]),
        "TOPIC    PARTITION  COMMITTED  NEW\nnumbers          0         10    7\n"
    );
    assert_eq!(read(&broker, &[]), "789");
    reset(&["--shift=-2", "--execute"]);
    assert_eq!(read(&broker, &[]), "89");
    broker
        .kappa(&["group", "reset-offsets", "readers", "--all-topics", "--to", "beginning", "--execute"])
        .ok();
    assert_eq!(read(&broker, &["-n", "2"]), "01");
}

#[test]
fn groups_are_listed_and_deleted() {
    let broker = broker_with_numbers();
    assert_eq!(broker.kappa(&["group", "list"]).ok(), "no groups\n");
    read(&broker, &[]);
    let listed = broker.kappa(&["group", "list", "--output", "json"]).json();
    assert_eq!(listed, json!([{"group": "readers", "state": "Empty", "protocol_type": "consumer"}]));
    assert_eq!(broker.kappa(&["group", "delete", "readers"]).ok(), "group 'readers' deleted\n");
    let missing = "kappa: group 'readers' does not exist; see `kappa group list`";
    broker.kappa(&["group", "delete", "readers"]).failed(4, missing);
    broker.kappa(&["group", "describe", "readers"]).failed(4, missing);
    broker
        .kappa(&["group", "reset-offsets", "readers", "--all-topics", "--to", "end"])
        .failed(4, "kappa: group 'readers' has no committed offsets; name the topics with --topic");
}
