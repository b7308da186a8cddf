//! Every property there is. Validation, defaults, descriptions over the wire and docs/CONFIGURATION.md come from here.

use super::property::{Kind, Property, Scope};

const DAY_MS: &str = "86400000";
const NEVER: &str = "9223372036854775807";

const fn topic(
    name: &'static str,
    broker_name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Property {
    Property { name, scope: Scope::Topic { broker_name }, kind, default, coarser: &[], doc }
}

const fn broker(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Property {
    Property { name, scope: Scope::Broker, kind, default, coarser: &[], doc }
}

const fn in_coarser_units(property: Property, coarser: &'static [(&'static str, i64)]) -> Property {
    Property { coarser, ..property }
}

/// The table: topics first, then the broker's own, each by name.
#[rustfmt::skip]
pub const TABLE: &[Property] = &[
    topic("cleanup.policy", "log.cleanup.policy", Kind::List(&["delete", "compact"]), "delete",
        "`delete` removes old segments by time and size. `compact` is kept and shown; until compaction exists nothing of such a topic is removed."),
    topic("compression.type", "compression.type", Kind::Choice(&["producer"]), "producer",
        "Batches are stored as the producer compressed them."),
    topic("delete.retention.ms", "log.cleaner.delete.retention.ms", Kind::Long(0, i64::MAX), DAY_MS,
        "How long a tombstone outlives compaction. Kept and shown; takes effect once compaction exists."),
    topic("file.delete.delay.ms", "log.segment.delete.delay.ms", Kind::Long(0, i64::MAX), "60000",
        "How long a removed segment's files stay on disk for readers that still use them."),
    topic("flush.messages", "log.flush.interval.messages", Kind::Long(1, i64::MAX), NEVER,
        "Under `kappa.flush=interval` and `os`: sync after so many records; 1 makes the topic behave as `commit`."),
    topic("flush.ms", "log.flush.interval.ms", Kind::Long(0, i64::MAX), NEVER,
        "Under `kappa.flush=interval` and `os`: sync at least so often."),
    topic("index.interval.bytes", "log.index.interval.bytes", Kind::Int(0, i32::MAX), "4096",
        "Bytes of the log between two index entries."),
    topic("kappa.flush", "kappa.flush", Kind::Choice(&["commit", "interval", "os"]), "commit",
        "When records reach the disk: `commit` before they are acknowledged (acks=all) or shown to consumers; `interval` every second; `os` when the operating system likes."),
    topic("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms", Kind::Long(1, i64::MAX), NEVER,
        "Longest time a record stays uncompacted. Kept and shown; takes effect once compaction exists."),
    topic("max.message.bytes", "message.max.bytes", Kind::Int(0, i32::MAX), "1048588",
        "Largest record batch in bytes, as compressed by the producer."),
    topic("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms", Kind::Long(0, i64::MAX), "3600000",
        "How far a record's timestamp may be ahead of the broker's clock."),
    topic("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms", Kind::Long(0, i64::MAX), NEVER,
        "How far a record's timestamp may be behind the broker's clock."),
    topic("message.timestamp.type", "log.message.timestamp.type", Kind::Choice(&["CreateTime", "LogAppendTime"]), "CreateTime",
        "Whether a record's timestamp is the producer's or the time of its append."),
    topic("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio", Kind::Double(0.0, 1.0), "0.5",
        "Part of the log that must be uncompacted before compaction starts. Kept and shown; takes effect once compaction exists."),
    topic("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms", Kind::Long(0, i64::MAX), "0",
        "Shortest time a record stays uncompacted. Kept and shown; takes effect once compaction exists."),
    topic("min.insync.replicas", "min.insync.replicas", Kind::Int(1, 1), "1",
        "Replicas that must have a record before acks=all is answered: there is one."),
    topic("retention.bytes", "log.retention.bytes", Kind::Long(-1, i64::MAX), "-1",
        "Bytes of a partition beyond which its oldest segments are removed; -1 keeps them."),
    in_coarser_units(topic("retention.ms", "log.retention.ms", Kind::Long(-1, i64::MAX), "604800000",
        "Age beyond which segments are removed; -1 keeps them."),
        &[("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)]),
    topic("segment.bytes", "log.segment.bytes", Kind::Int(1024, i32::MAX), "1073741824",
        "Bytes after which a new segment is begun."),
    topic("segment.index.bytes", "log.index.size.max.bytes", Kind::Int(4, i32::MAX), "10485760",
        "Bytes of a segment's index after which a new segment is begun."),
    in_coarser_units(topic("segment.ms", "log.roll.ms", Kind::Long(1, i64::MAX), "604800000",
        "Age after which a new segment is begun even if the last one is not full."),
        &[("log.roll.hours", 3_600_000)]),

    broker("advertised.listeners", Kind::Text, "",
        "Where clients find this broker, as `PLAINTEXT://HOST:PORT`; empty is where it listens. Flag: `--advertise`."),
    broker("auto.create.topics.enable", Kind::Bool, "true",
        "Whether a client that asks for a topic, and allows it, creates the topic."),
    broker("connections.max.idle.ms", Kind::Long(1, i64::MAX), "600000",
        "A connection on which nothing happens for so long is closed."),
    broker("default.replication.factor", Kind::Int(1, 1), "1",
        "Replicas of a new topic: there is one broker, so there is one."),
    broker("delete.topic.enable", Kind::Bool, "true",
        "Whether topics may be deleted."),
    broker("fetch.max.bytes", Kind::Int(1024, i32::MAX), "57671680",
        "Most bytes that one fetch is answered with, save that a single larger batch is always sent."),
    broker("group.initial.rebalance.delay.ms", Kind::Int(0, i32::MAX), "0",
        "How long the first rebalance of an empty group waits for more members."),
    broker("group.max.session.timeout.ms", Kind::Int(1, i32::MAX), "1800000",
        "Longest session timeout a group member may ask for."),
    broker("group.max.size", Kind::Int(1, i32::MAX), "2147483647",
        "Most members of a group."),
    broker("group.min.session.timeout.ms", Kind::Int(1, i32::MAX), "6000",
        "Shortest session timeout a group member may ask for."),
    broker("kappa.http", Kind::Text, "127.0.0.1:9644",
        "Where health and metrics are served, `HOST:PORT` or `off`. Flag: `--http`."),
    broker("kappa.max.partitions", Kind::Int(1, i32::MAX), "20000",
        "Most partitions of this broker, all topics together."),
    broker("kappa.max.partitions.per.topic", Kind::Int(1, i32::MAX), "10000",
        "Most partitions of one topic."),
    broker("listeners", Kind::Text, "PLAINTEXT://127.0.0.1:9092",
        "Where clients are served, `PLAINTEXT://HOST:PORT`. Flag: `--listen`."),
    broker("log.dirs", Kind::Text, "./kappa-data",
        "The data directory; one. Flag: `--data-dir`."),
    broker("log.retention.check.interval.ms", Kind::Long(1, i64::MAX), "300000",
        "How often segments are checked for removal."),
    broker("max.connections", Kind::Int(1, i32::MAX), "10000",
        "Most client connections at a time; further ones are closed at once."),
    broker("node.id", Kind::Int(0, i32::MAX), "1",
        "Number of this broker, as clients see it."),
    broker("num.partitions", Kind::Int(1, i32::MAX), "1",
        "Partitions of a topic that is created without saying how many."),
    broker("offset.metadata.max.bytes", Kind::Int(0, i32::MAX), "4096",
        "Longest metadata text of a committed offset in bytes."),
    broker("offsets.retention.check.interval.ms", Kind::Long(1, i64::MAX), "600000",
        "How often committed offsets are checked for expiry."),
    broker("offsets.retention.minutes", Kind::Int(1, i32::MAX), "10080",
        "How long the committed offsets of a group without members are kept."),
    broker("offsets.topic.num.partitions", Kind::Int(1, i32::MAX), "1",
        "Partitions of `__consumer_offsets`; fixed once the topic exists."),
    broker("offsets.topic.segment.bytes", Kind::Int(1024, i32::MAX), "104857600",
        "`segment.bytes` of `__consumer_offsets`."),
    broker("producer.id.expiration.ms", Kind::Int(1, i32::MAX), "86400000",
        "How long a partition remembers a producer id that has gone quiet."),
    broker("queued.max.request.bytes", Kind::Long(1_048_576, i64::MAX), "268435456",
        "Most bytes of requests and answers that all connections together may hold."),
    broker("socket.request.max.bytes", Kind::Int(1024, i32::MAX), "104857600",
        "Largest request in bytes; a connection that announces a larger one is closed."),
];
