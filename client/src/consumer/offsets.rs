//! Offsets: committed ones, and those by place or time.

use super::{Consumer, ConsumerError, IsolationLevel};
use crate::{
    RequestError, TopicPartition,
    admin::{OffsetAndMetadata, OffsetAndTimestamp, OffsetSpec},
    coordinator::{Committer, Coordinator, concerns_member},
    offsets,
};
use kappa_protocol::{ApiKey, ErrorCode};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{task::JoinHandle, time::Instant};

impl Consumer {
    /// Commits the position of every partition: all that polls have returned counts as processed.
    ///
    /// # Errors
    /// As [`Consumer::commit_offsets`].
    pub async fn commit(&self) -> Result<(), ConsumerError> {
        self.commit_offsets(&self.positions_to_commit()).await
    }

    /// Commits offsets: each is the next one to read.
    ///
    /// # Errors
    /// [`ConsumerError::Rebalanced`] if the group gave the partitions away, [`ConsumerError::NoGroup`], or what the
    /// coordinator says once the client's API timeout has passed.
    pub async fn commit_offsets(
        &self,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<(), ConsumerError> {
        let coordinator = self.coordinator.clone().ok_or(ConsumerError::NoGroup)?;
        commit(coordinator, self.committer(), offsets.to_vec()).await
    }

    /// Starts [`Consumer::commit_offsets`] in the background; the handle may be awaited or dropped.
    pub fn commit_offsets_async(
        &self,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> JoinHandle<Result<(), ConsumerError>> {
        let (coordinator, committer, offsets) =
            (self.coordinator.clone(), self.committer(), offsets.to_vec());
        self.client.runtime().spawn(async move {
            commit(coordinator.ok_or(ConsumerError::NoGroup)?, committer, offsets).await
        })
    }

    fn committer(&self) -> Committer {
        self.group().map_or_else(Committer::outsider, |group| group.committer())
    }

    fn positions_to_commit(&self) -> Vec<(TopicPartition, OffsetAndMetadata)> {
        let positions = self.partitions.positions().into_iter();
        let committed = positions.map(|(partition, offset, epoch)| {
            let leader_epoch = (epoch >= 0).then_some(epoch);
            (partition, OffsetAndMetadata { leader_epoch, ..OffsetAndMetadata::new(offset) })
        });
        committed.collect()
    }

    pub(super) fn auto_commit_if_due(&self, next: &mut Instant) {
        let (Some(interval), Some(_)) = (self.config.auto_commit, &self.coordinator) else { return };
        let now = Instant::now();
        if now < *next {
            return;
        }
        *next = now + interval;
        let offsets = self.positions_to_commit();
        if !offsets.is_empty() {
            // A commit that fails is made good by the next one.
            drop(self.commit_offsets_async(&offsets));
        }
    }

    pub(super) async fn auto_commit(&self) -> Result<(), ConsumerError> {
        let offsets = self.positions_to_commit();
        if self.config.auto_commit.is_none() || self.coordinator.is_none() || offsets.is_empty() {
            return Ok(());
        }
        self.commit_offsets(&offsets).await
    }

    /// What the group committed; partitions without a committed offset are missing.
    ///
    /// # Errors
    /// Without a group, or if its coordinator does not answer in time.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ConsumerError> {
        let coordinator = self.coordinator.as_ref().ok_or(ConsumerError::NoGroup)?;
        let stable = self.config.isolation == IsolationLevel::ReadCommitted;
        Ok(coordinator.committed(Some(partitions), stable).await?)
    }

    /// The first offset of each partition that can still be read.
    ///
    /// # Errors
    /// If a leader does not answer in time, or a partition does not exist.
    pub async fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, ConsumerError> {
        self.edges(partitions, OffsetSpec::Earliest).await
    }

    /// The end of each partition, exclusive: the high watermark, or the last stable offset where only committed
    /// records are read.
    ///
    /// # Errors
    /// As [`Consumer::beginning_offsets`].
    pub async fn end_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, ConsumerError> {
        self.edges(partitions, OffsetSpec::Latest).await
    }

    async fn edges(
        &self,
        partitions: &[TopicPartition],
        edge: OffsetSpec,
    ) -> Result<BTreeMap<TopicPartition, i64>, ConsumerError> {
        let wanted: Vec<_> =
            partitions.iter().map(|partition| (partition.clone(), edge.timestamp())).collect();
        let found = offsets::list(&self.client, &wanted, self.config.isolation.id()).await.into_iter();
        let missing = || RequestError::Incomplete { api: ApiKey::ListOffsets };
        let offset =
            |(partition, found): (_, offsets::Found)| Ok((partition, found?.ok_or_else(missing)?.offset));
        found.map(offset).collect()
    }

    /// For each partition the first record whose timestamp in ms is the given one or later, `None` if there is none.
    ///
    /// # Errors
    /// As [`Consumer::beginning_offsets`].
    pub async fn offsets_for_times(
        &self,
        times: &[(TopicPartition, i64)],
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, ConsumerError> {
        let found = offsets::list(&self.client, times, self.config.isolation.id()).await.into_iter();
        found.map(|(partition, found)| Ok((partition, found?))).collect()
    }
}

async fn commit(
    coordinator: Arc<Coordinator>,
    committer: Committer,
    offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
) -> Result<(), ConsumerError> {
    let refused = |error: RequestError| match error.code() {
        Some(ErrorCode::FencedInstanceId) => {
            ConsumerError::Fenced(committer.group_instance_id.clone().unwrap_or_default())
        }
        Some(code) if concerns_member(&error) && code != ErrorCode::GroupAuthorizationFailed => {
            ConsumerError::Rebalanced { code }
        }
        _ => error.into(),
    };
    let outcomes = coordinator.commit(&committer, &offsets).await.map_err(refused)?;
    for (partition, outcome) in outcomes {
        if let Err(error) = outcome {
            return Err(match error.code() {
                Some(code) => ConsumerError::Partition { partition, code },
                None => error.into(),
            });
        }
    }
    Ok(())
}
