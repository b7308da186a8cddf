//! How a member comes into a group, comes back to it, or takes another one's place.

use super::rebalance::InitialWait;
use super::{Action, Caller, Group, GroupError, Member, Phase, Ticket, WriteId};
use bytes::Bytes;

/// A request to be in the next generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinGroup {
    /// Known or new.
    pub(crate) joiner: Joiner,
    /// `group.instance.id` of a static member.
    pub(crate) instance_id: Option<String>,
    /// What the client calls itself.
    pub(crate) client_id: String,
    /// Where it connects from.
    pub(crate) client_host: String,
    /// Silence after which it is dead, in ms.
    pub(crate) session_timeout_ms: i32,
    /// How long a rebalance waits for it, in ms.
    pub(crate) rebalance_timeout_ms: i32,
    /// What kind of group it expects.
    pub(crate) protocol_type: String,
    /// Protocols it speaks, best first, with metadata.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// Whether its client knows `skip_assignment`.
    pub(crate) can_skip_assignment: bool,
}

/// Whether the one who joins has been here before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joiner {
    /// It says that this is its member id.
    Known(String),
    /// It has none.
    New {
        /// The id it gets if it is let in.
        member_id: String,
        /// Whether it is first told its id and has to come back with it, so that a join that is tried again makes no
        /// second member. Not asked of static members, whom their instance id identifies.
        must_return: bool,
    },
}

/// The answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The generation it is in.
    pub(crate) generation: i32,
    /// The group's protocol type.
    pub(crate) protocol_type: String,
    /// The protocol chosen.
    pub(crate) protocol: String,
    /// Member id of the leader.
    pub(crate) leader: String,
    /// Its own member id.
    pub(crate) member_id: String,
    /// Everyone, for the leader, who assigns; else empty.
    pub(crate) members: Vec<JoinedMember>,
    /// Whether the leader is to leave assignments as they are.
    pub(crate) skip_assignment: bool,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinedMember {
    /// Member id.
    pub(crate) member_id: String,
    /// `group.instance.id`.
    pub(crate) instance_id: Option<String>,
    /// Metadata for the protocol chosen.
    pub(crate) metadata: Bytes,
}

/// Most member ids that are given out and not yet come back with, whatever the group's size may be: whoever asks for
/// ids and never joins must not make every step of the group slow.
const RESERVED_MAX: usize = 10_000;

impl Group {
    /// Someone wants to be a member. The answer comes as an action: at once if it is refused, or if nothing changes by
    /// it; else when the generation stands.
    pub(crate) fn join(&mut self, join: JoinGroup, ticket: Ticket, now_ms: i64) {
        if let Err(error) = self.try_join(join, ticket, now_ms) {
            self.actions.push(Action::AnswerJoin(ticket, Err(error)));
        }
    }

    fn try_join(&mut self, join: JoinGroup, ticket: Ticket, now_ms: i64) -> Result<(), GroupError> {
        match join.joiner.clone() {
            Joiner::Known(id) => self.join_known(id, join, ticket, now_ms),
            Joiner::New { member_id, must_return } => {
                let replaced =
                    join.instance_id.as_ref().and_then(|instance| self.instances.get(instance)).cloned();
                self.check_protocols(&join, replaced.as_deref())?;
                if let Some(replaced) = replaced {
                    self.take_over(&replaced, member_id, join, ticket, now_ms);
                    return Ok(());
                }
                self.check_room()?;
                if must_return && join.instance_id.is_none() {
                    self.reserved.insert(member_id.clone(), now_ms + i64::from(join.session_timeout_ms));
                    return Err(GroupError::MemberIdRequired { member_id });
                }
                self.add_member(member_id, join, ticket, now_ms);
                Ok(())
            }
        }
    }

    fn join_known(
        &mut self,
        id: String,
        join: JoinGroup,
        ticket: Ticket,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        self.check_protocols(&join, Some(&id))?;
        if join.instance_id.is_none() && self.reserved.remove(&id).is_some() {
            self.add_member(id.clone(), join, ticket, now_ms);
            if let Some(member) = self.members.get_mut(&id) {
                member.told = true;
            }
            return Ok(());
        }
        let leads = self.leader.as_deref() == Some(&id);
        let (stable, completing) =
            (self.phase == Phase::Stable, matches!(self.phase, Phase::Completing { .. }));
        let member =
            self.check_member(Caller { member_id: &id, instance_id: join.instance_id.as_deref() })?;
        let same = member.protocols == join.protocols;
        member.update(join, now_ms);
        // A leader that rejoins a stable group wants a new assignment, though its own metadata is the same: it may
        // have seen a topic change.
        if same && (completing || (stable && !leads)) {
            let joined = self.joined(&id, completing && leads);
            self.actions.push(Action::AnswerJoin(ticket, Ok(joined)));
            return Ok(());
        }
        self.wait_for_join(&id, ticket);
        self.continue_rebalance(now_ms);
        Ok(())
    }

    fn add_member(&mut self, id: String, join: JoinGroup, ticket: Ticket, now_ms: i64) {
        if self.members.is_empty() {
            self.protocol_type.clone_from(&join.protocol_type);
        }
        if let Some(instance) = &join.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id.clone(), Member::new(join, now_ms));
        self.wait_for_join(&id, ticket);
        if let Phase::Preparing { initial: Some(InitialWait { grew, .. }), .. } = &mut self.phase {
            *grew = true;
        }
        self.continue_rebalance(now_ms);
    }

    /// A static member came back without its member id: it goes on under a new one, and the old one is fenced. The
    /// generation stands if the protocol chosen would be the same.
    fn take_over(&mut self, replaced: &str, id: String, join: JoinGroup, ticket: Ticket, now_ms: i64) {
        let Some(mut member) = self.members.remove(replaced) else { return };
        self.refuse_waiting(&mut member, &GroupError::FencedInstance);
        let can_skip_assignment = join.can_skip_assignment;
        member.update(join, now_ms);
        member.told = true;
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.members.insert(id.clone(), member);
        let old_leader = self.leader.clone();
        let leads = old_leader.as_deref() == Some(replaced);
        if leads {
            self.leader = Some(id.clone());
        }
        if self.phase == Phase::Stable && self.select_protocol() == self.protocol {
            let mut joined = self.joined(&id, leads && can_skip_assignment);
            joined.skip_assignment = leads && can_skip_assignment;
            if leads && !can_skip_assignment {
                // An old client that leads would assign anew: it is told that the one it replaced still leads.
                joined.leader = replaced.to_owned();
            }
            let write = self.write();
            self.takeovers.insert(write, (ticket, joined));
            return;
        }
        self.wait_for_join(&id, ticket);
        self.continue_rebalance(now_ms);
    }

    /// What a member is told of the generation, `everyone` included if it is to assign.
    pub(super) fn joined(&self, id: &str, everyone: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let seen = |(id, member): (&String, &Member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(&protocol),
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.to_owned(),
            members: if everyone { self.members.iter().map(seen).collect() } else { Vec::new() },
            skip_assignment: false,
            protocol,
        }
    }

    fn wait_for_join(&mut self, id: &str, ticket: Ticket) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(older) = member.join.replace(ticket) {
            self.actions.push(Action::AnswerJoin(older, Err(GroupError::RebalanceInProgress)));
        }
    }

    /// Whether the join fits the members there are, save the one that it is of or replaces.
    fn check_protocols(&self, join: &JoinGroup, except: Option<&str>) -> Result<(), GroupError> {
        let others: Vec<&Member> = self
            .members
            .iter()
            .filter(|(id, _)| Some(id.as_str()) != except)
            .map(|(_, member)| member)
            .collect();
        let shared = |name: &str| others.iter().all(|other| other.speaks(name));
        let same_type = self.members.is_empty() || join.protocol_type == self.protocol_type;
        let fits = !join.protocol_type.is_empty()
            && same_type
            && join.protocols.iter().any(|(name, _)| shared(name));
        if fits { Ok(()) } else { Err(GroupError::InconsistentProtocol) }
    }

    fn check_room(&self) -> Result<(), GroupError> {
        let max = self.limits.members_max;
        let has_room = self.members.len() + self.reserved.len() < max && self.reserved.len() < RESERVED_MAX;
        if has_room { Ok(()) } else { Err(GroupError::Full { max }) }
    }

    /// Asks the owner to write the group.
    pub(super) fn write(&mut self) -> WriteId {
        self.writes += 1;
        let write = WriteId(self.writes);
        self.actions.push(Action::Write(write));
        write
    }
}
