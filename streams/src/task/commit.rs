//! What a task commits, and the metadata that goes with an offset.
//!
//! A commit is one value: changelog records, offsets with clocks. Whoever takes it decides how strong it is: at least
//! once waits for the outputs that were taken before, writes the changelog, waits for it, then writes the offsets.
//!
//! Metadata of a committed offset: `k1 <partition time> [<operator>=<clock> ...]`, times in milliseconds.

use crate::{processor::Outputs, topology::TopicId};
use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

/// A partition of a topic of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    /// The topic.
    pub(crate) topic: TopicId,
    /// The partition.
    pub(crate) partition: i32,
    /// The offset of the next record to process.
    pub(crate) offset: i64,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    /// Partition and the offset of the next record to process.
    pub(crate) position: Position,
    /// Leader epoch of the last record processed; -1 if unknown.
    pub(crate) leader_epoch: i32,
    /// Partition time and operator clocks.
    pub(crate) metadata: String,
}

/// Everything that belongs together about the records processed since the commit before.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// Changed rows of the stores.
    pub(crate) changelog: Outputs,
    /// Positions behind the records processed.
    pub(crate) offsets: Vec<CommittedOffset>,
}

/// Observed stream time per operator.
pub(crate) type Clocks = BTreeMap<Arc<str>, i64>;

const VERSION: &str = "k1";

pub(crate) fn encode_metadata(partition_time: i64, clocks: &[(Arc<str>, i64)]) -> String {
    let mut text = format!("{VERSION} {partition_time}");
    for (name, clock) in clocks {
        let _ = write!(text, " {name}={clock}");
    }
    text
}

/// Reads partition time and clocks; metadata of another writer is as good as none.
pub(crate) fn decode_metadata(text: &str) -> Option<(i64, Clocks)> {
    let mut words = text.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let time = words.next()?.parse().ok()?;
    let clock = |word: &str| {
        let (name, clock) = word.rsplit_once('=')?;
        Some((Arc::from(name), clock.parse().ok()?))
    };
    Some((time, words.map(clock).collect::<Option<Clocks>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_round_trips_and_foreign_metadata_is_ignored() {
        let text = encode_metadata(-5, &[("hourly".into(), 10), ("daily-2".into(), i64::MIN)]);
        assert_eq!(text, "k1 -5 hourly=10 daily-2=-9223372036854775808");
        let (time, clocks) = decode_metadata(&text).unwrap();
        assert_eq!((time, clocks.get("hourly"), clocks.get("daily-2")), (-5, Some(&10), Some(&i64::MIN)));
        assert_eq!(decode_metadata(""), None);
        assert_eq!(decode_metadata("AgAAAYs="), None);
        assert_eq!(decode_metadata("k1 1 broken"), None);
    }
}
