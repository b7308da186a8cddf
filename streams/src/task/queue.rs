//! The buffered records of one input partition, and what is known of how far it goes.

use super::{InputBatch, Position, Reading, input::InputRecord, lane::Lane, writers::Writers};
use crate::{processor::Frontier, topology::TopicId};

/// The order in which records are taken.
#[derive(Debug)]
enum Order {
    /// That of the log.
    Log(Lane),
    /// That of event time between the tasks that have written them, and of the log for each.
    Writers(Box<Writers>),
}

/// One input partition of a task.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    order: Order,
    /// How far event time has come for others: in the order of the log the greatest timestamp taken, else the least that
    /// may still come; `i64::MIN` at first. Never goes back.
    pub(crate) time: i64,
    /// Offset of the next record to process, in the order of the log.
    next: i64,
    /// Offset to fetch from, behind what is buffered.
    pub(crate) fetch: i64,
    /// Where the task began.
    start: i64,
    /// The offset committed last.
    pub(crate) committed: Option<i64>,
    /// As of these steps.
    committed_steps: u64,
    leader_epoch: i32,
    /// End of the partition as last seen.
    pub(crate) end: Option<i64>,
    /// A replay's pinned end: the partition is finished there.
    pub(crate) pinned_end: Option<i64>,
    /// Since when the queue has been empty at the partition's end.
    at_end_since: Option<i64>,
    /// Whether it has been long enough to hold nobody.
    is_idle: bool,
}

impl Queue {
    /// A partition that is read in the order of its log.
    pub(crate) fn new(start: Position, time: i64) -> Queue {
        Queue {
            topic: start.topic,
            partition: start.partition,
            order: Order::Log(Lane::new()),
            time,
            next: start.offset,
            fetch: start.offset,
            start: start.offset,
            committed: None,
            committed_steps: 0,
            leader_epoch: -1,
            end: None,
            pinned_end: None,
            at_end_since: None,
            is_idle: false,
        }
    }

    /// A partition that so many tasks write, read by writer.
    pub(crate) fn by_writer(start: Position, time: i64, count: usize, reading: Option<Reading>) -> Queue {
        let writers = Writers::new(count, time, start.offset, reading);
        Queue { order: Order::Writers(Box::new(writers)), ..Queue::new(start, time) }
    }

    /// Whether more should be fetched, while so many records and bytes may be buffered.
    pub(crate) fn wants(&self, bound: Option<i64>, records: usize, bytes: usize) -> bool {
        let through = self.pinned_end.is_some_and(|end| self.fetch >= end);
        !through
            && match &self.order {
                Order::Log(lane) => lane.records() < records && lane.bytes() < bytes,
                Order::Writers(writers) => writers.wants(bound, records, bytes),
            }
    }

    /// Timestamp and offset of the record that is next.
    pub(crate) fn head(&self) -> Option<(i64, i64)> {
        match &self.order {
            Order::Log(lane) => lane.head(),
            Order::Writers(writers) => writers.head(),
        }
    }

    /// How far ahead the record that is next is: in the order of the log, as far as any before it.
    pub(crate) fn head_time(&self) -> Option<i64> {
        let (timestamp, _) = self.head()?;
        Some(match self.order {
            Order::Log(_) => timestamp.max(self.time),
            Order::Writers(_) => timestamp,
        })
    }

    /// What may come into this partition before its head and is not there.
    pub(crate) fn missing(&self) -> Frontier {
        match &self.order {
            Order::Log(_) => Frontier::Idle,
            Order::Writers(writers) => writers.least_missing(),
        }
    }

    /// Appends a fetched batch; returns how many records were skipped for a negative timestamp.
    pub(crate) fn push(&mut self, mut batch: InputBatch) -> u64 {
        let (pinned, next, fetch) = (self.pinned(), batch.next_offset, self.fetch);
        self.fetch = fetch.max(next);
        if let Some(end) = &mut self.end {
            *end = (*end).max(self.fetch);
        }
        match &mut self.order {
            Order::Log(lane) => {
                let negative = batch.trim(fetch, pinned);
                let was_empty = lane.head().is_none();
                if !batch.is_empty() {
                    lane.push(batch);
                }
                if was_empty {
                    self.next = lane.head().map_or(self.fetch.min(pinned), |(_, offset)| offset);
                }
                negative
            }
            Order::Writers(writers) if next > fetch => writers.push(batch, fetch),
            Order::Writers(_) => 0,
        }
    }

    fn pinned(&self) -> i64 {
        self.pinned_end.unwrap_or(i64::MAX)
    }

    /// Below `offset` there is nothing to read but what was pushed: control batches, or records that were deleted.
    /// Returns whether the position moves by that.
    pub(crate) fn pass(&mut self, offset: i64) -> bool {
        let (before, fetch) = (self.steps(), self.fetch);
        if offset <= fetch {
            return false;
        }
        self.fetch = offset;
        if let Some(end) = &mut self.end {
            *end = (*end).max(offset);
        }
        let pinned = self.pinned();
        match &mut self.order {
            Order::Log(lane) if lane.head().is_none() => self.next = self.next.max(offset.min(pinned)),
            Order::Log(_) => {}
            Order::Writers(writers) => writers.pass(fetch, offset),
        }
        self.steps() != before
    }

    /// The record that is next and its batch; call [`Queue::advance`] once it is processed.
    pub(crate) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        match &self.order {
            Order::Log(lane) => lane.front(),
            Order::Writers(writers) => writers.front(),
        }
    }

    /// Keys of the record that is next and of those behind it in its batch.
    pub(crate) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        let (lane, writers) = match &self.order {
            Order::Log(lane) => (Some(lane), None),
            Order::Writers(writers) => (None, Some(writers)),
        };
        let in_order = lane.into_iter().flat_map(move |lane| lane.keys_ahead(records));
        in_order.chain(writers.into_iter().flat_map(move |writers| writers.keys_ahead(records)))
    }

    /// Moves past the record that is next.
    pub(crate) fn advance(&mut self) {
        let pinned = self.pinned();
        match &mut self.order {
            Order::Log(lane) => {
                let Some((timestamp, _)) = lane.head() else { return };
                self.time = self.time.max(timestamp);
                let behind = lane.advance();
                self.leader_epoch = lane.leader_epoch;
                self.next = match (lane.head(), behind) {
                    (Some((_, offset)), _) => offset,
                    (None, behind) => behind.unwrap_or(self.next).max(self.fetch).min(pinned),
                };
            }
            Order::Writers(writers) => writers.advance(),
        }
        self.at_end_since = None;
        self.is_idle = false;
    }

    /// Offset of the next record to process: all before it are processed.
    pub(crate) fn position(&self) -> i64 {
        match &self.order {
            Order::Log(_) => self.next,
            Order::Writers(writers) => writers.position(self.fetch),
        }
    }

    /// What is processed of it, if the position alone does not say.
    pub(crate) fn reading(&self) -> Option<Reading> {
        match &self.order {
            Order::Log(_) => None,
            Order::Writers(writers) => Some(writers.reading(self.fetch)),
        }
    }

    /// Another number whenever what is processed has changed.
    pub(crate) fn steps(&self) -> u64 {
        match &self.order {
            Order::Log(_) => self.next as u64,
            Order::Writers(writers) => writers.steps(),
        }
    }

    /// Leader epoch of the last record processed; -1 if unknown.
    pub(crate) fn leader_epoch(&self) -> i32 {
        match &self.order {
            Order::Log(_) => self.leader_epoch,
            Order::Writers(writers) => writers.leader_epoch(),
        }
    }

    /// Bytes of what was processed, of a partition that is read by writer.
    pub(crate) fn taken_bytes(&self) -> usize {
        match &self.order {
            Order::Log(_) => 0,
            Order::Writers(writers) => writers.taken_bytes(),
        }
    }

    /// The offset of a committed position at which the task began.
    pub(crate) fn begin_committed(&mut self) {
        self.committed = Some(self.start);
        self.committed_steps = self.steps();
    }

    /// An offset is committed, as of these steps.
    pub(crate) fn committed(&mut self, offset: i64, steps: u64) {
        self.committed = Some(offset);
        self.committed_steps = steps;
    }

    /// Whether anything is processed that is not committed.
    pub(crate) fn has_uncommitted(&self) -> bool {
        match (&self.order, self.committed) {
            (Order::Log(_), None) => self.next != self.start,
            (Order::Writers(_), None) => self.steps() > 0,
            (_, Some(_)) => self.committed_steps != self.steps(),
        }
    }

    /// Offset behind what is committed, or where the task began if nothing is.
    pub(crate) fn committed_or_start(&self) -> i64 {
        self.committed.unwrap_or(self.start)
    }

    /// Whether the partition has nothing more to give for now and that is known.
    pub(crate) fn at_end(&self) -> bool {
        self.head().is_none() && (self.finished() || self.end.is_some_and(|end| self.fetch >= end))
    }

    /// Whether a replay is through with this partition.
    pub(crate) fn finished(&self) -> bool {
        self.head().is_none() && self.pinned_end.is_some_and(|end| self.position() >= end)
    }

    /// Looks at the clock: at the end long enough, the partition stops holding others. Returns whether that is new.
    pub(crate) fn tick(&mut self, now: i64, idle_ms: i64) -> bool {
        let before = self.is_idle;
        if self.at_end() {
            let since = *self.at_end_since.get_or_insert(now);
            self.is_idle = now.saturating_sub(since) >= idle_ms;
        } else {
            self.at_end_since = None;
            self.is_idle = false;
        }
        self.is_idle && !before
    }

    /// How far the partition has come for others: the time of its head or of what may come instead, else of what was
    /// taken so far.
    pub(crate) fn level(&self) -> Frontier {
        match &self.order {
            Order::Log(_) => match self.head_time() {
                Some(time) => Frontier::At(time),
                None if self.finished() => Frontier::Idle,
                None if self.is_idle && self.pinned_end.is_none() && self.at_end() => Frontier::Idle,
                None => Frontier::At(self.time),
            },
            Order::Writers(writers) => match writers.least() {
                Frontier::Idle if self.at_end() => Frontier::Idle,
                Frontier::Idle => Frontier::At(self.time),
                least => least,
            },
        }
    }

    /// The least event time that the partition may still bring.
    pub(crate) fn promise(&mut self, bound: Option<i64>) -> Frontier {
        self.note_time(bound);
        match &self.order {
            Order::Log(_) => self.level(),
            Order::Writers(writers) if writers.promise(bound) == Frontier::Idle && self.at_end() => {
                Frontier::Idle
            }
            Order::Writers(_) => Frontier::At(self.time),
        }
    }

    /// Notes how far a partition that is read by writer has come.
    pub(crate) fn note_time(&mut self, bound: Option<i64>) {
        if let Order::Writers(writers) = &self.order
            && let Frontier::At(time) = writers.promise(bound)
        {
            self.time = self.time.max(time);
        }
    }

    /// Bytes that are kept, by the writer that has most of them.
    #[cfg(test)]
    pub(crate) fn most_bytes(&self) -> usize {
        match &self.order {
            Order::Log(_) => 0,
            Order::Writers(writers) => writers.most_bytes(),
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
        let mut queue = Queue::new(start, i64::MIN);
        queue.end = Some(3);
        let mut batch = InputBatchBuilder::new(0);
        batch.push(10, None, None, Headers::NONE);
        batch.push(11, None, None, Headers::NONE);
        queue.push(batch.finish());
        assert!(!queue.pass(3), "records come first");
        queue.advance();
        assert!(!queue.at_end());
        queue.advance();
        assert!(queue.at_end() && queue.position() == 3);
        queue.end = Some(4);
        assert!(!queue.at_end() && queue.pass(4) && queue.at_end() && !queue.pass(4));
        assert_eq!(queue.position(), 4);
    }
}
