//! Why a broker did not answer, or answered no.
//!
//! These are the errors below all operations; producer, consumer and admin wrap them where they add what they were
//! doing. Messages name the address and say what to do.

use kappa_protocol::{ApiKey, ErrorCode, LaneError};
use std::sync::Arc;

/// No connection to a broker could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The list of addresses is empty.
    #[error("no bootstrap address given; expected host:port")]
    NoAddress,
    /// An address is not one.
    #[error("bootstrap address {0:?} is not host:port")]
    InvalidAddress(Arc<str>),
    /// The host name has no address.
    #[error("cannot resolve {address}: {reason}; check the host name")]
    Unresolved {
        /// Address as given.
        address: Arc<str>,
        /// What the resolver said.
        reason: Arc<str>,
    },
    /// Nothing accepts connections there.
    #[error("cannot reach {address}: {reason}; is the broker running?")]
    Unreachable {
        /// Address as given.
        address: Arc<str>,
        /// What the operating system said.
        reason: Arc<str>,
    },
    /// The peer accepted the connection but did not tell its API versions.
    #[error(
        "{address} does not answer as a Kafka broker: {reason}; is this the right port? Or it has no room for more \
         connections (max.connections, ulimit -n)"
    )]
    NotABroker {
        /// Address as given.
        address: Arc<str>,
        /// What went wrong.
        reason: Arc<str>,
    },
    /// The metadata names no node of this id.
    #[error("node {node} is not in the cluster's metadata")]
    UnknownNode {
        /// The node's id.
        node: i32,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// A request was not answered, or answered with an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection failed before the answer came. The request may have been carried out.
    #[error("{api} to {address}: {reason}")]
    Lane {
        /// What was asked.
        api: ApiKey,
        /// Whom.
        address: Arc<str>,
        /// What happened.
        reason: LaneError,
    },
    /// Client and broker share no version of the API.
    #[error("{address} does not support {api} in a version that this client knows ({min} to {max})")]
    Unsupported {
        /// What was to be asked.
        api: ApiKey,
        /// Whom.
        address: Arc<str>,
        /// Oldest version known here.
        min: i16,
        /// Newest version known here.
        max: i16,
    },
    /// The broker said no.
    #[error("{api} failed: {}", refusal(*code, message.as_deref()))]
    Refused {
        /// What was asked.
        api: ApiKey,
        /// The broker's error code.
        code: ErrorCode,
        /// The broker's explanation, if it gave one.
        message: Option<Arc<str>>,
    },
    /// The answer has another shape than the request asks for.
    #[error("{api}: the answer lacks what was asked for")]
    Incomplete {
        /// What was asked.
        api: ApiKey,
    },
}

impl RequestError {
    /// A refusal with `code`, if it is one.
    pub(crate) fn check(api: ApiKey, code: i16, message: Option<&str>) -> Result<(), RequestError> {
        match ErrorCode::from(code) {
            ErrorCode::None => Ok(()),
            code => Err(RequestError::Refused { api, code, message: message.map(Arc::from) }),
        }
    }

    /// The broker's error code, if it answered with one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            RequestError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            RequestError::Connect(error) => !matches!(
                error,
                ConnectError::Closed | ConnectError::NoAddress | ConnectError::InvalidAddress(_)
            ),
            RequestError::Lane { reason, .. } => {
                matches!(reason, LaneError::Disconnected { .. } | LaneError::Timeout { .. })
            }
            RequestError::Refused { code, .. } => code.is_retriable(),
            RequestError::Unsupported { .. } | RequestError::Incomplete { .. } => false,
        }
    }

    /// Whether every further call will fail in the same way.
    pub fn is_fatal(&self) -> bool {
        match self {
            RequestError::Connect(error) => matches!(error, ConnectError::Closed),
            RequestError::Unsupported { .. } => true,
            RequestError::Refused { code, .. } => {
                matches!(code, ErrorCode::ClusterAuthorizationFailed | ErrorCode::UnsupportedVersion)
            }
            RequestError::Lane { .. } | RequestError::Incomplete { .. } => false,
        }
    }
}

/// The broker's words for an error code, or the code's name and what to do about it.
pub(crate) fn refusal(code: ErrorCode, message: Option<&str>) -> String {
    let advice = match code {
        ErrorCode::UnknownTopicOrPartition => "; does the topic exist?",
        ErrorCode::TopicAlreadyExists => "; choose another name or delete it first",
        ErrorCode::MessageTooLarge => "; raise max.message.bytes of the topic or send less at once",
        ErrorCode::NonEmptyGroup => "; stop the group's members first",
        ErrorCode::GroupIdNotFound => "; does the group exist?",
        _ => "",
    };
    match message {
        Some(message) if !message.is_empty() => format!("{message} ({code})"),
        _ => format!("{code}{advice}"),
    }
}
