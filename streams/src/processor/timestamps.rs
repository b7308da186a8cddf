//! Event times that are taken from what a record says rather than from its own timestamp.
//!
//! They are taken once, when a record enters a task or a table, before anything goes by its time; the same where a table
//! is restored from its topic.

use super::edge::decode;
use crate::{
    codec::{Data, SharedCodec},
    record::Meta,
};
use std::sync::Arc;

/// A function that takes an event time from a record.
pub(crate) type TimeOf<K, V> = Arc<dyn Fn(&Meta<'_>, &K, &V) -> Option<i64> + Send + Sync>;

/// The time of a record from which none could be taken: it is dropped and counted as any that is negative.
const NO_TIME: i64 = -1;

/// Takes the event time of a record whose types are forgotten.
pub(crate) trait EventTimes {
    /// The event time of a record; negative if there is none.
    fn time(&self, record: &Meta<'_>, key: Option<&[u8]>, value: Option<&[u8]>) -> i64;
}

/// Takes the event times of a topic.
pub(crate) struct Timestamps<K, V> {
    pub(crate) codecs: (SharedCodec<K>, SharedCodec<V>),
    pub(crate) time: TimeOf<K, V>,
}

impl<K, V> Clone for Timestamps<K, V> {
    fn clone(&self) -> Self {
        Timestamps { codecs: self.codecs.clone(), time: Arc::clone(&self.time) }
    }
}

impl<K: Data, V: Data> EventTimes for Timestamps<K, V> {
    fn time(&self, record: &Meta<'_>, key: Option<&[u8]>, value: Option<&[u8]>) -> i64 {
        match (decode(&self.codecs.0, key), decode(&self.codecs.1, value)) {
            (Ok(Some(key)), Ok(Some(value))) => (self.time)(record, &key, &value).unwrap_or(NO_TIME),
            // What has no payload keeps its own time; what cannot be decoded is dealt with when it is processed.
            _ => record.timestamp,
        }
    }
}
