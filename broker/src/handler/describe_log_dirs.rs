//! DescribeLogDirs: the data directory, the sizes of its partitions, and the room that is left.

use super::{Node, elsewhere, joined};
use crate::topic::Topic;
use kappa_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kappa_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kappa_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashSet;
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DescribeLogDirsRequest) -> Reply {
    if !cx.allows(Operation::Describe, Resource::Cluster) {
        let error_code = node.error(ErrorCode::ClusterAuthorizationFailed);
        return Reply::Now(DescribeLogDirsResponse { error_code, ..Default::default() }.into());
    }
    elsewhere(node, cx, request, |node, _, request| Reply::Now(answer(node, request).into()))
}

fn answer(node: &Node, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let topics = match request.topics {
        None => node.topics.all().iter().map(|topic| describe(topic, None)).collect(),
        Some(wanted) => {
            let named = |wanted: &DescribableLogDirTopic| (0, wanted.topic.clone());
            let wanted = joined(wanted, named, |first, again| first.partitions.extend(again.partitions));
            let topics = wanted.into_iter().filter_map(|DescribableLogDirTopic { topic, partitions }| {
                Some(describe(&*node.topics.topic(&topic)?, Some(&partitions.into_iter().collect())))
            });
            topics.collect()
        }
    };
    let dir = node.topics.data_dir();
    let usable = node.topics.env().disk.available_bytes(dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "the room that is left in the data directory is not known");
        u64::MAX
    });
    let result = DescribeLogDirsResult {
        log_dir: log_dir(node),
        topics,
        usable_bytes: usable.cast_signed(),
        ..Default::default()
    };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

/// The data directory as clients are told of it: its absolute path.
pub(crate) fn log_dir(node: &Node) -> String {
    let dir = node.topics.data_dir();
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf()).display().to_string()
}

fn describe(topic: &Topic, wanted: Option<&HashSet<i32>>) -> DescribeLogDirsTopic {
    let partitions = (0i32..)
        .zip(topic.partitions().iter())
        .filter(|(index, _)| wanted.is_none_or(|wanted| wanted.contains(index)))
        .map(|(partition_index, partition)| DescribeLogDirsPartition {
            partition_index,
            partition_size: partition.size_bytes().cast_signed(),
            ..Default::default()
        })
        .collect();
    DescribeLogDirsTopic { name: topic.name.to_string(), partitions }
}
