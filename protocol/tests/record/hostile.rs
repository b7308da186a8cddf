//! Bytes from an enemy: damage is caught, bombs are capped, nothing panics.

use std::io::Write;

use kappa_protocol::record::{
    BATCH_HEADER_LEN, Batch, BatchError, BatchOptions, Compression, DecompressError, RecordError,
    RecordFault, varint,
};
use proptest::prelude::*;

use super::{
    batches::{LIMIT, build, codec, plain_records, sample, seal, with_body, zstd_stream},
    exercise,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bit_is_caught(records in plain_records(), codec in codec(), at: prop::sample::Index) {
        let mut bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, 0).to_vec();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        exercise::record_batch(&bytes);
        // Base offset and leader epoch are the log's to set, so the checksum leaves them out.
        let covered = !matches!(bit / 8, 0..8 | 12..16);
        prop_assert_eq!(Batch::produced(&bytes).is_err(), covered);
    }

    #[test]
    fn flipped_bits_under_a_right_checksum_do_no_harm(
        records in plain_records(),
        codec in codec(),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let mut bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, 0).to_vec();
        for at in flips {
            let bit = at.index((bytes.len() - BATCH_HEADER_LEN) * 8);
            bytes[BATCH_HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        }
        exercise::record_batch(&bytes);
    }

    #[test]
    fn batch_cut_short_is_incomplete(records in plain_records(), codec in codec(), at: prop::sample::Index) {
        let bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, 0);
        let cut = &bytes[..at.index(bytes.len())];
        exercise::record_batch(cut);
        let error = Batch::produced(cut).unwrap_err();
        prop_assert!(matches!(error, BatchError::Incomplete { available, .. } if available == cut.len()), "{error}");
        prop_assert_eq!(Batch::header(cut).is_ok(), cut.len() >= BATCH_HEADER_LEN);
    }

    #[test]
    fn records_cut_short_under_a_right_checksum_are_refused(records in plain_records(), codec in codec(), at: prop::sample::Index) {
        let bytes = build(&records, BatchOptions { compression: codec, ..Default::default() }, 0);
        let mut cut = bytes[..BATCH_HEADER_LEN + at.index(bytes.len() - BATCH_HEADER_LEN)].to_vec();
        seal(&mut cut);
        let whole = Batch::produced(&cut).unwrap().decode(LIMIT).is_ok_and(|body| body.iter().all(|record| record.is_ok()));
        // A codec may end its stream with bytes that carry no record.
        prop_assert!(!whole || codec != Compression::None);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise::record_batch(&bytes);
    }
}

const BOMB_LEN: usize = 16 << 20;

/// That many zeros in each codec and framing, by how it is called.
fn bombs() -> Vec<(&'static str, Compression, Vec<u8>)> {
    let zeros = vec![0; BOMB_LEN];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&zeros).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    let mut xerial = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let block = snap::raw::Encoder::new().compress_vec(&zeros[..32 << 10]).unwrap();
    for _ in 0..BOMB_LEN / (32 << 10) {
        xerial.extend_from_slice(&(block.len() as u32).to_be_bytes());
        xerial.extend_from_slice(&block);
    }
    vec![
        ("gzip", Compression::Gzip, gzip.finish().unwrap()),
        ("snappy", Compression::Snappy, snappy),
        ("framed snappy", Compression::Snappy, xerial),
        ("lz4", Compression::Lz4, lz4.finish().unwrap()),
        ("zstd of a told size", Compression::Zstd, zstd::bulk::compress(&zeros, 3).unwrap()),
        ("zstd of an untold size", Compression::Zstd, zstd_stream(&zeros)),
    ]
}

#[test]
fn decompression_bomb_hits_the_limit() {
    for (name, codec, body) in bombs() {
        let bytes = with_body(codec, 1, &body);
        let batch = Batch::produced(&bytes).unwrap();
        for limit in [0, 1, 1 << 20, BOMB_LEN - 1] {
            let error = batch.decode(limit).unwrap_err();
            let BatchError::Decompress(DecompressError::TooLarge { codec: found, limit: hit }) = error else {
                panic!("{name} with {limit}: {error}");
            };
            assert_eq!((found, hit), (codec, limit), "{name}");
        }
        assert_eq!(batch.decode(BOMB_LEN).unwrap().bytes().len(), BOMB_LEN, "{name}");
    }
}

/// A few bytes that promise much: the promise must not be believed, or waited for.
#[test]
fn size_that_only_a_header_claims_is_not_believed() {
    let mut snappy = Vec::new();
    varint::write_unsigned(&mut snappy, 1 << 30);
    snappy.extend_from_slice(&[0xfe; 8]);
    let mut zstd = zstd::bulk::compress(&[7; 70_000], 3).unwrap();
    zstd.truncate(12);
    let framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff1234";
    let cases: [(Compression, &[u8]); 6] = [
        (Compression::Snappy, &snappy),
        (Compression::Snappy, framed),
        (Compression::Snappy, &framed[..13]),
        (Compression::Zstd, &zstd),
        (Compression::Gzip, b"\x1f\x8b\x08\0\0\0\0\0\0\xff"),
        (Compression::Lz4, b"\x04\x22\x4d\x18\x64\x70\xb9\xff\xff\xff\x7f"),
    ];
    for (codec, body) in cases {
        let bytes = with_body(codec, 1, body);
        let error = Batch::produced(&bytes).unwrap().decode(2 << 30).unwrap_err();
        let corrupt = matches!(&error, BatchError::Decompress(DecompressError::Corrupt { codec: found, .. }) if *found == codec);
        assert!(corrupt, "{codec}: {error}");
    }
}

#[test]
fn codec_that_does_not_exist_is_refused() {
    for codec in 5..8 {
        let mut bytes = build(&sample(1), BatchOptions::default(), 0).to_vec();
        bytes[22] = codec;
        seal(&mut bytes);
        assert!(
            matches!(Batch::produced(&bytes), Err(BatchError::UnknownCompression { codec: found }) if found == codec)
        );
        let (batch, _) = Batch::stored(&bytes).unwrap();
        assert!(batch.decode(LIMIT).is_err());
    }
}

/// Sets `N` bytes of a small valid batch at `at` and makes the checksum right again.
fn with_field<const N: usize>(at: usize, field: [u8; N]) -> Vec<u8> {
    let mut bytes = build(&sample(3), BatchOptions::default(), 0).to_vec();
    bytes[at..at + N].copy_from_slice(&field);
    seal(&mut bytes);
    bytes
}

#[test]
fn header_that_contradicts_itself_is_refused() {
    for count in [i32::MIN, -1, 4, i32::MAX] {
        let bytes = with_field(57, count.to_be_bytes());
        assert!(matches!(Batch::stored(&bytes), Err(BatchError::InvalidCount { .. })), "count {count}");
    }
    for delta in [i32::MIN, -1, 1] {
        let bytes = with_field(23, delta.to_be_bytes());
        assert!(matches!(Batch::header(&bytes), Err(BatchError::InvalidCount { .. })), "delta {delta}");
    }
    for count in [0, 2] {
        let bytes = with_field(57, i32::to_be_bytes(count));
        assert!(Batch::stored(&bytes).is_ok(), "compaction takes records away");
        assert!(matches!(Batch::produced(&bytes), Err(BatchError::InvalidCount { .. })));
    }
    for offset in [i64::MIN, -1, i64::MAX - 2, i64::MAX] {
        let bytes = with_field(0, offset.to_be_bytes());
        assert!(matches!(Batch::stored(&bytes), Err(BatchError::InvalidOffsets { .. })), "offset {offset}");
        assert!(Batch::produced(&bytes).is_ok(), "the log assigns offsets");
    }
    let bytes = with_field(43, 5_i64.to_be_bytes());
    assert!(matches!(
        Batch::produced(&bytes),
        Err(BatchError::MissingSequence { producer_id: 5, base_sequence: -1 })
    ));
    for length in [i32::MIN, -1, 0, 48] {
        let mut bytes = build(&sample(3), BatchOptions::default(), 0).to_vec();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        assert!(
            matches!(Batch::size_of(&bytes), Err(BatchError::InvalidLength { length: found }) if found == length)
        );
    }
    assert!(matches!(Batch::size_of(&[0; 11]), Ok(None)));
}

/// The error of iterating over `count` records said to be encoded in `body`.
fn fault_of(count: usize, body: &[u8]) -> Option<RecordError> {
    let bytes = with_body(Compression::None, count, body);
    let batch = Batch::produced(&bytes).unwrap();
    let body = batch.decode(0).unwrap();
    let mut records = body.iter();
    let fault = records.find_map(Result::err);
    assert!(records.next().is_none(), "an error ends the iteration");
    fault
}

#[test]
fn malformed_record_is_named_with_its_index_and_fault() {
    use RecordFault::{NegativeLength, OffsetBeyondBatch, OffsetOrder, TrailingBytes, Truncated, Varint};
    // Length 6: attributes, timestamp delta, offset delta, null key, null value, no headers.
    const FIRST: [u8; 7] = [12, 0, 0, 0, 1, 1, 0];
    const SECOND: [u8; 7] = [12, 0, 0, 2, 1, 1, 0];
    assert_eq!(fault_of(2, &[FIRST, SECOND].concat()), None);
    let faults = [
        (1, [FIRST, FIRST].concat(), OffsetOrder { previous: 0, delta: 0 }),
        (1, [SECOND, FIRST].concat(), OffsetOrder { previous: 1, delta: 0 }),
        (1, [FIRST, [12, 0, 0, 4, 1, 1, 0]].concat(), OffsetBeyondBatch { delta: 2, last: 1 }),
        (0, vec![12, 0, 0, 1, 1, 1, 0], OffsetOrder { previous: -1, delta: -1 }),
        (1, FIRST.to_vec(), Varint(varint::VarintError::Truncated)),
        (2, [&FIRST[..], &SECOND, &[0]].concat(), TrailingBytes { extra: 1 }),
        (0, vec![14, 0, 0, 0, 1, 1, 0, 0], TrailingBytes { extra: 1 }),
        (0, vec![14, 0, 0, 0, 1, 1, 0], Truncated { needed: 7, available: 6 }),
        (0, vec![0], Truncated { needed: 1, available: 0 }),
        (0, vec![1], NegativeLength { length: -1 }),
        (0, vec![12, 0, 0, 0, 3, 1, 0], NegativeLength { length: -2 }),
        (0, vec![12, 0, 0, 0, 1, 1, 1], NegativeLength { length: -1 }),
        (0, vec![12, 0, 0, 0, 8, 1, 0], Truncated { needed: 4, available: 2 }),
        (0, vec![16, 0, 0, 0, 1, 1, 2, 1, 1], NegativeLength { length: -1 }),
        (0, vec![12, 0, 0, 0, 1, 1, 2], Varint(varint::VarintError::Truncated)),
    ];
    for (index, body, fault) in faults {
        assert_eq!(fault_of(2, &body), Some(RecordError { index, fault }), "{body:?}");
    }
}

#[test]
fn record_count_from_the_wire_sizes_nothing() {
    let mut bytes = with_field(57, i32::MAX.to_be_bytes());
    bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    seal(&mut bytes);
    let batch = Batch::produced(&bytes).unwrap();
    let body = batch.decode(0).unwrap();
    let (_, most) = body.iter().size_hint();
    assert!(most.unwrap() <= bytes.len());
    assert_eq!(body.iter().filter(Result::is_ok).count(), 3);
    assert!(body.iter().last().unwrap().is_err());
}
