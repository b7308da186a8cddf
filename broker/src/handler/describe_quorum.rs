//! DescribeQuorum: this broker, which alone votes on the catalog (KIP-595).

use super::Node;
use crate::topic::CATALOG_TOPIC;
use kappa_protocol::messages::describe_quorum_request::DescribeQuorumRequest;
use kappa_protocol::messages::describe_quorum_response::{
    self as response, DescribeQuorumResponse, Listener, PartitionData, ReplicaState, TopicData,
};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// The only log that has a quorum, by the name that clients know: here it is the catalog.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The only listener there is.
const LISTENER: &str = "PLAINTEXT";
/// From this version on an answer says where voters are found (KIP-853).
const WITH_NODES: i16 = 2;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DescribeQuorumRequest) -> Reply {
    if !cx.allows(Operation::Describe, Resource::Cluster) {
        let response = DescribeQuorumResponse {
            error_code: node.error(ErrorCode::ClusterAuthorizationFailed),
            error_message: Some("not allowed to describe the cluster".into()),
            ..Default::default()
        };
        return Reply::Now(response.into());
    }
    // Another log beside it, and the request as a whole is not answered.
    let is_answered = matches!(request.topics.as_slice(), [topic] if topic.topic_name == METADATA_TOPIC
        && matches!(topic.partitions.as_slice(), [partition] if partition.partition_index == 0));
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| match is_answered {
            true => quorum(node),
            false => unknown(node, partition.partition_index),
        });
        TopicData { partitions: partitions.collect(), topic_name: topic.topic_name }
    });
    let topics = topics.collect();
    let nodes = if is_answered && cx.version >= WITH_NODES { vec![voter(node)] } else { Vec::new() };
    Reply::Now(DescribeQuorumResponse { topics, nodes, ..Default::default() }.into())
}

fn quorum(node: &Node) -> PartitionData {
    let Some(catalog) = node.topics.partition(CATALOG_TOPIC, 0) else { return unknown(node, 0) };
    let offsets = catalog.offsets();
    // Its leader has always caught up with itself.
    let now_ms = node.topics.env().clock.now_ms();
    let this = ReplicaState {
        replica_id: node.id(),
        log_end_offset: offsets.log_end,
        last_fetch_timestamp: now_ms,
        last_caught_up_timestamp: now_ms,
        ..Default::default()
    };
    PartitionData {
        leader_id: node.id(),
        leader_epoch: catalog.leader_epoch(),
        high_watermark: offsets.high_watermark,
        current_voters: vec![this],
        ..Default::default()
    }
}

fn voter(node: &Node) -> response::Node {
    let advertised = node.advertised();
    let (name, host) = (LISTENER.to_owned(), advertised.host.to_string());
    response::Node { node_id: node.id(), listeners: vec![Listener { name, host, port: advertised.port }] }
}

fn unknown(node: &Node, partition_index: i32) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: node.error(ErrorCode::UnknownTopicOrPartition),
        error_message: Some(format!("only partition 0 of {METADATA_TOPIC}, asked for alone, has a quorum")),
        ..Default::default()
    }
}
