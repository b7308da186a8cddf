//! What a partition needs now and then, and at its end: retention, deletion of records, closing, removal.
//!
//! Invariant: none of it runs on the path of a produce or a fetch, and after [`Partition::close`] nothing changes the
//! directory any more.

use super::offsets::Advance;
use super::{DeleteRecordsError, Health, Partition, State, Wakers, snapshot};
use crate::log::{DeletionJob, Doomed, Log, SpareJob, StorageError, retire};
use std::io;
use std::path::PathBuf;

/// What maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Segments that retention deleted.
    pub deleted_segments: usize,
}

impl Partition {
    /// Applies retention, removes what was deleted a while ago, forgets idle producers, closes idle files, and
    /// finishes rolls that failed to. May wait for the disk.
    ///
    /// # Errors
    /// The first [`StorageError`]; the rest is done the next time.
    pub fn maintain(&self) -> Result<Maintenance, StorageError> {
        let mut unfinished = self.maintaining.lock();
        let _fence = self.fence_on_panic();
        let (now_ms, steady_ms) = (self.env.clock.now_ms(), self.env.clock.steady_ms());
        {
            let state = self.state.lock();
            if state.is_closed {
                return Ok(Maintenance::default());
            }
            state.check_fence()?;
        }
        // A disk that is too full for the indexes of rolled segments gets room by what follows.
        let saved = {
            let _one_at_a_time = self.syncing.lock();
            self.save()
        };
        let deleted = self.delete_expired(&mut unfinished, now_ms, steady_ms);
        let (idle, doomed) = {
            let mut state = self.state.lock();
            let expiration_ms = state.config.producer_id_expiration_ms;
            state.forget_producers(steady_ms.saturating_sub(expiration_ms));
            (state.log.idle_segments(), state.log.take_doomed(steady_ms))
        };
        idle.let_go();
        let removed = self.remove_doomed(doomed);
        saved.and(removed).and(deleted).map(|deleted_segments| Maintenance { deleted_segments })
    }

    /// Deletes the segments that have had their time. The log forgets them under the lock, the disk without.
    fn delete_expired(
        &self,
        unfinished: &mut Option<DeletionJob>,
        now_ms: i64,
        steady_ms: i64,
    ) -> Result<usize, StorageError> {
        if unfinished.is_none() {
            let search = || {
                let state = self.state.lock();
                state.log.deletion_search(state.offsets.high_watermark)
            };
            let mut found = search();
            // What is durable in the journal alone, or by nobody's promise, waits for no other sync.
            if found.lacks_sync(now_ms) {
                if let Err(error) = self.sync() {
                    tracing::warn!(%error, cause = %error.source, "retention waits for a sync");
                }
                found = search();
            }
            let search = found;
            let Some(up_to) = search.run(now_ms) else { return Ok(0) };
            drop(search);
            if up_to == self.state.lock().log.next_offset() {
                // The active segment will be rolled, under the lock.
                let _one_at_a_time = self.syncing.lock();
                self.make_spare(Log::begin_spare);
            }
            *unfinished = self.state.lock().begin_deletion(up_to, now_ms, steady_ms)?;
        }
        let Some(mut job) = unfinished.take() else { return Ok(0) };
        let done = {
            // No cut begins an epoch meanwhile.
            let _one_at_a_time = self.syncing.lock();
            self.state.lock().log.refresh_deletion(&mut job);
            job.make_durable().inspect(|()| self.state.lock().log.finish_naming(&job))
        };
        if let Err(error) = done.and_then(|()| job.rename()) {
            *unfinished = Some(job);
            return Err(error);
        }
        let deleted_segments = job.segment_count();
        self.state.lock().log.finish_deletion(job);
        Ok(deleted_segments)
    }

    /// Makes the next segment's file if `begin` says so: a roll under the lock then waits for no disk. The lock for syncs
    /// is held.
    pub(super) fn make_spare(&self, begin: impl FnOnce(&mut Log) -> Option<SpareJob>) {
        let job = {
            let mut state = self.state.lock();
            if state.is_closed { None } else { begin(&mut state.log) }
        };
        match job.map(|job| job.run()) {
            None => {}
            Some(Ok(file)) => self.state.lock().log.finish_spare(file),
            Some(Err(error)) => tracing::debug!(%error, "the next segment's file is made when it is needed"),
        }
    }

    fn remove_doomed(&self, mut doomed: Vec<Doomed>) -> Result<(), StorageError> {
        while let Some(next) = doomed.last() {
            if let Err(error) = next.remove(&*self.env.disk) {
                self.state.lock().log.put_back_doomed(doomed);
                return Err(error);
            }
            doomed.pop();
        }
        Ok(())
    }

    /// Deletes the records before `before`, or all that are visible for -1. Returns the log start. The deletion is
    /// durable once the checkpoints are written; what it reaches up to is synced first, so that no checkpoint tells of
    /// offsets that a power cut may take back.
    ///
    /// # Errors
    /// [`DeleteRecordsError`].
    pub fn delete_records(&self, before: i64) -> Result<i64, DeleteRecordsError> {
        let before = if before == -1 { self.offsets().high_watermark } else { before };
        loop {
            let mut state = self.state.lock();
            if state.is_closed {
                return Err(DeleteRecordsError::Closed);
            }
            let high_watermark = state.offsets.high_watermark;
            if before < 0 || before > high_watermark {
                return Err(DeleteRecordsError::OutOfRange { offset: before, high_watermark });
            }
            // Under the lock under which it is trimmed: a commit moves the high watermark, and syncs nothing.
            if before <= state.log.synced().offset {
                state.log.advance_start(before);
                state.offsets.advance(Advance::Trimmed { log_start: before });
                return Ok(state.offsets.log_start);
            }
            drop(state);
            self.sync()?;
        }
    }

    /// Syncs everything and leaves the directory as a clean start expects it, durably once the file system is synced.
    /// Later calls are refused as closed.
    ///
    /// # Errors
    /// [`StorageError`]; the data directory must then not be marked clean.
    pub fn close(&self) -> Result<(), StorageError> {
        let _maintenance = self.maintaining.lock();
        let _one_at_a_time = self.syncing.lock();
        let now = self.env.clock.moment();
        let written = self.heal(now).and_then(|()| self.write_again());
        let begun = {
            let mut state = self.state.lock();
            if state.is_closed {
                return Ok(());
            }
            state.is_closed = true;
            written.and_then(|()| state.begin_sync(&self.env.flush))
        };
        let synced = begun.and_then(|begun| {
            let result = begun.run();
            self.finish_sync(begun, result, now)
        });
        let result = synced.and_then(|()| self.save());
        let mut wakers = Wakers::default();
        let mut state = self.state.lock();
        let result = result.and_then(|()| state.finish_closing());
        state.waiting_for_sync.all(&mut wakers);
        state.waiting_for_records.all(&mut wakers);
        drop(state);
        wakers.wake();
        result
    }

    /// Closes the partition as it is: nothing is synced or written, and whoever waits is told.
    pub fn abandon(&self) {
        let _maintenance = self.maintaining.lock();
        let _one_at_a_time = self.syncing.lock();
        let _no_commit = self.committing.lock();
        let mut wakers = Wakers::default();
        let mut state = self.state.lock();
        state.is_closed = true;
        let bytes = std::mem::take(&mut state.flush.unsynced_bytes);
        state.waiting_for_sync.all(&mut wakers);
        state.waiting_for_records.all(&mut wakers);
        drop(state);
        drop(self.env.flush.take_dirty(bytes));
        self.env.flush.leave(&self.me);
        wakers.wake();
    }

    /// Abandons the partition and gives its directory a name that is no partition's, see [`retire`]. Returns it.
    ///
    /// # Errors
    /// [`StorageError`]; the directory then keeps its name.
    pub fn retire(&self, index: i32) -> Result<PathBuf, StorageError> {
        self.abandon();
        if let Some(key) = self.key {
            self.env.flush.forget(key);
        }
        retire(&*self.env.disk, &self.directory, self.topic_id, index)
    }
}

impl State {
    fn begin_deletion(
        &mut self,
        up_to: i64,
        now_ms: i64,
        steady_ms: i64,
    ) -> Result<Option<DeletionJob>, StorageError> {
        if up_to == self.log.next_offset() && self.log.synced() == self.log.end() {
            // Even the active segment has had its time: what comes next goes into a new one.
            self.log.roll(now_ms, self.producers.clone())?;
        }
        let job = self.log.begin_deletion(up_to, steady_ms);
        self.offsets.advance(Advance::Trimmed { log_start: self.log.log_start() });
        Ok(job)
    }

    fn finish_closing(&mut self) -> Result<(), StorageError> {
        self.check_fence()?;
        if let Health::Broken { error, cut_pending: true, .. } = &self.health {
            return Err(error.clone());
        }
        if self.log.needs_sync() || self.log.needs_repair() {
            let cause = io::Error::other("a sync failed");
            return Err(StorageError::on("close", self.log.directory())(cause));
        }
        if self.log.needs_closing() {
            self.log.write_closing(&snapshot::encode(&self.producers))?;
        }
        Ok(())
    }
}
