//! Every version of every API that the broker advertises is answered, with live topics, records and groups.
//!
//! A field that a version lacks must be neither expected in the request nor set in the answer; clients of all ages ask.

use crate::harness::daemon::Daemon;
use crate::harness::requests::{self, batch, create_topic, produce};
use crate::harness::wait_until;
use crate::harness::wire::Wire;
use kappa_protocol::record::Compression;
use kappa_protocol::{ApiKey, ErrorCode, Request, Response, messages as m};
use uuid::Uuid;

const TOPIC: &str = "versions";
const GROUP: &str = "group-of-versions";

/// What a request of a version is made from.
struct Ask {
    version: i16,
    topic_id: Uuid,
    /// A name that no other request uses.
    fresh: String,
}

#[test]
fn every_advertised_version_of_every_api_is_answered() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, TOPIC, 1, &[]);
    wire.ask(requests::PRODUCE, produce(TOPIC, 0, batch(["a", "b"], Compression::None, None))).unwrap();
    wait_until("a coordinator is found", || {
        let request = m::FindCoordinatorRequest { key: GROUP.into(), ..Default::default() };
        wire.ask(3, request).unwrap().error_code == 0
    });
    let topic_id = wire.ask(12, metadata(12, Uuid::nil())).unwrap().topics[0].topic_id;
    let advertised = wire.ask(0, m::ApiVersionsRequest::default()).unwrap().api_keys;
    assert!(advertised.len() >= 36, "{} APIs", advertised.len());

    let mut offences = Vec::new();
    for api in &advertised {
        let key = ApiKey::from_i16(api.api_key).expect("an API of the schema");
        // Produce is advertised from 0 for old clients only: such requests close the connection.
        let oldest = if key == ApiKey::Produce { 3 } else { api.min_version };
        for version in oldest..=api.max_version {
            let ask = Ask { version, topic_id, fresh: format!("fresh-{key}-{version}") };
            if let Err(offence) = asked(&mut wire, key, &ask) {
                offences.push(format!("{key} v{version}: {offence}"));
                wire = Wire::connect(daemon.address()).unwrap();
            }
        }
    }
    assert!(offences.is_empty(), "{}\n{}", offences.join("\n"), daemon.errors());
    assert!(daemon.stop().success());
}

fn asked(wire: &mut Wire, key: ApiKey, ask: &Ask) -> Result<(), String> {
    wire.send(ask.version, request(key, ask)).map_err(|error| error.to_string())?;
    let response = wire.receive().map_err(|error| error.to_string())?;
    let unexpected: Vec<String> = error_codes(&response)
        .into_iter()
        .filter(|code| *code != ErrorCode::None && *code != expected_error(key))
        .map(|code| code.to_string())
        .collect();
    if unexpected.is_empty() { Ok(()) } else { Err(unexpected.join(", ")) }
}

/// What the broker must say to a member that it has never seen, and where nothing is to be done.
fn expected_error(key: ApiKey) -> ErrorCode {
    match key {
        ApiKey::JoinGroup => ErrorCode::MemberIdRequired,
        ApiKey::Heartbeat | ApiKey::SyncGroup | ApiKey::LeaveGroup => ErrorCode::UnknownMemberId,
        ApiKey::ElectLeaders => ErrorCode::ElectionNotNeeded,
        ApiKey::AlterReplicaLogDirs => ErrorCode::LogDirNotFound,
        ApiKey::UnregisterBroker => ErrorCode::BrokerIdNotRegistered,
        ApiKey::AlterPartitionReassignments => ErrorCode::NoReassignmentInProgress,
        _ => ErrorCode::None,
    }
}

/// Every `error_code` of an answer, wherever it stands.
fn error_codes(response: &Response) -> Vec<ErrorCode> {
    let text = format!("{response:?}");
    text.split("error_code: ")
        .skip(1)
        .map(|after| after.split(|c: char| c != '-' && !c.is_ascii_digit()).next().unwrap_or_default())
        .map(|number| ErrorCode::from(number.parse::<i16>().expect("a code is a number")))
        .collect()
}

fn request(key: ApiKey, ask: &Ask) -> Request {
    match key {
        ApiKey::Produce
        | ApiKey::Fetch
        | ApiKey::ListOffsets
        | ApiKey::OffsetForLeaderEpoch
        | ApiKey::DeleteRecords => of_records(key, ask),
        ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::OffsetDelete
        | ApiKey::FindCoordinator
        | ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups
        | ApiKey::DeleteGroups => of_groups(key, ask),
        ApiKey::CreateTopics | ApiKey::DeleteTopics | ApiKey::CreatePartitions => of_topics(key, ask),
        ApiKey::DescribeConfigs
        | ApiKey::AlterConfigs
        | ApiKey::IncrementalAlterConfigs
        | ApiKey::ListConfigResources => of_configs(key, ask),
        ApiKey::Metadata => metadata(ask.version, ask.topic_id).into(),
        ApiKey::ApiVersions => m::ApiVersionsRequest {
            client_software_name: text_since(ask, 3, "versions"),
            client_software_version: text_since(ask, 3, "1"),
        }
        .into(),
        ApiKey::InitProducerId => m::InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        }
        .into(),
        ApiKey::DescribeLogDirs => m::DescribeLogDirsRequest { topics: None }.into(),
        ApiKey::DescribeCluster => m::DescribeClusterRequest::default().into(),
        ApiKey::DescribeTopicPartitions => m::DescribeTopicPartitionsRequest {
            topics: vec![m::describe_topic_partitions_request::TopicRequest { name: TOPIC.into() }],
            response_partition_limit: 10,
            ..Default::default()
        }
        .into(),
        ApiKey::ElectLeaders
        | ApiKey::AlterPartitionReassignments
        | ApiKey::ListPartitionReassignments
        | ApiKey::AlterReplicaLogDirs
        | ApiKey::DescribeQuorum
        | ApiKey::UpdateFeatures
        | ApiKey::UnregisterBroker => of_the_cluster(key),
        other => panic!("{other} is advertised, but this test does not ask it"),
    }
}

/// `text` in versions that can carry it.
fn text_since(ask: &Ask, version: i16, text: &str) -> String {
    if ask.version >= version { text.into() } else { String::new() }
}

/// By name, or by id where a version knows topics by id only.
fn named(ask: &Ask, by_id_since: i16) -> (String, Uuid) {
    if ask.version >= by_id_since { (String::new(), ask.topic_id) } else { (TOPIC.into(), Uuid::nil()) }
}

fn metadata(version: i16, topic_id: Uuid) -> m::MetadataRequest {
    let by_id = version >= 12 && !topic_id.is_nil();
    m::MetadataRequest {
        topics: Some(vec![m::metadata_request::MetadataRequestTopic {
            topic_id: if by_id { topic_id } else { Uuid::nil() },
            name: (!by_id).then(|| TOPIC.into()),
        }]),
        ..Default::default()
    }
}

fn of_records(key: ApiKey, ask: &Ask) -> Request {
    match key {
        ApiKey::Produce => {
            let mut request = produce(TOPIC, 0, batch(["c"], Compression::None, None));
            (request.topic_data[0].name, request.topic_data[0].topic_id) = named(ask, 13);
            request.into()
        }
        ApiKey::Fetch => {
            let mut request = requests::fetch(TOPIC, 0, 0, 0);
            (request.topics[0].topic, request.topics[0].topic_id) = named(ask, 13);
            if ask.version < 7 {
                request.session_epoch = m::FetchRequest::default().session_epoch;
            }
            if ask.version >= 15 {
                request.replica_id = m::FetchRequest::default().replica_id;
            }
            request.into()
        }
        ApiKey::ListOffsets => m::ListOffsetsRequest {
            replica_id: -1,
            topics: vec![m::list_offsets_request::ListOffsetsTopic {
                name: TOPIC.into(),
                partitions: vec![m::list_offsets_request::ListOffsetsPartition {
                    partition_index: 0,
                    current_leader_epoch: -1,
                    timestamp: -1,
                }],
            }],
            ..Default::default()
        }
        .into(),
        ApiKey::OffsetForLeaderEpoch => m::OffsetForLeaderEpochRequest {
            replica_id: m::OffsetForLeaderEpochRequest::default().replica_id,
            topics: vec![m::offset_for_leader_epoch_request::OffsetForLeaderTopic {
                topic: TOPIC.into(),
                partitions: vec![m::offset_for_leader_epoch_request::OffsetForLeaderPartition {
                    partition: 0,
                    current_leader_epoch: -1,
                    leader_epoch: 0,
                }],
            }],
        }
        .into(),
        _ => m::DeleteRecordsRequest {
            topics: vec![m::delete_records_request::DeleteRecordsTopic {
                name: TOPIC.into(),
                partitions: vec![m::delete_records_request::DeleteRecordsPartition {
                    partition_index: 0,
                    offset: 0,
                }],
            }],
            timeout_ms: 1_000,
        }
        .into(),
    }
}

fn of_groups(key: ApiKey, ask: &Ask) -> Request {
    let group_id = GROUP.to_owned();
    let stranger = "nobody".to_owned();
    match key {
        ApiKey::OffsetCommit => {
            let (name, topic_id) = named(ask, 10);
            m::OffsetCommitRequest {
                group_id,
                generation_id_or_member_epoch: -1,
                topics: vec![m::offset_commit_request::OffsetCommitRequestTopic {
                    name,
                    topic_id,
                    partitions: vec![m::offset_commit_request::OffsetCommitRequestPartition {
                        committed_offset: 1,
                        ..Default::default()
                    }],
                }],
                ..Default::default()
            }
            .into()
        }
        ApiKey::OffsetFetch => offset_fetch(ask).into(),
        ApiKey::OffsetDelete => m::OffsetDeleteRequest { group_id, topics: Vec::new() }.into(),
        ApiKey::FindCoordinator if ask.version >= 4 => {
            m::FindCoordinatorRequest { coordinator_keys: vec![group_id], ..Default::default() }.into()
        }
        ApiKey::FindCoordinator => m::FindCoordinatorRequest { key: group_id, ..Default::default() }.into(),
        ApiKey::JoinGroup => m::JoinGroupRequest {
            group_id: ask.fresh.clone(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if ask.version >= 1 { 10_000 } else { -1 },
            protocol_type: "consumer".into(),
            protocols: vec![m::join_group_request::JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: bytes::Bytes::from_static(&[0, 0]),
            }],
            ..Default::default()
        }
        .into(),
        ApiKey::SyncGroup => {
            let named = (ask.version >= 5).then_some(());
            m::SyncGroupRequest {
                group_id,
                member_id: stranger,
                protocol_type: named.map(|()| "consumer".into()),
                protocol_name: named.map(|()| "range".into()),
                ..Default::default()
            }
            .into()
        }
        ApiKey::Heartbeat => {
            m::HeartbeatRequest { group_id, member_id: stranger, ..Default::default() }.into()
        }
        ApiKey::LeaveGroup if ask.version >= 3 => m::LeaveGroupRequest {
            group_id,
            members: vec![m::leave_group_request::MemberIdentity {
                member_id: stranger,
                ..Default::default()
            }],
            ..Default::default()
        }
        .into(),
        ApiKey::LeaveGroup => {
            m::LeaveGroupRequest { group_id, member_id: stranger, ..Default::default() }.into()
        }
        ApiKey::DescribeGroups => {
            m::DescribeGroupsRequest { groups: vec![group_id], ..Default::default() }.into()
        }
        ApiKey::ListGroups => m::ListGroupsRequest::default().into(),
        _ => m::DeleteGroupsRequest { groups_names: Vec::new() }.into(),
    }
}

fn offset_fetch(ask: &Ask) -> m::OffsetFetchRequest {
    if ask.version < 8 {
        let topics = vec![m::offset_fetch_request::OffsetFetchRequestTopic {
            name: TOPIC.into(),
            partition_indexes: vec![0],
        }];
        return m::OffsetFetchRequest { group_id: GROUP.into(), topics: Some(topics), ..Default::default() };
    }
    let (name, topic_id) = named(ask, 10);
    let topics = vec![m::offset_fetch_request::OffsetFetchRequestTopics {
        name,
        topic_id,
        partition_indexes: vec![0],
    }];
    m::OffsetFetchRequest {
        groups: vec![m::offset_fetch_request::OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: Some(topics),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn of_topics(key: ApiKey, ask: &Ask) -> Request {
    match key {
        ApiKey::CreateTopics => {
            let mut request = requests::create_topics(&ask.fresh, 1, &[("retention.ms", "1000")]);
            request.topics[0].replication_factor = 1;
            request.into()
        }
        // Each version deletes what the CreateTopics of a version before created.
        ApiKey::DeleteTopics => {
            let name = format!("fresh-CreateTopics-{}", ask.version + 1);
            if ask.version >= 6 {
                let topic =
                    m::delete_topics_request::DeleteTopicState { name: Some(name), topic_id: Uuid::nil() };
                m::DeleteTopicsRequest { topics: vec![topic], timeout_ms: 1_000, ..Default::default() }.into()
            } else {
                m::DeleteTopicsRequest { topic_names: vec![name], timeout_ms: 1_000, ..Default::default() }
                    .into()
            }
        }
        _ => m::CreatePartitionsRequest {
            topics: vec![m::create_partitions_request::CreatePartitionsTopic {
                name: TOPIC.into(),
                count: 2 + i32::from(ask.version),
                assignments: None,
            }],
            timeout_ms: 1_000,
            validate_only: false,
        }
        .into(),
    }
}

fn of_configs(key: ApiKey, ask: &Ask) -> Request {
    const TOPIC_RESOURCE: i8 = 2;
    let (resource_type, resource_name) = (TOPIC_RESOURCE, TOPIC.to_owned());
    let (name, value) = ("retention.ms".to_owned(), Some("1000000000".to_owned()));
    match key {
        ApiKey::DescribeConfigs => m::DescribeConfigsRequest {
            resources: vec![m::describe_configs_request::DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            }],
            include_synonyms: true,
            include_documentation: ask.version >= 3,
        }
        .into(),
        ApiKey::AlterConfigs => m::AlterConfigsRequest {
            resources: vec![m::alter_configs_request::AlterConfigsResource {
                resource_type,
                resource_name,
                configs: vec![m::alter_configs_request::AlterableConfig { name, value }],
            }],
            validate_only: false,
        }
        .into(),
        ApiKey::IncrementalAlterConfigs => m::IncrementalAlterConfigsRequest {
            resources: vec![m::incremental_alter_configs_request::AlterConfigsResource {
                resource_type,
                resource_name,
                configs: vec![m::incremental_alter_configs_request::AlterableConfig {
                    name,
                    config_operation: 0,
                    value,
                }],
            }],
            validate_only: false,
        }
        .into(),
        _ => m::ListConfigResourcesRequest {
            resource_types: if ask.version >= 1 { vec![TOPIC_RESOURCE] } else { Vec::new() },
        }
        .into(),
    }
}

fn of_the_cluster(key: ApiKey) -> Request {
    match key {
        ApiKey::ElectLeaders => m::ElectLeadersRequest {
            topic_partitions: Some(vec![m::elect_leaders_request::TopicPartitions {
                topic: TOPIC.into(),
                partitions: vec![0],
            }]),
            ..Default::default()
        }
        .into(),
        ApiKey::AlterPartitionReassignments => m::AlterPartitionReassignmentsRequest {
            topics: vec![m::alter_partition_reassignments_request::ReassignableTopic {
                name: TOPIC.into(),
                partitions: vec![m::alter_partition_reassignments_request::ReassignablePartition::default()],
            }],
            ..Default::default()
        }
        .into(),
        ApiKey::AlterReplicaLogDirs => m::AlterReplicaLogDirsRequest {
            dirs: vec![m::alter_replica_log_dirs_request::AlterReplicaLogDir {
                path: "/nowhere".into(),
                topics: vec![m::alter_replica_log_dirs_request::AlterReplicaLogDirTopic {
                    name: TOPIC.into(),
                    partitions: vec![0],
                }],
            }],
        }
        .into(),
        ApiKey::DescribeQuorum => m::DescribeQuorumRequest {
            topics: vec![m::describe_quorum_request::TopicData {
                topic_name: "__cluster_metadata".into(),
                partitions: vec![m::describe_quorum_request::PartitionData { partition_index: 0 }],
            }],
        }
        .into(),
        ApiKey::UpdateFeatures => m::UpdateFeaturesRequest::default().into(),
        ApiKey::UnregisterBroker => m::UnregisterBrokerRequest { broker_id: i32::MAX }.into(),
        _ => m::ListPartitionReassignmentsRequest::default().into(),
    }
}
