//! What is asked of a cluster, as one healthy node of Apache Kafka 4.3.1 answers it.

use crate::client::{Client, Running};
use kappa_protocol::ErrorCode::{
    self, BrokerIdNotRegistered, ElectionNotNeeded, InvalidReplicaAssignment, InvalidRequest,
    InvalidUpdateVersion, LogDirNotFound, NoReassignmentInProgress, None as NoError, UnknownTopicOrPartition,
};
use kappa_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kappa_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kappa_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kappa_protocol::messages::elect_leaders_request::TopicPartitions;
use kappa_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kappa_protocol::messages::update_features_request::FeatureUpdateKey;
use kappa_protocol::messages::*;
use tempfile::tempdir;

/// Runs a test against a broker that has the topic `t` with two partitions.
fn with_topic(test: impl FnOnce(&mut Client)) {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("t", 2);
    test(&mut client);
    running.stop();
}

type Elected = Vec<(String, Vec<(i32, ErrorCode)>)>;

fn elect(client: &mut Client, version: i16, kind: i8, wanted: Option<&[(&str, &[i32])]>) -> (i16, Elected) {
    let topic = |(topic, partitions): &(&str, &[i32])| TopicPartitions {
        topic: (*topic).into(),
        partitions: partitions.to_vec(),
    };
    let request = ElectLeadersRequest {
        election_type: kind,
        topic_partitions: wanted.map(|wanted| wanted.iter().map(topic).collect()),
        ..Default::default()
    };
    let response = client.call(version, request);
    let elected = response.replica_election_results.into_iter().map(|topic| {
        let partition = |partition: &elect_leaders_response::PartitionResult| {
            assert!(partition.error_message.as_deref().is_some_and(|message| !message.is_empty()));
            (partition.partition_id, partition.error_code.into())
        };
        (topic.topic, topic.partition_result.iter().map(partition).collect())
    });
    (response.error_code, elected.collect())
}

#[test]
fn no_election_is_needed_where_every_partition_is_led() {
    with_topic(|client| {
        let wanted: &[(&str, &[i32])] = &[("t", &[0, 5, -1]), ("nope", &[0]), ("t", &[1, 0])];
        let expected = [
            (
                "t".to_owned(),
                vec![
                    (0, ElectionNotNeeded),
                    (5, UnknownTopicOrPartition),
                    (-1, UnknownTopicOrPartition),
                    (1, ElectionNotNeeded),
                ],
            ),
            ("nope".to_owned(), vec![(0, UnknownTopicOrPartition)]),
        ];
        for (version, kind) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)] {
            assert_eq!(elect(client, version, kind, Some(wanted)), (0, expected.to_vec()));
            let (error, all) = elect(client, version, kind, None);
            assert!(error == 0 && all.contains(&("t".to_owned(), Vec::new())), "{all:?}");
            assert!(all.iter().all(|(_, partitions)| partitions.is_empty()), "{all:?}");
        }
        let refused = vec![("t".to_owned(), vec![(0, InvalidRequest)])];
        assert_eq!(elect(client, 2, 7, Some(&[("t", &[0])])), (InvalidRequest as i16, refused));
        assert_eq!(elect(client, 2, 7, None), (InvalidRequest as i16, Vec::new()));
    });
}

#[test]
fn no_reassignment_is_ever_under_way() {
    with_topic(|client| {
        let topic = |name: &str| ListPartitionReassignmentsTopics {
            name: name.into(),
            partition_indexes: vec![0, 9],
        };
        for topics in [None, Some(Vec::new()), Some(vec![topic("t"), topic("nope")])] {
            let request = ListPartitionReassignmentsRequest { topics, ..Default::default() };
            let response = client.call(0, request);
            assert_eq!((response.error_code, response.error_message, response.topics), (0, None, Vec::new()));
        }
    });
}

#[test]
fn a_partition_may_stay_where_it_is_and_go_nowhere_else() {
    with_topic(|client| {
        let this = client.call(0, DescribeClusterRequest::default()).controller_id;
        let cases: &[(&str, i32, Option<&[i32]>, ErrorCode)] = &[
            ("t", 0, Some(&[this]), NoError),
            ("t", 1, Some(&[this]), NoError),
            ("t", 0, Some(&[this + 1]), InvalidReplicaAssignment),
            ("t", 0, Some(&[this, this + 1]), InvalidReplicaAssignment),
            ("t", 0, Some(&[this, this]), InvalidReplicaAssignment),
            ("t", 0, Some(&[-1]), InvalidReplicaAssignment),
            ("t", 0, Some(&[]), InvalidReplicaAssignment),
            ("t", 0, None, NoReassignmentInProgress),
            ("t", 2, Some(&[this]), UnknownTopicOrPartition),
            ("t", -1, None, UnknownTopicOrPartition),
            ("nope", 0, Some(&[this]), UnknownTopicOrPartition),
            ("nope", 0, None, UnknownTopicOrPartition),
        ];
        let topic = |(name, index, replicas, _): &(&str, i32, Option<&[i32]>, _)| ReassignableTopic {
            name: (*name).into(),
            partitions: vec![ReassignablePartition {
                partition_index: *index,
                replicas: replicas.map(<[i32]>::to_vec),
            }],
        };
        for (version, allow) in [(0, true), (1, true), (1, false)] {
            let request = AlterPartitionReassignmentsRequest {
                allow_replication_factor_change: allow,
                topics: cases.iter().map(topic).collect(),
                ..Default::default()
            };
            let response = client.call(version, request);
            assert_eq!((response.error_code, response.error_message), (0, None));
            assert_eq!(response.allow_replication_factor_change, allow);
            assert_eq!(response.responses.len(), cases.len());
            for (case, answer) in cases.iter().zip(&response.responses) {
                let [partition] = answer.partitions.as_slice() else { panic!("{answer:?}") };
                assert_eq!((answer.name.as_str(), partition.partition_index), (case.0, case.1));
                assert_eq!(ErrorCode::from(partition.error_code), case.3, "{case:?}");
                assert_eq!(partition.error_message.is_some(), case.3 != NoError, "{case:?}");
            }
        }
    });
}

#[test]
fn a_replica_may_stay_in_the_data_directory_and_there_is_no_other() {
    with_topic(|client| {
        let home = client.call(4, DescribeLogDirsRequest { topics: None }).results.remove(0).log_dir;
        let move_to = |client: &mut Client, version, wanted: &[(&str, &str, &[i32])]| {
            let dir = |(path, name, partitions): &(&str, &str, &[i32])| AlterReplicaLogDir {
                path: (*path).into(),
                topics: vec![AlterReplicaLogDirTopic {
                    name: (*name).into(),
                    partitions: partitions.to_vec(),
                }],
            };
            let request = AlterReplicaLogDirsRequest { dirs: wanted.iter().map(dir).collect() };
            let topics = client.call(version, request).results.into_iter();
            let codes = topics.map(|topic| {
                let codes = topic.partitions.iter().map(|p| (p.partition_index, p.error_code.into()));
                (topic.topic_name, codes.collect())
            });
            codes.collect::<Vec<(String, Vec<(i32, ErrorCode)>)>>()
        };
        for version in [1, 2] {
            let stays = move_to(client, version, &[(&home, "t", &[0, 1, 2, -1]), (&home, "nope", &[0])]);
            let unknown = UnknownTopicOrPartition;
            let codes = vec![(-1, unknown), (0, NoError), (1, NoError), (2, unknown)];
            assert_eq!(stays, [("t".into(), codes), ("nope".into(), vec![(0, unknown)])]);
            for path in ["/nowhere", "", "relative", &format!("{home}/"), &format!("{home}/.")] {
                let goes = move_to(client, version, &[(path, "t", &[0, 9]), (path, "nope", &[0])]);
                let codes = vec![(0, LogDirNotFound), (9, LogDirNotFound)];
                assert_eq!(goes, [("t".into(), codes), ("nope".into(), vec![(0, LogDirNotFound)])]);
            }
            let both = move_to(client, version, &[(&home, "t", &[0, 1]), ("/nowhere", "t", &[1])]);
            assert_eq!(both, [("t".into(), vec![(0, NoError), (1, LogDirNotFound)])]);
            let back = move_to(client, version, &[("/nowhere", "t", &[1]), (&home, "t", &[1])]);
            assert_eq!(back, [("t".into(), vec![(1, NoError)])]);
            assert_eq!(move_to(client, version, &[(&home, "t", &[])]), []);
        }
    });
}

#[test]
fn the_quorum_is_one_voter_that_leads_the_catalog() {
    with_topic(|client| {
        let describe = |client: &mut Client, version, wanted: &[(&str, &[i32])]| {
            let partition = |index: &i32| PartitionData { partition_index: *index };
            let topic = |(name, partitions): &(&str, &[i32])| TopicData {
                topic_name: (*name).into(),
                partitions: partitions.iter().map(partition).collect(),
            };
            let topics = wanted.iter().map(topic).collect();
            let response = client.call(version, DescribeQuorumRequest { topics });
            assert_eq!(response.error_code, 0);
            response
        };
        let cluster = client.call(0, DescribeClusterRequest::default());
        let (this, broker) = (cluster.controller_id, &cluster.brokers[0]);
        let metadata: &[(&str, &[i32])] = &[("__cluster_metadata", &[0])];
        let mut high_watermark = 0;
        for version in [0, 1, 2] {
            client.create_topic(&format!("of-version-{version}"), 1);
            let mut response = describe(client, version, metadata);
            assert_eq!(response.topics[0].topic_name, "__cluster_metadata");
            let quorum = response.topics.remove(0).partitions.remove(0);
            assert_eq!((quorum.error_code, quorum.partition_index, quorum.leader_id), (0, 0, this));
            assert!(quorum.leader_epoch >= 0 && quorum.observers.is_empty());
            assert!(quorum.high_watermark > high_watermark, "each creation is a record");
            high_watermark = quorum.high_watermark;
            let [voter] = quorum.current_voters.as_slice() else { panic!("{quorum:?}") };
            assert_eq!((voter.replica_id, voter.log_end_offset), (this, high_watermark));
            assert_eq!(voter.last_caught_up_timestamp > 0, version >= 1);
            let nodes = response.nodes.iter().flat_map(|node| &node.listeners);
            let found: Vec<(&str, i32)> = nodes.map(|at| (at.host.as_str(), i32::from(at.port))).collect();
            let expected = [(broker.host.as_str(), broker.port)];
            assert_eq!(found, if version >= 2 { expected.as_slice() } else { &[] });
        }
        let refused: &[&[(&str, &[i32])]] = &[
            &[("t", &[0, 1])],
            &[("__kappa_catalog", &[0])],
            &[("__cluster_metadata", &[1])],
            &[("__cluster_metadata", &[0, 0])],
            &[("__cluster_metadata", &[0]), ("t", &[0])],
        ];
        for wanted in refused {
            let response = describe(client, 2, wanted);
            assert_eq!((response.topics.len(), response.nodes.len()), (wanted.len(), 0));
            for (topic, (name, partitions)) in response.topics.iter().zip(*wanted) {
                let codes = topic.partitions.iter().map(|p| (p.partition_index, p.error_code.into()));
                let expected = partitions.iter().map(|index| (*index, UnknownTopicOrPartition));
                assert_eq!(topic.topic_name, *name);
                assert_eq!(codes.collect::<Vec<(i32, ErrorCode)>>(), expected.collect::<Vec<_>>());
            }
        }
        assert!(describe(client, 2, &[]).topics.is_empty());
        assert!(describe(client, 2, &[("__cluster_metadata", &[])]).topics[0].partitions.is_empty());
    });
}

#[test]
fn features_stay_at_the_levels_that_are_advertised() {
    with_topic(|client| {
        let advertised =
            ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
        let finalized = client.call(4, advertised).finalized_features;
        let update = |feature: &str, max_version_level| FeatureUpdateKey {
            feature: feature.into(),
            max_version_level,
            ..Default::default()
        };
        let stay: Vec<FeatureUpdateKey> =
            finalized.iter().map(|feature| update(&feature.name, feature.max_version_level)).collect();
        for version in [0, 1, 2] {
            let set = |client: &mut Client, feature_updates: Vec<FeatureUpdateKey>| {
                client.call(version, UpdateFeaturesRequest { feature_updates, ..Default::default() })
            };
            let response = set(client, stay.clone());
            assert_eq!((response.error_code, response.error_message), (0, None));
            assert_eq!(response.results.len(), if version < 2 { stay.len() } else { 0 });
            let changes =
                finalized.iter().map(|feature| update(&feature.name, feature.max_version_level - 1));
            let refused = ["metadata.version", "nope", ""].map(|unknown| update(unknown, 1));
            for change in changes.chain(refused) {
                let response = set(client, stay.iter().cloned().chain([change]).collect());
                assert_eq!(ErrorCode::from(response.error_code), InvalidUpdateVersion);
                assert!(response.error_message.is_some() && response.results.is_empty());
            }
        }
    });
}

#[test]
fn the_only_broker_cannot_be_unregistered() {
    with_topic(|client| {
        let this = client.call(0, DescribeClusterRequest::default()).controller_id;
        for (broker_id, expected) in
            [(this, InvalidRequest), (this + 1, BrokerIdNotRegistered), (-1, BrokerIdNotRegistered)]
        {
            let response = client.call(0, UnregisterBrokerRequest { broker_id });
            assert_eq!(ErrorCode::from(response.error_code), expected, "{broker_id}");
            assert!(response.error_message.is_some());
        }
        assert_eq!(client.call(0, DescribeClusterRequest::default()).brokers.len(), 1);
    });
}
