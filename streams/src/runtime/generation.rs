//! Generations of an application: which there are, what belongs to each, and how one is reset.
//!
//! Topic `<application>-generations` (compacted, one partition) has one record per generation: key, its number as
//! decimal text; value, a [`GenerationRecord`] as JSON.
//!
//! An internal topic is known by its id. A start writes the record with the topics that it is about to create, creates them,
//! and writes it with their ids: whatever ends it halfway, the next one knows which of them it may create, which may be there
//! without an id on record, and which must not be missing.

use super::{
    Config, ResetError, StartError, TopicChange,
    assignor::fingerprint_in,
    generations::{recorded, write},
    shared::TopicNames,
    topics,
    watch::Look,
};
use crate::topology::{InternalNames, Plan};
use kappa_client::{Admin, Client, RequestError};
use kappa_protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

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
    /// What the present topology keeps in each of them; none where there is nothing to go on with, as after a reset, and in
    /// records of versions that did not note it.
    #[serde(default)]
    pub(super) contents: Option<BTreeMap<String, String>>,
    /// Ids of its internal topics; none in records of versions that did not note them.
    #[serde(default)]
    pub(super) ids: BTreeMap<String, String>,
    /// Those of its internal topics that a start was about to create, and that hold nothing yet if they are there.
    #[serde(default)]
    pub(super) making: BTreeSet<String>,
    /// Ids of its sources, those included that only an earlier topology had.
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
                None if before.topics.contains(topic) && !before.making.contains(topic) => Fate::LeftBehind,
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

    /// The record once nothing is left of the generation.
    fn after_reset(&self) -> GenerationRecord {
        GenerationRecord {
            topics: Vec::new(),
            contents: None,
            ids: BTreeMap::new(),
            making: BTreeSet::new(),
            sources: BTreeMap::new(),
            ..self.clone()
        }
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

    /// Takes over what was recorded before, if the topology may go on from there: no `others`, members of another
    /// topology, run.
    pub(super) fn follow(
        self,
        before: Option<&GenerationRecord>,
        others: usize,
    ) -> Result<GenerationRecord, StartError> {
        let generation = self.generation;
        if others > 0 {
            return Err(StartError::OthersRun { generation, group: self.group, members: others });
        }
        let Some(before) = before else { return Ok(self) };
        let fates = self.fates(before);
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
        let replaced =
            |(topic, id): &(&String, &String)| before.sources.get(*topic).is_some_and(|was| was != *id);
        if let Some((topic, _)) = self.sources.iter().find(replaced) {
            return Err(StartError::SourceReplaced { generation, topic: topic.clone() });
        }
        let all: BTreeSet<String> = before.topics.iter().chain(&self.topics).cloned().collect();
        let sources = before.sources.clone().into_iter().chain(self.sources).collect();
        let (ids, making) = (before.ids.clone(), before.making.clone());
        Ok(GenerationRecord { topics: all.into_iter().collect(), sources, ids, making, ..self })
    }

    /// Finds out which internal topics are to be made. One that was there `early`, before the record was read, is on record
    /// or somebody else's, since it is named before it is made. One that has an id on record, or that the group has got
    /// anywhere with (`is_committed`), is there `late`, after the record was read, or has gone.
    fn count_on(
        &mut self,
        topics: &BTreeMap<String, i32>,
        (early, late): (&Look, &Look),
        before: Option<&GenerationRecord>,
        is_committed: bool,
    ) -> Result<(), StartError> {
        let generation = self.generation;
        for topic in topics.keys() {
            let is_named = before.is_some_and(|before| before.topics.contains(topic));
            if !is_named && early.contains_key(topic) {
                let group = self.group.clone();
                return Err(StartError::InternalTopicTaken { generation, group, topic: topic.clone() });
            }
            let may_be_missing = !is_named || self.making.contains(topic) || !is_committed;
            match (self.change(topic, late), late.get(topic)) {
                (Some(change), _) => return Err(self.changed(topic, change)),
                (None, None) if !may_be_missing => return Err(self.changed(topic, TopicChange::Deleted)),
                (None, None) => drop(self.making.insert(topic.clone())),
                (None, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// What has become of an internal topic that has an id on record.
    fn change(&self, topic: &str, there: &Look) -> Option<TopicChange> {
        let was = self.ids.get(topic)?;
        let Some(known) = there.get(topic) else { return Some(TopicChange::Deleted) };
        known.id().is_some_and(|id| id != *was).then_some(TopicChange::CreatedAgain)
    }

    fn changed(&self, topic: &str, change: TopicChange) -> StartError {
        StartError::InternalTopicChanged { generation: self.generation, topic: topic.to_owned(), change }
    }

    /// Notes the ids of internal topics, which are all there now.
    fn made(&mut self, topics: &BTreeMap<String, i32>, there: &Look) -> Result<(), StartError> {
        for topic in topics.keys() {
            let change = self.change(topic, there);
            let known = there.get(topic).ok_or(TopicChange::Deleted);
            let known = known.and_then(|known| change.map_or(Ok(known), Err));
            let known = known.map_err(|change| self.changed(topic, change))?;
            self.ids.extend(known.id().map(|id| (topic.clone(), id)));
            self.making.remove(topic);
        }
        Ok(())
    }
}

/// Number of members that a group has, and how many of them run another topology than that of the fingerprint; where they do
/// not tell, that of the record tells.
async fn members(
    client: &Client,
    group: &str,
    (ours, recorded): (u32, u32),
) -> Result<(usize, usize), RequestError> {
    let members = match Admin::new(client).describe_groups(&[group]).await?.remove(group) {
        Some(Ok(described)) => described.members,
        Some(Err(error)) if !is_absent(&error) => return Err(error),
        _ => Vec::new(),
    };
    let others =
        members.iter().filter(|member| fingerprint_in(&member.metadata, ours).unwrap_or(recorded) != ours);
    let others = others.count();
    // Among members of two topologies the group itself chooses.
    Ok((members.len(), if others < members.len() { 0 } else { others }))
}

/// Puts a generation on record and creates what is missing of its internal topics, if the topology may go on from what is on
/// record and there; nothing is changed otherwise. Tells the internal topics.
pub(super) async fn begin(
    client: &Client,
    application: &str,
    config: &Config,
    (plan, names): (&Plan, &TopicNames),
    record: GenerationRecord,
) -> Result<Look, StartError> {
    let wanted = topics::internal(plan, names);
    let early = topics::look_for(client, &wanted, |_| false).await?;
    let before = recorded(client, application).await?.get(record.generation)?;
    let before = before.as_ref();
    let fingerprints = (record.fingerprint, before.map_or(record.fingerprint, |before| before.fingerprint));
    let (_, others) = members(client, &record.group, fingerprints).await?;
    let mut record = record.follow(before, others)?;
    let late = topics::look_for(client, &wanted, |topic| record.ids.contains_key(topic)).await?;
    let is_committed = before.is_some() && !Admin::new(client).group_offsets(&record.group).await?.is_empty();
    record.count_on(&wanted, (&early, &late), before, is_committed)?;
    topics::check_partitions(&wanted, &late)?;
    let mut written = before.cloned();
    if wanted.keys().any(|topic| record.making.contains(topic)) {
        if before != Some(&record) {
            write(client, application, &record).await?;
        }
        written = Some(record.clone());
        topics::create_internal(client, config, (plan, names), |topic| record.making.contains(topic)).await?;
    }
    let there = topics::look_for(client, &wanted, |_| true).await?;
    topics::check_partitions(&wanted, &there)?;
    record.made(&wanted, &there)?;
    if written.as_ref() != Some(&record) {
        write(client, application, &record).await?;
    }
    Ok(there)
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

/// What [`reset`] would take away, of the latest generation unless another is given.
///
/// # Errors
/// As [`reset`].
pub async fn resettable(
    client: &Client,
    application: &str,
    generation: Option<u32>,
) -> Result<ResetReport, ResetError> {
    let GenerationRecord { generation, topics, group, .. } = stopped(client, application, generation).await?;
    Ok(ResetReport { generation, topics, group })
}

/// The record of a generation that does not run.
async fn stopped(
    client: &Client,
    application: &str,
    generation: Option<u32>,
) -> Result<GenerationRecord, ResetError> {
    let all = recorded(client, application).await.map_err(Arc::new)?;
    let generation = generation.or_else(|| all.latest()).unwrap_or(0);
    let unknown = || ResetError::Unknown { application: application.to_owned(), generation };
    let record = all.get(generation).map_err(Arc::new)?.ok_or_else(unknown)?;
    let (running, _) = members(client, &record.group, (record.fingerprint, record.fingerprint)).await?;
    if running > 0 {
        return Err(ResetError::Running { group: record.group, members: running });
    }
    Ok(record)
}

/// Deletes the internal topics and committed offsets of a generation that is not running, so that its next start
/// replays from the beginning, or from where its configuration says. Sources and outputs are left alone. A reset that ended
/// halfway is to be repeated; until then the generation does not start.
///
/// # Errors
/// If the generation was never recorded, members of its group are still running, or the cluster refuses.
pub async fn reset(client: &Client, application: &str, generation: u32) -> Result<ResetReport, ResetError> {
    let record = stopped(client, application, Some(generation)).await?;
    let admin = Admin::new(client);
    // Topics first: a start is refused where they are missing, and would count twice where only the offsets are.
    for deleted in admin.delete_topics(&record.topics).await?.into_values() {
        absent_is_fine(deleted)?;
    }
    topics::until_gone(client, &record.topics).await?;
    for deleted in admin.delete_groups(&[&record.group]).await?.into_values() {
        absent_is_fine(deleted)?;
    }
    write(client, application, &record.after_reset()).await.map_err(Arc::new)?;
    Ok(ResetReport { generation, topics: record.topics, group: record.group })
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
) -> Result<u32, StartError> {
    match asked {
        Some(generation) => Ok(generation),
        None => Ok(recorded(client, application).await?.latest().unwrap_or(0)),
    }
}

/// Names of a generation.
pub(super) fn names(application: &str, generation: u32) -> InternalNames {
    InternalNames::new(application, generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::watch::Known;

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
            ids: BTreeMap::new(),
            making: BTreeSet::new(),
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
        assert_eq!(now.fates(&was.after_reset()), [], "everything begins together");
        let refused = now.follow(Some(&was), 0).unwrap_err().to_string();
        assert!(refused.contains("store \"c\"") && !refused.contains("store \"a\""), "{refused}");
        for cure in ["new generation", "reset"] {
            assert!(refused.contains(cure), "{refused}");
        }
    }

    #[test]
    fn what_comes_back_after_a_topology_without_any_state_has_missed_something() {
        let stateful = record(&[("a-changelog", "Utf8 -> I64 (count)")]);
        let stateless = record(&[]).follow(Some(&stateful), 0).unwrap();
        let refused = stateful.clone().follow(Some(&stateless), 0).unwrap_err();
        assert!(refused.to_string().contains("left behind"), "{refused}");
        // Records of versions that did not note contents are taken as they are.
        let older = GenerationRecord { contents: None, ..stateful.clone() };
        assert_eq!(stateful.clone().follow(Some(&older), 0).unwrap(), stateful);
        let json = r#"{"generation":1,"fingerprint":7,"group":"wc-g1","topics":[],"replay_until":[]}"#;
        assert_eq!(serde_json::from_str::<GenerationRecord>(json).unwrap().contents, None);
    }

    #[test]
    fn a_source_that_was_made_anew_is_refused_whether_or_not_there_is_state() {
        let with = |contents, id: &str| {
            let sources = BTreeMap::from([("in".to_owned(), id.to_owned())]);
            GenerationRecord { sources, ..record(contents) }
        };
        for state in [&[("a-changelog", "Utf8 -> I64 (count)")] as &[_], &[]] {
            assert!(with(state, "1").follow(Some(&with(state, "1")), 0).is_ok());
            let refused = with(state, "2").follow(Some(&with(state, "1")), 0).unwrap_err();
            assert!(
                matches!(&refused, StartError::SourceReplaced { topic, .. } if topic == "in"),
                "{refused}"
            );
            // A topology without it in between forgets nothing.
            let between = record(state).follow(Some(&with(state, "1")), 0).unwrap();
            assert!(with(state, "2").follow(Some(&between), 0).is_err());
        }
    }

    #[test]
    fn internal_topics_are_those_on_record_and_no_others() {
        const A: &[(&str, &str)] = &[("a-changelog", "Utf8 -> I64 (count)")];
        let topic = "wc-g1-a-changelog".to_owned();
        let wanted = BTreeMap::from([(topic.clone(), 1)]);
        let there = |id: u8| Look::from([(topic.clone(), Known::new([id; 16], 1))]);
        let (none, first, other) = (Look::new(), there(1), there(2));
        let begin = |before: Option<&GenerationRecord>, looks: (&Look, &Look), is_committed| {
            let mut now = record(A).follow(before, 0)?;
            now.count_on(&wanted, looks, before, is_committed).map(|()| now)
        };
        // The first start, another at the same time, and one that ended behind any step.
        let mut named = begin(None, (&none, &none), false).unwrap();
        assert!(named.making.contains(&topic));
        begin(None, (&none, &first), false).unwrap();
        for looks in [(&none, &none), (&none, &first), (&first, &first)] {
            begin(Some(&named), looks, true).unwrap();
        }
        named.made(&wanted, &first).unwrap();
        assert!(named.making.is_empty() && named.ids.contains_key(&topic));
        assert_eq!(begin(Some(&named), (&first, &first), true).unwrap(), named);
        // What is known by its id and not there, or another.
        for (late, change) in [(&none, TopicChange::Deleted), (&other, TopicChange::CreatedAgain)] {
            let refused = begin(Some(&named), (late, late), false).unwrap_err();
            let is_right =
                matches!(&refused, StartError::InternalTopicChanged { change: of, .. } if *of == change);
            assert!(is_right && refused.to_string().contains(&topic), "{refused}");
        }
        // What nobody has on record.
        for before in [None, Some(&record(&[]))] {
            let refused = begin(before, (&first, &first), false).unwrap_err();
            assert!(matches!(refused, StartError::InternalTopicTaken { .. }), "{refused}");
        }
        // A record without ids.
        let older = record(A);
        assert_eq!(begin(Some(&older), (&first, &first), true).unwrap(), older);
        assert!(begin(Some(&older), (&none, &none), false).unwrap().making.contains(&topic));
        assert!(begin(Some(&older), (&none, &none), true).is_err());
        // A store that a start named and did not come to make is not left behind by one without it.
        let making = begin(None, (&none, &none), false).unwrap();
        let without = record(&[]).follow(Some(&making), 0).unwrap();
        begin(Some(&without), (&none, &none), true).unwrap();
    }

    #[test]
    fn a_topology_does_not_start_beside_another() {
        let now = record(&[("a-changelog", "Utf8 -> I64 (count)")]);
        let refused = now.clone().follow(Some(&record(&[])), 2).unwrap_err();
        assert!(matches!(refused, StartError::OthersRun { members: 2, .. }), "{refused}");
        now.follow(Some(&record(&[])), 0).unwrap();
    }
}
