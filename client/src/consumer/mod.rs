//! Reading records: assignment by hand or by group, positions, prefetch, commits.
//!
//! Tasks in the background fetch ahead (`fetcher`) and keep the group membership (`membership`); what the
//! application sees changes only within its own calls: a poll hands out batches (`partitions`), and runs the
//! rebalance listener before partitions come or go.

pub mod assignor;
mod batch;
mod config;
mod decode;
mod error;
mod exchange;
mod fetcher;
mod group;
mod membership;
mod offsets;
mod partitions;
mod protocol;
mod rebalance;
mod search;

pub use batch::FetchedBatch;
pub use config::{ConsumerConfig, IsolationLevel, OffsetReset};
pub use error::{ConsumerError, Damage};
pub use rebalance::{ListenerFuture, RebalanceListener};

pub(crate) use protocol::{PROTOCOL_TYPE, decode_assignment};

use crate::{Client, TopicPartition, coordinator::Coordinator};
use exchange::Start;
use fetcher::Fetcher;
use group::{Event, Group};
use membership::Member;
use parking_lot::Mutex;
use partitions::Partitions;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

/// Reads records, alone or as a member of a group.
///
/// Its connections and background tasks are its own; [`Consumer::close`] ends them and leaves the group. Dropping it
/// ends them too, and the group waits for the session timeout. Methods take `&self`, so that a listener can use the
/// consumer; of several polls at once, one at a time does something.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    config: Arc<ConsumerConfig>,
    partitions: Arc<Partitions>,
    coordinator: Option<Arc<Coordinator>>,
    subscription: Mutex<Subscription>,
    fetcher: Mutex<Option<JoinHandle<()>>>,
    /// Held during a poll; has the listener that polls use.
    polling: tokio::sync::Mutex<Polling>,
}

/// How the assignment comes about.
#[derive(Debug)]
enum Subscription {
    Nothing,
    Assigned,
    Group { group: Arc<Group>, member: JoinHandle<()> },
    Closed,
}

struct Polling {
    listener: Option<Box<dyn RebalanceListener>>,
    next_auto_commit: Instant,
}

impl std::fmt::Debug for Polling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Polling").field("listens", &self.listener.is_some()).finish_non_exhaustive()
    }
}

/// Who a consumer is in its group at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMembership {
    /// The group's id.
    pub group_id: Arc<str>,
    /// Generation of the assignment.
    pub generation: i32,
    /// Id that the coordinator gave.
    pub member_id: Arc<str>,
    /// Name of a static member.
    pub group_instance_id: Option<Arc<str>>,
}

impl Consumer {
    /// Makes a consumer that reads nothing yet: [`Consumer::subscribe`] or [`Consumer::assign`] follows.
    ///
    /// # Errors
    /// None at present: settings that contradict each other may be refused here.
    pub fn new(client: &Client, config: ConsumerConfig) -> Result<Consumer, ConsumerError> {
        let client = client.session();
        let config = Arc::new(config);
        let partitions = Arc::new(Partitions::new(&config));
        let coordinator = config.group_id.as_deref().map(|group| Arc::new(Coordinator::new(&client, group)));
        let fetcher = Fetcher::new(client.clone(), config.clone(), partitions.clone(), coordinator.clone());
        let fetcher = Mutex::new(Some(client.runtime().spawn(fetcher.run())));
        let polling = Polling { listener: None, next_auto_commit: Instant::now() };
        Ok(Consumer {
            client,
            config,
            partitions,
            coordinator,
            subscription: Mutex::new(Subscription::Nothing),
            fetcher,
            polling: tokio::sync::Mutex::new(polling),
        })
    }

    /// Joins the group for these topics, or changes them. Partitions come with later polls.
    ///
    /// # Errors
    /// Without a group, or if partitions are assigned by hand.
    pub fn subscribe<T: Into<Arc<str>>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<(), ConsumerError> {
        let topics: BTreeSet<Arc<str>> = topics.into_iter().map(Into::into).collect();
        let coordinator = self.coordinator.clone().ok_or(ConsumerError::NoGroup)?;
        let mut subscription = self.subscription.lock();
        match &*subscription {
            Subscription::Closed => return Err(ConsumerError::Closed),
            Subscription::Assigned => return Err(ConsumerError::AlreadySubscribed("assigned by hand")),
            Subscription::Group { group, .. } => {
                group.subscribe(topics.into_iter().collect());
                return Ok(());
            }
            Subscription::Nothing => {}
        }
        let group_id = Arc::from(self.config.group_id.as_deref().unwrap_or_default());
        let group = Arc::new(Group::new(coordinator));
        group.subscribe(topics.into_iter().collect());
        let (client, config) = (self.client.clone(), self.config.clone());
        let member = Member::new(group.clone(), client, config, group_id, self.partitions.clone());
        let member = self.client.runtime().spawn(member.run());
        *subscription = Subscription::Group { group, member };
        Ok(())
    }

    /// [`Consumer::subscribe`] with a listener that later polls and [`Consumer::close`] call.
    ///
    /// # Errors
    /// As [`Consumer::subscribe`].
    ///
    /// # Panics
    /// If called while a poll runs.
    pub fn subscribe_with<T: Into<Arc<str>>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        listener: impl RebalanceListener + 'static,
    ) -> Result<(), ConsumerError> {
        self.polling.try_lock().expect("no poll runs").listener = Some(Box::new(listener));
        self.subscribe(topics)
    }

    /// The topics subscribed to.
    pub fn subscription(&self) -> Vec<Arc<str>> {
        self.group().map(|group| group.topics()).unwrap_or_default()
    }

    /// Leaves the group, or gives up what was assigned by hand. The listener is told, and positions are committed if
    /// that happens automatically.
    ///
    /// # Errors
    /// If the commit fails; the consumer has left all the same.
    pub async fn unsubscribe(&self) -> Result<(), ConsumerError> {
        let mut polling = self.polling.lock().await;
        let mut listener = polling.listener.take();
        let left = match &mut listener {
            Some(listener) => self.leave(&mut **listener).await,
            None => self.leave(&mut ()).await,
        };
        polling.listener = listener;
        left
    }

    /// Reads these partitions, and no others, without a group's consent. Those that are read already go on where
    /// they are; others start at the group's committed offset, if there is a group, or by the reset policy.
    ///
    /// # Errors
    /// If the consumer is subscribed.
    pub fn assign(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<(), ConsumerError> {
        let mut subscription = self.subscription.lock();
        match *subscription {
            Subscription::Closed => return Err(ConsumerError::Closed),
            Subscription::Group { .. } => return Err(ConsumerError::AlreadySubscribed("subscribed")),
            Subscription::Nothing | Subscription::Assigned => *subscription = Subscription::Assigned,
        }
        let assigned: BTreeSet<_> = partitions.into_iter().collect();
        self.partitions.retain(|partition| assigned.contains(partition));
        let assigned: Vec<_> = assigned.into_iter().collect();
        self.partitions.add(&assigned, Start::Committed, false);
        Ok(())
    }

    /// The partitions being read, in order.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.partitions.names()
    }

    fn group(&self) -> Option<Arc<Group>> {
        match &*self.subscription.lock() {
            Subscription::Group { group, .. } => Some(group.clone()),
            _ => None,
        }
    }

    /// Whole batches, as soon as there are any, in offset order per partition; nothing once `timeout` has passed.
    /// Carries out a rebalance first, if one is under way, and calls the listener for it.
    ///
    /// # Errors
    /// What the consumer cannot go on from by itself; it concerns one partition or the group, and the next poll goes
    /// on with the rest.
    pub async fn poll(&self, timeout: Duration) -> Result<Vec<FetchedBatch>, ConsumerError> {
        let mut polling = self.polling.lock().await;
        let Polling { listener, next_auto_commit } = &mut *polling;
        match listener {
            Some(listener) => {
                self.poll_until(Instant::now() + timeout, &mut **listener, next_auto_commit).await
            }
            None => self.poll_until(Instant::now() + timeout, &mut (), next_auto_commit).await,
        }
    }

    /// [`Consumer::poll`] with a listener for this call only, which may borrow the caller's state.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn poll_with(
        &self,
        timeout: Duration,
        listener: &mut dyn RebalanceListener,
    ) -> Result<Vec<FetchedBatch>, ConsumerError> {
        let mut polling = self.polling.lock().await;
        self.poll_until(Instant::now() + timeout, listener, &mut polling.next_auto_commit).await
    }

    async fn poll_until(
        &self,
        deadline: Instant,
        listener: &mut dyn RebalanceListener,
        next_auto_commit: &mut Instant,
    ) -> Result<Vec<FetchedBatch>, ConsumerError> {
        if matches!(*self.subscription.lock(), Subscription::Closed) {
            return Err(ConsumerError::Closed);
        }
        let group = self.group();
        self.auto_commit_if_due(next_auto_commit);
        loop {
            if let Some(group) = &group {
                group.polled();
                while let Some(event) = group.event() {
                    self.carry_out(&event, listener).await;
                    group.carried_out(&event);
                }
                if let Some(error) = group.take_error() {
                    return Err(error);
                }
            }
            let batches = self.partitions.take()?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            // Who waits in a poll does poll, however long that takes.
            let until = deadline.min(Instant::now() + self.config.max_poll_interval / 4);
            let waited = tokio::time::timeout_at(until, self.partitions.ready.notified()).await;
            if waited.is_err() && Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    async fn carry_out(&self, event: &Event, listener: &mut dyn RebalanceListener) {
        match event {
            Event::Assigned(added) => {
                self.partitions.add(added, Start::Committed, true);
                listener.assigned(self, added).await;
                self.partitions.release();
            }
            Event::Revoked(revoked) => {
                if let Err(error) = self.auto_commit().await {
                    tracing::warn!(%error, "positions were not committed before partitions were given up");
                }
                listener.revoked(self, revoked).await;
                self.partitions.retain(|partition| !revoked.contains(partition));
            }
            Event::Lost(lost) => {
                // Without what was given up, or not taken yet, when the membership ended.
                let held = self.assignment().into_iter();
                let lost: Vec<_> = held.filter(|partition| lost.contains(partition)).collect();
                if !lost.is_empty() {
                    listener.lost(self, &lost).await;
                    self.partitions.retain(|partition| !lost.contains(partition));
                }
            }
        }
    }

    /// Goes on at `offset`, whatever was fetched ahead.
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<(), ConsumerError> {
        self.partitions.seek(partition, Ok(offset))
    }

    /// Goes on at the first record that is there when this is carried out, with the next poll.
    ///
    /// # Errors
    /// If a partition is not assigned.
    pub async fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<(), ConsumerError> {
        partitions.iter().try_for_each(|partition| self.partitions.seek(partition, Err(Start::Earliest)))
    }

    /// Goes on at the end as it is now.
    ///
    /// # Errors
    /// If a partition is not assigned, or its leader does not answer in time.
    pub async fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<(), ConsumerError> {
        for (partition, offset) in self.end_offsets(partitions).await? {
            self.seek(&partition, offset)?;
        }
        Ok(())
    }

    /// Goes on at the first record whose timestamp is `timestamp_ms` or later, or at the end if there is none.
    ///
    /// # Errors
    /// If a partition is not assigned, or its leader does not answer in time.
    pub async fn seek_to_time(
        &self,
        partitions: &[TopicPartition],
        timestamp_ms: i64,
    ) -> Result<(), ConsumerError> {
        let times: Vec<_> = partitions.iter().map(|partition| (partition.clone(), timestamp_ms)).collect();
        let mut late = Vec::new();
        for (partition, found) in self.offsets_for_times(&times).await? {
            match found {
                Some(found) => self.seek(&partition, found.offset)?,
                None => late.push(partition),
            }
        }
        self.seek_to_end(&late).await
    }

    /// Stops polls from returning records of these partitions; what was fetched ahead is kept.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        self.partitions.set_paused(partitions, true);
    }

    /// Lets polls return records of these partitions again.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        self.partitions.set_paused(partitions, false);
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.partitions.paused()
    }

    /// The next offset that a poll returns, or passes over; `None` while it is not known, or if the partition is not
    /// assigned.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.partitions.position(partition)
    }

    /// End of what may be read, as the last fetch said; `None` before the first.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        let progress = self.partitions.progress(partition)?;
        let stable = progress.last_stable_offset;
        let committed_only = self.config.isolation == IsolationLevel::ReadCommitted && stable >= 0;
        Some(if committed_only { stable } else { progress.high_watermark })
    }

    /// First offset that can still be read, as the last fetch said; `None` before the first.
    pub fn log_start(&self, partition: &TopicPartition) -> Option<i64> {
        self.partitions.progress(partition).map(|progress| progress.log_start_offset)
    }

    /// Records between the position and the end, as the last fetch said; `None` before the first.
    pub fn lag(&self, partition: &TopicPartition) -> Option<i64> {
        Some((self.high_watermark(partition)? - self.position(partition)?).max(0))
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// If it does not exist, or no broker answers in time.
    pub async fn partitions_for(&self, topic: &str) -> Result<i32, ConsumerError> {
        Ok(self.client.topic(topic, self.config.allow_auto_create_topics).await?.count())
    }

    /// Who this consumer is in its group; `None` while it is no member.
    pub fn membership(&self) -> Option<GroupMembership> {
        self.group()?.membership()
    }

    /// How long ago the coordinator was last asked and took this consumer for a member of the group; `None` while it is
    /// none. The time is measured from the request, by a clock that runs while the process or the machine is
    /// suspended: below the session timeout, no other member has been given what this one has.
    pub fn confirmed_since(&self) -> Option<Duration> {
        self.group()?.confirmed_since()
    }

    /// Has the group rebalance, such as when the assignor's user data has changed.
    pub fn enforce_rebalance(&self) {
        if let Some(group) = self.group() {
            group.rejoin();
        }
    }

    /// Commits if that happens automatically, tells the listener, leaves the group, and ends tasks and connections.
    ///
    /// # Errors
    /// If the commit fails; the consumer is closed all the same.
    pub async fn close(&self) -> Result<(), ConsumerError> {
        let left = self.unsubscribe().await;
        self.end().await;
        left
    }

    /// [`Consumer::close`] with a listener for this call only.
    ///
    /// # Errors
    /// As [`Consumer::close`].
    pub async fn close_with(&self, listener: &mut dyn RebalanceListener) -> Result<(), ConsumerError> {
        let polling = self.polling.lock().await;
        let left = self.leave(listener).await;
        drop(polling);
        self.end().await;
        left
    }

    /// Gives everything up and leaves the group.
    async fn leave(&self, listener: &mut dyn RebalanceListener) -> Result<(), ConsumerError> {
        if matches!(*self.subscription.lock(), Subscription::Closed) {
            return Ok(());
        }
        let committed = self.auto_commit().await;
        let Some(group) = self.group() else {
            self.partitions.retain(|_| false);
            *self.subscription.lock() = Subscription::Nothing;
            return committed;
        };
        let lost = matches!(group.event(), Some(Event::Lost(_)));
        let owned = self.assignment();
        match owned.is_empty() {
            true => {}
            false if lost => listener.lost(self, &owned).await,
            false => listener.revoked(self, &owned).await,
        }
        self.partitions.retain(|_| false);
        group.leave();
        let before = std::mem::replace(&mut *self.subscription.lock(), Subscription::Nothing);
        if let Subscription::Group { member, .. } = before {
            // A task that panicked has left too.
            let _ = member.await;
        }
        committed
    }

    async fn end(&self) {
        *self.subscription.lock() = Subscription::Closed;
        let fetcher = self.fetcher.lock().take();
        if let Some(fetcher) = fetcher {
            fetcher.abort();
            let _ = fetcher.await;
            self.client.close_session().await;
        }
        self.partitions.ready.notify_one();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(fetcher) = self.fetcher.get_mut().take() {
            fetcher.abort();
        }
        if let Subscription::Group { member, .. } = self.subscription.get_mut() {
            member.abort();
        }
    }
}
