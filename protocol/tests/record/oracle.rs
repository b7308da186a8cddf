//! Another implementation of the format reads what we write, and we what it writes.

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
        RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    },
};
use kappa_protocol::record::BatchOptions;
use proptest::prelude::*;

use super::batches::{Plain, build, decode, plain_records};

fn foreign(offset: usize, plain: &Plain) -> Record {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.clone().map(Bytes::from);
    let header = |(name, value): &(String, _)| (StrBytes::from_string(name.clone()), bytes(value));
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: offset as i64,
        // It starts a new batch where sequences do not follow the offsets.
        sequence: NO_SEQUENCE + offset as i32,
        timestamp: plain.timestamp,
        key: bytes(&plain.key),
        value: bytes(&plain.value),
        headers: plain.headers.iter().map(header).collect::<IndexMap<_, _>>(),
    }
}

/// The other implementation keeps one header per name, and 32 bits of timestamp difference.
fn representable(mut records: Vec<Plain>) -> Vec<Plain> {
    for (n, record) in records.iter_mut().enumerate() {
        record.timestamp = record.timestamp % 1_000_000 + 1_700_000_000_000;
        record.headers.dedup_by(|a, b| a.0 == b.0);
        record.headers.truncate(1 + n % 2);
        if record.headers.len() == 2 && record.headers[0].0 == record.headers[1].0 {
            record.headers.truncate(1);
        }
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn other_implementation_agrees(records in plain_records().prop_map(representable)) {
        let ours = build(&records, BatchOptions::default(), 0);
        let theirs: Vec<Record> = records.iter().enumerate().map(|(n, plain)| foreign(n, plain)).collect();

        let read = RecordBatchDecoder::decode(&mut ours.clone()).unwrap().records;
        prop_assert_eq!(read.len(), theirs.len());
        for (read, expected) in read.iter().zip(&theirs) {
            prop_assert_eq!((read.offset, read.timestamp), (expected.offset, expected.timestamp));
            prop_assert_eq!((&read.key, &read.value, &read.headers), (&expected.key, &expected.value, &expected.headers));
        }

        let mut written = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut written, &theirs, &options).unwrap();
        let decoded: Vec<Plain> = decode(&written).into_iter().map(|(_, plain)| plain).collect();
        prop_assert_eq!(decoded, records);
    }
}
