//! Records on their way out: sent, and their acknowledgements awaited in order.

use super::{AppError, shared::Shared};
use crate::{
    processor::{Origin, Outputs},
    task::{ORIGIN_HEADER, TaskId, origin_header},
    topology::TopicId,
};
use kappa_client::{
    Producer, ProducerRecord,
    producer::{Delivery, SendError},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Outputs of one task, up to a number, whose acknowledgements are awaited.
struct Sent {
    task: TaskId,
    last: u64,
    /// The last delivery to each partition; those before it in the same partition come first.
    deliveries: Vec<Delivery>,
}

/// The producer of one worker.
pub(super) struct Outbox {
    shared: Arc<Shared>,
    producer: Producer,
    /// Whether acknowledgements are told to tasks.
    tracked: bool,
    in_flight: VecDeque<Sent>,
}

impl Outbox {
    pub(super) fn new(shared: Arc<Shared>, producer: Producer) -> Outbox {
        let tracked = shared.config.task_config().acknowledge_progress;
        Outbox { shared, producer, tracked, in_flight: VecDeque::new() }
    }

    /// Hands records to the producer, waiting only while its buffer is full.
    pub(super) async fn send(
        &mut self,
        outputs: Outputs,
        from: Option<(TaskId, u64)>,
    ) -> Result<(), AppError> {
        if outputs.is_empty() {
            return Ok(());
        }
        let mut last: HashMap<(TopicId, i32), Delivery> = HashMap::new();
        for output in outputs.into_records() {
            let place = (output.topic, output.partition);
            let origin = output.origin.map(|origin| self.origin(&origin));
            let own = output.headers.iter().map(|header| (&*header.key, header.value.as_deref()));
            let with_own: Vec<(&str, Option<&[u8]>)>;
            let only_origin: [(&str, Option<&[u8]>); 1];
            let headers = match &origin {
                Some(origin) if output.headers.is_empty() => {
                    only_origin = [(ORIGIN_HEADER, Some(&origin[..]))];
                    &only_origin[..]
                }
                origin => {
                    let origin = origin.as_ref().map(|origin| (ORIGIN_HEADER, Some(&origin[..])));
                    with_own = own.chain(origin).collect();
                    &with_own
                }
            };
            let record = ProducerRecord {
                topic: self.shared.topics.name(output.topic),
                partition: Some(output.partition),
                timestamp: Some(output.timestamp),
                key: output.key.as_deref(),
                value: output.value.as_deref(),
                headers,
            };
            if self.tracked && from.is_some() {
                last.insert(place, self.deliver(record).await?);
            } else {
                self.post(record).await?;
            }
        }
        if let Some((task, number)) = from.filter(|_| self.tracked) {
            let deliveries = last.into_values().collect();
            self.in_flight.push_back(Sent { task, last: number, deliveries });
        }
        Ok(())
    }

    fn origin(&self, origin: &Origin) -> bytes::Bytes {
        origin_header(self.shared.topics.name(origin.topic), origin.partition, origin.offset, origin.number)
    }

    async fn post(&self, record: ProducerRecord<'_>) -> Result<(), AppError> {
        loop {
            match self.producer.send_nowait(record) {
                Ok(_) => return Ok(()),
                Err(error) => self.make_room(error).await?,
            }
        }
    }

    async fn deliver(&self, record: ProducerRecord<'_>) -> Result<Delivery, AppError> {
        loop {
            match self.producer.try_send(record) {
                Ok(delivery) => return Ok(delivery),
                Err(error) => self.make_room(error).await?,
            }
        }
    }

    async fn make_room(&self, error: SendError) -> Result<(), AppError> {
        match error {
            SendError::Full { .. } => self.producer.room().await,
            SendError::TopicUnknown { topic } => {
                self.producer.partitions_for(&topic).await?;
            }
            error => return Err(error.into()),
        }
        Ok(())
    }

    /// Whether acknowledgements are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Waits until the oldest records sent are acknowledged. Can be dropped and called again.
    pub(super) async fn acknowledged(&mut self) -> Result<(TaskId, u64), AppError> {
        let Some(front) = self.in_flight.front_mut() else { return std::future::pending().await };
        for delivery in &mut front.deliveries {
            match delivery.try_result() {
                Some(result) => result?,
                None => delivery.await?,
            };
        }
        let acknowledged = (front.task, front.last);
        self.in_flight.pop_front();
        Ok(acknowledged)
    }

    /// What has been acknowledged already, oldest first.
    pub(super) fn try_acknowledged(&mut self) -> Result<Option<(TaskId, u64)>, AppError> {
        let Some(front) = self.in_flight.front() else { return Ok(None) };
        for delivery in &front.deliveries {
            match delivery.try_result() {
                Some(result) => result?,
                None => return Ok(None),
            };
        }
        Ok(self.in_flight.pop_front().map(|sent| (sent.task, sent.last)))
    }

    /// Waits until everything sent is acknowledged.
    pub(super) async fn flush(&mut self) -> Result<(), AppError> {
        self.producer.flush().await?;
        Ok(())
    }

    /// Sends what is left and ends.
    pub(super) async fn close(&self) -> Result<(), AppError> {
        self.producer.close().await?;
        Ok(())
    }
}
