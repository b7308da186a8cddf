//! Batches of records on their way into a task.
//!
//! The bytes of a batch stay where they are; per record only positions are noted. What repartition records say of
//! their writers is taken off here, so operators see the headers the user wrote.
//!
//! Writer header, `kappa-w`: the partition of the task that wrote the record, big endian, without leading zero bytes.
//! Frontier header, `kappa-frontier`: a [`Stamp`]; a record that has it and no writer is nothing else.

use crate::{
    processor::{ContextState, RecordView, Source, Stamp},
    record::{Header, Headers},
    topology::TopicId,
};
use bytes::Bytes;
use kappa_protocol::record::{DecodedBatch, RecordError};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Name of the header by which records of repartition topics tell who wrote them. It stands in every such record.
pub const WRITER_HEADER: &str = "kappa-w";

/// Name of the header by which writers of repartition topics tell how far they have come.
pub const FRONTIER_HEADER: &str = "kappa-frontier";

/// Bytes of the smallest record there can be: the header's count alone must not size an allocation.
const RECORD_LEN_MIN: usize = 7;

/// The value of the writer header; only as much of `bytes` as is needed.
pub(crate) fn writer_header(bytes: &[u8; 4]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Reads what [`writer_header`] wrote; `None` if it is something else.
fn writer_of(value: &[u8]) -> Option<i32> {
    let mut bytes = [0; 4];
    let start = bytes.len().checked_sub(value.len())?;
    bytes.get_mut(start..)?.copy_from_slice(value);
    Some(i32::from_be_bytes(bytes))
}

/// Number of a writer among those of a topic: its partition and one, or 0 for whoever does not say who it is.
pub(crate) fn lane_of(writer: Option<i32>) -> u32 {
    writer.and_then(|partition| u32::try_from(partition).ok()).map_or(0, |partition| partition + 1)
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
    /// Who wrote each record, if that was read.
    lanes: Vec<u32>,
    /// Stamps with the offsets of their records.
    pub(crate) stamps: Vec<(i64, Stamp)>,
}

impl InputBatch {
    /// Notes the records of a fetched batch; nothing is copied. Control batches have no records for a task.
    pub fn from_decoded(batch: &DecodedBatch) -> Result<InputBatch, RecordError> {
        InputBatch::read(batch, false)
    }

    /// The same for a repartition topic: notes who wrote what, and how far the writers have come.
    pub(crate) fn from_repartition(batch: &DecodedBatch) -> Result<InputBatch, RecordError> {
        InputBatch::read(batch, true)
    }

    fn read(batch: &DecodedBatch, is_repartition: bool) -> Result<InputBatch, RecordError> {
        let base = batch.bytes().as_ptr() as usize;
        let span = |part: Option<&[u8]>| match part {
            None => Span::NULL,
            Some([]) => Span::new(0, 0),
            Some(part) => Span::new(part.as_ptr() as usize - base, part.len()),
        };
        let header = batch.header();
        let most = batch.count().min(batch.bytes().len() / RECORD_LEN_MIN);
        let most = if header.is_control() { 0 } else { most };
        let own = |key: &[u8], value: Option<&[u8]>| Header {
            key: Arc::from(String::from_utf8_lossy(key)),
            value: value.map(|value| batch.slice(value)),
        };
        let mut records = Vec::with_capacity(most);
        let (mut lanes, mut stamps) = (Vec::with_capacity(if is_repartition { most } else { 0 }), Vec::new());
        for record in batch.records().take(if header.is_control() { 0 } else { usize::MAX }) {
            let record = record?;
            let headers = match (record.headers.is_empty(), is_repartition) {
                (true, false) => Headers::NONE,
                (false, false) => record.headers.raw().map(|(key, value)| own(key, value)).collect(),
                (_, true) => {
                    let (mut writer, mut stamp, mut others) = (None, None, Vec::new());
                    for (key, value) in record.headers.raw() {
                        match value {
                            Some(value) if key == WRITER_HEADER.as_bytes() => writer = writer_of(value),
                            Some(value) if key == FRONTIER_HEADER.as_bytes() => stamp = Stamp::decode(value),
                            value => others.push(own(key, value)),
                        }
                    }
                    stamps.extend(stamp.map(|stamp| (record.offset, stamp)));
                    if stamp.is_some() && writer.is_none() {
                        continue;
                    }
                    lanes.push(lane_of(writer));
                    others.into_iter().collect()
                }
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
        Ok(InputBatch { bytes: batch.bytes().clone(), records, next_offset, leader_epoch, lanes, stamps })
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

    /// The same of one of its records, if that was alone.
    pub(crate) fn size_of(&self, record: &InputRecord) -> usize {
        let bytes = self.key(record).map_or(0, <[u8]>::len) + self.value(record).map_or(0, <[u8]>::len);
        bytes + size_of::<InputRecord>()
    }

    /// One of its records, with bytes of its own.
    pub(crate) fn only(&self, record: &InputRecord) -> InputBatch {
        let mut own = InputBatchBuilder::new(record.offset);
        own.push(record.timestamp, self.key(record), self.value(record), record.headers.clone());
        InputBatch { leader_epoch: self.leader_epoch, ..own.finish() }
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
    pub(crate) fn take_times(
        &mut self,
        cx: &ContextState,
        topic: TopicId,
        sources: &[(TopicId, Box<dyn Source>)],
    ) {
        let times =
            sources.iter().filter(|(of, _)| *of == topic).find_map(|(_, source)| source.event_times());
        let Some(times) = times else { return };
        for record in &mut self.records {
            let meta = cx.meta_of((topic, record.offset), record.timestamp, &record.headers);
            record.timestamp = times.time(&meta, record.key.of(&self.bytes), record.value.of(&self.bytes));
        }
    }

    /// The records by who wrote them, in log order for each; only those that are wanted, by writer and offset. Where
    /// several have written, each has bytes of its own, so that a record that waits keeps no others.
    pub(crate) fn by_writer(
        mut self,
        mut wanted: impl FnMut(u32, &InputRecord) -> bool,
    ) -> Vec<(u32, InputBatch)> {
        let lanes = std::mem::take(&mut self.lanes);
        let lane = |at: usize| lanes.get(at).copied().unwrap_or(0);
        if lanes.iter().all(|other| *other == lane(0)) {
            self.records.retain(|record| wanted(lane(0), record));
            return if self.records.is_empty() { Vec::new() } else { vec![(lane(0), self)] };
        }
        let mut parts: BTreeMap<u32, InputBatchBuilder> = BTreeMap::new();
        for (at, record) in self.records.iter().enumerate().filter(|(at, record)| wanted(lane(*at), record)) {
            let part = parts.entry(lane(at)).or_insert_with(|| InputBatchBuilder::new(record.offset));
            part.next_offset = record.offset;
            part.push(record.timestamp, self.key(record), self.value(record), record.headers.clone());
        }
        let (next_offset, leader_epoch) = (self.next_offset, self.leader_epoch);
        let part = |(lane, part): (u32, InputBatchBuilder)| {
            (lane, InputBatch { next_offset, leader_epoch, ..part.finish() })
        };
        parts.into_iter().map(part).collect()
    }

    /// Only what stands at these offsets.
    pub(crate) fn within(mut self, offsets: Range<i64>) -> InputBatch {
        let mut records = self.records.iter();
        self.lanes.retain(|_| records.next().is_some_and(|record| offsets.contains(&record.offset)));
        self.records.retain(|record| offsets.contains(&record.offset));
        self.stamps.retain(|(offset, _)| offsets.contains(offset));
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
    lanes: Vec<u32>,
    stamps: Vec<(i64, Stamp)>,
    next_offset: i64,
}

impl InputBatchBuilder {
    /// A batch whose first record has offset `base_offset`.
    pub fn new(base_offset: i64) -> InputBatchBuilder {
        InputBatchBuilder {
            bytes: Vec::new(),
            records: Vec::new(),
            lanes: Vec::new(),
            stamps: Vec::new(),
            next_offset: base_offset,
        }
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

    /// Appends a record of a repartition topic.
    pub(crate) fn push_from(
        &mut self,
        (writer, stamp): (Option<i32>, Option<Stamp>),
        timestamp: i64,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        headers: Headers,
    ) {
        self.stamps.extend(stamp.map(|stamp| (self.next_offset, stamp)));
        if stamp.is_some() && writer.is_none() {
            self.next_offset += 1;
            return;
        }
        self.lanes.push(lane_of(writer));
        self.push(timestamp, key, value, headers);
    }

    /// The batch.
    pub fn finish(self) -> InputBatch {
        let Self { bytes, records, lanes, stamps, next_offset } = self;
        InputBatch { bytes: Bytes::from(bytes), records, next_offset, leader_epoch: -1, lanes, stamps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::record::{BatchBuilder, BatchOptions};

    #[test]
    fn a_decoded_batch_keeps_headers() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let headers = [("trace", Some(b"abc".as_slice()))];
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

    #[test]
    fn a_writer_reads_as_it_was_written_in_as_few_bytes_as_it_takes() {
        for (writer, length) in [(0, 0), (1, 1), (255, 1), (256, 2), (70_000, 3), (i32::MAX, 4)] {
            let bytes = i32::to_be_bytes(writer);
            let value = writer_header(&bytes);
            assert_eq!((value.len(), writer_of(value)), (length, Some(writer)));
        }
        assert_eq!(writer_of(&[0; 5]), None);
    }

    #[test]
    fn records_of_a_repartition_topic_are_told_apart_by_writer_and_stamps_are_none() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let (first, second) = (&[3][..], &[][..]);
        let stamp = |writer, time| Stamp { writer, frontier: crate::processor::Frontier::At(time) };
        let (with, alone) = (stamp(3, 70).encode(), stamp(1, 90).encode());
        builder.push(7, Some(b"a"), Some(b"1"), [(WRITER_HEADER, Some(first))]);
        builder.push(8, Some(b"b"), Some(b"2"), [(WRITER_HEADER, Some(second))]);
        builder.push(0, None, None, [(FRONTIER_HEADER, Some(&alone[..]))]);
        let headers = [(WRITER_HEADER, Some(first)), (FRONTIER_HEADER, Some(&with[..])), ("own", None)];
        builder.push(9, Some(b"c"), None, headers);
        let decoded = DecodedBatch::decode(builder.finish(100), 1 << 20).unwrap();
        let batch = InputBatch::from_repartition(&decoded).unwrap();
        assert_eq!(batch.stamps, [(102, stamp(1, 90)), (103, stamp(3, 70))]);
        let parts = batch.by_writer(|_, record| record.offset != 100);
        let told = parts.iter().map(|(lane, part)| {
            let record = &part.records[0];
            (*lane, part.len(), record.offset, record.timestamp, part.key(record), part.value(record))
        });
        let expected =
            [(1, 1, 101, 8, Some(&b"b"[..]), Some(&b"2"[..])), (4, 1, 103, 9, Some(&b"c"[..]), None)];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(parts[1].1.records[0].headers.iter().count(), 1, "what the user wrote");
        let behind = InputBatch::from_repartition(&decoded).unwrap().within(101..i64::MAX);
        let told: Vec<_> =
            behind.by_writer(|_, _| true).iter().map(|(lane, part)| (*lane, part.len())).collect();
        assert_eq!(told, [(1, 1), (4, 1)], "each record stays with its writer");
        let outside = InputBatch::from_decoded(&decoded).unwrap();
        assert_eq!((outside.len(), outside.stamps.len()), (4, 0), "elsewhere it is a header like any other");
    }
}
