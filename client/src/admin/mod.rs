//! Administration: topics, partitions, configurations, groups and offsets.
//!
//! Every call asks the node that can answer (controller, leader or coordinator), retries what may pass, and gives a
//! result per item. It keeps no state of its own.

mod cluster;
mod configs;
mod groups;
mod topics;

pub use cluster::{ClusterDescription, LogDirDescription, LogSize, Node};
pub use configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};
pub use groups::{GroupDescription, GroupListing, MemberDescription, OffsetAndMetadata};
pub use topics::{
    CreatedTopic, NewTopic, OffsetAndTimestamp, OffsetSpec, PartitionDescription, TopicDescription,
    TopicListing,
};

use crate::{Client, LaneKind, RequestError};
use kappa_protocol::{ErrorCode, RequestMessage};
use std::collections::BTreeMap;

/// A result per item, by its name. The call itself fails only when nothing could be asked.
pub type ItemResults<K, T> = BTreeMap<K, Result<T, RequestError>>;

/// Administers a cluster. Cloning shares the client.
///
/// Calls retry what may pass until the client's API timeout; nothing that a broker may have carried out is asked twice
/// unless asking twice does no harm.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Administers the client's cluster over the client's own connections.
    pub fn new(client: &Client) -> Admin {
        Admin { client: client.clone() }
    }

    /// How long brokers may take for what they are asked, in ms.
    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.client.config().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Asks the controller, again if the error codes in its answer say that it has moved.
    async fn ask_controller<R: RequestMessage>(
        &self,
        build: impl Fn(i16) -> R,
        codes: impl Fn(&R::Response) -> Vec<i16>,
    ) -> Result<R::Response, RequestError> {
        let attempt = || async {
            let cluster = self.client.refresh(&[], false).await?;
            let response = match cluster.controller {
                Some(controller) => self.client.ask(controller, LaneKind::Admin, &build).await?,
                None => self.client.ask_any(&build).await?,
            };
            let moved = ErrorCode::NotController.code();
            if codes(&response).contains(&moved) {
                self.client.forget_nodes();
                RequestError::check(R::KEY, moved, None)?;
            }
            Ok(response)
        };
        // A request that was lost may have been carried out; only those that found no controller are made again.
        self.client.retry(attempt, |error| matches!(error, RequestError::Lane { .. })).await
    }

    /// Every node, from fresh metadata.
    async fn nodes(&self) -> Result<Vec<i32>, RequestError> {
        self.client.forget_nodes();
        let cluster = self.client.retry(|| self.client.refresh(&[], false), |_| false).await?;
        Ok(cluster.nodes.keys().copied().collect())
    }
}
