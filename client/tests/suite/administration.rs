//! Admin round trips, with a result per item.

use crate::support::{Cluster, PATIENCE, fill, over_both_transports};
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, TopicPartition,
    admin::{ConfigChange, ConfigResource, ConfigSource, NewTopic, OffsetAndMetadata, OffsetSpec},
};
use kappa_protocol::ErrorCode;
use std::time::{Duration, Instant};

over_both_transports! {
    topics_are_created_described_grown_and_deleted
    configurations_are_described_and_altered
    records_are_deleted_and_offsets_listed
    groups_are_listed_described_and_their_offsets_altered
    cluster_and_log_directories_are_described
}

async fn topics_are_created_described_grown_and_deleted(_: &Cluster, client: &Client) {
    let admin = Admin::new(client);
    let wanted =
        [NewTopic::new("a", 2), NewTopic::new("b", 1).config("retention.ms", "1000"), NewTopic::new("!", 1)];
    let created = admin.create_topics(&wanted).await.unwrap();
    assert!(created["a"].is_ok() && created["b"].is_ok());
    assert_eq!(created["!"].as_ref().unwrap_err().code(), Some(ErrorCode::InvalidTopicException));
    let error = admin.create_topic(&NewTopic::new("a", 2)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TopicAlreadyExists));
    let listed = admin.list_topics().await.unwrap();
    let partitions =
        |name: &str| listed.iter().find(|topic| topic.name == name).map(|topic| topic.partitions);
    assert_eq!((partitions("a"), partitions("b"), partitions("!")), (Some(2), Some(1), None));
    assert!(admin.create_partitions(&[("a", 5)]).await.unwrap()["a"].is_ok());
    assert!(admin.create_partitions(&[("a", 1)]).await.unwrap()["a"].is_err());
    let described = admin.describe_topics(&["a", "nothing"]).await.unwrap();
    let topic = described["a"].as_ref().unwrap();
    assert_eq!(
        topic.partitions.iter().map(|partition| partition.partition).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert!(topic.partitions.iter().all(|partition| partition.leader.is_some()));
    let missing = described["nothing"].as_ref().unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::UnknownTopicOrPartition));
    let deleted = admin.delete_topics(&["a", "nothing"]).await.unwrap();
    assert!(deleted["a"].is_ok() && deleted["nothing"].is_err());
    assert!(admin.list_topics().await.unwrap().iter().all(|topic| topic.name != "a"));
}

async fn configurations_are_described_and_altered(_: &Cluster, client: &Client) {
    let admin = Admin::new(client);
    admin.create_topic(&NewTopic::new("configured", 1).config("retention.ms", "1000")).await.unwrap();
    let (topic, missing) =
        (ConfigResource::Topic("configured".into()), ConfigResource::Topic("missing".into()));
    let node = admin.describe_cluster().await.unwrap().nodes[0].id;
    let broker = ConfigResource::Broker(node);
    let resources = [topic.clone(), missing.clone(), broker.clone()];
    let described = admin.describe_configs(&resources).await.unwrap();
    let retention =
        described[&topic].as_ref().unwrap().iter().find(|entry| entry.name == "retention.ms").unwrap();
    assert_eq!((retention.value.as_deref(), retention.source), (Some("1000"), ConfigSource::Topic));
    assert!(described[&missing].is_err());
    assert!(!described[&broker].as_ref().unwrap().is_empty());
    let set = |name: &str, value: &str| ConfigChange::Set(name.into(), value.into());
    let changes = [
        (topic.clone(), vec![set("segment.bytes", "2000000"), ConfigChange::Delete("retention.ms".into())]),
        (missing.clone(), vec![set("segment.bytes", "2000000")]),
    ];
    let altered = admin.alter_configs(&changes).await.unwrap();
    assert!(altered[&topic].is_ok() && altered[&missing].is_err());
    let described = admin.describe_configs(std::slice::from_ref(&topic)).await.unwrap();
    let entries = described[&topic].as_ref().unwrap();
    let source = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap().source;
    assert_eq!(
        (source("segment.bytes"), source("retention.ms")),
        (ConfigSource::Topic, ConfigSource::Default)
    );
}

async fn records_are_deleted_and_offsets_listed(_: &Cluster, client: &Client) {
    let (admin, partition) = (Admin::new(client), TopicPartition::new("trimmed", 0));
    fill(client, &partition, 10).await;
    let deleted = admin.delete_records(&[(partition.clone(), 4)]).await.unwrap();
    assert_eq!(deleted[&partition], Ok(4));
    for (spec, offset) in [
        (OffsetSpec::Earliest, Some(4)),
        (OffsetSpec::Latest, Some(10)),
        (OffsetSpec::MaxTimestamp, Some(9)),
        (OffsetSpec::Timestamp(1007), Some(7)),
        (OffsetSpec::Timestamp(9999), None),
    ] {
        let found = admin.list_offsets(&[(partition.clone(), spec)]).await.unwrap();
        assert_eq!(found[&partition].as_ref().unwrap().map(|found| found.offset), offset, "{spec:?}");
    }
}

async fn groups_are_listed_described_and_their_offsets_altered(_: &Cluster, client: &Client) {
    let (admin, partition) = (Admin::new(client), TopicPartition::new("listed-group", 0));
    admin.create_topic(&NewTopic::new("listed-group", 1)).await.unwrap();
    let consumer = Consumer::new(client, ConsumerConfig::group("admin-group").auto_commit(None)).unwrap();
    consumer.subscribe(["listed-group"]).unwrap();
    let started = Instant::now();
    while consumer.assignment().is_empty() {
        assert!(started.elapsed() < PATIENCE);
        consumer.poll(Duration::from_millis(20)).await.unwrap();
    }
    let listed = admin.list_groups().await.unwrap();
    let ours = listed.iter().find(|group| group.group_id == "admin-group").unwrap();
    assert_eq!(ours.protocol_type, "consumer");
    let described = admin.describe_groups(&["admin-group", "none"]).await.unwrap();
    let group = described["admin-group"].as_ref().unwrap();
    assert_eq!((group.state.as_str(), group.protocol.as_str()), ("Stable", "range"));
    assert_eq!(group.members[0].assignment, [partition.clone()]);
    assert_eq!(described["none"].as_ref().unwrap_err().code(), Some(ErrorCode::GroupIdNotFound));
    let busy = admin.delete_groups(&["admin-group"]).await.unwrap();
    assert_eq!(busy["admin-group"].as_ref().unwrap_err().code(), Some(ErrorCode::NonEmptyGroup));
    consumer.close().await.unwrap();
    let offset = OffsetAndMetadata::new(7).metadata("by hand");
    let altered =
        admin.alter_group_offsets("admin-group", &[(partition.clone(), offset.clone())]).await.unwrap();
    assert_eq!(altered[&partition], Ok(()));
    assert_eq!(admin.group_offsets("admin-group").await.unwrap()[&partition], offset);
    let deleted = admin.delete_group_offsets("admin-group", std::slice::from_ref(&partition)).await.unwrap();
    assert_eq!(deleted[&partition], Ok(()));
    assert!(admin.group_offsets("admin-group").await.unwrap().is_empty());
    admin.alter_group_offsets("admin-group", &[(partition, offset)]).await.unwrap();
    assert_eq!(admin.delete_groups(&["admin-group"]).await.unwrap()["admin-group"], Ok(()));
    assert!(admin.list_groups().await.unwrap().iter().all(|group| group.group_id != "admin-group"));
}

async fn cluster_and_log_directories_are_described(_: &Cluster, client: &Client) {
    let (admin, partition) = (Admin::new(client), TopicPartition::new("sized", 0));
    fill(client, &partition, 10).await;
    let cluster = admin.describe_cluster().await.unwrap();
    assert_eq!(cluster.nodes.len(), 1);
    assert!(cluster.cluster_id.is_some());
    let dirs = admin.describe_log_dirs().await.unwrap();
    let (_, size) = dirs[0].partitions.iter().find(|(name, _)| *name == partition).unwrap();
    assert!(size.bytes > 100, "{size:?}");
}
