//! Batches of records on their way into a task.
//!
//! The bytes of a batch stay where they are; per record only positions are noted. The origin header of
//! repartition records is taken off here, so operators see the headers the user wrote.
//!
//! Origin header, `kappa-origin`: partition (4 bytes, big endian) ‖ offset (8) ‖ number (4) ‖ topic name.

use crate::{
    processor::{Context, RecordView, Source},
    record::{Header, Headers},
    topology::TopicId,
};
use bytes::Bytes;
use kappa_protocol::record::{DecodedBatch, RecordError};
use std::sync::Arc;

/// Name of the header by which repartition records tell where they came from.
pub const ORIGIN_HEADER: &str = "kappa-origin";

/// Bytes of the smallest record there can be: the header's count alone must not size an allocation.
const RECORD_LEN_MIN: usize = 7;

/// The value of the origin header.
pub fn origin_header(topic: &str, partition: i32, offset: i64, number: u32) -> Bytes {
    let mut value = Vec::with_capacity(16 + topic.len());
    value.extend_from_slice(&partition.to_be_bytes());
    value.extend_from_slice(&offset.to_be_bytes());
    value.extend_from_slice(&number.to_be_bytes());
    value.extend_from_slice(topic.as_bytes());
    Bytes::from(value)
}

/// Where a key or a value stands in the bytes of its batch, which are below 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    /// [`Span::NULL_LEN`] for a null.
    length: u32,
}

impl Span {
    const NULL_LEN: u32 = u32::MAX;
    const NULL: Span = Span { start: 0, length: Span::NULL_LEN };

    fn new(start: usize, length: usize) -> Span {
        let small = |number| u32::try_from(number).expect("a batch is below 4 GiB");
        Span { start: small(start), length: small(length) }
    }

    fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        if self.length == Span::NULL_LEN {
            return None;
        }
        let start = self.start as usize;
        bytes.get(start..start + self.length as usize)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct InputRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    key: Span,
    value: Span,
    pub(crate) headers: Headers,
}

/// Records of one partition in offset order.
#[derive(Debug, Clone)]
pub struct InputBatch {
    bytes: Bytes,
    pub(crate) records: Vec<InputRecord>,
    /// Where to go on reading: behind the last record and any gap after it.
    pub(crate) next_offset: i64,
    pub(crate) leader_epoch: i32,
}

impl InputBatch {
    /// Notes the records of a fetched batch; nothing is copied. Control batches have no records for a task.
    pub fn from_decoded(batch: &DecodedBatch) -> Result<InputBatch, RecordError> {
        let base = batch.bytes().as_ptr() as usize;
        let span = |part: Option<&[u8]>| match part {
            None => Span::NULL,
            Some([]) => Span::new(0, 0),
            Some(part) => Span::new(part.as_ptr() as usize - base, part.len()),
        };
        let header = batch.header();
        let most = batch.count().min(batch.bytes().len() / RECORD_LEN_MIN);
        let mut records = Vec::with_capacity(if header.is_control() { 0 } else { most });
        for record in batch.records().take(if header.is_control() { 0 } else { usize::MAX }) {
            let record = record?;
            let own = |(key, value): (std::borrow::Cow<'_, str>, Option<&[u8]>)| Header {
                key: Arc::from(key),
                value: value.map(|value| batch.slice(value)),
            };
            let headers = match record.headers.is_empty() {
                true => Headers::NONE,
                false => record.headers.filter(|(key, _)| key != ORIGIN_HEADER).map(own).collect(),
            };
            records.push(InputRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: span(record.key),
                value: span(record.value),
                headers,
            });
        }
        let (next_offset, leader_epoch) = (batch.next_offset(), header.leader_epoch());
        Ok(InputBatch { bytes: batch.bytes().clone(), records, next_offset, leader_epoch })
    }

    /// Bytes that it keeps, where its records stand included; headers, which are rare, are not.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<InputRecord>()
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn key(&self, record: &InputRecord) -> Option<&[u8]> {
        record.key.of(&self.bytes)
    }

    pub(crate) fn value(&self, record: &InputRecord) -> Option<&[u8]> {
        record.value.of(&self.bytes)
    }

    pub(crate) fn view<'a>(&'a self, record: &'a InputRecord) -> RecordView<'a> {
        RecordView {
            key: self.key(record),
            value: self.value(record),
            timestamp: record.timestamp,
            headers: &record.headers,
        }
    }

    /// Gives records of a topic the event times that its source takes from them, if it does.
    pub(crate) fn stamp(&mut self, cx: &Context, topic: TopicId, sources: &[(TopicId, Box<dyn Source>)]) {
        let stamp = sources.iter().filter(|(of, _)| *of == topic).find_map(|(_, source)| source.stamp());
        let Some(stamp) = stamp else { return };
        for record in &mut self.records {
            let meta = cx.meta_of((topic, record.offset), record.timestamp, &record.headers);
            record.timestamp = stamp.time(&meta, record.key.of(&self.bytes), record.value.of(&self.bytes));
        }
    }

    /// Only the records below an offset.
    pub(crate) fn below(mut self, offset: i64) -> InputBatch {
        self.records.retain(|record| record.offset < offset);
        self
    }

    /// Leaves only records from `from` on (a fetch may bring earlier ones again with their batch) and below `below`, and
    /// of these only those whose time is not negative; returns how many that drops.
    pub(crate) fn trim(&mut self, from: i64, below: i64) -> u64 {
        let mut negative = 0;
        self.records.retain(|record| {
            let wanted = record.offset >= from && record.offset < below;
            negative += u64::from(wanted && record.timestamp < 0);
            wanted && record.timestamp >= 0
        });
        negative
    }
}

/// Builds an [`InputBatch`] from loose records.
#[derive(Debug)]
pub struct InputBatchBuilder {
    bytes: Vec<u8>,
    records: Vec<InputRecord>,
    next_offset: i64,
}

impl InputBatchBuilder {
    /// A batch whose first record has offset `base_offset`.
    pub fn new(base_offset: i64) -> InputBatchBuilder {
        InputBatchBuilder { bytes: Vec::new(), records: Vec::new(), next_offset: base_offset }
    }

    /// Appends a record under the next offset.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers) {
        let mut copy = |part: Option<&[u8]>| match part {
            None => Span::NULL,
            Some(part) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(part);
                Span::new(start, part.len())
            }
        };
        let (key, value) = (copy(key), copy(value));
        self.records.push(InputRecord { offset: self.next_offset, timestamp, key, value, headers });
        self.next_offset += 1;
    }

    /// The batch.
    pub fn finish(self) -> InputBatch {
        let Self { bytes, records, next_offset } = self;
        InputBatch { bytes: Bytes::from(bytes), records, next_offset, leader_epoch: -1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::record::{BatchBuilder, BatchOptions};

    #[test]
    fn a_decoded_batch_keeps_user_headers_and_loses_the_origin() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let origin = origin_header("lines", 3, 42, 1);
        let headers = [("trace", Some(b"abc".as_slice())), (ORIGIN_HEADER, Some(&origin[..]))];
        builder.push(7, Some(b"key"), None, headers);
        builder.push(8, None, Some(b"value"), std::iter::empty());
        let decoded = DecodedBatch::decode(builder.finish(100), 1 << 20).unwrap();
        let batch = InputBatch::from_decoded(&decoded).unwrap();
        let [first, second] = &batch.records[..] else { panic!("two records") };
        assert_eq!(
            (first.offset, first.timestamp, batch.key(first), batch.value(first)),
            (100, 7, Some(&b"key"[..]), None)
        );
        assert_eq!((second.offset, batch.key(second), batch.value(second)), (101, None, Some(&b"value"[..])));
        assert_eq!(first.headers.iter().map(|header| &*header.key).collect::<Vec<_>>(), ["trace"]);
        assert_eq!(batch.next_offset, 102);
    }
}
