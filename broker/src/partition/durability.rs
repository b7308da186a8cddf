//! What of a partition is durable: the sync, what follows its success or failure, and those who wait for it.
//!
//! Invariant: a waiter is told that its batch is durable only if a sync that began after the append succeeded and no
//! cut took the batch away. After a failed sync, log, indexes, producers and offsets are those of the synced offset.

use super::offsets::Advance;
use super::waiters::WaiterId;
use super::{Health, Partition, State, Wakers, load_producers};
use crate::log::StorageError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// A point of the log's history to wait for: the end of a batch, as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableMark {
    /// Offset after the batch.
    pub(super) next_offset: i64,
    /// Cuts that had been made then; a later one may have taken the batch away.
    pub(super) cuts: usize,
}

/// Resolves when a batch is durable, or never will be. Dropping it waits no longer and undoes nothing.
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct Durable {
    /// `None` if there is nothing to wait for.
    partition: Option<Arc<Partition>>,
    mark: DurableMark,
    waiter: Option<WaiterId>,
}

impl Partition {
    /// Waits until a batch is as durable as the flush policy promises: until it is synced under
    /// [`crate::flush::FlushMode::Commit`], else not at all.
    pub fn durable(self: &Arc<Self>, mark: DurableMark) -> Durable {
        let waits = self.state.lock().is_commit();
        Durable { partition: waits.then(|| self.clone()), mark, waiter: None }
    }

    /// Waits until a batch is synced, whatever the flush policy is, and has it synced soon.
    pub fn synced(self: &Arc<Self>, mark: DurableMark) -> Durable {
        self.enqueue();
        Durable { partition: Some(self.clone()), mark, waiter: None }
    }

    /// Makes durable what is in the log now, waiting for the device, and tells those who wait. Called by the one that
    /// takes partitions from the flush queue; there is one sync of a partition at a time.
    ///
    /// # Errors
    /// [`StorageError`]; the log was then cut back to what had been synced before.
    pub fn sync(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.syncing.lock();
        let now_ms = self.env.clock.now_ms();
        let job = {
            let mut state = self.state.lock();
            if state.is_closed {
                return Ok(());
            }
            state.begin_sync(now_ms)
        };
        self.sync_and_save(job?, now_ms)
    }

    /// Carries out a sync and then writes what rolled segments left to write. The lock for syncs is held.
    pub(super) fn sync_and_save(&self, begun: BegunSync, now_ms: i64) -> Result<(), StorageError> {
        self.env.flush.count_clean(begun.bytes);
        if let Some(job) = begun.job {
            let started = Instant::now();
            let result = job.run();
            self.env.flush.observe_sync(started.elapsed(), begun.bytes, result.is_ok());
            let mut wakers = Wakers::default();
            let mut state = self.state.lock();
            match &result {
                Ok(()) => {
                    state.log.finish_sync(&job);
                    let synced = job.up_to();
                    if state.is_commit() {
                        state.make_safe(synced, &mut wakers);
                    }
                    state.waiting_for_sync.reached(synced.offset, &mut wakers);
                }
                Err(error) => state.fail_sync(error, now_ms, &mut wakers),
            }
            drop(state);
            wakers.wake();
            result?;
        }
        self.save()
    }

    /// Writes the indexes and snapshots of rolled segments. The lock for syncs is held.
    pub(super) fn save(&self) -> Result<(), StorageError> {
        let job = self.state.lock().log.begin_save();
        if let Some(job) = job {
            job.run()?;
            self.state.lock().log.finish_save(job);
        }
        Ok(())
    }
}

/// A sync that is about to run.
pub(super) struct BegunSync {
    job: Option<crate::log::SyncJob>,
    bytes: u64,
}

impl State {
    /// The sync of what is in the log now. If the last one failed and its end is not cut off yet, that comes first:
    /// what it should have written is never synced again.
    pub(super) fn begin_sync(&mut self, now_ms: i64) -> Result<BegunSync, StorageError> {
        self.flush.is_queued = false;
        self.flush.is_timed = false;
        self.flush.unsynced_records = 0;
        let bytes = std::mem::take(&mut self.flush.unsynced_bytes);
        if let Health::Broken { cut_pending: true, .. } = self.health {
            self.cut_back(now_ms)?;
        }
        Ok(BegunSync { job: self.log.begin_sync(), bytes })
    }

    fn fail_sync(&mut self, error: &StorageError, now_ms: i64, wakers: &mut Wakers) {
        let synced = self.log.synced().offset;
        tracing::error!(%error, cause = %error.source, synced, "a sync failed, what it should have kept is cut off");
        self.cuts.push(synced);
        self.health = Health::Broken { error: error.clone(), retry_ms: now_ms, cut_pending: true };
        if let Err(error) = self.cut_back(now_ms) {
            tracing::error!(%error, cause = %error.source, "the cut has to be tried again");
        }
        self.waiting_for_sync.all(wakers);
    }

    /// Cuts log, producers and offsets back to the synced offset.
    pub(super) fn cut_back(&mut self, now_ms: i64) -> Result<(), StorageError> {
        let synced = self.log.synced().offset;
        self.log.truncate_to(synced, now_ms)?;
        self.producers = load_producers(&self.log, now_ms)?;
        if self.offsets.high_watermark > synced {
            // Consumers may have seen what is gone; the epoch lets them notice.
            self.log.begin_epoch()?;
        }
        self.offsets.advance(Advance::Cut { log_end: synced });
        if self.high_watermark.offset >= synced {
            self.high_watermark = self.log.end();
        }
        if let Health::Broken { cut_pending, .. } = &mut self.health {
            *cut_pending = false;
        }
        Ok(())
    }

    /// Whether the batch that ends at `mark` is durable; `None` if that is not decided.
    fn outcome(&self, mark: DurableMark) -> Option<Result<(), StorageError>> {
        let is_cut = self.cuts.iter().skip(mark.cuts).any(|cut| *cut < mark.next_offset);
        if is_cut {
            return Some(Err(self.failure("keep what was appended to")));
        }
        if self.log.synced().offset >= mark.next_offset {
            return Some(Ok(()));
        }
        self.is_closed.then(|| Err(self.failure("sync")))
    }

    fn failure(&self, action: &'static str) -> StorageError {
        match &self.health {
            Health::Broken { error, .. } => error.clone(),
            Health::Sound => {
                let cause = io::Error::other("it was closed, or a sync failed");
                StorageError::on(action, self.log.directory())(cause)
            }
        }
    }
}

impl Durable {
    /// Whether there is nothing to wait for, as under the policies that promise no sync.
    pub fn is_ready(&self) -> bool {
        self.partition.is_none()
    }
}

impl Future for Durable {
    type Output = Result<(), StorageError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(partition) = &this.partition else { return Poll::Ready(Ok(())) };
        let mut state = partition.state.lock();
        match state.outcome(this.mark) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                let waiter = state.waiting_for_sync.register(this.mark.next_offset, this.waiter, cx.waker());
                this.waiter = Some(waiter);
                Poll::Pending
            }
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let (Some(partition), Some(waiter)) = (&self.partition, self.waiter) {
            partition.state.lock().waiting_for_sync.deregister(waiter);
        }
    }
}
