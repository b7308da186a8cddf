//! The records of one partition that wait to be sent.
//!
//! Records are encoded straight into the open batch under a short lock. A batch is closed when it is full or when
//! the sender takes it. Invariant: batches leave in the order in which their first records came, and a queue is on
//! the sender's list at most once. Knows nothing of nodes or sequence numbers.

use super::{ProducerConfig, ProducerRecord, delivery::Completion, now_ms};
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Bytes that a record takes beside key, value and headers, at most.
const RECORD_OVERHEAD: usize = 32;

/// The queue of one partition.
#[derive(Debug)]
pub(super) struct PartitionQueue {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Number of this queue in its producer.
    pub(super) id: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Batch>,
    full: VecDeque<Batch>,
    /// Whether the sender has it on its list.
    listed: bool,
    /// Completions of batches that are not settled, oldest first.
    incomplete: VecDeque<Arc<Completion>>,
    /// Size that the last batch reached, the room for the next one.
    last_size: usize,
}

/// Records that will be sent together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) builder: BatchBuilder,
    pub(super) completion: Arc<Completion>,
    /// When its first record came.
    pub(super) since: Instant,
    /// Bytes of the producer's buffer that it holds.
    pub(super) reserved: usize,
}

/// A record's place.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) completion: Arc<Completion>,
    /// Which record of the batch.
    pub(super) index: u32,
    pub(super) tell_sender: Tell,
}

/// What the sender has to know of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Nothing: it waits for more, or is busy with the queue.
    Nothing,
    /// A batch is full.
    Full,
    /// The queue is to be put on its list.
    Listed,
}

/// What a queue has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    /// A batch that is not full, since this instant.
    Open(Instant),
    /// A full batch, since this instant.
    Full(Instant),
}

/// Bytes that a record reserves in the buffer: no less than it takes in its batch.
pub(super) fn reserved_len(record: &ProducerRecord<'_>) -> usize {
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + len(*value) + 10).sum::<usize>();
    len(record.key) + len(record.value) + headers + RECORD_OVERHEAD
}

impl PartitionQueue {
    pub(super) fn new(topic: Arc<str>, partition: i32, id: usize) -> PartitionQueue {
        PartitionQueue { topic, partition, id, state: Mutex::default() }
    }

    /// Appends records in order, for each of which its [`reserved_len`] of the buffer is held, and tells the place of the last.
    pub(super) fn append(&self, records: &[ProducerRecord<'_>], config: &ProducerConfig) -> Appended {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut closed = false;
        let mut place = None;
        for record in records {
            let reserved = reserved_len(record);
            // `reserved` is an upper bound, so a batch ends up to a record's overhead early.
            let is_full = |open: &mut Batch| open.builder.estimated_size() + reserved > config.batch_bytes;
            if let Some(open) = state.open.take_if(is_full) {
                state.close(open);
                closed = true;
            }
            let batch = match &mut state.open {
                Some(batch) => batch,
                None => {
                    let batch = state.new_batch(self.partition, reserved, config);
                    state.open.insert(batch)
                }
            };
            let timestamp = record.timestamp.unwrap_or_else(now_ms);
            batch.builder.push(timestamp, record.key, record.value, record.headers.iter().copied());
            batch.reserved += reserved;
            place = Some(batch.builder.len() as u32 - 1);
        }
        let open = state.open.as_ref().zip(place).expect("there is a record to append, into an open batch");
        let (completion, index) = (open.0.completion.clone(), open.1);
        let tell_sender = match (std::mem::replace(&mut state.listed, true), closed) {
            (false, _) => Tell::Listed,
            (true, true) => Tell::Full,
            (true, false) => Tell::Nothing,
        };
        Appended { completion, index, tell_sender }
    }

    /// What there is to send. Takes the queue off the sender's list if there is nothing.
    pub(super) fn waiting(&self) -> Waiting {
        let mut state = self.state.lock();
        match (state.full.front(), &state.open) {
            (Some(batch), _) => Waiting::Full(batch.since),
            (None, Some(batch)) => Waiting::Open(batch.since),
            (None, None) => {
                state.listed = false;
                Waiting::Nothing
            }
        }
    }

    /// The oldest batch, full or not.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        if let Some(batch) = state.full.pop_front() {
            return Some(batch);
        }
        let batch = state.open.take()?;
        state.last_size = batch.builder.estimated_size();
        Some(batch)
    }

    /// Forgets the completion of a batch that is settled.
    pub(super) fn settled(&self, completion: &Arc<Completion>) {
        let incomplete = &mut self.state.lock().incomplete;
        if let Some(at) = incomplete.iter().position(|waiting| Arc::ptr_eq(waiting, completion)) {
            incomplete.remove(at);
        }
    }

    /// Since when the oldest batch waits that is not settled.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.state.lock().incomplete.front().map(|oldest| oldest.since())
    }

    /// Completions of all batches that are not settled yet.
    pub(super) fn incomplete(&self) -> Vec<Arc<Completion>> {
        self.state.lock().incomplete.iter().cloned().collect()
    }
}

impl State {
    fn new_batch(&mut self, partition: i32, reserved: usize, config: &ProducerConfig) -> Batch {
        let since = Instant::now();
        let completion = Completion::new(partition, since);
        self.incomplete.push_back(completion.clone());
        let options = BatchOptions { compression: config.compression, ..Default::default() };
        let builder = BatchBuilder::with_capacity(options, self.last_size.max(reserved));
        Batch { builder, completion, since, reserved: 0 }
    }

    fn close(&mut self, batch: Batch) {
        self.last_size = batch.builder.estimated_size();
        self.full.push_back(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_batch_is_closed_and_batches_leave_in_order() {
        let queue = PartitionQueue::new(Arc::from("t"), 0, 0);
        let config = ProducerConfig::default().batch_bytes(200_usize);
        let record = ProducerRecord::to("t").value(&[7_u8; 40]);
        let reserved = reserved_len(&record);
        let told: Vec<_> = (0..4).map(|_| queue.append(&[record], &config).tell_sender).collect();
        assert_eq!(told, [Tell::Listed, Tell::Nothing, Tell::Full, Tell::Nothing]);
        assert!(matches!(queue.waiting(), Waiting::Full(_)));
        assert_eq!(queue.take().map(|batch| (batch.builder.len(), batch.reserved)), Some((2, 2 * reserved)));
        assert!(matches!(queue.waiting(), Waiting::Open(_)));
        assert_eq!(queue.take().map(|batch| batch.builder.len()), Some(2));
        assert_eq!(queue.waiting(), Waiting::Nothing);
        assert_eq!(queue.append(&[record], &config).tell_sender, Tell::Listed);
        assert_eq!(queue.incomplete().len(), 3);
    }

    #[test]
    fn records_in_a_run_are_placed_as_one_by_one() {
        let config = ProducerConfig::default().batch_bytes(200_usize);
        let record = ProducerRecord::to("t").value(&[7_u8; 40]).timestamp(5);
        let (queue, alone) =
            (PartitionQueue::new(Arc::from("t"), 0, 0), PartitionQueue::new(Arc::from("t"), 0, 1));
        let run = queue.append(&[record; 5], &config);
        let last = (0..5).map(|_| alone.append(&[record], &config)).last().unwrap();
        assert_eq!((run.index, run.tell_sender), (last.index, Tell::Listed));
        let taken = |queue: &PartitionQueue| {
            let batches = std::iter::from_fn(|| queue.take());
            batches.map(|batch| (batch.reserved, batch.builder.finish(0))).collect::<Vec<_>>()
        };
        assert_eq!(taken(&queue), taken(&alone));
        assert_eq!(queue.append(&[record; 9], &config).tell_sender, Tell::Full);
    }

    #[test]
    fn reservation_covers_the_encoded_record() {
        let value = vec![1_u8; 100_000];
        let headers: &[(&str, Option<&[u8]>)] = &[("a", None), ("bc", Some(&value))];
        let record = ProducerRecord::to("t").key(&value).value(&value).headers(headers);
        let builder = BatchBuilder::new(BatchOptions::default());
        let exact = builder.record_len(i64::MAX, record.key, record.value, record.headers.iter().copied());
        assert!((exact..exact + 64).contains(&reserved_len(&record)));
    }
}
