//! Records on their way out, and commits behind them: done in the order in which they were handed over.
//!
//! A task of its own has the producer, so that nobody waits for room or for a disk but it. Nothing passes while the
//! fence is closed: the producer asks it before each request, and so does a commit before its offsets. What is
//! discarded ends with its producer. How much waits here is bounded by the instance, which is told what has gone.

use super::{AppError, shared::Shared, worker::sight};
use crate::{
    instance::{Event, Fence, Outcome, Standing},
    processor::{OutputView, Outputs, Stamp},
    task::{CommittedOffset, FRONTIER_HEADER, Position, WRITER_HEADER, writer_header},
    topology::TopicId,
};
use kappa_client::{
    Consumer, Producer, ProducerRecord, RequestError, TopicPartition,
    admin::OffsetAndMetadata,
    consumer::ConsumerError,
    producer::{Delivery, SendError},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Time before a producer is asked for again.
const RETRY: Duration = Duration::from_millis(50);

enum Work {
    Append(Outputs),
    Commit { commit: u64, records: Vec<Outputs>, offsets: Vec<CommittedOffset> },
}

struct Job {
    /// How many discards came before it.
    discards: u64,
    work: Work,
}

/// Where a worker hands over what is to be written.
pub(super) struct Outbox {
    jobs: mpsc::UnboundedSender<Job>,
    discards: watch::Sender<u64>,
    writer: JoinHandle<()>,
}

impl Outbox {
    pub(super) async fn start(
        shared: Arc<Shared>,
        consumer: Arc<Consumer>,
        fence: Arc<Fence>,
        events: mpsc::Sender<Result<Event, AppError>>,
    ) -> Result<Outbox, RequestError> {
        let (discards, discarded) = watch::channel(0);
        let producer = producer(&shared, &consumer, &fence, discarded.clone()).await?;
        let (jobs, to_do) = mpsc::unbounded_channel();
        let writer = Writer { shared, consumer, fence, events, producer };
        let writer = tokio::spawn(writer.run(to_do, discarded));
        Ok(Outbox { jobs, discards, writer })
    }

    fn hand_over(&self, work: Work) {
        // Without a writer there has been an error, which ends the worker.
        let _ = self.jobs.send(Job { discards: *self.discards.borrow(), work });
    }

    /// Appends outputs of a task.
    pub(super) fn append(&self, outputs: Outputs) {
        self.hand_over(Work::Append(outputs));
    }

    /// Appends records, waits until all that was appended is kept, and writes the offsets.
    pub(super) fn commit(&self, commit: u64, records: Vec<Outputs>, offsets: Vec<CommittedOffset>) {
        self.hand_over(Work::Commit { commit, records, offsets });
    }

    /// Forgets everything that was handed over and has not gone out: from here on the producer sends nothing of it.
    pub(super) fn discard(&self) {
        self.discards.send_modify(|discards| *discards += 1);
    }

    /// Ends with everything that is left undone.
    pub(super) fn abandon(&self) {
        self.writer.abort();
    }

    /// Does what is left and ends, or gives up after a time.
    pub(super) async fn close(self, patience: Duration) {
        let Outbox { jobs, discards, mut writer } = self;
        drop(jobs);
        if timeout(patience, &mut writer).await.is_err() {
            writer.abort();
        }
        drop(discards);
    }
}

/// A producer that sends until the next discard.
async fn producer(
    shared: &Shared,
    consumer: &Arc<Consumer>,
    fence: &Arc<Fence>,
    discards: watch::Receiver<u64>,
) -> Result<Producer, RequestError> {
    let before = *discards.borrow();
    let producer = Producer::new(&shared.client, shared.config.producer()).await?;
    let (consumer, fence) = (Arc::clone(consumer), Arc::clone(fence));
    producer
        .gate(move || *discards.borrow() == before && fence.standing(sight(&consumer)) == Standing::Owner);
    Ok(producer)
}

/// Whoever has the producer.
struct Writer {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    fence: Arc<Fence>,
    events: mpsc::Sender<Result<Event, AppError>>,
    producer: Producer,
}

impl Writer {
    /// Works until nobody hands over any more and everything is done, or until something fails.
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>, mut discards: watch::Receiver<u64>) {
        loop {
            let discarded = *discards.borrow();
            // Once there is something to discard, what is being done is dropped where it stands.
            let done = tokio::select! {
                biased;
                Ok(()) = discards.changed() => self.discard(&discards).await,
                done = self.next(&mut jobs, discarded) => match done {
                    Ok(true) => Ok(()),
                    Ok(false) => break,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = done {
                let _ = self.events.send(Err(error)).await;
                return;
            }
        }
        if let Err(error) = self.producer.close().await {
            tracing::warn!(%error, "records were not delivered at the end");
        }
    }

    async fn tell(&self, event: Event) {
        // Without a worker nobody wants to know.
        let _ = self.events.send(Ok(event)).await;
    }

    /// Does one thing; false if there is nothing to do any more.
    async fn next(
        &mut self,
        jobs: &mut mpsc::UnboundedReceiver<Job>,
        discards: u64,
    ) -> Result<bool, AppError> {
        match jobs.recv().await {
            Some(Job { discards: before, .. }) if before < discards => {}
            Some(Job { work: Work::Append(outputs), .. }) => drop(self.append(outputs).await?),
            Some(Job { work: Work::Commit { commit, records, offsets }, .. }) => {
                let logged = self.log(records).await?;
                let outcome = self.commit(&offsets).await?;
                self.tell(Event::CommitEnded { commit, outcome, logged }).await;
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Forgets what the producer has not sent, by forgetting the producer.
    async fn discard(&mut self, discards: &watch::Receiver<u64>) -> Result<(), AppError> {
        loop {
            match producer(&self.shared, &self.consumer, &self.fence, discards.clone()).await {
                Ok(producer) => {
                    self.producer = producer;
                    return Ok(());
                }
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "no new producer yet; trying again");
                    sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands records to the producer, those of a partition in their order and in one go; returns the last of each.
    async fn append(&mut self, outputs: Outputs) -> Result<Vec<(TopicId, Delivery)>, AppError> {
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
        let mut records = Vec::with_capacity(views.len());
        let mut begin = 0;
        for (view, end) in views.iter().zip(ends) {
            records.push(self.record(view, headers.get(begin..end).unwrap_or_default()));
            begin = end;
        }
        let mut last: Vec<(TopicId, Delivery)> = Vec::new();
        let (mut views, mut records) = (&views[..], &records[..]);
        while let Some(OutputView { topic, .. }) = views.first() {
            let (count, delivery) = self.send(records).await?;
            last.pop_if(|(of, before)| of == topic && before.partition() == delivery.partition());
            last.push((*topic, delivery));
            views = views.get(count..).unwrap_or_default();
            records = records.get(count..).unwrap_or_default();
        }
        self.tell(Event::Sent { bytes: outputs.size() }).await;
        Ok(last)
    }

    /// Appends rows once all that was appended before is acknowledged, waits until they are too, and tells where they end
    /// in each changelog.
    async fn log(&mut self, records: Vec<Outputs>) -> Result<Vec<Position>, AppError> {
        // A row that is kept without the results of its change suppresses them when its record comes again: nothing has
        // changed then.
        self.producer.flush().await?;
        let mut last = Vec::new();
        for outputs in records {
            last.extend(self.append(outputs).await?);
        }
        self.producer.flush().await?;
        let end = |(topic, delivery): (TopicId, Delivery)| {
            let offset = delivery.try_result()?.ok()?.offset;
            let partition = delivery.partition();
            (offset >= 0).then_some(Position { topic, partition, offset: offset + 1 })
        };
        Ok(last.into_iter().filter_map(end).collect())
    }

    /// The order is what at least once means: an offset is written only when all that follows from the records before
    /// it is acknowledged. Where it may be somebody else's work, nothing is written.
    async fn commit(&mut self, offsets: &[CommittedOffset]) -> Result<Outcome, AppError> {
        if self.fence.standing(sight(&self.consumer)) != Standing::Owner {
            return Ok(Outcome::Again);
        }
        let offsets: Vec<_> = offsets.iter().map(|offset| self.committable(offset)).collect();
        if offsets.is_empty() {
            return Ok(Outcome::Done);
        }
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

    fn record<'a>(&'a self, view: &OutputView<'a>, headers: &'a [HeaderRef<'a>]) -> ProducerRecord<'a> {
        ProducerRecord {
            topic: self.shared.topics.name(view.topic),
            partition: Some(view.partition),
            timestamp: Some(view.record.timestamp),
            key: view.record.key,
            value: view.record.value,
            headers,
        }
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
