//! Offsets by place or time, asked of the partitions' leaders.

use crate::{Client, LaneKind, RequestError, TopicPartition, admin::OffsetAndTimestamp};
use kappa_protocol::{
    ApiKey,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::time::Instant;

/// A partition's answer: `None` if no record is that late.
pub(crate) type Found = Result<Option<OffsetAndTimestamp>, RequestError>;

/// The offsets at these timestamps (or -1 for the end, -2 for the start, -3 for the largest timestamp), each once
/// per partition; retries what may pass until the client's API timeout.
pub(crate) async fn list(
    client: &Client,
    wanted: &[(TopicPartition, i64)],
    isolation: i8,
) -> BTreeMap<TopicPartition, Found> {
    let deadline = Instant::now() + client.config().api_timeout;
    let mut backoff = client.backoff();
    let mut left: Vec<_> = wanted.to_vec();
    let mut found = BTreeMap::new();
    loop {
        for (partition, outcome) in list_once(client, &left, isolation).await {
            if outcome.as_ref().is_err_and(RequestError::is_retriable) {
                client.mark_stale(&partition.topic);
            }
            found.insert(partition, outcome);
        }
        left.retain(|(partition, _)| match found.get(partition) {
            Some(Err(error)) => error.is_retriable(),
            _ => false,
        });
        let wait = backoff.next();
        if left.is_empty() || Instant::now() + wait > deadline {
            return found;
        }
        tokio::time::sleep(wait).await;
    }
}

/// One attempt; every partition has an outcome.
pub(crate) async fn list_once(
    client: &Client,
    wanted: &[(TopicPartition, i64)],
    isolation: i8,
) -> BTreeMap<TopicPartition, Found> {
    let mut found = BTreeMap::new();
    let mut by_leader: HashMap<i32, Vec<(TopicPartition, i64, i32)>> = HashMap::new();
    for (partition, timestamp) in wanted {
        match client.leader(partition).await {
            Ok((leader, epoch)) => {
                by_leader.entry(leader).or_default().push((partition.clone(), *timestamp, epoch));
            }
            Err(error) => {
                found.insert(partition.clone(), Err(error));
            }
        }
    }
    for (leader, wanted) in by_leader {
        let request = |version| request(&wanted, isolation, version);
        match client.ask(leader, LaneKind::Admin, request).await {
            Ok(response) => read(response, &mut found),
            Err(error) => {
                found.extend(wanted.iter().map(|(partition, _, _)| (partition.clone(), Err(error.clone()))));
            }
        }
        for (partition, _, _) in wanted {
            found.entry(partition).or_insert(Err(RequestError::Incomplete { api: ApiKey::ListOffsets }));
        }
    }
    found
}

fn request(wanted: &[(TopicPartition, i64, i32)], isolation: i8, version: i16) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (partition, timestamp, epoch) in wanted {
        topics.entry(&partition.topic).or_default().push(ListOffsetsPartition {
            partition_index: partition.partition,
            current_leader_epoch: if version >= 4 { *epoch } else { -1 },
            timestamp: *timestamp,
        });
    }
    let topic = |(name, partitions): (&str, _)| ListOffsetsTopic { name: name.to_owned(), partitions };
    ListOffsetsRequest {
        replica_id: -1,
        isolation_level: if version >= 2 { isolation } else { 0 },
        topics: topics.into_iter().map(topic).collect(),
        timeout_ms: 30_000,
    }
}

fn read(response: ListOffsetsResponse, found: &mut BTreeMap<TopicPartition, Found>) {
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name);
        for partition in topic.partitions {
            let outcome = RequestError::check(ApiKey::ListOffsets, partition.error_code, None).map(|()| {
                (partition.offset >= 0).then_some(OffsetAndTimestamp {
                    offset: partition.offset,
                    timestamp: partition.timestamp,
                    leader_epoch: partition.leader_epoch,
                })
            });
            found.insert(TopicPartition::new(name.clone(), partition.partition_index), outcome);
        }
    }
}
