//! Walking a segment file batch by batch, from headers alone or with checksums.
//!
//! Invariant: memory is one window, which grows to a whole batch only when checksums are checked and the batch's
//! header is sane; a scan never looks beyond the end it was given. It knows batches, not segments or indexes.

use crate::disk::File;
use bytes::Bytes;
use kappa_protocol::limits;
use kappa_protocol::record::{BATCH_HEADER_LEN, Batch};
use std::io;
use std::ops::{Range, RangeInclusive};

/// Bytes read at once when only headers are wanted: most batches between two index entries.
const HEADER_WINDOW: usize = 4 * 1024;
/// Bytes read at once when everything is.
const CONTENT_WINDOW: usize = 1024 * 1024;
/// No request carries a larger batch, so no log holds one.
const BATCH_BYTES_MAX: usize = limits::REQUEST_BYTES_MAX;

/// How much of each batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Headers,
    Checksums,
}

/// A forward scan. It stays where it is at an invalid batch.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    file: &'a dyn File,
    check: Check,
    /// Whether it may wait for the disk; else it says [`io::ErrorKind::WouldBlock`].
    may_wait: bool,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
    window_len: usize,
}

/// What stands at the scan's position.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A batch, whose body may be cut off when only headers are checked.
    Batch { position: u64, batch: Batch<'a> },
    /// Bytes that are no whole and valid batch.
    Invalid { position: u64 },
    /// Nothing more.
    End,
}

impl<'a> Scan<'a> {
    pub(super) fn new(file: &'a dyn File, check: Check, position: u64, end: u64) -> Self {
        let window_len = match check {
            Check::Headers => HEADER_WINDOW,
            Check::Checksums => CONTENT_WINDOW,
        };
        Self {
            file,
            check,
            may_wait: true,
            position,
            end,
            window: Vec::new(),
            window_start: position,
            window_len,
        }
    }

    /// The same over headers, `window_len` bytes at a time or a few KiB if that is less.
    pub(super) fn headers(
        file: &'a dyn File,
        position: u64,
        end: u64,
        window_len: usize,
        may_wait: bool,
    ) -> Self {
        let scan = Self::new(file, Check::Headers, position, end);
        Self { may_wait, window_len: window_len.max(HEADER_WINDOW), ..scan }
    }

    /// The bytes that it holds from `position` on.
    pub(super) fn into_window(self, position: u64) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.window_start)?).ok()?;
        (from <= self.window.len()).then(|| Bytes::from(self.window).slice(from..))
    }

    pub(super) fn next(&mut self) -> io::Result<Step<'_>> {
        let position = self.position;
        if position >= self.end {
            return Ok(Step::End);
        }
        let Some(size) = self.sane_size(position)? else { return Ok(Step::Invalid { position }) };
        let wanted = match self.check {
            Check::Headers => BATCH_HEADER_LEN,
            Check::Checksums => size,
        };
        let check = self.check;
        let bytes = self.bytes(position, wanted)?;
        if check == Check::Checksums && Batch::stored(bytes).is_err() {
            return Ok(Step::Invalid { position });
        }
        self.position += size as u64;
        let batch =
            Batch::header(self.bytes(position, wanted)?).expect("the size was taken from a sane header");
        Ok(Step::Batch { position, batch })
    }

    /// Moves over a whole batch that has another offset than it was given, where one at `expected` is to come, of a log in
    /// which a batch ends at `synced` (0 if that is not known). No checksum covers a base offset: the batch behind it or
    /// `synced` tells. Returns where it was.
    pub(super) fn skip_misplaced(&mut self, expected: i64, synced: i64) -> io::Result<Option<Range<u64>>> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let header = Batch::header(self.bytes(position, BATCH_HEADER_LEN)?);
        if header.is_ok_and(|batch| batch.base_offset() == expected) {
            return Ok(None);
        }
        let Step::Batch { batch, .. } = self.next()? else { return Ok(None) };
        let (base, end) = (batch.base_offset(), batch.next_offset());
        let behind = self.position;
        let passes_synced = expected < synced && base != synced && end > synced;
        let is_among = |offset: i64| (expected..end).contains(&offset);
        let is_contradicted = base > expected
            && matches!(self.next()?, Step::Batch { batch, .. } if is_among(batch.base_offset()));
        let is_misplaced = passes_synced || is_contradicted;
        self.position = if is_misplaced { behind } else { position };
        Ok(is_misplaced.then_some(position..behind))
    }

    /// Goes back to the last batch, which turned out not to belong here.
    pub(super) fn back_to(&mut self, position: u64) {
        self.position = position;
    }

    /// Moves over damage to the next valid batch whose base offset is among `offsets`. Returns its position, or
    /// `None` and moves to the end if there is none.
    pub(super) fn skip_damage(&mut self, offsets: RangeInclusive<i64>) -> io::Result<Option<u64>> {
        let mut candidate = self.position + 1;
        while candidate + BATCH_HEADER_LEN as u64 <= self.end {
            let header = Batch::header(self.bytes(candidate, BATCH_HEADER_LEN)?);
            let plausible = header.is_ok_and(|batch| offsets.contains(&batch.base_offset()));
            if plausible
                && let Some(size) = self.sane_size(candidate)?
                && Batch::stored(self.bytes(candidate, size)?).is_ok()
            {
                self.position = candidate;
                return Ok(Some(candidate));
            }
            candidate += 1;
        }
        self.position = self.end;
        Ok(None)
    }

    /// The size of the batch at `position` if its header is sane and it ends where the scan does or before.
    fn sane_size(&mut self, position: u64) -> io::Result<Option<usize>> {
        let left = self.end - position;
        let Ok(batch) = Batch::header(self.bytes(position, BATCH_HEADER_LEN)?) else { return Ok(None) };
        let size = batch.size();
        Ok((size as u64 <= left && size <= BATCH_BYTES_MAX).then_some(size))
    }

    /// The bytes from `position`: at least `len` of them unless the file or the scan ends before.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let start = position.checked_sub(self.window_start).map_or(usize::MAX, |start| start as usize);
        let have = self.window.get(start..).map_or(0, <[u8]>::len);
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        if have >= len.min(left) {
            return Ok(self.window.get(start..).unwrap_or_default());
        }
        self.window.clear();
        self.window_start = position;
        let len = len.max(self.window_len).min(left);
        match self.may_wait {
            true => self.file.read_at(position, len, &mut self.window)?,
            false => self.file.read_cached_at(position, len, &mut self.window)?,
        };
        Ok(&self.window)
    }
}
