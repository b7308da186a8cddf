//! The offset index and the time index of a segment, in Kafka's formats.
//!
//! ```text
//! .index      8 bytes an entry: last offset of a batch minus base offset u32 | position of that batch u32
//! .timeindex 12 bytes an entry: largest timestamp so far i64 | last offset of its batch minus base offset u32
//! ```
//! Big-endian, ascending. Invariant: entries depend on the batches alone, in order, never on how they arrived, so an
//! index rebuilt from a scan equals the one that appends made, byte for byte. An index is a cache: who looks something
//! up checks the batch found there. This module reads no files.

use kappa_protocol::record::Batch;

/// Bytes of an offset index entry.
pub(super) const OFFSET_ENTRY: usize = 8;
/// Bytes of a time index entry.
pub(super) const TIME_ENTRY: usize = 12;
/// Timestamp of records that have none.
pub(super) const NO_TIMESTAMP: i64 = -1;

/// One entry of the offset index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    /// Last offset of the batch at `position`, minus the segment's base offset.
    pub(super) relative_offset: u32,
    pub(super) position: u32,
}

/// One entry of the time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeEntry {
    pub(super) timestamp: i64,
    /// Last offset of the first batch with that timestamp, minus the segment's base offset.
    pub(super) relative_offset: u32,
}

/// What a batch adds to the indexes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indexed {
    pub(super) last_offset: i64,
    pub(super) max_timestamp: i64,
    pub(super) size: u64,
}

impl From<&Batch<'_>> for Indexed {
    fn from(batch: &Batch<'_>) -> Self {
        Self {
            last_offset: batch.last_offset(),
            max_timestamp: batch.max_timestamp(),
            size: batch.size() as u64,
        }
    }
}

/// Both indexes of a segment while batches are added to it.
#[derive(Clone, Debug)]
pub(super) struct IndexBuilder {
    base_offset: i64,
    interval: u64,
    bytes_since_entry: u64,
    offsets: Vec<u8>,
    times: Vec<u8>,
    last_time_entry: i64,
    /// Largest timestamp so far and the last offset of the first batch that has it.
    max_timestamp: (i64, i64),
}

impl IndexBuilder {
    pub(super) fn new(base_offset: i64, interval: u32) -> Self {
        Self {
            base_offset,
            interval: u64::from(interval),
            bytes_since_entry: 0,
            offsets: Vec::new(),
            times: Vec::new(),
            last_time_entry: NO_TIMESTAMP,
            max_timestamp: (NO_TIMESTAMP, base_offset),
        }
    }

    /// A builder as it was when it had seen what lies before the last of the given entries that is before `end`,
    /// and the position from which the batches have to be added again. Entries that cannot be right are not used.
    pub(super) fn resume(
        base_offset: i64,
        interval: u32,
        offsets: &[u8],
        times: &[u8],
        end: u64,
    ) -> (Self, u64) {
        let mut builder = Self::new(base_offset, interval);
        let usable = offset_entries(offsets).take_while(|entry| u64::from(entry.position) < end);
        let kept = usable.clone().count();
        let Some(last) = usable.last().filter(|_| is_sound(offsets, times)) else { return (builder, 0) };
        // Every later time entry belongs to a batch behind the last kept one, see `add`.
        let times_kept =
            time_entries(times).take_while(|entry| entry.relative_offset <= last.relative_offset).count();
        builder.offsets.extend_from_slice(offsets.get(..kept * OFFSET_ENTRY).unwrap_or_default());
        builder.times.extend_from_slice(times.get(..times_kept * TIME_ENTRY).unwrap_or_default());
        if let Some(entry) = last_time_entry(&builder.times) {
            builder.last_time_entry = entry.timestamp;
            builder.max_timestamp = (entry.timestamp, base_offset + i64::from(entry.relative_offset));
        }
        (builder, u64::from(last.position))
    }

    /// Adds the batch at `position`, which must follow the one added before. One whose offset no entry can have is left
    /// out: what a batch on the disk says of its offset is not in its checksum.
    pub(super) fn add(&mut self, position: u64, batch: Indexed) {
        if u32::try_from(batch.last_offset.wrapping_sub(self.base_offset)).is_err() {
            self.bytes_since_entry += batch.size;
            return;
        }
        if batch.max_timestamp > self.max_timestamp.0 {
            self.max_timestamp = (batch.max_timestamp, batch.last_offset);
        }
        if self.bytes_since_entry > self.interval {
            let relative = self.relative(batch.last_offset);
            self.offsets.extend_from_slice(&relative.to_be_bytes());
            self.offsets.extend_from_slice(&(position as u32).to_be_bytes());
            self.add_time_entry();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += batch.size;
    }

    /// Both indexes as they are written when nothing more comes: the time index then ends with the largest timestamp.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        self.add_time_entry();
        (self.offsets, self.times)
    }

    /// Whether another entry could pass `limit` bytes in either index.
    pub(super) fn is_full(&self, limit: u32) -> bool {
        let limit = limit as usize;
        // The last place of the time index is kept for the entry that `finish` adds.
        self.offsets.len() + OFFSET_ENTRY > limit || self.times.len() + 2 * TIME_ENTRY > limit
    }

    pub(super) fn base_offset(&self) -> i64 {
        self.base_offset
    }

    pub(super) fn offsets(&self) -> &[u8] {
        &self.offsets
    }

    pub(super) fn times(&self) -> &[u8] {
        &self.times
    }

    /// Largest timestamp and the last offset of the first batch that has it; [`NO_TIMESTAMP`] for none.
    pub(super) fn max_timestamp(&self) -> (i64, i64) {
        self.max_timestamp
    }

    fn add_time_entry(&mut self) {
        let (timestamp, offset) = self.max_timestamp;
        if timestamp > self.last_time_entry {
            self.times.extend_from_slice(&timestamp.to_be_bytes());
            let relative = self.relative(offset);
            self.times.extend_from_slice(&relative.to_be_bytes());
            self.last_time_entry = timestamp;
        }
    }

    fn relative(&self, offset: i64) -> u32 {
        u32::try_from(offset - self.base_offset).expect("others are not added")
    }
}

/// The greatest entry whose offset is at most `relative_offset`.
pub(super) fn floor_offset(offsets: &[u8], relative_offset: u32) -> Option<OffsetEntry> {
    let (entries, _) = offsets.as_chunks::<OFFSET_ENTRY>();
    let after = entries.partition_point(|entry| offset_entry(entry).relative_offset <= relative_offset);
    entries.get(after.checked_sub(1)?).map(offset_entry)
}

/// The greatest entry whose batch begins at `position` or before.
pub(super) fn floor_position(offsets: &[u8], position: u64) -> Option<OffsetEntry> {
    let (entries, _) = offsets.as_chunks::<OFFSET_ENTRY>();
    let after = entries.partition_point(|entry| u64::from(offset_entry(entry).position) <= position);
    entries.get(after.checked_sub(1)?).map(offset_entry)
}

/// The greatest entry whose timestamp is at most `timestamp`.
pub(super) fn floor_time(times: &[u8], timestamp: i64) -> Option<TimeEntry> {
    let (entries, _) = times.as_chunks::<TIME_ENTRY>();
    let after = entries.partition_point(|entry| time_entry(entry).timestamp <= timestamp);
    entries.get(after.checked_sub(1)?).map(time_entry)
}

/// The last entry whose offset is before `relative_offset`.
pub(super) fn last_time_before(times: &[u8], relative_offset: u32) -> Option<TimeEntry> {
    let (entries, _) = times.as_chunks::<TIME_ENTRY>();
    let after = entries.partition_point(|entry| time_entry(entry).relative_offset < relative_offset);
    entries.get(after.checked_sub(1)?).map(time_entry)
}

pub(super) fn last_offset_entry(offsets: &[u8]) -> Option<OffsetEntry> {
    offsets.as_chunks::<OFFSET_ENTRY>().0.last().map(offset_entry)
}

pub(super) fn last_time_entry(times: &[u8]) -> Option<TimeEntry> {
    times.as_chunks::<TIME_ENTRY>().0.last().map(time_entry)
}

fn offset_entries(offsets: &[u8]) -> impl Iterator<Item = OffsetEntry> + Clone {
    offsets.as_chunks::<OFFSET_ENTRY>().0.iter().map(offset_entry)
}

fn time_entries(times: &[u8]) -> impl Iterator<Item = TimeEntry> {
    times.as_chunks::<TIME_ENTRY>().0.iter().map(time_entry)
}

/// Whether both are whole entries in ascending order.
fn is_sound(offsets: &[u8], times: &[u8]) -> bool {
    offsets.len().is_multiple_of(OFFSET_ENTRY)
        && times.len().is_multiple_of(TIME_ENTRY)
        && offset_entries(offsets)
            .is_sorted_by(|a, b| a.relative_offset < b.relative_offset && a.position < b.position)
        && time_entries(times)
            .is_sorted_by(|a, b| a.timestamp < b.timestamp && a.relative_offset < b.relative_offset)
}

fn offset_entry(&[a, b, c, d, e, f, g, h]: &[u8; OFFSET_ENTRY]) -> OffsetEntry {
    let (relative_offset, position) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    OffsetEntry { relative_offset, position }
}

fn time_entry(entry: &[u8; TIME_ENTRY]) -> TimeEntry {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
    TimeEntry {
        timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        relative_offset: u32::from_be_bytes([i, j, k, l]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(batches: &[(u64, i64)]) -> (IndexBuilder, u64) {
        let mut builder = IndexBuilder::new(100, 50);
        let mut position = 0;
        for (number, (size, max_timestamp)) in batches.iter().enumerate() {
            let last_offset = 100 + number as i64;
            builder.add(position, Indexed { last_offset, max_timestamp: *max_timestamp, size: *size });
            position += size;
        }
        (builder, position)
    }

    #[test]
    fn an_offset_that_no_entry_can_have_is_left_out() {
        for last_offset in [99, 100 + (1 << 32), i64::MAX, i64::MIN, -1] {
            let mut builder = IndexBuilder::new(100, 0);
            builder.add(0, Indexed { last_offset: 100, max_timestamp: 1, size: 100 });
            let before = builder.clone().finish();
            builder.add(100, Indexed { last_offset, max_timestamp: 5, size: 100 });
            assert_eq!(builder.finish(), before, "{last_offset}");
        }
    }

    #[test]
    fn an_entry_is_added_for_the_first_batch_after_more_than_the_interval() {
        let (builder, _) = built(&[(50, 1), (1, 9), (60, 5), (60, 7), (10, 12)]);
        let entries: Vec<_> = offset_entries(builder.offsets()).collect();
        let expected = |relative_offset, position| OffsetEntry { relative_offset, position };
        assert_eq!(entries, [expected(2, 51), expected(3, 111), expected(4, 171)]);
        let times: Vec<_> = time_entries(builder.times()).collect();
        let expected = |timestamp, relative_offset| TimeEntry { timestamp, relative_offset };
        assert_eq!(times, [expected(9, 1), expected(12, 4)]);
    }

    #[test]
    fn lookups_find_the_greatest_entry_that_is_not_greater() {
        let (builder, _) = built(&[(60, 1), (60, 9), (60, 5), (60, 7), (10, 12)]);
        assert_eq!(floor_offset(builder.offsets(), 0), None);
        assert_eq!(floor_offset(builder.offsets(), 1).unwrap().position, 60);
        assert_eq!(floor_offset(builder.offsets(), 1000).unwrap().position, 240);
        assert_eq!(floor_time(builder.times(), 8), None);
        assert_eq!(floor_time(builder.times(), 9).unwrap().relative_offset, 1);
        assert_eq!(last_time_entry(builder.times()).unwrap().timestamp, 12);
    }

    #[test]
    fn a_builder_resumed_at_any_point_ends_with_the_same_bytes() {
        let batches: Vec<(u64, i64)> =
            (0..200).map(|n: i64| (7 + (n as u64 * 37) % 60, (n * 7919) % 101)).collect();
        let (whole, _) = built(&batches);
        for cut in 0..batches.len() {
            let (_, end) = built(&batches[..cut]);
            let (offsets, times) = whole.clone().finish();
            let (mut resumed, mut position) = IndexBuilder::resume(100, 50, &offsets, &times, end);
            let skipped = (0..=cut).find(|n| built(&batches[..*n]).1 == position).unwrap();
            for (number, (size, max_timestamp)) in batches.iter().enumerate().skip(skipped) {
                let last_offset = 100 + number as i64;
                resumed.add(position, Indexed { last_offset, max_timestamp: *max_timestamp, size: *size });
                position += size;
            }
            assert_eq!(resumed.finish(), whole.clone().finish(), "cut at {cut}");
        }
    }
}
