//! End offsets, pinned so that a replay knows where it ends.

use kappa_client::TopicPartition;
use std::collections::BTreeMap;

/// End offsets of partitions: the offset of the record that would come next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndOffsets(pub(super) BTreeMap<TopicPartition, i64>);

impl EndOffsets {
    /// The end of a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.get(&TopicPartition::new(topic, partition)).copied()
    }

    /// All partitions with their ends, ordered by topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.0.iter().map(|(partition, end)| (&*partition.topic, partition.partition, *end))
    }

    /// Sum of the ends.
    pub fn total(&self) -> i64 {
        self.0.values().sum()
    }
}

impl FromIterator<((String, i32), i64)> for EndOffsets {
    fn from_iter<I: IntoIterator<Item = ((String, i32), i64)>>(ends: I) -> EndOffsets {
        EndOffsets(
            ends.into_iter()
                .map(|((topic, partition), end)| (TopicPartition::new(topic, partition), end))
                .collect(),
        )
    }
}
