//! CreatePartitions: raises the number of partitions of topics.

use super::{Node, Refusal};
use crate::topic::TopicError;
use kappa_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kappa_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kappa_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: CreatePartitionsRequest) -> Reply {
    let validate_only = request.validate_only;
    let mut named: HashMap<&str, usize> = HashMap::new();
    request.topics.iter().for_each(|topic| *named.entry(&topic.name).or_default() += 1);
    let checked: Vec<(String, i32, Result<(), Refusal>)> = request
        .topics
        .iter()
        .map(|topic| {
            let twice = named.get(topic.name.as_str()).is_some_and(|count| *count > 1);
            (topic.name.clone(), topic.count, check(node, cx, topic, twice))
        })
        .collect();
    // However few they are: of two for the same topic, the first is done when the second begins.
    let change = node.topics.change_of(usize::MAX, move |catalog| {
        let create = |(name, count, checked): (String, i32, Result<(), Refusal>)| {
            let outcome = checked
                .and_then(|()| catalog.create_partitions(&name, count, validate_only).map_err(Refusal::from));
            (name, outcome)
        };
        checked.into_iter().map(create).collect::<Vec<_>>()
    });
    let names: Vec<String> = request.topics.into_iter().map(|topic| topic.name).collect();
    let node = node.clone();
    Reply::later(async move {
        let outcomes = match change.await {
            Ok(outcomes) => outcomes,
            Err(error) => names.into_iter().map(|name| (name, Err(error.clone().into()))).collect(),
        };
        let results = outcomes
            .into_iter()
            .map(|(name, outcome)| match outcome {
                Ok(()) => CreatePartitionsTopicResult { name, ..Default::default() },
                Err(Refusal { code, message }) => CreatePartitionsTopicResult {
                    name,
                    error_code: node.error(code),
                    error_message: Some(message),
                },
            })
            .collect();
        CreatePartitionsResponse { results, ..Default::default() }.into()
    })
}

fn check(node: &Node, cx: &Context, topic: &CreatePartitionsTopic, twice: bool) -> Result<(), Refusal> {
    if twice {
        let message = format!("topic {} stands in the request more than once", topic.name);
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    if !cx.allows(Operation::Alter, Resource::Topic(&topic.name)) {
        let message = format!("not allowed to alter topic {}", topic.name);
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    let Some(assignments) = &topic.assignments else { return Ok(()) };
    let existing = node.topics.topic(&topic.name).map_or(0, |topic| topic.partitions().len());
    let added = usize::try_from(topic.count).unwrap_or(0).saturating_sub(existing);
    if assignments.len() != added {
        return Err(TopicError::Assignment("there must be one for every partition that is added").into());
    }
    if assignments.iter().any(|assignment| assignment.broker_ids != [node.id()]) {
        return Err(TopicError::Assignment("every partition has one replica, on this broker").into());
    }
    Ok(())
}
