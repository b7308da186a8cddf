//! The way to a cluster: seeds, metadata, lanes and retries, shared by producers, consumers and admins.
//!
//! Owns the lanes and the metadata cache. Each producer and consumer has lanes of its own (a session), because what
//! parks on a lane, such as a join of a group, must not hold back another member. Knows nothing of record batches.

use crate::{
    ClientConfig, ConnectError, RequestError, TopicPartition,
    routing::{
        Endpoint, Lane, LaneKind,
        backoff::Backoff,
        metadata::{Cluster, TopicMetadata},
    },
};
use kappa_protocol::{
    ApiKey, ErrorCode, RequestMessage, Service,
    messages::{FindCoordinatorRequest, MetadataRequest, metadata_request::MetadataRequestTopic},
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};

/// How long a topic that a broker does not know is asked for again: one that was just created takes a moment to be
/// known everywhere.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_secs(3);

/// The way to a cluster. Cloning shares metadata and connections; producers, consumers and admins are made from it.
///
/// Connections are made when they are needed and made again when they break. They live until [`Client::close`], or
/// until the client and all that was made from it are dropped.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<ClientConfig>,
    runtime: Handle,
    seeds: Vec<Endpoint>,
    cluster: RwLock<Arc<Cluster>>,
    /// Held while metadata is asked for, so that many who need it ask once.
    refreshing: tokio::sync::Mutex<()>,
    /// The nodes in the metadata may have changed.
    nodes_stale: AtomicBool,
    /// Lanes of all sessions, to close them.
    sessions: Mutex<Option<Vec<Weak<Lanes>>>>,
}

#[derive(Debug, Default)]
struct Lanes {
    lanes: Mutex<HashMap<(Place, LaneKind), Arc<Lane>>>,
}

/// A node by its id, or a seed, whose id is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Node(i32),
    Seed(usize),
}

impl Lanes {
    fn close(&self) -> Vec<JoinHandle<()>> {
        self.lanes.lock().values().filter_map(|lane| lane.close()).collect()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
    }
}

impl Client {
    /// Connects to the first of the comma-separated `host:port` addresses that answers. The connections' tasks run
    /// on the current tokio runtime, whose time and I/O must be enabled.
    ///
    /// # Errors
    /// If none of the addresses answers as a broker; the error is that of the last one.
    pub async fn connect(bootstrap: &str, config: ClientConfig) -> Result<Client, ConnectError> {
        let mut seeds = Vec::new();
        for address in bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match address.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    seeds.push(Endpoint::Tcp(Arc::from(address)));
                }
                _ => return Err(ConnectError::InvalidAddress(Arc::from(address))),
            }
        }
        let client = Client::with_seeds(seeds, config);
        let mut failure = ConnectError::NoAddress;
        for seed in 0..client.shared.seeds.len() {
            let Some(lane) = client.seed(seed) else { continue };
            match lane.ready().await {
                Ok(_) => return Ok(client),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A client of an embedded broker: no socket, no codec, and batches are shared.
    ///
    /// # Panics
    /// Outside of a tokio runtime, on which background tasks run.
    pub fn in_process(service: Arc<dyn Service>) -> Client {
        Client::in_process_with(service, ClientConfig::default())
    }

    /// [`Client::in_process`] with settings other than the default ones.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn in_process_with(service: Arc<dyn Service>, config: ClientConfig) -> Client {
        Client::with_seeds(vec![Endpoint::InProcess(service)], config)
    }

    fn with_seeds(seeds: Vec<Endpoint>, config: ClientConfig) -> Client {
        let lanes = Arc::new(Lanes::default());
        let shared = Shared {
            config: Arc::new(config),
            runtime: Handle::current(),
            seeds,
            cluster: RwLock::default(),
            refreshing: tokio::sync::Mutex::new(()),
            nodes_stale: AtomicBool::new(true),
            sessions: Mutex::new(Some(vec![Arc::downgrade(&lanes)])),
        };
        Client { shared: Arc::new(shared), lanes }
    }

    /// The same cluster over lanes of its own.
    pub(crate) fn session(&self) -> Client {
        let lanes = Arc::new(Lanes::default());
        if let Some(sessions) = &mut *self.shared.sessions.lock() {
            sessions.retain(|session| session.strong_count() > 0);
            sessions.push(Arc::downgrade(&lanes));
        }
        Client { shared: self.shared.clone(), lanes }
    }

    /// Closes all connections, those of producers and consumers included, and waits for their tasks to end: what is
    /// in flight fails.
    pub async fn close(&self) {
        let sessions = self.shared.sessions.lock().take();
        for lanes in sessions.into_iter().flatten().filter_map(|session| session.upgrade()) {
            join(lanes.close()).await;
        }
    }

    /// Closes the connections of this session.
    pub(crate) async fn close_session(&self) {
        join(self.lanes.close()).await;
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.shared.config.retry_backoff, self.shared.config.retry_backoff_max)
    }

    /// The lane of this kind to a node.
    ///
    /// # Errors
    /// [`ConnectError::UnknownNode`] if the metadata has no such node, or [`ConnectError::Closed`].
    pub fn lane(&self, node: i32, kind: LaneKind) -> Result<Arc<Lane>, ConnectError> {
        let endpoint = match self.shared.seeds.first() {
            Some(Endpoint::InProcess(service)) => Endpoint::InProcess(service.clone()),
            _ => {
                let cluster = self.cluster();
                let known = cluster.nodes.get(&node).ok_or(ConnectError::UnknownNode { node })?;
                Endpoint::Tcp(known.address())
            }
        };
        self.lane_to(Place::Node(node), kind, endpoint)
    }

    fn seed(&self, seed: usize) -> Option<Arc<Lane>> {
        let endpoint = self.shared.seeds.get(seed)?.clone();
        self.lane_to(Place::Seed(seed), LaneKind::Admin, endpoint).ok()
    }

    fn lane_to(&self, place: Place, kind: LaneKind, endpoint: Endpoint) -> Result<Arc<Lane>, ConnectError> {
        if self.shared.sessions.lock().is_none() {
            return Err(ConnectError::Closed);
        }
        let mut lanes = self.lanes.lanes.lock();
        if let Some(lane) = lanes.get(&(place, kind)).filter(|lane| lane.endpoint().is_same(&endpoint)) {
            return Ok(lane.clone());
        }
        let lane = Arc::new(Lane::new(endpoint, self.shared.config.clone(), self.shared.runtime.clone()));
        if let Some(moved) = lanes.insert((place, kind), lane.clone()) {
            moved.close();
        }
        Ok(lane)
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.shared.cluster.read().clone()
    }

    /// Asks one node.
    pub(crate) async fn ask<R: RequestMessage>(
        &self,
        node: i32,
        kind: LaneKind,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        self.lane(node, kind)?.request(build).await
    }

    /// Asks whichever node answers: known ones first, connected ones before others, then the seeds.
    pub(crate) async fn ask_any<R: RequestMessage>(
        &self,
        build: impl Fn(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        let cluster = self.cluster();
        let mut lanes: Vec<_> =
            cluster.nodes.keys().filter_map(|node| self.lane(*node, LaneKind::Admin).ok()).collect();
        lanes.extend((0..self.shared.seeds.len()).filter_map(|seed| self.seed(seed)));
        lanes.sort_by_key(|lane| lane.open().is_none());
        let mut failure = RequestError::Connect(ConnectError::Closed);
        for lane in lanes {
            match lane.request(&build).await {
                Err(error) if error.is_retriable() => failure = error,
                outcome => return outcome,
            }
        }
        Err(failure)
    }

    /// Asks for the metadata of `topics` and merges it into what is known.
    pub(crate) async fn refresh(
        &self,
        topics: &[Arc<str>],
        create: bool,
    ) -> Result<Arc<Cluster>, RequestError> {
        let _turn = self.shared.refreshing.lock().await;
        let cluster = self.cluster();
        let age_max = self.config().metadata_age_max;
        let fresh = |name: &Arc<str>| cluster.topic(name).is_some_and(|topic| topic.is_fresh(age_max));
        let nodes_stale = self.shared.nodes_stale.swap(false, Ordering::Relaxed);
        if !nodes_stale && !cluster.nodes.is_empty() && topics.iter().all(fresh) {
            return Ok(cluster);
        }
        let response = self
            .ask_any(|version| MetadataRequest {
                topics: Some(topics.iter().map(metadata_topic).collect()),
                // Version 0 takes no topics for all of them, and versions before 4 always create.
                allow_auto_topic_creation: create || version < 4,
                ..Default::default()
            })
            .await?;
        let merged = Arc::new(self.cluster().merged(&response));
        *self.shared.cluster.write() = merged.clone();
        Ok(merged)
    }

    /// Asks for the nodes anew before the next use.
    pub(crate) fn forget_nodes(&self) {
        self.shared.nodes_stale.store(true, Ordering::Relaxed);
    }

    /// The topic's metadata, asked for if it is not known or not fresh; waits for a topic that is being created.
    pub(crate) async fn topic(&self, name: &str, create: bool) -> Result<Arc<TopicMetadata>, RequestError> {
        let age_max = self.config().metadata_age_max;
        if let Some(topic) = self.cluster().topic(name).filter(|topic| topic.is_fresh(age_max)) {
            return Ok(topic.clone());
        }
        let (names, started) = ([Arc::<str>::from(name)], Instant::now());
        self.retry(
            || async {
                let cluster = self.refresh(&names, create).await?;
                let missing = RequestError::Incomplete { api: ApiKey::Metadata };
                let topic = cluster.topic(name).ok_or(missing)?.clone();
                match topic.error {
                    ErrorCode::None => Ok(topic),
                    code => Err(RequestError::Refused {
                        api: ApiKey::Metadata,
                        code,
                        message: Some(format!("topic {name}: {}", crate::error::refusal(code, None)).into()),
                    }),
                }
            },
            |error| {
                error.code() == Some(ErrorCode::UnknownTopicOrPartition)
                    && started.elapsed() > UNKNOWN_TOPIC_PATIENCE
            },
        )
        .await
    }

    /// The partition's leader and its epoch.
    pub(crate) async fn leader(&self, partition: &TopicPartition) -> Result<(i32, i32), RequestError> {
        let topic = self.topic(&partition.topic, false).await?;
        topic.leader(partition.partition).ok_or_else(|| {
            topic.mark_stale();
            let known = partition.partition < topic.count();
            let code = if known { ErrorCode::LeaderNotAvailable } else { ErrorCode::UnknownTopicOrPartition };
            let message = Some(format!("{partition}: {}", crate::error::refusal(code, None)).into());
            RequestError::Refused { api: ApiKey::Metadata, code, message }
        })
    }

    /// The partition's leader has moved, or the topic was made anew: ask before the next use.
    pub(crate) fn mark_stale(&self, topic: &str) {
        if let Some(topic) = self.cluster().topic(topic) {
            topic.mark_stale();
        }
    }

    /// The node that coordinates a consumer group.
    pub(crate) async fn coordinator(&self, group: &str) -> Result<i32, RequestError> {
        let response = self
            .ask_any(|version| FindCoordinatorRequest {
                key: if version < 4 { group.to_owned() } else { String::new() },
                key_type: 0,
                coordinator_keys: if version < 4 { Vec::new() } else { vec![group.to_owned()] },
            })
            .await?;
        let (node, host, port) = match response.coordinators.first() {
            Some(found) => {
                let message = found.error_message.as_deref();
                RequestError::check(ApiKey::FindCoordinator, found.error_code, message)?;
                (found.node_id, &found.host, found.port)
            }
            None => {
                let message = response.error_message.as_deref();
                RequestError::check(ApiKey::FindCoordinator, response.error_code, message)?;
                (response.node_id, &response.host, response.port)
            }
        };
        let mut cluster = self.shared.cluster.write();
        if !cluster.nodes.contains_key(&node) {
            Arc::make_mut(&mut cluster).add_node(node, host, port);
        }
        Ok(node)
    }

    /// Tries until it succeeds, fails for good, `give_up` says so, or the client's API timeout has passed.
    pub(crate) async fn retry<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        mut attempt: impl FnMut() -> F,
        give_up: impl Fn(&RequestError) -> bool,
    ) -> Result<T, RequestError> {
        let deadline = Instant::now() + self.config().api_timeout;
        let mut backoff = self.backoff();
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = backoff.next();
            if !error.is_retriable() || give_up(&error) || Instant::now() + wait > deadline {
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        // A connection's task that panicked has ended too.
        let _ = task.await;
    }
}

fn metadata_topic(name: &Arc<str>) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.to_string()), ..Default::default() }
}
