//! Records of the catalog topic `__kappa_catalog`, which is ours and not KRaft's.
//!
//! One partition; every record's key names an entity, its value is the entity's whole state as JSON, and a null value
//! is its end. So the newest record of a key is all that counts, and the topic may be compacted.
//!
//! | key | value |
//! |---|---|
//! | `topic/<id>` | `{"name": "lines", "partitions": 6, "configs": {"retention.ms": "-1"}}` |
//! | `broker/<node id>`, `broker/` for all brokers | `{"configs": {"log.retention.ms": "3600000"}}` |
//! | `producer-ids` | `{"next": 2000}`: every smaller id may have been given out |
//!
//! `<id>` is a UUID in its usual text form. A reader ignores JSON fields that it does not know, and refuses keys that it does not know.

use crate::config::Overrides;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A topic as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicEntry {
    /// Its name.
    pub(crate) name: String,
    /// Number of its partitions, 0 up to this.
    pub(crate) partitions: i32,
    /// Its own settings.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub(crate) configs: Overrides,
}

/// Settings made at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrokerEntry {
    /// Broker properties by name.
    pub(crate) configs: Overrides,
}

/// How far producer ids are reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProducerIdsEntry {
    /// The first id that no broker has reserved.
    pub(crate) next: i64,
}

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CatalogRecord {
    /// The topic is there, like this.
    Topic(Uuid, TopicEntry),
    /// The topic is gone.
    TopicDeleted(Uuid),
    /// Settings of one broker, or of all (`None`).
    Broker(Option<i32>, BrokerEntry),
    /// How far producer ids are reserved.
    ProducerIds(ProducerIdsEntry),
}

/// A record that is not of this catalog.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogRecordError {
    /// No entity has such a key.
    #[error("the catalog has no key {0:?}")]
    Key(String),
    /// The value does not fit the key.
    #[error("catalog record {key}: {source}")]
    Value {
        /// The record's key.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A null value where an entity cannot end.
    #[error("catalog record {0} has no value")]
    Null(String),
}

impl CatalogRecord {
    /// The record's key.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Topic(id, _) | Self::TopicDeleted(id) => format!("topic/{id}"),
            Self::Broker(Some(node), _) => format!("broker/{node}"),
            Self::Broker(None, _) => "broker/".into(),
            Self::ProducerIds(_) => "producer-ids".into(),
        }
    }

    /// The record's value; `None` ends the entity.
    pub(crate) fn value(&self) -> Option<Vec<u8>> {
        let json = match self {
            Self::Topic(_, entry) => serde_json::to_vec(entry),
            Self::TopicDeleted(_) => return None,
            Self::Broker(_, entry) => serde_json::to_vec(entry),
            Self::ProducerIds(entry) => serde_json::to_vec(entry),
        };
        Some(json.expect("maps of strings and numbers have a JSON form"))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// A key that no entity has, or a value that does not fit it.
    pub(crate) fn parse(key: &[u8], value: Option<&[u8]>) -> Result<Self, CatalogRecordError> {
        let key = String::from_utf8_lossy(key).into_owned();
        let unknown = || CatalogRecordError::Key(key.clone());
        if let Some(id) = key.strip_prefix("topic/") {
            let id = Uuid::parse_str(id).map_err(|_| unknown())?;
            return match value {
                Some(value) => Ok(Self::Topic(id, json(&key, value)?)),
                None => Ok(Self::TopicDeleted(id)),
            };
        }
        let value = value.ok_or_else(|| CatalogRecordError::Null(key.clone()))?;
        match key.strip_prefix("broker/") {
            Some("") => Ok(Self::Broker(None, json(&key, value)?)),
            Some(node) => {
                let node = node.parse().map_err(|_| unknown())?;
                Ok(Self::Broker(Some(node), json(&key, value)?))
            }
            None if key == "producer-ids" => Ok(Self::ProducerIds(json(&key, value)?)),
            None => Err(unknown()),
        }
    }
}

fn json<T: for<'a> Deserialize<'a>>(key: &str, value: &[u8]) -> Result<T, CatalogRecordError> {
    serde_json::from_slice(value).map_err(|source| CatalogRecordError::Value { key: key.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_what_they_say() {
        let id = Uuid::from_u128(7);
        let configs = Overrides::from([("retention.ms".into(), "-1".into())]);
        let entry = TopicEntry { name: "lines".into(), partitions: 6, configs: configs.clone() };
        for record in [
            CatalogRecord::Topic(id, entry),
            CatalogRecord::TopicDeleted(id),
            CatalogRecord::Broker(None, BrokerEntry { configs: configs.clone() }),
            CatalogRecord::Broker(Some(1), BrokerEntry { configs }),
            CatalogRecord::ProducerIds(ProducerIdsEntry { next: 1000 }),
        ] {
            let (key, value) = (record.key(), record.value());
            assert_eq!(CatalogRecord::parse(key.as_bytes(), value.as_deref()).unwrap(), record);
        }
    }

    #[test]
    fn the_text_is_what_is_documented() {
        let entry = TopicEntry { name: "lines".into(), partitions: 6, configs: Overrides::new() };
        let record = CatalogRecord::Topic(Uuid::from_u128(7), entry);
        assert_eq!(record.key(), "topic/00000000-0000-0000-0000-000000000007");
        assert_eq!(record.value().unwrap(), br#"{"name":"lines","partitions":6}"#);
    }

    #[test]
    fn foreign_records_are_refused() {
        CatalogRecord::parse(b"topic/x", Some(b"{}")).unwrap_err();
        CatalogRecord::parse(b"user/x", Some(b"{}")).unwrap_err();
        CatalogRecord::parse(b"producer-ids", Some(b"[]")).unwrap_err();
        CatalogRecord::parse(b"producer-ids", None).unwrap_err();
    }
}
