//! The tasks that fetch ahead: one that finds positions and leaders, and two per leading node that fetch.
//!
//! The first of a node's two fetches whatever it may and waits at the broker for more. A partition that may be
//! fetched only once that one is waiting (it was paused, sought, or had enough buffered) is fetched by the second,
//! over a lane of its own and with a short wait, so it never has to sit out the long one.

use super::{
    ConsumerConfig, ConsumerError, Damage, IsolationLevel,
    decode::decode,
    exchange::{Fetched, Resolved, Start, Unresolved, Wish},
    partitions::Partitions,
    search::Search,
};
use crate::{
    Client, LaneKind, RequestError, TopicPartition, coordinator::Coordinator, offsets,
    routing::metadata::Cluster,
};
use kappa_protocol::{
    ApiKey, ErrorCode, RequestMessage,
    messages::{
        FetchRequest, FetchResponse,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// First version that names topics by id.
const TOPIC_ID_VERSION: i16 = 13;
/// How long the second fetch of a node may wait at the broker.
const CATCH_UP_WAIT: Duration = Duration::from_millis(20);
/// How long to wait before asking for a leader or an offset again.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// How long the tasks sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// What the fetching tasks share.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client,
    config: Arc<ConsumerConfig>,
    partitions: Arc<Partitions>,
    coordinator: Option<Arc<Coordinator>>,
    /// Nodes at which the first fetch waits.
    parked: Mutex<HashSet<i32>>,
}

impl Fetcher {
    pub(super) fn new(
        client: Client,
        config: Arc<ConsumerConfig>,
        partitions: Arc<Partitions>,
        coordinator: Option<Arc<Coordinator>>,
    ) -> Arc<Fetcher> {
        Arc::new(Fetcher { client, config, partitions, coordinator, parked: Mutex::default() })
    }

    /// Runs until it is aborted; what it started ends with it.
    pub(super) async fn run(self: Arc<Self>) {
        let mut changed = self.partitions.changed.subscribe();
        let mut tasks = JoinSet::new();
        let mut nodes = HashSet::new();
        let mut search = Search::new(self.client.backoff());
        loop {
            changed.borrow_and_update();
            let unresolved = self.partitions.take_unresolved();
            if !unresolved.is_empty() {
                tasks.spawn(self.clone().resolve(unresolved));
            }
            let (wanted, next) = self.partitions.wanted();
            self.find_leaders(&wanted, &mut search).await;
            let cluster = self.client.cluster();
            for (node, _) in wanted.iter().filter_map(|partition| leader(&cluster, partition)) {
                if nodes.insert(node) {
                    tasks.spawn(self.clone().fetch_from(node, LaneKind::Fetch));
                    tasks.spawn(self.clone().fetch_from(node, LaneKind::CatchUp));
                    self.partitions.wake_fetchers();
                }
            }
            let due = [next, search.next()].into_iter().flatten().fold(Instant::now() + IDLE, Instant::min);
            wait_for_change(&mut changed, due).await;
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Asks for metadata where it is missing or stale, and due.
    async fn find_leaders(&self, wanted: &[TopicPartition], search: &mut Search) {
        let cluster = self.client.cluster();
        let age_max = self.client.config().metadata_age_max;
        let mut topics: Vec<_> = wanted.iter().map(|wanted| wanted.topic.clone()).collect();
        topics.dedup();
        search.retain(|name| topics.binary_search(name).is_ok());
        let unled = |cluster: &Cluster| -> HashSet<Arc<str>> {
            let unled = wanted.iter().filter(|partition| leader(cluster, partition).is_none());
            unled.map(|partition| partition.topic.clone()).collect()
        };
        let unled_before = unled(&cluster);
        let is_fresh = |name: &Arc<str>| cluster.topic(name).is_some_and(|topic| topic.is_fresh(age_max));
        let is_found = |name: &Arc<str>| is_fresh(name) && !unled_before.contains(name);
        // Others ask as well, and what they have found is due no more.
        topics.iter().filter(|name| is_found(name)).for_each(|name| search.found(name));
        topics.retain(|name| search.is_due(name) && !is_found(name));
        if topics.is_empty() {
            return;
        }
        let cluster = match self.client.refresh(&topics, self.config.allow_auto_create_topics).await {
            Ok(cluster) => cluster,
            Err(error) => return search.unanswered(&topics, &error),
        };
        self.partitions.wake_fetchers();
        let code = |name: &Arc<str>| cluster.topic(name).map_or(ErrorCode::None, |topic| topic.error);
        let unled = unled(&cluster);
        let missing = topics.iter().filter(|name| unled.contains(*name));
        let missing: Vec<_> = missing.map(|name| (name.clone(), code(name))).collect();
        for (name, _) in &missing {
            self.client.mark_stale(name);
        }
        search.answered(&topics, &missing);
    }

    async fn resolve(self: Arc<Self>, unresolved: Vec<Unresolved>) {
        let (committed, mut by_place): (Vec<_>, Vec<_>) =
            unresolved.into_iter().partition(|unresolved| unresolved.start == Start::Committed);
        for unresolved in self.resolve_committed(committed).await {
            by_place.push(unresolved);
        }
        let place = |start: Start| if start == Start::Earliest { -2 } else { -1 };
        let wanted: Vec<_> = by_place
            .iter()
            .map(|unresolved| (unresolved.partition.clone(), place(unresolved.start)))
            .collect();
        let mut found = offsets::list_once(&self.client, &wanted, self.config.isolation.id()).await;
        for unresolved in by_place {
            let resolved = match found.remove(&unresolved.partition) {
                Some(Ok(Some(found))) => Resolved::At(found.offset),
                Some(Ok(None)) | None => Resolved::Later(RETRY_WAIT),
                Some(Err(error)) if error.is_retriable() => {
                    self.client.mark_stale(&unresolved.partition.topic);
                    Resolved::Later(RETRY_WAIT)
                }
                Some(Err(error)) => Resolved::Failed(error.into(), unresolved.start),
            };
            self.partitions.resolved(&unresolved, resolved);
        }
    }

    /// Goes to committed offsets. Returns the partitions that have none and start by the reset policy.
    async fn resolve_committed(&self, unresolved: Vec<Unresolved>) -> Vec<Unresolved> {
        if unresolved.is_empty() {
            return Vec::new();
        }
        let names: Vec<_> = unresolved.iter().map(|unresolved| unresolved.partition.clone()).collect();
        let stable = self.config.isolation == IsolationLevel::ReadCommitted;
        let committed = match &self.coordinator {
            Some(coordinator) => coordinator.committed(Some(&names), stable).await,
            None => Ok(BTreeMap::new()),
        };
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                for unresolved in &unresolved {
                    let resolved = if error.is_retriable() {
                        Resolved::Later(RETRY_WAIT)
                    } else {
                        Resolved::Failed(error.clone().into(), Start::Committed)
                    };
                    self.partitions.resolved(unresolved, resolved);
                }
                return Vec::new();
            }
        };
        let mut reset = Vec::new();
        for unresolved in unresolved {
            match (committed.get(&unresolved.partition), Start::from(self.config.offset_reset)) {
                (Some(committed), _) => {
                    self.partitions.resolved(&unresolved, Resolved::At(committed.offset));
                }
                (None, Start::Seek) => {
                    let error = ConsumerError::NoOffset(unresolved.partition.clone());
                    self.partitions.resolved(&unresolved, Resolved::Failed(error, Start::Seek));
                }
                (None, start) => reset.push(Unresolved { start, ..unresolved }),
            }
        }
        reset
    }

    /// Fetches from one node, over one lane, one request after the other.
    async fn fetch_from(self: Arc<Self>, node: i32, kind: LaneKind) {
        let mut changed = self.partitions.changed.subscribe();
        let mut backoff = self.client.backoff();
        loop {
            changed.borrow_and_update();
            let cluster = self.client.cluster();
            let may_fetch = kind == LaneKind::Fetch || self.parked.lock().contains(&node);
            let wishes = if may_fetch {
                self.partitions
                    .take_wishes(|name| leader(&cluster, name).is_some_and(|(leader, _)| leader == node))
            } else {
                Vec::new()
            };
            if wishes.is_empty() {
                let next = self.partitions.wanted().1;
                wait_for_change(&mut changed, next.unwrap_or(Instant::now() + IDLE)).await;
                continue;
            }
            if kind == LaneKind::Fetch {
                self.parked.lock().insert(node);
            }
            let outcome = self.fetch(node, kind, &wishes, &cluster).await;
            if kind == LaneKind::Fetch {
                self.parked.lock().remove(&node);
            }
            match outcome {
                Ok(response) => {
                    backoff.reset();
                    self.absorb(wishes, response, &cluster);
                }
                Err(error) => self.put_back(wishes, &error, backoff.next()),
            }
            if kind == LaneKind::CatchUp {
                // The first fetch may have come back meanwhile, and it takes over what this one had.
                self.partitions.wake_fetchers();
            }
        }
    }

    async fn fetch(
        &self,
        node: i32,
        kind: LaneKind,
        wishes: &[Wish],
        cluster: &Cluster,
    ) -> Result<FetchResponse, RequestError> {
        let lane = self.client.lane(node, kind)?;
        let link = lane.ready().await?;
        let request = self.request(kind, wishes, cluster);
        let by_name = request.topics.iter().any(|topic| topic.topic_id.is_nil());
        let newest = if by_name { TOPIC_ID_VERSION - 1 } else { i16::MAX };
        let version = match link.versions().at_most(ApiKey::Fetch, newest) {
            Some(version) => version,
            None => lane.version(&link, ApiKey::Fetch)?,
        };
        let timeout = self.client.config().request_timeout + self.config.fetch_wait_max;
        let reply = link.call(version, request);
        let response = lane.answer(&link, ApiKey::Fetch, reply, timeout).await?;
        let response =
            FetchRequest::response(response).ok_or(RequestError::Incomplete { api: ApiKey::Fetch })?;
        RequestError::check(ApiKey::Fetch, response.error_code, None).map(|()| response)
    }

    fn request(&self, kind: LaneKind, wishes: &[Wish], cluster: &Cluster) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        // Wishes come in the order of topics.
        for Wish { partition: name, offset, .. } in wishes {
            let partition = FetchPartition {
                partition: name.partition,
                current_leader_epoch: leader(cluster, name).map_or(-1, |(_, epoch)| epoch),
                fetch_offset: *offset,
                partition_max_bytes: i32::try_from(self.config.partition_fetch_bytes_max).unwrap_or(i32::MAX),
                ..Default::default()
            };
            match topics.last_mut().filter(|topic| topic.topic == *name.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic {
                    topic: name.topic.to_string(),
                    topic_id: cluster.topic(&name.topic).map(|topic| topic.id).unwrap_or_default(),
                    partitions: vec![partition],
                }),
            }
        }
        let wait = match kind {
            LaneKind::CatchUp => self.config.fetch_wait_max.min(CATCH_UP_WAIT),
            _ => self.config.fetch_wait_max,
        };
        FetchRequest {
            max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: i32::try_from(self.config.fetch_bytes_min).unwrap_or(i32::MAX),
            max_bytes: i32::try_from(self.config.fetch_bytes_max).unwrap_or(i32::MAX),
            isolation_level: self.config.isolation.id(),
            topics,
            ..Default::default()
        }
    }

    /// Gives each wish its part of the response.
    fn absorb(&self, wishes: Vec<Wish>, response: FetchResponse, cluster: &Cluster) {
        let mut answers: HashMap<(Arc<str>, i32), PartitionData> = HashMap::with_capacity(wishes.len());
        for topic in response.responses {
            let name = cluster.name(topic.topic_id).cloned().unwrap_or_else(|| Arc::from(topic.topic));
            answers.extend(
                topic.partitions.into_iter().map(|data| ((name.clone(), data.partition_index), data)),
            );
        }
        for wish in wishes {
            let key = (wish.partition.topic.clone(), wish.partition.partition);
            let fetched = match answers.remove(&key) {
                Some(data) => self.read(&wish, data),
                None => Fetched::nothing(&wish, Some(RETRY_WAIT)),
            };
            self.partitions.bring(&wish, fetched);
        }
    }

    fn put_back(&self, wishes: Vec<Wish>, error: &RequestError, wait: Duration) {
        tracing::debug!(%error, "fetch failed");
        for wish in wishes {
            self.client.mark_stale(&wish.partition.topic);
            let mut fetched = Fetched::nothing(&wish, Some(wait));
            if !error.is_retriable() {
                fetched.error = Some(error.clone().into());
            }
            self.partitions.bring(&wish, fetched);
        }
    }

    fn read(&self, wish: &Wish, data: PartitionData) -> Fetched {
        let code = ErrorCode::from(data.error_code);
        let mut fetched = Fetched::nothing(wish, None);
        match code {
            ErrorCode::None => return decode(wish, self.config.isolation, data),
            ErrorCode::CorruptMessage => fetched.damage(wish, Damage::Unreadable),
            ErrorCode::OffsetOutOfRange => {
                let start = Start::from(self.config.offset_reset);
                tracing::warn!(partition = %wish.partition, offset = wish.offset, ?start, "offset out of range");
                if start == Start::Seek {
                    let (partition, offset) = (wish.partition.clone(), wish.offset);
                    fetched.error = Some(ConsumerError::OffsetOutOfRange { partition, offset });
                    fetched.wait = Some(Duration::from_secs(1));
                } else {
                    fetched.reset = Some(start);
                }
            }
            code if code.is_retriable() || code == ErrorCode::FencedLeaderEpoch => {
                self.client.mark_stale(&wish.partition.topic);
                fetched.wait = Some(RETRY_WAIT);
            }
            code => {
                fetched.error = Some(ConsumerError::Partition { partition: wish.partition.clone(), code });
                fetched.wait = Some(Duration::from_secs(1));
            }
        }
        fetched
    }
}

fn leader(cluster: &Cluster, partition: &TopicPartition) -> Option<(i32, i32)> {
    cluster.topic(&partition.topic)?.leader(partition.partition)
}

async fn wait_for_change(changed: &mut watch::Receiver<()>, until: Instant) {
    // The sender lives as long as the fetcher, and the time is up at the latest.
    let _ = tokio::time::timeout_at(until, changed.changed()).await;
}
