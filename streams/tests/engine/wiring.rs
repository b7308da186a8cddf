//! What a topology says of itself, and what it refuses.

use crate::operators::word_count;
use kappa_streams::{
    Builder, PlanError, Repartition, Windows, WiringError,
    codec::{Utf8, opt},
};
use std::time::Duration;

#[test]
fn a_topology_describes_itself() {
    let (topology, _) = word_count();
    let expected = "\
application word-count
sub-topology 0
  source lines (topic lines) {opt(Utf8) -> Utf8}
  flat-map-values lines/flat-map-values <- lines
  select-key lines/flat-map-values/select-key <- lines/flat-map-values
  repartition sink by-word/sink (repartition by-word) <- lines/flat-map-values/select-key
sub-topology 1
  repartition source by-word (repartition by-word) {Utf8 -> Utf8}
  count counts {Utf8 -> I64} [store counts, changelog] <- by-word
  to-stream counts/to-stream <- counts
  sink word-counts/sink (topic word-counts) <- counts/to-stream
";
    assert_eq!(topology.describe(), expected);
    assert_eq!(topology.fingerprint(), word_count().0.fingerprint());
}

#[test]
fn a_fingerprint_covers_codecs_and_windows() {
    let windowed = |seconds| {
        let b = Builder::new("windowed");
        let windows = Windows::tumbling(Duration::from_secs(seconds));
        b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("counts");
        b.build().unwrap().fingerprint()
    };
    assert_eq!(windowed(60), windowed(60));
    assert_ne!(windowed(60), windowed(10));
    let read = |nullable| {
        let b = Builder::new("read");
        match nullable {
            true => b.stream("in", (Utf8, opt(Utf8))).to("out", (Utf8, Utf8)),
            false => b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8)),
        }
        b.build().unwrap().fingerprint()
    };
    assert_ne!(read(true), read(false));
}

#[test]
fn all_wiring_errors_are_reported_at_once() {
    let b = Builder::new("bad name");
    let lines = b.stream("lines?", (opt(Utf8), Utf8));
    lines.map(|key, value| (value, key)).group_by_key().count("counts");
    let grouped =
        lines.group_by(Repartition::named("by-word").partitions(0), (Utf8, Utf8), |_, word| word.clone());
    grouped.count("twice");
    grouped.count("twice");
    grouped.count("");
    grouped.windowed_by(Windows::tumbling(Duration::ZERO)).count("windows");
    let errors = b.build().unwrap_err().0;
    let has = |wanted: fn(&WiringError) -> bool| errors.iter().any(wanted);
    assert!(has(|error| matches!(error, WiringError::Application { .. })));
    assert!(has(|error| matches!(error, WiringError::Topic { .. })));
    assert!(has(|error| matches!(error, WiringError::Codec { what: "keys", .. })));
    assert!(has(|error| matches!(error, WiringError::Partitions { partitions: 0, .. })));
    assert!(has(|error| matches!(error, WiringError::DuplicateName { times: 2, .. })));
    assert!(has(|error| matches!(error, WiringError::Name { .. })));
    assert!(has(|error| matches!(error, WiringError::Windows { size_ms: 0, .. })));
    assert_eq!(errors.len(), 7, "{errors:?}");
    assert!(matches!(Builder::new("empty").build().unwrap_err().0[..], [WiringError::NoSource]));
}

#[test]
fn as_many_windows_as_a_commit_can_speak_of() {
    let wired = |count: usize, apart: bool| {
        let b = Builder::new("many");
        let events = b.stream("events", (Utf8, Utf8));
        for number in 0..count {
            let events = match apart {
                true if number % 2 == 0 => {
                    events.group_by(&*format!("by-{number}"), (Utf8, Utf8), |key, _| key.clone())
                }
                _ => events.group_by_key(),
            };
            events.windowed_by(Windows::tumbling(Duration::from_secs(1))).count(&format!("windows-{number}"));
        }
        b.build()
    };
    assert!(wired(100, false).is_ok() && wired(200, true).is_ok());
    let errors = wired(101, false).unwrap_err().0;
    assert!(matches!(errors[..], [WiringError::Clocks { count: 101, max: 100, .. }]), "{errors:?}");
}

#[test]
fn joins_need_equal_partition_counts_and_repartition_topics_follow() {
    let wire = |rekey: bool| {
        let b = Builder::new("join");
        let users = b.table("users", (Utf8, Utf8));
        let orders = b.stream("orders", (Utf8, Utf8));
        let orders = if rekey { orders.select_key(|key, _| key.clone()) } else { orders };
        orders.join_table("owner", &users, |_, order, user| order + user).to("out", (Utf8, Utf8));
        b.build().unwrap()
    };
    let count = |topic: &str| match topic {
        "users" => Some(4),
        "orders" => Some(6),
        _ => None,
    };
    let errors = wire(false).plan(count).unwrap_err();
    assert!(matches!(errors[..], [PlanError::CoPartition { .. }]), "{errors:?}");
    let plan = wire(true).plan(count).unwrap();
    assert_eq!(plan.sub_topologies.iter().map(|part| part.tasks).collect::<Vec<_>>(), [4, 6]);
    assert_eq!(plan.internal_topics.iter().map(|topic| topic.partitions).collect::<Vec<_>>(), [4]);
    let missing = wire(true).plan(|_| None).unwrap_err();
    assert_eq!(missing.len(), 2);
}
