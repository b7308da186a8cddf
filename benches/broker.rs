//! How much CPU the broker spends per record, and how fast it takes and gives them, beside the least possible broker.
//!
//! `cargo bench -p kappa-benches --bench broker`. The driver sends frames made beforehand, one connection, one
//! partition; all candidates run in turn, each in a fresh process. `KAPPA_BENCH_QUICK=1` is a smoke run,
//! `KAPPA_BENCH_DIR` says where the data goes (default `/tmp`).

mod harness;

use harness::ceiling::{self, Sync};
use harness::driver::Driver;
use harness::server::{self, Server};
use harness::{Comparison, batch, is_wanted, rounds, scaled};
use kappa_protocol::record::Compression;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One way of producing: what a record is, and how many go into a batch.
struct Load {
    name: &'static str,
    record_len: usize,
    batch_records: usize,
    batches: usize,
    /// Requests on their way at a time: group commit lives off them. librdkafka's default has no bound, an idempotent
    /// producer's is 5.
    in_flight: usize,
    compression: Compression,
}

const LOADS: [Load; 5] = [
    load("100 B in 1 MB batches, 32 in flight", 100, 9000, 1500, 32, Compression::None),
    load("1 KiB in 1 MB batches, 32 in flight", 1024, 950, 1500, 32, Compression::None),
    load("1 KiB in 16 KB batches, 100 in flight", 1024, 15, 60_000, 100, Compression::None),
    load("1 KiB in 16 KB batches, 5 in flight", 1024, 15, 20_000, 5, Compression::None),
    load("100 B lz4 in 64 KB batches, 32 in flight", 100, 600, 20_000, 32, Compression::Lz4),
];

const fn load(
    name: &'static str,
    record_len: usize,
    batch_records: usize,
    batches: usize,
    in_flight: usize,
    compression: Compression,
) -> Load {
    Load { name, record_len, batch_records, batches, in_flight, compression }
}

/// A plain copy of as many bytes over loopback: what neither driver nor broker can beat.
const LOOPBACK: &str = "loopback copy of the bytes";

const CANDIDATES: [&str; 4] = ["ceiling", "kappa os", "kappa commit", "ceiling, sync each batch"];

fn main() {
    match server::role().as_deref() {
        Some("ceiling") => return ceiling::serve(Sync::Never),
        Some("ceiling, sync each batch") => return ceiling::serve(Sync::EachBatch),
        Some("kappa os") => return server::serve_broker(&[("kappa.flush", "os"), ("num.partitions", "1")]),
        Some("kappa commit") => {
            return server::serve_broker(&[("kappa.flush", "commit"), ("num.partitions", "1")]);
        }
        Some(other) => panic!("no role {other}"),
        None => {}
    }
    for load in LOADS.iter().filter(|load| is_wanted(load.name)) {
        compare(load);
    }
}

fn compare(load: &Load) {
    let batch = batch(load.batch_records, load.record_len, load.compression);
    let count = scaled(load.batches);
    let records = (count * load.batch_records) as f64;
    let mut rate = Comparison::new(format!("produce {}, acks=all: throughput", load.name), "records/s");
    let mut cpu = Comparison::new(format!("produce {}, acks=all: server CPU", load.name), "us/record");
    let mut fetch_rate = Comparison::new(format!("fetch {}: throughput", load.name), "records/s");
    let mut fetch_cpu = Comparison::new(format!("fetch {}: server CPU", load.name), "us/record");
    let mut rss = Comparison::new(format!("{}: peak RSS", load.name), "MiB");
    for _ in 0..rounds() {
        let copied = loopback_bytes_per_s() / (batch.len() as f64 / load.batch_records as f64);
        rate.add(LOOPBACK, copied);
        fetch_rate.add(LOOPBACK, copied);
        for name in CANDIDATES {
            let mut server = Server::start(name);
            let mut driver = Driver::connect(server.address);
            if name.starts_with("kappa") {
                driver.create_topic();
            }
            let (before, start) = (server.usage(), Instant::now());
            driver.produce(&batch, count, load.in_flight, -1);
            let (seconds, produced) = (start.elapsed().as_secs_f64(), server.usage());
            rate.add(name, records / seconds);
            cpu.add(name, (produced.cpu_micros - before.cpu_micros) / records);
            if !name.contains("sync") && name != "kappa commit" {
                let start = Instant::now();
                driver.fetch(records as i64, 1 << 20);
                fetch_rate.add(name, records / start.elapsed().as_secs_f64());
                fetch_cpu.add(name, (server.usage().cpu_micros - produced.cpu_micros) / records);
            }
            rss.add(name, server.usage().peak_rss_kib / 1024.0);
        }
    }
    for comparison in [&rate, &cpu, &fetch_rate, &fetch_cpu, &rss] {
        comparison.print();
    }
    println!(
        "\n  broker CPU per record under os is {:.2}x the ceiling",
        cpu.ratios("kappa os", "ceiling").median()
    );
}

/// What the machine's loopback can carry: a plain copy of 64 KiB writes over one connection.
fn loopback_bytes_per_s() -> f64 {
    let total = scaled(1 << 30);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the writer connects");
        let mut buffer = vec![0; 1 << 16];
        while stream.read(&mut buffer).expect("the writer lives") > 0 {}
    });
    let mut stream = TcpStream::connect(address).expect("the reader listens");
    let block = vec![1u8; 1 << 16];
    let start = Instant::now();
    for _ in 0..total / block.len() {
        stream.write_all(&block).expect("the reader reads");
    }
    drop(stream);
    reader.join().expect("the reader ends");
    total as f64 / start.elapsed().as_secs_f64()
}
