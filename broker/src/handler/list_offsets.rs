//! ListOffsets: the first and last offsets of partitions, and offsets by time.

use super::fetch::check_leader_epoch;
use super::{Node, Refusal, read_error_code};
use crate::log::TimestampedOffset;
use crate::partition::{IsolationLevel, Partition, ReadError};
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kappa_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashSet;
use std::sync::Arc;

/// What a timestamp in a request stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The log start.
    Earliest,
    /// The first offset that is not to be read yet.
    Latest,
    /// The record with the greatest timestamp.
    MaxTimestamp,
    /// Something that only a log with remote storage has.
    Remote,
    /// The first record at or after a time.
    At(i64),
}

impl Position {
    fn new(timestamp: i64) -> Option<Self> {
        match timestamp {
            // All of the log is local, so its earliest local offset is its earliest.
            -2 | -4 => Some(Self::Earliest),
            -1 => Some(Self::Latest),
            -3 => Some(Self::MaxTimestamp),
            -5 | -6 => Some(Self::Remote),
            0.. => Some(Self::At(timestamp)),
            _ => None,
        }
    }

    fn looks_into_the_log(timestamp: i64) -> bool {
        matches!(Self::new(timestamp), Some(Self::MaxTimestamp | Self::At(_)))
    }
}

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ListOffsetsRequest) -> Reply {
    let partitions = || request.topics.iter().flat_map(|topic| &topic.partitions);
    if !partitions().any(|partition| Position::looks_into_the_log(partition.timestamp)) {
        return Reply::Now(answer(node, cx, &request).into());
    }
    let (task_node, cx) = (node.clone(), cx.clone());
    let (node, asked) = (node.clone(), request.clone());
    let work = node.jobs.run(move || answer(&task_node, &cx, &request));
    Reply::later(async move { work.await.unwrap_or_else(|_| unanswered(&node, asked)).into() })
}

/// The answer where the work panicked or the broker stops: an error for every partition, and nothing made up.
fn unanswered(node: &Node, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let refused = |wanted: ListOffsetsPartition| ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        error_code: node.error(ErrorCode::UnknownServerError),
        ..Default::default()
    };
    let topics = request.topics.into_iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(refused).collect(),
    });
    ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
}

fn answer(node: &Node, cx: &Context, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = match request.isolation_level {
        1 => IsolationLevel::ReadCommitted,
        _ => IsolationLevel::ReadUncommitted,
    };
    let twice = named_twice(request);
    let answer = |topic| answer_topic(node, cx, isolation, &twice, topic);
    let topics = request.topics.iter().map(answer).collect();
    ListOffsetsResponse { topics, ..Default::default() }
}

/// Partitions that stand in the request more than once; like Kafka, they are refused.
fn named_twice(request: &ListOffsetsRequest) -> HashSet<(&str, i32)> {
    let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            let named = (topic.name.as_str(), partition.partition_index);
            if !seen.insert(named) {
                twice.insert(named);
            }
        }
    }
    twice
}

fn answer_topic(
    node: &Node,
    cx: &Context,
    isolation: IsolationLevel,
    twice: &HashSet<(&str, i32)>,
    topic: &ListOffsetsTopic,
) -> ListOffsetsTopicResponse {
    let allowed = cx.allows(Operation::Describe, Resource::Topic(&topic.name));
    let partitions = topic
        .partitions
        .iter()
        .map(|wanted| {
            let partition_index = wanted.partition_index;
            let found = match allowed {
                true if twice.contains(&(topic.name.as_str(), partition_index)) => {
                    let message = "the partition stands in the request more than once";
                    Err(Refusal::new(ErrorCode::InvalidRequest, message))
                }
                true => find(node, &topic.name, isolation, wanted),
                false => {
                    let message = format!("not allowed to describe topic {}", topic.name);
                    Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message))
                }
            };
            match found {
                Ok(TimestampedOffset { timestamp, offset, leader_epoch }) => ListOffsetsPartitionResponse {
                    partition_index,
                    timestamp,
                    offset,
                    leader_epoch: if cx.version >= 4 { leader_epoch } else { -1 },
                    ..Default::default()
                },
                Err(refusal) => ListOffsetsPartitionResponse {
                    partition_index,
                    error_code: node.error(refusal.code),
                    ..Default::default()
                },
            }
        })
        .collect();
    ListOffsetsTopicResponse { name: topic.name.clone(), partitions }
}

/// No record: Kafka's answer where there is none.
const NOWHERE: TimestampedOffset = TimestampedOffset { timestamp: -1, offset: -1, leader_epoch: -1 };

fn find(
    node: &Node,
    topic: &str,
    isolation: IsolationLevel,
    wanted: &ListOffsetsPartition,
) -> Result<TimestampedOffset, Refusal> {
    let partition = node.topics.partition(topic, wanted.partition_index).ok_or_else(|| {
        let message = format!("there is no partition {} of topic {topic}", wanted.partition_index);
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    check_leader_epoch(&partition, wanted.current_leader_epoch)?;
    let position = Position::new(wanted.timestamp).ok_or_else(|| {
        let message = format!("timestamp {} has no meaning", wanted.timestamp);
        Refusal::new(ErrorCode::UnsupportedVersion, message)
    })?;
    locate(&partition, isolation, position)
        .map_err(|error| Refusal::new(read_error_code(&error), error.to_string()))
}

fn locate(
    partition: &Partition,
    isolation: IsolationLevel,
    position: Position,
) -> Result<TimestampedOffset, ReadError> {
    let offsets = partition.offsets();
    let here = |offset| TimestampedOffset { timestamp: -1, offset, leader_epoch: partition.leader_epoch() };
    let first = || TimestampedOffset {
        timestamp: -1,
        offset: offsets.log_start,
        leader_epoch: partition.epoch_at(offsets.log_start),
    };
    Ok(match position {
        Position::Earliest => first(),
        Position::Latest if isolation == IsolationLevel::ReadCommitted => here(offsets.last_stable),
        Position::Latest => here(offsets.high_watermark),
        Position::MaxTimestamp => partition.max_timestamp_offset()?.unwrap_or(NOWHERE),
        Position::Remote => NOWHERE,
        Position::At(timestamp) => partition.offset_for_timestamp(timestamp)?.unwrap_or(NOWHERE),
    })
}
