//! Shortening a log whose records are only there for a folded state: what the state holds is appended once more, and
//! what lies before that goes.
//!
//! The caller begins, appends what the state holds, and ends through [`super::Fold::finish_rewrite`]. Invariants: nothing
//! is deleted before all that was appended since the begin is durable, and nothing at all if a failed sync took any of
//! it back; however it ends, replaying the log gives the same state. Knows nothing of what the records mean.

use super::{DeleteRecordsError, FoldError, Partition};
use crate::log::StorageError;

/// A log smaller than this is left as it is, in bytes.
const BYTES_MIN: u64 = if cfg!(test) { 4 * 1024 } else { 4 * 1024 * 1024 };
/// A log is rewritten when it is so many times as large as what the last rewrite left.
const GROWTH: u64 = 4;

/// A rewrite that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// Offset of the first record that stays.
    from: i64,
    /// Cuts that had been made then.
    cuts: usize,
}

/// Why a log was not shortened.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError<E: std::error::Error> {
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What was rewritten cannot be deleted.
    #[error(transparent)]
    Deletion(#[from] DeleteRecordsError),
    /// The state cannot be shown.
    #[error(transparent)]
    Fold(FoldError<E>),
}

/// When a log is worth a rewrite: by its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RewritePolicy {
    due_bytes: u64,
}

impl Default for RewritePolicy {
    fn default() -> Self {
        Self { due_bytes: BYTES_MIN }
    }
}

impl RewritePolicy {
    /// Whether it is time.
    pub(crate) fn is_due(self, partition: &Partition) -> bool {
        partition.size_bytes() >= self.due_bytes
    }

    /// To be called after a rewrite. One that failed is tried again when the log has grown some more.
    pub(crate) fn tried(&mut self, partition: &Partition, is_done: bool) {
        let size = partition.size_bytes();
        self.due_bytes = if is_done { size.saturating_mul(GROWTH).max(BYTES_MIN) } else { size + BYTES_MIN };
    }
}

impl Partition {
    /// Begins a rewrite: what is appended from here on goes into a new segment and stays.
    ///
    /// # Errors
    /// [`StorageError`]; nothing was changed.
    pub fn begin_rewrite(&self) -> Result<Rewrite, StorageError> {
        let now_ms = self.env.clock.now_ms();
        let mut state = self.state.lock();
        state.check_fence()?;
        if state.is_closed || state.needs_healing() {
            return Err(state.failure("rewrite"));
        }
        let producers = state.producers.clone();
        state.log.roll(now_ms, producers)?;
        Ok(Rewrite { from: state.log.next_offset(), cuts: state.cuts.count() })
    }

    /// Makes durable all that was appended since a rewrite began.
    pub(super) fn keep_rewrite(&self, rewrite: Rewrite) -> Result<(), StorageError> {
        self.sync()?;
        let state = self.state.lock();
        if state.is_closed || state.cuts.count() != rewrite.cuts {
            return Err(state.failure("rewrite"));
        }
        Ok(())
    }

    /// Deletes what lies before a rewrite. Segments that cannot be deleted now go with the next maintenance.
    pub(super) fn drop_rewritten(&self, rewrite: Rewrite) -> Result<(), DeleteRecordsError> {
        self.delete_records(rewrite.from)?;
        self.maintain()?;
        Ok(())
    }
}
