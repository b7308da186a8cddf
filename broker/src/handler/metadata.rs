//! Metadata: brokers, topics and their partitions; creates topics that clients ask for, where that is allowed.

use super::create_topics::partitions_of;
use super::{Node, elsewhere, once, unanswered};
use crate::topic::{NewTopic, Topic, TopicError, TopicName, is_internal};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kappa_protocol::messages::{MetadataRequest, MetadataResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;
use uuid::Uuid;

/// Operations that may be done to a topic, as a set of bits by Kafka's numbers: all, while there are no access rules.
pub(crate) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// The same for the cluster.
pub(crate) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// Topics and partitions from which on describing them takes too long for the thread that serves everybody.
const MANY: usize = 1_000;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, mut request: MetadataRequest) -> Reply {
    request.topics = request.topics.map(|topics| once(topics, named));
    if is_long(node, cx, &request) {
        return elsewhere(node, cx, request, describe_wanted);
    }
    describe_wanted(node, cx, request)
}

/// What a request names a topic by: its id, if it has one.
fn named(topic: &MetadataRequestTopic) -> (u128, &str) {
    let name = topic.name.as_deref().filter(|_| topic.topic_id.is_nil());
    (topic.topic_id.as_u128(), name.unwrap_or_default())
}

fn is_long(node: &Node, cx: &Context, request: &MetadataRequest) -> bool {
    let weight = |topic: Arc<Topic>| 1 + topic.partitions().len();
    match &request.topics {
        Some(topics) if topics.len() >= MANY => true,
        Some(topics) if !topics.is_empty() || cx.version > 0 => {
            let found = topics.iter().filter_map(|wanted| match &wanted.name {
                Some(name) => node.topics.topic(name),
                None => node.topics.by_id(wanted.topic_id),
            });
            found.map(weight).sum::<usize>() >= MANY
        }
        _ => node.topics.count() >= MANY || node.topics.all().into_iter().map(weight).sum::<usize>() >= MANY,
    }
}

fn describe_wanted(node: &Arc<Node>, cx: &Context, request: MetadataRequest) -> Reply {
    let mut response = frame(node, &request);
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { i32::MIN };
    let wanted = match request.topics {
        None => return Reply::Now(all_topics(node, cx, operations, response).into()),
        Some(topics) if topics.is_empty() && cx.version == 0 => {
            return Reply::Now(all_topics(node, cx, operations, response).into());
        }
        Some(topics) => topics,
    };
    let may_create = node.settings.auto_create_topics && request.allow_auto_topic_creation;
    let missing: Vec<NewTopic> =
        wanted.iter().filter(|_| may_create).filter_map(|topic| creatable(node, cx, topic)).collect();
    if missing.is_empty() {
        response.topics = wanted.into_iter().map(|topic| describe(node, cx, operations, topic)).collect();
        return Reply::Now(response.into());
    }
    // The answer waits until the topics are there: a client told to come back would wait longer.
    let partitions = partitions_of(node, &missing);
    let created = node.topics.change_of(partitions, move |catalog| catalog.create_topics(&missing, false));
    let (node, cx) = (node.clone(), cx.clone());
    Reply::Later(Box::pin(async move {
        if let Ok(outcomes) = created.await {
            let errors = outcomes.into_iter().filter_map(Result::err);
            let mut errors = errors.filter(|error| !matches!(error, TopicError::Exists(_)));
            if let Some(error) = errors.next() {
                tracing::warn!(%error, others = errors.count(), "topics not created");
            }
        }
        let many = wanted.len() >= MANY;
        let jobs = node.jobs.clone();
        let describe = move || {
            response.topics =
                wanted.into_iter().map(|topic| describe(&node, &cx, operations, topic)).collect();
            response
        };
        let described = if many { jobs.run(describe).await.map_err(unanswered)? } else { describe() };
        Ok(described.into())
    }))
}

fn frame(node: &Node, request: &MetadataRequest) -> MetadataResponse {
    let advertised = node.advertised();
    MetadataResponse {
        brokers: vec![MetadataResponseBroker {
            node_id: node.id(),
            host: advertised.host.to_string(),
            port: i32::from(advertised.port),
            ..Default::default()
        }],
        cluster_id: Some(node.cluster_id.to_string()),
        controller_id: node.id(),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => i32::MIN,
        },
        ..Default::default()
    }
}

fn all_topics(
    node: &Node,
    cx: &Context,
    operations: i32,
    mut response: MetadataResponse,
) -> MetadataResponse {
    let topics = node.topics.all();
    let listed = topics.iter().filter(|topic| topic.is_listed());
    let visible = listed.filter(|topic| cx.allows(Operation::Describe, Resource::Topic(&topic.name)));
    response.topics = visible.map(|topic| found(node, operations, topic)).collect();
    response
}

/// The topic to create for a name that does not exist yet.
fn creatable(node: &Node, cx: &Context, topic: &MetadataRequestTopic) -> Option<NewTopic> {
    let name = topic.name.as_deref()?;
    let wanted = topic.topic_id.is_nil()
        && node.topics.topic(name).is_none()
        && TopicName::new(name).is_ok()
        && !is_internal(name)
        && cx.allows(Operation::Create, Resource::Topic(name));
    wanted.then(|| NewTopic { name: name.to_owned(), partitions: None, configs: Vec::new() })
}

fn describe(
    node: &Node,
    cx: &Context,
    operations: i32,
    wanted: MetadataRequestTopic,
) -> MetadataResponseTopic {
    let by_id = !wanted.topic_id.is_nil();
    let topic = match &wanted.name {
        _ if by_id => node.topics.by_id(wanted.topic_id),
        Some(name) => node.topics.topic(name),
        None => None,
    };
    let name = wanted.name.unwrap_or_default();
    let refused = |code, topic_id| {
        // Null only where the version can say so.
        let name = if cx.version >= 12 && by_id { None } else { Some(name.clone()) };
        refused(node, code, name, topic_id)
    };
    match topic {
        Some(topic) if cx.allows(Operation::Describe, Resource::Topic(&topic.name)) => {
            found(node, operations, &topic)
        }
        Some(_) => refused(ErrorCode::TopicAuthorizationFailed, wanted.topic_id),
        None if by_id => refused(ErrorCode::UnknownTopicId, wanted.topic_id),
        None if TopicName::new(&name).is_err() => refused(ErrorCode::InvalidTopicException, Uuid::nil()),
        None => refused(ErrorCode::UnknownTopicOrPartition, Uuid::nil()),
    }
}

fn refused(node: &Node, code: ErrorCode, name: Option<String>, topic_id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code: node.error(code),
        name,
        topic_id,
        topic_authorized_operations: i32::MIN,
        ..Default::default()
    }
}

fn found(node: &Node, operations: i32, topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0i32..)
        .zip(topic.partitions().iter())
        .map(|(partition_index, partition)| MetadataResponsePartition {
            partition_index,
            leader_id: node.id(),
            leader_epoch: partition.leader_epoch(),
            replica_nodes: vec![node.id()],
            isr_nodes: vec![node.id()],
            ..Default::default()
        })
        .collect();
    MetadataResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions,
        topic_authorized_operations: operations,
        ..Default::default()
    }
}
