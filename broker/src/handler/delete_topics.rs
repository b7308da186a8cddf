//! DeleteTopics: by name or by id; answered when the catalog's record is durable and all that hung on the topics is gone.

use super::{Node, Refusal};
use crate::topic::{Topic, TopicError};
use kappa_protocol::messages::delete_topics_request::DeleteTopicState;
use kappa_protocol::messages::delete_topics_response::DeletableTopicResult;
use kappa_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;
use uuid::Uuid;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DeleteTopicsRequest) -> Reply {
    let by_name = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState { name: Some(name), topic_id: Uuid::nil() });
    let wanted: Vec<(DeleteTopicState, Result<Arc<Topic>, Refusal>)> = request
        .topics
        .into_iter()
        .chain(by_name)
        .map(|state| {
            let topic = find(node, cx, &state);
            (state, topic)
        })
        .collect();
    let found = || wanted.iter().filter_map(|(_, topic)| topic.as_ref().ok());
    let ids: Vec<Uuid> = found().map(|topic| topic.id).collect();
    let partitions = found().map(|topic| topic.partitions().len()).sum();
    let change = node.topics.change_of(partitions, move |catalog| catalog.delete_topics(&ids));
    let node = node.clone();
    Reply::later(async move {
        let mut outcomes = match change.await {
            Ok(outcomes) => outcomes.into_iter(),
            Err(error) => vec![Err(error); wanted.len()].into_iter(),
        };
        let responses = wanted
            .into_iter()
            .map(|(state, topic)| {
                let outcome = topic.and_then(|_| {
                    outcomes.next().unwrap_or(Err(TopicError::Stopping)).map_err(Refusal::from)
                });
                match outcome {
                    Ok(topic) => {
                        let name = Some(topic.name.to_string());
                        DeletableTopicResult { name, topic_id: topic.id, ..Default::default() }
                    }
                    Err(refusal) => DeletableTopicResult {
                        name: state.name,
                        topic_id: state.topic_id,
                        error_code: node.error(refusal.code),
                        error_message: Some(refusal.message),
                    },
                }
            })
            .collect();
        DeleteTopicsResponse { responses, ..Default::default() }.into()
    })
}

fn find(node: &Node, cx: &Context, state: &DeleteTopicState) -> Result<Arc<Topic>, Refusal> {
    let name = state.name.as_deref().unwrap_or_default();
    let topic = match (name, state.topic_id.is_nil()) {
        ("", true) => {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "neither a name nor an id was given"));
        }
        ("", false) => node.topics.by_id(state.topic_id),
        (name, true) => node.topics.topic(name),
        (_, false) => {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "give a name or an id, not both"));
        }
    };
    let topic = topic.ok_or_else(|| Refusal::unknown_topic(name, state.topic_id))?;
    if !cx.allows(Operation::Delete, Resource::Topic(&topic.name)) {
        let message = format!("not allowed to delete topic {}", topic.name);
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    Ok(topic)
}
