//! A produce request and what its answer says of each batch.

use super::{flow::Sealed, queue::PartitionQueue};
use crate::routing::metadata::Cluster;
use kappa_protocol::{
    Records,
    messages::{
        ProduceRequest, ProduceResponse,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
};
use std::sync::Arc;
use uuid::Uuid;

/// First version that names topics by id.
pub(super) const TOPIC_ID_VERSION: i16 = 13;

/// A batch in a request.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) queue: Arc<PartitionQueue>,
    pub(super) topic_id: Uuid,
    pub(super) batch: Sealed,
}

/// The request that carries `sent`; batches of a topic should stand together.
pub(super) fn build(sent: &[Sent], acks: i16, timeout_ms: i32) -> ProduceRequest {
    let mut topics: Vec<TopicProduceData> = Vec::new();
    for Sent { queue, topic_id, batch } in sent {
        let data = PartitionProduceData {
            index: queue.partition,
            records: Some(Records::from(batch.bytes.clone())),
        };
        match topics.last_mut().filter(|topic| topic.name == *queue.topic) {
            Some(topic) => topic.partition_data.push(data),
            None => topics.push(TopicProduceData {
                name: queue.topic.to_string(),
                topic_id: *topic_id,
                partition_data: vec![data],
            }),
        }
    }
    ProduceRequest { transactional_id: None, acks, timeout_ms, topic_data: topics }
}

/// Pairs each batch with its part of the answer, `None` where the answer lacks it.
pub(super) fn pair(
    sent: Vec<Sent>,
    response: &ProduceResponse,
    cluster: &Cluster,
) -> Vec<(Sent, Option<PartitionProduceResponse>)> {
    let mut answers: Vec<(&str, Uuid, &PartitionProduceResponse)> = Vec::with_capacity(sent.len());
    for topic in &response.responses {
        let name = cluster.name(topic.topic_id).map_or(topic.name.as_str(), |name| name);
        answers.extend(topic.partition_responses.iter().map(|partition| (name, topic.topic_id, partition)));
    }
    let mut at = 0;
    let paired = sent.into_iter().map(|sent| {
        // Brokers answer in the order of the request, so the next answer is nearly always the right one.
        let is_answer = |(name, id, partition): &(&str, Uuid, &PartitionProduceResponse)| {
            let same_topic = if id.is_nil() { *name == &*sent.queue.topic } else { *id == sent.topic_id };
            same_topic && partition.index == sent.queue.partition
        };
        let found = match answers.get(at).filter(|answer| is_answer(answer)) {
            Some(answer) => Some(answer),
            None => answers.iter().find(|answer| is_answer(answer)),
        };
        at += 1;
        let answer = found.map(|(_, _, partition)| (*partition).clone());
        (sent, answer)
    });
    paired.collect()
}
