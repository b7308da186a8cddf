//! All groups of the broker: finds the shard of each, and moves time and writes on.
//!
//! Owns the topic `__consumer_offsets` (created when a coordinator is first looked for) and one task ([`GroupCoordinator::run`])
//! that sleeps until the next deadline of any group or the end of a write. Every method that handlers call returns
//! at once; what waits is in what they return.

use super::GroupError;
use super::memory::Memory;
use super::offsets::{CommittedOffset, OffsetsError, TopicOffsets};
use super::shard::{Notices, PendingWrite, Shard};
use super::state::{Caller, Group, GroupLimits, JoinGroup, Joined, Joiner, SyncGroup, Synced};
use super::view::{GroupDescription, GroupLag, GroupListing, OffsetToCommit, OffsetsDeletion};
use super::waiting::Waiting;
use crate::clock::Clock;
use crate::config::GroupConfig;
use crate::partition::{Durable, FoldError, Partition};
use crate::topic::{OFFSETS_TOPIC, REPAIR, Topic, TopicError, Topics};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// All groups. See the module's description.
#[derive(Debug)]
pub(crate) struct GroupCoordinator {
    topics: Arc<Topics>,
    config: GroupConfig,
    memory: Arc<Memory>,
    clock: Clock,
    shards: OnceLock<Vec<Arc<Shard>>>,
    opening: Mutex<()>,
    notices: Notices,
    /// Taken by the task.
    written: Mutex<Option<mpsc::UnboundedReceiver<PendingWrite>>>,
    stopping: watch::Sender<bool>,
}

/// Groups that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("the topic {OFFSETS_TOPIC} cannot be read: {0}; {REPAIR}")]
pub struct OpenGroupsError(#[from] FoldError<OffsetsError>);

/// Longest group id in bytes: what the key of a record holds.
const GROUP_ID_BYTES_MAX: usize = i16::MAX as usize;
/// Longest `group.instance.id`, protocol type and name of a protocol in bytes.
const NAME_BYTES_MAX: usize = 249;
/// Most protocols that a member may speak.
const PROTOCOLS_MAX: usize = 100;
/// Bytes of all its protocols' names and metadata.
const PROTOCOL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// `max.message.bytes` of the topic: a group's record holds the metadata and assignments of all its members.
const OFFSETS_MESSAGE_BYTES_MAX: &str = "33554432";

impl GroupCoordinator {
    /// Replays `__consumer_offsets`, if it exists. Blocks on the disk.
    ///
    /// # Errors
    /// The topic cannot be read.
    pub(crate) fn open(
        topics: Arc<Topics>,
        config: GroupConfig,
        clock: Clock,
    ) -> Result<Self, OpenGroupsError> {
        let (writes, written) = mpsc::unbounded_channel();
        let coordinator = Self {
            topics,
            memory: Memory::new(config.bytes_max),
            config,
            clock,
            shards: OnceLock::new(),
            opening: Mutex::new(()),
            notices: Notices { writes, earlier: Arc::default() },
            written: Mutex::new(Some(written)),
            stopping: watch::Sender::new(false),
        };
        if let Some(topic) = coordinator.topics.topic(OFFSETS_TOPIC) {
            coordinator.attach(&topic)?;
            // Those of topics whose deletion was recorded just before a crash.
            let is_gone = |topic: &str| coordinator.topics.topic(topic).is_none();
            if !coordinator.drop_offsets_of(is_gone) {
                coordinator
                    .topics
                    .owe(coordinator.committed_topics()?.into_iter().filter(|name| is_gone(name)));
            }
        }
        Ok(coordinator)
    }

    /// Moves groups on with time and with the disk, until [`GroupCoordinator::stop`]. To be spawned once.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(mut written) = self.written.lock().take() else { return };
        let mut stopping = self.stopping.subscribe();
        let mut writes: JoinSet<()> = JoinSet::new();
        let check =
            Duration::from_millis(self.config.offsets_retention_check_interval_ms.max(1).unsigned_abs());
        let mut catch_up = tokio::time::interval(CATCH_UP);
        let mut expiry = tokio::time::interval_at(tokio::time::Instant::now() + check, check);
        loop {
            let next_ms = self.each(|shard| shard.tick()).flatten().min();
            let sleep = next_ms.map_or(FOREVER, |next_ms| {
                Duration::from_millis(next_ms.saturating_sub(self.clock.steady_ms()).max(1).unsigned_abs())
            });
            tokio::select! {
                // The same order always, so that a simulation can be repeated; what is rare comes first.
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                _ = expiry.tick() => self.expire(),
                _ = catch_up.tick() => self.each(|shard| shard.catch_up()).for_each(drop),
                Some(write) = written.recv() => {
                    let watch = self.topics.panics().watch(TASK);
                    writes.spawn(async move {
                        let _watch = watch;
                        finish(write).await;
                    });
                }
                () = self.notices.earlier.notified() => {}
                Some(_) = writes.join_next() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Answers whoever waits with `NotAvailable`, and ends [`GroupCoordinator::run`].
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
        self.shards().iter().for_each(|shard| shard.stop());
    }

    /// Resolves when groups can be coordinated: at once, or when the topic is created.
    pub(crate) fn ready(self: &Arc<Self>) -> impl Future<Output = Result<(), TopicError>> + Send + 'static {
        let coordinator = self.clone();
        async move {
            if coordinator.is_ready() {
                return Ok(());
            }
            let config = &coordinator.config;
            let segment_bytes = config.offsets_segment_bytes.to_string();
            let configs = [
                ("cleanup.policy", "compact"),
                ("max.message.bytes", OFFSETS_MESSAGE_BYTES_MAX),
                ("segment.bytes", segment_bytes.as_str()),
            ];
            let topics = &coordinator.topics;
            let topic = topics.ensure_internal(OFFSETS_TOPIC, config.offsets_partitions, &configs).await?;
            coordinator.attach(&topic).map_err(TopicError::storage)
        }
    }

    /// Whether [`GroupCoordinator::ready`] would resolve at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.shards.get().is_some()
    }

    /// Bytes that groups hold of what their members said and were given.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.used()
    }

    /// The same of one group.
    pub(crate) fn bytes_of(&self, group: &str) -> usize {
        let of = |shard: &Arc<Shard>| shard.look(group, |group| group.map_or(0, Group::bytes)).ok();
        self.shard(group, 0).ok().and_then(of).unwrap_or(0)
    }

    /// How many groups there are, and the bytes of their ids, those counted twice that have members and were written. May
    /// read the log.
    pub(crate) fn listed(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        let mut add = |id: &str| {
            count += 1;
            bytes += id.len();
        };
        for shard in self.shards() {
            // Of groups that cannot be read or are lost nothing is listed.
            let _ = shard.read(|state| state.groups().for_each(|(id, _)| add(id)));
            let _ = shard.look_at_all(|id, _| add(id));
        }
        (count, bytes)
    }

    /// Someone wants to be a member of a group.
    ///
    /// # Errors
    /// What is wrong with the request itself; what the group says is in the answer.
    pub(crate) fn join(&self, group: &str, join: JoinGroup) -> Result<Waiting<Joined>, GroupError> {
        self.check_join(&join)?;
        self.shard(group, 1)?.join(group, join)
    }

    /// A member asks for its assignment.
    ///
    /// # Errors
    /// As [`GroupCoordinator::join`].
    pub(crate) fn sync(&self, group: &str, sync: SyncGroup<'_>) -> Result<Waiting<Synced>, GroupError> {
        self.shard(group, 1)?.sync(group, sync)
    }

    /// A member says that it lives.
    ///
    /// # Errors
    /// What the group says.
    pub(crate) fn heartbeat(
        &self,
        group: &str,
        caller: Caller<'_>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.shard(group, 1)?.heartbeat(group, caller, generation)
    }

    /// Members leave; an answer for each.
    ///
    /// # Errors
    /// What is wrong with the request itself.
    pub(crate) fn leave(
        &self,
        group: &str,
        callers: &[Caller<'_>],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.shard(group, 1)?.leave(group, callers)
    }

    /// Commits offsets, all or none; what is returned waits until they are on disk. `retention_ms` is how long the
    /// client wants them kept, if it says so. `topics_exist` is asked under the lock that a deletion's clean-up takes, so
    /// that no offset of a deleted topic slips in behind it.
    ///
    /// # Errors
    /// What the group says, or what kept the log from taking them.
    pub(crate) fn commit(
        &self,
        group: &str,
        caller: Caller<'_>,
        generation: i32,
        offsets: Vec<OffsetToCommit>,
        retention_ms: Option<i64>,
        topics_exist: impl Fn() -> bool,
    ) -> Result<Durable, GroupError> {
        let now_ms = self.clock.now_ms();
        let committed = |offset: OffsetToCommit| {
            let committed = CommittedOffset {
                offset: offset.offset,
                leader_epoch: offset.leader_epoch,
                metadata: offset.metadata,
                committed_at_ms: now_ms,
                expires_at_ms: retention_ms.map(|retention_ms| now_ms.saturating_add(retention_ms)),
            };
            (offset.topic, offset.partition, committed)
        };
        let offsets: Vec<_> = offsets.into_iter().map(committed).collect();
        self.shard(group, 0)?.commit(group, caller, generation, &offsets, topics_exist)
    }

    /// Whether a text may be noted with an offset.
    ///
    /// # Errors
    /// It is longer than `offset.metadata.max.bytes`.
    pub(crate) fn check_metadata(&self, metadata: &str) -> Result<(), GroupError> {
        let (len, max) = (metadata.len(), self.config.offset_metadata_bytes_max);
        if len <= max { Ok(()) } else { Err(GroupError::TooLarge { what: "offset metadata", len, max }) }
    }

    /// What a group has committed; nothing of a group that nobody knows.
    ///
    /// # Errors
    /// The coordinator cannot answer now.
    pub(crate) fn committed<R>(
        &self,
        group: &str,
        read: impl FnOnce(&TopicOffsets) -> R,
    ) -> Result<R, GroupError> {
        let nothing = TopicOffsets::new();
        self.shard(group, 0)?.read(|state| read(state.group(group).map_or(&nothing, |group| &group.offsets)))
    }

    /// Takes back committed offsets that no member reads.
    ///
    /// # Errors
    /// The group does not exist, or it has members of which it is not known what they read.
    pub(crate) fn delete_offsets(
        &self,
        group: &str,
        partitions: &[(String, i32)],
    ) -> Result<OffsetsDeletion, GroupError> {
        self.shard(group, 0)?.delete_offsets(group, partitions)
    }

    /// Removes a group that has no members; what is returned waits until it is on disk.
    ///
    /// # Errors
    /// The group does not exist or has members.
    pub(crate) fn delete_group(&self, group: &str) -> Result<Durable, GroupError> {
        self.shard(group, 0)?.delete_group(group)
    }

    /// Drops what groups committed for topics that are gone, by name, durably. Nobody may commit for them any more, see
    /// [`GroupCoordinator::commit`]. Returns whether all of it is gone. Blocks on the disk.
    pub(crate) fn drop_offsets_of(&self, is_gone: impl Fn(&str) -> bool) -> bool {
        self.shards().iter().fold(true, |all, shard| match shard.drop_offsets_of(&is_gone) {
            Ok(()) => all,
            Err(error) => {
                tracing::error!(%error, "committed offsets of deleted topics are kept for now");
                false
            }
        })
    }

    /// The names of topics for which something is committed.
    fn committed_topics(&self) -> Result<BTreeSet<Arc<str>>, FoldError<OffsetsError>> {
        let mut names = BTreeSet::new();
        for shard in self.shards() {
            shard.committed_topics(&mut names)?;
        }
        Ok(names)
    }

    /// Shortens the logs of the groups where they have grown. Blocks on the disk.
    pub(crate) fn shorten(&self) {
        for shard in self.shards() {
            let shortened = self.topics.panics().contain(TASK, || shard.shorten());
            if let Some(Err(error)) = shortened {
                tracing::warn!(%error, "the log of groups stays as long as it is");
            }
        }
    }

    /// Every group, by id.
    ///
    /// # Errors
    /// The coordinator cannot answer now.
    pub(crate) fn list(&self) -> Result<Vec<GroupListing>, GroupError> {
        let mut groups: BTreeMap<String, GroupListing> = BTreeMap::new();
        for shard in self.shards() {
            shard.read(|state| {
                for (id, folded) in state.groups() {
                    let protocol_type =
                        folded.metadata.as_ref().map(|metadata| metadata.protocol_type.clone());
                    let listing = GroupListing {
                        id: id.to_owned(),
                        protocol_type: protocol_type.unwrap_or_default(),
                        state: "Empty",
                    };
                    groups.insert(id.to_owned(), listing);
                }
            })?;
            shard.look_at_all(|id, group| {
                let protocol_type = group.protocol_type().to_owned();
                let listing = GroupListing { id: id.to_owned(), protocol_type, state: group.state_name() };
                groups.insert(id.to_owned(), listing);
            })?;
        }
        Ok(groups.into_values().collect())
    }

    /// A group in detail.
    ///
    /// # Errors
    /// `NotFound`, or the coordinator cannot answer now.
    pub(crate) fn describe(&self, group: &str) -> Result<GroupDescription, GroupError> {
        let shard = self.shard(group, 0)?;
        if let Some(description) = shard.look(group, |group| group.map(GroupDescription::of))? {
            return Ok(description);
        }
        shard
            .read(|state| state.group(group).is_some())?
            .then(GroupDescription::empty)
            .ok_or(GroupError::NotFound)
    }

    /// How far every group is behind, in every partition where it committed an offset and that still exists.
    pub(crate) fn lags(&self) -> Vec<GroupLag> {
        let mut lags = Vec::new();
        for shard in self.shards() {
            let read = shard.read(|state| {
                for (id, folded) in state.groups() {
                    for (topic, partitions) in &folded.offsets {
                        let Some(known) = self.topics.topic(topic) else { continue };
                        lags.extend(partitions.iter().filter_map(|(partition, committed)| {
                            let end = known.partition(*partition)?.offsets().high_watermark;
                            Some(GroupLag {
                                group: id.to_owned(),
                                topic: topic.clone(),
                                partition: *partition,
                                committed: committed.offset,
                                lag: end.saturating_sub(committed.offset).max(0),
                            })
                        }));
                    }
                }
            });
            if let Err(error) = read {
                tracing::warn!(%error, "no group lags");
            }
        }
        lags
    }

    /// What `__consumer_offsets` says, as text: the same for the same records, however they were read.
    ///
    /// # Errors
    /// The coordinator cannot answer now.
    pub(crate) fn dump(&self) -> Result<String, GroupError> {
        self.shards().iter().map(|shard| shard.read(ToString::to_string)).collect()
    }

    fn attach(&self, topic: &Topic) -> Result<(), OpenGroupsError> {
        let _opening = self.opening.lock();
        if self.shards.get().is_some() {
            return Ok(());
        }
        let limits = GroupLimits {
            initial_rebalance_delay_ms: self.config.initial_rebalance_delay_ms,
            members_max: self.config.group_size_max,
        };
        let open = |partition: &Arc<Partition>| {
            let (memory, clock, notices) = (self.memory.clone(), self.clock.clone(), self.notices.clone());
            Shard::new(partition.clone(), limits, memory, clock, notices).map(Arc::new)
        };
        let shards = topic.partitions().iter().map(open).collect::<Result<Vec<_>, _>>()?;
        self.shards.get_or_init(|| shards);
        self.notices.earlier.notify_one();
        Ok(())
    }

    fn expire(&self) {
        for expired in self.each(|shard| shard.expire(self.config.offsets_retention_ms)) {
            if let Err(error) = expired {
                tracing::warn!(%error, "expired offsets are kept");
            }
        }
    }

    /// Does something to each shard. One that it panics over is fenced, and the others have it done all the same.
    fn each<R>(&self, work: impl Fn(&Arc<Shard>) -> R) -> impl Iterator<Item = R> {
        let panics = self.topics.panics();
        self.shards().iter().filter_map(move |shard| panics.contain(TASK, || work(shard)))
    }

    pub(super) fn shards(&self) -> &[Arc<Shard>] {
        self.shards.get().map_or(&[], Vec::as_slice)
    }

    /// The shard of a group: as in Kafka, by the hash code that Java gives the group's id.
    fn shard(&self, group: &str, len_min: usize) -> Result<&Arc<Shard>, GroupError> {
        let (len, max) = (group.len(), GROUP_ID_BYTES_MAX);
        if !(len_min..=max).contains(&len) {
            return Err(GroupError::InvalidGroupId { len, min: len_min, max });
        }
        let shards = self.shards();
        shards.get(partition_of(group, shards.len())).ok_or(GroupError::NotAvailable)
    }

    fn check_join(&self, join: &JoinGroup) -> Result<(), GroupError> {
        let (min_ms, max_ms) = (self.config.session_timeout_min_ms, self.config.session_timeout_max_ms);
        let timeout_ms = join.session_timeout_ms;
        if !(min_ms..=max_ms).contains(&timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout { timeout_ms, min_ms, max_ms });
        }
        let check =
            |what, len, max| if len <= max { Ok(()) } else { Err(GroupError::TooLarge { what, len, max }) };
        let bytes = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        let name = join.protocols.iter().map(|(name, _)| name.len()).max();
        check("protocol name", name.unwrap_or_default(), NAME_BYTES_MAX)?;
        check("group instance id", join.instance_id.as_ref().map_or(0, String::len), NAME_BYTES_MAX)?;
        check("protocol type", join.protocol_type.len(), NAME_BYTES_MAX)?;
        check("list of protocols", join.protocols.len(), PROTOCOLS_MAX)?;
        check("protocol metadata", bytes, PROTOCOL_BYTES_MAX)?;
        let Joiner::Known(id) = &join.joiner else { return Ok(()) };
        check("member id", id.len(), GROUP_ID_BYTES_MAX)
    }
}

/// What the task is known by.
pub(crate) const TASK: &str = "groups";
/// How often what was committed is folded, so that no request has to catch up with much.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Longer than any deadline; the loop wakes for other reasons.
const FOREVER: Duration = Duration::from_secs(3_600);

async fn finish(write: PendingWrite) {
    let PendingWrite { shard, group, write, durable } = write;
    let result = durable.await.map_err(|error| {
        tracing::warn!(%group, %error, "group not written");
        GroupError::NotStored
    });
    shard.written(&group, write, result);
}

/// Java's `String.hashCode`, made positive as Kafka does, modulo the number of partitions.
fn partition_of(group: &str, partitions: usize) -> usize {
    let hash =
        group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    usize::try_from(positive).unwrap_or_default().checked_rem(partitions).unwrap_or_default()
}

#[cfg(test)]
mod unit {
    use super::partition_of;

    #[test]
    fn a_group_has_the_partition_that_kafka_gives_it() {
        // "console-consumer-1".hashCode() and others, by the definition of Java's language.
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 97 % 50);
        assert_eq!(partition_of("ab", 50), (97 * 31 + 98) % 50);
        assert_eq!(partition_of("polygenelubricants", 50), 0, "its hash code is the smallest integer");
        assert_eq!(partition_of("g", 0), 0);
    }
}
