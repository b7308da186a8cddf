//! Records on their way out: sent, and their acknowledgements awaited in order.
//!
//! Nothing passes while the fence is closed: the producer asks it before each request. Once the worker is no member
//! any more, what waits is discarded along with the tasks that it came from, and so is the producer.

use super::{
    AppError,
    fence::{Fence, Standing},
    shared::Shared,
};
use crate::{
    processor::{Origin, Outputs},
    task::{ORIGIN_HEADER, TaskId, origin_header},
    topology::TopicId,
};
use kappa_client::{
    Producer, ProducerConfig, ProducerRecord, RequestError,
    producer::{Delivery, SendError},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// How often what waits for the fence looks whether it waits in vain.
const LOOK: Duration = Duration::from_millis(50);

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
    fence: Arc<Fence>,
    producer: Producer,
    /// Records were discarded, so that nothing can be committed any more.
    discarded: bool,
    /// Whether acknowledgements are told to tasks.
    tracked: bool,
    in_flight: VecDeque<Sent>,
}

impl Outbox {
    pub(super) async fn new(shared: Arc<Shared>, fence: Arc<Fence>) -> Result<Outbox, RequestError> {
        let producer = Outbox::producer(&shared, &fence).await?;
        let tracked = shared.config.task_config().acknowledge_progress;
        Ok(Outbox { shared, fence, producer, discarded: false, tracked, in_flight: VecDeque::new() })
    }

    async fn producer(shared: &Shared, fence: &Arc<Fence>) -> Result<Producer, RequestError> {
        let mut sending = ProducerConfig::default();
        if shared.config.task_config().acknowledge_progress {
            // Others are held until what was sent is acknowledged: each ms of linger would hold them as long.
            sending = sending.linger(Duration::ZERO);
        }
        let producer = Producer::new(&shared.client, sending).await?;
        let fence = Arc::clone(fence);
        producer.gate(move || fence.standing() == Standing::Owner);
        Ok(producer)
    }

    /// Forgets everything that was handed over and has not gone out: its tasks are lost.
    pub(super) async fn discard(&mut self) -> Result<(), RequestError> {
        self.in_flight.clear();
        loop {
            match Outbox::producer(&self.shared, &self.fence).await {
                Ok(producer) => {
                    self.producer = producer;
                    self.discarded = false;
                    return Ok(());
                }
                Err(error) if error.is_retriable() && !*self.shared.closing.borrow() => {
                    tracing::warn!(%error, "no new producer yet; trying again");
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether there is no hope that what waits at the fence may pass it.
    fn is_in_vain(&self) -> bool {
        match self.fence.standing() {
            Standing::Owner => false,
            Standing::Unsure => *self.shared.closing.borrow(),
            Standing::Lost => true,
        }
    }

    /// Hands records to the producer, waiting only while its buffer is full.
    pub(super) async fn send(
        &mut self,
        outputs: Outputs,
        from: Option<(TaskId, u64)>,
    ) -> Result<(), AppError> {
        if outputs.is_empty() || self.discarded {
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
            let delivery = if self.tracked && from.is_some() {
                self.retry(|producer| producer.try_send(record).map(Some)).await?
            } else {
                self.retry(|producer| producer.send_nowait(record).map(|_| None)).await?
            };
            match delivery {
                Some(Some(delivery)) => {
                    last.insert(place, delivery);
                }
                Some(None) => {}
                None => {
                    self.discarded = true;
                    return Ok(());
                }
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

    /// Hands a record over once there is room; `None` if it must be discarded.
    async fn retry<T>(
        &self,
        send: impl Fn(&Producer) -> Result<T, SendError>,
    ) -> Result<Option<T>, AppError> {
        loop {
            match send(&self.producer) {
                Ok(sent) => return Ok(Some(sent)),
                Err(SendError::Full { .. }) if self.is_in_vain() => return Ok(None),
                Err(error) => self.make_room(error).await?,
            }
        }
    }

    async fn make_room(&self, error: SendError) -> Result<(), AppError> {
        match error {
            SendError::Full { .. } => {
                // Whether it waits in vain is looked at when it has waited.
                let _ = timeout(LOOK, self.producer.room()).await;
            }
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

    /// Waits until everything sent is acknowledged; false if that is in vain.
    pub(super) async fn flush(&mut self) -> Result<bool, AppError> {
        while !self.discarded {
            match timeout(LOOK, self.producer.flush()).await {
                Ok(flushed) => return Ok(flushed.map(|()| true)?),
                Err(_) => self.discarded = self.is_in_vain(),
            }
        }
        Ok(false)
    }

    /// Sends what is left, if it may be sent, and ends.
    pub(super) async fn close(mut self) -> Result<(), AppError> {
        if self.flush().await? {
            self.producer.close().await?;
        }
        Ok(())
    }
}
