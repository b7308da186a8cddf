//! A state that is a fold of a partition's log: the one way by which an internal topic becomes memory.
//!
//! Whoever asks for the state first applies what has become safe since, in the order of the log, under the fold's own
//! lock. Invariants: the state shows exactly the batches below the high watermark, so nothing is seen before it is
//! durable; the same code runs at the start and later, so dropping the state and replaying gives the same one; a state
//! that lacks a batch, or that a thread panicked over, is never shown.
//! It knows neither what the records mean nor who asks.

use super::rewrite::{Rewrite, RewriteError};
use super::{IsolationLevel, Offsets, Partition, ReadError, ReadRequest};
use kappa_protocol::record::{Batch, BatchError};
use parking_lot::Mutex;
use std::sync::Arc;

/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;

/// What folds batches: they come once each, in the order of their offsets.
pub trait FoldState {
    /// Why a batch makes no sense.
    type Error: std::error::Error;

    /// Takes in a batch, control batches included.
    ///
    /// # Errors
    /// If it makes no sense. Nothing is shown then until it does: it is given again when somebody asks, so taking in once
    /// more what it has of the batch must change nothing.
    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), Self::Error>;
}

/// Why a fold cannot show its state.
#[derive(Debug, thiserror::Error)]
pub enum FoldError<E: std::error::Error> {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log holds something that is no batch.
    #[error("the batch at offset {offset} is damaged")]
    Batch {
        /// Where it should be.
        offset: i64,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
    /// Records that were not applied yet were deleted.
    #[error("the state was folded up to offset {next_offset}, but the log begins at {log_start}")]
    Behind {
        /// Offset of the next batch to apply.
        next_offset: i64,
        /// First offset of the log.
        log_start: i64,
    },
    /// The log ends before its high watermark: a state without what is missing would be an older one.
    #[error("the records from offset {next_offset} to {} are missing", high_watermark - 1)]
    Missing {
        /// Offset of the first that is missing.
        next_offset: i64,
        /// The high watermark.
        high_watermark: i64,
    },
    /// A batch makes no sense to the state.
    #[error("the batch before offset {next_offset} cannot be applied")]
    State {
        /// Offset after the batch.
        next_offset: i64,
        /// What the state said.
        #[source]
        source: E,
    },
}

/// A partition and the state that its batches make.
#[derive(Debug)]
pub struct Fold<S> {
    partition: Arc<Partition>,
    folded: Mutex<Folded<S>>,
}

#[derive(Debug)]
struct Folded<S> {
    state: S,
    /// Offset of the next batch to apply; `None` before the first.
    next_offset: Option<i64>,
}

impl<S: FoldState> Fold<S> {
    /// A fold that has applied nothing yet; `state` is the empty one.
    pub fn new(partition: Arc<Partition>, state: S) -> Self {
        Self { partition, folded: Mutex::new(Folded { state, next_offset: None }) }
    }

    /// The partition whose log is folded.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Applies what has become safe and looks at the state. Asking again costs little when nothing is new.
    ///
    /// # Errors
    /// [`FoldError`]; the closure was not called.
    pub fn with<R>(&self, look: impl FnOnce(&S) -> R) -> Result<R, FoldError<S::Error>> {
        self.with_mut(|state| look(state))
    }

    /// Like [`Fold::with`], for what the state keeps beside the fold, such as caches. What batches decide must be
    /// changed by batches alone.
    ///
    /// # Errors
    /// [`FoldError`]; the closure was not called.
    pub fn with_mut<R>(&self, look: impl FnOnce(&mut S) -> R) -> Result<R, FoldError<S::Error>> {
        let mut folded = self.folded.lock();
        // Let go of after the fence, so that nobody sees what a panic left.
        let _fence = self.partition.fence_on_panic();
        let offsets = self.partition.sound_offsets()?;
        folded.catch_up(&self.partition, offsets)?;
        Ok(look(&mut folded.state))
    }

    /// Ends a [`Rewrite`]: what lies before it goes once all since its begin is durable and applied. May wait for the
    /// disk.
    ///
    /// # Errors
    /// [`RewriteError`]; nothing is lost then, and what goes may go later.
    pub fn finish_rewrite(&self, rewrite: Rewrite) -> Result<(), RewriteError<S::Error>> {
        self.partition.keep_rewrite(rewrite)?;
        self.with(|_| ()).map_err(RewriteError::Fold)?;
        self.partition.drop_rewritten(rewrite)?;
        Ok(())
    }
}

impl<S: FoldState> Folded<S> {
    fn catch_up(&mut self, partition: &Partition, offsets: Offsets) -> Result<(), FoldError<S::Error>> {
        let Offsets { log_start, high_watermark, .. } = offsets;
        let mut next_offset = match self.next_offset {
            Some(next_offset) if next_offset < log_start => {
                return Err(FoldError::Behind { next_offset, log_start });
            }
            next_offset => next_offset.unwrap_or(log_start),
        };
        while next_offset < high_watermark {
            let request = ReadRequest {
                offset: next_offset,
                max_bytes: READ_BYTES,
                at_least_one: true,
                isolation: IsolationLevel::ReadUncommitted,
            };
            let read = partition.read(request)?;
            let mut rest = &*read.records;
            if rest.is_empty() {
                return Err(FoldError::Missing { next_offset, high_watermark });
            }
            while !rest.is_empty() {
                let (batch, after) =
                    Batch::stored(rest).map_err(|source| FoldError::Batch { offset: next_offset, source })?;
                rest = after;
                let after_batch = batch.next_offset();
                self.state
                    .apply(&batch)
                    .map_err(|source| FoldError::State { next_offset: after_batch, source })?;
                next_offset = after_batch;
                self.next_offset = Some(next_offset);
            }
        }
        self.next_offset = Some(next_offset);
        Ok(())
    }
}
