//! The catalog folded from its topic: what topics there are, what was configured, which producer ids are reserved.
//!
//! Invariant: nothing changes this state but a record of the catalog topic, so replaying the topic gives the same dump.

use super::name::TopicName;
use super::record::{BrokerEntry, CatalogRecord, CatalogRecordError, ProducerIdsEntry, TopicEntry};
use crate::config::{BrokerLayers, Overrides};
use crate::partition::FoldState;
use kappa_protocol::record::{Batch, BatchError, RecordError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use uuid::Uuid;

/// Everything the catalog says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogState {
    topics: BTreeMap<Uuid, TopicEntry>,
    /// Names by what they have in common with names that collide.
    names: HashMap<String, String>,
    brokers: BTreeMap<Option<i32>, BrokerEntry>,
    producer_id_next: i64,
    deleted: HashSet<Uuid>,
}

/// A catalog topic that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// A batch that is damaged.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record that is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record without a key.
    #[error("the catalog record at offset {0} has no key")]
    NoKey(i64),
    /// A record of no catalog of ours.
    #[error("at offset {offset}: {source}")]
    Foreign {
        /// Where.
        offset: i64,
        /// What.
        source: CatalogRecordError,
    },
}

impl FoldState for CatalogState {
    type Error = CatalogError;

    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), CatalogError> {
        if batch.is_control() {
            return Ok(());
        }
        let body = batch.decode(kappa_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX)?;
        for record in body.iter() {
            let record = record?;
            let key = record.key.ok_or(CatalogError::NoKey(record.offset))?;
            let parsed = CatalogRecord::parse(key, record.value)
                .map_err(|source| CatalogError::Foreign { offset: record.offset, source })?;
            self.apply_record(parsed);
        }
        Ok(())
    }
}

impl CatalogState {
    pub(super) fn apply_record(&mut self, record: CatalogRecord) {
        match record {
            CatalogRecord::Topic(id, entry) => {
                self.names.insert(TopicName::collision_key(&entry.name), entry.name.clone());
                self.topics.insert(id, entry);
            }
            CatalogRecord::TopicDeleted(id) => {
                if let Some(entry) = self.topics.remove(&id) {
                    self.names.remove(&TopicName::collision_key(&entry.name));
                }
                self.deleted.insert(id);
            }
            CatalogRecord::Broker(node, entry) => {
                self.brokers.insert(node, entry);
            }
            CatalogRecord::ProducerIds(ProducerIdsEntry { next }) => {
                self.producer_id_next = self.producer_id_next.max(next);
            }
        }
    }

    /// Every topic, by id.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (Uuid, &TopicEntry)> {
        self.topics.iter().map(|(id, entry)| (*id, entry))
    }

    /// The topic that has this name, or one that cannot be told from it.
    pub(crate) fn name_like(&self, name: &str) -> Option<&str> {
        self.names.get(&TopicName::collision_key(name)).map(String::as_str)
    }

    /// Whether a topic of this id existed and was deleted.
    pub(crate) fn was_deleted(&self, id: Uuid) -> bool {
        self.deleted.contains(&id)
    }

    /// The records that make this state out of none. Of deleted topics it has those that `is_owed`: what is left of them
    /// on the disk has to be removed yet.
    pub(crate) fn records<'a>(
        &'a self,
        is_owed: impl Fn(Uuid) -> bool + 'a,
    ) -> impl Iterator<Item = CatalogRecord> + 'a {
        let brokers = self.brokers.iter().map(|(node, entry)| CatalogRecord::Broker(*node, entry.clone()));
        let ids = CatalogRecord::ProducerIds(ProducerIdsEntry { next: self.producer_id_next });
        let topics = self.topics.iter().map(|(id, entry)| CatalogRecord::Topic(*id, entry.clone()));
        let owed = self.deleted.iter().filter(move |id| is_owed(**id));
        brokers.chain([ids]).chain(topics).chain(owed.map(|id| CatalogRecord::TopicDeleted(*id)))
    }

    /// Forgets deleted topics of which nothing is left on the disk, as whoever replays a shortened log does.
    pub(crate) fn forget_deleted(&mut self, is_owed: impl Fn(Uuid) -> bool) {
        self.deleted.retain(|id| is_owed(*id));
    }

    /// Partitions of all topics.
    pub(crate) fn partitions(&self) -> i64 {
        self.topics.values().map(|entry| i64::from(entry.partitions)).sum()
    }

    /// The first producer id that is not reserved.
    pub(crate) fn producer_id_next(&self) -> i64 {
        self.producer_id_next
    }

    /// What was set at run time for one broker, or for all (`None`).
    pub(crate) fn broker_configs(&self, node: Option<i32>) -> Overrides {
        self.brokers.get(&node).map(|entry| entry.configs.clone()).unwrap_or_default()
    }

    /// The broker's layers: `fixed` from the start, the rest from here.
    pub(crate) fn layers(&self, fixed: &Overrides, node: i32) -> BrokerLayers {
        BrokerLayers {
            fixed: fixed.clone(),
            dynamic_default: self.broker_configs(None),
            dynamic_broker: self.broker_configs(Some(node)),
        }
    }

    /// The whole state as text, the same for the same state.
    pub(crate) fn dump(&self) -> String {
        let mut out = String::new();
        let mut line = |record: CatalogRecord| {
            let value = record.value().unwrap_or_default();
            let _ = writeln!(out, "{} {}", record.key(), String::from_utf8_lossy(&value));
        };
        for (node, entry) in &self.brokers {
            line(CatalogRecord::Broker(*node, entry.clone()));
        }
        line(CatalogRecord::ProducerIds(ProducerIdsEntry { next: self.producer_id_next }));
        for (id, entry) in &self.topics {
            line(CatalogRecord::Topic(*id, entry.clone()));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::record::{BatchBuilder, BatchOptions};

    fn fold(batches: &[&[CatalogRecord]]) -> CatalogState {
        let mut state = CatalogState::default();
        for records in batches {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            for record in *records {
                let (key, value) = (record.key(), record.value());
                builder.push(0, Some(key.as_bytes()), value.as_deref(), std::iter::empty());
            }
            let bytes = builder.finish(0);
            state.apply(&Batch::produced(&bytes).unwrap()).unwrap();
        }
        state
    }

    #[test]
    fn the_newest_record_of_an_entity_is_all_that_counts() {
        let topic = |id, name: &str, partitions| {
            let entry = TopicEntry { name: name.into(), partitions, configs: Overrides::new() };
            CatalogRecord::Topic(Uuid::from_u128(id), entry)
        };
        let configs = Overrides::from([("log.retention.ms".into(), "5".into())]);
        let broker = CatalogRecord::Broker(None, BrokerEntry { configs });
        let ids = |next| CatalogRecord::ProducerIds(ProducerIdsEntry { next });
        let deleted = CatalogRecord::TopicDeleted(Uuid::from_u128(2));
        let history =
            [topic(1, "a.b", 1), topic(2, "b", 1), ids(1000), topic(1, "a.b", 3), deleted.clone(), ids(2000)];
        let state = fold(&[&history[..2], &history[2..], std::slice::from_ref(&broker)]);
        assert_eq!(state.dump(), fold(&[&[broker, topic(1, "a.b", 3), deleted, ids(2000)]]).dump());
        assert_eq!((state.partitions(), state.producer_id_next()), (3, 2000));
        assert_eq!((state.name_like("a_b"), state.name_like("b")), (Some("a.b"), None));
        assert!(state.was_deleted(Uuid::from_u128(2)));
    }

    #[test]
    fn a_record_without_a_key_is_no_record_of_the_catalog() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(0, None, Some(b"{}"), std::iter::empty());
        let bytes = builder.finish(0);
        let error = CatalogState::default().apply(&Batch::produced(&bytes).unwrap()).unwrap_err();
        assert!(matches!(error, CatalogError::NoKey(0)), "{error}");
    }
}
