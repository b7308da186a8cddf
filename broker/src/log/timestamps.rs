//! Finding records by their timestamps.
//!
//! A search is made under the lock and run without it. Invariant: it answers with the first record, by offset, whose
//! timestamp fits, among those that are visible; the time index only says where to begin.

use super::files::{Files, LOG};
use super::index::{floor_offset, floor_time, last_time_before};
use super::scan::{Check, Scan, Step};
use super::segment::SealedSegment;
use super::{Log, LogPosition, SliceError, StorageError};
use crate::disk::File;
use kappa_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX;
use kappa_protocol::record::Batch;
use std::sync::Arc;

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// Its timestamp in ms.
    pub timestamp: i64,
    /// Its offset.
    pub offset: i64,
    /// The leader epoch that it was appended under.
    pub leader_epoch: i32,
}

/// A search that knows the segments as they were when it was made.
#[derive(Debug)]
pub struct TimestampSearch {
    files: Arc<Files>,
    index_interval: u32,
    sealed: Arc<Vec<Arc<SealedSegment>>>,
    active: ActiveView,
    log_start: i64,
    upper: LogPosition,
}

/// A segment: base offset, file, offset index, time index.
type SegmentView<'a> = (i64, &'a dyn File, &'a [u8], &'a [u8]);

/// What a scan shows of a batch, and where it is.
struct Stepped {
    position: u64,
    size: usize,
    base_offset: i64,
    last_offset: i64,
    max_timestamp: i64,
}

#[derive(Debug)]
struct ActiveView {
    base_offset: i64,
    file: Arc<dyn File>,
    offsets: Vec<u8>,
    times: Vec<u8>,
    max_timestamp: i64,
}

impl Log {
    /// A search of what is before `upper`.
    pub fn timestamp_search(&self, upper: LogPosition) -> TimestampSearch {
        let active = &self.active;
        TimestampSearch {
            files: self.files.clone(),
            index_interval: self.config.index_interval_bytes,
            sealed: self.sealed.clone(),
            active: ActiveView {
                base_offset: active.base_offset,
                file: active.file.clone(),
                offsets: active.index.offsets().to_vec(),
                times: active.index.times().to_vec(),
                max_timestamp: active.index.max_timestamp().0,
            },
            log_start: self.log_start,
            upper,
        }
    }
}

impl TimestampSearch {
    /// The first record whose timestamp is `timestamp` or later.
    ///
    /// # Errors
    /// [`SliceError`] from the disk, or for a batch whose records cannot be decoded.
    pub fn first_at(&self, timestamp: i64) -> Result<Option<TimestampedOffset>, SliceError> {
        let first = self.sealed.partition_point(|segment| segment.end_offset <= self.log_start);
        for segment in self.sealed.iter().skip(first) {
            if segment.base_offset >= self.upper.offset {
                return Ok(None);
            }
            let content = segment.content(&self.files, self.index_interval)?;
            if content.max_timestamp.0 >= timestamp {
                let view = (segment.base_offset, &*content.file, &*content.offsets, &*content.times);
                let found = self.first_in(view, segment.size, timestamp)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        let active = &self.active;
        if active.max_timestamp < timestamp {
            return Ok(None);
        }
        let view = (active.base_offset, &*active.file, &*active.offsets, &*active.times);
        self.first_in(view, u64::MAX, timestamp)
    }

    /// The first record that has the largest timestamp. Every segment is looked at once, and the batches of at most two:
    /// of the one that holds the log start and the one that holds the upper bound.
    ///
    /// # Errors
    /// As [`TimestampSearch::first_at`].
    pub fn latest(&self) -> Result<Option<TimestampedOffset>, SliceError> {
        let mut latest = None;
        let first = self.sealed.partition_point(|segment| segment.end_offset <= self.log_start);
        for segment in self.sealed.iter().skip(first) {
            if segment.base_offset >= self.upper.offset {
                return Ok(latest);
            }
            let content = segment.content(&self.files, self.index_interval)?;
            let view = (segment.base_offset, &*content.file, &*content.offsets, &*content.times);
            latest = self.later_in(view, segment.size, content.max_timestamp.0, latest)?;
        }
        let active = &self.active;
        let view = (active.base_offset, &*active.file, &*active.offsets, &*active.times);
        self.later_in(view, u64::MAX, active.max_timestamp, latest)
    }

    /// The first record of a segment that has its largest visible timestamp, if that is larger than that of `than`, else
    /// `than`. No timestamp of the segment is larger than `max_timestamp`.
    fn later_in(
        &self,
        view: SegmentView<'_>,
        size: u64,
        max_timestamp: i64,
        than: Option<TimestampedOffset>,
    ) -> Result<Option<TimestampedOffset>, SliceError> {
        let (base_offset, file, offsets, times) = view;
        let least = than.map_or(i64::MIN, |found| found.timestamp.saturating_add(1));
        if max_timestamp < least {
            return Ok(than);
        }
        let is_whole = base_offset >= self.log_start && self.upper.segment != base_offset;
        if is_whole && let Some(found) = self.first_in(view, size, max_timestamp.max(least))? {
            return Ok(Some(found));
        }
        let end = if self.upper.segment == base_offset { self.upper.position } else { size };
        if end == u64::MAX {
            return Ok(than);
        }
        // The last entry that is visible and not deleted has the largest timestamp up to its batch.
        let visible = relative(self.upper.offset, base_offset);
        let start = relative(self.log_start, base_offset);
        // Unless its batch is damaged, as it must be where the segment is whole and nothing was found.
        let by_time =
            last_time_before(times, visible).filter(|entry| entry.relative_offset >= start && !is_whole);
        let floor = floor_offset(offsets, by_time.map_or(start, |entry| entry.relative_offset));
        let mut scan =
            Scan::new(file, Check::Headers, floor.map_or(0, |entry| u64::from(entry.position)), end);
        let (mut latest, mut largest) = (than, None);
        let mut next_offset = base_offset;
        loop {
            let batch = match self.step(base_offset, &mut scan, &mut next_offset)? {
                None => break,
                Some(batch) if batch.last_offset < self.log_start => continue,
                Some(batch) => batch,
            };
            if batch.base_offset < self.log_start {
                // Its largest timestamp may be that of a deleted record.
                latest = self.later_in_batch(base_offset, file, &batch, latest)?;
            } else if largest.as_ref().is_none_or(|other: &Stepped| batch.max_timestamp > other.max_timestamp)
            {
                largest = Some(batch);
            }
        }
        match largest {
            Some(batch) => self.later_in_batch(base_offset, file, &batch, latest),
            None => Ok(latest),
        }
    }

    /// The first record of a batch that has its largest timestamp after the log start, if that is larger than that of
    /// `than`, else `than`.
    fn later_in_batch(
        &self,
        segment: i64,
        file: &dyn File,
        batch: &Stepped,
        than: Option<TimestampedOffset>,
    ) -> Result<Option<TimestampedOffset>, SliceError> {
        let mut latest = than;
        self.for_records(segment, file, batch, |record| {
            if latest.is_none_or(|latest| record.timestamp > latest.timestamp) {
                latest = Some(record);
            }
            true
        })?;
        Ok(latest)
    }

    /// The header of the next batch of a scan, past damage; `None` at its end.
    fn step(
        &self,
        segment: i64,
        scan: &mut Scan<'_>,
        next_offset: &mut i64,
    ) -> Result<Option<Stepped>, SliceError> {
        let on_read = |source| StorageError::on("read", &self.files.path(segment, LOG))(source);
        loop {
            match scan.next().map_err(on_read)? {
                Step::Batch { position, batch } => {
                    *next_offset = batch.next_offset();
                    return Ok(Some(Stepped {
                        position,
                        size: batch.size(),
                        base_offset: batch.base_offset(),
                        last_offset: batch.last_offset(),
                        max_timestamp: batch.max_timestamp(),
                    }));
                }
                Step::Invalid { .. } => {
                    scan.skip_damage(*next_offset..=self.upper.offset).map_err(on_read)?;
                }
                Step::End => return Ok(None),
            }
        }
    }

    /// The first fitting record of a segment.
    fn first_in(
        &self,
        (base_offset, file, offsets, times): SegmentView<'_>,
        size: u64,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, SliceError> {
        let end = if self.upper.segment == base_offset { self.upper.position } else { size };
        if end == u64::MAX {
            return Ok(None);
        }
        // Up to the batch of the greatest smaller timestamp, all are smaller.
        let by_time = floor_time(times, timestamp.saturating_sub(1)).map_or(0, |entry| entry.relative_offset);
        let by_start = relative(self.log_start, base_offset);
        let floor = floor_offset(offsets, by_time.max(by_start)).map_or(0, |entry| u64::from(entry.position));
        let mut scan = Scan::new(file, Check::Headers, floor, end);
        let mut next_offset = base_offset;
        while let Some(batch) = self.step(base_offset, &mut scan, &mut next_offset)? {
            if batch.max_timestamp < timestamp || batch.last_offset < self.log_start {
                continue;
            }
            let mut found = None;
            self.for_records(base_offset, file, &batch, |record| {
                found = Some(record).filter(|record| record.timestamp >= timestamp);
                found.is_none()
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Gives the records of a batch that are not deleted to `visit`, until it says that it wants no more.
    fn for_records(
        &self,
        segment: i64,
        file: &dyn File,
        batch: &Stepped,
        mut visit: impl FnMut(TimestampedOffset) -> bool,
    ) -> Result<(), SliceError> {
        let mut bytes = Vec::with_capacity(batch.size);
        let on_read = |source| StorageError::on("read", &self.files.path(segment, LOG))(source);
        file.read_at(batch.position, batch.size, &mut bytes).map_err(on_read)?;
        let corrupt = || SliceError::Corrupt { offset: batch.base_offset, segment, position: batch.position };
        let (batch, _) = Batch::stored(&bytes).map_err(|_| corrupt())?;
        let body = batch.decode(BATCH_DECOMPRESSED_BYTES_MAX).map_err(|_| corrupt())?;
        for record in body.iter() {
            let record = record.map_err(|_| corrupt())?;
            let (timestamp, offset) = (record.timestamp, record.offset);
            let found = TimestampedOffset { timestamp, offset, leader_epoch: batch.leader_epoch() };
            if offset >= self.log_start && !visit(found) {
                break;
            }
        }
        Ok(())
    }
}

/// An offset as the indexes of a segment have it; 0 for what is before the segment.
fn relative(offset: i64, base_offset: i64) -> u32 {
    u32::try_from(offset.saturating_sub(base_offset).max(0)).unwrap_or(u32::MAX)
}
