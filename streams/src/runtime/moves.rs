//! Hears of partitions that come and go, and passes it on to the worker's own loop.
//!
//! The consumer calls its listener from within a poll; tasks live on the worker's thread and cannot be lent to it.
//! So the listener sends the change over and waits until the worker has dealt with it.

use kappa_client::{
    Consumer, TopicPartition,
    consumer::{ListenerFuture, RebalanceListener},
};
use tokio::sync::{mpsc, oneshot};

/// A change of a worker's assignment.
#[derive(Debug)]
pub(super) enum Move {
    /// New here; nothing fetched yet.
    Assigned(Vec<TopicPartition>),
    /// About to go: the time to commit.
    Revoked(Vec<TopicPartition>),
    /// Everything has gone already.
    Lost,
}

/// A change, and whom to tell when it is dealt with.
pub(super) type Announced = (Move, oneshot::Sender<()>);

/// The listener of a worker's consumer.
#[derive(Debug, Clone)]
pub(super) struct Moves(pub(super) mpsc::Sender<Announced>);

impl Moves {
    fn announce(&self, change: Move) -> ListenerFuture<'static> {
        let (done, dealt) = oneshot::channel();
        let announced = self.0.clone();
        Box::pin(async move {
            if announced.send((change, done)).await.is_ok() {
                // An error means that the worker is gone, and its tasks with it.
                let _ = dealt.await;
            }
        })
    }
}

impl RebalanceListener for Moves {
    fn assigned<'a>(&'a mut self, _: &'a Consumer, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.announce(Move::Assigned(partitions.to_vec()))
    }

    fn revoked<'a>(&'a mut self, _: &'a Consumer, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.announce(Move::Revoked(partitions.to_vec()))
    }

    fn lost<'a>(&'a mut self, _: &'a Consumer, _: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.announce(Move::Lost)
    }
}
