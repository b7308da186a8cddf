//! Builds a record batch.
//!
//! Records are encoded straight into the one buffer that becomes the batch, behind room for its
//! header; nothing is allocated per record. Base offset and producer stamp are only known when a
//! batch is sent, so they are given at the end, and compression, too, happens then.
//! Invariant: what [`BatchBuilder::finish`] returns passes [`Batch::stored`](super::Batch::stored),
//! and, unless it is a control batch, empty or with gaps, [`Batch::produced`](super::Batch::produced).

use std::fmt;

use bytes::{BufMut, Bytes};

use super::{
    BATCH_HEADER_LEN, Compression,
    batch::{COMPRESSION_MASK, CONTROL_BIT, CRC_END, LENGTH_END, LOG_APPEND_TIME_BIT, TRANSACTIONAL_BIT},
    crc32c,
    varint::{unsigned_len, varint_len, varlong_len, write_varint, write_varlong},
};

/// Who wrote a batch, for idempotence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Producer id, not negative.
    pub id: i64,
    /// Epoch of the producer id.
    pub epoch: i16,
    /// Sequence of the batch's first record; -1 in control batches.
    pub sequence: i32,
}

/// What is said of a batch as a whole. The default is an uncompressed batch of no known producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchOptions {
    /// Codec of the records.
    pub compression: Compression,
    /// The time in ms at which the batch is appended, when that is to be the timestamp of all its
    /// records; by default each record has its own.
    pub log_append_time: Option<i64>,
    /// The producer, when known from the start; see also [`BatchBuilder::finish_with`].
    pub producer: Option<ProducerStamp>,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether the records are control records.
    pub control: bool,
}

/// A batch under construction.
#[derive(Clone)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records.
    buffer: Vec<u8>,
    count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 0)
    }

    /// An empty batch with room for `records_len` bytes of encoded records, to save regrowth.
    pub fn with_capacity(options: BatchOptions, records_len: usize) -> Self {
        let mut buffer = Vec::with_capacity(BATCH_HEADER_LEN + records_len);
        buffer.resize(BATCH_HEADER_LEN, 0);
        Self { options, buffer, count: 0, last_offset_delta: -1, base_timestamp: -1, max_timestamp: -1 }
    }

    /// Appends a record at the next offset. `timestamp` is in ms; `headers` are walked twice, first for
    /// their size.
    ///
    /// # Panics
    /// If the batch would take more than [`i32::MAX`] bytes or records; see [`BatchBuilder::record_len`].
    pub fn push<'h, H>(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: H)
    where
        H: IntoIterator<Item = (&'h str, Option<&'h [u8]>), IntoIter: Clone>,
    {
        self.push_at(self.last_offset_delta + 1, timestamp, key, value, headers);
    }

    /// Appends a record at the base offset plus `offset_delta`, which may leave a gap behind the
    /// record before, as compaction does.
    ///
    /// # Panics
    /// As [`BatchBuilder::push`], and if `offset_delta` is not beyond that of the record before.
    pub fn push_at<'h, H>(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) where
        H: IntoIterator<Item = (&'h str, Option<&'h [u8]>), IntoIter: Clone>,
    {
        assert!(offset_delta > self.last_offset_delta, "{offset_delta} follows {}", self.last_offset_delta);
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        let headers = headers.into_iter();
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let body_len = body_len(offset_delta, timestamp_delta, key, value, headers.clone());
        let len = i32::try_from(body_len).ok().filter(|len| {
            let size = self.buffer.len() - LENGTH_END + varint_len(*len) + body_len;
            i32::try_from(size).is_ok()
        });
        let len = len.expect("the caller bounds the size of a batch");
        self.buffer.reserve(varint_len(len) + body_len);

        let out = &mut self.buffer;
        write_varint(out, len);
        out.put_u8(0);
        write_varlong(out, timestamp_delta);
        write_varint(out, offset_delta);
        write_nullable_bytes(out, key);
        write_nullable_bytes(out, value);
        write_varint(out, headers.clone().count() as i32);
        for (name, value) in headers {
            write_nullable_bytes(out, Some(name.as_bytes()));
            write_nullable_bytes(out, value);
        }
        self.count += 1;
        self.last_offset_delta = offset_delta;
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    /// Lets the batch span the offsets up to base plus `last_offset_delta`, and gives an empty one a
    /// maximum timestamp in ms: what compaction keeps of a batch whose last records it took.
    pub fn span(&mut self, last_offset_delta: i32, max_timestamp: i64) {
        self.last_offset_delta = self.last_offset_delta.max(last_offset_delta);
        if self.count == 0 {
            self.max_timestamp = max_timestamp;
        }
    }

    /// Bytes that [`BatchBuilder::push`] with the same arguments would add, before compression.
    pub fn record_len<'h, H>(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> usize
    where
        H: IntoIterator<Item = (&'h str, Option<&'h [u8]>), IntoIter: Clone>,
    {
        let timestamp_delta = if self.count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) };
        let len = body_len(self.last_offset_delta + 1, timestamp_delta, key, value, headers.into_iter());
        len + unsigned_len(u32::try_from(len * 2).unwrap_or(u32::MAX))
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size in bytes of the batch as it stands, header included: exact when not compressed.
    pub fn estimated_size(&self) -> usize {
        self.buffer.len()
    }

    /// Largest timestamp in ms so far, -1 when there is no record.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// The batch, with the producer of its options. Its leader epoch is unknown (-1).
    ///
    /// # Panics
    /// If it has neither records nor a [`BatchBuilder::span`].
    pub fn finish(self, base_offset: i64) -> Bytes {
        let producer = self.options.producer;
        self.finish_with(base_offset, producer)
    }

    /// The batch, written by `producer`.
    ///
    /// # Panics
    /// As [`BatchBuilder::finish`].
    pub fn finish_with(mut self, base_offset: i64, producer: Option<ProducerStamp>) -> Bytes {
        assert!(self.last_offset_delta >= 0, "a batch takes at least one offset");
        if self.count == 0 {
            self.options.compression = Compression::None;
        }
        let mut batch = std::mem::take(&mut self.buffer);
        if self.options.compression != Compression::None {
            let (header, records) = batch.split_at(BATCH_HEADER_LEN);
            let mut compressed = Vec::with_capacity(batch.len() / 2 + BATCH_HEADER_LEN);
            compressed.extend_from_slice(header);
            self.options.compression.compress(records, &mut compressed);
            batch = compressed;
        }
        self.write_header(&mut batch, base_offset, producer);
        Bytes::from(batch)
    }

    fn write_header(&self, batch: &mut [u8], base_offset: i64, producer: Option<ProducerStamp>) {
        let length = i32::try_from(batch.len() - LENGTH_END).expect("no codec doubles its input");
        let producer = producer.unwrap_or(ProducerStamp { id: -1, epoch: -1, sequence: -1 });
        let mut covered = batch.get_mut(CRC_END..).expect("room for the header was kept");
        covered.put_i16(self.attributes());
        covered.put_i32(self.last_offset_delta);
        covered.put_i64(self.base_timestamp);
        covered.put_i64(self.options.log_append_time.unwrap_or(self.max_timestamp));
        covered.put_i64(producer.id);
        covered.put_i16(producer.epoch);
        covered.put_i32(producer.sequence);
        covered.put_i32(self.count);

        let (mut prefix, covered) = batch.split_at_mut(CRC_END);
        prefix.put_i64(base_offset);
        prefix.put_i32(length);
        prefix.put_i32(-1); // The leader epoch, which the log knows.
        prefix.put_i8(2);
        prefix.put_u32(crc32c(covered));
    }

    fn attributes(&self) -> i16 {
        let BatchOptions { compression, log_append_time, transactional, control, .. } = self.options;
        let bit = |set: bool, bit: i16| if set { bit } else { 0 };
        (i16::from(compression.id()) & COMPRESSION_MASK)
            | bit(log_append_time.is_some(), LOG_APPEND_TIME_BIT)
            | bit(transactional, TRANSACTIONAL_BIT)
            | bit(control, CONTROL_BIT)
    }
}

impl fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, buffer, count, .. } = self;
        let mut batch = f.debug_struct("BatchBuilder");
        batch
            .field("options", options)
            .field("count", count)
            .field("size", &buffer.len())
            .finish_non_exhaustive()
    }
}

/// Bytes of a record behind its length.
#[inline]
fn body_len<'h>(
    offset_delta: i32,
    timestamp_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
) -> usize {
    let mut header_count = 0;
    let mut headers_len = 0;
    for (name, value) in headers {
        header_count += 1;
        headers_len += nullable_len(Some(name.as_bytes())) + nullable_len(value);
    }
    1 + varlong_len(timestamp_delta)
        + varint_len(offset_delta)
        + nullable_len(key)
        + nullable_len(value)
        + varint_len(header_count)
        + headers_len
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    // Longer than i32::MAX, its record is too, and is refused as a whole.
    bytes.map_or(1, |bytes| varlong_len(bytes.len() as i64) + bytes.len())
}

#[inline]
fn write_nullable_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            write_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
        None => write_varint(out, -1),
    }
}
