//! `__consumer_offsets` does not grow for ever, and nothing is lost by that, whenever the power goes.

use super::*;
use crate::disk::Fault;
use crate::partition::Partition;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

impl World {
    fn partition(&self) -> Arc<Partition> {
        self.topics.partition(crate::topic::OFFSETS_TOPIC, 0).unwrap()
    }

    /// Commits without waiting, and waits for the last.
    fn commit_many(&self, group: &str, offsets: std::ops::Range<i64>) {
        let mut last = None;
        for offset in offsets {
            let committed = vec![to_commit("t", 0, offset)];
            last = Some(self.groups.commit(group, caller(""), -1, committed, None, || true).unwrap());
        }
        self.wait(last.unwrap()).unwrap();
    }

    /// What is folded, which is what a start would fold.
    fn folded(&self) -> String {
        let kept = self.groups.dump().unwrap();
        let settings = Settings::new(&BrokerConfig::new("/data").layers());
        let fresh = GroupCoordinator::open(self.topics.clone(), settings.group, self.clock.clone()).unwrap();
        assert_eq!(fresh.dump().unwrap(), kept);
        kept
    }
}

/// With the state of many groups, one of which has members, and a log that is to be shortened.
fn grown() -> World {
    let world = World::new();
    world.sole_member("members");
    for number in 0..40 {
        world.commit_many(&format!("g{number}"), number..number + 3);
    }
    world.wait(world.groups.delete_group("g7").unwrap()).unwrap();
    world
}

fn shorten_a_million(commits: i64) {
    let world = World::new();
    world.commit("other", "", -1, 5).unwrap();
    let mut most = 0;
    for from in (0..commits).step_by(2000) {
        world.commit_many("g", from..from + 2000);
        world.groups.shorten();
        most = most.max(world.partition().size_bytes());
    }
    assert!(most < 2 * 1024 * 1024, "{most} bytes");
    assert!(world.partition().offsets().log_start > commits - 5000);
    let folded = world.folded();
    let world = world.again(SimulatedDisk::power_cut);
    assert_eq!(world.folded(), folded);
    assert_eq!((world.committed("g"), world.committed("other")), (Some(commits - 1), Some(5)));
}

#[test]
fn commits_of_one_group_leave_its_log_short() {
    shorten_a_million(20_000);
}

/// `cargo test --release -p kappa-broker --lib large_logs -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn large_logs_of_groups_are_short_and_soon_read() {
    let started = Instant::now();
    shorten_a_million(1_000_000);
    println!("a million commits of one group: {:?}", started.elapsed());
    let world = World::new();
    for number in 0..100_000 {
        let offsets = vec![to_commit("t", 0, number)];
        drop(world.groups.commit(&format!("g{number}"), caller(""), -1, offsets, None, || true).unwrap());
    }
    let rewritten = Instant::now();
    world.groups.shorten();
    println!(
        "100,000 groups: {} bytes, rewritten in {:?}",
        world.partition().size_bytes(),
        rewritten.elapsed()
    );
    let started = Instant::now();
    let world = world.again(SimulatedDisk::process_kill);
    println!("read again in {:?}", started.elapsed());
    assert_eq!(world.committed("g99999"), Some(99_999));
}

#[test]
fn whenever_the_power_goes_during_a_rewrite_all_that_was_committed_is_there() {
    let mut cut_short = 0;
    for calls in 0.. {
        let world = grown();
        let folded = world.folded();
        world.disk.cut_power_after(calls);
        world.groups.shorten();
        let is_done = world.partition().offsets().log_start > 0;
        cut_short += u64::from(!is_done);
        let world = world.again(SimulatedDisk::power_cut);
        assert_eq!(world.folded(), folded, "after {calls} calls");
        world.commit("g7", "", -1, 1).unwrap();
        world.groups.shorten();
        assert!(world.partition().offsets().log_start > 0, "after {calls} calls");
        if is_done && calls > 60 {
            break;
        }
    }
    assert!(cut_short > 5, "{cut_short}");
}

#[test]
fn whichever_operation_fails_during_a_rewrite_the_state_is_that_of_the_log() {
    let operations = [
        Operation::Create,
        Operation::Write,
        Operation::SyncData,
        Operation::SyncDir,
        Operation::Rename,
        Operation::Read,
    ];
    for (operation, after) in operations.into_iter().flat_map(|operation| (0..5).map(move |n| (operation, n)))
    {
        let world = grown();
        let folded = world.folded();
        let path_contains = "__consumer_offsets".to_owned();
        let error = io::ErrorKind::Other;
        world.disk.inject(Fault { operation, path_contains, after, times: 1, error });
        world.groups.shorten();
        world.disk.clear_faults();
        world.clock.advance(60_000);
        let what = format!("{operation:?} after {after}");
        // Whoever syncs just now may hold back the one that heals the partition.
        while world.commit("late", "", -1, 1).is_err() {
            world.clock.advance(1000);
        }
        let now = world.folded();
        assert_eq!(now.lines().count(), folded.lines().count() + 1, "{what}");
        let world = world.again(SimulatedDisk::power_cut);
        assert_eq!(world.folded(), now, "{what}");
    }
}

#[test]
fn what_is_committed_during_a_rewrite_is_not_written_over() {
    let World { disk, topics, groups, flusher, runtime, .. } = grown();
    // Only the rewrite syncs from here on: what comes during a sync is not durable when the next batch is chosen.
    flusher.stop();
    let commit = move |groups: &GroupCoordinator, group: &str, offset| {
        let offsets = vec![to_commit("t", 0, offset)];
        drop(groups.commit(group, caller(""), -1, offsets, None, || true).unwrap());
    };
    commit(&groups, "pending", 1);
    let (own, is_first) = (groups.clone(), AtomicBool::new(true));
    disk.on_sync(move || {
        if is_first.swap(false, Ordering::Relaxed) {
            commit(&own, "g39", 1000);
        }
    });
    groups.shorten();
    let partition = topics.partition(crate::topic::OFFSETS_TOPIC, 0).unwrap();
    assert!(partition.offsets().log_start > 0);
    let read = |group| groups.committed(group, |offsets| offsets["t"][&0].offset).unwrap();
    assert_eq!((read("g39"), read("pending"), read("g38")), (1000, 1, 40));
    drop(runtime);
}

#[test]
fn a_log_with_records_that_are_not_understood_is_not_rewritten() {
    use kappa_protocol::record::{BatchBuilder, BatchOptions};
    let world = grown();
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.push(0, Some(b"\x00\x63later"), Some(b"\x00\x00"), std::iter::empty());
    let appended = world.partition().append(batch.finish(0)).unwrap();
    world.partition().sync_through(appended.mark).unwrap();
    world.groups.shorten();
    assert_eq!(world.partition().offsets().log_start, 0);
}
