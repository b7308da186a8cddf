//! OffsetForLeaderEpoch: where an epoch of a partition ended, by which a consumer notices a log that was cut.

use super::fetch::check_leader_epoch;
use super::{Node, Refusal};
use kappa_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kappa_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kappa_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: OffsetForLeaderEpochRequest) -> Reply {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|wanted| {
                    let partition = wanted.partition;
                    match find(node, cx, &topic.topic, wanted) {
                        Ok((leader_epoch, end_offset)) => {
                            EpochEndOffset { error_code: 0, partition, leader_epoch, end_offset }
                        }
                        Err(refusal) => EpochEndOffset {
                            error_code: node.error(refusal.code),
                            partition,
                            ..Default::default()
                        },
                    }
                })
                .collect();
            OffsetForLeaderTopicResult { topic: topic.topic, partitions }
        })
        .collect();
    Reply::Now(OffsetForLeaderEpochResponse { topics, ..Default::default() }.into())
}

fn find(
    node: &Node,
    cx: &Context,
    topic: &str,
    wanted: &OffsetForLeaderPartition,
) -> Result<(i32, i64), Refusal> {
    if !cx.allows(Operation::Describe, Resource::Topic(topic)) {
        let message = format!("not allowed to describe topic {topic}");
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    let partition = node.topics.partition(topic, wanted.partition).ok_or_else(|| {
        let message = format!("there is no partition {} of topic {topic}", wanted.partition);
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    check_leader_epoch(&partition, wanted.current_leader_epoch)?;
    // An epoch that is yet to come has no end, which tells its asker that it knows another log.
    let is_known = wanted.leader_epoch <= partition.leader_epoch();
    Ok(partition.epoch_end(wanted.leader_epoch).filter(|_| is_known).unwrap_or((-1, -1)))
}
