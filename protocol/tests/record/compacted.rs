//! What compaction leaves of a batch: every choice among a few records, in every codec and of every kind.

use bytes::Bytes;
use kappa_protocol::record::{
    Batch, BatchBuilder, BatchError, BatchOptions, Compression, ProducerStamp, TimestampType,
};

const RECORDS: usize = 5;
const LIMIT: usize = 1 << 20;
const NOW_MS: i64 = 1_700_000_000_000;
const HORIZON_MS: i64 = NOW_MS + 86_400_000;
const PRODUCER: ProducerStamp = ProducerStamp { id: 7, epoch: 3, sequence: 11 };

/// Offset, timestamp, key, value and headers of a record.
type Seen = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Of its records the second and the last are tombstones, the one in the middle is the latest and another lacks a time.
fn batch(options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    let timestamps = [NOW_MS, NOW_MS - 70_000, NOW_MS + 9, -1, NOW_MS + 1];
    for (index, timestamp) in timestamps.into_iter().enumerate() {
        let (key, value) = (format!("key {index}"), vec![index as u8; 100]);
        let value = (index % 3 != 1).then_some(&value[..]);
        builder.push(timestamp, Some(key.as_bytes()), value, [("trace", Some(&b"t"[..])), ("none", None)]);
    }
    let mut bytes = builder.finish(1_000).to_vec();
    bytes[12..16].copy_from_slice(&5_i32.to_be_bytes());
    bytes.into()
}

fn records(bytes: &[u8]) -> Vec<Seen> {
    let (batch, rest) = Batch::stored(bytes).unwrap();
    assert!(rest.is_empty());
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let body = batch.decode(LIMIT).unwrap();
    body.iter()
        .map(|record| record.unwrap())
        .map(|record| {
            let headers = record.headers.raw().map(|(name, value)| (name.to_vec(), owned(value)));
            (record.offset, record.timestamp, owned(record.key), owned(record.value), headers.collect())
        })
        .collect()
}

fn every_kind() -> impl Iterator<Item = BatchOptions> {
    Compression::ALL.into_iter().flat_map(|compression| {
        [None, Some(NOW_MS + 50)].into_iter().flat_map(move |log_append_time| {
            [false, true].map(|transactional| BatchOptions {
                compression,
                log_append_time,
                producer: Some(PRODUCER),
                transactional,
                control: false,
            })
        })
    })
}

#[test]
fn what_is_kept_is_as_it_was_and_so_is_the_batch() {
    for options in every_kind() {
        let original = batch(options);
        let (header, _) = Batch::stored(&original).unwrap();
        let all = records(&original);
        for choice in 0..1_u32 << RECORDS {
            let is_kept = |offset: i64| choice & 1 << (offset - 1_000) != 0;
            let compacted = header.compacted(LIMIT, None, |record| is_kept(record.offset)).unwrap();
            if choice == (1 << RECORDS) - 1 {
                assert_eq!(compacted, None);
                continue;
            }
            let compacted = compacted.unwrap();
            let expected: Vec<_> = all.iter().filter(|record| is_kept(record.0)).cloned().collect();
            assert_eq!(records(&compacted), expected, "{options:?} {choice:b}");
            let (left, _) = Batch::stored(&compacted).unwrap();
            assert_eq!((left.base_offset(), left.next_offset()), (1_000, 1_005));
            assert_eq!((left.leader_epoch(), left.producer_id(), left.producer_epoch()), (5, 7, 3));
            assert_eq!((left.base_sequence(), left.last_sequence()), (11, 15));
            assert_eq!(left.count() as usize, expected.len());
            assert_eq!(left.is_transactional(), options.transactional);
            assert_eq!(left.timestamp_type(), header.timestamp_type());
            assert_eq!(left.delete_horizon(), None);
            let latest = match left.timestamp_type() {
                TimestampType::LogAppendTime => NOW_MS + 50,
                TimestampType::CreateTime => {
                    expected.iter().map(|record| record.1).max().unwrap_or(header.max_timestamp())
                }
            };
            assert_eq!(left.max_timestamp(), latest, "{options:?} {choice:b}");
            if expected.is_empty() {
                assert_eq!((left.size(), left.compression().unwrap()), (61, Compression::None));
            } else {
                assert_eq!(left.compression().unwrap(), options.compression);
            }
        }
    }
}

#[test]
fn a_delete_horizon_is_written_once_and_with_a_tombstone_only() {
    for options in every_kind() {
        let original = batch(options);
        let (header, _) = Batch::stored(&original).unwrap();
        let values = header.compacted(LIMIT, Some(HORIZON_MS), |record| record.value.is_some()).unwrap();
        assert_eq!(Batch::stored(&values.unwrap()).unwrap().0.delete_horizon(), None);

        let marked = header.compacted(LIMIT, Some(HORIZON_MS), |_| true).unwrap().unwrap();
        let (marked_header, _) = Batch::stored(&marked).unwrap();
        assert_eq!(marked_header.delete_horizon(), Some(HORIZON_MS));
        assert_eq!(marked_header.max_timestamp(), header.max_timestamp());
        assert_eq!(records(&marked), records(&original), "{options:?}");

        let again = marked_header.compacted(LIMIT, Some(HORIZON_MS + 1), |_| true).unwrap();
        assert_eq!(again, None, "the first horizon holds");
        let fewer = marked_header.compacted(LIMIT, Some(HORIZON_MS + 1), |record| record.offset != 1_002);
        let fewer = fewer.unwrap().unwrap();
        assert_eq!(Batch::stored(&fewer).unwrap().0.delete_horizon(), Some(HORIZON_MS));
        let expected: Vec<_> = records(&original).into_iter().filter(|record| record.0 != 1_002).collect();
        assert_eq!(records(&fewer), expected);
        let none = marked_header.compacted(LIMIT, None, |_| false).unwrap().unwrap();
        assert_eq!(Batch::stored(&none).unwrap().0.delete_horizon(), None);
    }
}

#[test]
fn a_marker_that_stays_has_a_horizon() {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: Some(ProducerStamp { sequence: -1, ..PRODUCER }),
        transactional: true,
        control: true,
        ..BatchOptions::default()
    });
    builder.push(NOW_MS, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]), []);
    let original = builder.finish(1_000);
    let (header, _) = Batch::stored(&original).unwrap();
    assert_eq!(header.compacted(LIMIT, None, |_| true).unwrap(), None);
    let marked = header.compacted(LIMIT, Some(HORIZON_MS), |_| true).unwrap().unwrap();
    let (left, _) = Batch::stored(&marked).unwrap();
    assert!(left.is_control() && left.is_transactional() && left.base_sequence() == -1);
    assert_eq!(left.delete_horizon(), Some(HORIZON_MS));
    assert_eq!(records(&marked), records(&original));
}

#[test]
fn damage_and_what_decompresses_to_too_much_are_errors() {
    let original = batch(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
    let (header, _) = Batch::stored(&original).unwrap();
    assert!(matches!(header.compacted(100, None, |_| false), Err(BatchError::Decompress(_))));

    // Each bit of the records is turned without the checksum to tell, as a writer's own fault would leave it.
    let original = batch(BatchOptions::default());
    for bit in 61 * 8..original.len() * 8 {
        let mut bytes = original.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let flipped = Batch::header(&bytes).unwrap();
        let readable = flipped.decode(LIMIT).unwrap().iter().all(|record| record.is_ok());
        for horizon in [None, Some(HORIZON_MS)] {
            let compacted = flipped.compacted(LIMIT, horizon, |record| record.offset != 1_000);
            assert_eq!(compacted.is_ok(), readable, "bit {bit}");
            if let Ok(Some(left)) = compacted {
                records(&left);
            }
        }
    }
}

#[test]
fn a_batch_that_was_emptied_stays_as_it_is() {
    let original = batch(BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() });
    let (header, _) = Batch::stored(&original).unwrap();
    let emptied = header.compacted(LIMIT, None, |_| false).unwrap().unwrap();
    let (header, _) = Batch::stored(&emptied).unwrap();
    assert_eq!(header.compacted(LIMIT, Some(HORIZON_MS), |_| false).unwrap(), None);
}
