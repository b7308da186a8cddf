//! Order on one connection: what is sent back to back ends as if each answer had been waited for.

use crate::client::{Client, Running, batch, fetch, fetched, produce};
use kappa_broker::BrokerConfig;
use kappa_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kappa_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kappa_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kappa_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kappa_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kappa_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kappa_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kappa_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kappa_protocol::messages::*;
use kappa_protocol::{Request, Response, frame};
use std::io::Write;
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Every write is tried so often, each time with another read right behind it.
const TRIALS: usize = 20;

type Asked = (i16, Request);

/// Names that no other trial uses, of a topic with three records and a group that committed offset 1 of it.
struct World {
    mark: String,
    topic: String,
    group: String,
}

impl World {
    fn new(client: &mut Client, mark: String) -> World {
        let world = World { topic: format!("topic-{mark}"), group: format!("group-{mark}"), mark };
        client.create_topic(&world.topic, 1);
        client.produce(&world.topic, 0, &["a", "b"]);
        // The last record alone has the greatest timestamp, until another is written.
        std::thread::sleep(Duration::from_millis(2));
        client.produce(&world.topic, 0, &["c"]);
        std::thread::sleep(Duration::from_millis(2));
        let committed = client.call(7, world.commit(1));
        assert_eq!(committed.topics[0].partitions[0].error_code, 0);
        world
    }

    fn commit(&self, offset: i64) -> OffsetCommitRequest {
        let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: self.topic.clone(),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn writes(&self) -> Vec<Asked> {
        let topic = self.topic.clone();
        let records = DeleteRecordsPartition { partition_index: 0, offset: 2 };
        let records = DeleteRecordsTopic { name: topic.clone(), partitions: vec![records] };
        let new = CreatableTopic {
            name: format!("new-{}", self.mark),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let grown = CreatePartitionsTopic { name: topic.clone(), count: 3, assignments: None };
        let offset = OffsetDeleteRequestTopic {
            name: topic.clone(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        };
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into() };
        vec![
            (9, produce(&topic, 0, -1, batch(&["d"])).into()),
            (9, produce(&topic, 0, 1, batch(&["d"])).into()),
            (7, self.commit(7).into()),
            (2, DeleteRecordsRequest { topics: vec![records], timeout_ms: 5000 }.into()),
            (7, CreateTopicsRequest { topics: vec![new], ..Default::default() }.into()),
            (5, DeleteTopicsRequest { topic_names: vec![topic.clone()], ..Default::default() }.into()),
            (3, CreatePartitionsRequest { topics: vec![grown], ..Default::default() }.into()),
            (1, self.alter_incrementally()),
            (2, self.alter()),
            (2, DeleteGroupsRequest { groups_names: vec![self.group.clone()] }.into()),
            (0, OffsetDeleteRequest { group_id: self.group.clone(), topics: vec![offset] }.into()),
            (
                2,
                JoinGroupRequest {
                    group_id: self.group.clone(),
                    session_timeout_ms: 10_000,
                    rebalance_timeout_ms: 10_000,
                    protocol_type: "consumer".into(),
                    protocols: vec![protocol],
                    ..Default::default()
                }
                .into(),
            ),
        ]
    }

    fn alter_incrementally(&self) -> Request {
        use kappa_protocol::messages::incremental_alter_configs_request::*;
        let config = AlterableConfig {
            name: "retention.ms".into(),
            config_operation: 0,
            value: Some("1234567".into()),
        };
        let resource = AlterConfigsResource {
            resource_type: 2,
            resource_name: self.topic.clone(),
            configs: vec![config],
        };
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }.into()
    }

    fn alter(&self) -> Request {
        use kappa_protocol::messages::alter_configs_request::*;
        let config = AlterableConfig { name: "retention.ms".into(), value: Some("7654321".into()) };
        let resource = AlterConfigsResource {
            resource_type: 2,
            resource_name: self.topic.clone(),
            configs: vec![config],
        };
        AlterConfigsRequest { resources: vec![resource], validate_only: false }.into()
    }

    fn reads(&self) -> Vec<Asked> {
        let (topic, group) = (self.topic.clone(), self.group.clone());
        let offsets = |timestamp| {
            let partition =
                ListOffsetsPartition { timestamp, current_leader_epoch: -1, ..Default::default() };
            let topic = ListOffsetsTopic { name: topic.clone(), partitions: vec![partition] };
            let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
            (7, request.into())
        };
        let committed = OffsetFetchRequestTopic { name: topic.clone(), partition_indexes: vec![0] };
        let named = |name| MetadataRequestTopic { name: Some(name), ..Default::default() };
        let named = vec![named(topic.clone()), named(format!("new-{}", self.mark))];
        let config = DescribeConfigsResource {
            resource_type: 2,
            resource_name: topic.clone(),
            configuration_keys: Some(vec!["retention.ms".into()]),
        };
        let dirs = DescribableLogDirTopic { topic: topic.clone(), partitions: vec![0, 1] };
        let epoch = OffsetForLeaderPartition { current_leader_epoch: -1, ..Default::default() };
        let epoch = OffsetForLeaderTopic { topic: topic.clone(), partitions: vec![epoch] };
        vec![
            (11, fetch(&topic, 0, 0, 0).into()),
            offsets(-2),
            offsets(-1),
            offsets(-3),
            offsets(0),
            (
                7,
                OffsetFetchRequest {
                    group_id: group.clone(),
                    topics: Some(vec![committed]),
                    ..Default::default()
                }
                .into(),
            ),
            (7, OffsetFetchRequest { group_id: group.clone(), topics: None, ..Default::default() }.into()),
            (9, existing(named).into()),
            (9, MetadataRequest { topics: None, ..Default::default() }.into()),
            (5, DescribeGroupsRequest { groups: vec![group], ..Default::default() }.into()),
            (4, ListGroupsRequest::default().into()),
            (4, DescribeConfigsRequest { resources: vec![config], ..Default::default() }.into()),
            (4, DescribeLogDirsRequest { topics: Some(vec![dirs]) }.into()),
            (
                0,
                DescribeTopicPartitionsRequest {
                    topics: vec![TopicRequest { name: topic.clone() }],
                    response_partition_limit: 10,
                    cursor: None,
                }
                .into(),
            ),
            (4, OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![epoch] }.into()),
        ]
    }

    /// What an answer says, but for what differs from world to world.
    fn seen(&self, response: Response) -> String {
        let text = match response {
            Response::Fetch(response) => {
                let data = &response.responses[0].partitions[0];
                format!("fetch {} {} {}", data.error_code, data.high_watermark, fetched(&response))
            }
            Response::ListOffsets(response) => {
                let partition = &response.topics[0].partitions[0];
                format!("list {} {}", partition.error_code, partition.offset)
            }
            Response::Metadata(mut response) => {
                response.topics.retain(|topic| topic.name.as_ref().is_some_and(|n| n.ends_with(&self.mark)));
                format!("{:?}", response.topics)
            }
            Response::ListGroups(mut response) => {
                response.groups.retain(|group| group.group_id == self.group);
                format!("{:?}", response.groups)
            }
            Response::DescribeLogDirs(response) => format!("{:?}", response.results[0].topics),
            other => format!("{other:?}"),
        };
        without_ids(&text.replace(&self.mark, "#"))
    }
}

/// Asks for topics without making any.
fn existing(topics: Vec<MetadataRequestTopic>) -> MetadataRequest {
    MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false, ..Default::default() }
}

/// Ids are made up anew in every world.
fn without_ids(text: &str) -> String {
    let is_id =
        |word: &str| !word.starts_with('-') && word.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        match rest.get(..36) {
            Some(word) if is_id(word) => {
                out.push_str("ID");
                rest = &rest[36..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

fn encoded((version, request): &Asked) -> Vec<u8> {
    frame::encode_request(1, Some("test"), *version, request).unwrap().concat()
}

fn answer(client: &mut Client, (version, request): &Asked) -> Response {
    let bytes = client.frame().expect("the connection is open");
    frame::decode_response(request.api_key(), *version, bytes).unwrap().1
}

fn broker(dir: &std::path::Path) -> Running {
    let config = BrokerConfig::new(dir).with("group.initial.rebalance.delay.ms", "0").unwrap();
    let running = Running::with(config);
    find_coordinator(&mut running.client());
    running
}

fn find_coordinator(client: &mut Client) {
    let found = client.call(3, FindCoordinatorRequest { key: "g".into(), ..Default::default() });
    assert_eq!(found.error_code, 0);
}

#[test]
fn whatever_reads_sees_what_was_written_by_the_request_before_it() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    let mut wrong = Vec::new();
    let probe = World { mark: String::new(), topic: "t".into(), group: "g".into() };
    for write in 0..probe.writes().len() {
        let world = World::new(&mut client, format!("w{write:02}-waited"));
        let asked = &world.writes()[write];
        client.stream.write_all(&encoded(asked)).unwrap();
        answer(&mut client, asked);
        let mut expected = Vec::new();
        for read in world.reads() {
            client.stream.write_all(&encoded(&read)).unwrap();
            expected.push(world.seen(answer(&mut client, &read)));
        }
        for trial in 0..TRIALS {
            let world = World::new(&mut client, format!("w{write:02}-t{trial:02}"));
            let asked = &world.writes()[write];
            let mut reads: Vec<(usize, Asked)> = world.reads().into_iter().enumerate().collect();
            let first = trial % reads.len();
            reads.rotate_left(first);
            let mut bytes = encoded(asked);
            reads.iter().for_each(|(_, read)| bytes.extend(encoded(read)));
            client.stream.write_all(&bytes).unwrap();
            answer(&mut client, asked);
            for (index, read) in &reads {
                let seen = world.seen(answer(&mut client, read));
                if seen != expected[*index] {
                    wrong.push(format!(
                        "{:?} then {:?} #{index}, trial {trial}: {seen} is not {}",
                        asked.1.api_key(),
                        read.1.api_key(),
                        expected[*index]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, as:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    running.stop();
}

#[test]
fn what_is_written_behind_a_write_finds_it_done() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    for trial in 0..TRIALS {
        let world = World::new(&mut client, format!("{trial}"));
        let group = format!("fresh-{trial}");
        let commit = OffsetCommitRequest { group_id: group.clone(), ..world.commit(7) };
        client.send(7, commit);
        client.send(2, DeleteGroupsRequest { groups_names: vec![group] });
        let records = DeleteRecordsPartition { partition_index: 0, offset: 4 };
        let records = DeleteRecordsTopic { name: world.topic.clone(), partitions: vec![records] };
        client.send(9, produce(&world.topic, 0, -1, batch(&["d"])));
        client.send(2, DeleteRecordsRequest { topics: vec![records], timeout_ms: 5000 });
        let new = CreatableTopic {
            name: format!("new-{trial}"),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        client.send(7, CreateTopicsRequest { topics: vec![new], ..Default::default() });
        client.send(9, produce(&format!("new-{trial}"), 0, -1, batch(&["e"])));
        assert_eq!(client.receive::<OffsetCommitRequest>(7).1.topics[0].partitions[0].error_code, 0);
        assert_eq!(client.receive::<DeleteGroupsRequest>(2).1.results[0].error_code, 0);
        client.receive::<ProduceRequest>(9);
        assert_eq!(client.receive::<DeleteRecordsRequest>(2).1.topics[0].partitions[0].low_watermark, 4);
        client.receive::<CreateTopicsRequest>(7);
        assert_eq!(crate::client::error_of(&client.receive::<ProduceRequest>(9).1), 0);
    }
    running.stop();
}

#[test]
fn what_is_acknowledged_with_acks_1_is_seen_by_everybody() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let (mut client, mut other) = (running.client(), running.client());
    client.create_topic("lines", 1);
    for trial in 1..=TRIALS {
        let acknowledged = client.call(9, produce("lines", 0, 1, batch(&["a"])));
        assert_eq!(crate::client::error_of(&acknowledged), 0);
        let partition =
            ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
        let topic = ListOffsetsTopic { name: "lines".into(), partitions: vec![partition] };
        let latest = other.call(7, ListOffsetsRequest { topics: vec![topic], ..Default::default() });
        assert_eq!(latest.topics[0].partitions[0].offset, trial as i64);
    }
    running.stop();
}

#[test]
fn a_produce_behind_long_polls_is_carried_out_at_once_and_ends_them() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let started = Instant::now();
    client.send(11, fetch("lines", 0, 0, 15_000));
    client.send(11, fetch("lines", 0, 0, 15_000));
    client.send(9, produce("lines", 0, -1, batch(&["a"])));
    for _ in 0..2 {
        assert!(fetched(&client.receive::<FetchRequest>(11).1) > 0);
    }
    client.receive::<ProduceRequest>(9);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    running.stop();
}

#[test]
fn what_was_asked_before_the_client_hung_up_is_carried_out() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    for trial in 0..TRIALS {
        let world = World::new(&mut client, format!("{trial}"));
        let mut leaving = running.client();
        leaving.send(7, world.commit(9));
        let names = vec![world.topic.clone()];
        leaving.send(5, DeleteTopicsRequest { topic_names: names, ..Default::default() });
        leaving.stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(leaving);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let named = MetadataRequestTopic { name: Some(world.topic.clone()), ..Default::default() };
            let asked = existing(vec![named]);
            if client.call(9, asked).topics[0].error_code != 0 {
                break;
            }
            assert!(Instant::now() < deadline, "the topic was never deleted");
            std::thread::sleep(Duration::from_millis(2));
        }
        // The name is free: what was committed of the old topic is gone, what is committed of the new one stays.
        client.create_topic(&world.topic, 1);
        let all = OffsetFetchRequest { group_id: world.group.clone(), topics: None, ..Default::default() };
        assert_eq!(client.call(7, all.clone()).topics, Vec::new(), "trial {trial}");
        client.call(7, world.commit(5));
        assert_eq!(client.call(7, all).topics[0].partitions[0].committed_offset, 5);
    }
    running.stop();
}

#[test]
fn a_commit_to_a_topic_made_anew_outlives_the_late_answer_of_the_deletion() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    let world = World::new(&mut client, "late".into());
    client.create_topic("quiet", 1);
    let mut deleting = running.client();
    deleting.send(11, fetch("quiet", 0, 0, 3_000));
    let names = vec![world.topic.clone()];
    deleting.send(5, DeleteTopicsRequest { topic_names: names, ..Default::default() });
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let new = CreatableTopic {
            name: world.topic.clone(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let created = client.call(7, CreateTopicsRequest { topics: vec![new], ..Default::default() });
        if created.topics[0].error_code == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "a deletion does not wait for a long poll before it");
        std::thread::sleep(Duration::from_millis(5));
    }
    client.call(7, world.commit(5));
    deleting.receive::<FetchRequest>(11);
    deleting.receive::<DeleteTopicsRequest>(5);
    let all = OffsetFetchRequest { group_id: world.group.clone(), topics: None, ..Default::default() };
    assert_eq!(client.call(7, all).topics[0].partitions[0].committed_offset, 5);
    running.stop();
}

/// A member of a group of its own, joined and not yet synced.
struct Joined {
    group: String,
    generation: i32,
    member: String,
}

impl Joined {
    fn new(client: &mut Client, group: String) -> Joined {
        let mut member = String::new();
        loop {
            let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into() };
            let request = JoinGroupRequest {
                group_id: group.clone(),
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 10_000,
                member_id: member.clone(),
                protocol_type: "consumer".into(),
                protocols: vec![protocol],
                ..Default::default()
            };
            let joined = client.call(5, request);
            if joined.error_code == 0 {
                return Joined { group, generation: joined.generation_id, member: joined.member_id };
            }
            assert!(member.is_empty(), "error {}", joined.error_code);
            member = joined.member_id;
        }
    }

    fn sync(&self) -> SyncGroupRequest {
        let assignment =
            SyncGroupRequestAssignment { member_id: self.member.clone(), assignment: vec![7].into() };
        SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member.clone(),
            assignments: vec![assignment],
            ..Default::default()
        }
    }

    fn heartbeat(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member.clone(),
            ..Default::default()
        }
    }

    fn leave(&self) -> LeaveGroupRequest {
        LeaveGroupRequest {
            group_id: self.group.clone(),
            member_id: self.member.clone(),
            ..Default::default()
        }
    }

    fn describe(&self) -> DescribeGroupsRequest {
        DescribeGroupsRequest { groups: vec![self.group.clone()], ..Default::default() }
    }
}

#[test]
fn members_of_a_group_see_what_their_connection_did_before() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    for trial in 0..TRIALS {
        let joined = Joined::new(&mut client, format!("members-{trial}"));
        // All of it back to back: the group is stable once the leader synced, and empty once it left.
        client.send(3, joined.sync());
        client.send(5, joined.describe());
        client.send(3, joined.heartbeat());
        client.send(4, ListGroupsRequest { states_filter: vec!["Stable".into()], ..Default::default() });
        client.send(2, joined.leave());
        client.send(3, joined.heartbeat());
        client.send(5, joined.describe());
        client.send(2, DeleteGroupsRequest { groups_names: vec![joined.group.clone()] });
        client.send(4, ListGroupsRequest::default());
        let synced = client.receive::<SyncGroupRequest>(3).1;
        assert_eq!((synced.error_code, &*synced.assignment), (0, &[7][..]), "trial {trial}");
        let described = client.receive::<DescribeGroupsRequest>(5).1;
        assert_eq!(described.groups[0].group_state, "Stable", "trial {trial}");
        assert_eq!(&*described.groups[0].members[0].member_assignment, [7]);
        assert_eq!(client.receive::<HeartbeatRequest>(3).1.error_code, 0);
        let stable = client.receive::<ListGroupsRequest>(4).1;
        assert!(stable.groups.iter().any(|group| group.group_id == joined.group), "trial {trial}");
        assert_eq!(client.receive::<LeaveGroupRequest>(2).1.error_code, 0);
        assert_ne!(client.receive::<HeartbeatRequest>(3).1.error_code, 0, "it has left");
        let described = client.receive::<DescribeGroupsRequest>(5).1;
        assert!(described.groups[0].members.is_empty(), "trial {trial}");
        client.receive::<DeleteGroupsRequest>(2);
        let listed = client.receive::<ListGroupsRequest>(4).1;
        assert!(listed.groups.iter().all(|group| group.group_id != joined.group), "trial {trial}");
    }
    running.stop();
}

#[test]
fn what_is_fetched_behind_group_requests_and_producer_ids_comes_in_order() {
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let mut client = running.client();
    let mut last = -1;
    for trial in 0..TRIALS {
        let world = World::new(&mut client, format!("ids-{trial}"));
        let joined = Joined::new(&mut client, world.group.clone());
        let commit = |offset| OffsetCommitRequest {
            generation_id_or_member_epoch: joined.generation,
            member_id: joined.member.clone(),
            ..world.commit(offset)
        };
        // Ids are given out in order, each once, and a member's commits follow its sync and precede its leaving.
        client.send(4, InitProducerIdRequest { transactional_id: None, ..Default::default() });
        client.send(4, InitProducerIdRequest { transactional_id: None, ..Default::default() });
        client.send(3, joined.sync());
        client.send(7, commit(2));
        client.send(2, joined.leave());
        client.send(7, commit(3));
        client.send(
            7,
            OffsetFetchRequest { group_id: world.group.clone(), topics: None, ..Default::default() },
        );
        for _ in 0..2 {
            let given = client.receive::<InitProducerIdRequest>(4).1;
            assert!(
                given.error_code == 0 && given.producer_id > last,
                "trial {trial}: {given:?} after {last}"
            );
            last = given.producer_id;
        }
        assert_eq!(client.receive::<SyncGroupRequest>(3).1.error_code, 0);
        assert_eq!(client.receive::<OffsetCommitRequest>(7).1.topics[0].partitions[0].error_code, 0);
        assert_eq!(client.receive::<LeaveGroupRequest>(2).1.error_code, 0);
        assert_ne!(client.receive::<OffsetCommitRequest>(7).1.topics[0].partitions[0].error_code, 0);
        let fetched = client.receive::<OffsetFetchRequest>(7).1;
        assert_eq!(fetched.topics[0].partitions[0].committed_offset, 2, "trial {trial}");
    }
    running.stop();
}
