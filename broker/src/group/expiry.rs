//! Which committed offsets have been kept long enough, by Kafka's rule.
//!
//! Offsets of a group without members expire a retention time after its last member went, or after their commit if
//! that was later. While a group of consumers is stable, offsets of topics that none of them reads expire a
//! retention time after their commit. Otherwise nothing expires. A time of expiry that a client set itself counts
//! instead of the retention time. Pure: the caller writes the tombstones.

use super::offsets::{CommittedOffset, FoldedGroup};
use super::state::Group;
use std::collections::BTreeSet;

/// Topic and partition of each offset that has expired at `now_ms` (wall clock, ms since the epoch). `live` is the
/// group's present state, if it has one.
pub(crate) fn expired(
    folded: &FoldedGroup,
    live: Option<&Group>,
    now_ms: i64,
    retention_ms: i64,
) -> Vec<(String, i32)> {
    let Some(since) = Since::of(folded, live) else { return Vec::new() };
    let over = |topic: &str, committed: &CommittedOffset| {
        let since_ms = match &since {
            Since::LastMember(since_ms) => (*since_ms).max(committed.committed_at_ms),
            Since::Commit => committed.committed_at_ms,
            Since::CommitUnlessRead(subscribed) if subscribed.contains(topic) => return false,
            Since::CommitUnlessRead(_) => committed.committed_at_ms,
        };
        committed.expires_at_ms.unwrap_or(since_ms.saturating_add(retention_ms)) <= now_ms
    };
    let each = folded.offsets.iter().flat_map(|(topic, partitions)| {
        partitions.iter().map(move |(partition, committed)| (topic, *partition, committed))
    });
    each.filter(|(topic, _, committed)| over(topic, committed))
        .map(|(topic, partition, _)| (topic.clone(), partition))
        .collect()
}

/// What the retention time is counted from.
enum Since {
    LastMember(i64),
    Commit,
    CommitUnlessRead(BTreeSet<String>),
}

impl Since {
    /// `None` if nothing may expire now.
    fn of(folded: &FoldedGroup, live: Option<&Group>) -> Option<Self> {
        match (live.filter(|group| !group.is_empty()), &folded.metadata) {
            (Some(group), _) if group.is_stable() => group.subscribed_topics().map(Self::CommitUnlessRead),
            (Some(_), _) => None,
            // The members' departure is not written yet.
            (None, Some(metadata)) if !metadata.members.is_empty() => None,
            (None, Some(metadata)) if metadata.current_state_timestamp >= 0 => {
                Some(Self::LastMember(metadata.current_state_timestamp))
            }
            (None, _) => Some(Self::Commit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{GroupLimits, JoinGroup, Joiner, SyncGroup, Ticket};
    use super::*;
    use crate::group::state::{Action, Caller};
    use bytes::Bytes;
    use kappa_protocol::messages::{GroupMetadataValue, group_metadata_value::MemberMetadata};

    const RETENTION_MS: i64 = 100;

    fn folded(metadata: Option<GroupMetadataValue>) -> FoldedGroup {
        let committed = |committed_at_ms, expires_at_ms| CommittedOffset {
            offset: 1,
            leader_epoch: -1,
            metadata: String::new(),
            committed_at_ms,
            expires_at_ms,
        };
        let partitions = [(0, committed(1_000, None)), (1, committed(1_000, Some(1_050)))];
        FoldedGroup { metadata, offsets: [("t".to_owned(), partitions.into())].into() }
    }

    fn stable_reader_of(topic: &str) -> Group {
        let mut subscription = vec![0, 0, 0, 0, 0, 1, 0, topic.len() as u8];
        subscription.extend(topic.as_bytes());
        subscription.extend([0xff; 4]);
        let mut group = Group::new(GroupLimits { initial_rebalance_delay_ms: 0, members_max: 9 });
        let join = JoinGroup {
            joiner: Joiner::New { member_id: "m".into(), must_return: false },
            instance_id: None,
            client_id: String::new(),
            client_host: String::new(),
            session_timeout_ms: 10,
            rebalance_timeout_ms: 10,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::from(subscription))],
            can_skip_assignment: false,
        };
        group.join(join, Ticket(1), 0);
        let caller = Caller { member_id: "m", instance_id: None };
        let sync =
            SyncGroup { caller, generation: 1, protocol_type: None, protocol: None, assignments: Vec::new() };
        group.sync(sync, Ticket(2), 0);
        let writes = group.take_actions().into_iter().filter_map(|action| match action {
            Action::Write(write) => Some(write),
            _ => None,
        });
        writes.for_each(|write| group.written(write, Ok(()), 0));
        group
    }

    #[test]
    fn offsets_of_a_client_without_a_group_expire_after_their_commit() {
        let folded = folded(None);
        assert_eq!(expired(&folded, None, 1_049, RETENTION_MS), []);
        assert_eq!(expired(&folded, None, 1_099, RETENTION_MS), [("t".to_owned(), 1)]);
        assert_eq!(expired(&folded, None, 1_100, RETENTION_MS).len(), 2);
    }

    #[test]
    fn offsets_of_an_empty_group_expire_after_the_last_member_went() {
        let metadata = GroupMetadataValue { current_state_timestamp: 5_000, ..Default::default() };
        let folded = folded(Some(metadata));
        assert_eq!(expired(&folded, None, 5_099, RETENTION_MS), [("t".to_owned(), 1)]);
        assert_eq!(expired(&folded, None, 5_100, RETENTION_MS).len(), 2);
    }

    #[test]
    fn nothing_expires_while_members_may_be_there() {
        let members = vec![MemberMetadata::default()];
        let folded = folded(Some(GroupMetadataValue { members, ..Default::default() }));
        assert_eq!(expired(&folded, None, i64::MAX, RETENTION_MS), []);
        assert_eq!(expired(&folded, Some(&stable_reader_of("t")), i64::MAX, RETENTION_MS), []);
    }

    #[test]
    fn offsets_of_topics_that_nobody_reads_any_more_expire() {
        let reader = stable_reader_of("other");
        assert!(reader.is_stable());
        assert_eq!(expired(&folded(None), Some(&reader), 1_100, RETENTION_MS).len(), 2);
    }
}
