//! How a group's leader spreads partitions over the members.
//!
//! An [`Assignor`] is pure: subscriptions and partition counts in, assignments out. It knows nothing of requests,
//! and what its user data means is its own business.

mod range;
mod round_robin;
mod sticky;

pub use range::RangeAssignor;
pub use round_robin::RoundRobinAssignor;
pub use sticky::{CooperativeStickyAssignor, StickyAssignor};

use crate::TopicPartition;
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What happens to a member's partitions when its group rebalances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RebalanceProtocol {
    /// Every member gives up all partitions first.
    Eager,
    /// A member keeps what it has and gives up only what goes to another, which gets it in a second rebalance.
    Cooperative,
}

/// What one member tells the group's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSubscription {
    /// The member's id, given by the coordinator.
    pub member_id: String,
    /// Its name, if it is a static member.
    pub group_instance_id: Option<String>,
    /// Topics that it subscribes to.
    pub topics: Vec<Arc<str>>,
    /// Partitions that it has.
    pub owned: Vec<TopicPartition>,
    /// Generation in which it got them; -1 if it did not tell.
    pub generation: i32,
    /// What the assignor's own [`Assignor::user_data`] said there.
    pub user_data: Option<Bytes>,
}

/// What one member is given.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MemberAssignment {
    /// Its partitions, all of them.
    pub partitions: Vec<TopicPartition>,
    /// Handed to [`Assignor::assigned`] there.
    pub user_data: Option<Bytes>,
}

/// The leader cannot make an assignment; its poll reports this.
#[derive(Debug, Clone, thiserror::Error)]
#[error("assignor {assignor} refuses the group: {reason}")]
pub struct AssignError {
    /// Name of the assignor.
    pub assignor: &'static str,
    /// Why.
    pub reason: Arc<dyn std::error::Error + Send + Sync>,
}

/// Spreads partitions over the members of a group.
///
/// Implemented by the four of Kafka here, and by applications that place partitions themselves.
pub trait Assignor: Send + Sync + fmt::Debug {
    /// The name by which the members agree on it.
    fn name(&self) -> &'static str;

    /// How members hand over partitions. Default eager.
    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Eager
    }

    /// What goes to the leader with this member's subscription, asked anew for every rebalance; `owned` is what the
    /// member has, or had until this rebalance took it. Default nothing.
    fn user_data(&self, topics: &[Arc<str>], owned: &[TopicPartition]) -> Option<Bytes> {
        let _ = (topics, owned);
        None
    }

    /// Called on the leader alone. `partitions` has the number of partitions of every topic that some member
    /// subscribes to; a topic that does not exist is missing. Members that are left out get nothing.
    ///
    /// # Errors
    /// If the members do not fit together. The rebalance fails then, and every member's next one tries again.
    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError>;

    /// Called on every member with what it got and the group's new generation. Default nothing.
    fn assigned(&self, assignment: &MemberAssignment, generation: i32) {
        let _ = (assignment, generation);
    }
}

/// Members in the order in which Kafka's assignors serve them: static members by their name, then the others by id.
fn in_order(members: &[MemberSubscription]) -> Vec<&MemberSubscription> {
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by_key(|member| {
        (member.group_instance_id.is_none(), member.group_instance_id.as_deref(), member.member_id.as_str())
    });
    ordered
}

fn subscribers<'a>(members: &[&'a MemberSubscription], topic: &Arc<str>) -> Vec<&'a MemberSubscription> {
    members.iter().filter(|member| member.topics.contains(topic)).copied().collect()
}

#[cfg(test)]
mod tests;
