//! Filling the stores of new tasks from their changelogs.

use super::{AppError, shared::Shared};
use crate::{
    task::{InputBatch, RestoreUpTo, RestoreWish, Task, TaskId},
    topology::TopicId,
};
use kappa_client::{Consumer, ConsumerConfig, FetchedBatch, OffsetReset, TopicPartition};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Longest wait of one poll; the end is known, so a poll waits only for the network.
const POLL: Duration = Duration::from_millis(200);

struct Open {
    task: TaskId,
    wish: RestoreWish,
    end: i64,
}

/// A consumer that reads whole partitions, apart from any group.
pub(super) fn reader(shared: &Shared) -> Result<Consumer, AppError> {
    let config = ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
    Ok(Consumer::new(&shared.client, config)?)
}

/// Decodes a fetched batch for a task.
pub(super) fn input(fetched: &FetchedBatch) -> Result<InputBatch, AppError> {
    InputBatch::from_decoded(&fetched.batch).map_err(|reason| AppError::Record {
        topic: Arc::clone(&fetched.partition.topic),
        partition: fetched.partition.partition,
        offset: fetched.batch.base_offset(),
        reason: Arc::new(reason),
    })
}

/// Reads the changelogs of all tasks that are restoring, and lets these run.
pub(super) async fn restore(shared: &Shared, tasks: &mut BTreeMap<TaskId, Task>) -> Result<(), AppError> {
    let wishes = tasks.values().filter(|task| task.is_restoring()).flat_map(|task| {
        let id = task.id();
        task.restore_wishes().into_iter().map(move |wish| (id, wish))
    });
    let wishes: Vec<(TaskId, RestoreWish)> = wishes.collect();
    if !wishes.is_empty() {
        let consumer = reader(shared)?;
        let restored = read(shared, &consumer, wishes, tasks).await;
        consumer.close().await?;
        restored?;
    }
    for task in tasks.values_mut().filter(|task| task.is_restoring()) {
        task.restored_all();
    }
    Ok(())
}

async fn read(
    shared: &Shared,
    consumer: &Consumer,
    wishes: Vec<(TaskId, RestoreWish)>,
    tasks: &mut BTreeMap<TaskId, Task>,
) -> Result<(), AppError> {
    let place = |topic: TopicId, partition| shared.topics.partition(topic, partition);
    let partitions: Vec<TopicPartition> =
        wishes.iter().map(|(_, wish)| place(wish.topic, wish.partition)).collect();
    let (begins, ends) =
        tokio::try_join!(consumer.beginning_offsets(&partitions), consumer.end_offsets(&partitions))?;
    let mut open: BTreeMap<TopicPartition, Open> = BTreeMap::new();
    for (task, wish) in wishes {
        let partition = place(wish.topic, wish.partition);
        let begin = begins.get(&partition).copied().unwrap_or(0);
        let last = ends.get(&partition).copied().unwrap_or(0);
        let end = match wish.up_to {
            RestoreUpTo::End => last,
            RestoreUpTo::Offset(offset) => offset.min(last),
        };
        if begin < end {
            open.insert(partition, Open { task, wish, end });
        }
    }
    consumer.assign(open.keys().cloned())?;
    for partition in open.keys() {
        consumer.seek(partition, begins.get(partition).copied().unwrap_or(0))?;
    }
    while !open.is_empty() {
        for fetched in consumer.poll(POLL).await? {
            let Some(Open { task, wish, end }) = open.get(&fetched.partition) else { continue };
            let batch = input(&fetched)?.below(*end);
            if let Some(restoring) = tasks.get_mut(task) {
                let failed = |source| AppError::Task { task: *task, source };
                restoring.restore(wish.store, &batch).map_err(failed)?;
            }
        }
        open.retain(|partition, open| consumer.position(partition).is_none_or(|at| at < open.end));
    }
    Ok(())
}
