//! Consumer groups: who is in them, what they were assigned, and which offsets they committed.
//!
//! `state` is one group as a pure state machine; `offsets` is what the topic `__consumer_offsets` says, in Kafka's own
//! record format (`records`), and `expiry` which of it is old; `shard` joins the two over one partition (`live` are its
//! machines, `memory` what those of all shards may hold), and
//! [`GroupCoordinator`] is all of them. Invariants: nothing is answered from a record before it is durable, nobody is
//! shown an assignment before it is written, and what the topic says is a fold of it. Knows nothing of requests and
//! versions. Groups with another protocol than the classic one would be further machines beside `state`, over the
//! same shards and records.

mod coordinator;
mod error;
mod expiry;
mod live;
mod memory;
mod offsets;
mod records;
mod shard;
mod shorten;
mod state;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

pub(crate) use coordinator::GroupCoordinator;
pub(crate) use coordinator::{OpenGroupsError, TASK};
pub(crate) use error::GroupError;
pub(crate) use offsets::{CommittedOffset, TopicOffsets};
pub(crate) use state::{Caller, JoinGroup, Joined, JoinedMember, Joiner, Member, SyncGroup, Synced};
pub(crate) use view::{GroupDescription, OffsetToCommit, OffsetsDeletion};
pub(crate) use waiting::Waiting;

/// Id of a group, shared by all that names it.
pub(crate) type GroupId = std::sync::Arc<str>;
