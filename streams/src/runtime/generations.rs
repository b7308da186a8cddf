//! The topic of an application's generations: reading all of it, and writing a record.

use super::{StartError, generation::GenerationRecord, watch::look};
use bytes::Bytes;
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig, ProducerRecord,
    RequestError, TopicPartition, admin::NewTopic, consumer::ConsumerError,
};
use kappa_protocol::{ApiKey, ErrorCode};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(200);
/// How long generations are looked up where the cluster cannot tell at the moment.
const PATIENCE: Duration = Duration::from_secs(30);

fn topic_of(application: &str) -> String {
    format!("{application}-generations")
}

/// All generations recorded of an application.
#[derive(Debug, Default)]
pub(super) struct Generations {
    topic: String,
    /// Records by number, as they stand there.
    values: BTreeMap<u32, Bytes>,
}

impl Generations {
    /// The latest.
    pub(super) fn latest(&self) -> Option<u32> {
        self.values.keys().next_back().copied()
    }

    /// The record of one, if there is one.
    pub(super) fn get(&self, generation: u32) -> Result<Option<GenerationRecord>, StartError> {
        let unreadable = |error: serde_json::Error| StartError::GenerationRecord {
            topic: self.topic.clone(),
            key: generation.to_string(),
            reason: error.to_string(),
        };
        let read = |value: &Bytes| serde_json::from_slice(value).map_err(unreadable);
        self.values.get(&generation).map(read).transpose()
    }
}

/// All generations recorded of an application. What the cluster cannot tell at the moment it is asked for again, for a while.
pub(super) async fn recorded(client: &Client, application: &str) -> Result<Generations, StartError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match recorded_now(client, application, until).await {
            Err(StartError::Request(error)) if error.is_retriable() && Instant::now() < until => {
                tracing::debug!(%error, "generations cannot be looked up; trying again");
            }
            Err(StartError::Consume(error)) if error.is_retriable() && Instant::now() < until => {
                tracing::debug!(%error, "generations cannot be read; trying again");
            }
            result => return result,
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn recorded_now(client: &Client, application: &str, until: Instant) -> Result<Generations, StartError> {
    let topic = topic_of(application);
    let mut generations = Generations { topic: topic.clone(), ..Generations::default() };
    if look(client, &[&topic]).await?.is_empty() {
        return Ok(generations);
    }
    let config = ConsumerConfig::default()
        .auto_commit(None::<Duration>)
        .offset_reset(OffsetReset::Earliest)
        .allow_auto_create_topics(false);
    let consumer = Consumer::new(client, config)?;
    let read = read(&consumer, &mut generations.values, TopicPartition::new(&*topic, 0), until).await;
    let closed = consumer.close().await;
    read?;
    closed?;
    Ok(generations)
}

async fn read(
    consumer: &Consumer,
    values: &mut BTreeMap<u32, Bytes>,
    place: TopicPartition,
    until: Instant,
) -> Result<(), StartError> {
    let partitions = [place.clone()];
    let nowhere = || ConsumerError::Request(RequestError::Incomplete { api: ApiKey::ListOffsets });
    let begin = consumer.beginning_offsets(&partitions).await?.get(&place).copied().ok_or_else(nowhere)?;
    let end = consumer.end_offsets(&partitions).await?.get(&place).copied().ok_or_else(nowhere)?;
    consumer.assign(partitions)?;
    consumer.seek(&place, begin)?;
    while consumer.position(&place).unwrap_or(begin) < end {
        if Instant::now() >= until {
            return Err(StartError::GenerationsUnread { topic: place.topic.to_string(), waited: PATIENCE });
        }
        for fetched in consumer.poll(POLL).await? {
            for record in fetched.records() {
                let record = record.map_err(|reason| StartError::Record {
                    topic: Arc::clone(&place.topic),
                    partition: place.partition,
                    offset: fetched.batch.base_offset(),
                    reason: Arc::new(reason),
                })?;
                let key = String::from_utf8_lossy(record.key.unwrap_or_default());
                let number = key.parse().map_err(|_| StartError::GenerationRecord {
                    topic: place.topic.to_string(),
                    key: key.to_string(),
                    reason: "the key is no number of a generation".to_owned(),
                })?;
                match record.value {
                    Some(value) => values.insert(number, Bytes::copy_from_slice(value)),
                    None => values.remove(&number),
                };
            }
        }
    }
    Ok(())
}

/// Writes the record of a generation.
pub(super) async fn write(
    client: &Client,
    application: &str,
    record: &GenerationRecord,
) -> Result<(), StartError> {
    let topic = topic_of(application);
    let new = NewTopic::new(topic.clone(), 1).config("cleanup.policy", "compact");
    match Admin::new(client).create_topic(&new).await {
        Ok(_) => {}
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {}
        Err(error) => return Err(error.into()),
    }
    let producer = Producer::new(client, ProducerConfig::default()).await?;
    let (key, value) = (record.generation.to_string(), serde_json::to_vec(record).unwrap_or_default());
    producer.send(ProducerRecord::to(&topic).partition(0).key(&key).value(&value)).await?.await?;
    producer.close().await?;
    Ok(())
}
