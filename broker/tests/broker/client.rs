//! A client that does what a test tells it, frame by frame, and knows no better.

use bytes::Bytes;
use kappa_broker::{Broker, BrokerConfig};
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse,
};
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions};
use kappa_protocol::{ApiKey, Records, RequestMessage, frame};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A broker in a directory, with the runtime that starts and stops it.
pub(crate) struct Running {
    pub(crate) broker: Broker,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Running {
    pub(crate) fn start(dir: &Path) -> Running {
        Running::with(BrokerConfig::new(dir))
    }

    pub(crate) fn with(config: BrokerConfig) -> Running {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = runtime.block_on(Broker::start(config)).unwrap();
        Running { broker, runtime }
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.broker.stop()).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.broker.address())
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, correlation_id: 0 }
    }

    /// Sends without waiting; returns the correlation id.
    pub(crate) fn send<R: RequestMessage>(&mut self, version: i16, request: R) -> i32 {
        self.correlation_id += 1;
        let pieces =
            frame::encode_request(self.correlation_id, Some("test"), version, &request.into()).unwrap();
        self.stream.write_all(&pieces.concat()).unwrap();
        self.correlation_id
    }

    /// The next frame without its length prefix; `None` if the broker closed the connection.
    pub(crate) fn frame(&mut self) -> Option<Bytes> {
        let mut prefix = [0; 4];
        match self.stream.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(_) => return None,
        }
        let mut body = vec![0; i32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut body).unwrap();
        Some(body.into())
    }

    pub(crate) fn receive<R: RequestMessage>(&mut self, version: i16) -> (i32, R::Response) {
        let bytes = self.frame().expect("the connection is open");
        let (id, response) = frame::decode_response(R::KEY, version, bytes).unwrap();
        (id, R::response(response).unwrap())
    }

    pub(crate) fn call<R: RequestMessage>(&mut self, version: i16, request: R) -> R::Response {
        let sent = self.send(version, request);
        let (received, response) = self.receive::<R>(version);
        assert_eq!(sent, received);
        response
    }

    pub(crate) fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        };
        let response = self.call(7, CreateTopicsRequest { topics: vec![topic], ..Default::default() });
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    }

    pub(crate) fn produce(&mut self, topic: &str, partition: i32, values: &[&str]) -> i64 {
        let response = self.call(9, produce(topic, partition, -1, batch(values)));
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        answer.base_offset
    }

    /// Every value of a partition from an offset on.
    pub(crate) fn values(&mut self, topic: &str, partition: i32, mut offset: i64) -> Vec<String> {
        let mut values = Vec::new();
        loop {
            let response = self.call(11, fetch(topic, partition, offset, 0));
            let data = &response.responses[0].partitions[0];
            assert_eq!(data.error_code, 0);
            let records = data.records.clone().unwrap_or_default().to_bytes();
            if records.is_empty() {
                return values;
            }
            let (found, next) = decode(&records, offset);
            values.extend(found);
            offset = next;
        }
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        matches!(self.stream.read(&mut byte), Ok(0) | Err(_))
    }
}

/// Values from `offset` on, and the offset after the last.
pub(crate) fn decode(mut bytes: &[u8], offset: i64) -> (Vec<String>, i64) {
    let (mut values, mut next) = (Vec::new(), offset);
    while !bytes.is_empty() {
        let (batch, rest) = Batch::stored(bytes).unwrap();
        let body = batch.decode(1 << 20).unwrap();
        for record in body.iter() {
            let record = record.unwrap();
            if record.offset >= offset {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
        next = batch.next_offset();
        bytes = rest;
    }
    (values, next)
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in values {
        builder.push(now.as_millis() as i64, None, Some(value.as_bytes()), std::iter::empty());
    }
    builder.finish(0)
}

pub(crate) fn produce(topic: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(Records::from(batch)),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn fetch(topic: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn error_of(response: &ProduceResponse) -> i16 {
    response.responses[0].partition_responses[0].error_code
}

pub(crate) fn fetched(response: &FetchResponse) -> usize {
    response.responses[0].partitions[0].records.as_ref().map_or(0, Records::len)
}

/// Used where a test only needs to know that the broker still answers.
pub(crate) fn still_serves(running: &Running) {
    let mut client = running.client();
    let versions = client.call(3, api_versions());
    assert!(versions.api_keys.iter().any(|api| api.api_key == ApiKey::Produce as i16));
}

pub(crate) fn api_versions() -> kappa_protocol::messages::ApiVersionsRequest {
    kappa_protocol::messages::ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1.0".into(),
    }
}
