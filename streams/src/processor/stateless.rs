//! Operators that keep nothing between records.

use super::{Context, Downstream, Fallible, Process};
use crate::{
    codec::Data,
    record::{Headers, Record},
};
use std::sync::Arc;

/// Maps key and value.
pub(crate) struct Map<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, V1, K: Data, V: Data, F: Fn(K1, V1) -> (K, V)> Process<K1, V1> for Map<F, K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V1) {
        let (key, value) = (self.mapper)(key, value);
        self.down.forward(cx, key, value);
    }
}

/// Maps the value.
pub(crate) struct MapValues<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<V1, K: Data, V: Data, F: Fn(&K, V1) -> V> Process<K, V1> for MapValues<F, K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V1) {
        let value = (self.mapper)(&key, value);
        self.down.forward(cx, key, value);
    }
}

/// Gives records another key.
pub(crate) struct Rekey<F, K, V> {
    pub(crate) key: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, K: Data, V: Data, F: Fn(&K1, &V) -> K> Process<K1, V> for Rekey<F, K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V) {
        let key = (self.key)(&key, &value);
        self.down.forward(cx, key, value);
    }
}

/// Passes records on that satisfy a predicate.
pub(crate) struct Filter<F, K, V> {
    pub(crate) predicate: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K: Data, V: Data, F: Fn(&K, &V) -> bool> Process<K, V> for Filter<F, K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        if (self.predicate)(&key, &value) {
            self.down.forward(cx, key, value);
        }
    }
}

/// Turns one record into any number.
pub(crate) struct FlatMap<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, V1, K: Data, V: Data, I, F> Process<K1, V1> for FlatMap<F, K, V>
where
    I: IntoIterator<Item = (K, V)>,
    F: Fn(K1, V1) -> I,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V1) {
        for (key, value) in (self.mapper)(key, value) {
            self.down.forward(cx, key, value);
        }
    }
}

/// Turns one value into any number under the same key.
pub(crate) struct FlatMapValues<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<V1, K: Data, V: Data, I, F> Process<K, V1> for FlatMapValues<F, K, V>
where
    I: IntoIterator<Item = V>,
    F: Fn(&K, V1) -> I,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V1) {
        let values = (self.mapper)(&key, value);
        spread(cx, key, values, &mut self.down);
    }
}

/// Passes any number of values on under one key.
pub(crate) fn spread<K: Data, V: Data>(
    cx: &mut Context<'_>,
    key: K,
    values: impl IntoIterator<Item = V>,
    down: &mut Downstream<K, V>,
) {
    let mut values = values.into_iter();
    let Some(mut value) = values.next() else { return };
    // The last value takes the key without a copy.
    for next in values {
        down.forward(cx, key.clone(), std::mem::replace(&mut value, next));
    }
    down.forward(cx, key, value);
}

/// Shows records to a function and passes them on.
pub(crate) struct Peek<F, K, V> {
    pub(crate) look: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K: Data, V: Data, F: Fn(&Record<K, V>)> Process<K, V> for Peek<F, K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        // Most records have no headers, and then nothing is to be given back.
        let headers = if cx.headers.is_empty() { Headers::NONE } else { std::mem::take(&mut cx.headers) };
        let record = Record { key, value, timestamp: cx.timestamp, headers };
        (self.look)(&record);
        let Record { key, value, headers, .. } = record;
        if !headers.is_empty() {
            cx.headers = headers;
        }
        self.down.forward(cx, key, value);
    }
}

/// Any of these operators where its function also sees the metadata of the record, or may fail.
pub(crate) struct Step<F, K, V> {
    pub(crate) step: Arc<F>,
    pub(crate) at: Fallible,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, V1, K: Data, V: Data, F> Process<K1, V1> for Step<F, K, V>
where
    F: Fn(&mut Context<'_>, &Fallible, K1, V1, &mut Downstream<K, V>),
{
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V1) {
        (self.step)(cx, &self.at, key, value, &mut self.down);
    }
}

/// A predicate of one branch.
pub(crate) type BranchPredicate<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// Sends each record to the first branch whose predicate holds; the last branch may take the rest.
pub(crate) struct Branch<K, V> {
    pub(crate) branches: Vec<(BranchPredicate<K, V>, Downstream<K, V>)>,
}

impl<K: Data, V: Data> Process<K, V> for Branch<K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        let branch = self.branches.iter_mut().find(|(predicate, _)| predicate(&key, &value));
        if let Some((_, down)) = branch {
            down.forward(cx, key, value);
        }
    }
}
