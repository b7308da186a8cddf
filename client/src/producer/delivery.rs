//! How the fate of a record becomes known: one shared completion per batch, one small handle per record.

use super::{DeliveryError, RecordMetadata};
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::time::Instant;

/// Resolves when the record is acknowledged, or given up. It may be dropped: the record is sent all the same.
#[derive(Debug)]
pub struct Delivery {
    finished: Finished,
    /// Which record of the batch.
    index: u32,
}

impl Delivery {
    pub(super) fn new(batch: Arc<Completion>, index: u32) -> Delivery {
        Delivery { finished: Finished { batch, slot: None }, index }
    }

    /// What became of the record, if that is known already.
    pub fn try_result(&self) -> Option<Result<RecordMetadata, DeliveryError>> {
        let outcome = self.finished.batch.state.lock().outcome.clone()?;
        Some(outcome.map(|stored| self.metadata(stored)))
    }

    /// Whether both records go in one batch, and so share their fate.
    pub fn shares_batch(&self, other: &Delivery) -> bool {
        Arc::ptr_eq(&self.finished.batch, &other.finished.batch)
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> i32 {
        self.finished.batch.partition
    }

    fn metadata(&self, stored: Stored) -> RecordMetadata {
        let offset = stored.base_offset.map_or(-1, |base| base + i64::from(self.index));
        RecordMetadata { partition: self.partition(), offset, append_time: stored.append_time }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.finished).poll(cx));
        Poll::Ready(outcome.map(|stored| self.metadata(stored)))
    }
}

/// Where a batch was stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    /// Offset of its first record, if the broker told.
    pub(super) base_offset: Option<i64>,
    pub(super) append_time: Option<i64>,
}

/// The fate of a batch, shared by the handles of its records.
#[derive(Debug)]
pub(super) struct Completion {
    partition: i32,
    /// When its first record came.
    since: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<Stored, DeliveryError>>,
    wakers: Vec<Waker>,
}

impl Completion {
    pub(super) fn new(partition: i32, since: Instant) -> Arc<Completion> {
        Arc::new(Completion { partition, since, state: Mutex::default() })
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn partition(&self) -> i32 {
        self.partition
    }

    /// Settles it, once, and wakes who waits.
    pub(super) fn complete(&self, outcome: Result<Stored, DeliveryError>) {
        let mut state = self.state.lock();
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Waits for a batch.
#[derive(Debug)]
pub(super) struct Finished {
    batch: Arc<Completion>,
    /// Where this handle's waker is, once it has waited.
    slot: Option<usize>,
}

impl Finished {
    pub(super) fn new(batch: Arc<Completion>) -> Finished {
        Finished { batch, slot: None }
    }
}

impl Future for Finished {
    type Output = Result<Stored, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.batch.state.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        match this.slot.and_then(|slot| state.wakers.get_mut(slot)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                this.slot = Some(state.wakers.len());
                state.wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}
