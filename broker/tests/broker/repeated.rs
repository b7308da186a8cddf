//! Requests that name the same thing again and again: an answer is as large as what there is to be told.

use crate::client::{Client, Running, fetch, produce};
use kappa_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kappa_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kappa_protocol::messages::fetch_request::FetchPartition;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kappa_protocol::messages::*;
use kappa_protocol::{ErrorCode, RequestMessage};
use tempfile::tempdir;

const AGAIN: usize = 500;

/// Bytes of an answer.
fn answer_bytes<R: RequestMessage>(client: &mut Client, version: i16, request: R) -> usize {
    client.send(version, request);
    client.frame().expect("the connection is open").len()
}

fn coordinated(running: &Running) -> Client {
    let mut client = running.client();
    let key = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(client.call(1, key).error_code, 0);
    client
}

#[test]
fn a_topic_named_again_is_described_once() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("wide", 300);
    let all = client.call(12, MetadataRequest { topics: None, ..Default::default() }).topics;
    let id = all.iter().find(|topic| topic.name.as_deref() == Some("wide")).unwrap().topic_id;
    let by_name = MetadataRequestTopic { name: Some("wide".into()), ..Default::default() };
    let by_id = MetadataRequestTopic { name: None, topic_id: id };
    let unknown = MetadataRequestTopic { name: Some("no-topic".into()), ..Default::default() };
    let asked = |topics: Vec<MetadataRequestTopic>| MetadataRequest {
        topics: Some(topics),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    for topic in [by_name.clone(), by_id] {
        let response = client.call(12, asked(vec![topic; AGAIN]));
        assert_eq!((response.topics.len(), response.topics[0].partitions.len()), (1, 300));
    }
    let response = client.call(12, asked(vec![unknown.clone(), by_name.clone(), unknown, by_name]));
    let names: Vec<&str> = response.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["no-topic", "wide"]);
    running.stop();
}

#[test]
fn configs_named_again_are_described_once_with_all_keys_that_were_asked_for() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let resource = |keys: Option<&[&str]>| DescribeConfigsResource {
        resource_type: 2,
        resource_name: "lines".into(),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
    };
    let asked =
        |resources| DescribeConfigsRequest { resources, include_synonyms: true, include_documentation: true };
    let one = answer_bytes(&mut client, 4, asked(vec![resource(None)]));
    assert_eq!(answer_bytes(&mut client, 4, asked(vec![resource(None); AGAIN])), one);
    let (policy, retention) = (["cleanup.policy"], ["retention.ms"]);
    let some = client.call(4, asked(vec![resource(Some(&policy)), resource(Some(&retention))]));
    assert_eq!((some.results.len(), some.results[0].configs.len()), (1, 2));
    let all =
        client.call(4, asked(vec![resource(Some(&policy)), resource(None), resource(Some(&retention))]));
    assert!(all.results.len() == 1 && all.results[0].configs.len() > 10);
    running.stop();
}

#[test]
fn offsets_and_groups_named_again_are_told_once() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = coordinated(&running);
    client.create_topic("lines", 2);
    let partition = |partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: 7,
        committed_metadata: Some("m".repeat(4096)),
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: "lines".into(),
        partitions: vec![partition(0), partition(1)],
        ..Default::default()
    };
    let commit = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    assert_eq!(client.call(8, commit).topics[0].partitions[0].error_code, 0);

    let topics = |indexes: &[i32]| OffsetFetchRequestTopics {
        name: "lines".into(),
        partition_indexes: indexes.to_vec(),
        ..Default::default()
    };
    let group = |topics: Option<Vec<OffsetFetchRequestTopics>>| OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics,
        ..Default::default()
    };
    let asked = |groups| OffsetFetchRequest { groups, ..Default::default() };
    let told = |response: OffsetFetchResponse| -> Vec<Vec<i32>> {
        let group = |group: &offset_fetch_response::OffsetFetchResponseGroup| {
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.inspect(|p| assert_eq!(p.committed_offset, 7)).map(|p| p.partition_index).collect()
        };
        response.groups.iter().map(group).collect()
    };
    let indexes = client.call(8, asked(vec![group(Some(vec![topics(&[0; AGAIN])]))]));
    assert_eq!(told(indexes), [[0]]);
    let named = client.call(8, asked(vec![group(Some(vec![topics(&[0]), topics(&[0, 1])]))]));
    assert_eq!(told(named), [[0, 1]]);
    let parts = client.call(8, asked(vec![group(Some(vec![topics(&[1])])), group(Some(vec![topics(&[0])]))]));
    assert_eq!(told(parts), [[1, 0]]);
    assert_eq!(told(client.call(8, asked(vec![group(None); AGAIN]))), [[0, 1]]);

    let groups = vec!["g".to_owned(); AGAIN];
    let described = client.call(5, DescribeGroupsRequest { groups: groups.clone(), ..Default::default() });
    assert_eq!(described.groups.len(), 1);
    let keys = FindCoordinatorRequest { coordinator_keys: groups, ..Default::default() };
    assert_eq!(client.call(4, keys).coordinators.len(), 1);
    running.stop();
}

#[test]
fn sizes_named_again_are_told_once() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("wide", 300);
    let topic = |partitions: Vec<i32>| DescribableLogDirTopic { topic: "wide".into(), partitions };
    let mut topics = vec![topic((0..299).collect()); AGAIN];
    topics.push(topic(vec![299]));
    let response = client.call(4, DescribeLogDirsRequest { topics: Some(topics) });
    let topics = &response.results[0].topics;
    assert_eq!((topics.len(), topics[0].partitions.len()), (1, 300));
    running.stop();
}

#[test]
fn a_partition_that_a_fetch_names_again_is_read_once_from_where_it_is_named_last() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    for value in ["zero", "one", "two"] {
        client.produce("lines", 0, &[value]);
    }
    let read = |offset| fetch("lines", 0, offset, 0).topics.remove(0).partitions.remove(0);
    let mut named = fetch("lines", 0, 0, 0);
    named.topics[0].partitions.extend([FetchPartition { partition: 1, ..read(0) }, read(1), read(2)]);
    let alone = client.call(11, fetch("lines", 0, 2, 0)).responses.remove(0).partitions.remove(0);
    for session_epoch in [-1, 0] {
        let response = client.call(11, FetchRequest { session_epoch, ..named.clone() });
        let told = &response.responses[0].partitions;
        assert_eq!(told.iter().map(|partition| partition.partition_index).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(told[0].records, alone.records);
    }
    running.stop();
}

#[test]
fn positions_named_again_are_refused() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let partition =
        |partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() };
    let topic = |indexes: &[i32]| ListOffsetsTopic {
        name: "lines".into(),
        partitions: indexes.iter().map(|index| partition(*index)).collect(),
    };
    let topics = vec![topic(&[0, 1]), topic(&[0])];
    let response = client.call(7, ListOffsetsRequest { replica_id: -1, topics, ..Default::default() });
    let codes = response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
    let twice = ErrorCode::InvalidRequest.code();
    assert_eq!(codes.collect::<Vec<_>>(), [twice, 0, twice]);
    running.stop();
}

#[test]
fn a_refusal_that_would_be_repeated_for_each_partition_has_a_code_alone() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let mut request = produce("x", 0, -1, bytes::Bytes::new());
    request.topic_data[0].name = "x".repeat(32_000);
    request.topic_data[0].partition_data = vec![request.topic_data[0].partition_data[0].clone(); 2_000];
    assert!(answer_bytes(&mut client, 9, request) < 300_000);
    running.stop();
}
