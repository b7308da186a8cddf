//! The timestamps of a batch's records, read without decoding the records.
//!
//! A header's largest timestamp is what a client says; some leave it at -1, some take the last record's. This is what
//! the records say. Invariant: as many records as the header counts use up the bytes exactly, or it is an error; what a
//! record holds behind its timestamp is not looked at.

use super::{
    Batch, BatchError, RecordError, RecordFault,
    varint::{read_varint, read_varlong},
};

/// Timestamp of a record that has none.
const NO_TIMESTAMP: i64 = -1;

/// The timestamps that the records of a batch bear, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampRange {
    /// The smallest; [`i64::MAX`] if no record has one.
    pub earliest: i64,
    /// The largest; -1, as in Kafka, if no record has one that is not negative.
    pub latest: i64,
}

impl Batch<'_> {
    /// The timestamps that the producer gave the records; `limit` caps the bytes of their decompressed form.
    ///
    /// # Errors
    /// As [`Batch::decode`], and [`BatchError::Record`] for bytes that are no records.
    pub fn timestamps(&self, limit: usize) -> Result<TimestampRange, BatchError> {
        self.timestamps_and_len(limit).map(|(range, _)| range)
    }

    /// The same, with the number of bytes of the records' decompressed form.
    ///
    /// # Errors
    /// As [`Batch::timestamps`].
    pub fn timestamps_and_len(&self, limit: usize) -> Result<(TimestampRange, usize), BatchError> {
        let body = self.decode(limit)?;
        let mut rest = body.bytes();
        let mut range = TimestampRange { earliest: i64::MAX, latest: NO_TIMESTAMP };
        for index in 0..self.count() {
            let delta = read_delta(&mut rest).map_err(|fault| RecordError { index, fault })?;
            let timestamp = self.base_timestamp().wrapping_add(delta);
            if timestamp != NO_TIMESTAMP {
                range.earliest = range.earliest.min(timestamp);
                range.latest = range.latest.max(timestamp);
            }
        }
        match rest.len() {
            0 => Ok((range, body.bytes().len())),
            extra => {
                Err(RecordError { index: self.count(), fault: RecordFault::TrailingBytes { extra } }.into())
            }
        }
    }
}

/// The timestamp delta of the next record, which is passed over.
#[inline]
fn read_delta(rest: &mut &[u8]) -> Result<i64, RecordFault> {
    let length = read_varint(rest)?;
    let needed = usize::try_from(length).map_err(|_| RecordFault::NegativeLength { length })?;
    let available = rest.len();
    let (record, behind) =
        rest.split_at_checked(needed).ok_or(RecordFault::Truncated { needed, available })?;
    *rest = behind;
    // The attributes stand before it, of which no bit has a meaning yet.
    let mut fields = record.get(1..).ok_or(RecordFault::Truncated { needed: 1, available: 0 })?;
    Ok(read_varlong(&mut fields)?)
}
