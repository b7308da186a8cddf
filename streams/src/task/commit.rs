//! What a task commits, and the metadata that goes with an offset.
//!
//! A commit is one value: changelog records, offsets with clocks. Whoever takes it decides how strong it is: at least
//! once waits for the outputs that were taken before, writes the changelog, waits for it, then writes the offsets.
//!
//! Metadata of a committed offset: `k3 <partition time> [<clock> ...]`, times in milliseconds; of a partition that is read
//! by writer `k4 <partition time> <reading> [<clock> ...]`; where records are put aside `k5 <partition time> <unread>
//! [<clock> ...]`. A clock is `<id>=<how far it is behind the partition time>`,
//! both hexadecimal, its id a hash of the operator's name; clocks that have seen nothing are left out. They stand here and not in
//! changelogs, since they must go back with the offset: a clock ahead of it would take records that come again for late.

use super::{Processed, Reading, Unread};
use crate::{
    processor::Outputs,
    topology::{ClockId, TopicId},
};
use std::{collections::BTreeMap, fmt::Write as _};

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
pub(crate) type Clocks = BTreeMap<ClockId, i64>;

/// What the metadata of an offset says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) time: i64,
    pub(crate) clocks: Clocks,
    pub(crate) processed: Processed,
}

/// Bytes of metadata that brokers take.
pub(crate) const METADATA_MAX: usize = 4096;

const IN_ORDER: &str = "k3";
const BY_WRITER: &str = "k4";
const PUT_ASIDE: &str = "k5";

pub(crate) fn encode_metadata(time: i64, processed: &Processed, clocks: &[(ClockId, i64)]) -> String {
    let mut text = match processed {
        Processed::InOrder(unread) if unread.aside.is_empty() => format!("{IN_ORDER} {time}"),
        Processed::InOrder(unread) => format!("{PUT_ASIDE} {time} {}", unread.encode()),
        Processed::ByWriter(reading) => format!("{BY_WRITER} {time} {}", reading.encode()),
    };
    for (ClockId(id), clock) in clocks.iter().filter(|(_, clock)| *clock != i64::MIN) {
        let behind = i128::from(time) - i128::from(*clock);
        let sign = if behind < 0 { "-" } else { "" };
        let _ = write!(text, " {id:x}={sign}{:x}", behind.unsigned_abs());
    }
    text
}

/// Reads the metadata of an offset of a partition that has so many lanes; what another writer has left is as good as
/// none.
pub(crate) fn decode_metadata(text: &str, offset: i64, lanes: usize) -> Option<Metadata> {
    let mut words = text.split(' ');
    let version = words.next()?;
    let time: i64 = words.next()?.parse().ok()?;
    let processed = match version {
        IN_ORDER => Processed::InOrder(Unread { from: offset, aside: Vec::new() }),
        BY_WRITER => Processed::ByWriter(Reading::decode(words.next()?, offset, lanes)?),
        PUT_ASIDE => Processed::InOrder(Unread::decode(words.next()?, offset)?),
        _ => return None,
    };
    let clock = |word: &str| {
        let (id, behind) = word.split_once('=')?;
        let clock = i128::from(time) - i128::from_str_radix(behind, 16).ok()?;
        Some((ClockId(u32::from_str_radix(id, 16).ok()?), i64::try_from(clock).ok()?))
    };
    Some(Metadata { time, clocks: words.map(clock).collect::<Option<Clocks>>()?, processed })
}

#[cfg(test)]
mod tests {
    use super::{super::reading::ASIDE_MAX, *};
    use crate::topology::CLOCKS_MAX;

    #[test]
    fn as_many_clocks_as_there_may_be_leave_room() {
        let clocks: Vec<_> = (0..CLOCKS_MAX).map(|number| (ClockId(u32::MAX - number as u32), 0)).collect();
        let today = 1_764_000_000_000;
        let length = |aside| {
            let unread = Unread { from: i64::MAX, aside };
            encode_metadata(today, &Processed::InOrder(unread), &clocks).len()
        };
        assert!(length(Vec::new()) < METADATA_MAX * 5 / 8);
        let far_apart = (0..ASIDE_MAX as i64).map(|at| at * (i64::MAX / ASIDE_MAX as i64)).collect();
        assert!(length(far_apart) < METADATA_MAX * 3 / 4);
    }

    #[test]
    fn metadata_round_trips_and_foreign_metadata_is_ignored() {
        let id = ClockId::of;
        let clocks = [(id("hourly"), 10), (id("daily-2"), i64::MIN), (id("x"), i64::MAX), (id(""), -300)];
        let none = Processed::InOrder(Unread { from: 7, aside: Vec::new() });
        let text = encode_metadata(-5, &none, &clocks);
        assert_eq!(text, "k3 -5 fc3a08e0=-f fd0c5087=-8000000000000004 811c9dc5=127");
        let Metadata { time, clocks: read, processed } = decode_metadata(&text, 7, 1).unwrap();
        let seen = clocks.into_iter().filter(|(_, clock)| *clock != i64::MIN).collect();
        assert_eq!((time, &read), (-5, &seen));
        assert_eq!(processed, none);
        for processed in [
            Processed::ByWriter(Reading { read: 90, aside: vec![(2, 70), (5, 80)], idle: vec![1, 3] }),
            Processed::InOrder(Unread { from: 400, aside: vec![70, 72, 390] }),
        ] {
            let text = encode_metadata(-5, &processed, &clocks);
            let clocks = read.clone();
            assert_eq!(decode_metadata(&text, 70, 6).unwrap(), Metadata { time, clocks, processed });
        }
        for foreign in [
            "",
            "AgAAAYs=",
            "k3 1 broken",
            "k3 1 811c9dc5=-ffffffffffffffffff",
            "k4 1",
            "k4 1 !",
            "k5 1",
            "k5 1 AA",
            "k5 1 !",
            "k1 1 hourly=10",
            "k6 1",
        ] {
            assert_eq!(decode_metadata(foreign, 7, 1), None, "{foreign}");
        }
    }
}
