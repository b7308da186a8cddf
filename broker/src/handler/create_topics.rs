//! CreateTopics: each topic by itself; answered when the catalog's record is durable and the directories exist.

use super::{Node, Refusal};
use crate::config::{Overrides, TABLE, topic_settings};
use crate::topic::{NewTopic, TopicError, is_internal};
use kappa_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kappa_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kappa_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: CreateTopicsRequest) -> Reply {
    let validate_only = request.validate_only;
    let mut named: HashMap<&str, usize> = HashMap::new();
    request.topics.iter().for_each(|topic| *named.entry(&topic.name).or_default() += 1);
    let checked: Vec<(String, Result<NewTopic, Refusal>)> = request
        .topics
        .iter()
        .map(|topic| {
            let twice = named.get(topic.name.as_str()).is_some_and(|count| *count > 1);
            (topic.name.clone(), if twice { Err(duplicate(topic)) } else { check(node, cx, topic) })
        })
        .collect();
    let valid: Vec<NewTopic> = checked.iter().filter_map(|(_, topic)| topic.as_ref().ok()).cloned().collect();
    let partitions = partitions_of(node, &valid);
    let change =
        node.topics.change_of(partitions, move |catalog| catalog.create_topics(&valid, validate_only));
    let node = node.clone();
    Reply::later(async move {
        let mut outcomes = match change.await {
            Ok(outcomes) => outcomes.into_iter(),
            Err(error) => vec![Err(error); checked.len()].into_iter(),
        };
        let topics = checked
            .into_iter()
            .map(|(name, topic)| {
                let created = topic.and_then(|topic| {
                    let outcome = outcomes.next().unwrap_or(Err(TopicError::Stopping))?;
                    let id = if validate_only { Uuid::nil() } else { outcome.id };
                    Ok(created(&node, &topic, id, &outcome.overrides()))
                });
                created.unwrap_or_else(|refusal| CreatableTopicResult {
                    name,
                    error_code: node.error(refusal.code),
                    error_message: Some(refusal.message),
                    ..Default::default()
                })
            })
            .collect();
        CreateTopicsResponse { topics, ..Default::default() }.into()
    })
}

/// Partitions of topics to be created, those that are refused later included.
pub(super) fn partitions_of(node: &Node, topics: &[NewTopic]) -> usize {
    let count = |topic: &NewTopic| topic.partitions.unwrap_or(node.settings.partitions_default).max(0);
    topics.iter().map(|topic| usize::try_from(count(topic)).unwrap_or(0)).fold(0, usize::saturating_add)
}

fn duplicate(topic: &CreatableTopic) -> Refusal {
    Refusal::new(
        ErrorCode::InvalidRequest,
        format!("topic {} stands in the request more than once", topic.name),
    )
}

fn check(node: &Node, cx: &Context, topic: &CreatableTopic) -> Result<NewTopic, Refusal> {
    if !cx.allows(Operation::Create, Resource::Topic(&topic.name)) {
        let message = format!("not allowed to create topic {}", topic.name);
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    if is_internal(&topic.name) {
        return Err(TopicError::Internal(topic.name.clone()).into());
    }
    let partitions = match (topic.assignments.as_slice(), topic.num_partitions) {
        ([], -1) => None,
        ([], count) => Some(count),
        (assignments, _) => Some(assigned(node, topic, assignments)?),
    };
    if !matches!(topic.replication_factor, -1 | 1) {
        return Err(TopicError::ReplicationFactor(topic.replication_factor).into());
    }
    let configs = topic
        .configs
        .iter()
        .map(|config| {
            let value = config.value.clone().ok_or_else(|| {
                Refusal::new(ErrorCode::InvalidConfig, format!("{} has no value", config.name))
            })?;
            Ok((config.name.clone(), value))
        })
        .collect::<Result<_, Refusal>>()?;
    Ok(NewTopic { name: topic.name.clone(), partitions, configs })
}

/// Partitions of an explicit assignment: all of them here, numbered from 0 without gaps.
fn assigned(
    node: &Node,
    topic: &CreatableTopic,
    assignments: &[CreatableReplicaAssignment],
) -> Result<i32, Refusal> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "with a replica assignment, partitions and replication factor must be -1";
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let mut indices: Vec<i32> = assignments.iter().map(|assignment| assignment.partition_index).collect();
    indices.sort_unstable();
    if !indices.iter().copied().eq(0..i32::try_from(indices.len()).unwrap_or(i32::MAX)) {
        return Err(TopicError::Assignment("partitions must be numbered from 0 without gaps").into());
    }
    if assignments.iter().any(|assignment| assignment.broker_ids != [node.id()]) {
        return Err(TopicError::Assignment("every partition has one replica, on this broker").into());
    }
    Ok(i32::try_from(assignments.len()).unwrap_or(i32::MAX))
}

fn created(node: &Node, topic: &NewTopic, topic_id: Uuid, overrides: &Overrides) -> CreatableTopicResult {
    let layers = node.topics.layers();
    let configs = TABLE
        .iter()
        .filter(|property| property.is_dynamic())
        .filter_map(|property| {
            let setting = topic_settings(property, overrides, &layers).into_iter().next()?;
            Some(CreatableTopicConfigs {
                name: property.name.to_owned(),
                value: Some(setting.value.into_owned()),
                config_source: setting.source as i8,
                ..Default::default()
            })
        })
        .collect();
    CreatableTopicResult {
        name: topic.name.clone(),
        topic_id,
        error_message: None,
        num_partitions: topic.partitions.unwrap_or(node.settings.partitions_default),
        replication_factor: 1,
        configs: Some(configs),
        ..Default::default()
    }
}
