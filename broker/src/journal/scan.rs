//! Reading a file of the journal: its whole frames, and whether one that was whole is damaged.

use super::Piece;
use super::frame::{BLOCK, FRAME_HEADER_LEN, FrameHeader, HEADERS_AT, Place, file_generation, pieces};
use crate::disk::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes read at once where frames are looked for: whole blocks.
const BLOCKS_BYTES: usize = 256 * BLOCK;

/// What a file holds.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) generation: u64,
    /// Which of its headers says so; the other one is written next.
    pub(super) header: usize,
    pub(super) pieces: Vec<Piece>,
    /// Where the first frame stood that is not whole and was, if there is one.
    pub(super) damaged_at: Option<u64>,
}

impl Scanned {
    /// All that the file held.
    pub(super) fn whole(self) -> io::Result<Self> {
        self.damaged_at.map_or(Ok(self), |position| Err(damaged(position)))
    }
}

/// Reads a file; one without a header was in the making and holds nothing. A frame that is not whole is the end: it was
/// being written. One with a whole frame behind it was whole, and so was a header.
pub(super) fn scan(file: &Arc<dyn File>, path: &Arc<Path>) -> io::Result<Scanned> {
    let mut bytes = Vec::new();
    file.read_at(0, BLOCK, &mut bytes)?;
    let Some((generation, header)) = file_generation(&bytes) else {
        return match find_frame(&**file, BLOCK as u64, |_| true)? {
            Some(_) => Err(damaged(0)),
            None => Ok(Scanned { header: 1, ..Scanned::default() }),
        };
    };
    // A newer header was durable before the first frame behind it.
    if read_frame(&**file, BLOCK as u64, |header| header.generation > generation, &mut bytes)?.is_some() {
        return Err(damaged(HEADERS_AT.get(1 - header).map_or(0, |at| *at as u64)));
    }
    let mut scanned = Scanned { generation, header, ..Scanned::default() };
    let (mut position, mut last) = (BLOCK as u64, None);
    loop {
        let follows = |header: &FrameHeader| {
            header.generation == generation && last.is_none_or(|last| header.sequence > last)
        };
        if let Some((header, pieces)) = read_frame(&**file, position, follows, &mut bytes)? {
            scanned.pieces.extend(pieces.into_iter().map(|(place, at, len)| Piece {
                place,
                sequence: header.sequence,
                file: file.clone(),
                path: path.clone(),
                at: position + at as u64,
                len,
            }));
            last = Some(header.sequence);
            position += ((FRAME_HEADER_LEN + header.payload_len) as u64).next_multiple_of(BLOCK as u64);
        } else if let Some(next) = find_frame(&**file, position + BLOCK as u64, follows)? {
            scanned.damaged_at.get_or_insert(position);
            position = next;
        } else {
            return Ok(scanned);
        }
    }
}

/// A frame's header, and where its pieces belong, begin in it, and how long they are.
type WholeFrame = (FrameHeader, Vec<(Place, usize, usize)>);

/// The frame at `position`, if it is whole and `counts`.
fn read_frame(
    file: &dyn File,
    position: u64,
    counts: impl Fn(&FrameHeader) -> bool,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<WholeFrame>> {
    bytes.clear();
    file.read_at(position, BLOCK, bytes)?;
    let Some(header) = FrameHeader::parse(bytes).filter(counts) else { return Ok(None) };
    let len = FRAME_HEADER_LEN + header.payload_len;
    if position + len as u64 > file.size()? {
        return Ok(None);
    }
    if len > bytes.len() {
        let rest = len - bytes.len();
        file.read_at(position + bytes.len() as u64, rest, bytes)?;
    }
    Ok(pieces(bytes).map(|pieces| (header, pieces)))
}

/// Where the next whole frame that `counts` begins, at `position` or a later block.
fn find_frame(
    file: &dyn File,
    position: u64,
    counts: impl Fn(&FrameHeader) -> bool,
) -> io::Result<Option<u64>> {
    let (size, mut blocks, mut frame) = (file.size()?, Vec::new(), Vec::new());
    for at in (position..size).step_by(BLOCKS_BYTES) {
        blocks.clear();
        file.read_at(at, BLOCKS_BYTES, &mut blocks)?;
        for (block, begins_at) in blocks.chunks(BLOCK).zip((at..).step_by(BLOCK)) {
            let may_be = FrameHeader::parse(block).is_some_and(|header| counts(&header));
            if may_be && read_frame(file, begins_at, &counts, &mut frame)?.is_some() {
                return Ok(Some(begins_at));
            }
        }
    }
    Ok(None)
}

pub(super) fn damaged(position: u64) -> io::Error {
    let what = format!(
        "damaged at position {position}, with whole frames behind: acknowledged records may be there alone"
    );
    io::Error::new(io::ErrorKind::InvalidData, what)
}
