//! Membership in a group: joining, heartbeats, rebalances, leaving. One task per subscribed consumer.
//!
//! The task talks to the coordinator; whatever changes the assignment it hands to the poll as an [`Event`] and waits,
//! with heartbeats, until the poll has run the listener. Invariant: `owned` is what the application has been told it
//! has and not yet been told that it lost. Knows nothing of positions.

use super::{
    ConsumerConfig, ConsumerError, GroupMembership,
    assignor::{Assignor, MemberAssignment, MemberSubscription, RebalanceProtocol},
    group::{Event, Group, boottime},
    partitions::Partitions,
    protocol,
};
use crate::{Client, LaneKind, RequestError, TopicPartition, routing::backoff::Backoff};
use kappa_protocol::{
    ApiKey, ErrorCode,
    messages::{
        HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
        join_group_request::JoinGroupRequestProtocol, leave_group_request::MemberIdentity,
        sync_group_request::SyncGroupRequestAssignment,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Time that a join may take beyond the rebalance timeout.
const JOIN_GRACE: Duration = Duration::from_secs(5);
/// The first heartbeat of a generation comes after this part of the interval; then it doubles.
const FIRST_BEATS: u32 = 16;

/// State of the task.
pub(super) struct Member {
    group: Arc<Group>,
    client: Client,
    config: Arc<ConsumerConfig>,
    group_id: Arc<str>,
    /// Wakes the poll.
    poll: Arc<Partitions>,
    protocol: RebalanceProtocol,
    member_id: String,
    generation: i32,
    owned: BTreeSet<TopicPartition>,
    /// What it was assigned last.
    had: Vec<TopicPartition>,
    /// On the leader: partition counts that the assignment was made from.
    counts: Option<BTreeMap<Arc<str>, i32>>,
    backoff: Backoff,
}

/// Why a round with the coordinator ended early.
enum Interrupted {
    /// Try again after a wait.
    Failed(ConsumerError),
    /// The consumer is being closed.
    Leaving,
    /// The application did not poll for too long, and the group was left.
    SteppedOut,
}

impl<E: Into<ConsumerError>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Interrupted::Failed(error.into())
    }
}

impl Member {
    pub(super) fn new(
        group: Arc<Group>,
        client: Client,
        config: Arc<ConsumerConfig>,
        group_id: Arc<str>,
        poll: Arc<Partitions>,
    ) -> Member {
        let cooperative =
            config.assignors.iter().all(|assignor| assignor.protocol() == RebalanceProtocol::Cooperative);
        let protocol = if cooperative { RebalanceProtocol::Cooperative } else { RebalanceProtocol::Eager };
        let backoff = client.backoff();
        Member {
            group,
            client,
            config,
            group_id,
            poll,
            protocol,
            member_id: String::new(),
            generation: -1,
            owned: BTreeSet::new(),
            had: Vec::new(),
            counts: None,
            backoff,
        }
    }

    /// Runs until the consumer leaves the group.
    pub(super) async fn run(mut self) {
        while !self.is_leaving() {
            if self.group.topics().is_empty() || self.is_overdue() {
                self.group.wake.notified().await;
                continue;
            }
            let outcome = match self.join().await {
                Ok(()) => self.stay().await,
                Err(interrupted) => Err(interrupted),
            };
            match outcome {
                Ok(()) | Err(Interrupted::SteppedOut) => {}
                Err(Interrupted::Leaving) => break,
                Err(Interrupted::Failed(error)) => self.recover(error).await,
            }
        }
        self.leave("the consumer was closed").await;
    }

    fn is_leaving(&self) -> bool {
        *self.group.leaving.borrow()
    }

    fn is_overdue(&self) -> bool {
        self.group.state.lock().last_poll.elapsed() > self.config.max_poll_interval
    }

    /// Joins, syncs, and has the poll carry out the new assignment.
    async fn join(&mut self) -> Result<(), Interrupted> {
        self.group.state.lock().rejoin = false;
        if self.protocol == RebalanceProtocol::Eager && !self.owned.is_empty() {
            let owned = std::mem::take(&mut self.owned);
            self.announce(Event::Revoked(owned.into_iter().collect())).await?;
        }
        let topics = self.group.topics();
        let joined = self.join_group(&topics).await?;
        self.generation = joined.generation_id;
        let name = joined.protocol_name.clone().unwrap_or_default();
        let assignor = self.config.assignors.iter().find(|assignor| assignor.name() == name).cloned();
        let assignor =
            assignor.ok_or_else(|| self.refused(ApiKey::JoinGroup, ErrorCode::InconsistentGroupProtocol))?;
        let leads = joined.leader == self.member_id;
        self.counts = None;
        let assignments = if leads && !joined.skip_assignment {
            self.assign(&*assignor, &joined).await?
        } else {
            Vec::new()
        };
        let sent = boottime();
        let assignment = self.sync_group(&name, assignments).await?;
        self.group.confirm(sent);
        self.group.state.lock().membership = Some(GroupMembership {
            group_id: self.group_id.clone(),
            generation: self.generation,
            member_id: Arc::from(self.member_id.as_str()),
            group_instance_id: self.config.group_instance_id.as_deref().map(Arc::from),
        });
        self.backoff.reset();
        assignor.assigned(&assignment, self.generation);
        self.take_over(assignment).await
    }

    /// Gives up what is no longer assigned, then takes what is new.
    async fn take_over(&mut self, assignment: MemberAssignment) -> Result<(), Interrupted> {
        self.had.clone_from(&assignment.partitions);
        let assigned: BTreeSet<_> = assignment.partitions.into_iter().collect();
        let revoked: Vec<_> = self.owned.difference(&assigned).cloned().collect();
        let added: Vec<_> = assigned.difference(&self.owned).cloned().collect();
        self.owned = assigned;
        if !revoked.is_empty() {
            self.announce(Event::Revoked(revoked)).await?;
            // What was given up is assigned to others in another rebalance.
            self.group.state.lock().rejoin = true;
        }
        self.announce(Event::Assigned(added)).await
    }

    async fn join_group(&mut self, topics: &[Arc<str>]) -> Result<JoinGroupResponse, Interrupted> {
        let protocols = self.protocols(topics)?;
        loop {
            let timeout = self.config.max_poll_interval + JOIN_GRACE;
            let request = |version| self.join_request(&protocols, version);
            let asked = self.group.coordinator.ask(LaneKind::Group, timeout, request);
            let named = !self.member_id.is_empty() || self.config.group_instance_id.is_some();
            let response =
                if named { self.unless_leaving(asked).await? } else { self.until_named(asked).await? };
            if ErrorCode::from(response.error_code) == ErrorCode::MemberIdRequired {
                self.member_id = response.member_id;
                if self.is_leaving() {
                    return Err(Interrupted::Leaving);
                }
                continue;
            }
            self.group.coordinator.check(ApiKey::JoinGroup, response.error_code, None)?;
            self.member_id.clone_from(&response.member_id);
            return Ok(response);
        }
    }

    /// The coordinator may take its time for this answer; closing the consumer must not.
    async fn unless_leaving<T>(
        &self,
        asked: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, Interrupted> {
        let mut leaving = self.group.leaving.subscribe();
        tokio::select! {
            answer = asked => Ok(answer?),
            _ = leaving.wait_for(|leaving| *leaving) => Err(Interrupted::Leaving),
        }
    }

    /// The coordinator has a member from this request on, under an id that only the answer tells: leaving before it
    /// would leave a member behind that everybody waits for until its session ends. It comes at once where the id is
    /// given before the join (KIP-394), which all but very old brokers do.
    async fn until_named(
        &self,
        asked: impl Future<Output = Result<JoinGroupResponse, RequestError>>,
    ) -> Result<JoinGroupResponse, Interrupted> {
        let mut leaving = self.group.leaving.subscribe();
        let patience = async {
            // The group, and so the sender, lives as long as this task.
            let _ = leaving.wait_for(|leaving| *leaving).await;
            tokio::time::sleep(JOIN_GRACE).await;
        };
        tokio::select! {
            answer = asked => Ok(answer?),
            () = patience => Err(Interrupted::Leaving),
        }
    }

    fn protocols(&self, topics: &[Arc<str>]) -> Result<Vec<JoinGroupRequestProtocol>, Interrupted> {
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        let protocol = |assignor: &Arc<dyn Assignor>| {
            let subscription = MemberSubscription {
                member_id: String::new(),
                group_instance_id: None,
                topics: topics.to_vec(),
                owned: owned.clone(),
                generation: self.generation,
                user_data: assignor.user_data(topics, &self.had),
            };
            let metadata = protocol::encode_subscription(&subscription);
            let metadata = metadata.map_err(|error| self.unencodable(ApiKey::JoinGroup, error))?;
            Ok(JoinGroupRequestProtocol { name: assignor.name().to_owned(), metadata })
        };
        self.config.assignors.iter().map(protocol).collect()
    }

    fn join_request(&self, protocols: &[JoinGroupRequestProtocol], version: i16) -> JoinGroupRequest {
        JoinGroupRequest {
            group_id: self.group_id.to_string(),
            session_timeout_ms: millis(self.config.session_timeout),
            rebalance_timeout_ms: if version >= 1 { millis(self.config.max_poll_interval) } else { -1 },
            member_id: self.member_id.clone(),
            group_instance_id: self.instance(version >= 5),
            protocol_type: protocol::PROTOCOL_TYPE.to_owned(),
            protocols: protocols.to_vec(),
            reason: None,
        }
    }

    fn instance(&self, supported: bool) -> Option<String> {
        self.config.group_instance_id.clone().filter(|_| supported)
    }

    /// On the leader: everyone's assignment.
    async fn assign(
        &mut self,
        assignor: &dyn Assignor,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, Interrupted> {
        let mut members = Vec::with_capacity(joined.members.len());
        for member in &joined.members {
            let instance = member.group_instance_id.as_deref();
            match protocol::decode_subscription(&member.member_id, instance, &member.metadata) {
                Ok(subscription) => members.push(subscription),
                // Another client's fault must not stop the group; its member gets nothing.
                Err(error) => tracing::warn!(member = member.member_id, %error, "unreadable subscription"),
            }
        }
        let topics: BTreeSet<_> = members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        let counts = self.counts(&topics).await?;
        let mut assignments = assignor.assign(&counts, &members).map_err(ConsumerError::from)?;
        self.counts = Some(counts);
        let mut encoded = Vec::with_capacity(joined.members.len());
        for member in &joined.members {
            let assignment = assignments.remove(&member.member_id).unwrap_or_default();
            let assignment = protocol::encode_assignment(&assignment);
            let assignment = assignment.map_err(|error| self.unencodable(ApiKey::SyncGroup, error))?;
            encoded.push(SyncGroupRequestAssignment { member_id: member.member_id.clone(), assignment });
        }
        Ok(encoded)
    }

    /// Partition counts of those of the topics that exist.
    async fn counts(&self, topics: &BTreeSet<Arc<str>>) -> Result<BTreeMap<Arc<str>, i32>, RequestError> {
        let names: Vec<_> = topics.iter().cloned().collect();
        for name in &names {
            self.client.mark_stale(name);
        }
        let cluster = self.client.refresh(&names, self.config.allow_auto_create_topics).await?;
        let known = names.into_iter().filter_map(|name| {
            let topic = cluster.topic(&name).filter(|topic| topic.error.is_none())?;
            Some((name, topic.count()))
        });
        Ok(known.filter(|(_, count)| *count > 0).collect())
    }

    async fn sync_group(
        &self,
        protocol_name: &str,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<MemberAssignment, Interrupted> {
        let timeout = self.config.max_poll_interval + JOIN_GRACE;
        let request = |version| SyncGroupRequest {
            group_id: self.group_id.to_string(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance(version >= 3),
            protocol_type: Some(protocol::PROTOCOL_TYPE.to_owned()).filter(|_| version >= 5),
            protocol_name: Some(protocol_name.to_owned()).filter(|_| version >= 5),
            assignments,
        };
        let asked = self.group.coordinator.ask(LaneKind::Group, timeout, request);
        let response = self.unless_leaving(asked).await?;
        self.group.coordinator.check(ApiKey::SyncGroup, response.error_code, None)?;
        let unreadable = |_| RequestError::Incomplete { api: ApiKey::SyncGroup };
        Ok(protocol::decode_assignment(&response.assignment).map_err(unreadable)?)
    }

    /// Heartbeats until a rebalance is due.
    async fn stay(&mut self) -> Result<(), Interrupted> {
        // A change is often followed by another: members that start together, partitions that are first let go.
        let mut interval = self.config.heartbeat_interval / FIRST_BEATS;
        let mut next = Instant::now() + interval;
        loop {
            // A wake-up without a cause, as after every poll, only shortens the look around.
            let _ = tokio::time::timeout_at(next, self.group.wake.notified()).await;
            if self.is_leaving() {
                return Err(Interrupted::Leaving);
            }
            if self.is_overdue() {
                return self.step_out().await;
            }
            if self.group.state.lock().rejoin || self.topics_grew().await {
                return Ok(());
            }
            if Instant::now() < next {
                continue;
            }
            interval = (interval * 2).min(self.config.heartbeat_interval);
            next = Instant::now() + interval;
            if self.heartbeat().await? == Beat::Rebalance {
                return Ok(());
            }
        }
    }

    /// Leaves because the application does not poll; the next poll joins again.
    async fn step_out(&mut self) -> Result<(), Interrupted> {
        let limit = self.config.max_poll_interval;
        tracing::warn!(group = %self.group_id, ?limit, "no poll for too long; leaving the group until the next");
        self.leave("max_poll_interval passed without a poll").await;
        self.member_id.clear();
        self.group.state.lock().overdue = true;
        self.lose().await
    }

    /// On the leader: whether a topic has other partitions than were assigned.
    async fn topics_grew(&self) -> bool {
        let Some(counts) = &self.counts else { return false };
        let cluster = self.client.cluster();
        let age_max = self.client.config().metadata_age_max;
        let names: Vec<_> = self.group.topics();
        let cluster =
            if names.iter().all(|name| cluster.topic(name).is_some_and(|topic| topic.is_fresh(age_max))) {
                cluster
            } else {
                self.client.refresh(&names, false).await.unwrap_or(cluster)
            };
        names.iter().any(|name| {
            let topic = cluster.topic(name).filter(|topic| topic.error.is_none());
            topic.is_some_and(|topic| topic.count() > counts.get(name).copied().unwrap_or(0))
        })
    }

    async fn heartbeat(&mut self) -> Result<Beat, Interrupted> {
        let request = |version| HeartbeatRequest {
            group_id: self.group_id.to_string(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance(version >= 3),
        };
        let timeout = self.client.config().request_timeout.min(self.config.session_timeout);
        let sent = boottime();
        let asked = self.group.coordinator.ask(LaneKind::Group, timeout, request).await;
        let answered = asked
            .and_then(|response| self.group.coordinator.check(ApiKey::Heartbeat, response.error_code, None));
        match answered {
            Ok(()) => {
                self.group.confirm(sent);
                Ok(Beat::Alive)
            }
            Err(error) if error.code() == Some(ErrorCode::RebalanceInProgress) => {
                self.group.confirm(sent);
                Ok(Beat::Rebalance)
            }
            // The session outlives a few missed heartbeats.
            Err(error) if error.is_retriable() => {
                tracing::debug!(%error, "heartbeat failed");
                Ok(Beat::Alive)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Hands an event to the poll and waits until it is carried out.
    async fn announce(&mut self, event: Event) -> Result<(), Interrupted> {
        self.group.state.lock().event = Some(event);
        self.poll.ready.notify_one();
        let mut next = Instant::now() + self.config.heartbeat_interval;
        while self.group.event().is_some() {
            // Woken, or time for a heartbeat: both are looked at below.
            let _ = tokio::time::timeout_at(next, self.group.carried_out.notified()).await;
            if self.is_leaving() {
                return Err(Interrupted::Leaving);
            }
            if self.generation >= 0 && self.is_overdue() {
                // The others wait for what was to be given up.
                let pending = self.group.event();
                self.owned.extend(pending.map(Event::into_partitions).unwrap_or_default());
                Box::pin(self.step_out()).await?;
                return Err(Interrupted::SteppedOut);
            }
            if Instant::now() >= next && self.generation >= 0 {
                next = Instant::now() + self.config.heartbeat_interval;
                // That another rebalance has begun is seen again once this one is carried out.
                if let Err(Interrupted::Failed(error)) = self.heartbeat().await {
                    tracing::debug!(%error, "heartbeat failed while the application gives up partitions");
                }
            }
        }
        Ok(())
    }

    /// The group may have given our partitions to others.
    async fn lose(&mut self) -> Result<(), Interrupted> {
        self.generation = -1;
        self.group.no_member();
        let owned = std::mem::take(&mut self.owned);
        if owned.is_empty() { Ok(()) } else { self.announce(Event::Lost(owned.into_iter().collect())).await }
    }

    async fn recover(&mut self, error: ConsumerError) {
        let code = if let ConsumerError::Request(error) = &error { error.code() } else { None };
        match code {
            Some(ErrorCode::RebalanceInProgress) => {}
            Some(ErrorCode::UnknownMemberId) => {
                tracing::info!(group = %self.group_id, %error, "dropped by the group; joining again");
                self.member_id.clear();
                // Leaving is seen by the loop that called.
                let _ = self.lose().await;
            }
            // Still a member, of a later generation: under another id it would be there twice.
            Some(ErrorCode::IllegalGeneration) => {
                tracing::info!(group = %self.group_id, %error, "a rebalance was missed; joining again");
                let _ = self.lose().await;
            }
            Some(ErrorCode::FencedInstanceId) => {
                let instance = self.config.group_instance_id.as_deref().unwrap_or_default();
                self.report(ConsumerError::Fenced(Arc::from(instance)));
                self.member_id.clear();
                let _ = self.lose().await;
                self.group.state.lock().topics.clear();
            }
            _ if matches!(&error, ConsumerError::Request(error) if error.is_retriable()) => {
                tracing::debug!(group = %self.group_id, %error, "no answer from the group; trying again");
            }
            _ => self.report(error),
        }
        let wait = self.backoff.next();
        tokio::time::sleep(wait).await;
    }

    fn report(&self, error: ConsumerError) {
        self.group.state.lock().error = Some(error);
        self.poll.ready.notify_one();
    }

    /// Tells the coordinator that this member goes, unless it is a static one, whose place is kept.
    async fn leave(&mut self, reason: &str) {
        if self.member_id.is_empty() || self.config.group_instance_id.is_some() {
            return;
        }
        let request = |version| {
            let member = MemberIdentity {
                member_id: self.member_id.clone(),
                group_instance_id: None,
                reason: Some(reason.to_owned()).filter(|_| version >= 5),
            };
            LeaveGroupRequest {
                group_id: self.group_id.to_string(),
                member_id: if version < 3 { self.member_id.clone() } else { String::new() },
                members: if version < 3 { Vec::new() } else { vec![member] },
            }
        };
        let timeout = self.client.config().request_timeout.min(JOIN_GRACE);
        // A join may still be waiting on the other lane.
        if let Err(error) = self.group.coordinator.ask(LaneKind::Admin, timeout, request).await {
            tracing::debug!(group = %self.group_id, %error, "the group will notice the absence by itself");
        }
        self.group.no_member();
    }

    fn refused(&self, api: ApiKey, code: ErrorCode) -> RequestError {
        RequestError::Refused { api, code, message: None }
    }

    fn unencodable(&self, api: ApiKey, error: kappa_protocol::EncodeError) -> RequestError {
        let reason = kappa_protocol::LaneError::Encode(error);
        RequestError::Lane { api, address: Arc::from("the group's coordinator"), reason }
    }
}

#[derive(PartialEq, Eq)]
enum Beat {
    Alive,
    Rebalance,
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
