//! Produce: one batch per partition is checked and appended at once; the answer comes when it is as durable as the topic
//! promises, with acks=1 as with acks=all: what is acknowledged is kept, and visible to whoever asks.
//!
//! A producer that wants no answer (acks=0) learns of a refusal by losing its connection, as with Kafka.

use super::{Node, Refusal, append_error_code};
use crate::partition::{AppendError, Appended, Expansion, Partition};
use crate::topic::{Topic, is_internal};
use bytes::Bytes;
use kappa_protocol::messages::produce_request::PartitionProduceData;
use kappa_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kappa_protocol::messages::{ProduceRequest, ProduceResponse};
use kappa_protocol::record::{Batch, BatchError, RecordError};
use kappa_protocol::{Context, ErrorCode, LaneError, Operation, Reply, Resource};
use std::future::ready;
use std::sync::Arc;
use uuid::Uuid;

/// An append that is to be durable before the answer goes: where in the answer it stands, and what to wait for.
struct Pending {
    topic: usize,
    partition: usize,
    log: Arc<Partition>,
    appended: Appended,
}

/// Why a batch was not appended, and for which record if it is one of them.
struct Refused {
    refusal: Refusal,
    record: Option<i32>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, record: None }
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        let record = match error {
            AppendError::NoKey { index }
            | AppendError::Batch(BatchError::Record(RecordError { index, .. })) => Some(index),
            _ => None,
        };
        Self { refusal: Refusal::new(append_error_code(&error), error.to_string()), record }
    }
}

/// Bytes of all messages of an answer: what is refused beyond them has a code alone.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ProduceRequest) -> Reply {
    let mut response = ProduceResponse::default();
    let mut message_bytes = 0;
    let mut pending = Vec::new();
    let mut expansion = Expansion::default();
    for (index, data) in request.topic_data.into_iter().enumerate() {
        let topic = match data.topic_id.is_nil() {
            true => node.topics.topic(&data.name),
            false => node.topics.by_id(data.topic_id),
        };
        let target = Target {
            acks: request.acks,
            transactional: request.transactional_id.is_some(),
            topic: writable(cx, topic, &data.name, data.topic_id),
        };
        let mut partition_responses = Vec::with_capacity(data.partition_data.len());
        for (position, partition) in data.partition_data.into_iter().enumerate() {
            let (mut answer, appended) = target.append(node, partition, &mut expansion);
            message_bytes += answer.error_message.as_ref().map_or(0, String::len);
            answer.error_message = answer.error_message.filter(|_| message_bytes <= MESSAGE_BYTES_MAX);
            partition_responses.push(answer);
            if let Some((log, appended)) = appended.filter(|_| request.acks != 0) {
                pending.push(Pending { topic: index, partition: position, log, appended });
            }
        }
        response.responses.push(TopicProduceResponse {
            name: data.name,
            topic_id: data.topic_id,
            partition_responses,
        });
    }
    match request.acks {
        0 => match first_refusal(&response) {
            None => Reply::None,
            Some(reason) => Reply::Later(Box::pin(ready(Err(LaneError::Disconnected { reason })))),
        },
        _ if pending.is_empty() => Reply::Now(response.into()),
        _ => when_durable(node, response, pending),
    }
}

fn first_refusal(response: &ProduceResponse) -> Option<Arc<str>> {
    let mut partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let refused = partitions.find(|partition| partition.error_code != ErrorCode::None.code())?;
    let why = refused.error_message.as_deref().unwrap_or("no reason given");
    Some(Arc::from(format!("a batch with acks=0 was refused: {why}")))
}

/// Answers once everything appended is as durable as the topics' settings promise.
///
/// A producer whose connection is a lane of this process is held back by this answer, where too much is to be synced.
/// There is no timer here: a sync ends, well or badly, and the client's own timeout covers a disk that hangs.
fn when_durable(node: &Arc<Node>, mut response: ProduceResponse, pending: Vec<Pending>) -> Reply {
    let waits: Vec<_> = pending
        .into_iter()
        .map(|Pending { topic, partition, log, appended }| (topic, partition, log.durable(appended.mark)))
        .filter(|(_, _, durable)| !durable.is_ready())
        .collect();
    let flush = &node.topics.env().flush;
    if waits.is_empty() && !flush.holds_producers() {
        return Reply::Now(response.into());
    }
    let node = node.clone();
    Reply::later(async move {
        for (topic, partition, durable) in waits {
            if let Err(error) = durable.await {
                let answers = response.responses.get_mut(topic);
                if let Some(answer) = answers.and_then(|topic| topic.partition_responses.get_mut(partition)) {
                    let refusal = Refusal::new(ErrorCode::KafkaStorageError, error.to_string());
                    *answer = refused(&node, answer.index, refusal);
                }
            }
        }
        node.topics.env().flush.room().await;
        response.into()
    })
}

fn writable(cx: &Context, topic: Option<Arc<Topic>>, name: &str, id: Uuid) -> Result<Arc<Topic>, Refusal> {
    let topic = topic.ok_or_else(|| Refusal::unknown_topic(name, id))?;
    if !cx.allows(Operation::Write, Resource::Topic(&topic.name)) {
        let message = format!("not allowed to write to topic {}", topic.name);
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    if is_internal(&topic.name) {
        let message = format!("{} is written by the broker alone", topic.name);
        return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
    }
    Ok(topic)
}

/// Where the batches of one topic of a request go, or why they do not.
struct Target {
    acks: i16,
    transactional: bool,
    topic: Result<Arc<Topic>, Refusal>,
}

type Outcome = (PartitionProduceResponse, Option<(Arc<Partition>, Appended)>);

impl Target {
    fn append(&self, node: &Node, data: PartitionProduceData, expansion: &mut Expansion) -> Outcome {
        let index = data.index;
        match self.try_append(node, data, expansion) {
            Ok((log, appended)) => {
                let answer = PartitionProduceResponse {
                    index,
                    base_offset: appended.base_offset,
                    log_append_time_ms: appended.log_append_time.unwrap_or(-1),
                    log_start_offset: appended.log_start,
                    ..Default::default()
                };
                (answer, Some((log, appended)))
            }
            Err(Refused { refusal, record }) => {
                let mut answer = refused(node, index, refusal);
                answer.record_errors.extend(record.map(|batch_index| BatchIndexAndErrorMessage {
                    batch_index,
                    batch_index_error_message: None,
                }));
                (answer, None)
            }
        }
    }

    fn try_append(
        &self,
        node: &Node,
        data: PartitionProduceData,
        expansion: &mut Expansion,
    ) -> Result<(Arc<Partition>, Appended), Refused> {
        let topic = self.topic.as_ref().map_err(Clone::clone)?;
        if !matches!(self.acks, -1..=1) {
            return Err(Refusal::new(ErrorCode::InvalidRequiredAcks, "acks must be -1 (all), 0 or 1").into());
        }
        if self.transactional {
            let message = "transactions are not supported: produce without a transactional id";
            return Err(Refusal::new(ErrorCode::InvalidTxnState, message).into());
        }
        let partition = topic.partition(data.index).ok_or_else(|| {
            let message = format!("topic {} has no partition {}", topic.name, data.index);
            Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
        })?;
        let batch = data.records.map(|records| records.to_bytes()).unwrap_or_default();
        if batch.is_empty() {
            return Err(Refusal::new(
                ErrorCode::InvalidRecord,
                "a produce request carries one batch per partition",
            )
            .into());
        }
        let appended = partition.append_of(batch.clone(), expansion)?;
        count(node, &batch);
        Ok((partition, appended))
    }
}

fn count(node: &Node, batch: &Bytes) {
    node.metrics.appended_bytes.inc_by(batch.len() as u64);
    if let Ok(header) = Batch::header(batch) {
        node.metrics.appended_records.inc_by(u64::from(header.count().unsigned_abs()));
    }
}

fn refused(node: &Node, index: i32, refusal: Refusal) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        error_code: node.error(refusal.code),
        base_offset: -1,
        error_message: Some(refusal.message),
        ..Default::default()
    }
}
