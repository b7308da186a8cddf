//! What is processed of a partition.
//!
//! Of one that is read in order that is everything below an offset but the records that are put aside. Of one that is read
//! by writer, each writer's records are processed in log order: it is everything below the offset up to which the partition
//! has been read but, for the writers that are named, their records from an offset on. Either is committed as the least
//! offset that is not processed, with the rest beside it, in a few characters per record put aside or writer: whoever
//! goes on reads from there, and skips what is processed.

use std::iter::repeat_with;

/// Records of a partition that may be put aside one by one: what is committed with an offset has room for that many.
pub(crate) const ASIDE_MAX: usize = 32;

/// What is processed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Processed {
    /// It is read in order.
    InOrder(Unread),
    /// It is read by writer.
    ByWriter(Reading),
}

impl Processed {
    /// The least offset that is not processed.
    pub(crate) fn least(&self) -> i64 {
        match self {
            Processed::InOrder(unread) => unread.least(),
            Processed::ByWriter(reading) => reading.least(),
        }
    }

    /// What is not processed, of a partition that is read in order.
    pub(crate) fn in_order(self) -> Option<Unread> {
        match self {
            Processed::InOrder(unread) => Some(unread),
            Processed::ByWriter(_) => None,
        }
    }

    /// Whether there is less to say of it once more is processed.
    pub(crate) fn has_aside(&self) -> bool {
        match self {
            Processed::InOrder(unread) => !unread.aside.is_empty(),
            Processed::ByWriter(reading) => !reading.aside.is_empty(),
        }
    }
}

/// What is not processed of a partition that is read in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Everything from this offset on.
    pub(crate) from: i64,
    /// Offsets below it, ascending.
    pub(crate) aside: Vec<i64>,
}

impl Unread {
    /// The least offset that is not processed.
    pub(crate) fn least(&self) -> i64 {
        self.aside.first().copied().unwrap_or(self.from)
    }

    /// Whether the record at this offset is not processed.
    pub(crate) fn has(&self, offset: i64) -> bool {
        offset >= self.from || self.aside.binary_search(&offset).is_ok()
    }

    /// Everything but the least offset, as text: how far each is behind the one before, `from` the last; empty if
    /// nothing is put aside.
    pub(crate) fn encode(&self) -> String {
        let offsets = || self.aside.iter().chain([&self.from]);
        let mut bytes = Vec::new();
        offsets()
            .zip(offsets().skip(1))
            .for_each(|(before, offset)| put(&mut bytes, (offset - before) as u64));
        text(&bytes)
    }

    /// Reads what [`Unread::encode`] wrote beside the least offset; `None` if it is something else.
    pub(crate) fn decode(text: &str, least: i64) -> Option<Unread> {
        let bytes = bytes(text)?;
        let (mut rest, mut from, mut aside) = (&bytes[..], least, Vec::new());
        while !rest.is_empty() {
            aside.push(from);
            let difference = i64::try_from(take(&mut rest)?).ok().filter(|difference| *difference > 0)?;
            from = from.checked_add(difference)?;
        }
        (aside.len() <= ASIDE_MAX).then_some(Unread { from, aside })
    }
}

/// What is processed of a partition that is read by writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Offset up to which it is read.
    pub(crate) read: i64,
    /// Lanes with records that wait, ascending, and the offsets of the first of them.
    pub(crate) aside: Vec<(u32, i64)>,
    /// Lanes of the writers that are idle, ascending.
    pub(crate) idle: Vec<u32>,
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Reading {
    /// The least offset that is not processed.
    pub(crate) fn least(&self) -> i64 {
        self.aside.iter().map(|(_, offset)| *offset).min().unwrap_or(self.read)
    }

    /// The least offset of a lane that is not processed.
    pub(crate) fn position(&self, lane: u32) -> i64 {
        let at = self.aside.binary_search_by_key(&lane, |(lane, _)| *lane);
        at.ok().and_then(|at| self.aside.get(at)).map_or(self.read, |(_, offset)| *offset)
    }

    /// Everything but the least offset, as text: the read offset; how many lanes wait, and which from where; then the lanes
    /// that are idle and those that are not, in runs. Numbers are differences where they can be.
    pub(crate) fn encode(&self) -> String {
        let (mut bytes, least) = (Vec::new(), self.least());
        put(&mut bytes, (self.read - least) as u64);
        put(&mut bytes, self.aside.len() as u64);
        let mut before = 0;
        for (lane, offset) in &self.aside {
            put(&mut bytes, u64::from(lane - before));
            put(&mut bytes, (offset - least) as u64);
            before = *lane;
        }
        let (mut at, mut run) = (0, 0);
        for lane in self.idle.iter().copied().chain([u32::MAX]) {
            if run > 0 && at + run < lane {
                put(&mut bytes, u64::from(run));
                (at, run) = (at + run, 0);
            }
            if run == 0 && lane < u32::MAX {
                put(&mut bytes, u64::from(lane - at));
                at = lane;
            }
            run += 1;
        }
        text(&bytes)
    }

    /// Reads what [`Reading::encode`] wrote beside the least offset; `None` if it is something else. A lane beyond
    /// `lanes` is none that there is.
    pub(crate) fn decode(text: &str, least: i64, lanes: usize) -> Option<Reading> {
        let bytes = bytes(text)?;
        let mut rest = &bytes[..];
        let offset = |difference: u64| least.checked_add(i64::try_from(difference).ok()?);
        let read = offset(take(&mut rest)?)?;
        let waiting = take(&mut rest)?;
        let mut aside: Vec<(u32, i64)> = Vec::new();
        for _ in 0..waiting {
            let before = aside.last().map_or(0, |(lane, _)| *lane);
            aside.push((
                before.checked_add(u32::try_from(take(&mut rest)?).ok()?)?,
                offset(take(&mut rest)?)?,
            ));
        }
        let (mut idle, mut at) = (Vec::new(), 0u64);
        while !rest.is_empty() {
            let from = at.checked_add(take(&mut rest)?)?;
            at = from.checked_add(take(&mut rest)?)?;
            let known = from.min(lanes as u64)..at.min(lanes as u64);
            idle.extend(known.map(|lane| lane as u32));
        }
        Some(Reading { read, aside, idle })
    }
}

/// Appends a number, seven bits at a time, the least first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Six bits to a character.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits = part
            .iter()
            .chain(repeat_with(|| &0))
            .take(3)
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let digit =
            |at: usize| DIGITS.get((bits >> (18 - 6 * at)) as usize & 63).copied().map_or('A', char::from);
        text.extend((0..=part.len()).map(digit));
    }
    text
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for part in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for digit in part {
            let value = DIGITS.iter().position(|other| other == digit)?;
            bits = bits << 6 | value as u32;
        }
        bits <<= 6 * (4 - part.len());
        let all = bits.to_be_bytes();
        bytes.extend(all.get(1..part.len()).filter(|_| part.len() > 1)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn it_reads_as_it_was_written(
            least in 0i64..1 << 40,
            aside in prop::collection::btree_map(0u32..300, 0i64..1 << 20, 0..40),
            idle in prop::collection::btree_set(1u32..300, 0..300),
        ) {
            let aside: BTreeMap<u32, i64> = aside;
            let idle: BTreeSet<u32> = idle;
            let aside: Vec<(u32, i64)> = aside.into_iter().map(|(lane, ahead)| (lane, least + ahead)).collect();
            let reading = Reading { read: least + (1 << 20), aside, idle: idle.into_iter().collect() };
            let text = reading.encode();
            prop_assert!(!text.is_empty() && !text.contains([' ', '=']));
            prop_assert_eq!(Reading::decode(&text, reading.least(), 300), Some(reading));
        }

        #[test]
        fn what_is_put_aside_reads_as_it_was_written(
            least in 0i64..1 << 40,
            differences in prop::collection::vec(1i64..1 << 40, 0..ASIDE_MAX + 1),
        ) {
            let mut aside = vec![least];
            for difference in differences {
                aside.extend(aside.last().and_then(|last| last.checked_add(difference)));
            }
            let unread = Unread { from: aside.pop().unwrap(), aside };
            let text = unread.encode();
            prop_assert!(text.is_empty() == unread.aside.is_empty() && !text.contains([' ', '=']));
            prop_assert!(text.len() < 280, "{} characters", text.len());
            prop_assert_eq!(unread.least(), least);
            prop_assert_eq!(Unread::decode(&text, least), Some(unread));
        }

        #[test]
        fn no_text_puts_aside_what_cannot_be(text in "[A-Za-z0-9_=-]{0,400}", least in prop_oneof![Just(5), Just(i64::MAX - 5)]) {
            if let Some(unread) = Unread::decode(&text, least) {
                let all: Vec<i64> = unread.aside.iter().copied().chain([unread.from]).collect();
                prop_assert!(all.len() <= ASIDE_MAX + 1 && all[0] == least && all.is_sorted_by(|a, b| a < b));
            }
        }

        #[test]
        fn anything_else_is_nothing_and_does_no_harm(text in "[A-Za-z0-9=]{0,40}", lanes in 0usize..10) {
            if let Some(reading) = Reading::decode(&text, 5, lanes) {
                prop_assert!(reading.idle.len() <= 40 * lanes && reading.read >= 5);
            }
        }
    }

    #[test]
    fn four_hundred_writers_fit_beside_an_offset() {
        let aside = (1..=400).map(|lane| (lane * 3, 1_000_000 + i64::from(lane) * 97)).collect();
        let reading = Reading { read: 1_100_000, aside, idle: (0..400).map(|at| at * 3 + 2).collect() };
        let length = reading.encode().len();
        assert!(length < 3900, "{length} characters");
    }
}
