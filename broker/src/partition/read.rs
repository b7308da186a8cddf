//! Reading what is visible, and waiting for more of it to be.
//!
//! Invariant: nothing at or after the high watermark is ever returned. The lock is held to plan a read, not for the
//! read; if a failed sync cut the log meanwhile, the read is planned again.

use super::waiters::WaiterId;
use super::{Offsets, Partition, ReadError, State};
use crate::log::{ReadLimit, ReadManner, ReadPlan, Slice, SliceError, TimestampSearch, TimestampedOffset};
use bytes::Bytes;
use kappa_protocol::Records;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Whether records of open transactions are visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationLevel {
    /// All records below the high watermark.
    #[default]
    ReadUncommitted,
    /// Those below the last stable offset.
    ReadCommitted,
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// First wanted offset; the batch that contains it comes whole.
    pub offset: i64,
    /// Bytes of batches at most.
    pub max_bytes: usize,
    /// Whether the first batch comes even if it is larger.
    pub at_least_one: bool,
    /// Which records are visible.
    pub isolation: IsolationLevel,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// Whole batches; empty if nothing is visible at the offset, or the first batch is over the limit.
    pub records: Bytes,
    /// The partition's offsets when the read was planned.
    pub offsets: Offsets,
}

/// The same, some of it perhaps left in its file.
#[derive(Clone, Debug)]
pub struct Located {
    /// Whole batches; a region is of an [`crate::disk::OpenFile`].
    pub records: Records,
    /// The partition's offsets when the read was planned.
    pub offsets: Offsets,
}

/// A read as planned under the lock.
struct Planned {
    /// `None` if nothing is visible at the offset.
    plan: Option<ReadPlan>,
    offsets: Offsets,
    cuts: usize,
}

impl Partition {
    /// Reads, waiting for the disk where it must.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, request: ReadRequest) -> Result<ReadResult, ReadError> {
        let manner = ReadManner { may_wait: true, region_min: usize::MAX };
        let located = self.locate(request, manner)?.expect("a read that may wait comes to an end");
        Ok(ReadResult { records: located.records.to_bytes(), offsets: located.offsets })
    }

    /// Reads, but leaves large ranges in their file; `None` if the disk would have to be waited for and may not: then
    /// this is to be called where waiting hurts nobody. A region stays what it is but for what a failed sync cuts off, which
    /// under [`crate::flush::FlushMode::Commit`] nobody has seen.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn locate(&self, request: ReadRequest, manner: ReadManner) -> Result<Option<Located>, ReadError> {
        let limit = ReadLimit { max_bytes: request.max_bytes, at_least_one: request.at_least_one };
        let mut offset = request.offset;
        loop {
            let Planned { plan, offsets, cuts } = self.plan_read(offset, request.max_bytes)?;
            let Some(plan) = plan else {
                return Ok(Some(Located { records: Records::default(), offsets }));
            };
            let slice = match plan.try_read(limit, manner) {
                Ok(Some(slice)) => slice,
                Ok(None) => return Ok(None),
                // The segment may have been deleted since; the plan then says that the offset is out of range.
                Err(SliceError::Storage(error)) if error.is_not_found() && self.offsets() != offsets => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let records = match slice {
                _ if self.state.lock().cuts.count() != cuts => continue,
                Slice::Batches(bytes) => Records::from(bytes),
                Slice::Region(region) => Records::from(region),
                Slice::Beyond(next) => {
                    offset = next.max(offset + 1);
                    continue;
                }
            };
            return Ok(Some(Located { records, offsets }));
        }
    }

    /// The offsets, unless a thread panicked over the partition.
    pub(super) fn sound_offsets(&self) -> Result<Offsets, ReadError> {
        let state = self.state.lock();
        state.check_fence().map_err(|error| ReadError::Slice(SliceError::Storage(error)))?;
        Ok(state.offsets)
    }

    fn plan_read(&self, offset: i64, max_bytes: usize) -> Result<Planned, ReadError> {
        let state = self.state.lock();
        state.check_readable()?;
        let offsets = state.offsets;
        let (log_start, log_end) = (offsets.log_start, offsets.log_end);
        if offset < log_start || offset > log_end {
            return Err(ReadError::OutOfRange { offset, log_start, log_end });
        }
        let plan = state.log.plan_read_of(offset, state.high_watermark, max_bytes);
        Ok(Planned { plan, offsets, cuts: state.cuts.count() })
    }

    /// Bytes that are visible at and after `offset`, as far as its segment shows; a little more than there are, and
    /// [`usize::MAX`] if the disk would have to be asked.
    pub fn readable_bytes(&self, offset: i64) -> usize {
        match self.plan_read(offset, usize::MAX) {
            Ok(Planned { plan: Some(plan), .. }) => {
                plan.bytes_ahead().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX)
            }
            _ => 0,
        }
    }

    /// The first visible record whose timestamp is `timestamp` or later. May wait for the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<TimestampedOffset>, ReadError> {
        Ok(self.timestamp_search()?.first_at(timestamp)?)
    }

    /// The first visible record that has the largest timestamp. May wait for the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn max_timestamp_offset(&self) -> Result<Option<TimestampedOffset>, ReadError> {
        Ok(self.timestamp_search()?.latest()?)
    }

    fn timestamp_search(&self) -> Result<TimestampSearch, ReadError> {
        let state = self.state.lock();
        state.check_readable()?;
        Ok(state.log.timestamp_search(state.high_watermark))
    }

    /// Waits until there is a visible record at or after `offset`, or the partition refuses reads.
    pub fn visible_past(self: &Arc<Self>, offset: i64) -> VisiblePast {
        VisiblePast { partition: Arc::downgrade(self), offset, waiter: None }
    }
}

impl State {
    fn check_readable(&self) -> Result<(), ReadError> {
        match self.is_closed {
            true => Err(ReadError::Closed),
            false => self.check_fence().map_err(|error| ReadError::Slice(SliceError::Storage(error))),
        }
    }
}

/// Resolves when a record at or after an offset is visible, or the partition refuses reads or is gone. Dropping it waits
/// no longer.
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct VisiblePast {
    partition: Weak<Partition>,
    offset: i64,
    waiter: Option<WaiterId>,
}

impl Future for VisiblePast {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(partition) = this.partition.upgrade() else { return Poll::Ready(()) };
        let mut state = partition.state.lock();
        if state.offsets.high_watermark > this.offset || state.check_readable().is_err() {
            return Poll::Ready(());
        }
        this.waiter = Some(state.waiting_for_records.register(this.offset + 1, this.waiter, cx.waker()));
        Poll::Pending
    }
}

impl Drop for VisiblePast {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter
            && let Some(partition) = self.partition.upgrade()
        {
            partition.state.lock().waiting_for_records.deregister(waiter);
        }
    }
}
