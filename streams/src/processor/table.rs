//! Operators on table changes: filter, map, and regroup by another key.

use super::{Context, Downstream, Process, ProcessError, TopicId, context::OutputHead};
use crate::{
    codec::{ChangeCodec, Codec, CodecError, Data, SharedCodec, encode_into},
    record::{Change, Headers, Record},
};
use std::sync::Arc;

/// Rows that satisfy a predicate; for a row that has ceased to, a tombstone. Where the table behind sends no old rows,
/// nobody can tell whether there was a row to delete, and the tombstone goes on.
pub(crate) struct FilterTable<P, K, V> {
    pub(crate) predicate: Arc<P>,
    /// Whether the table behind sends old rows.
    pub(crate) old_known: bool,
    pub(crate) send_old: bool,
    pub(crate) down: Downstream<K, Change<V>>,
}

impl<K: Data, V: Data, P: Fn(&K, &V) -> bool> Process<K, Change<V>> for FilterTable<P, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, Change<V>>) {
        let Record { key, value: change, timestamp, headers } = record;
        let new = change.new.filter(|value| (self.predicate)(&key, value));
        let old = change.old.filter(|value| (self.predicate)(&key, value));
        if self.old_known && old.is_none() && new.is_none() {
            return;
        }
        let old = old.filter(|_| self.send_old);
        self.down.forward(cx, Record { key, value: Change { old, new }, timestamp, headers });
    }
}

/// Rows with their values mapped.
pub(crate) struct MapTable<F, K, V> {
    pub(crate) mapper: Arc<F>,
    pub(crate) send_old: bool,
    pub(crate) down: Downstream<K, Change<V>>,
}

impl<K: Data, V1: Data, V: Data, F: Fn(&K, &V1) -> V> Process<K, Change<V1>> for MapTable<F, K, V> {
    fn process(&mut self, cx: &mut Context, record: Record<K, Change<V1>>) {
        let Record { key, value: change, timestamp, headers } = record;
        let new = change.new.map(|value| (self.mapper)(&key, &value));
        let old = change.old.filter(|_| self.send_old).map(|value| (self.mapper)(&key, &value));
        self.down.forward(cx, Record { key, value: Change { old, new }, timestamp, headers });
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
    pub(crate) scratch: (Vec<u8>, Vec<u8>),
}

impl<F, K: Data, V: Data> RegroupTable<F, K, V> {
    fn emit(&self, cx: &mut Context, key: &[u8], change: &Change<V>, timestamp: i64, headers: Headers) {
        let codec = ChangeCodec(Arc::clone(&self.values));
        let head =
            OutputHead { topic: self.topic, operator: &self.name, timestamp, headers, with_origin: true };
        cx.emit(
            head,
            |out| {
                out.extend_from_slice(key);
                Ok(true)
            },
            |out| codec.encode(change, out).map(|()| true),
        );
    }

    fn send(
        &self,
        cx: &mut Context,
        scratch: &mut (Vec<u8>, Vec<u8>),
        (old, new): (Pair<K, V>, Pair<K, V>),
        (timestamp, headers): (i64, Headers),
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
            self.emit(cx, new_key, &Change { old, new }, timestamp, headers);
            return Ok(());
        }
        if let Some(key) = old_key {
            self.emit(cx, key, &Change { old, new: None }, timestamp, headers.clone());
        }
        if let Some(key) = new_key {
            self.emit(cx, key, &Change { old: None, new }, timestamp, headers);
        }
        Ok(())
    }
}

impl<K1: Data, V1: Data, K: Data, V: Data, F> Process<K1, Change<V1>> for RegroupTable<F, K, V>
where
    F: Fn(&K1, &V1) -> (K, V),
{
    fn process(&mut self, cx: &mut Context, record: Record<K1, Change<V1>>) {
        let Record { key, value: change, timestamp, headers } = record;
        let old = change.old.map(|value| (self.mapper)(&key, &value));
        let new = change.new.map(|value| (self.mapper)(&key, &value));
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Err(source) = self.send(cx, &mut scratch, (old, new), (timestamp, headers)) {
            cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
        }
        self.scratch = scratch;
    }
}
