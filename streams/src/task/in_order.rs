//! A partition that is read in the order of its log, but for single records that are far ahead.
//!
//! A record further ahead than the skew bound of how far its partition has come is a *jump*. The one behind it tells
//! whether event time has jumped: it has, if that one is within the bound of the jump or later. Else the jump is out of
//! its time and is put aside, so that it stops nobody; it goes by event time, once its partition has come so far or brings
//! nothing more. A jump that is last says nothing until the next record has come.

use super::{InputBatch, Unread, input::InputRecord, lane::Lane, reading::ASIDE_MAX};
use std::collections::BTreeMap;

/// Bytes of records of a partition that may be put aside.
const ASIDE_BYTES: usize = 1 << 20;

/// What is buffered of a partition.
#[derive(Debug)]
pub(super) struct InOrder {
    lane: Lane,
    /// What is put aside, by time and offset.
    aside: BTreeMap<(i64, i64), InputBatch>,
    aside_bytes: usize,
    /// How far ahead a record is no jump; without, none is.
    bound: Option<i64>,
    /// Time of the record taken last, if that was a jump with nothing behind it.
    jump: Option<i64>,
    /// Offset of the next record of the lane.
    next: i64,
    /// What had not been processed when the task began; what was put aside then is put aside again as it comes.
    unread: Unread,
    /// How many records have been put aside, and how many of them taken.
    put_aside: u64,
    taken_aside: u64,
}

impl InOrder {
    /// A partition, beginning with what is not processed. Without a bound nothing is put aside but what was already.
    pub(super) fn new(unread: Unread, bound: Option<i64>) -> InOrder {
        InOrder {
            lane: Lane::new(),
            aside: BTreeMap::new(),
            aside_bytes: 0,
            bound,
            jump: None,
            next: unread.least(),
            unread,
            put_aside: 0,
            taken_aside: 0,
        }
    }

    /// The records in the lane, and their bytes.
    pub(super) fn buffered(&self) -> (usize, usize) {
        (self.lane.records(), self.lane.bytes())
    }

    /// Whether nothing is buffered but what is put aside.
    pub(super) fn is_empty(&self) -> bool {
        self.lane.head().is_none()
    }

    /// How many records have been put aside.
    pub(super) fn put_aside(&self) -> u64 {
        self.put_aside
    }

    /// Whether records are put aside.
    pub(super) fn has_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// Time and offset of the least that is put aside.
    fn first_aside(&self) -> Option<(i64, i64)> {
        self.aside.first_key_value().map(|(place, _)| *place)
    }

    /// Whether the record that is next is one that was put aside.
    pub(super) fn is_aside_next(&self) -> bool {
        self.first_aside().is_some_and(|aside| self.lane.head().is_none_or(|head| aside < head))
    }

    /// Time and offset of the record that is next.
    pub(super) fn head(&self) -> Option<(i64, i64)> {
        if self.is_aside_next() { self.first_aside() } else { self.lane.head() }
    }

    /// The record that is next, and its batch.
    pub(super) fn front(&self) -> Option<(&InputBatch, &InputRecord)> {
        if !self.is_aside_next() {
            return self.lane.front();
        }
        let (_, batch) = self.aside.first_key_value()?;
        Some((batch, batch.records.first()?))
    }

    /// Keys of the next records of the lane.
    pub(super) fn keys_ahead(&self, records: usize) -> impl Iterator<Item = &[u8]> {
        self.lane.keys_ahead(records)
    }

    /// Whether a record of this time is a jump for a partition that has come to `time`.
    fn is_jump(&self, time: i64, of: i64) -> bool {
        self.bound.is_some_and(|bound| of > time.saturating_add(bound))
    }

    /// How far event time has come by the first record of the lane, in a partition that had come to `time`; `None` if that
    /// is not known. One that is out of its time, and for which there is no room, counts as in any log.
    fn sure(&self, time: i64) -> Option<i64> {
        let (head, _) = self.lane.head()?;
        let is_known = !self.is_jump(time, head) || self.lane.second().is_some();
        is_known.then_some(time.max(head))
    }

    /// The same, for all that is buffered: how far a partition is for others.
    pub(super) fn reach(&self, time: i64) -> Option<i64> {
        let sure = self.sure(time)?;
        Some(self.first_aside().map_or(sure, |(aside, _)| sure.min(time.max(aside))))
    }

    /// Appends a batch, of which what lies below `fetch` has come before; `end` is where reading goes on, `time` how far the
    /// partition has come. Returns how many records were skipped for a negative timestamp.
    pub(super) fn push(
        &mut self,
        mut batch: InputBatch,
        (fetch, end, pinned): (i64, i64, i64),
        time: &mut i64,
    ) -> u64 {
        let from = self.unread.from;
        if fetch < from {
            batch.records.retain(|record| self.unread.has(record.offset));
        }
        let negative = batch.trim(fetch, pinned);
        if fetch < from {
            for record in batch.records.iter().filter(|record| record.offset < from) {
                self.keep_aside((record.timestamp, record.offset), batch.only(record));
            }
            batch.records.retain(|record| record.offset >= from);
        }
        let was_empty = self.is_empty();
        if !batch.is_empty() {
            self.lane.push(batch);
        }
        if was_empty {
            self.next = self.lane.head().map_or(end, |(_, offset)| offset);
        }
        if let Some((head, _)) = self.lane.head()
            && let Some(jump) = self.jump.take()
            && !self.is_jump(head, jump)
        {
            *time = (*time).max(jump);
        }
        self.settle(*time, end);
        negative
    }

    /// Below `offset` there is nothing more than was pushed.
    pub(super) fn pass(&mut self, offset: i64) {
        if self.is_empty() {
            self.next = self.next.max(offset);
        }
    }

    /// Puts aside what is out of its time at the front of the lane.
    fn settle(&mut self, time: i64, end: i64) {
        while let Some((head, offset)) = self.lane.head()
            && self.is_jump(time, head)
            && let Some((behind, _)) = self.lane.second()
            && self.is_jump(behind, head)
            && let Some((batch, record)) = self.lane.front()
            && self.has_room(batch.size_of(record))
        {
            let own = batch.only(record);
            self.keep_aside((head, offset), own);
            self.put_aside += 1;
            self.move_on(end);
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.aside.len() < ASIDE_MAX && self.aside_bytes.saturating_add(bytes) <= ASIDE_BYTES
    }

    fn keep_aside(&mut self, place: (i64, i64), record: InputBatch) {
        self.aside_bytes += record.size();
        self.aside.insert(place, record);
    }

    /// Moves past the record that is next; `end` is where reading goes on behind the last. Returns how far a partition that
    /// had come to `time` has come with it.
    pub(super) fn advance(&mut self, time: i64, end: i64) -> i64 {
        if self.is_aside_next() {
            if let Some((_, batch)) = self.aside.pop_first() {
                self.aside_bytes -= batch.size();
            }
            self.taken_aside += 1;
            return time;
        }
        let Some((taken, _)) = self.lane.head() else { return time };
        let sure = self.sure(time);
        self.jump = if sure.is_none() { Some(taken) } else { None };
        let time = sure.unwrap_or(time);
        self.move_on(end);
        self.settle(time, end);
        time
    }

    fn move_on(&mut self, end: i64) {
        self.lane.advance();
        self.next = self.lane.head().map_or(end, |(_, offset)| offset);
    }

    /// What is not processed.
    pub(super) fn unread(&self) -> Unread {
        let put_aside = self.aside.keys().map(|(_, offset)| *offset);
        let before = self.unread.aside.iter().copied().filter(|offset| *offset >= self.next);
        let mut aside: Vec<i64> = put_aside.chain(before).collect();
        aside.sort_unstable();
        Unread { from: self.next.max(self.unread.from), aside }
    }

    /// The least offset that is not processed.
    pub(super) fn position(&self) -> i64 {
        if self.aside.is_empty() && self.next >= self.unread.from { self.next } else { self.unread().least() }
    }

    /// Another number whenever what is processed has changed.
    pub(super) fn steps(&self) -> u64 {
        (self.next as u64).wrapping_add(self.taken_aside)
    }

    /// Leader epoch at the least offset that is not processed, or before; -1 if unknown.
    pub(super) fn leader_epoch(&self) -> i32 {
        let aside = self.aside.values().map(|batch| batch.leader_epoch);
        aside.min().unwrap_or(self.lane.leader_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::InputBatchBuilder, *};
    use crate::record::Headers;
    use proptest::prelude::*;

    const BOUND: i64 = 10;

    fn in_order(unread: Unread) -> InOrder {
        InOrder::new(unread, Some(BOUND))
    }

    /// The log from `from` to `to`.
    fn batch(log: &[i64], from: usize, to: usize) -> InputBatch {
        let mut batch = InputBatchBuilder::new(from as i64);
        log[from..to].iter().for_each(|time| batch.push(*time, None, None, Headers::NONE));
        batch.finish()
    }

    /// Takes whatever is not later than `limit`: times and offsets.
    fn take(order: &mut InOrder, limit: i64, (time, fetch): (&mut i64, i64)) -> Vec<(i64, i64)> {
        let mut taken = Vec::new();
        while let Some(head) = order.head().filter(|(at, _)| *at <= limit) {
            let (_, record) = order.front().unwrap();
            assert_eq!((record.timestamp, record.offset), head);
            taken.push(head);
            *time = order.advance(*time, fetch);
        }
        taken
    }

    proptest! {
        #[test]
        fn whoever_goes_on_takes_what_is_left_and_nothing_else(
            log in prop::collection::vec(prop_oneof![4 => 0i64..50, 1 => 0i64..1000], 1..150),
            steps in prop::collection::vec((1usize..20, 0i64..1000, any::<bool>()), 1..40),
        ) {
            let mut order = in_order(Unread { from: 0, aside: Vec::new() });
            let (mut fetch, mut time, mut taken) = (0, i64::MIN, Vec::new());
            let end = (log.len(), i64::MAX, false);
            for (length, limit, restarts) in steps.into_iter().chain([end; 2]) {
                let to = (fetch + length).min(log.len());
                order.push(batch(&log, fetch, to), (fetch as i64, to as i64, i64::MAX), &mut time);
                fetch = to;
                let before = (time, order.steps());
                let more = take(&mut order, limit, (&mut time, fetch as i64));
                prop_assert!(time >= before.0 && (more.is_empty() || order.steps() != before.1));
                taken.extend(more.into_iter().map(|(_, offset)| offset));
                let unread = order.unread();
                prop_assert_eq!(unread.least(), order.position());
                if restarts {
                    let least = unread.least();
                    let read = Unread::decode(&unread.encode(), least).unwrap();
                    prop_assert_eq!(&read, &unread);
                    order = in_order(read);
                    fetch = least as usize;
                }
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..log.len() as i64).collect::<Vec<_>>());
            prop_assert_eq!(order.position(), log.len() as i64);
        }
    }

    #[test]
    fn what_is_out_of_its_time_goes_by_event_time_and_says_nothing_of_the_others() {
        let mut order = in_order(Unread { from: 0, aside: Vec::new() });
        let (log, mut time) = ([5, 500, 6, 300, 7, 301, 8], 0);
        order.push(batch(&log, 0, 7), (0, 7, i64::MAX), &mut time);
        assert_eq!(take(&mut order, 10, (&mut time, 7)), [(5, 0), (6, 2), (7, 4), (8, 6)]);
        assert_eq!((time, order.reach(time), order.head()), (8, None, Some((300, 3))));
        assert_eq!((order.unread(), order.put_aside()), (Unread { from: 7, aside: vec![1, 3, 5] }, 3));
        assert_eq!(take(&mut order, 400, (&mut time, 7)), [(300, 3), (301, 5)]);
        assert_eq!((time, order.position()), (8, 1));
    }

    #[test]
    fn whether_event_time_has_jumped_is_told_by_the_next_record() {
        // A log, what is put aside of it, and how far it comes.
        for (log, aside, reached) in [
            (&[5, 500, 501, 502][..], &[][..], 502),
            (&[5, 500, 490, 502], &[], 502),
            (&[5, 500, 489, 490], &[1], 490),
            (&[5, 500, 900, 6], &[2], 500),
            (&[5, 900, 500, 6], &[1, 2], 6),
            (&[500, 7, 504, 508], &[0], 7),
            (&[490, 500, 7, 504], &[], 504),
            (&[500, 501, 7, 504], &[], 504),
            (&[5, 15, 25, 7, 35], &[], 35),
        ] {
            let (mut order, mut time) = (in_order(Unread { from: 0, aside: Vec::new() }), i64::MIN);
            let end = log.len() as i64;
            order.push(batch(log, 0, log.len()), (0, end, i64::MAX), &mut time);
            // What is put aside stays until the lane is through.
            while !order.is_empty() && !order.is_aside_next() {
                time = order.advance(time, end);
            }
            assert_eq!((&order.unread().aside[..], time), (aside, reached), "{log:?}");
        }
    }

    #[test]
    fn what_is_put_aside_is_bounded_in_records_and_bytes_and_what_finds_no_room_counts_as_in_any_log() {
        for (size, room) in [(0, ASIDE_MAX as i64), (ASIDE_BYTES / 4, 3)] {
            let mut order = in_order(Unread { from: 0, aside: Vec::new() });
            let mut batch = InputBatchBuilder::new(0);
            let value = vec![0; size];
            (0..40).for_each(|at| batch.push(900 - at * 20, None, Some(&value), Headers::NONE));
            batch.push(5, None, None, Headers::NONE);
            order.push(batch.finish(), (0, 41, i64::MAX), &mut 0);
            let head = 900 - room * 20;
            assert_eq!((order.put_aside(), order.reach(0)), (room as u64, Some(head)));
            assert_eq!(order.lane.head(), Some((head, room)));
        }
    }

    #[test]
    fn one_alone_is_no_sign_that_event_time_has_jumped_and_two_are() {
        let log = [5, 12, 500, 13, 500, 505, 900, 1300, 300, 1301];
        let (mut order, mut time) = (in_order(Unread { from: 0, aside: Vec::new() }), 0);
        let mut reached = Vec::new();
        for at in 0..log.len() {
            order.push(batch(&log, at, at + 1), (at as i64, at as i64 + 1, i64::MAX), &mut time);
            reached.push((order.reach(time), time));
            take(&mut order, i64::MAX, (&mut time, at as i64 + 1));
        }
        // Each is taken before the next one comes.
        let expected = [
            (Some(5), 0),
            (Some(12), 5),
            (None, 12),
            (Some(13), 12),
            (None, 13),
            (Some(505), 500),
            (None, 505),
            (None, 900),
            (Some(900), 900),
            (None, 900),
        ];
        assert_eq!(reached, expected);
    }
}
