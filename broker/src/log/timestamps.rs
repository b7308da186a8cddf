//! Finding records by their timestamps.
//!
//! A search is made under the lock and run without it. Invariant: it answers with the first record, by offset, whose
//! timestamp fits, among those that are visible; the time index only says where to begin.

use super::files::{Files, LOG};
use super::index::{floor_offset, floor_time};
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

    /// The first record that has the largest timestamp.
    ///
    /// # Errors
    /// As [`TimestampSearch::first_at`].
    pub fn latest(&self) -> Result<Option<TimestampedOffset>, SliceError> {
        let mut latest = i64::MIN;
        let first = self.sealed.partition_point(|segment| segment.end_offset <= self.log_start);
        for segment in self.sealed.iter().skip(first) {
            latest = latest.max(segment.content(&self.files, self.index_interval)?.max_timestamp.0);
        }
        // What is not visible yet, or deleted already, may hold the largest one: then the visible batches decide.
        match self.first_at(latest.max(self.active.max_timestamp))? {
            Some(found) => Ok(Some(found)),
            None => self.latest_by_scan(),
        }
    }

    fn latest_by_scan(&self) -> Result<Option<TimestampedOffset>, SliceError> {
        let mut latest = None;
        let mut from = i64::MIN;
        while let Some(found) = self.first_at(from)? {
            latest = Some(found);
            from = found.timestamp + 1;
        }
        Ok(latest)
    }

    /// The first fitting record of a segment (base offset, file, offset index, time index).
    fn first_in(
        &self,
        (base_offset, file, offsets, times): (i64, &dyn File, &[u8], &[u8]),
        size: u64,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, SliceError> {
        let end = if self.upper.segment == base_offset { self.upper.position } else { size };
        if end == u64::MAX {
            return Ok(None);
        }
        // Up to the batch of the greatest smaller timestamp, all are smaller.
        let by_time = floor_time(times, timestamp.saturating_sub(1)).map_or(0, |entry| entry.relative_offset);
        let by_start = u32::try_from(self.log_start.saturating_sub(base_offset)).unwrap_or(0);
        let floor = floor_offset(offsets, by_time.max(by_start)).map_or(0, |entry| u64::from(entry.position));
        let path = || self.files.path(base_offset, LOG);
        let on_read = |source| SliceError::from(StorageError::on("read", &path())(source));
        let mut scan = Scan::new(file, Check::Headers, floor, end);
        let mut next_offset = base_offset;
        loop {
            let (position, len) = match scan.next().map_err(on_read)? {
                Step::Batch { position, batch } => {
                    next_offset = batch.next_offset();
                    if batch.max_timestamp() < timestamp || batch.last_offset() < self.log_start {
                        continue;
                    }
                    (position, batch.size())
                }
                Step::Invalid { .. } => {
                    scan.skip_damage(next_offset..=self.upper.offset).map_err(on_read)?;
                    continue;
                }
                Step::End => return Ok(None),
            };
            let mut bytes = Vec::with_capacity(len);
            file.read_at(position, len, &mut bytes).map_err(on_read)?;
            let corrupt = || SliceError::Corrupt { offset: next_offset, segment: base_offset, position };
            let (batch, _) = Batch::stored(&bytes).map_err(|_| corrupt())?;
            if let Some(found) = self.first_record(&batch, timestamp).ok_or_else(corrupt)? {
                return Ok(Some(found));
            }
        }
    }

    /// The first fitting record of a batch; the outer `None` if its records cannot be decoded.
    fn first_record(&self, batch: &Batch<'_>, timestamp: i64) -> Option<Option<TimestampedOffset>> {
        let body = batch.decode(BATCH_DECOMPRESSED_BYTES_MAX).ok()?;
        for record in body.iter() {
            let record = record.ok()?;
            if record.timestamp >= timestamp && record.offset >= self.log_start {
                let leader_epoch = batch.leader_epoch();
                let (timestamp, offset) = (record.timestamp, record.offset);
                return Some(Some(TimestampedOffset { timestamp, offset, leader_epoch }));
            }
        }
        Some(None)
    }
}
