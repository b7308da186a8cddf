//! A task's stores and their changelogs: how far each is applied, what is still to be read of it, and what is left of it
//! when the task goes.

use super::{
    InputBatch, Position, Task,
    machine::{Ran, Run},
};
use crate::{
    processor::{ProcessError, Source},
    safeguard::Safeguard,
    store::Stores,
    topology::{Changelog, TopicId},
};
use std::{fmt, ops::Range, sync::Arc};

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
        Changelog::Source(topic) if !Safeguard::Fold.is_out() => {
            for (_, source) in sources.iter_mut().filter(|(of, _)| *of == topic) {
                records.iter().for_each(|record| source.restore(stores, batch.view(record)));
            }
        }
        _ => {
            let Some(store) = stores.any_mut(store) else { return Ok(()) };
            for record in records {
                let Some(key) = batch.key(record) else { continue };
                let restored = store.restore(key, batch.value(record), record.timestamp);
                restored.map_err(|source| ProcessError::Store { store: Arc::clone(store.name()), source })?;
            }
        }
    }
    Ok(())
}

/// What there is of a changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangelogRange {
    pub(crate) place: (TopicId, i32),
    /// First offset that can be read.
    pub(crate) begin: i64,
    /// Offset behind the last record.
    pub(crate) end: i64,
}

/// A changelog that has to be read before the task can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestoreWish {
    pub(crate) store: usize,
    pub(crate) place: (TopicId, i32),
    /// First offset to apply.
    pub(crate) from: i64,
    /// Offset behind the last one.
    pub(crate) up_to: i64,
}

/// The changelog of a store.
#[derive(Debug)]
pub(super) struct StoreLog {
    pub(super) changelog: Changelog,
    /// What is in the store is what the changelog says below this offset, and what the task has made of it since.
    position: i64,
    /// Where restoring ends.
    up_to: i64,
    /// Rows that the commit under way writes.
    pub(super) rows_under_way: usize,
}

impl StoreLog {
    pub(super) fn new(changelog: Changelog) -> StoreLog {
        StoreLog { changelog, position: 0, up_to: 0, rows_under_way: 0 }
    }
}

/// The stores of a task that has gone. Each is what its changelog says below an offset: whoever takes it over reads on from
/// there, and finds nothing if nobody has written since.
#[derive(Default)]
pub(crate) struct TaskState {
    stores: Stores,
    /// By the number of the store.
    positions: Vec<(TopicId, i64)>,
}

impl TaskState {
    /// Says that the stores are what their changelogs say below other offsets.
    #[cfg(test)]
    pub(crate) fn claim(&mut self, offset: impl Fn(TopicId) -> i64) {
        self.positions.iter_mut().for_each(|(topic, position)| *position = offset(*topic));
    }
}

impl fmt::Debug for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskState").field("positions", &self.positions).finish_non_exhaustive()
    }
}

impl Task {
    /// Takes over what is kept of the stores, as far as its changelogs go on from where it ends. What is still to be read
    /// of them is wished for.
    pub(super) fn take_over(&mut self, changelogs: &[ChangelogRange], mut kept: Option<TaskState>) {
        for (at, log) in self.logs.iter_mut().enumerate() {
            let (Changelog::Own(topic) | Changelog::Source(topic)) = log.changelog;
            let range = changelogs.iter().find(|range| range.place == (topic, self.id.partition));
            let (begin, end) = range.map_or((0, 0), |range| (range.begin, range.end));
            log.up_to = match log.changelog {
                Changelog::Own(_) => end,
                Changelog::Source(_) => {
                    let queue = self.queues.iter().find(|queue| queue.topic == topic);
                    queue.and_then(|queue| queue.committed).map_or(begin, |committed| committed.min(end))
                }
            };
            log.position = begin;
            // Below its beginning a changelog may have said what is not in the store; and one that ends before the store
            // does is not the one that was applied.
            if let Some(TaskState { stores, positions }) = &mut kept
                && let Some((_, position)) = positions.get(at).filter(|(of, _)| *of == topic)
                && (begin..=log.up_to).contains(position)
                && self.stores.replace(at, stores)
            {
                log.position = *position;
            }
            if log.position < log.up_to {
                self.restoring.insert(at);
            }
        }
    }

    /// The stores, with where their changelogs are applied up to. The task has none then, and must go; everything that it has
    /// processed must be committed.
    pub(crate) fn leave_state(&mut self) -> TaskState {
        let is_restoring = self.is_restoring();
        debug_assert!(is_restoring || !self.has_uncommitted(), "{} is not committed", self.id);
        let position = |log: &StoreLog| match log.changelog {
            Changelog::Source(topic) if !is_restoring => {
                let queue = self.queues.iter().find(|queue| queue.topic == topic);
                (topic, queue.and_then(|queue| queue.committed).unwrap_or(log.position))
            }
            Changelog::Own(topic) | Changelog::Source(topic) => (topic, log.position),
        };
        let positions = self.logs.iter().map(position).collect();
        TaskState { stores: std::mem::take(&mut self.stores), positions }
    }

    /// The rows of the commit that has ended are in the changelogs, which end there for this task. A store is applied up to
    /// there if nobody else has written in between, else up to where that began.
    pub(crate) fn logged(&mut self, ends: &[Position]) {
        let partition = self.id.partition;
        for log in &mut self.logs {
            let rows = std::mem::take(&mut log.rows_under_way) as i64;
            let is_of =
                |end: &&Position| log.changelog == Changelog::Own(end.topic) && end.partition == partition;
            if let Some(end) = ends.iter().find(is_of)
                && end.offset - rows == log.position
            {
                log.position = end.offset;
            }
        }
    }

    /// The changelogs to read, each until [`Task::restored`].
    pub(crate) fn restore_wishes(&self) -> Vec<RestoreWish> {
        let wish = |store: &usize| {
            let log = self.logs.get(*store)?;
            let (Changelog::Own(topic) | Changelog::Source(topic)) = log.changelog;
            let place = (topic, self.id.partition);
            Some(RestoreWish { store: *store, place, from: log.position, up_to: log.up_to })
        };
        self.restoring.iter().filter_map(wish).collect()
    }

    /// Takes records of a store's changelog; [`Task::run`] applies them.
    pub(crate) fn restore(&mut self, store: usize, mut batch: InputBatch) {
        if let Some(Changelog::Source(topic)) = self.logs.get(store).map(|log| log.changelog) {
            batch.take_times(&self.cx, topic, &self.sources);
        }
        self.to_restore.push_back(Restoring::Batch { store, batch, at: 0 });
    }

    /// The changelog of a store is read; once all are, and applied, records may be processed.
    pub(crate) fn restored(&mut self, store: usize) {
        if self.restoring.contains(&store) {
            self.to_restore.push_back(Restoring::End { store });
        }
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
                    if let Some(log) = self.logs.get_mut(*store) {
                        let part = (&*batch, *at..records);
                        fold((log.changelog, *store), &mut self.stores, &mut self.sources, part)?;
                        let next = batch.records.get(records).map_or(batch.next_offset, |next| next.offset);
                        log.position = next.clamp(log.position, log.up_to);
                    }
                    done += records - *at;
                    *at = records;
                    if records < whole {
                        break;
                    }
                }
                Restoring::End { store } => {
                    if let Some(log) = self.logs.get_mut(*store) {
                        log.position = log.up_to;
                    }
                    self.restoring.remove(store);
                }
            }
            self.to_restore.pop_front();
        }
        let ended = if self.to_restore.is_empty() && self.is_restoring() { Run::Starved } else { Run::More };
        Ok(Ran { ended, records: done })
    }
}
