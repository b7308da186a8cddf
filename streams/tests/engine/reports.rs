//! Situations that public reports of comparable systems tell of, each with the report's id.

use kappa_streams::{
    Builder, Headers, TestDriver, Windows,
    codec::{I64, Utf8, opt, windowed},
};
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// faust-streaming/faust #171: a key that was deleted and then set again is gone after a recovery.
#[test]
fn a_key_set_again_behind_its_tombstone_is_restored() {
    let b = Builder::new("reassigned");
    let own = b.stream("in", (I64, opt(Utf8))).to_table("own", (I64, opt(Utf8)));
    let source = b.table("rows", (I64, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for topic in ["in", "rows"] {
        let input = driver.input(topic, (I64, opt(Utf8)));
        for (key, value) in [(1, Some("Foo")), (2, Some("Bar")), (2, None), (2, Some("Baz"))] {
            input.pipe(&mut driver, key, value.map(str::to_owned), 0).unwrap();
        }
    }
    for _ in 0..2 {
        let own: Vec<_> = driver.rows(&own).unwrap().into_iter().map(|(key, row)| (key, row.value)).collect();
        assert_eq!(own, [(1, Some("Foo".to_owned())), (2, Some("Baz".to_owned()))]);
        let source: Vec<_> =
            driver.rows(&source).unwrap().into_iter().map(|(key, row)| (key, row.value)).collect();
        assert_eq!(source, [(1, "Foo".to_owned()), (2, "Baz".to_owned())]);
        driver.crash().unwrap();
    }
}

/// robinhood/faust #44: windows that a recovery brings back and nobody changes are never removed.
#[test]
fn windows_that_were_restored_expire() {
    let b = Builder::new("restored");
    let windows = Windows::tumbling(MS(10)).retention(MS(100));
    let counts = b.stream("in", (Utf8, I64)).group_by_key().windowed_by(windows).count("counts");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for key in 0..20 {
        input.pipe(&mut driver, format!("k{key}"), 0, 5).unwrap();
    }
    driver.crash().unwrap();
    assert_eq!(driver.rows(&counts).unwrap().len(), 20);
    input.pipe(&mut driver, "later".into(), 0, 200).unwrap();
    for _ in 0..2 {
        assert_eq!(driver.rows(&counts).unwrap().len(), 1);
        driver.crash().unwrap();
    }
}

/// influxdata/influxdb #8234, FLINK-26334 (windows at the ends of the range of timestamps): the greatest timestamp
/// there is overflows neither windows, nor bounds, nor what is committed.
#[test]
fn the_greatest_timestamp_breaks_nothing() {
    let b = Builder::new("greatest");
    let grouped = b.stream("in", (Utf8, I64)).group_by("again", (Utf8, I64), |key, _| key.clone());
    let hopping = Windows::hopping(MS(15), MS(10)).grace(MS(20));
    let counts = grouped.windowed_by(hopping).count("hopping");
    grouped.windowed_by(Windows::tumbling(MS(10))).count("tumbling");
    counts.to_stream().to("out", (windowed(Utf8, MS(15)), opt(I64)));
    let topology = b.build().unwrap();
    let mut driver =
        TestDriver::new(&topology).partitions(2).skew_bound(MS(50)).idle_timeout(MS(10)).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    let times = [5, i64::MAX, 12, i64::MAX - 3, 25, i64::MAX];
    for (at, time) in times.into_iter().enumerate() {
        input.append(&mut driver, Some(at as i32 % 2), "k".into(), 0, time).unwrap();
        driver.run().unwrap();
    }
    driver.crash().unwrap();
    for _ in 0..10 {
        driver.advance(MS(50)).unwrap();
    }
    driver.crash().unwrap();
    input.pipe(&mut driver, "k".into(), 0, i64::MAX - 1).unwrap();
    for _ in 0..10 {
        driver.advance(MS(50)).unwrap();
    }
    let rows: Vec<_> = driver.rows(&counts).unwrap();
    let counted: Vec<_> =
        rows.iter().map(|(key, row)| (key.window.start, key.window.end, row.value)).collect();
    assert!(counted.iter().all(|(start, end, _)| start < end), "{counted:?}");
    assert_eq!(counted.last().map(|(_, end, count)| (*end, *count)), Some((i64::MAX, 4)), "{counted:?}");
}

/// KAFKA-9524 (a grace longer than the retention), and one so long that both overflow: a window that never closes takes every record.
#[test]
fn a_grace_without_end_overflows_nothing() {
    let b = Builder::new("endless");
    let windows = Windows::tumbling(MS(10)).grace(Duration::MAX);
    let counts = b.stream("in", (Utf8, I64)).group_by_key().windowed_by(windows).count("counts");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for time in [5, i64::MAX - 1, 6, 1 << 50, 7] {
        input.pipe(&mut driver, "k".into(), 0, time).unwrap();
        driver.crash().unwrap();
    }
    let first = driver.fetch_windows(&counts, &"k".into(), 0..=0).unwrap();
    assert_eq!(first.into_iter().map(|(_, row)| row.value).collect::<Vec<_>>(), [3]);
    assert_eq!(driver.counters().late, 0);
}

/// KAFKA-3817 (`KTableRepartitionMap` and null keys): a row that loses its group is taken away from the one it had.
#[test]
fn a_row_without_a_group_leaves_the_one_it_had() {
    let b = Builder::new("ungrouped");
    let rows = b.table("rows", (Utf8, opt(Utf8)));
    let counts = rows.group_by("by-group", (opt(Utf8), I64), |_, group| (group.clone(), 1)).count("counts");
    let sums = b
        .table("more", (Utf8, Utf8))
        .group_by("by-text", (opt(Utf8), I64), |_, text| {
            let (group, number) = text.split_once(' ').unwrap_or(("", text));
            ((!group.is_empty()).then(|| group.to_owned()), number.parse().unwrap_or(0))
        })
        .reduce("sums", |sum, number| sum + number, |sum, number| sum - number);
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(3).start().unwrap();
    let rows = driver.input("rows", (Utf8, opt(Utf8)));
    let more = driver.input("more", (Utf8, opt(Utf8)));
    for (key, group) in [("a", "g"), ("b", "g")] {
        rows.pipe(&mut driver, key.into(), Some(group.into()), 1).unwrap();
    }
    rows.pipe(&mut driver, "a".into(), None, 2).unwrap();
    for text in ["g 5", "7", "g 2", "8", "h 3"] {
        more.pipe(&mut driver, "k".into(), Some(text.into()), 3).unwrap();
    }
    more.pipe(&mut driver, "l".into(), Some("h 4".into()), 3).unwrap();
    more.pipe(&mut driver, "k".into(), None, 4).unwrap();
    let of = |table, group: &str| driver.get(table, &Some(group.to_owned())).unwrap().map(|row| row.value);
    assert_eq!(of(&counts, "g"), Some(1));
    assert_eq!((of(&sums, "g"), of(&sums, "h")), (Some(0), Some(4)));
}

/// KAFKA-6687 (one topic read as a stream and as a table, which Kafka Streams 4.3.1 refuses still): which row a record
/// finds is a matter of what the topology names first, and the same after a crash.
#[test]
fn a_topic_may_be_a_stream_and_a_table_at_once() {
    let found = |table_first: bool| {
        let b = Builder::new("both");
        let (stream, table) = match table_first {
            true => {
                let table = b.table("in", (Utf8, Utf8));
                (b.stream("in", (Utf8, Utf8)), table)
            }
            false => (b.stream("in", (Utf8, Utf8)), b.table("in", (Utf8, Utf8))),
        };
        stream
            .left_join_table("joined", &table, |_, value, row| {
                format!("{value} {}", row.map_or("-", |row| row))
            })
            .to("out", (Utf8, Utf8));
        let mut driver = TestDriver::new(&b.build().unwrap()).partitions(2).start().unwrap();
        let input = driver.input("in", (Utf8, Utf8));
        let out = driver.output("out", (Utf8, Utf8)).unwrap();
        for value in ["1", "2"] {
            input.pipe(&mut driver, "k".into(), value.into(), 1).unwrap();
        }
        driver.crash().unwrap();
        input.pipe(&mut driver, "k".into(), "3".into(), 1).unwrap();
        out.drain(&mut driver).unwrap().into_iter().map(|record| record.value).collect::<Vec<_>>()
    };
    assert_eq!(found(true), ["1 1", "2 2", "3 3"]);
    assert_eq!(found(false), ["1 -", "2 1", "3 2"]);
}

/// ksql #3616 (more tombstones than there were rows): a tombstone for a key that never was is no row, takes nothing from a
/// group, and brings none back from the source in a restore.
#[test]
fn a_tombstone_for_a_key_that_never_was_changes_nothing() {
    let b = Builder::new("never");
    let table = b.table("rows", (Utf8, Utf8));
    let counts = table.group_by("by-value", (Utf8, I64), |_, value| (value.clone(), 1)).count("counts");
    table.to_stream().to("out", (Utf8, opt(Utf8)));
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(2).start().unwrap();
    for time in 0..3 {
        driver.append("rows", None, (Some(b"k"), None), time, Headers::NONE).unwrap();
        driver.run().unwrap();
        driver.crash().unwrap();
    }
    assert_eq!(driver.rows(&counts).unwrap().len(), 0);
    driver.input("rows", (Utf8, Utf8)).pipe(&mut driver, "k".into(), "v".into(), 5).unwrap();
    assert_eq!(driver.get(&counts, &"v".into()).unwrap().map(|row| row.value), Some(1));
}
