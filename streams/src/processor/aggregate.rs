//! Aggregates of streams and of tables, kept in a store by encoded key.
//!
//! The event time of an aggregate is the greatest of its records; it never goes back. An aggregate stays in its store:
//! whoever is behind is shown it there.

use super::{Context, Followers, KeyBytes, Process, ProcessError};
use crate::{
    codec::{Data, Nulls, SharedCodec},
    record::Change,
    store::Store,
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// What every aggregate has.
pub(crate) struct Keyed<K, A> {
    pub(crate) name: Arc<str>,
    pub(crate) keys: KeyBytes<K>,
    pub(crate) store: Rc<RefCell<Store<A>>>,
    pub(crate) nulls: Nulls<A>,
    pub(crate) send_old: bool,
    pub(crate) down: Followers<K, A>,
}

impl<K: Data, A: Data> Keyed<K, A> {
    /// Replaces the aggregate of the record's key by what `change` makes of it, and shows it to who is behind.
    fn update<V>(
        &mut self,
        cx: &mut Context,
        (key, value): (K, V),
        change: impl FnOnce(&K, V, Option<A>, &Nulls<A>) -> Option<A>,
    ) {
        let encoded = match self.keys.of(cx, &key) {
            Ok(Some(encoded)) => encoded,
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        };
        let (row, timestamp) = self.store.borrow_mut().update(encoded, |aggregate, time| {
            if self.send_old {
                self.down.before(&key, aggregate.as_ref());
            }
            (change(&key, value, aggregate, &self.nulls), cx.timestamp.max(time))
        });
        if !self.down.is_empty() {
            let store = self.store.borrow();
            cx.at(timestamp, |cx| self.down.after(cx, key, store.value(row)));
        }
    }
}

/// Aggregates the records of a stream by key.
pub(crate) struct StreamAggregate<F, K, V, A> {
    pub(crate) keyed: Keyed<K, A>,
    /// Tells which values are nulls; `None` when the type has none.
    pub(crate) values: Option<SharedCodec<V>>,
    /// Makes the next aggregate from the one before, `None` at first.
    pub(crate) next: Arc<F>,
}

impl<F, K: Data, V: Data, A: Data> Process<K, V> for StreamAggregate<F, K, V, A>
where
    F: Fn(&K, V, Option<A>) -> A,
{
    fn process(&mut self, cx: &mut Context, key: K, value: V) {
        if self.values.as_ref().is_some_and(|codec| codec.is_null(&value)) {
            return cx.counters.null_values += 1;
        }
        let next = &self.next;
        self.keyed.update(cx, (key, value), |key, value, aggregate, _| Some(next(key, value, aggregate)));
    }
}

/// Aggregates the rows of a table: what a row was is taken away, what it is now is added.
pub(crate) struct TableAggregate<I, P, M, K, A> {
    pub(crate) keyed: Keyed<K, A>,
    pub(crate) initial: Arc<I>,
    pub(crate) add: Arc<P>,
    pub(crate) subtract: Arc<M>,
}

impl<I, P, M, K: Data, V: Data, A: Data> Process<K, Change<V>> for TableAggregate<I, P, M, K, A>
where
    I: Fn() -> A,
    P: Fn(&K, V, A) -> A,
    M: Fn(&K, V, A) -> A,
{
    fn process(&mut self, cx: &mut Context, key: K, change: Change<V>) {
        let (initial, add, subtract) = (&self.initial, &self.add, &self.subtract);
        self.keyed.update(cx, (key, change), |key, change, aggregate, nulls| {
            let rest = match (change.old, aggregate) {
                (Some(old), Some(aggregate)) => nulls.to_none(Some(subtract(key, old, aggregate))),
                (_, aggregate) => aggregate,
            };
            match change.new {
                Some(new) => Some(add(key, new, rest.unwrap_or_else(|| initial()))),
                None => rest,
            }
        });
    }
}

/// As [`TableAggregate`], but the first row is the first aggregate.
pub(crate) struct TableReduce<P, M, K, V> {
    pub(crate) keyed: Keyed<K, V>,
    pub(crate) add: Arc<P>,
    pub(crate) subtract: Arc<M>,
}

impl<P, M, K: Data, V: Data> Process<K, Change<V>> for TableReduce<P, M, K, V>
where
    P: Fn(V, V) -> V,
    M: Fn(V, V) -> V,
{
    fn process(&mut self, cx: &mut Context, key: K, change: Change<V>) {
        let (add, subtract) = (&self.add, &self.subtract);
        self.keyed.update(cx, (key, change), |_, change, aggregate, nulls| {
            let rest = match (change.old, aggregate) {
                (Some(old), Some(aggregate)) => nulls.to_none(Some(subtract(aggregate, old))),
                (_, aggregate) => aggregate,
            };
            match (change.new, rest) {
                (Some(new), Some(rest)) => Some(add(rest, new)),
                (Some(new), None) => Some(new),
                (None, rest) => rest,
            }
        });
    }
}
