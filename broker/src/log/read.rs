//! Reading a range of batches: found through the index and the headers, then one positional read into one buffer.
//!
//! A [`ReadPlan`] is made under the lock that guards the log and carried out without it. Invariant: what it returns
//! are whole batches, in order, from one segment, the first of which contains the wanted offset or follows it.

use super::files::{Files, LOG};
use super::scan::{Check, Scan, Step};
use super::segment::{Content, SealedSegment};
use super::{LogPosition, StorageError};
use crate::disk::File;
use bytes::Bytes;
use kappa_protocol::record::Batch;
use std::sync::Arc;

/// How many bytes a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Bytes of batches at most.
    pub max_bytes: usize,
    /// Whether the first batch is returned even if it is larger.
    pub at_least_one: bool,
}

/// What reading from one segment gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slice {
    /// Whole batches; empty if the first is over the limit.
    Batches(Bytes),
    /// The segment has nothing at or after the wanted offset: go on from this one.
    Beyond(i64),
}

/// Why a planned read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The bytes at the offset are damaged.
    #[error("no valid batch for offset {offset} in the segment from {segment} at byte {position}")]
    Corrupt {
        /// The wanted offset.
        offset: i64,
        /// Base offset of its segment.
        segment: i64,
        /// Where the damage begins, in bytes.
        position: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A read that knows its segment and its bounds.
#[derive(Debug)]
pub struct ReadPlan {
    pub(super) files: Arc<Files>,
    pub(super) index_interval: u32,
    pub(super) segment: PlannedSegment,
    pub(super) offset: i64,
    /// Where visible batches end; in this segment or a later one.
    pub(super) upper: LogPosition,
}

#[derive(Debug)]
pub(super) enum PlannedSegment {
    Sealed(Arc<SealedSegment>),
    /// The active segment: its file, and from where in it to scan for the offset.
    Active {
        base_offset: i64,
        file: Arc<dyn File>,
        floor: u64,
    },
}

/// Where the wanted batch lies.
struct Found {
    position: u64,
    size: u64,
}

impl ReadPlan {
    /// Reads, waiting for the disk where it must.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn read(&self, limit: ReadLimit) -> Result<Slice, SliceError> {
        let (file, floor) = match &self.segment {
            PlannedSegment::Sealed(segment) => {
                let content = segment.content(&self.files, self.index_interval)?;
                (content.file.clone(), self.floor(segment, &content))
            }
            PlannedSegment::Active { file, floor, .. } => (file.clone(), *floor),
        };
        match self.find(&*file, floor)? {
            Some(found) => Ok(Slice::Batches(self.read_batches(&*file, &found, limit)?)),
            None => Ok(Slice::Beyond(self.segment_end())),
        }
    }

    /// Reads if everything needed is in memory; `None` if the disk would be waited for.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn try_read(&self, limit: ReadLimit) -> Result<Option<Slice>, SliceError> {
        let (file, floor) = match &self.segment {
            PlannedSegment::Sealed(segment) => match segment.content_if_open() {
                Some(content) => (content.file.clone(), self.floor(segment, &content)),
                None => return Ok(None),
            },
            PlannedSegment::Active { file, floor, .. } => (file.clone(), *floor),
        };
        let end = self.end();
        let scanned = (end.saturating_sub(floor)).min(u64::from(self.index_interval)) as usize;
        if !file.is_cached(floor, scanned) {
            return Ok(None);
        }
        let Some(found) = self.find(&*file, floor)? else {
            return Ok(Some(Slice::Beyond(self.segment_end())));
        };
        if !file.is_cached(found.position, self.len(&found, limit)) {
            return Ok(None);
        }
        Ok(Some(Slice::Batches(self.read_batches(&*file, &found, limit)?)))
    }

    /// Bytes from the wanted offset's index entry to the end of what is visible in the segment, if that is known
    /// without the disk.
    pub fn bytes_ahead(&self) -> Option<u64> {
        let floor = match &self.segment {
            PlannedSegment::Sealed(segment) => self.floor(segment, &*segment.content_if_open()?),
            PlannedSegment::Active { floor, .. } => *floor,
        };
        Some(self.end().saturating_sub(floor))
    }

    fn floor(&self, segment: &SealedSegment, content: &Content) -> u64 {
        let relative = u32::try_from(self.offset - segment.base_offset).unwrap_or(u32::MAX);
        content.floor_position(relative)
    }

    fn base_offset(&self) -> i64 {
        match &self.segment {
            PlannedSegment::Sealed(segment) => segment.base_offset,
            PlannedSegment::Active { base_offset, .. } => *base_offset,
        }
    }

    /// The end of the visible bytes of the segment.
    fn end(&self) -> u64 {
        match &self.segment {
            _ if self.upper.segment == self.base_offset() => self.upper.position,
            PlannedSegment::Sealed(segment) => segment.size,
            PlannedSegment::Active { .. } => 0,
        }
    }

    fn segment_end(&self) -> i64 {
        match &self.segment {
            PlannedSegment::Sealed(segment) => segment.end_offset.min(self.upper.offset),
            PlannedSegment::Active { .. } => self.upper.offset,
        }
    }

    /// The first batch from `floor` on whose last offset is not before the wanted one.
    fn find(&self, file: &dyn File, floor: u64) -> Result<Option<Found>, SliceError> {
        let path = || self.files.path(self.base_offset(), LOG);
        let on_read = |source| StorageError::on("read", &path())(source);
        let mut scan = Scan::new(file, Check::Headers, floor, self.end());
        let mut next_offset = self.base_offset();
        let mut damaged_at = None;
        loop {
            match scan.next().map_err(on_read)? {
                // The batch that an index entry names ends at or before the wanted offset, or the entry is wrong.
                Step::Batch { position, batch }
                    if position == floor && batch.last_offset() > self.offset && floor > 0 =>
                {
                    return self.find(file, 0);
                }
                Step::Batch { position, batch } => {
                    if let Some(damaged_at) = damaged_at.take()
                        && batch.base_offset() > self.offset
                    {
                        return Err(self.corrupt(damaged_at));
                    }
                    if batch.last_offset() >= self.offset {
                        return Ok(Some(Found { position, size: batch.size() as u64 }));
                    }
                    next_offset = batch.next_offset();
                }
                Step::Invalid { position } if position == floor && floor > 0 => return self.find(file, 0),
                Step::Invalid { position } => {
                    damaged_at = Some(position);
                    if scan.skip_damage(next_offset..=self.upper.offset).map_err(on_read)?.is_none() {
                        return Err(self.corrupt(position));
                    }
                }
                Step::End => return Ok(None),
            }
        }
    }

    fn corrupt(&self, position: u64) -> SliceError {
        SliceError::Corrupt { offset: self.offset, segment: self.base_offset(), position }
    }

    /// Bytes to read for `limit`, 0 if the first batch does not fit and must not be returned.
    fn len(&self, found: &Found, limit: ReadLimit) -> usize {
        let left = usize::try_from(self.end() - found.position).unwrap_or(usize::MAX);
        let first = found.size as usize;
        match limit.max_bytes {
            max_bytes if max_bytes >= first => max_bytes.min(left),
            _ if limit.at_least_one => first,
            _ => 0,
        }
    }

    fn read_batches(&self, file: &dyn File, found: &Found, limit: ReadLimit) -> Result<Bytes, StorageError> {
        let len = self.len(found, limit);
        let mut bytes = Vec::with_capacity(len);
        file.read_at(found.position, len, &mut bytes)
            .map_err(|source| StorageError::on("read", &self.files.path(self.base_offset(), LOG))(source))?;
        let whole = whole_batches(&bytes);
        Ok(Bytes::from(bytes).slice(..whole))
    }
}

/// Length of the whole batches that `bytes` begins with.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(rest) = bytes.get(whole..)
        && let Ok(Some(size)) = Batch::size_of(rest)
        && size <= rest.len()
    {
        whole += size;
    }
    whole
}
