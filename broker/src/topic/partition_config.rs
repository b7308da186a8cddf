//! From properties to what a partition is told.

use super::registry::is_internal;
use crate::config::{BrokerLayers, Overrides, topic_number, topic_text};
use crate::flush::{FlushMode, FlushPolicy};
use crate::log::LogConfig;
use crate::partition::PartitionConfig;
use kappa_protocol::record::TimestampType;

/// What holds for the partitions of a topic with these settings.
pub(crate) fn partition_config(name: &str, topic: &Overrides, broker: &BrokerLayers) -> PartitionConfig {
    let long = |property| topic_number::<i64>(property, topic, broker);
    let bytes = |property| topic_number::<u32>(property, topic, broker);
    let unbounded = |property| Some(long(property)).filter(|value| *value >= 0);
    let policy = topic_text("cleanup.policy", topic, broker);
    let contains = |wanted| policy.split(',').any(|word| word.trim() == wanted);
    PartitionConfig {
        log: LogConfig {
            segment_bytes: bytes("segment.bytes"),
            segment_ms: long("segment.ms"),
            segment_index_bytes: bytes("segment.index.bytes"),
            index_interval_bytes: bytes("index.interval.bytes"),
            retention_ms: unbounded("retention.ms"),
            retention_bytes: unbounded("retention.bytes").map(i64::cast_unsigned),
            delete_by_retention: contains("delete"),
            file_delete_delay_ms: long("file.delete.delay.ms"),
            must_be_whole: is_internal(name),
        },
        flush: flush_policy(name, topic, broker),
        needs_keys: contains("compact"),
        max_message_bytes: topic_number("max.message.bytes", topic, broker),
        timestamp_type: match &*topic_text("message.timestamp.type", topic, broker) {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        },
        timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
        producer_id_expiration_ms: broker.number("producer.id.expiration.ms"),
    }
}

/// The broker's own topics are always synced before anything in them is shown.
fn flush_policy(name: &str, topic: &Overrides, broker: &BrokerLayers) -> FlushPolicy {
    let mode = match &*topic_text("kappa.flush", topic, broker) {
        _ if is_internal(name) => FlushMode::Commit,
        "interval" => FlushMode::Interval,
        "os" => FlushMode::Os,
        _ => FlushMode::Commit,
    };
    let number = |property| topic_number(property, topic, broker);
    FlushPolicy { mode, messages: number("flush.messages"), ms: number("flush.ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_the_cleanup_policy_has_its_own_effect() {
        let effects = |policy: &str| {
            let topic = Overrides::from([("cleanup.policy".into(), policy.into())]);
            let config = partition_config("t", &topic, &BrokerLayers::default());
            (config.log.delete_by_retention, config.needs_keys)
        };
        assert_eq!(effects("delete"), (true, false));
        assert_eq!(effects("compact"), (false, true));
        assert_eq!(effects("compact,delete"), (true, true));
        assert_eq!(effects("delete, compact"), (true, true));
    }
}
