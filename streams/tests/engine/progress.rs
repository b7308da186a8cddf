//! Progress control: partitions read at different speeds do not turn data late.
//!
//! Six partitions carry a record per minute of event time each. They meet by region in hourly windows behind a
//! repartition topic, so a partition that runs ahead of another would close its windows.

use kappa_streams::{
    Builder, InputTopic, TestDriver, TestDriverBuilder, Topology, Windows,
    codec::{I64, Utf8},
};
use std::time::Duration;

const MINUTE: i64 = 60_000;
const PARTITIONS: i32 = 6;
const RECORDS: i64 = 1000;

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

fn topology() -> Topology {
    let b = Builder::new("flights");
    b.stream("flights", (Utf8, I64))
        .group_by("by-region", (I64, I64), |_, flight| flight % 5)
        .windowed_by(Windows::tumbling(hours(1)).grace(hours(1)).retention(hours(48)))
        .count("hourly");
    b.build().unwrap()
}

fn bounded() -> TestDriverBuilder {
    TestDriver::new(&topology())
        .partitions(PARTITIONS)
        .commit_every(100)
        .skew_bound(Duration::from_secs(1800))
}

fn unbounded() -> TestDriverBuilder {
    TestDriver::new(&topology()).partitions(PARTITIONS).commit_every(100)
}

fn append(input: &InputTopic<String, i64>, driver: &mut TestDriver, partition: i32, at: i64) {
    input.append(driver, Some(partition), "k".into(), at, at * MINUTE).unwrap();
}

fn flights(driver: &TestDriver) -> InputTopic<String, i64> {
    driver.input("flights", (Utf8, I64))
}

/// All records are there before anything runs, and one partition answers no fetch for a while.
fn catch_up(builder: TestDriverBuilder) -> TestDriver {
    let mut driver = builder.start().unwrap();
    let input = flights(&driver);
    driver.stall("flights", 5).unwrap();
    for partition in 0..PARTITIONS {
        (0..RECORDS).for_each(|at| append(&input, &mut driver, partition, at));
    }
    driver.run().unwrap();
    driver.advance(Duration::from_secs(2)).unwrap();
    driver.resume("flights", 5).unwrap();
    driver.run().unwrap();
    driver
}

/// Records arrive while the topology runs, and one partition answers no fetch for a while.
fn live(builder: TestDriverBuilder) -> TestDriver {
    let mut driver = builder.start().unwrap();
    let input = flights(&driver);
    for at in 0..RECORDS {
        (0..PARTITIONS).for_each(|partition| append(&input, &mut driver, partition, at));
        match at {
            100 => driver.stall("flights", 5).unwrap(),
            900 => driver.resume("flights", 5).unwrap(),
            _ => {}
        }
        driver.advance(Duration::from_millis(2)).unwrap();
    }
    driver
}

fn all_counted(driver: &TestDriver) {
    let counters = driver.counters();
    assert_eq!(counters.late, 0);
    assert_eq!(counters.records_in, 2 * (RECORDS * i64::from(PARTITIONS)) as u64);
}

#[test]
fn a_stalled_partition_holds_the_others_in_catch_up() {
    let driver = catch_up(bounded());
    all_counted(&driver);
    assert!(driver.counters().held_ms >= 2000, "{:?}", driver.counters());
}

#[test]
fn a_stalled_partition_holds_the_others_live() {
    all_counted(&live(bounded()));
}

#[test]
fn without_a_bound_a_stalled_partition_comes_late() {
    assert!(catch_up(unbounded()).counters().late > 0);
    assert!(live(unbounded()).counters().late > 0);
}

#[test]
fn while_a_partition_is_stalled_the_others_go_as_far_as_the_bound() {
    let mut driver = bounded().start().unwrap();
    let input = flights(&driver);
    // A single one could be out of its time.
    (0..2 * PARTITIONS).for_each(|at| append(&input, &mut driver, at % PARTITIONS, 0));
    driver.run().unwrap();
    driver.stall("flights", 5).unwrap();
    for partition in 0..PARTITIONS {
        (1..RECORDS).for_each(|at| append(&input, &mut driver, partition, at));
    }
    driver.run().unwrap();
    // Thirty minutes ahead of minute 0 behind the topic, in five partitions; eight times as many on the way into it.
    assert_eq!(driver.counters().records_in, (12 + 5 * 30 * 8) + (12 + 5 * 30));
}

#[test]
fn an_empty_partition_holds_nobody_longer_than_the_idle_timeout() {
    let mut driver = bounded().idle_timeout(Duration::from_secs(5)).start().unwrap();
    let input = flights(&driver);
    for partition in 0..PARTITIONS - 1 {
        (0..RECORDS).for_each(|at| append(&input, &mut driver, partition, at));
    }
    driver.run().unwrap();
    assert_eq!(driver.counters().records_in, 0, "the empty partition may still bring something");
    driver.advance(Duration::from_secs(5)).unwrap();
    driver.advance(Duration::from_secs(5)).unwrap();
    assert_eq!(driver.counters().late, 0);
    assert_eq!(driver.counters().records_in, 2 * 5 * RECORDS as u64);
}

#[test]
fn a_gap_of_event_time_longer_than_the_bound_stops_nobody() {
    let mut driver = bounded().start().unwrap();
    let input = flights(&driver);
    for partition in 0..PARTITIONS {
        (0..RECORDS)
            .for_each(|at| append(&input, &mut driver, partition, if at < 500 { at } else { at + 360 }));
    }
    driver.run().unwrap();
    all_counted(&driver);
}

#[test]
fn a_rebalance_while_held_makes_nothing_late() {
    let mut driver = bounded().start().unwrap();
    let input = flights(&driver);
    driver.stall("flights", 5).unwrap();
    for partition in 0..PARTITIONS {
        (0..RECORDS).for_each(|at| append(&input, &mut driver, partition, at));
    }
    driver.run().unwrap();
    for partition in [5, 2] {
        driver.rebalance().unwrap();
        driver.run().unwrap();
        driver.resume("flights", partition).unwrap();
        driver.stall("flights", 2).unwrap();
        driver.run().unwrap();
    }
    driver.resume("flights", 2).unwrap();
    driver.run().unwrap();
    all_counted(&driver);
}

#[test]
fn a_replay_waits_for_every_unfinished_partition_and_ends_at_the_pinned_ends() {
    let mut driver = bounded().start().unwrap();
    let input = flights(&driver);
    for partition in 0..PARTITIONS {
        (0..RECORDS).for_each(|at| append(&input, &mut driver, partition, at));
    }
    driver.run().unwrap();
    driver.commit().unwrap();
    let first = driver.dump().unwrap();
    driver.replay().unwrap();
    driver.stall("flights", 3).unwrap();
    driver.run().unwrap();
    assert!(!driver.replayed());
    append(&input, &mut driver, 0, RECORDS);
    driver.resume("flights", 3).unwrap();
    driver.run().unwrap();
    assert!(driver.replayed());
    all_counted(&driver);
    assert_eq!(driver.dump().unwrap(), first, "the record behind the pinned end is not taken");
}

#[test]
fn a_bound_wider_than_the_grace_of_a_window_turns_nothing_late() {
    for grace in [0, 10] {
        let b = Builder::new("flights");
        let windows = Windows::tumbling(hours(1)).grace(Duration::from_secs(60 * grace)).retention(hours(48));
        b.stream("flights", (Utf8, I64))
            .group_by("by-region", (I64, I64), |_, flight| flight % 5)
            .windowed_by(windows)
            .count("hourly");
        let driver = TestDriver::new(&b.build().unwrap()).partitions(PARTITIONS).commit_every(100);
        let driver = live(driver.skew_bound(hours(24)));
        assert_eq!(driver.counters().late, 0, "with a grace of {grace} minutes");
        all_counted(&driver);
    }
}
