//! Seeded power cuts on the simulated disk: what was acknowledged under `commit` is there afterwards, with its bytes.
//!
//! A schedule is a few lives of a partition on one disk. In each, two idempotent producers send, with up to five
//! batches in flight, while syncs, rolls, retention, checkpoints and faults of the disk go on; each life ends with a
//! power cut within any call, a kill, or a clean stop. After each, the log is checked against what was acknowledged,
//! and at the end indexes and producers against those of a fresh scan. The same schedules with the syncs or the journal's replay taken
//! out must lose something. `KAPPA_POWER_CUTS` sets the number of schedules; a failure names its seed, and
//! `KAPPA_POWER_CUT_SEED` runs that one alone.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use kappa_broker::clock::Clock;
use kappa_broker::disk::{Disk, Fault, Operation, SimulatedDisk};
use kappa_broker::flush::{DIRTY_BYTES_MAX, FlushQueue};
use kappa_broker::journal::{Journal, JournalConfig, PartitionKey, Pieces};
use kappa_broker::log::{Checkpointed, Checkpoints, LogConfig, Opening, Positions, directory_topic_id};
use kappa_broker::partition::{
    Durable, IsolationLevel, Partition, PartitionConfig, PartitionEnv, ReadRequest,
};
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, ProducerStamp};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use uuid::Uuid;

const DATA_DIR: &str = "/data";
const DIRECTORY: &str = "/data/t-0";
const TOPIC: Uuid = Uuid::from_u128(7);
const NOW_MS: i64 = 1_700_000_000_000;
const IN_FLIGHT_MAX: usize = 5;
const RETENTION_BYTES: u64 = 4000;
/// Small enough to be full now and then.
const JOURNAL: JournalConfig =
    JournalConfig { file_bytes: 5 * 4096, files_max: 2, piece_bytes_max: 800, misses_before_first: 0 };

/// What a schedule found wrong.
type Loss = String;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }
}

/// A batch that is not acknowledged yet.
struct Unacknowledged {
    bytes: Bytes,
    /// Where it was appended and what tells when it is durable; `None` if it has to be sent again.
    sent: Option<(i64, Durable)>,
}

struct Producer {
    id: i64,
    next_sequence: i32,
    unacknowledged: VecDeque<Unacknowledged>,
}

struct Schedule {
    random: Random,
    disk: SimulatedDisk,
    clock: Clock,
    producers: Vec<Producer>,
    /// By base offset, the bytes behind base offset and leader epoch.
    acknowledged: BTreeMap<i64, Bytes>,
    /// The highest offset that any consumer could have seen.
    seen: i64,
    /// Retention may have deleted what is before.
    log_start: i64,
    has_journal: bool,
    taken_out: TakenOut,
}

/// A safeguard that a test takes out, to show that it would be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakenOut {
    Nothing,
    /// Syncs say that all is well and do nothing.
    Syncs,
    /// What the journal held is forgotten at the start.
    Replay,
}

fn config() -> PartitionConfig {
    let log = LogConfig {
        segment_bytes: 1200,
        index_interval_bytes: 150,
        file_delete_delay_ms: 100,
        retention_bytes: Some(RETENTION_BYTES),
        ..LogConfig::default()
    };
    PartitionConfig { log, ..PartitionConfig::default() }
}

fn poll(future: &mut Durable) -> Option<bool> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome.is_ok()),
        Poll::Pending => None,
    }
}

impl Schedule {
    fn new(seed: u64, taken_out: TakenOut) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.create_dir(Path::new(DATA_DIR)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.set_ignore_syncs(taken_out == TakenOut::Syncs);
        let producer = |id| Producer { id, next_sequence: 0, unacknowledged: VecDeque::new() };
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            disk,
            clock: Clock::manual(NOW_MS),
            producers: vec![producer(1), producer(2)],
            acknowledged: BTreeMap::new(),
            seen: 0,
            log_start: 0,
            has_journal: !seed.is_multiple_of(4),
            taken_out,
        }
    }

    fn run(mut self) -> Result<(), Loss> {
        for _ in 0..1 + self.random.below(3) {
            self.live()?;
        }
        self.compare_with_a_fresh_scan()
    }

    fn env(&self) -> Result<PartitionEnv, Loss> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (journal, pieces) = Journal::open(disk.clone(), Path::new(DATA_DIR), JOURNAL)
            .map_err(|error| format!("{error:?}"))?;
        let pieces = if self.taken_out == TakenOut::Replay { Pieces::new() } else { pieces };
        let flush = match self.has_journal {
            true => FlushQueue::with_journal(self.clock.clone(), journal, pieces, DIRTY_BYTES_MAX),
            false => FlushQueue::new(self.clock.clone()),
        };
        Ok(PartitionEnv { disk, clock: self.clock.clone(), flush, producers: Arc::default() })
    }

    fn open(&self, env: &PartitionEnv) -> Result<Arc<Partition>, Loss> {
        let (disk, data_dir, dir) = (&*env.disk, Path::new(DATA_DIR), Path::new(DIRECTORY));
        let failed = |error| format!("{error:?}");
        let checkpoints = Checkpoints::read(disk, data_dir, false).map_err(failed)?;
        checkpoints.take_marker(disk, data_dir).map_err(failed)?;
        let opening = checkpoints.of(TOPIC, "t", 0);
        if directory_topic_id(disk, dir).map_err(failed)?.is_none() {
            if opening.held_records() {
                return Err("the directory is gone".to_owned());
            }
            // It was never synced: what is there is nobody's.
            let _ = disk.remove_dir_all(dir);
            let made = Partition::create(env, dir.into(), TOPIC, config(), Arc::default()).map_err(failed)?;
            if !env.flush.has_pieces(PartitionKey { topic_id: TOPIC, index: 0 }) {
                env.flush.begin().map_err(failed)?;
                return Ok(made);
            }
        }
        disk.sync_dir(data_dir).map_err(|error| error.to_string())?;
        let opened = Partition::open(env, dir.into(), TOPIC, config(), opening);
        let (partition, report) = opened.map_err(failed)?;
        env.flush.begin().map_err(failed)?;
        match report.damage.as_slice() {
            [] => Ok(partition),
            damage => Err(format!("damaged: {damage:?}")),
        }
    }

    /// One life of the broker, from the start to the check of what the next one finds.
    fn live(&mut self) -> Result<(), Loss> {
        let env = self.env()?;
        let partition = self.open(&env)?;
        let power_goes = self.random.one_in(2);
        if power_goes {
            self.disk.cut_power_after(1 + self.random.below(120));
        }
        for _ in 0..self.random.below(40) {
            self.step(&env, &partition);
            self.acknowledge();
            self.seen = self.seen.max(partition.offsets().high_watermark);
        }
        let is_clean = !power_goes && self.random.one_in(3) && self.stop(&partition);
        self.acknowledge();
        drop((partition, env));
        self.forget_what_was_in_flight();
        self.disk = if power_goes || self.random.one_in(2) {
            self.disk.power_cut()
        } else {
            self.disk.process_kill()
        };
        self.check(is_clean)
    }

    fn step(&mut self, env: &PartitionEnv, partition: &Arc<Partition>) {
        self.clock.advance(self.random.below(300) as i64);
        match self.random.below(20) {
            0..10 => {
                let which = self.random.below(2) as usize;
                let count = 1 + self.random.below(3) as usize;
                let value_len = self.random.below(200) as usize;
                self.producers[which].send(partition, count, value_len);
            }
            10..15 => {
                env.flush.run_due();
            }
            15 => match partition.maintain() {
                Ok(_) => self.log_start = partition.offsets().log_start,
                // It may have been decided and not done; the next life does it then.
                Err(_) => self.log_start = self.log_start.max(self.deletable()),
            },
            16 => checkpoint(&*env.disk, partition.positions()),
            17 => {
                let failing = [Operation::SyncData, Operation::Write, Operation::SyncDir, Operation::Create];
                let operation = failing[self.random.below(4) as usize];
                let after = self.random.below(3) as u32;
                let error = io::ErrorKind::Other;
                self.disk.inject(Fault {
                    operation,
                    path_contains: ["t-0", "journal"][self.random.below(2) as usize].to_owned(),
                    after,
                    times: 1,
                    error,
                });
            }
            _ => self.disk.clear_faults(),
        }
    }

    /// A clean stop; whether it came to its end.
    fn stop(&mut self, partition: &Partition) -> bool {
        self.disk.clear_faults();
        if partition.close().is_err() {
            return false;
        }
        if self.disk.sync_file_system(Path::new(DATA_DIR)).is_err() {
            return false;
        }
        checkpoint(&self.disk, partition.positions());
        Checkpoints::mark_clean(&self.disk, Path::new(DATA_DIR)).is_ok()
    }

    /// Up to where retention by size may go, as far as acknowledgements tell.
    fn deletable(&self) -> i64 {
        let in_flight = self.producers.iter().flat_map(|producer| &producer.unacknowledged);
        let mut size: usize = in_flight.map(|unacknowledged| unacknowledged.bytes.len()).sum();
        for (base_offset, bytes) in self.acknowledged.iter().rev() {
            size += bytes.len() + 16;
            if size >= RETENTION_BYTES as usize {
                return *base_offset;
            }
        }
        0
    }

    /// Takes in which batches are durable by now, and which have to be sent again.
    fn acknowledge(&mut self) {
        for producer in &mut self.producers {
            for unacknowledged in &mut producer.unacknowledged {
                if let Some((base_offset, durable)) = &mut unacknowledged.sent {
                    match poll(durable) {
                        Some(true) => {
                            self.acknowledged.insert(*base_offset, unacknowledged.bytes.slice(16..));
                        }
                        Some(false) => unacknowledged.sent = None,
                        None => {}
                    }
                }
            }
            let acknowledged = &self.acknowledged;
            let is_acknowledged = |first: &Unacknowledged| {
                let sent = first.sent.as_ref();
                sent.is_some_and(|(base, _)| {
                    acknowledged.get(base).is_some_and(|bytes| *bytes == first.bytes[16..])
                })
            };
            while producer.unacknowledged.front().is_some_and(is_acknowledged) {
                producer.unacknowledged.pop_front();
            }
        }
    }

    fn forget_what_was_in_flight(&mut self) {
        for producer in &mut self.producers {
            producer.unacknowledged.iter_mut().for_each(|unacknowledged| unacknowledged.sent = None);
        }
    }

    /// What a life left behind: everything acknowledged, every producer's batches once and in order, no more.
    fn check(&mut self, is_clean: bool) -> Result<(), Loss> {
        let env = self.env()?;
        let partition = self.open(&env)?;
        let offsets = partition.offsets();
        if offsets.log_end < self.seen {
            return Err(format!("offset {} was seen, the log ends at {}", self.seen, offsets.log_end));
        }
        if is_clean && partition.leader_epoch() != 0 && self.acknowledged.is_empty() {
            return Err("a clean stop was recovered".to_owned());
        }
        let mut found = BTreeMap::new();
        let mut last_sequences = BTreeMap::new();
        for batch in batches(&partition)? {
            let (view, _) = Batch::stored(&batch).map_err(|error| format!("{error:?}"))?;
            let expected = last_sequences.insert(view.producer_id(), view.last_sequence());
            if expected.is_some_and(|last: i32| last + 1 != view.base_sequence()) {
                return Err(format!("producer {} goes from {expected:?} to {view:?}", view.producer_id()));
            }
            found.insert(view.base_offset(), batch.slice(16..));
        }
        // The deletion of segments need not survive, but what it deleted is not missed.
        let must_be_there = self.acknowledged.range(self.log_start.max(offsets.log_start)..);
        if offsets.log_start > self.log_start {
            return Err(format!(
                "the log starts at {}, {} may be deleted",
                offsets.log_start, self.log_start
            ));
        }
        for (base_offset, bytes) in must_be_there {
            if found.get(base_offset) != Some(bytes) {
                return Err(format!("the batch at {base_offset} was acknowledged and is gone"));
            }
        }
        self.resend(&env, &partition)
    }

    /// Every batch that was not acknowledged is sent again, and every one is taken, stored already or not.
    fn resend(&mut self, env: &PartitionEnv, partition: &Arc<Partition>) -> Result<(), Loss> {
        for producer in &mut self.producers {
            for unacknowledged in &mut producer.unacknowledged {
                let appended = partition.append(unacknowledged.bytes.clone());
                let appended = appended.map_err(|error| format!("a retry is refused: {error:?}"))?;
                unacknowledged.sent = Some((appended.base_offset, partition.durable(appended.mark)));
            }
        }
        env.flush.run_due();
        self.acknowledge();
        self.seen = self.seen.max(partition.offsets().high_watermark);
        match self.producers.iter().all(|producer| producer.unacknowledged.is_empty()) {
            true => Ok(()),
            false => Err("a retry is not acknowledged".to_owned()),
        }
    }

    /// Indexes and snapshot of the log as it was recovered and closed equal those made from its batches alone.
    fn compare_with_a_fresh_scan(self) -> Result<(), Loss> {
        let (env, dir) = (self.env()?, Path::new(DIRECTORY));
        let partition = self.open(&env)?;
        partition.close().map_err(|error| format!("{error:?}"))?;
        let (recovered, recovered_producers) = (derived_files(&*env.disk)?, partition.producer_snapshot());
        for name in recovered.keys() {
            self.disk.remove_file(&dir.join(name)).map_err(|error| format!("{error:?}"))?;
        }
        let (fresh, _) = Partition::open(&env, DIRECTORY.into(), TOPIC, config(), Opening::default())
            .map_err(|error| format!("{error:?}"))?;
        fresh.close().map_err(|error| format!("{error:?}"))?;
        let mut scanned = derived_files(&*env.disk)?;
        // A fresh scan knows no more of producers than the batches that retention left.
        let is_whole = fresh.offsets().log_start == 0 && self.log_start == 0;
        if is_whole && fresh.producer_snapshot() != recovered_producers {
            return Err("the producers are not those of a fresh scan".to_owned());
        }
        scanned.retain(|name, _| !name.ends_with(".snapshot"));
        for (name, bytes) in &scanned {
            if recovered.get(name) != Some(bytes) {
                return Err(format!("{name} is not that of a fresh scan"));
            }
        }
        Ok(())
    }
}

impl Producer {
    /// Sends again what has to be, else something new if not too much is in flight.
    fn send(&mut self, partition: &Arc<Partition>, count: usize, value_len: usize) {
        if self.unacknowledged.iter().all(|unacknowledged| unacknowledged.sent.is_some()) {
            if self.unacknowledged.len() == IN_FLIGHT_MAX {
                return;
            }
            let producer = Some(ProducerStamp { id: self.id, epoch: 0, sequence: self.next_sequence });
            let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
            for number in 0..count {
                let value = vec![self.next_sequence as u8 ^ number as u8; value_len];
                builder.push(NOW_MS + i64::from(self.next_sequence), None, Some(&value), std::iter::empty());
            }
            self.next_sequence += count as i32;
            self.unacknowledged.push_back(Unacknowledged { bytes: builder.finish(0), sent: None });
        }
        for unacknowledged in
            self.unacknowledged.iter_mut().filter(|unacknowledged| unacknowledged.sent.is_none())
        {
            match partition.append(unacknowledged.bytes.clone()) {
                Ok(appended) => {
                    unacknowledged.sent = Some((appended.base_offset, partition.durable(appended.mark)));
                }
                // What follows would be out of order.
                Err(_) => return,
            }
        }
    }
}

fn checkpoint(disk: &dyn Disk, positions: Positions) {
    // A checkpoint that fails leaves the one before.
    let _ = Checkpoints::write(
        disk,
        Path::new(DATA_DIR),
        &[Checkpointed { topic_id: TOPIC, topic: "t", partition: 0, positions }],
    );
}

fn batches(partition: &Partition) -> Result<Vec<Bytes>, Loss> {
    let (mut batches, mut offset) = (Vec::new(), partition.offsets().log_start);
    loop {
        let isolation = IsolationLevel::ReadUncommitted;
        let request = ReadRequest { offset, max_bytes: 700, at_least_one: true, isolation };
        let mut records = partition.read(request).map_err(|error| format!("{error:?}"))?.records;
        if records.is_empty() {
            return Ok(batches);
        }
        while !records.is_empty() {
            let (batch, _) = Batch::stored(&records).map_err(|error| format!("{error:?}"))?;
            offset = batch.next_offset();
            let size = batch.size();
            batches.push(records.split_to(size));
        }
    }
}

/// The files of the directory that are made from the batches.
fn derived_files(disk: &dyn Disk) -> Result<BTreeMap<String, Vec<u8>>, Loss> {
    let dir = Path::new(DIRECTORY);
    let names = disk.list(dir).map_err(|error| format!("{error:?}"))?.into_iter().map(|entry| entry.name);
    names
        .filter(|name| ["index", "timeindex", "snapshot"].iter().any(|suffix| name.ends_with(suffix)))
        .map(|name| match disk.read(&dir.join(&name)) {
            Ok(bytes) => Ok((name, bytes)),
            Err(error) => Err(format!("{name}: {error:?}")),
        })
        .collect()
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn nothing_acknowledged_is_lost() {
    if let Some(seed) = number_from_env("KAPPA_POWER_CUT_SEED") {
        let schedule = Schedule::new(seed, TakenOut::Nothing);
        return schedule.run().unwrap_or_else(|loss| panic!("seed {seed}: {loss}"));
    }
    let schedules = number_from_env("KAPPA_POWER_CUTS").unwrap_or(10_000);
    for seed in 0..schedules {
        if let Err(loss) = Schedule::new(seed, TakenOut::Nothing).run() {
            panic!("KAPPA_POWER_CUT_SEED={seed}: {loss}");
        }
    }
}

/// How many of 200 schedules are found out without a safeguard.
fn losses_without(taken_out: TakenOut) -> usize {
    (0..200).filter(|seed| Schedule::new(*seed, taken_out).run().is_err()).count()
}

#[test]
fn the_same_schedules_without_the_sync_lose_something() {
    let lost = losses_without(TakenOut::Syncs);
    assert!(lost > 50, "only {lost} of 200 schedules without syncs were found out");
}

#[test]
fn the_same_schedules_without_the_journals_replay_lose_something() {
    let lost = losses_without(TakenOut::Replay);
    assert!(lost > 10, "only {lost} of 200 schedules without the replay were found out");
}
