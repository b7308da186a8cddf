//! What every assignor owes: each partition to exactly one subscriber, evenly; and what sticky ones owe beyond.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn assignors() -> [Arc<dyn Assignor>; 4] {
    [
        Arc::new(RangeAssignor::default()),
        Arc::new(RoundRobinAssignor::default()),
        Arc::new(StickyAssignor::default()),
        Arc::new(CooperativeStickyAssignor::default()),
    ]
}

fn member(number: usize, topics: &[usize]) -> MemberSubscription {
    MemberSubscription {
        member_id: format!("member-{number:02}"),
        group_instance_id: None,
        topics: topics.iter().map(|topic| Arc::from(format!("t{topic}"))).collect(),
        owned: Vec::new(),
        generation: -1,
        user_data: None,
    }
}

fn counts(counts: &[i32]) -> BTreeMap<Arc<str>, i32> {
    counts.iter().enumerate().map(|(topic, count)| (Arc::from(format!("t{topic}")), *count)).collect()
}

type Assigned = BTreeMap<String, MemberAssignment>;

fn all(assigned: &Assigned) -> Vec<TopicPartition> {
    let mut all: Vec<_> = assigned.values().flat_map(|member| member.partitions.clone()).collect();
    all.sort();
    all
}

fn loads(assigned: &Assigned, members: &[MemberSubscription]) -> Vec<usize> {
    members
        .iter()
        .map(|member| assigned.get(&member.member_id).map_or(0, |got| got.partitions.len()))
        .collect()
}

/// What the next rebalance would see.
fn settled(members: &[MemberSubscription], assigned: &Assigned, generation: i32) -> Vec<MemberSubscription> {
    let settle = |member: &MemberSubscription| MemberSubscription {
        owned: assigned.get(&member.member_id).map(|got| got.partitions.clone()).unwrap_or_default(),
        generation,
        ..member.clone()
    };
    members.iter().map(settle).collect()
}

proptest! {
    #[test]
    fn every_partition_goes_to_one_subscriber(
        counted in prop::collection::vec(0..9_i32, 1..4),
        subscribed in prop::collection::vec(prop::collection::btree_set(0..3_usize, 0..4), 1..7),
    ) {
        let partitions = counts(&counted);
        let topics: Vec<Vec<usize>> = subscribed.iter().map(|topics| topics.iter().copied().collect()).collect();
        let members: Vec<_> = topics.iter().enumerate().map(|(number, topics)| member(number, topics)).collect();
        let wanted = |topic: &Arc<str>| members.iter().any(|member| member.topics.contains(topic));
        let expected: Vec<_> = partitions
            .iter()
            .filter(|(topic, _)| wanted(topic))
            .flat_map(|(topic, count)| (0..*count).map(|number| TopicPartition::new(topic.clone(), number)))
            .collect();
        for assignor in assignors() {
            let assigned = assignor.assign(&partitions, &members).unwrap();
            prop_assert_eq!(&all(&assigned), &expected, "{}", assignor.name());
            for member in &members {
                let got = assigned.get(&member.member_id).map(|got| got.partitions.clone()).unwrap_or_default();
                prop_assert!(got.iter().all(|partition| member.topics.contains(&partition.topic)));
            }
        }
    }

    #[test]
    fn equal_subscriptions_share_evenly(counted in prop::collection::vec(1..9_i32, 1..4), count in 1..7_usize) {
        let topics: Vec<_> = (0..counted.len()).collect();
        let members: Vec<_> = (0..count).map(|number| member(number, &topics)).collect();
        for assignor in assignors().iter().skip(1) {
            let loads = loads(&assignor.assign(&counts(&counted), &members).unwrap(), &members);
            let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
            prop_assert!(spread <= 1, "{}: {loads:?}", assignor.name());
        }
    }

    #[test]
    fn sticky_moves_no_more_than_a_joining_or_leaving_member_takes(
        partitions in 1..40_i32,
        before in 1..7_usize,
        joins: bool,
    ) {
        prop_assume!(joins || before > 1);
        let partitions = counts(&[partitions]);
        let mut members: Vec<_> = (0..before).map(|number| member(number, &[0])).collect();
        let assignor = StickyAssignor::default();
        let first = assignor.assign(&partitions, &members).unwrap();
        if joins {
            members.push(member(before, &[0]));
        } else {
            members.remove(0);
        }
        let second = assignor.assign(&partitions, &settled(&members, &first, 1)).unwrap();
        let kept: BTreeSet<_> = members
            .iter()
            .flat_map(|member| {
                let had: BTreeSet<_> =
                    first.get(&member.member_id).map(|got| got.partitions.clone()).into_iter().flatten().collect();
                second[&member.member_id].partitions.iter().filter(move |p| had.contains(p)).cloned().collect::<Vec<_>>()
            })
            .collect();
        let moved = all(&second).len() - kept.len();
        let due = if joins {
            second[&members[before].member_id].partitions.len()
        } else {
            first["member-00"].partitions.len()
        };
        prop_assert_eq!(moved, due);
    }

    #[test]
    fn cooperative_withholds_what_another_member_has_and_gives_it_in_the_next_round(
        partitions in 1..40_i32,
        before in 1..7_usize,
    ) {
        let partitions = counts(&[partitions]);
        let assignor = CooperativeStickyAssignor::default();
        let mut members: Vec<_> = (0..before).map(|number| member(number, &[0])).collect();
        let first = assignor.assign(&partitions, &members).unwrap();
        members.push(member(before, &[0]));
        let members = settled(&members, &first, 1);
        let second = assignor.assign(&partitions, &members).unwrap();
        for member in &members {
            for partition in &second[&member.member_id].partitions {
                let owner = members.iter().find(|other| other.owned.contains(partition));
                prop_assert!(owner.is_none_or(|owner| owner.member_id == member.member_id));
            }
        }
        let third = assignor.assign(&partitions, &settled(&members, &second, 2)).unwrap();
        prop_assert_eq!(all(&third), all(&first));
        let loads = loads(&third, &members);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    }
}

#[test]
fn range_gives_the_ranges_of_kafkas_documentation() {
    let members = [member(0, &[0, 1]), member(1, &[0, 1])];
    let assigned = RangeAssignor::default().assign(&counts(&[3, 3]), &members).unwrap();
    let numbers =
        |member: &str| assigned[member].partitions.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(numbers("member-00"), ["t0-0", "t0-1", "t1-0", "t1-1"]);
    assert_eq!(numbers("member-01"), ["t0-2", "t1-2"]);
}

#[test]
fn static_members_come_first_by_name() {
    let mut members = [member(0, &[0]), member(1, &[0])];
    members[1].group_instance_id = Some("a".into());
    let assigned = RangeAssignor::default().assign(&counts(&[1]), &members).unwrap();
    assert_eq!(assigned["member-01"].partitions.len(), 1);
}

#[test]
fn of_two_claims_the_newer_holds() {
    let claimed = vec![TopicPartition::new("t0", 0), TopicPartition::new("t0", 1)];
    let members = [
        MemberSubscription { owned: claimed.clone(), generation: 3, ..member(0, &[0]) },
        MemberSubscription { owned: claimed.clone(), generation: 4, ..member(1, &[0]) },
    ];
    let assigned = StickyAssignor::default().assign(&counts(&[2]), &members).unwrap();
    assert_eq!(all(&assigned), claimed);
    assert_eq!(loads(&assigned, &members), [1, 1]);
}

#[test]
fn eager_sticky_members_tell_what_they_had() {
    let assignor = StickyAssignor::default();
    let partitions = vec![TopicPartition::new("t0", 2), TopicPartition::new("t1", 0)];
    let leader = StickyAssignor::default();
    let members = [
        MemberSubscription { user_data: assignor.user_data(&[], &partitions), ..member(1, &[0, 1]) },
        member(0, &[0, 1]),
    ];
    let assigned = leader.assign(&counts(&[3, 1]), &members).unwrap();
    assert!(partitions.iter().all(|partition| assigned["member-01"].partitions.contains(partition)));
    let hostile = MemberSubscription { user_data: Some(Bytes::from_static(&[0x7f; 9])), ..member(0, &[0]) };
    assert_eq!(leader.assign(&counts(&[3]), &[hostile]).unwrap()["member-00"].partitions.len(), 3);
}
