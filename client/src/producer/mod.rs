//! Sending records: batches per partition, idempotent retries, bounded memory.
//!
//! A caller's thread encodes its record into the open batch of the partition (`queue`); one task (`sender`) sends
//! batches to the leaders and settles them (`flow` keeps order and numbers through retries). Each record costs a
//! place in its batch and, if its fate is of interest, a handle on the batch's completion (`delivery`).

mod config;
mod delivery;
mod error;
mod flow;
mod queue;
mod record;
mod request;
mod sender;
mod shared;
mod topics;

pub use config::{Acks, ProducerConfig};
pub use delivery::Delivery;
pub use error::{DeliveryError, SendError};
pub use record::{ProducerRecord, RecordMetadata};
pub use shared::Backlog;

use crate::{Client, RequestError};
use delivery::Finished;
use parking_lot::Mutex;
use queue::{Appended, Tell, reserved_len};
use sender::{Sender, new_identity};
use shared::{Gate, Shared};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinHandle;

/// Requests in flight per broker that idempotence allows: a broker remembers that many batches.
const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;

/// Sends records. Cloning shares the buffer, the connections and the sequence numbers.
///
/// Records of one partition are stored in the order in which they were sent. Call [`Producer::close`] at the end:
/// when the last clone is dropped, what is not acknowledged yet is given up.
#[derive(Clone, Debug)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Producer {
    /// Starts a producer with connections of its own. An idempotent one asks for its producer id first.
    ///
    /// # Errors
    /// If no broker gives a producer id within the client's API timeout.
    pub async fn new(client: &Client, mut config: ProducerConfig) -> Result<Producer, RequestError> {
        let client = client.session();
        config.idempotent &= config.acks == Acks::All;
        config.in_flight_max = config.in_flight_max.max(1);
        let mut identity = None;
        if config.idempotent {
            config.in_flight_max = config.in_flight_max.min(IDEMPOTENT_IN_FLIGHT_MAX);
            identity = Some(new_identity(&client).await?);
        }
        let shared = Arc::new(Shared::new(config));
        let sender = Sender::new(shared.clone(), client.clone(), identity);
        let task = Mutex::new(Some(client.runtime().spawn(sender.run())));
        Ok(Producer { inner: Arc::new(Inner { client, shared, task }) })
    }

    /// Takes a record. Waits for room in the buffer and for the topic's metadata if need be, not for delivery: that
    /// is what the returned handle is for.
    ///
    /// # Errors
    /// If the record is not taken within [`ProducerConfig::send_timeout`], or never can be.
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        match self.try_send(record) {
            Err(error @ (SendError::Full { .. } | SendError::TopicUnknown { .. })) => {
                let timeout = self.inner.shared.config.send_timeout;
                tokio::time::timeout(timeout, self.send_waiting(record)).await.unwrap_or(Err(error))
            }
            outcome => outcome,
        }
    }

    async fn send_waiting(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        loop {
            match self.try_send(record) {
                Err(SendError::Full { .. }) => self.inner.shared.wait_for_room(reserved_len(&record)).await,
                Err(SendError::TopicUnknown { topic }) => {
                    let asked = self.partitions_for(&topic).await;
                    asked.map_err(|reason| SendError::Metadata { topic, reason })?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes a record at once or not at all. Needs no runtime, so it suits synchronous code.
    ///
    /// # Errors
    /// [`SendError::Full`] when there is no room, [`SendError::TopicUnknown`] before the first use of a topic, and
    /// those of records that can never be sent.
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        let appended = self.append(&[record], reserved_len(&record))?;
        Ok(Delivery::new(appended.completion, appended.index))
    }

    /// [`Producer::try_send`] without a handle; the next [`Producer::flush`] reports a failure. Returns the
    /// partition.
    ///
    /// # Errors
    /// As [`Producer::try_send`].
    pub fn send_nowait(&self, record: ProducerRecord<'_>) -> Result<i32, SendError> {
        self.append(&[record], reserved_len(&record)).map(|appended| appended.completion.partition())
    }

    /// Takes the first records at once, in one step and so at a fraction of what each alone costs: as many as there is room
    /// for, up to the first for another topic or partition than the first record, which must name its partition. Returns how many, at
    /// least one, and the handle of the last of them.
    ///
    /// # Errors
    /// As [`Producer::try_send`], of the first record; nothing is taken then.
    ///
    /// # Panics
    /// If there is no record.
    pub fn try_send_run(&self, records: &[ProducerRecord<'_>]) -> Result<(usize, Delivery), SendError> {
        let config = &self.inner.shared.config;
        let first = records.first().expect("a run has a record");
        let (mut count, mut reserved) = (0, 0);
        for record in records {
            let len = reserved_len(record);
            let same = (record.partition, record.topic) == (first.partition, first.topic);
            if !same || len > config.record_bytes_max || reserved + len > config.buffer_bytes {
                break;
            }
            (count, reserved) = (count + 1, reserved + len);
        }
        let run = records.get(..count).filter(|run| run.len() > 1 && first.partition.is_some());
        let taken = run.and_then(|run| Some((count, self.append(run, reserved).ok()?)));
        let (count, appended) = match taken {
            Some(taken) => taken,
            // There may be room for one, and it is its error that is told.
            None => (1, self.append(std::slice::from_ref(first), reserved_len(first))?),
        };
        Ok((count, Delivery::new(appended.completion, appended.index)))
    }

    /// Takes all of these records, which are for one partition and take up so many bytes, or none.
    fn append(&self, records: &[ProducerRecord<'_>], reserved: usize) -> Result<Appended, SendError> {
        let shared = &self.inner.shared;
        if shared.is_closed() {
            return Err(if shared.has_stopped() { SendError::Stopped } else { SendError::Closed });
        }
        let config = &shared.config;
        if let [record] = records
            && reserved > config.record_bytes_max
        {
            return Err(SendError::TooLarge { size: reserved_len(record), max: config.record_bytes_max });
        }
        shared.reserve(records.len(), reserved)?;
        let appended = shared.topics.with_queue(records, reserved, config.batch_bytes, |queue| {
            let appended = queue.append(records, config);
            match appended.tell_sender {
                Tell::Listed => shared.list(queue),
                Tell::Full => shared.wake.notify_one(),
                Tell::Nothing => {}
            }
            if shared.has_ended() {
                shared.fail_queue(queue);
            }
            appended
        });
        appended.inspect_err(|_| shared.unreserve(records.len(), reserved))
    }

    /// Has `open` asked before each request whether records may be sent. While it says no they wait, and expire; it is
    /// asked again every 20 ms. Only the first gate of a producer counts. Meant for a writer that holds a lease: the
    /// question comes as late as it can, so that nothing waits in a buffer for a lease to end.
    pub fn gate(&self, open: impl Fn() -> bool + Send + Sync + 'static) {
        // A second gate is refused, as documented.
        let _ = self.inner.shared.gate.set(Gate(Box::new(open)));
    }

    /// Waits until there is room in the buffer, after [`SendError::Full`].
    pub async fn room(&self) {
        self.inner.shared.wait_for_room(self.inner.shared.config.buffer_bytes / 8).await;
    }

    /// Number of partitions of a topic. Asks for it if it is not known, which may create the topic where the broker
    /// allows that.
    ///
    /// # Errors
    /// If the topic does not exist, or no broker answers within the client's API timeout.
    pub async fn partitions_for(&self, topic: &str) -> Result<i32, RequestError> {
        let topic = self.inner.client.topic(topic, true).await?;
        self.inner.shared.topics.grow(&topic.name, topic.count());
        Ok(topic.count())
    }

    /// Waits until everything that was sent before is acknowledged or given up.
    ///
    /// # Errors
    /// The first failure since the last flush, whether or not its [`Delivery`] was awaited.
    pub async fn flush(&self) -> Result<(), DeliveryError> {
        let shared = &self.inner.shared;
        let _hurry = shared.hurry();
        for queue in shared.topics.queues() {
            for batch in queue.incomplete() {
                // A failure is kept for below, wherever it came from.
                let _ = Finished::new(batch).await;
            }
        }
        shared.take_failure().map_or(Ok(()), Err)
    }

    /// Records that were taken and are neither acknowledged nor given up.
    pub fn unacknowledged(&self) -> usize {
        self.inner.shared.unacknowledged()
    }

    /// What waits for its acknowledgement, how long, and what is in the way; `None` if nothing does.
    pub fn backlog(&self) -> Option<Backlog> {
        self.inner.shared.backlog()
    }

    /// Whether it has stopped at a record that was not delivered ([`ProducerConfig::stop_on_failure`]).
    pub fn has_stopped(&self) -> bool {
        self.inner.shared.has_stopped()
    }

    /// Takes no more records, flushes, and ends the background task and the connections. Later calls, and those on
    /// clones, do nothing more.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(&self) -> Result<(), DeliveryError> {
        self.inner.shared.close();
        let flushed = self.flush().await;
        self.inner.shared.stop();
        let task = self.inner.task.lock().take();
        if let Some(task) = task {
            // A task that panicked has settled its batches too.
            let _ = task.await;
            self.inner.client.close_session().await;
        }
        flushed
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
