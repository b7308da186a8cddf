//! The sticky assignors: as balanced as the subscriptions allow, and as few partitions moved as that takes.
//!
//! Members keep what they claim, the newest claim first; what nobody has goes to the members with least; then
//! partitions move, one at a time, from a member to one that has at least two fewer, until no such move is left.
//! The cooperative one withholds what another member still has: that member gives it up in this rebalance, and it is
//! given away in the next.

use super::{AssignError, Assignor, MemberAssignment, MemberSubscription, RebalanceProtocol, in_order};
use crate::TopicPartition;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Moves few partitions, by the eager protocol. Members tell in their user data, as Kafka's do, what they had.
#[derive(Clone, Copy, Debug, Default)]
pub struct StickyAssignor(());

/// Moves few partitions, and only those: members go on reading all others through a rebalance.
#[derive(Clone, Copy, Debug, Default)]
pub struct CooperativeStickyAssignor(());

impl Assignor for StickyAssignor {
    fn name(&self) -> &'static str {
        "sticky"
    }

    fn user_data(&self, _topics: &[Arc<str>], owned: &[TopicPartition]) -> Option<Bytes> {
        encode_claims(owned)
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let claims = members.iter().map(|member| match member.user_data.clone().and_then(decode_claims) {
            Some((claimed, generation)) => (claimed, generation.max(member.generation)),
            None => (member.owned.clone(), member.generation),
        });
        let claims: Vec<_> = claims.collect();
        Ok(named(balance(partitions, members, &claims)))
    }
}

/// Topics, each with its partition numbers, as Kafka's sticky assignor writes them.
fn encode_claims(owned: &[TopicPartition]) -> Option<Bytes> {
    let topics = crate::coordinator::by_topic(owned);
    let mut data = BytesMut::new();
    data.put_i32(i32::try_from(topics.len()).ok()?);
    for (topic, numbers) in topics {
        data.put_i16(i16::try_from(topic.len()).ok()?);
        data.put_slice(topic.as_bytes());
        data.put_i32(i32::try_from(numbers.len()).ok()?);
        numbers.iter().for_each(|number| data.put_i32(*number));
    }
    Some(data.freeze())
}

/// The reverse, and the generation that may follow.
fn decode_claims(mut data: Bytes) -> Option<(Vec<TopicPartition>, i32)> {
    let mut claimed = Vec::new();
    for _ in 0..data.try_get_i32().ok()? {
        let len = usize::try_from(data.try_get_i16().ok()?).ok()?;
        if len > data.len() {
            return None;
        }
        let topic: Arc<str> = Arc::from(std::str::from_utf8(&data.split_to(len)).ok()?);
        for _ in 0..data.try_get_i32().ok()? {
            claimed.push(TopicPartition::new(topic.clone(), data.try_get_i32().ok()?));
        }
    }
    Some((claimed, data.try_get_i32().unwrap_or(-1)))
}

impl Assignor for CooperativeStickyAssignor {
    fn name(&self) -> &'static str {
        "cooperative-sticky"
    }

    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Cooperative
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let claims = members.iter().map(|member| {
            // Old clients tell their generation in the user data instead of the subscription.
            let told = member.user_data.clone().and_then(|mut data| data.try_get_i32().ok());
            (member.owned.clone(), member.generation.max(told.unwrap_or(-1)))
        });
        let claims: Vec<_> = claims.collect();
        let mut assignments = balance(partitions, members, &claims);
        let mut owners: HashMap<&TopicPartition, &str> = HashMap::new();
        for member in members {
            owners.extend(member.owned.iter().map(|partition| (partition, member.member_id.as_str())));
        }
        for (member, assigned) in &mut assignments {
            assigned.retain(|partition| owners.get(partition).is_none_or(|owner| *owner == member.as_str()));
        }
        Ok(named(assignments))
    }
}

fn named(assignments: BTreeMap<String, BTreeSet<TopicPartition>>) -> BTreeMap<String, MemberAssignment> {
    let assignment = |partitions: BTreeSet<_>| MemberAssignment {
        partitions: partitions.into_iter().collect(),
        user_data: None,
    };
    assignments.into_iter().map(|(member, partitions)| (member, assignment(partitions))).collect()
}

/// A member while partitions are being spread.
struct Bearer<'a> {
    subscription: &'a MemberSubscription,
    topics: HashSet<&'a str>,
    load: BTreeSet<TopicPartition>,
}

/// A balanced assignment that keeps as many claims as it can; `claims` goes with `members`.
fn balance(
    partitions: &BTreeMap<Arc<str>, i32>,
    members: &[MemberSubscription],
    claims: &[(Vec<TopicPartition>, i32)],
) -> BTreeMap<String, BTreeSet<TopicPartition>> {
    let mut bearers: Vec<_> = in_order(members)
        .into_iter()
        .map(|subscription| Bearer {
            subscription,
            topics: subscription.topics.iter().map(|topic| &**topic).collect(),
            load: BTreeSet::new(),
        })
        .collect();
    let mut free = honour_claims(partitions, members, claims, &mut bearers);
    // Partitions that few members can take go first, so that these are not full by then.
    free.sort_by_cached_key(|partition| {
        let takers = bearers.iter().filter(|bearer| bearer.topics.contains(&*partition.topic)).count();
        (takers, partition.clone())
    });
    for partition in free {
        let takers = bearers.iter_mut().filter(|bearer| bearer.topics.contains(&*partition.topic));
        if let Some(least) = takers.min_by_key(|bearer| bearer.load.len()) {
            least.load.insert(partition);
        }
    }
    while let Some((partition, from, to)) = next_move(&bearers) {
        if let Some(bearer) = bearers.get_mut(from) {
            bearer.load.remove(&partition);
        }
        if let Some(bearer) = bearers.get_mut(to) {
            bearer.load.insert(partition);
        }
    }
    bearers.into_iter().map(|bearer| (bearer.subscription.member_id.clone(), bearer.load)).collect()
}

/// Gives members what they claim, the newest generation first; returns what nobody claims.
fn honour_claims(
    partitions: &BTreeMap<Arc<str>, i32>,
    members: &[MemberSubscription],
    claims: &[(Vec<TopicPartition>, i32)],
    bearers: &mut [Bearer<'_>],
) -> Vec<TopicPartition> {
    let all = partitions
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(|number| TopicPartition::new(topic.clone(), number)));
    let mut free: BTreeSet<_> = all.collect();
    let mut by_age: Vec<_> = members.iter().zip(claims).collect();
    by_age.sort_by_key(|(_, (_, generation))| std::cmp::Reverse(*generation));
    for (member, (claimed, _)) in by_age {
        let bearer = bearers.iter_mut().find(|bearer| bearer.subscription.member_id == member.member_id);
        let Some(bearer) = bearer else { continue };
        for partition in claimed {
            if bearer.topics.contains(&*partition.topic) && free.remove(partition) {
                bearer.load.insert(partition.clone());
            }
        }
    }
    free.into_iter().collect()
}

/// A partition that is better off with a member that has at least two fewer: from the fullest to the emptiest.
fn next_move(bearers: &[Bearer<'_>]) -> Option<(TopicPartition, usize, usize)> {
    let mut by_load: Vec<_> = bearers.iter().enumerate().collect();
    by_load.sort_by_key(|(place, bearer)| (bearer.load.len(), *place));
    for (from, full) in by_load.iter().rev() {
        for (to, empty) in &by_load {
            if full.load.len() < empty.load.len() + 2 {
                break;
            }
            let movable = full.load.iter().rev().find(|partition| empty.topics.contains(&*partition.topic));
            if let Some(partition) = movable {
                return Some((partition.clone(), *from, *to));
            }
        }
    }
    None
}
