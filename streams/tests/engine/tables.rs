//! Tables that must not go wrong: nulls, rows restored as they were processed, one row per key, windows that expire.

use kappa_streams::{
    Builder, GlobalTable, Table, TestDriver, Windows,
    codec::{I64, Json, Raw, Utf8, opt},
};
use std::{collections::BTreeMap, time::Duration};

fn values<V: Clone + Send + Sync + 'static>(
    driver: &TestDriver,
    table: &Table<String, V>,
) -> Vec<(String, V)> {
    driver.rows(table).unwrap().into_iter().map(|(key, row)| (key, row.value)).collect()
}

#[test]
fn windows_count_exactly_after_a_restore_that_brought_tombstones() {
    let b = Builder::new("windowed");
    let ms = Duration::from_millis;
    let windows = Windows::tumbling(ms(10)).retention(ms(100));
    let counts = b.stream("in", (Utf8, I64)).group_by_key().windowed_by(windows).count("counts");
    counts.to_stream().map(|key, count| (key.key, count)).to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for key in 0..20 {
        input.pipe(&mut driver, format!("old{key}"), 0, 5).unwrap();
    }
    input.pipe(&mut driver, "later".into(), 0, 200).unwrap();
    driver.rebalance().unwrap();
    input.pipe(&mut driver, "later".into(), 0, 201).unwrap();
    for _ in 0..3 {
        for key in 0..40 {
            input.pipe(&mut driver, format!("new{key}"), 0, 202).unwrap();
        }
    }
    let out = driver.output("out", (Utf8, opt(I64))).unwrap().drain(&mut driver).unwrap();
    let last: BTreeMap<String, Option<i64>> =
        out.into_iter().map(|record| (record.key, record.value)).collect();
    let wrong: Vec<_> =
        last.iter().filter(|(key, count)| key.starts_with("new") && **count != Some(3)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let before = driver.dump().unwrap();
    driver.crash().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
}

#[test]
fn an_aggregate_that_becomes_null_is_deleted_and_begins_anew() {
    let b = Builder::new("nulls");
    let input = b.stream("in", (Utf8, I64)).group_by_key();
    let add = |_: &String, value: i64, sum: Option<i64>| (value != 0).then(|| sum.unwrap_or(100) + value);
    let sums = input.aggregate("sums", opt(I64), || None, add);
    let windows = Windows::tumbling(Duration::from_millis(1000));
    let windowed = input.windowed_by(windows).aggregate("windowed", opt(I64), || None, add);
    let reduced = b
        .stream("texts", (Utf8, opt(Utf8)))
        .group_by_key()
        .reduce("reduced", |_, new| new.filter(|text| text != "x"));
    let as_table = b.stream("texts", (Utf8, opt(Utf8))).to_table("as-table", (Utf8, opt(Utf8)));
    b.stream("in", (Utf8, I64))
        .left_join_table("joined", &sums, |_, value, sum| format!("{value} {sum:?}"))
        .to("joined", (Utf8, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let (numbers, texts) = (driver.input("in", (Utf8, I64)), driver.input("texts", (Utf8, opt(Utf8))));
    for value in [1, 0] {
        numbers.pipe(&mut driver, "k".into(), value, value).unwrap();
    }
    for text in [Some("a"), Some("x"), None] {
        texts.pipe(&mut driver, "k".into(), text.map(str::to_owned), 1).unwrap();
    }
    assert_eq!(driver.get(&sums, &"k".into()).unwrap(), None);
    assert_eq!(driver.fetch_windows(&windowed, &"k".into(), 0..=i64::MAX).unwrap().len(), 0);
    assert_eq!((values(&driver, &reduced), values(&driver, &as_table)), (vec![], vec![]));
    let joined = driver.output("joined", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(
        joined.into_iter().map(|record| record.value).collect::<Vec<_>>(),
        ["1 Some(Some(101))", "0 None"]
    );
    driver.crash().unwrap();
    assert!(driver.dump().unwrap().values().all(Vec::is_empty));
    numbers.pipe(&mut driver, "k".into(), 5, 5).unwrap();
    assert_eq!(driver.get(&sums, &"k".into()).unwrap().map(|row| row.value), Some(Some(105)));
}

#[test]
fn an_aggregate_of_a_table_that_becomes_null_begins_anew() {
    let b = Builder::new("nulls");
    let groups =
        b.table("in", (Utf8, I64)).group_by("by-group", (Utf8, I64), |_, value| ("all".into(), *value));
    let sum = groups.aggregate(
        "sums",
        opt(I64),
        || Some(1000),
        |_, value, sum| sum.map(|sum| sum + value),
        |_, value, sum| sum.map(|sum| sum - value).filter(|sum| *sum != 1000),
    );
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, opt(I64)));
    for value in [Some(1), Some(2), None] {
        input.pipe(&mut driver, "k".into(), value, 1).unwrap();
        let expected = value.map(|value| ("all".to_owned(), Some(1000 + value)));
        assert_eq!(values(&driver, &sum), Vec::from_iter(expected));
    }
}

#[test]
fn a_null_in_a_pair_is_a_key_of_its_own() {
    let b = Builder::new("pairs");
    let keys = || ((opt(I64), opt(Utf8)), Raw);
    let counts = b
        .stream("in", (Utf8, Raw))
        .group_by("by-pair", keys(), |key, _| match &**key {
            "null" => (None, None),
            "empty" => (Some(0), Some(String::new())),
            _ => (None, Some(key.clone())),
        })
        .count("counts");
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(3).start().unwrap();
    let input = driver.input("in", (Utf8, Raw));
    for key in ["null", "empty", "text", "null"] {
        input.pipe(&mut driver, key.into(), Default::default(), 0).unwrap();
    }
    for (key, count) in [((None, None), 2), ((Some(0), Some("")), 1), ((None, Some("text")), 1)] {
        let key = (key.0, key.1.map(str::to_owned));
        assert_eq!(driver.get(&counts, &key).unwrap().map(|row| row.value), Some(count));
    }
    assert_eq!(driver.rows(&counts).unwrap().len(), 3);
}

fn piped(driver: &mut TestDriver, topic: &str, records: &[(&str, Option<&str>, i64)]) {
    for (key, value, timestamp) in records {
        let record = (Some(key.as_bytes()), value.map(str::as_bytes));
        driver.append(topic, None, record, *timestamp, Default::default()).unwrap();
    }
    driver.run().unwrap();
}

#[test]
fn a_source_table_is_restored_as_it_was_processed() {
    let b = Builder::new("restored");
    let table = b.table("in", (Json::<i64>::new(), Json::<i64>::new()));
    table.to_stream().to("out", (Json::<i64>::new(), Json::<i64>::new()));
    let mut driver = TestDriver::new(&b.build().unwrap()).skip_undecodable().start().unwrap();
    let records = [
        ("1", Some("10"), 1),
        ("2", Some("no number"), 2),
        ("no number", Some("3"), 3),
        ("4", Some("40"), -4),
        ("1", Some("no number"), 5),
        ("6", Some("60"), 6),
    ];
    piped(&mut driver, "in", &records);
    let before = driver.dump().unwrap();
    assert_eq!(before.values().map(Vec::len).sum::<usize>(), 2);
    assert_eq!((driver.counters().undecodable, driver.counters().negative_timestamps), (3, 1));
    driver.crash().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
    assert_eq!(driver.rows(&table).unwrap().len(), 2);
}

#[test]
fn every_spelling_of_a_key_is_one_row() {
    type Key = (String, i64);
    let b = Builder::new("spelled");
    let codecs = || (Json::<Key>::new(), Json::<i64>::new());
    let table = b.table("table", codecs());
    let global: GlobalTable<Key, i64> = b.global_table("global", codecs());
    b.stream("in", codecs())
        .join_table("joined", &table, |_, value, row| value + row)
        .join_global("global", &global, |key, _| key.clone(), |_, value, row| value + row)
        .to("out", codecs());
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    piped(&mut driver, "global", &[("[ \"eu\",  1 ]", Some("100"), 1)]);
    piped(&mut driver, "table", &[("[\"eu\", 1]", Some("10"), 1), ("[\"eu\",1 ]", Some("20"), 2)]);
    piped(&mut driver, "in", &[("[\"eu\",1]", Some("1"), 3)]);
    let out = driver.output("out", codecs()).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.iter().map(|record| record.value).collect::<Vec<_>>(), [121]);
    let key = ("eu".to_owned(), 1);
    for _ in 0..2 {
        assert_eq!(driver.get(&table, &key).unwrap().map(|row| row.value), Some(20));
        assert_eq!(driver.rows(&table).unwrap().len(), 1);
        driver.crash().unwrap();
    }
    piped(&mut driver, "table", &[(" [\"eu\", 1]", None, 4)]);
    assert_eq!(driver.rows(&table).unwrap().len(), 0);
}

#[test]
fn the_windows_of_a_key_are_not_those_of_keys_that_begin_like_it() {
    let b = Builder::new("prefix");
    let windows = Windows::tumbling(Duration::from_millis(10)).retention(Duration::from_secs(1_000_000));
    let counts = b.stream("in", (Utf8, I64)).group_by_key().windowed_by(windows).count("counts");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for (key, time) in [("k", 5), ("kangaroo", 15), ("k", 25)] {
        input.pipe(&mut driver, key.into(), 0, time).unwrap();
    }
    let found = driver.fetch_windows(&counts, &"k".into(), 0..=i64::MAX).unwrap();
    let found: Vec<_> = found.into_iter().map(|(key, _)| (key.key, key.window.start)).collect();
    assert_eq!(found, [("k".to_owned(), 0), ("k".to_owned(), 20)]);
}

#[test]
fn a_row_that_never_passed_a_filter_leaves_no_tombstone() {
    let b = Builder::new("filtered");
    let counts = b.stream("in", (Utf8, I64)).group_by_key().count("counts");
    let even = counts.filter(|_, count| *count > 1).map_values(|_, count| count * 10).filter(|_, n| *n < 30);
    even.to_stream().to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for key in ["a", "b", "a", "c", "a", "a"] {
        input.pipe(&mut driver, key.into(), 0, 0).unwrap();
    }
    let out = driver.output("out", (Utf8, opt(I64))).unwrap().drain(&mut driver).unwrap();
    let out: Vec<_> = out.into_iter().map(|record| (record.key, record.value)).collect();
    assert_eq!(out, [("a".to_owned(), Some(20)), ("a".to_owned(), None)]);
}
