//! What the producer's callers and its task share: queues, the bound on buffered bytes, and what has to be woken.

use super::{
    DeliveryError, ProducerConfig, SendError,
    delivery::{Completion, Stored},
    queue::PartitionQueue,
    topics::Topics,
};
use crate::RequestError;
use parking_lot::Mutex;
use std::{
    fmt,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// What waits for its acknowledgement, and what is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Records that were taken and are neither acknowledged nor given up.
    pub records: usize,
    /// How long records have waited without any being acknowledged or given up.
    pub stalled: Duration,
    /// What the last attempt met, if none has succeeded since.
    pub obstacle: Option<RequestError>,
}

/// Says whether records may be sent at the moment.
pub(super) struct Gate(pub(super) Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").finish_non_exhaustive()
    }
}

/// Shared between the handles of one producer and its task.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: ProducerConfig,
    pub(super) topics: Topics,
    /// Asked before each request whether records may be sent.
    pub(super) gate: OnceLock<Gate>,
    /// Wakes the task.
    pub(super) wake: Notify,
    /// Queues that the task does not know to have records.
    listed: Mutex<Vec<Arc<PartitionQueue>>>,
    buffered: AtomicUsize,
    /// Wakes those who wait for room.
    room: Notify,
    /// Those who wait for room or a flush: nothing lingers meanwhile.
    hurrying: AtomicUsize,
    unacknowledged: AtomicUsize,
    /// First failure since the last flush.
    failure: Mutex<Option<DeliveryError>>,
    /// What the last attempt to deliver met, if none has succeeded since.
    obstacle: Mutex<Option<RequestError>>,
    /// When a batch was settled last.
    settled_at: Mutex<Instant>,
    /// No record is taken any more.
    closed: AtomicBool,
    /// A record was not delivered, and none behind it is to be.
    stopped: AtomicBool,
    /// The task is to end.
    stopping: AtomicBool,
    /// The task has ended.
    ended: AtomicBool,
}

/// Nothing lingers while this lives.
pub(super) struct Hurry<'a>(&'a Shared);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurrying.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(config: ProducerConfig) -> Shared {
        Shared {
            config,
            topics: Topics::default(),
            gate: OnceLock::new(),
            wake: Notify::new(),
            listed: Mutex::default(),
            buffered: AtomicUsize::new(0),
            room: Notify::new(),
            hurrying: AtomicUsize::new(0),
            unacknowledged: AtomicUsize::new(0),
            failure: Mutex::default(),
            obstacle: Mutex::default(),
            settled_at: Mutex::new(Instant::now()),
            closed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Whether records may be sent at the moment.
    pub(super) fn is_open(&self) -> bool {
        self.gate.get().is_none_or(|gate| (gate.0)())
    }

    /// Takes `len` bytes of the buffer for so many records.
    pub(super) fn reserve(&self, records: usize, len: usize) -> Result<(), SendError> {
        let max = self.config.buffer_bytes;
        let buffered = self.buffered.fetch_add(len, Ordering::Relaxed);
        // A record larger than the whole buffer may go alone.
        if buffered + len <= max || buffered == 0 {
            self.unacknowledged.fetch_add(records, Ordering::Relaxed);
            return Ok(());
        }
        self.release(len);
        Err(SendError::Full { buffered, max })
    }

    /// Gives back what records took that were not queued in the end.
    pub(super) fn unreserve(&self, records: usize, len: usize) {
        self.unacknowledged.fetch_sub(records, Ordering::Relaxed);
        self.release(len);
    }

    fn release(&self, len: usize) {
        self.buffered.fetch_sub(len, Ordering::Release);
        self.room.notify_waiters();
    }

    /// Waits until a record of `len` bytes would be taken.
    pub(super) async fn wait_for_room(&self, len: usize) {
        let _hurry = self.hurry();
        loop {
            let mut released = pin!(self.room.notified());
            released.as_mut().enable();
            let buffered = self.buffered.load(Ordering::Acquire);
            if buffered == 0 || buffered + len <= self.config.buffer_bytes || self.is_closed() {
                return;
            }
            released.await;
        }
    }

    /// Makes the task send what it has.
    pub(super) fn hurry(&self) -> Hurry<'_> {
        self.hurrying.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
        Hurry(self)
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurrying.load(Ordering::Relaxed) > 0
    }

    /// Tells the task of a queue that has records again.
    pub(super) fn list(&self, queue: &Arc<PartitionQueue>) {
        self.listed.lock().push(queue.clone());
        self.wake.notify_one();
    }

    pub(super) fn take_listed(&self) -> Vec<Arc<PartitionQueue>> {
        std::mem::take(&mut *self.listed.lock())
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged.load(Ordering::Relaxed)
    }

    /// A batch's fate is known.
    pub(super) fn settle(
        &self,
        queue: &PartitionQueue,
        completion: &Arc<Completion>,
        records: usize,
        reserved: usize,
        outcome: Result<Stored, DeliveryError>,
    ) {
        *self.settled_at.lock() = Instant::now();
        match &outcome {
            Ok(_) => *self.obstacle.lock() = None,
            Err(failure) => {
                self.failure.lock().get_or_insert_with(|| failure.clone());
                if self.config.stop_on_failure {
                    tracing::debug!(records, %failure, "records were not delivered");
                    self.stopped.store(true, Ordering::SeqCst);
                    self.close();
                } else {
                    tracing::warn!(records, %failure, "records were not delivered");
                }
            }
        }
        self.unacknowledged.fetch_sub(records, Ordering::Relaxed);
        self.release(reserved);
        completion.complete(outcome);
        queue.settled(completion);
    }

    /// The first failure since this was last asked.
    pub(super) fn take_failure(&self) -> Option<DeliveryError> {
        self.failure.lock().take()
    }

    /// An attempt to deliver failed, and there will be another.
    pub(super) fn meet(&self, obstacle: RequestError) {
        *self.obstacle.lock() = Some(obstacle);
    }

    pub(super) fn obstacle(&self) -> Option<RequestError> {
        self.obstacle.lock().clone()
    }

    /// What waits, and why; `None` if nothing does.
    pub(super) fn backlog(&self) -> Option<Backlog> {
        let oldest = self.topics.queues().iter().filter_map(|queue| queue.waits_since()).min()?;
        let since = oldest.max(*self.settled_at.lock());
        let obstacle = self.obstacle();
        Some(Backlog { records: self.unacknowledged(), stalled: since.elapsed(), obstacle })
    }

    /// Whether the producer has stopped at a record that was not delivered.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Takes no more records.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.room.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Asks the task to end.
    pub(super) fn stop(&self) {
        self.close();
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The task ends: what is queued from here on, its queuer fails.
    pub(super) fn end(&self) {
        self.close();
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Fails everything that is still queued.
    pub(super) fn fail_queues(&self) {
        self.topics.queues().iter().for_each(|queue| self.fail_queue(queue));
    }

    /// Fails what is queued for one partition, after the task has ended.
    pub(super) fn fail_queue(&self, queue: &PartitionQueue) {
        while let Some(batch) = queue.take() {
            let outcome = Err(DeliveryError::Closed);
            self.settle(queue, &batch.completion, batch.builder.len(), batch.reserved, outcome);
        }
    }
}

impl fmt::Display for PartitionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
