//! What of a partition is durable: syncs and commits, what follows their success or failure, and those who wait.
//!
//! A *sync* makes the segments' files durable; a *commit* has the journal take what they lack. Either may run while the
//! other does. Invariant: a waiter is told that its batch is durable only if a sync or commit that began after the
//! append succeeded and no cut took the batch away. After a failure, log, indexes, producers and offsets are those of
//! the durable offset; no cut is made while a commit or a sync is under way that is not the cutter's own.

use super::fence::FenceOnPanic;
use super::offsets::Advance;
use super::waiters::WaiterId;
use super::{Health, Partition, State, Wakers, load_producers};
use crate::clock::Moment;
use crate::flush::{FlushQueue, Taken};
use crate::journal::{Frame, PartitionKey, Place};
use crate::log::{CommitJob, CutJob, RepairJob, StorageError, SyncError, SyncJob};
use parking_lot::MutexGuard;
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

    /// Makes everything up to `mark` durable, for a thread that may wait for the device.
    ///
    /// # Errors
    /// [`StorageError`]; the batch is gone then, or the partition was closed before it was durable.
    pub fn sync_through(&self, mark: DurableMark) -> Result<(), StorageError> {
        let synced = self.sync();
        let state = self.state.lock();
        // A commit may have taken the batch though the sync failed: whoever is told of an error counts on its absence.
        state.outcome(mark).unwrap_or_else(|| synced.and_then(|()| Err(state.failure("sync"))))
    }

    /// Makes durable what is in the log now, waiting for the device, and tells those who wait. Called by the one that
    /// takes partitions from the flush queue; there is one sync of a partition at a time.
    ///
    /// # Errors
    /// [`StorageError`]; the log was then cut back to what had been synced before.
    pub fn sync(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.syncing.lock();
        let _fence = self.fence_on_panic();
        let now = self.env.clock.moment();
        if let Err(error) = self.heal(now).and_then(|()| self.write_again()) {
            // It was taken out of the queue, and takes itself to be in it.
            self.state.lock().retry_unless_blocked();
            self.retry_later();
            return Err(error);
        }
        let begun = {
            let mut state = self.state.lock();
            if state.is_closed {
                return Ok(());
            }
            state.begin_sync(&self.env.flush)?
        };
        let result = begun.run();
        self.finish_sync(begun, result, now)?;
        self.follow_up();
        Ok(())
    }

    /// Cuts off what a failed sync or commit should have kept, and makes the repairs that are left. The lock for syncs is
    /// held; that which everybody takes is not while the disk is waited for.
    pub(super) fn heal(&self, now: Moment) -> Result<(), StorageError> {
        // The directory of one that is gone may be another's by now.
        if self.state.lock().is_closed {
            return Ok(());
        }
        self.cut_off(now, self.committing.lock()).and_then(|()| self.repair())
    }

    fn cut_off(&self, now: Moment, _no_commit: MutexGuard<'_, ()>) -> Result<(), StorageError> {
        loop {
            let Some(job) = self.state.lock().begin_cut()? else { return Ok(()) };
            let cut = job.run().and_then(|()| self.state.lock().finish_cut(job, now));
            match cut {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn repair(&self) -> Result<(), StorageError> {
        let Some(mut job) = self.state.lock().log.begin_repair() else { return Ok(()) };
        let repaired = job.run();
        self.state.lock().finish_repair(&job, &repaired);
        repaired
    }

    /// After a sync that failed, what only the journal has for sure goes to the segments' files once more. The lock for
    /// syncs is held.
    pub(super) fn write_again(&self) -> Result<(), StorageError> {
        let Some(key) = self.key else { return Ok(()) };
        let (synced, durable) = {
            let state = self.state.lock();
            if !state.must_write_again {
                return Ok(());
            }
            (state.log.synced().offset, state.log.durable().offset)
        };
        let written = self.env.flush.pieces_of(key).and_then(|pieces| {
            let lacking = |next_offset: i64| next_offset > synced && next_offset <= durable;
            for piece in pieces.iter().filter(|piece| lacking(piece.place.next_offset)) {
                let bytes = piece.read()?;
                self.state.lock().log.write_again(piece.place.segment, piece.place.position, &bytes)?;
            }
            Ok(())
        });
        match written {
            Ok(()) => self.state.lock().must_write_again = false,
            Err(_) => self.retry_later(),
        }
        written
    }

    /// Begins a commit. There is one of a partition at a time.
    pub(crate) fn begin_commit(&self, bytes_max: u64) -> Commit<'_> {
        let Some(committing) = self.committing.try_lock() else { return Commit::Sync };
        let mut state = self.state.lock();
        if state.is_closed {
            return Commit::Nothing;
        }
        let is_sound = matches!(state.health, Health::Sound) && !state.flush.is_put_back;
        let (true, true, false, Some(key)) =
            (is_sound, state.is_commit(), state.log.has_unsaved_roll() || state.log.wants_spare(), self.key)
        else {
            return Commit::Sync;
        };
        match state.log.begin_commit() {
            None if state.log.is_dirty() => Commit::Sync,
            None => {
                state.flush.is_queued = false;
                Commit::Nothing
            }
            Some(job) if job.len() > bytes_max => Commit::Sync,
            Some(job) => {
                state.flush.is_queued = false;
                state.flush.unsynced_records = 0;
                drop(state);
                let fence = self.fence_on_panic();
                Commit::Journal(BegunCommit {
                    partition: self,
                    key,
                    job,
                    _committing: committing,
                    _fence: fence,
                })
            }
        }
    }

    /// Lets a partition go on whose commit failed and is known not to be on the disk.
    pub(crate) fn unblock(&self) {
        self.state.lock().is_blocked = false;
    }

    /// Takes in what a sync came to. The lock for syncs is held.
    pub(super) fn finish_sync(
        &self,
        begun: BegunSync,
        result: Result<(), SyncError>,
        now: Moment,
    ) -> Result<(), StorageError> {
        let BegunSync { job, taken, failures_seen, started } = begun;
        let bytes = taken.bytes;
        // Whatever it came to, nobody has to wait for these bytes any more.
        drop(taken);
        let mut kept = Ok(());
        if let Some(job) = job {
            self.env.flush.observe_sync(started.elapsed(), bytes, result.is_ok());
            let mut wakers = Wakers::default();
            let mut state = self.state.lock();
            match &result {
                Ok(()) => {
                    if let Health::Broken { error, cut_pending: true, .. } = &state.health {
                        // A commit failed meanwhile, and what this synced is about to be cut off.
                        kept = Err(error.clone());
                    } else {
                        state.flush.failures_seen = failures_seen;
                        state.log.finish_sync(&job);
                        let synced = state.log.synced();
                        if state.is_commit() {
                            state.make_safe(synced, &mut wakers);
                        }
                        state.waiting_for_sync.reached(synced.offset, &mut wakers);
                    }
                }
                Err(SyncError::NotBegun(error)) if !state.is_commit() => {
                    // No byte is in doubt, and nobody was promised more than that it is tried.
                    tracing::error!(%error, cause = %error.source, "a sync could not begin, it is tried again");
                    state.flush.must_retry = true;
                }
                Err(SyncError::NotBegun(error) | SyncError::Lost(error)) => {
                    // A commit that is under way must know where the log ends.
                    drop(state);
                    let no_commit = self.committing.lock();
                    state = self.state.lock();
                    state.must_write_again = state.log.synced().offset < state.log.durable().offset;
                    state.fail(error, &mut wakers);
                    drop(state);
                    std::mem::take(&mut wakers).wake();
                    if let Err(error) = self.cut_off(now, no_commit).and_then(|()| self.repair()) {
                        tracing::error!(%error, cause = %error.source, "the cut has to be tried again");
                    }
                    state = self.state.lock();
                }
            }
            drop(state);
            wakers.wake();
            self.retry_later();
        }
        if let Some(key) = self.key {
            let synced = self.state.lock().log.synced().offset;
            self.env.flush.release(key, synced);
        }
        result.map_err(SyncError::into_error).and(kept)
    }

    /// Does what a sync left to do, and leaves to maintenance what cannot be done now: what was synced is durable all the
    /// same. The lock for syncs is held.
    pub(super) fn follow_up(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, cause = %error.source, "what a roll left to write has to be tried again");
        }
        self.make_spare(|log| if log.wants_spare() { log.begin_spare() } else { None });
    }

    /// After a sync of all that is dirty: whether it has dirty bytes all the same. Those of a partition whose disk fails
    /// count no more, since nobody is to wait for it.
    pub(crate) fn is_still_dirty(&self) -> bool {
        let mut state = self.state.lock();
        let is_hopeless = state.is_closed || !matches!(state.health, Health::Sound);
        let forgotten = if is_hopeless { std::mem::take(&mut state.flush.unsynced_bytes) } else { 0 };
        state.flush.is_listed = state.flush.unsynced_bytes > 0;
        let is_dirty = state.flush.is_listed;
        drop(state);
        drop(self.env.flush.take_dirty(forgotten));
        is_dirty
    }

    /// Has a partition synced again soon, if its last sync could not begin, or what the journal has of it may not be in its
    /// segments.
    pub(super) fn retry_later(&self) {
        let due_ms = self.env.clock.steady_ms().saturating_add(super::append::RETRY_AFTER_MS);
        let mut state = self.state.lock();
        let retries = state.must_write_again || std::mem::take(&mut state.flush.must_retry);
        drop(state);
        if let Some(me) = self.me.upgrade().filter(|_| retries) {
            self.env.flush.push_retry_at(due_ms, me);
        }
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

/// What a commit of a partition comes to.
pub(crate) enum Commit<'a> {
    /// Everything is durable.
    Nothing,
    /// Its segments must be synced instead.
    Sync,
    /// The journal can take it.
    Journal(BegunCommit<'a>),
}

/// A commit that is about to run.
pub(crate) struct BegunCommit<'a> {
    partition: &'a Partition,
    key: PartitionKey,
    job: CommitJob,
    _committing: MutexGuard<'a, ()>,
    _fence: FenceOnPanic<'a>,
}

impl BegunCommit<'_> {
    /// What the journal knows the partition by.
    pub(crate) fn key(&self) -> PartitionKey {
        self.key
    }

    /// Adds the partition's bytes to a frame. Returns whether they could be read.
    pub(crate) fn add_to(&self, frame: &mut Frame) -> bool {
        let up_to = self.job.up_to();
        let place = Place {
            key: self.key,
            segment: up_to.segment,
            position: self.job.from(),
            next_offset: up_to.offset,
        };
        let Ok(len) = usize::try_from(self.job.len()) else { return false };
        frame.add(place, len, |into| self.job.read(into))
    }

    /// The frame is durable.
    pub(crate) fn succeed(self, wakers: &mut Wakers) {
        let mut state = self.partition.state.lock();
        state.log.finish_commit(&self.job);
        let durable = self.job.up_to();
        if state.is_commit() {
            state.make_safe(durable, wakers);
        }
        state.waiting_for_sync.reached(durable.offset, wakers);
    }

    /// The frame is not durable: the partition's next sync cuts it off. If it is not known to be undone, that waits for
    /// [`Partition::unblock`].
    pub(crate) fn fail(self, error: &StorageError, is_undone: bool) {
        let mut wakers = Wakers::default();
        let mut state = self.partition.state.lock();
        state.is_blocked |= !is_undone;
        state.fail(error, &mut wakers);
        drop(state);
        wakers.wake();
    }
}

/// A sync that is about to run.
pub(super) struct BegunSync {
    pub(super) job: Option<SyncJob>,
    pub(super) taken: Taken,
    failures_seen: u64,
    started: Instant,
}

impl BegunSync {
    /// Syncs the partition's own files.
    pub(super) fn run(&self) -> Result<(), SyncError> {
        self.job.as_ref().map_or(Ok(()), SyncJob::run)
    }
}

impl State {
    /// The sync of what is in the log now. What the last one should have written is cut off before, if it failed: it is
    /// never synced again.
    pub(super) fn begin_sync(&mut self, flush: &Arc<FlushQueue>) -> Result<BegunSync, StorageError> {
        self.check_fence()?;
        if let Health::Broken { error, cut_pending: true, .. } = &self.health {
            return Err(error.clone());
        }
        self.flush.is_queued = false;
        self.flush.is_put_back = false;
        // What is appended from here on is due anew: this sync may be another than the one that was due.
        self.flush.due_ms = None;
        self.flush.unsynced_records = 0;
        let failures_seen = flush.disk_failures();
        let taken = flush.take_dirty(std::mem::take(&mut self.flush.unsynced_bytes));
        Ok(BegunSync { job: self.log.begin_sync(), taken, failures_seen, started: Instant::now() })
    }

    /// Has the partition synced again soon, unless whoever unblocks it does that.
    fn retry_unless_blocked(&mut self) {
        self.flush.must_retry |= !self.is_blocked;
    }

    /// Takes note that a sync or a commit failed. What it should have kept is to be cut off, unless a panic has left the
    /// partition as it is.
    fn fail(&mut self, error: &StorageError, wakers: &mut Wakers) {
        let durable = self.log.durable().offset;
        tracing::error!(%error, cause = %error.source, durable, "a sync failed, what it should have kept is cut off");
        self.cuts.push(durable);
        self.waiting_for_sync.all(wakers);
        if self.is_fenced() {
            return;
        }
        self.health = Health::Broken { error: error.clone(), retry_ms: i64::MIN, cut_pending: true };
    }

    /// The cut that is due, if there is one: back to the durable offset.
    pub(super) fn begin_cut(&self) -> Result<Option<CutJob>, StorageError> {
        match &self.health {
            Health::Broken { error, cut_pending: true, .. } if self.is_blocked => Err(error.clone()),
            Health::Broken { cut_pending: true, .. } => {
                let durable = self.log.durable().offset;
                Ok(Some(self.log.begin_cut(durable, self.offsets.high_watermark > durable)))
            }
            _ => Ok(None),
        }
    }

    /// Cuts log, producers and offsets back to the durable offset. Returns whether it did: not if consumers may meanwhile
    /// have seen what goes, and the job has no epoch that lets them notice.
    pub(super) fn finish_cut(&mut self, job: CutJob, now: Moment) -> Result<bool, StorageError> {
        let durable = self.log.durable().offset;
        if self.offsets.high_watermark > durable && !job.is_of_seen() {
            return Ok(false);
        }
        self.log.finish_cut(job, now.now_ms)?;
        let loaded = load_producers(&self.log, &self.held, now.steady_ms)?;
        self.held.set(loaded.len());
        let before = std::mem::replace(&mut self.producers, loaded);
        self.awaited.cut(&before, &self.producers, durable, now.steady_ms);
        self.offsets.advance(Advance::Cut { log_end: durable });
        if self.high_watermark.offset >= durable {
            self.high_watermark = self.log.end();
        }
        if let Health::Broken { cut_pending, .. } = &mut self.health {
            *cut_pending = false;
        }
        Ok(true)
    }

    /// Takes note of the repairs that were made.
    pub(super) fn finish_repair(&mut self, job: &RepairJob, repaired: &Result<(), StorageError>) {
        self.log.finish_repair(job);
        if repaired.is_err() {
            // One that could not be synced may have lost what was not synced before.
            self.must_write_again |= self.log.synced().offset < self.log.durable().offset;
        }
    }

    /// Whether the batch that ends at `mark` is durable; `None` if that is not decided.
    fn outcome(&self, mark: DurableMark) -> Option<Result<(), StorageError>> {
        let is_cut = self.cuts.have_taken(mark.next_offset, mark.cuts);
        if is_cut {
            return Some(Err(self.failure("keep what was appended to")));
        }
        if self.log.durable().offset >= mark.next_offset {
            return Some(Ok(()));
        }
        (self.is_closed || self.is_fenced()).then(|| Err(self.failure("sync")))
    }

    pub(super) fn failure(&self, action: &'static str) -> StorageError {
        match &self.health {
            Health::Broken { error, .. } | Health::Fenced { error } => error.clone(),
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

    /// Waits for an earlier batch of the same partition as well, and all between the two.
    pub(crate) fn since(mut self, first: &Self) -> Self {
        self.mark.cuts = self.mark.cuts.min(first.mark.cuts);
        self
    }

    /// Makes the batch durable, for a thread that may wait for the device.
    ///
    /// # Errors
    /// As [`Partition::sync_through`].
    pub(crate) fn sync(self) -> Result<(), StorageError> {
        self.partition.as_ref().map_or(Ok(()), |partition| partition.sync_through(self.mark))
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
