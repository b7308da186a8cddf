//! What clients say of their largest timestamp is not believed: lookups, retention and limits go by the records.

use super::*;
use kappa_protocol::record::Compression;

const LONG_AGO_MS: i64 = 1;

/// A batch of records with these timestamps whose header says that `claimed` is the largest one.
fn lying(
    timestamps: &[i64],
    claimed: i64,
    compression: Compression,
    producer: Option<ProducerStamp>,
) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, producer, ..BatchOptions::default() });
    for timestamp in timestamps {
        builder.push(*timestamp, Some(b"key"), Some(&[7; 50]), std::iter::empty());
    }
    let honest = builder.finish(0);
    let batch = Batch::produced(&honest).unwrap();
    [&batch.header_with_max_timestamp(claimed), batch.body()].concat().into()
}

/// In every codec, idempotent or not, with each of these claims.
fn for_every_lie(timestamps: &[i64], claims: &[i64], test: impl Fn(Bytes, &str)) {
    for compression in Compression::ALL {
        for producer in [None, Some(ProducerStamp { id: 9, epoch: 0, sequence: 0 })] {
            for claimed in claims {
                let what = format!("{compression} {producer:?} claims {claimed}");
                test(lying(timestamps, *claimed, compression, producer), &what);
            }
        }
    }
}

#[test]
fn a_lookup_by_time_goes_by_the_records() {
    let timestamps = [0, 10, 20, 30, 40].map(|delta| NOW_MS + delta);
    let claims = [-1, -7, 0, NOW_MS - 1, NOW_MS + 10, NOW_MS + 1000, i64::MAX];
    for_every_lie(&timestamps, &claims, |batch, what| {
        let bench = Bench::new(FlushMode::Os);
        bench.partition.append(batch).unwrap();
        let at = |timestamp| {
            let found = bench.partition.offset_for_timestamp(timestamp).unwrap();
            found.map(|found| (found.timestamp, found.offset))
        };
        assert_eq!(at(NOW_MS + 20), Some((NOW_MS + 20, 2)), "{what}");
        assert_eq!(at(NOW_MS + 11), Some((NOW_MS + 20, 2)), "{what}");
        assert_eq!(at(NOW_MS + 41), None, "{what}");
        let latest = bench.partition.max_timestamp_offset().unwrap().map(|found| found.offset);
        assert_eq!(latest, Some(4), "{what}");
        let records = bench.partition.read(request(0)).unwrap().records;
        let (stored, _) = Batch::stored(&records).unwrap();
        assert_eq!(stored.max_timestamp(), NOW_MS + 40, "{what}");
    });
}

#[test]
fn retention_goes_by_the_records() {
    let week_ms = 7 * 24 * 60 * 60 * 1000;
    for_every_lie(&[NOW_MS, NOW_MS + 1, LONG_AGO_MS], &[LONG_AGO_MS, -1, i64::MAX], |batch, what| {
        let bench = Bench::new(FlushMode::Commit);
        bench.partition.append(batch).unwrap();
        bench.env.flush.run_due();
        bench.env.clock.advance(week_ms);
        bench.partition.maintain().unwrap();
        assert_eq!(bench.partition.offsets().log_start, 0, "what is young stays: {what}");
        bench.env.clock.advance(2);
        bench.partition.maintain().unwrap();
        assert_eq!(bench.partition.offsets().log_start, 3, "what is old goes: {what}");
    });
}

#[test]
fn the_limits_of_timestamps_go_by_the_records() {
    let hour_ms = 60 * 60 * 1000;
    for_every_lie(&[NOW_MS, NOW_MS + hour_ms + 1, NOW_MS], &[NOW_MS, -1, 5], |batch, what| {
        let refused = Bench::new(FlushMode::Os).partition.append(batch);
        let Err(AppendError::Timestamp { timestamp, .. }) = refused else { panic!("{what}: {refused:?}") };
        assert_eq!(timestamp, NOW_MS + hour_ms + 1);
    });
    let before = PartitionConfig { timestamp_before_max_ms: hour_ms, ..config(FlushMode::Os) };
    for_every_lie(&[NOW_MS, NOW_MS - hour_ms - 1, -1], &[NOW_MS, -1], |batch, what| {
        let refused = Bench::with(before.clone()).partition.append(batch);
        let Err(AppendError::Timestamp { timestamp, .. }) = refused else { panic!("{what}: {refused:?}") };
        assert_eq!(timestamp, NOW_MS - hour_ms - 1);
    });
    for_every_lie(&[NOW_MS, -1, NOW_MS - hour_ms], &[NOW_MS, 0, i64::MAX], |batch, what| {
        let taken = Bench::with(before.clone()).partition.append(batch);
        assert!(taken.is_ok(), "{what}: {taken:?}");
    });
}

#[test]
fn what_decompresses_to_very_much_is_stored_unseen() {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..Default::default() });
    builder.push(NOW_MS, None, Some(&vec![0; 5 << 20]), std::iter::empty());
    builder.push(NOW_MS + 1, None, None, std::iter::empty());
    let honest = builder.finish(0);
    for (claimed, stored) in [(NOW_MS + 1, NOW_MS + 1), (-1, NOW_MS), (5, NOW_MS)] {
        let batch = Batch::produced(&honest).unwrap();
        let lying: Bytes = [&batch.header_with_max_timestamp(claimed), batch.body()].concat().into();
        let bench = Bench::new(FlushMode::Os);
        bench.partition.append(lying).unwrap();
        let records = bench.partition.read(request(0)).unwrap().records;
        assert_eq!(Batch::stored(&records).unwrap().0.max_timestamp(), stored);
    }
}

/// A thread that serves everybody decompresses them.
#[test]
fn of_a_request_of_many_small_bombs_few_are_looked_into() {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: Compression::Gzip, ..Default::default() });
    builder.push(NOW_MS, None, Some(&vec![0; 3 << 20]), std::iter::empty());
    let honest = builder.finish(0);
    let honest = Batch::produced(&honest).unwrap();
    let bomb: Bytes = [&honest.header_with_max_timestamp(NOW_MS + 9), honest.body()].concat().into();
    let bench = Bench::with(PartitionConfig { log: LogConfig::default(), ..config(FlushMode::Os) });
    let mut expansion = Expansion::default();
    for _ in 0..20 {
        bench.partition.append_of(bomb.clone(), &mut expansion).unwrap();
    }
    // What is ordinary is looked into all the same.
    let ordinary = lying(&[NOW_MS], NOW_MS + 9, Compression::Gzip, None);
    bench.partition.append_of(ordinary, &mut expansion).unwrap();
    let mut looked_into = Vec::new();
    let records = bench.partition.read(request(0)).unwrap().records;
    let mut rest = &*records;
    while !rest.is_empty() {
        let (stored, behind) = Batch::stored(rest).unwrap();
        looked_into.push(stored.max_timestamp() == NOW_MS);
        rest = behind;
    }
    assert_eq!(looked_into.len(), 21);
    assert_eq!(looked_into.iter().filter(|looked_into| **looked_into).count(), 2, "{looked_into:?}");
    assert!(looked_into[0] && looked_into[20]);
}

#[test]
fn bytes_that_are_no_records_are_refused() {
    let honest = batch(3, None);
    let mut torn = honest.to_vec();
    torn[61] = 0x7e;
    let crc = kappa_protocol::record::crc32c(&torn[21..]);
    torn[17..21].copy_from_slice(&crc.to_be_bytes());
    let bench = Bench::new(FlushMode::Os);
    let refused = bench.partition.append(torn.into());
    assert!(matches!(refused, Err(AppendError::Batch(_))), "{refused:?}");
    assert_eq!(bench.append(3).unwrap().base_offset, 0);
}

#[test]
fn a_duplicate_has_the_append_time_of_the_original() {
    let timestamp_type = TimestampType::LogAppendTime;
    let bench = Bench::with(PartitionConfig { timestamp_type, ..config(FlushMode::Os) });
    let times = [0, 0].map(|_| {
        bench.env.clock.advance(500);
        bench.partition.append(sequenced(0, 0, 2)).unwrap().log_append_time
    });
    assert_eq!(times, [Some(NOW_MS + 500); 2]);
    let bench = Bench::new(FlushMode::Os);
    let times = [0, 0].map(|_| bench.partition.append(sequenced(0, 0, 2)).unwrap().log_append_time);
    assert_eq!(times, [None; 2]);
}

#[test]
fn what_has_had_its_time_is_synced_if_that_is_all_it_lacks() {
    for mode in [FlushMode::Os, FlushMode::Interval] {
        let bench = Bench::new(mode);
        bench.append(1).unwrap();
        assert_eq!(bench.partition.maintain().unwrap().deleted_segments, 0);
        bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
        bench.fail(Operation::SyncData, "t-0", 1, io::ErrorKind::Other);
        let refused = bench.partition.maintain();
        assert!(refused.is_ok_and(|done| done.deleted_segments == 0), "{mode}");
        let bench = Bench::new(mode);
        bench.append(1).unwrap();
        bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
        assert_eq!(bench.partition.maintain().unwrap().deleted_segments, 1, "{mode}");
        assert_eq!(bench.partition.offsets(), Offsets::opened(1, 1));
    }
}
