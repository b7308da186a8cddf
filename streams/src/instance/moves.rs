//! Tasks that come and go with the partitions of the group, and the end of them all.

use super::{Action, Found, Instance, Place, Standing};
use crate::task::{Life, Start, Task, TaskId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The change of the assignment that is being dealt with. There is one at a time.
#[derive(Debug, Default)]
enum Change {
    #[default]
    None,
    /// Where the inputs of these begin has been asked.
    Adopting { lookup: u64, tasks: BTreeSet<TaskId>, uncommitted: usize },
    /// These are committed before they go, for so long.
    Leaving { places: Vec<Place>, tasks: BTreeSet<TaskId>, until: i64 },
    /// All tasks are given up, so many of them uncommitted; what was sent for them may arrive until then.
    Arriving { uncommitted: usize, until: i64 },
}

/// What is known of the assignment.
#[derive(Debug, Default)]
pub(super) struct Moves {
    assigned: BTreeSet<Place>,
    change: Change,
    lookups: u64,
    lives: u64,
    /// Until when a close tries to commit.
    closing: Option<i64>,
    closed: bool,
}

impl Moves {
    pub(super) fn close(&mut self, now: i64, patience: i64) {
        self.closing.get_or_insert(now.saturating_add(patience));
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether a task is on its way out, and processes nothing more.
    pub(super) fn is_leaving(&self, id: TaskId) -> bool {
        matches!(&self.change, Change::Leaving { tasks, .. } if tasks.contains(&id))
    }
}

impl Instance {
    pub(super) fn assigned(&mut self, places: Vec<Place>, out: &mut Vec<Action>) {
        self.moves.assigned.extend(places);
        self.adopt(0, out);
    }

    /// Asks where the inputs of tasks begin whose partitions are all here.
    fn adopt(&mut self, uncommitted: usize, out: &mut Vec<Action>) {
        let setup = &self.setup;
        let ids: BTreeSet<TaskId> =
            self.moves.assigned.iter().filter_map(|place| setup.task_of(*place)).collect();
        let whole = |id: &TaskId| setup.inputs(*id).iter().all(|place| self.moves.assigned.contains(place));
        let new = ids.into_iter().filter(|id| !self.tasks.contains_key(id)).filter(whole);
        let tasks: BTreeSet<TaskId> = new.collect();
        if tasks.is_empty() || self.moves.is_closing() {
            out.push(Action::Settled { uncommitted });
            return;
        }
        self.moves.lookups += 1;
        let lookup = self.moves.lookups;
        let wanted = tasks.iter().copied().collect();
        self.moves.change = Change::Adopting { lookup, tasks, uncommitted };
        out.push(Action::LookUp { lookup, tasks: wanted });
    }

    /// Makes the tasks; they hold others from now on and run once they are restored.
    pub(super) fn found(&mut self, of: u64, found: Found, out: &mut Vec<Action>) {
        let (tasks, uncommitted) = match &mut self.moves.change {
            Change::Adopting { lookup, tasks, uncommitted } if *lookup == of => {
                (std::mem::take(tasks), *uncommitted)
            }
            _ => return,
        };
        self.moves.change = Change::None;
        let tasks = if self.moves.is_closing() { BTreeSet::new() } else { tasks };
        let Found { starts, changelogs, kept } = found;
        let mut kept: BTreeMap<TaskId, _> = kept.into_iter().collect();
        for id in tasks {
            let inputs = self.setup.inputs(id);
            let of_task = |start: &&Start| inputs.contains(&(start.position.topic, start.position.partition));
            let starts: Vec<Start> = starts.iter().filter(of_task).cloned().collect();
            self.moves.lives += 1;
            let life = Life { task: id, number: self.moves.lives };
            let shared = (&self.setup.globals, Arc::clone(&self.setup.progress));
            let task = Task::new(
                &self.setup.topology,
                &self.setup.plan,
                life,
                self.setup.config.task,
                shared,
                (&starts, &changelogs, kept.remove(&id)),
            );
            out.extend(starts.iter().map(|start| Action::Fetch(start.position)));
            let wishes = task.restore_wishes();
            if !wishes.is_empty() {
                out.push(Action::Restore { life, wishes });
            }
            self.tasks.insert(id, task);
            self.ready.insert(id);
            self.regulate(id, out);
        }
        out.push(Action::Settled { uncommitted });
    }

    /// Lets tasks go once they are committed.
    pub(super) fn revoked(&mut self, places: Vec<Place>) {
        let tasks = self.tasks_of(&places);
        let until = self.moment.ms.saturating_add(self.fence.lease_ms());
        self.commits.demand_for(&tasks);
        self.moves.change = Change::Leaving { places, tasks, until };
    }

    /// Forgets tasks that somebody else may have, with all that was to be written for them.
    pub(super) fn lost(&mut self, out: &mut Vec<Action>) {
        self.moves.assigned.clear();
        self.discard(out);
        self.moves.change = Change::None;
        out.push(Action::Settled { uncommitted: 0 });
    }

    /// Forgets all tasks, and whatever was handed over for any of them.
    fn discard(&mut self, out: &mut Vec<Action>) {
        self.give_up(&self.tasks.keys().copied().collect());
        self.paused.retain(|place| self.moves.assigned.contains(place));
        self.commits.forget_the_one_under_way();
        self.unsent = 0;
        out.push(Action::Discard);
    }

    fn tasks_of(&self, places: &[Place]) -> BTreeSet<TaskId> {
        let ids = places.iter().filter_map(|place| self.setup.task_of(*place));
        ids.filter(|id| self.tasks.contains_key(id)).collect()
    }

    fn give_up(&mut self, ids: &BTreeSet<TaskId>) {
        for id in ids {
            if let Some(task) = self.tasks.remove(id) {
                self.gone.add(&task.counters());
                self.to_restore -= task.to_restore();
            }
            self.ready.remove(id);
            self.held.retain(|(.., held)| held != id);
            self.commits.forget(*id);
        }
    }

    /// Lets tasks go that are committed; whoever takes them over in this process finds their stores. What was left by who
    /// may have been away for longer is not kept: changelogs keep tombstones for a time only.
    fn part_with(&mut self, ids: &BTreeSet<TaskId>, out: &mut Vec<Action>) {
        let is_owner = self.standing == Standing::Owner;
        for (id, task) in self.tasks.iter_mut().filter(|(id, _)| is_owner && ids.contains(id)) {
            out.push(Action::Shelve { task: *id, state: task.leave_state() });
        }
        self.give_up(ids);
    }

    /// Ends a revocation or a close whose time has come.
    pub(super) fn end_moves(&mut self, out: &mut Vec<Action>) {
        if let Change::Leaving { tasks, until, .. } = &self.moves.change {
            let open = self.commits.open(tasks.iter().copied());
            if open == 0 || self.standing == Standing::Lost || self.moment.ms >= *until {
                self.leave(open, out);
            }
        }
        if let Change::Arriving { uncommitted, until } = self.moves.change
            && self.moment.ms >= until
        {
            self.moves.change = Change::None;
            self.adopt(uncommitted, out);
        }
        let arriving = matches!(self.moves.change, Change::Arriving { .. });
        if let Some(until) = self.moves.closing.filter(|_| !self.moves.closed && !arriving) {
            let open = self.commits.open(self.tasks.keys().copied());
            if open == 0 || self.moment.ms >= until {
                self.moves.closed = true;
                if open == 0 {
                    self.part_with(&self.tasks.keys().copied().collect(), out);
                }
                out.push(Action::Closed { uncommitted: open });
            }
        }
    }

    /// Lets revoked tasks go, of which so many are not committed.
    fn leave(&mut self, open: usize, out: &mut Vec<Action>) {
        let Change::Leaving { places, tasks, .. } = std::mem::take(&mut self.moves.change) else { return };
        for place in &places {
            self.moves.assigned.remove(place);
            self.paused.remove(place);
        }
        if open == 0 {
            self.part_with(&tasks, out);
            out.push(Action::Settled { uncommitted: 0 });
        } else {
            // What was handed over for them must not be written once the group is heard of again, and cannot be told
            // from that of the others; so these go back to what is committed as well. What has been sent arrives first.
            self.discard(out);
            let until = self.moment.ms.saturating_add(self.fence.margin_ms());
            self.moves.change = Change::Arriving { uncommitted: open, until };
        }
    }
}
