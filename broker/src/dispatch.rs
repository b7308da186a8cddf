//! The table of APIs that are answered, and from it: what is advertised, what is documented, and who handles what.
//!
//! Owns the way from a frame to a [`Reply`]. What the table lacks is neither advertised nor decoded. Knows nothing of
//! sockets; the in-process lane comes in below the codec, by [`call`].

use crate::handler::{self, Api, Node};
use bytes::Bytes;
use kappa_protocol::frame::RequestHeader;
use kappa_protocol::wire::Reader;
use kappa_protocol::{ApiKey, Context, DecodeError, Principal, Reply, Request};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

macro_rules! serve {
    ($($name:ident $min:literal..=$max:literal => $($handler:ident)::+;)*) => {
        /// Every API that is answered, by number.
        pub(crate) const APIS: &[Api] = &[$(Api { key: ApiKey::$name, versions: $min..=$max },)*];

        /// Handles a typed request.
        pub(crate) fn call(node: &Arc<Node>, cx: &Context, request: Request) -> Reply {
            match request {
                $(Request::$name(request) => handler::$($handler)::+(node, cx, request),)*
                other => unserved(&other),
            }
        }
    };
}

serve! {
    Produce 0..=13 => produce::handle;
    Fetch 4..=18 => fetch::handle;
    ListOffsets 1..=11 => list_offsets::handle;
    Metadata 0..=13 => metadata::handle;
    OffsetCommit 2..=10 => group::offset_commit::handle;
    OffsetFetch 1..=10 => group::offset_fetch::handle;
    FindCoordinator 0..=6 => group::find_coordinator::handle;
    JoinGroup 0..=9 => group::join_group::handle;
    Heartbeat 0..=4 => group::heartbeat::handle;
    LeaveGroup 0..=5 => group::leave_group::handle;
    SyncGroup 0..=5 => group::sync_group::handle;
    DescribeGroups 0..=6 => group::describe_groups::handle;
    ListGroups 0..=5 => group::list_groups::handle;
    ApiVersions 0..=4 => api_versions::handle;
    CreateTopics 2..=7 => create_topics::handle;
    DeleteTopics 1..=6 => delete_topics::handle;
    DeleteRecords 0..=2 => delete_records::handle;
    InitProducerId 0..=5 => init_producer_id::handle;
    OffsetForLeaderEpoch 2..=4 => offset_for_leader_epoch::handle;
    DescribeConfigs 1..=4 => describe_configs::handle;
    AlterConfigs 0..=2 => configs::alter;
    DescribeLogDirs 1..=5 => describe_log_dirs::handle;
    CreatePartitions 0..=3 => create_partitions::handle;
    DeleteGroups 0..=2 => group::delete_groups::handle;
    IncrementalAlterConfigs 0..=1 => configs::alter_incrementally;
    OffsetDelete 0..=0 => group::offset_delete::handle;
    DescribeCluster 0..=2 => describe_cluster::handle;
    ListConfigResources 0..=1 => list_config_resources::handle;
    DescribeTopicPartitions 0..=0 => describe_topic_partitions::handle;
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

/// A request that was handled, and how its answer is to be framed.
#[derive(Debug)]
pub(crate) struct Handled {
    /// The API.
    pub(crate) key: ApiKey,
    /// Version of the answer.
    pub(crate) version: i16,
    /// Echo of the request's.
    pub(crate) correlation_id: i32,
    /// The answer.
    pub(crate) reply: Reply,
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

/// Reads and handles a request frame (without its length prefix).
pub(crate) fn handle_frame(node: &Arc<Node>, peer: &mut Peer, frame: Bytes) -> Result<Handled, FrameError> {
    let mut reader = Reader::new(frame);
    let header = RequestHeader::decode(&mut reader)?;
    let RequestHeader { api_key, version, correlation_id, .. } = header;
    let unserved = FrameError::Unserved { key: api_key, version };
    let api = APIS.iter().find(|api| api.key as i16 == api_key).ok_or(unserved.clone())?;
    if !api.versions.contains(&version) || version < api.key.schema().min {
        return match api.key {
            // A client that is ahead of us learns from an answer of the oldest version what to ask for.
            ApiKey::ApiVersions => Ok(Handled {
                key: api.key,
                version: 0,
                correlation_id,
                reply: Reply::Now(handler::api_versions::unsupported(node).into()),
            }),
            _ => Err(unserved),
        };
    }
    // Bytes behind the body are ignored, as Apache Kafka does: librdkafka sends some after a topic was deleted.
    let request = Request::decode(api.key, version, &mut reader)?;
    if let Some(metrics) = node.metrics.api(api.key) {
        metrics.requests.inc();
    }
    let reply = call(node, peer.context(&header), request);
    Ok(Handled { key: api.key, version, correlation_id, reply })
}

const PROTOCOL_HEAD: &str = "# Protocol

Generated from the table in `broker/src/dispatch.rs`, from which the broker also advertises; a test keeps the two equal.

The broker answers these APIs of Apache Kafka's protocol, in the ranges that a released Apache Kafka 4.3.1 advertises.
What is not listed is neither advertised nor decoded. Produce 0 to 2 is advertised for old clients' feature detection only:
such a request closes the connection, as with Apache Kafka. An ApiVersions request of an unknown version is answered in
version 0 with `UNSUPPORTED_VERSION`; any other request of an unknown API or version closes the connection.

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
