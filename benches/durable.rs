//! Durable acknowledgement: this tree beside an earlier commit of it, beside `os`, and beside what the disk can do.
//!
//! `cargo bench -p kappa-tests --bench durable [-- WORD ...]` (only parts and loads whose name has a word: `partitions`,
//! `overlap`, `latency`, `bulk`, or `frames`, `lz4` and so on). The earlier commit is built from git the first time, under `target/baseline`. Both are daemons as they are
//! shipped, in fresh directories; candidates run in turn within each of five rounds and in the other order in every
//! other round, figures are medians, and ratios those of the rounds' own. All of it takes some five minutes. Each part
//! ends with what was aimed for and whether it was reached. `KAPPA_BENCH_DIR` says where the data goes (default `/tmp`).
//! The file belongs to the package `kappa-tests`, the only one that may use librdkafka.

mod harness;
#[path = "harness/librdkafka.rs"]
mod librdkafka;

use bytes::Bytes;
use harness::baseline;
use harness::daemon::Daemon;
use harness::driver::{Driver, encoded};
use harness::end_to_end::{Times, end_to_end};
use harness::{Comparison, batch, is_quick, is_wanted, noise, rounds, scaled, timed};
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{CreateTopicsRequest, ProduceRequest};
use kappa_protocol::record::Compression;
use kappa_protocol::{ApiKey, Records, Request, Response};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The baseline unless `KAPPA_BENCH_BASELINE` names another commit: the last without a journal.
const BASELINE: &str = "f704ae7";
const MANY: usize = 10_000;
/// No round over many partitions begins later.
const PARTITIONS_MAX: Duration = Duration::from_secs(120);

const OLD: &str = "baseline";
const NEW: &str = "this tree";
const OS: &str = "this tree, os";
const COMMIT: &str = "this tree, commit";
const OLD_COMMIT: &str = "baseline, commit";
const BARE: &str = "write + fdatasync of 4 KiB, alone";

struct Binaries {
    old: PathBuf,
    new: PathBuf,
}

impl Binaries {
    fn of(&self, name: &str) -> &Path {
        if name == OLD { &self.old } else { &self.new }
    }
}

fn main() {
    let commit = std::env::var("KAPPA_BENCH_BASELINE").unwrap_or_else(|_| BASELINE.into());
    let binaries = Binaries {
        old: baseline::build(&commit),
        new: PathBuf::from(env!("CARGO_BIN_EXE_kappa-broker-under-test")),
    };
    if is_wanted("partitions") {
        partitions(&binaries);
    }
    overlap(&binaries);
    if is_wanted("latency") {
        latency(&binaries);
    }
    bulk(&binaries);
}

/// The candidates of a round: every other round the other way round, since the machine drifts.
fn in_turn<const N: usize>(round: usize, mut names: [&'static str; N]) -> [&'static str; N] {
    if round % 2 == 1 {
        names.reverse();
    }
    names
}

fn judge(what: &str, value: f64, aim: &str, reached: bool) {
    println!("  {what}: {value:.2}, aimed for {aim}: {}", if reached { "reached" } else { "MISSED" });
}

fn started(binary: &Path, mode: &str) -> Daemon {
    let daemon = Daemon::start(binary, &[&format!("kappa.flush={mode}"), "num.partitions=1"]);
    Driver::connect(daemon.address).create_topic();
    daemon
}

/// One record to each of many partitions, three times over: one request each, all sent without waiting. The partitions are
/// new in each round, and rounds end early where making them takes long.
fn partitions(binaries: &Binaries) {
    let (many, began) = (scaled(MANY), Instant::now());
    let title = format!("one record to each of {many} new partitions, three times");
    let mut rate = Comparison::new(format!("{title}: throughput"), "records/s");
    let mut cpu = Comparison::new(format!("{title}: broker CPU"), "us/record");
    let mut creation = Comparison::new(format!("{many} partitions created"), "s");
    let (frames, records) = ((0..many).map(frame_to).collect::<Vec<_>>(), (3 * many) as f64);
    for round in 0..rounds() {
        for name in in_turn(round, [OLD, NEW, OS]) {
            let daemon = started(binaries.of(name), if name == OS { "os" } else { "commit" });
            let mut driver = Driver::connect(daemon.address);
            creation.add(name, timed(|| create(&mut driver, many)).as_secs_f64());
            let before = daemon.cpu_micros();
            let took = timed(|| (0..3).for_each(|_| driver.pipeline(&frames, many, is_stored)));
            rate.add(name, records / took.as_secs_f64());
            cpu.add(name, (daemon.cpu_micros() - before) / records);
        }
        if began.elapsed() > PARTITIONS_MAX {
            println!("  after {} rounds it took too long for another", round + 1);
            break;
        }
    }
    [&creation, &rate, &cpu].into_iter().for_each(Comparison::print);
    let ratio = rate.ratios(NEW, OLD).median();
    judge("records/s, times the baseline's", ratio, ">= 20", ratio >= 20.0);
}

fn create(driver: &mut Driver, partitions: usize) {
    let topic = CreatableTopic {
        name: "many".into(),
        num_partitions: i32::try_from(partitions).expect("few enough"),
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
    driver.send(&encoded(0, 4, &request.into()));
    let Response::CreateTopics(answer) = driver.answer(ApiKey::CreateTopics, 4) else { panic!("no answer") };
    assert!(answer.topics.iter().all(|topic| topic.error_code == 0), "{answer:?}");
}

fn frame_to(partition: usize) -> Vec<u8> {
    let records = Some(Records::from(batch(1, 100, Compression::None)));
    let data = PartitionProduceData { index: i32::try_from(partition).expect("few enough"), records };
    let topic = TopicProduceData { name: "many".into(), partition_data: vec![data], ..Default::default() };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
    encoded(1, 7, &Request::from(request))
}

/// Produce v7: correlation id, array, topic, array, partition, then the error code.
fn is_stored(answer: &[u8]) {
    let error_at = 4 + 4 + (2 + "many".len()) + 4 + 4;
    assert_eq!(answer.get(error_at..error_at + 2), Some([0u8, 0].as_slice()), "a record was refused");
}

/// What `commit` keeps of the throughput of `os` where a producer has few requests in flight.
fn overlap(binaries: &Binaries) {
    let (value, frames) = (noise(1024, 7), batch(15, 1024, Compression::None));
    let idempotent = |address| {
        let records = scaled(750_000);
        (records, librdkafka::produce(address, "bench", &[("enable.idempotence", "true")], &value, records))
    };
    let framed = |address| {
        let count = scaled(10_000);
        let mut driver = Driver::connect(address);
        (count * 15, timed(|| driver.produce(&frames, count, 5, -1)))
    };
    let loads: [(&str, &dyn Fn(_) -> _); 2] =
        [("librdkafka idempotent, 1 KiB", &idempotent), ("1 KiB in 16 KB frames, 5 in flight", &framed)];
    for (load, run) in loads.into_iter().filter(|(load, _)| is_wanted(&format!("overlap: {load}"))) {
        let mut rate = Comparison::new(format!("{load}: throughput"), "records/s");
        let mut cpu = Comparison::new(format!("{load}: broker CPU"), "us/record");
        for round in 0..rounds() {
            for name in in_turn(round, [OS, COMMIT, OLD_COMMIT]) {
                let binary = if name == OLD_COMMIT { &binaries.old } else { &binaries.new };
                let daemon = started(binary, if name == OS { "os" } else { "commit" });
                let before = daemon.cpu_micros();
                let (records, took) = run(daemon.address);
                rate.add(name, records as f64 / took.as_secs_f64());
                cpu.add(name, (daemon.cpu_micros() - before) / records as f64);
            }
        }
        rate.print();
        cpu.print();
        let kept = rate.ratios(COMMIT, OS).median();
        judge(&format!("{load}: commit over os"), kept, ">= 0.80", kept >= 0.8);
    }
}

/// End to end at 5,000 records a second, beside what the disk takes to make one block durable at the same hour.
fn latency(binaries: &Binaries) {
    // A new broker makes its journal in the first second.
    let (rate, warm_up, total) = (5000.0, scaled(5_000), scaled(20_000));
    let shares = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    let mut figures =
        shares.map(|(share, _)| Comparison::new(format!("end to end at {rate}/s, commit, {share}"), "us"));
    let record = batch(1, 100, Compression::None);
    for round in 0..rounds() {
        for name in in_turn(round, [BARE, NEW, OLD]) {
            let times = match name {
                BARE => overwrite_and_sync(scaled(4000)),
                _ => end_to_end(started(binaries.of(name), "commit").address, &record, rate, warm_up, total),
            };
            for ((_, share), figure) in shares.iter().zip(&mut figures) {
                figure.add(name, times.quantile(*share));
            }
        }
    }
    figures.iter().for_each(Comparison::print);
    for ((share, _), figure, aim) in [(shares[0], &figures[0], 600.0), (shares[1], &figures[1], 2000.0)] {
        let value = figure.median(NEW);
        judge(&format!("{share} in us"), value, &format!("<= {aim}"), value <= aim);
    }
}

/// One block after the other into a file whose blocks were written before, each synced.
fn overwrite_and_sync(count: usize) -> Times {
    let directory = tempfile::tempdir_in(harness::directory()).expect("a directory");
    let file = File::options().create_new(true).write(true).open(directory.path().join("blocks"));
    let (file, block, blocks) = (file.expect("a file"), [7; 4096], 2048);
    file.write_all_at(&vec![0; blocks * block.len()], 0).and_then(|()| file.sync_all()).expect("room");
    let one = |n: usize| {
        let start = Instant::now();
        let written = file.write_all_at(&block, ((n % blocks) * block.len()) as u64);
        written.and_then(|()| file.sync_data()).expect("a disk that works");
        start.elapsed().as_secs_f64() * 1e6
    };
    Times::new((0..count).map(one).collect())
}

/// Large batches, many in flight: what the journal must not cost.
fn bulk(binaries: &Binaries) {
    let loads: [(&str, usize, usize, usize, Compression); 4] = [
        ("100 B in 1 MB batches", 100, 9000, 1500, Compression::None),
        ("1 KiB in 1 MB batches", 1024, 950, 1500, Compression::None),
        ("100 B lz4 in 64 KB batches", 100, 600, 15_000, Compression::Lz4),
        ("1 KiB lz4 in 64 KB batches", 1024, 60, 15_000, Compression::Lz4),
    ];
    let wanted = loads.into_iter().filter(|(load, ..)| is_wanted(&format!("bulk: {load}")));
    for (load, record_len, batch_records, count, compression) in wanted {
        let (frame, count): (Bytes, _) = (batch(batch_records, record_len, compression), scaled(count));
        let records = (count * batch_records) as f64;
        let mut rate = Comparison::new(format!("{load}, 32 in flight, commit: throughput"), "records/s");
        let mut cpu = Comparison::new(format!("{load}, 32 in flight, commit: broker CPU"), "us/record");
        for round in 0..rounds() {
            for name in in_turn(round, [OLD, NEW]) {
                let daemon = started(binaries.of(name), "commit");
                let (before, mut driver) = (daemon.cpu_micros(), Driver::connect(daemon.address));
                let took = timed(|| driver.produce(&frame, count, 32, -1));
                rate.add(name, records / took.as_secs_f64());
                cpu.add(name, (daemon.cpu_micros() - before) / records);
            }
        }
        rate.print();
        cpu.print();
        let (faster, dearer) = (rate.ratios(NEW, OLD).median(), cpu.ratios(NEW, OLD).median());
        judge(&format!("{load}: throughput over the earlier commit's"), faster, ">= 1", faster >= 0.97);
        judge(&format!("{load}: CPU per record over the earlier commit's"), dearer, "<= 1", dearer <= 1.03);
    }
    if is_quick() {
        println!("  (a smoke run: its figures say nothing)");
    }
}
