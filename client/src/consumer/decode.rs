//! What a fetch brought for one partition: its batches in order, without those that the reader must not see.
//!
//! A batch's checksum does not cover its base offset, so that is held against what is around the batch: the position,
//! the batch before, and the end that the broker told. Invariant: what is handed on ascends and lies between them. No I/O.

use super::{
    Damage, FetchedBatch, IsolationLevel,
    exchange::{Fetched, Progress, Wish},
};
use bytes::Bytes;
use kappa_protocol::{
    Records,
    limits::BATCH_DECOMPRESSED_BYTES_MAX,
    messages::fetch_response::{AbortedTransaction, PartitionData},
    record::{BatchError, DecodedBatch},
};
use std::{collections::HashSet, sync::Arc};

/// Decodes what the broker answered for `wish`, as far as it is sound.
pub(super) fn decode(wish: &Wish, isolation: IsolationLevel, data: PartitionData) -> Fetched {
    let progress = Progress {
        high_watermark: data.high_watermark,
        last_stable_offset: data.last_stable_offset,
        log_start_offset: data.log_start_offset,
    };
    let mut fetched = Fetched::nothing(wish, None);
    fetched.progress = Some(progress);
    let mut aborted = Aborted::new(isolation, data.aborted_transactions);
    let records = data.records.unwrap_or_default();
    let mut batches = Batches::new(&records);
    let mut order = Order::new(wish, progress.high_watermark);
    loop {
        let batch = match batches.next() {
            Ok(Some(batch)) => batch,
            // A broker sends at least one whole batch, if it sends anything.
            Ok(None) if order.is_at_first() && !batches.rest.is_empty() => {
                let available = batches.rest.len();
                let needed = batches.needed.unwrap_or(available);
                let cut = BatchError::Incomplete { needed, available };
                fetched.damage(wish, Damage::Batch(Arc::new(cut)));
                break;
            }
            Ok(None) => break,
            Err(reason) => {
                fetched.damage(wish, Damage::Batch(Arc::new(reason)));
                break;
            }
        };
        let start = fetched.next_offset;
        match order.place(&batch) {
            Place::Next => {}
            Place::Unsure => {
                fetched.is_doubtful = true;
                break;
            }
            Place::Wrong(damage) => {
                fetched.damage(wish, damage);
                break;
            }
            Place::BeforeWrong { start, damage } => {
                fetched.batches.pop_if(|batch| batch.start == start);
                fetched.next_offset = start;
                fetched.damage(wish, damage);
                break;
            }
        }
        fetched.next_offset = batch.next_offset();
        if aborted.hides(&batch) || batch.count() == 0 {
            continue;
        }
        fetched.batches.push(FetchedBatch {
            partition: wish.partition.clone(),
            batch,
            start,
            high_watermark: progress.high_watermark,
            last_stable_offset: progress.last_stable_offset,
            log_start_offset: progress.log_start_offset,
        });
    }
    fetched
}

/// Where a batch lies.
#[derive(Debug)]
enum Place {
    /// Where it belongs.
    Next,
    /// Past the end that the broker told. Brokers may tell the end as it was before they read, so the next answer decides.
    Unsure,
    /// Where it cannot belong.
    Wrong(Damage),
    /// Where the one before it belongs: that one, which was to begin at `start`, is out of place.
    BeforeWrong { start: i64, damage: Damage },
}

/// Follows the offsets of an answer's batches.
struct Order {
    /// The next batch must end behind this and, unless it is the first, not begin before it.
    next_offset: i64,
    /// The batch before.
    before: Option<Span>,
    /// End of what the broker has to give.
    end: i64,
    /// The answer before this one ended here, at a batch past its end.
    is_doubted: bool,
}

/// The offsets of a batch, and what was expected.
#[derive(Clone, Copy)]
struct Span {
    start: i64,
    base: i64,
    next: i64,
}

impl Order {
    fn new(wish: &Wish, high_watermark: i64) -> Order {
        // A negative one says nothing.
        let end = if high_watermark < 0 { i64::MAX } else { high_watermark };
        Order { next_offset: wish.offset, before: None, end, is_doubted: wish.is_doubted }
    }

    fn is_at_first(&self) -> bool {
        self.before.is_none()
    }

    fn place(&mut self, batch: &DecodedBatch) -> Place {
        let start = self.next_offset;
        let span = Span { start, base: batch.base_offset(), next: batch.next_offset() };
        let follows = span.next > start && (self.is_at_first() || span.base >= start);
        if !follows {
            return match self.before {
                // The one before left a gap, and this one lies in it.
                Some(before) if before.base > before.start && span.base >= before.start => {
                    Place::BeforeWrong { start: before.start, damage: before.damage() }
                }
                _ => Place::Wrong(span.damage()),
            };
        }
        if span.next > self.end {
            let is_sure = self.is_doubted && self.is_at_first();
            return if is_sure { Place::Wrong(span.damage()) } else { Place::Unsure };
        }
        self.next_offset = span.next;
        self.before = Some(span);
        Place::Next
    }
}

impl Span {
    fn damage(self) -> Damage {
        Damage::Misplaced { base_offset: self.base, last_offset: self.next - 1 }
    }
}

/// Takes batches off the pieces of a response.
struct Batches {
    pieces: std::vec::IntoIter<Bytes>,
    rest: Bytes,
    /// Bytes that the batch takes of which `rest` is the beginning.
    needed: Option<usize>,
}

impl Batches {
    fn new(records: &Records) -> Batches {
        let pieces = records.slices().cloned().collect::<Vec<_>>().into_iter();
        Batches { pieces, rest: Bytes::new(), needed: None }
    }

    /// The next batch; `None` at the end, and where the response was cut within a batch.
    fn next(&mut self) -> Result<Option<DecodedBatch>, BatchError> {
        loop {
            if !self.rest.is_empty() {
                match DecodedBatch::split_from(&mut self.rest, BATCH_DECOMPRESSED_BYTES_MAX) {
                    Err(BatchError::Incomplete { needed, .. }) => self.needed = Some(needed),
                    outcome => return outcome.map(Some),
                }
            }
            let Some(piece) = self.pieces.next() else { return Ok(None) };
            self.rest = match self.rest.len() {
                0 => piece,
                // A batch that spans pieces is joined.
                _ => Bytes::from([&self.rest[..], &piece[..]].concat()),
            };
        }
    }
}

/// Which transactional batches a reader of committed records must not see.
struct Aborted {
    isolation: IsolationLevel,
    /// By first offset, the last one first.
    upcoming: Vec<AbortedTransaction>,
    producers: HashSet<i64>,
}

impl Aborted {
    fn new(isolation: IsolationLevel, transactions: Option<Vec<AbortedTransaction>>) -> Aborted {
        let mut upcoming = transactions.unwrap_or_default();
        upcoming.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Aborted { isolation, upcoming, producers: HashSet::new() }
    }

    /// Whether the batch is no data, or of an aborted transaction. To be asked of every batch, in order.
    fn hides(&mut self, batch: &DecodedBatch) -> bool {
        let header = batch.header();
        let begun = |transaction: &mut AbortedTransaction| transaction.first_offset < header.next_offset();
        while let Some(transaction) = self.upcoming.pop_if(begun) {
            self.producers.insert(transaction.producer_id);
        }
        if header.is_control() {
            // Whether it aborts or commits, the transaction ends here.
            self.producers.remove(&header.producer_id());
            return true;
        }
        self.isolation == IsolationLevel::ReadCommitted
            && header.is_transactional()
            && self.producers.contains(&header.producer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicPartition;
    use kappa_protocol::record::{BatchBuilder, BatchOptions, ProducerStamp};

    fn batch(base_offset: i64, id: i64, control: bool) -> Bytes {
        let producer = Some(ProducerStamp { id, epoch: 0, sequence: 0 });
        let mut builder =
            BatchBuilder::new(BatchOptions { producer, transactional: true, control, ..Default::default() });
        builder.push(0, Some(&[0, 0, 0, 0]), Some(&[0; 6]), []);
        builder.finish(base_offset)
    }

    #[test]
    fn batches_are_taken_across_pieces_and_a_cut_tail_is_left() {
        let (first, second) = (batch(0, 1, false), batch(1, 1, false));
        let pieces =
            vec![first.slice(..20), Bytes::from([&first[20..], &second[..]].concat()), first.slice(..30)];
        let mut batches = Batches::new(&Records::from(pieces));
        let mut offsets = Vec::new();
        while let Some(batch) = batches.next().unwrap() {
            offsets.push(batch.base_offset());
        }
        assert_eq!(offsets, [0, 1]);
    }

    #[test]
    fn reader_of_committed_records_sees_neither_aborted_nor_control_batches() {
        let transaction = AbortedTransaction { producer_id: 7, first_offset: 1 };
        let stored = [(0, 7, false), (1, 7, false), (2, 8, false), (3, 7, true), (4, 7, false)];
        for (isolation, visible) in [
            (IsolationLevel::ReadCommitted, vec![0, 2, 4]),
            (IsolationLevel::ReadUncommitted, vec![0, 1, 2, 4]),
        ] {
            let mut aborted = Aborted::new(isolation, Some(vec![transaction.clone()]));
            let batches = stored.iter().map(|(offset, id, control)| {
                DecodedBatch::decode(batch(*offset, *id, *control), 1000).unwrap()
            });
            let seen: Vec<_> =
                batches.filter(|batch| !aborted.hides(batch)).map(|batch| batch.base_offset()).collect();
            assert_eq!(seen, visible, "{isolation:?}");
        }
    }

    /// Offsets handed on, where the next fetch goes on, and the damage told.
    type Outcome = (Vec<i64>, i64, Option<String>);

    fn decoded(offset: i64, is_doubted: bool, high_watermark: i64, stored: &[(i64, i64)]) -> (Outcome, bool) {
        let wish = Wish { partition: TopicPartition::new("t", 0), version: 0, offset, is_doubted };
        let batches = stored.iter().map(|(base_offset, records)| {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            (0..*records).for_each(|_| builder.push(0, None, Some(b"v"), []));
            builder.finish(*base_offset)
        });
        let data = PartitionData {
            high_watermark,
            records: Some(Records::from(batches.collect::<Vec<_>>())),
            ..Default::default()
        };
        let fetched = decode(&wish, IsolationLevel::ReadUncommitted, data);
        let offsets = fetched.batches.iter().map(|batch| batch.batch.base_offset()).collect();
        let error = fetched.error.map(|error| error.to_string());
        ((offsets, fetched.next_offset, error), fetched.is_doubtful)
    }

    #[test]
    fn batches_in_order_are_handed_on_with_the_gaps_between_them() {
        let stored = [(8, 5), (13, 1), (20, 2), (22, 3)];
        assert_eq!(decoded(10, false, 25, &stored), ((vec![8, 13, 20, 22], 25, None), false));
        assert_eq!(decoded(10, false, -1, &stored), ((vec![8, 13, 20, 22], 25, None), false));
    }

    #[test]
    fn batch_out_of_place_is_damage_and_the_position_stays_before_it() {
        for (stored, offsets, next_offset, place) in [
            // Led back, at first and behind others.
            (&[(2, 5), (15, 5)][..], vec![], 10, "2 to 6"),
            (&[(10, 5), (7, 5), (20, 5)], vec![10], 15, "7 to 11"),
            (&[(10, 5), (12, 5)], vec![10], 15, "12 to 16"),
            // Led ahead, to where others are.
            (&[(10, 5), (47, 5), (20, 5)], vec![10], 15, "47 to 51"),
            (&[(42, 5), (15, 5)], vec![], 10, "42 to 46"),
        ] {
            let ((found, next, error), is_doubtful) = decoded(10, false, 100, stored);
            assert_eq!((found, next, is_doubtful), (offsets, next_offset, false), "{stored:?}");
            let error = error.unwrap();
            assert!(error.contains(&format!("t-0 is damaged at offset {next_offset}")), "{error}");
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn batch_past_the_end_is_damage_when_the_next_answer_says_so_too() {
        let stored = [(10, 5), (1 << 40, 5)];
        assert_eq!(decoded(10, false, 20, &stored), ((vec![10], 15, None), true));
        assert_eq!(decoded(15, false, 20, &stored[1..]), ((vec![], 15, None), true));
        let ((found, next, error), is_doubtful) = decoded(15, true, 20, &stored[1..]);
        assert_eq!((found, next, is_doubtful), (vec![], 15, false));
        assert!(error.unwrap().contains("1099511627776 to 1099511627780"));
        // The end was told as it was before the read.
        assert_eq!(decoded(15, true, 20, &[(15, 5)]), ((vec![15], 20, None), false));
    }

    #[test]
    fn answer_without_one_whole_batch_is_damage() {
        let wish = Wish { partition: TopicPartition::new("t", 0), version: 0, offset: 3, is_doubted: false };
        for (len, is_damage) in [(0, false), (30, true), (70, true)] {
            let records = Some(Records::from(vec![batch(3, 1, false).slice(..len)]));
            let data = PartitionData { high_watermark: 9, records, ..Default::default() };
            let fetched = decode(&wish, IsolationLevel::ReadUncommitted, data);
            assert_eq!((fetched.error.is_some(), fetched.next_offset), (is_damage, 3), "{len}");
        }
    }
}
