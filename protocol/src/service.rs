//! The one seam between those who ask and those who answer: an ordered lane to one node.
//!
//! The broker's lanes are [`Service`]s, and so is a client's connection. A lane carries typed requests; whether
//! there is a socket in between is the lane's own business.

use crate::api::{Request, Response};
use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::Arc};

/// One ordered lane to one node.
///
/// When [`Service::call`] returns, a produce request has been carried out in its place (sequence check, append,
/// enqueueing on a socket). Any other request takes effect some time until its reply has resolved, and what waits to be
/// durable is shown from then on: who wants a later call to see an earlier one awaits the earlier reply first. A lane
/// over a socket keeps that order by itself, as Apache Kafka does.
pub trait Service: Send + Sync {
    /// Asks. Never blocks on a disk or a peer: what has to wait is in the reply.
    fn call(&self, cx: &Context, request: Request) -> Reply;
}

/// Waits for an answer, no more: dropping it deregisters the waiter and undoes nothing.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Result<Response, LaneError>> + Send>>;

/// How a request is answered.
#[must_use]
pub enum Reply {
    /// At once.
    Now(Response),
    /// Once something has happened: a sync, an append, an answer from the network.
    Later(ReplyFuture),
    /// Not at all: a produce request with `acks=0`.
    None,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Now(response) => f.debug_tuple("Now").field(response).finish(),
            Reply::Later(_) => f.write_str("Later"),
            Reply::None => f.write_str("None"),
        }
    }
}

impl Reply {
    /// A reply that waits for `future`.
    pub fn later(future: impl Future<Output = Response> + Send + 'static) -> Reply {
        Reply::Later(Box::pin(async move { Ok(future.await) }))
    }
}

/// Why a lane gave no answer. The request may or may not have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The connection is gone.
    #[error("connection lost: {reason}")]
    Disconnected {
        /// What the transport said.
        reason: Arc<str>,
    },
    /// The answer did not come in time.
    #[error("no answer within {millis} ms")]
    Timeout {
        /// How long the lane waited.
        millis: u64,
    },
    /// The request cannot be written in the version chosen.
    #[error("cannot write the request: {0}")]
    Encode(#[from] crate::EncodeError),
    /// The answer cannot be read: the peers disagree about the protocol, and the lane is closed.
    #[error("cannot read the answer: {0}")]
    Decode(#[from] crate::DecodeError),
}

/// Who asks, and in which version.
#[derive(Clone, Debug)]
pub struct Context {
    /// Version of the request and of the response it gets.
    pub version: i16,
    /// On whose behalf.
    pub principal: Principal,
    /// What the client calls itself.
    pub client_id: Option<Arc<str>>,
    /// Where the request came from; loopback in process.
    pub client_address: IpAddr,
}

impl Context {
    /// Whether the principal may do this. Everything is allowed until there are access rules; handlers ask for every
    /// resource all the same, since answers are partial.
    pub fn allows(&self, _operation: Operation, _resource: Resource<'_>) -> bool {
        true
    }
}

/// An authenticated identity, `User:ANONYMOUS` where there is no authentication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Kafka's principal of unauthenticated connections.
    pub fn anonymous() -> Principal {
        Principal(Arc::from("User:ANONYMOUS"))
    }

    /// `type:name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is done to a resource, in the words of Kafka's access rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    ClusterAction,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
}

/// What an operation is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// A topic by name.
    Topic(&'a str),
    /// A consumer group by id.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
    /// The cluster itself.
    Cluster,
}
