//! The state machine of one task.
//!
//! While an input with records to come has none buffered, the task waits for it, so that what is taken next does
//! not depend on which fetch answers first.

use super::{
    Commit, CommittedOffset, Consumption, InputBatch, Life, Position, Processed, ProgressTable, Reading,
    StampConfig, Stamps, TaskId,
    commit::{METADATA_MAX, Metadata, encode_metadata},
    decode_metadata,
    queue::Queue,
    restore::{ChangelogRange, Restoring, StoreLog, TaskState},
};
use crate::{
    processor::{
        Context, ContextState, Counters, Frontier, OutputTo, Outputs, ProcessError, SharedNodes, Source,
        panic_text,
    },
    record::{Headers, Meta},
    store::{Entry, Lookup, Stores, TableLookup},
    topology::{Assembly, Changelog, ClockId, Globals, Plan, TopicId, Topology, ViewId, Views},
};
use std::{
    any::Any,
    collections::{BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

/// Commits in which what a writer may be ahead goes through a reader.
const COMMITS_AHEAD: u64 = 2;

/// How tasks behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskConfig {
    /// How far one partition's event time may run ahead of another's, in milliseconds; `None` for no limit.
    pub(crate) skew_bound_ms: Option<i64>,
    /// How long a partition at its end goes on holding the others.
    pub(crate) idle_timeout_ms: i64,
    /// Whether records that cannot be decoded are skipped rather than stop the task.
    pub(crate) skip_undecodable: bool,
    /// How readers of repartition topics are told of it.
    pub(crate) stamps: StampConfig,
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

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// It used up the records it was allowed; there is more.
    More,
    /// Nothing is buffered, or an input with records to come has none buffered.
    Starved,
    /// What others have told in this process holds every head that nothing else does.
    Held,
    /// More of its own inputs has to come before any head may go.
    Waiting,
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

/// One task.
pub(crate) struct Task {
    life: Life,
    pub(super) id: TaskId,
    /// How far ahead its records may be, if progress control holds them: as the configuration says, but no further than the
    /// shortest grace behind it.
    pub(super) bound: Option<i64>,
    pub(super) config: TaskConfig,
    pub(super) cx: ContextState,
    pub(super) sources: Vec<(TopicId, Box<dyn Source>)>,
    /// Nodes with several parents.
    shared: SharedNodes,
    pub(super) stores: Stores,
    /// Where the stores are logged and how far they are applied, by their numbers.
    pub(super) logs: Vec<StoreLog>,
    /// Stores in which the keys of a topic are looked up as its records come.
    looked_up: Vec<(TopicId, usize)>,
    clocks: Vec<ClockId>,
    views: Views,
    pub(super) queues: Vec<Queue>,
    pub(super) progress: Arc<ProgressTable>,
    /// What the readers of its outputs are told. Without any, nobody asks how far it has come.
    pub(super) stamps: Stamps,
    /// Greatest event time taken.
    pub(super) taken: i64,
    /// Bytes of its inputs that had been processed at the last commit.
    committed_bytes: usize,
    /// Stores whose changelogs are still to be read.
    pub(super) restoring: BTreeSet<usize>,
    /// What has been read of them and is not in the stores yet.
    pub(super) to_restore: VecDeque<Restoring>,
    held_since: Option<i64>,
    aside_since: Option<i64>,
    now: i64,
    /// Kept for its memory: the least levels of others, by queue.
    others: Vec<Frontier>,
}

impl Task {
    /// A task whose stores are still to be restored; `starts` names every input partition it reads, `changelogs` what there
    /// is of each changelog, `kept` the stores that it has left here before, if any are.
    pub(crate) fn new(
        topology: &Topology,
        plan: &Plan,
        life: Life,
        config: TaskConfig,
        (globals, progress): (&Globals, Arc<ProgressTable>),
        (starts, changelogs, kept): (&[Start], &[ChangelogRange], Option<TaskState>),
    ) -> Task {
        let id = life.task;
        let skew_max = topology.skew_max(id.sub_topology);
        let bound = config.skew_bound_ms.zip(skew_max).map(|(bound, most)| bound.min(most));
        let parts = Assembly::run(topology, id.sub_topology, globals);
        let mut cx = ContextState::new(id.partition, plan.topics(), config.skip_undecodable);
        cx.clocks = vec![i64::MIN; parts.clocks.len()];
        let mut queues = Vec::new();
        let tasks = plan.sub_topologies.get(id.sub_topology).map_or(1, |plan| plan.tasks);
        let is_waited_for =
            starts.len() > 1 || tasks > 1 && topology.stamped(id.sub_topology).next().is_some();
        for topic in &topology.sub_topology(id.sub_topology).inputs {
            let Some(start) = starts.iter().find(|start| start.position.topic == *topic) else { continue };
            let writers = plan.writers(*topic);
            let known = start.metadata.as_deref();
            let known = known.and_then(|text| decode_metadata(text, start.position.offset, writers + 1));
            let (mut time, mut processed) = (i64::MIN, None);
            if let Some(Metadata { time: at, clocks, processed: done }) = known {
                (time, processed) = (at, Some(done));
                for (clock, id) in cx.clocks.iter_mut().zip(&parts.clocks) {
                    *clock = clocks.get(id).map_or(*clock, |restored| (*restored).max(*clock));
                }
            }
            // What was put aside by writer stays so, whatever it is read for now.
            let mut queue = match processed {
                Some(Processed::ByWriter(reading)) => {
                    Queue::by_writer(start.position, time, writers, Some(reading))
                }
                _ if bound.is_some() && writers > 0 => Queue::by_writer(start.position, time, writers, None),
                processed => {
                    let unread = processed.and_then(Processed::in_order);
                    // Rows of a table follow each other as in its log, from which they are restored; and what nobody
                    // waits for as in its own, so that the same comes of it each time.
                    let looks_ahead = bound.is_some() && !topology.is_table(*topic) && is_waited_for;
                    let jump = config.skew_bound_ms.filter(|_| looks_ahead);
                    Queue::in_order(start.position, time, jump, unread)
                }
            };
            queue.pinned_end = start.pinned_end;
            if start.committed {
                queue.begin_committed();
            }
            queues.push(queue);
        }
        let mut stamps = Stamps::new(id.partition, tasks, bound.unwrap_or(0), config.stamps);
        for topic in topology.stamped(id.sub_topology).filter(|_| bound.is_some()) {
            let partitions = plan.partition_counts.get(topic.0 as usize).copied().unwrap_or(0);
            stamps.add(topic, topology.feeding(topic), (partitions, tasks), config.stamps);
        }
        let mut task = Task {
            life,
            id,
            bound,
            config,
            cx,
            sources: parts.sources,
            shared: parts.shared,
            stores: parts.stores,
            logs: parts.changelogs.into_iter().map(StoreLog::new).collect(),
            looked_up: parts.looked_up,
            clocks: parts.clocks,
            views: parts.views,
            queues,
            progress,
            stamps,
            taken: i64::MIN,
            committed_bytes: 0,
            restoring: BTreeSet::new(),
            to_restore: VecDeque::new(),
            held_since: None,
            aside_since: None,
            now: 0,
            others: Vec::new(),
        };
        task.take_over(changelogs, kept);
        task.publish();
        task
    }

    /// Its id, and which of the tasks that have had it this is.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    pub(crate) fn counters(&self) -> Counters {
        let put_aside = self.queues.iter().map(Queue::put_aside).sum();
        Counters { put_aside, ..self.cx.counters }
    }

    /// Whether stores are still to be filled.
    pub(crate) fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }

    /// Whether the task has this table.
    pub(crate) fn has_view(&self, view: ViewId) -> bool {
        self.views.contains_key(&view)
    }

    /// Takes a fetched batch. Returns whether that moves the position to commit.
    pub(crate) fn add(&mut self, topic: TopicId, mut batch: InputBatch) -> bool {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.topic == topic) else { return false };
        batch.take_times(&self.cx, topic, &self.sources);
        let before = queue.steps();
        self.cx.counters.negative_timestamps += queue.push(batch);
        queue.steps() != before
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
        let TaskConfig { buffer_records, buffer_bytes, .. } = self.config;
        queue.is_some_and(|queue| queue.wants(self.bound, buffer_records, buffer_bytes))
    }

    /// Topics of the inputs.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.queues.iter().map(|queue| queue.topic)
    }

    /// Next record to process, per input.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let position = |queue: &Queue| Position {
            topic: queue.topic,
            partition: queue.partition,
            offset: queue.position(),
        };
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

    /// Takes note of the time, and tells the others how far this task has come. Returns whether records may go by that
    /// which could not before.
    pub(crate) fn tick(&mut self, now: i64) -> bool {
        self.now = self.now.max(now);
        let mut idle = false;
        for queue in &mut self.queues {
            idle |= queue.tick(self.now, self.config.idle_timeout_ms);
        }
        self.publish();
        idle && self.bound.is_some()
    }

    /// Processes up to `limit` records at time `now`; while the task is restoring, applies as many.
    pub(crate) fn run(&mut self, now: i64, limit: usize) -> Result<Ran, ProcessError> {
        self.tick(now);
        if self.is_restoring() {
            return self.apply(limit);
        }
        for (topic, at) in &self.looked_up {
            let queues = self.queues.iter().filter(|queue| queue.topic == *topic);
            let Some(store) = self.stores.any(*at) else { continue };
            queues.for_each(|queue| store.look_ahead(&mut queue.keys_ahead(limit)));
        }
        let mut others = std::mem::take(&mut self.others);
        self.least_of_others(&mut others);
        let ran = catch_unwind(AssertUnwindSafe(|| self.take_some(limit, &others)));
        let ran = ran.unwrap_or_else(|panic| self.resume_panic(&*panic))?;
        self.others = others;
        self.measure_hold(ran.ended);
        self.publish();
        Ok(ran)
    }

    fn take_some(&mut self, limit: usize, others: &[Frontier]) -> Result<Ran, ProcessError> {
        let mut records = 0;
        while records < limit {
            match self.choose(others) {
                Ok(queue) => self.take(queue)?,
                Err(ended) => return Ok(Ran { ended, records }),
            }
            records += 1;
        }
        Ok(Ran { ended: Run::More, records })
    }

    /// Says which record somebody's function panicked at.
    fn resume_panic(&self, panic: &(dyn Any + Send)) -> ! {
        let Meta { topic, partition, offset, .. } = self.cx.meta();
        let text = panic_text(panic);
        resume_unwind(Box::new(format!("{text} (task {}, {topic}-{partition} at offset {offset})", self.id)))
    }

    fn take(&mut self, index: usize) -> Result<(), ProcessError> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        let (topic, partition) = (queue.topic, queue.partition);
        if let Some((batch, record)) = queue.front() {
            self.cx.begin(topic, partition, record.offset);
            let view = batch.view(record);
            for (_, source) in self.sources.iter_mut().filter(|(of, _)| *of == topic) {
                let mut cx = Context::new(&mut self.cx, &self.stores, &self.shared);
                source.process(&mut cx, view);
            }
            self.cx.end(|| batch.view(record))?;
        }
        self.taken = self.taken.max(queue.advance());
        Ok(())
    }

    fn measure_hold(&mut self, ended: Run) {
        let now = self.now;
        let since = |at: &mut Option<i64>, goes_on: bool| {
            let ms = at.map_or(0, |at| u64::try_from(now - at).unwrap_or(0));
            *at = goes_on.then_some(now);
            ms
        };
        let is_held = matches!(ended, Run::Held | Run::Waiting) && self.queues.iter().any(Queue::is_buffered);
        self.cx.counters.held_ms += since(&mut self.held_since, is_held);
        let has_aside = self.queues.iter().any(Queue::has_aside);
        self.cx.counters.aside_ms += since(&mut self.aside_since, has_aside);
    }

    fn publish(&self) {
        if !self.stamps.is_empty() {
            // Whoever waits for its readers may wait for those whom it would hold.
            let level = |queue: &Queue| if self.is_ahead() { Frontier::Idle } else { self.level(queue) };
            let levels = self.queues.iter().map(|queue| (queue.topic, level(queue)));
            self.progress.publish(self.id.partition, levels);
        }
    }

    /// Outputs made so far that have not been taken, stamped with how far the task has come.
    pub(crate) fn take_outputs(&mut self) -> Outputs {
        let mut outputs = std::mem::take(&mut self.cx.outputs);
        if !self.stamps.is_empty() {
            let is_restoring = self.is_restoring();
            let (queues, bound) = (&mut self.queues, self.bound);
            self.stamps.stamp(self.now, &mut outputs, |topic| {
                let queue = queues.iter_mut().find(|queue| queue.topic == topic);
                queue.map_or(Frontier::Idle, |queue| match is_restoring {
                    true => Frontier::At(queue.time),
                    false => queue.promise(bound),
                })
            });
        }
        outputs
    }

    /// Whether it has written so much that has not been processed that its readers have to come on first.
    pub(crate) fn is_ahead(&self) -> bool {
        self.stamps.is_ahead()
    }

    /// Records that it may process before its outputs have to be taken.
    pub(crate) fn room(&self) -> usize {
        self.stamps.room()
    }

    /// Partitions that it writes whose readers' progress is to be asked for.
    pub(crate) fn ask_readers(&mut self) -> Vec<(TopicId, i32)> {
        self.stamps.ask()
    }

    /// What the reader of a partition has processed, as far as the group knows: committed offset and metadata.
    pub(crate) fn consumed(&mut self, place: (TopicId, i32), end: i64, committed: Option<(i64, &str)>) {
        let (offset, metadata) = committed.unwrap_or((0, ""));
        let reading = match decode_metadata(metadata, offset, 0).map(|known| known.processed) {
            Some(Processed::ByWriter(reading)) => reading,
            _ => Reading { read: offset, ..Reading::default() },
        };
        self.stamps.consumed(place, &Consumption { end, reading });
    }

    /// Whether so much has gone through it since the last commit that those who wait for it should hear of it.
    pub(crate) fn wants_commit(&self) -> bool {
        let taken: usize = self.queues.iter().map(Queue::taken_bytes).sum();
        let most = self.config.stamps.ahead_bytes / COMMITS_AHEAD;
        (taken - self.committed_bytes) as u64 > most || self.stamps.wants_commit()
    }

    /// What is to be committed of the inputs that have moved; `None` while there is more to say of one than fits.
    fn offsets(&self) -> Option<Vec<CommittedOffset>> {
        let clocks: Vec<(ClockId, i64)> =
            self.clocks.iter().copied().zip(self.cx.clocks.iter().copied()).collect();
        let moved = self.queues.iter().filter(|queue| queue.committed.is_none() || queue.has_uncommitted());
        let offset = |queue: &Queue| {
            let processed = queue.processed();
            let metadata = encode_metadata(queue.time, &processed, &clocks);
            // Without anything put aside there is nothing that waiting would make shorter.
            let fits = metadata.len() <= METADATA_MAX || !processed.has_aside();
            let offset = processed.least();
            fits.then(|| CommittedOffset {
                position: Position { topic: queue.topic, partition: queue.partition, offset },
                leader_epoch: queue.leader_epoch(),
                metadata,
                steps: queue.steps(),
            })
        };
        moved.map(offset).collect()
    }

    /// Everything since the commit before but outputs, which are taken first. Once it is written, call
    /// [`Task::committed`]. `None` if it has to wait: a writer's records are put aside, and there is no room to say so.
    pub(crate) fn commit(&mut self) -> Result<Option<Commit>, ProcessError> {
        self.queues.iter_mut().for_each(|queue| queue.note_time(self.bound));
        let Some(offsets) = self.offsets() else { return Ok(None) };
        let mut changelog = Outputs::default();
        for (at, log) in self.logs.iter_mut().enumerate() {
            let (Changelog::Own(topic), Some(store)) = (log.changelog, self.stores.any_mut(at)) else {
                continue;
            };
            let before = changelog.len();
            let mut out = ChangelogOutputs { outputs: &mut changelog, to: (topic, self.id.partition) };
            let flushed = store.flush(&mut out);
            flushed.map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
            log.rows_under_way = changelog.len() - before;
        }
        self.committed_bytes = self.queues.iter().map(Queue::taken_bytes).sum();
        self.stamps.commit_begins();
        Ok(Some(Commit { changelog, offsets }))
    }

    /// Whether records have been processed since the last commit.
    pub(crate) fn has_uncommitted(&self) -> bool {
        self.queues.iter().any(Queue::has_uncommitted)
    }

    /// The offsets of a commit have been written.
    pub(crate) fn committed(&mut self, offsets: &[CommittedOffset]) {
        for committed in offsets {
            let mut queues = self.queues.iter_mut();
            if let Some(queue) = queues.find(|queue| queue.topic == committed.position.topic) {
                queue.committed(committed.position.offset, committed.steps);
            }
        }
        self.stamps.commit_done();
    }

    /// Bytes that are kept of each input that others write, of the writer that has most of them.
    #[cfg(test)]
    pub(crate) fn most_bytes(&self) -> impl Iterator<Item = (TopicId, usize)> + '_ {
        self.queues.iter().map(|queue| (queue.topic, queue.most_bytes()))
    }

    /// Why it may not go on, as text.
    #[cfg(test)]
    pub(crate) fn standing(&self) -> String {
        let queue = |queue: &Queue| {
            format!(
                "{}_{} head {:?} missing {:?} level {:?} fetch {} of {:?} wants {}",
                queue.topic.0,
                queue.partition,
                queue.head(),
                queue.missing(),
                self.level(queue),
                queue.fetch,
                queue.end,
                self.wants(queue.topic)
            )
        };
        let queues: Vec<String> = self.queues.iter().map(queue).collect();
        format!(
            "{} ahead {} uncommitted {}: {}",
            self.id,
            self.is_ahead(),
            self.has_uncommitted(),
            queues.join(", ")
        )
    }

    /// A table and the stores that it is looked up in, if this task has it and is not restoring it.
    pub(crate) fn lookup<K: 'static, V: 'static>(
        &self,
        view: ViewId,
    ) -> Option<(&dyn Lookup<K, V>, &Stores)> {
        let lookup = self.views.get(&view).filter(|_| !self.is_restoring())?;
        Some((&**lookup.downcast_ref::<TableLookup<K, V>>()?, &self.stores))
    }

    /// Every row of every store that is logged or read from a topic, by store name, in key-byte order.
    pub(crate) fn dump(&self) -> Result<Vec<StoreDump>, ProcessError> {
        let dump = |at: usize| {
            let store = self.stores.any(at)?;
            let name = Arc::clone(store.name());
            let rows = store.dump();
            let failed = |source| ProcessError::Store { store: Arc::clone(&name), source };
            Some(rows.map_err(failed).map(|rows| (name, rows)))
        };
        (0..self.stores.len()).filter_map(dump).collect()
    }
}

/// Tasks move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Task>();
};

impl Drop for Task {
    /// A task that has gone holds nobody.
    fn drop(&mut self) {
        if !self.stamps.is_empty() {
            self.progress.withdraw(self.id.partition, self.queues.iter().map(|queue| queue.topic));
        }
    }
}

struct ChangelogOutputs<'a> {
    outputs: &'a mut Outputs,
    to: (TopicId, i32),
}

impl crate::store::ChangelogWriter for ChangelogOutputs<'_> {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) {
        let (topic, partition) = self.to;
        self.outputs.push(OutputTo { topic, partition, timestamp }, Some(key), value, Headers::NONE);
    }
}
