//! The producer's one task: takes batches from the queues, sends them to the partitions' leaders, settles them.
//!
//! Requests to one node go over one lane in order, a bounded number in flight, at most one batch per partition in
//! each. What takes long (connecting, metadata, a new producer id) runs beside it, so that one dead node holds back
//! no other. Invariant: every batch taken from a queue is in a flow or in flight until it is settled, and the end of
//! the task settles them all.

use super::{
    DeliveryError,
    delivery::Stored,
    flow::{Flow, Identity, Sealed, Verdict},
    queue::{PartitionQueue, Waiting},
    request::{Sent, TOPIC_ID_VERSION, build, pair},
    shared::Shared,
};
use crate::{
    Client, RequestError, error,
    routing::backoff::Backoff,
    routing::{Lane, LaneKind, Link},
};
use kappa_protocol::{
    ApiKey, ErrorCode, Reply, RequestMessage, Response,
    messages::produce_response::PartitionProduceResponse,
    messages::{InitProducerIdRequest, ProduceRequest},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// How long the task sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// How long records wait at a closed gate before it is asked again.
const GATE_RETRY: Duration = Duration::from_millis(20);

/// Requests sent to one node before the task looks at anything else.
const PASSES_MAX: usize = 16;

type Answer = Pin<Box<dyn Future<Output = Result<Response, RequestError>> + Send>>;

/// State of the task.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    client: Client,
    identity: Option<Identity>,
    /// By the queue's number.
    flows: HashMap<usize, Flow>,
    /// Flows with something to send.
    active: Vec<usize>,
    nodes: BTreeMap<i32, Node>,
    background: JoinSet<Event>,
    metadata: MetadataState,
    asking_identity: bool,
}

#[derive(Debug, Default)]
struct Node {
    in_flight: VecDeque<InFlight>,
    dialing: bool,
}

struct InFlight {
    answer: Answer,
    sent: Vec<Sent>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("sent", &self.sent).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct MetadataState {
    asking: bool,
    not_before: Instant,
    backoff: Backoff,
    wanted: BTreeSet<Arc<str>>,
}

/// What ran beside the task has ended.
#[derive(Debug)]
enum Event {
    Dialed(i32, Result<(), RequestError>),
    Metadata(Result<(), RequestError>),
    Identity(Result<Identity, RequestError>),
}

/// Why the task runs again.
enum Woken {
    Queue,
    Time,
    Event(Event),
    Answer(i32, Result<Response, RequestError>),
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, client: Client, identity: Option<Identity>) -> Sender {
        let metadata = MetadataState {
            asking: false,
            not_before: Instant::now(),
            backoff: client.backoff(),
            wanted: BTreeSet::new(),
        };
        Sender {
            shared,
            client,
            identity,
            flows: HashMap::new(),
            active: Vec::new(),
            nodes: BTreeMap::new(),
            background: JoinSet::new(),
            metadata,
            asking_identity: false,
        }
    }

    /// Runs until the producer is closed.
    pub(super) async fn run(mut self) {
        while !self.shared.is_stopping() {
            self.take_listed();
            let now = Instant::now();
            let due = if self.shared.has_stopped() {
                self.give_up(&DeliveryError::Stopped);
                now + IDLE
            } else {
                let due = self.dispatch(now).min(self.expire(now));
                self.ask_metadata(now);
                due
            };
            match self.wait(due).await {
                Woken::Queue | Woken::Time => {}
                Woken::Event(event) => self.on_event(event),
                Woken::Answer(node, answer) => self.on_answer(node, answer),
            }
        }
    }

    fn take_listed(&mut self) {
        for queue in self.shared.take_listed() {
            let backoff = self.client.backoff();
            let id = queue.id;
            self.flows.entry(id).or_insert_with(|| Flow::new(queue, backoff));
            self.activate(id);
        }
    }

    fn activate(&mut self, id: usize) {
        if let Some(flow) = self.flows.get_mut(&id).filter(|flow| !flow.active) {
            flow.active = true;
            self.active.push(id);
        }
    }

    /// Sends what can be sent. Returns when to look again if nothing else happens.
    fn dispatch(&mut self, now: Instant) -> Instant {
        for _ in 0..PASSES_MAX {
            let (due, sent) = self.pass(now);
            if !sent {
                return due;
            }
        }
        now
    }

    /// Sends at most one request to each node. Returns when to look again, and whether something was sent: then
    /// there may be more, and what is not full may have to linger now.
    fn pass(&mut self, now: Instant) -> (Instant, bool) {
        if !self.active.is_empty() && !self.shared.is_open() {
            return (now + GATE_RETRY, false);
        }
        let mut due = now + IDLE;
        let mut ready: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for id in std::mem::take(&mut self.active) {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            flow.active = !flow.is_idle();
            if !flow.active {
                continue;
            }
            self.active.push(id);
            match self.readiness(id, now) {
                Readiness::Ready(node) => ready.entry(node).or_default().push(id),
                Readiness::At(instant) => due = due.min(instant),
                Readiness::Blocked => {}
            }
        }
        let mut sent = false;
        for (node, flows) in ready {
            sent |= self.send_to(node, &flows);
        }
        // Whoever is served first this time is served last the next.
        if !self.active.is_empty() {
            self.active.rotate_left(1);
        }
        (due, sent)
    }

    /// Whether a flow may send now, and to whom.
    fn readiness(&mut self, id: usize, now: Instant) -> Readiness {
        let Some(flow) = self.flows.get(&id) else { return Readiness::Blocked };
        let waiting = flow.waiting();
        if waiting == Waiting::Nothing {
            return Readiness::Blocked;
        }
        if let Some(instant) = flow.not_before.filter(|instant| *instant > now) {
            return Readiness::At(instant);
        }
        let leader = self.leader(&flow.queue.clone());
        let Some((node, flow)) = leader.zip(self.flows.get(&id)) else { return Readiness::Blocked };
        if flow.in_flight() > 0 && flow.node != Some(node) {
            // The old leader has not answered yet; order forbids to overtake it.
            return Readiness::Blocked;
        }
        if flow.needs_identity() && !self.asking_identity {
            self.ask_identity();
            return Readiness::Blocked;
        }
        let owes = self.nodes.entry(node).or_default().in_flight.len();
        match waiting {
            _ if owes >= self.shared.config.in_flight_max => Readiness::Blocked,
            Waiting::Open(since) if owes > 0 && !self.shared.is_hurried() => {
                let until = since + self.shared.config.linger;
                if until > now { Readiness::At(until) } else { Readiness::Ready(node) }
            }
            _ => Readiness::Ready(node),
        }
    }

    /// The node that leads a partition; asks for metadata where that is not known.
    fn leader(&mut self, queue: &PartitionQueue) -> Option<i32> {
        let cluster = self.client.cluster();
        let topic = cluster.topic(&queue.topic);
        if topic.is_none_or(|topic| !topic.is_fresh(self.client.config().metadata_age_max)) {
            self.metadata.wanted.insert(queue.topic.clone());
        }
        let leader = topic.and_then(|topic| topic.leader(queue.partition));
        if leader.is_none() {
            self.metadata.wanted.insert(queue.topic.clone());
            self.client.mark_stale(&queue.topic);
        }
        leader.map(|(node, _)| node)
    }

    /// Sends one request to `node`, with a batch of each of these flows. False if that has to wait for something.
    fn send_to(&mut self, node: i32, flows: &[usize]) -> bool {
        let Ok(lane) = self.client.lane(node, LaneKind::Produce) else {
            flows.iter().filter_map(|id| self.flows.get(id)).for_each(|flow| {
                self.client.mark_stale(&flow.queue.topic);
            });
            return false;
        };
        let Some(link) = lane.open() else {
            self.dial(node, lane);
            return false;
        };
        let sent = self.gather(node, flows);
        let some = !sent.is_empty();
        if some {
            self.send(node, &lane, &link, sent);
        }
        some
    }

    /// At most one batch of each flow, up to the size of a request, topic by topic.
    fn gather(&mut self, node: i32, flows: &[usize]) -> Vec<Sent> {
        let cluster = self.client.cluster();
        let (mut sent, mut len) = (Vec::with_capacity(flows.len()), 0);
        for id in flows {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            let Some(batch) = flow.next(self.identity) else { continue };
            flow.node = Some(node);
            len += batch.bytes.len();
            let topic_id = cluster.topic(&flow.queue.topic).map(|topic| topic.id).unwrap_or_default();
            sent.push(Sent { queue: flow.queue.clone(), topic_id, batch });
            if len >= self.shared.config.request_bytes_max {
                break;
            }
        }
        sent.sort_by(|a, b| (&a.queue.topic, a.queue.partition).cmp(&(&b.queue.topic, b.queue.partition)));
        sent
    }

    fn send(&mut self, node: i32, lane: &Arc<Lane>, link: &Link, sent: Vec<Sent>) {
        let by_name = sent.iter().any(|sent| sent.topic_id.is_nil());
        let newest = if by_name { TOPIC_ID_VERSION - 1 } else { i16::MAX };
        let Some(version) = link.versions().at_most(ApiKey::Produce, newest) else {
            let failure = lane.version(link, ApiKey::Produce).err();
            let failure = failure.unwrap_or(RequestError::Incomplete { api: ApiKey::Produce });
            return self.on_failure(sent, &failure);
        };
        let timeout = self.client.config().request_timeout;
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let request = build(&sent, self.shared.config.acks.id(), timeout_ms);
        match link.call(version, request) {
            Reply::None => {
                let stored = Stored { base_offset: None, append_time: None };
                sent.into_iter().for_each(|sent| self.settle(sent, Ok(stored)));
            }
            reply => {
                let (lane, link) = (lane.clone(), link.clone());
                let answer =
                    Box::pin(async move { lane.answer(&link, ApiKey::Produce, reply, timeout).await });
                self.nodes.entry(node).or_default().in_flight.push_back(InFlight { answer, sent });
            }
        }
    }

    fn dial(&mut self, node: i32, lane: Arc<Lane>) {
        let state = self.nodes.entry(node).or_default();
        if !std::mem::replace(&mut state.dialing, true) {
            let dialed = async move { Event::Dialed(node, lane.ready().await.map(drop).map_err(Into::into)) };
            self.background.spawn_on(dialed, self.client.runtime());
        }
    }

    fn ask_metadata(&mut self, now: Instant) {
        if self.metadata.asking || self.metadata.wanted.is_empty() || self.metadata.not_before > now {
            return;
        }
        self.metadata.asking = true;
        let topics: Vec<_> = std::mem::take(&mut self.metadata.wanted).into_iter().collect();
        let (client, shared) = (self.client.clone(), self.shared.clone());
        let asked = async move {
            let cluster = match client.refresh(&topics, true).await {
                Ok(cluster) => cluster,
                Err(error) => return Event::Metadata(Err(error)),
            };
            let mut outcome = Ok(());
            for topic in topics.iter().filter_map(|name| cluster.topic(name)) {
                shared.topics.grow(&topic.name, topic.count());
                if let Err(error) = RequestError::check(ApiKey::Metadata, topic.error.code(), None) {
                    outcome = Err(error);
                }
            }
            Event::Metadata(outcome)
        };
        self.background.spawn_on(asked, self.client.runtime());
    }

    fn ask_identity(&mut self) {
        self.asking_identity = true;
        let client = self.client.clone();
        let asked = async move { Event::Identity(new_identity(&client).await) };
        self.background.spawn_on(asked, self.client.runtime());
    }

    async fn wait(&mut self, due: Instant) -> Woken {
        let due = if self.metadata.wanted.is_empty() { due } else { due.min(self.metadata.not_before) };
        let shared = self.shared.clone();
        let mut listed = pin!(shared.wake.notified());
        let mut sleep = pin!(tokio::time::sleep_until(due));
        poll_fn(|cx| {
            for (id, node) in &mut self.nodes {
                let Some(first) = node.in_flight.front_mut() else { continue };
                if let Poll::Ready(answer) = first.answer.as_mut().poll(cx) {
                    return Poll::Ready(Woken::Answer(*id, answer));
                }
            }
            if let Poll::Ready(Some(Ok(event))) = self.background.poll_join_next(cx) {
                return Poll::Ready(Woken::Event(event));
            }
            if listed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Woken::Queue);
            }
            sleep.as_mut().poll(cx).map(|()| Woken::Time)
        })
        .await
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Dialed(node, outcome) => {
                self.nodes.entry(node).or_default().dialing = false;
                if let Err(failure) = outcome {
                    tracing::debug!(node, %failure, "no connection to a leader");
                    // Another node may lead by now.
                    for flow in self.active.iter().filter_map(|id| self.flows.get(id)) {
                        self.client.mark_stale(&flow.queue.topic);
                    }
                    self.shared.meet(failure);
                }
            }
            Event::Metadata(outcome) => {
                self.metadata.asking = false;
                match outcome {
                    Ok(()) => self.metadata.backoff.reset(),
                    Err(failure) => self.shared.meet(failure),
                }
                self.metadata.not_before = Instant::now() + self.metadata.backoff.next();
            }
            Event::Identity(outcome) => {
                self.asking_identity = false;
                match outcome {
                    Ok(identity) => self.identity = Some(identity),
                    Err(failure) => self.shared.meet(failure),
                }
            }
        }
    }

    fn on_answer(&mut self, node: i32, answer: Result<Response, RequestError>) {
        let request = self.nodes.get_mut(&node).and_then(|node| node.in_flight.pop_front());
        let Some(InFlight { sent, .. }) = request else { return };
        let incomplete = RequestError::Incomplete { api: ApiKey::Produce };
        let response =
            answer.and_then(|response| ProduceRequest::response(response).ok_or(incomplete.clone()));
        let response = match response {
            Ok(response) => response,
            Err(failure) => return self.on_failure(sent, &failure),
        };
        for (sent, answer) in pair(sent, &response, &self.client.cluster()) {
            match answer {
                Some(answer) => self.on_batch(sent, &answer),
                None => self.on_failure(vec![sent], &incomplete),
            }
        }
    }

    /// The whole request failed: whether its batches were stored is not known.
    fn on_failure(&mut self, sent: Vec<Sent>, failure: &RequestError) {
        for mut sent in sent {
            self.client.mark_stale(&sent.queue.topic);
            if failure.is_retriable() {
                self.shared.meet(failure.clone());
                sent.batch.failure = Some(failure.clone());
                self.take_back(sent, false);
            } else {
                let (topic, partition) = (sent.queue.topic.clone(), sent.queue.partition);
                self.settle(sent, Err(DeliveryError::Request { topic, partition, reason: failure.clone() }));
            }
        }
    }

    fn on_batch(&mut self, mut sent: Sent, answer: &PartitionProduceResponse) {
        let code = ErrorCode::from(answer.error_code);
        let Some(flow) = self.flows.get(&sent.queue.id) else { return };
        let verdict = flow.verdict(&sent.batch, code);
        let message = answer.error_message.as_deref();
        match verdict {
            Verdict::Stored => {
                let stored = Stored {
                    base_offset: (answer.base_offset >= 0).then_some(answer.base_offset),
                    append_time: (answer.log_append_time_ms >= 0).then_some(answer.log_append_time_ms),
                };
                self.settle(sent, Ok(stored));
            }
            Verdict::Retry { stale } => {
                if stale {
                    self.client.mark_stale(&sent.queue.topic);
                }
                sent.batch.failure = RequestError::check(ApiKey::Produce, answer.error_code, message).err();
                // Out of order, a batch only waits for the one before it.
                if let Some(failure) = sent.batch.failure.clone().filter(RequestError::is_retriable) {
                    self.shared.meet(failure);
                }
                self.take_back(sent, false);
            }
            Verdict::Renumber => {
                tracing::warn!(partition = %sent.queue, %code, "the broker lost the sequence; starting a new epoch");
                sent.batch.failure = RequestError::check(ApiKey::Produce, answer.error_code, message).err();
                self.take_back(sent, true);
            }
            Verdict::Failed => {
                let (topic, partition) = (sent.queue.topic.clone(), sent.queue.partition);
                let message = message.map(Arc::from);
                self.settle(sent, Err(DeliveryError::Refused { topic, partition, code, message }));
            }
        }
    }

    fn take_back(&mut self, sent: Sent, renumber: bool) {
        let id = sent.queue.id;
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.take_back(sent.batch, renumber, Instant::now());
        }
        self.activate(id);
    }

    fn settle(&mut self, sent: Sent, outcome: Result<Stored, DeliveryError>) {
        if let Some(flow) = self.flows.get_mut(&sent.queue.id) {
            flow.settled();
        }
        self.settle_batch(&sent.queue, &sent.batch, outcome);
    }

    fn settle_batch(&self, queue: &PartitionQueue, batch: &Sealed, outcome: Result<Stored, DeliveryError>) {
        let records = usize::try_from(batch.records).unwrap_or(0);
        self.shared.settle(queue, &batch.completion, records, batch.reserved, outcome);
    }

    /// Gives up batches that wait for too long. Returns when the next one would.
    fn expire(&mut self, now: Instant) -> Instant {
        let timeout = self.shared.config.delivery_timeout;
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut due = now + IDLE;
        for id in self.active.clone() {
            let Some(oldest) = now.checked_sub(timeout) else { break };
            while let Some((queue, batch)) =
                self.flows.get_mut(&id).and_then(|flow| Some((flow.queue.clone(), flow.expired(oldest)?)))
            {
                let reason = batch.failure.clone().or_else(|| self.shared.obstacle());
                let (topic, partition) = (queue.topic.clone(), queue.partition);
                let outcome = Err(DeliveryError::Timeout { topic, partition, millis, reason });
                self.settle_batch(&queue, &batch, outcome);
            }
            if let Some(oldest) = self.flows.get(&id).and_then(Flow::oldest) {
                due = due.min(oldest + timeout);
            }
        }
        due
    }

    /// Gives up all that is not in flight.
    fn give_up(&mut self, failure: &DeliveryError) {
        let far = Instant::now() + IDLE;
        let mut left = Vec::new();
        for flow in self.flows.values_mut() {
            while let Some(batch) = flow.expired(far) {
                left.push((flow.queue.clone(), batch));
            }
        }
        for (queue, batch) in left {
            self.settle_batch(&queue, &batch, Err(failure.clone()));
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.end();
        let in_flight = self.nodes.values_mut().flat_map(|node| node.in_flight.drain(..));
        let sent: Vec<_> = in_flight.flat_map(|request| request.sent).collect();
        for sent in sent {
            self.settle_batch(&sent.queue, &sent.batch, Err(DeliveryError::Closed));
        }
        self.give_up(&DeliveryError::Closed);
        self.shared.fail_queues();
    }
}

/// Whether a flow can send.
enum Readiness {
    Ready(i32),
    At(Instant),
    /// Something else has to happen first, which wakes the task.
    Blocked,
}

/// Asks for a producer id.
pub(super) async fn new_identity(client: &Client) -> Result<Identity, RequestError> {
    let attempt = || async {
        let request = |_| InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..Default::default()
        };
        let response = client.ask_any(request).await?;
        error::RequestError::check(ApiKey::InitProducerId, response.error_code, None)?;
        Ok((response.producer_id, response.producer_epoch))
    };
    client.retry(attempt, |_| false).await
}
