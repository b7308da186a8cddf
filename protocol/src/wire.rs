//! The primitive encodings of Kafka's protocol: a bounded [`Reader`] and a [`Writer`] that never copies record data.
//!
//! Invariant: nothing is allocated for a length before the frame is known to hold it. Both know nothing of
//! messages, versions or sockets. Encodings: Apache Kafka protocol guide, KIP-482 (compact forms, tagged fields).

use crate::{Piece, Records, limits};
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("frame ends early: {needed} more bytes needed, {remaining} left")]
    Truncated {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes left in the frame.
        remaining: usize,
    },
    /// A length or count below -1.
    #[error("length {0} is negative")]
    NegativeLength(i64),
    /// A variable-length integer of more than its 5 (or 10) bytes.
    #[error("variable-length integer is too long")]
    VarintTooLong,
    /// A string that is not UTF-8.
    #[error("string is not valid UTF-8")]
    InvalidUtf8,
    /// Null where the field may not be null in this version.
    #[error("field {field} may not be null")]
    UnexpectedNull {
        /// Name of the field in the schema.
        field: &'static str,
    },
    /// The arrays of one frame hold more items than they may: [`limits::FRAME_ITEMS_MAX`], or fewer of some requests.
    #[error("frame holds more than {max} array items")]
    TooManyItems {
        /// The cap.
        max: usize,
    },
    /// A tagged field is longer or shorter than it says.
    #[error("tagged field does not end where its length says")]
    TaggedFieldLength,
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
    /// The schema does not have this version of the message.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// Name of the message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// The schema does not have this API.
    #[error("unknown API key {0}")]
    UnknownApi(i16),
}

/// Why a message cannot be written in a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The field is set, but this version cannot carry it and may not drop it.
    #[error("version {version} cannot carry {field}")]
    NotInVersion {
        /// Structure and field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// Null where the field may not be null in this version.
    #[error("field {field} may not be null in version {version}")]
    UnexpectedNull {
        /// Name of the field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A region of a file where only bytes in memory can be sent.
    #[error("a region of a file cannot be sent here")]
    Region,
    /// A string or array too long for its length field.
    #[error("length {len} exceeds {max}")]
    TooLong {
        /// Length given.
        len: usize,
        /// Longest that can be written.
        max: usize,
    },
    /// The schema does not have this version of the message.
    #[error("{message} has no version {version}")]
    UnsupportedVersion {
        /// Name of the message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// Reads primitives off one frame; strings and numbers are copied out, `bytes` and records are slices of the frame.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    position: usize,
    items_left: usize,
    items_max: usize,
}

impl Reader {
    /// Starts at the first byte of `frame`.
    pub fn new(frame: Bytes) -> Self {
        let items_max = limits::FRAME_ITEMS_MAX;
        Self { frame, position: 0, items_left: items_max, items_max }
    }

    /// Lets the arrays that follow hold no more than `max` items together.
    pub fn limit_items(&mut self, max: usize) {
        self.items_max = self.items_max.min(max);
        self.items_left = self.items_left.min(max);
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.frame.len() - self.position
    }

    /// Fails unless the whole frame was read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            n => Err(DecodeError::TrailingBytes(n)),
        }
    }

    fn advance(&mut self, len: usize) -> Result<usize, DecodeError> {
        let remaining = self.remaining();
        if len > remaining {
            return Err(DecodeError::Truncated { needed: len - remaining, remaining });
        }
        let start = self.position;
        self.position += len;
        Ok(start)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], DecodeError> {
        let start = self.advance(len)?;
        Ok(self.frame.get(start..start + len).expect("advance checked the bounds"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take returns N bytes"))
    }

    /// One byte: zero is false.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    /// One signed byte.
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    /// Two bytes, big-endian.
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    /// Two bytes, big-endian, unsigned.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// Four bytes, big-endian, unsigned.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Eight bytes, IEEE 754, big-endian.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.array().map(f64::from_be_bytes)
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array().map(Uuid::from_bytes)
    }

    /// An unsigned base-128 integer of at most five bytes.
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.array::<1>()?[0];
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    /// A compact length: zero is null, else one more than the length.
    fn compact_len(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }

    fn plain_len(len: i64) -> Result<Option<usize>, DecodeError> {
        match len {
            -1 => Ok(None),
            len => usize::try_from(len).map(Some).map_err(|_| DecodeError::NegativeLength(len)),
        }
    }

    /// A string that may be null; `flexible` chooses the compact form.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<String>, DecodeError> {
        let len = if flexible { self.compact_len()? } else { Self::plain_len(i64::from(self.i16()?))? };
        let Some(len) = len else { return Ok(None) };
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(Some(text.to_owned()))
    }

    /// A string.
    pub fn string(&mut self, flexible: bool) -> Result<String, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::UnexpectedNull { field: "string" })
    }

    /// Bytes that may be null, as a slice of the frame.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        let len = if flexible { self.compact_len()? } else { Self::plain_len(i64::from(self.i32()?))? };
        let Some(len) = len else { return Ok(None) };
        let start = self.advance(len)?;
        Ok(Some(self.frame.slice(start..start + len)))
    }

    /// Bytes, as a slice of the frame.
    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::UnexpectedNull { field: "bytes" })
    }

    /// Record batches that may be null, as a slice of the frame.
    pub fn records(&mut self, flexible: bool) -> Result<Option<Records>, DecodeError> {
        Ok(self.nullable_bytes(flexible)?.map(Records::from))
    }

    /// Number of items of an array that may be null. An item takes at least a byte, so a count beyond what is left
    /// of the frame is refused here.
    pub fn array_len(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let len = if flexible { self.compact_len()? } else { Self::plain_len(i64::from(self.i32()?))? };
        let remaining = self.remaining();
        match len {
            Some(n) if n > remaining => Err(DecodeError::Truncated { needed: n - remaining, remaining }),
            len => Ok(len),
        }
    }

    /// An empty vector for the `n` items that follow, charged to the frame's item budget.
    pub fn items<T>(&mut self, n: usize) -> Result<Vec<T>, DecodeError> {
        self.items_left =
            self.items_left.checked_sub(n).ok_or(DecodeError::TooManyItems { max: self.items_max })?;
        Ok(Vec::with_capacity(n.min(1024)))
    }

    /// Tag of the next tagged field and the position at which it ends.
    pub fn begin_tag(&mut self) -> Result<(u32, usize), DecodeError> {
        let tag = self.uvarint()?;
        let size = self.uvarint()? as usize;
        let remaining = self.remaining();
        if size > remaining {
            return Err(DecodeError::Truncated { needed: size - remaining, remaining });
        }
        Ok((tag, self.position + size))
    }

    /// Passes over an unknown tagged field.
    pub fn skip_to(&mut self, end: usize) {
        self.position = end.min(self.frame.len());
    }

    /// Fails unless the tagged field was read to its end.
    pub fn end_tag(&self, end: usize) -> Result<(), DecodeError> {
        if self.position == end { Ok(()) } else { Err(DecodeError::TaggedFieldLength) }
    }
}

/// Record data shorter than this is copied into the writer's buffer: a part of its own would cost more.
const SPLICE_BYTES_MIN: usize = 512;

/// Writes primitives into a growing buffer; record data is kept aside as the slices it came in.
#[derive(Debug, Default)]
pub struct Writer {
    parts: Vec<Piece>,
    parts_len: usize,
    buffer: BytesMut,
}

impl Writer {
    /// An empty writer whose buffer starts with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { parts: Vec::new(), parts_len: 0, buffer: BytesMut::with_capacity(capacity) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.parts_len + self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in order.
    pub fn finish(mut self) -> Vec<Piece> {
        if !self.buffer.is_empty() {
            self.parts.push(Piece::Bytes(self.buffer.freeze()));
        }
        self.parts
    }

    /// Like [`Writer::finish`], with the first four bytes (written as a placeholder) replaced by `prefix`.
    pub(crate) fn finish_with_prefix(mut self, prefix: [u8; 4]) -> Vec<Piece> {
        let start = match self.parts.first_mut() {
            // The first piece is the buffer as it was when record data was first kept aside: nobody shares it yet.
            Some(Piece::Bytes(first)) => {
                let mut bytes = BytesMut::from(std::mem::take(first));
                bytes.get_mut(..4).expect("the placeholder was written").copy_from_slice(&prefix);
                *first = bytes.freeze();
                return self.finish();
            }
            Some(Piece::Region(_)) => None,
            None => self.buffer.get_mut(..4),
        };
        start.expect("the placeholder was written").copy_from_slice(&prefix);
        self.finish()
    }

    /// The pieces joined into one buffer; copies only where record data was kept aside.
    pub fn into_bytes(self) -> Bytes {
        Records::from_iter(self.finish()).to_bytes()
    }

    /// One byte.
    pub fn put_bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// One byte.
    pub fn put_i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    /// Two bytes, big-endian.
    pub fn put_i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    /// Two bytes, big-endian.
    pub fn put_u16(&mut self, value: u16) {
        self.buffer.put_u16(value);
    }

    /// Four bytes, big-endian.
    pub fn put_i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    /// Four bytes, big-endian.
    pub fn put_u32(&mut self, value: u32) {
        self.buffer.put_u32(value);
    }

    /// Eight bytes, big-endian.
    pub fn put_i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    /// Eight bytes, IEEE 754, big-endian.
    pub fn put_f64(&mut self, value: f64) {
        self.buffer.put_f64(value);
    }

    /// Sixteen bytes.
    pub fn put_uuid(&mut self, value: Uuid) {
        self.buffer.put_slice(value.as_bytes());
    }

    /// Bytes as they are, without a length.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// An unsigned base-128 integer.
    pub fn put_uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn put_compact_len(&mut self, len: Option<usize>) -> Result<(), EncodeError> {
        const MAX: usize = u32::MAX as usize - 1;
        let value = match len {
            None => 0,
            Some(len) if len <= MAX => len as u32 + 1,
            Some(len) => return Err(EncodeError::TooLong { len, max: MAX }),
        };
        self.put_uvarint(value);
        Ok(())
    }

    fn put_len(&mut self, len: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        if flexible {
            return self.put_compact_len(len);
        }
        let value = match len {
            None => -1,
            Some(len) => {
                i32::try_from(len).map_err(|_| EncodeError::TooLong { len, max: i32::MAX as usize })?
            }
        };
        self.put_i32(value);
        Ok(())
    }

    /// A string that may be null.
    pub fn put_nullable_string(&mut self, value: Option<&str>, flexible: bool) -> Result<(), EncodeError> {
        let len = value.map(str::len);
        if flexible {
            self.put_compact_len(len)?;
        } else {
            const MAX: usize = i16::MAX as usize;
            match len {
                None => self.put_i16(-1),
                Some(len) => {
                    self.put_i16(i16::try_from(len).map_err(|_| EncodeError::TooLong { len, max: MAX })?)
                }
            }
        }
        self.buffer.put_slice(value.unwrap_or_default().as_bytes());
        Ok(())
    }

    /// A string.
    pub fn put_string(&mut self, value: &str, flexible: bool) -> Result<(), EncodeError> {
        self.put_nullable_string(Some(value), flexible)
    }

    /// Bytes that may be null.
    pub fn put_nullable_bytes(&mut self, value: Option<&[u8]>, flexible: bool) -> Result<(), EncodeError> {
        self.put_len(value.map(<[u8]>::len), flexible)?;
        self.buffer.put_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Bytes.
    pub fn put_bytes(&mut self, value: &[u8], flexible: bool) -> Result<(), EncodeError> {
        self.put_nullable_bytes(Some(value), flexible)
    }

    /// Record batches that may be null; large ones and those in files are kept aside, not copied.
    pub fn put_records(&mut self, value: Option<&Records>, flexible: bool) -> Result<(), EncodeError> {
        self.put_len(value.map(Records::len), flexible)?;
        for piece in value.into_iter().flat_map(Records::pieces) {
            match piece {
                Piece::Bytes(bytes) if bytes.len() < SPLICE_BYTES_MIN => self.buffer.put_slice(bytes),
                piece => self.keep_aside(piece.clone()),
            }
        }
        Ok(())
    }

    fn keep_aside(&mut self, piece: Piece) {
        let before = self.buffer.split().freeze();
        self.parts_len += before.len() + piece.len();
        if !before.is_empty() {
            self.parts.push(Piece::Bytes(before));
        }
        self.parts.push(piece);
    }

    /// Number of items of an array that may be null.
    pub fn put_array_len(&mut self, len: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        self.put_len(len, flexible)
    }

    /// A tagged field, whose length is known only once it is written.
    pub fn put_tagged(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut field = Writer::default();
        write(&mut field)?;
        let len = field.len();
        self.put_uvarint(tag);
        self.put_uvarint(
            u32::try_from(len).map_err(|_| EncodeError::TooLong { len, max: u32::MAX as usize })?,
        );
        for part in field.finish() {
            match part {
                Piece::Bytes(bytes) => self.buffer.put_slice(&bytes),
                region @ Piece::Region(_) => self.keep_aside(region),
            }
        }
        Ok(())
    }
}
