//! The table of APIs that are answered, and from it: what is advertised, what is documented, who handles what, and what
//! may be begun while an earlier request of the same connection is not answered.
//!
//! Owns the way from a frame to a [`Reply`]. What the table lacks is neither advertised nor decoded. Knows nothing of
//! sockets; the in-process lane comes in below the codec, by [`call`].

use crate::handler::{self, Api, Node};
use bytes::Bytes;
use kappa_protocol::frame::RequestHeader;
use kappa_protocol::wire::Reader;
use kappa_protocol::{ApiKey, Context, DecodeError, Principal, Reply, Request, Response};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

macro_rules! serve {
    ($($name:ident $min:literal..=$max:literal $order:ident => $($handler:ident)::+;)*) => {
        /// Every API that is answered, by number.
        pub(crate) const APIS: &[Api] = &[$(Api { key: ApiKey::$name, versions: $min..=$max },)*];

        /// How requests of an API stand in the order of their connection.
        fn order(key: ApiKey) -> Order {
            match key {
                $(ApiKey::$name => Order::$order,)*
                _ => Order::InTurn,
            }
        }

        /// Handles a typed request.
        pub(crate) fn call(node: &Arc<Node>, cx: &Context, request: Request) -> Reply {
            match request {
                $(Request::$name(request) => handler::$($handler)::+(node, cx, request),)*
                other => unserved(&other),
            }
        }
    };
}

/// What of a connection has to be answered before a request may be begun, and what may be begun before it is answered.
///
/// Apache Kafka handles one request of a connection at a time. This gives the same answers, sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// An append, in its place as soon as it is begun: others may be begun behind it, what reads may not.
    Append,
    /// A fetch, begun when everything before it is answered. It changes nothing, so appends may be begun before it is;
    /// once begun it holds back nothing.
    Poll,
    /// Begun when all before it is answered but a fetch that waits, and nothing but fetches stand in line behind it
    /// until it is answered.
    InTurn,
    /// The same, and the answer may wait for other clients: when the client has gone, nobody waits for it.
    Parking,
}

/// Requests of a connection that are not answered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// Appends.
    pub(crate) appends: usize,
    /// Fetches that have not been begun.
    pub(crate) polls: usize,
    /// All others.
    pub(crate) in_turn: usize,
}

impl Unanswered {
    /// A request is taken in line, or begun.
    pub(crate) fn add(&mut self, order: Order, begun: bool) {
        if let Some(count) = self.count(order, begun) {
            *count += 1;
        }
    }

    /// A request leaves the line, or is no longer what it was counted as.
    pub(crate) fn remove(&mut self, order: Order, begun: bool) {
        if let Some(count) = self.count(order, begun) {
            *count -= 1;
        }
    }

    fn count(&mut self, order: Order, begun: bool) -> Option<&mut usize> {
        match order {
            Order::Append => Some(&mut self.appends),
            Order::Poll => (!begun).then_some(&mut self.polls),
            Order::InTurn | Order::Parking => Some(&mut self.in_turn),
        }
    }
}

impl Order {
    /// Whether a request may be taken in line behind those.
    pub(crate) fn may_follow(self, before: Unanswered) -> bool {
        match self {
            Order::Poll => true,
            Order::Append => before.in_turn == 0,
            Order::InTurn | Order::Parking => before == Unanswered::default(),
        }
    }

    /// Whether the answer waits for others than the disk.
    pub(crate) fn is_parking(self) -> bool {
        matches!(self, Order::Poll | Order::Parking)
    }
}

/// The order of the request that a frame (without its length prefix) opens with; what is no request ends its
/// connection in turn.
pub(crate) fn order_of(frame: &[u8]) -> Order {
    let key = frame.first_chunk().and_then(|key| ApiKey::from_i16(i16::from_be_bytes(*key)));
    key.map_or(Order::InTurn, order)
}

serve! {
    Produce 0..=13 Append => produce::handle;
    Fetch 4..=18 Poll => fetch::handle;
    ListOffsets 1..=11 InTurn => list_offsets::handle;
    Metadata 0..=13 InTurn => metadata::handle;
    OffsetCommit 2..=10 InTurn => group::offset_commit::handle;
    OffsetFetch 1..=10 InTurn => group::offset_fetch::handle;
    FindCoordinator 0..=6 InTurn => group::find_coordinator::handle;
    JoinGroup 0..=9 Parking => group::join_group::handle;
    Heartbeat 0..=4 InTurn => group::heartbeat::handle;
    LeaveGroup 0..=5 InTurn => group::leave_group::handle;
    SyncGroup 0..=5 Parking => group::sync_group::handle;
    DescribeGroups 0..=6 InTurn => group::describe_groups::handle;
    ListGroups 0..=5 InTurn => group::list_groups::handle;
    ApiVersions 0..=4 InTurn => api_versions::handle;
    CreateTopics 2..=7 InTurn => create_topics::handle;
    DeleteTopics 1..=6 InTurn => delete_topics::handle;
    DeleteRecords 0..=2 InTurn => delete_records::handle;
    InitProducerId 0..=5 InTurn => init_producer_id::handle;
    OffsetForLeaderEpoch 2..=4 InTurn => offset_for_leader_epoch::handle;
    DescribeConfigs 1..=4 InTurn => describe_configs::handle;
    AlterConfigs 0..=2 InTurn => configs::alter;
    AlterReplicaLogDirs 1..=2 InTurn => alter_replica_log_dirs::handle;
    DescribeLogDirs 1..=5 InTurn => describe_log_dirs::handle;
    CreatePartitions 0..=3 InTurn => create_partitions::handle;
    DeleteGroups 0..=2 InTurn => group::delete_groups::handle;
    ElectLeaders 0..=2 InTurn => elect_leaders::handle;
    IncrementalAlterConfigs 0..=1 InTurn => configs::alter_incrementally;
    AlterPartitionReassignments 0..=1 InTurn => alter_partition_reassignments::handle;
    ListPartitionReassignments 0..=0 InTurn => list_partition_reassignments::handle;
    OffsetDelete 0..=0 InTurn => group::offset_delete::handle;
    DescribeQuorum 0..=2 InTurn => describe_quorum::handle;
    UpdateFeatures 0..=2 InTurn => update_features::handle;
    DescribeCluster 0..=2 InTurn => describe_cluster::handle;
    UnregisterBroker 0..=0 InTurn => unregister_broker::handle;
    ListConfigResources 0..=1 InTurn => list_config_resources::handle;
    DescribeTopicPartitions 0..=0 InTurn => describe_topic_partitions::handle;
}

/// Bytes of an answer from which on making or encoding it takes too long for the thread that serves everybody, and more
/// memory than is there for the asking.
pub(crate) const LONG_BYTES: usize = 64 * 1024;
/// The same for what a fetch keeps of what it names: several hundred partitions are looked at where it is read.
const LONG_FETCH_BYTES: usize = 512 * 1024;
/// Partitions that an append may name where fewer may be made: there may be more from before.
const APPEND_PARTITIONS_MIN: usize = 10_000;
/// What an item of an answer is counted as.
const ITEM_BYTES: usize = 64;

/// About how many bytes an answer takes when it is encoded.
pub(crate) fn encoded_bytes(response: &Response) -> usize {
    let blobs = match response {
        Response::JoinGroup(answer) => answer.members.iter().map(|member| member.metadata.len()).sum(),
        Response::SyncGroup(answer) => answer.assignment.len(),
        Response::DescribeGroups(answer) => {
            let members = answer.groups.iter().flat_map(|group| &group.members);
            members.map(|member| member.member_metadata.len() + member.member_assignment.len()).sum()
        }
        _ => 0,
    };
    blobs + ITEM_BYTES * items(response)
}

fn items(response: &Response) -> usize {
    match response {
        Response::Metadata(answer) => answer.topics.iter().map(|topic| 1 + topic.partitions.len()).sum(),
        Response::Fetch(answer) => answer.responses.iter().map(|topic| topic.partitions.len()).sum(),
        Response::ListOffsets(answer) => answer.topics.iter().map(|topic| topic.partitions.len()).sum(),
        Response::OffsetFetch(answer) => {
            let of_groups = answer.groups.iter().flat_map(|group| &group.topics);
            answer.topics.iter().map(|topic| topic.partitions.len()).sum::<usize>()
                + of_groups.map(|topic| topic.partitions.len()).sum::<usize>()
        }
        Response::DescribeConfigs(answer) => answer.results.iter().map(|result| result.configs.len()).sum(),
        Response::DescribeLogDirs(answer) => {
            let topics = answer.results.iter().flat_map(|dir| &dir.topics);
            topics.map(|topic| 1 + topic.partitions.len()).sum()
        }
        Response::DescribeGroups(answer) => answer.groups.iter().map(|group| 1 + group.members.len()).sum(),
        Response::ListGroups(answer) => answer.groups.len(),
        Response::DescribeTopicPartitions(answer) => {
            answer.topics.iter().map(|topic| 1 + topic.partitions.len()).sum()
        }
        Response::CreateTopics(answer) => answer.topics.len(),
        Response::ElectLeaders(answer) => {
            answer.replica_election_results.iter().map(|topic| 1 + topic.partition_result.len()).sum()
        }
        Response::DescribeQuorum(answer) => {
            answer.topics.iter().map(|topic| 1 + 2 * topic.partitions.len()).sum()
        }
        Response::AlterReplicaLogDirs(answer) => {
            answer.results.iter().map(|topic| 1 + topic.partitions.len()).sum()
        }
        Response::AlterPartitionReassignments(answer) => {
            answer.responses.iter().map(|topic| 1 + topic.partitions.len()).sum()
        }
        Response::JoinGroup(answer) => answer.members.len(),
        _ => 0,
    }
}

/// Topics and partitions that an append may name: as many as there can be. It is decoded, carried out and answered on the
/// thread that serves everybody, and its answer is several times as large as entries without a batch.
fn append_items_max(node: &Node) -> usize {
    let partitions = usize::try_from(node.settings.partitions_max).unwrap_or(0);
    partitions.max(APPEND_PARTITIONS_MIN).saturating_mul(2)
}

/// The same for a fetch, which may forget as many.
fn fetch_items_max(node: &Node) -> usize {
    append_items_max(node).saturating_mul(2)
}

/// Only an in-process lane can ask for what is not advertised: over TCP it is refused before it is decoded.
fn unserved(request: &Request) -> Reply {
    let error = DecodeError::UnknownApi(request.api_key() as i16);
    Reply::Later(Box::pin(std::future::ready(Err(error.into()))))
}

/// Why a connection cannot go on after a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The API is unknown, or not in this version.
    #[error("API key {key} version {version} is not served")]
    Unserved {
        /// Number of the API.
        key: i16,
        /// The version asked for.
        version: i16,
    },
    /// The bytes are no such request.
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
}

/// Who sends frames: what the contexts of a connection's requests have in common.
#[derive(Debug)]
pub(crate) struct Peer {
    cx: Context,
}

impl Peer {
    /// A peer at this address, not authenticated.
    pub(crate) fn new(address: IpAddr) -> Self {
        let principal = Principal::anonymous();
        Self { cx: Context { version: 0, principal, client_id: None, client_address: address } }
    }

    /// The context of a request; the client id is shared as long as it stays the same.
    fn context(&mut self, header: &RequestHeader) -> &Context {
        self.cx.version = header.version;
        if self.cx.client_id.as_deref() != header.client_id.as_deref() {
            self.cx.client_id = header.client_id.as_deref().map(Arc::from);
        }
        &self.cx
    }
}

/// A request frame of which the header was read.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The API.
    pub(crate) key: ApiKey,
    /// Version of the answer.
    pub(crate) version: i16,
    /// Echo of the request's.
    pub(crate) correlation_id: i32,
    /// Context and body; `None` for a version of ApiVersions that is ahead of us.
    body: Option<(Context, Reader)>,
}

impl Frame {
    /// Reads the header of a frame (without its length prefix).
    pub(crate) fn read(peer: &mut Peer, frame: Bytes) -> Result<Frame, FrameError> {
        let mut reader = Reader::new(frame);
        let header = RequestHeader::decode(&mut reader)?;
        let RequestHeader { api_key, version, correlation_id, .. } = header;
        let unserved = FrameError::Unserved { key: api_key, version };
        let api = APIS.iter().find(|api| api.key as i16 == api_key).ok_or(unserved.clone())?;
        let key = api.key;
        if api.versions.contains(&version) && version >= key.schema().min {
            let body = Some((peer.context(&header).clone(), reader));
            return Ok(Frame { key, version, correlation_id, body });
        }
        match key {
            // A client that is ahead of us learns from an answer of the oldest version what to ask for.
            ApiKey::ApiVersions => Ok(Frame { key, version: 0, correlation_id, body: None }),
            _ => Err(unserved),
        }
    }

    /// Decodes the request.
    pub(crate) fn decode(self, node: &Node) -> Result<Asked, FrameError> {
        let Some((cx, mut reader)) = self.body else { return Ok(Asked { request: None }) };
        // Bytes behind the body are ignored, as Apache Kafka does: librdkafka sends some after a topic was deleted.
        match order(self.key) {
            Order::Append => reader.limit_items(append_items_max(node)),
            Order::Poll => reader.limit_items(fetch_items_max(node)),
            Order::InTurn | Order::Parking => {}
        }
        let request = Request::decode(self.key, self.version, &mut reader)?;
        if let Some(metrics) = node.metrics.api(self.key) {
            metrics.requests.inc();
        }
        Ok(Asked { request: Some((cx, request)) })
    }
}

/// A decoded request that came over a socket.
#[derive(Debug)]
pub(crate) struct Asked {
    /// `None` for a version of ApiVersions that is ahead of us.
    request: Option<(Context, Request)>,
}

impl Asked {
    /// Bytes that the answer and its encoding may take, or what is kept until then; `None` if they are too many to be held
    /// without asking, or if the disk may have to be waited for to tell: see [`Asked::weigh`].
    pub(crate) fn short_bytes(&self, node: &Node) -> Option<usize> {
        let is_fetch = matches!(self.request, Some((_, Request::Fetch(_))));
        let long = if is_fetch { LONG_FETCH_BYTES } else { LONG_BYTES };
        self.answer_bytes(node).filter(|bytes| *bytes < long)
    }

    fn answer_bytes(&self, node: &Node) -> Option<usize> {
        self.request
            .as_ref()
            .map_or(Some(0), |(cx, request)| handler::weight::answer_bytes(node, cx, request))
    }

    /// All of these bytes. May wait for the disk.
    pub(crate) fn weigh(&self, node: &Node) -> usize {
        let weigh = |(_, request): &(Context, Request)| handler::weight::of_groups(node, request);
        self.answer_bytes(node).unwrap_or_else(|| self.request.as_ref().map_or(0, weigh))
    }

    /// Handles the request.
    pub(crate) fn handle(self, node: &Arc<Node>) -> Reply {
        match self.request {
            None => Reply::Now(handler::api_versions::unsupported(node).into()),
            Some((cx, Request::Fetch(request))) => handler::fetch::handle_for_socket(node, &cx, request),
            Some((cx, request)) => call(node, &cx, request),
        }
    }
}

const PROTOCOL_HEAD: &str = "# Protocol

Generated from the table in `broker/src/dispatch.rs`, from which the broker also advertises; a test keeps the two equal.

The broker answers these APIs of Apache Kafka's protocol, in the ranges that a released Apache Kafka 4.3.1 advertises.
What is not listed is neither advertised nor decoded. Produce 0 to 2 is advertised for old clients' feature detection only:
such a request closes the connection, as with Apache Kafka. An ApiVersions request of an unknown version is answered in
version 0 with `UNSUPPORTED_VERSION`; any other request of an unknown API or version closes the connection.

Requests of one connection take effect and are answered in order, as if each were sent when the one before it was answered.
Produce requests are appended behind one another without waiting for syncs, and fetches wait behind anything; every other
request is begun when those before it are answered, except that it does not wait for a fetch that waits for records. A
Produce with acks=0 has no answer to wait for: what reads behind it may not see it yet. A connection that the client
closes is still read to the end of what came whole, and carried out.

What is asked of a cluster is answered by one healthy node: every partition is led by its only replica (ElectLeaders), which
stays where it is (AlterPartitionReassignments, AlterReplicaLogDirs). DescribeQuorum tells the epoch and offsets of the
catalog under the name `__cluster_metadata`, and as the voter's endpoint the address that clients are told.
UpdateFeatures takes the levels that ApiVersions tells and no others. UnregisterBroker refuses this broker with
`INVALID_REQUEST`; Apache Kafka takes the only broker out of the cluster while it runs.

| key | API | versions | first flexible version |
|---|---|---|---|
";

/// The text of docs/PROTOCOL.md.
pub fn protocol_markdown() -> String {
    let mut out = String::from(PROTOCOL_HEAD);
    for Api { key, versions } in APIS {
        let flexible = match key.schema().flexible {
            i16::MAX => "none".to_owned(),
            version => version.to_string(),
        };
        let range = format!("{}-{}", versions.start(), versions.end());
        let _ = writeln!(out, "| {} | {} | {range} | {flexible} |", *key as i16, key.name());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_appends_and_fetches_pass_what_is_not_answered() {
        let nothing = Unanswered::default();
        let (append, poll) = (Unanswered { appends: 1, ..nothing }, Unanswered { polls: 1, ..nothing });
        let in_turn = Unanswered { in_turn: 1, ..nothing };
        for api in APIS {
            let order = order_of(&(api.key as i16).to_be_bytes());
            let passes = [append, poll, in_turn].map(|before| order.may_follow(before));
            let expected = match api.key {
                ApiKey::Produce => [true, true, false],
                ApiKey::Fetch => [true, true, true],
                _ => [false, false, false],
            };
            assert_eq!(passes, expected, "{}", api.key);
            assert!(order.may_follow(nothing));
        }
    }
}
