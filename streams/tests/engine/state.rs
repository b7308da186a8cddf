//! Restore from changelogs, crashes, commits of any length, and replay.

use crate::operators::word_count;
use kappa_streams::{
    Builder, TestDriver, Topology, Windows,
    codec::{I64, Utf8, opt},
};
use proptest::prelude::*;
use std::time::Duration;

fn pipe_lines(driver: &mut TestDriver, lines: &[&str]) {
    let input = driver.input("lines", (opt(Utf8), Utf8));
    for (time, line) in lines.iter().enumerate() {
        input.append(driver, Some(time as i32 % 3), None, (*line).to_owned(), time as i64).unwrap();
    }
    driver.run().unwrap();
}

#[test]
fn stores_are_restored_from_their_changelogs() {
    let (topology, _) = word_count();
    let mut driver = TestDriver::new(&topology).partitions(3).start().unwrap();
    pipe_lines(&mut driver, &["a b c", "a b", "a"]);
    let before = driver.dump().unwrap();
    assert!(before.values().any(|rows| !rows.is_empty()));
    driver.crash().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
    driver.rebalance().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
}

#[test]
fn a_crash_before_a_commit_loses_nothing() {
    let (topology, counts) = word_count();
    let mut driver = TestDriver::new(&topology).partitions(3).commit_every(1000).start().unwrap();
    pipe_lines(&mut driver, &["a b c", "a b", "a"]);
    driver.crash().unwrap();
    driver.run().unwrap();
    let count =
        |driver: &TestDriver, word: &str| driver.get(&counts, &word.to_owned()).unwrap().map(|row| row.value);
    // At least once: the repartition records written before the crash are counted again.
    assert!(count(&driver, "a") >= Some(3));
    driver.commit().unwrap();
    let before = driver.dump().unwrap();
    driver.crash().unwrap();
    driver.run().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
}

#[test]
fn a_source_table_is_restored_from_its_topic_up_to_the_committed_offset() {
    let b = Builder::new("tables");
    let users = b.table("users", (Utf8, I64));
    users.to_stream().to("out", (Utf8, opt(I64)));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("users", (Utf8, opt(I64)));
    input.pipe(&mut driver, "a".into(), Some(1), 1).unwrap();
    input.pipe(&mut driver, "b".into(), Some(2), 2).unwrap();
    input.pipe(&mut driver, "a".into(), None, 3).unwrap();
    let before = driver.dump().unwrap();
    driver.crash().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
    let rows = driver.rows(&users).unwrap();
    assert_eq!(rows.iter().map(|(key, row)| (&**key, row.value)).collect::<Vec<_>>(), [("b", 2)]);
}

#[test]
fn operator_clocks_survive_a_crash() {
    let b = Builder::new("clocks");
    let windows = Windows::tumbling(Duration::from_millis(10));
    b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("n");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, Utf8));
    input.pipe(&mut driver, "k".into(), "v".into(), 100).unwrap();
    driver.crash().unwrap();
    input.pipe(&mut driver, "k".into(), "v".into(), 5).unwrap();
    assert_eq!(driver.counters().late, 1);
}

fn hourly() -> Topology {
    let b = Builder::new("hourly");
    let windows = Windows::tumbling(Duration::from_millis(60)).grace(Duration::from_millis(10_000));
    b.stream("in", (Utf8, I64))
        .group_by("by-parity", (I64, I64), |_, value| value % 3)
        .windowed_by(windows)
        .aggregate("sums", I64, || 0, |_, value, sum| sum + value);
    b.build().unwrap()
}

fn fill(driver: &mut TestDriver, records: &[(u8, i64, i64)]) {
    let input = driver.input("in", (Utf8, I64));
    for (key, value, time) in records {
        input.append(driver, None, key.to_string(), *value, *time).unwrap();
    }
}

#[test]
fn replaying_twice_gives_the_same_stores() {
    let records: Vec<_> = (0..500).map(|at: i64| ((at % 7) as u8, at, at * 3 % 700)).collect();
    let mut driver = TestDriver::new(&hourly()).partitions(4).commit_every(50).start().unwrap();
    fill(&mut driver, &records);
    driver.run().unwrap();
    driver.commit().unwrap();
    let first = driver.dump().unwrap();
    for _ in 0..2 {
        driver.replay().unwrap();
        driver.run().unwrap();
        assert!(driver.replayed());
        assert_eq!(driver.dump().unwrap(), first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn neither_commit_interval_nor_clean_moves_change_the_stores(
        records in prop::collection::vec((0u8..20, 0i64..1000, 0i64..5000), 1..80),
        commit_every in 1usize..40,
        moves in prop::collection::vec(0usize..80, 0..3),
    ) {
        let mut plain = TestDriver::new(&hourly()).partitions(3).start().unwrap();
        fill(&mut plain, &records);
        plain.run().unwrap();
        let mut moved = TestDriver::new(&hourly()).partitions(3).commit_every(commit_every).start().unwrap();
        for (at, record) in records.iter().enumerate() {
            fill(&mut moved, std::slice::from_ref(record));
            if moves.contains(&at) {
                moved.run().unwrap();
                moved.rebalance().unwrap();
            }
        }
        moved.run().unwrap();
        moved.commit().unwrap();
        prop_assert_eq!(plain.dump().unwrap(), moved.dump().unwrap());
    }
}
