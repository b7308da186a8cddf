//! Requests that several tests send, each in one fixed version.

use bytes::Bytes;
use kappa_protocol::messages::{self as m, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse};
use kappa_protocol::record::{BatchBuilder, BatchOptions, Compression, DecodedBatch, ProducerStamp};
use kappa_protocol::{ErrorCode, Records};
use std::io;

use super::wire::Wire;

pub(crate) const PRODUCE: i16 = 9;
pub(crate) const FETCH: i16 = 12;
pub(crate) const CREATE_TOPICS: i16 = 7;
pub(crate) const METADATA: i16 = 9;
pub(crate) const INIT_PRODUCER_ID: i16 = 4;

/// A batch with these values and no keys, as a producer sends it.
pub(crate) fn batch<V: AsRef<[u8]>>(
    values: impl IntoIterator<Item = V>,
    compression: Compression,
    producer: Option<ProducerStamp>,
) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for value in values {
        builder.push(1_700_000_000_000, None, Some(value.as_ref()), std::iter::empty());
    }
    builder.finish_with(0, producer)
}

/// acks=all to one partition.
pub(crate) fn produce(topic: &str, partition: i32, records: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![m::produce_request::TopicProduceData {
            name: topic.into(),
            partition_data: vec![m::produce_request::PartitionProduceData {
                index: partition,
                records: Some(Records::from(records)),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The base offset in the answer to [`produce`].
pub(crate) fn base_offset(response: &ProduceResponse) -> Result<i64, ErrorCode> {
    let partition = &response.responses[0].partition_responses[0];
    match partition.error_code {
        0 => Ok(partition.base_offset),
        code => Err(ErrorCode::from(code)),
    }
}

/// One partition from `offset` on.
pub(crate) fn fetch(topic: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        replica_id: -1,
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 16 << 20,
        session_epoch: -1,
        topics: vec![m::fetch_request::FetchTopic {
            topic: topic.into(),
            partitions: vec![m::fetch_request::FetchPartition {
                partition,
                current_leader_epoch: -1,
                fetch_offset: offset,
                last_fetched_epoch: -1,
                partition_max_bytes: 4 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What a fetch of one partition brought.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Batches as they are stored.
    pub(crate) batches: Vec<DecodedBatch>,
    /// First offset that is not visible yet.
    pub(crate) high_watermark: i64,
}

/// Reads the answer to [`fetch`].
pub(crate) fn fetched(response: &FetchResponse) -> Result<Fetched, ErrorCode> {
    let partition = &response.responses[0].partitions[0];
    for code in [response.error_code, partition.error_code] {
        if code != 0 {
            return Err(ErrorCode::from(code));
        }
    }
    let mut bytes = partition.records.as_ref().map(Records::to_bytes).unwrap_or_default();
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        batches.push(DecodedBatch::split_from(&mut bytes, 64 << 20).expect("stored batches are valid"));
    }
    Ok(Fetched { batches, high_watermark: partition.high_watermark })
}

/// `(offset, value)` of every record from `from` to the high watermark.
pub(crate) fn read_all(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    from: i64,
) -> io::Result<Vec<(i64, Bytes)>> {
    let (mut records, mut next) = (Vec::new(), from);
    loop {
        let response = wire.ask(FETCH, fetch(topic, partition, next, 0))?;
        let got =
            fetched(&response).unwrap_or_else(|code| panic!("fetch {topic}-{partition} at {next}: {code}"));
        for batch in &got.batches {
            for record in batch.records() {
                let record = record.expect("stored records are valid");
                if record.offset >= next {
                    records.push((record.offset, batch.slice(record.value.expect("never null here"))));
                }
            }
        }
        next = got.batches.last().map_or(next, DecodedBatch::next_offset);
        if next >= got.high_watermark {
            return Ok(records);
        }
        assert!(!got.batches.is_empty(), "{topic}-{partition}: nothing at {next}, though visible");
    }
}

/// Creates a topic and insists on it.
pub(crate) fn create_topic(wire: &mut Wire, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let response =
        wire.ask(CREATE_TOPICS, create_topics(name, partitions, configs)).expect("the broker runs");
    assert_eq!(response.topics[0].error_code, 0, "{name}: {:?}", response.topics[0].error_message);
}

/// Asks for one topic.
pub(crate) fn create_topics(name: &str, partitions: i32, configs: &[(&str, &str)]) -> m::CreateTopicsRequest {
    let configs = configs.iter().map(|(name, value)| m::create_topics_request::CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
    });
    m::CreateTopicsRequest {
        topics: vec![m::create_topics_request::CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.collect(),
            ..Default::default()
        }],
        timeout_ms: 30_000,
        ..Default::default()
    }
}

/// A fresh producer id and epoch.
pub(crate) fn init_producer_id(wire: &mut Wire) -> io::Result<(i64, i16)> {
    let request = m::InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let response = wire.ask(INIT_PRODUCER_ID, request)?;
    assert_eq!(response.error_code, 0, "InitProducerId");
    Ok((response.producer_id, response.producer_epoch))
}
