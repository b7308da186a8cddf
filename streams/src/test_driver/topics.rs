//! Topics in memory, for the test driver.

use crate::{
    processor::{Output, Stamp},
    record::Headers,
    task::{InputBatch, InputBatchBuilder},
    topology::TopicId,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Records of a batch delivered at once.
const BATCH_RECORDS_MAX: usize = 4096;

#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Headers,
    /// Partition of the task that has written it, and how far that says that it has come.
    pub(crate) writer: (Option<i32>, Option<Stamp>),
}

impl Logged {
    /// A record from outside.
    pub(crate) fn new(timestamp: i64, key: Option<Bytes>, value: Option<Bytes>, headers: Headers) -> Logged {
        Logged { timestamp, key, value, headers, writer: (None, None) }
    }
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<Logged>,
    /// Records that the driver's user has taken out with a typed reader.
    read: usize,
    /// Fetches bring nothing, though records are there.
    stalled: bool,
}

/// All partitions of all topics.
#[derive(Debug, Default)]
pub(crate) struct Topics(BTreeMap<(TopicId, i32), Log>);

impl Topics {
    pub(crate) fn append(&mut self, topic: TopicId, partition: i32, record: Logged) {
        self.0.entry((topic, partition)).or_default().records.push(record);
    }

    pub(crate) fn write(&mut self, output: Output) {
        let Output { topic, partition, timestamp, key, value, headers, writer, stamp } = output;
        self.append(topic, partition, Logged { timestamp, key, value, headers, writer: (writer, stamp) });
    }

    pub(crate) fn end(&self, topic: TopicId, partition: i32) -> i64 {
        self.0.get(&(topic, partition)).map_or(0, |log| log.records.len() as i64)
    }

    pub(crate) fn stall(&mut self, topic: TopicId, partition: i32, stalled: bool) {
        self.0.entry((topic, partition)).or_default().stalled = stalled;
    }

    /// A fetch from `offset`, below `end`; `None` if nothing is there or the partition is stalled.
    pub(crate) fn fetch(&self, topic: TopicId, partition: i32, offset: i64, end: i64) -> Option<InputBatch> {
        let log = self.0.get(&(topic, partition)).filter(|log| !log.stalled)?;
        let (from, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?.min(log.records.len()));
        let end = end.min(from.saturating_add(BATCH_RECORDS_MAX));
        let records = log.records.get(from..end).filter(|records| !records.is_empty())?;
        let mut batch = InputBatchBuilder::new(offset);
        for record in records {
            let bytes = (record.key.as_deref(), record.value.as_deref());
            batch.push_from(record.writer, record.timestamp, bytes, record.headers.clone());
        }
        Some(batch.finish())
    }

    /// Records of a topic not yet read, by partition.
    pub(crate) fn drain(&mut self, topic: TopicId) -> Vec<(i32, Logged)> {
        let mut records = Vec::new();
        for ((_, partition), log) in self.0.range_mut((topic, i32::MIN)..=(topic, i32::MAX)) {
            let fresh = log.records.get(log.read..).unwrap_or_default();
            records.extend(fresh.iter().map(|record| (*partition, record.clone())));
            log.read = log.records.len();
        }
        records
    }

    /// All records of a topic, by partition.
    #[cfg(test)]
    pub(crate) fn all(&self, topic: TopicId) -> Vec<(i32, Logged)> {
        let logs = self.0.range((topic, i32::MIN)..=(topic, i32::MAX));
        logs.flat_map(|((_, at), log)| log.records.iter().map(|record| (*at, record.clone()))).collect()
    }

    pub(crate) fn clear(&mut self, topic: TopicId) {
        self.0.retain(|(of, _), _| *of != topic);
    }
}
