//! Runs a topology without a broker: the engine's own instance, topics in memory, a clock set by hand.
//!
//! The driver carries out at once what its instance asks for, with as many partitions and as
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
pub(crate) mod topics;

pub use handles::{InputTopic, OutputTopic};

use crate::{
    codec::{CodecError, Data},
    dsl::Table,
    instance::{
        Action, Appended, Consumed, Event, Failure, Fence, Found, Instance, InstanceConfig, Moment, Outcome,
        Pacing, Place, Setup, Sight,
    },
    processor::{Counters, Outputs, ProcessError},
    query::{self, Dump, Row, Span},
    record::{Headers, Meta, Windowed, millis},
    task::{
        ChangelogRange, InputBatch, Life, Position, ProgressTable, RestoreWish, StampConfig, Start, Task,
        TaskConfig, TaskId,
    },
    topology::{Globals, PlanError, TopicId, TopicKind, Topology},
};
use bytes::Bytes;
use kappa_protocol::record::partition_for_key;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};
use topics::{Logged, Topics};

/// In how many steps the clock moves, so that what has to be seen for a time is seen.
const ADVANCE_STEPS: i64 = 8;

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
        let pacing = Pacing::Records(self.commit_every);
        let setup = Arc::new(Setup {
            globals: Globals::new(&self.topology),
            progress: Arc::new(ProgressTable::new(&self.topology)),
            topology: self.topology,
            plan,
            config: InstanceConfig { task: self.config, pacing, purge_ms: None },
        });
        let fence = Arc::new(Fence::new(i64::MAX));
        let mut driver = TestDriver {
            instance: Instance::new(Arc::clone(&setup), Arc::clone(&fence)),
            setup,
            fence,
            topics: Topics::default(),
            fetching: BTreeMap::new(),
            committed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            lost: Counters::default(),
            now: 0,
            appended: false,
        };
        driver.assign()?;
        Ok(driver)
    }
}

/// A topology running in memory.
pub struct TestDriver {
    setup: Arc<Setup>,
    fence: Arc<Fence>,
    instance: Instance,
    topics: Topics,
    /// Where fetches of the inputs go on.
    fetching: BTreeMap<Place, i64>,
    committed: BTreeMap<Place, (i64, String)>,
    pinned: BTreeMap<Place, i64>,
    /// Counters of instances that have gone.
    lost: Counters,
    now: i64,
    /// Whether tasks have written anything since it was last looked at.
    appended: bool,
}

impl std::fmt::Debug for TestDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Vec<&TaskId> = self.instance.tasks().keys().collect();
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
                // Everything is told at once.
                stamps: StampConfig { interval_ms: 0, ahead_bytes: u64::MAX },
                buffer_records: 1000,
                buffer_bytes: usize::MAX,
            },
        }
    }

    fn topic_id(&self, name: &str) -> Result<TopicId, DriverError> {
        let mut topics = self.setup.topology.0.topics.iter();
        let known = topics.position(|topic| topic.kind == TopicKind::External && &*topic.name == name);
        let known = known.ok_or_else(|| DriverError::Topic { topic: name.to_owned() })?;
        Ok(TopicId(known as u32))
    }

    fn partitions_of(&self, topic: TopicId) -> i32 {
        self.setup.partitions(topic).max(1)
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
        let by_key = || key.map_or(0, |key| partition_for_key(key, self.partitions_of(id)));
        let partition = partition.unwrap_or_else(by_key);
        let offset = self.topics.end(id, partition);
        let record = Meta { topic, partition, offset, timestamp, headers: &headers };
        let Setup { topology, globals, config, .. } = &*self.setup;
        for (index, global) in topology.0.globals.iter().enumerate() {
            if let (true, Some(table)) = (global.topic == id, globals.table(index))
                && let Err(dropped) = table.apply(&record, key, value)
                && let Err(error) = self.lost.count(dropped)
                && !topology.skips_undecodable(index, config.task.skip_undecodable)
            {
                return Err(error.into());
            }
        }
        let (key, value) = (key.map(Bytes::copy_from_slice), value.map(Bytes::copy_from_slice));
        self.topics.append(id, partition, Logged::new(timestamp, key, value, headers));
        Ok(())
    }

    /// Gives a batch straight to the tasks that read a partition, and runs. The batch does not become part of the
    /// topic, so a crash or a replay does not see it: this is for measuring the engine alone.
    pub fn feed(&mut self, topic: &str, partition: i32, batch: &InputBatch) -> Result<(), DriverError> {
        let place = (self.topic_id(topic)?, partition);
        self.tell(Event::Fetched { place, batch: batch.clone() })?;
        self.run()
    }

    /// Runs until no task can go on.
    pub fn run(&mut self) -> Result<(), DriverError> {
        loop {
            // Everyone learns what is there before anyone goes on, as a poll of the consumer has it.
            self.appended = false;
            let delivered = self.deliver()?;
            self.tell(Event::Tick)?;
            if !delivered && !self.appended && !self.instance.has_work() {
                return Ok(());
            }
            while self.instance.has_work() {
                self.tell(Event::Work)?;
            }
        }
    }

    /// Brings the instance what it wants of its inputs, and where they end. Returns whether there was anything.
    fn deliver(&mut self) -> Result<bool, DriverError> {
        let mut delivered = false;
        for (place, at) in self.fetching.clone() {
            let end = self.topics.end(place.0, place.1);
            self.tell(Event::Passed { place, position: None, end: Some(end) })?;
            let end = self.pinned.get(&place).map_or(end, |pinned| end.min(*pinned));
            if self.instance.is_paused(place) {
                continue;
            }
            if let Some(batch) = self.topics.fetch(place.0, place.1, at, end) {
                self.fetching.insert(place, batch.next_offset);
                self.tell(Event::Fetched { place, batch })?;
                delivered = true;
            }
        }
        Ok(delivered)
    }

    /// Tells the instance what has happened, and carries out what it wants until it wants nothing more.
    fn tell(&mut self, event: Event) -> Result<(), DriverError> {
        let group = Some(Sight { age_ms: 0, generation: Some(0) });
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            let told = self.instance.on(Moment { ms: self.now, group }, event, &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action, &mut events);
            }
            told.map_err(|Failure { task, source }| DriverError::Task { task, source })?;
        }
        Ok(())
    }

    fn carry_out(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::LookUp { lookup, tasks } => {
                let inputs = tasks.iter().flat_map(|id| self.setup.inputs(*id));
                let starts = inputs.map(|place| self.start_of(place)).collect();
                let logs = tasks.iter().flat_map(|id| self.setup.changelogs(*id));
                let range =
                    |place: Place| ChangelogRange { place, begin: 0, end: self.topics.end(place.0, place.1) };
                let found = Found { starts, changelogs: logs.map(range).collect(), kept: Vec::new() };
                events.push_back(Event::Found { lookup, found });
            }
            Action::Fetch(Position { topic, partition, offset }) => {
                self.fetching.insert((topic, partition), offset);
            }
            Action::Restore { life, wishes } => {
                wishes.into_iter().for_each(|wish| self.restore(life, wish, events));
            }
            Action::Append(Appended { outputs, .. }) => self.write(outputs, events),
            Action::AskReaders(places) => {
                let consumed = |place: Place| Consumed {
                    place,
                    end: self.topics.end(place.0, place.1),
                    committed: self.committed.get(&place).cloned(),
                };
                events.push_back(Event::Consumed(places.into_iter().map(consumed).collect()));
            }
            Action::Commit { commit, rows, offsets } => {
                rows.into_iter().for_each(|Appended { outputs, .. }| self.write(outputs, events));
                for offset in offsets {
                    let Position { topic, partition, offset: next } = offset.position;
                    self.committed.insert((topic, partition), (next, offset.metadata));
                }
                events.push_back(Event::CommitEnded { commit, outcome: Outcome::Done, logged: Vec::new() });
            }
            // A fetch asks the instance whether it wants more; nothing is on its way that could be discarded.
            Action::Pause(_) | Action::Resume(_) | Action::Discard => {}
            Action::BeyondEnd { .. } => unreachable!("topics in memory keep all"),
            // What it takes back is restored, which is what it is to show.
            Action::Purge(_) | Action::Shelve { .. } => {}
            Action::Settled { .. } | Action::Closed { .. } => {}
        }
    }

    fn write(&mut self, outputs: Outputs, events: &mut VecDeque<Event>) {
        self.appended = true;
        events.push_back(Event::Sent { bytes: outputs.size() });
        outputs.into_records().for_each(|output| self.topics.write(output));
    }

    fn restore(&self, life: Life, wish: RestoreWish, events: &mut VecDeque<Event>) {
        let RestoreWish { store, place: (topic, partition), from, up_to } = wish;
        let mut offset = from;
        while let Some(batch) = self.topics.fetch(topic, partition, offset, up_to) {
            offset = batch.next_offset;
            events.push_back(Event::Restored { life, store, batch });
        }
        events.push_back(Event::RestoreEnded { life, store });
    }

    /// Commits every task now.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        self.tell(Event::Commit)
    }

    /// Moves the clock forward, in a few steps, and runs at each.
    pub fn advance(&mut self, by: Duration) -> Result<(), DriverError> {
        let (begun, by) = (self.now, millis(by));
        let steps = by.clamp(1, ADVANCE_STEPS);
        for step in 1..=steps {
            self.now = begun.saturating_add((i128::from(by) * i128::from(step) / i128::from(steps)) as i64);
            self.run()?;
        }
        Ok(())
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

    /// Makes all tasks again once they have committed, as when they move to another instance.
    pub fn rebalance(&mut self) -> Result<(), DriverError> {
        self.tell(Event::Revoked(self.places()))?;
        self.assign()
    }

    /// Drops every store, changelog, repartition topic and offset, pins the inputs at their present ends and
    /// begins anew at offset 0; [`TestDriver::run`] replays. Counters begin at 0 again.
    pub fn replay(&mut self) -> Result<(), DriverError> {
        self.forget();
        self.lost = Counters::default();
        self.committed.clear();
        for (index, topic) in self.setup.clone().topology.0.topics.iter().enumerate() {
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
        self.fetching.clear();
        self.instance = Instance::new(Arc::clone(&self.setup), Arc::clone(&self.fence));
    }

    fn assign(&mut self) -> Result<(), DriverError> {
        self.tell(Event::Assigned(self.places()))?;
        while self.instance.tasks().values().any(Task::is_restoring) {
            self.tell(Event::Work)?;
        }
        Ok(())
    }

    /// The partitions of all inputs.
    fn places(&self) -> Vec<Place> {
        let plans = self.setup.plan.sub_topologies.iter().enumerate();
        let ids = plans.flat_map(|(sub_topology, plan)| {
            (0..plan.tasks).map(move |partition| TaskId { sub_topology, partition })
        });
        ids.flat_map(|id| self.setup.inputs(id)).collect()
    }

    fn start_of(&self, place: Place) -> Start {
        let committed = self.committed.get(&place);
        let (topic, partition) = place;
        Start {
            position: Position { topic, partition, offset: committed.map_or(0, |(offset, _)| *offset) },
            metadata: committed.map(|(_, metadata)| metadata.clone()),
            committed: committed.is_some(),
            pinned_end: self.pinned.get(&place).copied(),
        }
    }

    /// The row of a key.
    pub fn get<K: Data, V: Data>(&self, table: &Table<K, V>, key: &K) -> Result<Option<Row<V>>, DriverError> {
        let mut encoded = Vec::new();
        table.codecs.0.encode(key, &mut encoded)?;
        Ok(self.instance.tasks().values().find_map(|task| query::get(task, table, key, &encoded)))
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
        for task in self.instance.tasks().values() {
            rows.extend(query::scan(task, table, span, usize::MAX)?);
        }
        Ok(query::merge(rows))
    }

    /// Every row of every store by (store, task), in key-byte order.
    pub fn dump(&self) -> Result<Dump, DriverError> {
        let mut dump = Dump::new();
        for (id, task) in self.instance.tasks() {
            let stores = task.dump().map_err(|source| DriverError::Task { task: *id, source })?;
            dump.extend(stores.into_iter().map(|(store, rows)| ((store, *id), rows)));
        }
        Ok(dump)
    }

    /// All records of a topic, by partition.
    #[cfg(test)]
    pub(crate) fn written(&self, topic: TopicId) -> Vec<(i32, Logged)> {
        self.topics.all(topic)
    }

    /// What all tasks have counted.
    pub fn counters(&self) -> Counters {
        let mut sum = self.lost;
        sum.add(&self.instance.counters());
        sum
    }

    /// Whether a replay has reached its pinned ends and nothing is left in repartition topics.
    pub fn replayed(&self) -> bool {
        self.instance.tasks().values().all(|task| task.finished() || task.drained())
    }
}
