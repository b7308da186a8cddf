//! One member of an application's group: a state machine without I/O.
//!
//! Everything that happens to it goes in by [`Instance::on`], with the time; everything it wants comes out as
//! [`Action`]s. It owns its tasks: which of them is next (here), how they come and go (`moves`) and what they leave to their
//! process (`shelf`), when they are committed and what follows from the answer (`commits`), in which order what they write
//! goes out (`outbox`), whether they may be written for at all (`fence`), how far they may be ahead of their readers (`leads`);
//! `pace` says how records and questions take turns. It waits for nothing: whatever takes time is asked
//! for, and its answer is an event. The runtime moves bytes between this and a cluster, the test driver and the simulation
//! between this and a log in memory; none of them decides anything.

mod commits;
mod event;
mod fence;
mod leads;
mod moves;
mod outbox;
mod pace;
mod shelf;

pub(crate) use event::{Action, Ask, Consumed, Event, Failure, Found, Moment, Outcome, Place};
pub(crate) use fence::{Fence, Sight, Standing};
pub(crate) use outbox::{Appended, Done, Outbox, Step};
pub(crate) use pace::Pace;
pub(crate) use shelf::Shelf;

use crate::{
    processor::{Counters, Frontier},
    task::{InputBatch, Life, Position, ProgressTable, Run, Task, TaskConfig, TaskId},
    topology::{Changelog, Globals, Plan, TopicId, TopicKind, Topology},
};
use commits::Commits;
use leads::Leads;
use moves::Moves;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

/// Records that a task processes before another has its turn.
const TURN_RECORDS: usize = 1024;
/// The same in time, for functions that are slow.
const TURN_MS: i64 = 20;
/// Most records between two looks at the clock: what a function that has suddenly become slow can hold up.
const STINT_RECORDS_MAX: usize = 64;
/// How long the records between two looks at the clock should take.
const STINT_MS: i64 = 2;
/// Bytes handed over to be appended beyond which no records are processed.
const UNSENT_BYTES_MAX: usize = 4 << 20;

/// Records of changelogs beyond which no more should be told.
const RESTORE_RECORDS_MAX: usize = 50_000;

/// The running tasks of an instance.
pub(crate) type Tasks = BTreeMap<TaskId, Task>;

/// When records that were processed are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pacing {
    /// All tasks together after so many milliseconds, or once there is nothing to do.
    Interval { ms: i64 },
    /// Each task after so many records.
    Records(usize),
}

/// How instances behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstanceConfig {
    pub(crate) task: TaskConfig,
    pub(crate) pacing: Pacing,
    /// Time between two purges of consumed repartition records; `None` for never.
    pub(crate) purge_ms: Option<i64>,
}

/// What an instance runs.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) topology: Topology,
    pub(crate) plan: Plan,
    pub(crate) globals: Globals,
    pub(crate) progress: Arc<ProgressTable>,
    pub(crate) config: InstanceConfig,
}

impl Setup {
    /// The input partitions of a task.
    pub(crate) fn inputs(&self, id: TaskId) -> Vec<Place> {
        let plan = self.plan.sub_topologies.get(id.sub_topology);
        let inputs = plan.into_iter().flat_map(|plan| plan.inputs.iter().copied());
        inputs
            .filter(|topic| self.partitions(*topic) > id.partition)
            .map(|topic| (topic, id.partition))
            .collect()
    }

    /// The partitions that the stores of a task are restored from.
    pub(crate) fn changelogs(&self, id: TaskId) -> Vec<Place> {
        let topics = self.topology.changelogs(id.sub_topology);
        topics.map(|(Changelog::Own(topic) | Changelog::Source(topic))| (topic, id.partition)).collect()
    }

    /// Whether an input may begin elsewhere than at the beginning of its topic. A table's topic is its changelog: without its
    /// beginning the table would miss rows, until a restart restores them. Repartition topics are read whole as well.
    pub(crate) fn begins_where_told(&self, topic: TopicId) -> bool {
        self.topology.topic(topic).kind == TopicKind::External && !self.topology.is_table(topic)
    }

    /// The task that reads a partition.
    pub(crate) fn task_of(&self, (topic, partition): Place) -> Option<TaskId> {
        let reads = |plan: &crate::topology::SubTopologyPlan| plan.inputs.contains(&topic);
        let sub_topology = self.plan.sub_topologies.iter().position(reads)?;
        Some(TaskId { sub_topology, partition })
    }

    /// Partitions of a topic.
    pub(crate) fn partitions(&self, topic: TopicId) -> i32 {
        self.plan.partition_counts.get(topic.0 as usize).copied().unwrap_or(0)
    }
}

/// How many records are processed between two looks at the clock.
#[derive(Debug)]
struct Stint {
    records: usize,
    /// When the last one began, until its end is seen.
    began: Option<i64>,
}

impl Stint {
    /// The clock is looked at: the longer the last one took, the shorter is the next.
    fn measure(&mut self, now: i64) {
        match self.began.take().map(|began| now - began) {
            Some(took) if took < STINT_MS => self.records = (self.records * 2).min(STINT_RECORDS_MAX),
            Some(took) if took > STINT_MS => self.records = (self.records / 4).max(1),
            _ => {}
        }
    }
}

/// One member of an application's group.
pub(crate) struct Instance {
    setup: Arc<Setup>,
    fence: Arc<Fence>,
    standing: Standing,
    moment: Moment,
    tasks: Tasks,
    moves: Moves,
    commits: Commits,
    leads: Leads,
    /// Tasks that may have something to do.
    ready: BTreeSet<TaskId>,
    /// Tasks that progress control holds: sub-topology, how far others must have come, and the task. One that has been
    /// let go for another reason may still stand here.
    held: BTreeSet<(usize, i64, TaskId)>,
    /// As of this version of it.
    seen_progress: u64,
    /// Whose turn it is, and how many records are left of it.
    turn: Option<(TaskId, usize)>,
    /// When it began.
    turn_began: i64,
    stint: Stint,
    paused: BTreeSet<Place>,
    unsent: usize,
    /// Records of changelogs that were told and are not in their stores yet.
    to_restore: usize,
    /// Counters of tasks that have gone.
    gone: Counters,
}

impl Instance {
    /// An instance without tasks.
    pub(crate) fn new(setup: Arc<Setup>, fence: Arc<Fence>) -> Instance {
        Instance {
            setup,
            fence,
            standing: Standing::Lost,
            moment: Moment { ms: 0, group: None },
            tasks: Tasks::new(),
            moves: Moves::default(),
            commits: Commits::default(),
            leads: Leads::default(),
            ready: BTreeSet::new(),
            held: BTreeSet::new(),
            seen_progress: 0,
            turn: None,
            turn_began: 0,
            stint: Stint { records: 1, began: None },
            paused: BTreeSet::new(),
            unsent: 0,
            to_restore: 0,
            gone: Counters::default(),
        }
    }

    /// Takes note of what has happened and says what is wanted next. After a failure, drop it.
    pub(crate) fn on(&mut self, moment: Moment, event: Event, out: &mut Vec<Action>) -> Result<(), Failure> {
        self.moment = Moment { ms: self.moment.ms.max(moment.ms), ..moment };
        self.standing = self.fence.standing(moment.group);
        self.stint.measure(self.moment.ms);
        match event {
            Event::Tick => self.tick(out),
            Event::Work => self.work(out)?,
            Event::Rest => self.append_of_turn(out),
            Event::Assigned(places) => self.assigned(places, out),
            Event::Revoked(places) => self.revoked(places),
            Event::Lost => self.lost(out),
            Event::Found { lookup, found } => self.found(lookup, found, out),
            Event::Fetched { place, batch } => self.fetched(place, batch, out),
            Event::Passed { place, position, end } => self.passed(place, position, end),
            Event::OutOfRange { life, place, offset, bounds } => {
                self.out_of_range((life, place), offset, &bounds, out);
            }
            Event::Restored { life, store, batch } => self.restored(life, store, batch),
            Event::RestoreEnded { life, store } => self.restore_ended(life, store),
            Event::Sent { bytes } => self.unsent = self.unsent.saturating_sub(bytes),
            Event::Consumed(told) => self.consumed(&told),
            Event::CommitEnded { commit, outcome, logged } => {
                self.commit_ended(commit, outcome, &logged, out);
            }
            Event::Asked(ask) if self.standing == Standing::Owner => ask(&self.tasks),
            // Somebody else may have them, and be further on.
            Event::Asked(ask) => ask(&Tasks::new()),
            Event::Commit => self.commits.demand(),
            Event::Close => {
                self.commits.await_handed_over(|_| true);
                self.moves.close(self.moment.ms, self.fence.lease_ms());
            }
        }
        self.release_held();
        self.go_on(out)
    }

    /// The running tasks.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What all tasks have counted, those that have gone too.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = self.gone;
        self.tasks.values().for_each(|task| sum.add(&task.counters()));
        sum
    }

    /// Every input partition of the tasks.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.tasks.iter().flat_map(|(id, task)| task.inputs().map(|topic| (topic, id.partition)))
    }

    /// Whether [`Event::Work`] would do something.
    pub(crate) fn has_work(&self) -> bool {
        self.may_work() && !self.ready.is_empty()
    }

    /// Whether more of changelogs should be told.
    pub(crate) fn wants_restored(&self) -> bool {
        self.to_restore < RESTORE_RECORDS_MAX
    }

    /// Whether records wait for the progress of others.
    pub(crate) fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether more of an input is wanted.
    pub(crate) fn is_paused(&self, place: Place) -> bool {
        self.paused.contains(&place)
    }

    fn alive(&mut self, life: Life) -> Option<&mut Task> {
        self.tasks.get_mut(&life.task).filter(|task| task.life() == life)
    }

    fn may_work(&self) -> bool {
        self.standing == Standing::Owner && !self.moves.is_closing() && self.unsent < UNSENT_BYTES_MAX
    }

    fn tick(&mut self, out: &mut Vec<Action>) {
        for (id, task) in &mut self.tasks {
            if task.tick(self.moment.ms) {
                self.ready.insert(*id);
            }
        }
        if self.may_work() {
            // Who reads what they write is told how far they have come, records or none.
            let ids: Vec<TaskId> =
                self.tasks.keys().copied().filter(|id| !self.moves.is_leaving(*id)).collect();
            ids.into_iter().for_each(|id| self.append(id, out));
        }
        self.ask_readers(out);
    }

    /// Progress of any task may let those go that were held.
    fn release_held(&mut self) {
        let version = self.setup.progress.version();
        if version != self.seen_progress {
            self.seen_progress = version;
            self.release_reached();
        }
    }

    /// Lets those go again that wait for no more than what is reached.
    fn release_reached(&mut self) {
        let mut next = self.held.first().map(|(part, ..)| *part);
        while let Some(part) = next {
            let inputs = self.setup.topology.sub_topology(part).inputs.as_slice();
            let reached = match self.setup.progress.reach(inputs) {
                Frontier::At(time) => time,
                Frontier::Idle => i64::MAX,
            };
            while let Some((_, below, id)) =
                self.held.range((part, i64::MIN, TaskId::FIRST)..).next().copied()
                && id.sub_topology == part
                && below <= reached
            {
                self.held.remove(&(part, below, id));
                self.ready.insert(id);
            }
            next = self.held.range((part + 1, i64::MIN, TaskId::FIRST)..).next().map(|(part, ..)| *part);
        }
    }

    /// Whether the group may hear that this one goes, and give its tasks to others at once: not while something that was sent
    /// for them may still arrive, as after an end that is not clean.
    pub(crate) fn may_leave(&self, is_clean: bool) -> bool {
        is_clean || self.tasks.is_empty()
    }

    /// Lets the task whose turn it is process a stint.
    fn work(&mut self, out: &mut Vec<Action>) -> Result<(), Failure> {
        self.release_held();
        if !self.may_work() {
            return Ok(());
        }
        let is_over = self.moment.ms - self.turn_began >= TURN_MS;
        let turn = self.turn.filter(|(id, left)| !is_over && *left > 0 && self.ready.contains(id));
        let next = || {
            let after = self.turn.and_then(|(id, _)| {
                self.ready.range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded)).next()
            });
            after.or_else(|| self.ready.first()).map(|id| (*id, TURN_RECORDS))
        };
        if turn.is_none() {
            self.turn_began = self.moment.ms;
        }
        let Some((id, left)) = turn.or_else(next) else { return Ok(()) };
        if self.turn.is_some_and(|(before, _)| before != id) {
            self.append_of_turn(out);
        }
        let records = self.stint.records.min(left).min(self.commits.room(id, self.setup.config.pacing));
        self.stint.began = Some(self.moment.ms);
        let Some(task) = self.tasks.get_mut(&id).filter(|_| records > 0 && !self.moves.is_leaving(id)) else {
            self.ready.remove(&id);
            return Ok(());
        };
        let restoring = task.is_restoring();
        let room = task.room();
        let ran =
            task.run(self.moment.ms, records.min(room)).map_err(|source| Failure { task: id, source })?;
        if restoring {
            self.to_restore -= ran.records;
        }
        // Positions may have been passed while the task was restoring.
        if ran.records > 0 && !restoring || restoring && task.has_uncommitted() {
            let records = if restoring { 0 } else { ran.records };
            self.commits.processed(self.moment.ms, id, records, self.setup.config.pacing);
        }
        self.turn = Some((id, left.saturating_sub(ran.records.max(1))));
        if ran.ended != Run::More {
            self.ready.remove(&id);
            self.turn = Some((id, 0));
        }
        if ran.ended == Run::Held {
            let below = task.held_below().unwrap_or(i64::MIN);
            self.held.insert((id.sub_topology, below, id));
        }
        if ran.records >= room || self.turn.is_some_and(|(_, left)| left == 0) {
            self.append_of_turn(out);
        }
        self.regulate(id, out);
        Ok(())
    }

    /// Hands over what the task whose turn it was has put out. That of one that is to go comes with its last commit, so
    /// that nothing comes behind it.
    fn append_of_turn(&mut self, out: &mut Vec<Action>) {
        if let Some((id, _)) = self.turn.filter(|(id, _)| self.may_work() && !self.moves.is_leaving(*id)) {
            self.append(id, out);
        }
    }

    fn append(&mut self, id: TaskId, out: &mut Vec<Action>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let outputs = task.take_outputs();
        if task.wants_commit() {
            self.commits.demand_early(id);
        }
        if !outputs.is_empty() {
            self.commits.handed_over(id);
            self.unsent += outputs.size();
            out.push(Action::Append(Appended { life: task.life(), outputs }));
        }
    }

    /// The task that reads a partition, unless it is to go: whatever comes is left to the next owner then, and would
    /// only have to be committed.
    fn reader_of(&self, place: Place) -> Option<TaskId> {
        let is_to_go = |id: &TaskId| self.moves.is_closing() || self.moves.is_leaving(*id);
        self.setup.task_of(place).filter(|id| !is_to_go(id))
    }

    fn fetched(&mut self, place: Place, batch: InputBatch, out: &mut Vec<Action>) {
        let Some(id) = self.reader_of(place) else { return };
        if let Some(task) = self.tasks.get_mut(&id) {
            if task.add(place.0, batch) {
                self.commits.processed(self.moment.ms, id, 0, self.setup.config.pacing);
            }
            self.ready.insert(id);
            self.regulate(id, out);
        }
    }

    fn passed(&mut self, place: Place, position: Option<i64>, end: Option<i64>) {
        let Some(id) = self.reader_of(place) else { return };
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if position.is_some_and(|position| task.pass(place.0, position)) {
            self.commits.processed(self.moment.ms, id, 0, self.setup.config.pacing);
            self.ready.insert(id);
        }
        if end.is_some_and(|end| task.set_end(place.0, end)) {
            self.ready.insert(id);
        }
    }

    /// Goes on behind records that have been deleted.
    fn out_of_range(
        &mut self,
        (life, place): (Life, Place),
        offset: i64,
        bounds: &Range<i64>,
        out: &mut Vec<Action>,
    ) {
        if self.alive(life).is_none() {
            return;
        }
        if offset > bounds.end {
            out.push(Action::BeyondEnd { place, offset, end: bounds.end });
            return;
        }
        let (topic, partition) = place;
        out.push(Action::Fetch(Position { topic, partition, offset: offset.max(bounds.start) }));
    }

    fn restored(&mut self, life: Life, store: usize, batch: InputBatch) {
        let records = batch.len();
        if let Some(task) = self.alive(life) {
            task.restore(store, batch);
            self.to_restore += records;
            self.ready.insert(life.task);
        }
    }

    fn restore_ended(&mut self, life: Life, store: usize) {
        if let Some(task) = self.alive(life) {
            task.restored(store);
            self.ready.insert(life.task);
        }
    }

    /// Pauses inputs of which enough is buffered, and resumes them when there is room.
    fn regulate(&mut self, id: TaskId, out: &mut Vec<Action>) {
        let Some(task) = self.tasks.get(&id) else { return };
        for topic in task.inputs() {
            let place = (topic, id.partition);
            match (task.wants(topic), self.paused.contains(&place)) {
                (false, false) => {
                    self.paused.insert(place);
                    out.push(Action::Pause(place));
                }
                (true, true) => {
                    self.paused.remove(&place);
                    out.push(Action::Resume(place));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
