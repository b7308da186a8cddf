//! The coordinator over a simulated disk: what survives kills and power cuts, what a failed sync takes back, who is
//! told what. Time is manual; a test advances it and lets something happen.

use super::state::JoinedMember;
use super::view::GroupListing;
use super::*;
use crate::clock::Clock;
use crate::config::{BrokerConfig, Settings};
use crate::disk::{Disk, Operation, SimulatedDisk, Trap};
use crate::flush::{FlushQueue, Flusher};
use crate::partition::PartitionEnv;
use crate::topic::{OFFSETS_TOPIC, Topics};
use bytes::Bytes;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

mod containment;
mod memory;
mod shortening;

const START_MS: i64 = 1_000_000;
const SESSION_MS: i32 = 10_000;

/// A coordinator with what it stands on.
struct World {
    disk: SimulatedDisk,
    trap: Trap,
    clock: Clock,
    runtime: Runtime,
    flusher: Flusher,
    topics: Arc<Topics>,
    groups: Arc<GroupCoordinator>,
    properties: &'static [(&'static str, &'static str)],
}

impl World {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(properties: &'static [(&'static str, &'static str)]) -> Self {
        let disk = SimulatedDisk::new(1);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let world = Self::open(disk, Clock::manual(START_MS), properties);
        world.wait(world.groups.ready()).unwrap();
        world.topic("t");
        world
    }

    fn open(disk: SimulatedDisk, clock: Clock, properties: &'static [(&'static str, &'static str)]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = BrokerConfig::new("/data");
        for (name, value) in properties {
            config.set(name, value).unwrap();
        }
        let (layers, flush) = (config.layers(), FlushQueue::new(clock.clone()));
        let settings = Settings::new(&layers);
        let flusher = Flusher::start(flush.clone()).unwrap();
        let trap = Trap::default();
        let env = PartitionEnv {
            disk: Arc::new(trap.on(disk.clone())),
            clock: clock.clone(),
            flush,
            producers: Arc::default(),
        };
        let (topics, catalog) =
            Topics::open(env, Path::new("/data"), false, &layers.fixed, &settings).unwrap();
        std::thread::spawn(move || catalog.run());
        let topics = Arc::new(topics);
        let groups = Arc::new(GroupCoordinator::open(topics.clone(), settings.group, clock.clone()).unwrap());
        runtime.spawn(groups.clone().run());
        Self { disk, trap, clock, runtime, flusher, topics, groups, properties }
    }

    /// The next process, after this one and its disk ended as `end` says.
    fn again(self, end: impl FnOnce(&SimulatedDisk) -> SimulatedDisk) -> Self {
        let disk = end(&self.disk);
        self.groups.stop();
        self.flusher.stop();
        Self::open(disk, self.clock.clone(), self.properties)
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// What a failed sync left is cut off after this, and the next append is tried.
    fn mend_disk(&self) {
        self.disk.set_read_only(false);
        self.clock.advance(5_000);
        let offsets = self.topics.topic(OFFSETS_TOPIC).unwrap();
        offsets.partitions().iter().for_each(|partition| partition.sync().unwrap());
    }

    fn topic(&self, name: &str) {
        let new = crate::topic::NewTopic { name: name.into(), partitions: Some(2), configs: Vec::new() };
        let created = self.wait(self.topics.change(move |catalog| catalog.create_topics(&[new], false)));
        created.unwrap().remove(0).unwrap();
    }

    /// The only member of a new generation, with everything assigned to it.
    fn sole_member(&self, group: &str) -> Joined {
        let joined = self.wait(self.groups.join(group, join("m1")).unwrap()).unwrap();
        self.assign(group, &joined).unwrap();
        joined
    }

    fn assign(&self, group: &str, joined: &Joined) -> Result<Synced, GroupError> {
        let give = |member: &JoinedMember| (member.member_id.clone(), Bytes::from(member.member_id.clone()));
        let sync = SyncGroup {
            caller: caller(&joined.member_id),
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments: joined.members.iter().map(give).collect(),
        };
        self.wait(self.groups.sync(group, sync).unwrap())
    }

    fn commit(&self, group: &str, member: &str, generation: i32, offset: i64) -> Result<(), GroupError> {
        let offsets = vec![to_commit("t", 0, offset)];
        let durable = self.groups.commit(group, caller(member), generation, offsets, None, || true)?;
        self.wait(durable).map_err(|_| GroupError::NotStored)
    }

    fn committed(&self, group: &str) -> Option<i64> {
        let read = |offsets: &offsets::TopicOffsets| Some(offsets.get("t")?.get(&0)?.offset);
        self.groups.committed(group, read).unwrap()
    }

    fn states(&self) -> Vec<(String, &'static str)> {
        let state = |group: GroupListing| (group.id, group.state);
        self.groups.list().unwrap().into_iter().map(state).collect()
    }
}

fn join(member_id: &str) -> JoinGroup {
    JoinGroup {
        joiner: Joiner::New { member_id: member_id.into(), must_return: false },
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription("t"))],
        can_skip_assignment: true,
    }
}

fn rejoin(member_id: &str) -> JoinGroup {
    JoinGroup { joiner: Joiner::Known(member_id.into()), ..join(member_id) }
}

/// A consumer's subscription, version 0.
fn subscription(topic: &str) -> Bytes {
    let head = [0, 0, 0, 0, 0, 1, 0, topic.len() as u8];
    [&head[..], topic.as_bytes(), &[0xff; 4]].concat().into()
}

fn caller(member_id: &str) -> Caller<'_> {
    Caller { member_id, instance_id: None }
}

fn to_commit(topic: &str, partition: i32, offset: i64) -> OffsetToCommit {
    OffsetToCommit { topic: topic.into(), partition, offset, leader_epoch: 0, metadata: "note".into() }
}

#[test]
fn a_generation_makes_no_sense_to_a_group_that_only_has_offsets() {
    let world = World::new();
    let unknown = Err(GroupError::IllegalGeneration { current: -1, got: 3 });
    assert_eq!(world.commit("g", "m", 3, 7), unknown, "nobody knows the group");
    world.commit("g", "", -1, 7).unwrap();
    assert_eq!(world.commit("g", "m", 3, 8), Err(GroupError::UnknownMember));
    assert_eq!(world.committed("g"), Some(7));
    let world = world.again(SimulatedDisk::power_cut);
    assert_eq!(world.commit("g", "m", 3, 8), Err(GroupError::UnknownMember));
}

#[test]
fn members_and_offsets_survive_a_kill_and_a_power_cut() {
    let mut world = World::new();
    let joined = world.sole_member("g");
    for (round, end) in [SimulatedDisk::process_kill, SimulatedDisk::power_cut].into_iter().enumerate() {
        let offset = 10 + round as i64;
        world.commit("g", &joined.member_id, joined.generation, offset).unwrap();
        let dump = world.groups.dump().unwrap();
        world = world.again(end);
        assert_eq!(world.groups.dump().unwrap(), dump, "the fold is its replay");
        assert_eq!(world.committed("g"), Some(offset));
        world.groups.heartbeat("g", caller(&joined.member_id), joined.generation).unwrap();
        let description = world.groups.describe("g").unwrap();
        assert_eq!((description.state, description.protocol.as_str()), ("Stable", "range"));
        let (id, member) = &description.members[0];
        assert_eq!((id, &member.assignment[..]), (&joined.member_id, joined.member_id.as_bytes()));
    }
    world.commit("g", &joined.member_id, joined.generation - 1, 99).unwrap_err();
    assert_eq!(world.committed("g"), Some(11));
}

#[test]
fn a_commit_whose_sync_fails_was_never_seen_and_the_next_one_is() {
    let world = World::new();
    let joined = world.sole_member("g");
    world.commit("g", "m1", joined.generation, 1).unwrap();
    world.disk.set_read_only(true);
    let refused = world.commit("g", "m1", joined.generation, 2);
    assert_eq!(refused, Err(GroupError::NotStored));
    assert_eq!(world.committed("g"), Some(1));
    world.mend_disk();
    world.commit("g", "m1", joined.generation, 3).unwrap();
    assert_eq!(world.committed("g"), Some(3));
}

#[test]
fn an_assignment_that_cannot_be_written_is_shown_to_nobody() {
    let world = World::new();
    let joined = world.wait(world.groups.join("g", join("m1")).unwrap()).unwrap();
    world.disk.set_read_only(true);
    assert_eq!(world.assign("g", &joined), Err(GroupError::NotStored));
    let description = world.groups.describe("g").unwrap();
    assert_eq!(description.state, "PreparingRebalance");
    world.mend_disk();
    let joined = world.wait(world.groups.join("g", rejoin("m1")).unwrap()).unwrap();
    assert_eq!(joined.generation, 2);
    assert_eq!(world.assign("g", &joined).unwrap().assignment, "m1");
}

#[test]
fn a_join_that_nobody_waits_for_any_more_holds_no_one_up() {
    let world = World::new();
    let first = world.sole_member("g");
    let second = world.groups.join("g", join("m2")).unwrap().now().unwrap_err();
    let refused = world.groups.heartbeat("g", caller(&first.member_id), first.generation);
    assert_eq!(refused, Err(GroupError::RebalanceInProgress));
    drop(second);
    let joined = world.groups.join("g", rejoin(&first.member_id)).unwrap().now().unwrap().unwrap();
    assert_eq!(joined.members.len(), 1, "the other never learned its id, so it cannot come back");
}

#[test]
fn silence_ends_a_membership_and_lets_those_who_wait_go_on() {
    let world = World::new();
    let first = world.sole_member("g");
    world.clock.advance(i64::from(SESSION_MS));
    let second = world.wait(world.groups.join("g", join("m2")).unwrap()).unwrap();
    assert!(second.generation > first.generation);
    assert_eq!(second.members.len(), 1);
    let refused = world.commit("g", &first.member_id, first.generation, 5);
    assert_eq!(refused, Err(GroupError::UnknownMember));
}

#[test]
fn whoever_waits_when_the_coordinator_stops_is_told() {
    let world = World::new();
    world.sole_member("g");
    let waiting = world.groups.join("g", join("m2")).unwrap().now().unwrap_err();
    world.groups.stop();
    assert_eq!(world.wait(waiting), Err(GroupError::NotAvailable));
    assert_eq!(world.groups.join("g", join("m3")).unwrap_err(), GroupError::NotAvailable);
}

#[test]
fn groups_with_members_are_kept_and_others_deleted_for_good() {
    let world = World::new();
    let joined = world.sole_member("g");
    world.commit("g", "m1", joined.generation, 1).unwrap();
    world.commit("simple", "", -1, 7).unwrap();
    assert_eq!(world.states(), [("g".to_owned(), "Stable"), ("simple".to_owned(), "Empty")]);
    assert_eq!(world.groups.delete_group("g").unwrap_err(), GroupError::NotEmpty);
    assert_eq!(world.groups.delete_group("nobody").unwrap_err(), GroupError::NotFound);
    world.groups.leave("g", &[caller("m1")]).unwrap().remove(0).unwrap();
    for group in ["g", "simple"] {
        world.wait(world.groups.delete_group(group).unwrap()).unwrap();
    }
    assert_eq!(world.states(), []);
    let world = world.again(SimulatedDisk::power_cut);
    assert_eq!(world.states(), []);
    assert_eq!(world.groups.dump().unwrap(), "");
    assert_eq!(world.groups.describe("g").unwrap_err(), GroupError::NotFound);
}

#[test]
fn offsets_that_no_member_reads_can_be_taken_back() {
    let world = World::new();
    let joined = world.sole_member("g");
    let offsets = vec![to_commit("t", 0, 1), to_commit("other", 0, 2), to_commit("other", 1, 3)];
    let durable = world.groups.commit("g", caller("m1"), joined.generation, offsets, None, || true).unwrap();
    world.wait(durable).unwrap();
    let wanted = [("t".to_owned(), 0), ("other".to_owned(), 1), ("other".to_owned(), 9)];
    let OffsetsDeletion { verdicts, durable } = world.groups.delete_offsets("g", &wanted).unwrap();
    assert_eq!(verdicts, [Err(GroupError::Subscribed), Ok(()), Ok(())]);
    world.wait(durable.unwrap()).unwrap();
    let left =
        world.groups.committed("g", |offsets| offsets.values().map(|p| p.len()).sum::<usize>()).unwrap();
    assert_eq!(left, 2);
    assert!(matches!(world.groups.delete_offsets("nobody", &wanted), Err(GroupError::NotFound)));
    world.groups.drop_offsets_of(|topic| topic == "t");
    world.commit("g", "m1", joined.generation, 5).unwrap();
    world.groups.drop_offsets_of(|topic| ["t", "other"].contains(&topic));
    assert_eq!(world.groups.committed("g", |offsets| offsets.len()).unwrap(), 0);
}

#[test]
fn what_was_committed_for_a_deleted_topic_goes_with_it_whatever_was_in_flight() {
    let world = World::new();
    world.groups.commit("g", caller(""), -1, vec![to_commit("t", 0, 1)], None, || true).map(drop).unwrap();
    // The sync of that commit has not been waited for.
    world.groups.drop_offsets_of(|topic| topic == "t");
    assert_eq!(world.groups.dump().unwrap(), "");
    let late = world.groups.commit("g", caller(""), -1, vec![to_commit("t", 0, 2)], None, || false);
    assert_eq!(late.map(drop), Err(GroupError::TopicDeleted));
    // A crash between the record of a deletion and the end of its clean-up.
    let gone = world.groups.commit("g", caller(""), -1, vec![to_commit("gone", 0, 3)], None, || true);
    world.wait(gone.unwrap()).unwrap();
    world.commit("g", "", -1, 4).unwrap();
    let world = world.again(SimulatedDisk::power_cut);
    assert_eq!(world.groups.dump().unwrap().lines().count(), 1);
    assert_eq!(world.committed("g"), Some(4));
}

#[test]
fn offsets_expire_when_the_group_has_been_empty_long_enough() {
    let world =
        World::with(&[("offsets.retention.minutes", "1"), ("offsets.retention.check.interval.ms", "1")]);
    let joined = world.sole_member("g");
    world.commit("g", "m1", joined.generation, 1).unwrap();
    world.clock.advance(5_000);
    world.groups.heartbeat("g", caller("m1"), joined.generation).unwrap();
    world.groups.leave("g", &[caller("m1")]).unwrap().remove(0).unwrap();
    world.commit("keeper", "", -1, 1).unwrap();
    world.clock.advance(60_000 - 1);
    world.commit("fresh", "", -1, 1).unwrap();
    assert_eq!(world.states().len(), 3);
    world.clock.advance(1);
    // The coordinator's task checks every millisecond: its tombstones come.
    while world.states().len() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(world.states(), [("fresh".to_owned(), "Empty")]);
    assert_eq!(world.groups.dump().unwrap().lines().count(), 1);
}

#[test]
fn expiry_lets_go_of_the_groups_between_a_thousand_offsets_and_the_next() {
    let world = World::with(&[("offsets.topic.num.partitions", "1")]);
    let groups = ["a", "b", "c", "d", "e"];
    for group in groups {
        let offsets = (0..shard::EXPIRY_OFFSETS as i32 * 2 / 3).map(|n| to_commit("t", n, 1)).collect();
        let durable = world.groups.commit(group, caller(""), -1, offsets, None, || true).unwrap();
        world.wait(durable).unwrap();
    }
    world.clock.advance(1_000);
    let shard = &world.groups.shards()[0];
    let mut ends = Vec::new();
    let mut behind = None;
    while let Some(end) = shard.expire_some(behind.as_deref(), 1_000).unwrap() {
        shard.make_durable().unwrap();
        ends.push((end.to_string(), world.states().len()));
        behind = Some(end);
    }
    assert_eq!(ends, [("b".to_owned(), 3), ("d".to_owned(), 1)]);
    shard.make_durable().unwrap();
    assert_eq!(world.states(), []);
    for group in groups {
        world.commit(group, "", -1, 1).unwrap();
    }
    world.clock.advance(1_000);
    shard.expire(1_000).unwrap();
    shard.make_durable().unwrap();
    assert_eq!(world.states(), []);
}

#[test]
fn lag_is_the_distance_to_the_high_watermark() {
    let world = World::new();
    world.commit("g", "", -1, 0).unwrap();
    world.wait(async {
        let offsets = vec![to_commit("gone", 0, 5)];
        world.groups.commit("g", caller(""), -1, offsets, None, || true).unwrap().await.unwrap();
    });
    let lags: Vec<_> =
        world.groups.lags().into_iter().map(|lag| (lag.topic, lag.partition, lag.lag)).collect();
    assert_eq!(lags, [("t".to_owned(), 0, 0)], "topics that are gone have none");
}

#[test]
fn groups_are_spread_over_partitions_and_found_again() {
    let world = World::with(&[("offsets.topic.num.partitions", "7")]);
    for group in 0..20 {
        world.commit(&format!("g{group}"), "", -1, group).unwrap();
    }
    let (states, dump) = (world.states(), world.groups.dump().unwrap());
    assert_eq!(states.len(), 20);
    let world = world.again(SimulatedDisk::process_kill);
    assert_eq!((world.states(), world.groups.dump().unwrap()), (states, dump));
    assert_eq!(world.committed("g13"), Some(13));
}

#[test]
fn hostile_requests_are_refused_and_leave_nothing_behind() {
    let world = World::new();
    let refused = |group: &str, join: JoinGroup| match world.groups.join(group, join) {
        Ok(waiting) => waiting.now().unwrap().unwrap_err(),
        Err(error) => error,
    };
    let huge = Bytes::from(vec![0; 5 << 20]);
    let many = (0..101).map(|n| (n.to_string(), Bytes::new())).collect();
    assert!(matches!(refused("", join("m")), GroupError::InvalidGroupId { len: 0, .. }));
    assert!(matches!(refused(&"g".repeat(40_000), join("m")), GroupError::InvalidGroupId { .. }));
    for session_timeout_ms in [-1, 0, 5_999, i32::MAX] {
        let join = JoinGroup { session_timeout_ms, ..join("m") };
        assert!(matches!(refused("g", join), GroupError::InvalidSessionTimeout { .. }));
    }
    let hostile = [
        JoinGroup { protocols: vec![("range".into(), huge)], ..join("m") },
        JoinGroup { protocols: many, ..join("m") },
        JoinGroup { protocols: vec![("p".repeat(250), Bytes::new())], ..join("m") },
        JoinGroup { instance_id: Some("i".repeat(250)), ..join("m") },
        JoinGroup { protocol_type: "t".repeat(250), ..join("m") },
    ];
    for join in hostile {
        assert!(matches!(refused("g", join), GroupError::TooLarge { .. }));
    }
    assert_eq!(
        refused("g", JoinGroup { protocols: Vec::new(), ..join("m") }),
        GroupError::InconsistentProtocol
    );
    assert_eq!(
        refused("g", JoinGroup { protocol_type: String::new(), ..join("m") }),
        GroupError::InconsistentProtocol
    );
    assert_eq!(refused("g", rejoin("stranger")), GroupError::UnknownMember);
    assert_eq!(world.groups.heartbeat("g", caller("m"), 1), Err(GroupError::UnknownMember));
    let refused = world.commit("g", "m", 1, 0).unwrap_err();
    assert_eq!(refused, GroupError::IllegalGeneration { current: -1, got: 1 });
    world.groups.check_metadata(&"x".repeat(4_097)).unwrap_err();
    assert_eq!(world.states(), []);
}

#[test]
fn a_commit_too_large_for_a_batch_is_refused_as_a_whole() {
    let world = World::new();
    let metadata = "x".repeat(4_000);
    let offsets: Vec<_> = (0..9_000)
        .map(|partition| OffsetToCommit { metadata: metadata.clone(), ..to_commit("t", partition, 1) })
        .collect();
    let refused = world.groups.commit("g", caller(""), -1, offsets, None, || true).map(drop);
    assert_eq!(refused, Err(GroupError::RecordTooLarge));
    assert_eq!(world.states(), []);
}

/// One of many: joins, syncs and rejoins as it is told, and gives up now and then, until all are in one generation.
async fn live(groups: Arc<GroupCoordinator>, number: usize, settled: Arc<Settled>) {
    let mut member_id = None;
    for round in 0.. {
        let name = format!("m{number}-{round}");
        let join = member_id.as_deref().map_or_else(|| join(&name), rejoin);
        let answer = match groups.join("g", join).unwrap().now() {
            Ok(answer) => answer,
            Err(waiting) if round < 3 && (number + round).is_multiple_of(4) => {
                drop(waiting);
                continue;
            }
            Err(waiting) => waiting.await,
        };
        let Ok(joined) = answer else {
            member_id = None;
            continue;
        };
        member_id = Some(joined.member_id.clone());
        let give = |member: &JoinedMember| (member.member_id.clone(), Bytes::from(member.member_id.clone()));
        let sync = SyncGroup {
            caller: caller(&joined.member_id),
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments: joined.members.iter().map(give).collect(),
        };
        let Ok(synced) = groups.sync("g", sync).unwrap().await else { continue };
        assert_eq!(synced.assignment, joined.member_id, "everyone gets its own");
        settled.report(number, joined.generation);
        while groups.heartbeat("g", caller(&joined.member_id), joined.generation).is_ok() {
            if settled.all() {
                return;
            }
            tokio::task::yield_now().await;
        }
        settled.report(number, 0);
    }
}

/// The generation that each member is in; 0 while it is in none.
struct Settled(parking_lot::Mutex<Vec<i32>>);

impl Settled {
    fn report(&self, number: usize, generation: i32) {
        self.0.lock()[number] = generation;
    }

    fn all(&self) -> bool {
        let generations = self.0.lock();
        generations[0] > 0 && generations.iter().all(|generation| *generation == generations[0])
    }
}

#[test]
fn a_hundred_members_that_race_end_in_one_generation() {
    let world = World::new();
    let settled = Arc::new(Settled(parking_lot::Mutex::new(vec![0; 100])));
    let racing: Vec<_> = (0..100)
        .map(|number| world.runtime.spawn(live(world.groups.clone(), number, settled.clone())))
        .collect();
    for member in racing {
        world.wait(member).unwrap();
    }
    let members = world.groups.describe("g").unwrap().members;
    assert_eq!(members.len(), 100);
    let world = world.again(SimulatedDisk::power_cut);
    let remembered = world.groups.describe("g").unwrap().members;
    let assignments = |members: Vec<(String, Member)>| -> Vec<(String, Bytes)> {
        members.into_iter().map(|(id, member)| (id, member.assignment)).collect()
    };
    assert_eq!(assignments(remembered), assignments(members));
}
