//! Kafka's range assignor: of each topic, members in order get contiguous ranges of almost equal length.
//!
//! Partitions of equal number in topics with equal subscribers go to the same member, so topics stay co-partitioned.

use super::{AssignError, Assignor, MemberAssignment, MemberSubscription, in_order, subscribers};
use crate::TopicPartition;
use std::{collections::BTreeMap, sync::Arc};

/// Gives contiguous ranges of each topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor(());

impl Assignor for RangeAssignor {
    fn name(&self) -> &'static str {
        "range"
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let members = in_order(members);
        let mut assignments: BTreeMap<String, MemberAssignment> = BTreeMap::new();
        for (topic, count) in partitions {
            let subscribers = subscribers(&members, topic);
            let Some(members) = i32::try_from(subscribers.len()).ok().filter(|members| *members > 0) else {
                continue;
            };
            let (each, more) = (count / members, count % members);
            for (place, member) in (0..).zip(subscribers) {
                let first = each * place + more.min(place);
                let len = each + i32::from(place < more);
                let range = (first..first + len).map(|number| TopicPartition::new(topic.clone(), number));
                assignments.entry(member.member_id.clone()).or_default().partitions.extend(range);
            }
        }
        Ok(assignments)
    }
}
