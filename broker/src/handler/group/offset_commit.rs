//! OffsetCommit: keeps how far a group has read, and answers when that is on disk.
//!
//! Partitions are refused one by one (unknown, not allowed, too long a note); what is left is committed as a whole.

use super::{Node, group_error_code};
use crate::group::{Caller, GroupError, OffsetToCommit};
use crate::topic::Topic;
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kappa_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;
use uuid::Uuid;

/// From this version on, topics are named by id.
const BY_ID: i16 = 10;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: OffsetCommitRequest) -> Reply {
    let OffsetCommitRequest { group_id, topics, retention_time_ms, .. } = request;
    let allowed = cx.allows(Operation::Read, Resource::Group(&group_id));
    let (mut offsets, mut known) = (Vec::new(), Vec::new());
    let mut answers: Vec<OffsetCommitResponseTopic> = topics
        .into_iter()
        .map(|topic| {
            if allowed {
                check(node, cx, topic, &mut offsets, &mut known)
            } else {
                refuse(topic, ErrorCode::GroupAuthorizationFailed)
            }
        })
        .collect();
    if offsets.is_empty() {
        return Reply::Now(respond(node, answers));
    }
    let caller = Caller { member_id: &request.member_id, instance_id: request.group_instance_id.as_deref() };
    let retention_ms = Some(retention_time_ms).filter(|retention_ms| *retention_ms >= 0);
    let generation = request.generation_id_or_member_epoch;
    let topics_exist = || known.iter().all(|id| node.topics.by_id(*id).is_some());
    match node.groups.commit(&group_id, caller, generation, offsets, retention_ms, topics_exist) {
        Err(error) => {
            settle(&mut answers, commit_error_code(&error));
            Reply::Now(respond(node, answers))
        }
        Ok(durable) => {
            let node = node.clone();
            Reply::later(async move {
                if let Err(error) = durable.await {
                    tracing::warn!(group = group_id, %error, "committed offsets not stored");
                    settle(&mut answers, ErrorCode::CoordinatorNotAvailable);
                }
                respond(&node, answers)
            })
        }
    }
}

/// Adds what may be committed to `offsets`; the answer says what may not.
fn check(
    node: &Node,
    cx: &Context,
    topic: OffsetCommitRequestTopic,
    offsets: &mut Vec<OffsetToCommit>,
    topics: &mut Vec<Uuid>,
) -> OffsetCommitResponseTopic {
    let known =
        if cx.version >= BY_ID { node.topics.by_id(topic.topic_id) } else { node.topics.topic(&topic.name) };
    let Some(known) = known else {
        let by_id = cx.version >= BY_ID;
        return refuse(
            topic,
            if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition },
        );
    };
    if !cx.allows(Operation::Read, Resource::Topic(&known.name)) {
        return refuse(topic, ErrorCode::TopicAuthorizationFailed);
    }
    topics.push(known.id);
    let mut partitions = Vec::with_capacity(topic.partitions.len());
    for partition in topic.partitions {
        let index = partition.partition_index;
        let code = match offset(node, &known, partition) {
            Ok(offset) => {
                offsets.push(offset);
                ErrorCode::None
            }
            Err(code) => code,
        };
        partitions.push(answer(index, code));
    }
    OffsetCommitResponseTopic { name: topic.name, topic_id: topic.topic_id, partitions }
}

fn offset(
    node: &Node,
    topic: &Topic,
    partition: OffsetCommitRequestPartition,
) -> Result<OffsetToCommit, ErrorCode> {
    topic.partition(partition.partition_index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let metadata = partition.committed_metadata.unwrap_or_default();
    node.groups.check_metadata(&metadata).map_err(|_| ErrorCode::OffsetMetadataTooLarge)?;
    Ok(OffsetToCommit {
        topic: topic.name.to_string(),
        partition: partition.partition_index,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata,
    })
}

fn commit_error_code(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::RecordTooLarge | GroupError::TooLarge { .. } => ErrorCode::InvalidCommitOffsetSize,
        error => group_error_code(error),
    }
}

/// Whatever was not refused before ends so.
fn settle(topics: &mut [OffsetCommitResponseTopic], code: ErrorCode) {
    let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
    let open = partitions.filter(|partition| partition.error_code == ErrorCode::None.code());
    open.for_each(|partition| partition.error_code = code.code());
}

fn refuse(topic: OffsetCommitRequestTopic, code: ErrorCode) -> OffsetCommitResponseTopic {
    let partitions =
        topic.partitions.iter().map(|partition| answer(partition.partition_index, code)).collect();
    OffsetCommitResponseTopic { name: topic.name, topic_id: topic.topic_id, partitions }
}

fn answer(partition_index: i32, code: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition { partition_index, error_code: code.code() }
}

fn respond(node: &Node, topics: Vec<OffsetCommitResponseTopic>) -> kappa_protocol::Response {
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        node.error(ErrorCode::from(partition.error_code));
    }
    OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }.into()
}
