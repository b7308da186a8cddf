//! What can go wrong with a running application.

use super::{TopicChange, TopicFate, assignor::unbounded};
use crate::{codec::CodecError, processor::ProcessError, task::TaskId, topology::PlanError};
use kappa_client::{
    ConnectError, RequestError, TopicPartition,
    consumer::ConsumerError,
    producer::{DeliveryError, SendError},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Why an application could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No broker could be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The topology does not fit the topics that exist.
    #[error("the topology does not fit its topics: {}", list(.0))]
    Plan(Vec<PlanError>),
    /// An internal topic exists with another number of partitions.
    #[error(
        "internal topic {topic:?} has {found} partitions, the topology needs {expected}; reset the application or use a new generation"
    )]
    InternalTopic {
        /// Its name.
        topic: String,
        /// Partitions needed.
        expected: i32,
        /// Partitions found.
        found: i32,
    },
    /// The topology would read what this generation has kept as something else, or without what it has missed. Nothing was
    /// changed.
    #[error(
        "generation {generation} cannot go on with this topology: {}; start a new generation (Config::generation), reset this one, or give what has changed another name",
        list(refused)
    )]
    Changed {
        /// The generation.
        generation: u32,
        /// The stores and repartition topics in the way.
        refused: Vec<TopicFate>,
    },
    /// An internal topic is not what it was when this generation last ran: what it held is lost, and what was committed goes on
    /// from it. Nothing was changed.
    #[error(
        "internal topic {topic:?} {change} since generation {generation} last ran, and offsets are committed that go on from what it held; start a new generation (Config::generation), reset this one, or put the topic back"
    )]
    InternalTopicChanged {
        /// The generation.
        generation: u32,
        /// The topic.
        topic: String,
        /// What has become of it.
        change: TopicChange,
    },
    /// A topic has the name of an internal one, and this generation has never had it. Nothing was changed.
    #[error(
        "topic {topic:?} is there, and generation {generation} (group {group:?}) has never had it: another application's, perhaps; give the store or repartition, or the application, another name, or delete the topic if it is nobody's"
    )]
    InternalTopicTaken {
        /// The generation.
        generation: u32,
        /// Its group.
        group: String,
        /// The topic.
        topic: String,
    },
    /// Instances of another topology run under this generation. Nothing was changed.
    #[error(
        "{members} members of group {group:?} run another topology as generation {generation}; stop them first, or start a new generation (Config::generation)"
    )]
    OthersRun {
        /// The generation.
        generation: u32,
        /// Its group.
        group: String,
        /// How many members it has.
        members: usize,
    },
    /// A record of the application's generations cannot be read. Nothing was changed.
    #[error(
        "record {key:?} of topic {topic:?} cannot be read: {reason}; it may be of a later version: start that one, or another generation (Config::generation)"
    )]
    GenerationRecord {
        /// The topic.
        topic: String,
        /// The record's key: the number of the generation.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The application's generations could not be read in time.
    #[error("topic {topic:?} was not read to its end within {} s; start again once the cluster answers", waited.as_secs())]
    GenerationsUnread {
        /// The topic.
        topic: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// A source was deleted and created again since this generation last ran, and what it has committed and keeps belongs to
    /// the source as it was. Nothing was changed.
    #[error(
        "source {topic:?} was deleted and created again since generation {generation} last ran, and what the generation has committed and keeps belongs to the one before; start a new generation (Config::generation), or reset this one"
    )]
    SourceReplaced {
        /// The generation.
        generation: u32,
        /// The source.
        topic: String,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Reading a topic failed.
    #[error(transparent)]
    Consume(#[from] ConsumerError),
    /// Writing a record failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A record was not delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// A record of a global table could not be decoded.
    #[error("global table {table:?} at offset {offset}: {source}")]
    GlobalTable {
        /// The table.
        table: Arc<str>,
        /// Offset of the record.
        offset: i64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A record is malformed.
    #[error("{topic}-{partition} from offset {offset}: {reason}")]
    Record {
        /// Its topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// First offset of the batch.
        offset: i64,
        /// What is wrong.
        reason: Arc<kappa_protocol::record::RecordError>,
    },
    /// A worker thread could not be made.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
}

fn list(parts: &[impl ToString]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why a running application has stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// A task failed.
    #[error("task {task}: {source}")]
    Task {
        /// The task.
        task: TaskId,
        /// Its failure.
        source: ProcessError,
    },
    /// Reading failed.
    #[error(transparent)]
    Consume(#[from] ConsumerError),
    /// A fetched record is malformed.
    #[error("{topic}-{partition} from offset {offset}: {reason}")]
    Record {
        /// Its topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// First offset of the batch.
        offset: i64,
        /// What is wrong.
        reason: Arc<kappa_protocol::record::RecordError>,
    },
    /// A position is behind the end of its log, which has lost its tail or is another one than was read. What comes next in
    /// it would be taken for processed.
    #[error(
        "{partition} ends at {end}, and was processed up to {offset}: it has lost its tail, or is another log; reset the generation, or set its group's offsets"
    )]
    BeyondEnd {
        /// The partition.
        partition: TopicPartition,
        /// Where it would be read on.
        offset: i64,
        /// Where it ends.
        end: i64,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A record could not be written.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A record was not delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The group runs another topology under the same name, or runs with a skew bound where this instance has none, or the
    /// other way round.
    #[error("{}", differs(*ours, *theirs))]
    Fingerprint {
        /// Fingerprint of this topology.
        ours: u32,
        /// Fingerprint of the group's.
        theirs: u32,
    },
    /// An application cannot have so many workers.
    #[error("an application has 1 to {most} workers, not {asked}; close() ends it")]
    Workers {
        /// How many were asked for.
        asked: usize,
        /// How many there may be.
        most: usize,
    },
    /// The application was closed and could not commit: the group did not settle in time. Nothing is lost, but what was
    /// processed since the last commit is processed again by whoever has the tasks next.
    #[error(
        "worker {worker} was closed with {tasks} tasks uncommitted: the group did not settle in {} ms; their last records are processed again",
        waited.as_millis()
    )]
    Uncommitted {
        /// The worker.
        worker: usize,
        /// Its tasks with records that are processed and not committed.
        tasks: usize,
        /// How long it tried.
        waited: Duration,
    },
    /// The application was not closed in the time that [`App::close_within`](super::App::close_within) was given. It goes on
    /// ending by itself.
    #[error(
        "not closed within {} ms: a function of the topology takes long, or the group does not settle; close() waits for it",
        waited.as_millis()
    )]
    StillClosing {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The application was closed.
    #[error("the application was closed")]
    Closed,
    /// A topic that the application reads, or keeps its state in, is not what it was when the application started. What it has
    /// processed and kept belongs to the topic as it was.
    #[error(
        "topic {topic:?} {change} while the application ran; {}reset it or start a new generation",
        if matches!(change, TopicChange::Grown { .. }) { "start it again if it keeps no state, else " } else { "" }
    )]
    TopicChanged {
        /// The topic.
        topic: String,
        /// What has become of it.
        change: TopicChange,
    },
    /// A function of the topology panicked.
    #[error("worker {worker} panicked: {message}")]
    Panic {
        /// The worker.
        worker: usize,
        /// What it said.
        message: String,
    },
    /// A record of a global table's topic could not be applied.
    #[error(transparent)]
    Global(Arc<StartError>),
    /// Following global tables has ended by a panic: of a codec, or a function of their sources.
    #[error("{tables} is followed no more: {message}")]
    GlobalEnded {
        /// The table, or the tables that are followed together.
        tables: String,
        /// What it said.
        message: String,
    },
    /// A worker could not begin.
    #[error("worker cannot begin: {0}")]
    Begin(Arc<StartError>),
}

/// Says how the group differs from an instance that it refuses.
fn differs(ours: u32, theirs: u32) -> String {
    let bound = |group, this| {
        format!(
            "the group runs with{group} a skew bound, this instance with{this} one (Config::skew_bound, Config::no_skew_bound); give all the same, or stop the others first"
        )
    };
    if ours == theirs {
        return bound("", "out");
    }
    if unbounded(ours) == theirs {
        return bound("out", "");
    }
    format!(
        "the group runs a topology with fingerprint {theirs:#010x}, this one has {ours:#010x}; use a new generation, or stop the others first"
    )
}

/// Says where partitions are, those of one instance together.
fn placed(table: &str, partitions: &[(i32, Option<Arc<str>>)]) -> String {
    let mut by_address: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for (partition, address) in partitions {
        by_address.entry(address.as_deref()).or_default().push(partition.to_string());
    }
    let mut of = format!(" of table {table:?}");
    let mut parts = Vec::new();
    for (address, partitions) in by_address.into_iter().rev() {
        let what = if partitions.len() == 1 { "partition" } else { "partitions" };
        let is = if partitions.len() == 1 { "is" } else { "are" };
        let whom = address.unwrap_or("an instance that advertises no address");
        parts.push(format!("{what} {}{of} {is} with {whom}", partitions.join(", ")));
        of.clear();
    }
    parts.join(", ")
}

/// Why a query has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Other instances have these partitions of the table; this one has nothing to answer from and does not wait. Ask there,
    /// or ask for what is here by [`View::partial`](super::View::partial).
    #[error("{}; ask there", placed(table, partitions))]
    Elsewhere {
        /// Name of the table.
        table: Arc<str>,
        /// The partitions, each with the address of its instance if that has told one ([`Config::advertised`](super::Config::advertised)).
        partitions: Vec<(i32, Option<Arc<str>>)>,
    },
    /// Some of the table's partitions could not be asked within [`Config::query_timeout`](super::Config::query_timeout): they are
    /// being restored here, or are on their way from one instance to another.
    #[error(
        "table {table:?}: {here} of {total} partitions are here after {} ms; the others are being restored or moved",
        waited.as_millis()
    )]
    Incomplete {
        /// Name of the table.
        table: Arc<str>,
        /// Partitions here.
        here: usize,
        /// Partitions in all.
        total: usize,
        /// How long the question has waited.
        waited: Duration,
    },
    /// A worker did not answer in time: something in the topology takes long.
    #[error("no answer within {} ms: a worker is busy", waited.as_millis())]
    Busy {
        /// How long the question has waited.
        waited: Duration,
    },
    /// The application has stopped.
    #[error("the application has stopped")]
    Stopped,
    /// The key could not be encoded, or a row not decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A task could not show its stores.
    #[error("task {task}: {source}")]
    Task {
        /// The task.
        task: TaskId,
        /// Its failure.
        source: ProcessError,
    },
}

/// Why an application could not be reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// No generation of this application is known.
    #[error("no generation {generation} of application {application:?} is recorded; did it ever run?")]
    Unknown {
        /// The application.
        application: String,
        /// The generation asked for.
        generation: u32,
    },
    /// The record of generations could not be read, or not be written; the reset can be repeated.
    #[error(transparent)]
    Record(#[from] Arc<StartError>),
    /// Members of the application's group are still running.
    #[error("group {group:?} has {members} members; stop them first")]
    Running {
        /// The group.
        group: String,
        /// How many.
        members: usize,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}
