//! What is said of a source: event times from the payload, the same in every restore, and several topics as one.

use bytes::Bytes;
use kappa_streams::{
    Builder, Header, Headers, PlanError, TestDriver, Windows, WiringError,
    codec::{I64, Json, Utf8, opt},
};
use std::time::Duration;

type Reading = Json<(i64, i64)>;

fn piped(driver: &mut TestDriver, topic: &str, records: &[(&str, Option<&str>, i64)]) {
    for (key, value, timestamp) in records {
        let record = (Some(key.as_bytes()), value.map(str::as_bytes));
        driver.append(topic, None, record, *timestamp, Headers::NONE).unwrap();
    }
    driver.run().unwrap();
}

#[test]
fn windows_go_by_the_times_that_a_source_takes_from_its_records() {
    let b = Builder::new("payload-time");
    let windows = Windows::tumbling(Duration::from_millis(100));
    let readings = b.source("readings", (Utf8, Reading::new())).timestamps(|_, _, (time, _)| *time).stream();
    readings.map_values(|(_, value)| value).to("values", (Utf8, I64));
    let counts = readings.group_by_key().windowed_by(windows).count("counts");
    let topology = b.build().unwrap();
    assert!(topology.describe().contains("event time taken from it"));
    let mut driver = TestDriver::new(&topology).start().unwrap();
    // By their own timestamps the last two would be late, and all in one window.
    piped(
        &mut driver,
        "readings",
        &[
            ("k", Some("[10, 1]"), 100_000),
            ("k", Some("[99, 2]"), 100_001),
            ("k", Some("[100, 3]"), 0),
            ("k", Some("[150, 4]"), 1),
        ],
    );
    let rows = driver.rows(&counts).unwrap();
    let rows: Vec<_> =
        rows.into_iter().map(|(key, row)| (key.window.start, row.value, row.timestamp)).collect();
    assert_eq!(rows, [(0, 2, 99), (100, 2, 150)]);
    assert_eq!(driver.counters().late, 0);
    let values = driver.output("values", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(values.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [10, 99, 100, 150]);
}

#[test]
fn partitions_are_taken_in_the_order_of_the_times_of_the_payload() {
    let b = Builder::new("order");
    let source = || b.source(["a", "b"], (Utf8, Reading::new())).timestamps(|_, _, (time, _)| *time);
    source().stream().map_values(|(time, _)| time).to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for (topic, times) in [("a", [30, 40]), ("b", [10, 35])] {
        for (own, time) in times.into_iter().enumerate() {
            let value = format!("[{time}, 0]");
            let record = (Some(&b"k"[..]), Some(value.as_bytes()));
            driver.append(topic, None, record, own as i64, Headers::NONE).unwrap();
        }
    }
    driver.run().unwrap();
    let out = driver.output("out", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.iter().map(|record| record.value).collect::<Vec<_>>(), [10, 30, 35, 40]);
}

#[test]
fn a_record_without_a_time_is_dropped_and_counted() {
    let b = Builder::new("timeless");
    b.source("readings", (Utf8, opt(Reading::new())))
        .timestamps(|_, _, reading| reading.as_ref().map(|(time, _)| *time))
        .stream()
        .map_values(|reading| reading.map(|(_, value)| value))
        .to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    piped(&mut driver, "readings", &[("k", Some("[-1, 1]"), 5), ("k", None, 5), ("k", Some("[7, 2]"), -5)]);
    let out = driver.output("out", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.iter().map(|record| (record.value, record.timestamp)).collect::<Vec<_>>(), [(2, 7)]);
    assert_eq!(driver.counters().negative_timestamps, 2);
}

#[test]
fn a_time_may_come_from_the_headers_or_fall_back_to_the_records_own() {
    let b = Builder::new("header-time");
    b.source("in", (Utf8, Utf8))
        .timestamps(|meta, _, _| {
            let time = meta.headers().last("time").flatten().and_then(|time| time.as_ref().try_into().ok());
            time.map_or(meta.timestamp(), i64::from_be_bytes)
        })
        .stream()
        .to("out", (Utf8, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let time = Header { key: "time".into(), value: Some(Bytes::copy_from_slice(&42i64.to_be_bytes())) };
    let record = (Some(&b"k"[..]), Some(&b"v"[..]));
    driver.append("in", None, record, 7, [time].into_iter().collect()).unwrap();
    driver.append("in", None, record, 8, Headers::NONE).unwrap();
    driver.run().unwrap();
    let out = driver.output("out", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
    let mut times: Vec<_> = out.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    assert_eq!(times, [8, 42]);
}

#[test]
fn a_table_is_restored_with_the_times_it_was_processed_with() {
    let b = Builder::new("restored-times");
    let table = b
        .source("rows", (Utf8, Reading::new()))
        .timestamps(|_, _, (time, _)| (*time != 666).then_some(*time))
        .table();
    table.to_stream().to("out", (Utf8, opt(Reading::new())));
    let mut driver = TestDriver::new(&b.build().unwrap()).skip_undecodable().start().unwrap();
    piped(
        &mut driver,
        "rows",
        &[
            ("a", Some("[10, 1]"), 500),
            ("b", Some("[20, 2]"), -3),
            ("c", Some("[-30, 3]"), 500),
            ("d", Some("[666, 4]"), 500),
            ("e", Some("no reading"), 500),
            ("f", Some("[60, 6]"), 500),
            ("f", None, 501),
        ],
    );
    let times = |driver: &TestDriver| -> Vec<(String, i64)> {
        driver.rows(&table).unwrap().into_iter().map(|(key, row)| (key, row.timestamp)).collect()
    };
    let expected = [("a".to_owned(), 10), ("b".to_owned(), 20)];
    assert_eq!(times(&driver), expected);
    let counters = driver.counters();
    assert_eq!((counters.negative_timestamps, counters.undecodable), (2, 1));
    let before = driver.dump().unwrap();
    driver.crash().unwrap();
    assert_eq!(times(&driver), expected);
    assert_eq!(driver.dump().unwrap(), before);
    driver.replay().unwrap();
    driver.run().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
}

#[test]
fn a_global_table_has_the_times_of_the_payload() {
    let b = Builder::new("global-times");
    let global = b.source("names", (Utf8, Reading::new())).timestamps(|_, _, (time, _)| *time).global_table();
    b.stream("in", (Utf8, I64))
        .join_global("names", &global, |key, _| key.clone(), |_, value, (time, _)| value + time)
        .to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    piped(
        &mut driver,
        "names",
        &[("a", Some("[100, 0]"), 5), ("b", Some("[-1, 0]"), 5), ("c", Some("[7, 0]"), -5)],
    );
    let input = driver.input("in", (Utf8, I64));
    for key in ["a", "b", "c"] {
        input.pipe(&mut driver, key.into(), 1, 5).unwrap();
    }
    let out = driver.output("out", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.iter().map(|record| record.value).collect::<Vec<_>>(), [101, 8]);
    assert_eq!(driver.counters().negative_timestamps, 1);
}

#[test]
fn several_topics_are_one_stream() {
    let b = Builder::new("several");
    let counts = b.stream(["eu", "us"], (Utf8, I64)).group_by_key().count("counts");
    let topology = b.build().unwrap();
    assert_eq!(topology.input_topics(), ["eu", "us"]);
    assert!(topology.describe().contains("sources eu+us <- eu, us"), "{}", topology.describe());
    let mut driver = TestDriver::new(&topology).partitions(3).start().unwrap();
    for key in ["a", "b", "c", "d"] {
        for topic in ["eu", "us", "us"] {
            driver.input(topic, (Utf8, I64)).pipe(&mut driver, key.into(), 1, 1).unwrap();
        }
    }
    let rows = driver.rows(&counts).unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|(_, row)| row.value == 3), "{rows:?}");
}

#[test]
fn topics_whose_equal_keys_are_to_meet_have_equal_partition_counts() {
    let count = |topic: &str| match topic {
        "eu" => Some(2),
        "us" => Some(3),
        _ => None,
    };
    let planned = |wire: fn(&Builder)| {
        let b = Builder::new("several");
        wire(&b);
        b.build().unwrap().plan(count)
    };
    let refused: [fn(&Builder); 4] = [
        |b| drop(b.stream(["eu", "us"], (Utf8, I64)).group_by_key().count("met")),
        |b| {
            let windows = Windows::tumbling(Duration::from_secs(1));
            drop(b.stream(["eu", "us"], (Utf8, I64)).group_by_key().windowed_by(windows).count("met"));
        },
        |b| drop(b.stream(["eu", "us"], (Utf8, I64)).to_table("met", (Utf8, I64))),
        |b| drop(b.stream("eu", (Utf8, I64)).merge(&b.stream("us", (Utf8, I64))).group_by_key().count("met")),
    ];
    for wire in refused {
        let errors = planned(wire).unwrap_err();
        assert!(matches!(errors[..], [PlanError::CoPartition { .. }]), "{errors:?}");
        let text = errors[0].to_string();
        assert!(
            text.contains("\"met\"") && text.contains("\"eu\" has 2") && text.contains("\"us\" has 3"),
            "{text}"
        );
    }
    let fine: [fn(&Builder); 2] = [
        |b| b.stream(["eu", "us"], (Utf8, I64)).filter(|_, n| *n > 0).to("out", (Utf8, I64)),
        |b| {
            let eu = b.stream(["eu", "us"], (Utf8, I64)).repartition("spread", (Utf8, I64));
            drop(eu.group_by_key().count("met"));
        },
    ];
    for wire in fine {
        assert_eq!(planned(wire).unwrap().sub_topologies[0].tasks, 3);
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let errors = |wire: &dyn Fn(&Builder)| {
        let b = Builder::new("refused");
        wire(&b);
        b.build().unwrap_err()
    };
    let none: [&str; 0] = [];
    let found = errors(&|b| drop(b.stream(none, (Utf8, I64))));
    assert!(
        matches!(found.0[..], [WiringError::NoTopics { what: "a source" }, WiringError::NoSource]),
        "{found}"
    );
    let found = errors(&|b| drop(b.stream(["a", "b", "a"], (Utf8, I64))));
    assert!(matches!(found.0[..], [WiringError::RepeatedTopic { .. }]), "{found}");
    let found = errors(&|b| {
        drop(b.source(["a", "b"], (Utf8, I64)).table());
        drop(b.stream("a", (Utf8, I64)));
    });
    assert!(matches!(found.0[..], [WiringError::TableTopics { .. }]), "{found}");
    assert!(found.to_string().contains("to_table()"), "{found}");
    let found = errors(&|b| {
        drop(b.source("a", (Utf8, I64)).timestamps(|_, _, time| *time).stream());
        drop(b.table("a", (Utf8, I64)));
    });
    assert!(matches!(found.0[..], [WiringError::Timestamps { times: 2, .. }]), "{found}");
}
