//! Settings of an application.

use super::EndOffsets;
use crate::{
    instance::{InstanceConfig, Pacing},
    record::millis,
    task::{StampConfig, TaskConfig},
};
use kappa_client::Client;
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
        }
    }

    /// Worker threads of this instance, each a member of the group. Default 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = workers.max(1);
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
    /// depends on. Default 1 hour.
    #[must_use]
    pub fn skew_bound(mut self, bound: Duration) -> Config {
        self.skew_bound = Some(bound);
        self
    }

    /// Reads partitions as fast as they come, however far they drift apart.
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

    /// How long a query waits for a table that is being restored or moved. Default 10 s.
    #[must_use]
    pub fn query_timeout(mut self, timeout: Duration) -> Config {
        self.query_timeout = timeout;
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

    /// Replicas of internal topics. Default: the broker's default.
    #[must_use]
    pub fn replication_factor(mut self, replicas: i16) -> Config {
        self.replication_factor = Some(replicas);
        self
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
