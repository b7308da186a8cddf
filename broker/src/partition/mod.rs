//! A partition: the only owner of a [`Log`], its producers' state, its offsets, and those who wait for them.
//!
//! One lock guards all of it and is held for a write to the page cache at most; syncs, reads and searches run without.
//! Invariants: `log_start <= high_watermark <= log_end`; under [`crate::flush::FlushMode::Commit`] the high watermark is
//! the synced offset, so nothing that was seen can vanish; the producers' state is that of the log's end. A failed
//! sync is answered and cut off, never retried; a partition whose disk fails refuses writes and heals by itself.
//! It knows no topics, clients, requests or runtimes.

mod append;
mod config;
mod cuts;
mod durability;
mod error;
mod fence;
mod fold;
mod maintenance;
mod memory;
mod offsets;
mod producers;
mod read;
mod rewrite;
mod snapshot;
mod together;
mod waiters;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::flush::{FlushMode, FlushQueue};
use crate::journal::{PartitionKey, Place};
use crate::log::{
    DeletionJob, Log, LogPosition, NewDirectories, Opening, Positions, RecoveryEnd, RecoveryReport,
    RestoredPiece, StorageError, restore,
};
use cuts::Cuts;
use fence::StateLock;
use memory::Held;
use parking_lot::Mutex;
use producers::{Awaited, Producers};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use uuid::Uuid;
use waiters::Waiters;

pub(crate) use durability::{BegunCommit, Commit};
pub(crate) use fence::FenceOnPanic;
pub(crate) use together::SYNC_TOGETHER_MIN;
pub(crate) use waiters::Wakers;

pub use crate::log::ReadManner;
pub use append::{Appended, Expansion};
pub use config::PartitionConfig;
pub use durability::{Durable, DurableMark};
pub use error::{AppendError, DeleteRecordsError, ReadError};
pub use fold::{Fold, FoldError, FoldState};
pub use maintenance::Maintenance;
pub use memory::ProducerMemory;
pub use offsets::Offsets;
pub use producers::{ProducerError, ProducerSummary};
pub use read::{IsolationLevel, Located, ReadRequest, ReadResult, VisiblePast};
pub(crate) use rewrite::RewritePolicy;
pub use rewrite::{Rewrite, RewriteError};

/// What all partitions of a broker share.
#[derive(Clone, Debug)]
pub struct PartitionEnv {
    /// Where their files are.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Clock,
    /// Where they wait to be synced.
    pub flush: Arc<FlushQueue>,
    /// What they may remember of producers.
    pub producers: Arc<ProducerMemory>,
}

/// One partition of a topic.
#[derive(Debug)]
pub struct Partition {
    env: PartitionEnv,
    directory: PathBuf,
    topic_id: Uuid,
    state: StateLock,
    /// What the journal knows the partition by; `None` where its directory has no number, then it is always synced.
    key: Option<PartitionKey>,
    /// Held for maintenance, with the deletion of segments that it has not brought to its end. Taken before `syncing`.
    maintaining: Mutex<Option<DeletionJob>>,
    /// Held for a sync and what belongs to it: there is one at a time. Taken before `state`.
    syncing: Mutex<()>,
    /// Held for a commit, and by whoever cuts the log: taken after `syncing`, before `state`.
    committing: Mutex<()>,
    /// What the settings say of it, for who does not hold `state`.
    needs_keys: AtomicBool,
    /// Whether it waits for the next round of commits, which takes all that is appended before.
    awaits_round: AtomicBool,
    me: Weak<Partition>,
}

#[derive(Debug)]
struct State {
    log: Log,
    config: PartitionConfig,
    offsets: Offsets,
    /// Where the high watermark lies in the log.
    high_watermark: LogPosition,
    producers: Producers,
    /// Their number.
    held: Held,
    awaited: Awaited,
    health: Health,
    flush: FlushState,
    /// What failed syncs and commits have cut off.
    cuts: Cuts,
    /// Whether it is not known what of a failed commit is on the disk.
    is_blocked: bool,
    /// Whether a failed sync may have lost from the segments what the journal has.
    must_write_again: bool,
    waiting_for_sync: Waiters,
    waiting_for_records: Waiters,
    is_closed: bool,
}

/// Whether the disk lets the partition work.
#[derive(Debug)]
enum Health {
    Sound,
    Broken {
        error: StorageError,
        /// When the next append tries again, in ms of the steady clock.
        retry_ms: i64,
        /// Whether log and producers must still be cut back to the synced offset.
        cut_pending: bool,
    },
    /// A thread panicked over the partition: it stays as it is until the broker is started again.
    Fenced {
        /// What everyone is told.
        error: StorageError,
    },
}

/// What the flush queue has of the partition, and why it should have it.
#[derive(Debug, Default)]
struct FlushState {
    is_queued: bool,
    /// When the next sync begins at the latest, in ms of the steady clock; a time that has passed says nothing.
    due_ms: Option<i64>,
    /// Whether its last sync could not begin, for want of a repair or of the disk.
    must_retry: bool,
    /// Whether it is in the list of those with unsynced bytes.
    is_listed: bool,
    /// Whether a sync that was begun was left to one of its own, which tells whether the segments still have what they had.
    is_put_back: bool,
    /// Failed syncs of the file system that there had been before the last sync that succeeded.
    failures_seen: u64,
    unsynced_records: i64,
    unsynced_bytes: u64,
}

impl Partition {
    /// Makes the partition of `topic_id` in a directory that must not be there yet, beside `siblings` that are made with
    /// it. Nothing is durable before its first sync.
    ///
    /// # Errors
    /// [`StorageError`]; what was made is removed again, if the disk lets it.
    pub fn create(
        env: &PartitionEnv,
        directory: PathBuf,
        topic_id: Uuid,
        config: PartitionConfig,
        siblings: Arc<NewDirectories>,
    ) -> Result<Arc<Self>, StorageError> {
        let now_ms = env.clock.now_ms();
        let log = Log::create(env.disk.clone(), directory, topic_id, config.log.clone(), now_ms, siblings)?;
        Ok(Self::with_log(env, log, config, Producers::default()))
    }

    /// Opens the partition in `directory`, which belongs to `topic_id` and whose name is durable. It is recovered first
    /// unless `opening` says that it was closed cleanly.
    ///
    /// # Errors
    /// [`StorageError`], also if there is no such directory or it belongs to another topic. Damage is no error but
    /// reported.
    pub fn open(
        env: &PartitionEnv,
        directory: PathBuf,
        topic_id: Uuid,
        config: PartitionConfig,
        opening: Opening,
    ) -> Result<(Arc<Self>, RecoveryReport), StorageError> {
        Self::open_with(env, directory, topic_id, config, (opening, RecoveryEnd::Synced))
    }

    /// The same, with `ending` to say who syncs what was recovered.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn open_with(
        env: &PartitionEnv,
        directory: PathBuf,
        topic_id: Uuid,
        config: PartitionConfig,
        (opening, ending): (Opening, RecoveryEnd),
    ) -> Result<(Arc<Self>, RecoveryReport), StorageError> {
        let now_ms = env.clock.now_ms();
        let opening = restore_from_journal(env, &directory, topic_id, opening)?;
        let (disk, log_config, how) = (env.disk.clone(), config.log.clone(), (opening, ending));
        let (mut log, report) = Log::open_with(disk, directory, topic_id, log_config, how, now_ms)?;
        let held = Held::new(env.producers.clone());
        let producers = load_producers(&log, &held, env.clock.steady_ms())?;
        if log.lacks_snapshot() && !producers.is_empty() {
            log.save_snapshot(&snapshot::encode(&producers))?;
        }
        Ok((Self::with_log(env, log, config, producers), report))
    }

    fn with_log(env: &PartitionEnv, log: Log, config: PartitionConfig, producers: Producers) -> Arc<Self> {
        let (directory, topic_id) = (log.directory().to_path_buf(), log.topic_id());
        let key = key(topic_id, &directory);
        let mut held = Held::new(env.producers.clone());
        held.set(producers.len());
        let needs_keys = config.needs_keys;
        let state = State {
            offsets: Offsets::opened(log.log_start(), log.next_offset()),
            high_watermark: log.end(),
            config,
            producers,
            held,
            awaited: Awaited::default(),
            health: Health::Sound,
            flush: FlushState::default(),
            cuts: Cuts::default(),
            is_blocked: false,
            must_write_again: false,
            waiting_for_sync: Waiters::default(),
            waiting_for_records: Waiters::default(),
            is_closed: false,
            log,
        };
        Arc::new_cyclic(|me| Self {
            env: env.clone(),
            directory,
            topic_id,
            state: StateLock::new(state),
            key,
            maintaining: Mutex::new(None),
            syncing: Mutex::new(()),
            committing: Mutex::new(()),
            needs_keys: AtomicBool::new(needs_keys),
            awaits_round: AtomicBool::new(false),
            me: me.clone(),
        })
    }

    /// Whether it was closed or deleted: it will not change any more.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// The offsets that bound what may be read.
    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// What the checkpoints of the data directory say of the partition.
    pub fn positions(&self) -> Positions {
        let state = self.state.lock();
        Positions { recovery_point: state.log.recovery_point(), log_start: state.offsets.log_start }
    }

    /// The settings.
    pub fn config(&self) -> PartitionConfig {
        self.state.lock().config.clone()
    }

    /// Takes other settings; they hold from the next append on.
    pub fn reconfigure(&self, config: PartitionConfig) {
        let mut wakers = Wakers::default();
        let mut state = self.state.lock();
        state.log.reconfigure(config.log.clone());
        self.needs_keys.store(config.needs_keys, Ordering::Relaxed);
        state.config = config;
        if !state.is_commit() {
            let end = state.log.end();
            state.make_safe(end, &mut wakers);
        }
        drop(state);
        wakers.wake();
        // A stricter flush policy covers what a laxer one left unsynced.
        self.enqueue();
    }

    /// The epoch that batches are appended under.
    pub fn leader_epoch(&self) -> i32 {
        self.state.lock().log.leader_epoch()
    }

    /// The epoch of the batch at `offset`, or of those to come there.
    pub fn epoch_at(&self, offset: i64) -> i32 {
        self.state.lock().log.epoch_at(offset)
    }

    /// Makes the epoch at least `floor`, or the next one if it is and the log `was_closed` in no good order, see
    /// [`EpochFloor`](crate::log::EpochFloor). Before anyone is shown anything.
    ///
    /// # Errors
    /// [`StorageError`]; nothing may be shown then.
    pub(crate) fn raise_epoch(&self, floor: i32, was_closed: bool) -> Result<(), StorageError> {
        self.state.lock().log.raise_epoch(floor, was_closed)
    }

    /// The largest epoch that is at most `epoch`, and the offset after its last record; `None` if there is none.
    pub fn epoch_end(&self, epoch: i32) -> Option<(i32, i64)> {
        self.state.lock().log.epoch_end(epoch)
    }

    /// Id of the topic that the directory belongs to.
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// The directory.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Offsets, size in bytes and number of segments, all of one moment.
    pub fn figures(&self) -> (Offsets, u64, usize) {
        let state = self.state.lock();
        (state.offsets, state.log.size(), state.log.segment_count())
    }

    /// Bytes of batches in the log.
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().log.size()
    }

    /// Makes durable that the directory is there and whose it is, before anything is in it.
    pub(crate) fn make_root_durable(&self) -> Result<(), StorageError> {
        self.state.lock().log.make_root_durable()
    }

    /// Whether its segments lack something that a sync would give them.
    pub(crate) fn needs_sync(&self) -> bool {
        self.state.lock().log.needs_sync()
    }

    /// The same after a sync of many, for who was taken out of the queue: with nothing to sync it is in none.
    pub(crate) fn still_needs_sync(&self) -> bool {
        let mut state = self.state.lock();
        let needs_sync = state.log.needs_sync();
        state.flush.is_queued &= needs_sync;
        needs_sync
    }

    /// Whether [`Partition::close`] would write something.
    pub(crate) fn needs_closing(&self) -> bool {
        self.state.lock().log.needs_closing()
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.state.lock().log.segment_count()
    }

    /// Whether the disk failed and no append has succeeded since, or a thread panicked over the partition.
    pub fn is_broken(&self) -> bool {
        !matches!(self.state.lock().health, Health::Sound)
    }

    /// Those who wait, for the sync and for records.
    pub fn waiter_counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.waiting_for_sync.len(), state.waiting_for_records.len())
    }

    /// The idempotent producers that the partition knows, in no particular order.
    pub fn producers(&self) -> Vec<ProducerSummary> {
        self.state.lock().producers.summaries()
    }

    /// The producers' state as a snapshot has it: equal bytes are equal states.
    pub fn producer_snapshot(&self) -> Vec<u8> {
        snapshot::encode(&self.state.lock().producers)
    }

    /// Has the partition synced soon if there is something to sync and it does not wait for that already.
    fn enqueue(&self) {
        let mut state = self.state.lock();
        if state.log.is_dirty() && !std::mem::replace(&mut state.flush.is_queued, true) {
            drop(state);
            self.push_to_queue();
        }
    }

    /// Takes note that it waits for a round. Returns whether it did already.
    pub(crate) fn enter_round(&self) -> bool {
        self.awaits_round.swap(true, Ordering::AcqRel)
    }

    /// Takes note that a round takes it; to be called before the round looks at it.
    pub(crate) fn leave_round(&self) {
        self.awaits_round.store(false, Ordering::Release);
    }

    fn push_to_queue(&self) {
        if let Some(me) = self.me.upgrade() {
            self.env.flush.push(me);
        }
    }
}

impl State {
    /// Whether only what is synced is safe.
    fn is_commit(&self) -> bool {
        self.config.flush.mode() == FlushMode::Commit
    }

    /// Forgets the producers that sent nothing since `before_ms` of the steady clock.
    fn forget_producers(&mut self, before_ms: i64) {
        self.producers.expire(before_ms);
        self.held.set(self.producers.len());
        self.awaited.expire(before_ms);
    }

    /// Moves the high watermark to `position` and takes the wakers of those who waited for that.
    fn make_safe(&mut self, position: LogPosition, wakers: &mut Wakers) {
        if position.offset > self.offsets.high_watermark {
            self.offsets.advance(offsets::Advance::Safe { high_watermark: position.offset });
            self.high_watermark = position;
            self.waiting_for_records.reached(position.offset, wakers);
        }
    }
}

/// Puts into the segments what only the journal has of a partition. The log is to be recovered then.
fn restore_from_journal(
    env: &PartitionEnv,
    directory: &Path,
    topic_id: Uuid,
    opening: Opening,
) -> Result<Opening, StorageError> {
    let key = key(topic_id, directory);
    let known = opening.recovery_point.max(opening.log_start);
    let pieces = key.map(|key| env.flush.take_pieces(key)).unwrap_or_default();
    #[cfg(test)]
    let pieces = match crate::safeguard::Safeguard::JournalReplay.is_taken_out() {
        true => Vec::new(),
        false => pieces,
    };
    let lacking: Vec<_> = pieces.into_iter().filter(|piece| piece.place.next_offset > known).collect();
    if lacking.is_empty() {
        return Ok(opening);
    }
    let pieces = lacking.iter().map(|piece| {
        let Place { segment, position, .. } = piece.place;
        Ok(RestoredPiece { segment, position, bytes: piece.read()? })
    });
    restore(env.disk.clone(), directory.to_path_buf(), topic_id, pieces)?;
    Ok(Opening { clean: false, ..opening })
}

/// What the journal knows a partition by; its number is at the end of its directory's name.
fn key(topic_id: Uuid, directory: &Path) -> Option<PartitionKey> {
    let index = directory.file_name()?.to_str()?.rsplit_once('-')?.1.parse().ok()?;
    Some(PartitionKey { topic_id, index })
}

/// The producers as of the log's end: from the newest snapshot that can be used, and the batches behind it.
fn load_producers(log: &Log, held: &Held, steady_ms: i64) -> Result<Producers, StorageError> {
    let (mut producers, mut from) = (Producers::default(), 0);
    let mut before = log.next_offset();
    while let Some((offset, bytes)) = log.snapshot_before(before)? {
        if let Some(decoded) = snapshot::decode(&bytes, steady_ms, held.limit()) {
            (producers, from) = (decoded, offset);
            break;
        }
        tracing::warn!(directory = %log.directory().display(), offset, "a producer snapshot is damaged");
        before = offset - 1;
    }
    if from < log.next_offset() {
        log.replay(from, |batch| producers.add(batch, batch.base_offset(), steady_ms, held.limit()))?;
    }
    Ok(producers)
}

#[cfg(test)]
impl Partition {
    /// Whether somebody holds the lock that everybody needs.
    pub(crate) fn is_locked(&self) -> bool {
        self.state.is_locked()
    }
}

#[cfg(test)]
mod tests;
