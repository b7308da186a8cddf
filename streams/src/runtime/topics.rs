//! Topics that an application needs: counting those that exist, creating the internal ones, purging what is consumed.
//!
//! Changelogs are compacted, windowed ones too: their rows expire by stream time, with tombstones, and never by the
//! broker's clock, to which the records of a replayed year are old. Repartition topics keep everything until it is
//! purged behind the committed offsets.

use super::{
    Config, StartError,
    shared::{Shared, TopicNames},
    watch::{Look, look},
};
use crate::{
    task::Position,
    topology::{InternalNames, Plan, PlanError, TopicKind, Topology},
};
use kappa_client::{Admin, Client, Producer, ProducerConfig, RequestError, admin::NewTopic};
use kappa_protocol::ErrorCode;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How long topics that should be there are looked for.
const TO_APPEAR: Duration = Duration::from_secs(3);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Lays a topology over the topics of a cluster, and creates what is missing of them where that is wanted. Tells what it
/// counts on, of the topics that are not internal.
pub(super) async fn plan(
    topology: &Topology,
    client: &Client,
    (config, names): (&Config, &InternalNames),
) -> Result<(Plan, Look), StartError> {
    let external = |topic: &&crate::topology::TopicDef| topic.kind == TopicKind::External;
    let topics: Vec<&str> = topology.0.topics.iter().filter(external).map(|topic| &*topic.name).collect();
    let admin = Admin::new(client);
    let mut there = look(client, &topics).await?;
    if let Some(partitions_of_new) = config.create_topics {
        let missing = topics.iter().filter(|topic| !there.contains_key(**topic));
        let new: Vec<NewTopic> = missing
            .map(|topic| {
                let mut new = NewTopic::new(*topic, partitions_of_new);
                new.replication_factor = config.replication_factor;
                new
            })
            .collect();
        for (topic, created) in admin.create_topics(&new).await? {
            match created {
                Ok(_) => tracing::info!(topic, partitions = partitions_of_new, "created"),
                // Another instance may have been faster.
                Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        there = look(client, &topics).await?;
    }
    let mut counts: BTreeMap<String, i32> =
        there.iter().map(|(topic, known)| (topic.clone(), known.partitions)).collect();
    let inputs = topology.input_topics();
    let mut missing: Vec<&str> = inputs.into_iter().filter(|name| !counts.contains_key(*name)).collect();
    let outputs: Vec<&str> = topics.into_iter().filter(|name| !counts.contains_key(*name)).collect();
    if missing.is_empty() && !outputs.is_empty() {
        let (created, refused) = ask_for(client, &outputs).await?;
        counts.extend(created);
        missing.extend(outputs.into_iter().filter(|name| refused.contains(*name)));
    }
    if !missing.is_empty() {
        let missing = missing.into_iter().map(|topic| PlanError::MissingTopic { topic: topic.to_owned() });
        return Err(StartError::Plan(missing.collect()));
    }
    let plan = topology.plan(|topic| counts.get(topic).copied()).map_err(StartError::Plan)?;
    let inputs = topology.input_topics();
    there.retain(|topic, _| inputs.contains(&topic.as_str()));
    Ok((Plan { topic_names: topology.topic_names(names), ..plan }, there))
}

/// Asks for outputs that are not there, which creates them where the cluster allows that: the partitions of those that were
/// created, and the names of the others. A client waits seconds for a topic in the making, so all are asked for together.
async fn ask_for(
    client: &Client,
    outputs: &[&str],
) -> Result<(BTreeMap<String, i32>, BTreeSet<String>), StartError> {
    let producer = Producer::new(client, ProducerConfig::default()).await?;
    let mut asked = JoinSet::new();
    for name in outputs.iter().map(|name| (*name).to_owned()) {
        let producer = producer.clone();
        asked.spawn(async move {
            let partitions = producer.partitions_for(&name).await;
            (name, partitions)
        });
    }
    let (mut created, mut refused) = (BTreeMap::new(), BTreeSet::new());
    while let Some(answered) = asked.join_next().await {
        // Only a panic ends one without an answer.
        let Ok((name, partitions)) = answered else { continue };
        match partitions {
            Ok(partitions) => {
                created.insert(name, partitions);
            }
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                refused.insert(name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    producer.close().await?;
    Ok((created, refused))
}

/// The internal topics of a plan, each with its partitions.
pub(super) fn internal(plan: &Plan, names: &TopicNames) -> BTreeMap<String, i32> {
    let internal = plan.internal_topics.iter().filter(|topic| topic.partitions > 0);
    internal.map(|topic| (names.name(topic.topic).to_string(), topic.partitions)).collect()
}

/// Looks at internal topics until a broker that has just begun has had its time to get to know those that are `expected`.
pub(super) async fn look_for(
    client: &Client,
    topics: &BTreeMap<String, i32>,
    expected: impl Fn(&str) -> bool,
) -> Result<Look, RequestError> {
    let names: Vec<&String> = topics.keys().collect();
    let until = Instant::now() + TO_APPEAR;
    loop {
        let looked = look(client, &names).await;
        let is_whole = match &looked {
            Ok(there) => names.iter().all(|name| there.contains_key(*name) || !expected(name)),
            Err(error) => !error.is_retriable(),
        };
        if is_whole || Instant::now() >= until {
            return looked;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Waits until deleted topics have gone, as far as the cluster tells.
pub(super) async fn until_gone(client: &Client, topics: &[String]) -> Result<(), RequestError> {
    let until = Instant::now() + TO_APPEAR;
    while !look(client, topics).await?.is_empty() && Instant::now() < until {
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// Refuses internal topics with other numbers of partitions.
pub(super) fn check_partitions(topics: &BTreeMap<String, i32>, there: &Look) -> Result<(), StartError> {
    for (topic, expected) in topics {
        let found = there.get(topic).map_or(*expected, |known| known.partitions);
        if found != *expected {
            return Err(StartError::InternalTopic { topic: topic.clone(), expected: *expected, found });
        }
    }
    Ok(())
}

/// Creates internal topics, those of a plan that are `missing`. Event time is what the records say, whatever the broker does
/// by default and however far from its clock that is.
pub(super) async fn create_internal(
    client: &Client,
    config: &Config,
    (plan, names): (&Plan, &TopicNames),
    missing: impl Fn(&str) -> bool,
) -> Result<(), StartError> {
    let internal = plan.internal_topics.iter().filter(|topic| topic.partitions > 0);
    let wanted: Vec<NewTopic> = internal
        .filter(|topic| missing(names.name(topic.topic)))
        .map(|topic| {
            let mut new = NewTopic::new(names.name(topic.topic).to_string(), topic.partitions);
            new.replication_factor = config.replication_factor;
            let new = new.config("message.timestamp.type", "CreateTime");
            match topic.kind {
                TopicKind::Changelog { .. } => new.config("cleanup.policy", "compact"),
                _ => new.config("cleanup.policy", "delete").config("retention.ms", "-1"),
            }
        })
        .collect();
    let any_time = |topic: &NewTopic| {
        let limits = ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms"];
        limits.into_iter().fold(topic.clone(), |topic, limit| topic.config(limit, i64::MAX.to_string()))
    };
    let new: Vec<NewTopic> = wanted.iter().map(any_time).collect();
    let refused = create(client, &new, |code| code == ErrorCode::InvalidConfig).await?;
    if refused.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        topics = ?refused,
        "the broker knows no limits of timestamps by topic: event times go by its own"
    );
    let again: Vec<NewTopic> = wanted.into_iter().filter(|topic| refused.contains(&topic.name)).collect();
    create(client, &again, |_| false).await?;
    Ok(())
}

/// Creates topics; the names of those that were refused with a code that `is_expected`.
async fn create(
    client: &Client,
    new: &[NewTopic],
    is_expected: impl Fn(ErrorCode) -> bool,
) -> Result<BTreeSet<String>, RequestError> {
    let mut refused = BTreeSet::new();
    if new.is_empty() {
        return Ok(refused);
    }
    for (name, created) in Admin::new(client).create_topics(new).await? {
        match created.map_err(|error| (error.code(), error)) {
            // Another instance may have been faster.
            Ok(_) | Err((Some(ErrorCode::TopicAlreadyExists), _)) => {}
            Err((Some(code), _)) if is_expected(code) => drop(refused.insert(name)),
            Err((_, error)) => return Err(error),
        }
    }
    Ok(refused)
}

/// Deletes records below positions.
pub(super) async fn purge(shared: &Shared, consumed: &[Position]) -> Result<(), RequestError> {
    let before: Vec<_> = consumed
        .iter()
        .map(|position| (shared.topics.partition(position.topic, position.partition), position.offset))
        .collect();
    if !before.is_empty() {
        Admin::new(&shared.client).delete_records(&before).await?;
    }
    Ok(())
}
