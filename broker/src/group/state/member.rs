//! One member of a group: what it said of itself, what it is given, and what it waits for.
//!
//! Invariant: a member whose join or sync waits is alive, whatever its session says; from the answer on it must be
//! heard of within its session timeout.

use super::{JoinGroup, Ticket};
use bytes::Bytes;
use kappa_protocol::messages::group_metadata_value::MemberMetadata;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// `group.instance.id` of a static member.
    pub(crate) instance_id: Option<String>,
    /// What the client calls itself.
    pub(crate) client_id: String,
    /// Where it connects from, as Kafka prints it: `/127.0.0.1`.
    pub(crate) client_host: String,
    /// Silence after which it is dead, in ms.
    pub(crate) session_timeout_ms: i32,
    /// How long a rebalance waits for it, in ms.
    pub(crate) rebalance_timeout_ms: i32,
    /// Protocols it speaks, best first, each with its opaque metadata.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// What the leader gave it in this generation.
    pub(crate) assignment: Bytes,
    pub(super) join: Option<Ticket>,
    pub(super) sync: Option<Ticket>,
    /// Whether it has asked for its assignment in this generation.
    pub(super) synced: bool,
    /// Whether it has been told its member id. One that never was cannot come back.
    pub(super) told: bool,
    heard_at_ms: i64,
}

/// What a member is counted as beside what it said and was given.
const MEMBER_BYTES: usize = 512;
/// The same for a protocol.
const PROTOCOL_BYTES: usize = 64;

/// Bytes that a join makes its group keep, if it is let in under an id of `id_len` bytes.
pub(super) fn bytes_said(join: &JoinGroup, id_len: usize) -> usize {
    let instance_len = join.instance_id.as_ref().map_or(0, String::len);
    let texts = 2 * (id_len + instance_len) + join.client_id.len() + join.client_host.len();
    MEMBER_BYTES + texts + protocol_bytes(&join.protocols)
}

fn protocol_bytes(protocols: &[(String, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| PROTOCOL_BYTES + name.len() + metadata.len()).sum()
}

impl Member {
    /// Bytes that it is counted as, its id of `id_len` bytes included.
    pub(super) fn bytes(&self, id_len: usize) -> usize {
        let instance_len = self.instance_id.as_ref().map_or(0, String::len);
        let texts = 2 * (id_len + instance_len) + self.client_id.len() + self.client_host.len();
        MEMBER_BYTES + texts + protocol_bytes(&self.protocols) + self.assignment.len()
    }

    pub(super) fn new(join: JoinGroup, now_ms: i64) -> Self {
        Self {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            join: None,
            sync: None,
            synced: false,
            told: false,
            heard_at_ms: now_ms,
        }
    }

    /// A member as the log remembers it: in its generation, with its assignment, just heard of.
    pub(super) fn restored(metadata: MemberMetadata, protocol: &str, now_ms: i64) -> Self {
        Self {
            instance_id: metadata.group_instance_id,
            client_id: metadata.client_id,
            client_host: metadata.client_host,
            session_timeout_ms: metadata.session_timeout,
            rebalance_timeout_ms: metadata.rebalance_timeout,
            protocols: vec![(protocol.to_owned(), metadata.subscription)],
            assignment: metadata.assignment,
            join: None,
            sync: None,
            synced: true,
            told: true,
            heard_at_ms: now_ms,
        }
    }

    /// Takes what a new join says. Who it is, and what it waits for, stays.
    pub(super) fn update(&mut self, join: JoinGroup, now_ms: i64) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
        self.hear(now_ms);
    }

    /// Metadata for `protocol`; empty if the member does not speak it.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map_or_else(Bytes::new, |(_, data)| data.clone())
    }

    pub(super) fn speaks(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn hear(&mut self, now_ms: i64) {
        self.heard_at_ms = now_ms;
    }

    /// When it is dead unless heard of; `None` while one of its requests waits.
    pub(super) fn session_deadline(&self) -> Option<i64> {
        let waits = self.join.is_some() || self.sync.is_some();
        (!waits).then(|| self.heard_at_ms.saturating_add(self.session_timeout_ms.into()))
    }
}
