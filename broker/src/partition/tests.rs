//! A partition through its public face, on a simulated disk that fails as told and a clock that stands still.

use super::*;
use crate::disk::{Disk, Fault, Operation, SimulatedDisk};
use crate::flush::{FlushPolicy, Flusher};
use crate::log::{LogConfig, TimestampedOffset, directory_topic_id};
use bytes::Bytes;
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, ProducerStamp, TimestampType};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

mod folds;
mod keys;
mod no_loss;
mod overlaps;
mod producers;
mod recovery;
mod timestamps;

const TOPIC: Uuid = Uuid::from_u128(7);

const NOW_MS: i64 = 1_700_000_000_000;

struct Bench {
    disk: SimulatedDisk,
    env: PartitionEnv,
    config: PartitionConfig,
    partition: Arc<Partition>,
}

fn config(mode: FlushMode) -> PartitionConfig {
    PartitionConfig {
        log: LogConfig { segment_bytes: 2000, index_interval_bytes: 200, ..LogConfig::default() },
        flush: FlushPolicy { mode, ..FlushPolicy::default() },
        ..PartitionConfig::default()
    }
}

impl Bench {
    fn new(mode: FlushMode) -> Self {
        Self::with(config(mode))
    }

    fn with(config: PartitionConfig) -> Self {
        let (disk, clock) = (SimulatedDisk::new(7), Clock::manual(NOW_MS));
        let flush = FlushQueue::new(clock.clone());
        let env = PartitionEnv { disk: Arc::new(disk.clone()), clock, flush, producers: Arc::default() };
        let partition = open(&env, &config, Opening::default());
        Self { disk, env, config, partition }
    }

    fn append(&self, count: usize) -> Result<Appended, AppendError> {
        self.partition.append(batch(count, None))
    }

    fn fail(&self, operation: Operation, path_contains: &str, times: u32, error: io::ErrorKind) {
        self.disk.inject(Fault {
            operation,
            path_contains: path_contains.to_owned(),
            after: 0,
            times,
            error,
        });
    }

    fn wait_out_the_retry(&self) {
        self.env.clock.advance(1000);
    }

    /// The partition as a fresh process finds it, and what was there before.
    fn reopen(&mut self, opening: Opening) -> Vec<u8> {
        let before = self.partition.producer_snapshot();
        self.partition = open(&self.env, &self.config, opening);
        before
    }
}

fn open(env: &PartitionEnv, config: &PartitionConfig, opening: Opening) -> Arc<Partition> {
    let dir = Path::new("/t-0");
    if directory_topic_id(&*env.disk, dir).unwrap().is_none() {
        return Partition::create(env, dir.into(), TOPIC, config.clone(), Arc::default()).unwrap();
    }
    env.disk.sync_dir(Path::new("/")).unwrap();
    let (partition, report) = Partition::open(env, dir.into(), TOPIC, config.clone(), opening).unwrap();
    assert_eq!((report.damage, report.set_aside), (Vec::new(), Vec::new()));
    partition
}

fn batch(count: usize, producer: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    for number in 0..count {
        builder.push(NOW_MS + number as i64, Some(b"key"), Some(&[7; 100]), std::iter::empty());
    }
    builder.finish(0)
}

fn sequenced(epoch: i16, sequence: i32, count: usize) -> Bytes {
    batch(count, Some(ProducerStamp { id: 9, epoch, sequence }))
}

fn request(offset: i64) -> ReadRequest {
    let isolation = IsolationLevel::ReadUncommitted;
    ReadRequest { offset, max_bytes: 1 << 20, at_least_one: true, isolation }
}

/// Offsets of the batches that are visible from `offset` on.
fn visible(partition: &Partition, offset: i64) -> Vec<i64> {
    let (mut bases, mut offset) = (Vec::new(), offset);
    loop {
        let records = partition.read(request(offset)).unwrap().records;
        let mut rest = &*records;
        if rest.is_empty() {
            return bases;
        }
        while !rest.is_empty() {
            let (batch, after) = Batch::stored(rest).unwrap();
            bases.push(batch.base_offset());
            (offset, rest) = (batch.next_offset(), after);
        }
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    let waker = Waker::from(wakes.clone());
    pin!(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn under_commit_nothing_is_acknowledged_or_visible_before_the_sync() {
    let bench = Bench::new(FlushMode::Commit);
    let appended = bench.append(3).unwrap();
    assert_eq!((appended.base_offset, appended.next_offset, appended.is_duplicate), (0, 3, false));
    let wakes = Arc::new(Wakes::default());
    let mut durable = bench.partition.durable(appended.mark);
    let mut seen = bench.partition.visible_past(0);
    assert!(poll(&mut durable, &wakes).is_pending() && poll(&mut seen, &wakes).is_pending());
    assert_eq!(bench.partition.waiter_counts(), (1, 1));
    assert_eq!(visible(&bench.partition, 0), Vec::<i64>::new());
    assert_eq!(bench.partition.readable_bytes(0), 0);
    assert_eq!(bench.partition.offsets().log_end, 3);

    assert_eq!(bench.env.flush.run_due(), 1);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "a task that waits twice is woken once");
    assert!(matches!(poll(&mut durable, &wakes), Poll::Ready(Ok(()))));
    assert!(poll(&mut seen, &wakes).is_ready());
    assert_eq!(visible(&bench.partition, 0), [0]);
    assert_eq!(bench.partition.readable_bytes(0), batch(3, None).len());
    assert_eq!(bench.env.flush.run_due(), 0, "a clean partition is not queued");
}

#[test]
fn under_os_everything_is_visible_at_once_and_syncs_follow_the_settings() {
    let bench = Bench::new(FlushMode::Os);
    let appended = bench.append(3).unwrap();
    let wakes = Arc::new(Wakes::default());
    assert!(matches!(poll(&mut bench.partition.durable(appended.mark), &wakes), Poll::Ready(Ok(()))));
    assert_eq!(visible(&bench.partition, 0), [0]);
    assert_eq!(bench.env.flush.run_due(), 0);
    let mut synced = bench.partition.synced(appended.mark);
    assert!(poll(&mut synced, &wakes).is_pending());
    assert_eq!(bench.env.flush.run_due(), 1);
    assert!(matches!(poll(&mut synced, &wakes), Poll::Ready(Ok(()))));

    let every_five = FlushPolicy { mode: FlushMode::Os, messages: 5, ms: 300 };
    bench.partition.reconfigure(PartitionConfig { flush: every_five, ..bench.config.clone() });
    bench.append(3).unwrap();
    assert_eq!(bench.env.flush.run_due(), 0);
    bench.append(2).unwrap();
    assert_eq!(bench.env.flush.run_due(), 1);
    assert_eq!(bench.partition.positions().recovery_point, 8);
    bench.append(1).unwrap();
    bench.env.clock.advance(299);
    assert_eq!(bench.partition.positions().recovery_point, 8);
    bench.env.clock.advance(1);
    bench.env.flush.run_due();
    assert_eq!(bench.partition.positions().recovery_point, 9);
}

#[test]
fn a_laxer_policy_shows_at_once_what_waited_for_the_sync() {
    let bench = Bench::new(FlushMode::Commit);
    bench.append(2).unwrap();
    let wakes = Arc::new(Wakes::default());
    let mut seen = bench.partition.visible_past(0);
    assert!(poll(&mut seen, &wakes).is_pending());
    bench.partition.reconfigure(config(FlushMode::Os));
    assert_eq!((wakes.0.load(Ordering::Relaxed), bench.partition.offsets().high_watermark), (1, 2));
}

#[test]
fn flush_messages_of_one_makes_producers_wait() {
    let every_one = FlushPolicy { mode: FlushMode::Os, messages: 1, ms: i64::MAX };
    let bench = Bench::with(PartitionConfig { flush: every_one, ..config(FlushMode::Os) });
    let appended = bench.append(1).unwrap();
    assert!(poll(&mut bench.partition.durable(appended.mark), &Arc::default()).is_pending());
    assert_eq!(bench.partition.offsets().high_watermark, 0);
}

#[test]
fn a_dropped_waiter_leaves_nothing_behind() {
    let bench = Bench::new(FlushMode::Commit);
    let appended = bench.append(1).unwrap();
    let wakes = Arc::new(Wakes::default());
    let mut durable = bench.partition.durable(appended.mark);
    let mut seen = bench.partition.visible_past(5);
    for _ in 0..3 {
        assert!(poll(&mut durable, &wakes).is_pending() && poll(&mut seen, &wakes).is_pending());
    }
    assert_eq!(bench.partition.waiter_counts(), (1, 1));
    drop((durable, seen));
    assert_eq!(bench.partition.waiter_counts(), (0, 0));
    bench.env.flush.run_due();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
}

#[test]
fn appends_that_come_during_a_sync_share_the_next_one() {
    let bench = Bench::new(FlushMode::Commit);
    for _ in 0..50 {
        bench.append(1).unwrap();
    }
    assert_eq!((bench.env.flush.run_due(), bench.env.flush.stats().syncs), (1, 1));
    assert_eq!(bench.partition.offsets().high_watermark, 50);
    assert!(bench.partition.segment_count() > 3);
    assert_eq!(bench.env.flush.stats().dirty_bytes, 0);
}

#[test]
fn a_failed_sync_is_answered_cut_off_and_not_retried_into_success() {
    let bench = Bench::new(FlushMode::Commit);
    let wakes = Arc::new(Wakes::default());
    bench.partition.append(sequenced(0, 0, 2)).unwrap();
    bench.env.flush.run_due();
    for sequence in 2..30 {
        bench.partition.append(sequenced(0, sequence, 1)).unwrap();
    }
    assert!(bench.partition.segment_count() > 2);
    let lost = bench.partition.append(sequenced(0, 30, 1)).unwrap();
    let mut durable = bench.partition.durable(lost.mark);
    let mut late = bench.partition.durable(lost.mark);
    assert!(poll(&mut durable, &wakes).is_pending());
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.env.flush.run_due();
    assert!(matches!(poll(&mut durable, &wakes), Poll::Ready(Err(_))));
    assert!(matches!(poll(&mut late, &wakes), Poll::Ready(Err(_))));
    assert_eq!(bench.partition.offsets(), Offsets::opened(0, 2));
    assert_eq!(bench.partition.segment_count(), 1);
    assert_eq!(bench.partition.producers()[0].last_sequence, 1);

    // The producer's retry is no duplicate: it takes the place of what was lost.
    let again = bench.partition.append(sequenced(0, 2, 1)).unwrap();
    assert_eq!((again.base_offset, again.is_duplicate), (2, false));
    assert!(matches!(poll(&mut late, &wakes), Poll::Ready(Err(_))));
    bench.env.flush.run_due();
    assert!(matches!(poll(&mut bench.partition.durable(again.mark), &wakes), Poll::Ready(Ok(()))));
    assert!(!bench.partition.is_broken());
    let after = bench.disk.power_cut();
    let env = PartitionEnv { disk: Arc::new(after), ..bench.env.clone() };
    let (reopened, _) =
        Partition::open(&env, "/t-0".into(), TOPIC, bench.config.clone(), Opening::default()).unwrap();
    assert_eq!(visible(&reopened, 0), [0, 2]);
    assert_eq!(reopened.producer_snapshot(), bench.partition.producer_snapshot());
}

#[test]
fn what_was_visible_under_os_and_is_cut_off_begins_a_new_epoch() {
    let bench = Bench::new(FlushMode::Os);
    let first = bench.append(2).unwrap();
    drop(bench.partition.synced(first.mark));
    bench.env.flush.run_due();
    let second = bench.append(2).unwrap();
    drop(bench.partition.synced(second.mark));
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.env.flush.run_due();
    assert_eq!(bench.partition.offsets(), Offsets::opened(0, 2));
    assert_eq!((bench.partition.leader_epoch(), bench.partition.epoch_end(0)), (1, Some((0, 2))));
    assert!(matches!(bench.partition.read(request(4)), Err(ReadError::OutOfRange { offset: 4, .. })));
}

#[test]
fn a_full_disk_refuses_appends_clearly_and_heals_when_space_returns() {
    let bench = Bench::new(FlushMode::Commit);
    bench.append(1).unwrap();
    bench.env.flush.run_due();
    bench.disk.set_capacity(Some(bench.disk.used_bytes() + 100));
    for _ in 0..3 {
        let refused = bench.append(1);
        assert!(
            matches!(&refused, Err(AppendError::Storage(error)) if error.source.kind() == io::ErrorKind::StorageFull),
            "{refused:?}"
        );
        bench.wait_out_the_retry();
    }
    assert!(bench.partition.is_broken());
    assert_eq!(visible(&bench.partition, 0), [0], "reads go on");
    bench.disk.set_capacity(None);
    bench.wait_out_the_retry();
    assert_eq!(bench.append(1).unwrap().base_offset, 1);
    bench.env.flush.run_due();
    assert_eq!(visible(&bench.partition, 0), [0, 1]);
    assert!(!bench.partition.is_broken());
}

#[test]
fn a_broken_partition_refuses_at_once_until_it_is_time_to_try() {
    let bench = Bench::new(FlushMode::Commit);
    bench.fail(Operation::Write, ".log", 1, io::ErrorKind::Other);
    assert!(matches!(bench.append(1), Err(AppendError::Storage(_))));
    assert!(matches!(bench.append(1), Err(AppendError::Storage(_))), "the disk is not asked");
    bench.wait_out_the_retry();
    assert_eq!(bench.append(1).unwrap().base_offset, 0);
}

#[test]
fn a_read_only_disk_refuses_appends_serves_reads_and_heals() {
    let bench = Bench::new(FlushMode::Commit);
    bench.append(1).unwrap();
    bench.env.flush.run_due();
    bench.append(1).unwrap();
    bench.disk.set_read_only(true);
    bench.env.flush.run_due();
    bench.wait_out_the_retry();
    assert!(matches!(bench.append(1), Err(AppendError::Storage(_))));
    assert_eq!(visible(&bench.partition, 0), [0]);
    assert!(bench.partition.close().is_err(), "it must not pass for cleanly closed");

    let bench = Bench::new(FlushMode::Commit);
    bench.disk.set_read_only(true);
    assert!(bench.append(1).is_err());
    bench.disk.set_read_only(false);
    bench.wait_out_the_retry();
    assert_eq!(bench.append(1).unwrap().base_offset, 0);
    bench.env.flush.run_due();
    bench.partition.close().unwrap();
}

#[test]
fn a_cut_that_the_disk_refuses_is_made_before_anything_else_is_written() {
    let bench = Bench::new(FlushMode::Commit);
    bench.append(1).unwrap();
    bench.env.flush.run_due();
    bench.append(5).unwrap();
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.fail(Operation::SetLen, ".log", 2, io::ErrorKind::Other);
    bench.env.flush.run_due();
    assert_eq!(bench.partition.offsets(), Offsets::opened(0, 1));
    assert!(bench.append(1).is_err(), "the cut fails once more");
    bench.wait_out_the_retry();
    assert_eq!(bench.append(1).unwrap().base_offset, 1);
    bench.env.flush.run_due();
    assert_eq!(visible(&bench.partition, 0), [0, 1]);
}

#[test]
fn a_duplicate_is_answered_with_its_first_offset_and_waits_for_the_same_sync() {
    let bench = Bench::new(FlushMode::Commit);
    let first = bench.partition.append(sequenced(0, 0, 3)).unwrap();
    let second = bench.partition.append(sequenced(0, 0, 3)).unwrap();
    assert_eq!((second.base_offset, second.next_offset, second.is_duplicate), (0, 3, true));
    assert!(poll(&mut bench.partition.durable(second.mark), &Arc::default()).is_pending());
    bench.env.flush.run_due();
    for mark in [first.mark, second.mark] {
        assert!(poll(&mut bench.partition.durable(mark), &Arc::default()).is_ready());
    }
    assert_eq!(bench.partition.offsets().log_end, 3);
    let gap = bench.partition.append(sequenced(0, 9, 1));
    assert!(matches!(gap, Err(AppendError::Producer(ProducerError::OutOfOrder { .. }))));
}

#[test]
fn producers_survive_a_clean_stop_and_a_kill_with_all_five_batches() {
    for clean in [true, false] {
        let mut bench = Bench::new(FlushMode::Commit);
        for sequence in 0..40 {
            bench.partition.append(sequenced(3, sequence, 1)).unwrap();
        }
        bench.env.flush.run_due();
        let mut opening =
            Opening { clean, recovery_point: bench.partition.positions().recovery_point, log_start: 0 };
        if clean {
            bench.partition.close().unwrap();
            opening.recovery_point = bench.partition.positions().recovery_point;
        }
        let before = bench.reopen(opening);
        assert_eq!(bench.partition.producer_snapshot(), before);
        for sequence in 35..40 {
            let duplicate = bench.partition.append(sequenced(3, sequence, 1)).unwrap();
            assert_eq!((duplicate.base_offset, duplicate.is_duplicate), (i64::from(sequence), true));
        }
        assert_eq!(bench.partition.append(sequenced(3, 40, 1)).unwrap().base_offset, 40);
    }
}

#[test]
fn damaged_producer_snapshots_are_passed_over() {
    let mut bench = Bench::new(FlushMode::Commit);
    for sequence in 0..40 {
        bench.partition.append(sequenced(0, sequence, 1)).unwrap();
    }
    bench.env.flush.run_due();
    bench.partition.close().unwrap();
    let opening = Opening { clean: true, recovery_point: 40, log_start: 0 };
    for entry in bench.disk.list(Path::new("/t-0")).unwrap() {
        if entry.name.ends_with(".snapshot") {
            let file = bench.disk.open(&Path::new("/t-0").join(&entry.name)).unwrap();
            file.write_at(8, [&[0xff], &[]]).unwrap();
        }
    }
    let before = bench.reopen(opening);
    assert_eq!(bench.partition.producer_snapshot(), before);
}

#[test]
fn settings_decide_what_is_accepted() {
    let bench = Bench::with(PartitionConfig { max_message_bytes: 400, ..config(FlushMode::Os) });
    assert!(matches!(bench.append(20), Err(AppendError::TooLarge { max: 400, .. })));
    bench.partition.reconfigure(config(FlushMode::Os));
    assert!(matches!(bench.append(20), Err(AppendError::LargerThanSegment { segment_bytes: 2000, .. })));
    let producer = Some(ProducerStamp { id: 1, epoch: 0, sequence: 0 });
    let mut builder =
        BatchBuilder::new(BatchOptions { producer, transactional: true, ..BatchOptions::default() });
    builder.push(1, None, None, std::iter::empty());
    let refused = bench.partition.append(builder.finish(0));
    assert!(matches!(refused, Err(AppendError::Transactional { producer_id: 1 })));
    let mut flipped = batch(1, None).to_vec();
    flipped[70] ^= 1;
    assert!(matches!(bench.partition.append(flipped.into()), Err(AppendError::Batch(_))));
    bench.env.clock.advance(-2 * 60 * 60 * 1000);
    assert!(matches!(bench.append(1), Err(AppendError::Timestamp { timestamp: NOW_MS, .. })));
    let stamped = BatchOptions { log_append_time: Some(5), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(stamped);
    builder.push(1, None, None, std::iter::empty());
    assert!(matches!(bench.partition.append(builder.finish(0)), Err(AppendError::TimestampType)));
    assert_eq!(bench.partition.offsets(), Offsets::opened(0, 0));
}

#[test]
fn log_append_time_is_stamped_on_the_whole_batch() {
    let timestamp_type = TimestampType::LogAppendTime;
    let bench = Bench::with(PartitionConfig { timestamp_type, ..config(FlushMode::Os) });
    bench.env.clock.advance(12_345);
    assert_eq!(bench.append(3).unwrap().log_append_time, Some(NOW_MS + 12_345));
    let records = bench.partition.read(request(0)).unwrap().records;
    let (batch, _) = Batch::stored(&records).unwrap();
    assert_eq!((batch.timestamp_type(), batch.max_timestamp()), (timestamp_type, NOW_MS + 12_345));
    let body = batch.decode(1 << 20).unwrap();
    assert!(body.iter().all(|record| record.unwrap().timestamp == NOW_MS + 12_345));
    let found = bench.partition.max_timestamp_offset().unwrap();
    assert_eq!(found, Some(TimestampedOffset { timestamp: NOW_MS + 12_345, offset: 0, leader_epoch: 0 }));
}

#[test]
fn deleted_records_are_gone_and_their_segments_follow() {
    let bench = Bench::new(FlushMode::Commit);
    for _ in 0..40 {
        bench.append(1).unwrap();
    }
    bench.env.flush.run_due();
    let segments = bench.partition.segment_count();
    assert!(matches!(bench.partition.delete_records(41), Err(DeleteRecordsError::OutOfRange { .. })));
    assert_eq!(bench.partition.delete_records(25).unwrap(), 25);
    assert!(matches!(bench.partition.read(request(24)), Err(ReadError::OutOfRange { log_start: 25, .. })));
    let deleted = bench.partition.maintain().unwrap().deleted_segments;
    assert!(deleted >= 2 && bench.partition.segment_count() == segments - deleted);
    assert_eq!(visible(&bench.partition, 25), (25..40).collect::<Vec<_>>());
    assert_eq!(bench.partition.delete_records(-1).unwrap(), 40);
    bench.partition.maintain().unwrap();
    assert_eq!((bench.partition.segment_count(), bench.partition.size_bytes()), (1, 0));
    assert_eq!(bench.append(1).unwrap().base_offset, 40);
}

#[test]
fn retention_forgets_old_records_and_the_active_segment_too() {
    let bench = Bench::new(FlushMode::Commit);
    for _ in 0..40 {
        bench.append(1).unwrap();
    }
    bench.env.flush.run_due();
    assert_eq!(bench.partition.maintain().unwrap().deleted_segments, 0);
    bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
    assert!(bench.partition.maintain().unwrap().deleted_segments > 3);
    assert_eq!(bench.partition.offsets(), Offsets::opened(40, 40));
    let mut again = bench;
    again.reopen(Opening { clean: false, recovery_point: 40, log_start: 40 });
    assert_eq!(again.partition.offsets(), Offsets::opened(40, 40));
}

#[test]
fn a_closed_partition_refuses_everything_and_wakes_everyone() {
    let bench = Bench::new(FlushMode::Commit);
    let appended = bench.append(1).unwrap();
    let wakes = Arc::new(Wakes::default());
    let (mut durable, mut seen) = (bench.partition.durable(appended.mark), bench.partition.visible_past(9));
    assert!(poll(&mut durable, &wakes).is_pending() && poll(&mut seen, &wakes).is_pending());
    bench.partition.close().unwrap();
    assert!(matches!(poll(&mut durable, &wakes), Poll::Ready(Ok(()))), "closing syncs");
    assert!(poll(&mut seen, &wakes).is_ready());
    assert!(matches!(bench.append(1), Err(AppendError::Closed)));
    assert!(matches!(bench.partition.read(request(0)), Err(ReadError::Closed)));

    let bench = Bench::new(FlushMode::Commit);
    let appended = bench.append(1).unwrap();
    let mut durable = bench.partition.durable(appended.mark);
    assert!(poll(&mut durable, &wakes).is_pending());
    let retired = bench.partition.retire(0).unwrap();
    assert!(matches!(poll(&mut durable, &wakes), Poll::Ready(Err(_))));
    assert_eq!(retired, Path::new("/00000000000000000000000000000007-0.delete"));
    assert!(bench.disk.list(Path::new("/t-0")).is_err());
    bench.env.flush.run_due();
    assert_eq!(bench.env.flush.stats().dirty_bytes, 0);
}

#[derive(Default, PartialEq, Debug)]
struct Bases(Vec<i64>);

impl FoldState for Bases {
    type Error = std::convert::Infallible;

    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), Self::Error> {
        self.0.push(batch.base_offset());
        Ok(())
    }
}

#[test]
fn a_fold_shows_what_is_durable_and_replays_to_the_same_state() {
    let bench = Bench::new(FlushMode::Commit);
    let fold = Fold::new(bench.partition.clone(), Bases::default());
    bench.append(2).unwrap();
    assert_eq!(fold.with(|state| state.0.len()).unwrap(), 0);
    bench.env.flush.run_due();
    assert_eq!(fold.with(|state| state.0.clone()).unwrap(), [0]);
    for _ in 0..40 {
        bench.append(1).unwrap();
    }
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.env.flush.run_due();
    bench.append(1).unwrap();
    bench.env.flush.run_due();
    let fresh = Fold::new(bench.partition.clone(), Bases::default());
    let (live, replayed) = (fold.with(|state| state.0.clone()), fresh.with(|state| state.0.clone()));
    assert_eq!((live.unwrap(), replayed.unwrap()), (vec![0, 2], vec![0, 2]));
    bench.partition.delete_records(-1).unwrap();
    assert_eq!(Fold::new(bench.partition.clone(), Bases::default()).with(|state| state.0.len()).unwrap(), 0);
}

#[test]
fn the_flush_threads_sync_by_themselves_and_end_when_told() {
    let clock = Clock::System;
    let flush = FlushQueue::new(clock.clone());
    let env = PartitionEnv {
        disk: Arc::new(SimulatedDisk::new(1)),
        clock,
        flush: flush.clone(),
        producers: Arc::default(),
    };
    let flusher = Flusher::start(flush.clone()).unwrap();
    let observed = Arc::new(AtomicUsize::new(0));
    let counted = observed.clone();
    flush.observe(move |_: Duration| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let partitions = ["/t-0", "/t-1"].map(|directory| {
        let config = config(FlushMode::Commit);
        Partition::create(&env, directory.into(), TOPIC, config, Arc::default()).unwrap()
    });
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let append_and_wait = |partition: &Arc<Partition>| {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        for _ in 0..100 {
            let appended = partition.append(batch(1, None)).unwrap();
            let mut durable = pin!(partition.durable(appended.mark));
            while durable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                std::thread::park();
            }
        }
    };
    std::thread::scope(|scope| {
        for partition in partitions.iter().chain(&partitions).chain(&partitions) {
            scope.spawn(move || append_and_wait(partition));
        }
    });
    flusher.stop();
    assert_eq!(partitions.map(|partition| partition.offsets().high_watermark), [300, 300]);
    assert_eq!(flush.stats().syncs, observed.load(Ordering::Relaxed) as u64);
    assert!(flush.stats().syncs > 0);
}
