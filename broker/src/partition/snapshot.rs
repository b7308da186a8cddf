//! `.snapshot` files: the producers of a partition as of an offset, in Kafka's format with an annex.
//!
//! ```text
//! version i16 = 1 | crc u32 (CRC-32C of all that follows) | number of producers i32 | per producer, 46 bytes:
//!   id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32 | timestamp i64
//!   | coordinator epoch i32 = -1 | first offset of its open transaction i64 = -1
//! annex, per producer in the same order: number of earlier batches u8 | per batch, oldest first, 24 bytes:
//!   last sequence i32 | last offset i64 | offset delta i32 | timestamp i64
//! ```
//! Kafka keeps only a producer's last batch, and its reader ignores what follows the producers; the annex has the
//! others, so that a producer's retries are recognised after a restart too. A snapshot without it is fine.
//! Invariant: bytes whose checksum is wrong are no snapshot.

use super::producers::{BATCHES_MAX, BatchStamp, Producer, Producers};
use crate::log::Snapshot;
use kappa_protocol::record::crc32c;

const VERSION: i16 = 1;
const CRC_END: usize = 6;
const NONE: i64 = -1;

impl Snapshot for Producers {
    fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

/// The snapshot of `producers`, ordered by producer id.
pub(super) fn encode(producers: &Producers) -> Vec<u8> {
    let mut ordered: Vec<_> = producers.iter().collect();
    ordered.sort_unstable_by_key(|(producer_id, _)| *producer_id);
    let mut body = Vec::with_capacity(4 + ordered.len() * 64);
    body.extend_from_slice(&(ordered.len() as u32).to_be_bytes());
    for (producer_id, producer) in &ordered {
        let last = producer.batches().last().copied().unwrap_or(EMPTY);
        body.extend_from_slice(&producer_id.to_be_bytes());
        body.extend_from_slice(&producer.epoch.to_be_bytes());
        put_stamp(&mut body, &last);
        body.extend_from_slice(&(NONE as i32).to_be_bytes());
        body.extend_from_slice(&NONE.to_be_bytes());
    }
    for (_, producer) in &ordered {
        let earlier = producer.batches().split_last().map_or(&[][..], |(_, earlier)| earlier);
        body.push(earlier.len() as u8);
        earlier.iter().for_each(|stamp| put_stamp(&mut body, stamp));
    }
    let mut bytes = Vec::with_capacity(CRC_END + body.len());
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// What a producer without batches has in the place of its last one, as in Kafka.
const EMPTY: BatchStamp = BatchStamp { last_sequence: -1, last_offset: -1, offset_delta: 0, timestamp: -1 };

/// The producers of a snapshot, all seen at `steady_ms`, of more than `limit` the last; `None` if the bytes are none.
pub(super) fn decode(bytes: &[u8], steady_ms: i64, limit: usize) -> Option<Producers> {
    let (head, body) = bytes.split_at_checked(CRC_END)?;
    let mut head = Fields(head);
    let (version, crc) = (i16::from_be_bytes(head.take()?), u32::from_be_bytes(head.take()?));
    if version != VERSION || crc != crc32c(body) {
        return None;
    }
    let mut fields = Fields(body);
    let count = u32::from_be_bytes(fields.take()?);
    let mut decoded = Vec::new();
    for _ in 0..count {
        let producer_id = i64::from_be_bytes(fields.take()?);
        let epoch = i16::from_be_bytes(fields.take()?);
        let last = take_stamp(&mut fields)?;
        fields.take::<12>()?;
        decoded.push((producer_id, epoch, last));
    }
    let mut producers = Producers::default();
    for (producer_id, epoch, last) in decoded {
        let mut producer = Producer::new(epoch, steady_ms);
        if let Some([earlier]) = fields.take() {
            for _ in 0..usize::from(earlier).min(BATCHES_MAX) {
                producer.push(take_stamp(&mut fields)?);
            }
        }
        if last != EMPTY {
            producer.push(last);
        }
        producers.insert(producer_id, producer, limit);
    }
    Some(producers)
}

fn put_stamp(body: &mut Vec<u8>, stamp: &BatchStamp) {
    body.extend_from_slice(&stamp.last_sequence.to_be_bytes());
    body.extend_from_slice(&stamp.last_offset.to_be_bytes());
    body.extend_from_slice(&stamp.offset_delta.to_be_bytes());
    body.extend_from_slice(&stamp.timestamp.to_be_bytes());
}

fn take_stamp(fields: &mut Fields<'_>) -> Option<BatchStamp> {
    Some(BatchStamp {
        last_sequence: i32::from_be_bytes(fields.take()?),
        last_offset: i64::from_be_bytes(fields.take()?),
        offset_delta: i32::from_be_bytes(fields.take()?),
        timestamp: i64::from_be_bytes(fields.take()?),
    })
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::producers::tests::batch;
    use kappa_protocol::record::Batch;

    fn producers() -> Producers {
        let mut producers = Producers::default();
        for number in 0..7_i32 {
            let bytes = batch(2, number * 3, 3);
            producers.add(&Batch::produced(&bytes).unwrap(), i64::from(number) * 10, 5, usize::MAX);
        }
        producers.insert(1, Producer::new(0, 5), usize::MAX);
        producers
    }

    #[test]
    fn a_snapshot_brings_back_all_batches() {
        let bytes = encode(&producers());
        assert_eq!(bytes.len(), 2 + 4 + 4 + 2 * 46 + 2 + 4 * 24);
        assert_eq!(decode(&bytes, 5, usize::MAX), Some(producers()));
        assert_eq!(decode(&encode(&Producers::default()), 5, usize::MAX), Some(Producers::default()));
    }

    #[test]
    fn a_snapshot_of_kafka_has_the_last_batches_only() {
        // The annex is cut off and the checksum made right, as Kafka would have written it.
        let mut bytes = encode(&producers());
        bytes.truncate(2 + 4 + 4 + 2 * 46);
        let crc = crc32c(&bytes[CRC_END..]);
        bytes[2..CRC_END].copy_from_slice(&crc.to_be_bytes());
        let decoded = decode(&bytes, 5, usize::MAX).unwrap();
        assert_eq!(decoded.summaries().len(), 2);
        assert_eq!(decoded.get(7).unwrap().batches(), &producers().get(7).unwrap().batches()[4..]);
    }

    #[test]
    fn torn_or_flipped_bytes_are_no_snapshot() {
        let bytes = encode(&producers());
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], 5, usize::MAX), None);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(decode(&flipped, 5, usize::MAX), None, "byte {at}");
        }
    }
}
