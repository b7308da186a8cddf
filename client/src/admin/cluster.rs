//! The cluster: its nodes and their log directories.

use super::Admin;
use crate::{LaneKind, RequestError, TopicPartition};
use kappa_protocol::{
    ApiKey,
    messages::{DescribeClusterRequest, DescribeLogDirsRequest, MetadataRequest},
};
use std::sync::Arc;

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Host that it advertises.
    pub host: String,
    /// Port that it advertises.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// The brokers of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Id of the cluster, if the broker told.
    pub cluster_id: Option<String>,
    /// Node id of the controller, `None` if unknown.
    pub controller: Option<i32>,
    /// The brokers, by id.
    pub nodes: Vec<Node>,
}

/// A directory of logs on a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirDescription {
    /// Node that has it.
    pub node: i32,
    /// Its path there.
    pub path: String,
    /// Bytes of its file system, -1 if the broker did not tell.
    pub total_bytes: i64,
    /// Bytes left there, -1 if the broker did not tell.
    pub usable_bytes: i64,
    /// The size of each partition's log.
    pub partitions: Vec<(TopicPartition, LogSize)>,
}

/// Size of one partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSize {
    /// Bytes of all segments.
    pub bytes: i64,
    /// Offsets that a replica lags behind the high watermark.
    pub offset_lag: i64,
}

impl Admin {
    /// The cluster's brokers.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, RequestError> {
        let ask =
            || self.client.ask_any(|_| DescribeClusterRequest { endpoint_type: 1, ..Default::default() });
        let response = match self.client.retry(ask, |_| false).await {
            Ok(response) => response,
            // Brokers before 2.8 tell the same by their metadata.
            Err(RequestError::Unsupported { .. }) => return self.cluster_of_metadata().await,
            Err(error) => return Err(error),
        };
        RequestError::check(ApiKey::DescribeCluster, response.error_code, response.error_message.as_deref())?;
        let nodes = response.brokers.into_iter().map(|broker| Node {
            id: broker.broker_id,
            host: broker.host,
            port: broker.port,
            rack: broker.rack,
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_by_key(|node| node.id);
        let controller = (response.controller_id >= 0).then_some(response.controller_id);
        Ok(ClusterDescription { cluster_id: Some(response.cluster_id), controller, nodes })
    }

    async fn cluster_of_metadata(&self) -> Result<ClusterDescription, RequestError> {
        let request = |version| MetadataRequest {
            topics: Some(Vec::new()),
            allow_auto_topic_creation: version < 4,
            ..Default::default()
        };
        let response = self.client.ask_any(request).await?;
        let nodes = response.brokers.into_iter().map(|broker| Node {
            id: broker.node_id,
            host: broker.host,
            port: broker.port,
            rack: broker.rack,
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_by_key(|node| node.id);
        let controller = (response.controller_id >= 0).then_some(response.controller_id);
        Ok(ClusterDescription { cluster_id: response.cluster_id, controller, nodes })
    }

    /// The log directories of all brokers.
    ///
    /// # Errors
    /// If a broker does not answer, or one of its directories failed.
    pub async fn describe_log_dirs(&self) -> Result<Vec<LogDirDescription>, RequestError> {
        let mut described = Vec::new();
        for node in self.nodes().await? {
            let request = |_| DescribeLogDirsRequest { topics: None };
            let response = self.client.ask(node, LaneKind::Admin, request).await?;
            RequestError::check(ApiKey::DescribeLogDirs, response.error_code, None)?;
            for dir in response.results {
                RequestError::check(ApiKey::DescribeLogDirs, dir.error_code, None)?;
                let mut partitions = Vec::new();
                for topic in dir.topics {
                    let name: Arc<str> = Arc::from(topic.name);
                    partitions.extend(topic.partitions.into_iter().map(|log| {
                        let size = LogSize { bytes: log.partition_size, offset_lag: log.offset_lag };
                        (TopicPartition::new(name.clone(), log.partition_index), size)
                    }));
                }
                partitions.sort_by(|a, b| a.0.cmp(&b.0));
                described.push(LogDirDescription {
                    node,
                    path: dir.log_dir,
                    total_bytes: dir.total_bytes,
                    usable_bytes: dir.usable_bytes,
                    partitions,
                });
            }
        }
        Ok(described)
    }
}
