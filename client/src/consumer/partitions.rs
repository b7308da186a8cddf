//! The assigned partitions: positions, what was fetched ahead, what is paused.
//!
//! Fetching tasks take partitions from here and bring batches back; polls take the batches. Invariants: a partition
//! is in at most one fetch; batches lie in it in offset order without gaps to its position; whatever was fetched
//! before a seek or a new assignment is dropped, because the partition's version has moved on. No I/O.

use super::{
    ConsumerConfig, ConsumerError, FetchedBatch,
    exchange::{Fetched, Progress, Resolved, Start, Unresolved, Wish},
};
use crate::TopicPartition;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// One assigned partition.
#[derive(Debug)]
struct Partition {
    /// Changes whenever what is being fetched loses its meaning.
    version: u64,
    /// Next offset that a poll returns.
    position: Result<i64, Start>,
    /// Epoch of the last batch that a poll returned, -1 before.
    epoch: i32,
    /// Next offset to fetch; meaningless without a position.
    fetch_offset: i64,
    paused: bool,
    /// The listener has not been told yet.
    held: bool,
    fetching: bool,
    resolving: bool,
    not_before: Option<Instant>,
    buffer: VecDeque<FetchedBatch>,
    buffered: usize,
    error: Option<ConsumerError>,
    /// It cannot be read on from here, which is told once: only a seek or a new assignment fetches again.
    is_damaged: bool,
    is_doubted: bool,
    progress: Option<Progress>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Bytes in all buffers.
    buffered: usize,
    versions: u64,
    /// Where the last poll stopped.
    last_served: Option<TopicPartition>,
}

/// All assigned partitions of a consumer.
#[derive(Debug)]
pub(super) struct Partitions {
    state: Mutex<State>,
    /// Wakes the poll.
    pub(super) ready: Notify,
    /// Wakes the fetching tasks.
    pub(super) changed: watch::Sender<()>,
    partition_bytes_max: usize,
    prefetch_bytes_max: usize,
    poll_bytes_max: usize,
}

impl Partitions {
    pub(super) fn new(config: &ConsumerConfig) -> Partitions {
        Partitions {
            state: Mutex::default(),
            ready: Notify::new(),
            changed: watch::Sender::new(()),
            partition_bytes_max: config.partition_fetch_bytes_max as usize,
            prefetch_bytes_max: config.prefetch_bytes_max,
            poll_bytes_max: config.poll_bytes_max,
        }
    }

    /// Tells the fetching tasks to look again.
    pub(super) fn wake_fetchers(&self) {
        self.changed.send_replace(());
    }

    /// Adds partitions; those that are there already stay as they are. `held` ones wait for [`Partitions::release`].
    pub(super) fn add(&self, added: &[TopicPartition], start: Start, held: bool) {
        let mut state = self.state.lock();
        for partition in added {
            let version = state.next_version();
            state.partitions.entry(partition.clone()).or_insert_with(|| Partition::new(version, start, held));
        }
        drop(state);
        self.wake_fetchers();
    }

    pub(super) fn release(&self) {
        self.state.lock().partitions.values_mut().for_each(|partition| partition.held = false);
        self.wake_fetchers();
    }

    /// Forgets the partitions that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&TopicPartition) -> bool) {
        let mut state = self.state.lock();
        let mut freed = 0;
        state.partitions.retain(|name, partition| {
            let kept = keep(name);
            freed += if kept { 0 } else { partition.buffered };
            kept
        });
        state.buffered -= freed;
        drop(state);
        self.wake_fetchers();
    }

    pub(super) fn names(&self) -> Vec<TopicPartition> {
        self.state.lock().partitions.keys().cloned().collect()
    }

    pub(super) fn seek(
        &self,
        partition: &TopicPartition,
        to: Result<i64, Start>,
    ) -> Result<(), ConsumerError> {
        let mut state = self.state.lock();
        if !state.partitions.contains_key(partition) {
            return Err(ConsumerError::NotAssigned(partition.clone()));
        }
        state.restart(partition, to);
        drop(state);
        self.wake_fetchers();
        Ok(())
    }

    pub(super) fn set_paused(&self, partitions: &[TopicPartition], paused: bool) {
        let mut state = self.state.lock();
        for partition in partitions {
            if let Some(partition) = state.partitions.get_mut(partition) {
                partition.paused = paused;
            }
        }
        drop(state);
        if !paused {
            self.wake_fetchers();
            self.ready.notify_one();
        }
    }

    pub(super) fn paused(&self) -> Vec<TopicPartition> {
        let state = self.state.lock();
        let paused = state.partitions.iter().filter(|(_, partition)| partition.paused);
        paused.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.state.lock().partitions.get(partition)?.position.ok()
    }

    pub(super) fn progress(&self, partition: &TopicPartition) -> Option<Progress> {
        self.state.lock().partitions.get(partition)?.progress
    }

    /// Every known position, with the epoch of the last batch before it.
    pub(super) fn positions(&self) -> Vec<(TopicPartition, i64, i32)> {
        let state = self.state.lock();
        let known = state.partitions.iter().filter_map(|(name, partition)| {
            let position = partition.position.ok()?;
            Some((name.clone(), position, partition.epoch))
        });
        known.collect()
    }

    /// Takes the partitions that may be fetched from and that `here` wants, for one fetch.
    pub(super) fn take_wishes(&self, here: impl Fn(&TopicPartition) -> bool) -> Vec<Wish> {
        let mut state = self.state.lock();
        if state.buffered >= self.prefetch_bytes_max {
            return Vec::new();
        }
        let now = Instant::now();
        let mut wishes = Vec::new();
        for (name, partition) in &mut state.partitions {
            if partition.wants_fetch(now, self.partition_bytes_max) && here(name) {
                partition.fetching = true;
                let Partition { version, fetch_offset: offset, is_doubted, .. } = *partition;
                wishes.push(Wish { partition: name.clone(), version, offset, is_doubted });
            }
        }
        wishes
    }

    /// Topics of partitions that want to be fetched from, and when the next one that waits may be.
    pub(super) fn wanted(&self) -> (Vec<TopicPartition>, Option<Instant>) {
        let state = self.state.lock();
        let now = Instant::now();
        let names = state.partitions.iter().filter(|(_, partition)| partition.position.is_ok());
        let waits = state.partitions.values().filter_map(|partition| partition.not_before);
        (names.map(|(name, _)| name.clone()).collect(), waits.filter(|instant| *instant > now).min())
    }

    /// Brings back what a fetch of `wish` got.
    pub(super) fn bring(&self, wish: &Wish, fetched: Fetched) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(partition) = state.partitions.get_mut(&wish.partition) else { return };
        if partition.version != wish.version {
            return;
        }
        partition.fetching = false;
        partition.progress = fetched.progress.or(partition.progress);
        partition.fetch_offset = fetched.next_offset;
        partition.not_before = fetched.wait.map(|wait| Instant::now() + wait);
        let len: usize = fetched.batches.iter().map(size).sum();
        partition.buffer.extend(fetched.batches);
        partition.buffered += len;
        state.buffered += len;
        partition.is_damaged = matches!(fetched.error, Some(ConsumerError::Corrupt { .. }));
        partition.is_doubted = fetched.is_doubtful;
        if partition.buffer.is_empty() {
            // What was passed over, such as control batches, counts as read.
            partition.position = Ok(fetched.next_offset);
        }
        let wakes = len > 0 || fetched.error.is_some();
        partition.error = fetched.error;
        if let Some(start) = fetched.reset {
            state.restart(&wish.partition, Err(start));
        }
        drop(guard);
        if fetched.reset.is_some() || fetched.wait.is_some() {
            // A position or a leader has to be found out, or there is a time to wait for.
            self.wake_fetchers();
        }
        if wakes {
            self.ready.notify_one();
        }
    }

    /// Takes the partitions without a position, to find it out.
    pub(super) fn take_unresolved(&self) -> Vec<Unresolved> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut unresolved = Vec::new();
        for (name, partition) in &mut state.partitions {
            let due = partition.not_before.is_none_or(|instant| instant <= now);
            match partition.position {
                Err(start) if start != Start::Seek && due && !partition.held && !partition.resolving => {
                    partition.resolving = true;
                    unresolved.push(Unresolved {
                        partition: name.clone(),
                        version: partition.version,
                        start,
                    });
                }
                _ => {}
            }
        }
        unresolved
    }

    /// The position of `unresolved` is known, or has to be tried again.
    pub(super) fn resolved(&self, unresolved: &Unresolved, outcome: Resolved) {
        let mut state = self.state.lock();
        let Some(partition) = state.partitions.get_mut(&unresolved.partition) else { return };
        if partition.version != unresolved.version {
            return;
        }
        partition.resolving = false;
        match outcome {
            Resolved::At(offset) => {
                partition.position = Ok(offset);
                partition.fetch_offset = offset;
            }
            Resolved::Later(wait) => partition.not_before = Some(Instant::now() + wait),
            Resolved::Failed(error, start) => {
                partition.position = Err(start);
                partition.error = Some(error);
                partition.not_before = Some(Instant::now() + Duration::from_secs(1));
            }
        }
        drop(state);
        self.ready.notify_one();
        self.wake_fetchers();
    }

    /// Batches for one poll, from one partition after the other. An error comes first, once what was fetched before it is
    /// taken: each is told once, so it keeps the other partitions' batches waiting for no more than one poll.
    pub(super) fn take(&self) -> Result<Vec<FetchedBatch>, ConsumerError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut told = state.partitions.values_mut().filter(|partition| partition.may_serve());
        if let Some(error) = told.find_map(Partition::take_due_error) {
            drop(guard);
            self.wake_fetchers();
            return Err(error);
        }
        let mut taken = Vec::new();
        let mut left = self.poll_bytes_max;
        let start = state.last_served.take();
        let begins = |name: &TopicPartition| start.as_ref().is_none_or(|last| name > last);
        let (first, then): (Vec<_>, Vec<_>) = state.partitions.iter_mut().partition(|(name, _)| begins(name));
        for (name, partition) in first.into_iter().chain(then) {
            if left == 0 {
                break;
            }
            if !partition.may_serve() {
                continue;
            }
            let served = partition.serve(&mut left, &mut taken);
            state.buffered -= served;
            if served > 0 {
                state.last_served = Some(name.clone());
            }
        }
        drop(guard);
        if !taken.is_empty() {
            self.wake_fetchers();
        }
        Ok(taken)
    }

    #[cfg(test)]
    fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Drops what was fetched of a partition and goes on from elsewhere.
    fn restart(&mut self, name: &TopicPartition, to: Result<i64, Start>) {
        let version = self.next_version();
        let Some(partition) = self.partitions.get_mut(name) else { return };
        self.buffered -= partition.buffered;
        let Partition { paused, held, progress, .. } = *partition;
        *partition = Partition { paused, held, progress, ..Partition::new(version, Start::Seek, false) };
        partition.position = to;
        partition.fetch_offset = to.unwrap_or(0);
    }
}

impl Partition {
    fn new(version: u64, start: Start, held: bool) -> Partition {
        Partition {
            version,
            position: Err(start),
            epoch: -1,
            fetch_offset: 0,
            paused: false,
            held,
            fetching: false,
            resolving: false,
            not_before: None,
            buffer: VecDeque::new(),
            buffered: 0,
            error: None,
            is_damaged: false,
            is_doubted: false,
            progress: None,
        }
    }

    fn wants_fetch(&self, now: Instant, bytes_max: usize) -> bool {
        self.position.is_ok()
            && !self.paused
            && !self.held
            && !self.fetching
            && self.error.is_none()
            && !self.is_damaged
            && self.buffered < bytes_max
            && self.not_before.is_none_or(|instant| instant <= now)
    }

    fn may_serve(&self) -> bool {
        !self.paused && !self.held
    }

    /// The error, when nothing that was fetched before it is left.
    fn take_due_error(&mut self) -> Option<ConsumerError> {
        if self.buffer.is_empty() { self.error.take() } else { None }
    }

    /// Moves batches to `taken` while `left` bytes allow, though at least one. Returns the bytes moved.
    fn serve(&mut self, left: &mut usize, taken: &mut Vec<FetchedBatch>) -> usize {
        let mut served = 0;
        while let Some(batch) = self.buffer.pop_front_if(|batch| size(batch) <= *left || taken.is_empty()) {
            let len = size(&batch);
            *left = left.saturating_sub(len);
            served += len;
            self.position = Ok(batch.next_offset());
            self.epoch = batch.batch.header().leader_epoch();
            taken.push(batch);
        }
        if !self.buffer.is_empty() {
            // The next poll goes on here, with more room.
            *left = 0;
        } else if served > 0 {
            self.position = Ok(self.fetch_offset);
        }
        self.buffered -= served;
        served
    }
}

/// Bytes that a batch counts for: those of its decoded records, and something for itself.
fn size(batch: &FetchedBatch) -> usize {
    batch.batch.bytes().len() + 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Damage;
    use kappa_protocol::record::{BatchBuilder, BatchOptions, DecodedBatch};

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    fn batch(name: &TopicPartition, base_offset: i64, records: i64) -> FetchedBatch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        (0..records).for_each(|_| builder.push(0, None, Some(&[0; 100]), []));
        FetchedBatch {
            partition: name.clone(),
            batch: DecodedBatch::decode(builder.finish(base_offset), 0).unwrap(),
            start: base_offset,
            high_watermark: 100,
            last_stable_offset: 100,
            log_start_offset: 0,
        }
    }

    fn fetched(batches: Vec<FetchedBatch>, next_offset: i64) -> Fetched {
        Fetched {
            batches,
            next_offset,
            progress: None,
            error: None,
            wait: None,
            reset: None,
            is_doubtful: false,
        }
    }

    fn positioned(count: i32, config: &ConsumerConfig) -> Partitions {
        let partitions = Partitions::new(config);
        let names: Vec<_> = (0..count).map(partition).collect();
        partitions.add(&names, Start::Earliest, false);
        for unresolved in partitions.take_unresolved() {
            partitions.resolved(&unresolved, Resolved::At(0));
        }
        partitions
    }

    #[test]
    fn partition_is_in_one_fetch_and_position_follows_the_poll() {
        let partitions = positioned(1, &ConsumerConfig::default());
        let wishes = partitions.take_wishes(|_| true);
        assert_eq!(wishes.len(), 1);
        assert!(partitions.take_wishes(|_| true).is_empty());
        partitions.bring(&wishes[0], fetched(vec![batch(&partition(0), 0, 3)], 3));
        assert_eq!(partitions.position(&partition(0)), Some(0));
        assert_eq!(partitions.take_wishes(|_| true)[0].offset, 3);
        assert_eq!(partitions.take().unwrap().len(), 1);
        assert_eq!(partitions.position(&partition(0)), Some(3));
        assert_eq!(partitions.lock().buffered, 0);
    }

    #[test]
    fn seek_drops_what_was_fetched_and_what_is_being_fetched() {
        let partitions = positioned(1, &ConsumerConfig::default());
        let wish = partitions.take_wishes(|_| true).remove(0);
        partitions.seek(&partition(0), Ok(50)).unwrap();
        partitions.bring(&wish, fetched(vec![batch(&partition(0), 0, 3)], 3));
        assert!(partitions.take().unwrap().is_empty());
        let wish = partitions.take_wishes(|_| true).remove(0);
        assert_eq!(wish.offset, 50);
        partitions.bring(&wish, fetched(vec![batch(&partition(0), 50, 3)], 53));
        partitions.seek(&partition(0), Err(Start::Latest)).unwrap();
        assert!(partitions.take().unwrap().is_empty());
        assert_eq!((partitions.position(&partition(0)), partitions.lock().buffered), (None, 0));
    }

    #[test]
    fn paused_partition_keeps_its_batches_and_polls_take_turns() {
        let config = ConsumerConfig::default().poll_bytes_max(1_usize);
        let partitions = positioned(3, &config);
        for wish in partitions.take_wishes(|_| true) {
            partitions
                .bring(&wish, fetched(vec![batch(&wish.partition, 0, 1), batch(&wish.partition, 1, 1)], 2));
        }
        partitions.set_paused(&[partition(1)], true);
        let served =
            || partitions.take().unwrap().iter().map(|batch| batch.partition.partition).collect::<Vec<_>>();
        assert_eq!(
            [served(), served(), served(), served(), served()],
            [vec![0], vec![2], vec![0], vec![2], vec![]]
        );
        partitions.set_paused(&[partition(1)], false);
        assert_eq!(partitions.take().unwrap()[0].partition, partition(1));
    }

    #[test]
    fn damage_is_told_once_behind_what_came_before_it_and_a_seek_goes_on() {
        let partitions = positioned(2, &ConsumerConfig::default());
        let wishes = partitions.take_wishes(|_| true);
        let mut damaged = fetched(vec![batch(&partition(0), 0, 3)], 5);
        damaged.damage(&wishes[0], Damage::Unreadable);
        partitions.bring(&wishes[0], damaged);
        partitions.bring(&wishes[1], fetched(vec![batch(&partition(1), 0, 2)], 2));
        assert_eq!(partitions.take().unwrap().len(), 2);
        let error = partitions.take().unwrap_err();
        assert!(matches!(error, ConsumerError::Corrupt { offset: 5, .. }), "{error}");
        assert_eq!(partitions.position(&partition(0)), Some(5));
        let wishes = partitions.take_wishes(|_| true);
        assert_eq!(wishes.iter().map(|wish| &wish.partition).collect::<Vec<_>>(), [&partition(1)]);
        assert!(partitions.take().unwrap().is_empty());
        partitions.seek(&partition(0), Ok(8)).unwrap();
        assert_eq!(partitions.take_wishes(|_| true)[0].offset, 8);
    }

    #[test]
    fn error_is_told_though_other_partitions_never_run_dry() {
        let config = ConsumerConfig::default().poll_bytes_max(1_usize);
        let partitions = positioned(3, &config);
        for wish in partitions.take_wishes(|_| true) {
            let mut brought = match wish.partition.partition {
                1 => fetched(vec![], 0),
                _ => fetched((0..4).map(|at| batch(&wish.partition, at, 1)).collect(), 4),
            };
            if wish.partition.partition == 1 {
                brought.damage(&wish, Damage::Unreadable);
            }
            partitions.bring(&wish, brought);
        }
        assert!(partitions.take().is_err());
        assert!((0..8).all(|_| partitions.take().unwrap().len() == 1));
    }

    #[test]
    fn prefetch_is_bounded_per_partition_and_over_all() {
        let config =
            ConsumerConfig::default().partition_fetch_bytes_max(300_u32).prefetch_bytes_max(600_usize);
        let partitions = positioned(3, &config);
        let wishes = partitions.take_wishes(|_| true);
        partitions.bring(&wishes[0], fetched(vec![batch(&partition(0), 0, 3)], 3));
        assert!(partitions.take_wishes(|name| *name == partition(0)).is_empty());
        partitions.bring(&wishes[1], fetched(vec![batch(&partition(1), 0, 3)], 3));
        partitions.bring(&wishes[2], fetched(vec![], 0));
        assert!(partitions.take_wishes(|_| true).is_empty());
        partitions.take().unwrap();
        assert_eq!(partitions.take_wishes(|_| true).len(), 3);
    }
}
