//! A segment: one file of batches and its two indexes, while it is written and after.
//!
//! Invariant: base offset <= every offset in the segment < base offset of the next one. A sealed segment's bytes do
//! not change; its indexes are read lazily, checked against the batches, and built again if they are missing, short or
//! wrong. This module knows nothing of the other segments.

use super::StorageError;
use super::files::{Files, LOG, OFFSET_INDEX, TIME_INDEX};
use super::index::{IndexBuilder, Indexed, floor_offset, floor_position, last_offset_entry, last_time_entry};
use super::scan::{Check, Scan, Step};
use crate::disk::{File, Mapping};
use parking_lot::Mutex;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    pub(super) base_offset: i64,
    pub(super) file: Arc<dyn File>,
    /// Bytes of whole batches; what the file has beyond is left over from a failed write.
    pub(super) size: u64,
    pub(super) index: IndexBuilder,
    /// Largest timestamp of the first batch: the segment's age counts from it.
    pub(super) first_timestamp: Option<i64>,
    /// When the segment was created or opened, in ms: its age counts from here while no batch has a timestamp.
    pub(super) created_ms: i64,
    /// Whether the file was cut since it was opened: its length then needs a sync of its own.
    pub(super) was_cut: bool,
}

impl ActiveSegment {
    /// Creates the file, whose name is not durable yet.
    pub(super) fn create(
        files: &Files,
        base_offset: i64,
        interval: u32,
        now_ms: i64,
    ) -> Result<Self, StorageError> {
        let path = files.path(base_offset, LOG);
        let file = files.disk.create(&path).map_err(StorageError::on("create", &path))?;
        Ok(Self::empty(file, base_offset, interval, now_ms))
    }

    /// A segment whose file is empty.
    pub(super) fn empty(file: Arc<dyn File>, base_offset: i64, interval: u32, now_ms: i64) -> Self {
        let index = IndexBuilder::new(base_offset, interval);
        let (first_timestamp, created_ms) = (None, now_ms);
        Self { base_offset, file, size: 0, index, first_timestamp, created_ms, was_cut: false }
    }

    /// Counts a batch that was written at the end.
    pub(super) fn add(&mut self, batch: Indexed) {
        if self.size == 0 {
            self.first_timestamp = (batch.max_timestamp >= 0).then_some(batch.max_timestamp);
        }
        self.index.add(self.size, batch);
        self.size += batch.size;
    }
}

/// A segment that is not appended to any more.
#[derive(Debug)]
pub(super) struct SealedSegment {
    pub(super) base_offset: i64,
    /// Base offset of the segment that follows.
    pub(super) end_offset: i64,
    pub(super) size: u64,
    content: Mutex<Option<Arc<Content>>>,
    /// Whether someone asked for the content since the last [`SealedSegment::let_go`].
    touched: AtomicBool,
}

/// An open sealed segment.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: Arc<dyn File>,
    pub(super) offsets: IndexBytes,
    pub(super) times: IndexBytes,
    /// Largest timestamp and the last offset of the first batch that has it.
    pub(super) max_timestamp: (i64, i64),
}

/// The bytes of an index, in memory until they are written, mapped afterwards.
#[derive(Debug)]
pub(super) enum IndexBytes {
    Built(Vec<u8>),
    Mapped(Mapping),
}

impl Deref for IndexBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Built(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

impl SealedSegment {
    /// A segment found in the directory; nothing of it is opened yet.
    pub(super) fn found(base_offset: i64, end_offset: i64, size: u64) -> Self {
        Self { base_offset, end_offset, size, content: Mutex::new(None), touched: AtomicBool::new(false) }
    }

    /// A segment that was just written or scanned, its indexes still in memory.
    pub(super) fn built(
        base_offset: i64,
        end_offset: i64,
        size: u64,
        file: Arc<dyn File>,
        index: IndexBuilder,
    ) -> Self {
        let content = Arc::new(Content::built(file, index));
        Self {
            base_offset,
            end_offset,
            size,
            content: Mutex::new(Some(content)),
            touched: AtomicBool::new(true),
        }
    }

    /// The content if that needs no call to the disk.
    pub(super) fn content_if_open(&self) -> Option<Arc<Content>> {
        let content = self.content.lock().clone();
        if content.is_some() {
            self.touched.store(true, Ordering::Relaxed);
        }
        content
    }

    /// The content, opened and checked first if need be; `interval` is that of the index entries.
    pub(super) fn content(&self, files: &Files, interval: u32) -> Result<Arc<Content>, StorageError> {
        if let Some(content) = self.content_if_open() {
            return Ok(content);
        }
        // Nobody waits for the lock while the disk is read: of two that open at once, one is used.
        let content = Arc::new(self.open(files, interval)?);
        self.touched.store(true, Ordering::Relaxed);
        Ok(self.content.lock().get_or_insert(content).clone())
    }

    /// Closes the file and drops the indexes if nobody asked for them since the last call and they are on the disk.
    pub(super) fn let_go(&self) {
        let is_mapped = |content: &mut Arc<Content>| matches!(content.offsets, IndexBytes::Mapped(_));
        let idle = {
            let mut content = self.content.lock();
            let is_idle = !self.touched.swap(false, Ordering::Relaxed);
            content.take_if(|content| is_idle && is_mapped(content))
        };
        // Closing may wait for the disk, which no reader has to.
        drop(idle);
    }

    /// Makes the batches' indexes durable and keeps them as mappings.
    pub(super) fn save_indexes(&self, files: &Files, interval: u32) -> Result<(), StorageError> {
        let content = self.content(files, interval)?;
        let paths = [files.path(self.base_offset, OFFSET_INDEX), files.path(self.base_offset, TIME_INDEX)];
        for (path, bytes) in paths.iter().zip([&content.offsets, &content.times]) {
            files.replace(path, bytes)?;
        }
        *self.content.lock() = None;
        Ok(())
    }

    fn open(&self, files: &Files, interval: u32) -> Result<Content, StorageError> {
        let path = files.path(self.base_offset, LOG);
        let file = files.open(&path)?;
        if let Some((content, end)) = self.check_indexes(files, &file, interval)? {
            self.tell_gap(end, &path);
            return Ok(content);
        }
        tracing::warn!(segment = %path.display(), "building the indexes again");
        let mut index = IndexBuilder::new(self.base_offset, interval);
        let end = self.rebuild(&*file, &mut index).map_err(StorageError::on("read", &path))?;
        self.tell_gap(end, &path);
        let content = Content::built(file, index);
        for (suffix, bytes) in [(OFFSET_INDEX, &content.offsets), (TIME_INDEX, &content.times)] {
            // The indexes serve from memory where they cannot be written.
            if let Err(error) = files.replace(&files.path(self.base_offset, suffix), bytes) {
                tracing::warn!(%error, "cannot write an index");
            }
        }
        Ok(content)
    }

    /// The content with the indexes of the directory, if they are what a scan would give as far as their ends show.
    fn check_indexes(
        &self,
        files: &Files,
        file: &Arc<dyn File>,
        interval: u32,
    ) -> Result<Option<(Content, i64)>, StorageError> {
        let map = |suffix| {
            let path = files.path(self.base_offset, suffix);
            match files.disk.open(&path).and_then(|file| file.map()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                mapped => mapped.map(Some).map_err(StorageError::on("read", &path)),
            }
        };
        let (Some(offsets), Some(times)) = (map(OFFSET_INDEX)?, map(TIME_INDEX)?) else { return Ok(None) };
        Ok(self.compare_indexes(file, (offsets, times), interval))
    }

    fn compare_indexes(
        &self,
        file: &Arc<dyn File>,
        (offsets, times): (Mapping, Mapping),
        interval: u32,
    ) -> Option<(Content, i64)> {
        let (mut resumed, from) =
            IndexBuilder::resume(self.base_offset, interval, &offsets, &times, self.size);
        let mut scan = Scan::new(&**file, Check::Headers, from, self.size);
        let expected = last_offset_entry(&offsets).map(|entry| entry.relative_offset);
        let (mut is_first, mut end) = (true, self.base_offset);
        loop {
            match scan.next().ok()? {
                Step::Batch { position, batch } => {
                    end = batch.next_offset();
                    let relative = u32::try_from(batch.last_offset() - self.base_offset).ok()?;
                    if is_first && expected.is_some_and(|expected| expected != relative) {
                        return None;
                    }
                    is_first = false;
                    resumed.add(position, Indexed::from(&batch));
                }
                Step::Invalid { .. } => break,
                Step::End => break,
            }
        }
        let (fresh_offsets, fresh_times) = resumed.finish();
        if *fresh_offsets != *offsets || *fresh_times != *times {
            return None;
        }
        let max_timestamp = max_timestamp(&times, self.base_offset);
        let (offsets, times) = (IndexBytes::Mapped(offsets), IndexBytes::Mapped(times));
        Some((Content { file: file.clone(), offsets, times, max_timestamp }, end))
    }

    /// Says that the batches end before the next segment begins.
    fn tell_gap(&self, end: i64, path: &Path) {
        if end < self.end_offset {
            tracing::warn!(
                segment = %path.display(),
                "offsets {end} to {} are in no segment: a repair left them out, or the file of a segment is gone",
                self.end_offset - 1
            );
        }
    }

    /// Adds all batches to an index; returns where they end.
    fn rebuild(&self, file: &dyn File, index: &mut IndexBuilder) -> io::Result<i64> {
        let mut scan = Scan::new(file, Check::Headers, 0, self.size);
        let mut next_offset = self.base_offset;
        loop {
            match scan.next()? {
                Step::Batch { position, batch } => {
                    index.add(position, Indexed::from(&batch));
                    next_offset = batch.next_offset();
                }
                Step::Invalid { .. } => {
                    scan.skip_damage(next_offset..=self.end_offset)?;
                }
                Step::End => return Ok(next_offset),
            }
        }
    }
}

impl Content {
    fn built(file: Arc<dyn File>, index: IndexBuilder) -> Self {
        let max_timestamp = index.max_timestamp();
        let (offsets, times) = index.finish();
        Self { file, offsets: IndexBytes::Built(offsets), times: IndexBytes::Built(times), max_timestamp }
    }

    /// The position from which a scan for `relative_offset` may start.
    pub(super) fn floor_position(&self, relative_offset: u32) -> u64 {
        floor_offset(&self.offsets, relative_offset).map_or(0, |entry| u64::from(entry.position))
    }

    /// Where the last indexed batch begins that does so at `position` or before; 0 if there is none.
    pub(super) fn ceiling_position(&self, position: u64) -> u64 {
        floor_position(&self.offsets, position).map_or(0, |entry| u64::from(entry.position))
    }
}

fn max_timestamp(times: &[u8], base_offset: i64) -> (i64, i64) {
    last_time_entry(times).map_or((super::index::NO_TIMESTAMP, base_offset), |entry| {
        (entry.timestamp, base_offset + i64::from(entry.relative_offset))
    })
}
