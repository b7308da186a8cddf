//! A round: everything that waits goes into one frame of the journal, or to the threads that sync.
//!
//! Invariant: whoever is in a frame is told of its outcome, whatever it is. After a write that failed nobody of the
//! frame is cut back before the frame is invalid on the disk, since it would else come back over what is appended next.

use super::FlushQueue;
use crate::journal::{Frame, Journal, PartitionKey, Upkeep, WriteError};
use crate::partition::{BegunCommit, Commit, Partition, SYNC_TOGETHER_MIN, Wakers};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a frame at which no partition is added.
const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time after which a journal that failed is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(200);

impl FlushQueue {
    /// Commits partitions. Returns how many were; the others are handed on to be synced.
    pub(super) fn commit(&self, partitions: &[Arc<Partition>]) -> usize {
        let Some(journal) = self.journal.as_ref() else {
            self.push_direct(partitions.iter().cloned());
            return 0;
        };
        self.unblock(journal);
        let mut frame = self.frame.lock();
        let (mut committed, mut rest) = (0, partitions);
        while !rest.is_empty() {
            frame.clear();
            let (done, after) = self.commit_some(journal, &mut frame, rest);
            committed += done;
            rest = after;
        }
        committed
    }

    /// Commits as many of the first partitions as one frame takes. Returns how many, and those that are left.
    fn commit_some<'a>(
        &self,
        journal: &Journal,
        frame: &mut Frame,
        partitions: &'a [Arc<Partition>],
    ) -> (usize, &'a [Arc<Partition>]) {
        let bytes_max = journal.config().piece_bytes_max;
        let frame_bytes_max =
            FRAME_BYTES_MAX.min(usize::try_from(journal.config().file_bytes / 2).unwrap_or(0));
        let (mut begun, mut direct, mut looked_at) = (Vec::new(), Vec::new(), 0);
        for partition in partitions {
            if frame.size() >= frame_bytes_max {
                break;
            }
            looked_at += 1;
            match partition.begin_commit(bytes_max) {
                Commit::Nothing => {}
                Commit::Journal(commit) if commit.add_to(frame) => begun.push((partition, commit)),
                // Its commit is given up first: a sync that fails takes the same lock.
                Commit::Journal(_) | Commit::Sync => direct.push(partition.clone()),
            }
        }
        let committed = if frame.is_empty() { 0 } else { self.write(journal, frame, begun, &mut direct) };
        if direct.len() >= SYNC_TOGETHER_MIN {
            // One sync for all of them; each has its own where that one could not help, while the next round goes on.
            let (_, synced) = Partition::sync_together(&direct);
            if let Err(error) = synced {
                tracing::error!(%error, cause = %error.source, partitions = direct.len(), "cannot sync partitions");
            }
            direct.retain(|partition| partition.still_needs_sync());
        }
        if !direct.is_empty() {
            self.push_direct(direct);
        }
        (committed, partitions.get(looked_at..).unwrap_or_default())
    }

    fn write(
        &self,
        journal: &Journal,
        frame: &mut Frame,
        begun: Vec<(&Arc<Partition>, BegunCommit<'_>)>,
        direct: &mut Vec<Arc<Partition>>,
    ) -> usize {
        {
            let mut journaled = self.journaled.lock();
            for (partition, commit) in &begun {
                journaled.entry(commit.key()).or_insert_with(|| Arc::downgrade(partition));
            }
        }
        let started = Instant::now();
        let mut written = journal.write(frame);
        if matches!(written, Err(WriteError::NoRoom)) && begun.len() >= SYNC_TOGETHER_MIN {
            match journal.add_first_file() {
                Ok(true) => written = journal.write(frame),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, cause = %error.source, "there is no journal"),
            }
        }
        match written {
            Ok(()) => {
                self.observe_commit(started.elapsed(), begun.len(), true);
                let (count, mut wakers) = (begun.len(), Wakers::default());
                begun.into_iter().for_each(|(_, commit)| commit.succeed(&mut wakers));
                wakers.wake();
                self.ask_for_upkeep();
                count
            }
            Err(WriteError::NoRoom) => {
                direct.extend(begun.into_iter().map(|(partition, _)| partition.clone()));
                self.ask_for_upkeep();
                0
            }
            Err(WriteError::Failed(error)) => {
                self.observe_commit(started.elapsed(), begun.len(), false);
                tracing::error!(%error, cause = %error.source, partitions = begun.len(), "a commit failed");
                let is_undone = journal.heal().is_ok();
                let mut blocked = Vec::new();
                for (partition, commit) in begun {
                    commit.fail(&error, is_undone);
                    // Its next sync cuts it back.
                    if is_undone { &mut *direct } else { &mut blocked }.push(partition.clone());
                }
                self.waiting.lock().blocked.extend(blocked);
                0
            }
        }
    }

    /// Lets those go on whose commit failed, if it is known by now that it is not on the disk.
    pub(super) fn unblock(&self, journal: &Journal) {
        if self.waiting.lock().blocked.is_empty() {
            return;
        }
        match journal.heal() {
            Ok(()) => {
                let blocked = std::mem::take(&mut self.waiting.lock().blocked);
                blocked.iter().for_each(|partition| partition.unblock());
                self.push_direct(blocked);
            }
            Err(error) => tracing::error!(%error, cause = %error.source, "the journal cannot be healed yet"),
        }
    }

    /// Does what the journal needs beside commits: another file, or the syncs that free a full one.
    pub(super) fn look_after_journal(&self) {
        let Some(journal) = self.journal.as_ref() else { return };
        self.unblock(journal);
        match journal.upkeep() {
            None => {}
            Some(Upkeep::File) => {
                if let Err(error) = journal.add_file() {
                    tracing::warn!(%error, cause = %error.source, "the journal gets no further file");
                }
            }
            Some(Upkeep::Sync(keys)) => self.free_journal(&keys),
        }
    }

    /// Syncs the segments of partitions, so that the journal need not keep what it has of them.
    fn free_journal(&self, keys: &[PartitionKey]) {
        let partitions: Vec<_> = {
            let journaled = self.journaled.lock();
            keys.iter().filter_map(|key| journaled.get(key)?.upgrade()).collect()
        };
        if let Err(error) = Partition::sync_all(&partitions) {
            tracing::error!(%error, cause = %error.source, "segments cannot be synced: the journal keeps its records");
        }
    }
}
