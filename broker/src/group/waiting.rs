//! A request that waits for its group.
//!
//! Invariant: dropping it tells the group that nobody waits any more, and does nothing else.

use super::shard::Shard;
use super::state::Ticket;
use super::{GroupError, GroupId};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// The answer to a join or a sync, once there is one. A coordinator that stops answers `NotAvailable`.
#[derive(Debug)]
#[must_use]
pub(crate) struct Waiting<T> {
    answer: oneshot::Receiver<Result<T, GroupError>>,
    registered: Option<(Arc<Shard>, GroupId, Ticket)>,
}

impl<T> Waiting<T> {
    pub(super) fn new(
        answer: oneshot::Receiver<Result<T, GroupError>>,
        shard: Arc<Shard>,
        group: GroupId,
        ticket: Ticket,
    ) -> Self {
        Self { answer, registered: Some((shard, group, ticket)) }
    }

    /// The answer, if it is already there; else the wait for it.
    ///
    /// # Errors
    /// Not a failure: itself, when it has to wait.
    pub(crate) fn now(mut self) -> Result<Result<T, GroupError>, Self> {
        match self.answer.try_recv() {
            Ok(answer) => {
                self.registered = None;
                Ok(answer)
            }
            Err(oneshot::error::TryRecvError::Empty) => Err(self),
            Err(oneshot::error::TryRecvError::Closed) => Ok(Err(GroupError::NotAvailable)),
        }
    }
}

impl<T> Future for Waiting<T> {
    type Output = Result<T, GroupError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        self.registered = None;
        Poll::Ready(answer.unwrap_or(Err(GroupError::NotAvailable)))
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        if let Some((shard, group, ticket)) = self.registered.take() {
            shard.cancel(&group, ticket);
        }
    }
}
