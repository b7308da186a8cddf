//! Tasks that come and go with the partitions of the group.

use super::Worker;
use crate::{
    runtime::{AppError, StartAt, moves::Move},
    task::{Position, Start, Task, TaskId},
    topology::{TopicId, TopicKind},
};
use kappa_client::TopicPartition;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

impl Worker {
    /// Deals with a change of the assignment.
    pub(super) async fn change(&mut self, change: Move) -> Result<(), AppError> {
        match change {
            Move::Assigned(partitions) => {
                self.assigned.extend(partitions);
                self.adopt().await
            }
            Move::Revoked(partitions) => {
                let ids = self.tasks_of(&partitions);
                self.commit_last(&ids).await?;
                self.give_up(&partitions, &ids);
                Ok(())
            }
            Move::Lost(partitions) => {
                let ids = self.tasks_of(&partitions);
                self.give_up(&partitions, &ids);
                Ok(self.outbox.discard().await?)
            }
        }
    }

    fn tasks_of(&self, partitions: &[TopicPartition]) -> Vec<TaskId> {
        let task = |partition: &TopicPartition| {
            self.shared.task_of(self.shared.topics.id(&partition.topic)?, partition.partition)
        };
        let ids: BTreeSet<TaskId> = partitions.iter().filter_map(task).collect();
        ids.into_iter().filter(|id| self.tasks.contains_key(id)).collect()
    }

    fn give_up(&mut self, partitions: &[TopicPartition], ids: &[TaskId]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.paused.remove(partition);
        }
        for id in ids {
            if let Some(task) = self.tasks.remove(id) {
                self.gone.add(&task.counters());
                self.shared.status.lock().committed.remove(id);
            }
        }
        self.report();
    }

    /// Makes the tasks whose inputs are all here; they hold others from now on and run once restored.
    async fn adopt(&mut self) -> Result<(), AppError> {
        let partitions: Vec<TopicPartition> = self.assigned.iter().cloned().collect();
        let ids: BTreeSet<TaskId> = partitions
            .iter()
            .filter_map(|partition| {
                self.shared.task_of(self.shared.topics.id(&partition.topic)?, partition.partition)
            })
            .collect();
        let new: Vec<(TaskId, Vec<(TopicId, i32)>)> = ids
            .into_iter()
            .filter(|id| !self.tasks.contains_key(id))
            .map(|id| (id, self.shared.inputs(id)))
            .filter(|(_, inputs)| {
                inputs
                    .iter()
                    .all(|(topic, at)| self.assigned.contains(&self.shared.topics.partition(*topic, *at)))
            })
            .collect();
        let inputs = new.iter().flat_map(|(_, inputs)| inputs);
        let wanted: Vec<TopicPartition> =
            inputs.map(|(topic, at)| self.shared.topics.partition(*topic, *at)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let committed = self.consumer.committed(&wanted).await?;
        let fresh: Vec<TopicPartition> =
            wanted.iter().filter(|partition| !committed.contains_key(*partition)).cloned().collect();
        let begins = self.begins(&fresh).await?;
        for (id, inputs) in new {
            let mut starts = Vec::new();
            for (topic, at) in inputs {
                let partition = self.shared.topics.partition(topic, at);
                let known = committed.get(&partition);
                let offset = known.map(|known| known.offset).or_else(|| begins.get(&partition).copied());
                let position = Position { topic, partition: at, offset: offset.unwrap_or(0) };
                self.consumer.seek(&partition, position.offset)?;
                starts.push(Start {
                    position,
                    metadata: known.map(|known| known.metadata.clone()),
                    committed: known.is_some(),
                    pinned_end: self
                        .shared
                        .config
                        .replay_until
                        .as_ref()
                        .and_then(|ends| ends.0.get(&partition).copied()),
                });
            }
            let shared = (&self.shared.globals, Arc::clone(&self.shared.progress));
            let config = self.shared.config.task_config();
            let task = Task::new(&self.shared.topology, &self.shared.plan, id, config, shared, &starts);
            self.tasks.insert(id, task);
        }
        Ok(())
    }

    /// Where partitions begin that have no committed offset.
    async fn begins(&self, fresh: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, AppError> {
        if fresh.is_empty() {
            return Ok(Default::default());
        }
        let mut begins = self.consumer.beginning_offsets(fresh).await?;
        // A table's topic is its changelog: without its beginning the table would miss rows, until a restart restores
        // them. Repartition topics are read whole as well.
        let chosen = |partition: &TopicPartition| {
            let topic = self.shared.topics.id(&partition.topic);
            topic.is_some_and(|topic| {
                let topology = &self.shared.topology;
                topology.topic(topic).kind == TopicKind::External && !topology.is_table(topic)
            })
        };
        match &self.shared.config.start_at {
            StartAt::Beginning => {}
            StartAt::Offsets(offsets) => {
                for ((topic, partition), offset) in offsets {
                    let place = TopicPartition::new(topic.as_str(), *partition);
                    if chosen(&place) {
                        begins.entry(place).and_modify(|begin| *begin = *offset);
                    }
                }
            }
            StartAt::Time(time) => {
                let chosen = fresh.iter().filter(|partition| chosen(partition));
                let times: Vec<_> = chosen.map(|partition| (partition.clone(), *time)).collect();
                let found = self.consumer.offsets_for_times(&times).await?;
                let ends = self.consumer.end_offsets(fresh).await?;
                for (partition, at) in found {
                    let end = ends.get(&partition).copied().unwrap_or(0);
                    begins.insert(partition, at.map_or(end, |at| at.offset));
                }
            }
        }
        Ok(begins)
    }
}
