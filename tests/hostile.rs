//! Hostile input: truncated, bit-flipped and lying frames of every API in every version.
//!
//! Whatever comes in, the broker does not panic, does not end, takes no unbounded memory, and goes on serving others
//! meanwhile. The frames are mutations of the requests that Apache Kafka's own classes encode.

use crate::harness::daemon::Daemon;
use crate::harness::random::Random;
use crate::harness::requests::{self, base_offset, batch, create_topic, fetch, produce, read_all};
use crate::harness::wire::Wire;
use crate::harness::{alone, process, setting, wait_until};
use kappa_protocol::record::Compression;
use kappa_protocol::{ApiKey, ErrorCode, frame, messages as m};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VECTORS: &str = include_str!("../protocol/tests/vectors/messages_kafka43.jsonl");
const MIB: u64 = 1 << 20;

/// Every request of every version as a frame without its length prefix.
fn golden_frames() -> Vec<Vec<u8>> {
    VECTORS
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|vector| vector["type"] == "request" && vector["case"] == "sample")
        .filter_map(|vector| {
            let key = ApiKey::from_i16(vector["apiKey"].as_i64()? as i16)?;
            let version = vector["version"].as_i64()? as i16;
            Some(framed(key, version, &unhex(vector["hex"].as_str()?)))
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn framed(key: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend((key as i16).to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    frame.extend(4_i16.to_be_bytes());
    frame.extend(b"evil");
    if version >= key.schema().flexible {
        frame.push(0);
    }
    frame.extend(body);
    frame
}

/// Real requests to a topic that exists, whose mutations get past the first checks.
fn live_frames(topic: &str) -> Vec<Vec<u8>> {
    let records = batch(["one", "two"], Compression::Lz4, None);
    [
        frame::encode_request(7, Some("evil"), requests::PRODUCE, &produce(topic, 0, records).into()),
        frame::encode_request(7, Some("evil"), requests::FETCH, &fetch(topic, 0, 0, 5).into()),
    ]
    .into_iter()
    .map(|pieces| pieces.unwrap().concat()[frame::PREFIX_LEN..].to_vec())
    .collect()
}

fn mutated(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = frame.to_vec();
    // The API and version stay as they are in three of four, so that the body is what is read.
    let from = if random.below(4) == 0 { 0 } else { 4 };
    match random.below(3) {
        0 => frame.truncate(from + random.below((frame.len() - from) as u64) as usize),
        1 => {
            for _ in 0..=random.below(3) {
                let bit = from * 8 + random.below(((frame.len() - from) * 8) as u64) as usize;
                frame[bit / 8] ^= 1 << (bit % 8);
            }
        }
        _ => {
            // A length or count of up to four bytes becomes huge.
            let at = from + random.below((frame.len() - from) as u64) as usize;
            let end = frame.len().min(at + 4);
            frame[at..end].fill(0xff);
        }
    }
    frame
}

/// A connection that is renewed when the broker closed it or has not answered for a moment.
struct Attacker {
    address: SocketAddr,
    wire: Option<Wire>,
}

impl Attacker {
    fn attack(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend(frame);
        let mut wire = self.wire.take().unwrap_or_else(|| {
            let mut wire = Wire::connect(self.address).expect("the broker accepts connections");
            wire.set_patience(Duration::from_millis(5));
            wire
        });
        if wire.send_raw(&bytes).is_ok() && wire.receive_frame().is_ok() {
            self.wire = Some(wire);
        }
    }
}

/// A well-behaved client beside the attack: produces and fetches until told to stop, and remembers the longest wait.
fn bystander(address: SocketAddr, done: &AtomicBool) -> (i64, Duration) {
    let mut wire = Wire::connect(address).unwrap();
    let (mut produced, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let records = batch([produced.to_string()], Compression::None, None);
        let response = wire.ask(requests::PRODUCE, produce("bystander", 0, records)).unwrap();
        assert_eq!(base_offset(&response), Ok(produced), "the bystander's records are its own");
        produced += 1;
        longest = longest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    (produced, longest)
}

#[test]
fn mutated_frames_of_every_api_hurt_nobody() {
    let _alone = alone();
    let seed = setting("KAPPA_SEED", u64::from(std::process::id()));
    let rounds = setting("KAPPA_MUTATIONS", 8);
    println!("KAPPA_SEED={seed}");
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut daemon = Daemon::start(&data, &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "bystander", 1, &[]);
    create_topic(&mut wire, "target", 1, &[]);

    let (golden, live) = (golden_frames(), live_frames("target"));
    assert!(golden.len() > 250, "{} golden requests", golden.len());
    let (address, done) = (daemon.address(), AtomicBool::new(false));
    let (produced, longest) = std::thread::scope(|scope| {
        let bystander = scope.spawn(|| bystander(address, &done));
        let mut attacker = Attacker { address, wire: None };
        let mut random = Random::new(seed);
        for _ in 0..rounds {
            golden.iter().for_each(|frame| attacker.attack(&mutated(frame, &mut random)));
            for _ in 0..50 {
                live.iter().for_each(|frame| attacker.attack(&mutated(frame, &mut random)));
            }
        }
        golden.iter().for_each(|frame| attacker.attack(frame));
        done.store(true, Ordering::Relaxed);
        bystander.join().expect("the bystander was served throughout")
    });

    daemon.assert_no_panic();
    assert!(daemon.is_alive());
    assert!(longest < Duration::from_secs(5), "the bystander waited {longest:?}");
    let peak = process::resident_bytes_peak(daemon.pid()) / MIB;
    println!("{produced} requests of the bystander, {longest:?} at worst, {peak} MiB resident at most");
    assert!(peak < 512, "{peak} MiB resident");
    let mut wire = Wire::connect(address).unwrap();
    assert_eq!(read_all(&mut wire, "bystander", 0, 0).unwrap().len() as i64, produced);
    read_all(&mut wire, "target", 0, 0).unwrap();
    assert!(daemon.stop().success());
    assert!(Daemon::start(&data, &[]).stop().success(), "what the attack left behind can be read again");
}

#[test]
fn frames_that_never_come_take_no_memory() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let before = process::resident_bytes(daemon.pid());
    let promised = (100 * MIB as u32).to_be_bytes();
    let held: Vec<Wire> = (0..200)
        .map(|_| {
            let mut wire = Wire::connect(daemon.address()).unwrap();
            wire.send_raw(&promised).unwrap();
            wire.send_raw(&[0; 100]).unwrap();
            wire
        })
        .collect();
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "served", 1, &[]);
    let grown = process::resident_bytes(daemon.pid()).saturating_sub(before) / MIB;
    assert!(grown < 64, "{grown} MiB for {} promised frames of 100 MiB", held.len());
}

#[test]
fn idle_connections_leave_the_log_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "rolls", 1, &[("segment.bytes", "1024")]);
    let limit = process::descriptors(daemon.pid()) as u64 + 100;
    let pid = Pid::from_raw(daemon.pid() as i32);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let idle: Vec<Wire> = (0..200).map(|_| Wire::connect(daemon.address()).unwrap()).collect();
    // Each begins a segment of its own.
    for number in 0..10 {
        let records = batch([vec![7; 600]], Compression::None, None);
        let answer = wire.ask(9, produce("rolls", 0, records)).unwrap();
        assert_eq!(base_offset(&answer), Ok(number));
    }
    assert!(process::descriptors(daemon.pid()) as u64 + 20 < limit, "connections take what is left");
    let mut last = Wire::connect(daemon.address()).unwrap();
    last.ask(0, m::ApiVersionsRequest::default()).expect_err("there is no room for it");
    assert!(daemon.errors().contains("ulimit -n"), "the cure is told");
    drop(idle);
    wait_until("another connection is taken", || {
        Wire::connect(daemon.address())
            .is_ok_and(|mut wire| wire.ask(0, m::ApiVersionsRequest::default()).is_ok())
    });
}

#[test]
fn a_frame_with_an_impossible_length_closes_its_connection_only() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut other = Wire::connect(daemon.address()).unwrap();
    for prefix in [-1, i32::MIN, i32::MAX, 101 << 20] {
        let mut wire = Wire::connect(daemon.address()).unwrap();
        wire.send_raw(&prefix.to_be_bytes()).unwrap();
        let error = wire.receive_frame().expect_err("no answer to that").kind();
        assert!(matches!(error, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{prefix}: {error}");
    }
    other.ask(0, m::ApiVersionsRequest::default()).unwrap();
    daemon.assert_no_panic();
}

#[test]
fn an_api_versions_request_of_the_future_is_answered_in_version_0() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    let mut frame = framed(ApiKey::ApiVersions, 99, &[1, 2, 3]);
    frame.splice(0..0, (frame.len() as u32).to_be_bytes());
    wire.send_raw(&frame).unwrap();
    let answer = wire.receive_frame().unwrap();
    let (id, response) = frame::decode_response(ApiKey::ApiVersions, 0, answer).unwrap();
    assert_eq!(id, 7);
    let kappa_protocol::Response::ApiVersions(response) = response else {
        panic!("an answer to ApiVersions")
    };
    assert_eq!(ErrorCode::from(response.error_code), ErrorCode::UnsupportedVersion);
    assert!(response.api_keys.iter().any(|api| api.api_key == ApiKey::ApiVersions as i16));
}
