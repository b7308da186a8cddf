//! Why a partition refuses, one enum per operation.
//!
//! Invariant: every variant carries the numbers; none is a protocol error code.

use super::producers::ProducerError;
use crate::log::{SliceError, StorageError};
use kappa_protocol::record::BatchError;

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not exactly one valid batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The batch is larger than a message may be.
    #[error("batch of {size} bytes, the most is {max}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// `max.message.bytes`.
        max: usize,
    },
    /// The batch is larger than a segment.
    #[error("batch of {size} bytes does not fit a segment of {segment_bytes}")]
    LargerThanSegment {
        /// Its size in bytes.
        size: usize,
        /// `segment.bytes`.
        segment_bytes: u32,
    },
    /// A record has no key, and the topic keeps the last one of each key.
    #[error("record {index} of the batch has no key, which a compacted topic (cleanup.policy) needs")]
    NoKey {
        /// Which record of the batch, from 0 on.
        index: i32,
    },
    /// The timestamps are too far from the broker's clock.
    #[error("timestamp {timestamp} is out of range, the broker's clock is at {now_ms}")]
    Timestamp {
        /// The offending timestamp in ms.
        timestamp: i64,
        /// The broker's time in ms.
        now_ms: i64,
    },
    /// A producer claims that its timestamps are the broker's.
    #[error("a producer sent a batch with timestamps of type LogAppendTime")]
    TimestampType,
    /// The batch belongs to a transaction, and there are none yet.
    #[error("transactional batch of producer {producer_id}, transactions are not supported")]
    Transactional {
        /// The producer.
        producer_id: i64,
    },
    /// The batch does not continue what its producer sent before.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The disk failed, now or a moment ago; it is tried again soon.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The partition was closed or deleted.
    #[error("the partition is closed")]
    Closed,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {offset} is out of range, the log has {log_start} to {log_end}")]
    OutOfRange {
        /// The wanted offset.
        offset: i64,
        /// First offset of the log.
        log_start: i64,
        /// Offset after the last.
        log_end: i64,
    },
    /// The bytes are damaged, or the disk failed.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// The partition was closed or deleted.
    #[error("the partition is closed")]
    Closed,
}

/// Why no records were deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    /// The offset is after the last record that may be deleted, or negative.
    #[error("cannot delete records before {offset}, the high watermark is {high_watermark}")]
    OutOfRange {
        /// The wanted offset.
        offset: i64,
        /// The high watermark.
        high_watermark: i64,
    },
    /// The records up to there cannot be made durable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The partition was closed or deleted.
    #[error("the partition is closed")]
    Closed,
}
