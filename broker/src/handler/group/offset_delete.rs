//! OffsetDelete: takes back what a group committed for partitions that none of its members reads.

use super::{Node, elsewhere, group_error_code};
use crate::group::OffsetsDeletion;
use kappa_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kappa_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: OffsetDeleteRequest) -> Reply {
    // Folding what was written last reads the log.
    elsewhere(node, cx, request, handle_blocking)
}

fn handle_blocking(node: &Arc<Node>, cx: &Context, request: OffsetDeleteRequest) -> Reply {
    if !cx.allows(Operation::Delete, Resource::Group(&request.group_id)) {
        return Reply::Now(failed(node, ErrorCode::GroupAuthorizationFailed).into());
    }
    let mut wanted = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let refusal = refuse(node, cx, &topic.name);
        let partitions = topic.partitions.iter().map(|partition| {
            if refusal.is_none() {
                wanted.push((topic.name.clone(), partition.partition_index));
            }
            OffsetDeleteResponsePartition {
                partition_index: partition.partition_index,
                error_code: node.error(refusal.unwrap_or(ErrorCode::None)),
            }
        });
        let partitions = partitions.collect();
        topics.push((refusal.is_none(), OffsetDeleteResponseTopic { name: topic.name, partitions }));
    }
    let OffsetsDeletion { verdicts, durable } = match node.groups.delete_offsets(&request.group_id, &wanted) {
        Ok(deletion) => deletion,
        Err(error) => return Reply::Now(failed(node, group_error_code(&error)).into()),
    };
    let open = topics.iter_mut().filter(|(open, _)| *open).flat_map(|(_, topic)| &mut topic.partitions);
    for (partition, verdict) in open.zip(&verdicts) {
        partition.error_code = node.group_outcome(verdict);
    }
    let topics = topics.into_iter().map(|(_, topic)| topic).collect();
    let response = OffsetDeleteResponse { topics, ..OffsetDeleteResponse::default() };
    let Some(durable) = durable else { return Reply::Now(response.into()) };
    let node = node.clone();
    Reply::later(async move {
        match durable.await {
            Ok(()) => response.into(),
            Err(_) => failed(&node, ErrorCode::CoordinatorNotAvailable).into(),
        }
    })
}

fn refuse(node: &Node, cx: &Context, topic: &str) -> Option<ErrorCode> {
    if !cx.allows(Operation::Read, Resource::Topic(topic)) {
        return Some(ErrorCode::TopicAuthorizationFailed);
    }
    node.topics.topic(topic).is_none().then_some(ErrorCode::UnknownTopicOrPartition)
}

fn failed(node: &Node, code: ErrorCode) -> OffsetDeleteResponse {
    OffsetDeleteResponse { error_code: node.error(code), ..OffsetDeleteResponse::default() }
}
