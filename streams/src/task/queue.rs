//! The buffered records of one input partition, and what is known of how far it goes.

use super::{InputBatch, Level, Position, input::InputRecord};
use crate::topology::TopicId;
use std::collections::VecDeque;

/// One input partition of a task.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    /// Whether the topic is written by this application.
    pub(crate) internal: bool,
    batches: VecDeque<InputBatch>,
    /// Index into the first batch.
    at: usize,
    buffered: usize,
    /// Bytes of the batches, each counted until its last record is taken.
    bytes: usize,
    /// Timestamp of the head record.
    head: Option<i64>,
    /// Greatest timestamp taken so far; `i64::MIN` at first.
    pub(crate) time: i64,
    /// Offset of the next record to process.
    pub(crate) next: i64,
    /// Offset to fetch from, behind what is buffered.
    pub(crate) fetch: i64,
    /// Where the task began.
    start: i64,
    /// `next` as last committed.
    pub(crate) committed: Option<i64>,
    pub(crate) leader_epoch: i32,
    /// End of the partition as last seen.
    pub(crate) end: Option<i64>,
    /// A replay's pinned end: the partition is finished there.
    pub(crate) pinned_end: Option<i64>,
    /// Since when the queue has been empty at the partition's end.
    at_end_since: Option<i64>,
    /// Outputs not yet acknowledged: number of the last output, and the partition's time when it was made.
    in_flight: VecDeque<(u64, i64)>,
}

impl Queue {
    pub(crate) fn new(start: Position, internal: bool) -> Queue {
        Queue {
            topic: start.topic,
            partition: start.partition,
            internal,
            batches: VecDeque::new(),
            at: 0,
            buffered: 0,
            bytes: 0,
            head: None,
            time: i64::MIN,
            next: start.offset,
            fetch: start.offset,
            start: start.offset,
            committed: None,
            leader_epoch: -1,
            end: None,
            pinned_end: None,
            at_end_since: None,
            in_flight: VecDeque::new(),
        }
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Timestamp and offset of the head record.
    pub(crate) fn head(&self) -> Option<(i64, i64)> {
        self.head.map(|timestamp| (timestamp, self.next))
    }

    /// Greatest timestamp once the head will have been taken.
    pub(crate) fn head_time(&self) -> Option<i64> {
        self.head.map(|timestamp| timestamp.max(self.time))
    }

    /// Appends a fetched batch; returns how many records were skipped for a negative timestamp.
    pub(crate) fn push(&mut self, mut batch: InputBatch) -> u64 {
        let pinned = self.pinned_end.unwrap_or(i64::MAX);
        let negative = batch.trim(self.fetch, pinned);
        self.fetch = self.fetch.max(batch.next_offset);
        if let Some(end) = &mut self.end {
            *end = (*end).max(self.fetch);
        }
        if !batch.is_empty() {
            self.buffered += batch.len();
            self.bytes += batch.size();
            self.batches.push_back(batch);
            self.settle();
        } else if self.batches.is_empty() {
            self.next = self.fetch.min(pinned);
        }
        negative
    }

    /// Below `offset` there is nothing to read but what was pushed: control batches, or records that were deleted.
    /// Returns whether the position moves by that.
    pub(crate) fn pass(&mut self, offset: i64) -> bool {
        if offset <= self.fetch {
            return false;
        }
        self.fetch = offset;
        if let Some(end) = &mut self.end {
            *end = (*end).max(offset);
        }
        let before = self.next;
        if self.batches.is_empty() {
            self.next = self.next.max(offset.min(self.pinned_end.unwrap_or(i64::MAX)));
        }
        self.next != before
    }

    /// Finds the head after a change at the front.
    fn settle(&mut self) {
        while let Some(batch) = self.batches.front() {
            if let Some(record) = batch.records.get(self.at) {
                self.head = Some(record.timestamp);
                self.next = record.offset;
                return;
            }
            self.leader_epoch = batch.leader_epoch;
            self.bytes -= batch.size();
            self.next = batch.next_offset.min(self.pinned_end.unwrap_or(i64::MAX));
            self.batches.pop_front();
            self.at = 0;
        }
        self.head = None;
        self.next = self.next.max(self.fetch.min(self.pinned_end.unwrap_or(i64::MAX)));
    }

    /// The head record and its batch; call [`Queue::advance`] once it is processed.
    pub(crate) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        let batch = self.batches.front()?;
        Some((batch, batch.records.get(self.at)?))
    }

    /// Keys of the head record and of those behind it in its batch.
    pub(crate) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        let batch = self.batches.front();
        let ahead = batch.and_then(|batch| batch.records.get(self.at..)).unwrap_or_default();
        ahead.iter().take(records).filter_map(move |record| batch?.key(record))
    }

    /// Moves past the head record.
    pub(crate) fn advance(&mut self) {
        if let Some(timestamp) = self.head {
            self.time = self.time.max(timestamp);
            self.buffered -= 1;
            self.at += 1;
            self.at_end_since = None;
            self.settle();
        }
    }

    /// Notes that the record just taken has outputs up to number `last`.
    pub(crate) fn sent(&mut self, last: u64) {
        match self.in_flight.back_mut() {
            Some((sent, time)) if *time == self.time => *sent = last,
            _ => self.in_flight.push_back((last, self.time)),
        }
    }

    /// Outputs up to number `last` have been acknowledged.
    pub(crate) fn acknowledged(&mut self, last: u64) {
        while self.in_flight.front().is_some_and(|(sent, _)| *sent <= last) {
            self.in_flight.pop_front();
        }
    }

    /// Offset behind what is committed, or where the task began if nothing is.
    pub(crate) fn committed_or_start(&self) -> i64 {
        self.committed.unwrap_or(self.start)
    }

    /// Whether the partition has nothing more to give for now and that is known.
    pub(crate) fn at_end(&self) -> bool {
        self.head.is_none() && (self.finished() || self.end.is_some_and(|end| self.fetch >= end))
    }

    /// Whether a replay is through with this partition.
    pub(crate) fn finished(&self) -> bool {
        self.head.is_none() && self.pinned_end.is_some_and(|end| self.next >= end)
    }

    /// Looks at the clock: at the end long enough, the partition stops holding others.
    pub(crate) fn tick(&mut self, now: i64) {
        if self.at_end() {
            self.at_end_since.get_or_insert(now);
        } else {
            self.at_end_since = None;
        }
    }

    /// How far the partition has come for others: the time of the oldest record whose outputs are not
    /// acknowledged, else of the head, else of what was taken so far. `fed` tells whether anything may still be
    /// written to an internal topic.
    pub(crate) fn level(&self, now: i64, idle_ms: i64, fed: impl FnOnce() -> bool) -> Level {
        if let Some((_, time)) = self.in_flight.front() {
            return Level::At(*time);
        }
        if let Some(time) = self.head_time() {
            return Level::At(time);
        }
        if self.finished() {
            return Level::Released;
        }
        let idle = self.at_end_since.is_some_and(|since| now.saturating_sub(since) >= idle_ms);
        if self.pinned_end.is_some() || !self.at_end() {
            return Level::At(self.time);
        }
        match (self.internal && fed(), idle) {
            (true, _) => Level::Behind(self.time),
            (false, true) => Level::Released,
            (false, false) => Level::At(self.time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::InputBatchBuilder, *};
    use crate::record::Headers;

    #[test]
    fn a_partition_that_ends_in_what_has_no_records_comes_to_its_end() {
        let start = Position { topic: TopicId(0), partition: 0, offset: 0 };
        let mut queue = Queue::new(start, false);
        queue.end = Some(3);
        let mut batch = InputBatchBuilder::new(0);
        batch.push(10, None, None, Headers::NONE);
        batch.push(11, None, None, Headers::NONE);
        queue.push(batch.finish());
        assert!(!queue.pass(3), "records come first");
        queue.advance();
        assert!(!queue.at_end());
        queue.advance();
        assert!(queue.at_end() && queue.next == 3);
        queue.end = Some(4);
        assert!(!queue.at_end() && queue.pass(4) && queue.at_end() && !queue.pass(4));
        assert_eq!(queue.next, 4);
    }
}
