//! Carries out what an instance's outbox says is next, with a producer.
//!
//! A task of its own has the producer, so that nobody waits for room or for a disk but it. Nothing passes while the
//! fence is closed: the producer asks it before each request, and the outbox is told how it stands before offsets. How much
//! waits here is bounded by the instance, which is told what has gone.

use super::{
    AppError,
    shared::Shared,
    worker::{answer, sight},
};
use crate::{
    instance::{Appended, Done, Event, Fence, Outbox, Outcome, Place, Standing, Step},
    processor::{OutputView, Outputs, Stamp},
    task::{CommittedOffset, FRONTIER_HEADER, Position, WRITER_HEADER, writer_header},
};
use kappa_client::{
    Consumer, Producer, ProducerRecord, RequestError, TopicPartition,
    admin::OffsetAndMetadata,
    consumer::ConsumerError,
    producer::{Delivery, SendError},
};
use parking_lot::Mutex;
use std::{any::Any, collections::BTreeMap, mem, panic::resume_unwind, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

/// Where a worker hands over what is to be written.
pub(super) struct WriterHandle {
    desk: Arc<Desk>,
    /// The writer.
    task: JoinSet<()>,
}

/// Between a worker and whoever writes for it.
struct Desk {
    outbox: Mutex<Outbox>,
    /// Something was handed over, or nothing more will be.
    handed_over: Notify,
    /// How often something was discarded: a producer sends until the next time. Changed with the outbox locked.
    discards: watch::Sender<u64>,
}

impl Desk {
    fn hand_over(&self, what: impl FnOnce(&mut Outbox)) {
        what(&mut self.outbox.lock());
        self.handed_over.notify_one();
    }
}

impl WriterHandle {
    pub(super) async fn start(
        shared: Arc<Shared>,
        consumer: Arc<Consumer>,
        fence: Arc<Fence>,
        events: mpsc::Sender<Result<Event, AppError>>,
    ) -> Result<WriterHandle, RequestError> {
        let desk = Arc::new(Desk {
            outbox: Mutex::default(),
            handed_over: Notify::new(),
            discards: watch::Sender::new(0),
        });
        let discards = desk.discards.subscribe();
        let producer = producer(&desk, &shared, &consumer, &fence).await?;
        let writer =
            Writer { desk: Arc::clone(&desk), shared, consumer, fence, producer, sent: BTreeMap::new() };
        let mut task = JoinSet::new();
        task.spawn(writer.run(discards, events));
        Ok(WriterHandle { desk, task })
    }

    /// Hands over records of a task.
    pub(super) fn append(&self, appended: Appended) {
        self.desk.hand_over(|outbox| outbox.append(appended));
    }

    /// Hands over a commit.
    pub(super) fn commit(&self, commit: u64, rows: Vec<Appended>, offsets: Vec<CommittedOffset>) {
        self.desk.hand_over(|outbox| outbox.commit(commit, rows, offsets));
    }

    /// Discards what has not gone out: from here on the producer sends nothing of it.
    pub(super) fn discard(&self) {
        self.desk.hand_over(|outbox| {
            outbox.discard();
            self.desk.discards.send_modify(|discards| *discards += 1);
        });
    }

    /// Ends with everything that is left undone: nothing of it is sent any more.
    pub(super) fn abandon(&mut self) {
        self.discard();
        self.task.abort_all();
    }

    /// Waits for the writer to panic; `None` once it has ended in another way.
    pub(super) async fn panicked(&mut self) -> Option<Box<dyn Any + Send>> {
        let ended = self.task.join_next().await?.err()?;
        ended.try_into_panic().ok()
    }

    /// Does what is left and ends, or gives up after a time.
    pub(super) async fn close(mut self, patience: Duration) {
        self.desk.hand_over(Outbox::close);
        if let Ok(Some(panic)) = timeout(patience, self.panicked()).await {
            resume_unwind(panic);
        }
    }
}

/// A producer that sends until the next discard.
async fn producer(
    desk: &Desk,
    shared: &Shared,
    consumer: &Arc<Consumer>,
    fence: &Arc<Fence>,
) -> Result<Producer, RequestError> {
    let discards = desk.discards.subscribe();
    let before = *discards.borrow();
    let producer = Producer::new(&shared.client, shared.config.producer()).await?;
    let (consumer, fence) = (Arc::clone(consumer), Arc::clone(fence));
    producer
        .gate(move || *discards.borrow() == before && fence.standing(sight(&consumer)) == Standing::Owner);
    Ok(producer)
}

/// Whoever has the producer.
struct Writer {
    desk: Arc<Desk>,
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    fence: Arc<Fence>,
    producer: Producer,
    /// The last record of each partition that the producer was given since it was flushed.
    sent: BTreeMap<Place, Delivery>,
}

impl Writer {
    /// Works until nobody hands over any more and everything is done, or until something fails.
    async fn run(
        mut self,
        mut discards: watch::Receiver<u64>,
        events: mpsc::Sender<Result<Event, AppError>>,
    ) {
        while let Some(step) = self.next(&mut discards).await {
            let done = tokio::select! {
                biased;
                // Dropped where it stands.
                Ok(()) = discards.changed() => continue,
                done = self.carry_out(step) => done,
            };
            let event = match done {
                Ok(done) => {
                    let mut outbox = self.desk.outbox.lock();
                    // What was carried out is no step of what has been handed over since.
                    if discards.has_changed().unwrap_or(true) {
                        continue;
                    }
                    Ok(outbox.done(done))
                }
                Err(error) => Err(error),
            };
            let failed = event.is_err();
            if let Some(event) = event.transpose() {
                // Without a worker nobody wants to know.
                let _ = events.send(event).await;
            }
            if failed {
                return;
            }
        }
        if let Err(error) = self.producer.close().await {
            tracing::warn!(%error, "records were not delivered at the end");
        }
    }

    /// What is to be done now, once there is something; `None` if there will be nothing any more.
    async fn next(&self, discards: &mut watch::Receiver<u64>) -> Option<Step> {
        loop {
            let standing = self.fence.standing(sight(&self.consumer));
            {
                let mut outbox = self.desk.outbox.lock();
                discards.mark_unchanged();
                let step = outbox.next(standing);
                if step.is_some() || outbox.is_over() {
                    return step;
                }
            }
            self.desk.handed_over.notified().await;
        }
    }

    async fn carry_out(&mut self, step: Step) -> Result<Done, AppError> {
        Ok(match step {
            Step::Append(appended) => {
                self.append(&appended.outputs).await?;
                Done::Append { bytes: appended.outputs.size() }
            }
            Step::Flush => {
                self.producer.flush().await?;
                Done::Flush { ends: mem::take(&mut self.sent).into_iter().filter_map(end).collect() }
            }
            Step::Offsets(offsets) => Done::Offsets(self.commit(&offsets).await?),
            Step::Renew => {
                self.sent.clear();
                let renew = || producer(&self.desk, &self.shared, &self.consumer, &self.fence);
                self.producer = answer("another producer", renew).await?;
                Done::Renew
            }
            Step::Tell(event) => Done::Tell(event),
        })
    }

    /// Hands records to the producer, those of a partition in their order and in one go.
    async fn append(&mut self, outputs: &Outputs) -> Result<(), AppError> {
        let mut views: Vec<OutputView<'_>> = outputs.iter().collect();
        views.sort_by_key(|view| (view.topic, view.partition));
        let ours: Vec<OurHeaders> = views.iter().map(OurHeaders::of).collect();
        let (mut headers, mut ends) = (Vec::new(), Vec::with_capacity(views.len()));
        for (view, ours) in views.iter().zip(&ours) {
            let own = view.record.headers.iter().map(|header| (&*header.key, header.value.as_deref()));
            // What a source says under our names is not said by us.
            headers.extend(own.filter(|(key, _)| !is_ours(key)).chain(ours.iter()));
            ends.push(headers.len());
        }
        let shared = Arc::clone(&self.shared);
        let mut records = Vec::with_capacity(views.len());
        let mut begin = 0;
        for (view, end) in views.iter().zip(ends) {
            records.push(record(&shared, view, headers.get(begin..end).unwrap_or_default()));
            begin = end;
        }
        let (mut views, mut records) = (&views[..], &records[..]);
        while let Some(OutputView { topic, .. }) = views.first() {
            let (count, delivery) = self.send(records).await?;
            self.sent.insert((*topic, delivery.partition()), delivery);
            views = views.get(count..).unwrap_or_default();
            records = records.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn commit(&self, offsets: &[CommittedOffset]) -> Result<Outcome, AppError> {
        let offsets: Vec<_> = offsets.iter().map(|offset| self.committable(offset)).collect();
        match self.consumer.commit_offsets(&offsets).await {
            Ok(()) => Ok(Outcome::Done),
            Err(ConsumerError::Rebalanced { code }) => {
                tracing::info!(%code, "offsets refused until the group has settled");
                Ok(Outcome::Refused)
            }
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "offsets not committed; trying again");
                Ok(Outcome::Again)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn committable(&self, committed: &CommittedOffset) -> (TopicPartition, OffsetAndMetadata) {
        let CommittedOffset { position, leader_epoch, metadata, .. } = committed;
        let offset = OffsetAndMetadata {
            offset: position.offset,
            leader_epoch: (*leader_epoch >= 0).then_some(*leader_epoch),
            metadata: metadata.clone(),
        };
        (self.shared.topics.partition(position.topic, position.partition), offset)
    }

    /// Hands the first records to the producer, waiting while its buffer is full; returns how many, and the last.
    async fn send(&self, records: &[ProducerRecord<'_>]) -> Result<(usize, Delivery), AppError> {
        loop {
            match self.producer.try_send_run(records) {
                Ok(taken) => return Ok(taken),
                Err(SendError::Full { .. }) => self.producer.room().await,
                Err(SendError::TopicUnknown { topic }) => {
                    self.producer.partitions_for(&topic).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn record<'a>(shared: &'a Shared, view: &OutputView<'a>, headers: &'a [HeaderRef<'a>]) -> ProducerRecord<'a> {
    ProducerRecord {
        topic: shared.topics.name(view.topic),
        partition: Some(view.partition),
        timestamp: Some(view.record.timestamp),
        key: view.record.key,
        value: view.record.value,
        headers,
    }
}

/// Where a partition ends behind a record that is acknowledged, unless that is not known.
fn end(((topic, partition), delivery): (Place, Delivery)) -> Option<Position> {
    let offset = delivery.try_result()?.ok()?.offset;
    (offset >= 0).then_some(Position { topic, partition, offset: offset + 1 })
}

type HeaderRef<'a> = (&'a str, Option<&'a [u8]>);

fn is_ours(header: &str) -> bool {
    header == WRITER_HEADER || header == FRONTIER_HEADER
}

/// Values of the headers that readers of repartition topics go by.
struct OurHeaders {
    writer: Option<[u8; 4]>,
    stamp: Option<[u8; Stamp::LEN]>,
}

impl OurHeaders {
    fn of(view: &OutputView<'_>) -> OurHeaders {
        OurHeaders { writer: view.writer.map(i32::to_be_bytes), stamp: view.stamp.map(Stamp::encode) }
    }

    fn iter(&self) -> impl Iterator<Item = HeaderRef<'_>> {
        let writer = self.writer.as_ref().map(|writer| (WRITER_HEADER, Some(writer_header(writer))));
        let stamp = self.stamp.as_ref().map(|stamp| (FRONTIER_HEADER, Some(&stamp[..])));
        writer.into_iter().chain(stamp)
    }
}
