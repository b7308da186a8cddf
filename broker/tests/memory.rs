//! What clients may cost: the broker's memory stays within its limit and its I/O thread free, whatever is asked for.
//!
//! In a process of its own, since it looks at the process.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected may panic"
)]

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "broker/client.rs"]
mod client;

use client::{Client, Running, batch, fetch, fetched, produce};
use kappa_broker::BrokerConfig;
use kappa_protocol::Request;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::*;
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::tempdir;

const MIB: usize = 1024 * 1024;
/// `queued.max.request.bytes` of these tests.
const LIMIT: usize = 8 * MIB;
/// What a broker may take beside: one batch, buffers of sockets that are not counted, what the allocator keeps.
const BESIDE: usize = 24 * MIB;

/// One test at a time has the process.
static PROCESS: Mutex<()> = Mutex::new(());

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn in_flight_bytes(running: &Running) -> usize {
    let mut stream = TcpStream::connect(running.broker.http_address().unwrap()).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: kappa\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("kappa_in_flight_bytes ")).unwrap();
    line.parse().unwrap()
}

/// A broker with 40 MB in the topic `lines`, and an empty topic `quiet`.
fn broker(dir: &std::path::Path) -> Running {
    let mut config = BrokerConfig::new(dir).with("queued.max.request.bytes", &LIMIT.to_string()).unwrap();
    config.http = Some("127.0.0.1:0".into());
    let running = Running::with(config);
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.create_topic("quiet", 1);
    let value = "x".repeat(100_000);
    let batch = batch(&[value.as_str(); 4]);
    for _ in 0..100 {
        assert_eq!(client::error_of(&client.call(9, produce("lines", 0, -1, batch.clone()))), 0);
    }
    running
}

fn large_fetch() -> FetchRequest {
    let mut request = fetch("lines", 0, 0, 0);
    request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    request
}

/// The most that was in flight, and the growth of the process, while `done` is not.
fn watch(running: &Running, base: usize, done: impl Fn() -> bool) -> (usize, usize) {
    let (mut in_flight, mut grown) = (0, 0);
    while !done() {
        in_flight = in_flight.max(in_flight_bytes(running));
        grown = grown.max(resident_bytes().saturating_sub(base));
        std::thread::sleep(Duration::from_millis(5));
    }
    (in_flight, grown)
}

#[test]
fn fetches_behind_a_parked_one_take_no_memory_before_their_turn() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let base = resident_bytes();
    let mut client = running.client();
    client.send(11, fetch("quiet", 0, 0, 2_000));
    for _ in 0..150 {
        client.send(11, large_fetch());
    }
    let started = Instant::now();
    let (in_flight, grown) = watch(&running, base, || started.elapsed() > Duration::from_millis(2_500));
    assert!(in_flight <= LIMIT + MIB, "{in_flight}");
    assert!(grown <= LIMIT + BESIDE, "{grown}");
    assert_eq!(fetched(&client.receive::<FetchRequest>(11).1), 0);
    for _ in 0..150 {
        assert!(fetched(&client.receive::<FetchRequest>(11).1) > 0);
    }
    running.stop();
}

#[test]
fn clients_that_do_not_read_share_the_limit_and_make_way_for_one_that_does() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let base = resident_bytes();
    let silent: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = running.client();
            for _ in 0..40 {
                client.send(11, large_fetch());
            }
            client
        })
        .collect();
    let served = Arc::new(AtomicBool::new(false));
    let (mut reader, done) = (running.client(), served.clone());
    let reading = std::thread::spawn(move || {
        // What takes no memory to speak of is answered at once.
        let started = Instant::now();
        reader.call(9, MetadataRequest::default());
        let quick = started.elapsed();
        let started = Instant::now();
        // The answer is in this very process.
        let mut request = large_fetch();
        request.topics[0].partitions[0].partition_max_bytes = 4 << 20;
        let len = fetched(&reader.call(11, request));
        done.store(true, Ordering::Relaxed);
        (quick, started.elapsed(), len)
    });
    let deadline = Instant::now() + Duration::from_secs(25);
    let (in_flight, grown) =
        watch(&running, base, || served.load(Ordering::Relaxed) || Instant::now() > deadline);
    let (quick, fetching, len) = reading.join().unwrap();
    // None of them is waited for until it is closed.
    assert!(quick < Duration::from_secs(2) && fetching < Duration::from_secs(2), "{quick:?} {fetching:?}");
    assert!(len > 0);
    assert!(in_flight <= LIMIT + MIB, "{in_flight}");
    assert!(grown <= LIMIT + BESIDE, "{grown}");
    drop(silent);
    running.stop();
}

#[test]
fn long_answers_to_clients_that_do_not_read_share_the_limit() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    running.client().create_topic("wide", 4000);
    let base = resident_bytes();
    let silent: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = running.client();
            for _ in 0..60 {
                client.send(9, MetadataRequest { topics: None, ..Default::default() });
            }
            client
        })
        .collect();
    let mut reader = running.client();
    let reading = std::thread::spawn(move || {
        // What takes no memory to speak of is answered at once.
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let started = Instant::now();
            reader.call(3, client::api_versions());
            slowest = slowest.max(started.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        (slowest, reader)
    });
    let (in_flight, grown) = watch(&running, base, || reading.is_finished());
    let (slowest, mut reader) = reading.join().unwrap();
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(in_flight <= LIMIT + MIB, "{in_flight}");
    assert!(grown <= LIMIT + BESIDE, "{grown}");
    drop(silent);
    let all = reader.call(9, MetadataRequest { topics: None, ..Default::default() });
    assert!(all.topics.iter().any(|topic| topic.partitions.len() == 4000));
    running.stop();
}

#[test]
fn a_request_that_names_all_the_world_holds_up_nobody() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let topics: Vec<MetadataRequestTopic> = (0..300_000)
        .map(|i| MetadataRequestTopic { name: Some(format!("no-such-topic-{i:06}")), ..Default::default() })
        .collect();
    let metadata =
        MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false, ..Default::default() };
    holds_up_nobody(&running, 9, &metadata.into());
    let partition =
        |partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "lines".into(), partitions: (0..300_000).map(partition).collect() };
    holds_up_nobody(&running, 7, &ListOffsetsRequest { topics: vec![topic], ..Default::default() }.into());
    running.stop();
}

#[test]
fn a_short_request_for_a_long_answer_holds_up_nobody() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("wide", 4000);
    let mut asked = running.client();
    let asking = std::thread::spawn(move || {
        let mut took = Vec::new();
        for _ in 0..10 {
            let started = Instant::now();
            let all = asked.call(9, MetadataRequest { topics: None, ..Default::default() });
            assert!(all.topics.iter().any(|topic| topic.partitions.len() == 4000));
            took.push(started.elapsed());
        }
        median(took)
    });
    let mut took = Vec::new();
    while !asking.is_finished() {
        let started = Instant::now();
        client.call(3, client::api_versions());
        took.push(started.elapsed());
    }
    let (long, short) = (asking.join().unwrap(), median(took));
    assert!(short < long / 5, "{short:?} beside answers of {long:?}");
    running.stop();
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

fn holds_up_nobody(running: &Running, version: i16, request: &Request) {
    let bytes = kappa_protocol::frame::encode_request(1, None, version, request).unwrap().concat();
    assert!(bytes.len() > 3_000_000);
    let (mut client, mut other) = (running.client(), running.client());
    let asking = std::thread::spawn(move || {
        client.stream.write_all(&bytes).unwrap();
        client.frame().unwrap().len()
    });
    let (mut slowest, mut rounds) = (Duration::ZERO, 0);
    while !asking.is_finished() {
        let started = Instant::now();
        other.call(3, client::api_versions());
        slowest = slowest.max(started.elapsed());
        rounds += 1;
    }
    assert!(asking.join().unwrap() > 3_000_000);
    assert!(rounds > 20 && slowest < Duration::from_millis(500), "{rounds} rounds, {slowest:?}");
}

#[test]
fn those_who_send_large_requests_drop_by_drop_make_way() {
    let _process = PROCESS.lock();
    let dir = tempdir().unwrap();
    let running = broker(dir.path());
    let value = "x".repeat(225_000);
    let request = produce("lines", 0, -1, batch(&[value.as_str(); 4]));
    let bytes = kappa_protocol::frame::encode_request(7, None, 9, &request.clone().into()).unwrap().concat();
    let mut slow: Vec<Client> = (0..2 * LIMIT / bytes.len()).map(|_| running.client()).collect();
    let done = Arc::new(AtomicBool::new(false));
    let ended = done.clone();
    let sending = std::thread::spawn(move || {
        for client in &mut slow {
            client.stream.set_nonblocking(true).unwrap();
            let _ = client.stream.write(&bytes[..bytes.len() - 1000]);
        }
        while !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            for client in &mut slow {
                let _ = client.stream.write(b"x");
            }
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    let started = Instant::now();
    let mut client = running.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(client::error_of(&client.call(9, request)), 0);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    println!("answered after {:?}", started.elapsed());
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    running.stop();
}
