//! Rounds over several partitions on a simulated disk, with every call that a round makes failing in turn.

use super::*;
use crate::clock::Clock;
use crate::disk::{Disk, Fault, Operation, SimulatedDisk};
use crate::journal::{Journal, JournalConfig};
use crate::log::{Opening, directory_topic_id};
use crate::partition::{
    Durable, IsolationLevel, Partition, PartitionConfig, PartitionEnv, ReadRequest, SYNC_TOGETHER_MIN,
};
use bytes::Bytes;
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use uuid::Uuid;

mod failures;
mod overlaps;
mod wedges;

const NOW_MS: i64 = 1_700_000_000_000;
const JOURNAL: JournalConfig =
    JournalConfig { file_bytes: 64 * 1024, files_max: 2, piece_bytes_max: 4000, misses_before_first: 0 };

struct House {
    disk: SimulatedDisk,
    env: PartitionEnv,
    partitions: Vec<Arc<Partition>>,
}

impl House {
    fn new(count: i32) -> Self {
        let house = Self::open(bare_disk(), count);
        // The first round finds no file and has one made.
        house.partitions[0].append(batch(0)).unwrap();
        house.env.flush.run_due();
        house
    }

    fn open(disk: SimulatedDisk, count: i32) -> Self {
        Self::open_with(disk, count, DIRTY_BYTES_MAX)
    }

    fn open_with(disk: SimulatedDisk, count: i32, dirty_bytes_max: usize) -> Self {
        let (shared, clock): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Clock::manual(NOW_MS));
        let (journal, pieces) = Journal::open(shared.clone(), Path::new("/data"), JOURNAL).unwrap();
        let flush = FlushQueue::with_journal(clock.clone(), journal, pieces, dirty_bytes_max);
        let env = PartitionEnv { disk: shared, clock, flush, producers: Arc::default() };
        let partitions = (0..count).map(|index| open(&env, index)).collect();
        env.flush.begin().unwrap();
        Self { disk, env, partitions }
    }

    fn append_to_all(&self, number: usize) -> Vec<Durable> {
        let append = |partition: &Arc<Partition>| {
            let appended = partition.append(batch(number)).unwrap();
            partition.durable(appended.mark)
        };
        self.partitions.iter().map(append).collect()
    }

    fn fail(&self, operation: Operation, path_contains: &str, times: u32) {
        let path_contains = path_contains.to_owned();
        self.disk.inject(Fault { operation, path_contains, after: 0, times, error: io::ErrorKind::Other });
    }

    fn after_power_cut(self) -> Self {
        let count = self.partitions.len() as i32;
        Self::open(self.disk.power_cut(), count)
    }
}

fn bare_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(3);
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(env: &PartitionEnv, index: i32) -> Arc<Partition> {
    let (directory, config) = (PathBuf::from(format!("/data/t-{index}")), PartitionConfig::default());
    let (topic_id, disk) = (Uuid::from_u128(5), &env.disk);
    if !matches!(directory_topic_id(&**disk, &directory), Ok(Some(id)) if id == topic_id) {
        // Never synced: the journal alone has something of it.
        let _ = disk.remove_dir_all(&directory);
        drop(Partition::create(env, directory.clone(), topic_id, config.clone(), Arc::default()).unwrap());
    }
    Partition::open(env, directory, topic_id, config, Opening::default()).unwrap().0
}

fn batch(number: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(NOW_MS, None, Some(format!("number {number}").as_bytes()), std::iter::empty());
    builder.finish(0)
}

/// Longer than a sector of the disk, so that what is appended behind it does not write it again.
fn long_batch() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(NOW_MS, None, Some(&[7; 1200]), std::iter::empty());
    builder.finish(0)
}

fn outcome(durable: &mut Durable) -> Option<bool> {
    match Pin::new(durable).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome.is_ok()),
        Poll::Pending => None,
    }
}

fn outcomes(waiting: &mut [Durable]) -> Vec<Option<bool>> {
    waiting.iter_mut().map(outcome).collect()
}

/// The batches from an offset on, behind base offset and epoch.
fn stored(partition: &Partition, offset: i64) -> Vec<u8> {
    let isolation = IsolationLevel::ReadUncommitted;
    let request = ReadRequest { offset, max_bytes: 1 << 20, at_least_one: true, isolation };
    partition.read(request).unwrap().records.to_vec()
}

#[test]
fn the_first_round_of_many_partitions_makes_the_journal_that_it_lacks() {
    let house = House::open(bare_disk(), 40);
    let mut waiting = house.append_to_all(1);
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true); 40]);
    let stats = house.env.flush.stats();
    assert_eq!((stats.commits, stats.committed_partitions, stats.syncs), (1, 40, 0));
    let house = house.after_power_cut();
    assert!(house.partitions.iter().all(|partition| partition.offsets().log_end == 1));
}

#[test]
fn one_write_makes_all_partitions_durable_and_a_power_cut_finds_them() {
    let house = House::new(50);
    let before = house.env.flush.stats();
    let mut waiting = house.append_to_all(1);
    assert_eq!(house.env.flush.run_due(), 50);
    let after = house.env.flush.stats();
    assert_eq!((after.commits - before.commits, after.syncs - before.syncs), (1, 0));
    assert_eq!(outcomes(&mut waiting), vec![Some(true); 50]);
    let house = house.after_power_cut();
    for (index, partition) in house.partitions.iter().enumerate() {
        let offsets = partition.offsets();
        assert_eq!(offsets.high_watermark, if index == 0 { 2 } else { 1 }, "partition {index}");
        assert_eq!(stored(partition, offsets.high_watermark - 1)[17..], batch(1)[17..], "partition {index}");
    }
}

#[test]
fn a_partition_with_much_is_synced_by_itself() {
    let house = House::new(2);
    let before = house.env.flush.stats();
    for number in 0..60 {
        house.partitions[0].append(batch(number)).unwrap();
    }
    house.partitions[1].append(batch(1)).unwrap();
    house.env.flush.run_due();
    let after = house.env.flush.stats();
    assert_eq!((after.commits - before.commits, after.syncs - before.syncs), (1, 1));
}

#[test]
fn a_commit_that_fails_is_answered_cut_off_and_never_comes_back() {
    for (operation, times) in [(Operation::Write, 1), (Operation::SyncData, 1), (Operation::SyncData, 3)] {
        let house = House::new(3);
        house.fail(operation, "journal", times);
        let mut waiting = house.append_to_all(1);
        house.env.flush.run_due();
        assert_eq!(outcomes(&mut waiting), [Some(false); 3], "{operation:?}");
        // While it is not sure that the frame is gone, nobody appends in its place.
        if times > 1 {
            house.env.clock.advance(1000);
            assert!(house.partitions.iter().all(|partition| partition.append(batch(2)).is_err()));
        }
        house.env.flush.run_due();
        house.env.flush.run_due();
        house.env.clock.advance(1000);
        let mut waiting = house.append_to_all(3);
        house.env.flush.run_due();
        assert_eq!(outcomes(&mut waiting), [Some(true); 3], "{operation:?} {times}");
        let house = house.after_power_cut();
        for (index, partition) in house.partitions.iter().enumerate() {
            let end = if index == 0 { 2 } else { 1 };
            assert_eq!(partition.offsets().log_end, end, "{operation:?} {times}, partition {index}");
            assert_eq!(stored(partition, end - 1)[17..], batch(3)[17..]);
        }
    }
}

#[test]
fn a_sync_that_fails_takes_nothing_that_the_journal_has() {
    let house = House::new(2);
    let appended = house.partitions[1].append(long_batch()).unwrap();
    house.env.flush.run_due();
    assert_eq!(outcome(&mut house.partitions[1].durable(appended.mark)), Some(true));
    // The kernel drops what it could not write: only the journal has it for sure.
    house.fail(Operation::SyncData, "t-1", 1);
    assert!(house.partitions[1].sync().is_err());
    assert_eq!(house.partitions[1].offsets().high_watermark, 1);
    house.env.clock.advance(1000);
    house.env.flush.run_due();
    house.env.clock.advance(1000);
    let appended = house.partitions[1].append(batch(2)).unwrap();
    assert_eq!(appended.base_offset, 1);
    house.partitions[1].sync().unwrap();
    // With the journal written over, the segments alone must have it.
    house.env.flush.begin().unwrap();
    let house = house.after_power_cut();
    assert_eq!(house.partitions[1].offsets().log_end, 2);
    assert_eq!(stored(&house.partitions[1], 0)[17..long_batch().len()], long_batch()[17..]);
}

#[test]
fn full_journal_files_are_freed_by_one_sync_of_the_file_system() {
    let house = House::new(40);
    for number in 0..40 {
        let mut waiting = house.append_to_all(number);
        house.env.flush.run_due();
        assert_eq!(outcomes(&mut waiting), vec![Some(true); 40], "round {number}");
    }
    let stats = house.env.flush.stats();
    assert!(stats.commits >= 30, "{stats:?}");
    let house = house.after_power_cut();
    assert!(house.partitions[1..].iter().all(|partition| partition.offsets().log_end == 40));
}

#[test]
fn a_deleted_partition_does_not_hold_the_journal() {
    let house = House::new(2);
    house.append_to_all(1);
    house.env.flush.run_due();
    house.partitions[1].retire(1).unwrap();
    assert!(house.env.flush.journaled.lock().keys().all(|key| key.index == 0), "nothing is kept of it");
    for number in 0..200 {
        house.partitions[0].append(batch(number)).unwrap();
        house.env.flush.run_due();
    }
    assert_eq!(house.partitions[0].offsets().high_watermark, 202);
    let house = House::open(house.disk.power_cut(), 1);
    assert_eq!(house.partitions[0].offsets().log_end, 202);
}

#[test]
fn many_partitions_without_room_in_the_journal_are_synced_by_one_call() {
    // The journal has no file and gets none.
    let house = House::open(bare_disk(), 60);
    house.fail(Operation::Create, "journal", u32::MAX);
    let before = house.env.flush.stats();
    house.fail(Operation::SyncData, ".log", u32::MAX);
    let mut waiting = house.append_to_all(1);
    house.env.flush.run_due();
    assert_eq!(outcomes(&mut waiting), vec![Some(true); 60], "a sync of each would have failed");
    assert_eq!(house.env.flush.stats().commits, before.commits);
    let house = house.after_power_cut();
    assert!(house.partitions[1..].iter().all(|partition| partition.offsets().log_end == 1));
}

/// Partitions of which nothing is synced by itself.
fn lax_house(count: i32, dirty_bytes_max: usize) -> House {
    let house = House::open_with(bare_disk(), count, dirty_bytes_max);
    let flush = FlushPolicy { mode: FlushMode::Os, ..FlushPolicy::default() };
    for partition in &house.partitions {
        partition.reconfigure(PartitionConfig { flush, ..PartitionConfig::default() });
    }
    house
}

#[test]
fn from_half_the_limit_on_everything_dirty_is_synced_however_little_each_has() {
    for count in [3, 100] {
        let size = long_batch().len();
        let house = lax_house(count, 2 * size * count as usize);
        for (number, partition) in (1..).zip(&house.partitions) {
            assert_eq!(house.env.flush.run_due(), 0, "before {number}");
            partition.append(long_batch()).unwrap();
        }
        assert_eq!(house.env.flush.stats().dirty_bytes, u64::from(count.unsigned_abs()) * size as u64);
        house.env.flush.run_due();
        assert_eq!(house.env.flush.stats().dirty_bytes, 0);
        assert!(house.partitions.iter().all(|partition| !partition.needs_sync()));
    }
}

#[test]
fn a_partition_whose_disk_fails_holds_no_producer_back() {
    let size = long_batch().len();
    let house = lax_house(3, 2 * size);
    for operation in [Operation::SyncData, Operation::SetLen, Operation::Create] {
        house.fail(operation, "t-1/0000", 1000);
    }
    for partition in &house.partitions {
        partition.append(long_batch()).unwrap();
    }
    assert!(house.env.flush.holds_producers());
    house.env.flush.run_due();
    assert_eq!((house.env.flush.stats().dirty_bytes, house.partitions[1].is_broken()), (0, true));
}

#[test]
fn what_is_gathered_goes_into_one_round() {
    let house = House::new(10);
    let flusher = Flusher::start(house.env.flush.clone()).unwrap();
    // A thread that starts takes what is there: the first round shows that it has.
    let mut waiting = house.append_to_all(0);
    while outcomes(&mut waiting).iter().any(Option::is_none) {
        std::thread::yield_now();
    }
    while house.env.flush.waiting.lock().committing {
        std::thread::yield_now();
    }
    let before = house.env.flush.stats();
    for number in 1..=8 {
        // A thread that is not done with the round before takes what is there when it is.
        while house.env.flush.waiting.lock().committing {
            std::thread::yield_now();
        }
        let mut gathering = Gathering::default();
        gathering.add(&house.env.flush, 1);
        let mut waiting = house.append_to_all(number);
        drop(gathering);
        while outcomes(&mut waiting).iter().any(Option::is_none) {
            std::thread::yield_now();
        }
    }
    let after = house.env.flush.stats();
    assert_eq!(after.commits - before.commits, 8);
    // Where many bytes have come, a round begins though more may come.
    let mut gathering = Gathering::default();
    gathering.add(&house.env.flush, 1);
    let mut waiting = house.append_to_all(9);
    gathering.add(&house.env.flush, 1 << 20);
    while outcomes(&mut waiting).iter().any(Option::is_none) {
        std::thread::yield_now();
    }
    flusher.stop();
}

#[test]
fn a_partition_that_was_handed_on_several_times_is_synced_once() {
    let house = lax_house(2, DIRTY_BYTES_MAX);
    for partition in &house.partitions {
        partition.append(batch(1)).unwrap();
        house.env.flush.push_direct([partition.clone(), partition.clone()]);
    }
    house.env.flush.push_direct([house.partitions[0].clone()]);
    assert_eq!(house.env.flush.run_due(), 2);
    assert!(house.partitions.iter().all(|partition| !partition.needs_sync()));
}

/// Partitions of a start after an unclean stop: what they append is of an epoch that no checkpoint has yet.
fn house_of_a_new_epoch() -> House {
    let house = House::new(SYNC_TOGETHER_MIN as i32 + 8);
    house.env.flush.run_due();
    Partition::sync_all(&house.partitions).unwrap();
    house.partitions.iter().for_each(|partition| partition.raise_epoch(3, true).unwrap());
    house.append_to_all(1);
    house
}

fn epochs_on(disk: &SimulatedDisk, index: usize) -> Option<String> {
    let path = PathBuf::from(format!("/data/t-{index}/leader-epoch-checkpoint"));
    let read = (disk as &dyn Disk).read_if_there(&path).unwrap();
    read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn is_epoch_3(text: &str) -> bool {
    text.lines().last().is_some_and(|line| line.starts_with("3 "))
}

#[test]
fn many_new_epochs_cost_two_syncs_of_the_file_system_and_none_of_files() {
    let house = house_of_a_new_epoch();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    house.disk.on_sync(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    house.disk.inject(Fault {
        operation: Operation::SyncFileSystem,
        path_contains: String::new(),
        after: 2,
        times: 1,
        error: io::ErrorKind::Other,
    });
    Partition::sync_all(&house.partitions).unwrap();
    assert_eq!(syncs.load(Ordering::Relaxed), 0, "files and directories were synced one by one");
    assert!(house.disk.has_faults(), "more than two syncs of the file system");
    let after = house.disk.power_cut();
    for index in 0..house.partitions.len() {
        assert!(epochs_on(&after, index).is_some_and(|text| is_epoch_3(&text)), "partition {index}");
    }
}

#[test]
fn new_epochs_are_whole_or_not_there_wherever_the_power_goes() {
    let (mut calls, mut whole) = (0, 0);
    loop {
        let house = house_of_a_new_epoch();
        let before: Vec<_> = (0..house.partitions.len()).map(|index| epochs_on(&house.disk, index)).collect();
        house.disk.cut_power_after(calls);
        let is_done = Partition::sync_all(&house.partitions).is_ok();
        let after = house.disk.power_cut();
        for (index, before) in before.iter().enumerate() {
            match epochs_on(&after, index) {
                Some(text) if is_epoch_3(&text) && text.ends_with('\n') => whole += 1,
                found => assert_eq!(found, *before, "partition {index} after {calls} calls"),
            }
        }
        if is_done {
            break;
        }
        calls += 7;
    }
    assert!(calls > 100 && whole > 40, "{calls} calls, {whole} whole");
}
