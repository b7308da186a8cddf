//! The log of one partition: batches in segment files, in Kafka's directory and file formats.
//!
//! A [`Log`] appends, rolls, reads, truncates, deletes and recovers, over a [`crate::disk::Disk`] and nothing else.
//! Invariants: batches are stored as they are given but for base offset and leader epoch; offsets ascend; the log is
//! authoritative and its indexes are caches; nothing in a segment counts as synced until the segments before it and
//! the names of all their files are. A log is used under its owner's lock, but what may wait for the disk is handed out
//! as a value to be run without it: [`ReadPlan`], [`TimestampSearch`], [`DeletionSearch`],
//! [`DeletionJob`], [`SyncJob`], [`SaveJob`], [`SpareJob`], [`CutJob`], [`RepairJob`].
//! It knows no partitions, producers, clients or clocks.

mod checkpoint;
mod config;
mod deletion;
mod epoch_floor;
mod error;
mod files;
mod index;
mod leader_epoch;
mod metadata;
mod open;
mod read;
mod recovery;
mod reserve;
mod restore;
mod restored;
mod retention;
mod salvage;
mod scan;
mod segment;
mod set_aside;
mod spare;
mod sync;
mod timestamps;
mod truncation;

use crate::disk::File;
use files::{Files, SNAPSHOT};
use index::Indexed;
use kappa_protocol::record::{Batch, patched_prefix};
use leader_epoch::LeaderEpochs;
use read::PlannedSegment;
use scan::{Check, Scan, Step};
use segment::{ActiveSegment, SealedSegment};
use spare::Spare;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use truncation::Repair;
use uuid::Uuid;

pub use checkpoint::{Checkpointed, Checkpoints, Opening, Positions};
pub use config::LogConfig;
pub use deletion::{DeletionJob, DeletionSearch, Doomed, IdleSegments, is_retired, retire};
pub use epoch_floor::EpochFloor;
pub use error::StorageError;
pub use files::NewDirectories;
pub use metadata::{Owner, directory_owner, directory_topic_id, index_of};
pub use open::is_owner;
pub use read::{ReadLimit, ReadManner, ReadPlan, Slice, SliceError};
pub use recovery::{Damage, RecoveryEnd, RecoveryReport, SetAside};
pub use reserve::{keep_reserve, release_reserve, restore_start_reserve};
pub use restore::{RestoredPiece, restore};
pub use retention::{RetentionBounds, SegmentFacts, plan as plan_retention};
pub use salvage::{Lost, Salvaged, copy as copy_log, drop_damage, first_segment, make_directory, survey};
pub use spare::SpareJob;
pub use sync::{CommitJob, SaveJob, Snapshot, SyncError, SyncJob};
pub use timestamps::{TimestampSearch, TimestampedOffset};
pub use truncation::{CutJob, RepairJob};

/// A place between two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// Offset of the record that follows.
    pub offset: i64,
    /// Base offset of the segment that holds what is before.
    pub segment: i64,
    /// Bytes of that segment before the place.
    pub position: u64,
}

/// The log of one partition.
#[derive(Debug)]
pub struct Log {
    files: Arc<Files>,
    config: LogConfig,
    topic_id: Uuid,
    /// Oldest first; shared with the searches that run without the lock.
    sealed: Arc<Vec<Arc<SealedSegment>>>,
    active: ActiveSegment,
    log_start: i64,
    next_offset: i64,
    epochs: LeaderEpochs,
    /// Whether the checkpoint of the epochs has all of them. It must before a batch of the newest is synced.
    are_epochs_saved: bool,
    sync: sync::SyncState,
    /// Offsets of the producer snapshots in the directory.
    snapshots: BTreeSet<i64>,
    spare: Spare,
    repairs: Vec<Repair>,
    doomed: Vec<deletion::Doomed>,
    /// Whether what a clean start needs is in the directory and describes the log as it is.
    is_as_closed: bool,
    /// Whether the active segment has indexes in the directory, of its present end or an earlier one.
    has_indexes: bool,
}

impl Log {
    /// Writes a batch at the end, with the next offset and the current leader epoch; the caller has checked it.
    /// Nothing but what [`Log::needs_roll`] and [`Log::needs_repair`] say must come before.
    ///
    /// # Errors
    /// [`StorageError`]; the log is then as before, and may need a repair.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<i64, StorageError> {
        debug_assert!(!self.needs_repair(), "appends follow the repair of what failed before");
        let base_offset = self.next_offset;
        let prefix = patched_prefix(batch.bytes(), base_offset, self.epochs.current());
        let rest = batch.bytes().get(prefix.len()..).unwrap_or_default();
        if let Err(source) = self.active.file.write_at(self.active.size, [&prefix, rest]) {
            // What came of it is in the way of what follows, and of others where the disk is full.
            match self.active.file.set_len(self.active.size) {
                Ok(()) => self.active.was_cut = true,
                Err(_) => self.repairs.push(Repair::CutActive),
            }
            return Err(StorageError::on("write to", &self.active_path())(source));
        }
        let last_offset = base_offset + i64::from(batch.last_offset_delta());
        let size = batch.size() as u64;
        self.active.add(Indexed { last_offset, max_timestamp: batch.max_timestamp(), size });
        self.next_offset = last_offset + 1;
        self.is_as_closed = false;
        Ok(base_offset)
    }

    /// Whether the active segment must be rolled before `batch` is appended: by size, by age, or for a full index.
    pub fn needs_roll(&self, batch: &Batch<'_>, now_ms: i64) -> bool {
        let active = &self.active;
        if active.size == 0 {
            return false;
        }
        let age_ms = match active.first_timestamp {
            Some(first) => batch.max_timestamp().saturating_sub(first),
            None => now_ms.saturating_sub(active.created_ms),
        };
        let last_relative = self.next_offset + i64::from(batch.last_offset_delta()) - active.base_offset;
        active.size + batch.size() as u64 > u64::from(self.config.segment_bytes)
            || age_ms > self.config.segment_ms
            || active.index.is_full(self.config.segment_index_bytes)
            || i32::try_from(last_relative).is_err()
    }

    /// Begins a new segment at the log's end. `snapshot` is the state of the producers there, to be kept in a file.
    /// The indexes of the old segment are written later, by a [`SaveJob`]. If the file was made beforehand, no call goes to
    /// the disk.
    ///
    /// # Errors
    /// [`StorageError`]; the log is then as before.
    pub fn roll(&mut self, now_ms: i64, snapshot: impl Snapshot + 'static) -> Result<(), StorageError> {
        if self.active.size == 0 {
            return Ok(());
        }
        let (base_offset, interval) = (self.next_offset, self.config.index_interval_bytes);
        if let Some(unnamed) = self.sync.unnamed() {
            // No sync came in between: only the last segment may be without a name.
            spare::give_name(&self.files, unnamed)?;
            self.sync.named(Some(unnamed));
        }
        let fresh = match std::mem::take(&mut self.spare) {
            Spare::Ready(file) => {
                self.sync.name_later(base_offset);
                ActiveSegment::empty(file, base_offset, interval, now_ms)
            }
            Spare::None | Spare::Asked => ActiveSegment::create(&self.files, base_offset, interval, now_ms)?,
        };
        let ActiveSegment { base_offset, file, size, index, was_cut, .. } =
            std::mem::replace(&mut self.active, fresh);
        let sealed = Arc::new(SealedSegment::built(base_offset, self.next_offset, size, file.clone(), index));
        if was_cut || self.needs_sync() {
            self.sync.leave_unsynced(base_offset, file);
        }
        (self.is_as_closed, self.has_indexes) = (false, false);
        self.sync.sealed(sealed.clone(), (self.next_offset, Arc::new(snapshot)));
        Arc::make_mut(&mut self.sealed).push(sealed);
        Ok(())
    }

    /// Plans a read of what is at and after `offset` and before `upper`; `None` if that is nothing.
    pub fn plan_read(&self, offset: i64, upper: LogPosition) -> Option<ReadPlan> {
        self.plan_read_of(offset, upper, usize::MAX)
    }

    /// The same for a read of about `max_bytes`.
    pub fn plan_read_of(&self, offset: i64, upper: LogPosition, max_bytes: usize) -> Option<ReadPlan> {
        if offset >= upper.offset {
            return None;
        }
        let segment = if offset >= self.active.base_offset {
            let relative = u32::try_from(offset - self.active.base_offset).unwrap_or(u32::MAX);
            let offsets = self.active.index.offsets();
            let floor = index::floor_offset(offsets, relative).map_or(0, |entry| u64::from(entry.position));
            let ceiling = index::floor_position(offsets, floor.saturating_add(max_bytes as u64));
            PlannedSegment::Active {
                base_offset: self.active.base_offset,
                file: self.active.file.clone(),
                floor,
                ceiling: ceiling.map_or(0, |entry| u64::from(entry.position)),
            }
        } else {
            PlannedSegment::Sealed(self.sealed_with(offset)?.clone())
        };
        let index_interval = self.config.index_interval_bytes;
        Some(ReadPlan { files: self.files.clone(), index_interval, segment, offset, upper })
    }

    /// Gives every batch at or after `offset` to `visit`, by header: its records may be cut off.
    ///
    /// # Errors
    /// [`StorageError`] from the disk; damaged bytes are passed over.
    pub fn replay(&self, offset: i64, mut visit: impl FnMut(&Batch<'_>)) -> Result<(), StorageError> {
        let first = self.sealed.partition_point(|segment| segment.end_offset <= offset);
        for segment in self.sealed.iter().skip(first) {
            let content = segment.content(&self.files, self.config.index_interval_bytes)?;
            let relative = u32::try_from(offset.saturating_sub(segment.base_offset)).unwrap_or(0);
            let floor = content.floor_position(relative);
            self.replay_file(&*content.file, segment.base_offset, floor..segment.size, offset, &mut visit)?;
        }
        let relative = u32::try_from(offset.saturating_sub(self.active.base_offset)).unwrap_or(0);
        let floor = index::floor_offset(self.active.index.offsets(), relative);
        let floor = floor.map_or(0, |entry| u64::from(entry.position));
        self.replay_file(
            &*self.active.file,
            self.active.base_offset,
            floor..self.active.size,
            offset,
            &mut visit,
        )
    }

    fn replay_file(
        &self,
        file: &dyn File,
        segment: i64,
        range: std::ops::Range<u64>,
        offset: i64,
        visit: &mut impl FnMut(&Batch<'_>),
    ) -> Result<(), StorageError> {
        let path = || self.files.path(segment, files::LOG);
        let on_read = |source| StorageError::on("read", &path())(source);
        let mut scan = Scan::new(file, Check::Headers, range.start, range.end);
        let mut next_offset = segment;
        loop {
            match scan.next().map_err(on_read)? {
                Step::Batch { batch, .. } => {
                    if batch.last_offset() >= offset {
                        visit(&batch);
                    }
                    next_offset = batch.next_offset();
                }
                Step::Invalid { .. } => {
                    scan.skip_damage(next_offset..=self.next_offset).map_err(on_read)?;
                }
                Step::End => return Ok(()),
            }
        }
    }

    /// Moves the log start up to `offset`, at most to the log end. Segments before it go with the next deletion.
    pub fn advance_start(&mut self, offset: i64) {
        self.log_start = self.log_start.max(offset.min(self.next_offset));
    }

    /// Takes other settings; they hold from the next append, roll or deletion on.
    pub fn reconfigure(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// The settings.
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// First offset that may be read.
    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    /// Next offset to be assigned.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The end of the log.
    pub fn end(&self) -> LogPosition {
        LogPosition { offset: self.next_offset, segment: self.active.base_offset, position: self.active.size }
    }

    /// The epoch that batches are appended under.
    pub fn leader_epoch(&self) -> i32 {
        self.epochs.current()
    }

    /// The epoch of the batch at `offset`, or of those to come there.
    pub fn epoch_at(&self, offset: i64) -> i32 {
        self.epochs.at(offset)
    }

    /// The largest epoch that is at most `epoch`, and the offset after its last record; `None` if there is none.
    pub fn epoch_end(&self, epoch: i32) -> Option<(i32, i64)> {
        self.epochs.end_of(epoch, self.next_offset)
    }

    /// Makes the leader epoch at least `floor`, which no log had before the broker last ended without a word: what was
    /// seen then may be gone. An epoch that is not older is followed by the next one unless the log was closed. What is
    /// begun holds for batches to come, and is saved with the first of them.
    ///
    /// # Errors
    /// [`StorageError`]; the epochs are then as before.
    pub fn raise_epoch(&mut self, floor: i32, was_closed: bool) -> Result<(), StorageError> {
        #[cfg(test)]
        if crate::safeguard::Safeguard::EpochFloor.is_taken_out() {
            return Ok(());
        }
        if self.epochs.raise(floor, self.next_offset) {
            self.are_epochs_saved = false;
            Ok(())
        } else if was_closed {
            Ok(())
        } else {
            self.begin_epoch(self.next_offset)
        }
    }

    /// Begins the next leader epoch at `offset`, durably.
    fn begin_epoch(&mut self, offset: i64) -> Result<(), StorageError> {
        let mut epochs = self.epochs.clone();
        epochs.begin_next(offset);
        self.make_root_durable()?;
        epochs.save(&self.files)?;
        (self.epochs, self.are_epochs_saved) = (epochs, true);
        Ok(())
    }

    /// Id of the topic that the directory belongs to.
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// Bytes of batches.
    pub fn size(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.size).sum::<u64>() + self.active.size
    }

    /// Number of segments, the active one included.
    pub fn segment_count(&self) -> usize {
        self.sealed.len() + 1
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.files.dir
    }

    /// The newest snapshot of the producers that is complete up to an offset not after `offset`; `None` if there is
    /// none.
    ///
    /// # Errors
    /// [`StorageError`] if it is there and cannot be read.
    pub fn snapshot_before(&self, offset: i64) -> Result<Option<(i64, Vec<u8>)>, StorageError> {
        if let Some((at, unsaved)) = self.sync.unsaved_snapshot(offset) {
            return Ok(Some((at, unsaved.encode())));
        }
        for at in self.snapshots.range(..=offset).rev() {
            let path = self.files.path(*at, SNAPSHOT);
            let read = self.files.disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
            if let Some(bytes) = read {
                return Ok(Some((*at, bytes)));
            }
        }
        Ok(None)
    }

    /// Whether no snapshot tells of the producers as of the active segment's beginning or later, so that with the
    /// segments before it they would be forgotten.
    pub fn lacks_snapshot(&self) -> bool {
        !self.sealed.is_empty() && self.snapshots.range(self.active.base_offset..).next().is_none()
    }

    /// Keeps the producers' state at the log's end, all of which is synced.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn save_snapshot(&mut self, snapshot: &[u8]) -> Result<(), StorageError> {
        self.files.replace(&self.files.path(self.next_offset, SNAPSHOT), snapshot)?;
        self.snapshots.insert(self.next_offset);
        Ok(())
    }

    fn sealed_with(&self, offset: i64) -> Option<&Arc<SealedSegment>> {
        self.sealed.get(self.sealed.partition_point(|segment| segment.end_offset <= offset))
    }

    fn active_path(&self) -> PathBuf {
        self.files.path(self.active.base_offset, files::LOG)
    }
}

#[cfg(test)]
mod tests;
