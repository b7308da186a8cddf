//! Filling a task's stores from their changelogs.

use super::{
    InputBatch, Task,
    machine::{Ran, RestoreUpTo, RestoreWish, Run},
};
use crate::{
    processor::{ProcessError, Source},
    safeguard::Safeguard,
    store::StoreHandle,
    topology::{Changelog, TopicId},
};
use std::{cell::RefCell, ops::Range, rc::Rc, sync::Arc};

/// Part of a changelog on its way into a store.
pub(super) enum Restoring {
    /// Records, from this one on.
    Batch { store: usize, batch: InputBatch, at: usize },
    /// The changelog is read.
    End { store: usize },
}

pub(super) struct StoreSlot {
    pub(super) changelog: Changelog,
    pub(super) store: Rc<RefCell<dyn StoreHandle>>,
}

impl StoreSlot {
    /// Applies changelog records.
    fn apply(
        &self,
        sources: &mut [(TopicId, Box<dyn Source>)],
        batch: &InputBatch,
        records: Range<usize>,
    ) -> Result<(), ProcessError> {
        let records = batch.records.get(records).unwrap_or_default();
        match self.changelog {
            Changelog::Source(topic) if !Safeguard::Fold.is_out() => {
                for (_, source) in sources.iter_mut().filter(|(of, _)| *of == topic) {
                    records.iter().for_each(|record| source.restore(batch.view(record)));
                }
            }
            _ => {
                let mut store = self.store.borrow_mut();
                for record in records {
                    let Some(key) = batch.key(record) else { continue };
                    let restored = store.restore(key, batch.value(record), record.timestamp);
                    restored
                        .map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
                }
            }
        }
        Ok(())
    }
}

impl Task {
    /// The changelogs to read, each until [`Task::restored`].
    pub(crate) fn restore_wishes(&self) -> Vec<RestoreWish> {
        let wish = |(store, slot): (usize, &StoreSlot)| {
            let (topic, up_to) = match slot.changelog {
                Changelog::Own(topic) => (topic, RestoreUpTo::End),
                Changelog::Source(topic) => {
                    let queue = self.queues.iter().find(|queue| queue.topic == topic)?;
                    (topic, RestoreUpTo::Offset(queue.committed?))
                }
            };
            Some(RestoreWish { store, topic, partition: self.id.partition, up_to })
        };
        self.stores.iter().enumerate().filter_map(wish).collect()
    }

    /// Takes records of a store's changelog; [`Task::run`] applies them.
    pub(crate) fn restore(&mut self, store: usize, mut batch: InputBatch) {
        if let Some(Changelog::Source(topic)) = self.stores.get(store).map(|slot| slot.changelog) {
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
                    if let Some(slot) = self.stores.get(*store) {
                        slot.apply(&mut self.sources, batch, *at..records)?;
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
