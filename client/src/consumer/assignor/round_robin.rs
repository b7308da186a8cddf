//! Kafka's round-robin assignor: all partitions of all topics, dealt to the members in turn.

use super::{AssignError, Assignor, MemberAssignment, MemberSubscription, in_order};
use crate::TopicPartition;
use std::{collections::BTreeMap, sync::Arc};

/// Deals partitions one by one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor(());

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &'static str {
        "roundrobin"
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let members = in_order(members);
        let mut turns = members.iter().cycle();
        let mut assignments: BTreeMap<String, MemberAssignment> = BTreeMap::new();
        for (topic, count) in partitions {
            if !members.iter().any(|member| member.topics.contains(topic)) {
                continue;
            }
            for number in 0..*count {
                // Some member subscribes to the topic, so its turn comes.
                let Some(member) = turns.find(|member| member.topics.contains(topic)) else { break };
                let partition = TopicPartition::new(topic.clone(), number);
                assignments.entry(member.member_id.clone()).or_default().partitions.push(partition);
            }
        }
        Ok(assignments)
    }
}
