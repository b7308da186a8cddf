//! How one generation ends and the next begins: who is waited for, how long, and what is chosen.

use super::{Action, Group, GroupError, Member, Phase};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// The first rebalance of an empty group waits a little for others that are just starting, and longer while they
/// keep coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialWait {
    /// It ends here at the latest.
    pub(super) latest_ms: i64,
    /// Whether someone came since the deadline was set.
    pub(super) grew: bool,
}

impl Group {
    /// A member joined, rejoined or changed: begins a rebalance unless one is under way, and ends it if all are there.
    pub(super) fn continue_rebalance(&mut self, now_ms: i64) {
        if matches!(self.phase, Phase::Preparing { .. }) {
            self.try_complete_join(now_ms);
        } else {
            self.prepare_rebalance(now_ms);
        }
    }

    /// Members may have been removed: the rest share what they had.
    pub(super) fn members_left(&mut self, now_ms: i64) {
        let shrunk = std::mem::take(&mut self.shrunk);
        match self.phase {
            Phase::Preparing { .. } => self.try_complete_join(now_ms),
            Phase::Completing { .. } | Phase::Stable if shrunk => self.prepare_rebalance(now_ms),
            _ => {}
        }
    }

    pub(super) fn prepare_rebalance(&mut self, now_ms: i64) {
        self.fail_syncs(&GroupError::RebalanceInProgress, now_ms);
        let timeout = self.rebalance_timeout_ms();
        let delay = i64::from(self.limits.initial_rebalance_delay_ms).min(timeout);
        let first = self.phase == Phase::Empty && delay > 0;
        self.phase = Phase::Preparing {
            deadline_ms: now_ms + if first { delay } else { timeout },
            initial: first.then_some(InitialWait { latest_ms: now_ms + timeout, grew: false }),
        };
        self.sync_deadline_ms = None;
        self.try_complete_join(now_ms);
    }

    /// Ends a rebalance whose deadline has passed; extends it if it is an empty group's first and is still growing.
    pub(super) fn end_overdue_rebalance(&mut self, now_ms: i64) {
        let delay = i64::from(self.limits.initial_rebalance_delay_ms);
        match &mut self.phase {
            Phase::Preparing { deadline_ms, .. } if *deadline_ms > now_ms => {}
            Phase::Preparing { deadline_ms, initial: Some(wait) } if wait.grew && now_ms < wait.latest_ms => {
                wait.grew = false;
                *deadline_ms = (now_ms + delay).min(wait.latest_ms);
            }
            Phase::Preparing { .. } => self.complete_join(now_ms),
            _ => {}
        }
    }

    fn try_complete_join(&mut self, now_ms: i64) {
        let Phase::Preparing { initial, .. } = self.phase else { return };
        let all_joined =
            self.members.values().all(|member| member.join.is_some()) && self.reserved.is_empty();
        if self.members.is_empty() || (all_joined && initial.is_none()) {
            self.complete_join(now_ms);
        }
    }

    /// Begins the next generation with those who joined. A static member that did not is kept until its session times
    /// out: it may only be restarting.
    fn complete_join(&mut self, now_ms: i64) {
        let absent = |member: &Member| member.join.is_none() && member.instance_id.is_none();
        let absent: Vec<String> =
            self.members.iter().filter(|(_, member)| absent(member)).map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.remove_member(id);
        }
        self.shrunk = false;
        let Some(leader) = self.elect_leader() else {
            if self.members.is_empty() {
                self.become_empty();
            } else {
                let deadline_ms = now_ms + self.rebalance_timeout_ms().max(1);
                self.phase = Phase::Preparing { deadline_ms, initial: None };
            }
            return;
        };
        self.generation = next_generation(self.generation);
        self.protocol = self.select_protocol();
        self.phase = Phase::Completing { write: None };
        self.sync_deadline_ms = Some(now_ms + self.rebalance_timeout_ms());
        self.answer_joins(leader, now_ms);
    }

    fn answer_joins(&mut self, leader: String, now_ms: i64) {
        self.leader = Some(leader.clone());
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            // One that is absent is not waited for now either: its session decides.
            member.synced = member.join.is_none();
            member.assignment = Bytes::new();
            if let Some(ticket) = member.join.take() {
                member.told = true;
                member.hear(now_ms);
                waiting.push((id.clone(), ticket));
            }
        }
        for (id, ticket) in waiting {
            let joined = self.joined(&id, id == leader);
            self.actions.push(Action::AnswerJoin(ticket, Ok(joined)));
        }
    }

    fn become_empty(&mut self) {
        self.generation = next_generation(self.generation);
        self.protocol = None;
        self.leader = None;
        self.phase = Phase::Empty;
        self.write();
    }

    /// The leader's word: who gets what. It counts once it is written.
    pub(super) fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        self.phase = Phase::Completing { write: Some(self.write()) };
    }

    pub(super) fn become_stable(&mut self, now_ms: i64) {
        self.phase = Phase::Stable;
        let waiting = self.take_syncs(now_ms);
        for (id, ticket) in waiting {
            let synced = self.synced(&id);
            self.actions.push(Action::AnswerSync(ticket, Ok(synced)));
        }
    }

    pub(super) fn fail_syncs(&mut self, error: &GroupError, now_ms: i64) {
        for (_, ticket) in self.take_syncs(now_ms) {
            self.actions.push(Action::AnswerSync(ticket, Err(error.clone())));
        }
    }

    fn take_syncs(&mut self, now_ms: i64) -> Vec<(String, super::Ticket)> {
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            if let Some(ticket) = member.sync.take() {
                member.hear(now_ms);
                waiting.push((id.clone(), ticket));
            }
        }
        waiting
    }

    /// Members that took part in the join but never asked for what they got are gone.
    pub(super) fn remove_unsynced(&mut self) {
        self.sync_deadline_ms = None;
        let unsynced: Vec<String> =
            self.members.iter().filter(|(_, member)| !member.synced).map(|(id, _)| id.clone()).collect();
        for id in &unsynced {
            self.remove_member(id);
        }
    }

    pub(super) fn forget_sync_deadline(&mut self) {
        if self.members.values().all(|member| member.synced) {
            self.sync_deadline_ms = None;
        }
    }

    pub(super) fn remove_member(&mut self, id: &str) {
        let Some(mut member) = self.members.remove(id) else { return };
        self.refuse_waiting(&mut member, &GroupError::UnknownMember);
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
        self.shrunk = true;
    }

    pub(super) fn refuse_waiting(&mut self, member: &mut Member, error: &GroupError) {
        if let Some(ticket) = member.join.take() {
            self.actions.push(Action::AnswerJoin(ticket, Err(error.clone())));
        }
        if let Some(ticket) = member.sync.take() {
            self.actions.push(Action::AnswerSync(ticket, Err(error.clone())));
        }
    }

    /// The protocol that most members like best of those that all speak; the first by name of equals.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let spoken_by_all = |name: &str| self.members.values().all(|member| member.speaks(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote =
                member.protocols.iter().map(|(name, _)| name.as_str()).find(|name| spoken_by_all(name));
            if let Some(name) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = *votes.values().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// The leader there was, if it joined; else another who did.
    fn elect_leader(&self) -> Option<String> {
        let joined = |id: &String| self.members.get(id).is_some_and(|member| member.join.is_some());
        self.leader.clone().filter(joined).or_else(|| {
            self.members.iter().find(|(_, member)| member.join.is_some()).map(|(id, _)| id.clone())
        })
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }
}

/// Generations start again at 1 after the largest number there is: -1 and 0 mean "none".
fn next_generation(generation: i32) -> i32 {
    generation.checked_add(1).unwrap_or(1)
}
