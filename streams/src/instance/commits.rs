//! When tasks are committed, and what the answer means.
//!
//! One commit is under way at a time; tasks go on meanwhile. It has the outputs and changed rows of its tasks and the
//! offsets behind the records that they follow from, in this order, which is what at least once means.
//!
//! A commit that is refused is made again in the group's next generation, as long as the tasks are here: the lease
//! says that nobody else has had them in between, and their rows may be in the changelog already, so that going back
//! to the committed offsets would count records twice. Tasks that are lost go back to what is committed, in whoever
//! gets them.

use super::{Action, Appended, Failure, Instance, Outcome, Pacing, Standing};
use crate::{
    task::{CommittedOffset, Life, Position, TaskId},
    topology::TopicKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// How long nothing has been processed when an instance is idle, and how long it waits before a commit is tried again.
const IDLE_MS: i64 = 20;

/// The commit that is under way.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    generation: Option<i32>,
    tasks: Vec<(Life, Vec<CommittedOffset>)>,
}

/// What is to be committed.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Tasks with something to commit, with the records that they have processed since the last one.
    uncommitted: BTreeMap<TaskId, usize>,
    /// Those of them that have processed as many as they may, or so much that others wait to hear of it.
    full: BTreeSet<TaskId>,
    /// Tasks for which something was handed over since their last commit, if only that they have come on.
    handed_over: BTreeSet<TaskId>,
    under_way: Option<UnderWay>,
    /// Tasks that are to be committed without waiting for their time.
    demanded: BTreeSet<TaskId>,
    all_demanded: bool,
    numbers: u64,
    last: i64,
    /// When something was processed last.
    last_work: i64,
    /// Nothing is tried before this time.
    not_before: i64,
    last_purge: i64,
}

impl Commits {
    /// A task has processed so many records, or passed some that need not be processed.
    pub(super) fn processed(&mut self, now: i64, id: TaskId, records: usize, pacing: Pacing) {
        self.last_work = now;
        let uncommitted = self.uncommitted.entry(id).or_default();
        *uncommitted += records;
        if matches!(pacing, Pacing::Records(most) if *uncommitted >= most) {
            self.full.insert(id);
        }
    }

    /// A task has nothing to commit any more.
    fn clear(&mut self, id: TaskId) {
        self.full.remove(&id);
        self.uncommitted.remove(&id);
    }

    /// A commit comes behind all that there is of a task.
    fn done_with(&mut self, id: TaskId) {
        self.clear(id);
        self.handed_over.remove(&id);
    }

    /// How many records a task may process before it is committed.
    pub(super) fn room(&self, id: TaskId, pacing: Pacing) -> usize {
        match pacing {
            Pacing::Interval { .. } => usize::MAX,
            Pacing::Records(most) => most - self.uncommitted.get(&id).copied().unwrap_or(0).min(most),
        }
    }

    pub(super) fn demand(&mut self) {
        self.all_demanded = true;
    }

    pub(super) fn demand_for(&mut self, tasks: &BTreeSet<TaskId>) {
        self.demanded.extend(tasks);
        self.await_handed_over(|id| tasks.contains(&id));
    }

    /// Something was handed over for a task.
    pub(super) fn handed_over(&mut self, id: TaskId) {
        self.handed_over.insert(id);
    }

    /// What was handed over for tasks that are to go has to be out before, so it counts as uncommitted.
    pub(super) fn await_handed_over(&mut self, go: impl Fn(TaskId) -> bool) {
        for id in self.handed_over.iter().filter(|id| go(**id)) {
            self.uncommitted.entry(*id).or_default();
        }
    }

    /// A task should be committed before its time.
    pub(super) fn demand_early(&mut self, id: TaskId) {
        if self.uncommitted.contains_key(&id) {
            self.full.insert(id);
        }
    }

    pub(super) fn forget(&mut self, id: TaskId) {
        self.clear(id);
        self.handed_over.remove(&id);
        self.demanded.remove(&id);
    }

    pub(super) fn forget_the_one_under_way(&mut self) {
        self.under_way = None;
    }

    /// How many of these tasks have something that is not committed.
    pub(super) fn open(&self, ids: impl Iterator<Item = TaskId>) -> usize {
        let under_way: BTreeSet<TaskId> =
            self.under_way.iter().flat_map(|commit| commit.tasks.iter().map(|(life, _)| life.task)).collect();
        ids.filter(|id| self.uncommitted.contains_key(id) || under_way.contains(id)).count()
    }

    /// The tasks whose time has come.
    fn due(&self, now: i64, pacing: Pacing, closing: bool) -> Vec<TaskId> {
        if self.under_way.is_some() || now < self.not_before {
            return Vec::new();
        }
        let all = match pacing {
            // Whoever only waits for the next fetch is not idle: a commit writes every row that has changed.
            Pacing::Interval { ms } => now - self.last >= ms || now - self.last_work >= IDLE_MS,
            Pacing::Records(_) => false,
        };
        if all || closing || self.all_demanded {
            return self.uncommitted.keys().copied().collect();
        }
        let demanded = self.demanded.iter().filter(|id| self.uncommitted.contains_key(id));
        let due: BTreeSet<TaskId> = demanded.chain(&self.full).copied().collect();
        due.into_iter().collect()
    }
}

impl Instance {
    /// Whatever is due follows from what has happened, whichever event it was.
    pub(super) fn go_on(&mut self, out: &mut Vec<Action>) -> Result<(), Failure> {
        let due = self.commits.due(self.moment.ms, self.setup.config.pacing, self.moves.is_closing());
        if !due.is_empty() && self.standing == Standing::Owner {
            self.commit(&due, out)?;
        }
        self.commits.all_demanded &= !self.commits.uncommitted.is_empty();
        self.end_moves(out);
        Ok(())
    }

    fn commit(&mut self, ids: &[TaskId], out: &mut Vec<Action>) -> Result<(), Failure> {
        let (mut tasks, mut rows, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            self.append(*id, out);
            let Some(task) = self.tasks.get_mut(id) else {
                self.commits.clear(*id);
                continue;
            };
            if task.is_restoring() {
                self.commits.done_with(*id);
                tasks.push((task.life(), Vec::new()));
                continue;
            }
            let Some(commit) = task.commit().map_err(|source| Failure { task: *id, source })? else {
                self.commits.not_before = self.moment.ms.saturating_add(IDLE_MS);
                continue;
            };
            self.commits.done_with(*id);
            let (life, outputs) = (task.life(), commit.changelog);
            if !outputs.is_empty() {
                self.unsent += outputs.size();
                rows.push(Appended { life, outputs });
            }
            tasks.push((life, commit.offsets.clone()));
            offsets.extend(commit.offsets);
        }
        if tasks.is_empty() {
            return Ok(());
        }
        self.commits.last = self.moment.ms;
        self.commits.numbers += 1;
        let number = self.commits.numbers;
        let generation = self.moment.group.and_then(|sight| sight.generation);
        self.commits.under_way = Some(UnderWay { number, generation, tasks });
        out.push(Action::Commit { commit: number, rows, offsets });
        Ok(())
    }

    pub(super) fn commit_ended(
        &mut self,
        number: u64,
        outcome: Outcome,
        logged: &[Position],
        out: &mut Vec<Action>,
    ) {
        let Some(commit) = self.commits.under_way.take_if(|commit| commit.number == number) else { return };
        match outcome {
            Outcome::Done => {}
            Outcome::Refused => {
                self.fence.refuse(commit.generation);
                self.standing = self.fence.standing(self.moment.group);
            }
            Outcome::Again => {}
        }
        let mut consumed = Vec::new();
        for (life, offsets) in commit.tasks {
            let Some(task) = self.alive(life) else { continue };
            // Rows that were appended are in the changelog whatever became of the offsets.
            task.logged(logged);
            if outcome == Outcome::Done {
                task.committed(&offsets);
                consumed.extend(offsets.into_iter().map(|offset| offset.position));
                self.commits.demanded.remove(&life.task);
            } else {
                self.commits.processed(self.moment.ms, life.task, 0, self.setup.config.pacing);
                self.commits.not_before = self.moment.ms.saturating_add(IDLE_MS);
            }
            if let Pacing::Records(_) = self.setup.config.pacing {
                // It may have waited for this.
                self.ready.insert(life.task);
            }
        }
        self.purge(consumed, out);
    }

    fn purge(&mut self, consumed: Vec<Position>, out: &mut Vec<Action>) {
        let Some(interval) = self.setup.config.purge_ms else { return };
        if self.moment.ms - self.commits.last_purge < interval {
            return;
        }
        let topology = &self.setup.topology;
        let repartition = |position: &Position| {
            matches!(topology.topic(position.topic).kind, TopicKind::Repartition { .. })
                && position.offset > 0
        };
        let below: Vec<Position> = consumed.into_iter().filter(repartition).collect();
        if !below.is_empty() {
            self.commits.last_purge = self.moment.ms;
            out.push(Action::Purge(below));
        }
    }
}
