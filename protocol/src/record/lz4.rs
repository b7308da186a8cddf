//! LZ4 frames as producers write them: of blocks that stand alone and bear no checksums. Their blocks are decoded straight
//! to where the records are wanted; frames of any other kind are left to the library.
//!
//! ```text
//! magic 04 22 4d 18 | flags 60 | block size 40, 50, 60 or 70 | checksum of these two | { length u32 | block }... | 0 u32
//! ```
//! Little-endian; the highest bit of a length tells a block that is not compressed. Format: LZ4 Frame Format Description,
//! version 1.6.

use std::io;

use lz4_flex::block::decompress_into;

use super::compression::Failure;

const HEADER_LEN: usize = 7;
/// The headers of such frames, with the most bytes that a block of theirs decodes to.
const HEADERS: [([u8; HEADER_LEN], usize); 4] = [
    ([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82], 64 << 10),
    ([0x04, 0x22, 0x4d, 0x18, 0x60, 0x50, 0xfb], 256 << 10),
    ([0x04, 0x22, 0x4d, 0x18, 0x60, 0x60, 0x51], 1 << 20),
    ([0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73], 4 << 20),
];
/// Tells a block that is not compressed.
const STORED: u32 = 1 << 31;
/// LZ4's densest element makes 255 bytes of one.
const MAX_RATIO: usize = 255;

/// The decompressed form of `input`, at most `limit` bytes; `None` if it is not one such frame and nothing else.
pub(super) fn decompress(input: &[u8], limit: usize) -> Option<Result<Vec<u8>, Failure>> {
    let (header, blocks) = input.split_first_chunk::<HEADER_LEN>()?;
    let (_, block_max) = HEADERS.iter().find(|(known, _)| known == header)?;
    let (mut out, mut filled, mut rest) = (Vec::new(), 0, blocks);
    loop {
        let (length, behind) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        let (block, behind) = behind.split_at_checked((length & !STORED) as usize)?;
        if length == 0 {
            out.truncate(filled);
            return behind.is_empty().then_some(Ok(out));
        }
        let is_stored = length & STORED != 0;
        let most = block.len().saturating_mul(if is_stored { 1 } else { MAX_RATIO });
        let room = most.min(*block_max);
        if out.len() - filled < room {
            out.resize(filled + room, 0);
        }
        let into = out.get_mut(filled..filled + room)?;
        filled += if is_stored {
            // A longer one than the header allows is the library's to judge.
            into.copy_from_slice(block.get(..room).filter(|fits| fits.len() == block.len())?);
            room
        } else {
            match decompress_into(block, into) {
                Ok(decoded) => decoded,
                Err(error) => return Some(Err(Failure::Corrupt(io::Error::other(error)))),
            }
        };
        if filled > limit {
            return Some(Err(Failure::TooLarge));
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn frame(input: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(input).unwrap();
        encoder.finish().unwrap()
    }

    fn info(size: BlockSize) -> FrameInfo {
        FrameInfo::new().block_size(size).block_mode(BlockMode::Independent)
    }

    const SIZES: [BlockSize; 4] =
        [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB];

    /// What compresses, and what does not, so that blocks of both kinds come.
    fn content() -> Vec<u8> {
        let mixed = (0u32..100_000).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
        std::iter::repeat_n(7, 150_000).chain(mixed).collect()
    }

    #[test]
    fn frames_of_every_block_size_are_decoded_here() {
        for size in SIZES {
            let frame = frame(&content(), info(size));
            let decoded = decompress(&frame, 250_000).expect("it is of the plain kind");
            assert!(decoded.is_ok_and(|decoded| decoded == content()));
            assert!(matches!(decompress(&frame, 249_999), Some(Err(Failure::TooLarge))));
        }
        assert!(decompress(&frame(&[], info(BlockSize::Max64KB)), 0).is_some_and(|empty| empty.is_ok()));
    }

    #[test]
    fn other_frames_and_what_follows_a_frame_are_left_to_the_library() {
        let plain = || info(BlockSize::Max64KB);
        let linked = plain().block_mode(BlockMode::Linked);
        for other in [linked, plain().block_checksums(true), plain().content_checksum(true)] {
            assert!(decompress(&frame(&content(), other), 1 << 20).is_none());
        }
        let mut two = frame(b"one", plain());
        two.extend(frame(b"two", plain()));
        assert!(decompress(&two, 1 << 20).is_none());
    }

    #[test]
    fn a_block_makes_no_more_room_than_it_can_fill() {
        let mut frame = HEADERS[3].0.to_vec();
        frame.extend_from_slice(&[1, 0, 0, 0, 0x10]);
        let failed = decompress(&frame, usize::MAX).unwrap();
        assert!(matches!(failed, Err(Failure::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_judged_as_the_library_judges_it(
            size in 0usize..4, at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
        ) {
            let content = content();
            let content = &content[100_000..200_000];
            let mut frame = frame(content, info(SIZES[size]));
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            frame.truncate(frame.len() - cut.index(8));
            let mut theirs = Vec::new();
            let library = FrameDecoder::new(&frame[..]).read_to_end(&mut theirs);
            if let Some(ours) = decompress(&frame, 1 << 20) {
                match ours {
                    Ok(ours) => prop_assert!(library.is_ok() && ours == theirs),
                    Err(_) => prop_assert!(library.is_err()),
                }
            }
        }
    }
}
