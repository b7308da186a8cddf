//! Spreads tasks over the members of the group.
//!
//! A task goes to one member whole, with all its co-partitions. Tasks stay where they are while no member has two more
//! than another, of any sub-topology or of all, so that each has part of every stage; a task that moves is first taken from its owner and given out in the next round. Members tell
//! the fingerprint of their topology, and by it whether they have a skew bound: one without writes nothing of how far it has
//! come, and one with a bound waits for that. Who differs from the members that have tasks gets nothing and is told why. All are
//! told who has which task (`owners`).

use super::{
    owners::{Address, Layout, Member, Owners, Told, said, say},
    shared::Shared,
};
use crate::task::TaskId;
use bytes::Bytes;
use kappa_client::{
    TopicPartition,
    consumer::assignor::{AssignError, Assignor, MemberAssignment, MemberSubscription, RebalanceProtocol},
};
use kappa_protocol::{Message, messages::ConsumerProtocolSubscription, wire::Reader};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

/// The version of a subscription that is read; later ones only add at the end.
const SUBSCRIPTION: i16 = 3;
/// What tells a fingerprint without a skew bound from the same one with a bound.
const UNBOUNDED: u32 = 0x5e55_1e55;

/// What stands for a fingerprint where there is no skew bound.
pub(super) fn unbounded(fingerprint: u32) -> u32 {
    fingerprint ^ UNBOUNDED
}

/// The fingerprint that a member tells by what a group describes of it; whether it has a skew bound is left out where it runs
/// the topology `of`.
pub(super) fn fingerprint_in(metadata: &Bytes, of: u32) -> Option<u32> {
    let mut reader = Reader::new(metadata.clone());
    let version = reader.i16().ok()?;
    let subscription =
        ConsumerProtocolSubscription::decode(&mut reader, version.clamp(0, SUBSCRIPTION)).ok()?;
    let (fingerprint, _) = said(subscription.user_data?)?;
    Some(if unbounded(fingerprint) == of { of } else { fingerprint })
}

/// The group's assignor for one topology.
pub(super) struct TaskAssignor {
    /// Of the topology, and of whether there is a skew bound.
    fingerprint: u32,
    /// Partitions by task.
    tasks: BTreeMap<TaskId, Vec<TopicPartition>>,
    /// Where this instance can be asked.
    address: Address,
    /// Number of the worker, and where it notes who has which task.
    worker: usize,
    owners: Arc<Owners>,
    /// Fingerprint of the group, if it has refused this member.
    refused: Mutex<Option<u32>>,
    /// What the group last gave this member; `None` before the first time, and while tasks are on their way from one member
    /// to another.
    given: Mutex<Option<Vec<TopicPartition>>>,
}

impl fmt::Debug for TaskAssignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskAssignor").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl TaskAssignor {
    /// The assignor of a worker.
    pub(super) fn new(worker: usize, shared: &Shared) -> TaskAssignor {
        let mut tasks = BTreeMap::new();
        for (sub_topology, part) in shared.setup.plan.sub_topologies.iter().enumerate() {
            for partition in 0..part.tasks {
                let id = TaskId { sub_topology, partition };
                let inputs = shared.inputs(id).into_iter();
                let inputs = inputs.map(|(topic, at)| shared.topics.partition(topic, at)).collect();
                tasks.insert(id, inputs);
            }
        }
        let topology = &shared.setup.topology;
        let is_timed = (0..shared.setup.plan.sub_topologies.len()).any(|part| topology.is_timed(part));
        let is_bounded = shared.config.skew_bound.is_some() || !is_timed;
        let fingerprint = topology.fingerprint();
        TaskAssignor {
            fingerprint: if is_bounded { fingerprint } else { unbounded(fingerprint) },
            tasks,
            address: shared.config.advertised.clone(),
            worker,
            owners: Arc::clone(&shared.owners),
            refused: Mutex::new(None),
            given: Mutex::new(None),
        }
    }

    /// Whether the group has given all that it has, to this member only what `is_here`.
    pub(super) fn has_given(&self, is_here: impl Fn(&TopicPartition) -> bool) -> bool {
        self.given.lock().as_ref().is_some_and(|given| given.iter().all(is_here))
    }

    /// The group's fingerprint, if it differs from this member's.
    pub(super) fn refused(&self) -> Option<u32> {
        *self.refused.lock()
    }

    /// Who has each task now. A member that has any of its partitions counts as its owner.
    fn owners<'a>(&self, members: &[&'a MemberSubscription]) -> BTreeMap<TaskId, &'a str> {
        let mut by_partition: HashMap<&TopicPartition, (&str, i32)> = HashMap::new();
        for member in members {
            for partition in &member.owned {
                let newer = by_partition.get(partition).is_none_or(|(_, known)| *known < member.generation);
                if newer {
                    by_partition.insert(partition, (&member.member_id, member.generation));
                }
            }
        }
        let owner = |(task, partitions): (&TaskId, &Vec<TopicPartition>)| {
            let owner = partitions.iter().find_map(|partition| by_partition.get(partition))?;
            Some((*task, owner.0))
        };
        self.tasks.iter().filter_map(owner).collect()
    }
}

fn fingerprint_of(member: &MemberSubscription) -> Option<u32> {
    said(member.user_data.clone()?).map(|(fingerprint, _)| fingerprint)
}

fn as_told(member: &MemberSubscription) -> Member {
    let address = member.user_data.clone().and_then(said).and_then(|(_, address)| address);
    Member { id: member.member_id.as_str().into(), address }
}

/// Tasks of a sub-topology among those of a member.
fn of_stage(tasks: &[TaskId], stage: usize) -> usize {
    tasks.iter().filter(|task| task.sub_topology == stage).count()
}

/// Gives every task to a member: sticky, and no member has two more than another, of each sub-topology and of all.
fn balance<'a>(
    tasks: &[TaskId],
    members: &[&'a str],
    owners: &BTreeMap<TaskId, &'a str>,
) -> BTreeMap<&'a str, Vec<TaskId>> {
    let mut given: BTreeMap<&str, Vec<TaskId>> = members.iter().map(|member| (*member, Vec::new())).collect();
    let stages: BTreeSet<usize> = tasks.iter().map(|task| task.sub_topology).collect();
    for stage in stages {
        let of_it = || tasks.iter().filter(|task| task.sub_topology == stage);
        let most = of_it().count().div_ceil(members.len().max(1));
        let mut open = Vec::new();
        for task in of_it() {
            match owners.get(task).and_then(|owner| given.get_mut(owner)) {
                Some(kept) if of_stage(kept, stage) < most => kept.push(*task),
                _ => open.push(*task),
            }
        }
        for task in open {
            if let Some(kept) = given.values_mut().min_by_key(|kept| (of_stage(kept, stage), kept.len())) {
                kept.push(task);
            }
        }
        even_out(
            &mut given,
            |kept| of_stage(kept, stage),
            |from, _| from.iter().rposition(|task| task.sub_topology == stage),
        );
    }
    // Who has more in all has more of some sub-topology, and one of those may go without upsetting it.
    even_out(&mut given, <[TaskId]>::len, |from, to| {
        from.iter().rposition(|task| of_stage(from, task.sub_topology) > of_stage(to, task.sub_topology))
    });
    given
}

/// Moves tasks from who has most to who has least until they differ by no more than one; `choose` says which task goes.
fn even_out(
    given: &mut BTreeMap<&str, Vec<TaskId>>,
    count: impl Fn(&[TaskId]) -> usize,
    choose: impl Fn(&[TaskId], &[TaskId]) -> Option<usize>,
) {
    loop {
        let least = given.iter().min_by_key(|(_, kept)| count(kept)).map(|(member, kept)| (*member, kept));
        let most = given.iter().max_by_key(|(_, kept)| count(kept)).map(|(member, kept)| (*member, kept));
        let (Some((to, few)), Some((from, many))) = (least, most) else { return };
        if count(many) <= count(few) + 1 {
            return;
        }
        let Some(at) = choose(many, few) else { return };
        let moved = given.get_mut(from).map(|kept| kept.remove(at));
        if let Some(kept) = given.get_mut(to) {
            kept.extend(moved);
        }
    }
}

impl Assignor for TaskAssignor {
    fn name(&self) -> &'static str {
        "kappa-streams"
    }

    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Cooperative
    }

    fn user_data(&self, _topics: &[Arc<str>], _owned: &[TopicPartition]) -> Option<Bytes> {
        Some(say(self.fingerprint, &self.address))
    }

    fn assign(
        &self,
        _partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let mut held: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for member in members {
            *held.entry(fingerprint_of(member)).or_default() += member.owned.len();
        }
        let most = held.iter().max_by_key(|(_, owned)| **owned).filter(|(_, owned)| **owned > 0);
        let group = most.map_or(Some(self.fingerprint), |(fingerprint, _)| *fingerprint);
        let (fitting, others): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| fingerprint_of(member) == group);
        let told = |more_to_come, layout| {
            group.map(|fingerprint| Told { fingerprint, more_to_come, layout }.encode())
        };
        let refusal = told(false, None);
        let refused = others.iter().map(|member| {
            let assignment = MemberAssignment { partitions: Vec::new(), user_data: refusal.clone() };
            (member.member_id.clone(), assignment)
        });
        let mut assignments: BTreeMap<String, MemberAssignment> = refused.collect();
        // Only a member of the group's own topology can lay it out.
        if group == Some(self.fingerprint) {
            let mut ids: Vec<&str> = fitting.iter().map(|member| &*member.member_id).collect();
            ids.sort_unstable();
            let owners = self.owners(&members.iter().collect::<Vec<_>>());
            let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
            let balanced = balance(&tasks, &ids, &owners);
            let moves = balanced.iter().any(|(member, tasks)| {
                tasks.iter().any(|task| owners.get(task).is_some_and(|owner| owner != member))
            });
            let mut given: BTreeMap<TaskId, &str> = BTreeMap::new();
            for (member, tasks) in &balanced {
                let free = |task: &&TaskId| owners.get(task).is_none_or(|owner| owner == member);
                given.extend(tasks.iter().filter(free).map(|task| (*task, *member)));
            }
            let members = fitting.iter().map(|member| as_told(member)).collect();
            let told = told(moves, Some(Layout::new(members, self.tasks.keys(), &given)));
            for member in ids {
                let tasks = given.iter().filter(|(_, owner)| **owner == member);
                let partitions = tasks.filter_map(|(task, _)| self.tasks.get(task)).flatten();
                let partitions = partitions.cloned().collect();
                assignments
                    .insert(member.to_owned(), MemberAssignment { partitions, user_data: told.clone() });
            }
        } else {
            for member in fitting {
                let partitions = member.owned.clone();
                assignments.insert(
                    member.member_id.clone(),
                    MemberAssignment { partitions, user_data: refusal.clone() },
                );
            }
        }
        Ok(assignments)
    }

    fn assigned(&self, assignment: &MemberAssignment, generation: i32) {
        let told = assignment.user_data.clone().and_then(Told::decode);
        let group = told.as_ref().map(|told| told.fingerprint);
        *self.refused.lock() = group.filter(|group| *group != self.fingerprint);
        let more_to_come = told.as_ref().is_some_and(|told| told.more_to_come);
        *self.given.lock() = (!more_to_come).then(|| assignment.partitions.clone());
        let given: HashSet<&TopicPartition> = assignment.partitions.iter().collect();
        let is_given =
            |(_, inputs): &(&TaskId, &Vec<TopicPartition>)| inputs.iter().any(|of| given.contains(of));
        let tasks = self.tasks.iter().filter(is_given).map(|(task, _)| *task).collect();
        self.owners.given(self.worker, generation, (tasks, told.and_then(|told| told.layout)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tasks(count: i32) -> Vec<TaskId> {
        let of = |sub_topology| (0..count).map(move |partition| TaskId { sub_topology, partition });
        of(0).chain(of(1)).collect()
    }

    fn assignor(fingerprint: u32) -> TaskAssignor {
        let topic = |task: &TaskId| TopicPartition::new(format!("t{}", task.sub_topology), task.partition);
        let tasks = tasks(4).into_iter().map(|task| (task, vec![topic(&task)])).collect();
        TaskAssignor {
            fingerprint,
            tasks,
            address: None,
            worker: 0,
            owners: Arc::default(),
            refused: Mutex::new(None),
            given: Mutex::new(None),
        }
    }

    fn member(id: &str, fingerprint: u32, owned: &[TopicPartition]) -> MemberSubscription {
        MemberSubscription {
            member_id: id.to_owned(),
            group_instance_id: None,
            topics: Vec::new(),
            owned: owned.to_vec(),
            generation: 1,
            user_data: Some(Bytes::copy_from_slice(&fingerprint.to_be_bytes())),
        }
    }

    #[test]
    fn tasks_spread_evenly_and_stay_where_they_are() {
        let owners = BTreeMap::new();
        let given = balance(&tasks(3), &["a", "b"], &owners);
        assert_eq!((given["a"].len(), given["b"].len()), (3, 3));
        let owners: BTreeMap<TaskId, &str> =
            given.iter().flat_map(|(member, tasks)| tasks.iter().map(|task| (*task, *member))).collect();
        assert_eq!(balance(&tasks(3), &["a", "b"], &owners), given);
        let three = balance(&tasks(3), &["a", "b", "c"], &owners);
        assert!(three.values().all(|tasks| tasks.len() == 2), "{three:?}");
        let moved = three.iter().flat_map(|(member, tasks)| {
            let owners = &owners;
            tasks.iter().filter(move |task| owners[task] != *member)
        });
        assert_eq!(moved.count(), 2);
    }

    #[test]
    fn each_member_has_part_of_every_stage() {
        let stage = |stage, count| (0..count).map(move |partition| TaskId { sub_topology: stage, partition });
        let all: Vec<TaskId> = stage(0, 4).chain(stage(1, 4)).collect();
        // One has all of a stage, the other all of the second.
        let owners = all.iter().map(|task| (*task, if task.sub_topology == 0 { "a" } else { "b" })).collect();
        for kept in balance(&all, &["a", "b"], &owners).values() {
            assert_eq!((of_stage(kept, 0), of_stage(kept, 1)), (2, 2));
        }
        // Stages of one task are spread as well.
        let single: Vec<TaskId> = (0..4).flat_map(|number| stage(number, 1)).collect();
        let owners = single.iter().map(|task| (*task, "a")).collect();
        assert!(balance(&single, &["a", "b"], &owners).values().all(|kept| kept.len() == 2));
    }

    proptest! {
        #[test]
        fn no_member_has_two_more_than_another(
            stages in prop::collection::vec(0i32..7, 1..5),
            members in 1usize..5,
            owned in prop::collection::vec(0usize..6, 30),
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let all: Vec<TaskId> = stages.iter().enumerate().flat_map(|(sub_topology, count)| {
                (0..*count).map(move |partition| TaskId { sub_topology, partition })
            }).collect();
            let owners = all.iter().copied().zip(owned.into_iter().map(|owner| names[owner])).collect();
            let given = balance(&all, &names[..members], &owners);
            let mut placed: Vec<TaskId> = given.values().flatten().copied().collect();
            placed.sort();
            prop_assert_eq!(&placed, &all);
            let spread = |count: &dyn Fn(&[TaskId]) -> usize| {
                let counts = given.values().map(|kept| count(kept));
                counts.clone().max().unwrap() - counts.min().unwrap()
            };
            prop_assert!(spread(&|kept| kept.len()) <= 1);
            for stage in 0..stages.len() {
                prop_assert!(spread(&|kept| of_stage(kept, stage)) <= 1);
            }
            let again = given.iter().flat_map(|(member, kept)| kept.iter().map(|task| (*task, *member))).collect();
            let mut again = balance(&all, &names[..members], &again);
            again.values_mut().for_each(|kept| kept.sort());
            let mut given = given.clone();
            given.values_mut().for_each(|kept| kept.sort());
            prop_assert_eq!(again, given, "what is balanced stays where it is");
        }
    }

    #[test]
    fn a_task_that_moves_is_given_out_only_once_its_owner_has_let_go() {
        let assignor = assignor(7);
        let all: Vec<TopicPartition> = assignor.tasks.values().flatten().cloned().collect();
        let members = [member("a", 7, &all), member("b", 7, &[])];
        let first = assignor.assign(&BTreeMap::new(), &members).unwrap();
        assert_eq!((first["a"].partitions.len(), first["b"].partitions.len()), (4, 0));
        let has_all = |given: &BTreeMap<String, MemberAssignment>| {
            ["a", "b"].map(|member| {
                assignor.assigned(&given[member], 1);
                assert_eq!(assignor.refused(), None);
                assignor.has_given(|_| true)
            })
        };
        assert_eq!(has_all(&first), [false, false], "four tasks are on their way");
        let told = Told::decode(first["a"].user_data.clone().unwrap()).unwrap().layout.unwrap();
        let owners = |told: &Layout| {
            let owners =
                assignor.tasks.keys().map(|task| told.owner(*task).map(|owner| owner.id.to_string()));
            let mut owners: Vec<_> = owners.collect();
            owners.sort();
            owners
        };
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        assert_eq!(owners(&told)[..], [vec![None; 4], vec![a.clone(); 4]].concat(), "and nobody's meanwhile");
        let members = [member("a", 7, &first["a"].partitions), member("b", 7, &[])];
        let second = assignor.assign(&BTreeMap::new(), &members).unwrap();
        assert_eq!((second["a"].partitions.len(), second["b"].partitions.len()), (4, 4));
        assert_eq!(second["a"].partitions, first["a"].partitions);
        let told = Told::decode(second["b"].user_data.clone().unwrap()).unwrap().layout.unwrap();
        assert_eq!(owners(&told)[..], [vec![a; 4], vec![b; 4]].concat());
        assert_eq!(has_all(&second), [true, true]);
        assert!(!assignor.has_given(|partition| *partition == second["b"].partitions[0]));
    }

    #[test]
    fn a_member_with_another_topology_is_refused_whoever_leads() {
        let all: Vec<TopicPartition> = assignor(7).tasks.values().flatten().cloned().collect();
        let members = [member("a", 7, &all), member("b", 8, &[])];
        for leader in [assignor(7), assignor(8)] {
            let given = leader.assign(&BTreeMap::new(), &members).unwrap();
            assert_eq!((given["a"].partitions.len(), given["b"].partitions.len()), (8, 0));
            let newcomer = assignor(8);
            newcomer.assigned(&given["b"], 2);
            assert_eq!(newcomer.refused(), Some(7));
        }
    }
}
