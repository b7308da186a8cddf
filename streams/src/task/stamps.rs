//! What a task tells the readers of the repartition topics that it writes, and how far ahead of them it is.
//!
//! The last record of what is handed over to a partition says how far the task has come; a partition for which there
//! is nothing is told by a stamp of its own, every few milliseconds while the frontier moves. What has been handed over
//! and is not processed is bounded per partition, since its reader may have to put all of it aside.

use super::{Reading, input::lane_of};
use crate::{
    processor::{Frontier, Outputs, Stamp},
    safeguard::Safeguard,
    topology::TopicId,
};
use std::collections::VecDeque;

/// After so many times the shortest interval a partition is told of a frontier that has moved less than a step.
const SMALL_STEPS: i64 = 20;
/// Steps that make a skew bound.
const STEPS: i64 = 4;
/// How often a partition is told where a frontier stands that does not move: a reader that has begun later knows less.
const REPEAT_MS: i64 = 1000;
/// Longest interval between stamps of a frontier that moves, however many partitions there are.
const INTERVAL_MAX_MS: i64 = 1000;
/// Pairs of writer and partition that are told in each interval.
const PAIRS: i64 = 100;
/// Fewest bytes that a writer may be ahead of a reader, by the share of the most.
const AHEAD_SHARES_MAX: u64 = 32;
/// Writers of a partition that may be as far ahead as the configuration says; where there are more, they share it.
const WRITERS_FULL: u64 = 8;

/// What a record that is handed over takes at least, more or less.
const RECORD_BYTES: u64 = 100;
/// Ends of a partition that are kept.
const MARKS_MAX: usize = 64;

/// How tasks tell how far they have come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StampConfig {
    /// Shortest time between two stamps of a partition for which there are no records, in milliseconds.
    pub(crate) interval_ms: i64,
    /// Bytes that a writer may have handed over to a partition and its reader not have processed.
    pub(crate) ahead_bytes: u64,
}

/// One partition of a topic that is written.
#[derive(Debug, Default)]
struct Reader {
    /// What it was told last, and when.
    told: Option<(Frontier, i64)>,
    /// Bytes handed over.
    handed: u64,
    /// Those of them of which the log has everything, and those that the commit under way comes behind.
    kept: u64,
    committing: u64,
    /// What `kept` was when the partition's end was asked for.
    asked: u64,
    /// Ends of the partition, and how many of the bytes lie below each.
    marks: VecDeque<(i64, u64)>,
    /// Bytes processed by the reader, as far as is known.
    processed: u64,
}

impl Reader {
    fn ahead(&self) -> u64 {
        self.handed - self.processed
    }
}

/// A repartition topic that is written.
#[derive(Debug)]
struct Written {
    topic: TopicId,
    /// The inputs that its records come from.
    inputs: Vec<TopicId>,
    interval_ms: i64,
    /// When it was looked whom there is to tell, and whether all had been told the same then.
    looked: Option<(i64, Option<Frontier>)>,
    readers: Vec<Reader>,
}

/// What is known of a partition that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consumption {
    /// Its end.
    pub(crate) end: i64,
    /// What its reader has processed.
    pub(crate) reading: Reading,
}

/// The repartition topics that a task writes and whose readers go by event time.
#[derive(Debug)]
pub(crate) struct Stamps {
    writer: i32,
    step: i64,
    ahead_max: u64,
    topics: Vec<Written>,
    /// Bytes handed over and not processed, of the partition that has most of them.
    ahead: u64,
    /// Bytes handed over since the last commit, to the partition that has most of them.
    uncommitted: u64,
}

impl Stamps {
    /// Nothing is written by the task of this partition, one of `writers`, until topics are added.
    pub(crate) fn new(writer: i32, writers: i32, bound_ms: i64, config: StampConfig) -> Stamps {
        let shares = u64::from(writers.unsigned_abs()).div_ceil(WRITERS_FULL).clamp(1, AHEAD_SHARES_MAX);
        let ahead_max = (config.ahead_bytes / shares).max(1);
        let step = (bound_ms / STEPS).max(1);
        Stamps { writer, step, ahead_max, topics: Vec::new(), ahead: 0, uncommitted: 0 }
    }

    /// Adds a topic with so many partitions, written by so many tasks from these inputs.
    pub(crate) fn add(
        &mut self,
        topic: TopicId,
        inputs: Vec<TopicId>,
        (partitions, writers): (i32, i32),
        config: StampConfig,
    ) {
        let pairs = i64::from(partitions) * i64::from(writers);
        let interval_ms = config.interval_ms.saturating_mul(1 + pairs / PAIRS).min(INTERVAL_MAX_MS);
        let readers = (0..partitions).map(|_| Reader::default()).collect();
        self.topics.push(Written { topic, inputs, interval_ms, looked: None, readers });
    }

    /// Whether nobody has to be told anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether so much has been handed over to some partition that its reader has to come on first.
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead > self.ahead_max && !Safeguard::Leads.is_out()
    }

    /// Records that may be processed before it is looked at again how far ahead their readers are left.
    pub(crate) fn room(&self) -> usize {
        if self.topics.is_empty() {
            return usize::MAX;
        }
        usize::try_from(self.ahead_max.saturating_sub(self.ahead) / RECORD_BYTES).unwrap_or(usize::MAX).max(1)
    }

    /// Whether readers are far enough behind for their progress to matter, and enough has been handed over since the last
    /// commit for another, by which it is known.
    pub(crate) fn wants_commit(&self) -> bool {
        self.ahead > self.ahead_max / 2 && self.uncommitted > self.ahead_max / 4
    }

    /// Stamps what is handed over, and adds stamps for partitions that are to be told without records; `promise` is what
    /// an input may still bring.
    pub(crate) fn stamp(
        &mut self,
        now: i64,
        outputs: &mut Outputs,
        mut promise: impl FnMut(TopicId) -> Frontier,
    ) {
        let (writer, step) = (self.writer, self.step);
        let mut stamps = Vec::new();
        let mut alone = Vec::new();
        for Written { topic, inputs, interval_ms, looked, readers } in &mut self.topics {
            let frontier = inputs.iter().map(|input| promise(*input)).min().unwrap_or(Frontier::Idle);
            let is_known = frontier != Frontier::At(i64::MIN);
            for (index, (to, partition, bytes)) in outputs.destinations().enumerate().rev() {
                let reader = usize::try_from(partition).ok().filter(|_| to == *topic);
                let Some(reader) = reader.and_then(|at| readers.get_mut(at)) else { continue };
                reader.handed += bytes as u64;
                // What is told now is told with the last record.
                if is_known && reader.told.is_none_or(|told| told != (frontier, now)) {
                    reader.told = Some((frontier, now));
                    stamps.push((index, Stamp { writer, frontier }));
                }
            }
            let due = |reader: &Reader| match reader.told {
                None => true,
                Some((told, at)) if told == frontier => {
                    frontier != Frontier::Idle && now - at >= REPEAT_MS && now > at
                }
                Some((told, at)) => {
                    let waited = now - at;
                    let moved = match (told, frontier) {
                        (Frontier::At(told), Frontier::At(time)) => time.saturating_sub(told) >= step,
                        _ => true,
                    };
                    waited >= *interval_ms && moved || waited >= *interval_ms * SMALL_STEPS
                }
            };
            let too_soon = |(at, told): (i64, Option<Frontier>)| {
                now - at < *interval_ms || told == Some(frontier) && frontier == Frontier::Idle
            };
            if !is_known || looked.is_some_and(too_soon) {
                continue;
            }
            let mut all = true;
            for (partition, reader) in readers.iter_mut().enumerate() {
                if due(reader) {
                    reader.told = Some((frontier, now));
                    alone.push(((*topic, partition as i32), Stamp { writer, frontier }));
                }
                all &= reader.told.is_some_and(|(told, _)| told == frontier);
            }
            *looked = Some((now, all.then_some(frontier)));
        }
        stamps.sort_unstable_by_key(|(index, _)| *index);
        outputs.stamp(stamps);
        alone.into_iter().for_each(|(to, stamp)| outputs.push_stamp(to, stamp));
        self.measure();
    }

    fn readers(&mut self) -> impl Iterator<Item = &mut Reader> {
        self.topics.iter_mut().flat_map(|written| &mut written.readers)
    }

    fn measure(&mut self) {
        self.ahead = self.readers().map(|reader| reader.ahead()).max().unwrap_or(0);
        self.uncommitted = self.readers().map(|reader| reader.handed - reader.committing).max().unwrap_or(0);
    }

    /// A commit comes behind all that has been handed over.
    pub(crate) fn commit_begins(&mut self) {
        self.readers().for_each(|reader| reader.committing = reader.handed);
        self.uncommitted = 0;
    }

    /// What came before that commit is in the log.
    pub(crate) fn commit_done(&mut self) {
        self.readers().for_each(|reader| reader.kept = reader.committing);
    }

    /// Partitions whose readers' progress is worth asking for, because much has been handed over to them.
    pub(crate) fn ask(&mut self) -> Vec<(TopicId, i32)> {
        let half = self.ahead_max / 2;
        let mut places = Vec::new();
        for Written { topic, readers, .. } in &mut self.topics {
            let far = (0..).zip(readers).filter(|(_, reader)| reader.ahead() > half);
            places.extend(far.map(|(partition, reader)| {
                reader.asked = reader.kept;
                (*topic, partition)
            }));
        }
        places
    }

    /// Takes note of what the reader of a partition has processed, as it was asked for.
    pub(crate) fn consumed(&mut self, (topic, partition): (TopicId, i32), consumption: &Consumption) {
        let position = consumption.reading.position(lane_of(Some(self.writer)));
        let written = self.topics.iter_mut().find(|written| written.topic == topic);
        let Some(reader) = written.and_then(|written| written.readers.get_mut(partition as usize)) else {
            return;
        };
        let mark = (consumption.end, reader.asked);
        if mark.1 > reader.marks.back().map_or(reader.processed, |(_, bytes)| *bytes) {
            reader.marks.truncate(MARKS_MAX - 1);
            reader.marks.push_back(mark);
        }
        while let Some((_, bytes)) = reader.marks.pop_front_if(|(end, _)| *end <= position) {
            reader.processed = bytes;
        }
        self.measure();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        processor::{Output, OutputTo},
        record::Headers,
    };

    const TOPIC: TopicId = TopicId(1);
    const CONFIG: StampConfig = StampConfig { interval_ms: 5, ahead_bytes: 1000 };

    fn stamps() -> Stamps {
        let mut stamps = Stamps::new(2, 3, 400, CONFIG);
        stamps.add(TOPIC, vec![TopicId(0)], (2, 3), CONFIG);
        stamps
    }

    /// What is told at a time: partition, whether it comes with a record, and the frontier.
    fn told(
        stamps: &mut Stamps,
        now: i64,
        frontier: Frontier,
        records: &[i32],
    ) -> Vec<(i32, bool, Frontier)> {
        let mut outputs = Outputs::default();
        let to = |partition: &i32| OutputTo { topic: TOPIC, partition: *partition, timestamp: 0 };
        let each = |partition| outputs.push(to(partition), Some(b"k"), Some(b"v"), Headers::NONE);
        records.iter().for_each(each);
        stamps.stamp(now, &mut outputs, |_| frontier);
        let records = outputs.into_records().filter_map(|Output { partition, key, stamp, .. }| {
            let stamp = stamp?;
            assert_eq!(stamp.writer, 2);
            Some((partition, key.is_some(), stamp.frontier))
        });
        records.collect()
    }

    #[test]
    fn each_partition_is_told_with_its_last_record_or_alone() {
        let mut stamps = stamps();
        let (at, idle) = (Frontier::At, Frontier::Idle);
        assert_eq!(told(&mut stamps, 0, at(i64::MIN), &[0]), [], "nothing is known yet");
        assert_eq!(told(&mut stamps, 0, at(100), &[0, 0]), [(0, true, at(100)), (1, false, at(100))]);
        assert_eq!(
            told(&mut stamps, 1, at(250), &[1]),
            [(1, true, at(250))],
            "the other has been told just now"
        );
        assert_eq!(told(&mut stamps, 5, at(250), &[]), [(0, false, at(250))]);
        assert_eq!(told(&mut stamps, 50, at(300), &[]), [], "a small step");
        assert_eq!(told(&mut stamps, 105, at(300), &[]), [(0, false, at(300)), (1, false, at(300))]);
        assert_eq!(told(&mut stamps, 1000, at(300), &[]), []);
        assert_eq!(told(&mut stamps, 1105, at(300), &[]).len(), 2, "again, for who has begun later");
        assert_eq!(told(&mut stamps, 1110, idle, &[]), [(0, false, idle), (1, false, idle)]);
        assert_eq!(told(&mut stamps, 9000, idle, &[]), [], "who is idle has said all");
        assert_eq!(told(&mut stamps, 9010, at(300), &[1]), [(1, true, at(300)), (0, false, at(300))]);
    }

    #[test]
    fn a_writer_waits_for_a_reader_that_has_not_processed_what_it_was_given() {
        let mut stamps = stamps();
        let none = Consumption { end: 50, reading: Reading::default() };
        while !stamps.is_ahead() {
            told(&mut stamps, 0, Frontier::At(1), &[1]);
        }
        assert!(stamps.wants_commit());
        stamps.commit_begins();
        assert!(!stamps.wants_commit());
        assert_eq!(stamps.ask(), [(TOPIC, 1)]);
        stamps.consumed(
            (TOPIC, 1),
            &Consumption { end: 50, reading: Reading { read: 50, ..Reading::default() } },
        );
        assert!(stamps.is_ahead(), "when that was asked, nothing was known to be in the log");
        stamps.commit_done();
        stamps.ask();
        stamps.consumed((TOPIC, 1), &none);
        let aside = Reading { read: 60, aside: vec![(3, 49)], idle: Vec::new() };
        stamps.consumed((TOPIC, 1), &Consumption { end: 60, reading: aside });
        assert!(stamps.is_ahead(), "its own last record is put aside");
        let others = Reading { read: 60, aside: vec![(1, 10)], idle: Vec::new() };
        stamps.consumed((TOPIC, 1), &Consumption { end: 60, reading: others });
        assert!(!stamps.is_ahead() && stamps.ask().is_empty(), "what others have put aside is not its own");
    }
}
