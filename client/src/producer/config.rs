//! A producer's settings.

use crate::config::settings;
use kappa_protocol::record::Compression;
use std::time::Duration;

/// When the broker answers a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acks {
    /// Never: records count as delivered once they are handed to the connection, and may be lost.
    None,
    /// Once the leader has written them.
    Leader,
    /// Once they are kept: synced to disk by a Kappa broker, or on all in-sync replicas.
    #[default]
    All,
}

impl Acks {
    /// The number on the wire.
    pub(crate) fn id(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

settings! {
    /// Settings of a [`Producer`](super::Producer).
    pub struct ProducerConfig {
        /// When a record counts as delivered. Default all.
        acks: Acks = Acks::All,
        /// Whether retries neither duplicate nor reorder records. Default true; needs `acks` all and at most five
        /// requests in flight.
        idempotent: bool = true,
        /// Codec of the batches. Default none.
        compression: Compression = Compression::None,
        /// How long a batch that is not full waits for more records while requests to the same broker are
        /// unanswered. A broker that owes nothing is sent what there is at once, so that a single record is never
        /// held back. Default 5 ms.
        linger: Duration = Duration::from_millis(5),
        /// Bytes of uncompressed records at which a batch is full; a larger record gets a batch of its own. A topic's
        /// `max.message.bytes` must allow it. Default 1,000,000, which Kafka's default of 1,048,588 does: few large
        /// batches keep the pipe full though only five requests may be in flight.
        batch_bytes: usize = 1_000_000_usize,
        /// Most bytes of one record; a topic's `max.message.bytes` bounds it too. Default 1 MiB.
        record_bytes_max: usize = 1_usize << 20,
        /// Most bytes of one request, which carries a batch each of several partitions. Default 8 MiB.
        request_bytes_max: usize = 8_usize << 20,
        /// Bytes of records that may wait for their acknowledgement. [`Producer::send`](super::Producer::send) waits
        /// beyond it. Default 32 MiB.
        buffer_bytes: usize = 32_usize << 20,
        /// How long [`Producer::send`](super::Producer::send) waits for room or for a topic's metadata. Default 60 s.
        send_timeout: Duration = Duration::from_secs(60),
        /// Time after which a batch that was not acknowledged, retries included, is reported as failed. Default 120 s.
        delivery_timeout: Duration = Duration::from_secs(120),
        /// Whether the first record that is not delivered is the last: what is not on its way yet is given up, and no
        /// record is taken any more, so that with idempotence each partition ends before the first record that is
        /// lacking. Default false: records behind it are sent all the same, as by Kafka's clients.
        stop_on_failure: bool = false,
        /// Requests in flight per broker. Default 5, the most that idempotence allows.
        in_flight_max: usize = 5_usize,
    }
}
