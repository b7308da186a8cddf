//! The partitions that are to be made durable: at once, at a time, or by a sync of their own.
//!
//! Invariant: a partition is in `now` at most once (it knows itself whether it is), and of those taken for a sync no two
//! are the same. Times are those of the steady clock.

use super::dirty::{Dirty, address};
use super::{DIRTY_BYTES_MAX, FlushStats};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::journal::{Frame, Journal, PartitionKey, Piece, Pieces};
use crate::log::StorageError;
use crate::partition::Partition;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Appended bytes beyond which a round begins though more may come.
const GATHERED_BYTES_MAX: usize = 128 * 1024;

type Observer = Box<dyn Fn(Duration) + Send + Sync>;

/// See the module's description.
pub struct FlushQueue {
    pub(super) clock: Clock,
    pub(super) journal: Option<Journal>,
    /// The frame of the round under way; kept, since fresh memory costs more than the copy into it.
    pub(super) frame: Mutex<Frame>,
    /// What the journal held when it was opened, until the partitions have taken it.
    recovered: Mutex<Pieces>,
    /// Those with something in the journal that may not be in their segments.
    pub(super) journaled: Mutex<HashMap<PartitionKey, Weak<Partition>>>,
    pub(super) waiting: Mutex<Waiting>,
    /// Something is to be committed.
    pub(super) commits: Condvar,
    /// Something is to be synced.
    pub(super) syncs: Condvar,
    /// The journal needs something.
    pub(super) upkeep: Condvar,
    pub(super) dirty: Dirty,
    /// Held for a sync of the file system: its error is told to one caller only.
    disk_sync: Mutex<()>,
    disk_failures: AtomicU64,
    observer: OnceLock<Observer>,
    pub(super) counts: Counts,
}

#[derive(Default)]
pub(super) struct Counts {
    commits: AtomicU64,
    committed_partitions: AtomicU64,
    syncs: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
pub(super) struct Waiting {
    /// To be committed in the next round.
    now: Vec<Arc<Partition>>,
    /// To be synced, in turn.
    direct: VecDeque<Arc<Partition>>,
    /// To be synced, by the time in ms at which they are due, and their addresses.
    later: BTreeMap<(i64, usize), Arc<Partition>>,
    /// When each of these is due: it is there once.
    due: HashMap<usize, i64>,
    /// Those that a thread is syncing.
    taken: Vec<Arc<Partition>>,
    /// Whose commit failed and may be on the disk all the same.
    pub(super) blocked: Vec<Arc<Partition>>,
    pub(super) is_stopping: bool,
    /// Rounds under way.
    pub(super) committing: bool,
    /// How many will say themselves when a round is to begin.
    gathering: usize,
}

/// Appends that come together, so that they go into one round: while it gathers, the thread that commits is not woken.
#[derive(Default)]
pub(crate) struct Gathering {
    queue: Option<Arc<FlushQueue>>,
    bytes: usize,
}

impl FlushQueue {
    /// An empty queue without a journal; `clock` says when partitions are due.
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::with(clock, None, Pieces::new(), DIRTY_BYTES_MAX)
    }

    /// An empty queue with a journal and what it held when it was opened, which partitions take as they are opened;
    /// producers wait beyond `dirty_bytes_max`.
    pub fn with_journal(
        clock: Clock,
        journal: Journal,
        recovered: Pieces,
        dirty_bytes_max: usize,
    ) -> Arc<Self> {
        Self::with(clock, Some(journal), recovered, dirty_bytes_max)
    }

    fn with(clock: Clock, journal: Option<Journal>, recovered: Pieces, dirty_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            journal,
            frame: Mutex::new(Frame::new()),
            recovered: Mutex::new(recovered),
            journaled: Mutex::default(),
            waiting: Mutex::default(),
            commits: Condvar::new(),
            syncs: Condvar::new(),
            upkeep: Condvar::new(),
            dirty: Dirty::new(dirty_bytes_max),
            disk_sync: Mutex::new(()),
            disk_failures: AtomicU64::new(0),
            observer: OnceLock::new(),
            counts: Counts::default(),
        })
    }

    /// Every partition has been opened and has in its segments what the journal held: it may be written to.
    ///
    /// # Errors
    /// [`StorageError`] if the journal cannot be written to.
    pub fn begin(&self) -> Result<(), StorageError> {
        self.recovered.lock().clear();
        self.journal.as_ref().map_or(Ok(()), Journal::retire)
    }

    /// Everything is in synced segments and nobody appends any more: the journal holds nothing from now on, durably.
    ///
    /// # Errors
    /// [`StorageError`] if the journal cannot be written to.
    pub(crate) fn end(&self) -> Result<(), StorageError> {
        self.journal.as_ref().map_or(Ok(()), Journal::retire)
    }

    /// Whether the journal held something of a partition that has not been opened since.
    pub fn has_pieces(&self, key: PartitionKey) -> bool {
        self.recovered.lock().contains_key(&key)
    }

    /// What the journal held of a partition when it was opened.
    pub(crate) fn take_pieces(&self, key: PartitionKey) -> Vec<Piece> {
        self.recovered.lock().remove(&key).unwrap_or_default()
    }

    /// What the journal holds of a partition.
    pub(crate) fn pieces_of(&self, key: PartitionKey) -> Result<Vec<Piece>, StorageError> {
        self.journal.as_ref().map_or_else(|| Ok(Vec::new()), |journal| journal.pieces_of(key))
    }

    /// A partition was deleted: nobody will ask for what the journal has of it.
    pub(crate) fn forget(&self, key: PartitionKey) {
        self.release(key, i64::MAX);
        self.journaled.lock().remove(&key);
    }

    /// The segments of a partition have everything up to `offset`.
    pub(crate) fn release(&self, key: PartitionKey, offset: i64) {
        if let Some(journal) = &self.journal {
            journal.release(key, offset);
        }
    }

    /// Has `observer` called with the duration of every commit and sync that succeeds; the first one stays.
    pub fn observe(&self, observer: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Counts since the start.
    pub fn stats(&self) -> FlushStats {
        let counts = &self.counts;
        FlushStats {
            commits: counts.commits.load(Ordering::Relaxed),
            committed_partitions: counts.committed_partitions.load(Ordering::Relaxed),
            syncs: counts.syncs.load(Ordering::Relaxed),
            failures: counts.failures.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            dirty_bytes: self.dirty.bytes(),
            held_producers: self.dirty.waiting() as u64,
        }
    }

    /// Does all that is due now: a round, the syncs that are due or that it left, and what the journal needs. Returns how many partitions were
    /// committed or synced; failures are the partitions' to deal with.
    pub fn run_due(&self) -> usize {
        let mut done = 0;
        loop {
            let due = self.waiting.lock().take_now();
            done += self.commit(&due);
            let mut synced = 0;
            while let Some(partition) = self.take_sync() {
                self.sync(&partition);
                synced += 1;
            }
            done += synced;
            self.sync_dirty();
            self.look_after_journal();
            if synced == 0 && self.waiting.lock().now.is_empty() {
                return done;
            }
        }
    }

    /// Has a partition made durable as soon as can be.
    pub(crate) fn push(&self, partition: Arc<Partition>) {
        if partition.enter_round() {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.now.push(partition);
        // The thread that commits looks for more when it is done; waking it then would be in vain.
        let wakes = !waiting.committing && waiting.gathering == 0 && waiting.now.len() == 1;
        drop(waiting);
        if wakes {
            self.commits.notify_one();
        }
    }

    /// Has a partition synced at this time of the steady clock in ms, or before.
    pub(crate) fn push_at(&self, due_ms: i64, partition: Arc<Partition>) {
        let key = (due_ms, address(Arc::as_ptr(&partition)));
        let mut waiting = self.waiting.lock();
        if waiting.due.get(&key.1).is_some_and(|due_before_ms| *due_before_ms <= due_ms) {
            return;
        }
        waiting.leave_later(key.1);
        waiting.due.insert(key.1, due_ms);
        waiting.later.insert(key, partition);
        let is_first = waiting.later.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(waiting);
        if is_first {
            self.syncs.notify_one();
        }
    }

    /// The same for one whose sync has to be tried again: not once the threads are to end, which take whatever is due then
    /// and would not come to an end on a disk that goes on failing.
    pub(crate) fn push_retry_at(&self, due_ms: i64, partition: Arc<Partition>) {
        if !self.waiting.lock().is_stopping {
            self.push_at(due_ms, partition);
        }
    }

    /// A partition is gone.
    pub(crate) fn leave(&self, partition: &Weak<Partition>) {
        self.waiting.lock().leave_later(address(partition.as_ptr()));
        self.leave_dirty_list(partition);
    }

    /// Has partitions synced, each by itself.
    pub(super) fn push_direct(&self, partitions: impl IntoIterator<Item = Arc<Partition>>) {
        let mut waiting = self.waiting.lock();
        let before = waiting.direct.len();
        waiting.direct.extend(partitions);
        let added = waiting.direct.len() - before;
        drop(waiting);
        for _ in 0..added.min(super::threads::SYNC_THREADS) {
            self.syncs.notify_one();
        }
    }

    /// A partition to be synced now, if there is one.
    pub(super) fn take_sync(&self) -> Option<Arc<Partition>> {
        self.waiting.lock().take_sync(self.clock.steady_ms())
    }

    /// Syncs a partition that was taken.
    pub(super) fn sync(&self, partition: &Arc<Partition>) {
        // A partition that was panicked over is fenced; the others still have to be synced.
        match catch_unwind(AssertUnwindSafe(|| partition.sync())) {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(%error, cause = %error.source, "cannot sync a partition"),
        }
        self.waiting.lock().taken.retain(|taken| !Arc::ptr_eq(taken, partition));
        self.ask_for_upkeep();
    }

    /// Has the journal looked after if it needs something.
    pub(super) fn ask_for_upkeep(&self) {
        if self.journal.as_ref().is_some_and(Journal::needs_upkeep) {
            self.upkeep.notify_one();
        }
    }

    /// How often a sync of the file system failed. What was written and not synced before may be lost, and only a sync of
    /// its file tells.
    pub(crate) fn disk_failures(&self) -> u64 {
        self.disk_failures.load(Ordering::Acquire)
    }

    /// Syncs the file system of `directory` for those who know of `failures` of it.
    ///
    /// # Errors
    /// [`StorageError`], also if another one failed meanwhile.
    pub(crate) fn sync_disk(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        failures: u64,
    ) -> Result<(), StorageError> {
        let _one_at_a_time = self.disk_sync.lock();
        let mut synced = disk.sync_file_system(directory);
        if synced.is_err() {
            self.disk_failures.fetch_add(1, Ordering::AcqRel);
        } else if self.disk_failures() != failures {
            synced = Err(io::Error::other("another sync of it failed meanwhile"));
        }
        synced.map_err(StorageError::on("sync the disk of", directory))
    }

    pub(crate) fn observe_sync(&self, took: Duration, bytes: u64, is_ok: bool) {
        if !is_ok {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.observe_duration(took);
    }

    pub(super) fn observe_commit(&self, took: Duration, partitions: usize, is_ok: bool) {
        if !is_ok {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.counts.committed_partitions.fetch_add(partitions as u64, Ordering::Relaxed);
        self.observe_duration(took);
    }

    fn observe_duration(&self, took: Duration) {
        if let Some(observer) = self.observer.get() {
            observer(took);
        }
    }
}

impl Gathering {
    /// Gathers an append of so many bytes, unless there are many: those are better on their way.
    pub(crate) fn add(&mut self, queue: &Arc<FlushQueue>, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > GATHERED_BYTES_MAX {
            self.end();
        } else if self.queue.is_none() {
            queue.waiting.lock().gathering += 1;
            self.queue = Some(queue.clone());
        }
    }

    fn end(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut waiting = queue.waiting.lock();
        waiting.gathering -= 1;
        let wakes = waiting.gathering == 0 && !waiting.committing && waiting.has_now();
        drop(waiting);
        if wakes {
            queue.commits.notify_one();
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
impl FlushQueue {
    /// A round while somebody syncs, unless he is in one or holds the journal.
    pub(crate) fn commit_beside(&self) {
        let is_held = self.journal.as_ref().is_some_and(Journal::is_held);
        if !is_held && self.frame.try_lock().is_some() {
            let due = self.waiting.lock().take_now();
            self.commit(&due);
        }
    }

    /// Lets go of all that waits: partitions have the queue, which has them.
    pub(crate) fn forget_all(&self) {
        *self.waiting.lock() = Waiting::default();
    }
}

impl Waiting {
    /// Takes everything that is to be committed.
    pub(super) fn take_now(&mut self) -> Vec<Arc<Partition>> {
        let taken = std::mem::take(&mut self.now);
        taken.iter().for_each(|partition| partition.leave_round());
        taken
    }

    fn leave_later(&mut self, address: usize) {
        if let Some(due_ms) = self.due.remove(&address) {
            self.later.remove(&(due_ms, address));
        }
    }

    #[cfg(test)]
    pub(super) fn now_count(&self) -> usize {
        self.now.len()
    }

    #[cfg(test)]
    pub(super) fn later_count(&self) -> usize {
        self.later.len()
    }

    pub(super) fn has_now(&self) -> bool {
        !self.now.is_empty()
    }

    /// Takes out the first partition that is due for a sync and that no thread is syncing, however often it is there: a
    /// sync that begins now covers everything that it was put there for.
    pub(super) fn take_sync(&mut self, now_ms: i64) -> Option<Arc<Partition>> {
        let horizon = if self.is_stopping { i64::MAX } else { now_ms };
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= horizon) {
            self.due.remove(&entry.key().1);
            self.direct.push_back(entry.remove());
        }
        let is_taken =
            |partition: &&Arc<Partition>| self.taken.iter().any(|taken| Arc::ptr_eq(taken, partition));
        let at = self.direct.iter().position(|partition| !is_taken(&partition))?;
        let partition = self.direct.remove(at)?;
        self.direct.retain(|other| !Arc::ptr_eq(other, &partition));
        self.taken.push(partition.clone());
        Some(partition)
    }

    /// When the next partition is due for a sync.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.later.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }
}

impl fmt::Debug for FlushQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushQueue").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
