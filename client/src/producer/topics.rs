//! The queues of every topic in use, and the choice of a record's partition.
//!
//! Partition counts come from the metadata and only grow: a queue, once made, keeps its records. Knows nothing of
//! leaders.

use super::{ProducerRecord, SendError, queue::PartitionQueue};
use crate::routing::backoff::random;
use kappa_protocol::record::partition_for_key;
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

/// All queues of a producer.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: RwLock<HashMap<Arc<str>, Topic>>,
    /// Number of queues made so far.
    queues: AtomicUsize,
}

#[derive(Debug)]
struct Topic {
    queues: Vec<Arc<PartitionQueue>>,
    sticky: Sticky,
}

/// The partition of records without a key: one at a time, so that batches fill, a random other one after each batch
/// worth of bytes (KIP-794).
#[derive(Debug)]
struct Sticky {
    /// Drawn anew for each turn; its remainder by the partition count is the partition.
    draw: AtomicUsize,
    bytes: AtomicUsize,
}

impl Sticky {
    fn new() -> Sticky {
        Sticky { draw: AtomicUsize::new(random() as usize), bytes: AtomicUsize::new(0) }
    }

    fn choose(&self, count: usize, len: usize, batch_bytes: usize) -> usize {
        let draw = self.draw.load(Ordering::Relaxed);
        let before = self.bytes.fetch_add(len, Ordering::Relaxed);
        // Only the record that crosses the bound moves on, whatever other threads do.
        if before < batch_bytes && before + len >= batch_bytes {
            self.draw.store(random() as usize, Ordering::Relaxed);
            self.bytes.store(0, Ordering::Relaxed);
        }
        draw % count
    }
}

impl Topics {
    /// The topic's queues grow to `count`.
    pub(super) fn grow(&self, name: &Arc<str>, count: i32) {
        let mut topics = self.topics.write();
        let topic =
            topics.entry(name.clone()).or_insert_with(|| Topic { queues: Vec::new(), sticky: Sticky::new() });
        for partition in i32::try_from(topic.queues.len()).unwrap_or(i32::MAX)..count {
            let id = self.queues.fetch_add(1, Ordering::Relaxed);
            topic.queues.push(Arc::new(PartitionQueue::new(name.clone(), partition, id)));
        }
    }

    /// Runs `append` on the queue of the partition of the first record, with which the others go.
    pub(super) fn with_queue<T>(
        &self,
        records: &[ProducerRecord<'_>],
        len: usize,
        batch_bytes: usize,
        append: impl FnOnce(&Arc<PartitionQueue>) -> T,
    ) -> Result<T, SendError> {
        let record = records.first().expect("there is a record to append");
        let topics = self.topics.read();
        let unknown = || SendError::TopicUnknown { topic: Arc::from(record.topic) };
        let topic = topics.get(record.topic).ok_or_else(unknown)?;
        let count = topic.queues.len();
        let partition = match (record.partition, record.key) {
            _ if count == 0 => return Err(unknown()),
            (Some(partition), _) => usize::try_from(partition).unwrap_or(usize::MAX),
            (None, Some(key)) => partition_for_key(key, i32::try_from(count).unwrap_or(i32::MAX)) as usize,
            (None, None) => topic.sticky.choose(count, len, batch_bytes),
        };
        let queue = topic.queues.get(partition).ok_or_else(|| SendError::PartitionUnknown {
            topic: Arc::from(record.topic),
            partition: record.partition.unwrap_or(-1),
            count,
        })?;
        Ok(append(queue))
    }

    /// Every queue.
    pub(super) fn queues(&self) -> Vec<Arc<PartitionQueue>> {
        self.topics.read().values().flat_map(|topic| topic.queues.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn partition(topics: &Topics, record: &ProducerRecord<'_>) -> Result<i32, SendError> {
        topics.with_queue(std::slice::from_ref(record), 100, 1000, |queue| queue.partition)
    }

    #[test]
    fn key_decides_unless_the_partition_is_given() {
        let topics = Topics::default();
        let record = ProducerRecord::to("t").key("kafka");
        assert!(matches!(partition(&topics, &record), Err(SendError::TopicUnknown { .. })));
        topics.grow(&Arc::from("t"), 5);
        assert_eq!(partition(&topics, &record), Ok(partition_for_key(b"kafka", 5)));
        assert_eq!(partition(&topics, &record.partition(3)), Ok(3));
        assert!(matches!(
            partition(&topics, &record.partition(5)),
            Err(SendError::PartitionUnknown { count: 5, .. })
        ));
        topics.grow(&Arc::from("t"), 6);
        assert_eq!(partition(&topics, &record.partition(5)), Ok(5));
    }

    #[test]
    fn records_without_a_key_stick_for_a_batch_and_spread_over_all_partitions() {
        let topics = Topics::default();
        topics.grow(&Arc::from("t"), 4);
        let chosen: Vec<i32> =
            (0..4000).map(|_| partition(&topics, &ProducerRecord::to("t")).unwrap()).collect();
        assert!(chosen.chunks(10).all(|turn| turn.iter().all(|partition| *partition == turn[0])));
        let mut counts = BTreeMap::new();
        chosen.iter().for_each(|partition| *counts.entry(partition).or_insert(0) += 1);
        assert_eq!(counts.len(), 4);
        assert!(counts.values().all(|count| (500..1500).contains(count)), "{counts:?}");
    }
}
