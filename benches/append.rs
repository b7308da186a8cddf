//! How fast a partition takes batches, beside a plain `write` of the same bytes, and durable beside `write` and
//! `fdatasync` of each.
//!
//! `cargo bench -p kappa-benches --bench append`. No socket and no codec: what is measured is check, patch, index,
//! producer state, write and, under `commit`, group commit. `KAPPA_BENCH_DIR` says where (default `/tmp`).

mod harness;

use bytes::Bytes;
use harness::{Comparison, batch, rounds, scaled};
use kappa_broker::clock::Clock;
use kappa_broker::disk::RealDisk;
use kappa_broker::flush::{FlushMode, FlushPolicy, FlushQueue, Flusher};
use kappa_broker::partition::{Partition, PartitionConfig, PartitionEnv};
use kappa_protocol::record::Compression;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Batches that wait for their sync at a time, as those of a producer's connection do.
const IN_FLIGHT: usize = 64;

fn main() {
    for (name, records, len, count) in [
        ("1 MB batches", 950, 1024, 1500),
        ("16 KB batches", 15, 1024, 40_000),
        ("1 record of 100 B", 1, 100, 100_000),
    ] {
        let batch = batch(records, len, Compression::None);
        let mut buffered = Comparison::new(format!("append {name}, not synced"), "bytes/s");
        let mut durable = Comparison::new(format!("append {name}, durable"), "bytes/s");
        for _ in 0..rounds() {
            let count = scaled(count);
            buffered.add("write", in_directory(|dir| write(dir, &batch, count, false)));
            buffered
                .add("partition, flush=os", in_directory(|dir| append(dir, &batch, count, FlushMode::Os)));
            // A sync of each takes its time: fewer will do.
            durable
                .add("write + fdatasync each", in_directory(|dir| write(dir, &batch, count.min(2000), true)));
            durable.add(
                "partition, flush=commit",
                in_directory(|dir| append(dir, &batch, count, FlushMode::Commit)),
            );
        }
        buffered.print();
        durable.print();
    }
}

fn in_directory(run: impl FnOnce(&Path) -> f64) -> f64 {
    let parent = std::env::var_os("KAPPA_BENCH_DIR").unwrap_or_else(|| "/tmp".into());
    let directory = tempfile::tempdir_in(parent).expect("a directory for the data");
    run(directory.path())
}

fn write(dir: &Path, batch: &Bytes, count: usize, sync: bool) -> f64 {
    let mut file = File::create(dir.join("plain")).expect("a file");
    let start = Instant::now();
    for _ in 0..count {
        file.write_all(batch).expect("space");
        if sync {
            file.sync_data().expect("a disk");
        }
    }
    (count * batch.len()) as f64 / start.elapsed().as_secs_f64()
}

fn append(dir: &Path, batch: &Bytes, count: usize, mode: FlushMode) -> f64 {
    let clock = Clock::System;
    let flush = FlushQueue::new(clock.clone());
    let flusher = Flusher::start(flush.clone()).expect("a thread");
    let env = PartitionEnv { disk: RealDisk::shared(), clock, flush, producers: Arc::default() };
    let config = PartitionConfig {
        flush: FlushPolicy { mode, ..FlushPolicy::default() },
        ..PartitionConfig::default()
    };
    let partition = Partition::create(&env, dir.join("bench-0"), Default::default(), config, Arc::default())
        .expect("an empty directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let await_durable = |mark| runtime.block_on(partition.durable(mark)).expect("it is synced");
    let start = Instant::now();
    let mut waiting = VecDeque::new();
    for _ in 0..count {
        waiting.push_back(partition.append(batch.clone()).expect("it is stored").mark);
        if waiting.len() == IN_FLIGHT {
            waiting.pop_front().into_iter().for_each(&await_durable);
        }
    }
    waiting.into_iter().for_each(await_durable);
    let rate = (count * batch.len()) as f64 / start.elapsed().as_secs_f64();
    partition.close().expect("a clean close");
    flusher.stop();
    rate
}
