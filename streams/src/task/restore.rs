//! Filling a task's stores from their changelogs.

use super::{
    InputBatch, Task,
    machine::{Ran, RestoreUpTo, RestoreWish, Run},
};
use crate::{
    processor::{ProcessError, Source},
    store::Stores,
    topology::{Changelog, TopicId},
};
use std::{ops::Range, sync::Arc};

/// Part of a changelog on its way into a store.
pub(super) enum Restoring {
    /// Records, from this one on.
    Batch { store: usize, batch: InputBatch, at: usize },
    /// The changelog is read.
    End { store: usize },
}

/// Applies records of the changelog of a store.
fn fold(
    (changelog, store): (Changelog, usize),
    stores: &mut Stores,
    sources: &mut [(TopicId, Box<dyn Source>)],
    (batch, records): (&InputBatch, Range<usize>),
) -> Result<(), ProcessError> {
    let records = batch.records.get(records).unwrap_or_default();
    match changelog {
        Changelog::Own(_) => {
            let Some(store) = stores.any_mut(store) else { return Ok(()) };
            for record in records {
                let Some(key) = batch.key(record) else { continue };
                let restored = store.restore(key, batch.value(record), record.timestamp);
                restored.map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
            }
        }
        Changelog::Source(topic) => {
            for (_, source) in sources.iter_mut().filter(|(of, _)| *of == topic) {
                records.iter().for_each(|record| source.restore(stores, batch.view(record)));
            }
        }
    }
    Ok(())
}

impl Task {
    /// The changelogs to read, each until [`Task::restored`].
    pub(crate) fn restore_wishes(&self) -> Vec<RestoreWish> {
        let wish = |(store, changelog): (usize, &Changelog)| {
            let (topic, up_to) = match *changelog {
                Changelog::Own(topic) => (topic, RestoreUpTo::End),
                Changelog::Source(topic) => {
                    let queue = self.queues.iter().find(|queue| queue.topic == topic)?;
                    (topic, RestoreUpTo::Offset(queue.committed?))
                }
            };
            Some(RestoreWish { store, topic, partition: self.id.partition, up_to })
        };
        self.changelogs.iter().enumerate().filter_map(wish).collect()
    }

    /// Takes records of a store's changelog; [`Task::run`] applies them.
    pub(crate) fn restore(&mut self, store: usize, mut batch: InputBatch) {
        if let Some(Changelog::Source(topic)) = self.changelogs.get(store).copied() {
            batch.take_times(&self.cx, topic, &self.sources);
        }
        self.to_restore.push_back(Restoring::Batch { store, batch, at: 0 });
    }

    /// The changelog of a store is read; once all are, and applied, records may be processed.
    pub(crate) fn restored(&mut self, store: usize) {
        self.to_restore.push_back(Restoring::End { store });
    }

    /// Records of changelogs that are not applied yet.
    pub(crate) fn to_restore(&self) -> usize {
        let left = |part: &Restoring| match part {
            Restoring::Batch { batch, at, .. } => batch.len() - at,
            Restoring::End { .. } => 0,
        };
        self.to_restore.iter().map(left).sum()
    }

    /// Applies up to `limit` records of changelogs.
    pub(super) fn apply(&mut self, limit: usize) -> Result<Ran, ProcessError> {
        let mut done = 0;
        while let Some(part) = self.to_restore.front_mut().filter(|_| done < limit) {
            match part {
                Restoring::Batch { store, batch, at } => {
                    let (records, whole) = (at.saturating_add(limit - done).min(batch.len()), batch.len());
                    if let Some(changelog) = self.changelogs.get(*store) {
                        let part = (&*batch, *at..records);
                        fold((*changelog, *store), &mut self.stores, &mut self.sources, part)?;
                    }
                    done += records - *at;
                    *at = records;
                    if records < whole {
                        break;
                    }
                }
                Restoring::End { store } => {
                    self.restoring.remove(store);
                }
            }
            self.to_restore.pop_front();
        }
        let ended = if self.to_restore.is_empty() && self.is_restoring() { Run::Starved } else { Run::More };
        Ok(Ran { ended, records: done })
    }
}
