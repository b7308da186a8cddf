//! What a partition remembers of idempotent producers, so that a batch sent twice is stored once.
//!
//! Per producer id: its epoch and its last five batches. Invariant: the state is a fold of the log's batches, in
//! order; appending, replaying the log, and loading a snapshot and replaying the rest end in the same state. An unknown
//! producer may begin at any sequence; a known one must go on where it ended; sequences wrap from [`i32::MAX`] to 0.
//! There are no more than whoever adds one allows: those go whose last batch is the oldest, a part of all at a time.
//! A copy is cheap and shares what does not change. It knows no files; [`super::snapshot`] has the format.

use kappa_protocol::record::Batch;
use std::collections::HashMap;
use std::sync::Arc;

/// Batches remembered per producer: as many as a producer may have in flight.
pub(super) const BATCHES_MAX: usize = 5;
/// Parts of which a copy shares those that do not change.
const SHARDS: usize = 16;
/// The part of those that may be there which goes when there is no room: finding them costs a look at all.
const EVICTED_PART: usize = 16;

/// Why a batch does not continue what its producer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// Someone else has taken over the producer id.
    #[error("producer {producer_id} has epoch {current}, the batch has {epoch}")]
    InvalidEpoch {
        /// The producer.
        producer_id: i64,
        /// Epoch of the batch.
        epoch: i16,
        /// Epoch that the partition knows.
        current: i16,
    },
    /// A batch before this one is missing, or this one came before and is forgotten.
    #[error("producer {producer_id} sent sequence {sequence} after {last_sequence}")]
    OutOfOrder {
        /// The producer.
        producer_id: i64,
        /// First sequence of the batch.
        sequence: i32,
        /// Last sequence that the partition has; -1 for none in this epoch.
        last_sequence: i32,
    },
}

/// One stored batch of a producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchStamp {
    pub(super) last_sequence: i32,
    pub(super) last_offset: i64,
    pub(super) offset_delta: i32,
    pub(super) timestamp: i64,
}

impl BatchStamp {
    pub(super) fn base_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }

    fn base_sequence(&self) -> i32 {
        // Sequences wrap within the non-negative numbers.
        self.last_sequence.wrapping_sub(self.offset_delta) & i32::MAX
    }
}

/// What is remembered of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: i16,
    batches: [BatchStamp; BATCHES_MAX],
    count: u8,
    /// When its last batch was appended or replayed, in ms of the steady clock: one that is set makes nobody idle.
    pub(super) seen_ms: i64,
}

impl Producer {
    pub(super) fn new(epoch: i16, seen_ms: i64) -> Self {
        Self { epoch, batches: [BatchStamp::default(); BATCHES_MAX], count: 0, seen_ms }
    }

    /// Oldest first.
    pub(super) fn batches(&self) -> &[BatchStamp] {
        self.batches.get(..usize::from(self.count)).unwrap_or_default()
    }

    pub(super) fn push(&mut self, stamp: BatchStamp) {
        if usize::from(self.count) == BATCHES_MAX {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        if let Some(place) = self.batches.get_mut(usize::from(self.count)) {
            *place = stamp;
            self.count += 1;
        }
    }

    /// Offset of its last record; -1 for none.
    fn last_offset(&self) -> i64 {
        self.batches().last().map_or(-1, |stamp| stamp.last_offset)
    }
}

/// Facts about a producer for whoever asks (DescribeProducers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSummary {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Its last sequence; -1 for none.
    pub last_sequence: i32,
    /// Offset of its last record; -1 for none.
    pub last_offset: i64,
    /// Largest timestamp of its last batch in ms; -1 for none.
    pub last_timestamp: i64,
}

/// What a batch is to its producer's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequenced {
    /// To be appended.
    New,
    /// Stored already, as this.
    Duplicate(BatchStamp),
}

/// The producers that a partition knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    /// By the last bits of their ids; none if there are no producers.
    shards: Vec<Arc<Shard>>,
    len: usize,
}

/// Producers in the order of their ids.
type Shard = Vec<(i64, Producer)>;

impl Producers {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, producer_id: i64) -> Option<&Producer> {
        let shard = self.shards.get(shard_of(producer_id))?;
        let at = shard.binary_search_by_key(&producer_id, |(id, _)| *id).ok()?;
        shard.get(at).map(|(_, producer)| producer)
    }

    /// All, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(i64, Producer)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Puts a producer in the place of what was known of it. There are at most `limit` then, if there were before.
    pub(super) fn insert(&mut self, producer_id: i64, producer: Producer, limit: usize) {
        if self.get(producer_id).is_none() {
            self.shrink_to(limit.saturating_sub(1), limit / EVICTED_PART);
        }
        if self.shards.is_empty() {
            self.shards = vec![Arc::default(); SHARDS];
        }
        let Some(shard) = self.shards.get_mut(shard_of(producer_id)).map(Arc::make_mut) else { return };
        match shard.binary_search_by_key(&producer_id, |(id, _)| *id) {
            Ok(at) => {
                if let Some((_, known)) = shard.get_mut(at) {
                    *known = producer;
                }
            }
            Err(at) => {
                if shard.len() == shard.capacity() {
                    shard.reserve_exact(shard.len() / 8 + 1);
                }
                shard.insert(at, (producer_id, producer));
                self.len += 1;
            }
        }
    }

    /// If there are more than `len`, forgets those beyond it that sent nothing for longest, and `more`.
    fn shrink_to(&mut self, len: usize, more: usize) {
        if self.len <= len {
            return;
        }
        let mut last: Vec<i64> = self.iter().map(|(_, producer)| producer.last_offset()).collect();
        let gone = (self.len - len + more).min(self.len);
        let (_, up_to, _) = last.select_nth_unstable(gone - 1);
        let up_to = *up_to;
        self.retain(|producer| producer.last_offset() > up_to);
    }

    fn retain(&mut self, keeps: impl Fn(&Producer) -> bool) {
        for shard in &mut self.shards {
            if shard.iter().any(|(_, producer)| !keeps(producer)) {
                let kept: Shard = shard.iter().filter(|(_, producer)| keeps(producer)).copied().collect();
                self.len -= shard.len() - kept.len();
                *shard = Arc::new(kept);
            }
        }
        if self.len == 0 {
            self.shards = Vec::new();
        }
    }

    /// Decides whether a batch may be appended.
    pub(super) fn check(&self, batch: &Batch<'_>) -> Result<Sequenced, ProducerError> {
        let producer_id = batch.producer_id();
        if producer_id < 0 {
            return Ok(Sequenced::New);
        }
        let Some(producer) = self.get(producer_id) else { return Ok(Sequenced::New) };
        let (epoch, current) = (batch.producer_epoch(), producer.epoch);
        if epoch < current {
            return Err(ProducerError::InvalidEpoch { producer_id, epoch, current });
        }
        let sequence = batch.base_sequence();
        if epoch > current {
            // A new epoch begins a new count.
            let out_of_order = ProducerError::OutOfOrder { producer_id, sequence, last_sequence: -1 };
            return if sequence == 0 { Ok(Sequenced::New) } else { Err(out_of_order) };
        }
        let same = |stamp: &&BatchStamp| {
            stamp.base_sequence() == sequence && stamp.last_sequence == batch.last_sequence()
        };
        if let Some(stamp) = producer.batches().iter().find(same) {
            return Ok(Sequenced::Duplicate(*stamp));
        }
        match producer.batches().last() {
            Some(last) if last.last_sequence.wrapping_add(1) & i32::MAX != sequence => {
                Err(ProducerError::OutOfOrder { producer_id, sequence, last_sequence: last.last_sequence })
            }
            _ => Ok(Sequenced::New),
        }
    }

    /// Takes in a batch that was appended at `base_offset`, or is found there. There are at most `limit` producers then,
    /// if there were before.
    pub(super) fn add(&mut self, batch: &Batch<'_>, base_offset: i64, steady_ms: i64, limit: usize) {
        let producer_id = batch.producer_id();
        if producer_id < 0 || batch.is_control() {
            return;
        }
        let epoch = batch.producer_epoch();
        let known = self.get(producer_id).filter(|producer| producer.epoch == epoch);
        let mut producer = known.copied().unwrap_or_else(|| Producer::new(epoch, steady_ms));
        producer.seen_ms = steady_ms;
        let offset_delta = batch.last_offset_delta();
        producer.push(BatchStamp {
            last_sequence: batch.last_sequence(),
            last_offset: base_offset + i64::from(offset_delta),
            offset_delta,
            timestamp: batch.max_timestamp(),
        });
        self.insert(producer_id, producer, limit);
    }

    /// Forgets the producers that sent nothing since `before_ms` of the steady clock.
    pub(super) fn expire(&mut self, before_ms: i64) {
        self.retain(|producer| producer.seen_ms >= before_ms);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn summaries(&self) -> Vec<ProducerSummary> {
        let summary = |(producer_id, producer): &(i64, Producer)| {
            let last = producer.batches().last();
            ProducerSummary {
                producer_id: *producer_id,
                epoch: producer.epoch,
                last_sequence: last.map_or(-1, |stamp| stamp.last_sequence),
                last_offset: producer.last_offset(),
                last_timestamp: last.map_or(-1, |stamp| stamp.timestamp),
            }
        };
        self.iter().map(summary).collect()
    }
}

fn shard_of(producer_id: i64) -> usize {
    producer_id as usize % SHARDS
}

/// What producers sent first and the log does not have: it was refused for the disk's sake, or cut off. What they sent
/// behind it comes after it, or the log would never take it: an unknown producer may begin at any sequence. No part of what
/// the log says, and forgotten with the process.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    by_id: HashMap<i64, AwaitedBatch>,
}

#[derive(Clone, Copy, Debug)]
struct AwaitedBatch {
    epoch: i16,
    sequence: i32,
    /// When it was refused, in ms of the steady clock.
    since_ms: i64,
}

impl Awaited {
    /// Most producers that are awaited; others that the disk refused then begin wherever they go on.
    const MAX: usize = 10_000;

    /// Whether a batch of a producer that the log does not know may come.
    pub(super) fn check(&self, batch: &Batch<'_>) -> Result<(), ProducerError> {
        let (producer_id, epoch, sequence) =
            (batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
        match self.by_id.get(&producer_id) {
            Some(awaited) if awaited.epoch == epoch && awaited.sequence != sequence => {
                let last_sequence = awaited.sequence.wrapping_sub(1);
                Err(ProducerError::OutOfOrder { producer_id, sequence, last_sequence })
            }
            _ => Ok(()),
        }
    }

    /// Takes note that a batch was refused for the disk's sake.
    pub(super) fn refused(&mut self, batch: &Batch<'_>, producers: &Producers, steady_ms: i64) {
        let producer_id = batch.producer_id();
        if producer_id >= 0 && producers.get(producer_id).is_none() {
            self.add(producer_id, batch.producer_epoch(), batch.base_sequence(), steady_ms);
        }
    }

    /// Takes note that what `before` knows from offset `end` on is cut off, as far as `after` does not know its producers.
    pub(super) fn cut(&mut self, before: &Producers, after: &Producers, end: i64, steady_ms: i64) {
        for (producer_id, producer) in before.iter() {
            let first = producer.batches().first().filter(|first| first.base_offset() >= end);
            if let (None, Some(first)) = (after.get(*producer_id), first) {
                self.add(*producer_id, producer.epoch, first.base_sequence(), steady_ms);
            }
        }
    }

    fn add(&mut self, producer_id: i64, epoch: i16, sequence: i32, since_ms: i64) {
        if self.by_id.get(&producer_id).is_some_and(|awaited| awaited.epoch >= epoch) {
            return;
        }
        if self.by_id.len() < Self::MAX {
            self.by_id.insert(producer_id, AwaitedBatch { epoch, sequence, since_ms });
        }
    }

    /// Takes note that a batch of the producer was stored.
    pub(super) fn came(&mut self, batch: &Batch<'_>) {
        if !self.by_id.is_empty() {
            self.by_id.remove(&batch.producer_id());
        }
    }

    /// Forgets what was refused before `before_ms` of the steady clock.
    pub(super) fn expire(&mut self, before_ms: i64) {
        self.by_id.retain(|_, awaited| awaited.since_ms >= before_ms);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;
    use kappa_protocol::record::{BatchBuilder, BatchOptions, ProducerStamp};

    /// A batch of `count` records of producer 7.
    pub(crate) fn batch(epoch: i16, sequence: i32, count: usize) -> Bytes {
        let producer = Some(ProducerStamp { id: 7, epoch, sequence });
        let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
        for number in 0..count {
            builder.push(1000 + number as i64, None, Some(b"value"), std::iter::empty());
        }
        builder.finish(0)
    }

    struct Partition {
        producers: Producers,
        next_offset: i64,
    }

    impl Partition {
        fn send(&mut self, epoch: i16, sequence: i32, count: usize) -> Result<Sequenced, ProducerError> {
            let bytes = batch(epoch, sequence, count);
            let batch = Batch::produced(&bytes).unwrap();
            let sequenced = self.producers.check(&batch)?;
            if sequenced == Sequenced::New {
                self.producers.add(&batch, self.next_offset, 1, usize::MAX);
                self.next_offset += count as i64;
            }
            Ok(sequenced)
        }
    }

    fn partition() -> Partition {
        Partition { producers: Producers::default(), next_offset: 100 }
    }

    #[test]
    fn the_last_five_batches_are_known_again_and_older_ones_refused() {
        let mut partition = partition();
        for number in 0..7 {
            assert_eq!(partition.send(0, number * 3, 3), Ok(Sequenced::New));
        }
        for number in 2..7 {
            let Ok(Sequenced::Duplicate(stamp)) = partition.send(0, number * 3, 3) else {
                panic!("{number}")
            };
            assert_eq!(stamp.base_offset(), 100 + i64::from(number) * 3);
        }
        let refused = ProducerError::OutOfOrder { producer_id: 7, sequence: 3, last_sequence: 20 };
        assert_eq!(partition.send(0, 3, 3), Err(refused));
        assert!(
            partition.send(0, 18, 2).is_err(),
            "another batch with the same first sequence is no duplicate"
        );
    }

    #[test]
    fn gaps_are_refused_but_an_unknown_producer_may_start_anywhere() {
        let mut partition = partition();
        assert_eq!(partition.send(0, 41, 2), Ok(Sequenced::New));
        let refused = ProducerError::OutOfOrder { producer_id: 7, sequence: 44, last_sequence: 42 };
        assert_eq!(partition.send(0, 44, 1), Err(refused));
        assert_eq!(partition.send(0, 43, 1), Ok(Sequenced::New));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut partition = partition();
        assert_eq!(partition.send(0, i32::MAX - 1, 4), Ok(Sequenced::New));
        assert!(matches!(partition.send(0, i32::MAX - 1, 4), Ok(Sequenced::Duplicate(_))));
        assert_eq!(partition.send(0, 2, 1), Ok(Sequenced::New));
        let mut exact = self::partition();
        assert_eq!(exact.send(0, i32::MAX, 1), Ok(Sequenced::New));
        assert_eq!(exact.send(0, 0, 1), Ok(Sequenced::New));
    }

    #[test]
    fn epochs_fence_and_begin_at_sequence_zero() {
        let mut partition = partition();
        partition.send(3, 0, 2).unwrap();
        let fenced = ProducerError::InvalidEpoch { producer_id: 7, epoch: 2, current: 3 };
        assert_eq!(partition.send(2, 2, 1), Err(fenced));
        assert!(matches!(partition.send(4, 2, 1), Err(ProducerError::OutOfOrder { last_sequence: -1, .. })));
        assert_eq!(partition.send(4, 0, 1), Ok(Sequenced::New));
        assert_eq!(partition.send(4, 1, 1), Ok(Sequenced::New));
    }

    fn one_of(producer_id: i64, sequence: i32) -> Bytes {
        let producer = Some(ProducerStamp { id: producer_id, epoch: 0, sequence });
        let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
        builder.push(1000, None, Some(b"value"), std::iter::empty());
        builder.finish(0)
    }

    fn ids(producers: &Producers) -> Vec<i64> {
        let mut ids: Vec<_> = producers.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn of_too_many_those_are_forgotten_that_sent_nothing_for_longest() {
        const LIMIT: usize = 160;
        let mut producers = Producers::default();
        let add = |producers: &mut Producers, id, sequence, offset| {
            let bytes = one_of(id, sequence);
            producers.add(&Batch::produced(&bytes).unwrap(), offset, 1, LIMIT);
        };
        // The highest ids come first; one of them goes on.
        for offset in 0..160 {
            add(&mut producers, 159 - offset, 0, offset);
        }
        add(&mut producers, 159, 1, 160);
        assert_eq!(producers.len(), LIMIT);
        let shared = producers.clone();
        add(&mut producers, 1000, 0, 161);
        // A part of all made room, so that the next few find it.
        let kept: Vec<i64> = (0..148).chain([159, 1000]).collect();
        assert_eq!(ids(&producers), kept);
        assert_eq!(producers.len(), kept.len());
        assert_eq!(ids(&shared), (0..160).collect::<Vec<_>>(), "a copy stays as it was");
        for offset in 0..1000 {
            add(&mut producers, 2000 + offset, 0, 162 + offset);
            assert!(producers.len() <= LIMIT);
        }
        let last = one_of(2999, 0);
        let last = Batch::produced(&last).unwrap();
        assert!(matches!(producers.check(&last), Ok(Sequenced::Duplicate(_))));
    }

    #[test]
    fn a_copy_shares_what_does_not_change() {
        let mut producers = Producers::default();
        for id in 0..1000 {
            producers.insert(id, Producer::new(0, 1), usize::MAX);
        }
        let copy = producers.clone();
        producers.insert(17, Producer::new(1, 1), usize::MAX);
        let shared =
            std::iter::zip(&producers.shards, &copy.shards).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), SHARDS - 1);
        assert_eq!(copy.get(17), Some(&Producer::new(0, 1)));
    }

    #[test]
    fn who_is_forgotten_for_want_of_room_is_not_awaited_from_where_it_began() {
        let bytes = one_of(7, 3);
        let mut before = Producers::default();
        before.add(&Batch::produced(&bytes).unwrap(), 10, 1, usize::MAX);
        for (end, is_awaited) in [(11, false), (10, true)] {
            let mut awaited = Awaited::default();
            awaited.cut(&before, &Producers::default(), end, 1);
            let next = one_of(7, 4);
            assert_eq!(awaited.check(&Batch::produced(&next).unwrap()).is_err(), is_awaited);
        }
    }

    #[test]
    fn idle_producers_are_forgotten() {
        let mut partition = partition();
        partition.send(0, 0, 1).unwrap();
        partition.producers.expire(1);
        assert_eq!(partition.producers.summaries().len(), 1);
        partition.producers.expire(2);
        assert_eq!(partition.producers, Producers::default());
    }
}
