//! Runs a topology without a broker: the engine's own tasks, topics in memory, a clock set by hand.
//!
//! The driver moves bytes between tasks and topics exactly as the runtime does, with as many partitions and as
//! long between commits as a test asks for. It stops a partition, crashes, rebalances and replays on request.
//! The same calls give the same outputs, always.
//!
//! ```
//! use kappa_streams::{Builder, TestDriver, codec::{I64, Utf8}};
//! let b = Builder::new("word-count");
//! let counts = b.stream("words", (Utf8, Utf8)).group_by("by-word", (Utf8, Utf8), |_, word| word.clone()).count("counts");
//! counts.to_stream().to("word-counts", (Utf8, I64));
//! let mut driver = TestDriver::new(&b.build()?).partitions(3).start()?;
//! driver.input("words", (Utf8, Utf8)).pipe(&mut driver, "k".into(), "kappa".into(), 10)?;
//! assert_eq!(driver.get(&counts, &"kappa".into())?.map(|row| row.value), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod handles;
mod topics;

pub use handles::{InputTopic, OutputTopic};

use crate::{
    codec::{CodecError, Data},
    dsl::Table,
    processor::{Counters, ProcessError},
    query::{self, Dump, Row, Span},
    record::{Headers, Windowed, millis},
    task::{Commit, InputBatch, Position, ProgressTable, RestoreUpTo, Start, Task, TaskConfig, TaskId},
    topology::{Globals, Plan, PlanError, TopicId, TopicKind, Topology},
};
use bytes::Bytes;
use kappa_protocol::record::partition_for_key;
use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};
use topics::{Logged, Topics};

/// Keys and rows in the order of the key bytes.
type Rows<K, V> = Vec<(K, Row<V>)>;

/// Why the driver cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The topology does not fit its topics.
    #[error("the topology does not fit its topics: {0:?}")]
    Plan(Vec<PlanError>),
    /// A task has failed.
    #[error("task {task}: {source}")]
    Task {
        /// The task.
        task: TaskId,
        /// Its failure.
        source: ProcessError,
    },
    /// A key or value given to or read from the driver does not fit its codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The topology neither reads nor writes this topic.
    #[error("the topology has no topic {topic:?}")]
    Topic {
        /// The name.
        topic: String,
    },
}

/// Settings of a driver to be started.
#[derive(Debug, Clone)]
pub struct TestDriverBuilder {
    topology: Topology,
    partitions: i32,
    per_topic: BTreeMap<String, i32>,
    commit_every: usize,
    config: TaskConfig,
}

impl TestDriverBuilder {
    /// Partitions of every topic that has no count of its own. Default 1.
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Partitions of one topic.
    pub fn topic_partitions(mut self, topic: &str, partitions: i32) -> Self {
        self.per_topic.insert(topic.to_owned(), partitions);
        self
    }

    /// Records a task processes between commits. Default 1: a commit after every record.
    pub fn commit_every(mut self, records: usize) -> Self {
        self.commit_every = records.max(1);
        self
    }

    /// How far one partition's event time may run ahead of the others'. Default: no limit.
    pub fn skew_bound(mut self, bound: Duration) -> Self {
        self.config.skew_bound_ms = Some(millis(bound));
        self
    }

    /// How long, on the manual clock, a partition at its end holds the others. Default 0.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout_ms = millis(timeout);
        self
    }

    /// Skips and counts records that cannot be decoded instead of failing.
    pub fn skip_undecodable(mut self) -> Self {
        self.config.skip_undecodable = true;
        self
    }

    /// Makes the tasks.
    pub fn start(self) -> Result<TestDriver, DriverError> {
        let count = |topic: &str| Some(self.per_topic.get(topic).copied().unwrap_or(self.partitions));
        let plan = self.topology.plan(count).map_err(DriverError::Plan)?;
        let mut driver = TestDriver {
            globals: Globals::new(&self.topology),
            progress: Arc::new(ProgressTable::new(&self.topology)),
            topology: self.topology,
            plan,
            config: self.config,
            commit_every: self.commit_every,
            tasks: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            topics: Topics::default(),
            committed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            lost: Counters::default(),
            now: 0,
        };
        driver.assign()?;
        Ok(driver)
    }
}

/// A topology running in memory.
pub struct TestDriver {
    topology: Topology,
    plan: Plan,
    config: TaskConfig,
    commit_every: usize,
    globals: Globals,
    progress: Arc<ProgressTable>,
    tasks: BTreeMap<TaskId, Task>,
    /// Records processed since the last commit, by task.
    uncommitted: BTreeMap<TaskId, usize>,
    topics: Topics,
    committed: BTreeMap<(TopicId, i32), (i64, String)>,
    pinned: BTreeMap<(TopicId, i32), i64>,
    /// Counters of tasks that have gone.
    lost: Counters,
    now: i64,
}

impl std::fmt::Debug for TestDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Vec<&TaskId> = self.tasks.keys().collect();
        f.debug_struct("TestDriver").field("tasks", &tasks).field("now", &self.now).finish_non_exhaustive()
    }
}

impl TestDriver {
    /// Settings for a driver of this topology; `start()` makes it.
    #[expect(clippy::new_ret_no_self, reason = "a driver begins as its settings")]
    pub fn new(topology: &Topology) -> TestDriverBuilder {
        TestDriverBuilder {
            topology: topology.clone(),
            partitions: 1,
            per_topic: BTreeMap::new(),
            commit_every: 1,
            config: TaskConfig {
                skew_bound_ms: None,
                idle_timeout_ms: 0,
                skip_undecodable: false,
                acknowledge_progress: false,
                buffer_records: 1000,
            },
        }
    }

    fn topic_id(&self, name: &str) -> Result<TopicId, DriverError> {
        let mut topics = self.topology.0.topics.iter();
        let known = topics.position(|topic| topic.kind == TopicKind::External && &*topic.name == name);
        let known = known.ok_or_else(|| DriverError::Topic { topic: name.to_owned() })?;
        Ok(TopicId(known as u32))
    }

    fn partitions_of(&self, topic: TopicId) -> i32 {
        self.plan.partition_counts.get(topic.0 as usize).copied().unwrap_or(1).max(1)
    }

    /// Appends a record to a topic without running anything; `partition` defaults to that of the key, or 0.
    pub fn append(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        timestamp: i64,
        headers: Headers,
    ) -> Result<(), DriverError> {
        let id = self.topic_id(topic)?;
        for (index, global) in self.topology.0.globals.iter().enumerate() {
            if let (true, Some(table)) = (global.topic == id, self.globals.table(index))
                && let Err(dropped) = table.apply(key, value, timestamp)
                && let Err(error) = self.lost.count(dropped)
                && !self.config.skip_undecodable
            {
                return Err(error.into());
            }
        }
        let by_key = || key.map_or(0, |key| partition_for_key(key, self.partitions_of(id)));
        let partition = partition.unwrap_or_else(by_key);
        let (key, value) = (key.map(Bytes::copy_from_slice), value.map(Bytes::copy_from_slice));
        self.topics.append(id, partition, Logged { timestamp, key, value, headers });
        Ok(())
    }

    /// Gives a batch straight to the tasks that read a partition, and runs. The batch does not become part of the
    /// topic, so a crash or a replay does not see it: this is for measuring the engine alone.
    pub fn feed(&mut self, topic: &str, partition: i32, batch: &InputBatch) -> Result<(), DriverError> {
        let topic = self.topic_id(topic)?;
        for (id, task) in &mut self.tasks {
            if id.partition == partition && task.fetch_from(topic).is_some() {
                task.add(topic, batch.clone());
            }
        }
        self.run()
    }

    /// Runs until no task can go on.
    pub fn run(&mut self) -> Result<(), DriverError> {
        loop {
            let before = self.counters().records_in;
            let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
            // Everyone learns what is there before anyone goes on, as a poll of the consumer has it.
            ids.iter().for_each(|id| self.deliver(*id));
            for id in ids {
                self.step(id)?;
            }
            if self.counters().records_in == before && !self.behind() {
                return Ok(());
            }
        }
    }

    /// Whether a fetch would bring a task records it wants.
    fn behind(&self) -> bool {
        self.tasks.values().any(|task| {
            let mut inputs = task.inputs().filter(|topic| task.wants(*topic));
            inputs.any(|topic| self.fetch(task, topic).is_some())
        })
    }

    fn fetch(&self, task: &Task, topic: TopicId) -> Option<InputBatch> {
        let partition = task.id().partition;
        let end = self.topics.end(topic, partition);
        let end = self.pinned.get(&(topic, partition)).map_or(end, |pinned| end.min(*pinned));
        self.topics.fetch(topic, partition, task.fetch_from(topic)?, end)
    }

    /// Brings a task what it wants of its inputs, and where they end.
    fn deliver(&mut self, id: TaskId) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        for topic in task.inputs().collect::<Vec<_>>() {
            task.set_end(topic, self.topics.end(topic, id.partition));
            if task.wants(topic)
                && let Some(batch) = self.fetch(&task, topic)
            {
                task.add(topic, batch);
            }
        }
        task.tick(self.now);
        self.tasks.insert(id, task);
    }

    /// Lets one task process up to the next commit, and write.
    fn step(&mut self, id: TaskId) -> Result<(), DriverError> {
        let failed = |source| DriverError::Task { task: id, source };
        let Some(mut task) = self.tasks.remove(&id) else { return Ok(()) };
        let done = self.uncommitted.get(&id).copied().unwrap_or(0);
        let before = task.counters().records_in;
        let ran = task.run(self.now, self.commit_every - done.min(self.commit_every - 1)).map_err(failed);
        let processed = usize::try_from(task.counters().records_in - before).unwrap_or(usize::MAX);
        let (outputs, last) = task.take_outputs();
        outputs.into_records().for_each(|output| self.topics.write(output));
        task.acknowledged(last);
        let committed =
            if done + processed >= self.commit_every { self.commit_task(&mut task) } else { Ok(()) };
        if done + processed < self.commit_every {
            self.uncommitted.insert(id, done + processed);
        }
        self.tasks.insert(id, task);
        ran?;
        committed
    }

    fn commit_task(&mut self, task: &mut Task) -> Result<(), DriverError> {
        let id = task.id();
        let commit = task.commit().map_err(|source| DriverError::Task { task: id, source })?;
        self.uncommitted.remove(&id);
        let Commit { outputs, changelog, offsets } = commit;
        outputs.into_records().chain(changelog.into_records()).for_each(|output| self.topics.write(output));
        for offset in &offsets {
            let Position { topic, partition, offset: next } = offset.position;
            self.committed.insert((topic, partition), (next, offset.metadata.clone()));
        }
        task.committed(&offsets);
        Ok(())
    }

    /// Commits every task now.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            if let Some(mut task) = self.tasks.remove(&id) {
                let committed = self.commit_task(&mut task);
                self.tasks.insert(id, task);
                committed?;
            }
        }
        Ok(())
    }

    /// Moves the clock forward and runs.
    pub fn advance(&mut self, by: Duration) -> Result<(), DriverError> {
        self.now = self.now.saturating_add(millis(by));
        self.run()
    }

    /// Makes fetches from a partition bring nothing although records are there, until [`TestDriver::resume`].
    pub fn stall(&mut self, topic: &str, partition: i32) -> Result<(), DriverError> {
        let topic = self.topic_id(topic)?;
        self.topics.stall(topic, partition, true);
        Ok(())
    }

    /// Ends a stall.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<(), DriverError> {
        let topic = self.topic_id(topic)?;
        self.topics.stall(topic, partition, false);
        Ok(())
    }

    /// Forgets all tasks without a commit, and makes them again from changelogs and committed offsets.
    pub fn crash(&mut self) -> Result<(), DriverError> {
        self.forget();
        self.assign()
    }

    /// Commits, then makes all tasks again, as when they move to another instance.
    pub fn rebalance(&mut self) -> Result<(), DriverError> {
        self.commit()?;
        self.forget();
        self.assign()
    }

    /// Drops every store, changelog, repartition topic and offset, pins the inputs at their present ends and
    /// begins anew at offset 0; [`TestDriver::run`] replays. Counters begin at 0 again.
    pub fn replay(&mut self) -> Result<(), DriverError> {
        self.forget();
        self.lost = Counters::default();
        self.committed.clear();
        for (index, topic) in self.topology.0.topics.iter().enumerate() {
            let id = TopicId(index as u32);
            if topic.kind != TopicKind::External {
                self.topics.clear(id);
                continue;
            }
            for partition in 0..self.partitions_of(id) {
                self.pinned.insert((id, partition), self.topics.end(id, partition));
            }
        }
        self.assign()
    }

    fn forget(&mut self) {
        self.lost = self.counters();
        self.tasks.clear();
        self.uncommitted.clear();
    }

    fn assign(&mut self) -> Result<(), DriverError> {
        for (sub_topology, plan) in self.plan.sub_topologies.iter().enumerate() {
            for partition in 0..plan.tasks {
                let id = TaskId { sub_topology, partition };
                let inputs = plan.inputs.iter().filter(|topic| self.partitions_of(**topic) > partition);
                let starts: Vec<Start> = inputs.map(|topic| self.start_of(*topic, partition)).collect();
                let shared = (&self.globals, Arc::clone(&self.progress));
                let mut task = Task::new(&self.topology, &self.plan, id, self.config, shared, &starts);
                restore(&self.topics, &mut task).map_err(|source| DriverError::Task { task: id, source })?;
                self.tasks.insert(id, task);
            }
        }
        Ok(())
    }

    fn start_of(&self, topic: TopicId, partition: i32) -> Start {
        let committed = self.committed.get(&(topic, partition));
        let position = Position { topic, partition, offset: committed.map_or(0, |(offset, _)| *offset) };
        Start {
            position,
            metadata: committed.map(|(_, metadata)| metadata.clone()),
            committed: committed.is_some(),
            pinned_end: self.pinned.get(&(topic, partition)).copied(),
        }
    }

    /// The row of a key.
    pub fn get<K: Data, V: Data>(&self, table: &Table<K, V>, key: &K) -> Result<Option<Row<V>>, DriverError> {
        let mut encoded = Vec::new();
        table.codecs.0.encode(key, &mut encoded)?;
        Ok(self.tasks.values().find_map(|task| query::get(task, table, key, &encoded)))
    }

    /// All rows in the order of their key bytes.
    pub fn rows<K: Data, V: Data>(&self, table: &Table<K, V>) -> Result<Rows<K, V>, DriverError> {
        self.scan(table, &Span::ALL)
    }

    /// The rows whose keys lie, in the order of their bytes, between two keys, both inclusive.
    pub fn range<K: Data, V: Data>(
        &self,
        table: &Table<K, V>,
        keys: RangeInclusive<&K>,
    ) -> Result<Rows<K, V>, DriverError> {
        self.scan(table, &Span::keys(&table.codecs.0, keys.start(), keys.end())?)
    }

    /// The windows of a key whose start lies in `starts`, earliest first.
    pub fn fetch_windows<K: Data, V: Data>(
        &self,
        table: &Table<Windowed<K>, V>,
        key: &K,
        starts: RangeInclusive<i64>,
    ) -> Result<Rows<Windowed<K>, V>, DriverError> {
        let window = crate::record::Window { start: 0, end: 0 };
        let windowed = Windowed { key: key.clone(), window };
        self.scan(table, &Span::windows(&table.codecs.0, &windowed, &starts)?)
    }

    fn scan<K: Data, V: Data>(&self, table: &Table<K, V>, span: &Span) -> Result<Rows<K, V>, DriverError> {
        let mut rows = Vec::new();
        for task in self.tasks.values() {
            rows.extend(query::scan(task, table, span, usize::MAX)?);
        }
        Ok(query::merge(rows))
    }

    /// Every row of every store by (store, task), in key-byte order.
    pub fn dump(&self) -> Result<Dump, DriverError> {
        let mut dump = Dump::new();
        for (id, task) in &self.tasks {
            let stores = task.dump().map_err(|source| DriverError::Task { task: *id, source })?;
            dump.extend(stores.into_iter().map(|(store, rows)| ((store, *id), rows)));
        }
        Ok(dump)
    }

    /// What all tasks have counted.
    pub fn counters(&self) -> Counters {
        let mut sum = self.lost;
        self.tasks.values().for_each(|task| sum.add(&task.counters()));
        sum
    }

    /// Whether a replay has reached its pinned ends and nothing is left in repartition topics.
    pub fn replayed(&self) -> bool {
        self.tasks.values().all(|task| task.finished() || task.drained())
    }
}

fn restore(topics: &Topics, task: &mut Task) -> Result<(), ProcessError> {
    for wish in task.restore_wishes() {
        let end = match wish.up_to {
            RestoreUpTo::End => topics.end(wish.topic, wish.partition),
            RestoreUpTo::Offset(offset) => offset,
        };
        let mut offset = 0;
        while let Some(batch) = topics.fetch(wish.topic, wish.partition, offset, end) {
            offset = batch.next_offset;
            task.restore(wish.store, &batch)?;
        }
    }
    task.restored_all();
    Ok(())
}
