//! Operators that keep nothing between records.

use super::{Context, Downstream, Process};
use crate::{
    codec::Data,
    record::{Change, Record},
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// Maps key and value.
pub(crate) struct Map<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, V1, K: Data, V: Data, F: Fn(K1, V1) -> (K, V)> Process<K1, V1> for Map<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K1, V1>) {
        let Record { key, value, timestamp, headers } = record;
        let (key, value) = (self.mapper)(key, value);
        self.down.forward(cx, Record { key, value, timestamp, headers });
    }
}

/// Maps the value.
pub(crate) struct MapValues<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<V1, K: Data, V: Data, F: Fn(&K, V1) -> V> Process<K, V1> for MapValues<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, V1>) {
        let Record { key, value, timestamp, headers } = record;
        let value = (self.mapper)(&key, value);
        self.down.forward(cx, Record { key, value, timestamp, headers });
    }
}

/// Gives records another key.
pub(crate) struct Rekey<F, K, V> {
    pub(crate) key: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K1, K: Data, V: Data, F: Fn(&K1, &V) -> K> Process<K1, V> for Rekey<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K1, V>) {
        let Record { key, value, timestamp, headers } = record;
        let key = (self.key)(&key, &value);
        self.down.forward(cx, Record { key, value, timestamp, headers });
    }
}

/// Passes records on that satisfy a predicate.
pub(crate) struct Filter<F, K, V> {
    pub(crate) predicate: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K: Data, V: Data, F: Fn(&K, &V) -> bool> Process<K, V> for Filter<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, V>) {
        if (self.predicate)(&record.key, &record.value) {
            self.down.forward(cx, record);
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
    fn process(&mut self, cx: &mut Context, record: Record<K1, V1>) {
        let Record { key, value, timestamp, headers } = record;
        for (key, value) in (self.mapper)(key, value) {
            self.down.forward(cx, Record { key, value, timestamp, headers: headers.clone() });
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
    fn process(&mut self, cx: &mut Context, record: Record<K, V1>) {
        let Record { key, value, timestamp, headers } = record;
        for value in (self.mapper)(&key, value) {
            self.down.forward(cx, Record { key: key.clone(), value, timestamp, headers: headers.clone() });
        }
    }
}

/// Shows records to a function and passes them on.
pub(crate) struct Peek<F, K, V> {
    pub(crate) look: Arc<F>,
    pub(crate) down: Downstream<K, V>,
}

impl<K: Data, V: Data, F: Fn(&Record<K, V>)> Process<K, V> for Peek<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, V>) {
        (self.look)(&record);
        self.down.forward(cx, record);
    }
}

/// A predicate of one branch.
pub(crate) type BranchPredicate<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// Sends each record to the first branch whose predicate holds; the last branch may take the rest.
pub(crate) struct Branch<K, V> {
    pub(crate) branches: Vec<(BranchPredicate<K, V>, Downstream<K, V>)>,
}

impl<K: Data, V: Data> Process<K, V> for Branch<K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, V>) {
        let branch = self.branches.iter_mut().find(|(predicate, _)| predicate(&record.key, &record.value));
        if let Some((_, down)) = branch {
            down.forward(cx, record);
        }
    }
}

/// A node with several parents.
pub(crate) struct Shared<K, V>(pub(crate) Rc<RefCell<Downstream<K, V>>>);

impl<K: Data, V: Data> Process<K, V> for Shared<K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, V>) {
        self.0.borrow_mut().forward(cx, record);
    }
}

/// The new side of table changes as a stream; a deletion is a `None`.
pub(crate) struct TableToStream<K, V>(pub(crate) Downstream<K, Option<V>>);

impl<K: Data, V: Data> Process<K, Change<V>> for TableToStream<K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, Change<V>>) {
        let Record { key, value, timestamp, headers } = record;
        self.0.forward(cx, Record { key, value: value.new, timestamp, headers });
    }
}
