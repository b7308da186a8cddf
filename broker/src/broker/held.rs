//! Producers of all kinds against a disk that does not get on with its syncs.

use super::*;
use crate::disk::SimulatedDisk;
use crate::dispatch;
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{ApiVersionsRequest, CreateTopicsRequest, ProduceRequest};
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use kappa_protocol::{ApiKey, Principal, Records, Response, frame};
use parking_lot::{Condvar, Mutex};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

mod fetches;

const DIRTY_MAX: u64 = 1 << 20;
const BATCHES: i64 = 40;
const PATIENCE: Duration = Duration::from_secs(20);

/// Lets syncs through or holds them up.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

struct Slow {
    node: Arc<Node>,
    address: SocketAddr,
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
    io: Option<JoinHandle<()>>,
    _flusher: Flusher,
    _runtime: Runtime,
}

impl Slow {
    fn start() -> Self {
        let (disk, gate) = (SimulatedDisk::new(1), Arc::new(Gate::default()));
        let mut config = BrokerConfig::new("/data");
        for (name, value) in [("kappa.flush", "os"), ("kappa.dirty.bytes.max", &DIRTY_MAX.to_string())] {
            config.set(name, value).unwrap();
        }
        let runtime = background_runtime().unwrap();
        let jobs = Jobs::on(runtime.handle().clone());
        disk.create_dir(Path::new("/data")).unwrap();
        let shared = Arc::new(disk.clone());
        let opened = Assembly::open(&config, shared, Clock::System, jobs, JournalConfig::default());
        let Assembly { node, catalog, .. } = opened.unwrap();
        let (listener, address) = listen("127.0.0.1:0", "--listen").unwrap();
        let _ = node.advertised.set(Advertised { host: "127.0.0.1".into(), port: address.port() });
        std::thread::spawn(move || catalog.run());
        let _flusher = Flusher::start(node.topics.env().flush.clone()).unwrap();
        let (stop, stopping) = watch::channel(false);
        let io = Some(start_io(node.clone(), listener, stopping).unwrap());
        let slow = Self { node, address, gate: gate.clone(), stop, io, _flusher, _runtime: runtime };
        slow.create_topic("t", 1);
        disk.on_sync(move || gate.opened.wait_while(&mut gate.is_closed.lock(), |is_closed| *is_closed));
        slow
    }

    fn create_topic(&self, name: &str, num_partitions: i32) {
        let topic =
            CreatableTopic { name: name.into(), num_partitions, replication_factor: 1, ..Default::default() };
        let create = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let Response::CreateTopics(created) = self.client().ask(ApiKey::CreateTopics, 4, create.into())
        else {
            panic!("another answer")
        };
        assert_eq!(created.topics[0].error_code, 0, "{created:?}");
    }

    /// Whether a fetch waits for records of the partition.
    fn waits_for_records(&self, topic: &str, index: i32) -> bool {
        let partition = self.node.topics.topic(topic).unwrap().partition(index).unwrap();
        partition.waiter_counts().1 > 0
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    fn dirty_bytes(&self) -> u64 {
        self.node.topics.env().flush.stats().dirty_bytes
    }

    fn log_end(&self) -> i64 {
        self.node.topics.topic("t").unwrap().partition(0).unwrap().offsets().log_end
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.node.topics.env().flush.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn set_slow(&self, is_slow: bool) {
        *self.gate.is_closed.lock() = is_slow;
        self.gate.opened.notify_all();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.set_slow(false);
        self.stop.send_replace(true);
        let _ = self.io.take().map(JoinHandle::join);
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn send(&mut self, version: i16, request: &Request) {
        let pieces = frame::encode_request(1, Some(""), version, request).unwrap();
        self.stream.write_all(&pieces.concat()).unwrap();
    }

    fn receive(&mut self, key: ApiKey, version: i16) -> Response {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut bytes).unwrap();
        frame::decode_response(key, version, bytes.into()).unwrap().1
    }

    fn ask(&mut self, key: ApiKey, version: i16, request: Request) -> Response {
        self.send(version, &request);
        self.receive(key, version)
    }
}

fn produce(acks: i16) -> Request {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.push(1_700_000_000_000, None, Some(&[7; 100_000]), std::iter::empty());
    let data = PartitionProduceData { index: 0, records: Some(Records::from(batch.finish(0))) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }.into()
}

#[test]
fn producers_wait_while_the_disk_lags_and_nobody_else_does() {
    for acks in [0, 1, -1] {
        let slow = Slow::start();
        slow.set_slow(true);
        let mut client = slow.client();
        let mut sender = Client { stream: client.stream.try_clone().unwrap() };
        let sending = std::thread::spawn(move || (0..BATCHES).for_each(|_| sender.send(7, &produce(acks))));
        slow.wait_until("nobody waits", |slow| slow.node.topics.env().flush.stats().held_producers > 0);
        assert!(slow.dirty_bytes() <= DIRTY_MAX && slow.log_end() < BATCHES, "{}", slow.dirty_bytes());
        let other = slow.client().ask(ApiKey::ApiVersions, 0, ApiVersionsRequest::default().into());
        assert!(matches!(other, Response::ApiVersions(_)));
        slow.set_slow(false);
        slow.wait_until("not everything came", |slow| slow.log_end() == BATCHES);
        sending.join().unwrap();
        for _ in 0..if acks == 0 { 0 } else { BATCHES } {
            let Response::Produce(answer) = client.receive(ApiKey::Produce, 7) else {
                panic!("another answer")
            };
            assert_eq!(answer.responses[0].partition_responses[0].error_code, 0, "{answer:?}");
        }
    }
}

#[test]
fn a_lane_of_the_process_is_held_back_by_its_answers() {
    let slow = Slow::start();
    slow.set_slow(true);
    let cx = Context {
        version: 7,
        principal: Principal::anonymous(),
        client_id: None,
        client_address: IpAddr::from([127, 0, 0, 1]),
    };
    let mut waits = Vec::new();
    while slow.dirty_bytes() <= DIRTY_MAX {
        waits.push(dispatch::call(&slow.node, &cx, produce(1)));
    }
    let last = waits.pop().unwrap();
    assert!(waits.iter().all(|reply| matches!(reply, Reply::Now(_))));
    let Reply::Later(answer) = last else { panic!("it is not held back") };
    let answer = slow.node.jobs.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(answer).is_ok()
    });
    slow.set_slow(false);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(answer), Ok(true));
}

/// An entry without a batch takes 8 bytes, and some hundred where it is answered.
#[test]
fn a_produce_of_more_partitions_than_there_can_be_holds_up_nobody() {
    let slow = Slow::start();
    let naming = |count: usize| -> Request {
        let nothing = PartitionProduceData { index: 0, records: None };
        let topic =
            TopicProduceData { name: "t".into(), partition_data: vec![nothing; count], ..Default::default() };
        ProduceRequest { acks: 1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }.into()
    };
    let Response::Produce(answer) = slow.client().ask(ApiKey::Produce, 7, naming(20_000)) else {
        panic!("another answer")
    };
    assert_eq!(answer.responses[0].partition_responses.len(), 20_000);
    let mut client = slow.client();
    client.send(7, &naming(1_000_000));
    let answered = client.stream.read(&mut [0; 4]);
    assert!(matches!(answered, Ok(0) | Err(_)), "{answered:?}");
}
