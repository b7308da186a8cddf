//! The one module that says "partition P is durable up to O": when partitions are synced, and by whom.
//!
//! Dirty partitions wait in a queue, each at most once; a few threads take them and sync them, each partition by one
//! thread at a time. While a sync runs, later appends gather for the next, so that one sync serves all of them, however
//! many there are; syncs of several partitions at a time share the file system's own commits.
//! Invariant: only [`Partition::sync`], called from here, moves a synced offset. What makes bytes durable (a sync per
//! partition now) may change without anyone above or below noticing.

use crate::clock::Clock;
use crate::partition::Partition;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Unsynced bytes of a partition at which it is synced though no policy asks for it.
const DIRTY_BYTES_OF_PARTITION_MAX: u64 = 32 * 1024 * 1024;
/// Unsynced bytes of all partitions at which those with more than a little are synced.
const DIRTY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What is a little.
const DIRTY_BYTES_OF_PARTITION_MIN: u64 = 64 * 1024;
/// Threads that sync. Two writers to 18 partitions were 1.6 times as fast with four as with one, and no faster with
/// eight (docs/adr/0007-four-sync-threads.md).
const THREADS: usize = 4;
/// Time between syncs under [`FlushMode::Interval`] unless `flush.ms` says otherwise, in ms.
const INTERVAL_MS: i64 = 1000;

/// Who waits for the sync (`kappa.flush`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// Producers with acks=all, and consumers: what is acknowledged or shown is on disk.
    #[default]
    Commit,
    /// Nobody; the log is synced in the background at least every second.
    Interval,
    /// Nobody; the operating system writes when it sees fit, as Kafka has it by default.
    Os,
}

impl std::str::FromStr for FlushMode {
    type Err = UnknownFlushMode;

    fn from_str(name: &str) -> Result<Self, UnknownFlushMode> {
        match name {
            "commit" => Ok(Self::Commit),
            "interval" => Ok(Self::Interval),
            "os" => Ok(Self::Os),
            _ => Err(UnknownFlushMode(name.to_owned())),
        }
    }
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Interval => "interval",
            Self::Os => "os",
        })
    }
}

/// A name that is no flush mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown flush mode {0:?}, there are commit, interval and os")]
pub struct UnknownFlushMode(String);

/// When a partition is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Who waits for it.
    pub mode: FlushMode,
    /// Unsynced records at which it is synced (`flush.messages`); with 1, producers wait as under
    /// [`FlushMode::Commit`].
    pub messages: i64,
    /// Longest time in ms that records stay unsynced (`flush.ms`).
    pub ms: i64,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self { mode: FlushMode::default(), messages: i64::MAX, ms: i64::MAX }
    }
}

impl FlushPolicy {
    /// The mode that holds, all settings considered.
    pub fn mode(&self) -> FlushMode {
        if self.messages <= 1 { FlushMode::Commit } else { self.mode }
    }

    /// Longest time in ms that records stay unsynced; `None` for any.
    pub(crate) fn interval_ms(&self) -> Option<i64> {
        match (self.mode, self.ms) {
            (FlushMode::Interval, ms) => Some(ms.min(INTERVAL_MS)),
            (_, i64::MAX) => None,
            (_, ms) => Some(ms),
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Syncs that failed.
    pub failures: u64,
    /// Bytes that they made durable.
    pub bytes: u64,
    /// Bytes appended and not yet given to a sync, now.
    pub dirty_bytes: u64,
}

/// Whether a partition with `of_partition` unsynced bytes out of `of_all` is to be synced though no policy asks for it,
/// so that the kernel never has to stop producers to write back what piled up.
pub(crate) fn is_too_dirty(of_partition: u64, of_all: u64) -> bool {
    of_partition >= DIRTY_BYTES_OF_PARTITION_MAX
        || (of_all >= DIRTY_BYTES_MAX && of_partition >= DIRTY_BYTES_OF_PARTITION_MIN)
}

type Observer = Box<dyn Fn(Duration) + Send + Sync>;

/// Partitions that are to be synced.
pub struct FlushQueue {
    clock: Clock,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    observer: OnceLock<Observer>,
    syncs: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    dirty_bytes: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    now: VecDeque<Arc<Partition>>,
    /// By the time in ms at which they are due, and a number that keeps them apart.
    later: BTreeMap<(i64, u64), Arc<Partition>>,
    numbered: u64,
    /// Those that a thread is syncing.
    taken: Vec<Arc<Partition>>,
    is_stopping: bool,
}

impl FlushQueue {
    /// An empty queue; `clock` says when partitions are due.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            observer: OnceLock::new(),
            syncs: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
        })
    }

    /// Has `observer` called with the duration of every sync that succeeds; the first one stays.
    pub fn observe(&self, observer: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Counts since the start.
    pub fn stats(&self) -> FlushStats {
        FlushStats {
            syncs: self.syncs.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed),
        }
    }

    /// Syncs, in turn, the partitions that are due now. Returns how many; failures are the partitions' to deal with.
    pub fn run_due(&self) -> usize {
        let now_ms = self.clock.now_ms();
        let take = || self.waiting.lock().take_due(now_ms);
        std::iter::from_fn(take).map(|partition| self.sync(&partition)).count()
    }

    /// Has a partition synced as soon as can be; it must not be among those yet.
    pub(crate) fn push(&self, partition: Arc<Partition>) {
        let mut waiting = self.waiting.lock();
        // The thread that syncs it now looks for more when it is done; another would wake in vain.
        let wakes = !waiting.is_taken(&partition);
        waiting.now.push_back(partition);
        drop(waiting);
        if wakes {
            self.changed.notify_one();
        }
    }

    /// Has a partition synced at `due_ms`.
    pub(crate) fn push_at(&self, due_ms: i64, partition: Arc<Partition>) {
        let mut waiting = self.waiting.lock();
        waiting.numbered += 1;
        let key = (due_ms, waiting.numbered);
        waiting.later.insert(key, partition);
        let is_first = waiting.later.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Counts bytes that were appended. Returns how many are not given to a sync yet, in all partitions.
    pub(crate) fn count_dirty(&self, bytes: u64) -> u64 {
        self.dirty_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub(crate) fn count_clean(&self, bytes: u64) {
        self.dirty_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn observe_sync(&self, took: Duration, bytes: u64, is_ok: bool) {
        if !is_ok {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(observer) = self.observer.get() {
            observer(took);
        }
    }

    /// Syncs what is due, again and again, until told to stop and nothing is left that another thread is not syncing.
    fn run(&self) {
        while let Some(partition) = self.wait_for_due() {
            self.sync(&partition);
        }
    }

    fn wait_for_due(&self) -> Option<Arc<Partition>> {
        let mut waiting = self.waiting.lock();
        loop {
            let now_ms = self.clock.now_ms();
            if let Some(partition) = waiting.take_due(now_ms) {
                return Some(partition);
            }
            if waiting.is_stopping {
                return None;
            }
            match waiting.later.first_key_value() {
                Some(((due_ms, _), _)) => {
                    let wait_ms = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0).max(1);
                    self.changed.wait_for(&mut waiting, Duration::from_millis(wait_ms));
                }
                None => self.changed.wait(&mut waiting),
            }
        }
    }

    /// Syncs a partition that was taken.
    fn sync(&self, partition: &Arc<Partition>) {
        if let Err(error) = partition.sync() {
            tracing::error!(%error, cause = %error.source, "cannot sync a partition");
        }
        self.waiting.lock().taken.retain(|taken| !Arc::ptr_eq(taken, partition));
    }
}

impl Waiting {
    /// Takes out the first partition that is due and that no thread is syncing.
    fn take_due(&mut self, now_ms: i64) -> Option<Arc<Partition>> {
        let horizon = if self.is_stopping { i64::MAX } else { now_ms };
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= horizon) {
            self.now.push_back(entry.remove());
        }
        let at = self.now.iter().position(|partition| !self.is_taken(partition))?;
        let partition = self.now.remove(at)?;
        self.taken.push(partition.clone());
        Some(partition)
    }

    /// Whether a thread is syncing a partition.
    fn is_taken(&self, partition: &Arc<Partition>) -> bool {
        self.taken.iter().any(|taken| Arc::ptr_eq(taken, partition))
    }
}

impl fmt::Debug for FlushQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushQueue").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// The threads that serve a queue.
#[derive(Debug)]
pub struct Flusher {
    queue: Arc<FlushQueue>,
    threads: Vec<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn start(queue: Arc<FlushQueue>) -> io::Result<Self> {
        let mut flusher = Self { queue, threads: Vec::with_capacity(THREADS) };
        for number in 0..THREADS {
            let queue = flusher.queue.clone();
            let thread = std::thread::Builder::new().name(format!("flush-{number}"));
            flusher.threads.push(thread.spawn(move || queue.run())?);
        }
        Ok(flusher)
    }

    /// Syncs what waits and ends the threads. Waits for them.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.queue.waiting.lock().is_stopping = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.join();
    }
}
