//! Topics: what is asked and what is told.

use super::{Admin, ItemResults};
use crate::{LaneKind, RequestError, TopicPartition, coordinator::by_topic, offsets};
use kappa_protocol::{
    ApiKey, ErrorCode,
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        MetadataRequest, MetadataResponse,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        metadata_request::MetadataRequestTopic,
        metadata_response::MetadataResponseTopic,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use uuid::Uuid;

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions; `None` for the broker's default.
    pub partitions: Option<i32>,
    /// Replicas of each partition; `None` for the broker's default.
    pub replication_factor: Option<i16>,
    /// Configuration that differs from the defaults.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic of `partitions` partitions, everything else by the broker's defaults.
    pub fn new(name: impl Into<String>, partitions: i32) -> NewTopic {
        NewTopic { partitions: Some(partitions), ..NewTopic::with_defaults(name) }
    }

    /// A topic with the broker's default number of partitions.
    pub fn with_defaults(name: impl Into<String>) -> NewTopic {
        NewTopic { name: name.into(), partitions: None, replication_factor: None, configs: BTreeMap::new() }
    }

    /// Sets a configuration value, such as `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> NewTopic {
        self.configs.insert(name.into(), value.into());
        self
    }

    /// Sets the number of replicas.
    #[must_use]
    pub fn replication_factor(mut self, replicas: i16) -> NewTopic {
        self.replication_factor = Some(replicas);
        self
    }
}

/// A topic as it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id, nil from brokers that have none.
    pub id: Uuid,
    /// Number of partitions, -1 if the broker did not tell.
    pub partitions: i32,
    /// Replicas of each, -1 if the broker did not tell.
    pub replication_factor: i16,
}

/// A topic in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id, nil from brokers that have none.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: usize,
    /// Whether it belongs to the broker itself, such as `__consumer_offsets`.
    pub internal: bool,
}

/// A topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id, nil from brokers that have none.
    pub id: Uuid,
    /// Whether it belongs to the broker itself.
    pub internal: bool,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionDescription>,
}

/// Where a partition's replicas are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: i32,
    /// Node that leads it; `None` while there is none.
    pub leader: Option<i32>,
    /// How many leaders it has had, -1 if the broker did not tell.
    pub leader_epoch: i32,
    /// Nodes with a replica.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub in_sync: Vec<i32>,
    /// Those of them that are offline.
    pub offline: Vec<i32>,
}

/// What time or place an offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset that can still be read.
    Earliest,
    /// The end: the offset of the next record.
    Latest,
    /// The first record with this timestamp in ms or a later one.
    Timestamp(i64),
    /// The record with the largest timestamp.
    MaxTimestamp,
}

impl OffsetSpec {
    /// The number on the wire.
    pub(crate) fn timestamp(self) -> i64 {
        match self {
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::MaxTimestamp => -3,
            OffsetSpec::Timestamp(timestamp) => timestamp,
        }
    }
}

/// An offset and the time of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// The offset.
    pub offset: i64,
    /// Timestamp of the record in ms, -1 where the question was not one of time.
    pub timestamp: i64,
    /// Epoch of the leader that appended it, -1 if the broker did not tell.
    pub leader_epoch: i32,
}

impl Admin {
    /// Creates topics.
    ///
    /// # Errors
    /// If no controller answers; what is wrong with a topic is its own result.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<ItemResults<String, CreatedTopic>, RequestError> {
        let request = |_| CreateTopicsRequest {
            topics: topics.iter().map(creatable).collect(),
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let codes = |response: &kappa_protocol::messages::CreateTopicsResponse| {
            response.topics.iter().map(|topic| topic.error_code).collect()
        };
        let response = self.ask_controller(request, codes).await?;
        let created = response.topics.into_iter().map(|topic| {
            self.client.mark_stale(&topic.name);
            let created =
                RequestError::check(ApiKey::CreateTopics, topic.error_code, topic.error_message.as_deref());
            let created = created.map(|()| CreatedTopic {
                id: topic.topic_id,
                partitions: topic.num_partitions,
                replication_factor: topic.replication_factor,
            });
            (topic.name, created)
        });
        Ok(created.collect())
    }

    /// Creates one topic.
    ///
    /// # Errors
    /// If no controller answers, or the topic cannot be created.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<CreatedTopic, RequestError> {
        let mut created = self.create_topics(std::slice::from_ref(topic)).await?;
        created.remove(&topic.name).ok_or(RequestError::Incomplete { api: ApiKey::CreateTopics })?
    }

    /// Deletes topics with all their records.
    ///
    /// # Errors
    /// If no controller answers; what is wrong with a topic is its own result.
    pub async fn delete_topics<T: AsRef<str>>(
        &self,
        topics: &[T],
    ) -> Result<ItemResults<String, ()>, RequestError> {
        let names = || topics.iter().map(|topic| topic.as_ref().to_owned());
        let request = |version| DeleteTopicsRequest {
            topics: if version < 6 { Vec::new() } else { names().map(deletable).collect() },
            topic_names: if version < 6 { names().collect() } else { Vec::new() },
            timeout_ms: self.timeout_ms(),
        };
        let codes = |response: &kappa_protocol::messages::DeleteTopicsResponse| {
            response.responses.iter().map(|topic| topic.error_code).collect()
        };
        let response = self.ask_controller(request, codes).await?;
        let deleted = response.responses.into_iter().map(|topic| {
            let name = topic.name.unwrap_or_default();
            self.client.mark_stale(&name);
            (
                name,
                RequestError::check(ApiKey::DeleteTopics, topic.error_code, topic.error_message.as_deref()),
            )
        });
        Ok(deleted.collect())
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, RequestError> {
        let response = self.metadata(None).await?;
        let mut topics: Vec<_> = response.topics.into_iter().filter_map(listing).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Topics with their partitions; none is created by asking.
    ///
    /// # Errors
    /// If no broker answers; that a topic does not exist is its own result.
    pub async fn describe_topics<T: AsRef<str>>(
        &self,
        topics: &[T],
    ) -> Result<ItemResults<String, TopicDescription>, RequestError> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names = topics.iter().map(|topic| topic.as_ref().to_owned()).collect();
        let response = self.metadata(Some(names)).await?;
        let described = response.topics.into_iter().filter_map(|topic| {
            let name = topic.name.clone()?;
            let described = RequestError::check(ApiKey::Metadata, topic.error_code, None);
            Some((name.clone(), described.map(|()| description(name, topic))))
        });
        Ok(described.collect())
    }

    async fn metadata(&self, topics: Option<Vec<String>>) -> Result<MetadataResponse, RequestError> {
        let request = |version| {
            let named = topics.as_ref().map(|names| {
                let topic =
                    |name: &String| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
                names.iter().map(topic).collect()
            });
            MetadataRequest {
                // The oldest version has no null; an empty list stands for all.
                topics: if version == 0 { Some(named.unwrap_or_default()) } else { named },
                allow_auto_topic_creation: version < 4,
                ..Default::default()
            }
        };
        self.client.retry(|| self.client.ask_any(request), |_| false).await
    }

    /// Raises the number of partitions of topics; each count is the new total.
    ///
    /// # Errors
    /// If no controller answers; what is wrong with a topic is its own result.
    pub async fn create_partitions(
        &self,
        counts: &[(&str, i32)],
    ) -> Result<ItemResults<String, ()>, RequestError> {
        let topic = |(name, count): &(&str, i32)| CreatePartitionsTopic {
            name: (*name).to_owned(),
            count: *count,
            assignments: None,
        };
        let request = |_| CreatePartitionsRequest {
            topics: counts.iter().map(topic).collect(),
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let codes = |response: &kappa_protocol::messages::CreatePartitionsResponse| {
            response.results.iter().map(|topic| topic.error_code).collect()
        };
        let response = self.ask_controller(request, codes).await?;
        let grown = response.results.into_iter().map(|topic| {
            self.client.mark_stale(&topic.name);
            let grown = RequestError::check(
                ApiKey::CreatePartitions,
                topic.error_code,
                topic.error_message.as_deref(),
            );
            (topic.name, grown)
        });
        Ok(grown.collect())
    }

    /// Deletes the records before each offset (-1 for all), and gives the new log start offsets.
    ///
    /// # Errors
    /// None for the call as such; what is wrong with a partition is its own result.
    pub async fn delete_records(
        &self,
        before: &[(TopicPartition, i64)],
    ) -> Result<ItemResults<TopicPartition, i64>, RequestError> {
        let mut results = BTreeMap::new();
        let mut by_leader: HashMap<i32, Vec<(TopicPartition, i64)>> = HashMap::new();
        for (partition, offset) in before {
            match self.client.leader(partition).await {
                Ok((leader, _)) => by_leader.entry(leader).or_default().push((partition.clone(), *offset)),
                Err(error) => {
                    results.insert(partition.clone(), Err(error));
                }
            }
        }
        for (leader, before) in by_leader {
            let request = |_| delete_records(&before, self.timeout_ms());
            let response = match self.client.ask(leader, LaneKind::Admin, request).await {
                Ok(response) => response,
                Err(error) => {
                    results.extend(before.into_iter().map(|(partition, _)| (partition, Err(error.clone()))));
                    continue;
                }
            };
            for topic in response.topics {
                let name: Arc<str> = Arc::from(topic.name);
                for partition in topic.partitions {
                    let deleted = RequestError::check(ApiKey::DeleteRecords, partition.error_code, None);
                    let deleted = deleted.map(|()| partition.low_watermark);
                    results.insert(TopicPartition::new(name.clone(), partition.partition_index), deleted);
                }
            }
        }
        Ok(results)
    }

    /// Offsets by place or time; `None` if no record is that late.
    ///
    /// # Errors
    /// None for the call as such; what is wrong with a partition is its own result.
    pub async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
    ) -> Result<ItemResults<TopicPartition, Option<OffsetAndTimestamp>>, RequestError> {
        let wanted: Vec<_> = wanted.iter().map(|(name, spec)| (name.clone(), spec.timestamp())).collect();
        Ok(offsets::list(&self.client, &wanted, 0).await)
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let config = |(name, value): (&String, &String)| CreatableTopicConfig {
        name: name.clone(),
        value: Some(value.clone()),
    };
    CreatableTopic {
        name: topic.name.clone(),
        num_partitions: topic.partitions.unwrap_or(-1),
        replication_factor: topic.replication_factor.unwrap_or(-1),
        assignments: Vec::new(),
        configs: topic.configs.iter().map(config).collect(),
    }
}

fn deletable(name: String) -> DeleteTopicState {
    DeleteTopicState { name: Some(name), ..Default::default() }
}

fn listing(topic: MetadataResponseTopic) -> Option<TopicListing> {
    (ErrorCode::from(topic.error_code).is_none()).then_some(())?;
    Some(TopicListing {
        name: topic.name?,
        id: topic.topic_id,
        partitions: topic.partitions.len(),
        internal: topic.is_internal,
    })
}

fn description(name: String, topic: MetadataResponseTopic) -> TopicDescription {
    let partition = |partition: kappa_protocol::messages::metadata_response::MetadataResponsePartition| {
        PartitionDescription {
            partition: partition.partition_index,
            leader: (partition.leader_id >= 0).then_some(partition.leader_id),
            leader_epoch: partition.leader_epoch,
            replicas: partition.replica_nodes,
            in_sync: partition.isr_nodes,
            offline: partition.offline_replicas,
        }
    };
    let mut partitions: Vec<_> = topic.partitions.into_iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.partition);
    TopicDescription { name, id: topic.topic_id, internal: topic.is_internal, partitions }
}

fn delete_records(before: &[(TopicPartition, i64)], timeout_ms: i32) -> DeleteRecordsRequest {
    let offsets: HashMap<_, _> = before.iter().map(|(partition, offset)| (partition, *offset)).collect();
    let names: Vec<_> = before.iter().map(|(partition, _)| partition.clone()).collect();
    let topic = |(name, numbers): (Arc<str>, Vec<i32>)| {
        let partition = |number: i32| {
            let offset = offsets.get(&TopicPartition::new(name.clone(), number)).copied().unwrap_or(0);
            DeleteRecordsPartition { partition_index: number, offset }
        };
        DeleteRecordsTopic {
            name: name.to_string(),
            partitions: numbers.into_iter().map(partition).collect(),
        }
    };
    DeleteRecordsRequest { topics: by_topic(&names).into_iter().map(topic).collect(), timeout_ms }
}
