//! Finding the end of a log that was not closed, and telling damage from an unfinished write.
//!
//! Every batch from the segment of the recovery point on is checked, with memory for one window. Past the recovery
//! point, where nothing was promised yet, the first invalid batch ends the log, and what follows is set aside; offsets
//! may be missing between valid batches, for a checkpoint that knows of a repair's gap may be lost. Before it, everything
//! had been synced: invalid bytes are damage, which is fenced to the batch, reported, and left where it is; so is,
//! everywhere, a batch whose offset the next one contradicts, which no unfinished write explains. A segment ends where the next one begins: what its file has beyond was cut off and came back with the power.
//! What is past the recovery point is written again before it is synced: where a sync failed before the process ended,
//! the kernel may hold bytes for clean that the device never got, and a sync alone would not give them to it.
//! Invariant: what survives is synced before anyone can see it, here or by whoever asked to do that for many logs at once,
//! and nothing is ever deleted.

use super::files::{Files, LOG};
use super::index::{IndexBuilder, Indexed};
use super::scan::{Check, Scan, Step};
use super::segment::{ActiveSegment, SealedSegment};
use super::{LogConfig, LogPosition, StorageError, set_aside};
use crate::disk::File;
use kappa_protocol::record::Batch;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes written again at once.
const WRITE_BYTES: usize = 1024 * 1024;

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that were looked at, batch by batch.
    pub scanned_segments: usize,
    /// Bytes of them.
    pub scanned_bytes: u64,
    /// Damage before the recovery point. It is still there; reads of these offsets fail.
    pub damage: Vec<Damage>,
    /// What was taken out of the log behind its new end.
    pub set_aside: Vec<SetAside>,
    /// Whether what survived still has to be synced, see [`RecoveryEnd::ToBeSynced`].
    pub is_unsynced: bool,
}

/// Who makes durable what a recovery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryEnd {
    /// The recovery itself.
    Synced,
    /// Whoever opens the log, by one sync of the file system for many logs, before anybody sees or changes this one.
    ToBeSynced,
}

/// Bytes before the recovery point that are no valid batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Base offset of the segment.
    pub segment: i64,
    /// Where it begins, in bytes.
    pub position: u64,
    /// Bytes up to the next valid batch, or to the end of the segment; 0 if bytes are missing there.
    pub bytes: u64,
    /// First offset that should be there.
    pub offset: i64,
}

impl Damage {
    /// An error if the log must be whole.
    pub(super) fn refuse(&self, files: &Files, config: &LogConfig) -> Result<(), StorageError> {
        let Self { segment, position, bytes, offset } = self;
        let what = match bytes {
            0 => format!("the records from offset {offset} on are missing at byte {position}"),
            _ => format!("{bytes} bytes from {position} on are no batch, at offset {offset}"),
        };
        match config.must_be_whole {
            true => Err(StorageError::damaged(&files.path(*segment, LOG), what)),
            false => Ok(()),
        }
    }
}

/// Bytes that were taken out of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The file that has them now.
    pub path: PathBuf,
    /// How many.
    pub bytes: u64,
    /// The offset at which the log ended instead.
    pub from_offset: i64,
}

/// The segments of a recovered log.
#[derive(Debug)]
pub(super) struct RecoveredSegments {
    pub(super) sealed: Vec<Arc<SealedSegment>>,
    pub(super) active: ActiveSegment,
    pub(super) next_offset: i64,
}

/// One scanned segment.
struct Scanned {
    base_offset: i64,
    file: Arc<dyn File>,
    size: u64,
    next_offset: i64,
    index: IndexBuilder,
    first_timestamp: Option<i64>,
    /// Where the first batch begins that is not known to be durable.
    unsynced_from: u64,
    /// Whether bytes follow that end the log.
    ends_log: bool,
}

/// A recovery under way.
pub(super) struct Recovery<'a> {
    pub(super) files: &'a Files,
    pub(super) config: &'a LogConfig,
    pub(super) recovery_point: i64,
    /// Offsets of the snapshots in the directory: none is written before everything up to it is synced.
    pub(super) snapshots: &'a BTreeSet<i64>,
    pub(super) ending: RecoveryEnd,
    pub(super) now_ms: i64,
    pub(super) report: RecoveryReport,
}

impl Recovery<'_> {
    /// Recovers the log whose segments have these base offsets, at least one.
    pub(super) fn run(&mut self, segments: &BTreeSet<i64>) -> Result<RecoveredSegments, StorageError> {
        let bases: Vec<i64> = segments.iter().copied().collect();
        // The segment that ends at the recovery point is looked at too: its end may have been cut off unsynced.
        let first = bases.partition_point(|base| *base < self.recovery_point).saturating_sub(1);
        let mut sealed = Vec::new();
        for (base, end) in bases.iter().zip(bases.iter().skip(1)).take(first) {
            let path = self.files.path(*base, LOG);
            let size = self.files.disk.len(&path).map_err(StorageError::on("measure", &path))?;
            sealed.push(Arc::new(SealedSegment::found(*base, *end, size)));
        }

        let mut last: Option<Scanned> = None;
        let mut remaining = bases.iter().skip(first);
        while let Some(base) = remaining.next() {
            if let Some(previous) = last.take_if(|previous| self.continues(*base, previous.next_offset)) {
                sealed.push(self.seal(Scanned { next_offset: *base, ..previous })?);
            } else if last.is_some() {
                self.set_aside_segment(*base)?;
                break;
            }
            let scanned = self.scan(*base, remaining.clone().next().copied())?;
            let ends_log = scanned.ends_log;
            last = Some(scanned);
            if ends_log {
                break;
            }
        }
        for base in remaining {
            self.set_aside_segment(*base)?;
        }
        let last = last.expect("there is at least one segment");
        let next_offset = last.next_offset;
        let is_damaged_to_the_end = self.report.damage.last().is_some_and(|damage| {
            damage.segment == last.base_offset && damage.position + damage.bytes == last.size
        });
        let active = if is_damaged_to_the_end {
            sealed.push(self.seal(last)?);
            let interval = self.config.index_interval_bytes;
            ActiveSegment::create(self.files, next_offset, interval, self.now_ms)?
        } else {
            self.activate(last)?
        };
        match self.ending {
            RecoveryEnd::Synced => self.files.sync_names()?,
            RecoveryEnd::ToBeSynced => self.report.is_unsynced = true,
        }
        Ok(RecoveredSegments { sealed, active, next_offset })
    }

    /// Looks at a segment, up to the base offset of the next one.
    fn scan(&mut self, base_offset: i64, next_base: Option<i64>) -> Result<Scanned, StorageError> {
        let path = self.files.path(base_offset, LOG);
        let file = self.files.open(&path)?;
        let on_read = |source: io::Error| StorageError::on("read", &path)(source);
        let file_size = file.size().map_err(on_read)?;
        self.report.scanned_segments += 1;
        self.report.scanned_bytes += file_size;

        let mut index = IndexBuilder::new(base_offset, self.config.index_interval_bytes);
        let mut scan = Scan::new(&*file, Check::Checksums, 0, file_size);
        let (mut size, mut next_offset, mut first_timestamp) = (0, base_offset, None);
        let (mut unsynced_from, mut ends_log, mut epoch) = (None, false, i32::MIN);
        while next_base != Some(next_offset) {
            if let Some(bytes) = scan.skip_misplaced(next_offset, self.recovery_point).map_err(on_read)? {
                let (position, len) = (bytes.start, bytes.end - bytes.start);
                self.found(Damage { segment: base_offset, position, bytes: len, offset: next_offset })?;
                size = bytes.end;
                if size == file_size {
                    next_offset = next_offset.max(self.recovery_point);
                }
                continue;
            }
            let invalid_at = match scan.next().map_err(on_read)? {
                Step::End => break,
                Step::Invalid { position } => position,
                Step::Batch { position, batch } if self.follows(&batch, (next_offset, epoch), next_base) => {
                    epoch = batch.leader_epoch();
                    if position == 0 {
                        first_timestamp = Some(batch.max_timestamp()).filter(|timestamp| *timestamp >= 0);
                    }
                    index.add(position, Indexed::from(&batch));
                    next_offset = batch.next_offset();
                    if next_offset > self.recovery_point {
                        unsynced_from.get_or_insert(position);
                    }
                    size = position + batch.size() as u64;
                    continue;
                }
                Step::Batch { position, .. } => position,
            };
            if next_offset >= self.recovery_point {
                ends_log = true;
                break;
            }
            scan.back_to(invalid_at);
            let found = scan.skip_damage(next_offset..=self.recovery_point).map_err(on_read)?;
            size = found.unwrap_or(file_size);
            let (position, bytes) = (invalid_at, size - invalid_at);
            self.found(Damage { segment: base_offset, position, bytes, offset: next_offset })?;
            if found.is_none() {
                next_offset = self.recovery_point;
            }
        }
        if next_offset < self.recovery_point {
            // The file ends before what had been synced does: those offsets are not given out again.
            self.found(Damage { segment: base_offset, position: size, bytes: 0, offset: next_offset })?;
            next_offset = self.recovery_point;
        }
        let unsynced_from = unsynced_from.unwrap_or(size);
        Ok(Scanned { base_offset, file, size, next_offset, index, first_timestamp, unsynced_from, ends_log })
    }

    /// Takes note of damage. Where the log must be whole, nothing is changed yet, and nothing will be.
    fn found(&mut self, damage: Damage) -> Result<(), StorageError> {
        damage.refuse(self.files, self.config)?;
        self.report.damage.push(damage);
        Ok(())
    }

    /// Whether a batch may come where `next_offset` is expected, after one of `epoch`. A gap where nothing but offsets is
    /// missing is one that a repair left: an unfinished write leaves bytes that are no batch, and what a cut left behind is of
    /// an older epoch.
    fn follows(&self, batch: &Batch<'_>, (next_offset, epoch): (i64, i32), next_base: Option<i64>) -> bool {
        let base_offset = batch.base_offset();
        let is_known =
            base_offset == next_offset || (next_offset..=self.recovery_point).contains(&base_offset);
        let is_before_next = next_base.is_none_or(|next_base| batch.next_offset() <= next_base);
        is_known || base_offset > next_offset && batch.leader_epoch() >= epoch && is_before_next
    }

    /// Whether a segment may come after one that ends at `next_offset`: with a gap if a snapshot says that everything before
    /// it was synced.
    fn continues(&self, base_offset: i64, next_offset: i64) -> bool {
        base_offset == next_offset || base_offset > next_offset && self.snapshots.contains(&base_offset)
    }

    fn set_aside_segment(&mut self, base_offset: i64) -> Result<(), StorageError> {
        self.report.set_aside.push(set_aside::segment(self.files, base_offset)?);
        Ok(())
    }

    /// Makes a scanned segment durable, indexes included.
    fn seal(&mut self, scanned: Scanned) -> Result<Arc<SealedSegment>, StorageError> {
        let Scanned { base_offset, file, size, next_offset, index, unsynced_from, .. } = scanned;
        if file.size().map_err(StorageError::on("measure", &self.files.path(base_offset, LOG)))? > size {
            let end = LogPosition { offset: next_offset, segment: base_offset, position: size };
            self.report.set_aside.push(set_aside::tail(self.files, &*file, end)?);
        }
        self.write_again(base_offset, &*file, unsynced_from..size)?;
        self.sync(base_offset, &*file)?;
        let segment = SealedSegment::built(base_offset, next_offset, size, file, index);
        segment.save_indexes(self.files, self.config.index_interval_bytes)?;
        Ok(Arc::new(segment))
    }

    /// Cuts a scanned segment at its last valid batch and makes it durable.
    fn activate(&mut self, scanned: Scanned) -> Result<ActiveSegment, StorageError> {
        let Scanned { base_offset, file, size, next_offset, index, first_timestamp, unsynced_from, ends_log } =
            scanned;
        if ends_log {
            let end = LogPosition { offset: next_offset, segment: base_offset, position: size };
            self.report.set_aside.push(set_aside::tail(self.files, &*file, end)?);
        }
        self.write_again(base_offset, &*file, unsynced_from..size)?;
        if self.ending == RecoveryEnd::Synced {
            self.sync(base_offset, &*file)?;
        }
        Ok(ActiveSegment {
            base_offset,
            file,
            size,
            index,
            first_timestamp,
            created_ms: self.now_ms,
            was_cut: false,
        })
    }

    /// Writes a range of a segment again, so that a sync gives it to the device, whatever the kernel holds of it.
    fn write_again(
        &self,
        base_offset: i64,
        file: &dyn File,
        unsynced: Range<u64>,
    ) -> Result<(), StorageError> {
        let path = || self.files.path(base_offset, LOG);
        let (mut buffer, mut position) = (Vec::new(), unsynced.start);
        #[cfg(test)]
        if crate::safeguard::Safeguard::SecondWrite.is_taken_out() {
            position = unsynced.end;
        }
        while position < unsynced.end {
            buffer.clear();
            let len = WRITE_BYTES.min(usize::try_from(unsynced.end - position).unwrap_or(WRITE_BYTES));
            let read = file.read_at(position, len, &mut buffer);
            let read = read.map_err(|source| StorageError::on("read", &path())(source))?;
            if read == 0 {
                break;
            }
            let written = file.write_at(position, [&buffer, &[]]);
            written.map_err(|source| StorageError::on("write to", &path())(source))?;
            position += read as u64;
        }
        Ok(())
    }

    fn sync(&self, base_offset: i64, file: &dyn File) -> Result<(), StorageError> {
        file.sync_data()
            .map_err(|source| StorageError::on("sync", &self.files.path(base_offset, LOG))(source))
    }
}
