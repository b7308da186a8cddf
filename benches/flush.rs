//! What durable acknowledgement costs: producing under `kappa.flush=commit` beside `kappa.flush=os`.
//!
//! `cargo bench -p kappa-tests --bench flush [-- WORD]` (only loads whose name contains the word). Each round runs both
//! modes one after the other, each in a fresh process, and every other round in the other order, since the machine
//! drifts; the figure is the median of the rounds' own ratios. One topic, one partition, acks=all, three producers:
//! librdkafka, [`kappa_client::Producer`], and frames made beforehand, which cost nothing. `KAPPA_BENCH_DIR` says where
//! the data goes (default `/tmp`). The file belongs to the package `kappa-tests`, the only one that may use librdkafka.

mod harness;
#[path = "harness/librdkafka.rs"]
mod librdkafka;

use harness::driver::Driver;
use harness::server::{self, Server};
use harness::{Comparison, batch, is_quick, is_wanted, noise, scaled};
use kappa_client::{Client, ClientConfig, Producer, ProducerConfig, ProducerRecord, producer::SendError};
use kappa_protocol::record::Compression;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &str = "bench";

/// Who produces.
#[derive(Clone, Copy)]
enum By {
    /// librdkafka with its defaults but for these settings.
    Librdkafka(&'static [(&'static str, &'static str)]),
    /// The producer of ours with its defaults.
    Client,
    /// Frames made beforehand: records in each, frames in flight.
    Frames(usize, usize),
}

struct Load {
    name: &'static str,
    record_len: usize,
    records: usize,
    by: By,
}

const fn load(name: &'static str, record_len: usize, records: usize, by: By) -> Load {
    Load { name, record_len, records, by }
}

const SMALL_BATCHES: By = By::Librdkafka(&[("batch.size", "16384")]);
const IDEMPOTENT: By = By::Librdkafka(&[("enable.idempotence", "true")]);

const LOADS: [Load; 10] = [
    load("librdkafka, 100 B", 100, 6_000_000, By::Librdkafka(&[])),
    load("librdkafka, 1 KiB", 1024, 1_500_000, By::Librdkafka(&[])),
    load("librdkafka, 1 KiB in 16 KB batches", 1024, 1_000_000, SMALL_BATCHES),
    load("librdkafka idempotent, 100 B", 100, 6_000_000, IDEMPOTENT),
    load("librdkafka idempotent, 1 KiB", 1024, 1_500_000, IDEMPOTENT),
    load("kappa-client, 100 B", 100, 10_000_000, By::Client),
    load("kappa-client, 1 KiB", 1024, 1_500_000, By::Client),
    load("frames, 100 B in 1 MB batches, 32 in flight", 100, 1500 * 9000, By::Frames(9000, 32)),
    load("frames, 1 KiB in 1 MB batches, 32 in flight", 1024, 1500 * 950, By::Frames(950, 32)),
    load("frames, 1 KiB in 16 KB batches, 100 in flight", 1024, 60_000 * 15, By::Frames(15, 100)),
];

fn main() {
    if let Some(mode) = server::role() {
        return server::serve_broker(&[("kappa.flush", &mode), ("num.partitions", "1")]);
    }
    for load in LOADS.iter().filter(|load| is_wanted(load.name)) {
        compare(load);
    }
}

fn compare(load: &Load) {
    let rounds = if is_quick() { 1 } else { 11 };
    let mut rate = Comparison::new(format!("{}: throughput", load.name), "records/s");
    let mut cpu = Comparison::new(format!("{}: broker CPU", load.name), "us/record");
    for round in 0..rounds {
        let order = if round % 2 == 0 { ["os", "commit"] } else { ["commit", "os"] };
        for mode in order {
            let (records_per_s, micros) = run(load, mode);
            rate.add(mode, records_per_s);
            cpu.add(mode, micros);
        }
    }
    rate.print();
    cpu.print();
    let kept = rate.ratios("commit", "os");
    let (low, high) = kept.range();
    let [middle, low, high] = [kept.median(), low, high].map(|ratio| 100.0 * ratio);
    println!("\n  commit keeps {middle:.0} % of the throughput of os ({low:.0} .. {high:.0})");
}

/// Records per second, and microseconds of broker CPU per record.
fn run(load: &Load, mode: &str) -> (f64, f64) {
    let mut server = Server::start(mode);
    let address = server.address;
    let mut driver = Driver::connect(address);
    driver.create_topic();
    let before = server.usage();
    let records = scaled(load.records);
    let took = match load.by {
        By::Librdkafka(settings) => {
            librdkafka::produce(address, TOPIC, settings, &noise(load.record_len, 7), records)
        }
        By::Client => by_client(address, &noise(load.record_len, 7), records),
        By::Frames(batch_records, in_flight) => {
            let batch = batch(batch_records, load.record_len, Compression::None);
            harness::timed(|| driver.produce(&batch, records.div_ceil(batch_records), in_flight, -1))
        }
    };
    let micros = server.usage().cpu_micros - before.cpu_micros;
    (records as f64 / took.as_secs_f64(), micros / records as f64)
}

fn by_client(address: SocketAddr, value: &[u8], records: usize) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::connect(&address.to_string(), ClientConfig::default()).await;
        let client = client.expect("the broker listens");
        let producer = Producer::new(&client, ProducerConfig::default()).await.expect("it starts");
        producer.partitions_for(TOPIC).await.expect("the topic is there");
        let start = Instant::now();
        for _ in 0..records {
            while let Err(error) = producer.send_nowait(ProducerRecord::to(TOPIC).value(value)) {
                match error {
                    SendError::Full { .. } => producer.room().await,
                    error => panic!("{error}"),
                }
            }
        }
        producer.flush().await.expect("everything is acknowledged");
        start.elapsed()
    })
}
