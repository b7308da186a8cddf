//! What a poll returns: whole record batches, decoded in place.

use crate::TopicPartition;
use bytes::Bytes;
use kappa_protocol::record::{DecodedBatch, Record, RecordError};

/// A batch of one partition, and what its broker said of the partition when it was fetched.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// The partition.
    pub partition: TopicPartition,
    /// The batch. It may begin with records before [`FetchedBatch::start`]; [`FetchedBatch::records`] leaves them out.
    pub batch: DecodedBatch,
    /// Offset of the first record that is wanted.
    pub start: i64,
    /// End of what may be read, exclusive.
    pub high_watermark: i64,
    /// First offset of an open transaction, at most the high watermark; -1 if the broker did not tell.
    pub last_stable_offset: i64,
    /// First offset that can still be read; -1 if the broker did not tell.
    pub log_start_offset: i64,
}

impl FetchedBatch {
    /// The records from [`FetchedBatch::start`] on, borrowed from the batch.
    ///
    /// # Errors
    /// A record can be malformed though the batch's checksum holds, if its producer wrote it so. The iteration ends
    /// there; [`FetchedBatch::next_offset`] is where the consumer goes on.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        let start = self.start;
        self.batch.records().filter(move |record| !matches!(record, Ok(record) if record.offset < start))
    }

    /// An owned handle on a key, value or header value of this batch, without a copy.
    ///
    /// # Panics
    /// If `part` does not lie within the records of this batch.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        self.batch.slice(part)
    }

    /// The offset that follows the batch.
    pub fn next_offset(&self) -> i64 {
        self.batch.next_offset()
    }

    /// Records between this batch and the end of the partition when it was fetched.
    pub fn lag(&self) -> i64 {
        (self.high_watermark - self.next_offset()).max(0)
    }
}
