//! What the coordinator takes and gives: groups as they look from outside.

use super::GroupError;
use super::state::{Group, Member};
use crate::partition::Durable;

/// An offset of one partition to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetToCommit {
    /// Name of the topic.
    pub(crate) topic: String,
    /// Index of the partition.
    pub(crate) partition: i32,
    /// The next offset to read.
    pub(crate) offset: i64,
    /// Leader epoch of the record before it; -1 if unknown.
    pub(crate) leader_epoch: i32,
    /// What the client notes.
    pub(crate) metadata: String,
}

/// Committed offsets that are taken back.
#[derive(Debug)]
pub(crate) struct OffsetsDeletion {
    /// Whether it was allowed, for each partition that was asked for.
    pub(crate) verdicts: Vec<Result<(), GroupError>>,
    /// Waits for the disk, if anything is to be waited for.
    pub(crate) durable: Option<Durable>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupListing {
    /// Group id.
    pub(crate) id: String,
    /// `consumer`, `connect` or what else its members said; empty if it only commits offsets.
    pub(crate) protocol_type: String,
    /// Kafka's name of its state.
    pub(crate) state: &'static str,
}

/// A group in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDescription {
    /// Kafka's name of its state.
    pub(crate) state: &'static str,
    /// `consumer`, `connect` or what else its members said.
    pub(crate) protocol_type: String,
    /// The protocol chosen; empty unless the group is stable.
    pub(crate) protocol: String,
    /// Members by id; their metadata and assignments count only while the group is stable.
    pub(crate) members: Vec<(String, Member)>,
}

/// How far a group is behind in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupLag {
    /// Group id.
    pub(crate) group: String,
    /// Name of the topic.
    pub(crate) topic: String,
    /// Index of the partition.
    pub(crate) partition: i32,
    /// The committed offset.
    pub(crate) committed: i64,
    /// Offsets between it and the high watermark.
    pub(crate) lag: i64,
}

impl GroupDescription {
    pub(super) fn of(group: &Group) -> Self {
        let protocol = group.protocol().filter(|_| group.is_stable()).unwrap_or_default();
        Self {
            state: group.state_name(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: protocol.to_owned(),
            members: group.members().map(|(id, member)| (id.to_owned(), member.clone())).collect(),
        }
    }

    /// A group that has committed offsets and never had a member.
    pub(super) fn empty() -> Self {
        Self { state: "Empty", protocol_type: String::new(), protocol: String::new(), members: Vec::new() }
    }
}
