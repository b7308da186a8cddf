//! One worker thread: a consumer, a producer, and the tasks it was given.
//!
//! The loop polls, lets tasks run, sends what they put out, answers questions, and commits. Everything that touches
//! a task happens here, on this thread, between records.

mod assignment;

use super::{
    AppError,
    assignor::TaskAssignor,
    fence::{Fence, Standing},
    moves::{Announced, Moves},
    outbox::Outbox,
    restore,
    shared::{Ask, Shared, Tasks},
    topics,
};
use crate::{
    processor::Counters,
    task::{CommittedOffset, Run, Task, TaskId},
    topology::TopicId,
};
use kappa_client::{
    Consumer, ConsumerConfig, FetchedBatch, OffsetReset, TopicPartition,
    admin::OffsetAndMetadata,
    consumer::{ConsumerError, assignor::Assignor},
};
use std::{
    collections::{BTreeSet, HashSet},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Records a task processes before the next one has its turn.
const SLICE_RECORDS: usize = 1000;
/// How long tasks run before the consumer is polled again.
const TURN: Duration = Duration::from_millis(10);
/// Longest time between heartbeats: how late a worker hears that tasks are to move.
const HEARTBEAT_MAX: Duration = Duration::from_millis(500);
/// Longest wait while nothing comes: how late an idle timeout can be noticed.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Longest time between two reports of what has been counted.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between the commits of an idle application.
const IDLE_COMMIT: Duration = Duration::from_millis(20);

/// What reaches a worker besides records.
struct Inbox {
    moves: Moves,
    announced: mpsc::Receiver<Announced>,
    asks: mpsc::Receiver<Ask>,
    progressed: watch::Receiver<()>,
    closing: watch::Receiver<bool>,
}

/// When a worker did what.
struct Pace {
    began: Instant,
    commit: Instant,
    purge: Instant,
    report: Instant,
    /// Records processed since the last commit.
    uncommitted: u64,
}

/// A worker on its own thread.
pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    assignor: Arc<TaskAssignor>,
    consumer: Arc<Consumer>,
    fence: Arc<Fence>,
    outbox: Outbox,
    tasks: Tasks,
    assigned: BTreeSet<TopicPartition>,
    paused: HashSet<TopicPartition>,
    inbox: Inbox,
    pace: Pace,
    /// Counters of tasks that have moved away.
    gone: Counters,
    /// Whether progress control holds records that are there.
    held: bool,
}

impl Worker {
    /// Runs a worker until the application closes or fails. Blocks the thread.
    pub(super) fn run(
        number: usize,
        shared: &Arc<Shared>,
        asks: mpsc::Receiver<Ask>,
    ) -> Result<(), AppError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| AppError::Begin(Arc::new(error.into())))?;
        runtime.block_on(async {
            let mut worker = Worker::begin(number, shared, asks).await?;
            let ran = worker.work().await;
            let closed = worker.close(ran.is_ok()).await;
            ran.and(closed)
        })
    }

    async fn begin(
        number: usize,
        shared: &Arc<Shared>,
        asks: mpsc::Receiver<Ask>,
    ) -> Result<Worker, AppError> {
        let fingerprint = shared.topology.fingerprint();
        let assignor = Arc::new(TaskAssignor::new(fingerprint, &shared.plan, &shared.topics));
        let config = ConsumerConfig::group(shared.names.group())
            .assignors(vec![Arc::clone(&assignor) as Arc<dyn Assignor>])
            .auto_commit(None::<Duration>)
            .offset_reset(OffsetReset::Earliest)
            .session_timeout(shared.config.session_timeout)
            .heartbeat_interval((shared.config.session_timeout / 4).min(HEARTBEAT_MAX));
        let consumer = Arc::new(Consumer::new(&shared.client, config)?);
        let inputs: BTreeSet<TopicId> =
            shared.plan.sub_topologies.iter().flat_map(|part| part.inputs.iter().copied()).collect();
        consumer.subscribe(inputs.iter().map(|topic| Arc::clone(shared.topics.name(*topic))))?;
        let fence = Arc::new(Fence::new(&consumer, shared.config.session_timeout));
        let outbox = Outbox::new(Arc::clone(shared), Arc::clone(&fence)).await?;
        // The consumer announces one change at a time and waits for it.
        let (moves, announced) = mpsc::channel(1);
        let now = Instant::now();
        Ok(Worker {
            number,
            assignor,
            consumer,
            fence,
            outbox,
            tasks: Tasks::new(),
            assigned: BTreeSet::new(),
            paused: HashSet::new(),
            inbox: Inbox {
                moves: Moves(moves),
                announced,
                asks,
                progressed: shared.progressed.subscribe(),
                closing: shared.closing.subscribe(),
            },
            pace: Pace { began: now, commit: now, purge: now, report: now, uncommitted: 0 },
            gone: Counters::default(),
            held: false,
            shared: Arc::clone(shared),
        })
    }

    async fn work(&mut self) -> Result<(), AppError> {
        let mut busy = false;
        while !*self.inbox.closing.borrow() {
            let batches = self.poll(if busy { Duration::ZERO } else { IDLE_WAIT }).await?;
            if let Some(theirs) = self.assignor.refused() {
                return Err(AppError::Fingerprint { ours: self.shared.topology.fingerprint(), theirs });
            }
            let fetched = !batches.is_empty();
            self.take(batches)?;
            if self.tasks.values().any(Task::is_restoring) {
                restore::restore(&self.shared, &mut self.tasks).await?;
                self.report();
            }
            busy = self.process().await?;
            self.regulate();
            if self.commit_due(busy || fetched) {
                let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
                self.commit(&ids).await?;
                self.report();
            }
            if self.pace.report.elapsed() >= REPORT_INTERVAL {
                self.report();
            }
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        crate::record::millis(self.pace.began.elapsed())
    }

    /// Waits for records, and deals with whatever else comes meanwhile.
    async fn poll(&mut self, wait: Duration) -> Result<Vec<FetchedBatch>, AppError> {
        let consumer = Arc::clone(&self.consumer);
        let mut listener = self.inbox.moves.clone();
        let mut polling = pin!(consumer.poll_with(wait, &mut listener));
        loop {
            let held = self.held;
            tokio::select! {
                biased;
                Some((change, done)) = self.inbox.announced.recv() => {
                    self.change(change).await?;
                    // The listener waits for this; an error means that its poll was dropped.
                    let _ = done.send(());
                }
                Some(ask) = self.inbox.asks.recv() => ask(&self.tasks),
                acknowledged = self.outbox.acknowledged(), if self.outbox.is_waiting() => {
                    let (task, last) = acknowledged?;
                    self.acknowledged(task, last)?;
                }
                polled = &mut polling => return tolerate(polled),
                Ok(()) = self.inbox.progressed.changed(), if held => self.held = false,
                _ = self.inbox.closing.changed() => return Ok(Vec::new()),
            }
            if held && !self.held && self.process().await? {
                return Ok(Vec::new());
            }
        }
    }

    fn acknowledged(&mut self, task: TaskId, last: u64) -> Result<(), AppError> {
        let mut next = Some((task, last));
        while let Some((task, last)) = next {
            if let Some(task) = self.tasks.get_mut(&task) {
                task.acknowledged(last);
            }
            next = self.outbox.try_acknowledged()?;
        }
        self.held = false;
        Ok(())
    }

    /// Gives fetched batches to their tasks, and tells these where their inputs end.
    fn take(&mut self, batches: Vec<FetchedBatch>) -> Result<(), AppError> {
        for fetched in batches {
            let Some(topic) = self.shared.topics.id(&fetched.partition.topic) else { continue };
            let task = self.shared.task_of(topic, fetched.partition.partition);
            if let Some(task) = task.and_then(|task| self.tasks.get_mut(&task)) {
                task.add(topic, restore::input(&fetched)?);
            }
        }
        let now = self.now();
        for (id, task) in &mut self.tasks {
            for topic in task.inputs().collect::<Vec<_>>() {
                let partition = self.shared.topics.partition(topic, id.partition);
                if let Some(position) = self.consumer.position(&partition)
                    && task.pass(topic, position)
                {
                    self.pace.uncommitted += 1;
                }
                if let Some(end) = self.consumer.high_watermark(&partition) {
                    task.set_end(topic, end);
                }
            }
            task.tick(now);
        }
        Ok(())
    }

    /// Lets tasks run in turn until none can go on or the turn is over; says whether there is more to do.
    async fn process(&mut self) -> Result<bool, AppError> {
        let turn = Instant::now();
        loop {
            let (mut processed, mut held) = (0, false);
            for id in self.tasks.keys().copied().collect::<Vec<_>>() {
                if self.fence.standing() != Standing::Owner {
                    break;
                }
                let now = self.now();
                let Some(task) = self.tasks.get_mut(&id) else { continue };
                let before = task.counters().records_in;
                let ran =
                    task.run(now, SLICE_RECORDS).map_err(|source| AppError::Task { task: id, source })?;
                held |= ran == Run::Held;
                processed += task.counters().records_in - before;
                let (outputs, last) = task.take_outputs();
                self.outbox.send(outputs, Some((id, last))).await?;
            }
            self.pace.uncommitted += processed;
            self.held = held && processed == 0;
            if processed == 0 || turn.elapsed() > TURN {
                return Ok(processed > 0);
            }
        }
    }

    /// Pauses partitions of which enough is buffered, and resumes them when there is room.
    fn regulate(&mut self) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (id, task) in &self.tasks {
            for topic in task.inputs() {
                let partition = self.shared.topics.partition(topic, id.partition);
                match (task.wants(topic), self.paused.contains(&partition)) {
                    (false, false) => pause.push(partition),
                    (true, true) => resume.push(partition),
                    _ => {}
                }
            }
        }
        if !pause.is_empty() {
            self.consumer.pause(&pause);
            self.paused.extend(pause);
        }
        if !resume.is_empty() {
            self.consumer.resume(&resume);
            resume.iter().for_each(|partition| {
                self.paused.remove(partition);
            });
        }
    }

    fn commit_due(&self, busy: bool) -> bool {
        let elapsed = self.pace.commit.elapsed();
        self.pace.uncommitted > 0
            && (elapsed >= self.shared.config.commit_interval || (!busy && elapsed >= IDLE_COMMIT))
    }

    /// Makes the work of some tasks permanent, and says whether all of it is. This is the one place where that happens,
    /// and the order is what at least once means: an offset is written only when all that follows from the records
    /// before it is acknowledged. Where it may be somebody else's work, nothing is written.
    async fn commit(&mut self, ids: &[TaskId]) -> Result<bool, AppError> {
        self.pace.commit = Instant::now();
        let generation = self.consumer.membership().map(|member| member.generation);
        if self.fence.standing() != Standing::Owner {
            return Ok(!ids.iter().filter_map(|id| self.tasks.get(id)).any(Task::has_uncommitted));
        }
        let mut offsets: Vec<(TaskId, Vec<CommittedOffset>)> = Vec::new();
        for id in ids {
            let Some(task) = self.tasks.get_mut(id).filter(|task| !task.is_restoring()) else { continue };
            let commit = task.commit().map_err(|source| AppError::Task { task: *id, source })?;
            self.outbox.send(commit.outputs, None).await?;
            self.outbox.send(commit.changelog, None).await?;
            offsets.push((*id, commit.offsets));
        }
        if !self.outbox.flush().await? || self.fence.standing() != Standing::Owner {
            return Ok(false);
        }
        let all: Vec<(TopicPartition, OffsetAndMetadata)> =
            offsets.iter().flat_map(|(_, offsets)| offsets).map(|offset| self.committable(offset)).collect();
        if !all.is_empty() {
            match self.consumer.commit_offsets(&all).await {
                Ok(()) => {}
                Err(ConsumerError::Rebalanced { code }) => {
                    tracing::info!(worker = self.number, %code, "offsets refused until the group has settled");
                    self.fence.refuse(generation);
                    return Ok(false);
                }
                Err(error) if error.is_retriable() => {
                    tracing::warn!(worker = self.number, %error, "offsets not committed; trying again");
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.pace.uncommitted = 0;
        let mut committed = Vec::new();
        for (id, offsets) in offsets {
            if let Some(task) = self.tasks.get_mut(&id) {
                task.committed(&offsets);
                self.shared.status.lock().committed.insert(id, task.positions());
            }
            committed.extend(offsets);
        }
        self.purge(&committed).await;
        Ok(true)
    }

    async fn purge(&mut self, committed: &[CommittedOffset]) {
        if self.pace.purge.elapsed() >= self.shared.config.purge_interval {
            self.pace.purge = Instant::now();
            if let Err(error) = topics::purge(&self.shared, committed).await {
                tracing::warn!(worker = self.number, %error, "repartition records not purged");
            }
        }
    }

    /// Commits before tasks are given up, trying again while the group is only silent.
    async fn commit_last(&mut self, ids: &[TaskId]) -> Result<(), AppError> {
        let until = Instant::now() + self.fence.lease();
        while !self.commit(ids).await? {
            if self.fence.standing() == Standing::Lost || Instant::now() >= until {
                tracing::warn!(
                    worker = self.number,
                    "tasks given up uncommitted; records are processed again"
                );
                break;
            }
            tokio::time::sleep(IDLE_COMMIT).await;
        }
        Ok(())
    }

    fn committable(&self, committed: &CommittedOffset) -> (TopicPartition, OffsetAndMetadata) {
        let CommittedOffset { position, leader_epoch, metadata } = committed;
        let offset = OffsetAndMetadata {
            offset: position.offset,
            leader_epoch: (*leader_epoch >= 0).then_some(*leader_epoch),
            metadata: metadata.clone(),
        };
        (self.shared.topics.partition(position.topic, position.partition), offset)
    }

    /// Tells handles what has been counted and committed.
    fn report(&mut self) {
        self.pace.report = Instant::now();
        let mut counters = self.gone;
        self.tasks.values().for_each(|task| counters.add(&task.counters()));
        let mut status = self.shared.status.lock();
        let before = status.counters.insert(self.number, counters).unwrap_or_default();
        for kind in counters.first_drops(&before) {
            tracing::warn!(worker = self.number, "dropping and counting {kind}");
        }
        for (id, task) in self.tasks.iter().filter(|(_, task)| !task.is_restoring()) {
            status.committed.entry(*id).or_insert_with(|| task.positions());
        }
        drop(status);
        self.shared.reported.send_replace(());
    }

    /// Commits, if all is well, leaves the group and ends.
    async fn close(mut self, commit: bool) -> Result<(), AppError> {
        let committed = if commit { self.settle().await } else { Ok(()) };
        self.report();
        self.tasks.clear();
        let left = self.consumer.close_with(&mut ()).await;
        // What has not been committed must not be written either: the producer ends with its records.
        let flushed = if commit && committed.is_ok() { self.outbox.close().await } else { Ok(()) };
        committed.and(left.map_err(AppError::from)).and(flushed)
    }

    /// Commits everything, going through the rebalances that are under way: within one, the group refuses.
    async fn settle(&mut self) -> Result<(), AppError> {
        let until = Instant::now() + self.fence.lease();
        loop {
            let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
            if self.commit(&ids).await? {
                return Ok(());
            }
            if Instant::now() >= until {
                let tasks = self.tasks.values().filter(|task| task.has_uncommitted()).count();
                return Err(AppError::Uncommitted { worker: self.number, tasks, waited: self.fence.lease() });
            }
            // What comes is left to whoever gets the partitions.
            self.poll(IDLE_COMMIT).await?;
        }
    }
}

/// What may pass by itself is left to the next poll.
fn tolerate(polled: Result<Vec<FetchedBatch>, ConsumerError>) -> Result<Vec<FetchedBatch>, AppError> {
    match polled {
        Err(error) if error.is_retriable() => {
            tracing::warn!(%error, "poll failed; trying again");
            Ok(Vec::new())
        }
        other => Ok(other?),
    }
}
