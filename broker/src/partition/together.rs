//! Syncs of many partitions by one call for their file system.
//!
//! Its error is that of whichever file of the disk, and may be told of no file: after one, only a sync of its own tells of
//! a partition's files. Invariant: a sync that was begun is either finished or put back; one that was put back is made
//! at once by whoever asked, and until then the journal takes nothing from the partition's files.

use super::durability::BegunSync;
use super::fence::FenceOnPanic;
use super::{Health, Partition, State};
use crate::log::{StorageError, SyncError, SyncJob};
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Partitions from which on one sync of the file system costs less than one of each.
pub(crate) const SYNC_TOGETHER_MIN: usize = 32;

/// A sync that is about to run with those of others.
struct Together<'a> {
    partition: &'a Arc<Partition>,
    begun: BegunSync,
    prepared: Result<(), StorageError>,
    _one_at_a_time: MutexGuard<'a, ()>,
    _fence: FenceOnPanic<'a>,
}

impl Together<'_> {
    fn has_epochs(&self) -> bool {
        self.prepared.is_ok() && self.begun.job.as_ref().is_some_and(SyncJob::has_epochs)
    }

    /// Puts new epochs, which are durable, in their place.
    fn place_epochs(&mut self) {
        if let Some(job) = &self.begun.job {
            self.prepared = job.place_epochs();
        }
    }
}

impl Partition {
    /// Makes the segments of partitions durable: of each by itself, or of many by one sync of the file system.
    ///
    /// # Errors
    /// The last [`StorageError`], as [`Partition::sync`].
    pub(crate) fn sync_all(partitions: &[Arc<Partition>]) -> Result<(), StorageError> {
        let (left, outcome) = match partitions.len() {
            SYNC_TOGETHER_MIN.. => Self::sync_together(partitions),
            _ => (partitions.to_vec(), Ok(())),
        };
        left.iter().map(|partition| partition.sync()).fold(outcome, Result::and)
    }

    /// Makes the segments of many partitions durable by one sync of the file system. Returns those that only a sync of
    /// their own can help, for it may be that of thousands. Those whose segments are being synced already, or that need
    /// more than that, are left out.
    ///
    /// # Errors
    /// The last [`StorageError`] of a partition that is not returned.
    pub(crate) fn sync_together(
        partitions: &[Arc<Partition>],
    ) -> (Vec<Arc<Partition>>, Result<(), StorageError>) {
        let Some(first) = partitions.first() else { return (Vec::new(), Ok(())) };
        // A failed sync of the file system may have lost what others had written: only their own sync tells.
        let failures = first.env.flush.disk_failures();
        let has_seen = |partition: &Arc<Self>| partition.state.lock().flush.failures_seen == failures;
        let (together, mut left): (Vec<_>, Vec<_>) = partitions.iter().cloned().partition(has_seen);
        if together.is_empty() {
            return (left, Ok(()));
        }
        let now = first.env.clock.moment();
        let mut begun: Vec<_> = together.iter().filter_map(Self::begin_together).collect();
        let sync = || first.env.flush.sync_disk(&*first.env.disk, &first.directory, failures);
        let mut synced = sync();
        if synced.is_ok() && begun.iter().any(Together::has_epochs) {
            begun.iter_mut().filter(|together| together.has_epochs()).for_each(Together::place_epochs);
            synced = sync();
        }
        let mut outcome = Ok(());
        if let Err(error) = &synced {
            let partitions = begun.len();
            tracing::error!(%error, cause = %error.source, partitions, "each partition is synced by itself");
        }
        for Together { partition, begun, prepared, _one_at_a_time, _fence } in begun {
            if synced.is_err() && prepared.is_ok() {
                // The error may be that of a file of somebody else; each file tells of its own.
                let bytes = begun.taken.leave();
                partition.state.lock().put_back_sync(bytes);
                left.push(partition.clone());
                continue;
            }
            let finished = partition.finish_sync(begun, prepared.map_err(SyncError::NotBegun), now);
            if finished.is_ok() {
                partition.follow_up();
            }
            outcome = outcome.and(finished);
        }
        (left, outcome)
    }

    fn begin_together(self: &Arc<Self>) -> Option<Together<'_>> {
        let one_at_a_time = self.syncing.try_lock()?;
        let fence = self.fence_on_panic();
        let mut state = self.state.lock();
        let is_ready = !state.is_closed && matches!(state.health, Health::Sound);
        let begun = is_ready.then(|| state.begin_sync(&self.env.flush).ok()).flatten()?;
        drop(state);
        let prepared = begun.job.as_ref().map_or(Ok(()), SyncJob::prepare);
        Some(Together { partition: self, begun, prepared, _one_at_a_time: one_at_a_time, _fence: fence })
    }
}

impl State {
    /// A sync that was begun for so many bytes is left to another, which whoever puts it back has made at once.
    fn put_back_sync(&mut self, bytes: u64) {
        self.flush.is_queued = true;
        self.flush.is_put_back = true;
        self.flush.unsynced_bytes += bytes;
    }
}
