//! Records of a batch, decompressed: borrowed ([`RecordBody`]) or owned ([`DecodedBatch`]).
//!
//! Invariant: a batch is decompressed once, when made into one of these, and uncompressed records
//! are never copied: they stay where the batch was.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use super::{BATCH_HEADER_LEN, Batch, BatchError, Compression, RecordIter};

/// The records of a borrowed batch: borrowed too, unless they had to be decompressed.
#[derive(Debug, Clone)]
pub struct RecordBody<'a> {
    batch: Batch<'a>,
    records: Cow<'a, [u8]>,
}

impl<'a> RecordBody<'a> {
    pub(super) fn decode(batch: Batch<'a>, limit: usize) -> Result<Self, BatchError> {
        let records = match batch.compression()? {
            Compression::None => Cow::Borrowed(batch.body()),
            // An emptied batch has no records to compress, whatever its attributes say.
            _ if batch.body().is_empty() => Cow::Borrowed(batch.body()),
            codec => Cow::Owned(codec.decompress(batch.body(), limit)?),
        };
        Ok(Self { batch, records })
    }

    /// Iterates over the records, checking each.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.batch, &self.records)
    }

    /// The encoded records, uncompressed.
    pub fn bytes(&self) -> &[u8] {
        &self.records
    }
}

impl<'a> IntoIterator for &'a RecordBody<'_> {
    type Item = <RecordIter<'a> as Iterator>::Item;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

/// A batch that owns its records, for a consumer: cheap to clone and to send, and keys and values can
/// be kept beyond it without a copy ([`DecodedBatch::slice`]).
#[derive(Clone)]
pub struct DecodedBatch {
    header: [u8; BATCH_HEADER_LEN],
    records: Bytes,
}

impl DecodedBatch {
    /// Checks `bytes` as exactly one stored batch, checksum included, and decodes it; `limit` caps
    /// the bytes of decompressed records. Uncompressed records share the memory of `bytes`.
    ///
    /// # Errors
    /// As [`Batch::stored`] and [`Batch::decode`]; [`BatchError::TrailingBytes`] for more than one.
    pub fn decode(bytes: Bytes, limit: usize) -> Result<Self, BatchError> {
        let mut rest = bytes;
        let batch = Self::split_from(&mut rest, limit)?;
        if rest.is_empty() { Ok(batch) } else { Err(BatchError::TrailingBytes { extra: rest.len() }) }
    }

    /// Takes the next stored batch off the front of `bytes`, as they come in a fetch response.
    ///
    /// # Errors
    /// As [`DecodedBatch::decode`]; `bytes` then stays as it was. A fetch response may end within a
    /// batch, which is [`BatchError::Incomplete`] and no fault.
    pub fn split_from(bytes: &mut Bytes, limit: usize) -> Result<Self, BatchError> {
        let (batch, _) = Batch::stored(bytes)?;
        let (header, size) = (*batch.header_bytes(), batch.size());
        let decompressed = match batch.decode(limit)?.records {
            Cow::Owned(records) => Some(Bytes::from(records)),
            Cow::Borrowed(_) => None,
        };
        let whole = bytes.split_to(size);
        let records = decompressed.unwrap_or_else(|| whole.slice(BATCH_HEADER_LEN..));
        Ok(Self { header, records })
    }

    /// The header, as a view whose records are missing ([`Batch::header`]).
    pub fn header(&self) -> Batch<'_> {
        Batch::header(&self.header).expect("the header was checked when the batch was decoded")
    }

    /// Iterates over the records, checking each.
    pub fn records(&self) -> RecordIter<'_> {
        RecordIter::new(&self.header(), &self.records)
    }

    /// An owned handle on a key, value or header value of this batch, without a copy. It keeps the
    /// memory of all the batch's records alive.
    ///
    /// # Panics
    /// If `part` does not lie within the records of this batch.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        self.records.slice_ref(part)
    }

    /// The encoded records, uncompressed.
    pub fn bytes(&self) -> &Bytes {
        &self.records
    }

    /// Offset of the first record, or what was it before compaction took that record.
    pub fn base_offset(&self) -> i64 {
        self.header().base_offset()
    }

    /// The offset that follows the batch, where a consumer goes on.
    pub fn next_offset(&self) -> i64 {
        self.header().next_offset()
    }

    /// Number of records, as the header says.
    pub fn count(&self) -> usize {
        usize::try_from(self.header().count()).unwrap_or(0)
    }
}

impl fmt::Debug for DecodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records_len = self.records.len();
        f.debug_struct("DecodedBatch")
            .field("header", &self.header())
            .field("records_len", &records_len)
            .finish()
    }
}
