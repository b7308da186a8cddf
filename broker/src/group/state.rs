//! One consumer group of the classic protocol, as a pure state machine: request and time in, actions out.
//!
//! It does no I/O, asks no clock and holds no lock. A request that must wait is known by its [`Ticket`]; its answer
//! is an [`Action`], and so is the wish to have the group written to the log: the owner executes what
//! [`Group::take_actions`] gives, and comes back with [`Group::written`] and, by [`Group::next_deadline`], with
//! [`Group::tick`]. Protocols, their metadata and assignments are opaque, so eager and cooperative consumers, Connect
//! workers and others are all the same here.
//! Invariant: generations only grow; an assignment is shown to nobody before it is written.

mod join;
mod member;
mod rebalance;
#[cfg(test)]
mod tests;

pub(crate) use join::{JoinGroup, Joined, JoinedMember, Joiner};
pub(crate) use member::Member;

use super::GroupError;
use bytes::Bytes;
use kappa_protocol::messages::{
    ConsumerProtocolSubscription, GroupMetadataValue, group_metadata_value::MemberMetadata,
};
use kappa_protocol::{Message, wire::Reader};
use rebalance::InitialWait;
use std::collections::{BTreeMap, BTreeSet};

/// Names a waiting request. The owner gives each a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub u64);

/// Names one wish to have the group written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteId(u64);

/// What the owner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer a join.
    AnswerJoin(Ticket, Result<Joined, GroupError>),
    /// Answer a sync.
    AnswerSync(Ticket, Result<Synced, GroupError>),
    /// Write [`Group::metadata`] as it is now, and say how that ended by [`Group::written`].
    Write(WriteId),
}

/// What bounds a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// How long the first rebalance of an empty group waits for more members, in ms.
    pub(crate) initial_rebalance_delay_ms: i32,
    /// Most members, those that were only told their id included.
    pub(crate) members_max: usize,
}

/// Where the group stands in its cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No members.
    Empty,
    /// Members are joining the next generation, until all have or the deadline passes.
    Preparing { deadline_ms: i64, initial: Option<InitialWait> },
    /// The generation stands; its leader's assignment is awaited or being written.
    Completing { write: Option<WriteId> },
    /// Every member may have its assignment.
    Stable,
}

/// Who asks: a member id and, for a static member, its instance id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// Member id.
    pub(crate) member_id: &'a str,
    /// `group.instance.id`.
    pub(crate) instance_id: Option<&'a str>,
}

/// A member's request for its assignment; the leader's brings everyone's.
#[derive(Clone, Debug)]
pub(crate) struct SyncGroup<'a> {
    /// Who asks.
    pub(crate) caller: Caller<'a>,
    /// The generation it joined.
    pub(crate) generation: i32,
    /// The protocol type it believes in, if it says.
    pub(crate) protocol_type: Option<&'a str>,
    /// The protocol it believes in, if it says.
    pub(crate) protocol: Option<&'a str>,
    /// Member ids and what they are given; empty from a follower.
    pub(crate) assignments: Vec<(String, Bytes)>,
}

/// The answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The group's protocol type.
    pub(crate) protocol_type: String,
    /// The protocol chosen.
    pub(crate) protocol: String,
    /// What the member is given.
    pub(crate) assignment: Bytes,
}

/// What a group is counted as beside its members.
const GROUP_BYTES: usize = 1024;
/// What a member id that was given out is counted as beside its bytes.
const RESERVED_BYTES: usize = 128;

/// A group. See the module's description.
#[derive(Debug)]
pub(crate) struct Group {
    limits: GroupLimits,
    phase: Phase,
    generation: i32,
    protocol_type: String,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Member id by instance id.
    instances: BTreeMap<String, String>,
    /// Member ids that were given out but not yet come back with, and when each lapses.
    reserved: BTreeMap<String, i64>,
    /// When members that joined this generation must have asked for their assignment.
    sync_deadline_ms: Option<i64>,
    /// Whether a member was removed and the rest have not begun to share what it had.
    shrunk: bool,
    /// Joins of static members that took over, to be answered once the new member id is written.
    takeovers: BTreeMap<WriteId, (Ticket, Joined)>,
    writes: u64,
    actions: Vec<Action>,
}

impl Group {
    /// A group that never had a member.
    pub(crate) fn new(limits: GroupLimits) -> Self {
        Self {
            limits,
            phase: Phase::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            reserved: BTreeMap::new(),
            sync_deadline_ms: None,
            shrunk: false,
            takeovers: BTreeMap::new(),
            writes: 0,
            actions: Vec::new(),
        }
    }

    /// The group as the log remembers it. Its members have their session timeouts, from now, to be heard of.
    pub(crate) fn restored(limits: GroupLimits, metadata: GroupMetadataValue, now_ms: i64) -> Self {
        let protocol = metadata.protocol.unwrap_or_default();
        let members: BTreeMap<String, Member> = metadata
            .members
            .into_iter()
            .map(|mut member| {
                (std::mem::take(&mut member.member_id), Member::restored(member, &protocol, now_ms))
            })
            .collect();
        let instances = members
            .iter()
            .filter_map(|(id, member)| Some((member.instance_id.clone()?, id.clone())))
            .collect();
        let empty = members.is_empty();
        Self {
            phase: if empty { Phase::Empty } else { Phase::Stable },
            generation: metadata.generation,
            protocol_type: metadata.protocol_type,
            protocol: (!empty).then_some(protocol),
            leader: metadata.leader.filter(|leader| members.contains_key(leader)),
            members,
            instances,
            ..Self::new(limits)
        }
    }

    /// The group as it is written to the log. `changed_at_ms` is the wall clock's.
    pub(crate) fn metadata(&self, changed_at_ms: i64) -> GroupMetadataValue {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| MemberMetadata {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: member.assignment.clone(),
        };
        GroupMetadataValue {
            protocol_type: self.protocol_type.clone(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: changed_at_ms,
            members: self.members.iter().map(member).collect(),
        }
    }

    /// A member says that it lives.
    ///
    /// # Errors
    /// `RebalanceInProgress` tells it to rejoin; else as [`Group::check_commit`].
    pub(crate) fn heartbeat(
        &mut self,
        caller: Caller<'_>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        self.check_generation(caller, generation)?.hear(now_ms);
        if matches!(self.phase, Phase::Preparing { .. }) {
            Err(GroupError::RebalanceInProgress)
        } else {
            Ok(())
        }
    }

    /// Whether an offset may be committed. A member that commits lives. A client that is no member, and so has no
    /// generation (-1), may commit only while the group is empty.
    ///
    /// # Errors
    /// `UnknownMember`, `FencedInstance`, `IllegalGeneration`, or `RebalanceInProgress` while assignments are made.
    pub(crate) fn check_commit(
        &mut self,
        caller: Caller<'_>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        self.check_generation(caller, generation)?.hear(now_ms);
        if matches!(self.phase, Phase::Completing { .. }) {
            Err(GroupError::RebalanceInProgress)
        } else {
            Ok(())
        }
    }

    /// A member asks for its assignment. The answer comes as an action, perhaps at once.
    pub(crate) fn sync(&mut self, sync: SyncGroup<'_>, ticket: Ticket, now_ms: i64) {
        if let Err(error) = self.try_sync(sync, ticket, now_ms) {
            self.actions.push(Action::AnswerSync(ticket, Err(error)));
        }
    }

    /// Members leave, each by member id or, as an operator removes a static one, by instance id alone.
    pub(crate) fn leave(&mut self, callers: &[Caller<'_>], now_ms: i64) -> Vec<Result<(), GroupError>> {
        let answers = callers.iter().map(|caller| self.leave_one(*caller)).collect();
        self.members_left(now_ms);
        answers
    }

    /// A waiting request was given up, most often because its connection is gone. Its member stays until its session
    /// times out, save one that never learned its id, for which nobody will ask again.
    pub(crate) fn cancel(&mut self, ticket: Ticket, now_ms: i64) {
        let waiting = |member: &Member| member.join == Some(ticket) || member.sync == Some(ticket);
        let Some((id, member)) = self.members.iter_mut().find(|(_, member)| waiting(member)) else { return };
        member.join = member.join.filter(|join| *join != ticket);
        member.sync = member.sync.filter(|sync| *sync != ticket);
        member.hear(now_ms);
        if !member.told && member.instance_id.is_none() {
            let id = id.clone();
            self.remove_member(&id);
            self.members_left(now_ms);
        }
    }

    /// A write that was asked for has ended; `Err` if it is not in the log.
    pub(crate) fn written(&mut self, write: WriteId, result: Result<(), GroupError>, now_ms: i64) {
        if let Some((ticket, joined)) = self.takeovers.remove(&write) {
            self.actions.push(Action::AnswerJoin(ticket, result.map(|()| joined)));
        } else if self.phase == (Phase::Completing { write: Some(write) }) {
            match result {
                Ok(()) => self.become_stable(now_ms),
                Err(error) => {
                    self.fail_syncs(&error, now_ms);
                    self.prepare_rebalance(now_ms);
                }
            }
        }
    }

    /// Removes whom nobody has heard of in time, and ends rebalances whose time is over.
    pub(crate) fn tick(&mut self, now_ms: i64) {
        self.reserved.retain(|_, lapses_at| *lapses_at > now_ms);
        let dead: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.session_deadline().is_some_and(|deadline| deadline <= now_ms))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &dead {
            self.remove_member(id);
        }
        if self.sync_deadline_ms.is_some_and(|deadline| deadline <= now_ms) {
            self.remove_unsynced();
        }
        self.members_left(now_ms);
        self.end_overdue_rebalance(now_ms);
    }

    /// When [`Group::tick`] is next needed, at the earliest.
    pub(crate) fn next_deadline(&self) -> Option<i64> {
        let rebalance = match self.phase {
            Phase::Preparing { deadline_ms, .. } => Some(deadline_ms),
            _ => None,
        };
        let sessions = self.members.values().filter_map(Member::session_deadline);
        let reserved = self.reserved.values().copied();
        sessions.chain(reserved).chain(rebalance).chain(self.sync_deadline_ms).min()
    }

    /// What is to be done since this was last asked, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The state by Kafka's name: `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing { .. } => "PreparingRebalance",
            Phase::Completing { .. } => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    /// Bytes of memory that it is counted as.
    pub(crate) fn bytes(&self) -> usize {
        let members = self.members.iter().map(|(id, member)| member.bytes(id.len()));
        let reserved = self.reserved.keys().map(|id| RESERVED_BYTES + id.len());
        GROUP_BYTES + self.protocol_type.len() + members.sum::<usize>() + reserved.sum::<usize>()
    }

    /// Bytes by which a join may make it grow, at most.
    pub(crate) fn growth_by_join(&self, join: &JoinGroup) -> usize {
        let base = if self.is_blank() { GROUP_BYTES + join.protocol_type.len() } else { 0 };
        let (id, kept) = match &join.joiner {
            Joiner::New { member_id, must_return: true } if join.instance_id.is_none() => {
                return base + RESERVED_BYTES + member_id.len();
            }
            Joiner::New { member_id, .. } => {
                (member_id, join.instance_id.as_ref().and_then(|id| self.instances.get(id)))
            }
            Joiner::Known(member_id) => (member_id, Some(member_id)),
        };
        let kept = kept.and_then(|id| Some((id, self.members.get(id)?)));
        let kept = kept.map_or(0, |(id, member)| member.bytes(id.len()));
        base + member::bytes_said(join, id.len()).saturating_sub(kept)
    }

    /// Bytes by which a sync may make it grow.
    pub(crate) fn growth_by_sync(&self, sync: &SyncGroup<'_>) -> usize {
        let leads = self.leader.as_deref() == Some(sync.caller.member_id);
        if self.phase != (Phase::Completing { write: None }) || !leads {
            return 0;
        }
        sync.assignments.iter().map(|(_, assignment)| assignment.len()).sum()
    }

    /// Whether there is no member.
    pub(crate) fn is_empty(&self) -> bool {
        self.phase == Phase::Empty
    }

    /// Whether there is no member, and none was told an id to come back with.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && self.reserved.is_empty()
    }

    /// Whether nothing would be lost if it were forgotten: it is idle and never had a generation.
    pub(crate) fn is_blank(&self) -> bool {
        self.is_idle() && self.generation == 0
    }

    /// Whether assignments are made, so that members and protocol may be shown.
    pub(crate) fn is_stable(&self) -> bool {
        self.phase == Phase::Stable
    }

    /// `consumer`, `connect` or whatever the first member said; empty before it.
    pub(crate) fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    /// The protocol chosen for this generation.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Members by their id.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(id, member)| (id.as_str(), member))
    }

    /// Topics that the members of a group of consumers read; `None` if it is another kind of group, if there are no
    /// members, or if one's metadata cannot be read.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        let protocol = self.protocol.as_deref().filter(|_| self.protocol_type == CONSUMER)?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(member.metadata(protocol))?);
        }
        Some(topics)
    }

    fn try_sync(&mut self, sync: SyncGroup<'_>, ticket: Ticket, now_ms: i64) -> Result<(), GroupError> {
        self.check_generation(sync.caller, sync.generation)?;
        let differs = |said: Option<&str>, known: &str| said.is_some_and(|said| said != known);
        let protocol = self.protocol.as_deref().unwrap_or_default();
        if differs(sync.protocol_type, &self.protocol_type) || differs(sync.protocol, protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        let member_id = sync.caller.member_id;
        match self.phase {
            Phase::Empty => Err(GroupError::UnknownMember),
            Phase::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            Phase::Completing { write } => {
                self.wait_for_sync(member_id, ticket);
                if write.is_none() && self.leader.as_deref() == Some(member_id) {
                    self.assign(sync.assignments);
                }
                Ok(())
            }
            Phase::Stable => {
                let synced = self.synced(member_id);
                if let Some(member) = self.members.get_mut(member_id) {
                    member.synced = true;
                    member.hear(now_ms);
                }
                self.actions.push(Action::AnswerSync(ticket, Ok(synced)));
                self.forget_sync_deadline();
                Ok(())
            }
        }
    }

    fn wait_for_sync(&mut self, member_id: &str, ticket: Ticket) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.synced = true;
        if let Some(older) = member.sync.replace(ticket) {
            self.actions.push(Action::AnswerSync(older, Err(GroupError::RebalanceInProgress)));
        }
        self.forget_sync_deadline();
    }

    fn synced(&self, member_id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone().unwrap_or_default(),
            assignment: self
                .members
                .get(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    fn leave_one(&mut self, caller: Caller<'_>) -> Result<(), GroupError> {
        if self.reserved.remove(caller.member_id).is_some() {
            return Ok(());
        }
        let id = match caller.instance_id {
            Some(instance) if caller.member_id.is_empty() => {
                self.instances.get(instance).ok_or(GroupError::UnknownMember)?.clone()
            }
            _ => {
                self.check_member(caller)?;
                caller.member_id.to_owned()
            }
        };
        self.remove_member(&id);
        Ok(())
    }

    fn check_generation(&mut self, caller: Caller<'_>, got: i32) -> Result<&mut Member, GroupError> {
        let current = self.generation;
        let member = self.check_member(caller)?;
        if got == current { Ok(member) } else { Err(GroupError::IllegalGeneration { current, got }) }
    }

    fn check_member(&mut self, caller: Caller<'_>) -> Result<&mut Member, GroupError> {
        if let Some(instance) = caller.instance_id {
            let member_id = self.instances.get(instance).ok_or(GroupError::UnknownMember)?;
            if member_id != caller.member_id {
                return Err(GroupError::FencedInstance);
            }
        }
        self.members.get_mut(caller.member_id).ok_or(GroupError::UnknownMember)
    }
}

const CONSUMER: &str = "consumer";

/// Topics of a consumer's subscription: a version, then the subscription. Every version begins as version 0 does,
/// with the topics, so newer clients are understood too.
fn subscribed_topics(metadata: Bytes) -> Option<Vec<String>> {
    let mut reader = Reader::new(metadata);
    reader.i16().ok().filter(|version| *version >= 0)?;
    ConsumerProtocolSubscription::decode(&mut reader, 0).ok().map(|subscription| subscription.topics)
}
