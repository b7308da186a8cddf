//! What `__consumer_offsets` says: every group's committed offsets, and its members as last written.
//!
//! Invariant: nothing changes this state but a record of the topic, so replaying the topic gives the same dump, and
//! what is seen here is durable. Knows nothing of rebalances.

use super::records::{self, Encoded, GroupRecord};
use crate::partition::FoldState;
use kappa_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX;
use kappa_protocol::messages::GroupMetadataValue;
use kappa_protocol::record::{Batch, BatchError, RecordError};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

/// An offset that a group committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    /// The next offset to read.
    pub(crate) offset: i64,
    /// Leader epoch of the record before it; -1 if unknown.
    pub(crate) leader_epoch: i32,
    /// What the client noted.
    pub(crate) metadata: String,
    /// When it was committed, in ms since the epoch.
    pub(crate) committed_at_ms: i64,
    /// When it expires, if the client said so.
    pub(crate) expires_at_ms: Option<i64>,
}

/// Committed offsets by topic and partition.
pub(crate) type TopicOffsets = BTreeMap<String, BTreeMap<i32, CommittedOffset>>;

/// A group as the topic has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FoldedGroup {
    /// Its generation and members; `None` if it never had any.
    pub(crate) metadata: Option<GroupMetadataValue>,
    /// Its committed offsets.
    pub(crate) offsets: TopicOffsets,
}

impl FoldedGroup {
    /// The committed offset of a partition.
    pub(crate) fn offset(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.offsets.get(topic)?.get(&partition)
    }
}

/// All groups of one partition of the topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OffsetsState {
    groups: BTreeMap<String, FoldedGroup>,
    /// Whether the topic has records that are not in this state.
    has_unread: bool,
}

/// A place in the order in which a state gives its records: each group's own record, then its offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StatePlace {
    group: String,
    offset: Option<(String, i32)>,
}

/// A batch of `__consumer_offsets` that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OffsetsError {
    /// The batch is damaged.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// One of its records is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl FoldState for OffsetsState {
    type Error = OffsetsError;

    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), OffsetsError> {
        if batch.is_control() {
            return Ok(());
        }
        let body = batch.decode(BATCH_DECOMPRESSED_BYTES_MAX)?;
        for record in body.iter() {
            let record = record?;
            let decoded = record.key.map(|key| GroupRecord::decode(key, record.value));
            match decoded {
                Some(Ok(decoded)) => self.apply_record(decoded),
                // One record that makes no sense must not take every group with it.
                Some(Err(error)) => {
                    self.has_unread = true;
                    tracing::error!(offset = record.offset, %error, "group record skipped");
                }
                None => {
                    self.has_unread = true;
                    tracing::error!(offset = record.offset, "group record without a key skipped");
                }
            }
        }
        Ok(())
    }
}

impl OffsetsState {
    /// A group by its id.
    pub(crate) fn group(&self, id: &str) -> Option<&FoldedGroup> {
        self.groups.get(id)
    }

    /// Every group by its id, in order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, &FoldedGroup)> {
        self.groups.iter().map(|(id, group)| (id.as_str(), group))
    }

    /// The same for those behind an id.
    pub(crate) fn groups_behind(&self, id: Option<&str>) -> impl Iterator<Item = (&str, &FoldedGroup)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range::<str, _>((from, Bound::Unbounded)).map(|(id, group)| (id.as_str(), group))
    }

    /// Whether the topic has records that this state does not hold, because they make no sense here.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// The records that make this state out of none, from behind a place on, each with its own.
    pub(crate) fn records_behind<'a>(
        &'a self,
        place: Option<&'a StatePlace>,
    ) -> impl Iterator<Item = (StatePlace, Encoded)> + 'a {
        let first = place.map_or("", |place| place.group.as_str());
        let groups = self.groups.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        groups.flat_map(move |(id, group)| {
            // Where in this group, if the place is in it.
            let within = place.filter(|place| place.group == *id);
            let metadata = group.metadata.as_ref().filter(|_| within.is_none());
            let metadata = metadata.map(|metadata| (None, records::metadata(id, Some(metadata))));
            let behind = within.and_then(|place| place.offset.as_ref());
            let topic = behind.map_or("", |(topic, _)| topic.as_str());
            let topics = group.offsets.range::<str, _>((Bound::Included(topic), Bound::Unbounded));
            let offsets = topics.flat_map(move |(topic, partitions)| {
                let from = match behind {
                    Some((behind, partition)) if behind == topic => Bound::Excluded(*partition),
                    _ => Bound::Unbounded,
                };
                partitions.range((from, Bound::Unbounded)).map(move |(partition, committed)| {
                    let record = records::offset(id, topic, *partition, Some(committed));
                    (Some((topic.clone(), *partition)), record)
                })
            });
            metadata.into_iter().chain(offsets).map(move |(offset, record)| {
                let record = record.expect("what was decoded can be encoded");
                (StatePlace { group: id.clone(), offset }, record)
            })
        })
    }

    fn apply_record(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::Offset { key, value: Some(committed) } => {
                let group = self.groups.entry(key.group).or_default();
                group.offsets.entry(key.topic).or_default().insert(key.partition, committed);
            }
            GroupRecord::Offset { key, value: None } => {
                let Some(group) = self.groups.get_mut(&key.group) else { return };
                if let Some(partitions) = group.offsets.get_mut(&key.topic) {
                    partitions.remove(&key.partition);
                    if partitions.is_empty() {
                        group.offsets.remove(&key.topic);
                    }
                }
                self.drop_if_bare(&key.group);
            }
            GroupRecord::Metadata { group, value: Some(metadata) } => {
                self.groups.entry(group).or_default().metadata = Some(metadata);
            }
            GroupRecord::Metadata { group, value: None } => {
                if let Some(folded) = self.groups.get_mut(&group) {
                    folded.metadata = None;
                }
                self.drop_if_bare(&group);
            }
            GroupRecord::Other { key_type } => {
                self.has_unread = true;
                tracing::debug!(key_type, "group record of an unknown type skipped");
            }
        }
    }

    fn drop_if_bare(&mut self, id: &str) {
        if self.groups.get(id).is_some_and(|group| group.metadata.is_none() && group.offsets.is_empty()) {
            self.groups.remove(id);
        }
    }
}

/// The whole state, the same text for the same state.
impl fmt::Display for OffsetsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, group) in &self.groups {
            if let Some(metadata) = &group.metadata {
                writeln!(f, "group {id:?} {metadata:?}")?;
            }
            for (topic, partitions) in &group.offsets {
                for (partition, committed) in partitions {
                    writeln!(f, "offset {id:?} {topic:?} {partition} {committed:?}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::{Encoded, metadata, offset};
    use super::*;
    use bytes::Bytes;
    use kappa_protocol::record::{BatchBuilder, BatchOptions};
    use proptest::prelude::*;

    fn committed(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            committed_at_ms: 5,
            expires_at_ms: None,
        }
    }

    fn batch(records: &[Encoded]) -> Bytes {
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for Encoded { key, value } in records {
            batch.push(0, Some(key), value.as_deref(), std::iter::empty());
        }
        batch.finish(0)
    }

    fn apply(state: &mut OffsetsState, records: &[Encoded]) {
        state.apply(&Batch::stored(&batch(records)).unwrap().0).unwrap();
    }

    #[test]
    fn a_group_is_gone_when_the_last_of_it_is() {
        let mut state = OffsetsState::default();
        let value = GroupMetadataValue::default();
        apply(
            &mut state,
            &[metadata("g", Some(&value)).unwrap(), offset("g", "t", 1, Some(&committed(3))).unwrap()],
        );
        assert_eq!(state.group("g").unwrap().offset("t", 1).unwrap().offset, 3);
        assert_eq!(state.to_string().lines().count(), 2);
        apply(&mut state, &[metadata("g", None).unwrap()]);
        assert!(state.group("g").is_some());
        apply(&mut state, &[offset("g", "t", 1, None).unwrap(), offset("g", "t", 2, None).unwrap()]);
        assert_eq!(state, OffsetsState::default());
    }

    #[test]
    fn a_state_is_made_again_from_its_records_wherever_they_are_cut() {
        let mut state = OffsetsState::default();
        let value = GroupMetadataValue { generation: 3, ..Default::default() };
        for group in ["a", "b"] {
            let expiring = CommittedOffset { expires_at_ms: Some(9), ..committed(8) };
            let offsets = [("t", 0, committed(1)), ("t", 7, committed(2)), ("u", 1, expiring)];
            let offsets =
                offsets.map(|(topic, partition, value)| offset(group, topic, partition, Some(&value)));
            apply(&mut state, &offsets.map(Result::unwrap));
            apply(&mut state, &[metadata(group, Some(&value)).unwrap()]);
        }
        apply(&mut state, &[offset("bare", "t", 0, Some(&committed(5))).unwrap()]);
        let all: Vec<(StatePlace, Encoded)> = state.records_behind(None).collect();
        assert_eq!(all.len(), 9);
        assert!(all.is_sorted_by(|(a, _), (b, _)| a < b));
        for cut in 0..all.len() {
            let behind: Vec<_> = state.records_behind(Some(&all[cut].0)).collect();
            assert_eq!(behind, all[cut + 1..], "behind {:?}", all[cut].0);
        }
        let mut again = OffsetsState::default();
        all.iter().for_each(|(_, record)| apply(&mut again, std::slice::from_ref(record)));
        assert_eq!(again, state);
        assert_eq!(state.records_behind(Some(&StatePlace { group: "c".into(), offset: None })).count(), 0);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_skipped() {
        let mut state = OffsetsState::default();
        let nonsense = Encoded { key: Bytes::from_static(b"\x00\x01\x7f"), value: None };
        let keep = offset("g", "t", 0, Some(&committed(1))).unwrap();
        assert!(!state.has_unread());
        apply(&mut state, &[nonsense, keep]);
        assert!(state.group("g").is_some() && state.has_unread());
    }

    proptest! {
        #[test]
        fn however_records_are_batched_the_state_is_the_same(
            commits in prop::collection::vec((0..3_u8, 0..2_u8, 0..2_i32, prop::option::of(0..100_i64)), 0..60),
            size in 1..10_usize,
        ) {
            let records: Vec<Encoded> = commits
                .iter()
                .map(|(group, topic, partition, value)| {
                    let value = value.map(committed);
                    offset(&format!("g{group}"), &format!("t{topic}"), *partition, value.as_ref()).unwrap()
                })
                .collect();
            let (mut single, mut chunked) = (OffsetsState::default(), OffsetsState::default());
            records.iter().for_each(|record| apply(&mut single, std::slice::from_ref(record)));
            records.chunks(size).for_each(|chunk| apply(&mut chunked, chunk));
            prop_assert_eq!(single.to_string(), chunked.to_string());
        }
    }
}
