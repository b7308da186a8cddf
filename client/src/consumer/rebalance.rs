//! What an application does when partitions come and go.

use super::Consumer;
use crate::TopicPartition;
use std::{future::Future, pin::Pin};

/// What a listener's methods return: work that [`Consumer::poll`] awaits.
pub type ListenerFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Told of changes of a consumer's assignment, within [`Consumer::poll`] and [`Consumer::close`], on the caller's
/// own task; so nothing is taken away while records are being processed.
///
/// A poll that is dropped while it awaits a listener calls it once more, for the same change, the next time.
pub trait RebalanceListener: Send {
    /// These partitions are new here; nothing has been fetched from them yet, so a seek takes effect.
    fn assigned<'a>(
        &'a mut self,
        consumer: &'a Consumer,
        partitions: &'a [TopicPartition],
    ) -> ListenerFuture<'a> {
        let _ = (consumer, partitions);
        Box::pin(std::future::ready(()))
    }

    /// These partitions are about to go to another member, once this returns: the time to commit.
    fn revoked<'a>(
        &'a mut self,
        consumer: &'a Consumer,
        partitions: &'a [TopicPartition],
    ) -> ListenerFuture<'a> {
        let _ = (consumer, partitions);
        Box::pin(std::future::ready(()))
    }

    /// These partitions may already belong to another member, since the group dropped this one: a commit fails.
    fn lost<'a>(
        &'a mut self,
        consumer: &'a Consumer,
        partitions: &'a [TopicPartition],
    ) -> ListenerFuture<'a> {
        self.revoked(consumer, partitions)
    }
}

/// Listens to nothing.
impl RebalanceListener for () {}
