//! Which node answers, and over which lane: connections, versions, metadata.
//!
//! A [`Lane`] leads to one node; the client above it chooses the node by the metadata. Whether a lane crosses a
//! socket ([`connection`]) or is an embedded broker's makes no difference to anyone above.

pub(crate) mod backoff;
mod connection;
mod lane;
pub(crate) mod metadata;
mod versions;

pub(crate) use lane::{Endpoint, Link};
pub use lane::{Lane, LaneKind};
