//! Asking the coordinator of one group, wherever it is at the moment.
//!
//! Remembers the node until an answer says that it is another. Knows what offsets are; not what a member does.

use crate::{Client, LaneKind, RequestError, TopicPartition, admin::OffsetAndMetadata};
use kappa_protocol::{
    ApiKey, ErrorCode, RequestMessage,
    messages::{
        OffsetCommitRequest, OffsetFetchRequest,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
    },
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The way to a group's coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    client: Client,
    group: Arc<str>,
    node: Mutex<Option<i32>>,
}

/// On whose behalf offsets are committed.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    pub(crate) generation: i32,
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
}

impl Committer {
    /// Nobody in the group: for groups without members.
    pub(crate) fn outsider() -> Committer {
        Committer { generation: -1, member_id: Arc::from(""), group_instance_id: None }
    }
}

impl Coordinator {
    pub(crate) fn new(client: &Client, group: impl Into<Arc<str>>) -> Coordinator {
        Coordinator { client: client.clone(), group: group.into(), node: Mutex::new(None) }
    }

    /// The coordinating node; asks for it if it is not known.
    pub(crate) async fn node(&self) -> Result<i32, RequestError> {
        let known = *self.node.lock();
        if let Some(node) = known {
            return Ok(node);
        }
        let node = self.client.coordinator(&self.group).await?;
        *self.node.lock() = Some(node);
        Ok(node)
    }

    /// Asks the coordinator, once. A failed request makes it look for the coordinator the next time.
    pub(crate) async fn ask<R: RequestMessage>(
        &self,
        kind: LaneKind,
        timeout: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        let node = self.node().await?;
        let asked = match self.client.lane(node, kind) {
            Ok(lane) => lane.request_within(timeout, build).await,
            Err(error) => Err(error.into()),
        };
        asked.inspect_err(|_| *self.node.lock() = None)
    }

    /// Passes an error code on, and forgets the node if that is what it says.
    pub(crate) fn check(&self, api: ApiKey, code: i16, message: Option<&str>) -> Result<(), RequestError> {
        let moved = [ErrorCode::NotCoordinator, ErrorCode::CoordinatorNotAvailable];
        if moved.contains(&ErrorCode::from(code)) {
            *self.node.lock() = None;
        }
        RequestError::check(api, code, message)
    }

    /// Committed offsets of `partitions`, or of all; retries.
    pub(crate) async fn committed(
        &self,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, RequestError> {
        let topics = partitions.map(by_topic);
        self.client.retry(|| self.committed_once(topics.as_ref(), require_stable), |_| false).await
    }

    async fn committed_once(
        &self,
        topics: Option<&BTreeMap<Arc<str>, Vec<i32>>>,
        require_stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, RequestError> {
        let timeout = self.client.config().request_timeout;
        let mut response = self
            .ask(LaneKind::Admin, timeout, |version| {
                offset_fetch(&self.group, topics, require_stable, version)
            })
            .await?;
        let api = ApiKey::OffsetFetch;
        self.check(api, response.error_code, None)?;
        let mut found = BTreeMap::new();
        let mut add = |topic: &Arc<str>, partition: i32, code: i16, committed: OffsetAndMetadata| {
            self.check(api, code, None)?;
            if committed.offset >= 0 {
                found.insert(TopicPartition::new(topic.clone(), partition), committed);
            }
            Ok::<(), RequestError>(())
        };
        let offset = |offset: i64, epoch: i32, metadata: Option<String>| OffsetAndMetadata {
            offset,
            leader_epoch: (epoch >= 0).then_some(epoch),
            metadata: metadata.unwrap_or_default(),
        };
        for topic in response.topics {
            let name = Arc::from(topic.name);
            for p in topic.partitions {
                let committed = offset(p.committed_offset, p.committed_leader_epoch, p.metadata);
                add(&name, p.partition_index, p.error_code, committed)?;
            }
        }
        if let Some(group) = response.groups.pop() {
            self.check(api, group.error_code, None)?;
            for topic in group.topics {
                let name = Arc::from(topic.name);
                for p in topic.partitions {
                    let committed = offset(p.committed_offset, p.committed_leader_epoch, p.metadata);
                    add(&name, p.partition_index, p.error_code, committed)?;
                }
            }
        }
        Ok(found)
    }

    /// Commits offsets, and tells the outcome of each partition; retries what may pass. An error that concerns the
    /// committer as such is that of the call.
    pub(crate) async fn commit(
        &self,
        committer: &Committer,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<BTreeMap<TopicPartition, Result<(), RequestError>>, RequestError> {
        self.client.retry(|| self.commit_once(committer, offsets), |_| false).await
    }

    async fn commit_once(
        &self,
        committer: &Committer,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<BTreeMap<TopicPartition, Result<(), RequestError>>, RequestError> {
        let timeout = self.client.config().request_timeout;
        let response = self
            .ask(LaneKind::Admin, timeout, |version| offset_commit(&self.group, committer, offsets, version))
            .await?;
        let mut outcomes = BTreeMap::new();
        for topic in response.topics {
            let name: Arc<str> = Arc::from(topic.name);
            for partition in topic.partitions {
                let outcome = self.check(ApiKey::OffsetCommit, partition.error_code, None);
                match outcome {
                    Err(error) if error.is_retriable() || concerns_member(&error) => return Err(error),
                    outcome => {
                        outcomes
                            .insert(TopicPartition::new(name.clone(), partition.partition_index), outcome);
                    }
                }
            }
        }
        Ok(outcomes)
    }
}

/// Whether an error says that the member itself is not, or no longer, what it says it is.
pub(crate) fn concerns_member(error: &RequestError) -> bool {
    matches!(
        error.code(),
        Some(
            ErrorCode::UnknownMemberId
                | ErrorCode::IllegalGeneration
                | ErrorCode::RebalanceInProgress
                | ErrorCode::FencedInstanceId
                | ErrorCode::GroupAuthorizationFailed
        )
    )
}

/// Numbers of partitions by topic.
pub(crate) fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for TopicPartition { topic, partition } in partitions {
        topics.entry(topic.clone()).or_default().push(*partition);
    }
    topics
}

fn offset_fetch(
    group: &str,
    topics: Option<&BTreeMap<Arc<str>, Vec<i32>>>,
    require_stable: bool,
    version: i16,
) -> OffsetFetchRequest {
    let require_stable = require_stable && version >= 7;
    if version < 8 {
        let topics = topics.map(|topics| {
            let topic = |(name, partitions): (&Arc<str>, &Vec<i32>)| OffsetFetchRequestTopic {
                name: name.to_string(),
                partition_indexes: partitions.clone(),
            };
            topics.iter().map(topic).collect()
        });
        return OffsetFetchRequest {
            group_id: group.to_owned(),
            topics,
            require_stable,
            ..Default::default()
        };
    }
    let topics = topics.map(|topics| {
        let topic = |(name, partitions): (&Arc<str>, &Vec<i32>)| OffsetFetchRequestTopics {
            name: name.to_string(),
            partition_indexes: partitions.clone(),
            ..Default::default()
        };
        topics.iter().map(topic).collect()
    });
    let group = OffsetFetchRequestGroup { group_id: group.to_owned(), topics, ..Default::default() };
    OffsetFetchRequest { groups: vec![group], require_stable, ..Default::default() }
}

fn offset_commit(
    group: &str,
    committer: &Committer,
    offsets: &[(TopicPartition, OffsetAndMetadata)],
    version: i16,
) -> OffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (partition, committed) in offsets {
        topics.entry(&partition.topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: partition.partition,
            committed_offset: committed.offset,
            committed_leader_epoch: committed.leader_epoch.unwrap_or(-1),
            committed_metadata: Some(committed.metadata.clone()),
        });
    }
    let topic = |(name, partitions): (&str, _)| OffsetCommitRequestTopic {
        name: name.to_owned(),
        partitions,
        ..Default::default()
    };
    let group_instance_id =
        committer.group_instance_id.as_deref().filter(|_| version >= 7).map(str::to_owned);
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: committer.generation,
        member_id: committer.member_id.to_string(),
        group_instance_id,
        topics: topics.into_iter().map(topic).collect(),
        ..Default::default()
    }
}
