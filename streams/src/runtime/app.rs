//! The handle of a running application.

use super::{
    AppError, Config, EndOffsets, GlobalView, QueryError, RestoreProgress, StartError, State, View,
    config::Cluster,
    generation::{self, GenerationRecord},
    globals::GlobalReader,
    prometheus::Snapshot,
    shared::{Shared, Status, TopicNames},
    shelf::SharedShelf,
    state::{self, Restores},
    topics, watch as topic_watch,
    workers::{self, WORKERS_MAX, Workers},
};
use crate::{
    codec::Data,
    dsl::{GlobalTable, Table},
    instance::{Setup, Tasks},
    processor::{Counters, ProcessError, panic_text},
    query::Dump,
    task::{ProgressTable, TaskId},
    topology::{Globals, TopicId, TopicKind, Topology},
};
use kappa_client::{Admin, Client, ClientConfig, Consumer, ConsumerConfig, TopicPartition};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

/// Follows global tables. Should that end by a panic the application fails: it would go on with rows as they were.
async fn follow_globals(reader: GlobalReader, shared: Arc<Shared>) {
    // The set ends it when this is aborted.
    let mut following = JoinSet::from_iter([reader.follow(Arc::clone(&shared))]);
    let Some(Err(ended)) = following.join_next().await else { return };
    let names: Vec<String> =
        shared.setup.topology.0.globals.iter().map(|table| format!("{:?}", table.name)).collect();
    let one_of = if names.len() > 1 { "one of the global tables" } else { "global table" };
    let tables = format!("{one_of} {}", names.join(", "));
    // Nobody cancels it but a runtime that ends.
    let Ok(panic) = ended.try_into_panic() else { return };
    let message = panic_text(&*panic);
    shared.fail(AppError::GlobalEnded { tables, message });
}

/// A topology running against a cluster, until [`App::close`] or a failure.
///
/// Dropping the handle does not stop the application; [`App::close`] does.
///
/// ```no_run
/// use kappa_streams::{App, Builder, Config, codec::{I64, Utf8, opt}};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let b = Builder::new("word-count");
/// let counts = b
///     .stream("lines", (opt(Utf8), Utf8))
///     .flat_map_values(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
///     .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
///     .count("counts");
/// counts.to_stream().to("word-counts", (Utf8, I64));
/// let app = App::start(&b.build()?, Config::bootstrap("127.0.0.1:9092")).await?;
/// println!("{:?}", app.view(&counts).get("kappa").await?.value);
/// app.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct App {
    shared: Arc<Shared>,
    generation: u32,
    /// What runs beside the workers until the application closes.
    beside: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Whether all of these have ended.
    ended: watch::Sender<bool>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("application", &self.shared.setup.topology.application())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Creates what is missing of the internal topics, loads global tables, and starts the workers. Returns before
    /// the group has given out its tasks; queries wait for them.
    pub async fn start(topology: &Topology, config: Config) -> Result<App, StartError> {
        let client = match &config.cluster {
            Cluster::Client(client) => client.clone(),
            Cluster::Bootstrap(servers) => Client::connect(servers, ClientConfig::default()).await?,
        };
        let application = topology.application();
        let generation = generation::choose(&client, application, config.generation).await?;
        let names = generation::names(application, generation);
        let (plan, inputs) = topics::plan(topology, &client, (&config, &names)).await?;
        let topic_names = TopicNames::new(topology, &names);
        let ends = config.replay_until.iter().flat_map(EndOffsets::iter);
        let sources = topology.source_topics().into_iter();
        let record = GenerationRecord {
            generation,
            fingerprint: topology.fingerprint(),
            group: names.group().to_owned(),
            topics: topics::internal(&plan, &topic_names).into_keys().collect(),
            contents: Some(topology.contents(&names)),
            ids: BTreeMap::new(),
            making: BTreeSet::new(),
            sources: sources.filter_map(|name| Some((name.to_owned(), inputs.get(name)?.id()?))).collect(),
            replay_until: ends.map(|(topic, partition, end)| (topic.to_owned(), partition, end)).collect(),
        };
        let internal =
            generation::begin(&client, application, &config, (&plan, &topic_names), record).await?;
        let globals = Globals::new(topology);
        let counts = Arc::clone(&plan.partition_counts);
        let reader =
            GlobalReader::load(topology, &client, (&topic_names, &counts), &globals, config.skip_undecodable)
                .await?;
        let globals_dropped = reader.as_ref().map(GlobalReader::dropped).unwrap_or_default();
        let status = Status { globals: globals_dropped, ..Status::default() };
        let (progressed, _) = watch::channel(());
        let ticks = progressed.clone();
        let progress = ProgressTable::new(topology).on_change(move || {
            ticks.send_replace(());
        });
        let setup = Setup {
            topology: topology.clone(),
            plan,
            globals,
            progress: Arc::new(progress),
            config: config.instance_config(),
        };
        let shared = Arc::new(Shared {
            setup: Arc::new(setup),
            topics: topic_names,
            names,
            client,
            counted_on: inputs.into_iter().chain(internal).collect(),
            progressed,
            status: Mutex::new(status),
            reported: watch::channel(()).0,
            state: watch::channel(State::Created).0,
            restores: Restores::default(),
            owners: Arc::default(),
            shelf: SharedShelf::new(config.session_timeout),
            workers: Workers::new(),
            closing: watch::channel(false).0,
            failure: Mutex::new(None),
            config,
        });
        let mut beside = vec![tokio::spawn(topic_watch::follow(Arc::clone(&shared)))];
        beside.push(tokio::spawn(state::follow(Arc::clone(&shared))));
        beside.extend(reader.map(|reader| tokio::spawn(follow_globals(reader, Arc::clone(&shared)))));
        for _ in 0..shared.config.workers {
            workers::start(&shared).inspect_err(|_| {
                shared.closing.send_replace(true);
            })?;
        }
        Ok(App { shared, generation, beside: Mutex::new(beside), ended: watch::channel(false).0 })
    }

    /// The generation that runs.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// A handle to query a table by.
    pub fn view<K: Data, V: Data>(&self, table: &Table<K, V>) -> View<K, V> {
        View::new(Arc::clone(&self.shared), table)
    }

    /// A handle to query a global table by.
    pub fn global_view<K: Data, V: Data>(&self, table: &GlobalTable<K, V>) -> GlobalView<K, V> {
        GlobalView::new(Arc::clone(&self.shared), table)
    }

    /// What all tasks and global tables of this instance have counted so far, as of each worker's last commit or change of tasks.
    pub fn counters(&self) -> Counters {
        let status = self.shared.status.lock();
        let mut sum = status.globals;
        sum.add(&status.gone);
        status.counters.values().for_each(|counters| sum.add(counters));
        sum
    }

    /// What all running tasks of this instance have counted up to now.
    pub async fn counters_now(&self) -> Result<BTreeMap<TaskId, Counters>, QueryError> {
        let parts =
            self.ask(|tasks| tasks.iter().map(|(id, task)| (*id, task.counters())).collect::<Vec<_>>());
        Ok(parts.await?.into_iter().flatten().collect())
    }

    /// Every row of every store of this instance.
    pub async fn dump(&self) -> Result<Dump, QueryError> {
        let parts = self.ask(|tasks| {
            let dump = |(id, task): (&TaskId, &crate::task::Task)| match task.dump() {
                Ok(stores) => Ok((*id, stores)),
                Err(source) => Err((*id, source)),
            };
            tasks.iter().map(dump).collect::<Result<Vec<_>, (TaskId, ProcessError)>>()
        });
        let mut dump = Dump::new();
        for part in parts.await? {
            for (task, stores) in part.map_err(|(task, source)| QueryError::Task { task, source })? {
                dump.extend(stores.into_iter().map(|(store, rows)| ((store, task), rows)));
            }
        }
        Ok(dump)
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Tasks) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, QueryError> {
        let waited = self.shared.config.query_timeout;
        let asked = async {
            let mut answers = Vec::new();
            for worker in self.shared.workers.asks()? {
                let (answer, answered) = oneshot::channel();
                let question = question.clone();
                // Whoever asked may have given up.
                let ask = Box::new(move |tasks: &Tasks| drop(answer.send(question(tasks))));
                // One that has left has no tasks any more.
                match worker.send(ask).await {
                    Ok(()) => answers.push(answered),
                    Err(_) => self.shared.may_be_asked()?,
                }
            }
            let mut parts = Vec::new();
            for answered in answers {
                match answered.await {
                    Ok(part) => parts.push(part),
                    Err(_) => self.shared.may_be_asked()?,
                }
            }
            Ok(parts)
        };
        tokio::time::timeout(waited, asked).await.map_err(|_| QueryError::Busy { waited })?
    }

    /// Where the sources end now: what [`Config::replay_until`] and [`App::caught_up`] take.
    pub async fn end_offsets(&self) -> Result<EndOffsets, AppError> {
        let external = |topic: &TopicId| self.shared.setup.topology.topic(*topic).kind == TopicKind::External;
        let plan = &self.shared.setup.plan.sub_topologies;
        let topics: Vec<TopicId> =
            plan.iter().flat_map(|part| part.inputs.iter().copied()).filter(external).collect();
        Ok(EndOffsets(self.ends_of(&topics).await?))
    }

    async fn ends_of(&self, topics: &[TopicId]) -> Result<BTreeMap<TopicPartition, i64>, AppError> {
        let partitions = topics.iter().flat_map(|topic| {
            (0..self.shared.partitions(*topic))
                .map(|partition| self.shared.topics.partition(*topic, partition))
        });
        let partitions: Vec<TopicPartition> = partitions.collect();
        let config = ConsumerConfig::default().auto_commit(None::<Duration>);
        let consumer = Consumer::new(&self.shared.client, config)?;
        let ends = consumer.end_offsets(&partitions).await;
        consumer.close().await?;
        Ok(ends?)
    }

    async fn begins_of(
        &self,
        partitions: impl Iterator<Item = &TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, i64>, AppError> {
        let partitions: Vec<TopicPartition> = partitions.cloned().collect();
        let config = ConsumerConfig::default().auto_commit(None::<Duration>);
        let consumer = Consumer::new(&self.shared.client, config)?;
        let begins = consumer.beginning_offsets(&partitions).await;
        consumer.close().await?;
        Ok(begins?)
    }

    /// Waits until every source is processed up to these offsets, with everything that follows from it: every
    /// repartition record consumed, every output and changelog record acknowledged, and all of it committed, by this
    /// instance or others of the group.
    pub async fn caught_up(&self, ends: &EndOffsets) -> Result<(), AppError> {
        let mut wanted = ends.0.clone();
        let parts = &self.shared.setup.topology.0.sub_topologies;
        let mut done = vec![false; parts.len()];
        while done.iter().any(|done| !done) {
            let before = done.clone();
            for (number, part) in parts.iter().enumerate() {
                let writers = parts
                    .iter()
                    .enumerate()
                    .filter(|(_, writer)| writer.outputs.iter().any(|topic| part.inputs.contains(topic)));
                let fed = writers.clone().all(|(writer, _)| done.get(writer).copied().unwrap_or(true));
                if done.get(number).copied().unwrap_or(true) || !fed {
                    continue;
                }
                self.reached(number, &wanted).await?;
                let internal =
                    |topic: &&TopicId| self.shared.setup.topology.topic(**topic).kind != TopicKind::External;
                let written: Vec<TopicId> = part.outputs.iter().filter(internal).copied().collect();
                wanted.extend(self.ends_of(&written).await?);
                if let Some(done) = done.get_mut(number) {
                    *done = true;
                }
            }
            // A topology whose parts feed each other in a circle has no order; all of them are asked for then.
            if done == before {
                for number in 0..parts.len() {
                    self.reached(number, &wanted).await?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until the tasks of a sub-topology have committed up to these offsets, here or in other instances.
    async fn reached(
        &self,
        sub_topology: usize,
        wanted: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), AppError> {
        let mut reported = self.shared.reported.subscribe();
        loop {
            self.check()?;
            let open = self.open(sub_topology, wanted);
            if open.is_empty() {
                return Ok(());
            }
            if open.iter().all(|(_, here)| !here) {
                let committed =
                    Admin::new(&self.shared.client).group_offsets(self.shared.names.group()).await?;
                // Where there is nothing to read there is nothing to commit.
                let begins = self.begins_of(open.iter().map(|(partition, _)| partition)).await?;
                let reached = |(partition, _): &(TopicPartition, bool)| {
                    let end = wanted.get(partition).copied().unwrap_or(0);
                    let committed = committed.get(partition).map(|committed| committed.offset);
                    committed.or_else(|| begins.get(partition).copied()).is_some_and(|offset| offset >= end)
                };
                if open.iter().all(reached) {
                    return Ok(());
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), reported.changed()).await;
        }
    }

    /// The inputs of a sub-topology that have not been seen to reach these offsets, and whether their tasks are here.
    fn open(
        &self,
        sub_topology: usize,
        wanted: &BTreeMap<TopicPartition, i64>,
    ) -> Vec<(TopicPartition, bool)> {
        let status = self.shared.status.lock();
        let mut open = Vec::new();
        for partition in 0..self.shared.task_count(sub_topology) {
            let id = TaskId { sub_topology, partition };
            let committed = status.committed.values().find_map(|tasks| tasks.get(&id));
            for (topic, at) in self.shared.inputs(id) {
                let place = self.shared.topics.partition(topic, at);
                let end = wanted.get(&place).copied().unwrap_or(0);
                let position =
                    committed.and_then(|positions| positions.iter().find(|position| position.topic == topic));
                if position.map_or(end > 0, |position| position.offset < end) {
                    open.push((place, committed.is_some()));
                }
            }
        }
        open
    }

    /// The failure that stopped the application, if there was one.
    fn check(&self) -> Result<(), AppError> {
        match &*self.shared.failure.lock() {
            Some(error) => Err(error.clone()),
            None if *self.shared.closing.borrow() => Err(AppError::Closed),
            None => Ok(()),
        }
    }

    /// Waits until the application fails or is closed.
    pub async fn failed(&self) -> Option<AppError> {
        let mut closing = self.shared.closing.subscribe();
        let _ = closing.wait_for(|closing| *closing).await;
        self.shared.failure.lock().clone()
    }

    /// What the application is doing now.
    pub fn state(&self) -> State {
        *self.shared.state.borrow()
    }

    /// What the application is doing, from now on: the receiver wakes up with every change. States that come and go quickly
    /// may be passed over; the last one is always told.
    pub fn states(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Waits until the application runs: every worker has its tasks, and their stores are restored. An error if it fails or is
    /// closed before.
    pub async fn running(&self) -> Result<(), AppError> {
        state::running(&self.shared).await
    }

    /// The stores of this instance that are being restored, and how far they are.
    pub fn restoring(&self) -> Vec<RestoreProgress> {
        self.shared.restores.all()
    }

    /// Everything that this instance has counted, its state, and how far its stores are restored, in the text format that
    /// Prometheus reads (version 0.0.4). Names begin with `kappa_streams_`; labels are the application and its generation.
    /// It is for the service around to serve it.
    pub fn prometheus(&self) -> String {
        let tasks = self.shared.status.lock().committed.values().map(BTreeMap::len).sum();
        let snapshot = Snapshot {
            application: self.shared.setup.topology.application(),
            generation: self.generation,
            counters: self.counters(),
            state: self.state(),
            tasks,
            restoring: &self.restoring(),
        };
        snapshot.text()
    }

    /// Sets how many workers this instance has, from 1 to 256, while it runs: starts more, or has the youngest commit and leave
    /// the group. The others go on meanwhile, and take over the tasks of those that leave with their stores as they are; a task
    /// that moves within the process restores nothing. Returns once new workers have started and those that leave have
    /// left; [`App::running`] waits until the group has given out the tasks again. Calls at the same time take their turns, and
    /// the last one holds. One that is dropped is carried out all the same.
    ///
    /// # Errors
    /// [`AppError::Workers`] for a number that cannot be; [`AppError::Uncommitted`] if a worker could not commit before it
    /// left (its last records are processed again, by the others); [`AppError::Closed`] or the failure if the application
    /// is closed or has failed, before or meanwhile.
    pub async fn set_workers(&self, workers: usize) -> Result<(), AppError> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(AppError::Workers { asked: workers, most: WORKERS_MAX });
        }
        let all = &self.shared.workers;
        let _turn = all.change.lock().await;
        self.check()?;
        let now = all.staying().len();
        for _ in now..workers {
            workers::start(&self.shared).map_err(|error| AppError::Begin(Arc::new(error.into())))?;
        }
        let mut result = Ok(());
        for left in all.part_with(now.saturating_sub(workers)) {
            result = result.and(left.await.unwrap_or(Err(AppError::Closed)));
        }
        self.check().and(result)
    }

    /// How many workers this instance has that are not about to leave.
    pub fn workers(&self) -> usize {
        self.shared.workers.staying().len()
    }

    /// Commits, leaves the group and ends all workers. Returns the failure that stopped the application before, if
    /// there was one. It takes as long as a function of the topology that is running, and while the group does not settle up
    /// to [`Config::session_timeout`]; see [`App::close_within`].
    pub async fn close(&self) -> Result<(), AppError> {
        self.end();
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        self.shared.failure.lock().clone().map_or(Ok(()), Err)
    }

    /// As [`App::close`], but waits no longer than `patience` and returns [`AppError::StillClosing`] then. Workers go on
    /// ending by themselves, and what they commit counts; what they do not is processed again by whoever has the tasks next.
    pub async fn close_within(&self, patience: Duration) -> Result<(), AppError> {
        let closed = tokio::time::timeout(patience, self.close()).await;
        closed.unwrap_or(Err(AppError::StillClosing { waited: patience }))
    }

    /// Has everything end, and notes when it has.
    fn end(&self) {
        self.shared.closing.send_replace(true);
        self.shared.shelf.close();
        // Whoever came first has begun the end already.
        if !self.shared.workers.close() {
            return;
        }
        let beside = std::mem::take(&mut *self.beside.lock());
        let (shared, ended) = (Arc::clone(&self.shared), self.ended.clone());
        tokio::spawn(async move {
            shared.workers.all_ended().await;
            for task in beside {
                // They only look at the cluster, which may not answer.
                task.abort();
                let _ = task.await;
            }
            let failed = shared.failure.lock().is_some();
            state::tell(&shared, if failed { State::Failed } else { State::Closed });
            ended.send_replace(true);
        });
    }
}
