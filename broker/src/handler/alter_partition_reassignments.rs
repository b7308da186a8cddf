//! AlterPartitionReassignments: the only replica of a partition stays where it is (KIP-455).

use super::{Node, Refusal};
use crate::topic::Topic;
use kappa_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kappa_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kappa_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// `allow_replication_factor_change` (KIP-860) forbids nothing that is possible: one replica is all there can be.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: AlterPartitionReassignmentsRequest) -> Reply {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    if !cx.allows(Operation::Alter, Resource::Cluster) {
        let response = AlterPartitionReassignmentsResponse {
            allow_replication_factor_change,
            error_code: node.error(ErrorCode::ClusterAuthorizationFailed),
            error_message: Some("not allowed to alter the cluster".into()),
            ..Default::default()
        };
        return Reply::Now(response.into());
    }
    // One answer for each that is named, as they may ask for different things.
    let responses = request.topics.into_iter().map(|topic| answer(node, topic)).collect();
    let response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change,
        error_message: None,
        responses,
        ..Default::default()
    };
    Reply::Now(response.into())
}

fn answer(node: &Node, wanted: ReassignableTopic) -> ReassignableTopicResponse {
    let topic = node.topics.topic(&wanted.name);
    let partitions = wanted
        .partitions
        .into_iter()
        .map(|wanted| {
            let outcome = check(topic.as_deref(), &wanted, node.id());
            ReassignablePartitionResponse {
                partition_index: wanted.partition_index,
                error_code: outcome.as_ref().map_or_else(|refusal| node.error(refusal.code), |()| 0),
                error_message: outcome.err().map(|refusal| refusal.message),
            }
        })
        .collect();
    ReassignableTopicResponse { name: wanted.name, partitions }
}

/// Whether the partition is on the replicas that are wanted; no replicas cancel a reassignment.
fn check(topic: Option<&Topic>, wanted: &ReassignablePartition, this: i32) -> Result<(), Refusal> {
    let unknown = |message| Refusal::new(ErrorCode::UnknownTopicOrPartition, message);
    let topic = topic.ok_or_else(|| unknown("the topic does not exist"))?;
    if topic.partition(wanted.partition_index).is_none() {
        return Err(unknown("the topic has no such partition"));
    }
    let Some(replicas) = &wanted.replicas else {
        let message = "the partition is not being reassigned";
        return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, message));
    };
    let message = match replicas.as_slice() {
        [only] if *only == this => return Ok(()),
        [] => "there must be a replica".into(),
        _ => match replicas.iter().find(|replica| **replica != this) {
            Some(other) => format!("broker {other} does not exist"),
            None => format!("broker {this} is named more than once"),
        },
    };
    Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message))
}
