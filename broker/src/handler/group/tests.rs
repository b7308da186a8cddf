//! Every group API in every version, as a client with that version would see it: asked in process, and the answer
//! written out and read back, so that no field is set that a version cannot carry, and none is lost that it can.

use crate::dispatch::APIS;
use crate::{Broker, BrokerConfig};
use bytes::Bytes;
use kappa_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kappa_protocol::messages::leave_group_request::MemberIdentity;
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kappa_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kappa_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kappa_protocol::messages::*;
use kappa_protocol::wire::{Reader, Writer};
use kappa_protocol::{
    ApiKey, Context, ErrorCode, Principal, Reply, Request, RequestMessage, Response, Service,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

struct Client {
    lane: Arc<dyn Service>,
}

fn context(version: i16) -> Context {
    Context {
        version,
        principal: Principal::anonymous(),
        client_id: Some("tester".into()),
        client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

impl Client {
    /// Asks in a version, and returns what a client of that version reads.
    async fn ask<M: RequestMessage>(&self, version: i16, request: M) -> M::Response {
        // What the version cannot carry a client cannot say.
        let mut writer = Writer::with_capacity(64);
        let request: Request = request.into();
        request.encode(version, &mut writer).unwrap();
        let mut reader = Reader::new(writer.into_bytes());
        let request = Request::decode(M::KEY, version, &mut reader).unwrap();
        reader.finish().unwrap();

        let response = match self.lane.call(&context(version), request) {
            Reply::Now(response) => response,
            Reply::Later(later) => later.await.unwrap(),
            Reply::None => panic!("{} is always answered", M::KEY),
        };
        let mut writer = Writer::with_capacity(64);
        response.encode(version, &mut writer).unwrap();
        let mut reader = Reader::new(writer.into_bytes());
        let read = Response::decode(M::KEY, version, &mut reader).unwrap();
        reader.finish().unwrap();
        M::response(read).unwrap()
    }

    async fn join(
        &self,
        version: i16,
        group: &str,
        member_id: &str,
        instance: Option<&str>,
    ) -> JoinGroupResponse {
        let request = JoinGroupRequest {
            group_id: group.into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: if version == 0 { -1 } else { 30_000 },
            member_id: member_id.into(),
            group_instance_id: instance.map(str::to_owned).filter(|_| version >= 5),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(b"topics"),
            }],
            ..JoinGroupRequest::default()
        };
        self.ask(version, request).await
    }

    /// Joins as clients do: again, if that is asked.
    async fn join_for_good(&self, version: i16, group: &str) -> JoinGroupResponse {
        let first = self.join(version, group, "", None).await;
        if ErrorCode::from(first.error_code) != ErrorCode::MemberIdRequired {
            return first;
        }
        assert!(version >= 4 && first.member_id.starts_with("tester-"));
        self.join(version, group, &first.member_id, None).await
    }

    async fn sync(&self, version: i16, group: &str, joined: &JoinGroupResponse) -> SyncGroupResponse {
        let give = |member: &join_group_response::JoinGroupResponseMember| SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: Bytes::from_static(b"all"),
        };
        let request = SyncGroupRequest {
            group_id: group.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: (version >= 5).then(|| "consumer".into()),
            protocol_name: (version >= 5).then(|| "range".into()),
            assignments: joined.members.iter().map(give).collect(),
            ..SyncGroupRequest::default()
        };
        self.ask(version, request).await
    }

    async fn commit(&self, version: i16, group: &str, topic: (&str, uuid::Uuid), offset: i64) -> Vec<i16> {
        let partition = |partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: offset,
            committed_metadata: Some(format!("v{version}")),
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: group.into(),
            topics: vec![OffsetCommitRequestTopic {
                name: topic.0.into(),
                topic_id: topic.1,
                partitions: vec![partition(0), partition(9)],
            }],
            ..OffsetCommitRequest::default()
        };
        let response = self.ask(version, request).await;
        response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| partition.error_code)
            .collect()
    }

    async fn topic(&self, name: &str) -> uuid::Uuid {
        let topic = create_topics_request::CreatableTopic {
            name: name.into(),
            num_partitions: 2,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
        self.ask(7, request).await.topics.remove(0).topic_id
    }
}

/// A broker whose coordinator has been found once.
async fn start() -> (tempfile::TempDir, Broker, Client) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(BrokerConfig::new(dir.path())).await.unwrap();
    let client = Client { lane: broker.lane() };
    let found = client.ask(3, FindCoordinatorRequest { key: "g".into(), ..Default::default() }).await;
    assert_eq!(found.error_code, 0);
    assert_eq!(found.port, i32::from(broker.address().port()));
    (dir, broker, client)
}

fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    APIS.iter().find(|api| api.key == key).unwrap().versions.clone()
}

#[tokio::test]
async fn the_coordinator_is_found_in_every_version_and_there_is_none_for_transactions() {
    let (_dir, broker, client) = start().await;
    for version in versions(ApiKey::FindCoordinator) {
        for (key_type, expected) in
            [(0, ErrorCode::None), (1, ErrorCode::UnsupportedVersion), (9, ErrorCode::InvalidRequest)]
        {
            let keys: Vec<String> = if version >= 4 { vec!["a".into(), "b".into()] } else { Vec::new() };
            let key = if version >= 4 { String::new() } else { "a".into() };
            if version == 0 && key_type != 0 {
                continue;
            }
            let request = FindCoordinatorRequest { key, key_type, coordinator_keys: keys.clone() };
            let response = client.ask(version, request).await;
            let codes: Vec<i16> = match version {
                0..=3 => vec![response.error_code],
                _ => response.coordinators.iter().map(|coordinator| coordinator.error_code).collect(),
            };
            assert_eq!(codes, vec![expected.code(); keys.len().max(1)], "version {version}, type {key_type}");
        }
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_membership_goes_round_in_every_version() {
    let (_dir, broker, client) = start().await;
    for version in versions(ApiKey::JoinGroup) {
        let group = format!("g{version}");
        let joined = client.join_for_good(version, &group).await;
        assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {version}");
        assert_eq!((&joined.leader, joined.members.len()), (&joined.member_id, 1));
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));

        let sync = version.min(*versions(ApiKey::SyncGroup).end());
        let synced = client.sync(sync, &group, &joined).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));

        let heartbeat = HeartbeatRequest {
            group_id: group.clone(),
            generation_id: 1,
            member_id: joined.member_id.clone(),
            ..Default::default()
        };
        assert_eq!(client.ask(version.min(4), heartbeat).await.error_code, 0);

        let leave = version.min(*versions(ApiKey::LeaveGroup).end());
        let members = vec![MemberIdentity { member_id: joined.member_id.clone(), ..Default::default() }];
        let request = LeaveGroupRequest {
            group_id: group.clone(),
            member_id: if leave < 3 { joined.member_id } else { String::new() },
            members: if leave < 3 { Vec::new() } else { members },
        };
        let left = client.ask(leave, request.clone()).await;
        assert_eq!(left.error_code, 0);
        let again = client.ask(leave, request).await;
        let code = if leave < 3 { again.error_code } else { again.members[0].error_code };
        assert_eq!(ErrorCode::from(code), ErrorCode::UnknownMemberId);
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn offsets_go_in_and_out_in_every_version() {
    let (_dir, broker, client) = start().await;
    let id = client.topic("t").await;
    for version in versions(ApiKey::OffsetCommit) {
        let topic = if version >= 10 { ("", id) } else { ("t", uuid::Uuid::nil()) };
        let codes = client.commit(version, &format!("g{version}"), topic, 40 + i64::from(version)).await;
        assert_eq!(codes, [0, ErrorCode::UnknownTopicOrPartition.code()]);
    }
    let unknown = client.commit(10, "g", ("", uuid::Uuid::from_u128(5)), 1).await;
    assert_eq!(unknown, [ErrorCode::UnknownTopicId.code(); 2]);
    for version in versions(ApiKey::OffsetFetch) {
        let committed = (0, 45, "v5".to_owned());
        let some = client.fetch(version, "g5", id, false).await;
        assert_eq!(some, [committed.clone(), (1, -1, String::new())], "version {version}");
        // Version 1 has no way to ask for all.
        if version >= 2 {
            assert_eq!(client.fetch(version, "g5", id, true).await, [committed], "version {version}");
        }
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_may_have_to_read_the_log_is_not_answered_where_it_was_asked() {
    let (_dir, broker, client) = start().await;
    let id = client.topic("t").await;
    client.commit(7, "g", ("t", id), 1).await;
    let requests: [Request; 5] = [
        OffsetFetchRequest { group_id: "g".into(), topics: None, ..Default::default() }.into(),
        DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() }.into(),
        ListGroupsRequest::default().into(),
        OffsetDeleteRequest { group_id: "g".into(), topics: Vec::new() }.into(),
        DeleteGroupsRequest { groups_names: vec!["g".into()] }.into(),
    ];
    for (version, request) in [7, 5, 4, 0, 2].into_iter().zip(requests) {
        let key = request.api_key();
        match client.lane.call(&context(version), request) {
            Reply::Later(reply) => drop(reply.await.unwrap()),
            other => panic!("{key}: {other:?}"),
        }
    }
    broker.stop().await.unwrap();
}

impl Client {
    /// Partition, offset and note of everything a group committed, or of two partitions.
    async fn fetch(&self, version: i16, group: &str, id: uuid::Uuid, all: bool) -> Vec<(i32, i64, String)> {
        let partition_indexes = vec![0, 1];
        let request = if version >= 8 {
            let topic = OffsetFetchRequestTopics {
                name: if version >= 10 { String::new() } else { "t".into() },
                topic_id: if version >= 10 { id } else { uuid::Uuid::nil() },
                partition_indexes,
            };
            let topics = (!all).then(|| vec![topic]);
            let group = OffsetFetchRequestGroup { group_id: group.into(), topics, ..Default::default() };
            OffsetFetchRequest { groups: vec![group], ..Default::default() }
        } else {
            let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes };
            let topics = (!all).then(|| vec![topic]);
            OffsetFetchRequest { group_id: group.into(), topics, ..Default::default() }
        };
        let response = self.ask(version, request).await;
        let old = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let old = old.map(|p| (p.partition_index, p.committed_offset, p.metadata.unwrap()));
        let new = response.groups.into_iter().flat_map(|group| group.topics).flat_map(|topic| {
            assert!(version < 10 || topic.topic_id == id);
            topic.partitions
        });
        let new = new.map(|p| (p.partition_index, p.committed_offset, p.metadata.unwrap()));
        old.chain(new).collect()
    }
}

#[tokio::test]
async fn groups_are_listed_described_and_deleted_in_every_version() {
    let (_dir, broker, client) = start().await;
    let id = client.topic("t").await;
    let joined = client.join_for_good(9, "active").await;
    client.sync(5, "active", &joined).await;
    client.commit(10, "simple", ("", id), 3).await;

    for version in versions(ApiKey::ListGroups) {
        let listed = client.ask(version, ListGroupsRequest::default()).await;
        let ids: Vec<&str> = listed.groups.iter().map(|group| group.group_id.as_str()).collect();
        assert_eq!(ids, ["active", "simple"]);
        if version >= 4 {
            let request = ListGroupsRequest { states_filter: vec!["stable".into()], ..Default::default() };
            let listed = client.ask(version, request).await;
            assert_eq!(listed.groups.len(), 1);
            assert_eq!(listed.groups[0].group_state, "Stable");
        }
        if version >= 5 {
            let request = ListGroupsRequest { types_filter: vec!["share".into()], ..Default::default() };
            assert_eq!(client.ask(version, request).await.groups, []);
        }
    }
    for version in versions(ApiKey::DescribeGroups) {
        let request = DescribeGroupsRequest {
            groups: vec!["active".into(), "simple".into(), "nobody".into()],
            include_authorized_operations: version >= 3,
        };
        let described = client.ask(version, request).await.groups;
        let states: Vec<&str> = described.iter().map(|group| group.group_state.as_str()).collect();
        assert_eq!(states, ["Stable", "Empty", "Dead"]);
        let member = &described[0].members[0];
        assert_eq!(
            (&member.member_metadata[..], &member.member_assignment[..]),
            (&b"topics"[..], &b"all"[..])
        );
        assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("tester", "/127.0.0.1"));
        let missing = if version >= 6 { ErrorCode::GroupIdNotFound } else { ErrorCode::None };
        assert_eq!(ErrorCode::from(described[2].error_code), missing);
        let operations = if version >= 3 { 328 } else { i32::MIN };
        assert_eq!(described[0].authorized_operations, operations);
    }
    let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
    let topics = vec![OffsetDeleteRequestTopic { name: "t".into(), partitions }];
    let request = OffsetDeleteRequest { group_id: "active".into(), topics };
    let refused = client.ask(0, request.clone()).await;
    assert_eq!(
        ErrorCode::from(refused.error_code),
        ErrorCode::NonEmptyGroup,
        "nobody can read what it subscribes to"
    );
    client.commit(10, "simple2", ("", id), 3).await;
    let deleted = client.ask(0, OffsetDeleteRequest { group_id: "simple2".into(), ..request }).await;
    assert_eq!((deleted.error_code, deleted.topics[0].partitions[0].error_code), (0, 0));

    for version in versions(ApiKey::DeleteGroups) {
        client.commit(10, "simple", ("", id), 3).await;
        let groups_names = vec!["active".into(), "simple".into(), "nobody".into()];
        let results = client.ask(version, DeleteGroupsRequest { groups_names }).await.results;
        let codes: Vec<ErrorCode> = results.iter().map(|result| ErrorCode::from(result.error_code)).collect();
        assert_eq!(codes, [ErrorCode::NonEmptyGroup, ErrorCode::None, ErrorCode::GroupIdNotFound]);
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn static_members_are_known_by_their_instance_id_and_fenced_by_it() {
    let (_dir, broker, client) = start().await;
    let joined = client.join(9, "g", "", Some("i")).await;
    client.sync(5, "g", &joined).await;
    let back = client.join(9, "g", "", Some("i")).await;
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true));
    let heartbeat = |member_id: &str| HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: member_id.into(),
        group_instance_id: Some("i".into()),
    };
    let fenced = client.ask(4, heartbeat(&joined.member_id)).await;
    assert_eq!(ErrorCode::from(fenced.error_code), ErrorCode::FencedInstanceId);
    assert_eq!(client.ask(4, heartbeat(&back.member_id)).await.error_code, 0);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn before_the_coordinator_was_found_nothing_is_known_and_nothing_can_be_joined() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(BrokerConfig::new(dir.path())).await.unwrap();
    let client = Client { lane: broker.lane() };
    let refused = client.join(9, "g", "", None).await;
    assert_eq!(ErrorCode::from(refused.error_code), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(client.ask(5, ListGroupsRequest::default()).await.groups, []);
    broker.stop().await.unwrap();
}
