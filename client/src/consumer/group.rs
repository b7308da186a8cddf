//! Where a consumer's calls and its membership task meet: subscription, events to carry out, identity in the group.
//!
//! Knows neither the coordinator's protocol nor positions.

use super::{ConsumerError, GroupMembership};
use crate::{
    TopicPartition,
    coordinator::{Committer, Coordinator},
};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// Time since the machine was started, on the clock that runs while the process or the machine is suspended: by any
/// other one a member would take itself for alive that the group has long given up.
pub(super) fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (secs, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default())
}

/// A change of the assignment, for the poll to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
}

impl Event {
    pub(super) fn into_partitions(self) -> Vec<TopicPartition> {
        let (Event::Assigned(partitions) | Event::Revoked(partitions) | Event::Lost(partitions)) = self;
        partitions
    }
}

/// What the task and the consumer's calls share.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) state: Mutex<State>,
    /// Wakes the task.
    pub(super) wake: Notify,
    /// Wakes the task when the poll has carried an event out.
    pub(super) carried_out: Notify,
    /// Whether the consumer is being closed.
    pub(super) leaving: watch::Sender<bool>,
}

/// Guarded by one lock, held briefly.
#[derive(Debug)]
pub(super) struct State {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) membership: Option<GroupMembership>,
    pub(super) event: Option<Event>,
    pub(super) error: Option<ConsumerError>,
    pub(super) last_poll: Instant,
    pub(super) rejoin: bool,
    /// When the last request was sent by whose answer the coordinator took this consumer for a member, by
    /// [`boottime`]; `None` while it is no member.
    pub(super) confirmed: Option<Duration>,
    /// The task waits for the next poll to join again.
    pub(super) overdue: bool,
}

impl Group {
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Group {
        let state = State {
            topics: Vec::new(),
            membership: None,
            event: None,
            error: None,
            last_poll: Instant::now(),
            rejoin: false,
            confirmed: None,
            overdue: false,
        };
        Group {
            coordinator,
            state: Mutex::new(state),
            wake: Notify::new(),
            carried_out: Notify::new(),
            leaving: watch::Sender::new(false),
        }
    }

    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.state.lock().topics.clone()
    }

    /// Subscribes to these topics instead of the ones before.
    pub(super) fn subscribe(&self, topics: Vec<Arc<str>>) {
        let mut state = self.state.lock();
        state.rejoin |= state.topics != topics;
        state.topics = topics;
        state.last_poll = Instant::now();
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn membership(&self) -> Option<GroupMembership> {
        self.state.lock().membership.clone()
    }

    /// The consumer is no member any more.
    pub(super) fn no_member(&self) {
        let mut state = self.state.lock();
        state.membership = None;
        state.confirmed = None;
    }

    /// On whose behalf to commit.
    pub(super) fn committer(&self) -> Committer {
        match &self.state.lock().membership {
            Some(membership) => Committer {
                generation: membership.generation,
                member_id: membership.member_id.clone(),
                group_instance_id: membership.group_instance_id.clone(),
            },
            None => Committer::outsider(),
        }
    }

    /// The coordinator has answered a request sent at `sent` as to a member.
    pub(super) fn confirm(&self, sent: Duration) {
        self.state.lock().confirmed = Some(sent);
    }

    /// Time since the coordinator was last asked and took this consumer for a member.
    pub(super) fn confirmed_since(&self) -> Option<Duration> {
        Some(boottime().saturating_sub(self.state.lock().confirmed?))
    }

    /// Notes that the application polls.
    pub(super) fn polled(&self) {
        let mut state = self.state.lock();
        state.last_poll = Instant::now();
        if std::mem::take(&mut state.overdue) {
            self.wake.notify_one();
        }
    }

    /// The change to carry out, if there is one. It stays until [`Group::carried_out`].
    pub(super) fn event(&self) -> Option<Event> {
        self.state.lock().event.clone()
    }

    /// `event` was carried out. One that took its place meanwhile is not.
    pub(super) fn carried_out(&self, event: &Event) {
        let mut state = self.state.lock();
        if state.event.as_ref() == Some(event) {
            state.event = None;
        }
        drop(state);
        self.carried_out.notify_one();
    }

    pub(super) fn take_error(&self) -> Option<ConsumerError> {
        self.state.lock().error.take()
    }

    pub(super) fn rejoin(&self) {
        self.state.lock().rejoin = true;
        self.wake.notify_one();
    }

    /// Asks the task to leave the group and end.
    pub(super) fn leave(&self) {
        self.leaving.send_replace(true);
        self.wake.notify_one();
        self.carried_out.notify_one();
    }
}
