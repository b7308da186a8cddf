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
    PartitionEnv { disk, clock, flush, producers: Arc::default() }
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
    partition.sync().expect_err("what it synced is not kept");
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

/// The high watermark moves while what is to be deleted is synced. A log start beyond the recovery point would have the
/// next start pass over the pieces of the journal in between, so that those behind them follow a hole.
#[test]
fn records_deleted_during_a_commit_take_nothing_acknowledged_behind_them() {
    for seed in 0..20 {
        let disk = SimulatedDisk::new(seed);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let hook = Hook::default();
        // The first call to the disk after a sync of a segment that is three quarters full.
        let env = env(&disk, (Operation::Create, "next-segment"), &hook);
        create_one(&env);
        let (partition, _) = open_one(&env, FlushMode::Commit);
        for _ in 0..4 {
            partition.append(long_batch()).unwrap();
            env.flush.run_due();
        }
        partition.append(long_batch()).unwrap();
        let (other, flush) = (partition.clone(), env.flush.clone());
        *hook.lock() = Some(Box::new(move || {
            other.append(long_batch()).unwrap();
            assert_eq!(flush.commit(std::slice::from_ref(&other)), 1, "acknowledged by way of the journal");
        }));
        // As kafka-delete-records with offset -1 does while a producer goes on.
        let log_start = partition.delete_records(-1).unwrap();
        assert!(hook.lock().is_none());
        let positions = partition.positions();
        assert!(log_start <= positions.recovery_point, "{positions:?}");
        let appended = partition.append(batch(6)).unwrap();
        assert_eq!(env.flush.commit(std::slice::from_ref(&partition)), 1);
        let mut durable = partition.durable(appended.mark);
        assert_eq!(outcome(&mut durable), Some(true), "acknowledged");
        drop((durable, partition));

        let disk = disk.power_cut();
        let env = self::env(&disk, SEGMENT_SYNCED, &Hook::default());
        let opening = Opening {
            clean: false,
            recovery_point: positions.recovery_point,
            log_start: positions.log_start,
        };
        let (directory, id) = (PathBuf::from("/data/t-0"), Uuid::from_u128(5));
        let (partition, report) =
            Partition::open(&env, directory, id, config(FlushMode::Commit), opening).unwrap();
        let offsets = partition.offsets();
        let expected = (log_start, 7);
        assert_eq!((offsets.log_start, offsets.log_end), expected, "seed {seed}: {positions:?} {report:?}");
    }
}

#[test]
fn a_partition_waits_for_its_time_once() {
    let house = House::new(1);
    let flush = FlushPolicy { mode: FlushMode::Os, messages: 2, ms: 24 * 60 * 60 * 1000 };
    let partition = &house.partitions[0];
    partition.reconfigure(PartitionConfig { flush, ..PartitionConfig::default() });
    for number in 0..2000 {
        partition.append(batch(number)).unwrap();
        house.env.flush.run_due();
    }
    let waiting = house.env.flush.waiting.lock().later_count();
    assert!(waiting <= 1, "{waiting} times");
}

/// One thread syncs what is dirty, frees the journal, makes its files and lets those go on whose commit failed.
#[test]
fn syncs_of_what_is_dirty_leave_time_for_the_journal() {
    let house = House::open_with(bare_disk(), 2, 4000);
    let os = FlushPolicy { mode: FlushMode::Os, ..FlushPolicy::default() };
    let partition = house.partitions[0].clone();
    partition.reconfigure(PartitionConfig { flush: os, ..PartitionConfig::default() });
    let appended = Arc::new(AtomicUsize::new(0));
    let count = appended.clone();
    // A producer that goes on at the rate of the disk, for as long as this test waits.
    house.disk.on_sync(move || {
        if !partition.is_locked() && count.fetch_add(1, Ordering::Relaxed) < 1000 {
            partition.append(long_batch()).unwrap();
        }
    });
    house.partitions[0].append(long_batch()).unwrap();
    house.partitions[0].append(long_batch()).unwrap();
    // What the thread does between two looks at the journal.
    house.env.flush.sync_dirty();
    let syncs = appended.load(Ordering::Relaxed) / 2;
    assert!(syncs < 10, "{syncs} syncs without a look at the journal, and as many more as producers go on");
}

#[test]
fn a_sync_under_way_keeps_nothing_of_a_commit_that_fails_beside_it() {
    let disk = SimulatedDisk::new(7);
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let hook = Hook::default();
    let env = env(&disk, SEGMENT_SYNCED, &hook);
    create_one(&env);
    let (partition, _) = open_one(&env, FlushMode::Commit);
    partition.append(batch(0)).unwrap();
    env.flush.run_due();
    let refused = partition.append(batch(1)).unwrap();
    let (other, flush, failing) = (partition.clone(), env.flush.clone(), disk.clone());
    *hook.lock() = Some(Box::new(move || {
        let (operation, path_contains, error) = (Operation::SyncData, "journal".into(), io::ErrorKind::Other);
        failing.inject(Fault { operation, path_contains, after: 0, times: 1, error });
        assert_eq!(flush.commit(std::slice::from_ref(&other)), 0);
    }));
    partition.sync().expect_err("what it synced is not kept");
    assert!(hook.lock().is_none());
    assert_eq!(outcome(&mut partition.durable(refused.mark)), Some(false), "it is told to be gone");
    env.flush.run_due();
    assert_eq!(partition.offsets().log_end, 1);
    partition.sync().expect("everything that is there is durable");
    let later = partition.append(batch(2)).unwrap();
    let both = partition.synced(later.mark).since(&partition.synced(refused.mark));
    both.sync().expect_err("the first of the two is gone");
    partition.synced(later.mark).sync().unwrap();
}

#[test]
fn a_sync_that_fails_beside_a_panic_leaves_the_partition_fenced() {
    let (disk, hook) = (bare_disk(), Hook::default());
    let env = env(&disk, SEGMENT_SYNCED, &hook);
    create_one(&env);
    let (partition, _) = open_one(&env, FlushMode::Commit);
    partition.append(batch(0)).unwrap();
    let (other, failing) = (partition.clone(), disk.clone());
    *hook.lock() = Some(Box::new(move || {
        let panicked = std::thread::spawn(move || {
            let _fence = other.fence_on_panic();
            panic!("the panic of this test");
        });
        assert!(panicked.join().is_err());
        let (operation, path_contains, error) =
            (SEGMENT_SYNCED.0, SEGMENT_SYNCED.1.into(), io::ErrorKind::Other);
        failing.inject(Fault { operation, path_contains, after: 0, times: 1, error });
    }));
    partition.sync().unwrap_err();
    assert!(hook.lock().is_none());
    assert!(partition.is_fenced());
    env.clock.advance(1000);
    partition.append(batch(1)).unwrap_err();
}
