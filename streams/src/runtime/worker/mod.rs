//! The shell of an instance: a thread that moves bytes between it and the cluster, and carries out what it wants.
//!
//! Nothing is decided here, and nothing waits here but for events: what takes time runs as a job beside it, whose
//! answer is an event (`jobs`, and the writer). A thread is one member of the group, with a consumer and a producer.

mod jobs;

pub(super) use jobs::answer;

use super::{
    AppError,
    assignor::TaskAssignor,
    moves::{Announced, Move, Moves},
    shared::Shared,
    state::Readiness,
    writer::WriterHandle,
};
use crate::{
    instance::{Action, Ask, Event, Failure, Fence, Instance, Moment, Outcome, Pace, Place, Sight, Tasks},
    record::millis,
    task::{InputBatch, Life, Position, RestoreWish, Task},
    topology::TopicId,
};
use kappa_client::{
    Consumer, ConsumerConfig, FetchedBatch, OffsetReset, TopicPartition,
    consumer::{ConsumerError, assignor::Assignor},
};
use std::{
    collections::BTreeSet,
    panic::resume_unwind,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, yield_now},
    time::{Interval, MissedTickBehavior, interval, timeout},
};

/// Longest time between heartbeats: how late a worker hears that tasks are to move.
const HEARTBEAT_MAX: Duration = Duration::from_millis(500);
/// Longest wait for records.
const POLL: Duration = Duration::from_secs(1);
/// How often an instance is told the time.
const TICK: Duration = Duration::from_millis(20);
/// Longest time between two reports of what has been counted.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// More jobs than run at once.
const JOBS_MAX: usize = 40;
/// Events of jobs that wait for the instance.
const EVENTS_MAX: usize = 16;

/// An event of a job, or why the application cannot go on.
type JobEvent = Result<Event, AppError>;

/// What reaches a worker besides records.
struct Inbox {
    moves: Moves,
    announced: mpsc::Receiver<Announced>,
    asks: mpsc::Receiver<Ask>,
    events: mpsc::Receiver<JobEvent>,
    /// What is read of changelogs, taken only while the instance wants it.
    restored: mpsc::Receiver<JobEvent>,
    progressed: watch::Receiver<()>,
    closing: watch::Receiver<bool>,
    /// Whether this worker is to go while others stay.
    leave: watch::Receiver<bool>,
    ticks: Interval,
}

/// A worker on its own thread.
pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    assignor: Arc<TaskAssignor>,
    consumer: Arc<Consumer>,
    instance: Instance,
    writer: WriterHandle,
    inbox: Inbox,
    jobs: JoinSet<()>,
    events: mpsc::Sender<JobEvent>,
    restored: mpsc::Sender<JobEvent>,
    pace: Pace,
    /// Inputs of which it is being asked where they begin and end.
    out_of_range: BTreeSet<Place>,
    /// Whom to tell when a change of the assignment has been dealt with.
    settled: Option<oneshot::Sender<()>>,
    /// How many tasks were uncommitted at the end.
    closed: Option<usize>,
    began: Instant,
    reported: Instant,
}

/// What the group last said.
pub(super) fn sight(consumer: &Consumer) -> Option<Sight> {
    let age_ms = millis(consumer.confirmed_since()?);
    Some(Sight { age_ms, generation: consumer.membership().map(|member| member.generation) })
}

/// What a worker needs before it can have tasks: whoever cannot write must not be given any.
struct Connected {
    assignor: Arc<TaskAssignor>,
    consumer: Arc<Consumer>,
    fence: Arc<Fence>,
    writer: WriterHandle,
    events: mpsc::Sender<JobEvent>,
    of_jobs: mpsc::Receiver<JobEvent>,
}

impl Connected {
    async fn new(number: usize, shared: &Arc<Shared>) -> Result<Connected, AppError> {
        let assignor = Arc::new(TaskAssignor::new(number, shared));
        let session = shared.config.session_timeout;
        let config = ConsumerConfig::group(shared.names.group())
            .assignors(vec![Arc::clone(&assignor) as Arc<dyn Assignor>])
            .auto_commit(None::<Duration>)
            // A source that is deleted must not come back as another.
            .allow_auto_create_topics(false)
            // Where it begins is said of each partition by a seek.
            .offset_reset(OffsetReset::None)
            .session_timeout(session)
            .heartbeat_interval((session / 4).min(HEARTBEAT_MAX));
        let consumer = Arc::new(Consumer::new(&shared.client, shared.config.fetching(config))?);
        let fence = Arc::new(Fence::new(millis(session)));
        let (events, of_jobs) = mpsc::channel(EVENTS_MAX);
        let writer = WriterHandle::start(
            Arc::clone(shared),
            Arc::clone(&consumer),
            Arc::clone(&fence),
            events.clone(),
        );
        let writer = writer.await?;
        Ok(Connected { assignor, consumer, fence, writer, events, of_jobs })
    }
}

impl Worker {
    /// Runs a worker until it is told to leave or the application closes or fails. Blocks the thread.
    pub(super) fn run(
        number: usize,
        shared: &Arc<Shared>,
        (mut asks, mut leave): (mpsc::Receiver<Ask>, watch::Receiver<bool>),
    ) -> Result<(), AppError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| AppError::Begin(Arc::new(error.into())))?;
        runtime.block_on(async {
            let mut closing = shared.closing.subscribe();
            let mut connecting = pin!(Connected::new(number, shared));
            let connected = loop {
                tokio::select! {
                    connected = &mut connecting => break connected?,
                    Some(ask) = asks.recv() => ask(&Tasks::new()),
                    _ = closing.wait_for(|closes| *closes) => return Ok(()),
                    Ok(_) = leave.wait_for(|leaves| *leaves) => return Ok(()),
                }
            };
            let mut worker = Worker::begin(number, shared, connected, (asks, leave))?;
            let ran = worker.work().await;
            let closed = worker.close(ran.is_ok()).await;
            ran.and(closed)
        })
    }

    /// Joins the group, which may give it tasks from then on.
    fn begin(
        number: usize,
        shared: &Arc<Shared>,
        connected: Connected,
        (asks, leave): (mpsc::Receiver<Ask>, watch::Receiver<bool>),
    ) -> Result<Worker, AppError> {
        let Connected { assignor, consumer, fence, writer, events, of_jobs } = connected;
        let setup = &shared.setup;
        let inputs: BTreeSet<TopicId> =
            setup.plan.sub_topologies.iter().flat_map(|part| part.inputs.iter().copied()).collect();
        consumer.subscribe(inputs.iter().map(|topic| Arc::clone(shared.topics.name(*topic))))?;
        let (restored, of_changelogs) = mpsc::channel(EVENTS_MAX);
        // The consumer announces one change at a time and waits for it.
        let (moves, announced) = mpsc::channel(1);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        Ok(Worker {
            number,
            assignor,
            consumer,
            instance: Instance::new(Arc::clone(setup), fence),
            writer,
            inbox: Inbox {
                moves: Moves(moves),
                announced,
                asks,
                events: of_jobs,
                restored: of_changelogs,
                progressed: shared.progressed.subscribe(),
                closing: shared.closing.subscribe(),
                leave,
                ticks,
            },
            jobs: JoinSet::new(),
            events,
            restored,
            pace: Pace::default(),
            out_of_range: BTreeSet::new(),
            settled: None,
            closed: None,
            began: now,
            reported: now,
            shared: Arc::clone(shared),
        })
    }

    async fn work(&mut self) -> Result<(), AppError> {
        if *self.inbox.closing.borrow() || *self.inbox.leave.borrow() {
            self.tell(Event::Close)?;
        }
        while self.closed.is_none() {
            let fetched = self.poll().await?;
            if let Some(theirs) = self.assignor.refused() {
                return Err(AppError::Fingerprint { ours: self.shared.setup.topology.fingerprint(), theirs });
            }
            self.fetched(fetched)?;
            self.turn()?;
            // Jobs run on this thread too.
            yield_now().await;
        }
        Ok(())
    }

    /// Waits for records, and deals with whatever else comes meanwhile.
    async fn poll(&mut self) -> Result<Vec<FetchedBatch>, AppError> {
        let consumer = Arc::clone(&self.consumer);
        let mut listener = self.inbox.moves.clone();
        let wait = if self.instance.has_work() { Duration::ZERO } else { POLL };
        let mut polling = pin!(consumer.poll_with(wait, &mut listener));
        let polled = loop {
            if self.closed.is_some() {
                return Ok(Vec::new());
            }
            let (has_work, is_held) = (self.instance.has_work(), self.instance.is_held());
            let wants_restored = self.instance.wants_restored();
            tokio::select! {
                biased;
                Some((change, settled)) = self.inbox.announced.recv() => {
                    self.settled = Some(settled);
                    self.announced(change)?;
                }
                Some(event) = self.inbox.events.recv() => self.answered(event?)?,
                Some(ask) = self.inbox.asks.recv(), if self.pace.may_ask() => self.asked(ask)?,
                _ = self.inbox.closing.changed() => self.tell(Event::Close)?,
                Ok(()) = self.inbox.leave.changed() => self.tell(Event::Close)?,
                _ = self.inbox.ticks.tick() => self.tick()?,
                Some(ended) = self.jobs.join_next() => {
                    if let Err(failed) = ended && failed.is_panic() {
                        resume_unwind(failed.into_panic());
                    }
                }
                Some(panic) = self.writer.panicked() => resume_unwind(panic),
                Some(event) = self.inbox.restored.recv(), if wants_restored => self.tell(event?)?,
                polled = &mut polling => break polled,
                Ok(()) = self.inbox.progressed.changed(), if is_held => self.turn()?,
                () = yield_now(), if has_work => self.turn()?,
                () = yield_now(), if !self.pace.may_ask() => self.pace.rest(),
            }
        };
        match polled {
            Err(ConsumerError::OffsetOutOfRange { partition, offset }) => {
                self.out_of_range(&partition, offset);
                Ok(Vec::new())
            }
            // Its task tells where it begins, once it has been looked up.
            Err(ConsumerError::NoOffset(_)) => Ok(Vec::new()),
            // What may pass by itself is left to the next poll.
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "poll failed; trying again");
                Ok(Vec::new())
            }
            polled => Ok(polled?),
        }
    }

    /// Asks where a partition begins and ends that does not have what was to be read next.
    fn out_of_range(&mut self, partition: &TopicPartition, offset: i64) {
        let Some(topic) = self.shared.topics.id(&partition.topic) else { return };
        let place = (topic, partition.partition);
        let task = self.shared.setup.task_of(place).and_then(|id| self.instance.tasks().get(&id));
        if let Some(task) = task
            && self.out_of_range.insert(place)
        {
            let (shared, consumer) = (Arc::clone(&self.shared), Arc::clone(&self.consumer));
            let what = (task.life(), place, offset);
            self.jobs.spawn(jobs::find_bounds(shared, consumer, what, self.events.clone()));
        }
    }

    fn answered(&mut self, event: Event) -> Result<(), AppError> {
        let committed = matches!(event, Event::CommitEnded { outcome: Outcome::Done, .. });
        if let Event::OutOfRange { place, .. } = &event {
            self.out_of_range.remove(place);
        }
        self.tell(event)?;
        if committed {
            self.report();
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), AppError> {
        let (moment, places) = (self.moment(), self.instance.places().collect::<Vec<Place>>());
        places.into_iter().try_for_each(|place| self.passed(moment, place))?;
        debug_assert!(self.jobs.len() <= JOBS_MAX, "those that have ended are forgotten");
        self.tell(Event::Tick)?;
        if self.reported.elapsed() >= REPORT_INTERVAL {
            self.report();
        }
        Ok(())
    }

    fn asked(&mut self, ask: Ask) -> Result<(), AppError> {
        let began = Instant::now();
        self.tell(Event::Asked(ask))?;
        self.pace.asked(began.elapsed());
        Ok(())
    }

    /// Lets tasks run until there is nothing to do, somebody asks who is not to wait, or the turn is over.
    fn turn(&mut self) -> Result<(), AppError> {
        let began = Instant::now();
        self.tell(Event::Work)?;
        while self.instance.has_work() && self.pace.goes_on(began.elapsed(), !self.inbox.asks.is_empty()) {
            self.tell(Event::Work)?;
        }
        self.pace.rest();
        self.tell(Event::Rest)
    }

    fn announced(&mut self, change: Move) -> Result<(), AppError> {
        let places = |partitions: Vec<TopicPartition>| {
            let place = |partition: TopicPartition| {
                Some((self.shared.topics.id(&partition.topic)?, partition.partition))
            };
            partitions.into_iter().filter_map(place).collect::<Vec<Place>>()
        };
        let event = match change {
            Move::Assigned(partitions) => Event::Assigned(places(partitions)),
            Move::Revoked(partitions) => Event::Revoked(places(partitions)),
            Move::Lost => Event::Lost,
        };
        self.tell(event)
    }

    fn fetched(&mut self, fetched: Vec<FetchedBatch>) -> Result<(), AppError> {
        let mut places = BTreeSet::new();
        for fetched in fetched {
            let Some(topic) = self.shared.topics.id(&fetched.partition.topic) else { continue };
            let place = (topic, fetched.partition.partition);
            let batch = input(&fetched, self.shared.setup.plan.writers(topic) > 0)?;
            places.insert(place);
            self.tell(Event::Fetched { place, batch })?;
        }
        // A position stands behind all batches of the poll.
        let moment = self.moment();
        places.into_iter().try_for_each(|place| self.passed(moment, place))
    }

    fn passed(&mut self, moment: Moment, place: Place) -> Result<(), AppError> {
        let partition = self.shared.topics.partition(place.0, place.1);
        let (position, end) = (self.consumer.position(&partition), self.consumer.high_watermark(&partition));
        self.tell_at(moment, Event::Passed { place, position, end })
    }

    /// Tells the instance what has happened, and carries out what it wants.
    fn tell(&mut self, event: Event) -> Result<(), AppError> {
        self.tell_at(self.moment(), event)
    }

    fn moment(&self) -> Moment {
        Moment { ms: millis(self.began.elapsed()), group: sight(&self.consumer) }
    }

    fn tell_at(&mut self, moment: Moment, event: Event) -> Result<(), AppError> {
        let mut actions = Vec::new();
        let told = self.instance.on(moment, event, &mut actions);
        let mut restores = Vec::new();
        for action in actions {
            self.carry_out(action, &mut restores)?;
        }
        if !restores.is_empty() {
            let (shared, restored) = (Arc::clone(&self.shared), self.restored.clone());
            self.jobs.spawn(jobs::restore(shared, self.number, restores, restored));
        }
        told.map_err(|Failure { task, source }| AppError::Task { task, source })
    }

    fn carry_out(
        &mut self,
        action: Action,
        restores: &mut Vec<(Life, Vec<RestoreWish>)>,
    ) -> Result<(), AppError> {
        let partition = |(topic, partition): Place| self.shared.topics.partition(topic, partition);
        match action {
            Action::LookUp { lookup, tasks } => {
                let (shared, consumer) = (Arc::clone(&self.shared), Arc::clone(&self.consumer));
                self.jobs.spawn(jobs::look_up(shared, consumer, (lookup, tasks), self.events.clone()));
            }
            Action::Fetch(Position { topic, partition: of, offset }) => {
                self.consumer.seek(&partition((topic, of)), offset)?;
            }
            Action::BeyondEnd { place, offset, end } => {
                let (shared, partition) = (Arc::clone(&self.shared), partition(place));
                self.jobs.spawn(jobs::beyond_end(shared, (partition, offset, end), self.events.clone()));
            }
            Action::Pause(place) => self.consumer.pause(&[partition(place)]),
            Action::Resume(place) => self.consumer.resume(&[partition(place)]),
            Action::Restore { life, wishes } => restores.push((life, wishes)),
            Action::Append(appended) => self.writer.append(appended),
            Action::AskReaders(places) => {
                let (shared, consumer) = (Arc::clone(&self.shared), Arc::clone(&self.consumer));
                self.jobs.spawn(jobs::ask_readers(shared, consumer, places, self.events.clone()));
            }
            Action::Commit { commit, rows, offsets } => self.writer.commit(commit, rows, offsets),
            Action::Discard => self.writer.discard(),
            Action::Purge(below) => {
                self.jobs.spawn(jobs::purge(Arc::clone(&self.shared), below));
            }
            Action::Shelve { task, state } => self.shared.shelf.leave(task, state),
            Action::Settled { uncommitted } => {
                self.tell_uncommitted(uncommitted);
                self.report();
                if let Some(settled) = self.settled.take() {
                    // An error means that the poll was dropped.
                    let _ = settled.send(());
                }
            }
            Action::Closed { uncommitted } => self.closed = Some(uncommitted),
        }
        Ok(())
    }

    fn tell_uncommitted(&self, tasks: usize) {
        if tasks > 0 {
            tracing::warn!(
                worker = self.number,
                tasks,
                "given up uncommitted; their records are processed again"
            );
        }
    }

    /// Tells handles what has been counted and committed.
    fn report(&mut self) {
        self.reported = Instant::now();
        let counters = self.instance.counters();
        let is_restoring = |id: &_| self.instance.tasks().get(id).is_some_and(Task::is_restoring);
        self.shared.restores.retain(self.number, is_restoring);
        self.shared.shelf.forget_expired();
        let mut status = self.shared.status.lock();
        let before = status.counters.insert(self.number, counters).unwrap_or_default();
        for kind in counters.first_drops(&before) {
            tracing::warn!(worker = self.number, "dropping and counting {kind}");
        }
        let tasks = self.instance.tasks().iter();
        let committed = tasks.map(|(id, task)| (*id, task.committed_positions())).collect();
        status.committed.insert(self.number, committed);
        status.readiness.insert(self.number, self.readiness());
        drop(status);
        self.shared.reported.send_replace(());
    }

    fn readiness(&self) -> Readiness {
        if self.consumer.membership().is_none() {
            return Readiness::Outside;
        }
        let here: BTreeSet<Place> = self.instance.places().collect();
        let is_here = |partition: &TopicPartition| {
            let topic = self.shared.topics.id(&partition.topic);
            topic.is_some_and(|topic| here.contains(&(topic, partition.partition)))
        };
        let given = self.assignor.has_given(is_here);
        let restored = !self.instance.tasks().values().any(Task::is_restoring);
        if given && restored && self.settled.is_none() { Readiness::Ready } else { Readiness::Preparing }
    }

    /// Leaves the group and ends. What is not committed must not be written either, so the writer ends with it; and since
    /// what it has sent may still arrive, the group then waits for the session to end before it gives the tasks to others.
    async fn close(mut self, ran: bool) -> Result<(), AppError> {
        self.report();
        let uncommitted = self.closed.unwrap_or(0);
        let clean = ran && uncommitted == 0;
        if !clean {
            self.writer.abandon();
        }
        let may_leave = self.instance.may_leave(clean);
        drop(self.instance);
        self.jobs.shutdown().await;
        self.shared.restores.retain(self.number, |_| false);
        // Nothing answers any more; a change that is announced now is not waited for.
        drop(self.inbox);
        let patience = self.shared.config.session_timeout;
        if clean {
            self.writer.close(patience).await;
        }
        if may_leave && let Ok(left) = timeout(patience, self.consumer.close_with(&mut ())).await {
            left?;
        }
        match uncommitted {
            0 => Ok(()),
            tasks => {
                Err(AppError::Uncommitted { worker: self.number, tasks, waited: patience - patience / 4 })
            }
        }
    }
}

/// Decodes a fetched batch for a task; of a repartition topic, with what its writers say of themselves.
pub(super) fn input(fetched: &FetchedBatch, is_repartition: bool) -> Result<InputBatch, AppError> {
    let decoded = match is_repartition {
        true => InputBatch::from_repartition(&fetched.batch),
        false => InputBatch::from_decoded(&fetched.batch),
    };
    let failed = |reason| AppError::Record {
        topic: Arc::clone(&fetched.partition.topic),
        partition: fetched.partition.partition,
        offset: fetched.batch.base_offset(),
        reason: Arc::new(reason),
    };
    let batch = decoded.map_err(failed)?;
    // A batch comes whole, though its first records may have been deleted.
    Ok(if fetched.batch.base_offset() < fetched.start {
        batch.within(fetched.start..i64::MAX)
    } else {
        batch
    })
}
