//! Consumer groups: what is asked and what is told.

use super::{Admin, ItemResults};
use crate::{
    LaneKind, RequestError, TopicPartition,
    consumer::{PROTOCOL_TYPE, decode_assignment},
    coordinator::{Committer, Coordinator, by_topic},
};
use bytes::Bytes;
use kappa_protocol::{
    ApiKey, ErrorCode,
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest, OffsetDeleteRequest,
        describe_groups_response::DescribedGroup,
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// A group in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group_id: String,
    /// What its members agree on: `consumer`, or empty for a group that only has offsets.
    pub protocol_type: String,
    /// Its state, such as `Stable` or `Empty`; empty from old brokers.
    pub state: String,
    /// Its kind, such as `classic`; empty from old brokers.
    pub group_type: String,
}

/// A group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group_id: String,
    /// Its state, such as `Stable`, `PreparingRebalance`, `CompletingRebalance`, `Empty` or `Dead`.
    pub state: String,
    /// What its members agree on, such as `consumer`.
    pub protocol_type: String,
    /// The assignor in use.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
    /// Node that coordinates it.
    pub coordinator: i32,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id, given by the coordinator.
    pub member_id: String,
    /// Its name, if it is a static member.
    pub group_instance_id: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// Its partitions, if the group is one of consumers.
    pub assignment: Vec<TopicPartition>,
    /// Its subscription as encoded for the assignor.
    pub metadata: Bytes,
}

/// An offset that a group committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to read.
    pub offset: i64,
    /// Epoch of the leader that appended the last record that was read; `None` if unknown.
    pub leader_epoch: Option<i32>,
    /// What the committer noted beside it.
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// An offset with nothing beside it.
    pub fn new(offset: i64) -> OffsetAndMetadata {
        OffsetAndMetadata { offset, leader_epoch: None, metadata: String::new() }
    }

    /// Sets what is noted beside the offset.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> OffsetAndMetadata {
        self.metadata = metadata.into();
        self
    }
}

impl From<i64> for OffsetAndMetadata {
    fn from(offset: i64) -> Self {
        OffsetAndMetadata::new(offset)
    }
}

impl Admin {
    /// All groups, of all coordinators, by id.
    ///
    /// # Errors
    /// If a broker does not answer.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, RequestError> {
        let mut groups = Vec::new();
        for node in self.nodes().await? {
            let attempt = || async {
                let response =
                    self.client.ask(node, LaneKind::Admin, |_| ListGroupsRequest::default()).await?;
                RequestError::check(ApiKey::ListGroups, response.error_code, None).map(|()| response)
            };
            let response = self.client.retry(attempt, |_| false).await?;
            groups.extend(response.groups.into_iter().map(|group| GroupListing {
                group_id: group.group_id,
                protocol_type: group.protocol_type,
                state: group.group_state,
                group_type: group.group_type,
            }));
        }
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(groups)
    }

    /// Groups with their members and assignments.
    ///
    /// # Errors
    /// None for the call as such; what is wrong with a group, or that it does not exist, is its own result.
    pub async fn describe_groups<T: AsRef<str>>(
        &self,
        groups: &[T],
    ) -> Result<ItemResults<String, GroupDescription>, RequestError> {
        let mut described = BTreeMap::new();
        for group in groups.iter().map(AsRef::as_ref) {
            described.insert(group.to_owned(), self.describe_group(group).await);
        }
        Ok(described)
    }

    async fn describe_group(&self, group: &str) -> Result<GroupDescription, RequestError> {
        let (coordinator, api) = (Coordinator::new(&self.client, group), ApiKey::DescribeGroups);
        let timeout = self.client.config().request_timeout;
        let attempt = || async {
            let node = coordinator.node().await?;
            let request = |_| DescribeGroupsRequest { groups: vec![group.to_owned()], ..Default::default() };
            let mut response = coordinator.ask(LaneKind::Admin, timeout, request).await?;
            let found = response.groups.pop().ok_or(RequestError::Incomplete { api })?;
            coordinator.check(api, found.error_code, found.error_message.as_deref())?;
            Ok((node, found))
        };
        let (node, found) = self.client.retry(attempt, |_| false).await?;
        // Older brokers describe a group that does not exist as a dead one.
        if found.group_state == "Dead" {
            RequestError::check(api, ErrorCode::GroupIdNotFound.code(), None)?;
        }
        Ok(description(found, node))
    }

    /// Deletes groups that have no members, with their offsets.
    ///
    /// # Errors
    /// None for the call as such; what is wrong with a group is its own result.
    pub async fn delete_groups<T: AsRef<str>>(
        &self,
        groups: &[T],
    ) -> Result<ItemResults<String, ()>, RequestError> {
        let mut deleted = BTreeMap::new();
        for group in groups.iter().map(AsRef::as_ref) {
            let (coordinator, api) = (Coordinator::new(&self.client, group), ApiKey::DeleteGroups);
            let timeout = self.client.config().request_timeout;
            let attempt = || async {
                let request = |_| DeleteGroupsRequest { groups_names: vec![group.to_owned()] };
                let mut response = coordinator.ask(LaneKind::Admin, timeout, request).await?;
                let result = response.results.pop().ok_or(RequestError::Incomplete { api })?;
                coordinator.check(api, result.error_code, None)
            };
            deleted.insert(group.to_owned(), self.client.retry(attempt, |_| false).await);
        }
        Ok(deleted)
    }

    /// All offsets that a group committed; none for a group that does not exist.
    ///
    /// # Errors
    /// If the group's coordinator does not answer.
    pub async fn group_offsets(
        &self,
        group: &str,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, RequestError> {
        Coordinator::new(&self.client, group).committed(None, false).await
    }

    /// Sets committed offsets of a group that has no members.
    ///
    /// # Errors
    /// If the group has members or its coordinator does not answer; what is wrong with a partition is its own result.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<ItemResults<TopicPartition, ()>, RequestError> {
        Coordinator::new(&self.client, group).commit(&Committer::outsider(), offsets).await
    }

    /// Forgets committed offsets of topics that no member of the group subscribes to.
    ///
    /// # Errors
    /// If the coordinator refuses or does not answer; what is wrong with a partition is its own result.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<ItemResults<TopicPartition, ()>, RequestError> {
        let (coordinator, api) = (Coordinator::new(&self.client, group), ApiKey::OffsetDelete);
        let timeout = self.client.config().request_timeout;
        let partition = |number: i32| OffsetDeleteRequestPartition { partition_index: number };
        let topic = |(name, numbers): (Arc<str>, Vec<i32>)| OffsetDeleteRequestTopic {
            name: name.to_string(),
            partitions: numbers.into_iter().map(partition).collect(),
        };
        let topics: Vec<_> = by_topic(partitions).into_iter().map(topic).collect();
        let attempt = || async {
            let request = |_| OffsetDeleteRequest { group_id: group.to_owned(), topics: topics.clone() };
            let response = coordinator.ask(LaneKind::Admin, timeout, request).await?;
            coordinator.check(api, response.error_code, None).map(|()| response)
        };
        let response = self.client.retry(attempt, |_| false).await?;
        let mut deleted = BTreeMap::new();
        for topic in response.topics {
            let name: Arc<str> = Arc::from(topic.name);
            for partition in topic.partitions {
                let result = RequestError::check(api, partition.error_code, None);
                deleted.insert(TopicPartition::new(name.clone(), partition.partition_index), result);
            }
        }
        Ok(deleted)
    }
}

fn description(group: DescribedGroup, coordinator: i32) -> GroupDescription {
    let consumers = group.protocol_type == PROTOCOL_TYPE;
    let members = group.members.into_iter().map(|member| MemberDescription {
        // What another kind of group assigns is not for us to read.
        assignment: if consumers {
            decode_assignment(&member.member_assignment).map(|got| got.partitions).unwrap_or_default()
        } else {
            Vec::new()
        },
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
        metadata: member.member_metadata,
    });
    GroupDescription {
        group_id: group.group_id,
        state: group.group_state,
        protocol: group.protocol_data,
        members: members.collect(),
        protocol_type: group.protocol_type,
        coordinator,
    }
}
