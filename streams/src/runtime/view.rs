//! Reading tables of a running application.
//!
//! A view is a handle: the question travels to the workers and is answered there between records, so an answer shows
//! rows as of one position per task. While a table's partitions are being restored or moved, a question waits. What another
//! instance has is not waited for: the error says who has it.

use super::{
    QueryError,
    owners::{Address, Holder, Member},
    shared::Shared,
};
use crate::{
    codec::{CodecError, Data},
    dsl::{GlobalTable, Table},
    instance::Tasks,
    query::{self, Row, Span},
    record::{Window, Windowed},
    task::TaskId,
};
use kappa_protocol::record::partition_for_key;
use std::{
    collections::BTreeSet,
    fmt,
    ops::{Bound, Deref, RangeInclusive},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// A value, and the input offsets it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// Per input topic and partition of the table's operators, the offset of the next record that will be applied.
    pub position: Vec<(String, i32, i64)>,
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Who has the part of a table that a key belongs to, as far as this instance has heard from the group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// This instance; while it restores that part, a query waits for it.
    Here,
    /// Another instance.
    Elsewhere {
        /// Where it can be asked, if it has said so ([`Config::advertised`](super::Config::advertised)).
        address: Option<Arc<str>>,
        /// Its id as a member of the group.
        member: Arc<str>,
    },
    /// Nobody for now: the group gives out its tasks, or this instance has not heard from it yet.
    Moving,
    /// The key does not tell: the table's keys have other bytes than those of the topics that it comes from, or these topics
    /// differ in their numbers of partitions.
    Unknown,
}

/// A table of a running application.
///
/// A key belongs to the partition that Kafka's default partitioner gives it. Where others have put records of a source
/// elsewhere, by a partitioner of their own or by other bytes for the same key, its row is found where it is and taken for
/// absent by the instance that should have it: repartition such a source.
pub struct View<K, V> {
    shared: Arc<Shared>,
    table: Table<K, V>,
    partial: bool,
}

impl<K, V> fmt::Debug for View<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<K, V> Clone for View<K, V> {
    fn clone(&self) -> Self {
        View { shared: Arc::clone(&self.shared), table: self.table.clone(), partial: self.partial }
    }
}

/// One worker's part of an answer.
struct Part<T> {
    found: T,
    /// Partitions of the table that are here and ready.
    ready: Vec<i32>,
    position: Vec<(String, i32, i64)>,
}

/// What all workers have answered.
struct Gathered<T> {
    found: Vec<T>,
    ready: BTreeSet<i32>,
    position: Vec<(String, i32, i64)>,
    /// Whether two have answered for one partition: it has moved from one to the other meanwhile.
    is_moving: bool,
}

fn gather<T>(parts: Vec<Part<T>>) -> Gathered<T> {
    let mut all =
        Gathered { found: Vec::new(), ready: BTreeSet::new(), position: Vec::new(), is_moving: false };
    for part in parts {
        all.found.push(part.found);
        for partition in part.ready {
            all.is_moving |= !all.ready.insert(partition);
        }
        all.position.extend(part.position);
    }
    all.position.sort();
    all
}

impl<K: Data, V: Data> View<K, V> {
    pub(super) fn new(shared: Arc<Shared>, table: &Table<K, V>) -> View<K, V> {
        View { shared, table: table.clone(), partial: false }
    }

    /// Answers from what is here, even where other instances have part of the table or it is being restored.
    #[must_use]
    pub fn partial(self) -> View<K, V> {
        View { partial: true, ..self }
    }

    /// The row of a key.
    ///
    /// # Errors
    /// [`QueryError::Elsewhere`], at once, if another instance has the key's partition; [`QueryError::Incomplete`] if it is
    /// restored or moved for longer than [`Config::query_timeout`](super::Config::query_timeout).
    pub async fn get(&self, key: impl Into<K>) -> Result<Answer<Option<Row<V>>>, QueryError> {
        let key = key.into();
        let mut encoded = Vec::new();
        self.table.codecs.0.encode(&key, &mut encoded)?;
        let table = self.table.clone();
        let answer = self.ask(
            self.partition_of(&encoded),
            move |tasks| Ok(tasks.values().find_map(|task| query::get(task, &table, &key, &encoded))),
            |found: &Vec<Option<Row<V>>>| found.iter().any(Option::is_some),
        );
        let Answer { value, position } = answer.await?;
        Ok(Answer { value: value.into_iter().flatten().next(), position })
    }

    /// Who has the row of a key, if there is one. A windowed table has all windows of a key in one place, so any window will do.
    ///
    /// # Errors
    /// If the key cannot be encoded, or the application has stopped.
    pub fn owner_of(&self, key: impl Into<K>) -> Result<Owner, QueryError> {
        let mut encoded = Vec::new();
        self.table.codecs.0.encode(&key.into(), &mut encoded)?;
        if *self.shared.closing.borrow() {
            return Err(QueryError::Stopped);
        }
        let task = self.partition_of(&encoded).and_then(|partition| self.task(partition));
        let Some(task) = task else { return Ok(Owner::Unknown) };
        Ok(match self.shared.owners.holder(task) {
            Holder::Here => Owner::Here,
            Holder::Elsewhere(Member { id, address }) => Owner::Elsewhere { address, member: id },
            Holder::Unsettled => Owner::Moving,
        })
    }

    /// The partition that a key belongs to, if it tells.
    fn partition_of(&self, encoded: &[u8]) -> Option<i32> {
        let codec = &self.table.codecs.0;
        let key = codec.partitioned_by(encoded);
        let has_window = key.len() < encoded.len();
        let topology = &self.shared.setup.topology;
        let mut topics = topology.placed_by(self.table.node, &codec.describe(), has_window)?.into_iter();
        let count = self.shared.partitions(topics.next()?);
        let is_one = topics.all(|topic| self.shared.partitions(topic) == count);
        (is_one && count > 0).then(|| partition_for_key(key, count))
    }

    /// All rows in the order of their key bytes.
    pub async fn all(&self) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        self.scan(None, Span::ALL, usize::MAX).await
    }

    /// The rows whose keys lie between two keys, both inclusive, in the order of their bytes, at most `limit`. The
    /// order of bytes is that of text and of unsigned numbers; negative numbers come behind positive ones.
    pub async fn range(
        &self,
        from: impl Into<K>,
        to: impl Into<K>,
        limit: usize,
    ) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        self.scan(None, Span::keys(&self.table.codecs.0, &from.into(), &to.into())?, limit).await
    }

    /// The rows of a span, all of which are in one partition if that is given.
    async fn scan(
        &self,
        partition: Option<i32>,
        span: Span,
        limit: usize,
    ) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        let table = self.table.clone();
        let answer = self.ask(
            partition,
            move |tasks| {
                let mut rows: query::Scanned<K, V> = Vec::new();
                for task in tasks.values() {
                    rows.extend(query::scan(task, &table, &span, limit)?);
                }
                Ok(rows)
            },
            |_| false,
        );
        let Answer { value, position } = answer.await?;
        let mut rows = query::merge(value.into_iter().flatten().collect());
        rows.truncate(limit);
        Ok(Answer { value: rows, position })
    }

    /// Asks all workers, again while parts of the table are missing, until `enough` or the query timeout, or until what is
    /// missing is known to be elsewhere. An answer may be in one partition only, if that is given, else in any.
    async fn ask<T: Send + 'static>(
        &self,
        partition: Option<i32>,
        question: impl Fn(&Tasks) -> Result<T, CodecError> + Clone + Send + 'static,
        enough: impl Fn(&Vec<T>) -> bool,
    ) -> Result<Answer<Vec<T>>, QueryError> {
        let wanted = partition.map_or(0..self.total(), |partition| partition..partition + 1);
        let waited = self.shared.config.query_timeout;
        let deadline = tokio::time::Instant::now() + waited;
        let mut reported = self.shared.reported.subscribe();
        loop {
            let parts = tokio::time::timeout_at(deadline, self.ask_once(&question)).await;
            let parts = parts.map_err(|_| QueryError::Busy { waited })??;
            let Gathered { found, ready, position, is_moving } = gather(parts);
            let missing: Vec<i32> = wanted.clone().filter(|partition| !ready.contains(partition)).collect();
            let is_whole = missing.is_empty() && !is_moving;
            if self.partial && !is_moving || is_whole || enough(&found) {
                return Ok(Answer { value: found, position });
            }
            let table = self.table.graph.name(self.table.node);
            let partitions = self.elsewhere(&missing);
            if !partitions.is_empty() {
                return Err(QueryError::Elsewhere { table, partitions });
            }
            if tokio::time::Instant::now() >= deadline {
                if is_moving {
                    return Err(QueryError::Busy { waited });
                }
                let total = wanted.len();
                return Err(QueryError::Incomplete { table, here: total - missing.len(), total, waited });
            }
            let again = deadline.min(tokio::time::Instant::now() + Duration::from_millis(50));
            let _ = tokio::time::timeout_at(again, reported.changed()).await;
        }
    }

    /// Partitions that other instances have, each with the address of its instance.
    fn elsewhere(&self, partitions: &[i32]) -> Vec<(i32, Address)> {
        let holder = |partition: &i32| match self.shared.owners.holder(self.task(*partition)?) {
            Holder::Elsewhere(member) => Some((*partition, member.address)),
            Holder::Here | Holder::Unsettled => None,
        };
        partitions.iter().filter_map(holder).collect()
    }

    /// The task that has a partition of the table.
    fn task(&self, partition: i32) -> Option<TaskId> {
        let parts = &self.shared.setup.topology.0.sub_topologies;
        let sub_topology = parts.iter().position(|part| part.nodes.contains(&self.table.node))?;
        Some(TaskId { sub_topology, partition })
    }

    /// Number of tasks that have the table.
    fn total(&self) -> i32 {
        self.task(0).map_or(0, |task| self.shared.task_count(task.sub_topology))
    }

    async fn ask_once<T: Send + 'static>(
        &self,
        question: &(impl Fn(&Tasks) -> Result<T, CodecError> + Clone + Send + 'static),
    ) -> Result<Vec<Part<T>>, QueryError> {
        let view = self.table.view;
        let mut answers = Vec::new();
        for worker in self.shared.workers.asks()? {
            let (answer, answered) = oneshot::channel();
            let (question, shared) = (question.clone(), Arc::clone(&self.shared));
            let ask = Box::new(move |tasks: &Tasks| {
                let ready = || tasks.iter().filter(|(_, task)| task.has_view(view) && !task.is_restoring());
                let positions = ready().flat_map(|(_, task)| task.positions());
                let position = positions.map(|position| {
                    let topic = shared.topics.name(position.topic).to_string();
                    (topic, position.partition, position.offset)
                });
                let part = question(tasks).map(|found| Part {
                    found,
                    ready: ready().map(|(id, _)| id.partition).collect(),
                    position: position.collect(),
                });
                // Whoever asked may have given up.
                let _ = answer.send(part);
            });
            // One that has left has no tasks any more.
            match worker.send(ask).await {
                Ok(()) => answers.push(answered),
                Err(_) => self.shared.may_be_asked()?,
            }
        }
        let mut parts = Vec::new();
        for answered in answers {
            match answered.await {
                Ok(part) => parts.push(part?),
                Err(_) => self.shared.may_be_asked()?,
            }
        }
        Ok(parts)
    }
}

impl<K: Data, V: Data> View<Windowed<K>, V> {
    /// The windows of a key whose start lies in `starts` (milliseconds, both inclusive), earliest first.
    pub async fn windows(
        &self,
        key: impl Into<K>,
        starts: RangeInclusive<i64>,
    ) -> Result<Answer<Vec<(Windowed<K>, Row<V>)>>, QueryError> {
        let key = Windowed { key: key.into(), window: Window { start: 0, end: 0 } };
        let codec = &self.table.codecs.0;
        let mut encoded = Vec::new();
        codec.encode(&key, &mut encoded)?;
        self.scan(self.partition_of(&encoded), Span::windows(codec, &key, &starts)?, usize::MAX).await
    }
}

/// A global table of a running application.
pub struct GlobalView<K, V> {
    shared: Arc<Shared>,
    table: GlobalTable<K, V>,
}

impl<K, V> fmt::Debug for GlobalView<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalView").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<K: Data, V: Data> GlobalView<K, V> {
    pub(super) fn new(shared: Arc<Shared>, table: &GlobalTable<K, V>) -> GlobalView<K, V> {
        GlobalView { shared, table: table.clone() }
    }

    /// The row of a key.
    pub fn get(&self, key: impl Into<K>) -> Result<Option<Row<V>>, QueryError> {
        let mut encoded = Vec::new();
        self.table.key.encode(&key.into(), &mut encoded)?;
        let store = self.shared.setup.globals.store::<V>(self.table.index);
        let store = store.lock();
        Ok(store.get(&encoded).map(|(value, timestamp)| Row { value: value.clone(), timestamp }))
    }

    /// All rows in the order of their key bytes.
    pub fn all(&self) -> Result<Vec<(K, Row<V>)>, QueryError> {
        let store = self.shared.setup.globals.store::<V>(self.table.index);
        let (mut rows, mut failure) = (Vec::new(), None);
        store.lock().range((Bound::Unbounded, Bound::Unbounded), &mut |key, value, timestamp| {
            match self.table.key.decode(key) {
                Ok(key) => rows.push((key, Row { value: value.clone(), timestamp })),
                Err(error) => failure = Some(error),
            }
            failure.is_none()
        });
        failure.map_or(Ok(rows), |error| Err(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_of_which_two_have_rows_is_asked_for_again() {
        let part = |ready: &[i32]| Part { found: (), ready: ready.to_vec(), position: Vec::new() };
        let apart = gather(vec![part(&[0, 2]), part(&[1])]);
        assert_eq!((apart.ready.into_iter().collect::<Vec<_>>(), apart.is_moving), (vec![0, 1, 2], false));
        assert!(gather(vec![part(&[0, 2]), part(&[1, 2])]).is_moving);
    }
}
