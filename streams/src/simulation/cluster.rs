//! The broker's side: logs, committed offsets, and the group with its generations.
//!
//! A rebalance goes as in Kafka: while it is prepared, commits of the generation before are still taken; once all
//! members have joined or been dropped, there is a new generation, of which a member knows when it has heard of it.
//! Tasks that move are first taken from their owner, and given out by the rebalance that follows.

use super::Random;
use crate::{instance::Place, task::TaskId, test_driver::topics::Topics};
use std::collections::{BTreeMap, BTreeSet};

/// Silence after which a member is dropped.
pub(super) const SESSION_MS: i64 = 8000;

#[derive(Debug)]
struct Member {
    heard: i64,
    /// Whether it has heard of the present generation.
    knows: bool,
}

/// What a heartbeat brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heartbeat {
    /// The group does not know the member.
    Unknown,
    /// Nothing is new.
    Fine,
    /// A generation, with the tasks to give up and those that are new.
    Generation { generation: i32, revoked: Vec<TaskId>, assigned: Vec<TaskId> },
}

/// Everything that outlives processes.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) topics: Topics,
    pub(super) committed: BTreeMap<Place, (i64, String)>,
    generation: i32,
    members: BTreeMap<u64, Member>,
    /// Who has joined the next generation, while it is prepared.
    joined: Option<BTreeSet<u64>>,
    owners: BTreeMap<TaskId, Option<u64>>,
    target: BTreeMap<TaskId, u64>,
    /// Gives the tasks out by chance in the next generation.
    shuffle: Option<Random>,
}

impl Cluster {
    pub(super) fn new(tasks: impl Iterator<Item = TaskId>) -> Cluster {
        Cluster { owners: tasks.map(|task| (task, None)).collect(), ..Cluster::default() }
    }

    pub(super) fn join(&mut self, member: u64, now: i64) {
        self.members.insert(member, Member { heard: now, knows: false });
        self.prepare();
    }

    pub(super) fn leave(&mut self, member: u64) {
        if self.members.remove(&member).is_some() {
            self.owners.values_mut().filter(|owner| **owner == Some(member)).for_each(|owner| *owner = None);
            self.prepare();
        }
    }

    /// Drops members that have been silent too long.
    pub(super) fn expire(&mut self, now: i64) {
        let silent = self.members.iter().filter(|(_, member)| now - member.heard > SESSION_MS);
        silent
            .map(|(member, _)| *member)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|member| self.leave(member));
    }

    /// A broker that has begun again gives everybody a whole session.
    pub(super) fn begin_again(&mut self, now: i64) {
        self.members.values_mut().for_each(|member| member.heard = now);
    }

    /// Tasks that a member has given up.
    pub(super) fn released(&mut self, member: u64, tasks: &[TaskId]) {
        for task in tasks {
            if let Some(owner) = self.owners.get_mut(task).filter(|owner| **owner == Some(member)) {
                *owner = None;
            }
        }
        self.prepare();
    }

    /// Gives the tasks out anew, to whomever chance says.
    pub(super) fn shuffle(&mut self, random: Random) {
        self.shuffle = Some(random);
        self.prepare();
    }

    fn prepare(&mut self) {
        self.joined.get_or_insert_default();
        self.complete_if_all_have_joined();
    }

    fn complete_if_all_have_joined(&mut self) {
        let Some(joined) = &mut self.joined else { return };
        joined.retain(|member| self.members.contains_key(member));
        if joined.len() < self.members.len() || self.members.is_empty() {
            return;
        }
        self.joined = None;
        self.generation += 1;
        self.members.values_mut().for_each(|member| member.knows = false);
        let most = self.owners.len().div_ceil(self.members.len());
        let mut given: BTreeMap<u64, usize> = self.members.keys().map(|member| (*member, 0)).collect();
        self.target.clear();
        if let Some(mut random) = self.shuffle.take() {
            let members: Vec<u64> = given.into_keys().collect();
            let chosen = self.owners.keys().map(|task| (*task, members[random.index(members.len())]));
            self.target = chosen.collect();
            return;
        }
        for (task, owner) in &self.owners {
            if let Some((owner, count)) = owner.and_then(|owner| Some((owner, given.get_mut(&owner)?)))
                && *count < most
            {
                *count += 1;
                self.target.insert(*task, owner);
            }
        }
        for task in self.owners.keys() {
            if !self.target.contains_key(task) {
                let (member, count) = given.iter_mut().min_by_key(|(_, count)| **count).unwrap();
                *count += 1;
                self.target.insert(*task, *member);
            }
        }
    }

    /// A member is heard of; it joins a rebalance only if it is through with the change before.
    pub(super) fn heartbeat(&mut self, id: u64, now: i64, settled: bool) -> Heartbeat {
        let Some(member) = self.members.get_mut(&id) else { return Heartbeat::Unknown };
        member.heard = now;
        if let Some(joined) = &mut self.joined {
            if settled {
                joined.insert(id);
                self.complete_if_all_have_joined();
            }
            return Heartbeat::Fine;
        }
        if member.knows || !settled {
            return Heartbeat::Fine;
        }
        member.knows = true;
        let (mut revoked, mut assigned) = (Vec::new(), Vec::new());
        for (task, owner) in &mut self.owners {
            match (self.target.get(task) == Some(&id), *owner) {
                (true, None) => {
                    *owner = Some(id);
                    assigned.push(*task);
                }
                (false, Some(owner)) if owner == id => revoked.push(*task),
                _ => {}
            }
        }
        Heartbeat::Generation { generation: self.generation, revoked, assigned }
    }

    /// Whether offsets of a member in this generation are taken. Of somebody who names none they are while there are no
    /// members.
    pub(super) fn takes(&self, member: u64, generation: Option<i32>) -> bool {
        match generation {
            Some(generation) => self.members.contains_key(&member) && generation == self.generation,
            None => self.members.is_empty(),
        }
    }

    /// Whether a task is this member's.
    pub(super) fn owns(&self, member: u64, task: TaskId) -> bool {
        self.owners.get(&task) == Some(&Some(member))
    }

    /// Whether these are the members.
    pub(super) fn consists_of(&self, members: impl Iterator<Item = u64>) -> bool {
        self.members.keys().copied().eq(members.collect::<BTreeSet<u64>>())
    }

    /// Whether nothing is going to move.
    pub(super) fn is_stable(&self) -> bool {
        let placed = |(task, owner): (&TaskId, &Option<u64>)| {
            owner.is_some() && self.target.get(task) == owner.as_ref()
        };
        self.joined.is_none()
            && self.members.values().all(|member| member.knows)
            && self.owners.iter().all(placed)
    }
}
