//! Generations of an application: which there are, what belongs to each, and how one is reset.
//!
//! Topic `<application>-generations` (compacted, one partition) has one record per generation: key, its number as
//! decimal text; value, a [`GenerationRecord`] as JSON.

use super::{ResetError, StartError};
use crate::topology::InternalNames;
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig, ProducerRecord,
    RequestError, TopicPartition, admin::NewTopic, consumer::ConsumerError,
};
use kappa_protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const POLL: Duration = Duration::from_millis(200);

/// What is recorded of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationRecord {
    /// Its number.
    pub(super) generation: u32,
    /// Fingerprint of its topology.
    pub(super) fingerprint: u32,
    /// Its consumer group.
    pub(super) group: String,
    /// Its internal topics, those included that only an earlier topology had.
    pub(super) topics: Vec<String>,
    /// What the present topology keeps in each of them; empty in records of versions that did not note it.
    #[serde(default)]
    pub(super) contents: BTreeMap<String, String>,
    /// End offsets up to which it replays, by topic and partition; empty if it follows its inputs.
    pub(super) replay_until: Vec<(String, i32, i64)>,
}

impl GenerationRecord {
    /// Takes over what was recorded before, if the topology may go on from there. While members of another topology run,
    /// theirs stays on record: the group will refuse this one.
    pub(super) fn follow(
        self,
        before: Option<GenerationRecord>,
        others_run: bool,
    ) -> Result<GenerationRecord, StartError> {
        let Some(before) = before else { return Ok(self) };
        let generation = self.generation;
        for (topic, now) in self.contents.iter().filter(|_| !before.contents.is_empty()) {
            let (topic, now) = (topic.clone(), now.clone());
            match before.contents.get(&topic) {
                Some(was) if *was == now => {}
                Some(was) => {
                    return Err(StartError::Changed { generation, topic, was: was.clone(), now });
                }
                None if before.topics.contains(&topic) => {
                    return Err(StartError::LeftBehind { generation, topic });
                }
                None => tracing::warn!(
                    generation,
                    topic,
                    "new in this generation: it begins with what is processed from now on"
                ),
            }
        }
        let all: BTreeSet<String> = before.topics.iter().chain(&self.topics).cloned().collect();
        let stays = if others_run && before.fingerprint != self.fingerprint { before } else { self };
        Ok(GenerationRecord { topics: all.into_iter().collect(), ..stays })
    }
}

fn topic_of(application: &str) -> String {
    format!("{application}-generations")
}

/// All generations recorded of an application.
pub(super) async fn recorded(
    client: &Client,
    application: &str,
) -> Result<BTreeMap<u32, GenerationRecord>, ConsumerError> {
    let config = ConsumerConfig::default()
        .auto_commit(None::<Duration>)
        .offset_reset(OffsetReset::Earliest)
        .allow_auto_create_topics(false);
    let partition = TopicPartition::new(topic_of(application), 0);
    let described = Admin::new(client).describe_topics(&[&*partition.topic]).await?;
    if described.values().any(|topic| topic.is_err()) {
        return Ok(BTreeMap::new());
    }
    let consumer = Consumer::new(client, config)?;
    let partitions = [partition.clone()];
    let begin = consumer.beginning_offsets(&partitions).await?.get(&partition).copied().unwrap_or(0);
    let end = consumer.end_offsets(&partitions).await?.get(&partition).copied().unwrap_or(0);
    consumer.assign(partitions)?;
    consumer.seek(&partition, begin)?;
    let mut records = BTreeMap::new();
    while consumer.position(&partition).unwrap_or(begin) < end {
        for fetched in consumer.poll(POLL).await? {
            for record in fetched.records().map_while(Result::ok) {
                let generation =
                    record.value.and_then(|value| serde_json::from_slice::<GenerationRecord>(value).ok());
                if let Some(generation) = generation {
                    records.insert(generation.generation, generation);
                }
            }
        }
    }
    consumer.close().await?;
    Ok(records)
}

/// Number of members that a group has.
pub(super) async fn members(client: &Client, group: &str) -> Result<usize, RequestError> {
    match Admin::new(client).describe_groups(&[group]).await?.remove(group) {
        Some(Ok(described)) => Ok(described.members.len()),
        Some(Err(error)) if !is_absent(&error) => Err(error),
        _ => Ok(0),
    }
}

/// Writes the record of a generation, unless it stands there already.
pub(super) async fn record(
    client: &Client,
    application: &str,
    record: &GenerationRecord,
) -> Result<(), StartError> {
    if recorded(client, application).await?.get(&record.generation) == Some(record) {
        return Ok(());
    }
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

/// What a reset took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetReport {
    /// The generation.
    pub generation: u32,
    /// Internal topics deleted.
    pub topics: Vec<String>,
    /// The consumer group whose offsets were deleted.
    pub group: String,
}

/// Deletes the internal topics and committed offsets of a generation that is not running, so that its next start
/// replays from the beginning, or from where its configuration says. Sources and outputs are left alone.
///
/// # Errors
/// If the generation was never recorded, members of its group are still running, or the cluster refuses.
pub async fn reset(client: &Client, application: &str, generation: u32) -> Result<ResetReport, ResetError> {
    let unknown = || ResetError::Unknown { application: application.to_owned(), generation };
    let record = recorded(client, application).await?.remove(&generation).ok_or_else(unknown)?;
    let admin = Admin::new(client);
    let running = members(client, &record.group).await?;
    if running > 0 {
        return Err(ResetError::Running { group: record.group, members: running });
    }
    for deleted in admin.delete_groups(&[&record.group]).await?.into_values() {
        absent_is_fine(deleted)?;
    }
    for deleted in admin.delete_topics(&record.topics).await?.into_values() {
        absent_is_fine(deleted)?;
    }
    let (topics, group) = (record.topics.clone(), record.group.clone());
    let empty = GenerationRecord { topics: Vec::new(), contents: BTreeMap::new(), ..record };
    self::record(client, application, &empty).await.map_err(Arc::new)?;
    Ok(ResetReport { generation, topics, group })
}

fn is_absent(error: &RequestError) -> bool {
    matches!(error.code(), Some(ErrorCode::GroupIdNotFound | ErrorCode::UnknownTopicOrPartition))
}

fn absent_is_fine(result: Result<(), RequestError>) -> Result<(), RequestError> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// The generation to run: the one asked for, else the latest recorded, else 0.
pub(super) async fn choose(
    client: &Client,
    application: &str,
    asked: Option<u32>,
) -> Result<u32, ConsumerError> {
    match asked {
        Some(generation) => Ok(generation),
        None => Ok(recorded(client, application).await?.keys().next_back().copied().unwrap_or(0)),
    }
}

/// Names of a generation.
pub(super) fn names(application: &str, generation: u32) -> InternalNames {
    InternalNames::new(application, generation)
}
