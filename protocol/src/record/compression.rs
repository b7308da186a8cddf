//! The codecs that records may be compressed with, as Kafka frames them.
//!
//! Invariant: decompression takes memory in proportion to its input and to what it yields, plus a
//! codec's block of 8 MiB at most, and it yields no more than the limit given: a decompression bomb
//! ends in [`DecompressError::TooLarge`]. What zstd needs besides its output is kept per thread and
//! used again. This module knows nothing of batches.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use flate2::{bufread::MultiGzDecoder, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use zstd::zstd_safe::{self, CCtx, DCtx, zstd_sys::ZSTD_ErrorCode};

use super::{lz4, snappy};

/// Codec of a batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// Gzip, level 6.
    Gzip,
    /// Snappy in the framing of snappy-java; plain snappy is read too.
    Snappy,
    /// The LZ4 frame format, independent blocks of 64 KiB.
    Lz4,
    /// Zstandard, level 3.
    Zstd,
}

/// Why compressed records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// They are larger than the caller allows.
    #[error("{codec} records decompress to more than {limit} bytes")]
    TooLarge {
        /// The codec.
        codec: Compression,
        /// The most bytes allowed.
        limit: usize,
    },
    /// They are not what the codec writes.
    #[error("{codec} records of {len} bytes cannot be decompressed")]
    Corrupt {
        /// The codec.
        codec: Compression,
        /// Size of the compressed form in bytes.
        len: usize,
        /// What the codec has to say.
        source: io::Error,
    },
}

/// A name that no codec has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression type `{name}`: expected none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCodec {
    /// The name given.
    pub name: String,
}

impl Compression {
    /// Every codec, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec that a batch's attributes call `id`.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The number that a batch's attributes call the codec by.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of the codec.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends the compressed form of `input` to `out`.
    pub(super) fn compress(self, input: &[u8], out: &mut Vec<u8>) {
        const IN_MEMORY: &str = "writing to memory does not fail";
        match self {
            Self::None => out.extend_from_slice(input),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(input).expect(IN_MEMORY);
                encoder.finish().expect(IN_MEMORY);
            }
            Self::Snappy => snappy::compress(input, out),
            Self::Lz4 => {
                let frame =
                    FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
                let mut encoder = FrameEncoder::with_frame_info(frame, out);
                encoder.write_all(input).expect(IN_MEMORY);
                encoder.finish().expect(IN_MEMORY);
            }
            Self::Zstd => compress_zstd(input, out),
        }
    }

    /// The decompressed form of `input`, at most `limit` bytes.
    pub(super) fn decompress(self, input: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        let decompressed = match self {
            Self::None => (input.len() <= limit).then(|| input.to_vec()).ok_or(Failure::TooLarge),
            Self::Gzip => read_capped(MultiGzDecoder::new(input), input.len(), limit),
            Self::Snappy => snappy::decompress(input, limit),
            Self::Lz4 => lz4::decompress(input, limit)
                .unwrap_or_else(|| read_capped(FrameDecoder::new(input), input.len(), limit)),
            Self::Zstd => decompress_zstd(input, limit),
        };
        let mut out = decompressed.map_err(|failure| match failure {
            Failure::TooLarge => DecompressError::TooLarge { codec: self, limit },
            Failure::Corrupt(source) => DecompressError::Corrupt { codec: self, len: input.len(), source },
        })?;
        // Records may be kept for long, and should then not hold on to a guess that was far off.
        if out.capacity() / 2 > out.len() {
            out.shrink_to_fit();
        }
        Ok(out)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        let codec = Self::ALL.into_iter().find(|codec| codec.name() == name);
        codec.ok_or_else(|| UnknownCodec { name: name.to_owned() })
    }
}

/// How a codec fails, before its name is put to it.
pub(super) enum Failure {
    TooLarge,
    Corrupt(io::Error),
}

/// Output to reserve for `len` compressed bytes at first: about what records compress by.
fn first_guess(len: usize, limit: usize) -> usize {
    len.saturating_mul(4).max(1024).min(limit)
}

fn read_capped(reader: impl Read, len: usize, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(first_guess(len, limit));
    reader.take((limit as u64).saturating_add(1)).read_to_end(&mut out).map_err(Failure::Corrupt)?;
    if out.len() <= limit { Ok(out) } else { Err(Failure::TooLarge) }
}

thread_local! {
    /// A context is hundreds of kilobytes, too much to set up for every batch.
    static ZSTD_ENCODER: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static ZSTD_DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

fn compress_zstd(input: &[u8], out: &mut Vec<u8>) {
    let mut compressed = Vec::with_capacity(zstd_safe::compress_bound(input.len()));
    ZSTD_ENCODER
        .with_borrow_mut(|encoder| encoder.compress(&mut compressed, input, zstd_safe::CLEVEL_DEFAULT))
        .expect("the output has room for the worst case");
    out.extend_from_slice(&compressed);
}

/// Decodes straight into the output, so that the window, whose size the input chooses, costs
/// nothing. Where the input does not tell its size (Java's does not), or tells one that is out of
/// proportion, a guess is made, and more room tried when it was too little.
fn decompress_zstd(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    const GROWTH: usize = 4;
    const CREDIBLE_RATIO: usize = 64;
    let corrupt = |reason: &'static str| Failure::Corrupt(io::Error::other(reason));
    let told = zstd_safe::get_frame_content_size(input).map_err(|_| corrupt("no zstd frame"))?;
    let told = told.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if told.is_some_and(|size| size > limit) {
        return Err(Failure::TooLarge);
    }
    let credible = input.len().saturating_mul(CREDIBLE_RATIO);
    let mut room = told.filter(|size| *size <= credible).unwrap_or(first_guess(input.len(), limit));
    loop {
        let mut out = Vec::with_capacity(room);
        let code = match ZSTD_DECODER.with_borrow_mut(|decoder| decoder.decompress(&mut out, input)) {
            Ok(_) => return Ok(out),
            Err(code) => code,
        };
        if code.wrapping_neg() != ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize {
            return Err(corrupt(zstd_safe::get_error_name(code)));
        }
        if room >= limit {
            return Err(Failure::TooLarge);
        }
        room = room.max(1).saturating_mul(GROWTH).min(limit);
    }
}
