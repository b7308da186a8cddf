//! Partitions that the queue must not lose sight of: what was put off, and what it takes for queued.

use super::*;
use crate::disk::CallingDisk;
use crate::partition::Appended;
use parking_lot::Mutex;

type Hook = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

fn policy(mode: FlushMode) -> PartitionConfig {
    PartitionConfig { flush: FlushPolicy { mode, ..FlushPolicy::default() }, ..PartitionConfig::default() }
}

#[test]
fn what_comes_after_a_sync_that_was_tried_again_is_synced_in_its_time() {
    let house = House::new(1);
    let partition = &house.partitions[0];
    partition.reconfigure(policy(FlushMode::Interval));
    house.disk.sync_dir(Path::new("/data")).unwrap();
    partition.sync().unwrap();
    let wait = |ms| {
        house.env.clock.advance(ms);
        house.env.flush.run_due();
    };
    partition.append(batch(1)).unwrap();
    wait(900);
    // The sync that is due cannot begin: no descriptor is left for the epochs.
    partition.raise_epoch(3, false).unwrap();
    house.fail(Operation::Create, "leader-epoch", 1);
    wait(100);
    assert!(partition.needs_sync());
    wait(50);
    partition.append(batch(2)).unwrap();
    wait(150);
    assert!(!partition.needs_sync(), "it was tried again");
    wait(50);
    partition.append(batch(3)).unwrap();
    for _ in 0..600 {
        wait(100);
    }
    assert!(!partition.needs_sync(), "a minute has passed: the interval is a second");
}

#[test]
fn what_comes_in_the_millisecond_of_a_sync_is_synced_in_its_time() {
    let house = House::new(1);
    let partition = &house.partitions[0];
    partition.reconfigure(policy(FlushMode::Interval));
    partition.append(batch(1)).unwrap();
    house.env.clock.advance(1000);
    house.env.flush.run_due();
    assert!(!partition.needs_sync());
    partition.append(batch(2)).unwrap();
    house.env.clock.advance(60_000);
    house.env.flush.run_due();
    assert!(!partition.needs_sync(), "a minute has passed: the interval is a second");
}

/// A partition with one batch that waits for its sync, which found that the disk does not let it cut off what came of a second.
fn with_a_repair_that_failed() -> (House, Appended) {
    let house = House::new(1);
    let partition = house.partitions[0].clone();
    let first = partition.append(batch(1)).unwrap();
    house.fail(Operation::Write, "t-0/0000", 1);
    house.fail(Operation::SetLen, "t-0/0000", 2);
    partition.append(batch(2)).unwrap_err();
    house.env.flush.run_due();
    (house, first)
}

#[test]
fn a_repair_that_fails_leaves_nobody_waiting_for_ever() {
    let (house, first) = with_a_repair_that_failed();
    let partition = &house.partitions[0];
    let mut first = partition.durable(first.mark);
    for _ in 0..10 {
        house.env.clock.advance(1000);
        house.env.flush.run_due();
    }
    // The disk is well again for ten seconds.
    assert_eq!(outcome(&mut first), Some(true), "appended before the disk failed");
    let second = partition.append(batch(2)).unwrap();
    house.env.flush.run_due();
    assert_eq!(outcome(&mut partition.durable(second.mark)), Some(true));
}

#[test]
fn what_is_appended_after_a_repair_that_failed_is_made_durable() {
    let (house, first) = with_a_repair_that_failed();
    let partition = &house.partitions[0];
    house.env.clock.advance(1000);
    let second = partition.append(batch(2)).unwrap();
    let mut both = [first, second].map(|appended| partition.durable(appended.mark));
    for _ in 0..10 {
        house.env.flush.run_due();
        house.env.clock.advance(1000);
    }
    assert_eq!(outcomes(&mut both), [Some(true); 2]);
}

#[test]
fn what_only_the_journal_has_is_synced_once_the_disk_lets_it() {
    let house = House::new(1);
    let partition = &house.partitions[0];
    let mut waiting = house.append_to_all(1);
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true)]);
    assert!(partition.needs_sync(), "only the journal has it");
    partition.append(batch(2)).unwrap();
    // The sync fails, and so do the repairs behind it for half a second.
    house.fail(Operation::SyncData, "t-0/0000", 3);
    partition.sync().unwrap_err();
    for _ in 0..100 {
        house.env.clock.advance(1000);
        house.env.flush.run_due();
    }
    assert!(!partition.needs_sync(), "the disk has been well for 100 s, and the journal cannot be freed");
}

/// Many partitions of which each loses a batch to a sync that fails while it waits for a round.
#[test]
fn partitions_that_a_disk_failed_together_go_on_when_it_is_well() {
    for count in [SYNC_TOGETHER_MIN - 1, SYNC_TOGETHER_MIN + 8] {
        let (disk, hook) = (bare_disk(), Hook::default());
        let called = hook.clone();
        let calling = CallingDisk::new(Arc::new(disk.clone()), move |operation, path| {
            if operation == Operation::SyncData && path.to_string_lossy().contains("/t-") {
                let run = called.lock().pop();
                run.into_iter().for_each(|run| run());
            }
        });
        let (shared, clock): (Arc<dyn Disk>, _) = (Arc::new(calling), Clock::manual(NOW_MS));
        let (journal, pieces) = Journal::open(shared.clone(), Path::new("/data"), JOURNAL).unwrap();
        let flush = FlushQueue::with_journal(clock.clone(), journal, pieces, DIRTY_BYTES_MAX);
        let env = PartitionEnv { disk: shared, clock, flush, producers: Arc::default() };
        let partitions: Vec<_> = (0..count as i32).map(|index| open(&env, index)).collect();
        env.flush.begin().unwrap();
        for partition in &partitions {
            partition.append(batch(0)).unwrap();
        }
        env.flush.run_due();
        Partition::sync_all(&partitions).unwrap();
        for (index, partition) in partitions.iter().enumerate() {
            partition.append(batch(1)).unwrap();
            let other = partition.clone();
            hook.lock().push(Box::new(move || assert!(other.append(batch(2)).is_ok())));
            let path_contains = format!("/t-{index}/0000");
            let (operation, error) = (Operation::SyncData, io::ErrorKind::Other);
            disk.inject(Fault { operation, path_contains, after: 0, times: 1, error });
            // As one of the threads that sync does.
            partition.sync().unwrap_err();
        }
        env.flush.run_due();
        env.clock.advance(1000);
        let append = |partition: &Arc<Partition>| partition.durable(partition.append(batch(3)).unwrap().mark);
        let mut waiting: Vec<_> = partitions.iter().map(append).collect();
        for _ in 0..10 {
            env.flush.run_due();
            env.clock.advance(1000);
        }
        assert_eq!(outcomes(&mut waiting), vec![Some(true); count], "{count} partitions");
    }
}

/// The oldest full file of the journal keeps what one partition lacks for good.
#[test]
fn a_partition_that_is_never_synced_again_leaves_the_journal_to_the_others() {
    let house = House::new(3);
    let [fenced, idle, other] = [0, 1, 2].map(|index| house.partitions[index].clone());
    fenced.append(long_batch()).unwrap();
    house.env.flush.run_due();
    let panicked = std::thread::spawn(move || {
        let _fence = fenced.fence_on_panic();
        panic!("the panic of this test");
    });
    assert!(panicked.join().is_err());
    let mut commits = 0;
    for number in 0..600 {
        let before = house.env.flush.stats().commits;
        other.append(long_batch()).unwrap();
        // One that wrote a little for a while.
        if number < 200 {
            idle.append(batch(number)).unwrap();
        }
        house.env.flush.run_due();
        if number >= 500 {
            commits += house.env.flush.stats().commits - before;
        }
    }
    assert!(commits > 90, "{commits} of 100 were committed by the journal");
}

#[test]
fn a_stop_comes_to_an_end_though_the_disk_goes_on_failing() {
    let house = House::new(1);
    let mut waiting = house.append_to_all(1);
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true)]);
    house.fail(Operation::SyncData, "t-0/0000", u32::MAX);
    house.partitions[0].sync().unwrap_err();
    let (ended, end) = std::sync::mpsc::channel();
    let flush = house.env.flush.clone();
    std::thread::spawn(move || {
        Flusher::start(flush).unwrap().stop();
        ended.send(()).unwrap();
    });
    let has_ended = end.recv_timeout(std::time::Duration::from_secs(10)).is_ok();
    house.disk.clear_faults();
    assert!(has_ended);
}
