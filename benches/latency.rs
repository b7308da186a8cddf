//! From a produce request sent to its record fetched by another connection, at a fixed rate, beside the least broker.
//!
//! `cargo bench -p kappa-benches --bench latency`. One record of 100 bytes per request, acks=all, a consumer in a long
//! poll; a record counts from the moment at which it is sent. Candidates run in turn, each in a fresh process.

mod harness;

use harness::ceiling::{self, Sync};
use harness::driver::Driver;
use harness::server::{self, Server};
use harness::{Comparison, batch, rounds, scaled};
use hdrhistogram::Histogram;
use kappa_protocol::record::Compression;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CANDIDATES: [&str; 3] = ["ceiling", "kappa os", "kappa commit"];

fn main() {
    match server::role().as_deref() {
        Some("ceiling") => return ceiling::serve(Sync::Never),
        Some("kappa os") => return server::serve_broker(&[("kappa.flush", "os"), ("num.partitions", "1")]),
        Some("kappa commit") => {
            return server::serve_broker(&[("kappa.flush", "commit"), ("num.partitions", "1")]);
        }
        Some(other) => panic!("no role {other}"),
        None => {}
    }
    for rate in [500.0, 5000.0] {
        compare(rate, scaled((rate * 6.0) as usize));
    }
}

fn compare(rate: f64, total: usize) {
    let percentiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    let mut figures = percentiles.map(|(p, _)| Comparison::new(format!("end to end at {rate}/s, {p}"), "us"));
    for _ in 0..rounds() {
        for name in CANDIDATES {
            let micros = run(name, rate, total);
            for ((_, quantile), figure) in percentiles.iter().zip(&mut figures) {
                figure.add(name, micros.value_at_quantile(*quantile) as f64);
            }
        }
    }
    figures.iter().for_each(Comparison::print);
}

fn run(name: &'static str, rate: f64, total: usize) -> Histogram<u64> {
    let server = Server::start(name);
    let mut producer = Driver::connect(server.address);
    if name.starts_with("kappa") {
        producer.create_topic();
    }
    let batch = batch(1, 100, Compression::None);
    let sent: Arc<Vec<OnceLock<Instant>>> = Arc::new((0..total).map(|_| OnceLock::new()).collect());
    let mut consumer = Driver::connect(server.address);
    let times = Arc::clone(&sent);
    let follower = std::thread::spawn(move || {
        let mut micros = Histogram::new(3).expect("three digits");
        consumer.follow(total as i64, |offset| {
            let sent = times.get(offset).and_then(OnceLock::get).expect("it was sent");
            micros.record(sent.elapsed().as_micros() as u64).expect("it grows");
        });
        micros
    });
    producer.produce_at_rate(&batch, rate, total, &sent);
    follower.join().expect("every record is fetched")
}
