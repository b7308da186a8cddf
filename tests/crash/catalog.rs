//! Topics that are created, configured and deleted all the time.

use super::{Depth, Load};
use crate::harness::requests;
use crate::harness::wire::Wire;
use kappa_protocol::messages as m;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

const RETENTION: &str = "retention.ms";
/// Topics that there are at a time.
const TOPICS_MAX: usize = 12;
/// DescribeConfigs and IncrementalAlterConfigs name a topic so.
const TOPIC_RESOURCE: i8 = 2;

/// What must be said of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    partitions: usize,
    retention_ms: u64,
}

/// What the broker owes: a topic as it was acknowledged last, and as it is if the last request was carried out.
#[derive(Debug)]
struct Owed {
    before: Option<Facts>,
    after: Option<Facts>,
}

pub(super) struct Catalog {
    next: u64,
    topics: BTreeMap<String, Owed>,
}

impl Catalog {
    pub(super) fn new() -> Self {
        Self { next: 0, topics: BTreeMap::new() }
    }

    /// A topic to delete, so that there are never many.
    fn surplus(&self) -> Option<String> {
        let mut there = self.topics.iter().filter(|(_, owed)| owed.before.is_some());
        let first = there.next()?.0.clone();
        (there.count() >= TOPICS_MAX).then_some(first)
    }

    /// Remembers what is asked, asks, and once it is acknowledged only the new facts count.
    fn ask(
        &mut self,
        name: &str,
        after: Option<Facts>,
        request: impl FnOnce() -> io::Result<i16>,
    ) -> io::Result<()> {
        let owed = self.topics.entry(name.to_owned()).or_insert(Owed { before: None, after: None });
        owed.after = after;
        assert_eq!(request()?, 0, "{name}: {owed:?}");
        owed.before.clone_from(&owed.after);
        Ok(())
    }
}

fn alter(name: &str, retention_ms: u64) -> m::IncrementalAlterConfigsRequest {
    m::IncrementalAlterConfigsRequest {
        resources: vec![m::incremental_alter_configs_request::AlterConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: name.into(),
            configs: vec![m::incremental_alter_configs_request::AlterableConfig {
                name: RETENTION.into(),
                config_operation: 0,
                value: Some(retention_ms.to_string()),
            }],
        }],
        validate_only: false,
    }
}

fn retention_ms(wire: &mut Wire, name: &str) -> u64 {
    let request = m::DescribeConfigsRequest {
        resources: vec![m::describe_configs_request::DescribeConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: name.into(),
            configuration_keys: Some(vec![RETENTION.into()]),
        }],
        ..Default::default()
    };
    let response = wire.ask(4, request).expect("the broker runs");
    let value = response.results[0].configs[0].value.as_ref().expect("it always has a value");
    value.parse().expect("a number")
}

impl Load for Catalog {
    fn set_up(&mut self, _: &mut Wire) {}

    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()> {
        loop {
            let n = self.next;
            self.next += 1;
            let name = format!("catalog-{n}");
            let created = Facts { partitions: 1 + (n % 3) as usize, retention_ms: 1_000_000 + n };
            let retention = created.retention_ms.to_string();
            self.ask(&name, Some(created.clone()), || {
                let request =
                    requests::create_topics(&name, created.partitions as i32, &[(RETENTION, &retention)]);
                Ok(wire.ask(requests::CREATE_TOPICS, request)?.topics[0].error_code)
            })?;
            if n.is_multiple_of(2) {
                let altered = Facts { retention_ms: 2_000_000 + n, ..created };
                self.ask(&name, Some(altered.clone()), || {
                    Ok(wire.ask(1, alter(&name, altered.retention_ms))?.responses[0].error_code)
                })?;
            }
            while let Some(name) = self.surplus() {
                let delete = m::DeleteTopicsRequest {
                    topic_names: vec![name.clone()],
                    timeout_ms: 30_000,
                    ..Default::default()
                };
                self.ask(&name, None, || Ok(wire.ask(5, delete)?.responses[0].error_code))?;
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, wire: &mut Wire, _: Depth) {
        let all = m::MetadataRequest { topics: None, ..Default::default() };
        let response = wire.ask(requests::METADATA, all).expect("the broker runs");
        let mut there: BTreeMap<String, usize> = response
            .topics
            .into_iter()
            .filter_map(|topic| Some((topic.name?, topic.partitions.len())))
            .filter(|(name, _)| name.starts_with("catalog-"))
            .collect();
        for (name, owed) in &mut self.topics {
            let facts = there
                .remove(name)
                .map(|partitions| Facts { partitions, retention_ms: retention_ms(wire, name) });
            assert!(facts == owed.before || facts == owed.after, "{name}: {facts:?}, owed {owed:?}");
            (owed.before, owed.after) = (facts.clone(), facts);
        }
        assert!(there.is_empty(), "topics that nobody created: {there:?}");
        self.topics.retain(|_, owed| owed.before.is_some());
    }
}
