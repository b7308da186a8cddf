//! Reading a table's current rows, whether it is stored or computed from a stored one.
//!
//! A filtered or mapped table keeps no rows: its lookup asks the table behind it and applies the function
//! again. Joins and queries read tables through this trait only.

use super::{Handle, Stores};
use crate::codec::{Data, SharedCodec};
use std::{marker::PhantomData, ops::Bound, sync::Arc};

/// A row and its event time, if there is one.
pub(crate) type RowRef<'a, V> = Option<(&'a V, i64)>;

/// Encoded bounds of a scan.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Reads rows of a table from the stores of its task. Keys come both typed and encoded, so that neither has to be made
/// twice.
pub(crate) trait Lookup<K, V>: Send {
    /// Calls `read` with the row of a key, or with `None`.
    fn with(&self, stores: &Stores, key: (&K, &[u8]), read: &mut dyn FnMut(RowRef<'_, V>));

    /// Visits rows in key-byte order until `visit` says no.
    fn range(&self, stores: &Stores, keys: Bounds<'_>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool);
}

/// The lookup of a task's table.
pub(crate) type TableLookup<K, V> = Box<dyn Lookup<K, V>>;

/// Rows of a store.
pub(crate) struct StoreLookup<V>(pub(crate) Handle<V>);

impl<K, V: Data> Lookup<K, V> for StoreLookup<V> {
    fn with(&self, stores: &Stores, (_, encoded): (&K, &[u8]), read: &mut dyn FnMut(RowRef<'_, V>)) {
        read(stores.get(self.0).get(encoded));
    }

    fn range(&self, stores: &Stores, keys: Bounds<'_>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool) {
        stores.get(self.0).range(keys, visit);
    }
}

/// Rows of another table that pass a predicate.
pub(crate) struct FilteredLookup<K, V, P> {
    pub(crate) inner: TableLookup<K, V>,
    pub(crate) key: SharedCodec<K>,
    pub(crate) predicate: Arc<P>,
}

impl<K: Data, V: Data, P: Fn(&K, &V) -> bool + Send + Sync> Lookup<K, V> for FilteredLookup<K, V, P> {
    fn with(&self, stores: &Stores, (key, encoded): (&K, &[u8]), read: &mut dyn FnMut(RowRef<'_, V>)) {
        self.inner.with(stores, (key, encoded), &mut |row| {
            read(row.filter(|(value, _)| (self.predicate)(key, value)))
        });
    }

    fn range(&self, stores: &Stores, keys: Bounds<'_>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool) {
        self.inner.range(stores, keys, &mut |encoded, value, timestamp| {
            let passes = self.key.decode(encoded).is_ok_and(|key| (self.predicate)(&key, value));
            !passes || visit(encoded, value, timestamp)
        });
    }
}

/// Rows of another table with their values mapped.
pub(crate) struct MappedLookup<K, V, W, F> {
    pub(crate) inner: TableLookup<K, V>,
    pub(crate) key: SharedCodec<K>,
    pub(crate) mapper: Arc<F>,
    pub(crate) mapped: PhantomData<fn() -> W>,
}

impl<K: Data, V: Data, W: Data, F: Fn(&K, &V) -> W + Send + Sync> Lookup<K, W> for MappedLookup<K, V, W, F> {
    fn with(&self, stores: &Stores, (key, encoded): (&K, &[u8]), read: &mut dyn FnMut(RowRef<'_, W>)) {
        self.inner.with(stores, (key, encoded), &mut |row| match row {
            Some((value, timestamp)) => read(Some((&(self.mapper)(key, value), timestamp))),
            None => read(None),
        });
    }

    fn range(&self, stores: &Stores, keys: Bounds<'_>, visit: &mut dyn FnMut(&[u8], &W, i64) -> bool) {
        self.inner.range(stores, keys, &mut |encoded, value, timestamp| match self.key.decode(encoded) {
            Ok(key) => visit(encoded, &(self.mapper)(&key, value), timestamp),
            Err(_) => true,
        });
    }
}
