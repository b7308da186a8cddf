//! What of a log is durable, and the work that makes more of it so.
//!
//! Two positions say so. Up to the *synced* one the segments' own files are durable: it is contiguous, and only moves
//! to where the log ended when a [`SyncJob`] was made, after the job synced the names of new files and then every file
//! from the oldest unsynced one on, in order. Up to the *durable* one the bytes are on the disk somewhere, in the
//! segments or in the journal, which a [`CommitJob`] tells what to take. Invariant: `synced <= durable <= end`. The recovery
//! point is the synced position. Indexes and snapshots of rolled segments come later; where a crash comes before them, whoever
//! needs them makes them again from the batches.

use super::files::{Files, LOG, OFFSET_INDEX, SNAPSHOT, TIME_INDEX};
use super::leader_epoch::LeaderEpochs;
use super::segment::SealedSegment;
use super::{Log, LogPosition, StorageError, leader_epoch, metadata, spare};
use crate::disk::File;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Index entries, and bytes, up to which an active segment is closed without indexes and snapshot: ten thousand such
/// segments are read at a start in a fraction of the time that three small files of each take at the stop.
const SHORT_ENTRIES: u64 = 4;
const SHORT_BYTES: u64 = 16 * 1024;

#[derive(Debug)]
pub(super) struct SyncState {
    durable: LogPosition,
    synced: LogPosition,
    /// Sealed segments that no sync has covered since they were last written to, oldest first.
    unsynced: Vec<(i64, Arc<dyn File>)>,
    /// What of rolled segments is in memory only, oldest first.
    unsaved: VecDeque<Unsaved>,
    names_changed: u64,
    names_synced: u64,
    /// How often the log was cut.
    cuts: u64,
    /// The segment whose file was made beforehand and has no name of its own yet.
    unnamed: Option<i64>,
    /// Whether the directory's own name, and whose it is, are durable.
    pub(super) is_rooted: bool,
}

/// The state of a partition's producers, which becomes bytes when it is written: nobody waits for that at a roll.
pub trait Snapshot: fmt::Debug + Send + Sync {
    /// The bytes of the file.
    fn encode(&self) -> Vec<u8>;
}

#[cfg(test)]
impl Snapshot for Vec<u8> {
    fn encode(&self) -> Vec<u8> {
        self.clone()
    }
}

/// A rolled segment, `None` once it is deleted, and the producers' state at its end.
#[derive(Clone, Debug)]
struct Unsaved {
    segment: Option<Arc<SealedSegment>>,
    snapshot: (i64, Arc<dyn Snapshot>),
}

/// Files to sync so that a log is durable up to a position.
#[derive(Debug)]
pub struct SyncJob {
    files: Arc<Files>,
    /// The topic whose directory is not durable yet.
    root: Option<Uuid>,
    names: Option<u64>,
    unnamed: Option<i64>,
    /// Those that the checkpoint lacks: a batch that is synced must not be the only one to tell of its epoch.
    epochs: Option<LeaderEpochs>,
    data: Vec<(i64, Arc<dyn File>)>,
    cuts: u64,
    up_to: LogPosition,
}

/// Bytes of the active segment for the journal to take.
#[derive(Debug)]
pub struct CommitJob {
    file: Arc<dyn File>,
    from: u64,
    up_to: LogPosition,
}

/// Indexes and snapshots of rolled segments to write.
#[derive(Debug)]
pub struct SaveJob {
    files: Arc<Files>,
    interval: u32,
    segments: Vec<Unsaved>,
}

impl SyncState {
    /// The state of a log that was just opened or created and is durable up to `synced`; `is_rooted` says whether its
    /// directory is, too.
    pub(super) fn new(synced: LogPosition, is_rooted: bool) -> Self {
        Self {
            durable: synced,
            synced,
            unsynced: Vec::new(),
            unsaved: VecDeque::new(),
            names_changed: 0,
            names_synced: 0,
            cuts: 0,
            unnamed: None,
            is_rooted,
        }
    }

    /// Has the next sync cover a file that is sealed now.
    pub(super) fn leave_unsynced(&mut self, base_offset: i64, file: Arc<dyn File>) {
        self.unsynced.push((base_offset, file));
    }

    /// Counts a roll: the new segment has a new name, and the old one's indexes are in memory.
    pub(super) fn sealed(&mut self, segment: Arc<SealedSegment>, snapshot: (i64, Arc<dyn Snapshot>)) {
        self.unsaved.push_back(Unsaved { segment: Some(segment), snapshot });
        self.names_changed += 1;
    }

    /// Has the next sync give a file its name.
    pub(super) fn name_later(&mut self, base_offset: i64) {
        debug_assert!(self.unnamed.is_none(), "there is one file without a name");
        self.unnamed = Some(base_offset);
    }

    /// The segment whose file has no name of its own yet.
    pub(super) fn unnamed(&self) -> Option<i64> {
        self.unnamed
    }

    /// The file of this segment has its name.
    pub(super) fn named(&mut self, base_offset: Option<i64>) {
        self.unnamed = self.unnamed.filter(|unnamed| Some(*unnamed) != base_offset);
    }

    /// Forgets what lay beyond `end`, whose segment is the active one now.
    pub(super) fn cut(&mut self, end: LogPosition) {
        self.unnamed = self.unnamed.filter(|base_offset| *base_offset <= end.segment);
        self.unsynced.retain(|(base_offset, _)| *base_offset < end.segment);
        self.unsaved.retain(|unsaved| unsaved.snapshot.0 <= end.segment);
        for position in [&mut self.synced, &mut self.durable] {
            if position.offset > end.offset {
                *position = end;
            }
        }
        self.names_changed += 1;
        self.cuts += 1;
    }

    /// The segments before `first` are deleted: their indexes are not wanted any more, nor is the producers' state before.
    pub(super) fn deleted_before(&mut self, first: i64) {
        self.unsaved.retain(|unsaved| unsaved.snapshot.0 >= first);
        if let Some(unsaved) = self.unsaved.front_mut().filter(|unsaved| unsaved.snapshot.0 == first) {
            unsaved.segment = None;
        }
    }

    /// Offsets of the snapshots that are not known to be on the disk.
    pub(super) fn unsaved_snapshots(&self) -> impl Iterator<Item = i64> {
        self.unsaved.iter().map(|unsaved| unsaved.snapshot.0)
    }

    pub(super) fn unsaved_snapshot(&self, offset: i64) -> Option<(i64, &dyn Snapshot)> {
        let unsaved = self.unsaved.iter().rev().find(|unsaved| unsaved.snapshot.0 <= offset)?;
        Some((unsaved.snapshot.0, &*unsaved.snapshot.1))
    }
}

impl Log {
    /// The position up to which the log is durable, in its segments or in the journal.
    pub fn durable(&self) -> LogPosition {
        self.sync.durable
    }

    /// The position up to which the segments' files are durable.
    pub fn synced(&self) -> LogPosition {
        self.sync.synced
    }

    /// Whether something in the log is not durable.
    pub fn is_dirty(&self) -> bool {
        self.sync.durable.offset < self.next_offset
    }

    /// Whether a [`SyncJob`] would have something to do.
    pub fn needs_sync(&self) -> bool {
        self.sync.synced.offset < self.next_offset
    }

    /// Everything before this offset is durable in the segments: recovery starts here. It goes back by a cut only, however
    /// late the indexes of rolled segments are saved: what was synced must not end the log where it is damaged later.
    pub fn recovery_point(&self) -> i64 {
        self.sync.synced.offset
    }

    /// The work that makes the log durable up to its present end; `None` if it is. To be run without the lock, one at
    /// a time, and then given to [`Log::finish_sync`].
    pub fn begin_sync(&self) -> Option<SyncJob> {
        if !self.needs_sync() {
            return None;
        }
        let mut data = self.sync.unsynced.clone();
        if self.active.size > 0 {
            data.push((self.active.base_offset, self.active.file.clone()));
        }
        let names = (self.sync.names_synced < self.sync.names_changed).then_some(self.sync.names_changed);
        let root = (!self.sync.is_rooted).then_some(self.topic_id);
        let epochs = (!self.are_epochs_saved).then(|| self.epochs.clone());
        let (files, unnamed) = (self.files.clone(), self.sync.unnamed);
        Some(SyncJob { files, root, names, unnamed, epochs, data, cuts: self.sync.cuts, up_to: self.end() })
    }

    /// Makes durable that the directory is there and whose it is; the first sync would, too.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn make_root_durable(&mut self) -> Result<(), StorageError> {
        if !self.sync.is_rooted {
            self.files.sync_root(self.topic_id)?;
            self.sync.is_rooted = true;
        }
        Ok(())
    }

    /// Whether the log was cut after the job was made.
    fn was_cut_since(&self, job: &SyncJob) -> bool {
        self.sync.cuts != job.cuts
    }

    /// Takes note that the job was run with success. If the log was cut meanwhile, what is at its end now may not be what
    /// the job synced, and counts as not synced.
    pub fn finish_sync(&mut self, job: &SyncJob) {
        if self.was_cut_since(job) {
            return;
        }
        // The segment that was active then may have been written to and sealed since.
        self.sync.unsynced.retain(|(base_offset, _)| *base_offset >= job.up_to.segment);
        self.sync.names_synced = self.sync.names_synced.max(job.names.unwrap_or(0));
        self.sync.is_rooted |= job.root.is_some();
        self.sync.named(job.unnamed);
        self.are_epochs_saved |= job.epochs.is_some();
        self.sync.synced = job.up_to;
        if self.sync.durable.offset < job.up_to.offset {
            self.sync.durable = job.up_to;
        }
    }

    /// The bytes that the journal has to take so that the log is durable up to its present end; `None` if it is
    /// already, or if they reach over several segments.
    pub fn begin_commit(&self) -> Option<CommitJob> {
        let (durable, active) = (self.sync.durable, &self.active);
        let from = match durable.segment == active.base_offset {
            true => durable.position,
            false if durable.offset == active.base_offset => 0,
            false => return None,
        };
        (from < active.size).then(|| CommitJob { file: active.file.clone(), from, up_to: self.end() })
    }

    /// Takes note that the journal has the job's bytes, durably.
    pub fn finish_commit(&mut self, job: &CommitJob) {
        if self.sync.durable.offset < job.up_to.offset {
            self.sync.durable = job.up_to;
        }
    }

    /// Writes bytes of an unsynced segment to its file once more, after a sync that failed may have lost them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn write_again(&self, segment: i64, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let active = (self.active.base_offset, &self.active.file);
        let unsynced = self.sync.unsynced.iter().map(|(base_offset, file)| (*base_offset, file));
        match unsynced.chain([active]).find(|(base_offset, _)| *base_offset == segment) {
            Some((_, file)) => {
                let written = file.write_at(position, [bytes, &[]]);
                written.map_err(StorageError::on("write to", &self.files.path(segment, LOG)))
            }
            // The segment is synced.
            None => Ok(()),
        }
    }

    /// Whether a segment was rolled and its sync and save are still to come, or the sync that gives the next one's file
    /// its name: the journal must not tell of a file that has none.
    pub fn has_unsaved_roll(&self) -> bool {
        !self.sync.unsaved.is_empty() || self.sync.unnamed.is_some()
    }

    /// The work that writes the indexes and snapshots of rolled segments that are synced; `None` if there is none. To
    /// be run like a [`SyncJob`].
    pub fn begin_save(&self) -> Option<SaveJob> {
        let synced = self.sync.synced.offset;
        let is_synced = |unsaved: &&Unsaved| unsaved.snapshot.0 <= synced;
        let segments: Vec<_> = self.sync.unsaved.iter().take_while(is_synced).cloned().collect();
        let interval = self.config.index_interval_bytes;
        (!segments.is_empty()).then(|| SaveJob { files: self.files.clone(), interval, segments })
    }

    /// Takes note that the job was run with success.
    pub fn finish_save(&mut self, job: SaveJob) {
        for saved in job.segments {
            self.snapshots.insert(saved.snapshot.0);
            self.sync.unsaved.retain(|unsaved| unsaved.snapshot.0 != saved.snapshot.0);
        }
    }

    /// Whether [`Log::write_closing`] has something to do: a clean start would lack something, or find what is out of date.
    pub fn needs_closing(&self) -> bool {
        let is_as_closed = self.is_as_closed || self.next_offset == 0;
        !is_as_closed && (self.has_indexes || !self.is_short())
    }

    /// Writes what a clean start needs: the indexes of the active segment and the producers' state at the log's end. It
    /// needs none of a short segment, whose indexes are taken away if there are any: they are those of an earlier end.
    /// Everything must be synced and saved before. What is written is durable after a sync of the file system.
    ///
    /// # Errors
    /// [`StorageError`]; the log must then not be taken for cleanly closed.
    pub fn write_closing(&mut self, snapshot: &[u8]) -> Result<(), StorageError> {
        let [offset_index, time_index] =
            [OFFSET_INDEX, TIME_INDEX].map(|suffix| self.files.path(self.active.base_offset, suffix));
        if self.is_short() {
            self.files.remove(&offset_index)?;
            self.files.remove(&time_index)?;
            self.has_indexes = false;
        } else {
            let (offsets, times) = self.active.index.clone().finish();
            self.has_indexes = true;
            self.files.write(&offset_index, &offsets)?;
            self.files.write(&time_index, &times)?;
            self.files.write(&self.files.path(self.next_offset, SNAPSHOT), snapshot)?;
            self.snapshots.insert(self.next_offset);
        }
        self.is_as_closed = true;
        Ok(())
    }

    /// Whether a start looks at all batches of the active segment in no time, and at none before them.
    fn is_short(&self) -> bool {
        let bytes = u64::from(self.config.index_interval_bytes).saturating_mul(SHORT_ENTRIES);
        self.active.size <= bytes.min(SHORT_BYTES) && !self.lacks_snapshot()
    }
}

/// Why a sync failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// Before the device was given any byte of a segment: none is in doubt.
    #[error(transparent)]
    NotBegun(StorageError),
    /// The device may lack what was written.
    #[error(transparent)]
    Lost(StorageError),
}

impl SyncError {
    /// What the disk said.
    pub fn into_error(self) -> StorageError {
        match self {
            Self::NotBegun(error) | Self::Lost(error) => error,
        }
    }
}

impl SyncJob {
    /// Syncs, waiting for the device.
    ///
    /// # Errors
    /// The first failure; nothing that the job should have made durable may then be counted on.
    pub fn run(&self) -> Result<(), SyncError> {
        self.sync_names().map_err(SyncError::NotBegun)?;
        for (base_offset, file) in &self.data {
            let synced = file.sync_data();
            synced
                .map_err(StorageError::on("sync", &self.files.path(*base_offset, LOG)))
                .map_err(SyncError::Lost)?;
        }
        Ok(())
    }

    /// All that must be durable before the segments' bytes are.
    fn sync_names(&self) -> Result<(), StorageError> {
        self.unnamed.map_or(Ok(()), |base_offset| spare::give_name(&self.files, base_offset))?;
        if let Some(topic_id) = self.root {
            self.files.sync_root(topic_id)?;
        } else if self.names.is_some() {
            self.files.sync_names()?;
        }
        self.epochs.as_ref().map_or(Ok(()), |epochs| epochs.save(&self.files))
    }

    /// Does what must come before a sync of the whole file system, which then is as good as [`SyncJob::run`] but for
    /// new epochs, see [`SyncJob::has_epochs`].
    ///
    /// # Errors
    /// [`StorageError`], as [`SyncJob::run`].
    pub fn prepare(&self) -> Result<(), StorageError> {
        self.unnamed.map_or(Ok(()), |base_offset| spare::give_name(&self.files, base_offset))?;
        self.epochs.as_ref().map_or(Ok(()), |epochs| epochs.stage(&self.files))?;
        self.root.map_or(Ok(()), |topic_id| metadata::write_again(&self.files, topic_id).map(drop))
    }

    /// Whether there are new epochs: [`SyncJob::place_epochs`] and a second sync must follow the first.
    pub fn has_epochs(&self) -> bool {
        self.epochs.is_some()
    }

    /// Puts the epochs that a first sync made durable in the place of those before.
    ///
    /// # Errors
    /// [`StorageError`], as [`SyncJob::run`].
    pub fn place_epochs(&self) -> Result<(), StorageError> {
        leader_epoch::place_staged(&self.files)
    }
}

impl CommitJob {
    /// Where the bytes begin in the segment's file.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.up_to.position - self.from
    }

    /// Whether there are none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the log ended when the job was made.
    pub fn up_to(&self) -> LogPosition {
        self.up_to
    }

    /// Appends the bytes to `into`, out of the page cache. Returns how many came.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn read(&self, into: &mut Vec<u8>) -> std::io::Result<usize> {
        self.file.read_at(self.from, usize::try_from(self.len()).map_err(std::io::Error::other)?, into)
    }
}

impl SaveJob {
    /// Writes, waiting for the device.
    ///
    /// # Errors
    /// The first failure; the job may be made and run again.
    pub fn run(&self) -> Result<(), StorageError> {
        for Unsaved { segment, snapshot } in &self.segments {
            segment.as_ref().map_or(Ok(()), |segment| segment.save_indexes(&self.files, self.interval))?;
            self.files.replace(&self.files.path(snapshot.0, SNAPSHOT), &snapshot.1.encode())?;
        }
        Ok(())
    }
}
