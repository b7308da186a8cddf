//! Small written schedules: kinds of failure that chance found once, and that it finds too seldom to wait for.

use super::clients::{self, Asked, Part};
use super::model::Kind;
use super::random::Random;
use super::world::{End, World};
use crate::disk::{Fault, Operation};
use crate::safeguard::Safeguard;
use crate::topic::Topic;
use kappa_protocol::messages::FindCoordinatorRequest;
use std::io;
use std::sync::Arc;

const COMMIT: Kind = Kind { is_commit: true, is_retained: false };
const OS: Kind = Kind { is_commit: false, is_retained: false };

/// A machine with a broker that runs and a topic `a` of this kind.
fn world(kind: Kind) -> World {
    world_of(1, kind)
}

fn world_of(seed: u64, kind: Kind) -> World {
    let mut world = World::new(seed, None);
    world.start(&mut quiet()).unwrap();
    create(&mut world, kind);
    world
}

/// Chance by which nothing fails.
fn quiet() -> Random {
    (0..).map(Random).find(|random| random.clone().below(5) > 0).unwrap()
}

fn create(world: &mut World, kind: Kind) {
    world.ask(7, clients::create("a", kind, 1), Asked::Create { name: "a".into(), kind }).unwrap();
    world.finish().unwrap();
}

fn topic(world: &World) -> Option<Arc<Topic>> {
    world.node().topics.topic("a")
}

fn fail(world: &World, operation: Operation, path_contains: &str, times: u32) {
    let error = io::ErrorKind::Other;
    world.disk.inject(Fault { operation, path_contains: path_contains.into(), after: 0, times, error });
}

fn produce(world: &mut World, acks: i16) {
    let (topic, token) = (topic(world).unwrap().id, world.model.token());
    world.model.sent(topic, 0, &[token]);
    let bytes = clients::batch(world.clock.now_ms(), &[token], None);
    let parts = vec![Part { topic, index: 0, tokens: vec![token], stream: None, bytes }];
    let losses = world.model.losses;
    world.ask(13, clients::produce(acks, &parts), Asked::Produce { acks, parts, losses }).unwrap();
}

fn again(world: &mut World, end: End) -> Result<(), String> {
    world.end(end, &mut quiet())?;
    world.start(&mut quiet())
}

/// A topic with a committed offset is deleted while what groups commit cannot be synced, and created again.
fn offsets_that_cannot_be_dropped() -> Result<(), String> {
    let mut world = world(COMMIT);
    let coordinator = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    world.ask(4, coordinator, Asked::Other)?;
    world.finish()?;
    let id = topic(&world).unwrap().id;
    let key = ("g".to_owned(), "a".to_owned(), 0);
    world.model.committing(key.clone(), id, 7);
    let (group, name, index) = key;
    world.ask(10, clients::commit("g", None, id, 0, 7), Asked::Commit { group, name, index, offset: 7 })?;
    world.finish()?;
    fail(&world, Operation::SyncData, "__consumer_offsets", 1000);
    world.model.deleting(id);
    world.ask(6, clients::delete(id), Asked::Delete { id })?;
    world.finish()?;
    assert!(topic(&world).is_none(), "the deletion itself is durable");
    create(&mut world, COMMIT);
    world.disk.clear_faults();
    world.clock.advance(1000);
    create(&mut world, COMMIT);
    assert!(topic(&world).is_some(), "the name is free once the disk works again");
    world.check_all()
}

#[test]
fn a_name_is_not_given_again_before_what_was_committed_under_it_is_gone() {
    offsets_that_cannot_be_dropped().unwrap();
    Safeguard::take_out(Some(Safeguard::OwedOffsets));
    let without = offsets_that_cannot_be_dropped();
    Safeguard::take_out(None);
    assert!(without.unwrap_err().contains("deleted topic"));
}

/// A topic is deleted and created again, and the power takes some of what that did to the directories.
fn old_directory_under_the_name_of_a_new_topic(seed: u64) -> Result<(), String> {
    let mut world = world_of(seed, COMMIT);
    produce(&mut world, -1);
    world.finish()?;
    let id = topic(&world).unwrap().id;
    // The directory's new name is not made durable.
    fail(&world, Operation::SyncDir, "/data", 1000);
    world.model.deleting(id);
    world.ask(6, clients::delete(id), Asked::Delete { id })?;
    world.finish()?;
    create(&mut world, COMMIT);
    assert!(topic(&world).is_some_and(|topic| topic.id != id));
    again(&mut world, End::PowerCut)
}

#[test]
fn a_directory_is_only_opened_for_the_topic_whose_id_it_carries() {
    let seeds = 0..40;
    seeds.clone().for_each(|seed| old_directory_under_the_name_of_a_new_topic(seed).unwrap());
    Safeguard::take_out(Some(Safeguard::IdCheck));
    let failures = seeds.filter(|seed| old_directory_under_the_name_of_a_new_topic(*seed).is_err()).count();
    Safeguard::take_out(None);
    assert!(failures > 0, "nothing notices");
}

#[test]
fn what_was_seen_is_cut_off_only_after_its_new_epoch_is_durable() {
    for end in [End::Kill, End::PowerCut, End::Stop] {
        let mut world = world(OS);
        produce(&mut world, 1);
        produce(&mut world, 1);
        world.finish().unwrap();
        world.look().unwrap();
        let partition = topic(&world).unwrap().partition(0).unwrap();
        assert_eq!((partition.offsets().high_watermark, partition.leader_epoch()), (2, 0));
        fail(&world, Operation::SyncData, "a-0/00000000000000000000.log", 1);
        fail(&world, Operation::Create, "leader-epoch-checkpoint", 1);
        world.faulty = true;
        world.model.lose_unsynced();
        partition.sync().unwrap_err();
        world.look().unwrap();
        world.check_partition(&topic(&world).unwrap(), 0).unwrap();
        drop(partition);
        again(&mut world, end).unwrap();
    }
}

#[test]
fn what_a_power_cut_took_of_an_unsynced_topic_is_gone_in_a_newer_epoch_every_time() {
    let mut world = world(OS);
    let mut last = -1;
    for _ in 0..4 {
        produce(&mut world, 1);
        world.look().unwrap();
        again(&mut world, End::PowerCut).unwrap();
        let epoch = topic(&world).unwrap().partition(0).unwrap().leader_epoch();
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
        // A clean stop and start takes nothing and begins nothing.
        again(&mut world, End::Stop).unwrap();
        assert_eq!(topic(&world).unwrap().partition(0).unwrap().leader_epoch(), last);
    }
}

#[test]
fn an_epoch_that_began_in_a_directory_that_was_never_synced_is_not_begun_again() {
    let mut world = world(OS);
    produce(&mut world, 1);
    world.look().unwrap();
    let partition = topic(&world).unwrap().partition(0).unwrap();
    fail(&world, Operation::SyncData, "a-0/partition.metadata", 1);
    world.faulty = true;
    world.model.lose_unsynced();
    partition.sync().unwrap_err();
    drop(partition);
    produce(&mut world, 1);
    world.look().unwrap();
    let seen = topic(&world).unwrap().partition(0).unwrap().leader_epoch();
    again(&mut world, End::PowerCut).unwrap();
    let now = topic(&world).unwrap().partition(0).unwrap().leader_epoch();
    assert!(now > seen, "{now} after {seen}");
}

#[test]
fn a_directory_over_which_a_sync_failed_is_made_durable_by_the_next_life() {
    let mut world = world(COMMIT);
    fail(&world, Operation::SyncData, "a-0/partition.metadata", 1);
    world.faulty = true;
    produce(&mut world, -1);
    world.finish().unwrap();
    assert_eq!(topic(&world).unwrap().partition(0).unwrap().offsets().log_end, 0, "it is cut off");
    again(&mut world, End::Stop).unwrap();
    produce(&mut world, -1);
    world.finish().unwrap();
    again(&mut world, End::Stop).unwrap();
    again(&mut world, End::PowerCut).unwrap();
    assert_eq!(topic(&world).unwrap().partition(0).unwrap().offsets().high_watermark, 1);
}
