//! What many partitions cost: creating them, a record in each, memory, `/metrics`, stopping, starting, deleting them.
//!
//! `cargo bench -p kappa-tests --bench scale [-- 1000|10000]`. Each round runs the daemon itself over a fresh directory
//! on the disk (`KAPPA_BENCH_DIR`, default `/tmp`); the figure is the median of three rounds. Beside the figures of 10,000
//! partitions stand the limits they are meant to keep. `KAPPA_BENCH_BASELINE` may name an earlier commit, whose daemon is
//! built and then runs in turn with this one. The directories stay until the end: for a minute after many files were
//! removed, ext4 takes ten times as long to create others near them. The file belongs to the package `kappa-tests`, which has the daemon.

mod harness;

use harness::{Comparison, baseline, is_quick, is_wanted};
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::delete_topics_request::DeleteTopicState;
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, InitProducerIdRequest, ProduceRequest,
};
use kappa_protocol::record::Compression;
use kappa_protocol::{ApiKey, Records, Request, Response, frame};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TOPIC: &str = "many";
/// Partitions of one produce request.
const PARTITIONS_PER_REQUEST: i32 = 500;
/// Rounds of one record to each partition.
const WRITES: usize = 3;

/// What is measured, its unit, and what 10,000 partitions are meant to keep to.
const FIGURES: [(&str, &str, Option<f64>); 14] = [
    ("created", "s", Some(5.0)),
    ("a producer id given meanwhile", "ms", None),
    ("another topic created then", "ms", None),
    ("memory, created", "MiB", Some(64.0)),
    ("stopped, untouched", "s", Some(2.0)),
    ("started, untouched", "s", Some(1.0)),
    ("one record to each of all, per record", "us", None),
    ("/metrics", "ms", Some(100.0)),
    ("memory, written and scraped", "MiB", Some(64.0)),
    ("stopped, written", "s", Some(2.0)),
    ("started, written", "s", Some(1.0)),
    ("started after SIGKILL", "s", Some(2.0)),
    ("deleted", "s", None),
    ("another topic created after that", "ms", None),
];

fn main() {
    let mut daemons = vec![("this", PathBuf::from(env!("CARGO_BIN_EXE_kappa-broker-under-test")))];
    if let Ok(commit) = std::env::var("KAPPA_BENCH_BASELINE") {
        daemons.push(("baseline", baseline::build(&commit)));
    }
    for partitions in [1000, 10_000].into_iter().filter(|count| is_wanted(&count.to_string())) {
        let partitions = if is_quick() { partitions / 20 } else { partitions };
        let mut figures =
            FIGURES.map(|(name, unit, _)| Comparison::new(format!("{partitions} partitions: {name}"), unit));
        let mut directories = Vec::new();
        for _ in 0..if is_quick() { 1 } else { 3 } {
            for (name, daemon) in &daemons {
                let directory = tempfile::tempdir_in(harness::directory()).expect("a directory for the data");
                let values = run(daemon, partitions, &directory.path().join("data"));
                directories.push(directory);
                println!("{partitions} partitions, {name}: {values:.2?}");
                for (figure, value) in figures.iter_mut().zip(values) {
                    figure.add(name, value);
                }
            }
        }
        for (figure, (_, unit, limit)) in figures.iter().zip(FIGURES) {
            figure.print();
            if let Some(limit) = limit.filter(|_| partitions == 10_000) {
                let verdict = if figure.median("this") <= limit { "kept" } else { "MISSED" };
                println!("  limit {limit} {unit}: {verdict}");
            }
        }
    }
}

fn run(daemon: &Path, partitions: i32, data: &Path) -> [f64; FIGURES.len()] {
    let (broker, _) = Daemon::start(daemon, data);
    let mut client = Client::connect(broker.address);
    let mut other = Client::connect(broker.address);
    let start = Instant::now();
    client.send(&create(TOPIC, partitions));
    let producer_id = ms(|| other.call(&init_producer_id()));
    let meanwhile = ms(|| other.call(&create("meanwhile", 1)));
    client.receive(ApiKey::CreateTopics);
    let created = start.elapsed().as_secs_f64();
    let memory_created = broker.rss_mib();
    let stopped_untouched = broker.stop();

    let (broker, started_untouched) = Daemon::start(daemon, data);
    let mut client = Client::connect(broker.address);
    let start = Instant::now();
    (0..WRITES).for_each(|_| client.write_to_all(partitions));
    let written = start.elapsed().as_secs_f64() * 1e6 / (WRITES as f64 * f64::from(partitions));
    let metrics = ms(|| scrape(broker.http, partitions));
    let memory_written = broker.rss_mib();
    let stopped_written = broker.stop();

    let (broker, started_written) = Daemon::start(daemon, data);
    Client::connect(broker.address).write_to_all(partitions);
    broker.kill();
    let (broker, started_killed) = Daemon::start(daemon, data);

    let mut client = Client::connect(broker.address);
    let deleted = ms(|| client.call(&delete(TOPIC))) / 1e3;
    let afterwards = ms(|| client.call(&create("afterwards", 1)));
    broker.stop();
    [
        created,
        producer_id,
        meanwhile,
        memory_created,
        stopped_untouched,
        started_untouched,
        written,
        metrics,
        memory_written,
        stopped_written,
        started_written,
        started_killed,
        deleted,
        afterwards,
    ]
}

fn ms<R>(work: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// The daemon as a process.
struct Daemon {
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
}

impl Daemon {
    /// Starts it. Returns it with the seconds until it said that it is ready.
    fn start(binary: &Path, data: &Path) -> (Daemon, f64) {
        let start = Instant::now();
        let mut child = Command::new(binary)
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the daemon can be started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("the daemon says");
        let took = start.elapsed().as_secs_f64();
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
        let (Some(address), Some(http)) = (word("kafka="), word("http=")) else { panic!("it said {line:?}") };
        (Daemon { child, address, http }, took)
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = rss.and_then(|rss| rss.split_whitespace().next()?.parse().ok()).expect("a number");
        kib / 1024.0
    }

    /// Stops it in good order. Returns how many seconds that took.
    fn stop(mut self) -> f64 {
        let start = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "not a clean stop: {status}");
        start.elapsed().as_secs_f64()
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    /// What a failed round leaves does not outlive the bench.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
        Client(stream)
    }

    fn send(&mut self, request: &Request) {
        let frame = frame::encode_request(0, Some("scale"), version(request.api_key()), request);
        self.0.write_all(&frame.expect("it can be written").concat()).expect("the daemon reads");
    }

    fn receive(&mut self, key: ApiKey) -> Response {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).expect("the daemon answers");
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut frame).expect("the daemon answers");
        let response = frame::decode_response(key, version(key), frame.into()).expect("a valid answer").1;
        let is_good = match &response {
            Response::CreateTopics(answer) => answer.topics.iter().all(|topic| topic.error_code == 0),
            Response::DeleteTopics(answer) => answer.responses.iter().all(|topic| topic.error_code == 0),
            Response::InitProducerId(answer) => answer.error_code == 0,
            _ => true,
        };
        assert!(is_good, "{response:?}");
        response
    }

    fn call(&mut self, request: &Request) -> Response {
        self.send(request);
        self.receive(request.api_key())
    }

    /// One record to each partition, all requests in flight at once.
    fn write_to_all(&mut self, partitions: i32) {
        let records = Records::from(harness::batch(1, 100, Compression::None));
        let firsts = || (0..partitions).step_by(PARTITIONS_PER_REQUEST as usize);
        for first in firsts() {
            let indexes = first..(first + PARTITIONS_PER_REQUEST).min(partitions);
            let partition_data =
                indexes.map(|index| PartitionProduceData { index, records: Some(records.clone()) }).collect();
            let topic = TopicProduceData { name: TOPIC.into(), partition_data, ..Default::default() };
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 60_000,
                topic_data: vec![topic],
                ..Default::default()
            };
            self.send(&request.into());
        }
        for _ in firsts() {
            let Response::Produce(answer) = self.receive(ApiKey::Produce) else { panic!("produce") };
            let mut partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
            assert!(partitions.all(|partition| partition.error_code == 0), "a produce failed");
        }
    }
}

fn version(key: ApiKey) -> i16 {
    match key {
        ApiKey::Produce => 7,
        ApiKey::CreateTopics => 5,
        ApiKey::DeleteTopics => 6,
        _ => 4,
    }
}

fn create(name: &str, num_partitions: i32) -> Request {
    let topic =
        CreatableTopic { name: name.into(), num_partitions, replication_factor: 1, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() }.into()
}

fn delete(name: &str) -> Request {
    let topics = vec![DeleteTopicState { name: Some(name.into()), ..Default::default() }];
    DeleteTopicsRequest { topics, timeout_ms: 60_000, ..Default::default() }.into()
}

fn init_producer_id() -> Request {
    InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    }
    .into()
}

fn scrape(address: SocketAddr, partitions: i32) {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("the daemon reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the daemon answers");
    assert!(text.contains(&format!("partition=\"{}\"", partitions - 1)), "every partition is told");
}
