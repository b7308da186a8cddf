//! Operators behind tables: filter, map, regroup by another key, and the changes as a stream.
//!
//! What an operator has to know of a row before a change it finds out while the row is still there, so that nobody
//! keeps copies of rows.

use super::{Context, Downstream, Follow, Followers, ProcessError, TopicId, context::OutputHead};
use crate::{
    codec::{ChangeCodec, Codec, CodecError, Data, SharedCodec, encode_into},
    record::Change,
};
use std::sync::Arc;

/// Rows that satisfy a predicate; for a row that has ceased to, a tombstone. Where the table behind sends no old rows,
/// nobody can tell whether there was a row to delete, and the tombstone goes on.
pub(crate) struct FilterTable<P, K, V> {
    pub(crate) predicate: Arc<P>,
    /// Whether the table behind sends old rows.
    pub(crate) old_known: bool,
    pub(crate) send_old: bool,
    /// Whether the row that is changing satisfied the predicate.
    pub(crate) passed: bool,
    pub(crate) down: Followers<K, V>,
}

impl<K: Data, V: Data, P: Fn(&K, &V) -> bool> Follow<K, V> for FilterTable<P, K, V> {
    fn before(&mut self, key: &K, old: Option<&V>) {
        let old = old.filter(|value| (self.predicate)(key, value));
        self.passed = old.is_some();
        if self.send_old {
            self.down.before(key, old);
        }
    }

    fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V>) {
        let new = new.filter(|value| (self.predicate)(&key, value));
        if self.old_known && !self.passed && new.is_none() {
            return;
        }
        self.down.after(cx, key, new);
    }
}

/// Rows with their values mapped.
pub(crate) struct MapTable<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) send_old: bool,
    pub(crate) down: Followers<K, V>,
}

impl<K: Data, V1: Data, V: Data, F: Fn(&K, &V1) -> V> Follow<K, V1> for MapTable<F, K, V> {
    fn before(&mut self, key: &K, old: Option<&V1>) {
        if self.send_old {
            let old = old.map(|value| (self.mapper)(key, value));
            self.down.before(key, old.as_ref());
        }
    }

    fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V1>) {
        let new = new.map(|value| (self.mapper)(&key, value));
        self.down.after(cx, key, new.as_ref());
    }
}

/// The new side of table changes as a stream; a deletion is a `None`.
pub(crate) struct TableToStream<K, V>(pub(crate) Downstream<K, Option<V>>);

impl<K: Data, V: Data> Follow<K, V> for TableToStream<K, V> {
    fn before(&mut self, _: &K, _: Option<&V>) {}

    fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V>) {
        if !self.0.is_empty() {
            self.0.forward(cx, key, new.cloned());
        }
    }
}

/// A row under the key that it is grouped by, if there is one.
type Pair<K, V> = Option<(K, V)>;

/// Sends each change to the repartition topic under the keys that its rows are grouped by.
pub(crate) struct RegroupTable<F, K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) topic: TopicId,
    pub(crate) mapper: Arc<F>,
    pub(crate) keys: SharedCodec<K>,
    pub(crate) values: SharedCodec<V>,
    pub(crate) changes: ChangeCodec<V>,
    /// What the row that is changing was grouped as.
    pub(crate) old: Pair<K, V>,
    pub(crate) scratch: (Vec<u8>, Vec<u8>),
}

impl<F, K: Data, V: Data> RegroupTable<F, K, V> {
    /// Sends nothing for what has no group.
    pub(crate) fn new(
        (name, topic): (Arc<str>, TopicId),
        mapper: Arc<F>,
        (keys, values): (SharedCodec<K>, SharedCodec<V>),
    ) -> RegroupTable<F, K, V> {
        let changes = ChangeCodec(Arc::clone(&values));
        RegroupTable { name, topic, mapper, keys, values, changes, old: None, scratch: Default::default() }
    }

    fn emit(&self, cx: &mut Context<'_>, key: &[u8], change: &Change<V>) {
        let head = OutputHead { topic: self.topic, operator: &self.name, with_writer: true };
        cx.emit(
            head,
            |out| {
                out.extend_from_slice(key);
                Ok(true)
            },
            |out| self.changes.encode(change, out).map(|()| true),
        );
    }

    fn send(
        &self,
        cx: &mut Context<'_>,
        scratch: &mut (Vec<u8>, Vec<u8>),
        (old, new): (Pair<K, V>, Pair<K, V>),
    ) -> Result<(), CodecError> {
        let old = old.filter(|(_, value)| !self.values.is_null(value));
        let new = new.filter(|(_, value)| !self.values.is_null(value));
        let (old_key, old) = match old {
            Some((key, value)) => (encode_into(&*self.keys, &key, &mut scratch.0)?, Some(value)),
            None => (None, None),
        };
        let (new_key, new) = match new {
            Some((key, value)) => (encode_into(&*self.keys, &key, &mut scratch.1)?, Some(value)),
            None => (None, None),
        };
        if let (Some(old_key), Some(new_key)) = (old_key, new_key)
            && old_key == new_key
        {
            self.emit(cx, new_key, &Change { old, new });
            return Ok(());
        }
        if let Some(key) = old_key {
            self.emit(cx, key, &Change { old, new: None });
        }
        if let Some(key) = new_key {
            self.emit(cx, key, &Change { old: None, new });
        }
        Ok(())
    }
}

impl<K1: Data, V1: Data, K: Data, V: Data, F> Follow<K1, V1> for RegroupTable<F, K, V>
where
    F: Fn(&K1, &V1) -> (K, V),
{
    fn before(&mut self, key: &K1, old: Option<&V1>) {
        self.old = old.map(|value| (self.mapper)(key, value));
    }

    fn after(&mut self, cx: &mut Context<'_>, key: K1, new: Option<&V1>) {
        let old = self.old.take();
        let new = new.map(|value| (self.mapper)(&key, value));
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Err(source) = self.send(cx, &mut scratch, (old, new)) {
            cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
        }
        self.scratch = scratch;
    }
}
