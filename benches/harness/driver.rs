//! A client that costs almost nothing: whole frames made beforehand, sent with several in flight, answers counted.
//!
//! It speaks Produce v7 and Fetch v4, whose frames have a fixed shape for a topic named `bench` with one partition, so
//! that the ceiling needs no codec. What it measures is the broker's.

use bytes::Bytes;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{
    FetchRequest, MetadataRequest, ProduceRequest, metadata_request::MetadataRequestTopic,
};
use kappa_protocol::{ApiKey, ErrorCode, Records, Request, Response, frame};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const TOPIC: &str = "bench";
const PRODUCE_VERSION: i16 = 7;
const FETCH_VERSION: i16 = 4;

/// Where the records of a produce request begin within its frame (without the length prefix).
pub(crate) const PRODUCE_RECORDS_AT: usize = 10 + 2 + 2 + 4 + 4 + (2 + TOPIC.len()) + 4 + 4 + 4;
/// Where the offset of a fetch request stands within its frame.
pub(crate) const FETCH_OFFSET_AT: usize = 10 + 4 + 4 + 4 + 4 + 1 + 4 + (2 + TOPIC.len()) + 4 + 4;
/// Where the maximum bytes of a fetch request's partition stand within its frame.
pub(crate) const FETCH_MAX_BYTES_AT: usize = FETCH_OFFSET_AT + 8;

/// A connection.
#[derive(Debug)]
pub(crate) struct Driver {
    stream: TcpStream,
    frame: Vec<u8>,
}

impl Driver {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Driver {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Driver { stream, frame: Vec::new() }
    }

    /// Lets a real broker create the topic.
    pub(crate) fn create_topic(&mut self) {
        let topic = MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        for _ in 0..100 {
            self.send(&encoded(0, 4, &request.clone().into()));
            let Response::Metadata(answer) = self.answer(ApiKey::Metadata, 4) else { panic!("metadata") };
            if answer
                .topics
                .iter()
                .all(|t| t.error_code == ErrorCode::None.code() && !t.partitions.is_empty())
            {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the topic was not created");
    }

    /// Sends `count` produce requests of the same batch, `in_flight` at a time; `acks` is -1 or 1.
    pub(crate) fn produce(&mut self, batch: &Bytes, count: usize, in_flight: usize, acks: i16) {
        let request = encoded(1, PRODUCE_VERSION, &produce_request(batch, acks));
        assert_eq!(request.get(4 + PRODUCE_RECORDS_AT..), Some(batch.as_ref()), "the frame's fixed shape");
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            while sent < count && sent - answered < in_flight {
                self.send(&request);
                sent += 1;
            }
            self.read_frame();
            // Produce v7: correlation id, array, topic, array, partition, then the error code.
            let error_at = 4 + 4 + (2 + TOPIC.len()) + 4 + 4;
            assert_eq!(self.frame.get(error_at..error_at + 2), Some([0u8, 0].as_slice()), "produce failed");
            answered += 1;
        }
    }

    /// Fetches from offset 0 until `records` records came, each answer of up to `max_bytes`; returns the bytes.
    pub(crate) fn fetch(&mut self, records: i64, max_bytes: i32) -> usize {
        let (mut offset, mut bytes) = (0, 0);
        while offset < records {
            self.send(&encoded(2, FETCH_VERSION, &fetch_request(offset, max_bytes)));
            let Response::Fetch(answer) = self.answer(ApiKey::Fetch, FETCH_VERSION) else { panic!("fetch") };
            let partition =
                answer.responses.first().and_then(|t| t.partitions.first()).expect("one partition");
            assert_eq!(partition.error_code, 0, "fetch failed at {offset}");
            let data = partition.records.as_ref().map(Records::to_bytes).unwrap_or_default();
            bytes += data.len();
            let mut rest = data.as_ref();
            while let Ok(batch) = kappa_protocol::record::Batch::header(rest) {
                if batch.size() > rest.len() {
                    break;
                }
                offset = batch.next_offset();
                rest = rest.get(batch.size()..).unwrap_or_default();
            }
        }
        bytes
    }

    /// Sends a fetch whose answer somebody may read.
    pub(crate) fn send_fetch(&mut self, offset: i64, max_bytes: i32) {
        self.send(&encoded(2, FETCH_VERSION, &fetch_request(offset, max_bytes)));
    }

    /// Reads the next answer, whatever it says.
    pub(crate) fn read_answer(&mut self) -> usize {
        self.read_frame();
        self.frame.len()
    }

    /// Sends one produce request a tick, `total` of them at `rate` per second, and says when each was sent; the answers
    /// are read as they come.
    pub(crate) fn produce_at_rate(self, batch: &Bytes, rate: f64, total: usize, sent: &[OnceLock<Instant>]) {
        let request = encoded(1, PRODUCE_VERSION, &produce_request(batch, -1));
        let mut reader = Driver { stream: self.stream.try_clone().expect("a socket"), frame: Vec::new() };
        let answers = std::thread::spawn(move || (0..total).for_each(|_| reader.read_frame()));
        let mut writer = self;
        let start = Instant::now();
        for (n, sent) in sent.iter().enumerate().take(total) {
            let due = start + Duration::from_secs_f64(n as f64 / rate);
            // Sleeping alone is too coarse by tens of microseconds.
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                if left > Duration::from_micros(120) {
                    std::thread::sleep(left - Duration::from_micros(100));
                }
            }
            sent.set(Instant::now()).expect("each is sent once");
            writer.send(&request);
        }
        answers.join().expect("every request is answered");
    }

    /// Fetches one record after the other as they appear, calling `seen` with each offset, until `total`.
    pub(crate) fn follow(&mut self, total: i64, mut seen: impl FnMut(usize)) {
        let mut offset = 0;
        while offset < total {
            self.send(&encoded(2, FETCH_VERSION, &fetch_request(offset, 1 << 20)));
            let Response::Fetch(answer) = self.answer(ApiKey::Fetch, FETCH_VERSION) else { panic!("fetch") };
            let partition =
                answer.responses.first().and_then(|t| t.partitions.first()).expect("one partition");
            let data = partition.records.as_ref().map(Records::to_bytes).unwrap_or_default();
            let mut rest = data.as_ref();
            while let Ok(batch) = kappa_protocol::record::Batch::header(rest) {
                seen(usize::try_from(batch.base_offset()).expect("an offset"));
                offset = batch.next_offset();
                rest = rest.get(batch.size()..).unwrap_or_default();
            }
        }
    }

    /// Sends frames, `in_flight` unanswered at a time, and reads their answers.
    pub(crate) fn pipeline(&mut self, frames: &[Vec<u8>], in_flight: usize, mut check: impl FnMut(&[u8])) {
        let mut rest = frames.iter();
        let mut unanswered = 0;
        loop {
            while let Some(frame) = (unanswered < in_flight).then(|| rest.next()).flatten() {
                self.send(frame);
                unanswered += 1;
            }
            if unanswered == 0 {
                return;
            }
            self.read_frame();
            check(&self.frame);
            unanswered -= 1;
        }
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).expect("the server reads");
    }

    fn read_frame(&mut self) {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).expect("the server answers");
        self.frame.resize(u32::from_be_bytes(prefix) as usize, 0);
        self.stream.read_exact(&mut self.frame).expect("the server answers");
    }

    /// Reads an answer.
    pub(crate) fn answer(&mut self, key: ApiKey, version: i16) -> Response {
        self.read_frame();
        let frame = Bytes::from(std::mem::take(&mut self.frame));
        frame::decode_response(key, version, frame).expect("a valid answer").1
    }
}

/// A request as it goes over the wire.
pub(crate) fn encoded(correlation_id: i32, version: i16, request: &Request) -> Vec<u8> {
    let parts = frame::encode_request(correlation_id, Some(""), version, request).expect("it can be written");
    parts.concat()
}

fn produce_request(batch: &Bytes, acks: i16) -> Request {
    let partition_data = vec![PartitionProduceData { index: 0, records: Some(Records::from(batch.clone())) }];
    let topic_data = vec![TopicProduceData { name: TOPIC.into(), partition_data, ..Default::default() }];
    ProduceRequest { acks, timeout_ms: 30_000, topic_data, ..Default::default() }.into()
}

fn fetch_request(fetch_offset: i64, max_bytes: i32) -> Request {
    let partition = FetchPartition { fetch_offset, partition_max_bytes: max_bytes, ..Default::default() };
    let topics = vec![FetchTopic { topic: TOPIC.into(), partitions: vec![partition], ..Default::default() }];
    FetchRequest { max_wait_ms: 500, min_bytes: 1, max_bytes, topics, ..Default::default() }.into()
}

/// The ceiling's answer to a produce request (v7).
pub(crate) fn produce_response(correlation_id: [u8; 4], base_offset: i64) -> Vec<u8> {
    let mut body = correlation_id.to_vec();
    body.extend(1i32.to_be_bytes());
    body.extend((TOPIC.len() as i16).to_be_bytes());
    body.extend(TOPIC.as_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend([0; 4 + 2]);
    body.extend(base_offset.to_be_bytes());
    body.extend((-1i64).to_be_bytes());
    body.extend(0i64.to_be_bytes());
    body.extend([0; 4]);
    prefixed(body, 0)
}

/// The ceiling's answer to a fetch request (v4), up to the record data.
pub(crate) fn fetch_response_head(correlation_id: [u8; 4], high_watermark: i64, records_len: u32) -> Vec<u8> {
    let mut body = correlation_id.to_vec();
    body.extend([0; 4]);
    body.extend(1i32.to_be_bytes());
    body.extend((TOPIC.len() as i16).to_be_bytes());
    body.extend(TOPIC.as_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend([0; 4 + 2]);
    body.extend(high_watermark.to_be_bytes());
    body.extend(high_watermark.to_be_bytes());
    body.extend((-1i32).to_be_bytes());
    body.extend(records_len.to_be_bytes());
    prefixed(body, records_len as usize)
}

fn prefixed(body: Vec<u8>, follows: usize) -> Vec<u8> {
    let mut frame = ((body.len() + follows) as u32).to_be_bytes().to_vec();
    frame.extend(body);
    frame
}
