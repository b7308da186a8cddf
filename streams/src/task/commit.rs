//! What a task commits, and the metadata that goes with an offset.
//!
//! A commit is one value: changelog records, offsets with clocks. Whoever takes it decides how strong it is: at least
//! once waits for the outputs that were taken before, writes the changelog, waits for it, then writes the offsets.
//!
//! Metadata of a committed offset: `k1 <partition time> [<operator>=<clock> ...]`, times in milliseconds; of a partition
//! that is read by writer `k2 <partition time> <reading> [<operator>=<clock> ...]`.

use super::Reading;
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
    /// Partition time, operator clocks, and what is processed behind the offset.
    pub(crate) metadata: String,
    /// The input's steps that it covers.
    pub(crate) steps: u64,
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

/// What the metadata of an offset says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) time: i64,
    pub(crate) clocks: Clocks,
    /// What is processed, of a partition that is read by writer.
    pub(crate) reading: Option<Reading>,
}

/// Bytes of metadata that brokers take.
pub(crate) const METADATA_MAX: usize = 4096;

const IN_ORDER: &str = "k1";
const BY_WRITER: &str = "k2";

pub(crate) fn encode_metadata(time: i64, reading: Option<&Reading>, clocks: &[(Arc<str>, i64)]) -> String {
    let mut text = match reading {
        None => format!("{IN_ORDER} {time}"),
        Some(reading) => format!("{BY_WRITER} {time} {}", reading.encode()),
    };
    for (name, clock) in clocks {
        let _ = write!(text, " {name}={clock}");
    }
    text
}

/// Reads the metadata of an offset of a partition that has so many lanes; what another writer has left is as good as
/// none.
pub(crate) fn decode_metadata(text: &str, offset: i64, lanes: usize) -> Option<Metadata> {
    let mut words = text.split(' ');
    let version = words.next()?;
    let time = words.next()?.parse().ok()?;
    let reading = match version {
        IN_ORDER => None,
        BY_WRITER => Some(Reading::decode(words.next()?, offset, lanes)?),
        _ => return None,
    };
    let clock = |word: &str| {
        let (name, clock) = word.rsplit_once('=')?;
        Some((Arc::from(name), clock.parse().ok()?))
    };
    Some(Metadata { time, clocks: words.map(clock).collect::<Option<Clocks>>()?, reading })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_round_trips_and_foreign_metadata_is_ignored() {
        let clocks = [("hourly".into(), 10), ("daily-2".into(), i64::MIN)];
        let text = encode_metadata(-5, None, &clocks);
        assert_eq!(text, "k1 -5 hourly=10 daily-2=-9223372036854775808");
        let Metadata { time, clocks: read, reading } = decode_metadata(&text, 7, 1).unwrap();
        assert_eq!((time, read.get("hourly"), read.get("daily-2")), (-5, Some(&10), Some(&i64::MIN)));
        assert_eq!(reading, None);
        let written = Reading { read: 90, aside: vec![(2, 70), (5, 80)], idle: vec![1, 3] };
        let text = encode_metadata(-5, Some(&written), &clocks);
        assert_eq!(
            decode_metadata(&text, 70, 6).unwrap(),
            Metadata { time, clocks: read, reading: Some(written) }
        );
        for foreign in ["", "AgAAAYs=", "k1 1 broken", "k2 1", "k2 1 !", "k3 1"] {
            assert_eq!(decode_metadata(foreign, 7, 1), None, "{foreign}");
        }
    }
}
