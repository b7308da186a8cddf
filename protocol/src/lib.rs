//! Kafka's wire protocol as types: frames, messages, record batches, error codes, limits and the [`Service`] seam.
//!
//! Bytes to types and back, nothing else: no I/O, no clock, no async runtime. Whatever is read here may come from an
//! enemy: it never panics, and no length read sizes an allocation before the bytes behind it are known to be there.
//! Facts come from Apache Kafka's public protocol guide and message definitions (`schema/`).

pub mod api;
pub mod error_code;
pub mod frame;
pub mod limits;
pub mod messages;
pub mod record;
mod records;
pub mod service;
pub mod wire;

pub use api::{ApiKey, Request, RequestMessage, Response};
pub use error_code::ErrorCode;
pub use records::{Piece, Records, Region};
pub use service::{Context, LaneError, Operation, Principal, Reply, ReplyFuture, Resource, Service};
pub use wire::{DecodeError, EncodeError};

/// A message of the schema: a request, a response, a header or a stored record.
pub trait Message: Default {
    /// Its name in the schema.
    const NAME: &'static str;

    /// Reads it in `version`.
    ///
    /// # Errors
    /// Whatever [`DecodeError`] says; the reader is then of no further use.
    fn decode(r: &mut wire::Reader, version: i16) -> Result<Self, DecodeError>;

    /// Writes it in `version`.
    ///
    /// # Errors
    /// [`EncodeError`] where the version cannot carry what is set; the writer is then of no further use.
    fn encode(&self, w: &mut wire::Writer, version: i16) -> Result<(), EncodeError>;
}
