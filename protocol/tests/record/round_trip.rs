//! What is built is what is decoded, in every codec.

use bytes::Bytes;
use kappa_protocol::record::{
    BATCH_HEADER_LEN, Batch, BatchBuilder, BatchOptions, Compression, DecodedBatch, ProducerStamp,
    patched_prefix,
};
use proptest::prelude::*;

use super::batches::{LIMIT, Plain, build, codec, decode, plain_records, sample, with_body, zstd_stream};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn batch_decodes_to_the_records_it_was_built_from(
        records in plain_records(),
        codec in codec(),
        base_offset in 0..i64::MAX / 2,
    ) {
        let bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, base_offset);
        let batch = Batch::produced(&bytes).unwrap();
        prop_assert_eq!(batch.compression().unwrap(), codec);
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|record| record.timestamp).max().unwrap());
        prop_assert_eq!(batch.base_timestamp(), records[0].timestamp);
        prop_assert_eq!(batch.next_offset(), base_offset + records.len() as i64);
        let expected: Vec<(i64, Plain)> = (base_offset..).zip(records).collect();
        prop_assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn builder_foresees_the_size_of_every_record(records in plain_records()) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in &records {
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let len = builder.record_len(record.timestamp, key, value, headers.clone());
            let before = builder.estimated_size();
            builder.push(record.timestamp, key, value, headers);
            prop_assert_eq!(builder.estimated_size(), before + len);
        }
        prop_assert_eq!(builder.len(), records.len());
        let size = builder.estimated_size();
        prop_assert_eq!(builder.finish(0).len(), size);
    }

    #[test]
    fn gaps_between_offsets_are_kept(deltas in proptest::collection::btree_set(0..i32::MAX - 1, 1..20), codec in codec()) {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..Default::default() });
        for (record, delta) in sample(deltas.len()).iter().zip(&deltas) {
            record.push_to(&mut builder, *delta);
        }
        let offsets: Vec<i64> = decode(&builder.finish(5)).iter().map(|(offset, _)| *offset).collect();
        prop_assert_eq!(offsets, deltas.iter().map(|delta| 5 + i64::from(*delta)).collect::<Vec<_>>());
    }
}

/// Megabytes, so that every codec needs many blocks of its own.
#[test]
fn large_batch_survives_every_codec() {
    let records = sample(20_000);
    for codec in Compression::ALL {
        let bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, 0);
        let decoded = decode(&bytes);
        assert!(decoded.iter().map(|(_, plain)| plain).eq(&records), "{codec}");
        assert!(codec == Compression::None || bytes.len() < 500_000, "{codec}: {}", bytes.len());
    }
}

#[test]
fn what_other_clients_compress_differently_is_read_too() {
    let plain = build(&sample(9_000), BatchOptions::default(), 0);
    let records = &plain[BATCH_HEADER_LEN..];
    let snappy = snap::raw::Encoder::new().compress_vec(records).unwrap();
    let zstd = zstd_stream(records);
    let bodies =
        [(Compression::Snappy, snappy), (Compression::Zstd, zstd), (Compression::Lz4, lz4_linked(records))];
    for (codec, body) in bodies {
        let bytes = with_body(codec, 9_000, &body);
        let body = Batch::produced(&bytes).unwrap().decode(LIMIT).unwrap();
        assert_eq!(body.bytes(), records, "{codec}");
    }
}

/// LZ4 with everything that is optional: linked blocks, checksums, sizes.
fn lz4_linked(input: &[u8]) -> Vec<u8> {
    let frame = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Linked)
        .block_size(lz4_flex::frame::BlockSize::Max256KB)
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(input.len() as u64));
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
    std::io::Write::write_all(&mut encoder, input).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn uncompressed_records_are_never_copied() {
    let bytes = build(&sample(10), BatchOptions::default(), 0);
    let within = bytes.as_ptr_range();
    let batch = DecodedBatch::decode(bytes.clone(), 0).unwrap();
    for record in batch.records() {
        let record = record.unwrap();
        let parts = [record.key, record.value].into_iter().flatten();
        for part in parts.chain(record.headers.filter_map(|(_, value)| value)) {
            assert!(within.contains(&part.as_ptr()) || part.is_empty());
            assert_eq!(batch.slice(part), part);
            assert!(part.is_empty() || batch.slice(part).as_ptr() == part.as_ptr());
        }
    }
}

#[test]
fn batches_of_a_fetch_response_are_split_off_one_by_one() {
    let codecs = Compression::ALL.into_iter().cycle().take(12);
    let mut response = Vec::new();
    for (n, compression) in codecs.enumerate() {
        response.extend_from_slice(&build(
            &sample(3),
            BatchOptions { compression, ..Default::default() },
            n as i64 * 3,
        ));
    }
    let whole = response.len();
    response.extend_from_slice(&build(&sample(3), BatchOptions::default(), 36)[..70]);
    let mut rest = Bytes::from(response);
    let mut next = 0;
    let error = loop {
        match DecodedBatch::split_from(&mut rest, LIMIT) {
            Ok(batch) => {
                assert_eq!((batch.base_offset(), batch.count()), (next, 3));
                assert_eq!(batch.records().map(|record| record.unwrap().offset).last(), Some(next + 2));
                next = batch.next_offset();
            }
            Err(error) => break error,
        }
    };
    assert_eq!(next, 36);
    assert_eq!(rest.len(), 70, "{whole} bytes were whole batches");
    assert!(matches!(error, kappa_protocol::record::BatchError::Incomplete { available: 70, .. }), "{error}");
}

#[test]
fn header_fields_are_those_given_to_the_builder() {
    let producer = ProducerStamp { id: 77, epoch: 5, sequence: i32::MAX - 1 };
    let mut builder = BatchBuilder::new(BatchOptions { transactional: true, ..Default::default() });
    for (delta, record) in (0..).zip(sample(4)) {
        record.push_to(&mut builder, delta);
    }
    let bytes = builder.finish_with(1_000, Some(producer));
    let prefix = patched_prefix(&bytes, 123_456, 7);
    let stored = [&prefix, &bytes[16..]].concat();
    let (batch, _) = Batch::stored(&stored).unwrap();
    assert_eq!((batch.base_offset(), batch.last_offset(), batch.next_offset()), (123_456, 123_459, 123_460));
    assert_eq!((batch.leader_epoch(), batch.producer_id(), batch.producer_epoch()), (7, 77, 5));
    assert_eq!((batch.base_sequence(), batch.last_sequence()), (i32::MAX - 1, 1));
    assert!(batch.is_transactional() && !batch.is_control());
}

#[test]
#[should_panic(expected = "takes at least one offset")]
fn batch_without_an_offset_cannot_be_built() {
    let _ = BatchBuilder::new(BatchOptions::default()).finish(0);
}

#[test]
fn a_header_name_may_be_any_bytes() {
    // kcat -H $'caf\xe9=1': length, attributes, deltas, null key and value, one header.
    let records = [&[26, 0, 0, 0, 1, 1, 2, 8][..], b"caf\xe9", &[2, b'1']].concat();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(0, None, None, []);
    let mut bytes = builder.finish(0)[..61].to_vec();
    bytes.extend_from_slice(&records);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = kappa_protocol::record::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let batch = DecodedBatch::decode(bytes.into(), 0).unwrap();
    let headers = batch.records().next().unwrap().unwrap().headers;
    assert_eq!(headers.collect::<Vec<_>>(), [("caf\u{fffd}".into(), Some(&b"1"[..]))]);
    assert_eq!(headers.raw().collect::<Vec<_>>(), [(&b"caf\xe9"[..], Some(&b"1"[..]))]);
}

#[test]
fn last_of_the_headers_with_a_name_wins() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(0, None, None, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b"2"[..]))]);
    let bytes = builder.finish(0);
    let batch = DecodedBatch::decode(bytes, 0).unwrap();
    let headers = batch.records().next().unwrap().unwrap().headers;
    assert_eq!(headers.len(), 3);
    assert_eq!(headers.last_value("a"), Some(Some(&b"2"[..])));
    assert_eq!(headers.last_value("b"), Some(None));
    assert_eq!(headers.last_value("c"), None);
}
