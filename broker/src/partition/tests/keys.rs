//! What a partition of a compacted topic takes.

use super::*;
use kappa_protocol::record::{BatchError, Compression, DecompressError};

fn compacted() -> PartitionConfig {
    PartitionConfig { needs_keys: true, ..config(FlushMode::Os) }
}

fn keyed(compression: Compression, keys: &[Option<&[u8]>]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for key in keys {
        builder.push(NOW_MS, *key, Some(b"value"), std::iter::empty());
    }
    builder.finish(0)
}

#[test]
fn the_first_record_without_a_key_is_named_whatever_the_codec() {
    let bench = Bench::with(compacted());
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for compression in codecs {
        let refused = bench.partition.append(keyed(compression, &[Some(b"a"), Some(b""), None, None]));
        assert!(matches!(refused, Err(AppendError::NoKey { index: 2 })), "{compression}: {refused:?}");
        let end = bench.partition.offsets().log_end;
        // An empty key is one.
        assert_eq!(bench.partition.append(keyed(compression, &[Some(b"")])).unwrap().base_offset, end);
    }
    assert_eq!(bench.partition.offsets().log_end, 5);
}

#[test]
fn the_settings_of_the_moment_say_whether_keys_are_needed() {
    let bench = Bench::new(FlushMode::Os);
    let append = || bench.partition.append(keyed(Compression::None, &[None]));
    append().unwrap();
    bench.partition.reconfigure(compacted());
    assert!(matches!(append(), Err(AppendError::NoKey { index: 0 })));
    bench.partition.reconfigure(config(FlushMode::Os));
    append().unwrap();
}

#[test]
fn a_batch_whose_keys_cannot_be_looked_at_is_refused() {
    let bomb = || {
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
        builder.push(NOW_MS, None, Some(&vec![0; 16 << 20]), std::iter::empty());
        builder.finish(0)
    };
    Bench::new(FlushMode::Os).partition.append(bomb()).unwrap();
    let refused = Bench::with(compacted()).partition.append(bomb());
    let expected =
        matches!(refused, Err(AppendError::Batch(BatchError::Decompress(DecompressError::TooLarge { .. }))));
    assert!(expected, "{refused:?}");
}
