//! Handlers of consumer groups: who is in them, and what they committed.
//!
//! Wire to [`crate::group`] and back. Versions are known here and nowhere below. What reads committed offsets or lists
//! groups runs on the background runtime, since a fold may have to read the log.

pub(crate) mod delete_groups;
pub(crate) mod describe_groups;
pub(crate) mod find_coordinator;
pub(crate) mod heartbeat;
pub(crate) mod join_group;
pub(crate) mod leave_group;
pub(crate) mod list_groups;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod sync_group;
#[cfg(test)]
mod tests;

use super::{Node, elsewhere, joined, once};
use crate::group::{GroupError, Waiting};
use kappa_protocol::{ErrorCode, Reply, Response};

/// The code of what a group answers instead of doing what was asked.
pub(crate) fn group_error_code(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::InvalidGroupId { .. } => ErrorCode::InvalidGroupId,
        GroupError::InvalidSessionTimeout { .. } => ErrorCode::InvalidSessionTimeout,
        GroupError::TooLarge { .. } => ErrorCode::InvalidRequest,
        GroupError::MemberIdRequired { .. } => ErrorCode::MemberIdRequired,
        GroupError::UnknownMember => ErrorCode::UnknownMemberId,
        GroupError::FencedInstance => ErrorCode::FencedInstanceId,
        GroupError::IllegalGeneration { .. } => ErrorCode::IllegalGeneration,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::Full { .. } => ErrorCode::GroupMaxSizeReached,
        GroupError::NotEmpty => ErrorCode::NonEmptyGroup,
        GroupError::NotFound => ErrorCode::GroupIdNotFound,
        GroupError::Subscribed => ErrorCode::GroupSubscribedToTopic,
        GroupError::TopicDeleted => ErrorCode::UnknownTopicOrPartition,
        GroupError::RecordTooLarge => ErrorCode::UnknownServerError,
        // Clients look for the coordinator anew and try again: the disk may have healed by then.
        // So do they here: others may have gone.
        GroupError::OutOfMemory { .. }
        | GroupError::NotAvailable
        | GroupError::Lost
        | GroupError::NotStored => ErrorCode::CoordinatorNotAvailable,
    }
}

impl Node {
    /// The number on the wire of what a group answered; counted if it is an error.
    fn group_outcome(&self, outcome: &Result<(), GroupError>) -> i16 {
        self.error(outcome.as_ref().err().map_or(ErrorCode::None, group_error_code))
    }
}

/// Answers now if that is possible, else when the group does.
fn reply<T: Send + 'static>(
    waiting: Result<Waiting<T>, GroupError>,
    respond: impl FnOnce(Result<T, GroupError>) -> Response + Send + 'static,
) -> Reply {
    match waiting.map(Waiting::now) {
        Err(error) => Reply::Now(respond(Err(error))),
        Ok(Ok(answer)) => Reply::Now(respond(answer)),
        Ok(Err(waiting)) => Reply::later(async move { respond(waiting.await) }),
    }
}
