//! The batches of one partition between its queue and their acknowledgement: numbering, retries, order.
//!
//! Batches are numbered when they are first sent. When one comes back unacknowledged, nothing more is sent until all
//! others in flight have come back too; then they are sent again in their order, with their old numbers, so that the
//! broker recognises what it has. Only when it refuses the oldest as out of order, which means that it has none of
//! them, are they numbered anew under the next epoch: that can neither lose nor duplicate a record.
//! A state machine without I/O or clock.

use super::{
    delivery::Completion,
    queue::{Batch, PartitionQueue, Waiting},
};
use crate::{RequestError, routing::backoff::Backoff};
use bytes::{BufMut, Bytes};
use kappa_protocol::{
    ErrorCode,
    record::{ProducerStamp, crc32c},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Producer id and epoch.
pub(super) type Identity = (i64, i16);

/// A batch as it goes over the wire.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) bytes: Bytes,
    pub(super) records: i32,
    pub(super) completion: Arc<Completion>,
    pub(super) reserved: usize,
    pub(super) since: Instant,
    /// Why the last attempt failed.
    pub(super) failure: Option<RequestError>,
    /// Place in the partition's order.
    order: u64,
}

/// What an answer means for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored.
    Stored,
    /// Send it again; if so told, after asking who leads the partition.
    Retry { stale: bool },
    /// The broker does not have it, nor what follows: number them anew.
    Renumber,
    /// It will never be stored.
    Failed,
}

/// One partition's batches.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) queue: Arc<PartitionQueue>,
    /// Node of the batches in flight.
    pub(super) node: Option<i32>,
    /// No batch is sent again before this.
    pub(super) not_before: Option<Instant>,
    pub(super) backoff: Backoff,
    /// Whether the sender has it among those with something to send.
    pub(super) active: bool,
    identity: Option<Identity>,
    next_sequence: i32,
    next_order: u64,
    /// Batches that came back, in order.
    returned: VecDeque<Sealed>,
    in_flight: usize,
    /// All have come back, and `returned` is being sent again.
    resending: bool,
    /// Number `returned` anew before.
    renumber: bool,
}

impl Flow {
    pub(super) fn new(queue: Arc<PartitionQueue>, backoff: Backoff) -> Flow {
        Flow {
            queue,
            node: None,
            not_before: None,
            backoff,
            active: false,
            identity: None,
            next_sequence: 0,
            next_order: 0,
            returned: VecDeque::new(),
            in_flight: 0,
            resending: false,
            renumber: false,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What can be sent now, as far as order allows.
    pub(super) fn waiting(&self) -> Waiting {
        match self.returned.front() {
            Some(_) if !self.resending && self.in_flight > 0 => Waiting::Nothing,
            Some(batch) => Waiting::Full(batch.since),
            None => self.queue.waiting(),
        }
    }

    /// Whether there is anything left to send, now or later.
    pub(super) fn is_idle(&self) -> bool {
        self.returned.is_empty() && self.in_flight == 0 && self.queue.waiting() == Waiting::Nothing
    }

    /// The next batch to send, numbered by `identity` if there is one.
    pub(super) fn next(&mut self, identity: Option<Identity>) -> Option<Sealed> {
        if !self.returned.is_empty() {
            if self.in_flight == 0 {
                self.resending = true;
                self.renumber_returned(identity);
            }
            let batch = if self.resending { self.returned.pop_front() } else { None }?;
            self.in_flight += 1;
            return Some(batch);
        }
        self.resending = false;
        let batch = self.queue.take()?;
        self.in_flight += 1;
        Some(self.seal(batch, identity))
    }

    fn seal(&mut self, batch: Batch, identity: Option<Identity>) -> Sealed {
        let records = i32::try_from(batch.builder.len()).expect("a batch holds at most i32::MAX records");
        let stamp = self.stamp(identity, records);
        let order = self.next_order;
        self.next_order += 1;
        Sealed {
            bytes: batch.builder.finish_with(0, stamp),
            records,
            completion: batch.completion,
            reserved: batch.reserved,
            since: batch.since,
            failure: None,
            order,
        }
    }

    /// The numbers of the next `records` records. A partition keeps the identity that it began with.
    fn stamp(&mut self, identity: Option<Identity>, records: i32) -> Option<ProducerStamp> {
        if self.identity.is_none() {
            self.identity = identity;
            self.next_sequence = 0;
        }
        let (id, epoch) = self.identity?;
        let sequence = self.next_sequence;
        // Sequences wrap from the largest to 0.
        self.next_sequence = sequence.wrapping_add(records) & i32::MAX;
        Some(ProducerStamp { id, epoch, sequence })
    }

    /// Starts over under the next epoch, or under `identity` when the epochs are used up.
    fn renumber_returned(&mut self, identity: Option<Identity>) {
        if !std::mem::take(&mut self.renumber) {
            return;
        }
        self.identity = match self.identity {
            Some((id, epoch)) if epoch < i16::MAX => Some((id, epoch + 1)),
            _ => identity,
        };
        self.next_sequence = 0;
        let mut returned = std::mem::take(&mut self.returned);
        for batch in &mut returned {
            if let Some(stamp) = self.stamp(identity, batch.records) {
                batch.bytes = restamped(&batch.bytes, stamp);
            }
        }
        self.returned = returned;
    }

    /// Whether the epochs of the producer id are used up, so that going on takes another id.
    pub(super) fn needs_identity(&self) -> bool {
        self.renumber && self.identity.is_some_and(|(_, epoch)| epoch == i16::MAX)
    }

    /// What `code` means for a batch of this partition that was just answered.
    pub(super) fn verdict(&self, batch: &Sealed, code: ErrorCode) -> Verdict {
        let is_oldest = self.returned.front().is_none_or(|first| batch.order < first.order);
        match code {
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Verdict::Stored,
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::ProducerFenced
                if self.identity.is_some() =>
            {
                // Behind one that came back, it was refused because of that one.
                if is_oldest { Verdict::Renumber } else { Verdict::Retry { stale: false } }
            }
            ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::KafkaStorageError => Verdict::Retry { stale: true },
            code if code.is_retriable() => Verdict::Retry { stale: false },
            _ => Verdict::Failed,
        }
    }

    /// A batch in flight is settled.
    pub(super) fn settled(&mut self) {
        self.in_flight -= 1;
        self.backoff.reset();
    }

    /// A batch in flight came back and is to be sent again.
    pub(super) fn take_back(&mut self, batch: Sealed, renumber: bool, now: Instant) {
        self.in_flight -= 1;
        self.resending = false;
        self.renumber |= renumber;
        if self.returned.is_empty() || self.not_before.is_none_or(|instant| instant <= now) {
            self.not_before = Some(now + self.backoff.next());
        }
        let at = self.returned.partition_point(|other| other.order < batch.order);
        self.returned.insert(at, batch);
    }

    /// Takes out the next batch that is older than `oldest`, if it is not in flight.
    pub(super) fn expired(&mut self, oldest: Instant) -> Option<Sealed> {
        if self.returned.front().is_some_and(|batch| batch.since < oldest) {
            return self.returned.pop_front();
        }
        let waits = |since: Instant| since < oldest;
        match self.queue.waiting() {
            Waiting::Open(since) | Waiting::Full(since) if waits(since) && self.returned.is_empty() => {
                let batch = self.queue.take()?;
                let order = self.next_order;
                self.next_order += 1;
                Some(Sealed {
                    bytes: Bytes::new(),
                    records: i32::try_from(batch.builder.len()).unwrap_or(i32::MAX),
                    completion: batch.completion,
                    reserved: batch.reserved,
                    since: batch.since,
                    failure: None,
                    order,
                })
            }
            _ => None,
        }
    }

    /// Since when the oldest batch that is not in flight waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        match (self.returned.front(), self.queue.waiting()) {
            (Some(batch), _) => Some(batch.since),
            (None, Waiting::Open(since) | Waiting::Full(since)) => Some(since),
            (None, Waiting::Nothing) => None,
        }
    }
}

/// The batch with another producer stamp, and the checksum that goes with it.
fn restamped(batch: &[u8], stamp: ProducerStamp) -> Bytes {
    let (head, tail) = batch.split_at_checked(57).expect("a batch has a header of 61 bytes");
    let mut out = Vec::with_capacity(batch.len());
    out.put_slice(head.get(..43).expect("57 bytes are more than 43"));
    out.put_i64(stamp.id);
    out.put_i16(stamp.epoch);
    out.put_i32(stamp.sequence);
    out.put_slice(tail);
    let crc = crc32c(out.get(21..).expect("a batch has a header of 61 bytes"));
    let mut field = out.get_mut(17..21).expect("a batch has a header of 61 bytes");
    field.put_u32(crc);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::{ProducerConfig, ProducerRecord};
    use kappa_protocol::record::Batch as View;
    use std::time::Duration;

    fn flow(batches: usize) -> Flow {
        let queue = Arc::new(PartitionQueue::new(Arc::from("t"), 0, 0));
        let config = ProducerConfig::default().batch_bytes(1_usize);
        let record = ProducerRecord::to("t").value("v");
        for _ in 0..batches {
            queue.append(&[record], &config);
        }
        Flow::new(queue, Backoff::new(Duration::ZERO, Duration::ZERO))
    }

    fn numbers(batch: &Sealed) -> (i16, i32) {
        let view = View::produced(&batch.bytes).unwrap();
        (view.producer_epoch(), view.base_sequence())
    }

    const IDENTITY: Option<Identity> = Some((7, 0));

    #[test]
    fn batches_that_came_back_are_sent_again_in_order_with_their_numbers_once_all_are_back() {
        let mut flow = flow(4);
        let now = Instant::now();
        let mut sent: Vec<_> = (0..3).map(|_| flow.next(IDENTITY).unwrap()).collect();
        assert_eq!(sent.iter().map(numbers).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
        let third = sent.pop().unwrap();
        let second = sent.pop().unwrap();
        flow.take_back(sent.pop().unwrap(), false, now);
        assert_eq!(
            flow.verdict(&second, ErrorCode::OutOfOrderSequenceNumber),
            Verdict::Retry { stale: false }
        );
        flow.take_back(second, false, now);
        assert_eq!(flow.waiting(), Waiting::Nothing);
        assert!(flow.next(IDENTITY).is_none());
        flow.take_back(third, false, now);
        let again: Vec<_> = (0..4).map(|_| numbers(&flow.next(IDENTITY).unwrap())).collect();
        assert_eq!(again, [(0, 0), (0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn oldest_batch_refused_as_out_of_order_starts_a_new_epoch() {
        let mut flow = flow(3);
        let now = Instant::now();
        let first = flow.next(IDENTITY).unwrap();
        let second = flow.next(IDENTITY).unwrap();
        assert_eq!(flow.verdict(&first, ErrorCode::OutOfOrderSequenceNumber), Verdict::Renumber);
        flow.take_back(first, true, now);
        flow.take_back(second, false, now);
        let again: Vec<_> = (0..3).map(|_| numbers(&flow.next(IDENTITY).unwrap())).collect();
        assert_eq!(again, [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn sequences_wrap_and_expired_batches_leave_oldest_first() {
        let mut flow = flow(3);
        flow.identity = IDENTITY;
        flow.next_sequence = i32::MAX;
        let first = flow.next(IDENTITY).unwrap();
        assert_eq!(numbers(&first), (0, i32::MAX));
        assert_eq!(numbers(&flow.next(IDENTITY).unwrap()), (0, 0));
        let order = first.order;
        flow.take_back(first, false, Instant::now());
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(flow.expired(later).map(|batch| batch.order), Some(order));
        assert!(flow.expired(later).is_some());
        assert!(flow.expired(later).is_none());
    }
}
