//! OffsetFetch: what groups have committed, of one group or, from version 8, of several.
//!
//! Only what is on disk is told, and no transaction can have offsets pending, so every answer is stable.

use super::{Node, elsewhere, group_error_code, joined};
use crate::group::{CommittedOffset, GroupError};
use crate::topic::Topic;
use kappa_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kappa_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kappa_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashSet;
use std::sync::Arc;

/// From this version on, several groups are asked for at once.
const BATCHED: i16 = 8;
/// From this version on, topics are named by id.
const BY_ID: i16 = 10;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: OffsetFetchRequest) -> Reply {
    // Folding what was written last reads the log.
    elsewhere(node, cx, request, handle_blocking)
}

fn handle_blocking(node: &Arc<Node>, cx: &Context, request: OffsetFetchRequest) -> Reply {
    let response = if cx.version >= BATCHED {
        let named = |group: &OffsetFetchRequestGroup| (0, group.group_id.clone());
        let groups = joined(request.groups, named, |first, again| match (&mut first.topics, again.topics) {
            (Some(topics), Some(others)) => topics.extend(others),
            (topics, _) => *topics = None,
        });
        let groups = groups.into_iter().map(|group| fetch(node, cx, group)).collect();
        OffsetFetchResponse { groups, ..OffsetFetchResponse::default() }
    } else {
        single(node, cx, request)
    };
    Reply::Now(response.into())
}

fn fetch(node: &Node, cx: &Context, request: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let answered = if cx.allows(Operation::Describe, Resource::Group(&request.group_id)) {
        match &request.topics {
            Some(topics) => some(node, cx, &request.group_id, topics),
            None => all(node, cx, &request.group_id),
        }
        .map_err(|error| group_error_code(&error))
    } else {
        Err(ErrorCode::GroupAuthorizationFailed)
    };
    let group_id = request.group_id;
    match answered {
        Ok(topics) => OffsetFetchResponseGroup { group_id, topics, error_code: ErrorCode::None.code() },
        Err(code) => OffsetFetchResponseGroup { group_id, topics: Vec::new(), error_code: node.error(code) },
    }
}

/// The partitions that are asked for, those that were never committed included.
fn some(
    node: &Node,
    cx: &Context,
    group: &str,
    topics: &[OffsetFetchRequestTopics],
) -> Result<Vec<OffsetFetchResponseTopics>, GroupError> {
    node.groups.committed(group, |committed| {
        let mut told = HashSet::new();
        let answer = |topic| {
            let topic: &OffsetFetchRequestTopics = topic;
            let name = name_of(node, cx, topic);
            let name = name.and_then(|name| {
                let allowed = cx.allows(Operation::Describe, Resource::Topic(&name));
                if allowed { Ok(name) } else { Err(ErrorCode::TopicAuthorizationFailed) }
            });
            let offset = |index: &i32| match &name {
                Ok(name) => partition(*index, committed.get(&**name).and_then(|offsets| offsets.get(index))),
                Err(code) => {
                    OffsetFetchResponsePartitions { error_code: node.error(*code), ..partition(*index, None) }
                }
            };
            OffsetFetchResponseTopics {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: topic
                    .partition_indexes
                    .iter()
                    .filter(|index| told.insert((topic.topic_id, topic.name.as_str(), **index)))
                    .map(offset)
                    .collect(),
            }
        };
        topics.iter().map(answer).collect()
    })
}

fn name_of(node: &Node, cx: &Context, topic: &OffsetFetchRequestTopics) -> Result<Arc<str>, ErrorCode> {
    if cx.version < BY_ID {
        return Ok(topic.name.as_str().into());
    }
    node.topics.by_id(topic.topic_id).map(|topic| topic.name.clone()).ok_or(ErrorCode::UnknownTopicId)
}

/// Everything that was committed. A topic that is gone has no id to be named by.
fn all(node: &Node, cx: &Context, group: &str) -> Result<Vec<OffsetFetchResponseTopics>, GroupError> {
    node.groups.committed(group, |committed| {
        let allowed = |name: &str| cx.allows(Operation::Describe, Resource::Topic(name));
        let topics = committed.iter().filter(|(name, _)| allowed(name)).filter_map(|(name, offsets)| {
            let topic: Option<Arc<Topic>> = node.topics.topic(name);
            let topic_id = topic.map(|topic| topic.id);
            if cx.version >= BY_ID && topic_id.is_none() {
                return None;
            }
            Some(OffsetFetchResponseTopics {
                name: name.clone(),
                topic_id: topic_id.unwrap_or_default(),
                partitions: offsets.iter().map(|(index, offset)| partition(*index, Some(offset))).collect(),
            })
        });
        topics.collect()
    })
}

fn partition(partition_index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.map_or(-1, |committed| committed.offset),
        committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
        metadata: Some(committed.map(|committed| committed.metadata.clone()).unwrap_or_default()),
        error_code: ErrorCode::None.code(),
    }
}

/// The same for one group, in the fields of the older versions.
fn single(node: &Node, cx: &Context, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let topic = |topic: kappa_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
        OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..OffsetFetchRequestTopics::default()
        }
    };
    let asked: Option<Vec<OffsetFetchRequestTopics>> =
        request.topics.map(|topics| topics.into_iter().map(topic).collect());
    let group = OffsetFetchRequestGroup {
        group_id: request.group_id,
        topics: asked.clone(),
        ..OffsetFetchRequestGroup::default()
    };
    let OffsetFetchResponseGroup { topics, error_code, .. } = fetch(node, cx, group);
    // Version 1 has no error for the group as a whole: each partition bears it.
    let topics = if error_code != ErrorCode::None.code() && cx.version < 2 {
        refuse(&asked.unwrap_or_default(), error_code)
    } else {
        topics
    };
    OffsetFetchResponse {
        topics: topics.into_iter().map(older).collect(),
        error_code,
        ..OffsetFetchResponse::default()
    }
}

fn refuse(topics: &[OffsetFetchRequestTopics], error_code: i16) -> Vec<OffsetFetchResponseTopics> {
    let refused = |index: &i32| OffsetFetchResponsePartitions { error_code, ..partition(*index, None) };
    let topic = |topic: &OffsetFetchRequestTopics| OffsetFetchResponseTopics {
        name: topic.name.clone(),
        partitions: topic.partition_indexes.iter().map(refused).collect(),
        ..OffsetFetchResponseTopics::default()
    };
    topics.iter().map(topic).collect()
}

fn older(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    };
    OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    }
}
