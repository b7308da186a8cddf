//! What is no failure of the device, and takes nothing: a sync that cannot begin, a clock that is set.

use super::*;

/// A sync asks for a descriptor (the directory, `partition.metadata`) or for a block (the leader epochs) before it asks the
/// device for anything. Where it gets none, no byte of the log is in doubt; yet what was acknowledged and read under a
/// policy that promises to lose nothing but with the power is cut off.
#[test]
fn a_sync_that_could_not_begin_takes_nothing_acknowledged() {
    for mode in [FlushMode::Os, FlushMode::Interval] {
        for (operation, path) in [(Operation::Open, "partition.metadata"), (Operation::SyncDir, "t-0")] {
            let bench = Bench::new(mode);
            for _ in 0..10 {
                bench.append(1).unwrap();
            }
            let seen = bench.partition.offsets();
            assert_eq!(seen.high_watermark, 10, "acknowledged and shown");
            // Too many open files.
            bench.fail(operation, path, 1, io::ErrorKind::Other);
            bench.env.clock.advance(2000);
            let _ = bench.partition.sync();
            assert_eq!(bench.partition.offsets(), seen, "{mode} {operation:?} {path}");
        }
    }
}

/// The same of a partition that was synced before, and rolls.
#[test]
fn a_roll_without_a_descriptor_takes_nothing_acknowledged() {
    let bench = Bench::new(FlushMode::Os);
    bench.append(1).unwrap();
    bench.partition.sync().unwrap();
    while bench.partition.segment_count() < 3 {
        bench.append(1).unwrap();
    }
    let seen = bench.partition.offsets();
    bench.fail(Operation::SyncDir, "t-0", 1, io::ErrorKind::Other);
    let _ = bench.env.flush.run_due();
    assert_eq!(bench.partition.offsets(), seen);
}

/// A clock that is set forward (or a machine that was suspended) makes every producer one that was idle for a day.
#[test]
fn a_clock_set_forward_stores_no_batch_twice() {
    let bench = Bench::new(FlushMode::Commit);
    bench.partition.append(sequenced(0, 0, 1)).unwrap();
    bench.env.flush.run_due();
    bench.env.clock.set_by(25 * 60 * 60 * 1000);
    bench.partition.maintain().unwrap();
    // The answer was lost, the producer tries again a moment later.
    let again = bench.partition.append(sequenced(0, 0, 1)).unwrap();
    assert!(again.is_duplicate, "stored once more at {}", again.base_offset);
}

/// What is in flight behind the first batch of a producer does not take its place.
#[test]
fn behind_a_first_batch_that_was_refused_or_cut_off_nothing_comes_before_it() {
    for (operation, is_appended) in [(Operation::Write, false), (Operation::SyncData, true)] {
        let bench = Bench::new(FlushMode::Commit);
        bench.append(1).unwrap();
        bench.partition.sync().unwrap();
        bench.fail(operation, "0000.log", 1, io::ErrorKind::StorageFull);
        assert_eq!(bench.partition.append(sequenced(0, 0, 1)).is_ok(), is_appended);
        if is_appended {
            bench.partition.append(sequenced(0, 1, 1)).unwrap();
            bench.partition.sync().unwrap_err();
        }
        for sequence in [1, 2] {
            bench.env.clock.advance(1000);
            let error = bench.partition.append(sequenced(0, sequence, 1)).unwrap_err();
            assert!(matches!(error, AppendError::Producer(_)), "{operation:?} {sequence}: {error:?}");
        }
        for sequence in 0..3 {
            bench.env.clock.advance(1000);
            bench.partition.append(sequenced(0, sequence, 1)).unwrap();
        }
    }
}

/// A cut that is due when a topic is deleted is not made in the directory of the next topic of its name.
#[test]
fn a_partition_that_is_gone_heals_nothing() {
    let bench = Bench::new(FlushMode::Os);
    bench.append(1).unwrap();
    bench.fail(Operation::SyncData, "0000.log", 1, io::ErrorKind::Other);
    bench.fail(Operation::Create, "leader-epoch", 1, io::ErrorKind::Other);
    bench.partition.sync().unwrap_err();
    let directory = bench.partition.directory().to_path_buf();
    bench.partition.retire(0).unwrap();
    let (id, config) = (Uuid::from_u128(8), PartitionConfig::default());
    drop(Partition::create(&bench.env, directory.clone(), id, config, Arc::default()).unwrap());
    let before = bench.env.disk.list(&directory).unwrap();
    bench.partition.sync().unwrap();
    assert_eq!(bench.env.disk.list(&directory).unwrap(), before);
}
