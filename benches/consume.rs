//! How much CPU the broker spends per record that is consumed, beside the least possible broker, which sends files.
//!
//! `cargo bench -p kappa-benches --bench consume`. One client reads the same log over and over, answers of up to 1 MiB;
//! both candidates serve the same bytes to the same client in turn, each in a fresh process. `KAPPA_BENCH_QUICK=1` is a
//! smoke run, `KAPPA_BENCH_DIR` says where the data goes (default `/tmp`).

mod harness;

use harness::ceiling::{self, Sync};
use harness::driver::Driver;
use harness::server::{self, Server};
use harness::{Comparison, batch, is_wanted, rounds, scaled};
use kappa_protocol::record::Compression;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A log: what a record is, and how many are in a batch.
struct Load {
    name: &'static str,
    record_len: usize,
    batch_records: usize,
    batches: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "1 KiB in 1 MB batches", record_len: 1024, batch_records: 950, batches: 400 },
    Load { name: "1 KiB in 16 KB batches", record_len: 1024, batch_records: 15, batches: 25_000 },
    Load { name: "100 B in 1 MB batches", record_len: 100, batch_records: 9000, batches: 400 },
    Load { name: "100 B in 16 KB batches", record_len: 100, batch_records: 150, batches: 25_000 },
];
/// How often the log is read.
const READS: usize = 5;

fn main() {
    match server::role().as_deref() {
        Some("ceiling") => return ceiling::serve(Sync::Never),
        Some("kappa") => return server::serve_broker(&[("kappa.flush", "os"), ("num.partitions", "1")]),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
    for load in LOADS.iter().filter(|load| is_wanted(load.name)) {
        compare(load);
    }
}

fn compare(load: &Load) {
    let batch = batch(load.batch_records, load.record_len, Compression::None);
    let count = scaled(load.batches);
    let records = count * load.batch_records;
    let mut rate = Comparison::new(format!("consume {}: throughput", load.name), "records/s");
    let mut cpu = Comparison::new(format!("consume {}: server CPU", load.name), "us/record");
    for _ in 0..rounds() {
        for name in ["ceiling", "kappa"] {
            let mut server = Server::start(name);
            let mut driver = Driver::connect(server.address);
            if name == "kappa" {
                driver.create_topic();
            }
            driver.produce(&batch, count, 32, -1);
            driver.fetch(records as i64, 1 << 20);
            let (before, start) = (server.usage(), Instant::now());
            for _ in 0..READS {
                driver.fetch(records as i64, 1 << 20);
            }
            let read = (records * READS) as f64;
            rate.add(name, read / start.elapsed().as_secs_f64());
            cpu.add(name, (server.usage().cpu_micros - before.cpu_micros) / read);
        }
    }
    rate.print();
    cpu.print();
    let ratio = cpu.ratios("kappa", "ceiling");
    let (least, most) = ratio.range();
    println!("  CPU per record is {:.2}x the ceiling ({least:.2} .. {most:.2})", ratio.median());
}
