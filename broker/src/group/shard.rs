//! The groups whose records are in one partition of `__consumer_offsets`.
//!
//! Joins the pure machines ([`Group`]) with the log: appends what they wish to have written, and hands their answers
//! to those who wait. One lock guards the machines, held for a step and the append that it asks for, so the log has
//! commits and generations in the order in which they were allowed. Invariants: nothing waits under the lock; machines
//! that a thread panicked over are gone, with the partition, until the broker is started again.

use super::live::{LiveGroup, LiveGroups};
use super::memory::Memory;
use super::offsets::{CommittedOffset, OffsetsError, OffsetsState};
use super::records::{self, Encoded};
use super::state::{
    Action, Caller, Group, GroupLimits, JoinGroup, Joined, SyncGroup, Synced, Ticket, WriteId,
};
use super::view::OffsetsDeletion;
use super::waiting::Waiting;
use super::{GroupError, GroupId};
use crate::clock::Clock;
use crate::log::StorageError;
use crate::partition::{Durable, FenceOnPanic, Fold, FoldError, Partition, RewritePolicy};
use bytes::Bytes;
use kappa_protocol::EncodeError;
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot};

/// A write of a group that is in the log and not yet on disk.
#[derive(Debug)]
pub(super) struct PendingWrite {
    pub(super) shard: Arc<Shard>,
    pub(super) group: GroupId,
    pub(super) write: WriteId,
    pub(super) durable: Durable,
}

/// How shards reach the coordinator's task.
#[derive(Clone, Debug)]
pub(super) struct Notices {
    /// Writes to be waited for. A group has few at a time: one for its generation and one per takeover.
    pub(super) writes: mpsc::UnboundedSender<PendingWrite>,
    /// A deadline is now earlier than any before. However often that is said, it is heard once.
    pub(super) earlier: Arc<Notify>,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) partition: Arc<Partition>,
    pub(super) fold: Fold<OffsetsState>,
    live: Mutex<LiveGroups>,
    limits: GroupLimits,
    memory: Arc<Memory>,
    clock: Clock,
    notices: Notices,
    /// While the partition's log is rewritten: the keys of what was appended since that began.
    pub(super) rewriting: Mutex<Option<HashSet<Bytes>>>,
    /// Held for a rewrite.
    pub(super) policy: Mutex<RewritePolicy>,
}

/// The live groups, locked. They are lost if the thread panics over them, and the partition is fenced.
pub(super) struct LiveGuard<'a> {
    live: MutexGuard<'a, LiveGroups>,
    was_panicking: bool,
    /// Let go of after the lock.
    _fence: FenceOnPanic<'a>,
}

impl Deref for LiveGuard<'_> {
    type Target = LiveGroups;

    fn deref(&self) -> &LiveGroups {
        &self.live
    }
}

impl DerefMut for LiveGuard<'_> {
    fn deref_mut(&mut self) -> &mut LiveGroups {
        &mut self.live
    }
}

impl Drop for LiveGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            self.live.lose();
        }
    }
}

impl Shard {
    /// Replays the partition. Members are as last written, and just heard of.
    pub(super) fn new(
        partition: Arc<Partition>,
        limits: GroupLimits,
        memory: Arc<Memory>,
        clock: Clock,
        notices: Notices,
    ) -> Result<Self, FoldError<OffsetsError>> {
        let fold = Fold::new(partition.clone(), OffsetsState::default());
        fold.with(|_| ())?;
        let metadata = fold.with(|state| {
            let known =
                state.groups().filter_map(|(id, group)| Some((GroupId::from(id), group.metadata.clone()?)));
            known.collect::<Vec<_>>()
        })?;
        let shard = Self {
            partition,
            fold,
            live: Mutex::default(),
            limits,
            memory,
            clock,
            notices,
            rewriting: Mutex::default(),
            policy: Mutex::default(),
        };
        let now_ms = shard.clock.steady_ms();
        let mut live = shard.live.lock();
        for (id, metadata) in metadata {
            let group = Group::restored(limits, metadata, now_ms);
            let mut restored = LiveGroup::new(group, shard.memory.clone());
            restored.count();
            live.groups.insert(id.clone(), restored);
            live.schedule(&id);
        }
        drop(live);
        Ok(shard)
    }

    /// The live groups, if they are known.
    pub(super) fn live(&self) -> Result<LiveGuard<'_>, GroupError> {
        let mut live = self.live.lock();
        if !live.is_lost && self.partition.is_fenced() {
            live.lose();
        }
        if live.is_lost {
            return Err(GroupError::Lost);
        }
        let was_panicking = std::thread::panicking();
        Ok(LiveGuard { live, was_panicking, _fence: self.partition.fence_on_panic() })
    }

    /// A join. Its answer may be there at once.
    pub(super) fn join(self: &Arc<Self>, id: &str, join: JoinGroup) -> Result<Waiting<Joined>, GroupError> {
        let (answer, answered) = oneshot::channel();
        let id = GroupId::from(id);
        let ticket = self.step_or_create(&id, |live, ticket, now_ms| {
            live.held.take(live.group.growth_by_join(&join))?;
            live.joins.insert(ticket, answer);
            live.group.join(join, ticket, now_ms);
            Ok(ticket)
        })?;
        Ok(Waiting::new(answered, self.clone(), id, ticket))
    }

    /// A sync. Its answer may be there at once.
    pub(super) fn sync(
        self: &Arc<Self>,
        id: &str,
        sync: SyncGroup<'_>,
    ) -> Result<Waiting<Synced>, GroupError> {
        let (answer, answered) = oneshot::channel();
        let id = GroupId::from(id);
        let ticket: Option<Result<_, GroupError>> = self.step(&id, |live, ticket, now_ms| {
            live.held.take(live.group.growth_by_sync(&sync))?;
            live.syncs.insert(ticket, answer);
            live.group.sync(sync, ticket, now_ms);
            Ok(ticket)
        })?;
        let ticket = ticket.ok_or(GroupError::UnknownMember)??;
        Ok(Waiting::new(answered, self.clone(), id, ticket))
    }

    pub(super) fn heartbeat(&self, id: &str, caller: Caller<'_>, generation: i32) -> Result<(), GroupError> {
        let mut live = self.live()?;
        let now_ms = self.clock.steady_ms();
        // Nothing comes of a heartbeat but a later deadline, which the earlier one finds out when it comes.
        live.groups.get_mut(id).ok_or(GroupError::UnknownMember)?.group.heartbeat(caller, generation, now_ms)
    }

    pub(super) fn leave(
        self: &Arc<Self>,
        id: &str,
        callers: &[Caller<'_>],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let id = GroupId::from(id);
        let answers = self.step(&id, |live, _, now_ms| live.group.leave(callers, now_ms))?;
        Ok(answers.unwrap_or_else(|| callers.iter().map(|_| Err(GroupError::UnknownMember)).collect()))
    }

    pub(super) fn cancel(self: &Arc<Self>, id: &GroupId, ticket: Ticket) {
        // Of groups that are lost nobody waits.
        let _ = self.step(id, |live, _, now_ms| {
            live.joins.remove(&ticket);
            live.syncs.remove(&ticket);
            live.group.cancel(ticket, now_ms);
        });
    }

    pub(super) fn written(self: &Arc<Self>, id: &GroupId, write: WriteId, result: Result<(), GroupError>) {
        // Groups that are lost are not written.
        let _ = self.step(id, |live, _, now_ms| live.group.written(write, result, now_ms));
    }

    /// Appends offsets in one batch if the group allows it; what is returned waits for the disk.
    pub(super) fn commit(
        &self,
        id: &str,
        caller: Caller<'_>,
        generation: i32,
        offsets: &[(String, i32, CommittedOffset)],
        topics_exist: impl Fn() -> bool,
    ) -> Result<Durable, GroupError> {
        let encoded: Result<Vec<Encoded>, EncodeError> = offsets
            .iter()
            .map(|(topic, partition, committed)| records::offset(id, topic, *partition, Some(committed)))
            .collect();
        let encoded = encoded.map_err(|_| too_long(id))?;
        let mut live = self.live()?;
        match live.groups.get_mut(id) {
            Some(live) => live.group.check_commit(caller, generation, self.clock.steady_ms())?,
            None if generation < 0 => {}
            // It has offsets and never had a member.
            None if self.read(|state| state.group(id).is_some())? => return Err(GroupError::UnknownMember),
            None => return Err(GroupError::IllegalGeneration { current: -1, got: generation }),
        }
        if !topics_exist() {
            return Err(GroupError::TopicDeleted);
        }
        self.append(&encoded)
    }

    /// Takes back committed offsets of a group, those that `wanted` picks of the ones there are and that no member
    /// reads; per pick, whether it may be.
    pub(super) fn delete_offsets(
        &self,
        id: &str,
        wanted: &[(String, i32)],
    ) -> Result<OffsetsDeletion, GroupError> {
        self.catch_up();
        let live = self.live()?;
        let group = live.groups.get(id).map(|live| &live.group);
        let known = self.read(|state| state.group(id).is_some())?;
        if !known && group.is_none() {
            return Err(GroupError::NotFound);
        }
        let subscribed = match group.filter(|group| !group.is_empty()) {
            Some(group) => group.subscribed_topics().ok_or(GroupError::NotEmpty)?,
            None => BTreeSet::new(),
        };
        let verdict = |topic: &String| {
            if subscribed.contains(topic) { Err(GroupError::Subscribed) } else { Ok(()) }
        };
        let verdicts = wanted.iter().map(|(topic, _)| verdict(topic)).collect();
        let tombstones = self.read(|state| {
            let Some(folded) = state.group(id) else { return Vec::new() };
            wanted
                .iter()
                .filter(|(topic, partition)| {
                    verdict(topic).is_ok() && folded.offset(topic, *partition).is_some()
                })
                .filter_map(|(topic, partition)| records::offset(id, topic, *partition, None).ok())
                .collect()
        })?;
        let durable = if tombstones.is_empty() { None } else { Some(self.append_all(&tombstones)?) };
        Ok(OffsetsDeletion { verdicts, durable })
    }

    /// Removes a group that has no members, with all it committed; what is returned waits for the disk.
    pub(super) fn delete_group(&self, id: &str) -> Result<Durable, GroupError> {
        self.catch_up();
        let mut live = self.live()?;
        if live.groups.get(id).is_some_and(|live| !live.group.is_empty()) {
            return Err(GroupError::NotEmpty);
        }
        let tombstones = self.read(|state| {
            let folded = state.group(id)?;
            let offsets = folded.offsets.iter().flat_map(|(topic, partitions)| {
                partitions.keys().filter_map(|partition| records::offset(id, topic, *partition, None).ok())
            });
            Some(offsets.chain(records::metadata(id, None)).collect::<Vec<_>>())
        })?;
        let tombstones = tombstones.ok_or(GroupError::NotFound)?;
        let durable = self.append_all(&tombstones)?;
        live.forget(id);
        Ok(durable)
    }

    /// Drops the committed offsets of topics that are gone, durably. Blocks on the disk.
    pub(super) fn drop_offsets_of(&self, is_gone: impl Fn(&str) -> bool) -> Result<(), GroupError> {
        // Who found the topic before it went has appended by the time that the lock is free.
        drop(self.live()?);
        self.make_durable()?;
        self.catch_up();
        let live = self.live()?;
        let tombstones = self.read(|state| {
            let mut tombstones = Vec::new();
            for (id, folded) in state.groups() {
                for (topic, partitions) in &folded.offsets {
                    if is_gone(topic) {
                        let records =
                            partitions.keys().map(|partition| records::offset(id, topic, *partition, None));
                        tombstones.extend(records.flatten());
                    }
                }
            }
            tombstones
        })?;
        if tombstones.is_empty() {
            return Ok(());
        }
        let appended = self.append_all(&tombstones)?;
        drop(live);
        // Whether these are durable: a sync of what is in the log tells nothing of what a cut has taken.
        appended.sync().map_err(not_stored)
    }

    /// Adds the names of the topics for which something is committed.
    pub(super) fn committed_topics(
        &self,
        names: &mut BTreeSet<Arc<str>>,
    ) -> Result<(), FoldError<OffsetsError>> {
        self.fold.with(|state| {
            let topics = state.groups().flat_map(|(_, folded)| folded.offsets.keys());
            names.extend(topics.map(|topic| Arc::from(topic.as_str())));
        })
    }

    /// Makes durable what was appended. Blocks on the disk.
    pub(super) fn make_durable(&self) -> Result<(), GroupError> {
        let offsets = self.partition.offsets();
        if offsets.high_watermark == offsets.log_end {
            return Ok(());
        }
        self.partition.sync().map_err(not_stored)
    }

    /// Takes back what has expired by now, and removes groups of which nothing is left.
    pub(super) fn expire(&self, retention_ms: i64) -> Result<(), GroupError> {
        let mut last = None;
        loop {
            self.catch_up();
            last = self.expire_some(last.as_deref(), retention_ms)?;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// The same for the groups behind one by id, as many as may be looked at while heartbeats wait; the last of them if
    /// there may be more.
    pub(super) fn expire_some(
        &self,
        behind: Option<&str>,
        retention_ms: i64,
    ) -> Result<Option<GroupId>, GroupError> {
        let wall_ms = self.clock.now_ms();
        let mut live = self.live()?;
        let live = &mut *live;
        let (tombstones, gone, last) = self.read(|state| {
            let (mut tombstones, mut gone) = (Vec::new(), Vec::new());
            let (mut looked_at, mut last) = (0, None);
            for (id, folded) in state.groups_behind(behind) {
                if looked_at >= EXPIRY_OFFSETS {
                    return (tombstones, gone, last);
                }
                let group = live.groups.get(id).map(|live| &live.group);
                let expired = super::expiry::expired(folded, group, wall_ms, retention_ms);
                let count: usize = folded.offsets.values().map(std::collections::BTreeMap::len).sum();
                looked_at += 1 + count;
                last = Some(GroupId::from(id));
                let kept = count - expired.len();
                let records =
                    expired.iter().map(|(topic, partition)| records::offset(id, topic, *partition, None));
                tombstones.extend(records.flatten());
                if kept == 0 && group.is_none_or(Group::is_idle) {
                    tombstones
                        .extend(folded.metadata.as_ref().and_then(|_| records::metadata(id, None).ok()));
                    gone.push(GroupId::from(id));
                }
            }
            (tombstones, gone, None)
        })?;
        if !tombstones.is_empty() {
            tracing::debug!(records = tombstones.len(), groups = gone.len(), "committed offsets expired");
            self.append_all(&tombstones).map(drop)?;
        }
        gone.iter().for_each(|id| live.forget(id));
        Ok(last)
    }

    /// Moves every group on whose deadline has come; the next deadline of all.
    pub(super) fn tick(self: &Arc<Self>) -> Option<i64> {
        let now_ms = self.clock.steady_ms();
        loop {
            let due = {
                let live = self.live().ok()?;
                let (deadline_ms, id) = live.deadlines.first()?;
                if *deadline_ms > now_ms {
                    return Some(*deadline_ms);
                }
                id.clone()
            };
            self.step(&due, |live, _, _| live.group.tick(now_ms)).ok()?;
        }
    }

    /// Answers everyone who waits, and accepts no more.
    pub(super) fn stop(&self) {
        let mut live = self.live.lock();
        live.stopped = true;
        for live in live.groups.values_mut() {
            live.joins.clear();
            live.syncs.clear();
        }
    }

    /// Reads what is durable.
    pub(super) fn read<R>(&self, read: impl FnOnce(&OffsetsState) -> R) -> Result<R, GroupError> {
        self.fold.with(read).map_err(unreadable)
    }

    /// Folds what has become durable. Whoever reads under the lock of the live groups does this first, without it: the
    /// log is not read while heartbeats wait.
    pub(super) fn catch_up(&self) {
        // What is wrong was logged, and whoever asks next is told.
        let _ = self.read(|_| ());
    }

    /// Looks at a group's present state, if it has one.
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(Option<&Group>) -> R) -> Result<R, GroupError> {
        Ok(look(self.live()?.groups.get(id).map(|live| &live.group)))
    }

    /// Looks at every group that has more than committed offsets.
    pub(super) fn look_at_all(&self, mut look: impl FnMut(&str, &Group)) -> Result<(), GroupError> {
        self.live()?.groups.iter().for_each(|(id, live)| look(id, &live.group));
        Ok(())
    }

    fn step_or_create(
        self: &Arc<Self>,
        id: &GroupId,
        step: impl FnOnce(&mut LiveGroup, Ticket, i64) -> Result<Ticket, GroupError>,
    ) -> Result<Ticket, GroupError> {
        {
            let mut live = self.live()?;
            if live.stopped {
                return Err(GroupError::NotAvailable);
            }
            let new = || LiveGroup::new(Group::new(self.limits), self.memory.clone());
            live.groups.entry(id.clone()).or_insert_with(new);
        }
        self.step(id, step)?.ok_or(GroupError::NotAvailable)?
    }

    /// One step of a group, and everything that comes of it. `None` if there is no such group.
    fn step<R>(
        self: &Arc<Self>,
        id: &GroupId,
        step: impl FnOnce(&mut LiveGroup, Ticket, i64) -> R,
    ) -> Result<Option<R>, GroupError> {
        let mut live = self.live()?;
        live.tickets += 1;
        let (ticket, now_ms) = (Ticket(live.tickets), self.clock.steady_ms());
        let Some(group) = live.groups.get_mut(id) else { return Ok(None) };
        let result = step(group, ticket, now_ms);
        self.execute(id, group, now_ms);
        group.count();
        let earlier = live.schedule(id);
        drop(live);
        if earlier {
            self.notices.earlier.notify_one();
        }
        Ok(Some(result))
    }

    fn execute(self: &Arc<Self>, id: &GroupId, live: &mut LiveGroup, now_ms: i64) {
        // What could not even be appended leads to further actions.
        loop {
            let actions = live.group.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::AnswerJoin(ticket, answer) => {
                        live.joins.remove(&ticket).map(|waits| waits.send(answer).is_ok());
                    }
                    Action::AnswerSync(ticket, answer) => {
                        live.syncs.remove(&ticket).map(|waits| waits.send(answer).is_ok());
                    }
                    Action::Write(write) => {
                        if let Err(error) = self.write(id, &live.group, write) {
                            tracing::warn!(group = %id, %error, "group not written");
                            live.group.written(write, Err(error), now_ms);
                        }
                    }
                }
            }
        }
    }

    fn write(self: &Arc<Self>, id: &GroupId, group: &Group, write: WriteId) -> Result<(), GroupError> {
        let metadata = group.metadata(self.clock.now_ms());
        let record = records::metadata(id, Some(&metadata)).map_err(|_| too_long(id))?;
        let durable = self.append(&[record])?;
        let pending = PendingWrite { shard: self.clone(), group: id.clone(), write, durable };
        self.notices.writes.send(pending).map_err(|_| GroupError::NotAvailable)
    }

    /// Appends in batches that a partition takes; the wait is for the last.
    pub(super) fn append_all(&self, records: &[Encoded]) -> Result<Durable, GroupError> {
        let size = |record: &Encoded| record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
        let (mut rest, mut first) = (records, None);
        loop {
            let mut bytes = 0;
            let fits = |record: &&Encoded| {
                bytes += size(record);
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (batch, later) = rest.split_at(count);
            let durable = self.append(batch)?;
            if later.is_empty() {
                return Ok(first.iter().fold(durable, Durable::since));
            }
            first.get_or_insert(durable);
            rest = later;
        }
    }

    fn append(&self, records: &[Encoded]) -> Result<Durable, GroupError> {
        let now_ms = self.clock.now_ms();
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for Encoded { key, value } in records {
            batch.push(now_ms, Some(key), value.as_deref(), std::iter::empty());
        }
        let appended = self.partition.append(batch.finish(0))?;
        if let Some(keys) = &mut *self.rewriting.lock() {
            keys.extend(records.iter().map(|record| record.key.clone()));
        }
        Ok(self.partition.synced(appended.mark))
    }
}

/// Committed offsets, and groups, after which expiry lets others have the groups' lock; those of one group go together.
pub(super) const EXPIRY_OFFSETS: usize = 1_000;

/// Bytes of keys and values at which a batch ends: far below what the partition takes.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

fn unreadable(error: impl std::error::Error) -> GroupError {
    tracing::error!(%error, "group records cannot be read");
    GroupError::NotStored
}

fn not_stored(error: StorageError) -> GroupError {
    tracing::warn!(%error, cause = %error.source, "group records not stored");
    GroupError::NotStored
}

fn too_long(id: &str) -> GroupError {
    GroupError::TooLarge { what: "a text of the group", len: id.len(), max: i16::MAX as usize }
}
