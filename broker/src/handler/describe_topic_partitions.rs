//! DescribeTopicPartitions: topics with their partitions, page by page.

use super::Node;
use super::metadata::TOPIC_OPERATIONS;
use crate::topic::{Topic, TopicName};
use kappa_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kappa_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most partitions of one answer (`max.request.partition.size.limit` of Kafka).
const PARTITIONS_MAX: usize = 2000;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DescribeTopicPartitionsRequest) -> Reply {
    let all = request.topics.is_empty();
    // Pages follow the order of names, as the cursor does.
    let mut names: BTreeSet<String> = request.topics.into_iter().map(|topic| topic.name).collect();
    if all {
        let topics = node.topics.all();
        let listed = topics.iter().filter(|topic| topic.is_listed());
        names = listed.map(|topic| topic.name.to_string()).collect();
    }
    let (start_name, start_index) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.clone(), cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| *name >= start_name) {
        let first = if name == start_name { start_index } else { 0 };
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: first });
            break;
        }
        let Some(topic) = visible(node, cx, &name) else {
            if !all {
                response.topics.push(unknown(node, name));
            }
            continue;
        };
        let (described, next) = page(node, &topic, first, room);
        room -= described.partitions.len();
        response.topics.push(described);
        if let Some(partition_index) = next {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index });
            break;
        }
    }
    Reply::Now(response.into())
}

fn visible(node: &Node, cx: &Context, name: &str) -> Option<Arc<Topic>> {
    node.topics.topic(name).filter(|_| cx.allows(Operation::Describe, Resource::Topic(name)))
}

fn unknown(node: &Node, name: String) -> DescribeTopicPartitionsResponseTopic {
    let code = match TopicName::new(&name) {
        Ok(_) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: node.error(code),
        name: Some(name),
        ..Default::default()
    }
}

/// Up to `room` partitions from `first` on, and where the next page starts if there is one.
fn page(
    node: &Node,
    topic: &Topic,
    first: i32,
    room: usize,
) -> (DescribeTopicPartitionsResponseTopic, Option<i32>) {
    let all = topic.partitions();
    let mut rest = (0i32..).zip(all.iter()).skip(usize::try_from(first).unwrap_or(0));
    let partitions = rest
        .by_ref()
        .take(room)
        .map(|(partition_index, partition)| DescribeTopicPartitionsResponsePartition {
            partition_index,
            leader_id: node.id(),
            leader_epoch: partition.leader_epoch(),
            replica_nodes: vec![node.id()],
            isr_nodes: vec![node.id()],
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..Default::default()
        })
        .collect();
    let described = DescribeTopicPartitionsResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions,
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    };
    (described, rest.next().map(|(index, _)| index))
}
