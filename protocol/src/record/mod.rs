//! Record batches (v2), the unit that is produced, stored, fetched and checked.
//!
//! [`Batch`] is a borrowed view of one, with the checks that bytes from a producer ([`Batch::produced`])
//! or from a log ([`Batch::stored`]) must pass; [`DecodedBatch`] owns its records for a consumer;
//! [`BatchBuilder`] makes one, and
//! [`Batch::compacted`] leaves records out of one. Records are decoded lazily and point into the bytes they came from.
//! Invariant: no bytes make this module panic, or allocate more than a limit its caller gave.
//! It knows neither files nor sockets nor clocks, and no request or response that carries a batch.
//!
//! ```
//! use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, Compression, DecodedBatch};
//!
//! let mut builder = BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..Default::default() });
//! builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), [("trace", None)]);
//! let bytes = builder.finish(42);
//!
//! assert_eq!(Batch::produced(&bytes)?.next_offset(), 43);
//! let batch = DecodedBatch::decode(bytes, 1 << 20)?;
//! for record in batch.records() {
//!     let record = record?;
//!     assert_eq!((record.offset, record.key), (42, Some(&b"key"[..])));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod builder;
mod checksum;
mod compacted;
mod compression;
mod decoded;
mod iter;
mod lz4;
mod murmur2;
mod snappy;
mod timestamps;
pub mod varint;

pub use batch::{BATCH_HEADER_LEN, Batch, BatchError, patched_prefix};
pub use builder::{BatchBuilder, BatchOptions, ProducerStamp};
pub use checksum::crc32c;
pub use compression::{Compression, DecompressError, UnknownCodec};
pub use decoded::{DecodedBatch, RecordBody};
pub use iter::{Headers, Record, RecordError, RecordFault, RecordIter};
pub use murmur2::{murmur2, partition_for_key};
pub use timestamps::TimestampRange;

/// Whose clock the timestamps of a batch are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's: each record has its own.
    #[default]
    CreateTime,
    /// The broker's: all records have the time at which the batch was appended.
    LogAppendTime,
}
