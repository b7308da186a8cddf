//! Why a change of the catalog was refused. Every message names the thing and the cure.

use super::name::TopicNameError;
use crate::config::PropertyError;
use std::sync::Arc;
use uuid::Uuid;

/// A change of topics or configs that did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TopicError {
    /// Not the name of a topic.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// A topic of this name exists.
    #[error("topic {0} already exists")]
    Exists(Arc<str>),
    /// A topic exists whose name differs in `.` and `_` only.
    #[error("topic {name} collides with {existing}: names may not differ in '.' and '_' only")]
    Collision {
        /// The name asked for.
        name: String,
        /// The topic that is there.
        existing: Arc<str>,
    },
    /// No topic has this name.
    #[error("topic {0} does not exist")]
    Unknown(String),
    /// No topic has this id.
    #[error("no topic has the id {0}")]
    UnknownId(Uuid),
    /// The topic belongs to the broker.
    #[error("{0} is an internal topic and not to be changed by clients")]
    Internal(String),
    /// A number of partitions out of bounds.
    #[error("{partitions} partitions: a topic has 1 to {max} (kappa.max.partitions.per.topic)")]
    Partitions {
        /// The number asked for.
        partitions: i32,
        /// Most partitions of a topic.
        max: i32,
    },
    /// More partitions than the broker may have.
    #[error("{asked} more partitions on top of {existing} exceed kappa.max.partitions={max}")]
    BrokerFull {
        /// Partitions asked for.
        asked: i32,
        /// Partitions that exist.
        existing: i32,
        /// Most partitions of the broker.
        max: i32,
    },
    /// A topic cannot shrink, nor stay.
    #[error("topic {name} has {existing} partitions already: {asked} is not an increase")]
    NotAnIncrease {
        /// The topic.
        name: Arc<str>,
        /// Partitions it has.
        existing: i32,
        /// Partitions asked for.
        asked: i32,
    },
    /// There is one broker.
    #[error("replication factor {0}: there is one broker, so it must be 1 (or -1 for the default)")]
    ReplicationFactor(i16),
    /// Replica assignments that this broker cannot satisfy.
    #[error("replica assignment: {0}")]
    Assignment(&'static str),
    /// Topics may not be deleted.
    #[error("topics may not be deleted: delete.topic.enable is false")]
    DeletionDisabled,
    /// A property that does not exist or a value it does not take.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// An operation that the property does not support.
    #[error("{0}")]
    Config(String),
    /// The disk failed; nothing was changed.
    #[error("the catalog cannot be written: {0}")]
    Storage(Arc<str>),
    /// What groups committed for an earlier topic of this name cannot be removed yet.
    #[error(
        "topic {0} was deleted, but the offsets that groups committed for it are still there, since the disk failed: \
         try again"
    )]
    Owed(Arc<str>),
    /// Too many changes wait already.
    #[error("too many changes of the catalog wait already: try again")]
    Busy,
    /// A change of the catalog panicked: what it left half done is not built upon.
    #[error(
        "a change of the catalog panicked, no more are made: restart the broker, which reads the catalog again"
    )]
    Fenced,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

impl TopicError {
    /// A failure of the disk or the log.
    pub(crate) fn storage(error: impl std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Storage(text.into())
    }
}
