//! Many producers: how many a partition remembers, and what a roll costs then.

use super::super::memory::{PRODUCERS_MAX, PRODUCERS_MIN};
use super::*;
use crate::log::Snapshot;

fn one_of(id: i64, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: Some(ProducerStamp { id, epoch: 0, sequence }),
        ..BatchOptions::default()
    });
    builder.push(NOW_MS, None, None, std::iter::empty());
    builder.finish(0)
}

fn config_of(segment_bytes: u32) -> PartitionConfig {
    let plain = config(FlushMode::Commit);
    PartitionConfig { log: LogConfig { segment_bytes, ..plain.log }, ..plain }
}

/// Snapshots that were encoded.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Snapshot for Counted {
    fn encode(&self) -> Vec<u8> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    }
}

#[test]
fn a_roll_leaves_the_snapshot_to_the_sync() {
    let bench = Bench::new(FlushMode::Commit);
    bench.append(1).unwrap();
    let encoded = Arc::new(AtomicUsize::new(0));
    bench.partition.state.lock().log.roll(NOW_MS, Counted(encoded.clone())).unwrap();
    bench.append(1).unwrap();
    assert_eq!(encoded.load(Ordering::Relaxed), 0);
    bench.partition.sync().unwrap();
    assert_eq!(encoded.load(Ordering::Relaxed), 1);
}

#[test]
fn a_partition_remembers_so_many_producers_and_the_same_after_a_kill() {
    let mut bench = Bench::with(config_of(300_000));
    let count = PRODUCERS_MAX as i64 + 2000;
    let mut most = 0;
    for id in 0..count {
        bench.partition.append(one_of(id, 0)).unwrap();
        most = most.max(bench.partition.state.lock().producers.len());
    }
    assert_eq!((most, bench.env.producers.count()), (PRODUCERS_MAX, bench.partition.producers().len()));
    bench.env.flush.run_due();
    assert!(bench.partition.segment_count() > 2);
    let recovery_point = bench.partition.positions().recovery_point;
    let before = bench.reopen(Opening { clean: false, recovery_point, log_start: 0 });
    assert_eq!(bench.partition.producer_snapshot(), before);
    assert_eq!(bench.env.producers.count(), bench.partition.producers().len(), "what is gone is not counted");
    for id in count - 9000..count {
        let duplicate = bench.partition.append(one_of(id, 0)).unwrap();
        assert_eq!((duplicate.base_offset, duplicate.is_duplicate), (id, true));
    }
    // Who is forgotten goes on wherever it was, as with Kafka.
    assert!(!bench.partition.append(one_of(0, 1)).unwrap().is_duplicate);
    bench.env.clock.advance(bench.config.producer_id_expiration_ms + 1);
    bench.partition.maintain().unwrap();
    assert_eq!((bench.partition.producers().len(), bench.env.producers.count()), (0, 0));
}

#[test]
fn all_partitions_together_remember_so_many_and_each_a_few() {
    const TOGETHER: usize = 500;
    let mut bench = Bench::new(FlushMode::Commit);
    bench.env.producers = ProducerMemory::new(TOGETHER * 192);
    let partitions = ["/t-1", "/t-2", "/t-3"].map(|dir| {
        Partition::create(&bench.env, dir.into(), TOPIC, config_of(1 << 20), Arc::default()).unwrap()
    });
    for partition in &partitions {
        for id in 0..1000 {
            partition.append(one_of(id, 0)).unwrap();
            assert!(bench.env.producers.count() <= TOGETHER + 2 * PRODUCERS_MIN);
        }
        // Those that wrote last are remembered however many there are.
        for id in 1000 - PRODUCERS_MIN as i64 / 2..1000 {
            assert!(partition.append(one_of(id, 0)).unwrap().is_duplicate);
        }
    }
    let counts = partitions.each_ref().map(|partition| partition.producers().len());
    assert!(counts[0] > 400 && counts[2] <= PRODUCERS_MIN, "{counts:?}");
    bench.env.flush.forget_all();
    drop(partitions);
    assert_eq!(bench.env.producers.count(), 0);
}
