//! The state machine of one task.
//!
//! Order: among the heads that progress control lets go, the least by (event time, topic, partition, offset).
//! While an input with records to come has none buffered, the task waits for it, so that what is taken next does
//! not depend on which fetch answers first.

use super::{
    Commit, CommittedOffset, InputBatch, Level, Life, Position, ProgressTable, TaskId,
    commit::encode_metadata, decode_metadata, queue::Queue,
};
use crate::{
    processor::{Context, Counters, Outputs, ProcessError, Source},
    store::{Entry, SharedLookup, StoreHandle},
    topology::{AnyStore, Assembly, Changelog, Globals, Plan, TopicId, TopicKind, Topology, ViewId},
};
use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
    rc::Rc,
    sync::Arc,
};

/// How tasks behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskConfig {
    /// How far one partition's event time may run ahead of another's, in milliseconds; `None` for no limit.
    pub(crate) skew_bound_ms: Option<i64>,
    /// How long a partition at its end goes on holding the others.
    pub(crate) idle_timeout_ms: i64,
    /// Whether records that cannot be decoded are skipped rather than stop the task.
    pub(crate) skip_undecodable: bool,
    /// Whether a record is progress only once its outputs are acknowledged: set when several workers write to
    /// one repartition topic.
    pub(crate) acknowledge_progress: bool,
    /// Records to buffer per partition before fetching stops.
    pub(crate) buffer_records: usize,
    /// Bytes of batches to buffer per partition before fetching stops.
    pub(crate) buffer_bytes: usize,
}

/// Where an input partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) position: Position,
    /// Metadata of the committed offset.
    pub(crate) metadata: Option<String>,
    /// Whether `position` is a committed offset.
    pub(crate) committed: bool,
    pub(crate) pinned_end: Option<i64>,
}

/// How far a store's changelog has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreUpTo {
    /// To its end as it is now.
    End,
    /// To this offset of the source topic.
    Offset(i64),
}

/// A changelog that has to be read before the task can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestoreWish {
    pub(crate) store: usize,
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    pub(crate) up_to: RestoreUpTo,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// It used up the records it was allowed; there is more.
    More,
    /// Nothing is buffered, or an input with records to come has none buffered.
    Starved,
    /// Progress control holds every head.
    Held,
}

/// What a run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) ended: Run,
    /// Records processed, or applied while restoring.
    pub(crate) records: usize,
}

/// A store's name and rows.
pub(crate) type StoreDump = (Arc<str>, Vec<Entry>);

/// Part of a changelog on its way into a store.
enum Restoring {
    /// Records, from this one on.
    Batch { store: usize, batch: InputBatch, at: usize },
    /// The changelog is read.
    End { store: usize },
}

struct StoreSlot {
    changelog: Changelog,
    store: Rc<RefCell<dyn StoreHandle>>,
}

impl StoreSlot {
    /// Applies changelog records.
    fn apply(
        &self,
        sources: &mut [(TopicId, Box<dyn Source>)],
        batch: &InputBatch,
        records: Range<usize>,
    ) -> Result<(), ProcessError> {
        let records = batch.records.get(records).unwrap_or_default();
        match self.changelog {
            Changelog::Own(_) => {
                let mut store = self.store.borrow_mut();
                for record in records {
                    let Some(key) = batch.key(record) else { continue };
                    let restored = store.restore(key, batch.value(record), record.timestamp);
                    restored
                        .map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
                }
            }
            Changelog::Source(topic) => {
                for (_, source) in sources.iter_mut().filter(|(of, _)| *of == topic) {
                    records.iter().for_each(|record| source.restore(batch.view(record)));
                }
            }
        }
        Ok(())
    }
}

/// One task.
pub(crate) struct Task {
    life: Life,
    id: TaskId,
    /// Whether progress control holds its records. If not, nobody asks how far it has come either.
    is_timed: bool,
    config: TaskConfig,
    cx: Context,
    sources: Vec<(TopicId, Box<dyn Source>)>,
    stores: Vec<StoreSlot>,
    /// Where the keys of a topic are looked up as its records come.
    looked_up: Vec<(TopicId, AnyStore)>,
    clock_names: Vec<Arc<str>>,
    views: HashMap<ViewId, Box<dyn Any>>,
    queues: Vec<Queue>,
    progress: Arc<ProgressTable>,
    /// Stores whose changelogs are still to be read.
    restoring: BTreeSet<usize>,
    /// What has been read of them and is not in the stores yet.
    to_restore: VecDeque<Restoring>,
    /// Outputs made so far, taken or not.
    outputs_made: u64,
    held_since: Option<i64>,
    now: i64,
    /// Kept for its memory: the least levels of others, by queue.
    others: Vec<Level>,
}

impl Task {
    /// A task whose stores are still to be restored; `starts` names every input partition it reads.
    pub(crate) fn new(
        topology: &Topology,
        plan: &Plan,
        life: Life,
        config: TaskConfig,
        (globals, progress): (&Globals, Arc<ProgressTable>),
        starts: &[Start],
    ) -> Task {
        let id = life.task;
        let is_timed = config.skew_bound_ms.is_some() && topology.is_timed(id.sub_topology);
        let parts = Assembly::run(topology, id.sub_topology, globals);
        let mut cx = Context::new(id.partition, plan.topics(), config.skip_undecodable);
        cx.clocks = vec![i64::MIN; parts.clocks.len()];
        let mut queues = Vec::new();
        for topic in &topology.sub_topology(id.sub_topology).inputs {
            let Some(start) = starts.iter().find(|start| start.position.topic == *topic) else { continue };
            let internal = matches!(topology.topic(*topic).kind, TopicKind::Repartition { .. });
            let mut queue = Queue::new(start.position, internal);
            queue.pinned_end = start.pinned_end;
            queue.committed = start.committed.then_some(start.position.offset);
            if let Some((time, clocks)) = start.metadata.as_deref().and_then(decode_metadata) {
                queue.time = time;
                for (clock, name) in cx.clocks.iter_mut().zip(&parts.clocks) {
                    *clock = clocks.get(name).map_or(*clock, |restored| (*restored).max(*clock));
                }
            }
            queues.push(queue);
        }
        let stores = parts.stores.into_iter().map(|(changelog, store)| StoreSlot { changelog, store });
        let mut task = Task {
            life,
            id,
            is_timed,
            config,
            cx,
            sources: parts.sources,
            stores: stores.collect(),
            looked_up: parts.looked_up,
            clock_names: parts.clocks,
            views: parts.views,
            queues,
            progress,
            restoring: BTreeSet::new(),
            to_restore: VecDeque::new(),
            outputs_made: 0,
            held_since: None,
            now: 0,
            others: Vec::new(),
        };
        task.restoring = task.restore_wishes().iter().map(|wish| wish.store).collect();
        task.publish();
        task
    }

    /// Its id, and which of the tasks that have had it this is.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    pub(crate) fn counters(&self) -> Counters {
        self.cx.counters
    }

    /// Whether stores are still to be filled.
    pub(crate) fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }

    /// Whether the task has this table.
    pub(crate) fn has_view(&self, view: ViewId) -> bool {
        self.views.contains_key(&view)
    }

    /// The changelogs to read, each until [`Task::restored`].
    pub(crate) fn restore_wishes(&self) -> Vec<RestoreWish> {
        let wish = |(store, slot): (usize, &StoreSlot)| {
            let (topic, up_to) = match slot.changelog {
                Changelog::Own(topic) => (topic, RestoreUpTo::End),
                Changelog::Source(topic) => {
                    let queue = self.queues.iter().find(|queue| queue.topic == topic)?;
                    (topic, RestoreUpTo::Offset(queue.committed?))
                }
            };
            Some(RestoreWish { store, topic, partition: self.id.partition, up_to })
        };
        self.stores.iter().enumerate().filter_map(wish).collect()
    }

    /// Takes records of a store's changelog; [`Task::run`] applies them.
    pub(crate) fn restore(&mut self, store: usize, mut batch: InputBatch) {
        if let Some(Changelog::Source(topic)) = self.stores.get(store).map(|slot| slot.changelog) {
            batch.stamp(&self.cx, topic, &self.sources);
        }
        self.to_restore.push_back(Restoring::Batch { store, batch, at: 0 });
    }

    /// The changelog of a store is read; once all are, and applied, records may be processed.
    pub(crate) fn restored(&mut self, store: usize) {
        self.to_restore.push_back(Restoring::End { store });
    }

    /// Records of changelogs that are not applied yet.
    pub(crate) fn to_restore(&self) -> usize {
        let left = |part: &Restoring| match part {
            Restoring::Batch { batch, at, .. } => batch.len() - at,
            Restoring::End { .. } => 0,
        };
        self.to_restore.iter().map(left).sum()
    }

    /// Applies up to `limit` records of changelogs.
    fn apply(&mut self, limit: usize) -> Result<Ran, ProcessError> {
        let mut done = 0;
        while let Some(part) = self.to_restore.front_mut().filter(|_| done < limit) {
            match part {
                Restoring::Batch { store, batch, at } => {
                    let (records, whole) = (at.saturating_add(limit - done).min(batch.len()), batch.len());
                    if let Some(slot) = self.stores.get(*store) {
                        slot.apply(&mut self.sources, batch, *at..records)?;
                    }
                    done += records - *at;
                    *at = records;
                    if records < whole {
                        break;
                    }
                }
                Restoring::End { store } => {
                    self.restoring.remove(store);
                }
            }
            self.to_restore.pop_front();
        }
        let ended = if self.to_restore.is_empty() && self.is_restoring() { Run::Starved } else { Run::More };
        Ok(Ran { ended, records: done })
    }

    /// Takes a fetched batch. Returns whether that moves the position to commit.
    pub(crate) fn add(&mut self, topic: TopicId, mut batch: InputBatch) -> bool {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.topic == topic) else { return false };
        batch.stamp(&self.cx, topic, &self.sources);
        let before = queue.next;
        self.cx.counters.negative_timestamps += queue.push(batch);
        queue.next != before
    }

    /// Below `offset` there is nothing more to read of a topic than was added. Returns whether that moves the position
    /// to commit.
    pub(crate) fn pass(&mut self, topic: TopicId, offset: i64) -> bool {
        let queue = self.queues.iter_mut().find(|queue| queue.topic == topic);
        queue.is_some_and(|queue| queue.pass(offset))
    }

    /// Notes where a partition ends for now. Returns whether that is new.
    pub(crate) fn set_end(&mut self, topic: TopicId, end: i64) -> bool {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.topic == topic) else { return false };
        let before = queue.end;
        queue.end = Some(end.max(before.unwrap_or(end)));
        queue.end != before
    }

    /// Whether the task would like more records of a topic.
    pub(crate) fn wants(&self, topic: TopicId) -> bool {
        let queue = self.queues.iter().find(|queue| queue.topic == topic);
        queue.is_some_and(|queue| {
            let through = queue.pinned_end.is_some_and(|end| queue.fetch >= end);
            let room = queue.buffered() < self.config.buffer_records;
            !through && room && queue.buffered_bytes() < self.config.buffer_bytes
        })
    }

    /// Topics of the inputs.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.queues.iter().map(|queue| queue.topic)
    }

    /// Next record to process, per input.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let position =
            |queue: &Queue| Position { topic: queue.topic, partition: queue.partition, offset: queue.next };
        self.queues.iter().map(position).collect()
    }

    /// Where whoever gets the task next goes on, per input.
    pub(crate) fn committed_positions(&self) -> Vec<Position> {
        let position = |queue: &Queue| Position {
            topic: queue.topic,
            partition: queue.partition,
            offset: queue.committed_or_start(),
        };
        self.queues.iter().map(position).collect()
    }

    /// Whether every input is known to have nothing more for now and everything buffered is processed.
    pub(crate) fn drained(&self) -> bool {
        !self.is_restoring() && self.queues.iter().all(|queue| queue.head().is_none() && queue.at_end())
    }

    /// Whether a replay is through.
    pub(crate) fn finished(&self) -> bool {
        !self.is_restoring() && self.queues.iter().all(Queue::finished)
    }

    /// Takes note of the time, and tells the others how far this task has come.
    pub(crate) fn tick(&mut self, now: i64) {
        self.now = self.now.max(now);
        for queue in &mut self.queues {
            queue.tick(self.now);
        }
        self.publish();
    }

    /// Processes up to `limit` records at time `now`; while the task is restoring, applies as many.
    pub(crate) fn run(&mut self, now: i64, limit: usize) -> Result<Ran, ProcessError> {
        self.tick(now);
        if self.is_restoring() {
            return self.apply(limit);
        }
        for (topic, store) in &self.looked_up {
            let queues = self.queues.iter().filter(|queue| queue.topic == *topic);
            queues.for_each(|queue| store.borrow().look_ahead(&mut queue.keys_ahead(limit)));
        }
        let mut others = std::mem::take(&mut self.others);
        self.least_of_others(&mut others);
        let (mut ended, mut records) = (Run::More, 0);
        for _ in 0..limit {
            match self.choose(&others) {
                Ok(queue) => {
                    self.take(queue)?;
                    records += 1;
                }
                Err(why) => {
                    ended = why;
                    break;
                }
            }
        }
        self.others = others;
        self.measure_hold(ended);
        self.publish();
        Ok(Ran { ended, records })
    }

    /// Per queue, the least level of what holds it in other tasks.
    fn least_of_others(&self, others: &mut Vec<Level>) {
        let partition = Some(self.id.partition);
        let least = |queue: &Queue| match self.is_timed {
            true => self.progress.least_of_others(queue.topic, partition),
            false => Level::Released,
        };
        others.clear();
        others.extend(self.queues.iter().map(least));
    }

    /// How far the least of what holds it must have come before any of its heads may go.
    pub(crate) fn held_below(&self) -> Option<i64> {
        let bound = self.config.skew_bound_ms?;
        self.queues.iter().filter_map(Queue::head_time).min().map(|time| time.saturating_sub(bound))
    }

    /// The queue whose head is next, or why there is none. Queues are in the order of topic names, so that the first
    /// of equal heads is the least by (event time, topic, partition, offset); a task has one partition of each topic.
    fn choose(&self, others: &[Level]) -> Result<usize, Run> {
        if let ([queue], [others]) = (&self.queues[..], others) {
            let Some(time) = queue.head_time() else { return Err(Run::Starved) };
            return if self.allowed(time, *others) { Ok(0) } else { Err(Run::Held) };
        }
        if self.queues.iter().any(|queue| queue.head().is_none() && !queue.at_end()) {
            return Err(Run::Starved);
        }
        let (mut any, mut best) = (false, None);
        for (index, queue) in self.queues.iter().enumerate() {
            let (Some((timestamp, _)), Some(time)) = (queue.head(), queue.head_time()) else { continue };
            any = true;
            let others = others.get(index).copied().unwrap_or(Level::Released);
            let better = best.is_none_or(|(least, _)| timestamp < least);
            if better && self.allowed(time, others.min(self.least_of_own(queue.topic))) {
                best = Some((timestamp, index));
            }
        }
        match best {
            Some((_, index)) => Ok(index),
            None => Err(if any { Run::Held } else { Run::Starved }),
        }
    }

    /// The least level of the task's own partitions that hold a topic.
    fn least_of_own(&self, topic: TopicId) -> Level {
        let timed = self.queues.iter().filter(|_| self.is_timed);
        let holders = timed.filter(|queue| self.progress.holds(queue.topic, topic));
        let levels = holders.map(|queue| self.progress.resolve(queue.topic, self.level(queue)));
        levels.min().unwrap_or(Level::Released)
    }

    fn allowed(&self, time: i64, least: Level) -> bool {
        match (self.config.skew_bound_ms, least) {
            (None, _) | (_, Level::Released) => true,
            (Some(bound), Level::At(least) | Level::Behind(least)) => time <= least.saturating_add(bound),
        }
    }

    fn level(&self, queue: &Queue) -> Level {
        if self.is_restoring() {
            return Level::At(queue.time);
        }
        let fed = || self.progress.least_feeding(queue.topic) != Level::Released;
        queue.level(self.now, self.config.idle_timeout_ms, fed)
    }

    fn take(&mut self, index: usize) -> Result<(), ProcessError> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        let (topic, partition) = (queue.topic, queue.partition);
        let made = self.cx.outputs.len();
        if let Some((batch, record)) = queue.front() {
            self.cx.begin(topic, partition, record.offset);
            let view = batch.view(record);
            for (_, source) in self.sources.iter_mut().filter(|(of, _)| *of == topic) {
                source.process(&mut self.cx, view);
            }
            self.cx.end(|| batch.view(record))?;
        }
        queue.advance();
        let new = self.cx.outputs.len() - made;
        if new > 0 {
            self.outputs_made += new as u64;
            if self.is_timed && self.config.acknowledge_progress {
                queue.sent(self.outputs_made);
            }
        }
        Ok(())
    }

    fn measure_hold(&mut self, ended: Run) {
        if let Some(since) = self.held_since.take() {
            self.cx.counters.held_ms += u64::try_from(self.now - since).unwrap_or(0);
        }
        self.held_since = (ended == Run::Held).then_some(self.now);
    }

    fn publish(&self) {
        if !self.is_timed {
            return;
        }
        let levels = self.queues.iter().map(|queue| (queue.topic, self.level(queue)));
        self.progress.publish(self.id.partition, levels);
    }

    /// Outputs made so far that have not been taken, and the number of the last one.
    pub(crate) fn take_outputs(&mut self) -> (Outputs, u64) {
        (std::mem::take(&mut self.cx.outputs), self.outputs_made)
    }

    /// Outputs up to this number have been acknowledged.
    pub(crate) fn acknowledged(&mut self, last: u64) {
        for queue in &mut self.queues {
            queue.acknowledged(last);
        }
        self.publish();
    }

    /// Everything since the commit before but outputs, which are taken first. Once it is written, call
    /// [`Task::committed`].
    pub(crate) fn commit(&mut self) -> Result<Commit, ProcessError> {
        let mut changelog = Outputs::default();
        for slot in &self.stores {
            let Changelog::Own(topic) = slot.changelog else { continue };
            let mut out = ChangelogOutputs { outputs: &mut changelog, to: (topic, self.id.partition) };
            let mut store = slot.store.borrow_mut();
            let flushed = store.flush(&mut out);
            flushed.map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
        }
        let clocks: Vec<(Arc<str>, i64)> =
            self.clock_names.iter().cloned().zip(self.cx.clocks.iter().copied()).collect();
        let moved = self.queues.iter().filter(|queue| queue.committed != Some(queue.next));
        let offsets = moved.map(|queue| CommittedOffset {
            position: Position { topic: queue.topic, partition: queue.partition, offset: queue.next },
            leader_epoch: queue.leader_epoch,
            metadata: encode_metadata(queue.time, &clocks),
        });
        let offsets = offsets.collect();
        Ok(Commit { changelog, offsets })
    }

    /// Whether records have been processed since the last commit.
    pub(crate) fn has_uncommitted(&self) -> bool {
        self.queues.iter().any(|queue| queue.committed_or_start() != queue.next)
    }

    /// The offsets of a commit have been written.
    pub(crate) fn committed(&mut self, offsets: &[CommittedOffset]) {
        for committed in offsets {
            let mut queues = self.queues.iter_mut();
            if let Some(queue) = queues.find(|queue| queue.topic == committed.position.topic) {
                queue.committed = Some(committed.position.offset);
            }
        }
    }

    /// A table's rows, if this task has them and is not restoring them.
    pub(crate) fn lookup<K: 'static, V: 'static>(&self, view: ViewId) -> Option<&SharedLookup<K, V>> {
        self.views.get(&view).filter(|_| !self.is_restoring())?.downcast_ref()
    }

    /// Every row of every store that is logged or read from a topic, by store name, in key-byte order.
    pub(crate) fn dump(&self) -> Result<Vec<StoreDump>, ProcessError> {
        let dump = |slot: &StoreSlot| {
            let store = slot.store.borrow();
            let name = Arc::clone(store.name());
            let rows =
                store.dump().map_err(|source| ProcessError::Store { store: Arc::clone(&name), source })?;
            Ok((name, rows))
        };
        self.stores.iter().map(dump).collect()
    }
}

impl Drop for Task {
    /// A task that has gone holds nobody.
    fn drop(&mut self) {
        self.progress.withdraw(self.id.partition, self.queues.iter().map(|queue| queue.topic));
    }
}

struct ChangelogOutputs<'a> {
    outputs: &'a mut Outputs,
    to: (TopicId, i32),
}

impl crate::store::ChangelogWriter for ChangelogOutputs<'_> {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) {
        self.outputs.push(self.to, key, value, timestamp);
    }
}
