//! What the tests of this binary share: records as plain values, and bytes made to look right.

use std::io::Write;

use bytes::Bytes;
use kappa_protocol::record::{
    BATCH_HEADER_LEN, BatchBuilder, BatchOptions, Compression, DecodedBatch, Record, crc32c,
};
use proptest::prelude::*;

/// Plenty for every batch of these tests but the bombs.
pub(crate) const LIMIT: usize = 1 << 24;

/// A record as a plain value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Plain {
    pub(crate) fn of(record: &Record<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Self {
            timestamp: record.timestamp,
            key: owned(record.key),
            value: owned(record.value),
            headers: record.headers.map(|(name, value)| (name.into_owned(), owned(value))).collect(),
        }
    }

    pub(crate) fn push_to(&self, builder: &mut BatchBuilder, offset_delta: i32) {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        builder.push_at(offset_delta, self.timestamp, self.key.as_deref(), self.value.as_deref(), headers);
    }
}

pub(crate) fn build(records: &[Plain], options: BatchOptions, base_offset: i64) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (delta, record) in records.iter().enumerate() {
        record.push_to(&mut builder, delta as i32);
    }
    builder.finish(base_offset)
}

/// A few records of every shape, `count` of them.
pub(crate) fn sample(count: usize) -> Vec<Plain> {
    let record = |n: usize| Plain {
        timestamp: 1_700_000_000_000 + n as i64 * 7 % 50,
        key: (!n.is_multiple_of(3)).then(|| format!("key-{n}").into_bytes()),
        value: (n % 5 != 4).then(|| format!("value number {n} of a batch").into_bytes()),
        headers: (0..n % 3).map(|h| (format!("h{h}"), (h == 0).then(|| vec![0xff; n % 7]))).collect(),
    };
    (0..count).map(record).collect()
}

pub(crate) fn plain_records() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let headers = proptest::collection::vec((".{0,12}", bytes()), 0..4);
    let record = (any::<i64>(), any::<u8>(), bytes(), bytes(), headers).prop_map(
        |(timestamp, shift, key, value, headers)| Plain {
            timestamp: timestamp >> (shift % 64),
            key,
            value,
            headers,
        },
    );
    proptest::collection::vec(record, 1..40)
}

pub(crate) fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

/// Length and checksum fields made to fit the bytes.
pub(crate) fn seal(bytes: &mut [u8]) {
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A valid batch of `count` records whose body is `body`, said to be of `codec`.
pub(crate) fn with_body(codec: Compression, count: usize, body: &[u8]) -> Vec<u8> {
    let options = BatchOptions { compression: codec, ..BatchOptions::default() };
    let mut bytes = build(&sample(count), options, 0)[..BATCH_HEADER_LEN].to_vec();
    bytes.extend_from_slice(body);
    seal(&mut bytes);
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Vec<(i64, Plain)> {
    let batch = DecodedBatch::decode(Bytes::copy_from_slice(bytes), LIMIT).expect("a valid batch");
    let records = batch.records().map(|record| record.expect("a valid record"));
    records.map(|record| (record.offset, Plain::of(&record))).collect()
}

/// Zstandard of a writer that does not know the size beforehand, as Java's.
pub(crate) fn zstd_stream(input: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
    encoder.write_all(input).expect("memory");
    encoder.finish().expect("memory")
}
