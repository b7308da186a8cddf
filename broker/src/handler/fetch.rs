//! Fetch: whole batches out of partitions, at once or when enough has become visible.
//!
//! A fetch reads only what is in the page cache; one that misses it goes, as a whole, to the blocking pool. It reads no
//! more than it could reserve of the memory of all connections, one batch at least, and waits while there is none. Every
//! answer is sessionless (KIP-227 allows it), so a request always names all that it wants.

use super::{Node, Refusal, read_error_code};
use crate::budget::Share;
use crate::partition::{IsolationLevel, Located, Partition, ReadManner, ReadRequest, VisiblePast};
use crate::topic::Topic;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kappa_protocol::messages::fetch_response::{EpochEndOffset, FetchableTopicResponse, PartitionData};
use kappa_protocol::messages::{FetchRequest, FetchResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Records, Reply, Resource};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait of a fetch, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Bytes from which on batches are sent from their file. Under it the copy costs less than the system calls beside it.
const REGION_BYTES_MIN: usize = 16 * 1024;

/// Handles a fetch whose answer is to be in memory.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: FetchRequest) -> Reply {
    handle_for(node, cx, request, usize::MAX)
}

/// Handles a fetch whose answer goes to a socket, which can take regions of files.
pub(crate) fn handle_for_socket(node: &Arc<Node>, cx: &Context, request: FetchRequest) -> Reply {
    handle_for(node, cx, request, REGION_BYTES_MIN)
}

fn handle_for(node: &Arc<Node>, cx: &Context, request: FetchRequest, region_min: usize) -> Reply {
    if request.session_epoch > 0 {
        // Nobody was ever given a session.
        let error_code = node.error(ErrorCode::FetchSessionIdNotFound);
        return Reply::Now(FetchResponse { error_code, ..Default::default() }.into());
    }
    let wait = Duration::from_millis(request.max_wait_ms.try_into().unwrap_or(0)).min(WAIT_MAX);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
    let plan = Plan::new(node, cx, request, region_min);
    let Some(reserved) = node.budget.try_reserve(plan.bytes_max) else {
        return Reply::later(async move { read_reserved(plan).await.into() });
    };
    let Some(answer) = plan.read_cached(reserved.bytes()) else {
        return Reply::later(async move { read_cold(plan, reserved).await.into() });
    };
    let is_cut_short = reserved.bytes() < plan.bytes_max && answer.bytes > 0;
    if wait.is_zero() || answer.bytes >= min_bytes || is_cut_short || answer.failed || plan.is_empty() {
        return Reply::Now(answer.into_response().into());
    }
    // What waits for records holds no memory.
    drop((answer, reserved));
    let deadline = Instant::now() + wait;
    Reply::later(async move { read_reserved(wait_for(plan, min_bytes, deadline).await).await.into() })
}

/// One partition of a fetch.
struct Item {
    index: i32,
    offset: i64,
    bytes_max: usize,
    diverging: Option<EpochEndOffset>,
    partition: Result<Arc<Partition>, Refusal>,
}

/// Everything that a request wants, resolved.
struct Plan {
    node: Arc<Node>,
    isolation: IsolationLevel,
    /// Bytes of batches that are asked for.
    bytes_max: usize,
    /// Bytes from which on batches are left in their file.
    region_min: usize,
    topics: Vec<(String, uuid::Uuid, Vec<Item>)>,
}

/// A response in the making.
struct Answer {
    response: FetchResponse,
    bytes: usize,
    failed: bool,
    node: Arc<Node>,
}

impl Answer {
    fn into_response(self) -> FetchResponse {
        self.node.metrics.fetched_bytes.inc_by(self.bytes as u64);
        self.response
    }
}

impl Plan {
    fn new(node: &Arc<Node>, cx: &Context, request: FetchRequest, region_min: usize) -> Self {
        let topics: Vec<_> = request.topics.into_iter().map(|topic| resolve(node, cx, topic)).collect();
        let asked = usize::try_from(request.max_bytes).unwrap_or(0);
        let of_partitions = |(_, _, items): &(_, _, Vec<Item>)| items.iter().map(|item| item.bytes_max).sum();
        let of_partitions = topics.iter().map(of_partitions).fold(0, usize::saturating_add);
        Self {
            node: node.clone(),
            isolation: match request.isolation_level {
                1 => IsolationLevel::ReadCommitted,
                _ => IsolationLevel::ReadUncommitted,
            },
            bytes_max: asked.min(node.settings.fetch_bytes_max).min(of_partitions),
            region_min,
            topics,
        }
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.topics.iter().flat_map(|(_, _, items)| items)
    }

    fn is_empty(&self) -> bool {
        self.items().next().is_none()
    }

    /// Answers out of the page cache with about `bytes_max` bytes; `None` if the disk would have to be waited for.
    fn read_cached(&self, bytes_max: usize) -> Option<Answer> {
        self.read(bytes_max, false)
    }

    /// Answers from wherever the bytes are. Blocks.
    fn read_blocking(&self, bytes_max: usize) -> Answer {
        self.node.metrics.cold_reads.inc();
        let answer = self.read(bytes_max, true);
        answer.expect("a blocking read always has a result")
    }

    fn read(&self, bytes_max: usize, may_wait: bool) -> Option<Answer> {
        let manner = ReadManner { may_wait, region_min: self.region_min };
        let (mut bytes, mut failed) = (0, false);
        let mut responses = Vec::with_capacity(self.topics.len());
        for (topic, topic_id, items) in &self.topics {
            let mut partitions = Vec::with_capacity(items.len());
            for item in items {
                let data = match &item.partition {
                    Ok(partition) => {
                        let request = ReadRequest {
                            offset: item.offset,
                            max_bytes: item.bytes_max.min(bytes_max.saturating_sub(bytes)),
                            // One batch always goes, however large, or a consumer could never pass it.
                            at_least_one: bytes == 0,
                            isolation: self.isolation,
                        };
                        match partition.locate(request, manner).transpose()? {
                            Ok(result) => self.data(item, result),
                            Err(error) => {
                                let refusal = Refusal::new(read_error_code(&error), error.to_string());
                                self.refused(item.index, &refusal)
                            }
                        }
                    }
                    Err(refusal) => self.refused(item.index, refusal),
                };
                bytes += data.records.as_ref().map_or(0, Records::len);
                failed |= data.error_code != 0 || item.diverging.is_some();
                partitions.push(data);
            }
            responses.push(FetchableTopicResponse { topic: topic.clone(), topic_id: *topic_id, partitions });
        }
        let response = FetchResponse { responses, ..Default::default() };
        Some(Answer { response, bytes, failed, node: self.node.clone() })
    }

    fn data(&self, item: &Item, located: Located) -> PartitionData {
        let Located { records, offsets } = located;
        let mut data = PartitionData {
            partition_index: item.index,
            high_watermark: offsets.high_watermark,
            last_stable_offset: offsets.last_stable,
            log_start_offset: offsets.log_start,
            records: Some(records),
            aborted_transactions: (self.isolation == IsolationLevel::ReadCommitted).then(Vec::new),
            ..Default::default()
        };
        if let Some(diverging) = &item.diverging {
            data.diverging_epoch = diverging.clone();
            data.records = Some(Records::default());
        }
        data
    }

    fn refused(&self, index: i32, refusal: &Refusal) -> PartitionData {
        PartitionData {
            partition_index: index,
            error_code: self.node.error(refusal.code),
            high_watermark: -1,
            records: Some(Records::default()),
            ..Default::default()
        }
    }

    fn readable_bytes(&self) -> usize {
        let readable = |item: &Item| {
            let partition = item.partition.as_ref().ok()?;
            Some(partition.readable_bytes(item.offset).min(item.bytes_max))
        };
        self.items().filter_map(readable).sum()
    }
}

fn resolve(node: &Node, cx: &Context, topic: FetchTopic) -> (String, uuid::Uuid, Vec<Item>) {
    let found = match topic.topic_id.is_nil() {
        true => node.topics.topic(&topic.topic),
        false => node.topics.by_id(topic.topic_id),
    };
    let found = match found {
        Some(found) if !cx.allows(Operation::Read, Resource::Topic(&found.name)) => Err(Refusal::new(
            ErrorCode::TopicAuthorizationFailed,
            format!("not allowed to read {}", found.name),
        )),
        Some(found) => Ok(found),
        None => Err(Refusal::unknown_topic(&topic.topic, topic.topic_id)),
    };
    let items = topic
        .partitions
        .into_iter()
        .map(|wanted| {
            let partition =
                found.as_ref().map_err(Clone::clone).and_then(|topic| partition_of(topic, &wanted));
            Item {
                index: wanted.partition,
                offset: wanted.fetch_offset,
                bytes_max: usize::try_from(wanted.partition_max_bytes).unwrap_or(0),
                diverging: partition.as_ref().ok().and_then(|partition| diverging(partition, &wanted)),
                partition,
            }
        })
        .collect();
    (topic.topic, topic.topic_id, items)
}

fn partition_of(topic: &Topic, wanted: &FetchPartition) -> Result<Arc<Partition>, Refusal> {
    let partition = topic.partition(wanted.partition).ok_or_else(|| {
        let message = format!("topic {} has no partition {}", topic.name, wanted.partition);
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    check_leader_epoch(&partition, wanted.current_leader_epoch)?;
    Ok(partition)
}

/// A client that knows an older leader epoch must learn the newer one, and one that knows a newer is ahead of us.
pub(crate) fn check_leader_epoch(partition: &Partition, current: i32) -> Result<(), Refusal> {
    let epoch = partition.leader_epoch();
    let code = match current {
        -1 => return Ok(()),
        known if known < epoch => ErrorCode::FencedLeaderEpoch,
        known if known > epoch => ErrorCode::UnknownLeaderEpoch,
        _ => return Ok(()),
    };
    Err(Refusal::new(code, format!("the leader epoch is {epoch}, the request says {current}")))
}

/// Where the fetcher's log parts from this one, if it says which epoch its last record had.
fn diverging(partition: &Partition, wanted: &FetchPartition) -> Option<EpochEndOffset> {
    if wanted.last_fetched_epoch < 0 {
        return None;
    }
    let (epoch, end_offset) = partition.epoch_end(wanted.last_fetched_epoch)?;
    let diverges = epoch < wanted.last_fetched_epoch || end_offset < wanted.fetch_offset;
    diverges.then_some(EpochEndOffset { epoch, end_offset })
}

/// Reads once there is memory for it. The answer is counted by its connection as soon as it has it.
async fn read_reserved(plan: Plan) -> FetchResponse {
    let reserved = plan.node.budget.reserve(plan.bytes_max).await;
    match plan.read_cached(reserved.bytes()) {
        Some(answer) => answer.into_response(),
        None => read_cold(plan, reserved).await,
    }
}

async fn read_cold(plan: Plan, reserved: Share) -> FetchResponse {
    let node = plan.node.clone();
    let work = move || {
        let response = plan.read_blocking(reserved.bytes()).into_response();
        (response, reserved)
    };
    match node.jobs.run(work).await.map(|(response, _)| response) {
        Ok(response) => response,
        Err(_) => {
            let error_code = node.error(ErrorCode::UnknownServerError);
            FetchResponse { error_code, ..Default::default() }
        }
    }
}

/// Waits until `min_bytes` can be read, a partition is gone, or the deadline has passed.
async fn wait_for(plan: Plan, min_bytes: usize, deadline: Instant) -> Plan {
    let mut waits: Vec<(usize, Arc<Partition>, VisiblePast)> = plan
        .items()
        .enumerate()
        .filter_map(|(index, item)| {
            let partition = item.partition.as_ref().ok()?;
            let past = partition.offsets().high_watermark.max(item.offset);
            Some((index, partition.clone(), partition.visible_past(past)))
        })
        .collect();
    let mut timer = std::pin::pin!(tokio::time::sleep_until(deadline));
    loop {
        if plan.readable_bytes() >= min_bytes {
            return plan;
        }
        let woken = poll_fn(|cx| {
            let mut ready = false;
            for (_, partition, visible) in &mut waits {
                while Pin::new(&mut *visible).poll(cx).is_ready() {
                    ready = true;
                    if partition.is_closed() {
                        break;
                    }
                    *visible = partition.visible_past(partition.offsets().high_watermark);
                }
            }
            match timer.as_mut().poll(cx) {
                _ if ready => Poll::Ready(true),
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if !woken || waits.iter().any(|(_, partition, _)| partition.is_closed()) {
            return plan;
        }
    }
}
