//! How much memory an answer takes, or what is kept until it is made, told before.
//!
//! Estimates, not below what is made and encoded by much, of answers that are not bounded by a small multiple of their
//! request: they are as large as what exists and is named. A thing named again counts once, as it is answered once.
//! Answers in proportion to their request are covered by what the request itself is counted as, and weigh nothing here.
//! Fetches reserve what they read themselves; what they name is kept while they wait, and weighs here.

use super::Node;
use super::describe_configs::TOPIC;
use super::fetch;
use crate::config::TABLE;
use crate::topic::Topic;
use kappa_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, MetadataRequest, OffsetFetchRequest,
};
use kappa_protocol::{Context, Request};
use std::collections::HashSet;
use std::sync::Arc;

/// A topic or a group, with its name.
const THING_BYTES: usize = 512;
/// What there may be to say of a thing that is named and does not exist, beside its name.
const NAMED_BYTES: usize = 256;
/// A partition in Metadata or DescribeTopicPartitions.
const PARTITION_BYTES: usize = 256;
/// A size, or an offset without its note.
const FIGURE_BYTES: usize = 128;
/// A setting; its synonyms; what it means.
const SETTING_BYTES: usize = 384;
/// A setting as CreateTopics tells it.
const NEW_SETTING_BYTES: usize = 192;
const SYNONYMS_BYTES: usize = 512;
const DOCUMENTATION_BYTES: usize = 512;
/// Partitions that DescribeTopicPartitions names at most.
const PAGE_PARTITIONS: usize = 2_000;

/// Bytes that an answer and its encoding may take; `None` if groups have to be looked at, see [`of_groups`].
pub(crate) fn answer_bytes(node: &Node, cx: &Context, request: &Request) -> Option<usize> {
    Some(match request {
        Request::OffsetFetch(_) | Request::DescribeGroups(_) | Request::ListGroups(_) => return None,
        Request::Metadata(request) => metadata(node, cx, request),
        Request::DescribeTopicPartitions(request) => topic_partitions(node, request),
        Request::DescribeLogDirs(request) => log_dirs(node, request),
        Request::DescribeConfigs(request) => configs(node, request),
        Request::CreateTopics(request) => new_topics(node, request),
        Request::ElectLeaders(request) => elections(node, request),
        Request::DescribeQuorum(request) => {
            request.topics.iter().map(|topic| NAMED_BYTES * (1 + 2 * topic.partitions.len())).sum()
        }
        Request::AlterReplicaLogDirs(request) => {
            let topics = request.dirs.iter().flat_map(|dir| &dir.topics);
            topics.map(|topic| NAMED_BYTES + topic.partitions.len() * FIGURE_BYTES).sum()
        }
        Request::AlterPartitionReassignments(request) => {
            let partitions = request.topics.iter().map(|topic| topic.partitions.len());
            partitions.sum::<usize>() * NAMED_BYTES
        }
        Request::ListConfigResources(_) => node.topics.count() * THING_BYTES,
        Request::Fetch(request) => fetch::named_bytes(request),
        Request::FindCoordinator(request) => request.coordinator_keys.len() * NAMED_BYTES,
        _ => 0,
    })
}

/// The same for what groups keep. May read the log.
pub(crate) fn of_groups(node: &Node, request: &Request) -> usize {
    match request {
        Request::OffsetFetch(request) => offsets(node, request),
        Request::DescribeGroups(request) => members(node, request),
        Request::ListGroups(_) => {
            let (count, id_bytes) = node.groups.listed();
            count * THING_BYTES + 3 * id_bytes
        }
        _ => 0,
    }
}

fn metadata(node: &Node, cx: &Context, request: &MetadataRequest) -> usize {
    let all = || topics_bytes(node.topics.all(), PARTITION_BYTES);
    let Some(topics) = &request.topics else { return all() };
    if topics.is_empty() && cx.version == 0 {
        return all();
    }
    let found = topics.iter().filter_map(|topic| match &topic.name {
        _ if !topic.topic_id.is_nil() => node.topics.by_id(topic.topic_id),
        Some(name) => node.topics.topic(name),
        None => None,
    });
    topics.len() * NAMED_BYTES + topics_bytes(found, PARTITION_BYTES)
}

/// Bytes for topics with all their partitions, each once.
fn topics_bytes(topics: impl IntoIterator<Item = Arc<Topic>>, partition_bytes: usize) -> usize {
    let mut seen = HashSet::new();
    let once = topics.into_iter().filter(|topic| seen.insert(topic.id));
    once.map(|topic| THING_BYTES + topic.partitions().len() * partition_bytes).sum()
}

fn topic_partitions(node: &Node, request: &DescribeTopicPartitionsRequest) -> usize {
    let named = request.topics.len();
    let topics = if named == 0 { node.topics.count() } else { named };
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PAGE_PARTITIONS);
    let partitions: usize = match named {
        0 => limit,
        _ => {
            let found = request.topics.iter().filter_map(|topic| node.topics.topic(&topic.name));
            found.map(|topic| topic.partitions().len()).sum()
        }
    };
    topics * THING_BYTES + partitions.min(limit) * PARTITION_BYTES
}

fn log_dirs(node: &Node, request: &DescribeLogDirsRequest) -> usize {
    match &request.topics {
        None => topics_bytes(node.topics.all(), FIGURE_BYTES),
        Some(topics) => {
            let found = topics.iter().filter_map(|wanted| node.topics.topic(&wanted.topic));
            topics_bytes(found, FIGURE_BYTES)
        }
    }
}

fn configs(node: &Node, request: &DescribeConfigsRequest) -> usize {
    let detail = SETTING_BYTES
        + if request.include_synonyms { SYNONYMS_BYTES } else { 0 }
        + if request.include_documentation { DOCUMENTATION_BYTES } else { 0 };
    let mut seen = HashSet::new();
    let (mut asked, mut most) = (0, 0);
    for named in &request.resources {
        let (kind, name) = (named.resource_type, named.resource_name.as_str());
        if kind == TOPIC && node.topics.topic(name).is_none() {
            continue;
        }
        let settings = match named.configuration_keys.as_deref() {
            None | Some([]) => TABLE.len(),
            Some(keys) => keys.len().min(TABLE.len()),
        };
        asked += settings * detail;
        if seen.insert((kind, name)) {
            most += TABLE.len() * detail;
        }
    }
    request.resources.len() * NAMED_BYTES + asked.min(most)
}

/// What a new topic is told with: its settings.
fn new_topics(node: &Node, request: &CreateTopicsRequest) -> usize {
    let settings = TABLE.iter().filter(|property| property.is_dynamic()).count();
    let most = usize::try_from(node.settings.partitions_max).unwrap_or(0);
    request.topics.len() * NAMED_BYTES + request.topics.len().min(most) * settings * NEW_SETTING_BYTES
}

/// All topics are told without their partitions.
fn elections(node: &Node, request: &ElectLeadersRequest) -> usize {
    match &request.topic_partitions {
        None => node.topics.count() * THING_BYTES,
        Some(topics) => topics.iter().map(|topic| NAMED_BYTES * (1 + topic.partitions.len())).sum(),
    }
}

fn offsets(node: &Node, request: &OffsetFetchRequest) -> usize {
    let single = [request.group_id.as_str()].into_iter().filter(|_| request.groups.is_empty());
    let groups: HashSet<&str> =
        request.groups.iter().map(|group| group.group_id.as_str()).chain(single).collect();
    let of_group = |group| {
        let weigh = |committed: &crate::group::TopicOffsets| {
            let topics = committed.values().flat_map(|offsets| offsets.values());
            committed.len() * THING_BYTES
                + topics.map(|offset| FIGURE_BYTES + 2 * offset.metadata.len()).sum::<usize>()
        };
        node.groups.committed(group, weigh).unwrap_or(0)
    };
    groups.into_iter().map(of_group).sum()
}

fn members(node: &Node, request: &DescribeGroupsRequest) -> usize {
    let groups: HashSet<&str> = request.groups.iter().map(String::as_str).collect();
    groups.into_iter().map(|group| THING_BYTES + 2 * node.groups.bytes_of(group)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broker, BrokerConfig, dispatch};
    use kappa_protocol::messages::alter_partition_reassignments_request::{
        ReassignablePartition, ReassignableTopic,
    };
    use kappa_protocol::messages::alter_replica_log_dirs_request::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic,
    };
    use kappa_protocol::messages::create_topics_request::CreatableTopic;
    use kappa_protocol::messages::describe_configs_request::DescribeConfigsResource;
    use kappa_protocol::messages::describe_quorum_request::{
        PartitionData as QuorumPartition, TopicData as QuorumTopic,
    };
    use kappa_protocol::messages::elect_leaders_request::TopicPartitions;
    use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
    use kappa_protocol::messages::{
        AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, DescribeQuorumRequest,
    };
    use kappa_protocol::wire::Writer;
    use kappa_protocol::{Principal, Reply};
    use std::net::{IpAddr, Ipv4Addr};

    #[tokio::test]
    async fn an_answer_takes_no_more_than_it_was_weighed_at_and_repetition_weighs_little() {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(BrokerConfig::new(dir.path())).await.unwrap();
        let node = broker.node();
        let weighed = async |version: i16, request: Request| {
            let cx = Context {
                version,
                principal: Principal::anonymous(),
                client_id: None,
                client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let bytes = answer_bytes(node, &cx, &request).unwrap_or_else(|| of_groups(node, &request));
            let response = match dispatch::call(node, &cx, request) {
                Reply::Now(response) => response,
                Reply::Later(later) => later.await.unwrap(),
                Reply::None => panic!("it is answered"),
            };
            let mut writer = Writer::with_capacity(64);
            response.encode(version, &mut writer).unwrap();
            let encoded = writer.into_bytes().len();
            assert!(bytes + THING_BYTES >= encoded, "{bytes} for {encoded} of {}", response.api_key());
            bytes
        };
        let topic = |name: String, num_partitions| CreatableTopic {
            name,
            num_partitions,
            replication_factor: -1,
            ..Default::default()
        };
        let topics = (0..20).map(|n| topic(format!("t{n}"), 1)).chain([topic("wide".into(), 500)]).collect();
        weighed(7, CreateTopicsRequest { topics, ..Default::default() }.into()).await;
        weighed(12, MetadataRequest { topics: None, ..Default::default() }.into()).await;
        weighed(4, DescribeLogDirsRequest { topics: None }.into()).await;
        let pages = DescribeTopicPartitionsRequest { response_partition_limit: 2_000, ..Default::default() };
        weighed(0, pages.into()).await;
        weighed(5, kappa_protocol::messages::ListGroupsRequest::default().into()).await;
        weighed(1, kappa_protocol::messages::ListConfigResourcesRequest::default().into()).await;

        weighed(2, ElectLeadersRequest { topic_partitions: None, ..Default::default() }.into()).await;
        let partitions: Vec<i32> = (0..1_000).collect();
        let wide = TopicPartitions { topic: "wide".into(), partitions: partitions.clone() };
        weighed(2, ElectLeadersRequest { topic_partitions: Some(vec![wide]), ..Default::default() }.into())
            .await;
        let wide = AlterReplicaLogDirTopic { name: "wide".into(), partitions: partitions.clone() };
        let dirs = vec![AlterReplicaLogDir { path: "/elsewhere".into(), topics: vec![wide] }];
        weighed(2, AlterReplicaLogDirsRequest { dirs }.into()).await;
        let topics = vec![QuorumTopic {
            topic_name: "wide".into(),
            partitions: (0..1_000).map(|partition_index| QuorumPartition { partition_index }).collect(),
        }];
        weighed(2, DescribeQuorumRequest { topics }.into()).await;
        let elsewhere = |partition_index| ReassignablePartition { partition_index, replicas: Some(vec![9]) };
        let wide = ReassignableTopic {
            name: "wide".into(),
            partitions: partitions.into_iter().map(elsewhere).collect(),
        };
        let request = AlterPartitionReassignmentsRequest { topics: vec![wide], ..Default::default() };
        weighed(1, request.into()).await;

        let wide = MetadataRequestTopic { name: Some("wide".into()), ..Default::default() };
        let named = |count| MetadataRequest { topics: Some(vec![wide.clone(); count]), ..Default::default() };
        let one = weighed(12, named(1).into()).await;
        assert!(weighed(12, named(100).into()).await < one + 100 * THING_BYTES);
        let resource = DescribeConfigsResource {
            resource_type: TOPIC,
            resource_name: "wide".into(),
            configuration_keys: None,
        };
        let named = |count| DescribeConfigsRequest {
            resources: vec![resource.clone(); count],
            include_synonyms: true,
            include_documentation: true,
        };
        let one = weighed(4, named(1).into()).await;
        assert!(weighed(4, named(100).into()).await < one + 100 * THING_BYTES);
        broker.stop().await.unwrap();
    }
}
