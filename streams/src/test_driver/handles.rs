//! Typed ends of a driver's topics.

use super::{DriverError, TestDriver};
use crate::{
    codec::{Codec, CodecError, Data, SharedCodec},
    record::{Headers, Record},
    topology::TopicId,
};
use std::{fmt, sync::Arc};

/// Writes records to a topic that the topology reads.
pub struct InputTopic<K, V> {
    topic: String,
    codecs: (SharedCodec<K>, SharedCodec<V>),
}

impl<K, V> fmt::Debug for InputTopic<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Reads records from a topic that the topology writes.
pub struct OutputTopic<K, V> {
    topic: TopicId,
    codecs: (SharedCodec<K>, SharedCodec<V>),
}

impl<K, V> fmt::Debug for OutputTopic<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl TestDriver {
    /// A typed writer of an input topic.
    pub fn input<KC: Codec, VC: Codec>(
        &self,
        topic: &str,
        codecs: (KC, VC),
    ) -> InputTopic<KC::Item, VC::Item> {
        InputTopic { topic: topic.to_owned(), codecs: (Arc::new(codecs.0), Arc::new(codecs.1)) }
    }

    /// A typed reader of an output topic.
    pub fn output<KC: Codec, VC: Codec>(
        &self,
        topic: &str,
        codecs: (KC, VC),
    ) -> Result<OutputTopic<KC::Item, VC::Item>, DriverError> {
        Ok(OutputTopic { topic: self.topic_id(topic)?, codecs: (Arc::new(codecs.0), Arc::new(codecs.1)) })
    }
}

fn encode<T: Data>(codec: &SharedCodec<T>, item: &T) -> Result<Option<Vec<u8>>, CodecError> {
    if codec.is_null(item) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    codec.encode(item, &mut bytes)?;
    Ok(Some(bytes))
}

fn decode<T: Data>(codec: &SharedCodec<T>, bytes: Option<&[u8]>) -> Result<T, CodecError> {
    match bytes {
        Some(bytes) => codec.decode(bytes),
        None => codec.null().ok_or(CodecError::Truncated { item: "null", expected: 1, actual: 0 }),
    }
}

impl<K: Data, V: Data> InputTopic<K, V> {
    /// Appends a record to the partition of its key and runs.
    pub fn pipe(&self, driver: &mut TestDriver, key: K, value: V, timestamp: i64) -> Result<(), DriverError> {
        self.append(driver, None, key, value, timestamp)?;
        driver.run()
    }

    /// Appends a record, to a chosen partition if one is given, without running.
    pub fn append(
        &self,
        driver: &mut TestDriver,
        partition: Option<i32>,
        key: K,
        value: V,
        timestamp: i64,
    ) -> Result<(), DriverError> {
        let (key, value) = (encode(&self.codecs.0, &key)?, encode(&self.codecs.1, &value)?);
        driver.append(&self.topic, partition, (key.as_deref(), value.as_deref()), timestamp, Headers::NONE)
    }
}

impl<K: Data, V: Data> OutputTopic<K, V> {
    /// The records written since the last call, by partition.
    pub fn drain(&self, driver: &mut TestDriver) -> Result<Vec<Record<K, V>>, DriverError> {
        let records = driver.topics.drain(self.topic);
        let typed = records.into_iter().map(|(_, record)| {
            Ok(Record {
                key: decode(&self.codecs.0, record.key.as_deref())?,
                value: decode(&self.codecs.1, record.value.as_deref())?,
                timestamp: record.timestamp,
                headers: record.headers,
            })
        });
        typed.collect()
    }
}
