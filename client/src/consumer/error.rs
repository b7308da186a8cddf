//! What a consumer cannot go on from by itself.

use super::assignor::AssignError;
use crate::{RequestError, TopicPartition};
use kappa_protocol::{ErrorCode, record::BatchError};
use std::sync::Arc;

/// A consumer's call failed. What may pass by itself is retried within the call's timeout, or by the next poll.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The call needs a group.
    #[error("the consumer has no group; set group_id")]
    NoGroup,
    /// Assigning by hand and subscribing exclude each other.
    #[error("the consumer is {0} already; unsubscribe first")]
    AlreadySubscribed(&'static str),
    /// The partition is not assigned to this consumer.
    #[error("{0} is not assigned to this consumer")]
    NotAssigned(TopicPartition),
    /// No committed offset, and [`OffsetReset::None`](super::OffsetReset::None).
    #[error("{0} has no committed offset; seek, commit one, or set offset_reset")]
    NoOffset(TopicPartition),
    /// The position is outside the log, and [`OffsetReset::None`](super::OffsetReset::None).
    #[error("offset {offset} of {partition} is out of range; seek, or set offset_reset")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The position.
        offset: i64,
    },
    /// What follows in a partition cannot be read, on the broker's disk or as it came from there. Told once: the position
    /// stays at `offset`, nothing more is fetched of the partition until a seek, and the other partitions go on.
    #[error(
        "{partition} is damaged at offset {offset}: {reason}; the position stays there, seek behind it to read on"
    )]
    Corrupt {
        /// The partition.
        partition: TopicPartition,
        /// The position.
        offset: i64,
        /// What is wrong.
        reason: Damage,
    },
    /// The broker refuses to serve a partition.
    #[error("{partition}: {}", crate::error::refusal(*code, None))]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// The broker's error code.
        code: ErrorCode,
    },
    /// The commit came too late: the group has rebalanced, and the partitions may belong to another member.
    #[error(
        "the group has rebalanced ({code}); poll to get the new assignment, poll more often if this recurs"
    )]
    Rebalanced {
        /// The coordinator's error code.
        code: ErrorCode,
    },
    /// Another member has the same `group_instance_id`.
    #[error("another member took over group_instance_id {0}; give each instance its own")]
    Fenced(Arc<str>),
    /// The assignor refuses, on the group's leader.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The consumer was closed.
    #[error("the consumer is closed")]
    Closed,
}

/// Why a partition cannot be read on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The broker cannot make out a batch in its log.
    #[error("the broker finds no batch in its log there (CORRUPT_MESSAGE)")]
    Unreadable,
    /// A batch is not as it was written.
    #[error(transparent)]
    Batch(#[from] Arc<BatchError>),
    /// A batch has offsets that cannot be its own: they lead back, or beyond the end of the partition.
    #[error("a batch of offsets {base_offset} to {last_offset} lies there, where it cannot belong")]
    Misplaced {
        /// First offset that the batch claims.
        base_offset: i64,
        /// Last offset that the batch claims.
        last_offset: i64,
    },
}

impl ConsumerError {
    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            ConsumerError::Request(error) => error.is_retriable(),
            ConsumerError::Partition { code, .. } => code.is_retriable(),
            ConsumerError::Rebalanced { .. } | ConsumerError::Assign(_) => true,
            _ => false,
        }
    }

    /// Whether the consumer is of no further use.
    pub fn is_fatal(&self) -> bool {
        match self {
            ConsumerError::Fenced(_) | ConsumerError::Closed => true,
            ConsumerError::Request(error) => error.is_fatal(),
            _ => false,
        }
    }
}
