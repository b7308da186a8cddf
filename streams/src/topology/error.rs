//! What can be wrong with a topology: its wiring, found by `build()`, and its topics, found at start.

use std::{fmt, sync::Arc};

/// One mistake in the wiring of a topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WiringError {
    /// The application's name cannot begin the names of topics.
    #[error(
        "application name {name:?} cannot begin the names of topics; use letters, digits, '.', '_' and '-', at most 249 of them"
    )]
    Application {
        /// The name.
        name: String,
    },
    /// The application's name is that of a generation of another.
    #[error(
        "application name {name:?} is that of a generation: its group and topics would be those of generation {generation} of {application:?}; give it another end"
    )]
    GenerationName {
        /// The name.
        name: String,
        /// The application whose generation it names.
        application: String,
        /// The number of the generation.
        generation: String,
    },
    /// An operator that must have a name has an empty or illegal one.
    #[error("{operator} needs a name of letters, digits, '.', '_' and '-', got {name:?}")]
    Name {
        /// The kind of operator.
        operator: &'static str,
        /// The name given.
        name: String,
    },
    /// Two operators keep state, or two repartition topics exist, under one name.
    #[error(
        "{what} name {name:?} is used {times} times; give each a name of its own, or use the handle of one of them twice"
    )]
    DuplicateName {
        /// Store, repartition or global table.
        what: &'static str,
        /// The name.
        name: String,
        /// How often.
        times: usize,
    },
    /// A topic whose name no broker accepts.
    #[error("topic name {name:?} is not legal; use letters, digits, '.', '_' and '-', at most 249 of them")]
    Topic {
        /// The name.
        name: String,
    },
    /// An operator has to write keys or values whose codec is not known.
    #[error("{operator} {name:?} does not know the codec of its {what}; say it with with_codecs() before")]
    Codec {
        /// The kind of operator.
        operator: &'static str,
        /// Its name.
        name: String,
        /// Keys or values.
        what: &'static str,
    },
    /// Windows that cannot be.
    #[error(
        "windows of {name:?}: {reason} (size {size_ms} ms, advance {advance_ms} ms, grace {grace_ms} ms, retention {retention_ms} ms)"
    )]
    Windows {
        /// Name of the operator.
        name: String,
        /// The rule that is broken.
        reason: &'static str,
        /// Size of a window.
        size_ms: i64,
        /// Distance between windows.
        advance_ms: i64,
        /// How long behind its end a window takes records.
        grace_ms: i64,
        /// How long a window is kept.
        retention_ms: i64,
    },
    /// A repartition topic was asked for with no partitions.
    #[error(
        "repartition {name:?} has {partitions} partitions; give it at least one, or leave them out to have as many as its inputs"
    )]
    Partitions {
        /// Its name.
        name: String,
        /// The number asked for.
        partitions: i32,
    },
    /// An operator combines streams of two builders.
    #[error("{operator} {name:?} combines streams of two different builders; wire both with one")]
    ForeignBuilder {
        /// The kind of operator.
        operator: &'static str,
        /// Its name.
        name: String,
    },
    /// There is nothing to read.
    #[error("the topology has no source; read a topic with stream() or table()")]
    NoSource,
    /// A source or a sink has an empty list of topics.
    #[error("{what} names no topic; name at least one")]
    NoTopics {
        /// Source or sink.
        what: &'static str,
    },
    /// A source names a topic twice.
    #[error(
        "a source names topic {topic:?} twice, so that each record would be processed twice; name it once"
    )]
    RepeatedTopic {
        /// The topic.
        topic: String,
    },
    /// A table is to be read from several topics.
    #[error(
        "a table is read from one topic, which it is also restored from, got {topics:?}; read several as a stream and make it a table with to_table()"
    )]
    TableTopics {
        /// The topics named.
        topics: String,
    },
    /// A topic whose records get their event times from a source is read several times.
    #[error(
        "topic {topic:?} is read {times} times, and its event times are taken from the records; read it once and use the handle several times"
    )]
    Timestamps {
        /// The topic.
        topic: String,
        /// How often it is read.
        times: usize,
    },
    /// Records that fail would be read again, and fail again.
    #[error(
        "dead letters go to topic {topic:?}, which this topology reads; send them to a topic that it does not read"
    )]
    DeadLetters {
        /// The topic.
        topic: String,
    },
    /// More operators with windows than a task can keep the time of.
    #[error(
        "{one:?} is one of {count} operators with windows that share their inputs, at most {max} may; put some behind a repartition() of their own, or have one aggregate keep several values"
    )]
    Clocks {
        /// One of them.
        one: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Two operators with windows cannot be told apart in what a task commits.
    #[error("the names {first:?} and {second:?} have the same hash; give one of them another")]
    EqualClocks {
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// A global table is to have dead letters.
    #[error(
        "global table {table:?} has no dead letters, since every instance reads all of it and would write each; use OnFailure::Skip or OnFailure::Stop"
    )]
    GlobalDeadLetters {
        /// The table.
        table: String,
    },
}

/// Everything that is wrong with the wiring, in the order of the wiring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WiringErrors(pub Vec<WiringError>);

impl fmt::Display for WiringErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in the topology", if self.0.len() == 1 { "one error" } else { "several errors" })?;
        for error in &self.0 {
            write!(f, "\n- {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for WiringErrors {}

/// Why a topology does not fit the topics that exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An input topic does not exist.
    #[error(
        "topic {topic:?} does not exist; create it before the application starts, or have it do so with Config::create_topics"
    )]
    MissingTopic {
        /// Its name.
        topic: String,
    },
    /// Two inputs of an operator have different numbers of partitions, so equal keys are not together.
    #[error(
        "{join:?} needs equal keys in one partition, but topic {left:?} has {left_partitions} partitions and {right:?} has {right_partitions}; repartition one of them"
    )]
    CoPartition {
        /// The join, aggregate or table.
        join: Arc<str>,
        /// One input.
        left: String,
        /// Its partitions.
        left_partitions: i32,
        /// The other input.
        right: String,
        /// Its partitions.
        right_partitions: i32,
    },
}
