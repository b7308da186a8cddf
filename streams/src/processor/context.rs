//! What processors leave behind: output records, counters, operator clocks and the first failure.
//!
//! Outputs of many records share one byte buffer, so emitting a record allocates nothing. A failure does not
//! unwind the processors; the task looks for it after each record and commits nothing behind it.

use super::{
    Counters, SharedNodes,
    failure::{DeadLetter, FailurePolicy, Fallible},
    stamp::Stamp,
};
use crate::{
    codec::CodecError,
    record::{Headers, Meta},
    store::{Dropped, Stores},
};
use bytes::Bytes;
use kappa_protocol::record::partition_for_key;
use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

/// A topic within one topology: where processors read from and write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) u32);

/// Where an output record came from: the record that was being processed, and which of its outputs this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin {
    /// Topic of the record processed.
    pub(crate) topic: TopicId,
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// Number of this output among those of the record, from 0.
    pub(crate) number: u32,
}

/// A record as it comes from a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordView<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a Headers,
}

/// Why a task cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// An operator could not encode a key or a value.
    #[error("operator {operator:?} cannot encode: {source}")]
    Encode {
        /// The operator's name.
        operator: Arc<str>,
        /// What is wrong with the item.
        source: CodecError,
    },
    /// A row of a store could not be encoded for its changelog, or decoded from it.
    #[error("store {store:?}: {source}")]
    Store {
        /// The store's name.
        store: Arc<str>,
        /// What is wrong with the row.
        source: CodecError,
    },
    /// A record of a topic could not be decoded, and nothing says to go on without it.
    #[error(
        "record of source {operator:?} at {topic}-{partition} offset {offset} cannot be decoded: {source}; on_failure(..) of the source lets the application go on"
    )]
    Decode {
        /// The source's name.
        operator: Arc<str>,
        /// Topic of the record.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A fallible operator has failed for a record, and nothing says to go on without it.
    #[error(
        "operator {operator:?} failed for the record at {topic}-{partition} offset {offset}: {reason}; on_failure(..) before it lets the application go on"
    )]
    Failed {
        /// The operator's name.
        operator: Arc<str>,
        /// Topic of the record that was being processed.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// The error, as it shows itself.
        reason: String,
    },
}

/// What a reader keeps of a record besides key and value, more or less.
const RECORD_BYTES: usize = 64;

#[derive(Debug)]
struct OutputSlot {
    topic: TopicId,
    partition: i32,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Headers,
    origin: Option<Origin>,
}

/// One record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The topic.
    pub(crate) topic: TopicId,
    /// The partition.
    pub(crate) partition: i32,
    /// Event time in milliseconds.
    pub(crate) timestamp: i64,
    /// The key.
    pub(crate) key: Option<Bytes>,
    /// The value; null is a tombstone in compacted topics.
    pub(crate) value: Option<Bytes>,
    /// Headers.
    pub(crate) headers: Headers,
    /// Set on records of repartition topics.
    pub(crate) origin: Option<Origin>,
    /// How far the writer has come with this record. One without an origin is nothing but this.
    pub(crate) stamp: Option<Stamp>,
}

/// Output records in order, with their bytes in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    bytes: Vec<u8>,
    slots: Vec<OutputSlot>,
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
            + self.slots.len() * size_of::<OutputSlot>()
            + self.stamps.len() * size_of::<(usize, Stamp)>()
    }

    /// The records in order; their bytes stay in the shared buffer.
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
            origin: slot.origin,
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
        let (timestamp, headers) = (0, Headers::NONE);
        self.slots.push(OutputSlot {
            topic,
            partition,
            timestamp,
            key: None,
            value: None,
            headers,
            origin: None,
        });
    }

    /// Appends a record whose bytes exist already.
    pub(crate) fn push(
        &mut self,
        (topic, partition): (TopicId, i32),
        key: &[u8],
        value: Option<&[u8]>,
        timestamp: i64,
    ) {
        let key = self.copy(key);
        let value = value.map(|value| self.copy(value));
        let headers = Headers::NONE;
        self.slots.push(OutputSlot {
            topic,
            partition,
            timestamp,
            key: Some(key),
            value,
            headers,
            origin: None,
        });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// What a sink writes besides key and value.
pub(crate) struct OutputHead<'a> {
    pub(crate) topic: TopicId,
    pub(crate) operator: &'a Arc<str>,
    /// Whether the record says where it came from.
    pub(crate) with_origin: bool,
}

/// What processors are given with each record: what their task keeps for all of them, and the arenas of its stores and of
/// its nodes with several parents.
pub(crate) struct Context<'a> {
    pub(crate) stores: &'a Stores,
    pub(super) shared: &'a SharedNodes,
    state: &'a mut ContextState,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        state: &'a mut ContextState,
        stores: &'a Stores,
        shared: &'a SharedNodes,
    ) -> Context<'a> {
        Context { stores, shared, state }
    }

    /// Does what follows from a row, whose event time may be later than that of the record behind it.
    #[inline]
    pub(crate) fn at<R>(&mut self, timestamp: i64, follow: impl FnOnce(&mut Context<'a>) -> R) -> R {
        let before = std::mem::replace(&mut self.timestamp, timestamp);
        let followed = follow(self);
        self.timestamp = before;
        followed
    }
}

impl Deref for Context<'_> {
    type Target = ContextState;

    #[inline]
    fn deref(&self) -> &ContextState {
        self.state
    }
}

impl DerefMut for Context<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut ContextState {
        self.state
    }
}

/// State of one task that its processors share.
pub(crate) struct ContextState {
    pub(crate) counters: Counters,
    pub(crate) outputs: Outputs,
    /// Observed stream time per operator, by the operator's number in this task.
    pub(crate) clocks: Vec<i64>,
    /// Event time of the record that is being processed, or of the row that follows from it.
    pub(crate) timestamp: i64,
    /// Headers of the record that is being processed.
    pub(crate) headers: Headers,
    /// Bytes of the record's key, if they come from a repartition topic.
    key: Vec<u8>,
    has_key: bool,
    partition: i32,
    partition_counts: Arc<[i32]>,
    topic_names: Arc<[Arc<str>]>,
    skip_undecodable: bool,
    origin: Origin,
    failure: Option<ProcessError>,
    /// To be written once the record is processed.
    dead_letters: Vec<DeadLetter>,
}

impl ContextState {
    /// For tasks of `partition`; topics have counts of partitions and full names, by topic id.
    pub(crate) fn new(
        partition: i32,
        (partition_counts, topic_names): (Arc<[i32]>, Arc<[Arc<str>]>),
        skip_undecodable: bool,
    ) -> ContextState {
        ContextState {
            counters: Counters::default(),
            outputs: Outputs::default(),
            clocks: Vec::new(),
            timestamp: 0,
            headers: Headers::NONE,
            key: Vec::new(),
            has_key: false,
            partition,
            partition_counts,
            topic_names,
            skip_undecodable,
            origin: Origin { topic: TopicId(0), partition, offset: -1, number: 0 },
            failure: None,
            dead_letters: Vec::new(),
        }
    }

    /// Begins a record: outputs from now on come from here.
    pub(crate) fn begin(&mut self, topic: TopicId, partition: i32, offset: i64) {
        self.origin = Origin { topic, partition, offset, number: 0 };
        self.counters.records_in += 1;
    }

    /// What stands beside the record that is being processed.
    pub(crate) fn meta(&self) -> Meta<'_> {
        let Origin { topic, partition, offset, .. } = self.origin;
        Meta {
            topic: self.topic_name(topic),
            partition,
            offset,
            timestamp: self.timestamp,
            headers: &self.headers,
        }
    }

    /// What stands beside a record of this task's partition of a topic.
    pub(crate) fn meta_of<'a>(
        &'a self,
        (topic, offset): (TopicId, i64),
        timestamp: i64,
        headers: &'a Headers,
    ) -> Meta<'a> {
        Meta { topic: self.topic_name(topic), partition: self.partition, offset, timestamp, headers }
    }

    fn topic_name(&self, topic: TopicId) -> &Arc<str> {
        self.topic_names.get(topic.0 as usize).expect("topic ids come from this topology")
    }

    /// The time and the headers of what follows are those of this record.
    #[inline]
    pub(crate) fn enter(&mut self, record: RecordView<'_>) {
        self.timestamp = record.timestamp;
        if !(self.headers.is_empty() && record.headers.is_empty()) {
            self.headers = record.headers.clone();
        }
    }

    /// Keeps the bytes of a key for operators that would encode it to the same.
    #[inline]
    pub(crate) fn keep_key(&mut self, key: Option<&[u8]>) {
        self.has_key = key.is_some();
        self.key.clear();
        self.key.extend_from_slice(key.unwrap_or_default());
    }

    /// The bytes kept; `None` for a null.
    #[inline]
    pub(crate) fn kept_key(&self) -> Option<&[u8]> {
        self.has_key.then_some(&self.key[..])
    }

    /// Keeps the first failure; the task stops behind the record being processed.
    pub(crate) fn fail(&mut self, failure: ProcessError) {
        self.failure.get_or_insert(failure);
    }

    /// A record that cannot be decoded is counted, and dealt with as was said of its source.
    pub(crate) fn undecodable(&mut self, at: &Fallible, source: CodecError) {
        self.counters.undecodable += 1;
        self.without(at, source);
    }

    /// Why a record does not become part of a table is counted, and may stop the task.
    pub(crate) fn dropped(&mut self, at: &Fallible, dropped: Dropped) {
        if let Err(source) = self.counters.count(dropped) {
            self.without(at, source);
        }
    }

    /// Goes on without a record that cannot be decoded, or stops.
    #[cold]
    fn without(&mut self, at: &Fallible, source: CodecError) {
        let unsaid = if self.skip_undecodable { FailurePolicy::Skip } else { FailurePolicy::Stop };
        match at.policy.unwrap_or(unsaid) {
            FailurePolicy::Stop => {
                let Origin { topic, partition, offset, .. } = self.origin;
                let (operator, topic) = (Arc::clone(&at.operator), Arc::clone(self.topic_name(topic)));
                self.fail(ProcessError::Decode { operator, topic, partition, offset, source });
            }
            FailurePolicy::Skip => {}
            FailurePolicy::DeadLetter(topic) => self.dead_letter(topic, at, &source),
        }
    }

    /// An operator fails for the record that is being processed.
    #[cold]
    pub(crate) fn failed<E: fmt::Display>(&mut self, at: &Fallible, error: &E) {
        let policy = at.policy.unwrap_or(FailurePolicy::Stop);
        if policy == FailurePolicy::Stop {
            let Origin { topic, partition, offset, .. } = self.origin;
            let (operator, topic) = (Arc::clone(&at.operator), Arc::clone(self.topic_name(topic)));
            let reason = error.to_string();
            return self.fail(ProcessError::Failed { operator, topic, partition, offset, reason });
        }
        self.counters.failed += 1;
        if let FailurePolicy::DeadLetter(topic) = policy {
            self.dead_letter(topic, at, error);
        }
    }

    fn dead_letter<E: fmt::Display>(&mut self, topic: TopicId, at: &Fallible, error: &E) {
        let (operator, exception) = (Arc::clone(&at.operator), std::any::type_name::<E>());
        self.dead_letters.push(DeadLetter { topic, operator, exception, message: error.to_string() });
    }

    /// Ends a record: writes it, as it was read, to where it goes as a dead letter; an error if it stops the task.
    #[inline]
    pub(crate) fn end<'a>(&mut self, record: impl FnOnce() -> RecordView<'a>) -> Result<(), ProcessError> {
        if self.failure.is_none() && self.dead_letters.is_empty() {
            return Ok(());
        }
        self.bury(record())
    }

    #[cold]
    fn bury(&mut self, record: RecordView<'_>) -> Result<(), ProcessError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        for letter in std::mem::take(&mut self.dead_letters) {
            let Origin { topic, offset, .. } = self.origin;
            let (timestamp, to) = (record.timestamp, letter.topic);
            let headers = letter.headers(&self.meta_of((topic, offset), timestamp, record.headers));
            let partition = self.partition_for(to, record.key);
            let key = record.key.map(|key| self.outputs.copy(key));
            let value = record.value.map(|value| self.outputs.copy(value));
            let slot = OutputSlot { topic: to, partition, timestamp, key, value, headers, origin: None };
            self.outputs.slots.push(slot);
            self.counters.dead_letters += 1;
        }
        Ok(())
    }

    /// The partition of a topic that a key belongs to; without a key, as near to that of the task as there is one.
    fn partition_for(&self, topic: TopicId, key: Option<&[u8]>) -> i32 {
        let count = self.partition_counts.get(topic.0 as usize).copied().unwrap_or(1).max(1);
        key.map_or(self.partition % count, |key| partition_for_key(key, count))
    }

    /// Moves an operator's clock forward and returns it.
    pub(crate) fn observe(&mut self, clock: usize, timestamp: i64) -> i64 {
        match self.clocks.get_mut(clock) {
            Some(observed) => {
                *observed = timestamp.max(*observed);
                *observed
            }
            None => timestamp,
        }
    }

    /// Writes a record; `key` and `value` encode themselves into the shared buffer and return false for a null.
    pub(crate) fn emit(
        &mut self,
        head: OutputHead<'_>,
        key: impl FnOnce(&mut Vec<u8>) -> Result<bool, CodecError>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<bool, CodecError>,
    ) {
        let buffer = &mut self.outputs.bytes;
        let start = buffer.len();
        let spans = (|| {
            let key = key(buffer)?.then_some(start..buffer.len());
            let middle = buffer.len();
            let value = value(buffer)?.then_some(middle..buffer.len());
            Ok((key, value))
        })();
        let (key, value) = match spans {
            Ok(spans) => spans,
            Err(source) => {
                self.outputs.bytes.truncate(start);
                return self.fail(ProcessError::Encode { operator: Arc::clone(head.operator), source });
            }
        };
        let partition =
            self.partition_for(head.topic, key.clone().and_then(|range| self.outputs.bytes.get(range)));
        let origin = head.with_origin.then_some(self.origin);
        self.origin.number += 1;
        self.counters.records_out += 1;
        let (topic, timestamp, headers) = (head.topic, self.timestamp, self.headers.clone());
        self.outputs.slots.push(OutputSlot { topic, partition, timestamp, key, value, headers, origin });
    }
}
