//! What a partition remembers of idempotent producers, so that a batch sent twice is stored once.
//!
//! Per producer id: its epoch and its last five batches. Invariant: the state is a fold of the log's batches, in
//! order; appending, replaying the log, and loading a snapshot and replaying the rest end in the same state. An unknown
//! producer may begin at any sequence; a known one must go on where it ended; sequences wrap from [`i32::MAX`] to 0.
//! It knows no files; [`super::snapshot`] has the format.

use kappa_protocol::record::Batch;
use std::collections::HashMap;

/// Batches remembered per producer: as many as a producer may have in flight.
pub(super) const BATCHES_MAX: usize = 5;

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
    count: usize,
    /// When its last batch was appended or replayed, in ms of the steady clock: one that is set makes nobody idle.
    pub(super) seen_ms: i64,
}

impl Producer {
    pub(super) fn new(epoch: i16, seen_ms: i64) -> Self {
        Self { epoch, batches: [BatchStamp::default(); BATCHES_MAX], count: 0, seen_ms }
    }

    /// Oldest first.
    pub(super) fn batches(&self) -> &[BatchStamp] {
        self.batches.get(..self.count).unwrap_or_default()
    }

    pub(super) fn push(&mut self, stamp: BatchStamp) {
        if self.count == BATCHES_MAX {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        if let Some(place) = self.batches.get_mut(self.count) {
            *place = stamp;
            self.count += 1;
        }
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
    pub(super) by_id: HashMap<i64, Producer>,
}

impl Producers {
    /// Decides whether a batch may be appended.
    pub(super) fn check(&self, batch: &Batch<'_>) -> Result<Sequenced, ProducerError> {
        let producer_id = batch.producer_id();
        if producer_id < 0 {
            return Ok(Sequenced::New);
        }
        let Some(producer) = self.by_id.get(&producer_id) else { return Ok(Sequenced::New) };
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

    /// Takes in a batch that was appended at `base_offset`, or is found there.
    pub(super) fn add(&mut self, batch: &Batch<'_>, base_offset: i64, steady_ms: i64) {
        let producer_id = batch.producer_id();
        if producer_id < 0 || batch.is_control() {
            return;
        }
        let epoch = batch.producer_epoch();
        let producer = self.by_id.entry(producer_id).or_insert_with(|| Producer::new(epoch, steady_ms));
        if producer.epoch != epoch {
            *producer = Producer::new(epoch, steady_ms);
        }
        producer.seen_ms = steady_ms;
        let offset_delta = batch.last_offset_delta();
        producer.push(BatchStamp {
            last_sequence: batch.last_sequence(),
            last_offset: base_offset + i64::from(offset_delta),
            offset_delta,
            timestamp: batch.max_timestamp(),
        });
    }

    /// Forgets the producers that sent nothing since `before_ms` of the steady clock.
    pub(super) fn expire(&mut self, before_ms: i64) {
        self.by_id.retain(|_, producer| producer.seen_ms >= before_ms);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn summaries(&self) -> Vec<ProducerSummary> {
        let summary = |(producer_id, producer): (&i64, &Producer)| {
            let last = producer.batches().last();
            ProducerSummary {
                producer_id: *producer_id,
                epoch: producer.epoch,
                last_sequence: last.map_or(-1, |stamp| stamp.last_sequence),
                last_offset: last.map_or(-1, |stamp| stamp.last_offset),
                last_timestamp: last.map_or(-1, |stamp| stamp.timestamp),
            }
        };
        self.by_id.iter().map(summary).collect()
    }
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
        if producer_id >= 0 && !producers.by_id.contains_key(&producer_id) {
            self.add(producer_id, batch.producer_epoch(), batch.base_sequence(), steady_ms);
        }
    }

    /// Takes note that what `before` knows is cut off, as far as `after` does not know it.
    pub(super) fn cut(&mut self, before: &Producers, after: &Producers, steady_ms: i64) {
        for (producer_id, producer) in &before.by_id {
            if let (false, Some(first)) = (after.by_id.contains_key(producer_id), producer.batches().first())
            {
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
                self.producers.add(&batch, self.next_offset, 1);
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
