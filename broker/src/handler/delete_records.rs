//! DeleteRecords: moves the log start of partitions forward.

use super::{Node, Refusal, delete_records_error_code};
use crate::config::topic_text;
use crate::topic::is_internal;
use kappa_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kappa_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kappa_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DeleteRecordsRequest) -> Reply {
    let (task_node, cx) = (node.clone(), cx.clone());
    // A deletion counts once the new log start is on disk.
    let (node, asked) = (node.clone(), request.clone());
    let work = node.jobs.run(move || answer(&task_node, &cx, request));
    Reply::later(async move { work.await.unwrap_or_else(|_| unanswered(&node, asked)).into() })
}

/// The answer where the work panicked or the broker stops: an error for every partition, and nothing made up.
fn unanswered(node: &Node, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let refused = |wanted: DeleteRecordsPartition| DeleteRecordsPartitionResult {
        partition_index: wanted.partition_index,
        low_watermark: -1,
        error_code: node.error(ErrorCode::UnknownServerError),
    };
    let topics = request.topics.into_iter().map(|topic| DeleteRecordsTopicResult {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(refused).collect(),
    });
    DeleteRecordsResponse { topics: topics.collect(), ..Default::default() }
}

fn answer(node: &Node, cx: &Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics: Vec<DeleteRecordsTopicResult> = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .into_iter()
                .map(|wanted| {
                    let partition_index = wanted.partition_index;
                    match delete(node, cx, &topic.name, partition_index, wanted.offset) {
                        Ok(low_watermark) => {
                            DeleteRecordsPartitionResult { partition_index, low_watermark, error_code: 0 }
                        }
                        Err(refusal) => DeleteRecordsPartitionResult {
                            partition_index,
                            low_watermark: -1,
                            error_code: node.error(refusal.code),
                        },
                    }
                })
                .collect();
            DeleteRecordsTopicResult { name: topic.name, partitions }
        })
        .collect();
    if let Err(error) = node.topics.write_checkpoints() {
        tracing::warn!(%error, "checkpoints not written after a deletion of records");
        let deleted = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        for result in deleted.filter(|result| result.error_code == 0) {
            result.low_watermark = -1;
            result.error_code = node.error(ErrorCode::KafkaStorageError);
        }
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

/// Whether records of a topic go by compaction alone.
fn is_compacted_only(node: &Node, topic: &str) -> bool {
    let Some(topic) = node.topics.topic(topic) else { return false };
    let (overrides, layers) = (topic.overrides(), node.topics.layers());
    let policy = topic_text("cleanup.policy", &overrides, &layers);
    let has = |wanted| policy.split(',').any(|word| word.trim() == wanted);
    has("compact") && !has("delete")
}

fn delete(node: &Node, cx: &Context, topic: &str, index: i32, before: i64) -> Result<i64, Refusal> {
    if !cx.allows(Operation::Delete, Resource::Topic(topic)) {
        let message = format!("not allowed to delete records of topic {topic}");
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    if is_internal(topic) {
        let message = format!("records of {topic} are the broker's own");
        return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
    }
    let partition = node.topics.partition(topic, index).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no partition {index} of topic {topic}"),
        )
    })?;
    // What a compacted topic holds stands until a newer value of its key does.
    if is_compacted_only(node, topic) {
        let message = format!("records of {topic} are only compacted (cleanup.policy), never deleted");
        return Err(Refusal::new(ErrorCode::PolicyViolation, message));
    }
    partition
        .delete_records(before)
        .map_err(|error| Refusal::new(delete_records_error_code(&error), error.to_string()))
}
