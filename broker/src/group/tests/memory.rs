//! What groups may hold in memory: members and assignments beyond it are refused until others go.

use super::*;

const MAX: usize = 1024 * 1024;
const LIMITED: &[(&str, &str)] = &[("kappa.groups.bytes.max", "1048576")];

fn large(member_id: &str) -> JoinGroup {
    JoinGroup { protocols: vec![("range".into(), vec![7; MAX / 4].into())], ..join(member_id) }
}

fn is_out_of_memory<T: std::fmt::Debug>(answer: &Result<T, GroupError>) -> bool {
    matches!(answer, Err(GroupError::OutOfMemory { max: MAX, .. }))
}

impl World {
    fn ask(&self, group: &str, join: JoinGroup) -> Result<Joined, GroupError> {
        self.wait(self.groups.join(group, join)?)
    }
}

#[test]
fn what_members_say_is_bounded_over_all_groups_and_given_back_when_they_go() {
    let world = World::with(LIMITED);
    let groups = ["g0", "g1", "g2"];
    let joined = groups.map(|group| world.ask(group, large("m")).unwrap());
    assert!(world.groups.bytes() > MAX / 4 * 3 && world.groups.bytes() <= MAX);
    for n in 0..20 {
        let refused = world.ask(&format!("other-{n}"), large("m"));
        assert!(is_out_of_memory(&refused), "{refused:?}");
    }
    assert_eq!(world.states().len(), 3, "nothing is left of a group whose first member was refused");
    // Who is a member stays one, and the small have room.
    let again = world.ask("g0", JoinGroup { joiner: Joiner::Known("m".into()), ..large("m") });
    assert_eq!(again.unwrap().member_id, "m");
    assert!(world.ask("small", join("m")).is_ok());
    let more = JoinGroup { protocols: vec![("range".into(), vec![7; MAX / 2].into())], ..rejoin("m") };
    assert!(is_out_of_memory(&world.ask("g1", more)));
    world.groups.leave("g2", &[caller(&joined[2].member_id)]).unwrap();
    assert!(world.ask("other", large("m")).is_ok());
}

#[test]
fn member_ids_that_were_given_out_count_too() {
    let world = World::with(LIMITED);
    let mut refused = None;
    for n in 0..2_000 {
        let joiner = Joiner::New { member_id: format!("{n}-{}", "x".repeat(1_000)), must_return: true };
        match world.ask(&format!("g{n}"), JoinGroup { joiner, ..join("") }) {
            Err(GroupError::MemberIdRequired { .. }) => {}
            answer => {
                refused = Some(answer);
                break;
            }
        }
    }
    assert!(refused.is_some_and(|answer| is_out_of_memory(&answer)));
    assert!(world.groups.bytes() <= MAX);
}

#[test]
fn assignments_count_and_a_leader_may_try_again() {
    let world = World::with(LIMITED);
    let joined = world.ask("g", join("m")).unwrap();
    let assign = |bytes: usize| {
        let sync = SyncGroup {
            caller: caller("m"),
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments: vec![("m".into(), vec![1; bytes].into())],
        };
        self::World::wait(&world, async { world.groups.sync("g", sync)?.await })
    };
    assert!(is_out_of_memory(&assign(2 * MAX)));
    assert!(world.groups.bytes() < MAX / 4);
    assert_eq!(assign(MAX / 2).unwrap().assignment.len(), MAX / 2);
    assert!(world.groups.bytes() > MAX / 2);
}

#[test]
fn what_was_written_is_there_after_a_restart_and_counted() {
    let world = World::with(LIMITED);
    let joined = world.ask("g", large("m")).unwrap();
    world.assign("g", &joined).unwrap();
    let world = world.again(SimulatedDisk::process_kill);
    assert!(world.groups.bytes() > MAX / 4);
    world.groups.leave("g", &[caller("m")]).unwrap();
    assert!(world.groups.bytes() < MAX / 4);
}
