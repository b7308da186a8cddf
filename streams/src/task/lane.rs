//! Records in the order in which one writer, or one partition, brings them.

use super::{InputBatch, input::InputRecord};
use std::collections::VecDeque;

/// Buffered records, taken from the front.
#[derive(Debug)]
pub(super) struct Lane {
    batches: VecDeque<InputBatch>,
    /// Index into the first batch.
    at: usize,
    records: usize,
    /// Bytes of the batches, each counted until its last record is taken.
    bytes: usize,
    /// Timestamp and offset of the head record.
    head: Option<(i64, i64)>,
    /// Offset of the last record that came; -1 before the first.
    last: i64,
    /// Leader epoch of the last batch of which all is taken; -1 if unknown.
    pub(super) leader_epoch: i32,
}

impl Lane {
    pub(super) fn new() -> Lane {
        Lane { batches: VecDeque::new(), at: 0, records: 0, bytes: 0, head: None, last: -1, leader_epoch: -1 }
    }

    /// How many records are buffered.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Timestamp and offset of the head record.
    pub(super) fn head(&self) -> Option<(i64, i64)> {
        self.head
    }

    /// Timestamp and offset of the record behind the head.
    pub(super) fn second(&self) -> Option<(i64, i64)> {
        let mut batches = self.batches.iter();
        let first = batches.next()?.records.get(self.at + 1);
        let second = first.or_else(|| batches.next()?.records.first())?;
        Some((second.timestamp, second.offset))
    }

    /// Offset of the last record that came; -1 before the first.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The head record and its batch.
    pub(super) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        let batch = self.batches.front()?;
        Some((batch, batch.records.get(self.at)?))
    }

    /// Keys of the head record and of those behind it in its batch.
    pub(super) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        let batch = self.batches.front();
        let ahead = batch.and_then(|batch| batch.records.get(self.at..)).unwrap_or_default();
        ahead.iter().take(records).filter_map(move |record| batch?.key(record))
    }

    /// Appends a batch that has records.
    pub(super) fn push(&mut self, batch: InputBatch) {
        debug_assert!(!batch.is_empty());
        self.last = batch.records.last().map_or(self.last, |record| record.offset);
        self.records += batch.len();
        self.bytes += batch.size();
        self.batches.push_back(batch);
        if self.head.is_none() {
            self.settle();
        }
    }

    /// Moves past the head record.
    pub(super) fn advance(&mut self) {
        if self.head.is_some() {
            self.records -= 1;
            self.at += 1;
            self.settle();
        }
    }

    /// Finds the head after a change at the front.
    fn settle(&mut self) {
        while let Some(batch) = self.batches.front() {
            if let Some(record) = batch.records.get(self.at) {
                self.head = Some((record.timestamp, record.offset));
                return;
            }
            self.leader_epoch = batch.leader_epoch;
            self.bytes -= batch.size();
            self.batches.pop_front();
            self.at = 0;
        }
        self.head = None;
    }
}
