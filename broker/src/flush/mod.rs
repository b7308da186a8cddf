//! The one module that says "partition P is durable up to O": when partitions are made durable, how, and by whom.
//!
//! Dirty partitions wait in a queue, each at most once. One thread takes all of them and *commits* them in one round:
//! the journal gets what they lack, in one write and one sync. What is cheaper to sync by itself, or has no journal, a
//! few threads *sync*, each partition by one at a time. While either runs, later appends gather for the next.
//! Bytes that are in no synced segment yet are counted; where they are many, producers are held back.
//! Invariant: only a commit or [`crate::partition::Partition::sync`], both called from here, moves a durable offset.
//!
//! - this file: the policies, and what is counted
//! - `queue`: who waits for what
//! - `commit`: a round
//! - `dirty`: what is not synced, and who waits for that
//! - `threads`: who serves the queue

mod commit;
mod dirty;
mod queue;
mod threads;

use std::fmt;

pub(crate) use dirty::Taken;
pub use queue::FlushQueue;
pub(crate) use queue::Gathering;
pub use threads::Flusher;

/// Unsynced bytes of a partition at which it is synced though no policy asks for it.
const DIRTY_BYTES_OF_PARTITION_MAX: u64 = 32 * 1024 * 1024;
/// Unsynced bytes of all partitions beyond which producers wait, unless `kappa.dirty.bytes.max` says otherwise.
pub const DIRTY_BYTES_MAX: usize = 512 * 1024 * 1024;
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
    /// Rounds that the journal took.
    pub commits: u64,
    /// Partitions in them.
    pub committed_partitions: u64,
    /// Syncs of a partition's segments that succeeded.
    pub syncs: u64,
    /// Syncs and commits that failed.
    pub failures: u64,
    /// Bytes that they made durable.
    pub bytes: u64,
    /// Bytes appended and not yet given to a sync, now.
    pub dirty_bytes: u64,
    /// Connections and answers that wait until fewer are, now.
    pub held_producers: u64,
}

/// Whether a partition with so many unsynced bytes is to be synced though no policy asks for it, so that the kernel never
/// has to stop producers to write back what piled up.
pub(crate) fn is_too_dirty(unsynced_bytes: u64) -> bool {
    unsynced_bytes >= DIRTY_BYTES_OF_PARTITION_MAX
}

#[cfg(test)]
mod tests;
