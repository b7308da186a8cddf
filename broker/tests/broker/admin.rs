//! Topics, partitions, records, configs and descriptions, as admin tools use them.

use crate::client::{Client, Running, batch, error_of, produce};
use bytes::Bytes;
use kappa_broker::BrokerConfig;
use kappa_protocol::ErrorCode;
use kappa_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kappa_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kappa_protocol::messages::delete_topics_request::DeleteTopicState;
use kappa_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kappa_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kappa_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::*;
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use std::time::{Duration, Instant};
use tempfile::tempdir;

fn topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
    };
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: -1,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    }
}

/// A batch with the values 0, 1 and so on under these keys.
fn keyed(keys: &[Option<&str>]) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (value, key) in keys.iter().enumerate() {
        let (key, value) = (key.map(str::as_bytes), value.to_string());
        builder.push(now.as_millis() as i64, key, Some(value.as_bytes()), std::iter::empty());
    }
    builder.finish(0)
}

fn value(client: &mut Client, kind: i8, name: &str, key: &str) -> (String, i8) {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configuration_keys: Some(vec![key.into()]),
        }],
        include_synonyms: true,
        include_documentation: true,
    };
    let response = client.call(4, request);
    let config = &response.results[0].configs[0];
    assert!(!config.synonyms.is_empty() && config.documentation.is_some());
    (config.value.clone().unwrap(), config.config_source)
}

fn alter(client: &mut Client, kind: i8, name: &str, changes: &[(&str, i8, &str)]) -> (i16, String) {
    let config = |(name, operation, value): &(&str, i8, &str)| AlterableConfig {
        name: (*name).into(),
        config_operation: *operation,
        value: Some((*value).into()),
    };
    let resource = AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: changes.iter().map(config).collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let response = client.call(1, request).responses.remove(0);
    (response.error_code, response.error_message.unwrap_or_default())
}

#[test]
fn each_topic_of_a_request_is_created_or_refused_by_itself() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let topics = vec![
        topic("good", 3, &[("retention.ms", "5000"), ("cleanup.policy", "compact")]),
        topic("no partitions", 1, &[]),
        topic("zero", 0, &[]),
        topic("unknown-config", 1, &[("retention.mss", "1")]),
        CreatableTopic { replication_factor: 3, ..topic("replicated", 1, &[]) },
        topic("twice", 1, &[]),
        topic("twice", 1, &[]),
        topic("a.b", 1, &[]),
        topic("a_b", 1, &[]),
    ];
    let request = CreateTopicsRequest { topics, ..Default::default() };
    let dry = client.call(7, CreateTopicsRequest { validate_only: true, ..request.clone() });
    let response = client.call(7, request);
    let codes: Vec<ErrorCode> = response.topics.iter().map(|topic| topic.error_code.into()).collect();
    assert_eq!(
        codes,
        [
            ErrorCode::None,
            ErrorCode::InvalidTopicException,
            ErrorCode::InvalidPartitions,
            ErrorCode::InvalidConfig,
            ErrorCode::InvalidReplicationFactor,
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidRequest,
            ErrorCode::None,
            ErrorCode::InvalidTopicException,
        ]
    );
    assert_eq!(dry.topics.iter().map(|t| t.error_code.into()).collect::<Vec<ErrorCode>>(), codes);
    assert_eq!((response.topics[0].num_partitions, response.topics[0].replication_factor), (3, 1));
    let message = response.topics[3].error_message.as_deref().unwrap();
    assert_eq!(message, "unknown property retention.mss: did you mean retention.ms?");
    assert_eq!(value(&mut client, 2, "good", "cleanup.policy"), ("compact".into(), 1));
    assert_eq!(value(&mut client, 2, "good", "segment.bytes"), ("1073741824".into(), 5));
    running.stop();
}

#[test]
fn records_of_a_topic_that_is_only_compacted_are_not_deleted() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let policies = ["compact", "compact,delete", "delete"];
    for policy in policies {
        let topics = vec![topic(&policy.replace(',', "-"), 1, &[("cleanup.policy", policy)])];
        client.call(7, CreateTopicsRequest { topics, ..Default::default() });
    }
    let codes = policies.map(|policy| {
        let name = policy.replace(',', "-");
        let response = client.call(9, produce(&name, 0, -1, keyed(&[Some("k"), Some("k")])));
        assert_eq!(error_of(&response), 0);
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 1 }];
        let topics = vec![DeleteRecordsTopic { name, partitions }];
        let response = client.call(2, DeleteRecordsRequest { topics, timeout_ms: 1000 });
        ErrorCode::from(response.topics[0].partitions[0].error_code)
    });
    assert_eq!(codes, [ErrorCode::PolicyViolation, ErrorCode::None, ErrorCode::None]);
    assert_eq!(client.values("compact", 0, 0), ["0", "1"]);
    assert_eq!(client.values("compact-delete", 0, 1), ["1"]);
    running.stop();
}

#[test]
fn a_record_without_a_key_is_refused_by_name_where_the_topic_is_compacted() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let topics = vec![topic("rows", 1, &[("cleanup.policy", "compact,delete")])];
    client.call(7, CreateTopicsRequest { topics, ..Default::default() });
    let mixed = || produce("rows", 0, -1, keyed(&[Some("a"), None, Some("b")]));
    for version in [3, 7, 8, 12] {
        let response = client.call(version, mixed());
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::InvalidRecord as i16, -1));
        let named: Vec<i32> = answer.record_errors.iter().map(|record| record.batch_index).collect();
        assert_eq!(named, if version >= 8 { vec![1] } else { vec![] });
    }
    assert_eq!(alter(&mut client, 2, "rows", &[("cleanup.policy", 0, "delete")]).0, 0);
    assert_eq!(error_of(&client.call(9, mixed())), 0);
    assert_eq!(client.values("rows", 0, 0), ["0", "1", "2"]);
    running.stop();
}

#[test]
fn topics_are_deleted_by_name_and_by_id_and_may_come_back() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.create_topic("words", 1);
    client.produce("lines", 0, &["old"]);
    let metadata = client.call(12, MetadataRequest { topics: None, ..Default::default() });
    let id = metadata.topics.iter().find(|t| t.name.as_deref() == Some("words")).unwrap().topic_id;
    let by_name = DeleteTopicState { name: Some("lines".into()), ..Default::default() };
    let by_id = DeleteTopicState { name: None, topic_id: id };
    let unknown = DeleteTopicState { name: Some("nothing".into()), ..Default::default() };
    let internal = DeleteTopicState { name: Some("__kappa_catalog".into()), ..Default::default() };
    let request =
        DeleteTopicsRequest { topics: vec![by_name, by_id, unknown, internal], ..Default::default() };
    let response = client.call(6, request);
    let codes: Vec<ErrorCode> = response.responses.iter().map(|topic| topic.error_code.into()).collect();
    let (gone, none) = (ErrorCode::UnknownTopicOrPartition, ErrorCode::None);
    assert_eq!(codes, [none, none, gone, ErrorCode::InvalidTopicException]);
    let response = client.call(9, produce("lines", 0, -1, batch(&["late"])));
    assert_eq!(error_of(&response), gone.code());
    client.create_topic("lines", 1);
    assert_eq!(client.produce("lines", 0, &["new"]), 0);
    running.stop();
}

#[test]
fn the_catalog_is_in_no_list_of_all_topics() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    for version in [0, 1, 12] {
        let topics = if version == 0 { Some(Vec::new()) } else { None };
        let all = client.call(version, MetadataRequest { topics, ..Default::default() }).topics;
        let names: Vec<_> = all.iter().filter_map(|topic| topic.name.as_deref()).collect();
        assert_eq!(names, ["lines"], "Metadata {version}");
    }
    let request = DescribeTopicPartitionsRequest { response_partition_limit: 100, ..Default::default() };
    let all = client.call(0, request).topics;
    let names: Vec<_> = all.iter().filter_map(|topic| topic.name.as_deref()).collect();
    assert_eq!(names, ["lines"]);
    let all = client.call(1, ListConfigResourcesRequest { resource_types: vec![2] }).config_resources;
    let names: Vec<_> = all.iter().map(|resource| resource.resource_name.as_str()).collect();
    assert_eq!(names, ["lines"]);
    running.stop();
}

#[test]
fn an_old_record_stays_unless_a_retention_was_asked_for() {
    let dir = tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path());
    config.set("log.retention.check.interval.ms", "20").unwrap();
    let running = Running::with(config);
    let mut client = running.client();
    let week = topic("week", 1, &[("retention.ms", "604800000")]);
    let topics = vec![topic("kept", 1, &[]), week];
    client.call(7, CreateTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() });
    for name in ["kept", "week"] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(1_356_998_400_000, None, Some(b"of 2013".as_slice()), std::iter::empty());
        assert_eq!(error_of(&client.call(9, produce(name, 0, -1, builder.finish(0)))), 0);
    }
    let mut first = |name: &str| {
        let partitions = vec![ListOffsetsPartition { timestamp: -2, ..Default::default() }];
        let topics = vec![ListOffsetsTopic { name: name.into(), partitions }];
        let listed = client.call(5, ListOffsetsRequest { topics, ..Default::default() });
        listed.topics[0].partitions[0].offset
    };
    let started = Instant::now();
    while first("week") != 1 {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(first("kept"), 0);
    running.stop();
}

#[test]
fn partitions_are_added_and_never_taken() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let mut raise = |count: i32, validate_only: bool| {
        let topic = CreatePartitionsTopic { name: "lines".into(), count, assignments: None };
        let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 1000, validate_only };
        client.call(3, request).results[0].error_code
    };
    assert_eq!(raise(2, false), ErrorCode::InvalidPartitions.code());
    assert_eq!(raise(5, true), 0);
    assert_eq!(raise(1_000_000, false), ErrorCode::InvalidPartitions.code());
    assert_eq!(raise(4, false), 0);
    assert_eq!(client.produce("lines", 3, &["new"]), 0);
    assert_eq!(error_of(&client.call(9, produce("lines", 4, -1, batch(&["x"])))), 3);
    running.stop();
}

#[test]
fn deleted_records_are_gone_for_good() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["a", "b", "c"]);
    let mut delete = |offset: i64| {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
        let topics = vec![DeleteRecordsTopic { name: "lines".into(), partitions }];
        let response = client.call(2, DeleteRecordsRequest { topics, timeout_ms: 1000 });
        let result = response.topics[0].partitions[0].clone();
        (ErrorCode::from(result.error_code), result.low_watermark)
    };
    assert_eq!(delete(2), (ErrorCode::None, 2));
    assert_eq!(delete(9), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(client.values("lines", 0, 2), ["c"]);
    running.stop();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let response = client.call(11, crate::client::fetch("lines", 0, 0, 0));
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(client.values("lines", 0, 2), ["c"]);
    running.stop();
}

#[test]
fn configs_are_altered_in_layers_and_take_effect_at_once() {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let big = batch(&[&"x".repeat(3000)]);
    assert_eq!(error_of(&client.call(9, produce("lines", 0, -1, big.clone()))), 0);

    assert_eq!(alter(&mut client, BROKER, "", &[("message.max.bytes", 0, "2000")]).0, 0);
    assert_eq!(value(&mut client, TOPIC, "lines", "max.message.bytes"), ("2000".into(), 3));
    let refused = client.call(9, produce("lines", 0, -1, big.clone()));
    assert_eq!(error_of(&refused), ErrorCode::MessageTooLarge.code());
    assert_eq!(alter(&mut client, TOPIC, "lines", &[("max.message.bytes", 0, "9000")]).0, 0);
    assert_eq!(error_of(&client.call(9, produce("lines", 0, -1, big.clone()))), 0);
    assert_eq!(alter(&mut client, TOPIC, "lines", &[("max.message.bytes", 1, "")]).0, 0);
    assert_eq!(value(&mut client, TOPIC, "lines", "max.message.bytes"), ("2000".into(), 3));

    assert_eq!(alter(&mut client, TOPIC, "lines", &[("cleanup.policy", 2, "compact")]).0, 0);
    assert_eq!(value(&mut client, TOPIC, "lines", "cleanup.policy"), ("delete,compact".into(), 1));
    assert_eq!(alter(&mut client, TOPIC, "lines", &[("cleanup.policy", 3, "delete")]).0, 0);
    assert_eq!(value(&mut client, TOPIC, "lines", "cleanup.policy"), ("compact".into(), 1));

    let (code, message) = alter(&mut client, TOPIC, "lines", &[("retention.ms", 2, "5")]);
    assert_eq!((code, message.contains("not a list")), (ErrorCode::InvalidConfig.code(), true));
    let (code, message) = alter(&mut client, BROKER, "1", &[("num.partitions", 0, "5")]);
    assert_eq!((code, message.contains("when the broker starts")), (ErrorCode::InvalidConfig.code(), true));
    assert_eq!(alter(&mut client, BROKER, "7", &[]).0, ErrorCode::InvalidRequest.code());
    assert_eq!(alter(&mut client, TOPIC, "nothing", &[]).0, ErrorCode::UnknownTopicOrPartition.code());
    running.stop();
}

#[test]
fn the_cluster_its_directory_and_its_topics_are_described() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("a", 3);
    client.create_topic("b", 3);
    client.produce("a", 1, &["something"]);
    let cluster = client.call(1, DescribeClusterRequest { endpoint_type: 1, ..Default::default() });
    assert_eq!((cluster.controller_id, cluster.brokers.len(), cluster.cluster_id.len()), (1, 1, 22));

    let dirs = client.call(4, DescribeLogDirsRequest { topics: None });
    let found = dirs.results[0].topics.iter().find(|topic| topic.name == "a").unwrap();
    assert!(found.partitions[1].partition_size > 0 && dirs.results[0].usable_bytes > 0);

    let names = ["a", "b"].map(|name| TopicRequest { name: name.into() });
    let mut request = DescribeTopicPartitionsRequest {
        topics: names.to_vec(),
        response_partition_limit: 2,
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = client.call(0, request.clone());
        for topic in &page.topics {
            let name = topic.name.clone().unwrap();
            pages.extend(topic.partitions.iter().map(|partition| (name.clone(), partition.partition_index)));
        }
        let Some(next) = page.next_cursor else { break };
        request.cursor = Some(Cursor { topic_name: next.topic_name, partition_index: next.partition_index });
    }
    let expected: Vec<_> = ["a", "b"].iter().flat_map(|n| (0..3).map(|i| ((*n).to_owned(), i))).collect();
    assert_eq!(pages, expected);

    let resources = client.call(1, ListConfigResourcesRequest { resource_types: vec![2] });
    assert!(resources.config_resources.iter().any(|resource| resource.resource_name == "b"));
    running.stop();
}

#[test]
fn transactional_ids_are_refused() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let request = InitProducerIdRequest { transactional_id: Some("tx".into()), ..Default::default() };
    let response = client.call(4, request);
    assert_eq!((response.error_code, response.producer_id), (ErrorCode::UnsupportedVersion.code(), -1));
    running.stop();
}
