//! What clients ask, and what they learn from the answers.

use super::model::{Found, Kind};
use bytes::Bytes;
use kappa_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kappa_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kappa_protocol::messages::delete_topics_request::DeleteTopicState;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kappa_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kappa_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kappa_protocol::messages::leave_group_request::MemberIdentity;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kappa_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kappa_protocol::messages::*;
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, ProducerStamp};
use kappa_protocol::{Context, Principal, Records};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use uuid::Uuid;

/// Names of topics: few, so that they come again; one as long as a name may be.
pub(super) fn name(number: u64) -> String {
    match number {
        0 => "a".to_owned(),
        1 => "b".to_owned(),
        _ => "l".repeat(249),
    }
}

/// One batch of a produce request.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) topic: Uuid,
    pub(super) index: i32,
    pub(super) tokens: Vec<u64>,
    /// Which idempotent stream it belongs to.
    pub(super) stream: Option<usize>,
    pub(super) bytes: Bytes,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} {:?}", self.topic.as_u128() as u64, self.index, self.tokens)
    }
}

/// What an answer is an answer to.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Create {
        name: String,
        kind: Kind,
    },
    Delete {
        id: Uuid,
    },
    AddPartitions {
        id: Uuid,
        count: i32,
    },
    Alter {
        id: Uuid,
        limit: i64,
    },
    /// After so many losses.
    Produce {
        acks: i16,
        parts: Vec<Part>,
        losses: u64,
    },
    DeleteRecords {
        id: Uuid,
        index: i32,
        before: i64,
    },
    Fetch {
        id: Uuid,
        index: i32,
        from: i64,
    },
    Commit {
        group: String,
        name: String,
        index: i32,
        offset: i64,
    },
    ProducerId,
    Join {
        group: String,
    },
    Sync {
        group: String,
    },
    Other,
}

pub(super) fn context(version: i16) -> Context {
    Context {
        version,
        principal: Principal::anonymous(),
        client_id: Some("simulated".into()),
        client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

pub(super) fn create(name: &str, kind: Kind, partitions: i32) -> CreateTopicsRequest {
    let config =
        |name: &str, value: &str| CreatableTopicConfig { name: name.into(), value: Some(value.into()) };
    let mut configs = vec![
        config("segment.bytes", "1024"),
        config("index.interval.bytes", "100"),
        config("file.delete.delay.ms", "50"),
        config("kappa.flush", if kind.is_commit { "commit" } else { "os" }),
    ];
    if kind.is_retained {
        configs.push(config("retention.bytes", "2000"));
    }
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs,
        ..Default::default()
    };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false }
}

pub(super) fn delete(id: Uuid) -> DeleteTopicsRequest {
    let topic = DeleteTopicState { name: None, topic_id: id };
    DeleteTopicsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() }
}

pub(super) fn add_partitions(name: &str, count: i32) -> CreatePartitionsRequest {
    let topic = CreatePartitionsTopic { name: name.into(), count, ..Default::default() };
    CreatePartitionsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() }
}

pub(super) fn alter(name: &str, limit: i64) -> IncrementalAlterConfigsRequest {
    let config = AlterableConfig {
        name: "max.message.bytes".into(),
        config_operation: 0,
        value: Some(limit.to_string()),
    };
    let resource =
        AlterConfigsResource { resource_type: 2, resource_name: name.into(), configs: vec![config] };
    IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() }
}

/// A batch with a record of each token, whose values are of different sizes.
pub(super) fn batch(now_ms: i64, tokens: &[u64], producer: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    for token in tokens {
        let mut value = token.to_be_bytes().to_vec();
        value.resize(8 + (token * 37 % 300) as usize, *token as u8);
        builder.push(now_ms, None, Some(&value), std::iter::empty());
    }
    builder.finish(0)
}

/// The records of a fetch's answer.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Found>, String> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (batch, after) = Batch::stored(rest).map_err(|error| format!("a damaged batch: {error}"))?;
        rest = after;
        let body = batch.decode(1 << 20).map_err(|error| format!("a damaged batch: {error}"))?;
        for record in &body {
            let record = record.map_err(|error| format!("a damaged record: {error}"))?;
            let token = record.value.and_then(|value| value.first_chunk::<8>());
            let token = u64::from_be_bytes(*token.ok_or("a record that nobody sent")?);
            found.push(Found { offset: record.offset, token, epoch: batch.leader_epoch() });
        }
    }
    Ok(found)
}

pub(super) fn produce(acks: i16, parts: &[Part]) -> ProduceRequest {
    let topic = |part: &Part| TopicProduceData {
        name: String::new(),
        topic_id: part.topic,
        partition_data: vec![PartitionProduceData {
            index: part.index,
            records: Some(Records::from(part.bytes.clone())),
        }],
    };
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topic_data: parts.iter().map(topic).collect(),
        ..Default::default()
    }
}

pub(super) fn delete_records(name: &str, index: i32, before: i64) -> DeleteRecordsRequest {
    let partitions = vec![DeleteRecordsPartition { partition_index: index, offset: before }];
    DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic { name: name.into(), partitions }],
        timeout_ms: 1000,
    }
}

pub(super) fn fetch(id: Uuid, index: i32, from: i64, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition {
        partition: index,
        current_leader_epoch: -1,
        fetch_offset: from,
        last_fetched_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic { topic: String::new(), topic_id: id, partitions: vec![partition] }],
        ..Default::default()
    }
}

pub(super) fn list_offsets(name: &str, index: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition { partition_index: index, current_leader_epoch: -1, timestamp };
    ListOffsetsRequest {
        topics: vec![ListOffsetsTopic { name: name.into(), partitions: vec![partition] }],
        ..Default::default()
    }
}

pub(super) fn commit(
    group: &str,
    member: Option<&(String, i32)>,
    topic: Uuid,
    index: i32,
    offset: i64,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        partition_index: index,
        committed_offset: offset,
        committed_leader_epoch: -1,
        committed_metadata: None,
    };
    let (member_id, generation) = member.cloned().unwrap_or((String::new(), -1));
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id,
        retention_time_ms: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: String::new(),
            topic_id: topic,
            partitions: vec![partition],
        }],
        ..Default::default()
    }
}

/// In a version that names topics.
pub(super) fn fetch_offset(group: &str, name: &str, index: i32) -> OffsetFetchRequest {
    let topic =
        OffsetFetchRequestTopics { name: name.into(), partition_indexes: vec![index], ..Default::default() };
    let group =
        OffsetFetchRequestGroup { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

pub(super) fn join(group: &str, member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"m") };
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

pub(super) fn sync(group: &str, joined: &JoinGroupResponse) -> SyncGroupRequest {
    let assignment = |member: &join_group_response::JoinGroupResponseMember| SyncGroupRequestAssignment {
        member_id: member.member_id.clone(),
        assignment: Bytes::from_static(b"all"),
    };
    SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: joined.members.iter().map(assignment).collect(),
        ..Default::default()
    }
}

pub(super) fn leave(group: &str, member_id: &str) -> LeaveGroupRequest {
    let member = MemberIdentity { member_id: member_id.into(), ..Default::default() };
    LeaveGroupRequest { group_id: group.into(), members: vec![member], ..Default::default() }
}
