//! Snappy in the framing of snappy-java, which Java's clients write, and plain, which librdkafka writes.
//!
//! ```text
//! 82 'SNAPPY' 00 | version u32 | oldest compatible version u32 | { block length u32 | block }...
//! ```
//! Big-endian; each block is plain snappy of up to 32 KiB. Where one stream was appended to
//! another, a header may stand in place of a block length.

use std::io;

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::compression::Failure;

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const HEADER_LEN: usize = 16;
const VERSION: u32 = 1;
const BLOCK_LEN: usize = 32 * 1024;
/// Snappy's densest element makes 64 bytes of 3.
const MAX_RATIO: usize = 22;

/// Appends the framed form of `input` to `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = Encoder::new();
    let mut compressed = vec![0; max_compress_len(input.len().min(BLOCK_LEN))];
    for block in input.chunks(BLOCK_LEN) {
        let len = encoder.compress(block, &mut compressed).expect("the output has room for the worst case");
        out.extend_from_slice(&(len as u32).to_be_bytes());
        out.extend_from_slice(compressed.get(..len).unwrap_or_default());
    }
}

/// The decompressed form of `input`, framed or plain, at most `limit` bytes.
pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    if !input.starts_with(&MAGIC) {
        decompress_block(input, &mut out, limit)?;
        return Ok(out);
    }
    let mut rest = input;
    while !rest.is_empty() {
        if rest.starts_with(&MAGIC) {
            rest = rest.get(HEADER_LEN..).ok_or_else(truncated)?;
            continue;
        }
        let (len, behind) = rest.split_first_chunk().ok_or_else(truncated)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, behind) = behind.split_at_checked(len).ok_or_else(truncated)?;
        decompress_block(block, &mut out, limit)?;
        rest = behind;
    }
    Ok(out)
}

fn decompress_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Failure> {
    let corrupt = |error: snap::Error| Failure::Corrupt(error.into());
    let len = decompress_len(block).map_err(corrupt)?;
    if len > limit - out.len() {
        return Err(Failure::TooLarge);
    }
    if len > block.len().saturating_mul(MAX_RATIO) {
        return Err(Failure::Corrupt(io::Error::other("block claims more than it can hold")));
    }
    let start = out.len();
    out.resize(start + len, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    Decoder::new().decompress(block, target).map_err(corrupt)?;
    Ok(())
}

fn truncated() -> Failure {
    Failure::Corrupt(io::ErrorKind::UnexpectedEof.into())
}
