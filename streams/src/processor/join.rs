//! Joins of a stream with a table: the stream's records trigger, the table is looked up.

use super::{Context, Downstream, KeyBytes, Process, ProcessError};
use crate::{
    codec::{Data, SharedCodec, encode_into},
    store::{GlobalStore, TableLookup},
};
use std::sync::Arc;

/// Whether a record without a counterpart passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
}

/// Joins with a table of the same partitioning.
pub(crate) struct TableJoin<F, K, V, T, R> {
    pub(crate) name: Arc<str>,
    pub(crate) kind: JoinKind,
    pub(crate) keys: KeyBytes<K>,
    /// Tells which values are nulls; `None` when the type has none.
    pub(crate) values: Option<SharedCodec<V>>,
    pub(crate) table: TableLookup<K, T>,
    pub(crate) joiner: Arc<F>,
    pub(crate) down: Downstream<K, R>,
}

impl<F, K: Data, V: Data, T: Data, R: Data> Process<K, V> for TableJoin<F, K, V, T, R>
where
    F: Fn(&K, V, Option<&T>) -> Option<R>,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        if self.values.as_ref().is_some_and(|codec| codec.is_null(&value)) {
            return cx.counters.null_values += 1;
        }
        let mut value = Some(value);
        let mut joined = None;
        let mut join = |row: Option<&T>| {
            if (row.is_some() || self.kind == JoinKind::Left)
                && let Some(value) = value.take()
            {
                joined = (self.joiner)(&key, value, row);
            }
        };
        match self.keys.of(cx, &key) {
            Ok(Some(encoded)) => {
                self.table.with(cx.stores, (&key, encoded), &mut |row| join(row.map(|(row, _)| row)))
            }
            Ok(None) if self.kind == JoinKind::Left => join(None),
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        }
        if let Some(joined) = joined {
            self.down.forward(cx, key, joined);
        }
    }
}

/// Joins with a global table, by a key taken from the record.
pub(crate) struct GlobalJoin<M, F, K, V, G, T, R> {
    pub(crate) name: Arc<str>,
    pub(crate) kind: JoinKind,
    /// Tells which keys are nulls; `None` when the type has none.
    pub(crate) keys: Option<SharedCodec<K>>,
    /// Tells which values are nulls; `None` when the type has none.
    pub(crate) values: Option<SharedCodec<V>>,
    pub(crate) global_keys: SharedCodec<G>,
    pub(crate) global: Arc<GlobalStore<T>>,
    pub(crate) mapper: Arc<M>,
    pub(crate) joiner: Arc<F>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) down: Downstream<K, R>,
}

impl<M, F, K: Data, V: Data, G: Data, T: Data, R: Data> Process<K, V> for GlobalJoin<M, F, K, V, G, T, R>
where
    M: Fn(&K, &V) -> Option<G>,
    F: Fn(&K, V, Option<&T>) -> Option<R>,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        if self.values.as_ref().is_some_and(|codec| codec.is_null(&value)) {
            return cx.counters.null_values += 1;
        }
        let mapped = (self.mapper)(&key, &value);
        let encoded = match &mapped {
            Some(mapped) => encode_into(&*self.global_keys, mapped, &mut self.scratch),
            None => Ok(None),
        };
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        };
        // Kafka Streams lets a left join pass without a mapped key only if the record has no key either.
        let keyless = || self.keys.as_ref().is_some_and(|codec| codec.is_null(&key));
        if encoded.is_none() && !(self.kind == JoinKind::Left && keyless()) {
            return cx.counters.null_keys += 1;
        }
        let global = self.global.lock();
        let row = encoded.and_then(|encoded| global.get(encoded)).map(|(row, _)| row);
        if row.is_none() && self.kind == JoinKind::Inner {
            return;
        }
        let joined = (self.joiner)(&key, value, row);
        drop(global);
        if let Some(joined) = joined {
            self.down.forward(cx, key, joined);
        }
    }
}
