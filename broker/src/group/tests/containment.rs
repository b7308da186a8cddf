//! What a panic over groups leaves: an error for whoever asks, and every other group as it was.

use super::*;

/// Two groups of different partitions.
const GROUPS: [&str; 2] = ["a", "b"];

fn world() -> World {
    let world = World::with(&[("offsets.topic.num.partitions", "2"), ("log.index.interval.bytes", "1")]);
    for group in GROUPS {
        world.commit(group, "", -1, 1).unwrap();
    }
    world
}

fn check_fenced(world: &World, fenced: &str, sound: &str) {
    let lost = [GroupError::Lost, GroupError::NotStored];
    assert!(lost.contains(&world.commit(fenced, "", -1, 2).unwrap_err()));
    assert!(lost.contains(&world.groups.describe(fenced).unwrap_err()));
    assert!(world.groups.committed(fenced, |_| ()).is_err() && world.groups.list().is_err());
    assert!(world.groups.heartbeat(fenced, caller("m1"), 1).is_err());
    assert!(world.groups.join(fenced, join("m9")).is_err());
    world.commit(sound, "", -1, 3).unwrap();
    assert_eq!(world.committed(sound), Some(3));
    world.clock.advance(1000);
    assert_eq!(world.sole_member(sound).generation, 1, "its time goes on");
}

#[test]
fn a_panic_under_the_lock_of_the_groups_answers_whoever_waits_and_fences_that_partition() {
    let world = world();
    let joined = world.sole_member("a");
    let waiting = world.groups.join("a", join("m2")).unwrap().now().unwrap_err();
    world.trap.set(Operation::Write, "__consumer_offsets");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.commit("a", &joined.member_id, joined.generation, 2)
    }));
    assert!(panicked.is_err() && !world.trap.is_set());
    assert_eq!(world.wait(waiting), Err(GroupError::NotAvailable));
    assert_eq!(world.groups.heartbeat("a", caller("m1"), 1), Err(GroupError::Lost));
    check_fenced(&world, "a", "b");

    let world = world.again(SimulatedDisk::process_kill);
    assert_eq!((world.committed("a"), world.committed("b")), (Some(1), Some(3)));
    world.commit("a", &joined.member_id, joined.generation, 4).unwrap();
}

#[test]
fn the_task_goes_on_with_the_other_groups_and_is_known_by_name() {
    let world = world();
    // The next that looks into the partition of the group, to fold what was committed.
    world.trap.set(Operation::Read, "__consumer_offsets-1");
    world.commit("a", "", -1, 5).unwrap();
    while world.trap.is_set() || world.topics.panics().counts().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(world.topics.panics().counts(), [(crate::group::TASK, 1)]);
    check_fenced(&world, "a", "b");
}
