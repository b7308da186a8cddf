//! Producers with and without idempotence, a committer of offsets, and a collector of producer ids.

use super::{Depth, Load};
use crate::harness::random::Random;
use crate::harness::requests::{self, base_offset, batch, init_producer_id, produce, read_all};
use crate::harness::wait_until;
use crate::harness::wire::Wire;
use bytes::Bytes;
use kappa_protocol::messages as m;
use kappa_protocol::record::{Compression, ProducerStamp};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Requests that wait for an answer at a time: what idempotence allows.
const IN_FLIGHT_MAX: usize = 5;

/// The value of record `index`: its number, then a tail of up to 400 bytes that depends on it.
fn value(index: u64) -> Vec<u8> {
    let mut random = Random::new(index);
    let mut value = format!("{index}:").into_bytes();
    let len = random.below(400) as usize;
    value.extend(random.bytes(len));
    value
}

fn index_of(value: &[u8]) -> u64 {
    let end = value.iter().position(|byte| *byte == b':').expect("a value of ours");
    std::str::from_utf8(&value[..end]).unwrap().parse().unwrap()
}

/// Records `first..first + count`, of which every third batch is compressed.
fn values(first: u64, count: u64, producer: Option<ProducerStamp>) -> Bytes {
    let compression = if first.is_multiple_of(3) { Compression::Lz4 } else { Compression::None };
    batch((first..first + count).map(value), compression, producer)
}

/// The only producer of a partition, retrying after each kill what was not acknowledged: record `n` must end at
/// offset `n`, whatever happens in between.
pub(super) struct Idempotent {
    topic: &'static str,
    partition: i32,
    ids: Ids,
    producer: Option<(i64, i16)>,
    /// `(first record, count)` of what was sent and not acknowledged, oldest first.
    in_flight: VecDeque<(u64, u64)>,
    next: u64,
    acknowledged: u64,
    verified: u64,
    random: Random,
}

impl Idempotent {
    pub(super) fn new(topic: &'static str, partition: i32, ids: Ids) -> Self {
        Self {
            topic,
            partition,
            ids,
            producer: None,
            in_flight: VecDeque::new(),
            next: 0,
            acknowledged: 0,
            verified: 0,
            random: Random::new(partition as u64),
        }
    }

    fn send(&self, wire: &mut Wire, first: u64, count: u64) -> io::Result<()> {
        let (id, epoch) = self.producer.expect("asked for before anything is sent");
        let stamp = ProducerStamp { id, epoch, sequence: first as i32 };
        wire.send(requests::PRODUCE, produce(self.topic, self.partition, values(first, count, Some(stamp))))
    }
}

impl Load for Idempotent {
    fn set_up(&mut self, wire: &mut Wire) {
        if self.partition == 0 {
            requests::create_topic(wire, self.topic, 2, &[]);
        }
    }

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        if self.producer.is_none() {
            let producer = init_producer_id(wire)?;
            self.ids.take(producer.0);
            self.producer = Some(producer);
        }
        for (first, count) in &self.in_flight {
            self.send(wire, *first, *count)?;
        }
        loop {
            while self.in_flight.len() < IN_FLIGHT_MAX {
                let (first, count) = (self.next, 1 + self.random.below(20));
                self.in_flight.push_back((first, count));
                self.next += count;
                self.send(wire, first, count)?;
            }
            let response = wire.receive_as::<m::ProduceRequest>()?;
            let (first, count) = *self.in_flight.front().expect("something was sent");
            let offset =
                base_offset(&response).unwrap_or_else(|code| panic!("records from {first} on: {code}"));
            assert_eq!(offset, first as i64, "the offset acknowledged for record {first}");
            self.in_flight.pop_front();
            self.acknowledged = first + count;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, wire: &mut Wire, depth: Depth) {
        if depth == Depth::All {
            self.verified = 0;
        }
        let records =
            read_all(wire, self.topic, self.partition, self.verified as i64).expect("the broker runs");
        for ((offset, stored), expected) in records.iter().zip(self.verified..) {
            assert_eq!(*offset, expected as i64, "{}-{}: offsets have no gap", self.topic, self.partition);
            assert!(stored == &value(expected), "{}-{}: record {expected}", self.topic, self.partition);
        }
        self.verified += records.len() as u64;
        assert!(
            (self.acknowledged..=self.next).contains(&self.verified),
            "{}-{}: {} records acknowledged, {} sent, {} there",
            self.topic,
            self.partition,
            self.acknowledged,
            self.next,
            self.verified
        );
    }
}

/// A producer without idempotence, which never sends anything twice: a record that was not acknowledged may be there
/// or not, one that was is at its offset, and none is there twice or out of order.
pub(super) struct Plain {
    topic: &'static str,
    next: u64,
    acknowledged: HashMap<i64, u64>,
    verified: i64,
}

impl Plain {
    pub(super) fn new(topic: &'static str) -> Self {
        Self { topic, next: 0, acknowledged: HashMap::new(), verified: 0 }
    }
}

impl Load for Plain {
    fn set_up(&mut self, wire: &mut Wire) {
        requests::create_topic(wire, self.topic, 1, &[]);
    }

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        let mut in_flight = VecDeque::new();
        loop {
            while in_flight.len() < 20 {
                in_flight.push_back(self.next);
                self.next += 3;
                wire.send(requests::PRODUCE, produce(self.topic, 0, values(self.next - 3, 3, None)))?;
            }
            let response = wire.receive_as::<m::ProduceRequest>()?;
            let first = in_flight.pop_front().expect("something was sent");
            let offset =
                base_offset(&response).unwrap_or_else(|code| panic!("records from {first} on: {code}"));
            self.acknowledged.extend((0..3).map(|n| (offset + n, first + n as u64)));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, wire: &mut Wire, depth: Depth) {
        if depth == Depth::All {
            self.verified = 0;
        }
        let records = read_all(wire, self.topic, 0, self.verified).expect("the broker runs");
        let mut last = None;
        for ((offset, stored), expected) in records.iter().zip(self.verified..) {
            assert_eq!(*offset, expected, "{}: offsets have no gap", self.topic);
            let index = index_of(stored);
            assert!(stored == &value(index), "{}: bytes of record {index}", self.topic);
            assert!(last.is_none_or(|last| last < index), "{}: record {index} after {last:?}", self.topic);
            last = Some(index);
            if let Some(owed) = self.acknowledged.get(offset) {
                assert_eq!(index, *owed, "{}: the record acknowledged at offset {offset}", self.topic);
            }
        }
        self.verified += records.len() as i64;
        let end = self.acknowledged.keys().max().map_or(0, |offset| offset + 1);
        assert!(
            self.verified >= end,
            "{}: acknowledged up to {end}, there up to {}",
            self.topic,
            self.verified
        );
    }
}

/// Commits one offset after another for one partition.
pub(super) struct Committer {
    topic: &'static str,
    acknowledged: i64,
    sent: i64,
}

impl Committer {
    pub(super) fn new(topic: &'static str) -> Self {
        Self { topic, acknowledged: -1, sent: -1 }
    }

    fn request(&self) -> m::OffsetCommitRequest {
        m::OffsetCommitRequest {
            group_id: "crash".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![m::offset_commit_request::OffsetCommitRequestTopic {
                name: self.topic.into(),
                partitions: vec![m::offset_commit_request::OffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: self.sent,
                    committed_leader_epoch: -1,
                    committed_metadata: Some(format!("offset {}", self.sent)),
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

impl Load for Committer {
    fn set_up(&mut self, wire: &mut Wire) {
        requests::create_topic(wire, self.topic, 1, &[]);
        wait_until("a coordinator is found", || {
            let request = m::FindCoordinatorRequest { key: "crash".into(), ..Default::default() };
            wire.ask(3, request).expect("the broker runs").error_code == 0
        });
    }

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        loop {
            self.sent += 1;
            let response = wire.ask(8, self.request())?;
            assert_eq!(response.topics[0].partitions[0].error_code, 0, "commit of {}", self.sent);
            self.acknowledged = self.sent;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, wire: &mut Wire, _: Depth) {
        let request = m::OffsetFetchRequest { group_id: "crash".into(), topics: None, ..Default::default() };
        let response = wire.ask(7, request).expect("the broker runs");
        let partition = &response.topics[0].partitions[0];
        let there = partition.committed_offset;
        assert!(
            (self.acknowledged..=self.sent).contains(&there),
            "commits: {} acknowledged, {} sent, {there} there",
            self.acknowledged,
            self.sent
        );
        assert_eq!(partition.metadata, Some(format!("offset {there}")));
        self.acknowledged = there;
    }
}

/// Every producer id that was ever given out.
#[derive(Clone)]
pub(super) struct Ids(Arc<Mutex<HashSet<i64>>>);

impl Ids {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    fn take(&self, id: i64) {
        assert!(self.0.lock().unwrap().insert(id), "producer id {id} was given out twice");
    }
}

impl Load for Ids {
    fn set_up(&mut self, _: &mut Wire) {}

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        loop {
            self.take(init_producer_id(wire)?.0);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, wire: &mut Wire, _: Depth) {
        self.take(init_producer_id(wire).expect("the broker runs").0);
    }
}
