//! Reading a range of batches: found through the index and the headers, then one positional read into one buffer, or
//! none where the range is left in its file to be sent from there.
//!
//! A [`ReadPlan`] is made under the lock that guards the log and carried out without it. Invariant: what it returns
//! are whole batches, in order, from one segment, the first of which contains the wanted offset or follows it. Of a range
//! that is left in its file only the first header and those near its end are looked at.

use super::files::{Files, LOG};
use super::scan::{Scan, Step};
use super::segment::{Content, SealedSegment};
use super::{LogPosition, StorageError};
use crate::disk::{File, OpenFile};
use bytes::Bytes;
use kappa_protocol::Region;
use kappa_protocol::record::Batch;
use std::io;
use std::sync::Arc;

/// Headers that are looked at where nobody may wait, before it is left to who may.
const HEADERS_MAX: usize = 256;
/// A range up to this is read with the headers that lead to it, by one call.
const WINDOW_MAX: usize = 64 * 1024;

/// How many bytes a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Bytes of batches at most.
    pub max_bytes: usize,
    /// Whether the first batch is returned even if it is larger.
    pub at_least_one: bool,
}

/// What reading from one segment gave.
#[derive(Clone, Debug)]
pub enum Slice {
    /// Whole batches; empty if the first is over the limit.
    Batches(Bytes),
    /// Whole batches that were left in their file, an [`OpenFile`].
    Region(Region),
    /// The segment has nothing at or after the wanted offset: go on from this one.
    Beyond(i64),
}

#[cfg(test)]
impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Batches(own), Self::Batches(other)) => own == other,
            (Self::Beyond(own), Self::Beyond(other)) => own == other,
            _ => false,
        }
    }
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
        /// Where an indexed batch begins, as far behind the floor as the read may go.
        ceiling: u64,
    },
}

/// How a plan is carried out.
#[derive(Clone, Copy, Debug)]
pub struct ReadManner {
    /// Whether it may wait for the disk.
    pub may_wait: bool,
    /// Bytes from which on batches are left in their file.
    pub region_min: usize,
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
        self.carry_out(limit, ReadManner { may_wait: true, region_min: usize::MAX })
    }

    /// Reads in the given manner; `None` if the disk would have to be waited for and may not.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn try_read(&self, limit: ReadLimit, manner: ReadManner) -> Result<Option<Slice>, SliceError> {
        match self.carry_out(limit, manner) {
            Err(SliceError::Storage(error)) if error.would_block() && !manner.may_wait => Ok(None),
            result => result.map(Some),
        }
    }

    fn carry_out(&self, limit: ReadLimit, manner: ReadManner) -> Result<Slice, SliceError> {
        let end = self.end();
        let (file, floor, ceiling) = match &self.segment {
            PlannedSegment::Sealed(segment) => {
                let content = match manner.may_wait {
                    true => segment.content(&self.files, self.index_interval)?,
                    false => segment.content_if_open().ok_or_else(|| self.would_block())?,
                };
                let floor = self.floor(segment, &content);
                let ceiling = content.ceiling_position(floor.saturating_add(limit.max_bytes as u64));
                (content.file.clone(), floor, ceiling)
            }
            PlannedSegment::Active { file, floor, ceiling, .. } => (file.clone(), *floor, *ceiling),
        };
        let ahead = usize::try_from(end.saturating_sub(floor)).unwrap_or(usize::MAX);
        let window = if ahead < manner.region_min.min(WINDOW_MAX) { ahead } else { 0 };
        let scan = Scan::headers(&*file, floor, end, window, manner.may_wait);
        let Some((found, scan)) = self.find(&*file, scan, floor, manner)? else {
            return Ok(Slice::Beyond(self.segment_end()));
        };
        let len = self.len(&found, limit);
        if len >= manner.region_min {
            let len = self.whole_len(&*file, &found, len, ceiling, manner);
            return Ok(Slice::Region(Region {
                file: Arc::new(OpenFile(file)),
                position: found.position,
                len,
            }));
        }
        let bytes = match scan.into_window(found.position) {
            Some(bytes) if len <= bytes.len() => bytes.slice(..len),
            _ => {
                let mut bytes = Vec::with_capacity(len);
                match manner.may_wait {
                    true => file.read_at(found.position, len, &mut bytes),
                    false => file.read_cached_at(found.position, len, &mut bytes),
                }
                .map_err(|source| self.failed(source))?;
                Bytes::from(bytes)
            }
        };
        let whole = whole_batches(&bytes);
        Ok(Slice::Batches(bytes.slice(..whole)))
    }

    fn failed(&self, source: io::Error) -> StorageError {
        StorageError::on("read", &self.files.path(self.base_offset(), LOG))(source)
    }

    fn would_block(&self) -> SliceError {
        self.failed(io::ErrorKind::WouldBlock.into()).into()
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

    /// The first batch from `floor` on whose last offset is not before the wanted one, and the scan that found it.
    fn find<'a>(
        &self,
        file: &'a dyn File,
        mut scan: Scan<'a>,
        floor: u64,
        manner: ReadManner,
    ) -> Result<Option<(Found, Scan<'a>)>, SliceError> {
        let mut next_offset = self.base_offset();
        let mut damaged_at = None;
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > HEADERS_MAX && !manner.may_wait {
                return Err(self.would_block());
            }
            match scan.next().map_err(|source| self.failed(source))? {
                // The batch that an index entry names ends at or before the wanted offset, or the entry is wrong.
                Step::Batch { position, batch }
                    if position == floor && batch.last_offset() > self.offset && floor > 0 =>
                {
                    return self.find_without_index(file, manner);
                }
                Step::Batch { position, batch } => {
                    if let Some(damaged_at) = damaged_at.take()
                        && batch.base_offset() > self.offset
                    {
                        return Err(self.corrupt(damaged_at));
                    }
                    if batch.last_offset() >= self.offset {
                        let found = Found { position, size: batch.size() as u64 };
                        return Ok(Some((found, scan)));
                    }
                    next_offset = batch.next_offset();
                }
                Step::Invalid { position } if position == floor && floor > 0 => {
                    return self.find_without_index(file, manner);
                }
                // Going round damage takes time.
                Step::Invalid { .. } if !manner.may_wait => return Err(self.would_block()),
                Step::Invalid { position } => {
                    damaged_at = Some(position);
                    let skipped = scan.skip_damage(next_offset..=self.upper.offset);
                    if skipped.map_err(|source| self.failed(source))?.is_none() {
                        return Err(self.corrupt(position));
                    }
                }
                Step::End => return Ok(None),
            }
        }
    }

    fn find_without_index<'a>(
        &self,
        file: &'a dyn File,
        manner: ReadManner,
    ) -> Result<Option<(Found, Scan<'a>)>, SliceError> {
        if !manner.may_wait {
            return Err(self.would_block());
        }
        self.find(file, Scan::headers(file, 0, self.end(), 0, true), 0, manner)
    }

    /// Length of the whole batches in `len` bytes from the found batch on, or of fewer where telling them takes long.
    fn whole_len(
        &self,
        file: &dyn File,
        found: &Found,
        len: usize,
        ceiling: u64,
        manner: ReadManner,
    ) -> usize {
        let (first, cap) = (found.position + found.size, found.position + len as u64);
        if cap == self.end() {
            return len;
        }
        let mut whole = if ceiling <= cap { ceiling.max(first) } else { first };
        let mut scan = Scan::headers(file, whole, self.end(), 0, manner.may_wait);
        for _ in 0..HEADERS_MAX {
            match scan.next() {
                Ok(Step::Batch { position, batch }) if position + batch.size() as u64 <= cap => {
                    whole = position + batch.size() as u64;
                }
                _ => break,
            }
        }
        usize::try_from(whole - found.position).unwrap_or(len)
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
