//! The log beside a plain model, on both disks, and what it makes of directories that were not left in order.

use super::*;
use crate::disk::{Disk, Fault, OpenFile, Operation, RealDisk, SimulatedDisk};
use bytes::Bytes;
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use proptest::prelude::*;
use std::io;

mod gaps;
mod lifecycle;
mod spare;
mod timestamps;

const NOW_MS: i64 = 1_000_000;
const TOPIC: Uuid = Uuid::from_u128(7);

fn batch(count: usize, value_len: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for number in 0..count {
        builder.push(
            timestamp - number as i64,
            None,
            Some(&vec![count as u8; value_len]),
            std::iter::empty(),
        );
    }
    builder.finish(0)
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 3000,
        index_interval_bytes: 200,
        file_delete_delay_ms: 10,
        ..LogConfig::default()
    }
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, opening: Opening) -> (Log, RecoveryReport) {
    if directory_topic_id(&**disk, dir).unwrap().is_none() {
        return (create(disk, dir, config()), RecoveryReport::default());
    }
    disk.sync_dir(dir.parent().unwrap()).unwrap();
    Log::open(disk.clone(), dir.to_path_buf(), TOPIC, config(), opening, NOW_MS).unwrap()
}

fn create(disk: &Arc<dyn Disk>, dir: &Path, config: LogConfig) -> Log {
    Log::create(disk.clone(), dir.to_path_buf(), TOPIC, config, NOW_MS, Arc::default()).unwrap()
}

fn simulated(seed: u64) -> (SimulatedDisk, Arc<dyn Disk>, PathBuf) {
    let disk = SimulatedDisk::new(seed);
    (disk.clone(), Arc::new(disk), PathBuf::from("/t-0"))
}

/// Does what a cut left to do.
fn repair(log: &mut Log) -> Result<(), StorageError> {
    let Some(mut job) = log.begin_repair() else { return Ok(()) };
    let repaired = job.run();
    log.finish_repair(&job);
    repaired
}

fn append(log: &mut Log, bytes: &[u8]) -> Result<i64, StorageError> {
    let batch = Batch::produced(bytes).unwrap();
    if log.needs_repair() {
        repair(log)?;
    }
    if log.needs_roll(&batch, NOW_MS) {
        log.roll(NOW_MS, b"snapshot".to_vec())?;
    }
    log.append(&batch)
}

/// Deletes the segments up to an offset and tells how many.
fn delete(log: &mut Log, up_to: i64) -> usize {
    let Some(mut job) = log.begin_deletion(up_to, NOW_MS) else { return 0 };
    job.make_durable().unwrap();
    job.rename().unwrap();
    let count = job.segment_count();
    log.finish_deletion(job);
    count
}

fn remove_doomed(log: &mut Log, disk: &Arc<dyn Disk>, steady_ms: i64) {
    log.take_doomed(steady_ms).iter().for_each(|doomed| doomed.remove(&**disk).unwrap());
}

fn sync(log: &mut Log) {
    if let Some(job) = log.begin_sync() {
        job.run().unwrap();
        log.finish_sync(&job);
    }
    if let Some(job) = log.begin_save() {
        job.run().unwrap();
        log.finish_save(job);
    }
}

fn close(mut log: Log) -> Opening {
    sync(&mut log);
    log.write_closing(b"closing").unwrap();
    Opening { clean: true, recovery_point: log.recovery_point(), log_start: log.log_start() }
}

/// Asserts that the same bytes are found without waiting, and that they are where a region of the file begins. A region
/// may go on into damage.
fn assert_same_in_file(plan: &ReadPlan, max_bytes: usize, piece: &Bytes) {
    let limit = ReadLimit { max_bytes, at_least_one: true };
    let cached = plan.try_read(limit, ReadManner { may_wait: false, region_min: usize::MAX }).unwrap();
    // What has to go round damage waits.
    assert!(cached.is_none_or(|slice| slice == Slice::Batches(piece.clone())));
    let located = plan.try_read(limit, ReadManner { may_wait: true, region_min: 1 }).unwrap();
    let Some(Slice::Region(region)) = located else { panic!("{located:?}") };
    let OpenFile(file) = region.file.downcast_ref().unwrap();
    let mut bytes = Vec::new();
    file.read_at(region.position, region.len, &mut bytes).unwrap();
    assert!(bytes.len() == region.len && bytes.starts_with(piece), "{region:?} of {}", piece.len());
    assert!(region.len <= max_bytes.max(piece.len()));
}

/// All bytes from `offset` to the end, read in pieces of at most `max_bytes` but for larger batches.
fn read_from(log: &Log, offset: i64, max_bytes: usize) -> Result<Vec<u8>, SliceError> {
    let (mut bytes, mut offset) = (Vec::new(), offset);
    while let Some(plan) = log.plan_read(offset, log.end()) {
        match plan.read(ReadLimit { max_bytes, at_least_one: true })? {
            Slice::Beyond(next) => offset = next,
            Slice::Region(region) => panic!("nobody asked for {region:?}"),
            Slice::Batches(piece) => {
                assert_same_in_file(&plan, max_bytes, &piece);
                let mut rest = &*piece;
                while !rest.is_empty() {
                    let (batch, after) = Batch::stored(rest).unwrap();
                    (offset, rest) = (batch.next_offset(), after);
                }
                bytes.extend_from_slice(&piece);
            }
        }
    }
    Ok(bytes)
}

/// Every index in memory or on the disk is what a scan of its segment gives.
fn assert_indexes_equal_a_scan(log: &Log) {
    let interval = log.config.index_interval_bytes;
    let rebuilt = |file: &dyn File, base_offset, size| {
        let mut index = index::IndexBuilder::new(base_offset, interval);
        truncation::add_batches(file, 0..size, &mut index, i64::MAX).unwrap();
        index
    };
    for segment in log.sealed.iter() {
        let content = segment.content(&log.files, interval).unwrap();
        let (offsets, times) = rebuilt(&*content.file, segment.base_offset, segment.size).finish();
        assert_eq!(
            (&*content.offsets, &*content.times),
            (&*offsets, &*times),
            "segment {}",
            segment.base_offset
        );
    }
    let expected = rebuilt(&*log.active.file, log.active.base_offset, log.active.size);
    assert_eq!(log.active.index.clone().finish(), expected.finish());
}

/// What the log should hold.
#[derive(Default)]
struct Model {
    batches: Vec<(i64, i64, Vec<u8>)>,
    next_offset: i64,
    log_start: i64,
}

impl Model {
    fn append(&mut self, bytes: &[u8]) {
        let next_offset = self.next_offset + i64::from(Batch::produced(bytes).unwrap().count());
        let mut stored = bytes.to_vec();
        stored[..16].copy_from_slice(&patched_prefix(bytes, self.next_offset, 0));
        self.batches.push((self.next_offset, next_offset, stored));
        self.next_offset = next_offset;
    }

    fn truncate(&mut self, offset: i64) {
        if offset < self.next_offset {
            self.next_offset =
                self.batches.iter().find(|batch| batch.1 > offset).map_or(offset, |batch| batch.0);
            self.batches.retain(|batch| batch.1 <= self.next_offset);
            self.log_start = self.log_start.min(self.next_offset);
        }
    }

    fn read_from(&self, offset: i64) -> Vec<u8> {
        let wanted = self.batches.iter().filter(|batch| batch.1 > offset);
        wanted.flat_map(|batch| batch.2.iter().copied()).collect()
    }

    /// The first record at or after the log start with that timestamp or a later one.
    fn first_at(&self, timestamp: i64) -> Option<i64> {
        self.batches.iter().find_map(|(_, _, bytes)| {
            let (batch, _) = Batch::stored(bytes).unwrap();
            let body = batch.decode(1 << 20).unwrap();
            let fits = body
                .iter()
                .map(Result::unwrap)
                .find(|record| record.timestamp >= timestamp && record.offset >= self.log_start);
            fits.map(|record| record.offset)
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: usize, value_len: usize, timestamp: i64 },
    Roll,
    Read { at: f64, max_bytes: usize },
    FindTimestamp(i64),
    Truncate(f64),
    AdvanceStart(f64),
    DeleteBySize(u64),
    Sync,
    Close,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (1_usize..5, 0_usize..300, 1000_i64..2000)
            .prop_map(|(count, value_len, timestamp)| Step::Append { count, value_len, timestamp }),
        1 => Just(Step::Roll),
        4 => (0.0..1.0, 0_usize..4000).prop_map(|(at, max_bytes)| Step::Read { at, max_bytes }),
        2 => (900_i64..2100).prop_map(Step::FindTimestamp),
        1 => (0.0..1.0).prop_map(Step::Truncate),
        1 => (0.0..1.0).prop_map(Step::AdvanceStart),
        1 => (0_u64..9000).prop_map(Step::DeleteBySize),
        3 => Just(Step::Sync),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

fn apply(step: &Step, log: Log, model: &mut Model, disk: &Arc<dyn Disk>) -> Log {
    let mut log = log;
    let dir = log.directory().to_path_buf();
    let between =
        |model: &Model, at: f64| model.log_start + ((model.next_offset - model.log_start) as f64 * at) as i64;
    match *step {
        Step::Append { count, value_len, timestamp } => {
            let bytes = batch(count, value_len, timestamp);
            assert_eq!(append(&mut log, &bytes).unwrap(), model.next_offset);
            model.append(&bytes);
        }
        Step::Roll => log.roll(NOW_MS, Vec::new()).unwrap(),
        Step::Read { at, max_bytes } => {
            let offset = between(model, at);
            assert_eq!(read_from(&log, offset, max_bytes).unwrap(), model.read_from(offset));
        }
        Step::FindTimestamp(timestamp) => {
            let found = log.timestamp_search(log.end()).first_at(timestamp).unwrap();
            assert_eq!(found.map(|found| found.offset), model.first_at(timestamp));
        }
        Step::Truncate(at) => {
            let offset = between(model, at);
            log.truncate_to(offset, NOW_MS).unwrap();
            let _ = repair(&mut log);
            model.truncate(offset);
        }
        Step::AdvanceStart(at) => {
            model.log_start = between(model, at);
            log.advance_start(model.log_start);
        }
        Step::DeleteBySize(retention_bytes) => {
            log.reconfigure(LogConfig {
                retention_bytes: Some(retention_bytes),
                retention_ms: None,
                ..config()
            });
            if let Some(up_to) = log.deletion_search(log.next_offset()).run(NOW_MS) {
                delete(&mut log, up_to);
            }
            remove_doomed(&mut log, disk, NOW_MS + 10);
            log.idle_segments().let_go();
            log.reconfigure(config());
            model.log_start = log.log_start();
            let first = log.sealed.first().map_or(log.active.base_offset, |segment| segment.base_offset);
            model.batches.retain(|batch| batch.0 >= first);
        }
        Step::Sync => sync(&mut log),
        Step::Close => {
            let opening = close(log);
            let (opened, report) = open(disk, &dir, opening);
            assert_eq!(report, RecoveryReport::default());
            assert_eq!(opened.recovery_point(), opening.recovery_point);
            log = opened;
        }
        Step::Kill => {
            let (recovery_point, log_start) = (log.recovery_point(), log.log_start());
            drop(log);
            let (opened, report) = open(disk, &dir, Opening { clean: false, recovery_point, log_start });
            assert_eq!((report.damage, report.set_aside), (Vec::new(), Vec::new()));
            log = opened;
        }
    }
    assert_eq!((log.log_start(), log.next_offset()), (model.log_start, model.next_offset), "{step:?}");
    log
}

fn run(steps: &[Step], disk: &Arc<dyn Disk>, dir: &Path) {
    let (mut log, _) = open(disk, dir, Opening::default());
    let mut model = Model::default();
    for step in steps {
        log = apply(step, log, &mut model, disk);
    }
    assert_eq!(read_from(&log, log.log_start(), 1000).unwrap(), model.read_from(model.log_start));
    assert_indexes_equal_a_scan(&log);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_vec_of_batches_does(steps in steps()) {
        let (_, disk, dir) = simulated(1);
        run(&steps, &disk, &dir);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_vec_of_batches_does_on_the_real_disk(steps in steps()) {
        let temporary = tempfile::tempdir().unwrap();
        run(&steps, &RealDisk::shared(), &temporary.path().join("t-0"));
    }
}

/// A log with `count` batches of two records and about 200 bytes, in several segments.
fn filled(disk: &Arc<dyn Disk>, dir: &Path, count: usize) -> (Log, Model) {
    let (mut log, _) = open(disk, dir, Opening::default());
    let mut model = Model::default();
    for number in 0..count {
        let bytes = batch(2, 60, 1000 + number as i64);
        append(&mut log, &bytes).unwrap();
        model.append(&bytes);
    }
    (log, model)
}

#[test]
fn a_read_returns_whole_batches_and_at_least_one_only_when_asked() {
    let (_, disk, dir) = simulated(1);
    let (log, model) = filled(&disk, &dir, 4);
    let size = model.batches[0].2.len();
    let read = |offset, max_bytes, at_least_one| {
        let plan = log.plan_read(offset, log.end()).unwrap();
        plan.read(ReadLimit { max_bytes, at_least_one }).unwrap()
    };
    let batches = |range: std::ops::Range<usize>| {
        Slice::Batches(
            model.batches[range].iter().flat_map(|batch| batch.2.clone()).collect::<Vec<_>>().into(),
        )
    };
    assert_eq!(read(0, 10, true), batches(0..1));
    assert_eq!(read(0, 10, false), Slice::Batches(Bytes::new()));
    assert_eq!(read(3, 2 * size + 5, false), batches(1..3));
    assert_eq!(read(7, usize::MAX, false), batches(3..4));
    assert!(log.plan_read(8, log.end()).is_none());
    let upper = LogPosition { offset: 4, segment: 0, position: 2 * size as u64 };
    let plan = log.plan_read(1, upper).unwrap();
    assert_eq!(plan.read(ReadLimit { max_bytes: 9999, at_least_one: true }).unwrap(), batches(0..2));
}

#[test]
fn segments_roll_by_time_between_batches_and_by_a_full_index() {
    let (_, disk, dir) = simulated(1);
    let by_time = LogConfig { segment_ms: 100, ..config() };
    let mut log = create(&disk, &dir, by_time);
    for timestamp in [1000, 1050, 1100, 1101, 1300] {
        append(&mut log, &batch(1, 10, timestamp)).unwrap();
    }
    let bases: Vec<i64> = log.sealed.iter().map(|segment| segment.base_offset).collect();
    assert_eq!((bases, log.active.base_offset), (vec![0, 3], 4));

    let by_index = LogConfig { segment_index_bytes: 24, index_interval_bytes: 0, ..config() };
    let mut log = create(&disk, Path::new("/index-0"), by_index);
    for _ in 0..10 {
        append(&mut log, &batch(1, 10, 1000)).unwrap();
        assert!(log.active.index.offsets().len() <= 24);
    }
    assert!(log.segment_count() > 2);
}

#[test]
fn a_torn_tail_is_set_aside_and_the_log_goes_on() {
    for cut in [1, 30, 61, 100] {
        let (_, disk, dir) = simulated(cut);
        let (mut log, mut model) = filled(&disk, &dir, 5);
        sync(&mut log);
        let torn = batch(3, 50, 2000);
        let end = log.active.size;
        log.active.file.write_at(end, [&torn[..torn.len() - cut as usize], &[]]).unwrap();
        let recovery_point = log.recovery_point();
        drop(log);

        let (mut log, report) = open(&disk, &dir, Opening { clean: false, recovery_point, log_start: 0 });
        let [set_aside] = &report.set_aside[..] else { panic!("{report:?}") };
        assert_eq!((set_aside.bytes, set_aside.from_offset), (torn.len() as u64 - cut, 10));
        assert_eq!(disk.read(&set_aside.path).unwrap(), torn[..torn.len() - cut as usize]);
        assert_eq!((log.next_offset(), log.active.size, log.leader_epoch()), (10, end, 1));
        append(&mut log, &torn).unwrap();
        model.append(&torn);
        model.batches[5].2[12..16].copy_from_slice(&1_i32.to_be_bytes());
        assert_eq!(read_from(&log, 0, 500).unwrap(), model.read_from(0));
    }
}

#[test]
fn past_the_recovery_point_the_first_invalid_batch_ends_the_log() {
    let (_, disk, dir) = simulated(1);
    let (log, model) = filled(&disk, &dir, 60);
    assert!(log.segment_count() > 3);
    let hit = 20;
    let segment = log.sealed_with(model.batches[hit].0).unwrap().clone();
    let within = model.batches[..hit].iter().filter(|batch| batch.0 >= segment.base_offset);
    let position: usize = within.map(|batch| batch.2.len()).sum();
    let content = segment.content(&log.files, 200).unwrap();
    content.file.write_at(position as u64 + 80, [b"!", b""]).unwrap();
    drop(log);

    let opening = Opening { clean: false, recovery_point: model.batches[3].0, log_start: 0 };
    let (log, report) = open(&disk, &dir, opening);
    assert_eq!(log.next_offset(), model.batches[hit].0);
    assert_eq!(
        read_from(&log, 0, 500).unwrap(),
        model.batches[..hit].iter().flat_map(|b| b.2.clone()).collect::<Vec<_>>()
    );
    let kept: u64 = report.set_aside.iter().map(|aside| aside.bytes).sum();
    assert_eq!(kept, model.batches[hit..].iter().map(|batch| batch.2.len() as u64).sum::<u64>());
    assert!(report.damage.is_empty());
    assert_indexes_equal_a_scan(&log);
}

#[test]
fn damage_before_the_recovery_point_is_fenced_to_the_batch_and_stays() {
    // Offset 9 of a batch is in its length, 80 is in its records.
    for (flipped, header_is_sane) in [(9, false), (80, true)] {
        let (_, disk, dir) = simulated(1);
        let (mut log, model) = filled(&disk, &dir, 10);
        assert_eq!(log.segment_count(), 1);
        sync(&mut log);
        let size = model.batches[0].2.len() as u64;
        let position = 4 * size;
        log.active.file.write_at(position + flipped, [&[0x55], &[]]).unwrap();
        let opening = Opening { clean: false, recovery_point: log.recovery_point(), log_start: 0 };
        drop(log);

        let (log, report) = open(&disk, &dir, opening);
        let expected = Damage { segment: 0, position, bytes: size, offset: 8 };
        assert_eq!((report.damage, report.set_aside), (vec![expected], Vec::new()));
        assert_eq!(log.next_offset(), 20);
        let behind: Vec<u8> = model.batches[5..].iter().flat_map(|batch| batch.2.clone()).collect();
        assert_eq!(read_from(&log, 10, 5000).unwrap(), behind);
        if !header_is_sane {
            let plan = log.plan_read(9, log.end()).unwrap();
            let read = plan.read(ReadLimit { max_bytes: 500, at_least_one: true });
            assert!(matches!(read, Err(SliceError::Corrupt { offset: 9, .. })), "{read:?}");
        }
        let plan = log.plan_read(0, log.end()).unwrap();
        let Slice::Batches(before) =
            plan.read(ReadLimit { max_bytes: 4 * size as usize, at_least_one: true }).unwrap()
        else {
            panic!("nothing before the damage")
        };
        assert_eq!(before.len() as u64, 4 * size);
    }
}

#[test]
fn offsets_of_a_file_that_lost_its_end_are_not_given_out_again() {
    let (_, disk, dir) = simulated(1);
    let (mut log, model) = filled(&disk, &dir, 6);
    sync(&mut log);
    let kept = model.batches[..4].iter().map(|batch| batch.2.len() as u64).sum();
    log.active.file.set_len(kept).unwrap();
    let opening = Opening { clean: true, recovery_point: log.recovery_point(), log_start: 0 };
    drop(log);
    let (mut log, report) = open(&disk, &dir, opening);
    assert_eq!(report.damage, [Damage { segment: 0, position: kept, bytes: 0, offset: 8 }]);
    assert_eq!(append(&mut log, &batch(1, 1, 1)).unwrap(), 12);
    assert_eq!(read_from(&log, 0, 5000).unwrap().len() as u64, kept + batch(1, 1, 1).len() as u64);
}

#[test]
fn missing_short_and_wrong_indexes_are_built_again() {
    type Spoil = fn(&dyn Disk, &Path);
    let spoils: [Spoil; 5] = [
        |disk, path| disk.remove_file(path).unwrap(),
        |disk, path| disk.open(path).unwrap().set_len(0).unwrap(),
        |disk, path| {
            let file = disk.open(path).unwrap();
            file.set_len(file.size().unwrap() / 2).unwrap();
        },
        |disk, path| disk.open(path).unwrap().write_at(3, [&[0xee], &[]]).unwrap(),
        |disk, path| {
            let file = disk.open(path).unwrap();
            file.write_at(0, [&vec![0; file.size().unwrap() as usize], &[]]).unwrap();
        },
    ];
    for suffix in [files::OFFSET_INDEX, files::TIME_INDEX] {
        for (number, spoil) in spoils.iter().enumerate() {
            for base_is_last in [false, true] {
                let (_, disk, dir) = simulated(1);
                let (log, model) = filled(&disk, &dir, 40);
                let base = if base_is_last { log.active.base_offset } else { 0 };
                let path = log.files.path(base, suffix);
                let opening = close(log);
                spoil(&*disk, &path);
                let (log, report) = open(&disk, &dir, opening);
                assert_eq!(report, RecoveryReport::default());
                for (base, next, bytes) in &model.batches {
                    let read = read_from(&log, *base, 1).unwrap();
                    assert_eq!(read[..bytes.len()], bytes[..], "{suffix} {number} {base} {next}");
                }
                assert_indexes_equal_a_scan(&log);
            }
        }
    }
}

#[test]
fn a_clean_start_reads_no_sealed_segment() {
    let (simulated, disk, dir) = simulated(1);
    let (log, _) = filled(&disk, &dir, 100);
    let last = log.active.base_offset;
    let opening = close(log);
    for base in (0..last).map(|base| format!("{base:020}")) {
        for operation in [Operation::Open, Operation::Read] {
            let error = io::ErrorKind::Other;
            simulated.inject(Fault {
                operation,
                path_contains: base.clone(),
                after: 0,
                times: u32::MAX,
                error,
            });
        }
    }
    let (log, report) = open(&disk, &dir, opening);
    assert_eq!((log.next_offset(), report), (200, RecoveryReport::default()));
}

#[test]
fn a_failed_write_leaves_the_log_as_it_was() {
    for after in 0..6 {
        let (simulated, disk, dir) = simulated(after.into());
        let (mut log, _) = open(&disk, &dir, Opening::default());
        let mut model = Model::default();
        let (operation, error) = (Operation::Write, io::ErrorKind::StorageFull);
        let path_contains = ".log".to_owned();
        simulated.inject(Fault { operation, path_contains, after, times: 1, error });
        for number in 0..8 {
            let bytes = batch(2, 60, 1000 + number);
            if append(&mut log, &bytes).is_ok() {
                model.append(&bytes);
            }
        }
        assert_eq!(model.batches.len(), 7);
        assert_eq!(read_from(&log, 0, 300).unwrap(), model.read_from(0));
        let recovery_point = log.recovery_point();
        drop(log);
        let (log, report) = open(&disk, &dir, Opening { clean: false, recovery_point, log_start: 0 });
        assert_eq!((log.next_offset(), report.set_aside), (14, Vec::new()));
        assert_indexes_equal_a_scan(&log);
    }
}

#[test]
fn the_synced_position_waits_for_the_segments_before() {
    let (simulated, disk, dir) = simulated(1);
    let (mut log, _) = filled(&disk, &dir, 40);
    let end = log.end();
    let error = io::ErrorKind::Other;
    let second = format!("{:020}.log", log.sealed[1].base_offset);
    simulated.inject(Fault {
        operation: Operation::SyncData,
        path_contains: second,
        after: 0,
        times: 1,
        error,
    });
    let job = log.begin_sync().unwrap();
    assert!(job.run().is_err());
    assert_eq!((log.synced().offset, log.recovery_point()), (0, 0));
    log.truncate_to(log.synced().offset, NOW_MS).unwrap();
    let _ = repair(&mut log);
    assert_eq!((log.next_offset(), log.size(), log.segment_count()), (0, 0, 1));
    assert!(log.begin_sync().is_none());

    for number in 0..40 {
        append(&mut log, &batch(2, 60, 1000 + number)).unwrap();
    }
    let job = log.begin_sync().unwrap();
    append(&mut log, &batch(2, 60, 5000)).unwrap();
    job.run().unwrap();
    log.finish_sync(&job);
    assert_eq!((log.synced().offset, log.recovery_point()), (end.offset, end.offset));
    sync(&mut log);
    assert_eq!(log.recovery_point(), log.next_offset());
}

#[test]
fn deleted_segments_stay_readable_for_a_while_and_go_then() {
    let (_, disk, dir) = simulated(1);
    let (mut log, model) = filled(&disk, &dir, 40);
    sync(&mut log);
    let plan = log.plan_read(0, log.end()).unwrap();
    let PlannedSegment::Sealed(segment) = &plan.segment else { panic!("the first segment is sealed") };
    segment.content(&log.files, 200).unwrap();
    log.advance_start(log.sealed[1].end_offset + 1);
    let up_to = log.deletion_search(log.next_offset()).run(NOW_MS).unwrap();
    assert_eq!(delete(&mut log, up_to), 2);
    assert!(matches!(plan.read(ReadLimit { max_bytes: 100, at_least_one: true }), Ok(Slice::Batches(_))));
    let deleted = |disk: &Arc<dyn Disk>| {
        let names = disk.list(&dir).unwrap();
        names.iter().filter(|entry| entry.name.ends_with(".deleted")).count()
    };
    assert!(deleted(&disk) >= 6);
    remove_doomed(&mut log, &disk, NOW_MS + 9);
    assert!(deleted(&disk) >= 6);
    remove_doomed(&mut log, &disk, NOW_MS + 10);
    assert_eq!(deleted(&disk), 0);
    assert_eq!(read_from(&log, log.log_start(), 500).unwrap(), model.read_from(log.log_start()));
}

#[test]
fn the_largest_timestamp_is_found_with_the_first_record_that_has_it() {
    let (_, disk, dir) = simulated(1);
    let (mut log, _) = open(&disk, &dir, Opening::default());
    assert_eq!(log.timestamp_search(log.end()).latest().unwrap(), None);
    for timestamp in [1000, 1900, 1200, 1900, 1300] {
        append(&mut log, &batch(2, 60, timestamp)).unwrap();
    }
    let found = log.timestamp_search(log.end()).latest().unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp, found.leader_epoch), (2, 1900, 0));
    let upper = LogPosition { offset: 2, segment: 0, position: batch(2, 60, 1).len() as u64 };
    let found = log.timestamp_search(upper).latest().unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (0, 1000));
}
