//! A consumer's settings.

use super::assignor::{Assignor, CooperativeStickyAssignor, RangeAssignor};
use crate::config::settings;
use std::{sync::Arc, time::Duration};

/// Where a consumer starts in a partition that has no committed offset, or whose position is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// At the first record that is still there.
    Earliest,
    /// At the end: only records that are appended later are read.
    #[default]
    Latest,
    /// Nowhere: [`Consumer::poll`](super::Consumer::poll) reports an error.
    None,
}

/// Which records of transactions a consumer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IsolationLevel {
    /// All of them.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions, up to the first transaction that is still open.
    ReadCommitted,
}

impl IsolationLevel {
    /// The number on the wire.
    pub(crate) fn id(self) -> i8 {
        match self {
            IsolationLevel::ReadUncommitted => 0,
            IsolationLevel::ReadCommitted => 1,
        }
    }
}

settings! {
    /// Settings of a [`Consumer`](super::Consumer).
    pub struct ConsumerConfig {
        /// The consumer group. Needed to subscribe and to commit; default none.
        group_id: Option<String> = None,
        /// Name of a static member: a restart within the session timeout causes no rebalance. Default none.
        group_instance_id: Option<String> = None,
        /// How the group's leader spreads partitions, most preferred first: the group uses the first one that every
        /// member has. Default range, then cooperative sticky, as Kafka's own consumer.
        assignors: Vec<Arc<dyn Assignor>> =
            vec![Arc::new(RangeAssignor::default()), Arc::new(CooperativeStickyAssignor::default())],
        /// How long the group waits for a heartbeat before it drops this member. Default 45 s.
        session_timeout: Duration = Duration::from_secs(45),
        /// Time between heartbeats; at most a third of the session timeout. Default 3 s.
        heartbeat_interval: Duration = Duration::from_secs(3),
        /// Longest time between two polls before the member leaves its group; also how long a rebalance waits for
        /// this member. Default 5 min.
        max_poll_interval: Duration = Duration::from_secs(300),
        /// Time between automatic commits of what earlier polls returned; `None` to commit by hand. Default 5 s for
        /// a consumer with a group.
        auto_commit: Option<Duration> = Some(Duration::from_secs(5)),
        /// Where to start without a committed offset. Default latest.
        offset_reset: OffsetReset = OffsetReset::Latest,
        /// Which records of transactions are seen. Default all.
        isolation: IsolationLevel = IsolationLevel::ReadUncommitted,
        /// Bytes that a broker gathers before it answers a fetch. Default 1: it answers as soon as there is a record.
        fetch_bytes_min: u32 = 1_u32,
        /// How long a broker waits for `fetch_bytes_min`. Default 500 ms.
        fetch_wait_max: Duration = Duration::from_millis(500),
        /// Most bytes of one fetch response, though never less than one batch. Default 50 MiB.
        fetch_bytes_max: u32 = 50_u32 << 20,
        /// Most bytes per partition of one fetch response, though never less than one batch. Default 1 MiB.
        partition_fetch_bytes_max: u32 = 1_u32 << 20,
        /// Bytes fetched ahead of [`Consumer::poll`](super::Consumer::poll), over all partitions; the last response
        /// may exceed it. Default 64 MiB.
        prefetch_bytes_max: usize = 64_usize << 20,
        /// Bytes after which one poll returns, though never less than one batch. Default 16 MiB.
        poll_bytes_max: usize = 16_usize << 20,
        /// Whether asking for an unknown topic may create it, where the broker allows that. Default true.
        allow_auto_create_topics: bool = true,
    }
}

impl ConsumerConfig {
    /// The default settings for a member of the group `id`.
    pub fn group(id: impl Into<String>) -> ConsumerConfig {
        ConsumerConfig::default().group_id(id.into())
    }
}
