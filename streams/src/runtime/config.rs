//! Settings of an application.

use super::{EndOffsets, owners::Address, workers::WORKERS_MAX};
use crate::{
    instance::{InstanceConfig, Pacing},
    record::millis,
    task::{StampConfig, TaskConfig},
};
use kappa_client::{Client, Compression, ConsumerConfig, ProducerConfig};
use std::{collections::BTreeMap, time::Duration};

/// How tasks tell the readers of what they write how far event time has come, and how far they may be ahead of them.
const STAMPS: StampConfig = StampConfig { interval_ms: 5, ahead_bytes: 8 << 20 };

/// Where streams without a committed offset begin. Tables are always read from their beginning, since their topic is
/// what they are restored from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that is still there.
    #[default]
    Beginning,
    /// At the first record of this event time, in milliseconds, or a later one.
    Time(i64),
    /// At these offsets by topic and partition; partitions that are not named begin at their beginning.
    Offsets(BTreeMap<(String, i32), i64>),
}

#[derive(Debug, Clone)]
pub(super) enum Cluster {
    Bootstrap(String),
    Client(Client),
}

/// Settings of an [`App`](super::App).
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) cluster: Cluster,
    pub(super) workers: usize,
    pub(super) commit_interval: Duration,
    pub(super) skew_bound: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) buffer_records: usize,
    pub(super) buffer_bytes: usize,
    pub(super) skip_undecodable: bool,
    pub(super) generation: Option<u32>,
    pub(super) start_at: StartAt,
    pub(super) replay_until: Option<EndOffsets>,
    pub(super) query_timeout: Duration,
    pub(super) session_timeout: Duration,
    pub(super) purge_interval: Duration,
    pub(super) replication_factor: Option<i16>,
    pub(super) create_topics: Option<i32>,
    pub(super) advertised: Address,
    sending: ProducerConfig,
    fetching: Fetching,
}

/// How inputs are fetched.
#[derive(Debug, Clone, Copy)]
struct Fetching {
    wait: Duration,
    response_bytes: u32,
    partition_bytes: u32,
    ahead_bytes: usize,
    max_poll_interval: Duration,
}

impl Config {
    /// Connects to the first of these comma-separated `host:port` addresses that answers.
    pub fn bootstrap(servers: &str) -> Config {
        Config::new(Cluster::Bootstrap(servers.to_owned()))
    }

    /// Uses a client that exists, for instance one of an embedded broker.
    pub fn client(client: &Client) -> Config {
        Config::new(Cluster::Client(client.clone()))
    }

    fn new(cluster: Cluster) -> Config {
        Config {
            cluster,
            workers: 1,
            commit_interval: Duration::from_secs(1),
            skew_bound: Some(Duration::from_secs(3600)),
            idle_timeout: Duration::from_secs(1),
            buffer_records: 10_000,
            buffer_bytes: 16 << 20,
            skip_undecodable: false,
            generation: None,
            start_at: StartAt::default(),
            replay_until: None,
            query_timeout: Duration::from_secs(10),
            session_timeout: Duration::from_secs(10),
            purge_interval: Duration::from_secs(30),
            replication_factor: None,
            create_topics: None,
            advertised: None,
            sending: ProducerConfig::default(),
            fetching: Fetching {
                wait: Duration::from_millis(500),
                response_bytes: 50 << 20,
                partition_bytes: 1 << 20,
                ahead_bytes: 64 << 20,
                max_poll_interval: Duration::from_secs(300),
            },
        }
    }

    /// Worker threads of this instance, each a member of the group: 1 to 256, default 1. See also
    /// [`App::set_workers`](super::App::set_workers).
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = workers.clamp(1, WORKERS_MAX);
        self
    }

    /// Longest time between two commits; an idle application commits what it has done at once. Default 1 s.
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Config {
        self.commit_interval = interval;
        self
    }

    /// How far, in event time, one partition may be read ahead of another that feeds the same operators, so that
    /// reading partitions at different speeds turns nothing late. It holds only what a window or a join with a table
    /// depends on, and is never more than the shortest grace of a window there. Default 1 hour.
    #[must_use]
    pub fn skew_bound(mut self, bound: Duration) -> Config {
        self.skew_bound = Some(bound);
        self
    }

    /// Reads partitions as fast as they come, however far they drift apart. Where windows or joins with tables are fed, all
    /// instances of the group have a bound or none has.
    #[must_use]
    pub fn no_skew_bound(mut self) -> Config {
        self.skew_bound = None;
        self
    }

    /// How long a partition at its end goes on holding the others within the skew bound. Default 1 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Config {
        self.idle_timeout = timeout;
        self
    }

    /// Records buffered per partition before fetching it pauses. Default 10,000.
    #[must_use]
    pub fn buffer_records(mut self, records: usize) -> Config {
        self.buffer_records = records.max(1);
        self
    }

    /// Bytes of fetched batches buffered per partition before fetching it pauses; a batch counts until its last record is
    /// processed. Default 16 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Config {
        self.buffer_bytes = bytes.max(1);
        self
    }

    /// Skips and counts records that cannot be decoded. Default: the application stops with an error.
    #[must_use]
    pub fn skip_undecodable(mut self) -> Config {
        self.skip_undecodable = true;
        self
    }

    /// Runs under this generation, whose internal topics and offsets are its own. Default: the latest generation
    /// recorded in the cluster, 0 if there is none.
    #[must_use]
    pub fn generation(mut self, generation: u32) -> Config {
        self.generation = Some(generation);
        self
    }

    /// Where inputs begin that this generation has no committed offset of. Default at their beginning.
    #[must_use]
    pub fn start_at(mut self, start: StartAt) -> Config {
        self.start_at = start;
        self
    }

    /// Replays up to these offsets and no further; until all are reached, unfinished partitions hold the others.
    #[must_use]
    pub fn replay_until(mut self, ends: EndOffsets) -> Config {
        self.replay_until = Some(ends);
        self
    }

    /// How long a query waits for a table that is being restored or moved; for one that another instance has, it does not
    /// wait. Default 10 s.
    #[must_use]
    pub fn query_timeout(mut self, timeout: Duration) -> Config {
        self.query_timeout = timeout;
        self
    }

    /// Where this instance can be asked about its tables, as `host:port` or whatever else those who ask can use: others of
    /// the group name it for what is here and not there ([`View::owner_of`](super::View::owner_of),
    /// [`QueryError::Elsewhere`](super::QueryError::Elsewhere)). Nothing listens there but what you make. Control characters
    /// make it unknown. Default none.
    #[must_use]
    pub fn advertised(mut self, address: &str) -> Config {
        self.advertised = Some(address.into());
        self
    }

    /// How long the group waits for a worker's heartbeat before its tasks move. Default 10 s.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Config {
        self.session_timeout = timeout;
        self
    }

    /// Time between two purges of consumed repartition records. Default 30 s.
    #[must_use]
    pub fn purge_interval(mut self, interval: Duration) -> Config {
        self.purge_interval = interval;
        self
    }

    /// Creates topics that the topology reads or writes and that are missing, with so many partitions, at least one, and
    /// otherwise the broker's defaults; dead-letter topics too. Default: topics that are read must exist, and those that are
    /// written are created by the broker, if it does so.
    #[must_use]
    pub fn create_topics(mut self, partitions: i32) -> Config {
        self.create_topics = Some(partitions.max(1));
        self
    }

    /// How long a batch of output records that is not full waits for more while earlier ones are under way. Default
    /// 5 ms.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Config {
        self.sending = self.sending.linger(linger);
        self
    }

    /// Bytes of records at which a batch of output records is full; the topics' `max.message.bytes` must allow it. Default
    /// 1,000,000.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Config {
        self.sending = self.sending.batch_bytes(bytes.max(1));
        self
    }

    /// Bytes of output records that may wait for their acknowledgement, per worker; processing waits beyond it. Default
    /// 32 MiB.
    #[must_use]
    pub fn send_buffer_bytes(mut self, bytes: usize) -> Config {
        self.sending = self.sending.buffer_bytes(bytes.max(1));
        self
    }

    /// Most bytes of one output or changelog record; the topics' `max.message.bytes` must allow it. Default 1 MiB.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Config {
        self.sending = self.sending.record_bytes_max(bytes.max(1));
        self
    }

    /// How batches of outputs and changelogs are compressed. Default not at all.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Config {
        self.sending = self.sending.compression(compression);
        self
    }

    /// Time after which an output that was not acknowledged, retries included, makes the application fail. Default 120 s.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Config {
        self.sending = self.sending.delivery_timeout(timeout);
        self
    }

    /// How long the broker waits for records before it answers a fetch with none. Default 500 ms.
    #[must_use]
    pub fn fetch_wait(mut self, wait: Duration) -> Config {
        self.fetching.wait = wait;
        self
    }

    /// Most bytes of one answer to a fetch, though never less than one batch. Default 50 MiB.
    #[must_use]
    pub fn fetch_bytes(mut self, bytes: u32) -> Config {
        self.fetching.response_bytes = bytes.max(1);
        self
    }

    /// Most bytes of one partition in an answer to a fetch, though never less than one batch. Default 1 MiB.
    #[must_use]
    pub fn partition_fetch_bytes(mut self, bytes: u32) -> Config {
        self.fetching.partition_bytes = bytes.max(1);
        self
    }

    /// Bytes fetched ahead, per worker and over all its partitions, before they are taken into the partitions' own buffers
    /// ([`Config::buffer_bytes`]). Default 64 MiB.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: usize) -> Config {
        self.fetching.ahead_bytes = bytes.max(1);
        self
    }

    /// How long one call of a function of the topology may take before the worker is taken for stuck and its tasks move.
    /// Default 5 min.
    #[must_use]
    pub fn max_poll_interval(mut self, interval: Duration) -> Config {
        self.fetching.max_poll_interval = interval;
        self
    }

    /// Replicas of internal topics, and of those of [`Config::create_topics`]. Default: the broker's default.
    #[must_use]
    pub fn replication_factor(mut self, replicas: i16) -> Config {
        self.replication_factor = Some(replicas);
        self
    }

    /// Settings of a worker's producer.
    pub(super) fn producer(&self) -> ProducerConfig {
        self.sending.clone()
    }

    /// Adds to the settings of a consumer how inputs and changelogs are fetched.
    pub(super) fn fetching(&self, consumer: ConsumerConfig) -> ConsumerConfig {
        let Fetching { wait, response_bytes, partition_bytes, ahead_bytes, max_poll_interval } =
            self.fetching;
        consumer
            .fetch_wait_max(wait)
            .fetch_bytes_max(response_bytes)
            .partition_fetch_bytes_max(partition_bytes)
            .prefetch_bytes_max(ahead_bytes)
            .max_poll_interval(max_poll_interval)
    }

    pub(super) fn instance_config(&self) -> InstanceConfig {
        let task = TaskConfig {
            skew_bound_ms: self.skew_bound.map(millis),
            idle_timeout_ms: millis(self.idle_timeout),
            skip_undecodable: self.skip_undecodable,
            stamps: STAMPS,
            buffer_records: self.buffer_records,
            buffer_bytes: self.buffer_bytes,
        };
        let pacing = Pacing::Interval { ms: millis(self.commit_interval) };
        InstanceConfig { task, pacing, purge_ms: Some(millis(self.purge_interval)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_producer_and_the_consumer() {
        let ms = Duration::from_millis;
        let plain = Config::bootstrap("here");
        let config = plain
            .clone()
            .linger(ms(1))
            .batch_bytes(101)
            .send_buffer_bytes(102)
            .record_bytes_max(103)
            .compression(Compression::Lz4)
            .delivery_timeout(ms(104))
            .fetch_wait(ms(105))
            .fetch_bytes(106)
            .partition_fetch_bytes(107)
            .prefetch_bytes(108)
            .max_poll_interval(ms(109));
        let fetching = config.fetching(ConsumerConfig::group("g"));
        let set = format!("{:?} {fetching:?}", config.producer());
        for part in [
            " linger: 1ms",
            " batch_bytes: 101",
            " buffer_bytes: 102",
            " record_bytes_max: 103",
            " compression: Lz4",
            " delivery_timeout: 104ms",
            " fetch_wait_max: 105ms",
            " fetch_bytes_max: 106",
            " partition_fetch_bytes_max: 107",
            " prefetch_bytes_max: 108",
            " max_poll_interval: 109ms",
        ] {
            assert!(set.contains(part), "{part} is not in {set}");
        }
        // Where nothing is said the client's own defaults hold.
        let group = || ConsumerConfig::group("g");
        assert_eq!(format!("{:?}", plain.fetching(group())), format!("{:?}", group()));
        assert_eq!(format!("{:?}", plain.producer()), format!("{:?}", ProducerConfig::default()));
    }
}
