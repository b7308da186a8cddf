//! Reading a table's current rows, whether it is stored or computed from a stored one.
//!
//! A filtered or mapped table keeps no rows: its lookup asks the table behind it and applies the function
//! again. Joins and queries read tables through this trait only.

use super::Store;
use crate::codec::{Data, SharedCodec};
use std::{cell::RefCell, marker::PhantomData, ops::Bound, rc::Rc, sync::Arc};

/// A row and its event time, if there is one.
pub(crate) type RowRef<'a, V> = Option<(&'a V, i64)>;

/// Reads rows of a table. Keys come both typed and encoded, so that neither has to be made twice.
pub(crate) trait Lookup<K, V> {
    /// Calls `read` with the row of a key, or with `None`.
    fn with(&self, key: &K, encoded: &[u8], read: &mut dyn FnMut(RowRef<'_, V>));

    /// Visits rows in key-byte order until `visit` says no.
    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool);
}

/// A lookup as tasks share it.
pub(crate) type SharedLookup<K, V> = Rc<dyn Lookup<K, V>>;

/// Rows of a store.
pub(crate) struct StoreLookup<V>(pub(crate) Rc<RefCell<Store<V>>>);

impl<K, V: Data> Lookup<K, V> for StoreLookup<V> {
    fn with(&self, _key: &K, encoded: &[u8], read: &mut dyn FnMut(RowRef<'_, V>)) {
        read(self.0.borrow().get(encoded));
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool) {
        self.0.borrow().range(from, to, visit);
    }
}

/// Rows of another table that pass a predicate.
pub(crate) struct FilteredLookup<K, V, P> {
    pub(crate) inner: SharedLookup<K, V>,
    pub(crate) key: SharedCodec<K>,
    pub(crate) predicate: Arc<P>,
}

impl<K: Data, V: Data, P: Fn(&K, &V) -> bool> Lookup<K, V> for FilteredLookup<K, V, P> {
    fn with(&self, key: &K, encoded: &[u8], read: &mut dyn FnMut(RowRef<'_, V>)) {
        self.inner.with(key, encoded, &mut |row| read(row.filter(|(value, _)| (self.predicate)(key, value))));
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool) {
        self.inner.range(from, to, &mut |encoded, value, timestamp| {
            let passes = self.key.decode(encoded).is_ok_and(|key| (self.predicate)(&key, value));
            !passes || visit(encoded, value, timestamp)
        });
    }
}

/// Rows of another table with their values mapped.
pub(crate) struct MappedLookup<K, V, W, F> {
    pub(crate) inner: SharedLookup<K, V>,
    pub(crate) key: SharedCodec<K>,
    pub(crate) mapper: Arc<F>,
    pub(crate) mapped: PhantomData<fn() -> W>,
}

impl<K: Data, V: Data, W: Data, F: Fn(&K, &V) -> W> Lookup<K, W> for MappedLookup<K, V, W, F> {
    fn with(&self, key: &K, encoded: &[u8], read: &mut dyn FnMut(RowRef<'_, W>)) {
        self.inner.with(key, encoded, &mut |row| match row {
            Some((value, timestamp)) => read(Some((&(self.mapper)(key, value), timestamp))),
            None => read(None),
        });
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut dyn FnMut(&[u8], &W, i64) -> bool) {
        self.inner.range(from, to, &mut |encoded, value, timestamp| match self.key.decode(encoded) {
            Ok(key) => visit(encoded, &(self.mapper)(&key, value), timestamp),
            Err(_) => true,
        });
    }
}
