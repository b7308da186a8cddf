//! Aggregates of streams and of tables, kept in a store by encoded key.
//!
//! The event time of an aggregate is the greatest of its records; it never goes back. An aggregate stays in its store:
//! whoever is behind is shown it there.

use super::{Context, Followers, KeyBytes, Process, ProcessError};
use crate::{
    codec::{Data, Nulls, SharedCodec},
    record::Change,
    store::Handle,
};
use std::sync::Arc;

/// What every aggregate has.
pub(crate) struct Keyed<K, A> {
    pub(crate) name: Arc<str>,
    pub(crate) keys: KeyBytes<K>,
    pub(crate) store: Handle<A>,
    pub(crate) nulls: Nulls<A>,
    pub(crate) send_old: bool,
    pub(crate) down: Followers<K, A>,
}

impl<K: Data, A: Data> Keyed<K, A> {
    /// Lets `change` work on the aggregate of the record's key where it stands, and shows it to who is behind.
    fn update<V>(
        &mut self,
        cx: &mut Context<'_>,
        (key, value): (K, V),
        change: impl FnOnce(&K, V, &mut Option<A>, &Nulls<A>),
    ) {
        let encoded = match self.keys.of(cx, &key) {
            Ok(Some(encoded)) => encoded,
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        };
        let (row, timestamp) = cx.stores.get_mut(self.store).modify(encoded, |aggregate, time| {
            if self.send_old {
                self.down.before(&key, aggregate.as_ref());
            }
            change(&key, value, aggregate, &self.nulls);
            cx.timestamp.max(time)
        });
        if !self.down.is_empty() {
            let store = cx.stores.get(self.store);
            cx.at(timestamp, |cx| self.down.after(cx, key, store.value(row)));
        }
    }
}

/// Aggregates the records of a stream by key.
pub(crate) struct StreamAggregate<F, K, V, A> {
    pub(crate) keyed: Keyed<K, A>,
    /// Tells which values are nulls; `None` when the type has none.
    pub(crate) values: Option<SharedCodec<V>>,
    /// Makes the aggregate, `None` at first, the next one.
    pub(crate) next: Arc<F>,
}

impl<F, K: Data, V: Data, A: Data> Process<K, V> for StreamAggregate<F, K, V, A>
where
    F: Fn(&K, V, &mut Option<A>),
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        if self.values.as_ref().is_some_and(|codec| codec.is_null(&value)) {
            return cx.counters.null_values += 1;
        }
        let next = &self.next;
        self.keyed.update(cx, (key, value), |key, value, aggregate, _| next(key, value, aggregate));
    }
}

/// Aggregates the rows of a table: what a row was is taken away, what it is now is added. Also where the first row is the
/// first aggregate.
pub(crate) struct TableAggregate<P, M, K, A> {
    pub(crate) keyed: Keyed<K, A>,
    /// Adds a row to an aggregate, which is `None` at first.
    pub(crate) add: Arc<P>,
    /// Takes a row away from an aggregate that is there.
    pub(crate) subtract: Arc<M>,
}

impl<P, M, K: Data, V: Data, A: Data> Process<K, Change<V>> for TableAggregate<P, M, K, A>
where
    P: Fn(&K, V, &mut Option<A>),
    M: Fn(&K, V, &mut Option<A>),
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, change: Change<V>) {
        let (add, subtract) = (&self.add, &self.subtract);
        self.keyed.update(cx, (key, change), |key, change, aggregate, nulls| {
            if let Some(old) = change.old
                && aggregate.is_some()
            {
                subtract(key, old, aggregate);
                if aggregate.as_ref().is_some_and(|rest| nulls.is_null(rest)) {
                    *aggregate = None;
                }
            }
            if let Some(new) = change.new {
                add(key, new, aggregate);
            }
        });
    }
}
