//! AlterReplicaLogDirs: replicas stay in the data directory, there is no other to move them to (KIP-113).

use super::describe_log_dirs::log_dir;
use super::{Node, joined};
use kappa_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kappa_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A topic, and for each of its partitions whether it is wanted where it is.
type Wanted = (String, BTreeMap<i32, bool>);

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: AlterReplicaLogDirsRequest) -> Reply {
    let this = log_dir(node);
    let allowed = cx.allows(Operation::Alter, Resource::Cluster);
    let mut wanted: Vec<Wanted> = Vec::new();
    for dir in request.dirs {
        let stays = dir.path == this;
        let topics = dir.topics.into_iter();
        wanted.extend(
            topics.map(|topic| {
                (topic.name, topic.partitions.into_iter().map(|index| (index, stays)).collect())
            }),
        );
    }
    // A partition that is named again is wanted in the last directory.
    let wanted = joined(wanted, |(name, _)| (0, name.clone()), |first, again| first.1.extend(again.1));
    let results = wanted
        .into_iter()
        .filter(|(_, partitions)| !partitions.is_empty())
        .map(|(topic_name, partitions)| {
            let topic = node.topics.topic(&topic_name);
            let exists = |index| topic.as_ref().is_some_and(|topic| topic.partition(index).is_some());
            let partitions = partitions.into_iter().map(|(partition_index, stays)| {
                let error_code = match stays {
                    _ if !allowed => node.error(ErrorCode::ClusterAuthorizationFailed),
                    false => node.error(ErrorCode::LogDirNotFound),
                    true if !exists(partition_index) => node.error(ErrorCode::UnknownTopicOrPartition),
                    true => 0,
                };
                AlterReplicaLogDirPartitionResult { partition_index, error_code }
            });
            AlterReplicaLogDirTopicResult { topic_name, partitions: partitions.collect() }
        })
        .collect();
    Reply::Now(AlterReplicaLogDirsResponse { results, ..Default::default() }.into())
}
