//! The buffered records of one input partition, and what is known of how far it goes.

use super::{
    InputBatch, Position, Processed, Reading, Unread, in_order::InOrder, input::InputRecord, writers::Writers,
};
use crate::{processor::Frontier, topology::TopicId};

/// How often a partition is looked at, at least, until it counts as idle.
const LOOKS_MIN: i64 = 4;

/// The order in which records are taken.
#[derive(Debug)]
enum Order {
    /// That of the log, but for what is put aside.
    Log(Box<InOrder>),
    /// That of event time between the tasks that have written them, and of the log for each.
    Writers(Box<Writers>),
}

/// One input partition of a task.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    order: Order,
    /// How far event time has come for others: in the order of the log what is sure of it, else the least that may still
    /// come; `i64::MIN` at first. Never goes back.
    pub(crate) time: i64,
    /// Offset to fetch from, behind what is buffered.
    pub(crate) fetch: i64,
    /// Where the task began.
    start: i64,
    /// The offset committed last.
    pub(crate) committed: Option<i64>,
    /// As of these steps.
    committed_steps: u64,
    /// End of the partition as last seen.
    pub(crate) end: Option<i64>,
    /// A replay's pinned end: the partition is finished there.
    pub(crate) pinned_end: Option<i64>,
    /// For how long the partition has been seen to bring nothing, and when it was looked at last, in milliseconds.
    quiet: Option<(i64, i64)>,
    /// Whether it has been long enough to hold nobody.
    is_idle: bool,
}

impl Queue {
    /// A partition that is read in the order of its log, but for records that are out of their time by more than the bound.
    pub(crate) fn in_order(start: Position, time: i64, bound: Option<i64>, unread: Option<Unread>) -> Queue {
        let unread = unread.unwrap_or(Unread { from: start.offset, aside: Vec::new() });
        Queue::new(start, time, Order::Log(Box::new(InOrder::new(unread, bound))))
    }

    /// A partition that so many tasks write, read by writer.
    pub(crate) fn by_writer(start: Position, time: i64, count: usize, reading: Option<Reading>) -> Queue {
        let writers = Writers::new(count, time, start.offset, reading);
        Queue::new(start, time, Order::Writers(Box::new(writers)))
    }

    fn new(start: Position, time: i64, order: Order) -> Queue {
        Queue {
            topic: start.topic,
            partition: start.partition,
            order,
            time,
            fetch: start.offset,
            start: start.offset,
            committed: None,
            committed_steps: 0,
            end: None,
            pinned_end: None,
            quiet: None,
            is_idle: false,
        }
    }

    /// Whether more should be fetched, while so many records and bytes may be buffered.
    pub(crate) fn wants(&self, bound: Option<i64>, records: usize, bytes: usize) -> bool {
        !self.is_through()
            && match &self.order {
                Order::Log(order) => {
                    let has = order.buffered();
                    has.0 < records && has.1 < bytes || order.reach(self.time).is_none()
                }
                Order::Writers(writers) => writers.wants(bound, records, bytes),
            }
    }

    /// Timestamp and offset of the record that is next.
    pub(crate) fn head(&self) -> Option<(i64, i64)> {
        match &self.order {
            Order::Log(order) => order.head(),
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

    /// Whether records have to come before anything else may be taken.
    pub(crate) fn is_starved(&self) -> bool {
        let is_empty = match &self.order {
            Order::Log(order) => order.reach(self.time).is_none(),
            Order::Writers(_) => self.head().is_none(),
        };
        is_empty && !self.is_read()
    }

    /// How many records have been put aside.
    pub(crate) fn put_aside(&self) -> u64 {
        match &self.order {
            Order::Log(order) => order.put_aside(),
            Order::Writers(_) => 0,
        }
    }

    /// Whether records are put aside since they are far ahead.
    pub(crate) fn has_aside(&self) -> bool {
        matches!(&self.order, Order::Log(order) if order.has_aside())
    }

    /// Whether records are there that are not put aside.
    pub(crate) fn is_buffered(&self) -> bool {
        match &self.order {
            Order::Log(order) => !order.is_empty(),
            Order::Writers(writers) => writers.head().is_some(),
        }
    }

    /// What may come into this partition before its head and is not there.
    pub(crate) fn missing(&self) -> Frontier {
        match &self.order {
            Order::Log(order) => match order.reach(self.time) {
                None if !self.is_released() => Frontier::At(self.time),
                _ => Frontier::Idle,
            },
            Order::Writers(writers) => writers.least_missing(),
        }
    }

    /// Appends a fetched batch; returns how many records were skipped for a negative timestamp.
    pub(crate) fn push(&mut self, batch: InputBatch) -> u64 {
        let (pinned, next, fetch) = (self.pinned(), batch.next_offset, self.fetch);
        self.fetch = fetch.max(next);
        if let Some(end) = &mut self.end {
            *end = (*end).max(self.fetch);
        }
        match &mut self.order {
            Order::Log(order) => {
                let end = self.fetch.min(pinned);
                order.push(batch, (fetch, end, pinned), &mut self.time)
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
            Order::Log(order) => order.pass(offset.min(pinned)),
            Order::Writers(writers) => writers.pass(fetch, offset),
        }
        self.steps() != before
    }

    /// The record that is next and its batch; call [`Queue::advance`] once it is processed.
    pub(crate) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        match &self.order {
            Order::Log(order) => order.front(),
            Order::Writers(writers) => writers.front(),
        }
    }

    /// Keys of the record that is next and of those behind it in its batch.
    pub(crate) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        let (in_order, writers) = match &self.order {
            Order::Log(order) => (Some(order), None),
            Order::Writers(writers) => (None, Some(writers)),
        };
        let in_order = in_order.into_iter().flat_map(move |order| order.keys_ahead(records));
        in_order.chain(writers.into_iter().flat_map(move |writers| writers.keys_ahead(records)))
    }

    /// Moves past the record that is next. Returns its time.
    pub(crate) fn advance(&mut self) -> i64 {
        let taken = self.head().map_or(i64::MIN, |(timestamp, _)| timestamp);
        let end = self.fetch.min(self.pinned());
        match &mut self.order {
            Order::Log(order) => {
                let was_aside = order.is_aside_next();
                self.time = order.advance(self.time, end);
                if was_aside {
                    return taken;
                }
            }
            Order::Writers(writers) => writers.advance(),
        }
        self.quiet = None;
        self.is_idle = false;
        taken
    }

    /// Offset of the next record to process: all before it are processed.
    pub(crate) fn position(&self) -> i64 {
        match &self.order {
            Order::Log(order) => order.position(),
            Order::Writers(writers) => writers.position(self.fetch),
        }
    }

    /// What is processed of it.
    pub(crate) fn processed(&self) -> Processed {
        match &self.order {
            Order::Log(order) => Processed::InOrder(order.unread()),
            Order::Writers(writers) => Processed::ByWriter(writers.reading(self.fetch)),
        }
    }

    /// Another number whenever what is processed has changed.
    pub(crate) fn steps(&self) -> u64 {
        match &self.order {
            Order::Log(order) => order.steps(),
            Order::Writers(writers) => writers.steps(),
        }
    }

    /// Leader epoch of the last record processed; -1 if unknown.
    pub(crate) fn leader_epoch(&self) -> i32 {
        match &self.order {
            Order::Log(order) => order.leader_epoch(),
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
            (Order::Log(_), None) => self.steps() != self.start as u64,
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
        self.head().is_none() && self.is_read()
    }

    /// Whether all that there is for now has been read.
    fn is_read(&self) -> bool {
        self.is_through() || self.finished() || self.end.is_some_and(|end| self.fetch >= end)
    }

    /// Whether a replay has read all of this partition.
    fn is_through(&self) -> bool {
        self.pinned_end.is_some_and(|end| self.fetch >= end)
    }

    /// Whether the partition brings nothing for now: what is put aside, or alone and far ahead, does not count.
    fn is_quiet(&self) -> bool {
        match &self.order {
            Order::Log(order) => order.reach(self.time).is_none() && self.is_read(),
            Order::Writers(_) => self.at_end(),
        }
    }

    /// Whether a quiet partition holds nobody.
    fn is_released(&self) -> bool {
        self.is_through() || self.finished() || self.is_idle && self.pinned_end.is_none() && self.is_read()
    }

    /// Whether a replay is through with this partition.
    pub(crate) fn finished(&self) -> bool {
        self.head().is_none() && self.pinned_end.is_some_and(|end| self.position() >= end)
    }

    /// Looks at the clock: at the end long enough, the partition stops holding others. Returns whether that is new.
    pub(crate) fn tick(&mut self, now: i64, idle_ms: i64) -> bool {
        let before = self.is_idle;
        if self.is_quiet() {
            let (quiet, looked) = self.quiet.unwrap_or((0, now));
            // Whoever stood still meanwhile has not seen whether anything came.
            let quiet = quiet + now.saturating_sub(looked).clamp(0, (idle_ms / LOOKS_MIN).max(1));
            self.quiet = Some((quiet, now));
            self.is_idle = quiet >= idle_ms;
        } else {
            self.quiet = None;
            self.is_idle = false;
        }
        self.is_idle && !before
    }

    /// How far the partition has come for others: the time of its head or of what may come instead, else of what was
    /// taken so far.
    pub(crate) fn level(&self) -> Frontier {
        match &self.order {
            Order::Log(order) => match order.reach(self.time) {
                Some(reach) => Frontier::At(reach),
                None if self.is_released() => self.head_time().map_or(Frontier::Idle, Frontier::At),
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

    const BOUND: Option<i64> = Some(10);

    fn queue(bound: Option<i64>) -> Queue {
        let start = Position { topic: TopicId(0), partition: 0, offset: 0 };
        Queue::in_order(start, i64::MIN, bound, None)
    }

    fn push(queue: &mut Queue, times: &[i64]) {
        let mut batch = InputBatchBuilder::new(queue.fetch);
        times.iter().for_each(|time| batch.push(*time, None, None, Headers::NONE));
        queue.push(batch.finish());
    }

    /// Whether a partition that brings nothing does, with an idle timeout of 20, in just that time.
    fn becomes_idle(queue: &mut Queue) -> bool {
        (0..4).all(|step| !queue.tick(step * 5, 20)) && queue.tick(20, 20)
    }

    #[test]
    fn standing_still_is_not_being_idle() {
        let mut queue = queue(BOUND);
        queue.end = Some(2);
        push(&mut queue, &[5, 5]);
        queue.advance();
        queue.advance();
        assert!(!queue.tick(0, 20) && !queue.tick(10_000, 20) && queue.level() == Frontier::At(5));
        assert!(!queue.tick(10_010, 20) && !queue.tick(10_015, 20) && queue.tick(10_020, 20));
        push(&mut queue, &[6]);
        queue.advance();
        assert!(!queue.tick(10_020, 20) && queue.level() == Frontier::At(6));
    }

    #[test]
    fn a_partition_that_ends_in_what_has_no_records_comes_to_its_end() {
        let mut queue = queue(None);
        queue.end = Some(3);
        push(&mut queue, &[10, 11]);
        assert!(!queue.pass(3), "records come first");
        queue.advance();
        assert!(!queue.at_end());
        queue.advance();
        assert!(queue.at_end() && queue.position() == 3);
        queue.end = Some(4);
        assert!(!queue.at_end() && queue.pass(4) && queue.at_end() && !queue.pass(4));
        assert_eq!(queue.position(), 4);
    }

    #[test]
    fn what_is_ahead_alone_neither_holds_others_nor_says_how_far_the_partition_is() {
        let mut queue = queue(BOUND);
        queue.end = Some(2);
        push(&mut queue, &[5, 6]);
        assert_eq!((queue.advance(), queue.advance()), (5, 6));
        assert!(becomes_idle(&mut queue) && queue.level() == Frontier::Idle);
        push(&mut queue, &[500]);
        assert_eq!((queue.level(), queue.promise(BOUND)), (Frontier::At(500), Frontier::At(500)));
        assert!(queue.wants(BOUND, 1, 1), "another tells how far the partition is");
        assert_eq!((queue.advance(), queue.time), (500, 6));
        assert!(!queue.tick(40, 20) && queue.level() == Frontier::At(6), "it may go on from where it was");
        push(&mut queue, &[7]);
        assert_eq!((queue.level(), queue.promise(BOUND)), (Frontier::At(7), Frontier::At(7)));
        assert!(!queue.wants(BOUND, 1, 1));
    }

    #[test]
    fn what_is_put_aside_waits_for_its_own_partition_to_come_so_far_or_be_idle() {
        let mut queue = queue(BOUND);
        push(&mut queue, &[5, 6, 500, 8]);
        assert_eq!((queue.advance(), queue.advance(), queue.advance()), (5, 6, 8));
        assert!(queue.is_starved(), "it does not go before what has not been read");
        assert_eq!((queue.head(), queue.level()), (Some((500, 2)), Frontier::At(8)));
        queue.end = Some(4);
        assert!(!queue.is_starved() && !queue.at_end() && queue.missing() == Frontier::At(8));
        assert!(becomes_idle(&mut queue) && queue.missing() == Frontier::Idle);
        assert_eq!((queue.level(), queue.promise(BOUND)), (Frontier::At(500), Frontier::At(500)));
        push(&mut queue, &[9, 600, 601]);
        assert_eq!((queue.level(), queue.advance(), queue.level()), (Frontier::At(9), 9, Frontier::At(500)));
        assert_eq!((queue.missing(), queue.advance()), (Frontier::Idle, 500), "the others are later");
        assert_eq!((queue.time, queue.level(), queue.position()), (9, Frontier::At(600), 5));
    }
}
