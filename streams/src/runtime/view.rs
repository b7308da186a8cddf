//! Reading tables of a running application.
//!
//! A view is a handle: the question travels to the workers and is answered there between records, so an answer shows
//! rows as of one position per task. While a table's partitions are being restored or moved, a question waits.

use super::{QueryError, shared::Shared};
use crate::{
    codec::{CodecError, Data},
    dsl::{GlobalTable, Table},
    instance::Tasks,
    query::{self, Row, Span},
    record::{Window, Windowed},
};
use std::{
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

/// A table of a running application.
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
    /// Tasks that have the table here and are ready.
    tasks: usize,
    position: Vec<(String, i32, i64)>,
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
    pub async fn get(&self, key: impl Into<K>) -> Result<Answer<Option<Row<V>>>, QueryError> {
        let key = key.into();
        let mut encoded = Vec::new();
        self.table.codecs.0.encode(&key, &mut encoded)?;
        let table = self.table.clone();
        let answer = self.ask(
            move |tasks| Ok(tasks.values().find_map(|task| query::get(task, &table, &key, &encoded))),
            |found: &Vec<Option<Row<V>>>| found.iter().any(Option::is_some),
        );
        let Answer { value, position } = answer.await?;
        Ok(Answer { value: value.into_iter().flatten().next(), position })
    }

    /// All rows in the order of their key bytes.
    pub async fn all(&self) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        self.scan(Span::ALL, usize::MAX).await
    }

    /// The rows whose keys lie between two keys, both inclusive, in the order of their bytes, at most `limit`. The
    /// order of bytes is that of text and of unsigned numbers; negative numbers come behind positive ones.
    pub async fn range(
        &self,
        from: impl Into<K>,
        to: impl Into<K>,
        limit: usize,
    ) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        self.scan(Span::keys(&self.table.codecs.0, &from.into(), &to.into())?, limit).await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Answer<Vec<(K, Row<V>)>>, QueryError> {
        let table = self.table.clone();
        let answer = self.ask(
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

    /// Asks all workers, again while parts of the table are missing, until `enough` or the query timeout.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Tasks) -> Result<T, CodecError> + Clone + Send + 'static,
        enough: impl Fn(&Vec<T>) -> bool,
    ) -> Result<Answer<Vec<T>>, QueryError> {
        let total = self.total();
        let deadline = tokio::time::Instant::now() + self.shared.config.query_timeout;
        let mut reported = self.shared.reported.subscribe();
        loop {
            let parts = tokio::time::timeout_at(deadline, self.ask_once(&question)).await;
            let parts =
                parts.map_err(|_| QueryError::Busy { waited: self.shared.config.query_timeout })??;
            let here = parts.iter().map(|part| part.tasks).sum::<usize>();
            let (mut found, mut position) = (Vec::new(), Vec::new());
            for part in parts {
                found.push(part.found);
                position.extend(part.position);
            }
            if self.partial || here >= total || enough(&found) {
                position.sort();
                return Ok(Answer { value: found, position });
            }
            if tokio::time::Instant::now() >= deadline {
                let table = self.table.graph.name(self.table.node);
                return Err(QueryError::Incomplete { table, here, total });
            }
            let again = deadline.min(tokio::time::Instant::now() + Duration::from_millis(50));
            let _ = tokio::time::timeout_at(again, reported.changed()).await;
        }
    }

    /// Number of tasks that have the table.
    fn total(&self) -> usize {
        let parts = &self.shared.setup.topology.0.sub_topologies;
        let of_table = parts.iter().position(|part| part.nodes.contains(&self.table.node));
        of_table.map_or(0, |part| usize::try_from(self.shared.task_count(part)).unwrap_or(0))
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
                let ready = || tasks.values().filter(|task| task.has_view(view) && !task.is_restoring());
                let positions = ready().flat_map(|task| task.positions());
                let position = positions.map(|position| {
                    let topic = shared.topics.name(position.topic).to_string();
                    (topic, position.partition, position.offset)
                });
                let part = question(tasks).map(|found| Part {
                    found,
                    tasks: ready().count(),
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
        self.scan(Span::windows(&self.table.codecs.0, &key, &starts)?, usize::MAX).await
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
