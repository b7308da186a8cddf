//! What compaction leaves of a batch.
//!
//! Records that stay do so byte for byte but for the timestamps of a batch that gets a delete horizon (KIP-534), which
//! takes the place of the base timestamp that they are relative to. Invariant: base and last offset, leader epoch, producer,
//! sequence, codec and kind of the batch stay as they are. Which records stay is the caller's to say.

use super::{
    BATCH_HEADER_LEN, Batch, BatchError, Compression, DecompressError, Record, RecordError, TimestampType,
    batch::{COMPRESSION_MASK, DELETE_HORIZON_BIT},
    varint::{VarintError, read_varint, read_varlong, varlong_len, write_varint, write_varlong},
};
use bytes::{BufMut, Bytes};

/// Bytes of uncompressed records that are written again: with longer timestamps they still fit a batch.
const RECORDS_LEN_MAX: usize = 1 << 29;

/// What is kept of a batch's records, encoded.
struct Kept {
    records: Vec<u8>,
    count: i32,
    max_timestamp: i64,
}

impl Batch<'_> {
    /// The batch without the records that `keep` refuses; `None` if it stays as it is. Where all go, a batch without records
    /// comes back, of the same offsets and producer. One that has no delete horizon gets `delete_horizon` (ms) if a tombstone
    /// or a transaction marker stays; `None` leaves it without. `limit` caps the bytes of the records' decompressed form.
    ///
    /// # Errors
    /// As [`Batch::decode`], and [`BatchError::Record`] for bytes that are no records: nothing can be left out then.
    pub fn compacted(
        &self,
        limit: usize,
        delete_horizon: Option<i64>,
        mut keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<Option<Bytes>, BatchError> {
        let body = self.decode(limit)?;
        if body.bytes().len() > RECORDS_LEN_MAX {
            return Err(
                DecompressError::TooLarge { codec: self.compression()?, limit: RECORDS_LEN_MAX }.into()
            );
        }
        let (mut kept, mut needs_horizon, mut all) = (Vec::new(), false, true);
        let mut records = body.iter();
        let mut position = 0;
        while let Some(record) = records.next() {
            let record = record?;
            let end = body.bytes().len() - records.bytes_left();
            if keep(&record) {
                needs_horizon |= record.value.is_none() || self.is_control();
                kept.push(position..end);
            } else {
                all = false;
            }
            position = end;
        }
        let horizon = delete_horizon.filter(|_| needs_horizon && self.delete_horizon().is_none());
        if all && horizon.is_none() {
            return Ok(None);
        }
        let base_timestamp = horizon.unwrap_or(self.base_timestamp());
        let ranges = kept.into_iter().map(|range| body.bytes().get(range).unwrap_or_default());
        let kept = self.encode(ranges, base_timestamp)?;
        Ok(Some(self.with_records(&kept, base_timestamp, horizon.is_some())?))
    }

    /// Records of the batch, relative to another base timestamp.
    fn encode<'a>(
        &self,
        records: impl Iterator<Item = &'a [u8]>,
        base_timestamp: i64,
    ) -> Result<Kept, BatchError> {
        let mut kept = Kept { records: Vec::new(), count: 0, max_timestamp: -1 };
        for record in records {
            let on_varint = |fault: VarintError| RecordError { index: kept.count, fault: fault.into() };
            let mut rest = record;
            read_varint(&mut rest).map_err(on_varint)?;
            let (attributes, mut rest) = rest.split_at_checked(1).unwrap_or_default();
            let timestamp = self.base_timestamp().wrapping_add(read_varlong(&mut rest).map_err(on_varint)?);
            kept.count += 1;
            kept.max_timestamp = kept.max_timestamp.max(timestamp);
            if base_timestamp == self.base_timestamp() {
                kept.records.extend_from_slice(record);
                continue;
            }
            let delta = timestamp.wrapping_sub(base_timestamp);
            let len = attributes.len() + varlong_len(delta) + rest.len();
            write_varint(&mut kept.records, i32::try_from(len).expect("the records were bounded"));
            kept.records.extend_from_slice(attributes);
            write_varlong(&mut kept.records, delta);
            kept.records.extend_from_slice(rest);
        }
        Ok(kept)
    }

    /// The batch with other records.
    fn with_records(
        &self,
        kept: &Kept,
        base_timestamp: i64,
        has_new_horizon: bool,
    ) -> Result<Bytes, BatchError> {
        let is_empty = kept.count == 0;
        let mut attributes = self.attributes() | if has_new_horizon { DELETE_HORIZON_BIT } else { 0 };
        let mut batch = Vec::with_capacity(BATCH_HEADER_LEN + kept.records.len());
        batch.resize(BATCH_HEADER_LEN, 0);
        if is_empty {
            // Nothing is left that is compressed or waits for the horizon.
            attributes &= !(COMPRESSION_MASK | DELETE_HORIZON_BIT);
        } else {
            match self.compression()? {
                Compression::None => batch.extend_from_slice(&kept.records),
                codec => codec.compress(&kept.records, &mut batch),
            }
        }
        let max_timestamp = match self.timestamp_type() {
            TimestampType::CreateTime if !is_empty => kept.max_timestamp,
            _ => self.max_timestamp(),
        };
        let base_timestamp = if is_empty { max_timestamp } else { base_timestamp };
        let mut header = Vec::with_capacity(BATCH_HEADER_LEN);
        header.put_i16(attributes);
        header.put_i32(self.last_offset_delta());
        header.put_i64(base_timestamp);
        header.put_i64(max_timestamp);
        header.put_i64(self.producer_id());
        header.put_i16(self.producer_epoch());
        header.put_i32(self.base_sequence());
        header.put_i32(kept.count);
        Ok(super::batch::assemble(batch, (self.base_offset(), self.leader_epoch()), &header))
    }
}
