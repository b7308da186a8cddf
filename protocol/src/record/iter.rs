//! Lazy iteration over the encoded records of a batch.
//!
//! A record is a length and, within it: attributes (unused), timestamp delta, offset delta, key,
//! value, headers; all integers are varints. Nothing is copied and nothing allocated.
//! Invariant: offsets strictly increase and stay within the batch, there are as many records as the
//! batch says, and they use up its bytes exactly; the first violation ends the iteration.

use std::borrow::Cow;

use super::{
    Batch, TimestampType,
    varint::{VarintError, read_varint, read_varlong},
};

/// One record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Position in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch, by the clock that [`Batch::timestamp_type`] names.
    pub timestamp: i64,
    /// The key, `None` if null.
    pub key: Option<&'a [u8]>,
    /// The value, `None` if null (a tombstone, in a compacted topic).
    pub value: Option<&'a [u8]>,
    /// The headers, in the order in which they were added.
    pub headers: Headers<'a>,
}

/// What is wrong with a record; `index` counts from 0 within its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {index} of the batch: {fault}")]
pub struct RecordError {
    /// Which record of the batch, from 0 on.
    pub index: i32,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// The ways in which a record can be malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A length reaches beyond the bytes that are there.
    #[error("{needed} bytes are needed where {available} are left")]
    Truncated {
        /// Bytes that a length field asks for.
        needed: usize,
        /// Bytes left in the record, or in the batch.
        available: usize,
    },
    /// An integer that is cut short or too large.
    #[error(transparent)]
    Varint(#[from] VarintError),
    /// A length below 0, or below -1 where null is allowed.
    #[error("length of {length}")]
    NegativeLength {
        /// The length found.
        length: i32,
    },
    /// An offset that does not follow the one before it.
    #[error("offset delta {delta} does not follow {previous}")]
    OffsetOrder {
        /// Offset delta of the record before, -1 before the first.
        previous: i32,
        /// Offset delta of this record.
        delta: i32,
    },
    /// An offset beyond the last of the batch.
    #[error("offset delta {delta} is beyond the batch's last, {last}")]
    OffsetBeyondBatch {
        /// Offset delta of this record.
        delta: i32,
        /// Last offset delta of the batch.
        last: i32,
    },
    /// Bytes that belong to no field of the record, or to no record of the batch.
    #[error("{extra} bytes too many")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

/// Iterator over the records of a batch; it ends after the first error.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    base_offset: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
    last_offset_delta: i32,
    previous_delta: i32,
    index: i32,
    /// Records to come, or -1 after the end.
    remaining: i32,
}

impl<'a> RecordIter<'a> {
    /// The records of `header`, from their uncompressed bytes.
    pub(super) fn new(header: &Batch<'_>, bytes: &'a [u8]) -> Self {
        let append_time = match header.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp()),
        };
        Self {
            rest: bytes,
            base_offset: header.base_offset(),
            base_timestamp: header.base_timestamp(),
            append_time,
            last_offset_delta: header.last_offset_delta(),
            previous_delta: -1,
            index: 0,
            remaining: header.count(),
        }
    }

    /// Encoded bytes that come behind what was read.
    pub(super) fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn read(&mut self) -> Result<Record<'a>, RecordFault> {
        let mut input = read_bytes(&mut self.rest)?;
        let input = &mut input;
        take(input, 1)?; // The attributes, of which no bit has a meaning yet.
        let timestamp_delta = read_varlong(input)?;
        let delta = read_varint(input)?;
        let previous = std::mem::replace(&mut self.previous_delta, delta);
        if delta <= previous {
            return Err(RecordFault::OffsetOrder { previous, delta });
        }
        if delta > self.last_offset_delta {
            return Err(RecordFault::OffsetBeyondBatch { delta, last: self.last_offset_delta });
        }
        let key = read_nullable_bytes(input)?;
        let value = read_nullable_bytes(input)?;
        let headers = Headers::read(input)?;
        if !input.is_empty() {
            return Err(RecordFault::TrailingBytes { extra: input.len() });
        }
        let created = self.base_timestamp.wrapping_add(timestamp_delta);
        Ok(Record {
            offset: self.base_offset.wrapping_add(i64::from(delta)),
            timestamp: self.append_time.unwrap_or(created),
            key,
            value,
            headers,
        })
    }

    #[cold]
    fn end(&mut self) -> Option<Result<Record<'a>, RecordError>> {
        let surplus = self.remaining == 0 && !self.rest.is_empty();
        self.remaining = -1;
        let fault = RecordFault::TrailingBytes { extra: self.rest.len() };
        surplus.then_some(Err(RecordError { index: self.index, fault }))
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining <= 0 {
            return self.end();
        }
        let record = self.read().map_err(|fault| RecordError { index: self.index, fault });
        self.index += 1;
        self.remaining = if record.is_ok() { self.remaining - 1 } else { -1 };
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A record takes at least 7 bytes, whatever number the batch claims.
        let most = (self.rest.len() / 7).min(usize::try_from(self.remaining).unwrap_or(0));
        (0, Some(most + 1))
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

/// The headers of a record: pairs of name and value, names may repeat.
///
/// A name may be any bytes. Iteration shows what is not UTF-8 by replacement characters, as Kafka's own clients do;
/// [`Headers::raw`] gives the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    /// Encoded headers, checked when the record was read.
    bytes: &'a [u8],
    remaining: u32,
}

impl<'a> Headers<'a> {
    /// Takes the headers off `input` and checks each, so that iteration cannot fail.
    #[inline]
    fn read(input: &mut &'a [u8]) -> Result<Self, RecordFault> {
        let length = read_varint(input)?;
        let count = u32::try_from(length).map_err(|_| RecordFault::NegativeLength { length })?;
        let bytes = *input;
        for _ in 0..count {
            read_header(input)?;
        }
        let used = bytes.len() - input.len();
        Ok(Self { bytes: bytes.get(..used).unwrap_or_default(), remaining: count })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// The value of the last header called `name`, as Kafka's `lastHeader`: outer `None` if there is
    /// no such header, inner if its value is null.
    pub fn last_value(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.raw().filter(|(header, _)| *header == name.as_bytes()).last().map(|(_, value)| value)
    }

    /// The headers with the bytes of their names.
    pub fn raw(self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let mut headers = self;
        std::iter::from_fn(move || headers.next_raw())
    }

    fn next_raw(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        self.remaining = self.remaining.checked_sub(1)?;
        read_header(&mut self.bytes).ok()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (Cow<'a, str>, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_raw().map(|(name, value)| (String::from_utf8_lossy(name), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn read_header<'a>(input: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), RecordFault> {
    Ok((read_bytes(input)?, read_nullable_bytes(input)?))
}

#[inline]
fn read_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], RecordFault> {
    let length = read_varint(input)?;
    let needed = usize::try_from(length).map_err(|_| RecordFault::NegativeLength { length })?;
    take(input, needed)
}

#[inline]
fn read_nullable_bytes<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordFault> {
    let length = read_varint(input)?;
    match usize::try_from(length) {
        Ok(needed) => take(input, needed).map(Some),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(RecordFault::NegativeLength { length }),
    }
}

#[inline]
fn take<'a>(input: &mut &'a [u8], needed: usize) -> Result<&'a [u8], RecordFault> {
    let (taken, rest) =
        input.split_at_checked(needed).ok_or(RecordFault::Truncated { needed, available: input.len() })?;
    *input = rest;
    Ok(taken)
}
