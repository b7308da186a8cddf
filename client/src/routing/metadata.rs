//! What is known of the cluster: its nodes, and for the topics in use their partitions and leaders.
//!
//! A [`Cluster`] is a snapshot that is never changed, only replaced; a topic in it may be marked as stale by whoever
//! found it so. It knows nothing of connections.

use kappa_protocol::{
    ErrorCode, messages::MetadataResponse, messages::metadata_response::MetadataResponseTopic,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};
use uuid::Uuid;

/// A snapshot of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<i32, NodeAddress>,
    pub(crate) controller: Option<i32>,
    topics: HashMap<Arc<str>, Arc<TopicMetadata>>,
    ids: HashMap<Uuid, Arc<str>>,
}

/// Where a node says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(crate) host: String,
    pub(crate) port: i32,
}

impl NodeAddress {
    /// `host:port`, with the brackets that an IPv6 host needs.
    pub(crate) fn address(&self) -> Arc<str> {
        let NodeAddress { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}").into() } else { format!("{host}:{port}").into() }
    }
}

/// What is known of a topic.
#[derive(Debug)]
pub(crate) struct TopicMetadata {
    pub(crate) name: Arc<str>,
    /// Nil if the broker does not name topics by id.
    pub(crate) id: Uuid,
    pub(crate) error: ErrorCode,
    /// By number, without gaps.
    pub(crate) partitions: Vec<PartitionMetadata>,
    fetched_at: Instant,
    stale: AtomicBool,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionMetadata {
    pub(crate) leader: Option<i32>,
    pub(crate) leader_epoch: i32,
}

impl TopicMetadata {
    fn new(name: Arc<str>, topic: &MetadataResponseTopic, fetched_at: Instant) -> TopicMetadata {
        let mut partitions: Vec<_> = topic.partitions.iter().collect();
        partitions.sort_by_key(|partition| partition.partition_index);
        let partitions = partitions
            .into_iter()
            .enumerate()
            // A gap would shift the numbers behind it.
            .take_while(|(number, partition)| usize::try_from(partition.partition_index) == Ok(*number))
            .map(|(_, partition)| PartitionMetadata {
                leader: (partition.leader_id >= 0).then_some(partition.leader_id),
                leader_epoch: partition.leader_epoch,
            })
            .collect();
        let error = ErrorCode::from(topic.error_code);
        TopicMetadata {
            name,
            id: topic.topic_id,
            error,
            partitions,
            fetched_at,
            stale: AtomicBool::new(false),
        }
    }

    /// Asks for it anew before the next use.
    pub(crate) fn mark_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether it can be used without asking.
    pub(crate) fn is_fresh(&self, age_max: std::time::Duration) -> bool {
        self.error.is_none() && !self.stale.load(Ordering::Relaxed) && self.fetched_at.elapsed() < age_max
    }

    /// The leader and its epoch, if the partition exists and has one.
    pub(crate) fn leader(&self, partition: i32) -> Option<(i32, i32)> {
        let partition = self.partitions.get(usize::try_from(partition).ok()?)?;
        Some((partition.leader?, partition.leader_epoch))
    }

    /// Number of partitions.
    pub(crate) fn count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }
}

impl Cluster {
    /// This snapshot with what a response says of nodes and topics; other topics stay.
    pub(crate) fn merged(&self, response: &MetadataResponse) -> Cluster {
        let controller = (response.controller_id >= 0).then_some(response.controller_id);
        let mut merged = Cluster { nodes: BTreeMap::new(), controller, ..self.clone() };
        for broker in &response.brokers {
            merged.add_node(broker.node_id, &broker.host, broker.port);
        }
        let now = Instant::now();
        for topic in &response.topics {
            let Some(name) = topic.name.as_deref() else { continue };
            let name =
                merged.topics.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| name.clone());
            merged.ids.retain(|_, known| *known != name);
            if !topic.topic_id.is_nil() {
                merged.ids.insert(topic.topic_id, name.clone());
            }
            merged.topics.insert(name.clone(), Arc::new(TopicMetadata::new(name, topic, now)));
        }
        merged
    }

    pub(crate) fn add_node(&mut self, id: i32, host: &str, port: i32) {
        self.nodes.insert(id, NodeAddress { host: host.to_owned(), port });
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicMetadata>> {
        self.topics.get(name)
    }

    /// Name of the topic with this id.
    pub(crate) fn name(&self, id: Uuid) -> Option<&Arc<str>> {
        self.ids.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition};
    use std::time::Duration;

    fn response(topic: &str, id: u128, leaders: &[i32]) -> MetadataResponse {
        let partitions = leaders.iter().zip(0..).map(|(leader, number)| MetadataResponsePartition {
            partition_index: number,
            leader_id: *leader,
            ..Default::default()
        });
        MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: 1,
                host: "h".into(),
                port: 9,
                ..Default::default()
            }],
            topics: vec![MetadataResponseTopic {
                name: Some(topic.into()),
                topic_id: Uuid::from_u128(id),
                partitions: partitions.collect(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn answer_replaces_its_topics_and_keeps_the_others() {
        let first = Cluster::default().merged(&response("a", 1, &[1, -1]));
        let second = first.merged(&response("b", 2, &[1])).merged(&response("a", 3, &[1, 1, 1]));
        let topic = second.topic("a").unwrap();
        assert_eq!((topic.count(), topic.leader(1), topic.leader(3)), (3, Some((1, -1)), None));
        assert_eq!(second.topic("b").unwrap().count(), 1);
        assert_eq!(first.topic("a").unwrap().leader(1), None);
        assert_eq!(second.name(Uuid::from_u128(3)).map(|name| &**name), Some("a"));
        assert_eq!(second.name(Uuid::from_u128(1)), None);
        assert!(topic.is_fresh(Duration::from_secs(60)));
        topic.mark_stale();
        assert!(!topic.is_fresh(Duration::from_secs(60)));
    }
}
