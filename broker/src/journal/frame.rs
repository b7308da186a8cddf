//! The bytes of a journal file: a block with two headers, of which the newer one counts, then frames, each a whole number
//! of blocks.
//!
//! ```text
//! header  magic 8, version u32, generation u64, CRC-32C u32 of what is before; at byte 0, the other one at 2048
//! frame   magic u32, generation u64, sequence u64, pieces u32, payload bytes u32, CRC-32C u32 of what is before and the payload
//! piece   topic id 16, partition i32, segment i64, position u64, next offset i64, bytes u32, the bytes
//! ```
//! Numbers are big-endian. Invariant: a frame is valid whole or not at all, and writing one touches no block of the one
//! before it. Every length is checked against what is there before it is used. This module does no I/O.

use kappa_protocol::record::crc32c;
use std::io;
use uuid::Uuid;

/// What a device is taken to write whole or not at all.
pub(super) const BLOCK: usize = 4096;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER_LEN: usize = 32;
/// Where the headers of a file begin, in different sectors: one is written while the other is valid.
pub(super) const HEADERS_AT: [usize; 2] = [0, BLOCK / 2];
const FILE_MAGIC: &[u8; 8] = b"KAPPAJNL";
const VERSION: u32 = 1;
const FILE_HEADER_LEN: usize = 24;
const FRAME_MAGIC: u32 = 0x4b4a_4631;
const CRC_AT: usize = FRAME_HEADER_LEN - 4;
pub(super) const PIECE_HEADER_LEN: usize = 48;
/// A buffer that grew beyond this for one frame is given back.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// Names a partition for as long as its topic exists: a later topic of the same name has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Id of the topic.
    pub topic_id: Uuid,
    /// Number of the partition.
    pub index: i32,
}

/// Where the bytes of a piece belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose log.
    pub key: PartitionKey,
    /// Base offset of the segment.
    pub segment: i64,
    /// Position in the segment's file, in bytes.
    pub position: u64,
    /// Offset after the last record of the piece.
    pub next_offset: i64,
}

/// A frame in the making.
#[derive(Debug)]
pub struct Frame {
    buffer: Vec<u8>,
    ends: Vec<(PartitionKey, i64)>,
}

impl Frame {
    /// A frame without pieces.
    pub fn new() -> Self {
        let mut frame = Self { buffer: Vec::new(), ends: Vec::new() };
        frame.clear();
        frame
    }

    /// Takes all pieces out.
    pub fn clear(&mut self) {
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        self.buffer.resize(FRAME_HEADER_LEN, 0);
        self.ends.clear();
    }

    /// Adds `len` bytes, which `read` appends to the buffer. Returns whether they all came; the frame is as before
    /// otherwise.
    pub fn add(
        &mut self,
        place: Place,
        len: usize,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
    ) -> bool {
        let (before, Ok(size)) = (self.buffer.len(), u32::try_from(len)) else { return false };
        let Place { key, segment, position, next_offset } = place;
        self.buffer.reserve(PIECE_HEADER_LEN + len);
        self.buffer.extend_from_slice(key.topic_id.as_bytes());
        self.buffer.extend_from_slice(&key.index.to_be_bytes());
        self.buffer.extend_from_slice(&segment.to_be_bytes());
        self.buffer.extend_from_slice(&position.to_be_bytes());
        self.buffer.extend_from_slice(&next_offset.to_be_bytes());
        self.buffer.extend_from_slice(&size.to_be_bytes());
        let came = read(&mut self.buffer).is_ok_and(|came| came == len)
            && self.buffer.len() == before + PIECE_HEADER_LEN + len;
        if came {
            self.ends.push((key, next_offset));
        } else {
            self.buffer.truncate(before);
        }
        came
    }

    /// Whether it has no pieces.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes on the disk, to whole blocks.
    pub fn size(&self) -> usize {
        self.buffer.len().next_multiple_of(BLOCK)
    }

    /// The partitions in it, each with the offset up to which it is covered.
    pub(super) fn ends(&self) -> &[(PartitionKey, i64)] {
        &self.ends
    }

    /// The bytes to be written.
    #[expect(clippy::indexing_slicing, reason = "the buffer begins with the header")]
    pub(super) fn seal(&mut self, generation: u64, sequence: u64) -> &[u8] {
        let end = self.buffer.len();
        let payload_len = u32::try_from(end - FRAME_HEADER_LEN).unwrap_or(u32::MAX);
        let pieces = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let header = &mut self.buffer[..FRAME_HEADER_LEN];
        header[..4].copy_from_slice(&FRAME_MAGIC.to_be_bytes());
        header[4..12].copy_from_slice(&generation.to_be_bytes());
        header[12..20].copy_from_slice(&sequence.to_be_bytes());
        header[20..24].copy_from_slice(&pieces.to_be_bytes());
        header[24..28].copy_from_slice(&payload_len.to_be_bytes());
        // The checksum's own place counts as zero.
        header[CRC_AT..].fill(0);
        let crc = crc32c(&self.buffer);
        self.buffer[CRC_AT..FRAME_HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        self.buffer.resize(end.next_multiple_of(BLOCK), 0);
        &self.buffer
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// A header of a file of this generation.
pub(super) fn file_header(generation: u64) -> [u8; FILE_HEADER_LEN] {
    let mut head = [0; FILE_HEADER_LEN];
    head[..8].copy_from_slice(FILE_MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_be_bytes());
    head[12..20].copy_from_slice(&generation.to_be_bytes());
    let crc = crc32c(&head[..20]);
    head[20..].copy_from_slice(&crc.to_be_bytes());
    head
}

/// The generation of a file, and which of its headers says so; `None` if its first block has no header of ours.
pub(super) fn file_generation(block: &[u8]) -> Option<(u64, usize)> {
    let found =
        HEADERS_AT.iter().zip(0..).filter_map(|(at, which)| Some((parse_header(block.get(*at..)?)?, which)));
    found.max()
}

fn parse_header(bytes: &[u8]) -> Option<u64> {
    let head = bytes.first_chunk::<FILE_HEADER_LEN>()?;
    let crc = u32::from_be_bytes(*head.last_chunk()?);
    let is_ours = head.starts_with(FILE_MAGIC) && number::<4>(head, 8)? == VERSION.to_be_bytes();
    (is_ours && crc == crc32c(head.get(..20)?)).then_some(u64::from_be_bytes(number(head, 12)?))
}

/// What the header of a frame says.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) generation: u64,
    pub(super) sequence: u64,
    pub(super) payload_len: usize,
    pieces: u32,
}

impl FrameHeader {
    /// Reads a header, which may be anything.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if u32::from_be_bytes(number(bytes, 0)?) != FRAME_MAGIC {
            return None;
        }
        Some(Self {
            generation: u64::from_be_bytes(number(bytes, 4)?),
            sequence: u64::from_be_bytes(number(bytes, 12)?),
            pieces: u32::from_be_bytes(number(bytes, 20)?),
            payload_len: u32::from_be_bytes(number(bytes, 24)?) as usize,
        })
    }
}

/// The pieces of a frame, with the position of their bytes in it; `None` if the frame is not whole.
pub(super) fn pieces(frame: &mut [u8]) -> Option<Vec<(Place, usize, usize)>> {
    let header = FrameHeader::parse(frame)?;
    let crc = u32::from_be_bytes(number(frame, CRC_AT)?);
    frame.get_mut(CRC_AT..FRAME_HEADER_LEN)?.fill(0);
    let end = FRAME_HEADER_LEN.checked_add(header.payload_len)?;
    if crc32c(frame.get(..end)?) != crc {
        return None;
    }
    let (mut pieces, mut at) = (Vec::new(), FRAME_HEADER_LEN);
    while at < end {
        let bytes_at = at.checked_add(PIECE_HEADER_LEN)?;
        let head = frame.get(at..bytes_at)?;
        let key = PartitionKey {
            topic_id: Uuid::from_bytes(number(head, 0)?),
            index: i32::from_be_bytes(number(head, 16)?),
        };
        let place = Place {
            key,
            segment: i64::from_be_bytes(number(head, 20)?),
            position: u64::from_be_bytes(number(head, 28)?),
            next_offset: i64::from_be_bytes(number(head, 36)?),
        };
        let len = u32::from_be_bytes(number(head, 44)?) as usize;
        at = bytes_at.checked_add(len).filter(|after| *after <= end)?;
        pieces.push((place, bytes_at, len));
    }
    (pieces.len() == header.pieces as usize).then_some(pieces)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: i32) -> Place {
        let key = PartitionKey { topic_id: Uuid::from_u128(7), index };
        Place { key, segment: 5, position: 61, next_offset: 9 }
    }

    fn frame() -> Frame {
        let mut frame = Frame::new();
        for (index, text) in [(0, "first"), (1, "second")] {
            let read = |buffer: &mut Vec<u8>| {
                buffer.extend_from_slice(text.as_bytes());
                Ok(text.len())
            };
            assert!(frame.add(place(index), text.len(), read));
        }
        frame
    }

    #[test]
    fn a_frame_gives_its_pieces_back_and_a_piece_that_did_not_come_is_not_in_it() {
        let mut frame = frame();
        assert!(!frame.add(place(2), 9, |buffer| {
            buffer.push(1);
            Ok(1)
        }));
        assert!(!frame.add(place(2), 9, |_| Err(io::Error::other("no"))));
        let mut bytes = frame.seal(3, 4).to_vec();
        assert_eq!(bytes.len(), BLOCK);
        let header = FrameHeader::parse(&bytes).unwrap();
        assert_eq!((header.generation, header.sequence), (3, 4));
        let pieces = pieces(&mut bytes).unwrap();
        assert_eq!(pieces.len(), 2);
        let (found, at, len) = pieces[1];
        assert_eq!((found, &bytes[at..at + len]), (place(1), &b"second"[..]));
    }

    #[test]
    fn any_flipped_bit_or_cut_makes_the_whole_frame_invalid() {
        let mut frame = frame();
        let used = FRAME_HEADER_LEN + 2 * PIECE_HEADER_LEN + "firstsecond".len();
        let bytes = frame.seal(3, 4).to_vec();
        for at in 0..used * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(pieces(&mut damaged), None, "bit {at}");
        }
        for len in 0..used {
            assert_eq!(pieces(&mut bytes[..len].to_vec()), None, "{len} bytes");
        }
    }

    #[test]
    fn a_header_is_ours_or_nothing() {
        let mut block = [0; BLOCK];
        for (which, generation) in [(0, 6), (1, 7), (0, 9)] {
            let before = block;
            let at = HEADERS_AT[which];
            block[at..at + FILE_HEADER_LEN].copy_from_slice(&file_header(generation));
            assert_eq!(file_generation(&block), Some((generation, which)));
            for byte in at..at + FILE_HEADER_LEN {
                let mut damaged = block;
                damaged[byte] ^= 0x10;
                let other = file_generation(&before).filter(|(_, other)| *other != which);
                assert_eq!(file_generation(&damaged), other, "byte {byte}");
            }
        }
        assert_eq!(file_generation(&[0; 10]), None);
    }
}
