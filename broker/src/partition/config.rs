//! The settings of a partition, under Kafka's names and with its defaults.
//!
//! Invariant: a configuration holds only values that a partition can work with as they are.

use crate::flush::FlushPolicy;
use crate::log::LogConfig;
use kappa_protocol::record::TimestampType;

/// What a partition accepts, how it keeps it, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// The settings of the log.
    pub log: LogConfig,
    /// When what was appended is synced, and who waits for it.
    pub flush: FlushPolicy,
    /// Whether every record must have a key (`cleanup.policy` contains `compact`).
    pub needs_keys: bool,
    /// Largest batch in bytes (`max.message.bytes`, 1 MiB and 12 bytes).
    pub max_message_bytes: usize,
    /// Whose clock the records' timestamps are from (`message.timestamp.type`).
    pub timestamp_type: TimestampType,
    /// How far before the broker's clock a producer's timestamps may be (`message.timestamp.before.max.ms`).
    pub timestamp_before_max_ms: i64,
    /// How far after the broker's clock they may be (`message.timestamp.after.max.ms`, 1 hour).
    pub timestamp_after_max_ms: i64,
    /// Time after its last batch at which a producer is forgotten (`producer.id.expiration.ms`, 1 day).
    pub producer_id_expiration_ms: i64,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            log: LogConfig::default(),
            flush: FlushPolicy::default(),
            needs_keys: false,
            max_message_bytes: 1024 * 1024 + 12,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 60 * 60 * 1000,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
        }
    }
}
