//! Records stamped far ahead of the others stop neither their partition nor the windows of the others.
//!
//! Partitions carry a record per minute of event time each, which meet by region in hourly windows behind a
//! repartition topic.

use kappa_streams::{
    Builder, InputTopic, Table, TestDriver, TestDriverBuilder, Topology, Windowed, Windows,
    codec::{I64, Utf8},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// A thousand days, in minutes.
const FAR: i64 = 1000 * 24 * 60;
const IDLE: Duration = Duration::from_secs(5);

fn windows() -> Windows {
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let hour = Duration::from_secs(3600);
    Windows::tumbling(hour).grace(hour).retention(days(3000))
}

/// Counts by region, two of them, and hour.
fn counted() -> (Topology, Table<Windowed<i64>, i64>) {
    counted_with(windows())
}

fn counted_with(windows: Windows) -> (Topology, Table<Windowed<i64>, i64>) {
    let b = Builder::new("flights");
    let by_region =
        b.stream("flights", (Utf8, I64)).group_by("by-region", (I64, I64), |_, flight| flight % 2);
    let table = by_region.windowed_by(windows).count("hourly");
    (b.build().unwrap(), table)
}

fn started(topology: &Topology, partitions: i32) -> TestDriverBuilder {
    TestDriver::new(topology).partitions(partitions).skew_bound(Duration::from_secs(1800)).idle_timeout(IDLE)
}

fn flights(driver: &TestDriver) -> InputTopic<String, i64> {
    driver.input("flights", (Utf8, I64))
}

fn append(driver: &mut TestDriver, partition: i32, value: i64, minute: i64) {
    flights(driver).append(driver, Some(partition), "k".into(), value, minute * MINUTE).unwrap();
}

/// All partitions have nothing more for so long that none holds another.
fn become_idle(driver: &mut TestDriver) {
    (0..4).for_each(|_| driver.advance(IDLE).unwrap());
}

/// Rows by region and hour.
fn rows(driver: &TestDriver, table: &Table<Windowed<i64>, i64>) -> BTreeMap<(i64, i64), i64> {
    let rows = driver.rows(table).unwrap();
    rows.into_iter().map(|(key, row)| ((key.key, key.window.start / HOUR), row.value)).collect()
}

/// What is counted of records of these regions and minutes.
fn model(records: impl Iterator<Item = (i64, i64)>) -> BTreeMap<(i64, i64), i64> {
    let mut rows = BTreeMap::new();
    records.for_each(|(value, minute)| *rows.entry((value % 2, minute / 60)).or_default() += 1);
    rows
}

#[test]
fn records_behind_one_that_is_far_ahead_do_not_wait_for_it() {
    let (topology, table) = counted();
    for ahead_at in [0, 1, 300] {
        let mut driver = started(&topology, 2).start().unwrap();
        for at in 0..601 {
            if at == ahead_at {
                append(&mut driver, 0, 0, FAR);
            }
            (0..2).for_each(|partition| append(&mut driver, partition, at, at));
            driver.advance(Duration::from_millis(10)).unwrap();
        }
        let rightly = (0..601).flat_map(|at| [(at, at); 2]);
        assert_eq!(rows(&driver, &table), model(rightly.clone()), "ahead at {ahead_at}");
        let counters = driver.counters();
        assert_eq!((counters.records_in, counters.put_aside, counters.late), (2 * 1202, 1, 0));
        assert!(counters.aside_ms >= (590 - ahead_at as u64) * 10, "{counters:?}");
        assert!(counters.held_ms < 100, "{counters:?}");
        become_idle(&mut driver);
        assert_eq!(rows(&driver, &table), model(rightly.chain([(0, FAR)])));
        assert_eq!((driver.counters().records_in, driver.counters().late), (2 * 1203, 0));
    }
}

#[test]
fn one_that_was_taken_while_nobody_held_it_does_not_say_how_far_its_partition_is() {
    let (topology, _) = counted_with(windows().grace(Duration::from_secs(4 * 3600)));
    let mut driver = started(&topology, 2).start().unwrap();
    append(&mut driver, 0, 0, FAR);
    become_idle(&mut driver);
    let held_ms = driver.counters().held_ms;
    assert_eq!(driver.counters().records_in, 2);
    for at in 0..601 {
        (0..2).for_each(|partition| append(&mut driver, partition, 1, at));
        driver.advance(Duration::from_millis(10)).unwrap();
    }
    // The first of them could as well be out of its time, until the next one comes.
    assert_eq!((driver.counters().records_in, driver.counters().held_ms), (2 * 1203, held_ms + 10));
    driver.stall("flights", 0).unwrap();
    for at in 601..1201 {
        (0..2).for_each(|partition| append(&mut driver, partition, 1, at));
    }
    driver.run().unwrap();
    // What its writer has told the readers of the topic stands: they go as far as the writers of the process do.
    assert_eq!(driver.counters().records_in, 2 * (1203 + 30 * 8), "eight bounds ahead of the stalled one");
    driver.resume("flights", 0).unwrap();
    driver.run().unwrap();
    assert_eq!((driver.counters().records_in, driver.counters().late), (2 * (1203 + 1200), 0));
}

/// Some that are far ahead, each in another hour, among others in step.
fn with_some_far_ahead(minutes: i64, partitions: i64, every: i64) -> Vec<(i32, i64, i64)> {
    let at = |at: i64| (0..partitions).map(move |partition| (partition as i32, at, at));
    let ahead = |at: i64| ((at % partitions) as i32, at, FAR - at * 60);
    (0..minutes)
        .flat_map(|minute| (minute % every == 3).then(|| ahead(minute)).into_iter().chain(at(minute)))
        .collect()
}

#[test]
fn neither_crashes_nor_moves_at_any_step_count_anything_twice_or_lose_it() {
    let (topology, table) = counted();
    let records = with_some_far_ahead(60, 2, 5);
    let expected = model(records.iter().map(|(_, value, minute)| (*value, *minute)));
    for again in [TestDriver::crash, TestDriver::rebalance] {
        let mut driver = started(&topology, 2).start().unwrap();
        for (partition, value, minute) in records.clone() {
            append(&mut driver, partition, value, minute);
            driver.advance(Duration::from_millis(1)).unwrap();
            again(&mut driver).unwrap();
            driver.run().unwrap();
        }
        let counters = driver.counters();
        assert_eq!((counters.records_in, counters.put_aside), (2 * 120, 12), "and no one's twice");
        for _ in 0..12 {
            driver.advance(IDLE).unwrap();
            again(&mut driver).unwrap();
            driver.run().unwrap();
        }
        become_idle(&mut driver);
        assert_eq!((rows(&driver, &table), driver.counters().late), (expected.clone(), 0));
    }
}

#[test]
fn as_many_are_put_aside_as_fit_and_then_their_partition_waits() {
    let (topology, table) = counted();
    for (count, is_held) in [(32, false), (33, true), (100, true)] {
        let mut driver = started(&topology, 2).start().unwrap();
        // Two in line would say that event time has come so far.
        (0..count).for_each(|at| append(&mut driver, 0, 0, FAR - at * 60));
        for at in 0..200 {
            (0..2).for_each(|partition| append(&mut driver, partition, 1, at));
        }
        driver.run().unwrap();
        let taken = driver.counters().records_in;
        assert_eq!(taken, if is_held { 2 * 200 } else { 2 * 400 }, "{count} far ahead");
        assert_eq!(driver.counters().put_aside, 32);
        driver.crash().unwrap();
        driver.run().unwrap();
        assert_eq!(driver.counters().records_in, taken, "what is processed is skipped");
        become_idle(&mut driver);
        assert_eq!(driver.counters().records_in, 2 * (400 + count as u64));
        let ahead: i64 =
            rows(&driver, &table).iter().filter(|((_, hour), _)| *hour > 200).map(|(_, count)| count).sum();
        // What finds no room is taken as it comes, and late once that is more than the grace.
        assert_eq!(ahead, count.min(32 + 2), "each in its own window");
    }
}

#[test]
fn a_replay_whose_pinned_ends_are_far_ahead_comes_to_them() {
    let (topology, table) = counted();
    let mut driver = started(&topology, 2).start().unwrap();
    let mut records = with_some_far_ahead(200, 2, 40);
    records.extend([(0, 0, FAR), (0, 1, FAR + 60), (1, 0, FAR + 600)]);
    for (partition, value, minute) in records.clone() {
        append(&mut driver, partition, value, minute);
    }
    become_idle(&mut driver);
    driver.commit().unwrap();
    let expected = model(records.iter().map(|(_, value, minute)| (*value, *minute)));
    assert_eq!(rows(&driver, &table), expected);
    let first = driver.dump().unwrap();
    driver.replay().unwrap();
    append(&mut driver, 0, 0, 200);
    driver.run().unwrap();
    assert!(driver.replayed());
    driver.commit().unwrap();
    assert_eq!((driver.dump().unwrap(), driver.counters().late), (first, 0));
}

#[test]
fn rows_of_a_table_follow_each_other_as_in_its_log() {
    let b = Builder::new("joined");
    let table = b.table("rows", (Utf8, I64));
    b.stream("in", (Utf8, I64))
        .join_table("joined", &table, |_, left, right| left + right)
        .to("out", (Utf8, I64));
    let mut driver = started(&b.build().unwrap(), 1).start().unwrap();
    let (rows, input) = (driver.input("rows", (Utf8, I64)), driver.input("in", (Utf8, I64)));
    for at in 0..100 {
        input.append(&mut driver, None, "k".into(), at, at * MINUTE).unwrap();
    }
    for (value, minute) in [(1, 0), (2, FAR), (3, 1), (4, 2)] {
        rows.append(&mut driver, None, "k".into(), value, minute * MINUTE).unwrap();
    }
    become_idle(&mut driver);
    assert_eq!(driver.get(&table, &"k".into()).unwrap().map(|row| row.value), Some(4));
    assert_eq!((driver.counters().records_in, driver.counters().put_aside), (104, 0));
    driver.crash().unwrap();
    assert_eq!(driver.get(&table, &"k".into()).unwrap().map(|row| row.value), Some(4), "restored the same");
}

/// A partition's records in its order: minutes since the one before, and minutes that one is behind or far ahead. Of two in
/// a row that are far ahead nobody could know that they are.
fn partition() -> impl Strategy<Value = Vec<i64>> {
    let shift = prop_oneof![6 => -9i64..=0, 1 => (10i64..5000).prop_map(|hours| hours * 60)];
    let steps = prop::collection::vec((0i64..15, shift), 1..19);
    steps.prop_map(|steps| {
        let (mut now, mut was_ahead) = (10, false);
        let minutes = steps.into_iter().map(|(step, shift)| {
            now += step;
            was_ahead = shift > 0 && !was_ahead;
            if was_ahead { now + shift } else { now + shift.min(0) }
        });
        minutes.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_record_is_in_its_window_whatever_crashes(
        partitions in prop::collection::vec(partition(), 2..4),
        steps in prop::collection::vec((0i32..3, 0u8..12), 0..80),
        commit_every in 1usize..7,
    ) {
        // Each record is a bit, so that what a crash repeats changes nothing.
        let b = Builder::new("flights");
        let by_region = b
            .stream("flights", (Utf8, I64))
            .group_by("by-region", (I64, I64), |_, bit| i64::from(bit.trailing_zeros() % 2));
        let table = by_region.windowed_by(windows()).reduce("hourly", |one, other| one | other);
        let count = partitions.len() as i32;
        let mut driver = started(&b.build().unwrap(), count).commit_every(commit_every).start().unwrap();
        let mut left: Vec<_> = partitions.iter().map(|minutes| minutes.iter().copied()).collect();
        let (mut expected, mut bit) = (BTreeMap::new(), 0);
        let mut give = |driver: &mut TestDriver, partition: usize, minute: Option<i64>| {
            let Some(minute) = minute else { return };
            append(driver, partition as i32, 1 << bit, minute);
            *expected.entry((bit % 2, minute / 60)).or_default() |= 1i64 << bit;
            bit += 1;
        };
        for (partition, what) in steps {
            let partition = (partition % count) as usize;
            match what {
                0 => driver.crash().unwrap(),
                1 => driver.rebalance().unwrap(),
                2 => driver.stall("flights", partition as i32).unwrap(),
                3 => driver.resume("flights", partition as i32).unwrap(),
                4 => driver.run().unwrap(),
                _ => {
                    let minute = left[partition].next();
                    give(&mut driver, partition, minute);
                }
            }
        }
        for (partition, left) in left.into_iter().enumerate() {
            left.for_each(|minute| give(&mut driver, partition, Some(minute)));
            // All have come as far when they become idle, and say so.
            (0..2).for_each(|_| give(&mut driver, partition, Some(300)));
        }
        (0..count).for_each(|partition| driver.resume("flights", partition).unwrap());
        become_idle(&mut driver);
        prop_assert_eq!(rows(&driver, &table), expected);
        prop_assert_eq!(driver.counters().late, 0);
    }
}

/// Records of two partitions in step, and one of the first that is stamped years ahead.
fn one_timestamp_far_ahead(topology: &Topology) -> (u64, u64, u64) {
    let mut driver = started(topology, 2).start().unwrap();
    append(&mut driver, 0, 0, 1_000_000);
    for at in 0..100 {
        (0..2).for_each(|partition| append(&mut driver, partition, at, at));
        driver.advance(Duration::from_millis(10)).unwrap();
    }
    let counters = driver.counters();
    (counters.records_in, counters.held_ms, counters.put_aside)
}

#[test]
fn what_does_not_depend_on_time_is_neither_held_nor_put_aside() {
    let b = Builder::new("stateless");
    b.stream("flights", (Utf8, I64)).map_values(|flight| flight + 1).to("out", (Utf8, I64));
    assert_eq!(one_timestamp_far_ahead(&b.build().unwrap()), (201, 0, 0));
    let b = Builder::new("counted");
    b.stream("flights", (Utf8, I64)).group_by("by-region", (I64, I64), |_, flight| flight % 5).count("all");
    assert_eq!(one_timestamp_far_ahead(&b.build().unwrap()), (402, 0, 0));
    // A window does, and so does what feeds one through a topic.
    assert_eq!(one_timestamp_far_ahead(&counted().0).2, 1);
}
