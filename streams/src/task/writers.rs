//! A repartition partition that is read by writer.
//!
//! What each writer has written comes in its order; between writers the least event time comes first, and what is further
//! ahead than the skew bound of anything that another writer may still bring is put aside. How far a writer without
//! records has come is told by its stamps.
//!
//! A frontier only grows: what a task writes again after a crash was written before its stamps were, so that whatever
//! lies below the greatest one is there already. Being idle is no promise, and lasts until the next stamp.

use super::{
    InputBatch, Reading,
    input::{InputRecord, lane_of},
    lane::Lane,
};
use crate::processor::{Frontier, Stamp};
use std::collections::{BTreeSet, VecDeque};

/// Writers with records that wait beyond which no more is read than what they wait for: what is committed with an
/// offset has room for that many.
const NAMED_MAX: usize = 400;

/// One writer as its reader sees it.
#[derive(Debug)]
struct Writer {
    lane: Lane,
    /// What it may still bring, beginning with its head, is of this time or later.
    told: i64,
    /// Stamps read behind records that are not taken yet: offset and time.
    stamps: VecDeque<(i64, i64)>,
    is_idle: bool,
    /// Its records below this offset had been processed when the task began.
    from: i64,
}

impl Writer {
    /// A stamp speaks of what is behind it: it counts once its record is taken, and those before it.
    fn settle(&mut self) {
        let head = self.lane.head().map_or(i64::MAX, |(_, offset)| offset);
        while let Some((_, time)) = self.stamps.pop_front_if(|(offset, _)| *offset < head) {
            self.told = self.told.max(time);
        }
    }

    /// Takes note of a stamp; one that was read before the task began says nothing new of being idle.
    fn stamp(&mut self, offset: i64, frontier: Frontier, is_new: bool) {
        if is_new {
            self.is_idle = frontier == Frontier::Idle;
        }
        if let Frontier::At(time) = frontier {
            let last = self.lane.last();
            // Of stamps between the same records the last one says all.
            while self.stamps.pop_back_if(|(at, before)| *at >= last && *before <= time).is_some() {}
            self.stamps.push_back((offset, time));
            self.settle();
        }
    }

    /// What it may still bring. It took its head within the bound of whatever comes behind it.
    fn promise(&self, bound: Option<i64>) -> Frontier {
        match (self.lane.head(), bound) {
            (None, _) if self.is_idle => Frontier::Idle,
            (Some((time, _)), Some(bound)) => Frontier::At(self.told.max(time.saturating_sub(bound))),
            _ => Frontier::At(self.told),
        }
    }
}

/// The writers of one partition, and what is fetched of them and not processed.
#[derive(Debug)]
pub(super) struct Writers {
    /// By lane; the first is that of whoever does not say who it is, and holds nobody.
    writers: Vec<Writer>,
    /// Those with records, by the time of the first.
    heads: BTreeSet<(i64, u32)>,
    /// Those without that are not idle, by how far they have come.
    empty: BTreeSet<(i64, u32)>,
    /// Up to here everything had been read when the task began.
    read: i64,
    /// Who was idle by then.
    idle_then: Vec<u32>,
    /// Counts whatever changes what is to be committed.
    steps: u64,
    /// Bytes of batches of which all is taken.
    taken_bytes: usize,
    leader_epoch: i32,
}

impl Writers {
    /// So many writers, of which nothing is known but that all had come to `time` when the task began at `offset`.
    pub(super) fn new(count: usize, time: i64, offset: i64, reading: Option<Reading>) -> Writers {
        let Reading { read, aside, idle } =
            reading.unwrap_or(Reading { read: offset, aside: Vec::new(), idle: Vec::new() });
        let read = read.max(offset);
        let writer = |lane| Writer {
            lane: Lane::new(),
            told: time,
            stamps: VecDeque::new(),
            is_idle: lane == 0,
            from: read,
        };
        let mut writers = Writers {
            writers: (0..=count).map(writer).collect(),
            heads: BTreeSet::new(),
            empty: (0..count).map(|at| (time, at as u32 + 1)).collect(),
            read,
            idle_then: idle,
            steps: 0,
            taken_bytes: 0,
            leader_epoch: -1,
        };
        for (lane, from) in aside {
            let at = writers.index(lane);
            if let Some(writer) = writers.writers.get_mut(at) {
                writer.from = writer.from.min(from);
            }
        }
        if read <= offset {
            writers.know_idle();
        }
        writers
    }

    /// Where a writer stands; with the strangers, if there cannot be such a one.
    fn index(&self, lane: u32) -> usize {
        let at = lane as usize;
        if at < self.writers.len() { at } else { 0 }
    }

    /// All that had been read when the task began is read again: who was idle then is idle now.
    fn know_idle(&mut self) {
        for lane in std::mem::take(&mut self.idle_then) {
            self.change(lane, |writer| writer.is_idle = true);
        }
    }

    /// Changes a writer, and keeps the orders true.
    fn change<R>(&mut self, lane: u32, change: impl FnOnce(&mut Writer) -> R) -> Option<R> {
        let at = self.index(lane);
        let writer = self.writers.get_mut(at)?;
        let place = |writer: &Writer| match writer.lane.head() {
            Some((time, _)) => (Some((time, at as u32)), None),
            None => (None, (!writer.is_idle).then_some((writer.told, at as u32))),
        };
        let before = place(writer);
        let changed = change(writer);
        writer.is_idle |= at == 0;
        let after = place(writer);
        move_in(&mut self.heads, before.0, after.0);
        move_in(&mut self.empty, before.1, after.1);
        Some(changed)
    }

    /// Takes a batch, of which what lies below `fetch` has come before. Returns how many records were skipped for a
    /// negative timestamp.
    pub(super) fn push(&mut self, mut batch: InputBatch, fetch: i64) -> u64 {
        let (next, mut negative, mut added) = (batch.next_offset, 0, 0);
        let stamps = std::mem::take(&mut batch.stamps);
        self.leader_epoch = batch.leader_epoch;
        let writers = &self.writers;
        let wanted = |lane: u32, record: &InputRecord| {
            let writer = writers.get(lane as usize).or_else(|| writers.first());
            let is_new = record.offset >= fetch && writer.is_some_and(|writer| record.offset >= writer.from);
            negative += u64::from(is_new && record.timestamp < 0);
            is_new && record.timestamp >= 0
        };
        for (lane, part) in batch.by_writer(wanted) {
            added += part.len();
            self.change(lane, |writer| writer.lane.push(part));
        }
        if fetch < self.read && next >= self.read {
            self.know_idle();
        }
        let read = self.read;
        for (offset, Stamp { writer, frontier }) in stamps.into_iter().filter(|(offset, _)| *offset >= fetch)
        {
            self.change(lane_of(Some(writer)), |writer| writer.stamp(offset, frontier, offset >= read));
        }
        self.steps += u64::from(next.saturating_sub(fetch) > added as i64);
        negative
    }

    /// Below `offset` there is nothing more than was pushed.
    pub(super) fn pass(&mut self, fetch: i64, offset: i64) {
        if fetch < self.read && offset >= self.read {
            self.know_idle();
        }
        self.steps += 1;
    }

    /// The lane whose head is next.
    fn first(&self) -> Option<&Lane> {
        let (_, at) = self.heads.first()?;
        self.writers.get(*at as usize).map(|writer| &writer.lane)
    }

    /// Time and offset of the record that is next.
    pub(super) fn head(&self) -> Option<(i64, i64)> {
        self.first()?.head()
    }

    /// The record that is next, and its batch.
    pub(super) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        self.first()?.front()
    }

    /// Keys of the record that is next and of those behind it.
    pub(super) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        self.first().into_iter().flat_map(move |lane| lane.keys_ahead(records))
    }

    /// Moves past the record that is next.
    pub(super) fn advance(&mut self) {
        let Some((_, at)) = self.heads.first().copied() else { return };
        let released = self.change(at, |writer| {
            let before = writer.lane.bytes();
            writer.lane.advance();
            writer.settle();
            before - writer.lane.bytes()
        });
        self.taken_bytes += released.unwrap_or(0);
        self.steps += 1;
    }

    /// The least that writers without records may still bring.
    pub(super) fn least_missing(&self) -> Frontier {
        self.empty.first().map_or(Frontier::Idle, |(time, _)| Frontier::At(*time))
    }

    /// The least that is next, or may come instead of it.
    pub(super) fn least(&self) -> Frontier {
        let head = self.heads.first().map_or(Frontier::Idle, |(time, _)| Frontier::At(*time));
        head.min(self.least_missing())
    }

    /// The least that may still come at all.
    pub(super) fn promise(&self, bound: Option<i64>) -> Frontier {
        let known = self.writers.iter().skip(1);
        known.map(|writer| writer.promise(bound)).min().unwrap_or(Frontier::Idle)
    }

    /// Whether there is room for more than what the heads wait for: of records, and bytes of their batches, that no
    /// writer holds.
    pub(super) fn wants(&self, bound: Option<i64>, records: usize, bytes: usize) -> bool {
        let missing = self.least_missing();
        let mut waiting = (0, 0);
        for (time, at) in &self.heads {
            if !missing.admits(*time, bound) {
                break;
            }
            if let Some(Writer { lane, .. }) = self.writers.get(*at as usize) {
                waiting = (waiting.0 + lane.records(), waiting.1 + lane.bytes());
            }
            if waiting.0 >= records || waiting.1 >= bytes {
                return false;
            }
        }
        waiting.0 == 0 || self.heads.len() < NAMED_MAX
    }

    /// What is processed, given that all below `fetch` is fetched.
    pub(super) fn reading(&self, fetch: i64) -> Reading {
        let read = self.read.max(fetch);
        let at = |(lane, writer): (usize, &Writer)| {
            let unread = (writer.from < self.read && fetch < self.read).then(|| writer.from.max(fetch));
            Some((lane as u32, writer.lane.head().map(|(_, offset)| offset).or(unread)?))
        };
        let idle = |(lane, writer): (usize, &Writer)| {
            (writer.is_idle || fetch < self.read && self.idle_then.contains(&(lane as u32)))
                .then_some(lane as u32)
        };
        let writers = || self.writers.iter().enumerate();
        Reading {
            read,
            aside: writers().filter_map(at).collect(),
            idle: writers().skip(1).filter_map(idle).collect(),
        }
    }

    /// The least offset that is not processed.
    pub(super) fn position(&self, fetch: i64) -> i64 {
        self.reading(fetch).least()
    }

    /// Another number whenever what is processed has changed.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes of batches processed so far.
    pub(super) fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// Leader epoch at the least offset that is not processed, or before; -1 if unknown.
    pub(super) fn leader_epoch(&self) -> i32 {
        let epoch = |writer: &Writer| writer.lane.front().map(|(batch, _)| batch.leader_epoch);
        self.writers.iter().filter_map(epoch).min().unwrap_or(self.leader_epoch)
    }

    /// Bytes that are kept, by the writer that has most of them.
    #[cfg(test)]
    pub(super) fn most_bytes(&self) -> usize {
        self.writers.iter().map(|writer| writer.lane.bytes()).max().unwrap_or(0)
    }
}

fn move_in(order: &mut BTreeSet<(i64, u32)>, before: Option<(i64, u32)>, after: Option<(i64, u32)>) {
    if before != after {
        before.map(|place| order.remove(&place));
        order.extend(after);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::InputBatchBuilder, *};
    use crate::record::Headers;
    use proptest::prelude::*;

    const BOUND: Option<i64> = Some(10);

    /// A record of a writer, or what it says of itself.
    #[derive(Debug, Clone, Copy)]
    enum Entry {
        Record(i32, i64),
        Told(i32, Frontier),
    }

    /// The log from `from` to `to`.
    fn batch(log: &[Entry], from: usize, to: usize) -> InputBatch {
        let mut batch = InputBatchBuilder::new(from as i64);
        for entry in &log[from..to] {
            match *entry {
                Entry::Record(writer, time) => {
                    batch.push_from((Some(writer), None), time, (None, None), Headers::NONE);
                }
                Entry::Told(writer, frontier) => {
                    let stamp = Stamp { writer, frontier };
                    batch.push_from((None, Some(stamp)), 0, (None, None), Headers::NONE);
                }
            }
        }
        batch.finish()
    }

    /// Takes everything that may go: offsets.
    fn take(writers: &mut Writers) -> Vec<i64> {
        let mut taken = Vec::new();
        while let Some((time, offset)) = writers.head()
            && writers.least_missing().admits(time, BOUND)
        {
            taken.push(offset);
            writers.advance();
        }
        taken
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let frontier = prop_oneof![4 => (0i64..100).prop_map(Frontier::At), 1 => Just(Frontier::Idle)];
        prop_oneof![
            3 => (0i32..4, 0i64..100).prop_map(|(writer, time)| Entry::Record(writer, time)),
            1 => (0i32..4, frontier).prop_map(|(writer, frontier)| Entry::Told(writer, frontier)),
        ]
    }

    proptest! {
        #[test]
        fn whoever_goes_on_takes_what_is_left_of_each_writer_and_nothing_else(
            log in prop::collection::vec(entry(), 1..120),
            reads in prop::collection::vec((1usize..20, any::<bool>()), 1..40),
        ) {
            let mut writers = Writers::new(4, i64::MIN, 0, None);
            let (mut fetch, mut taken) = (0, Vec::new());
            for (length, restarts) in reads {
                let to = (fetch + length).min(log.len());
                if to > fetch {
                    writers.push(batch(&log, fetch, to), fetch as i64);
                    fetch = to;
                }
                taken.extend(take(&mut writers));
                let reading = writers.reading(fetch as i64);
                prop_assert_eq!(reading.least(), writers.position(fetch as i64));
                if restarts {
                    let time = match writers.promise(BOUND) {
                        Frontier::At(time) => time,
                        Frontier::Idle => i64::MIN,
                    };
                    let least = reading.least();
                    let read = Reading::decode(&reading.encode(), least, 5).unwrap();
                    prop_assert_eq!(&read, &reading);
                    writers = Writers::new(4, time, least, Some(read));
                    fetch = least as usize;
                }
            }
            if fetch < log.len() {
                writers.push(batch(&log, fetch, log.len()), fetch as i64);
            }
            let end = log.len() as i64;
            let mut whole = log.clone();
            whole.extend((0..4).map(|writer| Entry::Told(writer, Frontier::Idle)));
            writers.push(batch(&whole, log.len(), whole.len()), end);
            taken.extend(take(&mut writers));
            for writer in 0..4 {
                let of = |offset: &i64| matches!(log[*offset as usize], Entry::Record(by, _) if by == writer);
                let written: Vec<i64> = (0..end).filter(of).collect();
                let taken: Vec<i64> = taken.iter().copied().filter(of).collect();
                prop_assert_eq!(written, taken, "writer {}", writer);
            }
        }
    }

    #[test]
    fn what_is_ahead_waits_and_what_it_waits_for_is_read_however_much_is_kept() {
        let told = |writer, time| Entry::Told(writer, Frontier::At(time));
        let mut log = vec![told(0, 0), told(1, 0)];
        log.extend((0..50).map(|at| Entry::Record(0, at)));
        log.extend([Entry::Record(1, 5), told(1, 60)]);
        let mut writers = Writers::new(2, i64::MIN, 0, None);
        writers.push(batch(&log, 0, 52), 0);
        assert_eq!(take(&mut writers).len(), 11, "as far as the bound");
        assert!(writers.wants(BOUND, 10, usize::MAX), "the other is further behind in the log");
        assert!(!writers.wants(None, 10, usize::MAX), "nothing waits for it");
        assert_eq!((writers.position(52), writers.reading(52).aside), (13, vec![(1, 13)]));
        assert_eq!(writers.promise(BOUND), Frontier::At(0));
        writers.push(batch(&log, 52, 54), 52);
        assert_eq!(take(&mut writers)[..2], [52, 13], "the least first");
        assert_eq!(writers.promise(BOUND), Frontier::At(0), "the first has not said more");
    }

    #[test]
    fn a_frontier_never_goes_back_and_who_was_idle_is_not_taken_for_it_too_soon() {
        let mut writers = Writers::new(2, i64::MIN, 0, None);
        let log = [
            Entry::Told(0, Frontier::At(50)),
            Entry::Told(0, Frontier::At(20)),
            Entry::Told(1, Frontier::Idle),
            Entry::Record(1, 3),
        ];
        writers.push(batch(&log, 0, 3), 0);
        assert_eq!(writers.least_missing(), Frontier::At(50), "what is written again was there before");
        let reading = Reading { read: 3, aside: vec![(1, 1)], idle: vec![2] };
        let mut again = Writers::new(2, 0, 1, Some(reading));
        assert_eq!(again.least_missing(), Frontier::At(0), "until all is read again");
        again.push(batch(&log, 1, 4), 1);
        assert_eq!((again.least_missing(), again.head()), (Frontier::At(20), Some((3, 3))));
        again.advance();
        assert_eq!(again.promise(BOUND), Frontier::At(20), "the second is idle again");
    }
}
