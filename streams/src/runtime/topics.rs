//! Topics that an application needs: counting those that exist, creating the internal ones, purging what is consumed.
//!
//! Changelogs are compacted, windowed ones too: their rows expire by stream time, with tombstones, and never by the
//! broker's clock, to which the records of a replayed year are old. Repartition topics keep everything until it is
//! purged behind the committed offsets.

use super::{
    Config, StartError,
    shared::{Shared, TopicNames},
};
use crate::{
    task::Position,
    topology::{InternalNames, Plan, PlanError, TopicKind, Topology},
};
use kappa_client::{Admin, Client, Producer, ProducerConfig, RequestError, admin::NewTopic};
use kappa_protocol::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

/// Lays a topology over the topics of a cluster, and creates what is missing of them where that is wanted.
pub(super) async fn plan(
    topology: &Topology,
    client: &Client,
    (config, names): (&Config, &InternalNames),
) -> Result<Plan, StartError> {
    let external = |topic: &&crate::topology::TopicDef| topic.kind == TopicKind::External;
    let topics: Vec<&str> = topology.0.topics.iter().filter(external).map(|topic| &*topic.name).collect();
    let admin = Admin::new(client);
    let mut counts = partitions(&admin, &topics).await?;
    if let Some(partitions_of_new) = config.create_topics {
        let missing = topics.iter().filter(|topic| !counts.contains_key(**topic));
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
        counts = partitions(&admin, &topics).await?;
    }
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
    Ok(Plan { topic_names: topology.topic_names(names), ..plan })
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

/// Partition counts of the topics that exist.
async fn partitions(admin: &Admin, topics: &[&str]) -> Result<BTreeMap<String, i32>, RequestError> {
    let mut counts = BTreeMap::new();
    for (name, described) in admin.describe_topics(topics).await? {
        match described {
            Ok(topic) => {
                counts.insert(name, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
            }
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(counts)
}

/// Names of the internal topics.
pub(super) fn internal(plan: &Plan, names: &TopicNames) -> Vec<String> {
    let internal = plan.internal_topics.iter().filter(|topic| topic.partitions > 0);
    internal.map(|topic| names.name(topic.topic).to_string()).collect()
}

/// Creates the internal topics that are missing and checks those that are there.
pub(super) async fn create_internal(
    client: &Client,
    config: &Config,
    (plan, names): (&Plan, &TopicNames),
) -> Result<(), StartError> {
    let internal = plan.internal_topics.iter().filter(|topic| topic.partitions > 0);
    let wanted: BTreeMap<String, NewTopic> = internal
        .map(|topic| {
            let name = names.name(topic.topic).to_string();
            let mut new = NewTopic::new(name.clone(), topic.partitions);
            new.replication_factor = config.replication_factor;
            let new = match topic.kind {
                TopicKind::Changelog { .. } => new.config("cleanup.policy", "compact"),
                _ => new.config("cleanup.policy", "delete").config("retention.ms", "-1"),
            };
            (name, new)
        })
        .collect();
    let admin = Admin::new(client);
    let new: Vec<NewTopic> = wanted.values().cloned().collect();
    let mut existing = Vec::new();
    for (name, created) in admin.create_topics(&new).await? {
        match created {
            Ok(_) => {}
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => existing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    for (name, described) in admin.describe_topics(&existing).await? {
        let found = i32::try_from(described?.partitions.len()).unwrap_or(i32::MAX);
        let expected = wanted.get(&name).and_then(|topic| topic.partitions).unwrap_or(found);
        if found != expected {
            return Err(StartError::InternalTopic { topic: name, expected, found });
        }
    }
    Ok(())
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
