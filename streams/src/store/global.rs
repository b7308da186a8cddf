//! Global tables: a whole topic in every instance, shared by its workers under one lock.

use super::{Dropped, Fold, Store};
use crate::codec::{Data, SharedCodec};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// A global table: the whole topic in every instance, shared by its workers.
pub(crate) struct GlobalStore<T>(Mutex<Store<T>>);

impl<T: Data> GlobalStore<T> {
    pub(crate) fn new(name: Arc<str>, codec: SharedCodec<T>) -> GlobalStore<T> {
        GlobalStore(Mutex::new(Store::new(name, codec, false)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store<T>> {
        self.0.lock()
    }
}

/// Applies the records of a global table's topic.
pub(crate) struct GlobalWriter<K, V> {
    fold: Mutex<Fold<K, V>>,
    store: Arc<GlobalStore<V>>,
}

impl<K: Data, V: Data> GlobalWriter<K, V> {
    pub(crate) fn new(
        store: Arc<GlobalStore<V>>,
        codecs: (SharedCodec<K>, SharedCodec<V>),
    ) -> GlobalWriter<K, V> {
        GlobalWriter { fold: Mutex::new(Fold::new(codecs)), store }
    }

    pub(crate) fn apply(
        &self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
    ) -> Result<(), Dropped> {
        let mut fold = self.fold.lock();
        let (_, key, row) = fold.row(key, value, timestamp)?;
        self.store.lock().put(key, row, timestamp);
        Ok(())
    }
}
