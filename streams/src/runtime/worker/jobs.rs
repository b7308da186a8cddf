//! What an instance asks for that takes time: finding offsets, reading changelogs, purging. Each job ends in events, and
//! with its worker at the latest; what may pass by itself is tried again.

use super::{JobEvent, input};
use crate::{
    instance::{Consumed, Event, Found, Place},
    runtime::{AppError, StartAt, shared::Shared, topics, watch},
    task::{ChangelogRange, Life, Position, RestoreWish, Start, TaskId},
};
use kappa_client::{Consumer, ConsumerConfig, OffsetReset, TopicPartition, consumer::ConsumerError};
use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};
use tokio::{sync::mpsc::Sender, time::sleep};

/// Longest wait of one poll; the end is known, so a poll waits only for the network.
const POLL: Duration = Duration::from_millis(200);
/// Time before something is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Tells a worker that a job has failed. If the worker has gone, so has whoever would want to know.
async fn fail(error: AppError, events: &Sender<JobEvent>) {
    let _ = events.send(Err(error)).await;
}

/// Asks until there is an answer, or an error that does not pass by itself.
pub(in crate::runtime) async fn answer<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, AppError>
where
    E: Into<ConsumerError>,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match ask().await.map_err(Into::into) {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "{what}: no answer yet; trying again");
                sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What there is of tasks that are to be taken over.
pub(super) async fn look_up(
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    (lookup, tasks): (u64, Vec<TaskId>),
    events: Sender<JobEvent>,
) {
    let mut found = match answer("offsets of new tasks", || find(&shared, &consumer, &tasks)).await {
        Ok(found) => found,
        Err(error) => return fail(error, &events).await,
    };
    found.kept = tasks.iter().filter_map(|id| Some((*id, shared.shelf.take(*id)?))).collect();
    let _ = events.send(Ok(Event::Found { lookup, found })).await;
}

async fn find(shared: &Shared, consumer: &Consumer, tasks: &[TaskId]) -> Result<Found, ConsumerError> {
    let inputs: Vec<Place> = tasks.iter().flat_map(|id| shared.setup.inputs(*id)).collect();
    let changelogs: Vec<Place> = tasks.iter().flat_map(|id| shared.setup.changelogs(*id)).collect();
    let (starts, changelogs) =
        tokio::try_join!(starts(shared, consumer, &inputs), ranges(shared, consumer, &changelogs))?;
    Ok(Found { starts, changelogs, kept: Vec::new() })
}

/// Partitions by the names of their topics.
fn partitions(shared: &Shared, places: &[Place]) -> Vec<TopicPartition> {
    places.iter().map(|(topic, partition)| shared.topics.partition(*topic, *partition)).collect()
}

/// The offset of a partition that was asked for with others: whoever is asked knows all of them, or fails.
fn known(offsets: &BTreeMap<TopicPartition, i64>, partition: &TopicPartition) -> i64 {
    *offsets.get(partition).expect("offsets are those of all partitions asked for")
}

/// Where an input begins and ends that does not have what was to be read next.
pub(super) async fn find_bounds(
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    (life, place, offset): (Life, Place, i64),
    events: Sender<JobEvent>,
) {
    let partition = shared.topics.partition(place.0, place.1);
    let bounds = match answer("begin and end of an input", || bounds(&consumer, &partition)).await {
        Ok(bounds) => bounds,
        Err(error) => return fail(error, &events).await,
    };
    if offset < bounds.start {
        tracing::warn!(%partition, from = offset, to = bounds.start, "records were deleted before they were read");
    }
    let _ = events.send(Ok(Event::OutOfRange { life, place, offset, bounds })).await;
}

/// Says why an application cannot go on that would read beyond the end of a partition.
pub(super) async fn beyond_end(
    shared: Arc<Shared>,
    (partition, offset, end): (TopicPartition, i64, i64),
    events: Sender<JobEvent>,
) {
    let error = match answer("what became of a topic", || watch::changed(&shared, &partition.topic)).await {
        Ok(Some(change)) => AppError::TopicChanged { topic: partition.topic.to_string(), change },
        Ok(None) => AppError::BeyondEnd { partition, offset, end },
        Err(error) => error,
    };
    fail(error, &events).await;
}

/// Where a partition begins and ends.
async fn bounds(consumer: &Consumer, partition: &TopicPartition) -> Result<Range<i64>, ConsumerError> {
    let of = std::slice::from_ref(partition);
    let (begins, ends) = (consumer.beginning_offsets(of).await?, consumer.end_offsets(of).await?);
    Ok(known(&begins, partition)..known(&ends, partition))
}

async fn ranges(
    shared: &Shared,
    consumer: &Consumer,
    places: &[Place],
) -> Result<Vec<ChangelogRange>, ConsumerError> {
    let partitions = partitions(shared, places);
    let begins = consumer.beginning_offsets(&partitions).await?;
    let ends = consumer.end_offsets(&partitions).await?;
    let range = |(place, partition): (&Place, &TopicPartition)| ChangelogRange {
        place: *place,
        begin: known(&begins, partition),
        end: known(&ends, partition),
    };
    Ok(places.iter().zip(&partitions).map(range).collect())
}

/// Where inputs begin: behind what is committed, else where the configuration says.
async fn starts(shared: &Shared, consumer: &Consumer, places: &[Place]) -> Result<Vec<Start>, ConsumerError> {
    let wanted = partitions(shared, places);
    let committed = consumer.committed(&wanted).await?;
    let fresh: Vec<TopicPartition> =
        wanted.iter().filter(|partition| !committed.contains_key(*partition)).cloned().collect();
    let begins = begins(shared, consumer, &fresh).await?;
    let start = |((topic, at), partition): (&Place, &TopicPartition)| {
        let committed = committed.get(partition);
        let pinned = shared.config.replay_until.as_ref().and_then(|ends| ends.0.get(partition).copied());
        Start {
            position: Position {
                topic: *topic,
                partition: *at,
                offset: committed.map_or_else(|| known(&begins, partition), |committed| committed.offset),
            },
            metadata: committed.map(|committed| committed.metadata.clone()),
            committed: committed.is_some(),
            pinned_end: pinned,
        }
    };
    Ok(places.iter().zip(&wanted).map(start).collect())
}

/// Where partitions begin that have no committed offset.
async fn begins(
    shared: &Shared,
    consumer: &Consumer,
    fresh: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, i64>, ConsumerError> {
    if fresh.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut begins = consumer.beginning_offsets(fresh).await?;
    let chosen = |partition: &TopicPartition| {
        shared.topics.id(&partition.topic).is_some_and(|topic| shared.setup.begins_where_told(topic))
    };
    match &shared.config.start_at {
        StartAt::Beginning => {}
        StartAt::Offsets(offsets) => {
            for ((topic, partition), offset) in offsets {
                let place = TopicPartition::new(topic.as_str(), *partition);
                if chosen(&place) {
                    begins.entry(place).and_modify(|begin| *begin = *offset);
                }
            }
        }
        StartAt::Time(time) => {
            let chosen = fresh.iter().filter(|partition| chosen(partition));
            let times: Vec<_> = chosen.map(|partition| (partition.clone(), *time)).collect();
            let found = consumer.offsets_for_times(&times).await?;
            let ends = consumer.end_offsets(fresh).await?;
            for (partition, at) in found {
                let begin = at.map_or_else(|| known(&ends, &partition), |at| at.offset);
                begins.insert(partition, begin);
            }
        }
    }
    Ok(begins)
}

/// Reads changelogs.
pub(super) async fn restore(
    shared: Arc<Shared>,
    worker: usize,
    wishes: Vec<(Life, Vec<RestoreWish>)>,
    events: Sender<JobEvent>,
) {
    let config = ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
    let consumer = match Consumer::new(&shared.client, shared.config.fetching(config)) {
        Ok(consumer) => consumer,
        Err(error) => return fail(error.into(), &events).await,
    };
    if let Err(error) = read(&shared, worker, &consumer, wishes, &events).await {
        fail(error, &events).await;
    }
    if let Err(error) = consumer.close().await {
        tracing::debug!(%error, "closing the reader of changelogs");
    }
}

async fn read(
    shared: &Shared,
    worker: usize,
    consumer: &Consumer,
    wishes: Vec<(Life, Vec<RestoreWish>)>,
    events: &Sender<JobEvent>,
) -> Result<(), AppError> {
    let topology = &shared.setup.topology;
    let mut open: BTreeMap<TopicPartition, (Life, RestoreWish)> = BTreeMap::new();
    for (life, wish) in
        wishes.into_iter().flat_map(|(life, wishes)| wishes.into_iter().map(move |wish| (life, wish)))
    {
        shared.restores.begin(topology, (worker, life.task), &wish);
        open.insert(shared.topics.partition(wish.place.0, wish.place.1), (life, wish));
    }
    consumer.assign(open.keys().cloned())?;
    for (partition, (_, wish)) in &open {
        consumer.seek(partition, wish.from)?;
    }
    while !open.is_empty() {
        let fetched = match consumer.poll(POLL).await {
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "changelogs cannot be read at the moment; trying again");
                sleep(RETRY).await;
                continue;
            }
            fetched => fetched?,
        };
        for fetched in fetched {
            let Some((life, wish)) = open.get(&fetched.partition) else { continue };
            let batch = input(&fetched, false)?.within(wish.from..wish.up_to);
            let (life, store) = (*life, wish.store);
            if events.send(Ok(Event::Restored { life, store, batch })).await.is_err() {
                return Ok(());
            }
        }
        let done = |partition: &TopicPartition, (life, wish): &(Life, RestoreWish)| {
            let at = consumer.position(partition);
            at.inspect(|at| shared.restores.reached(worker, life.task, wish.store, *at))
                .is_some_and(|at| at >= wish.up_to)
        };
        let ended: Vec<TopicPartition> =
            open.iter().filter(|(partition, open)| done(partition, open)).map(|(of, _)| of.clone()).collect();
        for partition in ended {
            let Some((life, RestoreWish { store, .. })) = open.remove(&partition) else { continue };
            if events.send(Ok(Event::RestoreEnded { life, store })).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// How far those who read these partitions have come.
pub(super) async fn ask_readers(
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    places: Vec<Place>,
    events: Sender<JobEvent>,
) {
    let told = match answer("progress of readers", || consumed(&shared, &consumer, &places)).await {
        Ok(told) => told,
        Err(error) => return fail(error, &events).await,
    };
    let _ = events.send(Ok(Event::Consumed(told))).await;
}

async fn consumed(
    shared: &Shared,
    consumer: &Consumer,
    places: &[Place],
) -> Result<Vec<Consumed>, ConsumerError> {
    let partitions = partitions(shared, places);
    let ends = consumer.end_offsets(&partitions).await?;
    let mut committed = consumer.committed(&partitions).await?;
    let consumed = |(place, partition): (&Place, &TopicPartition)| {
        let committed = committed.remove(partition).map(|known| (known.offset, known.metadata));
        Some(Consumed { place: *place, end: *ends.get(partition)?, committed })
    };
    Ok(places.iter().zip(&partitions).filter_map(consumed).collect())
}

/// Deletes repartition records that are consumed.
pub(super) async fn purge(shared: Arc<Shared>, below: Vec<Position>) {
    if let Err(error) = topics::purge(&shared, &below).await {
        tracing::warn!(%error, "repartition records not purged");
    }
}
