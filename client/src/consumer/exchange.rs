//! What the fetching tasks take from the assigned partitions and bring back to them. Data only.

use super::{ConsumerError, Damage, FetchedBatch, OffsetReset};
use crate::TopicPartition;
use std::time::Duration;

/// What determines a position that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The group's committed offset, or the reset policy.
    Committed,
    /// Where the log begins.
    Earliest,
    /// Where it ends.
    Latest,
    /// Nothing: the application has to seek.
    Seek,
}

impl From<OffsetReset> for Start {
    fn from(reset: OffsetReset) -> Self {
        match reset {
            OffsetReset::Earliest => Start::Earliest,
            OffsetReset::Latest => Start::Latest,
            OffsetReset::None => Start::Seek,
        }
    }
}

/// A partition to fetch from, as it was when it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) partition: TopicPartition,
    pub(super) version: u64,
    pub(super) offset: i64,
    /// The fetch before found a batch there that seems not to belong there.
    pub(super) is_doubted: bool,
}

/// A partition whose position has to be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) partition: TopicPartition,
    pub(super) version: u64,
    pub(super) start: Start,
}

/// What a fetch brought for one partition.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) batches: Vec<FetchedBatch>,
    /// Where the next fetch goes on.
    pub(super) next_offset: i64,
    pub(super) progress: Option<Progress>,
    pub(super) error: Option<ConsumerError>,
    /// Wait so long before the next fetch.
    pub(super) wait: Option<Duration>,
    /// Determine the position anew.
    pub(super) reset: Option<Start>,
    /// Another look at `next_offset` has to say whether what lies there is damaged.
    pub(super) is_doubtful: bool,
}

impl Fetched {
    pub(super) fn nothing(wish: &Wish, wait: Option<Duration>) -> Fetched {
        Fetched {
            batches: Vec::new(),
            next_offset: wish.offset,
            progress: None,
            error: None,
            wait,
            reset: None,
            is_doubtful: false,
        }
    }

    /// What follows cannot be read.
    pub(super) fn damage(&mut self, wish: &Wish, reason: Damage) {
        let (partition, offset) = (wish.partition.clone(), self.next_offset);
        self.error = Some(ConsumerError::Corrupt { partition, offset, reason });
    }
}

/// What the last fetch said of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) high_watermark: i64,
    pub(super) last_stable_offset: i64,
    pub(super) log_start_offset: i64,
}

/// How a position was found out.
#[derive(Debug)]
pub(super) enum Resolved {
    At(i64),
    Later(Duration),
    Failed(ConsumerError, Start),
}
