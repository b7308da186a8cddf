//! Output records of a task, in order, with their bytes in one buffer: emitting one allocates nothing.

use super::{RecordView, TopicId, stamp::Stamp};
use crate::{codec::CodecError, record::Headers};
use bytes::Bytes;
use std::ops::Range;

/// What a reader keeps of a record besides key and value, more or less.
const RECORD_BYTES: usize = 64;

#[derive(Debug)]
struct Slot {
    topic: TopicId,
    partition: i32,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Headers,
    writer: Option<i32>,
}

/// One record to be written, where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputView<'a> {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    pub(crate) record: RecordView<'a>,
    /// Partition of the task that writes it; set on records of repartition topics.
    pub(crate) writer: Option<i32>,
    /// How far the writer has come with this record. One without a writer is nothing but this.
    pub(crate) stamp: Option<Stamp>,
}

/// One record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    /// Event time in milliseconds.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    /// The value; null is a tombstone in compacted topics.
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Headers,
    /// As in [`OutputView`].
    pub(crate) writer: Option<i32>,
    /// As in [`OutputView`].
    pub(crate) stamp: Option<Stamp>,
}

/// Where a record goes and when it happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputTo {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    pub(crate) timestamp: i64,
}

/// Output records in order.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// Stamps by the index of their record, which only grows.
    stamps: Vec<(usize, Stamp)>,
}

impl Outputs {
    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes that they take in memory.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
            + self.slots.len() * size_of::<Slot>()
            + self.stamps.len() * size_of::<(usize, Stamp)>()
    }

    /// The records in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = OutputView<'_>> {
        let bytes = |range: &Option<Range<usize>>| range.clone().and_then(|range| self.bytes.get(range));
        let mut stamps = self.stamps.iter().peekable();
        self.slots.iter().enumerate().map(move |(index, slot)| OutputView {
            topic: slot.topic,
            partition: slot.partition,
            record: RecordView {
                key: bytes(&slot.key),
                value: bytes(&slot.value),
                timestamp: slot.timestamp,
                headers: &slot.headers,
            },
            writer: slot.writer,
            stamp: stamps.next_if(|(of, _)| *of == index).map(|(_, stamp)| *stamp),
        })
    }

    /// The records in order, for who keeps some of them; their bytes stay in the shared buffer.
    pub(crate) fn into_records(self) -> impl Iterator<Item = Output> {
        let bytes = Bytes::from(self.bytes);
        let mut stamps = self.stamps.into_iter().peekable();
        self.slots.into_iter().enumerate().map(move |(index, slot)| Output {
            topic: slot.topic,
            partition: slot.partition,
            timestamp: slot.timestamp,
            key: slot.key.map(|range| bytes.slice(range)),
            value: slot.value.map(|range| bytes.slice(range)),
            headers: slot.headers,
            writer: slot.writer,
            stamp: stamps.next_if(|(of, _)| *of == index).map(|(_, stamp)| stamp),
        })
    }

    /// Where each record goes, and the bytes that its reader keeps of it.
    pub(crate) fn destinations(
        &self,
    ) -> impl DoubleEndedIterator<Item = (TopicId, i32, usize)> + ExactSizeIterator {
        let length = |range: &Option<Range<usize>>| range.as_ref().map_or(0, ExactSizeIterator::len);
        self.slots.iter().map(move |slot| {
            let bytes = length(&slot.key) + length(&slot.value) + RECORD_BYTES;
            (slot.topic, slot.partition, bytes)
        })
    }

    /// Stamps records by their indexes, which must grow; none may have been stamped before.
    pub(crate) fn stamp(&mut self, stamps: Vec<(usize, Stamp)>) {
        debug_assert!(self.stamps.is_empty() && stamps.is_sorted_by(|a, b| a.0 < b.0));
        self.stamps = stamps;
    }

    /// Appends a record that is nothing but a stamp.
    pub(crate) fn push_stamp(&mut self, (topic, partition): (TopicId, i32), stamp: Stamp) {
        self.stamps.push((self.slots.len(), stamp));
        self.push(OutputTo { topic, partition, timestamp: 0 }, None, None, Headers::NONE);
    }

    /// Appends a record whose bytes exist already.
    pub(crate) fn push(&mut self, to: OutputTo, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers) {
        let OutputTo { topic, partition, timestamp } = to;
        let mut copy = |part: &[u8]| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(part);
            start..self.bytes.len()
        };
        let (key, value) = (key.map(&mut copy), value.map(&mut copy));
        self.slots.push(Slot { topic, partition, timestamp, key, value, headers, writer: None });
    }

    /// Appends a record whose key and value encode themselves and return false for a null; `to` says where it goes by
    /// its key. Of a record that cannot be encoded nothing is left.
    pub(crate) fn encode(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>) -> Result<bool, CodecError>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<bool, CodecError>,
        to: impl FnOnce(Option<&[u8]>) -> OutputTo,
        (headers, writer): (Headers, Option<i32>),
    ) -> Result<(), CodecError> {
        let start = self.bytes.len();
        let encode = || {
            let key = key(&mut self.bytes)?.then_some(start..self.bytes.len());
            let middle = self.bytes.len();
            let value = value(&mut self.bytes)?.then_some(middle..self.bytes.len());
            Ok((key, value))
        };
        match encode() {
            Ok((key, value)) => {
                let to = to(key.clone().and_then(|range| self.bytes.get(range)));
                let OutputTo { topic, partition, timestamp } = to;
                self.slots.push(Slot { topic, partition, timestamp, key, value, headers, writer });
                Ok(())
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }
}
