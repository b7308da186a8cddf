//! What clients that read nothing cost the others: 4,000 that are served, alone and beside 1,000 that ask and do not read.
//!
//! `cargo bench -p kappa-benches --bench connections`. Every round is a fresh process; the served connections are asked
//! one after the other for one batch of 16 KB. `KAPPA_BENCH_QUICK=1` is a smoke run, `KAPPA_BENCH_DIR` says where the data
//! goes (default `/tmp`).

mod harness;

use harness::driver::Driver;
use harness::server::{self, Server};
use harness::{Comparison, batch, rounds, scaled};
use hdrhistogram::Histogram;
use kappa_protocol::record::Compression;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVED: usize = 4000;
const SILENT: usize = 1000;
/// Fetches that a silent client sends, each for as much as an answer may have.
const ASKED: usize = 40;
const ALONE: &str = "alone";
const BESIDE: &str = "beside 1,000 that read nothing";

fn main() {
    match server::role().as_deref() {
        Some("kappa") => return server::serve_broker(&[("kappa.flush", "os"), ("num.partitions", "1")]),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
    let batch = batch(15, 1024, Compression::None);
    let batches = 8000;
    let mut p50 = Comparison::new("fetch of 16 KB over 4,000 connections: p50", "us");
    let mut p99 = Comparison::new("fetch of 16 KB over 4,000 connections: p99", "us");
    let mut rss = Comparison::new("peak RSS", "MiB");
    for _ in 0..rounds() {
        let mut server = Server::start("kappa");
        let mut driver = Driver::connect(server.address);
        driver.create_topic();
        driver.produce(&batch, batches, 32, -1);
        let mut served: Vec<Driver> = (0..scaled(SERVED)).map(|_| Driver::connect(server.address)).collect();
        measure(&mut served, batches);
        for name in [ALONE, BESIDE] {
            let silent: Vec<Driver> = match name {
                BESIDE => (0..scaled(SILENT)).map(|_| silent(&server)).collect(),
                _ => Vec::new(),
            };
            let taken = measure(&mut served, batches);
            p50.add(name, taken.value_at_quantile(0.5) as f64 / 1e3);
            p99.add(name, taken.value_at_quantile(0.99) as f64 / 1e3);
            rss.add(name, server.usage().peak_rss_kib / 1024.0);
            drop(silent);
        }
    }
    for comparison in [&p50, &p99, &rss] {
        comparison.print();
    }
}

fn silent(server: &Server) -> Driver {
    let mut driver = Driver::connect(server.address);
    (0..ASKED).for_each(|_| driver.send_fetch(0, 50 << 20));
    driver
}

fn measure(served: &mut [Driver], batches: usize) -> Histogram<u64> {
    let mut taken = Histogram::new(3).expect("three digits");
    let count = served.len();
    for n in 0..scaled(20_000) {
        let driver = served.get_mut(n % count).expect("one of them");
        let started = Instant::now();
        driver.send_fetch((n % batches * 15) as i64, 1);
        assert!(driver.read_answer() > 15_000, "a batch came");
        taken.record(started.elapsed().as_nanos() as u64).expect("it fits");
    }
    taken
}
