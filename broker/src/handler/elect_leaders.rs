//! ElectLeaders: there is nobody to elect, every partition is led by its only replica (KIP-460).

use super::{Node, Refusal, joined};
use kappa_protocol::messages::elect_leaders_request::TopicPartitions;
use kappa_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kappa_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashSet;
use std::sync::Arc;

/// The kinds of election: of the preferred replica, and of any.
const ELECTION_TYPES: [i8; 2] = [0, 1];
/// From this version on an answer has an error of its own.
const WITH_ERROR: i16 = 1;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ElectLeadersRequest) -> Reply {
    let refusal = check(cx, &request).err();
    let replica_election_results = match request.topic_partitions {
        Some(wanted) => {
            let named = |wanted: &TopicPartitions| (0, wanted.topic.clone());
            let wanted = joined(wanted, named, |first, again| first.partitions.extend(again.partitions));
            wanted.into_iter().map(|wanted| answer(node, wanted, refusal.as_ref())).collect()
        }
        // Of all partitions only those are told of that were without a leader.
        None if refusal.is_none() => {
            let led = |topic: String| ReplicaElectionResult { topic, ..Default::default() };
            node.topics.all().iter().map(|topic| led(topic.name.to_string())).collect()
        }
        None => Vec::new(),
    };
    let error_code = match refusal {
        Some(Refusal { code, .. }) if cx.version >= WITH_ERROR => node.error(code),
        _ => 0,
    };
    Reply::Now(ElectLeadersResponse { error_code, replica_election_results, ..Default::default() }.into())
}

fn check(cx: &Context, request: &ElectLeadersRequest) -> Result<(), Refusal> {
    if !cx.allows(Operation::Alter, Resource::Cluster) {
        return Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, "not allowed to alter the cluster"));
    }
    if !ELECTION_TYPES.contains(&request.election_type) {
        let message = format!("there is no election of type {}", request.election_type);
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

fn answer(node: &Node, wanted: TopicPartitions, refusal: Option<&Refusal>) -> ReplicaElectionResult {
    let topic = node.topics.topic(&wanted.topic);
    let mut seen = HashSet::new();
    let once = wanted.partitions.into_iter().filter(|index| seen.insert(*index));
    let partition_result = once
        .map(|partition_id| {
            let outcome = match (refusal, &topic) {
                (Some(refusal), _) => refusal.clone(),
                (None, None) => Refusal::new(ErrorCode::UnknownTopicOrPartition, "the topic does not exist"),
                (None, Some(topic)) if topic.partition(partition_id).is_none() => {
                    Refusal::new(ErrorCode::UnknownTopicOrPartition, "the topic has no such partition")
                }
                (None, Some(_)) => {
                    Refusal::new(ErrorCode::ElectionNotNeeded, "its only replica leads the partition")
                }
            };
            let error_code = node.error(outcome.code);
            PartitionResult { partition_id, error_code, error_message: Some(outcome.message) }
        })
        .collect();
    ReplicaElectionResult { topic: wanted.topic, partition_result }
}
