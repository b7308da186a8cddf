//! Why a group refuses, with the numbers that say why.

use crate::partition::AppendError;

/// What the coordinator answers instead of doing what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GroupError {
    /// The group id is empty where it may not be, or longer than a record key can hold.
    #[error("a group id of {len} bytes is not between {min} and {max}")]
    InvalidGroupId {
        /// Bytes given.
        len: usize,
        /// Fewest allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// The session timeout is out of bounds.
    #[error("session timeout {timeout_ms} ms is not between {min_ms} and {max_ms}")]
    InvalidSessionTimeout {
        /// What the member asked for.
        timeout_ms: i32,
        /// `group.min.session.timeout.ms`.
        min_ms: i32,
        /// `group.max.session.timeout.ms`.
        max_ms: i32,
    },
    /// A field of the request is larger than a group keeps.
    #[error("{what} of {len} bytes exceeds {max}")]
    TooLarge {
        /// Which field.
        what: &'static str,
        /// Bytes given.
        len: usize,
        /// Most allowed.
        max: usize,
    },
    /// A member that is new must come back with the id that is given here.
    #[error("join again as member {member_id}")]
    MemberIdRequired {
        /// The id reserved for it.
        member_id: String,
    },
    /// The group has no such member.
    #[error("unknown member")]
    UnknownMember,
    /// Another member has taken the instance id over.
    #[error("another member has this group instance id")]
    FencedInstance,
    /// The member speaks of another generation.
    #[error("generation {got} is not the current one, {current}")]
    IllegalGeneration {
        /// The group's generation.
        current: i32,
        /// The member's.
        got: i32,
    },
    /// A rebalance is under way: rejoin.
    #[error("a rebalance is in progress")]
    RebalanceInProgress,
    /// The protocol type, or all of the protocols, differ from the other members'.
    #[error("no protocol in common with the group")]
    InconsistentProtocol,
    /// The group is full.
    #[error("the group has its {max} members")]
    Full {
        /// `group.max.size`.
        max: usize,
    },
    /// All groups together hold as much as they may.
    #[error(
        "groups hold {used} bytes of what their members said and were given, and {bytes} more pass \
         kappa.groups.bytes.max = {max}: raise it, or have members say less"
    )]
    OutOfMemory {
        /// Bytes held.
        used: usize,
        /// Bytes that would come to them.
        bytes: usize,
        /// `kappa.groups.bytes.max`.
        max: usize,
    },
    /// The group has members, so it may not be deleted.
    #[error("the group is not empty")]
    NotEmpty,
    /// The group does not exist.
    #[error("no such group")]
    NotFound,
    /// The group has members that read the topic.
    #[error("the group subscribes to the topic")]
    Subscribed,
    /// A topic was deleted while offsets of it were being committed.
    #[error("the topic was deleted")]
    TopicDeleted,
    /// `__consumer_offsets` does not exist yet; finding the coordinator creates it.
    #[error("there is no coordinator yet")]
    NotAvailable,
    /// A thread panicked over the groups of the partition, so that nothing is known of them.
    #[error("a thread panicked over the groups: restart the broker, which reads them again")]
    Lost,
    /// The group's record, or the batch of a commit, is larger than a partition takes.
    #[error("the records are larger than __consumer_offsets takes")]
    RecordTooLarge,
    /// The group's records could not be made durable.
    #[error("the group's records were not stored")]
    NotStored,
}

impl From<AppendError> for GroupError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::TooLarge { .. } | AppendError::LargerThanSegment { .. } => Self::RecordTooLarge,
            error => {
                tracing::warn!(%error, "group records not stored");
                Self::NotStored
            }
        }
    }
}
