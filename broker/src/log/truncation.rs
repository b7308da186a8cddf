//! Cutting off the end of a log.
//!
//! A cut takes hold in memory at once, behind a [`CutJob`] where someone may have seen what goes; what it has to do on the
//! disk is a list of repairs, worked off by a [`RepairJob`]. Invariant: nothing is appended while a repair is pending, so
//! that no file of the old end can be taken for part of the new one.

use super::files::{Files, LOG, OFFSET_INDEX, SNAPSHOT, TIME_INDEX};
use super::index::{IndexBuilder, Indexed, floor_offset};
use super::leader_epoch::LeaderEpochs;
use super::scan::{Check, Scan, Step};
use super::segment::ActiveSegment;
use super::{Log, StorageError, spare};
use crate::disk::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// Something left to do on the disk before the log may grow again.
#[derive(Clone, Debug)]
pub(super) enum Repair {
    /// The active file may hold bytes beyond the log's end.
    CutActive,
    /// What was cut off may come back with the power, between batches that are appended in its place.
    SyncActive,
    /// A file of what was cut off may still be there.
    Remove(PathBuf),
    /// The names removed may come back until the directory is synced.
    SyncNames,
}

/// What must be durable before a log is cut: to be run without the log's lock, waiting for the disk.
#[derive(Debug)]
pub struct CutJob {
    offset: i64,
    files: Arc<Files>,
    /// Whose the directory is, if that is not durable.
    root: Option<Uuid>,
    /// The epochs, with one that begins at the cut, if what goes may have been seen.
    epochs: Option<LeaderEpochs>,
}

/// Repairs to be made without the log's lock, waiting for the disk.
#[derive(Debug)]
pub struct RepairJob {
    files: Arc<Files>,
    active: (i64, Arc<dyn File>, u64),
    repairs: Vec<Repair>,
    /// How many are made.
    done: usize,
}

/// Where a segment is cut.
struct Cut {
    position: u64,
    next_offset: i64,
}

impl Log {
    /// Cuts off every batch that holds `offset` or a later one. The log needs a repair then.
    ///
    /// # Errors
    /// [`StorageError`] if what stays cannot be read; the log is then as before.
    pub fn truncate_to(&mut self, offset: i64, now_ms: i64) -> Result<(), StorageError> {
        if offset >= self.next_offset {
            return Ok(());
        }
        let old_base = self.active.base_offset;
        let (target, cut, kept) = self.find_segment_to_cut(offset, now_ms)?;

        if self.sync.unnamed().is_some_and(|base_offset| base_offset > target.base_offset) {
            // Before the name that a sync may be about to give it.
            self.repairs.push(Repair::Remove(spare::path(&self.files)));
        }
        for dropped in self.sealed.iter().skip(kept).map(|segment| segment.base_offset).chain([old_base]) {
            let suffixes: &[&str] = if dropped == target.base_offset {
                &[OFFSET_INDEX, TIME_INDEX]
            } else {
                &[LOG, OFFSET_INDEX, TIME_INDEX]
            };
            self.repairs
                .extend(suffixes.iter().map(|suffix| Repair::Remove(self.files.path(dropped, suffix))));
        }
        // A snapshot that is not saved yet may have got as far as the disk.
        let unsaved = self.sync.unsaved_snapshots().filter(|offset| *offset > cut.next_offset);
        self.snapshots.extend(unsaved);
        for snapshot in self.snapshots.split_off(&(cut.next_offset + 1)) {
            self.repairs.push(Repair::Remove(self.files.path(snapshot, SNAPSHOT)));
        }
        Arc::make_mut(&mut self.sealed).truncate(kept);
        self.active = target;
        // A repair that is given up with the log leaves them there.
        (self.is_as_closed, self.has_indexes) = (false, true);
        self.next_offset = cut.next_offset;
        self.log_start = self.log_start.min(cut.next_offset);
        self.sync.cut(self.end());
        self.repairs.extend([Repair::CutActive, Repair::SyncActive, Repair::SyncNames]);
        Ok(())
    }

    /// What has to come before a cut at `offset`. Where someone may have `seen` what goes, what comes in its place is of a
    /// new leader epoch, which is durable before anything goes.
    pub fn begin_cut(&self, offset: i64, seen: bool) -> CutJob {
        let epochs = seen.then(|| {
            let mut epochs = self.epochs.clone();
            epochs.begin_next(offset);
            epochs
        });
        // What is in a directory that is not durable is not either.
        let root = (seen && !self.sync.is_rooted).then_some(self.topic_id);
        CutJob { offset, files: self.files.clone(), root, epochs }
    }

    /// Cuts the log after the job was run.
    ///
    /// # Errors
    /// As [`Log::truncate_to`].
    pub fn finish_cut(&mut self, job: CutJob, now_ms: i64) -> Result<(), StorageError> {
        self.sync.is_rooted |= job.root.is_some();
        self.truncate_to(job.offset, now_ms)?;
        if let Some(epochs) = job.epochs {
            (self.epochs, self.are_epochs_saved) = (epochs, true);
        }
        Ok(())
    }

    /// Whether a [`RepairJob`] must succeed before the next append.
    pub fn needs_repair(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// What failed writes and cuts left to do on the disk; `None` for nothing. Nobody else may change the log's end
    /// before the job was given to [`Log::finish_repair`].
    pub fn begin_repair(&self) -> Option<RepairJob> {
        let active = (self.active.base_offset, self.active.file.clone(), self.active.size);
        let (files, repairs) = (self.files.clone(), self.repairs.clone());
        self.needs_repair().then_some(RepairJob { files, active, repairs, done: 0 })
    }

    /// Takes note of what the job has done.
    pub fn finish_repair(&mut self, job: &RepairJob) {
        let done = self.repairs.drain(..job.done.min(self.repairs.len()));
        self.active.was_cut |= done.into_iter().any(|repair| matches!(repair, Repair::CutActive));
    }

    /// The segment that is active after the cut, where it is cut, and how many sealed segments come before it.
    fn find_segment_to_cut(
        &self,
        offset: i64,
        now_ms: i64,
    ) -> Result<(ActiveSegment, Cut, usize), StorageError> {
        let interval = self.config.index_interval_bytes;
        if offset >= self.active.base_offset || self.sealed.is_empty() {
            let (offsets, times) = (self.active.index.offsets(), self.active.index.times());
            let parts = (self.active.base_offset, self.active.file.clone(), self.active.size);
            let (segment, cut) = cut_segment(&self.files, parts, (offsets, times), interval, offset, now_ms)?;
            return Ok((segment, cut, self.sealed.len()));
        }
        let kept = self.sealed.partition_point(|segment| segment.end_offset <= offset);
        let segment = self.sealed.get(kept).expect("the offset is before the active segment");
        let content = segment.content(&self.files, interval)?;
        let parts = (segment.base_offset, content.file.clone(), segment.size);
        let indexes: (&[u8], &[u8]) = (&content.offsets, &content.times);
        let (segment, cut) = cut_segment(&self.files, parts, indexes, interval, offset, now_ms)?;
        Ok((segment, cut, kept))
    }
}

impl CutJob {
    /// Whether what is cut may have been seen.
    pub fn is_of_seen(&self) -> bool {
        self.epochs.is_some()
    }

    /// Makes the new epoch durable.
    ///
    /// # Errors
    /// [`StorageError`]; nothing may be cut then.
    pub fn run(&self) -> Result<(), StorageError> {
        self.root.map_or(Ok(()), |topic_id| self.files.sync_root(topic_id))?;
        self.epochs.as_ref().map_or(Ok(()), |epochs| epochs.save(&self.files))
    }
}

impl RepairJob {
    /// Repairs what it can.
    ///
    /// # Errors
    /// The first failure; the rest stays to be done.
    pub fn run(&mut self) -> Result<(), StorageError> {
        let (base_offset, file, size) = &self.active;
        let path = || self.files.path(*base_offset, LOG);
        while let Some(repair) = self.repairs.get(self.done) {
            match repair {
                // Not synced here: were that to fail, it would take unsynced batches along that are still good.
                Repair::CutActive => {
                    file.set_len(*size).map_err(|source| StorageError::on("cut", &path())(source))?;
                }
                Repair::SyncActive => {
                    file.sync_data().map_err(|source| StorageError::on("sync", &path())(source))?;
                }
                Repair::Remove(path) => self.files.remove(path)?,
                Repair::SyncNames => self.files.sync_names()?,
            }
            self.done += 1;
        }
        Ok(())
    }
}

/// What remains of a segment (base offset, file, size) with its indexes when it is cut at `offset`.
fn cut_segment(
    files: &Files,
    (base_offset, file, size): (i64, Arc<dyn File>, u64),
    (offsets, times): (&[u8], &[u8]),
    interval: u32,
    offset: i64,
    now_ms: i64,
) -> Result<(ActiveSegment, Cut), StorageError> {
    let path = files.path(base_offset, LOG);
    let on_read = |source| StorageError::on("read", &path)(source);
    let relative = u32::try_from(offset.saturating_sub(base_offset)).unwrap_or(0);
    let floor = floor_offset(offsets, relative).map_or(0, |entry| u64::from(entry.position));
    let cut = find_cut(&*file, floor..size, base_offset, offset).map_err(on_read)?;
    let (mut index, from) = IndexBuilder::resume(base_offset, interval, offsets, times, cut.position);
    add_batches(&*file, from..cut.position, &mut index, cut.next_offset).map_err(on_read)?;
    let first_timestamp = first_timestamp(&*file, cut.position).map_err(on_read)?;
    let segment = ActiveSegment {
        base_offset,
        file,
        size: cut.position,
        index,
        first_timestamp,
        created_ms: now_ms,
        was_cut: true,
    };
    Ok((segment, cut))
}

fn find_cut(file: &dyn File, range: std::ops::Range<u64>, base_offset: i64, offset: i64) -> io::Result<Cut> {
    let mut scan = Scan::new(file, Check::Headers, range.start, range.end);
    let mut next_offset = base_offset;
    loop {
        match scan.next()? {
            Step::Batch { position, batch } if batch.last_offset() >= offset => {
                // Offsets between two batches may be missing; those within a batch go with it.
                return Ok(Cut { position, next_offset: offset.min(batch.base_offset()).max(next_offset) });
            }
            Step::Batch { batch, .. } => next_offset = batch.next_offset(),
            Step::Invalid { .. } => {
                scan.skip_damage(next_offset..=i64::MAX)?;
            }
            Step::End => return Ok(Cut { position: range.end, next_offset: offset }),
        }
    }
}

/// Adds the batches of a range of a segment to its indexes.
pub(super) fn add_batches(
    file: &dyn File,
    range: std::ops::Range<u64>,
    index: &mut IndexBuilder,
    end_offset: i64,
) -> io::Result<()> {
    let mut scan = Scan::new(file, Check::Headers, range.start, range.end);
    loop {
        match scan.next()? {
            Step::Batch { position, batch } => index.add(position, Indexed::from(&batch)),
            Step::Invalid { .. } => {
                scan.skip_damage(0..=end_offset)?;
            }
            Step::End => return Ok(()),
        }
    }
}

/// The largest timestamp of the first batch of a segment of `size` bytes.
pub(super) fn first_timestamp(file: &dyn File, size: u64) -> io::Result<Option<i64>> {
    match Scan::new(file, Check::Headers, 0, size).next()? {
        Step::Batch { batch, .. } => Ok(Some(batch.max_timestamp()).filter(|timestamp| *timestamp >= 0)),
        Step::Invalid { .. } | Step::End => Ok(None),
    }
}
