//! From a produce request sent to its record fetched by another connection, at a fixed rate, beside the least broker.
//!
//! `cargo bench -p kappa-benches --bench latency`. One record of 100 bytes per request, acks=all, a consumer in a long
//! poll; a record counts from the moment at which it is sent. Candidates run in turn, each in a fresh process.

mod harness;

use harness::ceiling::{self, Sync};
use harness::driver::Driver;
use harness::end_to_end::end_to_end;
use harness::server::{self, Server};
use harness::{Comparison, batch, rounds, scaled};
use kappa_protocol::record::Compression;

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
    let batch = batch(1, 100, Compression::None);
    for _ in 0..rounds() {
        for name in CANDIDATES {
            let server = Server::start(name);
            if name.starts_with("kappa") {
                Driver::connect(server.address).create_topic();
            }
            let times = end_to_end(server.address, &batch, rate, 0, total);
            for ((_, share), figure) in percentiles.iter().zip(&mut figures) {
                figure.add(name, times.quantile(*share));
            }
        }
    }
    figures.iter().for_each(Comparison::print);
}
