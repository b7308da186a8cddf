//! One file per API: wire to domain and back, nothing else.
//!
//! Every handler is `fn handle(node: &Arc<Node>, cx: &Context, request: …Request) -> Reply`. It runs where the frame was
//! read, so it never blocks: what has to wait is in the [`Reply`]. What it keeps of a request's bytes it copies, since a
//! frame shares its buffer with its neighbours. Only this file turns the domain's errors into error codes.

pub(crate) mod alter_partition_reassignments;
pub(crate) mod alter_replica_log_dirs;
pub(crate) mod api_versions;
pub(crate) mod configs;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_quorum;
pub(crate) mod describe_topic_partitions;
pub(crate) mod elect_leaders;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod init_producer_id;
pub(crate) mod list_config_resources;
pub(crate) mod list_offsets;
pub(crate) mod list_partition_reassignments;
pub(crate) mod metadata;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod unregister_broker;
pub(crate) mod update_features;
pub(crate) mod weight;

use crate::budget::Budget;
use crate::config::Settings;
use crate::group::GroupCoordinator;
use crate::jobs::Jobs;
use crate::log::SliceError;
use crate::metrics::Metrics;
use crate::panics::Panics;
use crate::partition::{AppendError, DeleteRecordsError, ProducerError, ReadError};
use crate::topic::{TopicError, Topics};
use kappa_protocol::record::BatchError;
use kappa_protocol::{ApiKey, Context, ErrorCode, LaneError, Reply};
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

/// What handlers work on: one broker.
#[derive(Debug)]
pub(crate) struct Node {
    /// The broker's own settings.
    pub(crate) settings: Settings,
    /// Id of the cluster, kept in the data directory.
    pub(crate) cluster_id: Arc<str>,
    /// All topics.
    pub(crate) topics: Arc<Topics>,
    /// All consumer groups.
    pub(crate) groups: Arc<GroupCoordinator>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// The memory of requests and answers.
    pub(crate) budget: Arc<Budget>,
    /// What clients that fetch again and again want.
    pub(crate) sessions: fetch::Sessions,
    /// Held while a large request is decoded: one at a time.
    pub(crate) large_requests: tokio::sync::Semaphore,
    /// What is answered, for ApiVersions to advertise.
    pub(crate) apis: &'static [Api],
    /// Where work that blocks is handed to.
    pub(crate) jobs: Jobs,
    /// What panicked since the start.
    pub(crate) panics: Panics,
    /// Where clients find this broker; known once it listens.
    pub(crate) advertised: OnceLock<Advertised>,
}

/// An API that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    /// Which.
    pub(crate) key: ApiKey,
    /// The versions that are advertised: those of a released Apache Kafka 4.3.1.
    pub(crate) versions: RangeInclusive<i16>,
}

/// Where clients find a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertised {
    /// Name or address of the machine.
    pub(crate) host: Arc<str>,
    /// TCP port.
    pub(crate) port: u16,
}

impl Node {
    /// The broker's number.
    pub(crate) fn id(&self) -> i32 {
        self.settings.node_id
    }

    /// Where clients find this broker.
    pub(crate) fn advertised(&self) -> Advertised {
        self.advertised.get().cloned().unwrap_or(Advertised { host: "127.0.0.1".into(), port: 0 })
    }

    /// Counts an error that is answered, and returns its number on the wire.
    pub(crate) fn error(&self, code: ErrorCode) -> i16 {
        self.metrics.error(code)
    }
}

/// Handles a request away from the I/O thread: it waits for the disk, or takes long. It is carried out whether or not
/// somebody waits for the answer.
pub(crate) fn elsewhere<R: Send + 'static>(
    node: &Arc<Node>,
    cx: &Context,
    request: R,
    handle: fn(&Arc<Node>, &Context, R) -> Reply,
) -> Reply {
    let (work_node, cx) = (node.clone(), cx.clone());
    let work = node.jobs.run(move || handle(&work_node, &cx, request));
    Reply::Later(Box::pin(async move {
        match work.await {
            Ok(Reply::Now(response)) => Ok(response),
            Ok(Reply::Later(reply)) => reply.await,
            Ok(Reply::None) => Err(unanswered("it has none")),
            Err(error) => Err(unanswered(error)),
        }
    }))
}

/// What a request names again is answered once: an answer is then no larger than what there is to be told. Keys are a
/// number and a name.
pub(crate) fn once<T>(mut items: Vec<T>, key: impl for<'a> Fn(&'a T) -> (u128, &'a str)) -> Vec<T> {
    let mut seen = HashSet::with_capacity(items.len());
    let first: Vec<bool> = items.iter().map(|item| seen.insert(key(item))).collect();
    let mut first = first.into_iter();
    items.retain(|_| first.next().unwrap_or(true));
    items
}

/// The same for things that are named with a part of what is wanted of them: `add` gives the first the parts of the others.
pub(crate) fn joined<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> (u128, String),
    add: impl Fn(&mut T, T),
) -> Vec<T> {
    let mut places: HashMap<(u128, String), usize> = HashMap::new();
    let mut joined: Vec<T> = Vec::new();
    for item in items {
        let place = *places.entry(key(&item)).or_insert(joined.len());
        match joined.get_mut(place) {
            Some(first) => add(first, item),
            None => joined.push(item),
        }
    }
    joined
}

/// There is no answer, and none is made up.
pub(crate) fn unanswered(why: impl std::fmt::Display) -> LaneError {
    LaneError::Disconnected { reason: format!("a request is not answered: {why}").into() }
}

/// An error code with the message that goes with it where the answer has room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The code.
    pub(crate) code: ErrorCode,
    /// What is wrong, and how it is cured.
    pub(crate) message: String,
}

impl Refusal {
    /// A code and its message.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Nothing has this name, or this id.
    pub(crate) fn unknown_topic(name: &str, id: uuid::Uuid) -> Self {
        if name.is_empty() {
            Self::new(ErrorCode::UnknownTopicId, format!("no topic has the id {id}"))
        } else {
            Self::new(ErrorCode::UnknownTopicOrPartition, format!("topic {name} does not exist"))
        }
    }
}

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        let code = match &error {
            TopicError::Name(_) | TopicError::Collision { .. } => ErrorCode::InvalidTopicException,
            TopicError::Exists(_) => ErrorCode::TopicAlreadyExists,
            TopicError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
            TopicError::UnknownId(_) => ErrorCode::UnknownTopicId,
            TopicError::Internal(_) => ErrorCode::InvalidTopicException,
            TopicError::Partitions { .. } | TopicError::NotAnIncrease { .. } => ErrorCode::InvalidPartitions,
            TopicError::BrokerFull { .. } => ErrorCode::PolicyViolation,
            TopicError::ReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
            TopicError::Assignment(_) => ErrorCode::InvalidReplicaAssignment,
            TopicError::DeletionDisabled => ErrorCode::TopicDeletionDisabled,
            TopicError::Property(_) | TopicError::Config(_) => ErrorCode::InvalidConfig,
            TopicError::Storage(_) | TopicError::Owed(_) | TopicError::Fenced => ErrorCode::KafkaStorageError,
            TopicError::Busy => ErrorCode::RequestTimedOut,
            TopicError::Stopping => ErrorCode::BrokerNotAvailable,
        };
        Self::new(code, error.to_string())
    }
}

/// The code of an append that was refused.
pub(crate) fn append_error_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Batch(BatchError::UnsupportedMagic { .. }) => ErrorCode::UnsupportedForMessageFormat,
        AppendError::Batch(BatchError::Record(_) | BatchError::Decompress(_)) | AppendError::NoKey { .. } => {
            ErrorCode::InvalidRecord
        }
        AppendError::Batch(_) => ErrorCode::CorruptMessage,
        AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        AppendError::Timestamp { .. } | AppendError::TimestampType => ErrorCode::InvalidTimestamp,
        AppendError::Transactional { .. } => ErrorCode::InvalidTxnState,
        AppendError::Producer(ProducerError::InvalidEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendError::Producer(_) => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::Closed => ErrorCode::NotLeaderOrFollower,
        AppendError::Storage(_) => ErrorCode::KafkaStorageError,
    }
}

/// The code of a read that was refused.
pub(crate) fn read_error_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Slice(SliceError::Storage(_)) => ErrorCode::KafkaStorageError,
        ReadError::Slice(_) => ErrorCode::CorruptMessage,
        ReadError::Closed => ErrorCode::NotLeaderOrFollower,
    }
}

/// The code of a deletion of records that was refused.
pub(crate) fn delete_records_error_code(error: &DeleteRecordsError) -> ErrorCode {
    match error {
        DeleteRecordsError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        DeleteRecordsError::Storage(_) => ErrorCode::KafkaStorageError,
        DeleteRecordsError::Closed => ErrorCode::NotLeaderOrFollower,
    }
}
