//! What happens to a partition while something else of it is under way: each is let in at one call to the disk.

use super::*;
use crate::disk::CallingDisk;
use crate::log::{LogConfig, RecoveryReport};
use parking_lot::Mutex;

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn config(mode: FlushMode) -> PartitionConfig {
    PartitionConfig {
        flush: FlushPolicy { mode, ..FlushPolicy::default() },
        log: LogConfig { segment_bytes: 8192, ..LogConfig::default() },
        ..PartitionConfig::default()
    }
}

/// An environment in which the hook is run once, before an operation on a path.
fn env(disk: &SimulatedDisk, (operation, part): (Operation, &'static str), hook: &Hook) -> PartitionEnv {
    let hook = hook.clone();
    let disk = CallingDisk::new(Arc::new(disk.clone()), move |called, path| {
        let is_it = called == operation && path.to_string_lossy().contains(part);
        let taken = if is_it { hook.lock().take() } else { None };
        if let Some(run) = taken {
            run();
        }
    });
    let (disk, clock): (Arc<dyn Disk>, _) = (Arc::new(disk), Clock::manual(NOW_MS));
    let (journal, pieces) = Journal::open(disk.clone(), Path::new("/data"), JOURNAL).unwrap();
    let flush = FlushQueue::with_journal(clock.clone(), journal, pieces, DIRTY_BYTES_MAX);
    PartitionEnv { disk, clock, flush }
}

const SEGMENT_SYNCED: (Operation, &str) = (Operation::SyncData, "t-0/00");

fn create_one(env: &PartitionEnv) {
    let (directory, id) = (PathBuf::from("/data/t-0"), Uuid::from_u128(5));
    drop(Partition::create(env, directory, id, config(FlushMode::Commit), Arc::default()).unwrap());
}

fn open_one(env: &PartitionEnv, mode: FlushMode) -> (Arc<Partition>, RecoveryReport) {
    let (directory, id) = (PathBuf::from("/data/t-0"), Uuid::from_u128(5));
    let opened = Partition::open(env, directory, id, config(mode), Opening::default()).unwrap();
    env.flush.begin().unwrap();
    opened
}

fn has_spare(disk: &SimulatedDisk) -> bool {
    disk.list(Path::new("/data/t-0")).unwrap().iter().any(|entry| entry.name == "next-segment")
}

/// A partition with 7 acknowledged batches, of which the last went into a new segment, whose file was made beforehand,
/// while a sync of what lies before it was under way.
fn rolled_during_a_sync() -> (SimulatedDisk, Arc<Partition>) {
    let (disk, hook) = (bare_disk(), Hook::default());
    let env = env(&disk, SEGMENT_SYNCED, &hook);
    create_one(&env);
    let (partition, _) = open_one(&env, FlushMode::Commit);
    for _ in 0..6 {
        partition.append(long_batch()).unwrap();
        env.flush.run_due();
    }
    assert!(has_spare(&disk));
    let other = partition.clone();
    *hook.lock() = Some(Box::new(move || assert!(other.append(long_batch()).is_ok())));
    // As whoever frees the journal does.
    partition.sync().unwrap();
    assert!(hook.lock().is_none());
    assert!(has_spare(&disk));
    assert_eq!((partition.segment_count(), partition.offsets().high_watermark), (2, 6));
    env.flush.run_due();
    assert_eq!(partition.offsets().high_watermark, 7);
    (disk, partition)
}

#[test]
fn what_is_in_a_file_without_a_name_is_synced_and_not_committed() {
    let (disk, partition) = rolled_during_a_sync();
    assert!(!has_spare(&disk));
    assert!(!partition.needs_sync());
    let disk = disk.process_kill();
    drop(partition);
    let (partition, report) = open_one(&env(&disk, SEGMENT_SYNCED, &Hook::default()), FlushMode::Commit);
    assert_eq!((partition.offsets().log_end, report.set_aside.len()), (7, 0), "{report:?}");
}

#[test]
fn a_killed_process_loses_nothing_of_a_segment_that_was_begun_during_a_sync() {
    let (disk, partition) = rolled_during_a_sync();
    partition.reconfigure(config(FlushMode::Os));
    for _ in 0..3 {
        partition.append(long_batch()).unwrap();
    }
    assert_eq!(partition.offsets().high_watermark, 10);
    let disk = disk.process_kill();
    drop(partition);
    let (partition, report) = open_one(&env(&disk, SEGMENT_SYNCED, &Hook::default()), FlushMode::Os);
    assert_eq!((partition.offsets().log_end, report.set_aside.len()), (10, 0), "{report:?}");
}

#[test]
fn a_commit_that_fails_while_epochs_are_saved_leaves_the_cut_to_the_sync() {
    let (disk, hook) = (bare_disk(), Hook::default());
    let epochs_saved = (Operation::Create, "t-0/leader-epoch");
    let env = env(&disk, epochs_saved, &hook);
    create_one(&env);
    let (partition, _) = open_one(&env, FlushMode::Commit);
    for _ in 0..2 {
        partition.append(batch(0)).unwrap();
        env.flush.run_due();
    }
    partition.reconfigure(config(FlushMode::Os));
    partition.raise_epoch(1, false).unwrap();
    // Shown before it is durable, so that a cut begins an epoch.
    partition.append(batch(1)).unwrap();
    partition.reconfigure(config(FlushMode::Commit));
    let (queue, other, faults) = (env.flush.clone(), partition.clone(), disk.clone());
    *hook.lock() = Some(Box::new(move || {
        let (operation, path_contains) = (Operation::Write, "journal".to_owned());
        faults.inject(Fault { operation, path_contains, after: 0, times: 1, error: io::ErrorKind::Other });
        assert_eq!(queue.commit(std::slice::from_ref(&other)), 0);
        assert!(other.is_broken());
    }));
    partition.sync().unwrap();
    assert!(hook.lock().is_none());
    env.flush.run_due();
    partition.append(batch(2)).unwrap();
    partition.sync().unwrap();
    let (epoch, end) = (partition.leader_epoch(), partition.offsets().log_end);
    partition.close().unwrap();
    drop(partition);
    let opening = Opening { clean: true, recovery_point: end, log_start: 0 };
    let env = self::env(&disk, epochs_saved, &Hook::default());
    let (directory, id) = (PathBuf::from("/data/t-0"), Uuid::from_u128(5));
    let (partition, _) = Partition::open(&env, directory, id, config(FlushMode::Commit), opening).unwrap();
    assert_eq!((partition.leader_epoch(), partition.offsets().log_end), (epoch, end));
}

#[test]
fn a_partition_that_was_synced_meanwhile_waits_for_a_round_once() {
    let house = House::new(1);
    let partition = &house.partitions[0];
    for number in 1..5 {
        partition.append(batch(number)).unwrap();
        // As whoever frees the journal does.
        partition.sync().unwrap();
    }
    let mut waiting = house.append_to_all(5);
    assert_eq!(house.env.flush.waiting.lock().now_count(), 1);
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true)]);
    let mut waiting = house.append_to_all(6);
    assert_eq!(house.env.flush.waiting.lock().now_count(), 1, "it can wait again");
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true)]);
}
