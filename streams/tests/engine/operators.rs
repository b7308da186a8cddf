//! Word count, windows with grace, joins, tables regrouped; headers, nulls and event time on the way.

use bytes::Bytes;
use kappa_streams::{
    Builder, Header, Headers, TestDriver, Topology, Windows,
    codec::{I64, Utf8, opt, windowed},
    otherwise, when,
};
use std::time::Duration;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_lowercase).collect()
}

pub(crate) fn word_count() -> (Topology, kappa_streams::Table<String, i64>) {
    let b = Builder::new("word-count");
    let counts = b
        .stream("lines", (opt(Utf8), Utf8))
        .flat_map_values(|line| words(&line))
        .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
        .count("counts");
    counts.to_stream().to("word-counts", (Utf8, I64));
    (b.build().unwrap(), counts)
}

#[test]
fn word_count_counts_over_many_partitions_and_keeps_event_time() {
    let (topology, counts) = word_count();
    let mut driver = TestDriver::new(&topology).partitions(4).commit_every(7).start().unwrap();
    let lines = driver.input("lines", (opt(Utf8), Utf8));
    lines.pipe(&mut driver, None, "Kappa is a log".into(), 10).unwrap();
    lines.pipe(&mut driver, Some("k".into()), "a log is a table".into(), 5).unwrap();
    let row = driver.get(&counts, &"a".into()).unwrap().unwrap();
    assert_eq!((row.value, row.timestamp), (3, 10));
    assert_eq!(driver.get(&counts, &"stream".into()).unwrap(), None);
    let mut rows: Vec<_> =
        driver.rows(&counts).unwrap().into_iter().map(|(word, row)| (word, row.value)).collect();
    rows.sort();
    let expected = [("a", 3), ("is", 2), ("kappa", 1), ("log", 2), ("table", 1)];
    assert_eq!(rows, expected.map(|(word, count)| (word.to_owned(), count)));
    let changes = driver.output("word-counts", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(changes.len(), 9);
}

#[test]
fn windows_take_late_records_within_grace_and_count_the_others() {
    let b = Builder::new("hourly");
    let hour = Duration::from_millis(100);
    let counts = b
        .stream("clicks", (Utf8, Utf8))
        .group_by_key()
        .windowed_by(Windows::tumbling(hour).grace(Duration::from_millis(50)))
        .count("per-window");
    counts.to_stream().to("counts", (windowed(Utf8, hour), opt(I64)));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let clicks = driver.input("clicks", (Utf8, Utf8));
    for time in [10, 120, 99, 149, 90, 150, 95] {
        clicks.pipe(&mut driver, "page".into(), "click".into(), time).unwrap();
    }
    let windows = driver.fetch_windows(&counts, &"page".into(), 0..=1000).unwrap();
    let windows: Vec<_> =
        windows.into_iter().map(|(key, row)| (key.window.start, row.value, row.timestamp)).collect();
    assert_eq!(windows, [(0, 3, 99), (100, 3, 150)]);
    assert_eq!(driver.counters().late, 1);
    let changes = driver.output("counts", (windowed(Utf8, hour), I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(changes.len(), 6);
}

#[test]
fn a_record_can_be_late_for_one_hopping_window_and_not_for_the_next() {
    let b = Builder::new("hop");
    let windows = Windows::hopping(Duration::from_millis(100), Duration::from_millis(50));
    b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("n");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, Utf8));
    input.pipe(&mut driver, "k".into(), "v".into(), 120).unwrap();
    input.pipe(&mut driver, "k".into(), "v".into(), 70).unwrap();
    assert_eq!(driver.counters().late, 1);
}

#[test]
fn windowed_state_expires_behind_its_retention() {
    let b = Builder::new("expire");
    let windows = Windows::tumbling(Duration::from_millis(10)).retention(Duration::from_millis(100));
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("n");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, Utf8));
    for time in [0, 50, 105] {
        input.pipe(&mut driver, "k".into(), "v".into(), time).unwrap();
    }
    let starts = |driver: &TestDriver| -> Vec<i64> {
        driver.rows(&counts).unwrap().into_iter().map(|(key, _)| key.window.start).collect()
    };
    assert_eq!(starts(&driver), [50, 100]);
    driver.crash().unwrap();
    assert_eq!(starts(&driver), [50, 100]);
}

#[test]
fn stream_and_global_joins_look_up_and_left_joins_pass() {
    let b = Builder::new("orders");
    let users = b.table("users", (Utf8, Utf8));
    let countries = b.global_table("countries", (Utf8, Utf8));
    let orders = b.stream("orders", (Utf8, Utf8));
    orders
        .join_table("with-user", &users, |_, order, user| format!("{order} by {user}"))
        .to("inner", (Utf8, Utf8));
    orders
        .left_join_table("maybe-user", &users, |_, order, user| {
            format!("{order} by {}", user.map_or("?", |u| u))
        })
        .left_join_global(
            "country",
            &countries,
            |key, _| key.clone(),
            |_, order, country| format!("{order} in {}", country.map_or("?", |c| c)),
        )
        .to("left", (Utf8, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(3).start().unwrap();
    driver.input("countries", (Utf8, Utf8)).pipe(&mut driver, "ann".into(), "NZ".into(), 0).unwrap();
    driver.input("users", (Utf8, Utf8)).pipe(&mut driver, "ann".into(), "Ann".into(), 0).unwrap();
    let orders = driver.input("orders", (Utf8, Utf8));
    orders.pipe(&mut driver, "ann".into(), "tea".into(), 5).unwrap();
    orders.pipe(&mut driver, "bob".into(), "jam".into(), 6).unwrap();
    let texts = |driver: &mut TestDriver, topic: &str| -> Vec<String> {
        let output = driver.output(topic, (Utf8, Utf8)).unwrap();
        let mut texts: Vec<_> =
            output.drain(driver).unwrap().into_iter().map(|record| record.value).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&mut driver, "inner"), ["tea by Ann"]);
    assert_eq!(texts(&mut driver, "left"), ["jam by ? in ?", "tea by Ann in NZ"]);
}

#[test]
fn a_rekeyed_stream_is_repartitioned_before_a_join() {
    let b = Builder::new("rekeyed");
    let users = b.table("users", (Utf8, Utf8));
    b.stream("orders", (Utf8, Utf8))
        .select_key(|_, order| order.clone())
        .join_table("owner", &users, |_, order, user| format!("{order}={user}"))
        .to("out", (Utf8, Utf8));
    let topology = b.build().unwrap();
    assert!(topology.describe().contains("repartition owner"));
    let mut driver = TestDriver::new(&topology).partitions(5).start().unwrap();
    for user in ["a", "b", "c", "d"] {
        driver.input("users", (Utf8, Utf8)).pipe(&mut driver, user.into(), user.to_uppercase(), 0).unwrap();
    }
    for user in ["a", "b", "c", "d"] {
        driver.input("orders", (Utf8, Utf8)).pipe(&mut driver, "x".into(), user.into(), 1).unwrap();
    }
    let output = driver.output("out", (Utf8, Utf8)).unwrap();
    assert_eq!(output.drain(&mut driver).unwrap().len(), 4);
}

#[test]
fn a_table_regrouped_moves_rows_between_groups() {
    let b = Builder::new("regroup");
    let sums = b
        .table("people", (Utf8, (Utf8, I64)))
        .group_by("by-city", (Utf8, I64), |_, (city, age)| (city.clone(), *age))
        .aggregate("ages", I64, || 0, |_, age, sum| sum + age, |_, age, sum| sum - age);
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(4).start().unwrap();
    let people = driver.input("people", (Utf8, opt((Utf8, I64))));
    people.pipe(&mut driver, "ann".into(), Some(("oslo".into(), 30)), 1).unwrap();
    people.pipe(&mut driver, "bob".into(), Some(("oslo".into(), 40)), 2).unwrap();
    people.pipe(&mut driver, "ann".into(), Some(("rome".into(), 31)), 3).unwrap();
    people.pipe(&mut driver, "bob".into(), None, 4).unwrap();
    let sum = |city: &str| driver.get(&sums, &city.to_owned()).unwrap().map(|row| row.value);
    assert_eq!((sum("oslo"), sum("rome")), (Some(0), Some(31)));
}

#[test]
fn branches_merge_again_and_headers_and_times_travel() {
    let b = Builder::new("branches");
    let numbers = b.stream("numbers", (opt(Utf8), I64));
    let [even, odd] = numbers.branch([when(|_, number| number % 2 == 0), otherwise()]);
    let odd = odd.map_values(|number| number * 10);
    even.merge(&odd).repartition("spread", (opt(Utf8), I64)).to("out", (opt(Utf8), I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(3).start().unwrap();
    let trace: Headers =
        [Header { key: "trace".into(), value: Some(Bytes::from_static(b"t1")) }].into_iter().collect();
    for (key, number) in [(Some(&b"k"[..]), 1i64), (Some(&b"k"[..]), 2), (None, 3)] {
        driver.append("numbers", Some(0), (key, Some(&number.to_be_bytes()[..])), 77, trace.clone()).unwrap();
    }
    driver.run().unwrap();
    let out = driver.output("out", (opt(Utf8), I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.iter().map(|record| record.value).collect::<Vec<_>>(), [10, 2]);
    assert!(out.iter().all(|record| record.timestamp == 77 && record.headers == trace));
    assert_eq!(driver.counters().null_keys, 1);
}

#[test]
fn nulls_that_have_no_type_are_dropped_and_counted() {
    let (topology, counts) = word_count();
    let mut driver = TestDriver::new(&topology).start().unwrap();
    driver.append("lines", None, (None, None), 1, Headers::NONE).unwrap();
    driver.append("lines", None, (None, Some(&b"a"[..])), -5, Headers::NONE).unwrap();
    driver.append("lines", None, (None, Some(&b"b"[..])), 2, Headers::NONE).unwrap();
    driver.run().unwrap();
    assert_eq!(driver.rows(&counts).unwrap().len(), 1);
    let counters = driver.counters();
    assert_eq!((counters.null_values, counters.negative_timestamps), (1, 1));
}

#[test]
fn records_that_cannot_be_decoded_stop_the_task_or_are_skipped() {
    let topology = || {
        let b = Builder::new("decode");
        b.stream("numbers", (opt(Utf8), I64)).to("out", (opt(Utf8), I64));
        b.build().unwrap()
    };
    let bad = (None, Some(&b"xyz"[..]));
    let mut strict = TestDriver::new(&topology()).start().unwrap();
    strict.append("numbers", None, bad, 1, Headers::NONE).unwrap();
    assert!(strict.run().unwrap_err().to_string().contains("offset 0"));
    let mut lenient = TestDriver::new(&topology()).skip_undecodable().start().unwrap();
    lenient.append("numbers", None, bad, 1, Headers::NONE).unwrap();
    lenient.run().unwrap();
    assert_eq!(lenient.counters().undecodable, 1);
}
