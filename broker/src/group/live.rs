//! The groups of a shard that have more than committed offsets, with who waits for them and when time moves them on.
//!
//! Invariants: a group's next deadline is noted, if it has one; what it holds is counted; a group of which nothing is left
//! to remember is forgotten. Whoever has these groups has them locked.

use super::memory::{Held, Memory};
use super::state::{Group, Joined, Synced, Ticket};
use super::{GroupError, GroupId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

#[derive(Debug, Default)]
pub(super) struct LiveGroups {
    pub(super) groups: HashMap<GroupId, LiveGroup>,
    /// The next deadline of each group that has one.
    pub(super) deadlines: BTreeSet<(i64, GroupId)>,
    pub(super) tickets: u64,
    pub(super) stopped: bool,
    /// Whether a thread panicked over them: then they are not known any more.
    pub(super) is_lost: bool,
}

#[derive(Debug)]
pub(super) struct LiveGroup {
    pub(super) group: Group,
    pub(super) held: Held,
    pub(super) deadline_ms: Option<i64>,
    pub(super) joins: HashMap<Ticket, oneshot::Sender<Result<Joined, GroupError>>>,
    pub(super) syncs: HashMap<Ticket, oneshot::Sender<Result<Synced, GroupError>>>,
}

impl LiveGroup {
    pub(super) fn new(group: Group, memory: Arc<Memory>) -> Self {
        let held = Held::new(memory);
        Self { group, held, deadline_ms: None, joins: HashMap::new(), syncs: HashMap::new() }
    }

    /// Counts what it holds now.
    pub(super) fn count(&mut self) {
        self.held.set(self.group.bytes());
    }
}

impl LiveGroups {
    /// Forgets every group. Whoever waits learns that there will be no answer.
    pub(super) fn lose(&mut self) {
        *self = Self { is_lost: true, ..Self::default() };
    }

    /// Notes a group's next deadline; whether it is now the earliest of all. A group of which nothing is left to
    /// remember is forgotten.
    pub(super) fn schedule(&mut self, id: &GroupId) -> bool {
        let Some(live) = self.groups.get_mut(id) else { return false };
        if live.group.is_blank() {
            self.forget(id);
            return false;
        }
        let next = live.group.next_deadline();
        if next == live.deadline_ms {
            return false;
        }
        if let Some(deadline_ms) = live.deadline_ms {
            self.deadlines.remove(&(deadline_ms, id.clone()));
        }
        live.deadline_ms = next;
        let Some(next) = next else { return false };
        self.deadlines.insert((next, id.clone()));
        self.deadlines.first().is_some_and(|(first, group)| *first == next && group == id)
    }

    pub(super) fn forget(&mut self, id: &str) {
        let Some(live) = self.groups.remove(id) else { return };
        if let Some(deadline_ms) = live.deadline_ms {
            self.deadlines.remove(&(deadline_ms, GroupId::from(id)));
        }
    }
}
