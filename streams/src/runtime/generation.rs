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
    fmt,
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
    /// What the present topology keeps in each of them; none in records of versions that did not note it.
    #[serde(default)]
    pub(super) contents: Option<BTreeMap<String, String>>,
    /// Ids of its sources.
    #[serde(default)]
    pub(super) sources: BTreeMap<String, String>,
    /// End offsets up to which it replays, by topic and partition; empty if it follows its inputs.
    pub(super) replay_until: Vec<(String, i32, i64)>,
}

/// What a start makes of an internal topic that the topology has, or the one before it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFate {
    /// Full name of the topic.
    pub topic: String,
    /// The store or repartition topic, as people know it: `store "counts"`.
    pub what: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of an internal topic when a topology starts under a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It goes on as it is.
    Kept,
    /// It is new, and begins with what is processed from now on.
    Begun {
        /// One that is dropped and held the same: perhaps this one under another name.
        instead_of: Option<String>,
    },
    /// Nothing reads it any more. It stays until the generation is reset.
    Dropped,
    /// It would be read as something else than it is. The start is refused.
    Changed {
        /// What it holds: codecs, windows and the operator.
        was: String,
        /// What the topology would read and write.
        now: String,
    },
    /// It comes back after a topology that did without it, and misses what was processed meanwhile. The start is refused.
    LeftBehind,
}

impl TopicFate {
    /// Whether what is there must not be read.
    pub fn is_refused(&self) -> bool {
        matches!(self.fate, Fate::Changed { .. } | Fate::LeftBehind)
    }
}

impl fmt::Display for TopicFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicFate { topic, what, fate } = self;
        write!(f, "{what} (topic {topic:?}) ")?;
        match fate {
            Fate::Kept => f.write_str("goes on as it is"),
            Fate::Begun { instead_of } => {
                f.write_str("is new in this generation and begins with what is processed from now on")?;
                let Some(other) = instead_of else { return Ok(()) };
                write!(f, "; if it is {other} under another name, nothing is taken over from there")
            }
            Fate::Dropped => f.write_str(
                "is dropped: nothing reads it any more, even what is still to be processed, and it cannot come back",
            ),
            Fate::Changed { was, now } => write!(f, "holds {was}, and this topology would read it as {now}"),
            Fate::LeftBehind => f.write_str(
                "was left behind by a topology that did not have it and misses what was processed meanwhile",
            ),
        }
    }
}

impl GenerationRecord {
    /// What becomes of each internal topic if this follows another record of the generation.
    fn fates(&self, before: &GenerationRecord) -> Vec<TopicFate> {
        let none = BTreeMap::new();
        let now = self.contents.as_ref().unwrap_or(&none);
        let Some(was) = &before.contents else { return Vec::new() };
        let dropped = || was.iter().filter(|(topic, _)| !now.contains_key(*topic));
        let going_on = now.iter().map(|(topic, now)| {
            let fate = match was.get(topic) {
                Some(was) if was == now => Fate::Kept,
                Some(was) => Fate::Changed { was: was.clone(), now: now.clone() },
                None if before.topics.contains(topic) => Fate::LeftBehind,
                None => {
                    let same = dropped().find(|(_, was)| *was == now);
                    Fate::Begun { instead_of: same.map(|(topic, _)| self.what(topic)) }
                }
            };
            (topic, fate)
        });
        let all = going_on.chain(dropped().map(|(topic, _)| (topic, Fate::Dropped)));
        all.map(|(topic, fate)| TopicFate { topic: topic.clone(), what: self.what(topic), fate }).collect()
    }

    /// An internal topic as people know it.
    fn what(&self, topic: &str) -> String {
        let name = topic.strip_prefix(&*self.group).and_then(|name| name.strip_prefix('-')).unwrap_or(topic);
        match (name.strip_suffix("-changelog"), name.strip_suffix("-repartition")) {
            (Some(store), _) => format!("store {store:?}"),
            (_, Some(name)) => format!("repartition {name:?}"),
            _ => format!("internal topic {name:?}"),
        }
    }

    /// Takes over what was recorded before, if the topology may go on from there. While members of another topology run,
    /// theirs stays on record: the group will refuse this one.
    pub(super) fn follow(
        self,
        before: Option<GenerationRecord>,
        others_run: bool,
    ) -> Result<GenerationRecord, StartError> {
        let Some(before) = before else { return Ok(self) };
        let generation = self.generation;
        let fates = self.fates(&before);
        for fate in &fates {
            match fate.fate {
                Fate::Kept => tracing::info!(generation, "{fate}"),
                _ => tracing::warn!(generation, "{fate}"),
            }
        }
        let refused: Vec<TopicFate> = fates.into_iter().filter(TopicFate::is_refused).collect();
        if !refused.is_empty() {
            return Err(StartError::Changed { generation, refused });
        }
        // Without state of its own there is nothing that belongs to a topic as it was.
        let keeps = self.contents.as_ref().is_some_and(|contents| !contents.is_empty());
        let replaced =
            |(topic, id): &(&String, &String)| before.sources.get(*topic).is_some_and(|was| was != *id);
        if let Some((topic, _)) = self.sources.iter().find(replaced).filter(|_| keeps) {
            return Err(StartError::SourceReplaced { generation, topic: topic.clone() });
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
    let (contents, sources) = (Some(BTreeMap::new()), BTreeMap::new());
    let empty = GenerationRecord { topics: Vec::new(), contents, sources, ..record };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(contents: &[(&str, &str)]) -> GenerationRecord {
        let topic = |name: &str| format!("wc-g1-{name}");
        let contents = contents.iter().map(|(name, contents)| (topic(name), (*contents).to_owned()));
        let contents: BTreeMap<String, String> = contents.collect();
        GenerationRecord {
            generation: 1,
            fingerprint: 7,
            group: "wc-g1".into(),
            topics: contents.keys().cloned().collect(),
            contents: Some(contents),
            sources: BTreeMap::new(),
            replay_until: Vec::new(),
        }
    }

    #[test]
    fn a_start_says_of_each_store_what_becomes_of_it() {
        let kept = "Utf8 -> I64 (count)";
        let was = record(&[
            ("a-changelog", kept),
            ("b-changelog", kept),
            ("c-changelog", "Utf8 -> Utf8 (reduce)"),
            ("by-word-repartition", "Utf8 -> Utf8"),
        ]);
        let now =
            record(&[("a-changelog", kept), ("c-changelog", "Utf8 -> I64 (reduce)"), ("d-changelog", kept)]);
        let now = GenerationRecord { topics: Vec::new(), ..now };
        let said: Vec<String> = now.fates(&was).iter().map(TopicFate::to_string).collect();
        let dropped = "is dropped: nothing reads it any more, even what is still to be processed, and it cannot come back";
        let expected = [
            "store \"a\" (topic \"wc-g1-a-changelog\") goes on as it is".to_owned(),
            "store \"c\" (topic \"wc-g1-c-changelog\") holds Utf8 -> Utf8 (reduce), and this topology would read it as Utf8 -> I64 (reduce)".into(),
            "store \"d\" (topic \"wc-g1-d-changelog\") is new in this generation and begins with what is processed from now on; if it is store \"b\" under another name, nothing is taken over from there".into(),
            format!("store \"b\" (topic \"wc-g1-b-changelog\") {dropped}"),
            format!("repartition \"by-word\" (topic \"wc-g1-by-word-repartition\") {dropped}"),
        ];
        let sorted = |mut said: Vec<String>| {
            said.sort();
            said
        };
        assert_eq!(sorted(said), sorted(expected.to_vec()));
        let refused = now.follow(Some(was), false).unwrap_err().to_string();
        assert!(refused.contains("store \"c\"") && !refused.contains("store \"a\""), "{refused}");
        for cure in ["new generation", "reset"] {
            assert!(refused.contains(cure), "{refused}");
        }
    }

    #[test]
    fn what_comes_back_after_a_topology_without_any_state_has_missed_something() {
        let stateful = record(&[("a-changelog", "Utf8 -> I64 (count)")]);
        let stateless = record(&[]).follow(Some(stateful.clone()), false).unwrap();
        let refused = stateful.clone().follow(Some(stateless), false).unwrap_err();
        assert!(refused.to_string().contains("left behind"), "{refused}");
        // Records of versions that did not note contents are taken as they are.
        let older = GenerationRecord { contents: None, ..stateful.clone() };
        assert_eq!(stateful.clone().follow(Some(older), false).unwrap(), stateful);
        let json = r#"{"generation":1,"fingerprint":7,"group":"wc-g1","topics":[],"replay_until":[]}"#;
        assert_eq!(serde_json::from_str::<GenerationRecord>(json).unwrap().contents, None);
    }

    #[test]
    fn a_source_that_was_made_anew_is_refused_where_there_is_state_of_the_old_one() {
        let with = |contents, id: &str| {
            let sources = BTreeMap::from([("in".to_owned(), id.to_owned())]);
            GenerationRecord { sources, ..record(contents) }
        };
        let state: &[_] = &[("a-changelog", "Utf8 -> I64 (count)")];
        assert!(with(state, "1").follow(Some(with(state, "1")), false).is_ok());
        let refused = with(state, "2").follow(Some(with(state, "1")), false).unwrap_err();
        assert!(matches!(&refused, StartError::SourceReplaced { topic, .. } if topic == "in"), "{refused}");
        assert!(with(&[], "2").follow(Some(with(&[], "1")), false).is_ok());
    }
}
