//! Why a record was not taken, and why one that was taken was not delivered.

use crate::error::{RequestError, refusal};
use kappa_protocol::ErrorCode;
use std::sync::Arc;

/// A record was not taken; nothing of it will be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The buffer is full ([`ProducerConfig::buffer_bytes`](super::ProducerConfig::buffer_bytes)): records come
    /// faster than the brokers acknowledge them.
    #[error("{buffered} bytes wait for acknowledgement, {max} are allowed; wait or raise buffer_bytes")]
    Full {
        /// Bytes in the buffer.
        buffered: usize,
        /// Bytes that it may hold.
        max: usize,
    },
    /// The topic's partitions are not known yet; [`Producer::send`](super::Producer::send) and
    /// [`Producer::partitions_for`](super::Producer::partitions_for) ask for them.
    #[error("partitions of topic {topic} are not known yet; await partitions_for first")]
    TopicUnknown {
        /// Name of the topic.
        topic: Arc<str>,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has {count} partitions, there is no partition {partition}")]
    PartitionUnknown {
        /// Name of the topic.
        topic: Arc<str>,
        /// The partition asked for.
        partition: i32,
        /// How many there are.
        count: usize,
    },
    /// The record is larger than [`ProducerConfig::record_bytes_max`](super::ProducerConfig::record_bytes_max).
    #[error("record of {size} bytes, {max} are allowed; raise record_bytes_max or split it")]
    TooLarge {
        /// Encoded size of the record.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The topic's metadata could not be had.
    #[error("no metadata of topic {topic}: {reason}")]
    Metadata {
        /// Name of the topic.
        topic: Arc<str>,
        /// What went wrong.
        reason: RequestError,
    },
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
    /// A record was not delivered, and the producer stopped there
    /// ([`ProducerConfig::stop_on_failure`](super::ProducerConfig::stop_on_failure)).
    #[error("the producer stopped at a record that was not delivered")]
    Stopped,
}

impl SendError {
    /// Whether the same record may be taken later.
    pub fn is_retriable(&self) -> bool {
        match self {
            SendError::Full { .. } | SendError::TopicUnknown { .. } => true,
            SendError::Metadata { reason, .. } => reason.is_retriable(),
            SendError::PartitionUnknown { .. }
            | SendError::TooLarge { .. }
            | SendError::Closed
            | SendError::Stopped => false,
        }
    }

    /// Whether no record will ever be taken again.
    pub fn is_fatal(&self) -> bool {
        matches!(self, SendError::Closed | SendError::Stopped)
    }
}

/// A record that was taken was not delivered, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// No acknowledgement within [`ProducerConfig::delivery_timeout`](super::ProducerConfig::delivery_timeout). The
    /// record may have been stored all the same if it was sent before.
    #[error("{topic}-{partition}: not acknowledged within {millis} ms{}", last(reason.as_ref()))]
    Timeout {
        /// Name of the topic.
        topic: Arc<str>,
        /// Number of the partition.
        partition: i32,
        /// The delivery timeout in ms.
        millis: u64,
        /// What the last attempt met, if there was one.
        reason: Option<RequestError>,
    },
    /// The broker refused the batch.
    #[error("{topic}-{partition}: {}", refusal(*code, message.as_deref()))]
    Refused {
        /// Name of the topic.
        topic: Arc<str>,
        /// Number of the partition.
        partition: i32,
        /// The broker's error code.
        code: ErrorCode,
        /// The broker's explanation, if it gave one.
        message: Option<Arc<str>>,
    },
    /// The request could not be made at all.
    #[error("{topic}-{partition}: {reason}")]
    Request {
        /// Name of the topic.
        topic: Arc<str>,
        /// Number of the partition.
        partition: i32,
        /// What went wrong.
        reason: RequestError,
    },
    /// The producer was closed or dropped before the record was acknowledged.
    #[error("the producer was closed before the record was acknowledged")]
    Closed,
    /// An earlier record was not delivered, and the producer stopped there
    /// ([`ProducerConfig::stop_on_failure`](super::ProducerConfig::stop_on_failure)).
    #[error("the producer stopped at an earlier record that was not delivered")]
    Stopped,
}

impl DeliveryError {
    /// Whether sending the record once more may succeed. It may then be stored twice after a
    /// [`DeliveryError::Timeout`].
    pub fn is_retriable(&self) -> bool {
        match self {
            DeliveryError::Timeout { .. } => true,
            DeliveryError::Refused { code, .. } => code.is_retriable(),
            DeliveryError::Request { reason, .. } => reason.is_retriable(),
            DeliveryError::Closed | DeliveryError::Stopped => false,
        }
    }

    /// Whether every further record of this producer will fail in the same way.
    pub fn is_fatal(&self) -> bool {
        match self {
            DeliveryError::Request { reason, .. } => reason.is_fatal(),
            DeliveryError::Refused { code, .. } => *code == ErrorCode::ClusterAuthorizationFailed,
            DeliveryError::Closed | DeliveryError::Stopped => true,
            DeliveryError::Timeout { .. } => false,
        }
    }
}

fn last(reason: Option<&RequestError>) -> String {
    reason.map(|reason| format!("; last attempt: {reason}")).unwrap_or_default()
}
