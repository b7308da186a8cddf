//! Topics that are deleted and created again under the same names, with records in each life.

use super::{Depth, Load};
use crate::harness::requests::{self, base_offset, batch, create_topics, produce, read_all};
use crate::harness::wire::Wire;
use kappa_protocol::ErrorCode;
use kappa_protocol::messages as m;
use kappa_protocol::record::Compression;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names that live again and again.
const NAMES: usize = 3;
/// Produce requests in a life.
const REQUESTS: u64 = 4;
/// Records of a request.
const RECORDS: u64 = 5;

/// What was asked for last and may have been carried out or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Creation,
    Records,
    Deletion,
}

/// One name, as the broker owes it.
#[derive(Debug)]
struct Topic {
    name: String,
    /// How often it was asked to be created. Every record says of which life it is.
    life: u64,
    /// Whether it is there, as far as was acknowledged.
    is_there: bool,
    /// Records of this life that were acknowledged.
    acknowledged: u64,
    asked: Asked,
}

pub(super) struct Reborn {
    topics: Vec<Topic>,
}

impl Reborn {
    pub(super) fn new() -> Self {
        let topic = |number| Topic {
            name: format!("reborn-{number}"),
            life: 0,
            is_there: false,
            acknowledged: 0,
            asked: Asked::Nothing,
        };
        Self { topics: (0..NAMES).map(topic).collect() }
    }
}

fn value(life: u64, index: u64) -> String {
    format!("{life}:{index}:{}", "x".repeat((index * 37 % 300) as usize))
}

impl Topic {
    /// A whole life, or what is left of it.
    fn live(&mut self, wire: &mut Wire) -> io::Result<()> {
        if !self.is_there {
            (self.asked, self.life, self.acknowledged) = (Asked::Creation, self.life + 1, 0);
            let created = wire.ask(requests::CREATE_TOPICS, create_topics(&self.name, 1, &[]))?;
            assert_eq!(created.topics[0].error_code, 0, "{self:?}: {:?}", created.topics[0].error_message);
            self.is_there = true;
        }
        while self.acknowledged < REQUESTS * RECORDS {
            self.asked = Asked::Records;
            let first = self.acknowledged;
            let values = (first..first + RECORDS).map(|index| value(self.life, index));
            let records = batch(values, Compression::None, None);
            let response = wire.ask(requests::PRODUCE, produce(&self.name, 0, records))?;
            let offset = base_offset(&response).unwrap_or_else(|code| panic!("{self:?}: {code}"));
            assert_eq!(offset, first as i64, "a life begins at offset 0: {self:?}");
            self.acknowledged += RECORDS;
        }
        self.asked = Asked::Deletion;
        let delete = m::DeleteTopicsRequest {
            topic_names: vec![self.name.clone()],
            timeout_ms: 30_000,
            ..Default::default()
        };
        assert_eq!(wire.ask(5, delete)?.responses[0].error_code, 0, "{self:?}");
        (self.is_there, self.asked) = (false, Asked::Nothing);
        Ok(())
    }
}

impl Load for Reborn {
    fn set_up(&mut self, _: &mut Wire) {}

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        loop {
            for topic in &mut self.topics {
                topic.live(wire)?;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn verify(&mut self, wire: &mut Wire, _: Depth) {
        for topic in &mut self.topics {
            let request = m::MetadataRequest {
                topics: Some(vec![m::metadata_request::MetadataRequestTopic {
                    name: Some(topic.name.clone()),
                    ..Default::default()
                }]),
                allow_auto_topic_creation: false,
                ..Default::default()
            };
            let found = wire.ask(requests::METADATA, request).expect("the broker runs");
            let code = ErrorCode::from(found.topics[0].error_code);
            let is_there = code != ErrorCode::UnknownTopicOrPartition;
            let may_differ = matches!(topic.asked, Asked::Creation | Asked::Deletion);
            assert!(is_there == topic.is_there || may_differ, "{topic:?}: {code}");
            topic.is_there = is_there;
            if is_there {
                let records = read_all(wire, &topic.name, 0, 0).expect("the broker runs");
                let count = records.len() as u64;
                let most = topic.acknowledged + if topic.asked == Asked::Records { RECORDS } else { 0 };
                assert!((topic.acknowledged..=most).contains(&count), "{topic:?}: {count} records");
                for ((offset, stored), index) in records.iter().zip(0..) {
                    assert_eq!(*offset, index as i64, "{topic:?}");
                    assert_eq!(stored, value(topic.life, index).as_bytes(), "{topic:?}");
                }
                topic.acknowledged = count;
            }
            topic.asked = Asked::Nothing;
        }
    }
}
