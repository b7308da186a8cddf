//! What processors leave behind: output records, counters, operator clocks and the first failure.
//!
//! A failure does not unwind the processors; the task looks for it after each record and commits nothing behind it.

use super::{
    Counters, SharedNodes,
    failure::{DeadLetter, FailurePolicy, Fallible},
    outputs::{OutputTo, Outputs},
};
use crate::{
    codec::CodecError,
    record::{Headers, Meta},
    store::{Dropped, Stores},
};
use kappa_protocol::record::partition_for_key;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// A topic within one topology: where processors read from and write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub(crate) u32);

/// The record that is being processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Origin {
    topic: TopicId,
    partition: i32,
    offset: i64,
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

/// What a sink writes besides key and value.
pub(crate) struct OutputHead<'a> {
    pub(crate) topic: TopicId,
    pub(crate) operator: &'a Arc<str>,
    /// Whether the record says who wrote it.
    pub(crate) with_writer: bool,
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
            origin: Origin { topic: TopicId(0), partition, offset: -1 },
            failure: None,
            dead_letters: Vec::new(),
        }
    }

    /// Begins a record: outputs from now on come from here.
    pub(crate) fn begin(&mut self, topic: TopicId, partition: i32, offset: i64) {
        self.origin = Origin { topic, partition, offset };
        self.counters.records_in += 1;
    }

    /// What stands beside the record that is being processed.
    pub(crate) fn meta(&self) -> Meta<'_> {
        let Origin { topic, partition, offset } = self.origin;
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
                let Origin { topic, partition, offset } = self.origin;
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
            let Origin { topic, partition, offset } = self.origin;
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
            let partition = partition_of((&self.partition_counts, self.partition), to, record.key);
            let to = OutputTo { topic: to, partition, timestamp };
            self.outputs.push(to, record.key, record.value, headers);
            self.counters.dead_letters += 1;
        }
        Ok(())
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
        let (topic, timestamp) = (head.topic, self.timestamp);
        let counts = (&*self.partition_counts, self.partition);
        let to =
            |key: Option<&[u8]>| OutputTo { topic, partition: partition_of(counts, topic, key), timestamp };
        let writer = head.with_writer.then_some(self.partition);
        match self.outputs.encode(key, value, to, (self.headers.clone(), writer)) {
            Ok(()) => self.counters.records_out += 1,
            Err(source) => self.fail(ProcessError::Encode { operator: Arc::clone(head.operator), source }),
        }
    }
}

/// The partition of a topic that a key belongs to; without a key, as near to that of the task as there is one.
fn partition_of((counts, own): (&[i32], i32), topic: TopicId, key: Option<&[u8]>) -> i32 {
    let count = counts.get(topic.0 as usize).copied().unwrap_or(1).max(1);
    key.map_or(own % count, |key| partition_for_key(key, count))
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
