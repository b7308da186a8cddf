//! State stores: typed values with timestamps under encoded key bytes.
//!
//! A [`Store`] is the state, its changelog buffer and, for windowed state, its expiry. Point access is by hash;
//! every iteration is in key-byte order, so hash order never reaches an output. Keys written since the last
//! [`AnyStore::flush`] are remembered once each, in the order first written. Processing and restoring end in
//! the same [`Store::set`], so a null deletes and stream time expires in both. A store knows nothing of topics
//! and offsets; where its bytes come from and go to is the task's business. The stores of a task stand in an arena of it
//! ([`Stores`]), and whoever works with one has a [`Handle`].
//!
//! Invariants, with a type for each part: every row is in the slab once, in the index under its key, in the order
//! once that is made, and under its window in the expiry if there is one; a row without a value is in the dirty
//! set, waiting for its tombstone to be written; what is named after a row has gone finds nothing.

mod arena;
mod dirty;
mod expiry;
mod fold;
mod global;
mod index;
mod key;
mod lookup;
mod order;
mod slab;

pub(crate) use arena::{Handle, Stores};
pub(crate) use fold::{Dropped, Fold};
pub(crate) use global::{GlobalStore, GlobalWriter};
pub(crate) use lookup::{Bounds, FilteredLookup, Lookup, MappedLookup, RowRef, StoreLookup, TableLookup};

use crate::codec::{CodecError, Data, Nulls, SharedCodec, window_start_of};
use dirty::DirtySet;
use expiry::Expiry;
use index::{HasKey, Index};
use key::KeyBytes;
use order::Order;
pub(crate) use slab::RowId;
use slab::Slab;
use std::{any::Any, ops::Bound, sync::Arc};

/// One row of a store as bytes: what a changelog holds and what a dump shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The encoded key; behind the key of a windowed row stand window start (8 bytes) and sequence number (4).
    pub key: Vec<u8>,
    /// The encoded value.
    pub value: Vec<u8>,
    /// Event time of the row in milliseconds.
    pub timestamp: i64,
}

/// Rows of a store from which on looking ahead pays: fewer stay in a processor's caches anyway.
const LOOK_AHEAD_ROWS_MIN: usize = 8192;
/// Keys that are looked ahead for at a time.
const LOOK_AHEAD_KEYS: usize = 32;

/// Takes the rows that a flush writes; a `None` value is a tombstone.
pub(crate) trait ChangelogWriter {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64);
}

/// A store whose value type is forgotten.
pub(crate) trait AnyStore: Any + Send {
    fn name(&self) -> &Arc<str>;
    /// Writes the last value of every key changed since the flush before, once per key.
    fn flush(&mut self, out: &mut dyn ChangelogWriter) -> Result<(), CodecError>;
    /// Applies a changelog record; it is not written to the changelog again.
    fn restore(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) -> Result<(), CodecError>;
    /// Touches the rows of keys that will be looked up soon. Rows of a large store are in memory, not in a cache; when
    /// each is looked up as its record comes, the processor waits for each, and when many are touched in a row, for all
    /// at the same time. Changes nothing, and the keys may be of another spelling.
    fn look_ahead(&self, keys: &mut dyn Iterator<Item = &[u8]>);
    /// Every row in key-byte order.
    fn dump(&self) -> Result<Vec<Entry>, CodecError>;
}

#[derive(Debug)]
struct Row<V> {
    key: KeyBytes,
    /// `None` until the tombstone is written.
    value: Option<V>,
    timestamp: i64,
    /// Whether the expiry has named it already; then it does not stand there.
    expired: bool,
}

impl<V> HasKey for Row<V> {
    fn key(&self) -> &[u8] {
        &self.key
    }
}

/// State of one operator in one task, in memory.
pub(crate) struct Store<V> {
    name: Arc<str>,
    codec: SharedCodec<V>,
    nulls: Nulls<V>,
    rows: Slab<Row<V>>,
    index: Index,
    order: Order,
    /// `None` when there is no changelog.
    dirty: Option<DirtySet>,
    expiry: Option<Expiry>,
}

impl<V: Data> Store<V> {
    /// An empty store; `logged` says whether changes are kept for a changelog.
    pub(crate) fn new(name: Arc<str>, codec: SharedCodec<V>, logged: bool) -> Store<V> {
        Store {
            name,
            nulls: Nulls::of(&codec),
            codec,
            rows: Slab::new(),
            index: Index::new(),
            order: Order::default(),
            dirty: logged.then(DirtySet::default),
            expiry: None,
        }
    }

    /// An empty window store whose rows expire `retention_ms` behind stream time.
    pub(crate) fn windowed(
        name: Arc<str>,
        codec: SharedCodec<V>,
        logged: bool,
        retention_ms: i64,
    ) -> Store<V> {
        Store { expiry: Some(Expiry::new(retention_ms)), ..Store::new(name, codec, logged) }
    }

    /// The row of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(&V, i64)> {
        let row = self.rows.get(self.index.find(key, &self.rows)?)?;
        row.value.as_ref().map(|value| (value, row.timestamp))
    }

    /// Gives `change` the row of a key and keeps what it returns. `None`, or a null of the codec, deletes. Returns
    /// where it is kept, for [`Store::value`], and its time.
    pub(crate) fn update(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<V>, i64) -> (Option<V>, i64),
    ) -> (Option<RowId>, i64) {
        self.modify(key, |value, time| {
            let (new, timestamp) = change(value.take(), time);
            *value = new;
            timestamp
        })
    }

    /// As [`Store::update`], where the row stands: `change` leaves there what is to be kept and returns its time.
    pub(crate) fn modify(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut Option<V>, i64) -> i64,
    ) -> (Option<RowId>, i64) {
        let found = self.index.find(key, &self.rows);
        let row = found.and_then(|id| self.rows.get_mut(id)).filter(|row| row.value.is_some());
        let (kept, timestamp) = match row {
            Some(row) => {
                let timestamp = change(&mut row.value, row.timestamp);
                row.timestamp = timestamp;
                // A row that stays is named already by all that have to name it.
                let stays = row.value.as_ref().is_some_and(|value| !self.nulls.is_null(value));
                (if stays { found } else { self.set((key, found), None, timestamp) }, timestamp)
            }
            None => {
                let mut value = None;
                let timestamp = change(&mut value, i64::MIN);
                (self.set((key, found), value, timestamp), timestamp)
            }
        };
        if let (Some(id), Some(dirty)) = (kept, &mut self.dirty) {
            dirty.insert(id);
        }
        (kept, timestamp)
    }

    /// The value that a row has now.
    pub(crate) fn value(&self, row: Option<RowId>) -> Option<&V> {
        self.rows.get(row?)?.value.as_ref()
    }

    /// Sets or, with `None`, deletes the row of a key; returns the row before.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> Option<(V, i64)> {
        let mut before = None;
        self.update(key, |old, time| {
            before = old.map(|old| (old, time));
            (value, timestamp)
        });
        before
    }

    /// The one place where a row comes, goes or comes back. Returns where it stands: nowhere, if it is deleted and no changelog has to
    /// hear of it.
    fn set(
        &mut self,
        (key, found): (&[u8], Option<RowId>),
        value: Option<V>,
        timestamp: i64,
    ) -> Option<RowId> {
        let value = self.nulls.to_none(value);
        match found {
            Some(id) if value.is_none() && self.dirty.is_none() => {
                self.release(id);
                None
            }
            None if value.is_none() && self.dirty.is_none() => None,
            Some(id) => {
                let row = self.rows.get_mut(id).expect("the index names living rows only");
                if row.expired && value.is_some() {
                    row.expired = false;
                    if let (Some(expiry), Some(start)) = (&mut self.expiry, window_start_of(key)) {
                        expiry.insert(start, id);
                    }
                }
                row.value = value;
                row.timestamp = timestamp;
                Some(id)
            }
            None => Some(self.insert(key, value, timestamp)),
        }
    }

    /// Deletes windows that `stream_time` has left `retention` behind, with tombstones.
    pub(crate) fn expire(&mut self, stream_time: i64) {
        while let Some(ids) = self.expiry.as_mut().and_then(|expiry| expiry.take_expired(stream_time)) {
            for id in ids {
                let Some(row) = self.rows.get_mut(id) else { continue };
                row.expired = true;
                match &mut self.dirty {
                    Some(dirty) => {
                        row.value = None;
                        dirty.insert(id);
                    }
                    None => self.release(id),
                }
            }
        }
    }

    /// Whether the rows of a window have been expired, by this task or by one before it whose rows were restored.
    pub(crate) fn has_expired(&self, start: i64) -> bool {
        self.expiry.as_ref().is_some_and(|expiry| expiry.has_expired(start))
    }

    /// Visits rows in key-byte order until `visit` says no.
    pub(crate) fn range(&self, keys: Bounds<'_>, visit: &mut dyn FnMut(&[u8], &V, i64) -> bool) {
        let all = || self.rows.iter().map(|(id, row)| (row.key(), id));
        for id in self.order.range(keys, all) {
            if let Some(Row { key, value: Some(value), timestamp, .. }) = self.rows.get(id)
                && !visit(key, value, *timestamp)
            {
                return;
            }
        }
    }

    fn insert(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> RowId {
        let id = self.rows.insert(Row { key: key.into(), value, timestamp, expired: false });
        self.index.insert(key, id, &self.rows);
        self.order.insert(key, id);
        if let (Some(expiry), Some(start)) = (&mut self.expiry, window_start_of(key)) {
            expiry.insert(start, id);
        }
        id
    }

    /// Takes a row out of everything that names it but the expiry, where its name finds nothing.
    fn release(&mut self, id: RowId) {
        let Some(row) = self.rows.remove(id) else { return };
        self.index.remove(&row.key, id);
        self.order.remove(&row.key, id);
        if let Some(dirty) = &mut self.dirty {
            dirty.forget(id);
        }
    }

    /// Asserts the invariants.
    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.rows.len(), self.index.len());
        assert!(self.order.len().is_none_or(|keys| keys == self.rows.len()));
        for (id, row) in self.rows.iter() {
            assert_eq!(self.index.find(&row.key, &self.rows), Some(id), "two rows of one key");
            let dirty = self.dirty.as_ref().is_some_and(|dirty| dirty.contains(id));
            assert!(dirty || row.value.is_some(), "a tombstone that nobody writes");
            assert!(row.value.as_ref().is_none_or(|value| !self.codec.is_null(value)), "a null is a row");
            assert!(!row.expired || row.value.is_none(), "a row that never expires");
            if let (Some(expiry), Some(start)) = (&self.expiry, window_start_of(&row.key)) {
                assert_eq!(
                    expiry.names(start, id),
                    usize::from(!row.expired),
                    "a row is named until it expires"
                );
            }
        }
    }
}

impl<V: Data> AnyStore for Store<V> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn flush(&mut self, out: &mut dyn ChangelogWriter) -> Result<(), CodecError> {
        let Some(dirty) = &mut self.dirty else { return Ok(()) };
        let mut scratch = Vec::new();
        for id in dirty.take() {
            let Some(row) = self.rows.get(id) else { continue };
            let Some(value) = &row.value else {
                out.write(&row.key, None, row.timestamp);
                self.release(id);
                continue;
            };
            scratch.clear();
            self.codec.encode(value, &mut scratch)?;
            out.write(&row.key, Some(&scratch), row.timestamp);
        }
        Ok(())
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) -> Result<(), CodecError> {
        let value = value.map(|value| self.codec.decode(value)).transpose()?;
        let found = self.index.find(key, &self.rows);
        if let Some(id) = self.set((key, found), value, timestamp) {
            // The changelog holds the row as it is.
            if let Some(dirty) = &mut self.dirty {
                dirty.forget(id);
            }
            if self.rows.get(id).is_some_and(|row| row.value.is_none()) {
                self.release(id);
            }
        }
        // Stream time was at least this when the row was written, so what it expires had expired then.
        self.expire(timestamp);
        Ok(())
    }

    fn look_ahead(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        // Keys of windowed rows are not those of records.
        if self.index.len() < LOOK_AHEAD_ROWS_MIN || self.expiry.is_some() {
            return;
        }
        let mut guesses = [None; LOOK_AHEAD_KEYS];
        loop {
            let mut guessed = 0;
            for (guess, key) in guesses.iter_mut().zip(&mut *keys) {
                *guess = self.index.guess(key);
                guessed += 1;
            }
            for id in guesses.iter().take(guessed).flatten() {
                std::hint::black_box(self.rows.get(*id).map(|row| row.timestamp));
            }
            if guessed < LOOK_AHEAD_KEYS {
                return;
            }
        }
    }

    fn dump(&self) -> Result<Vec<Entry>, CodecError> {
        let mut entries = Vec::new();
        let mut failure = None;
        self.range((Bound::Unbounded, Bound::Unbounded), &mut |key, value, timestamp| {
            let mut encoded = Vec::new();
            failure = self.codec.encode(value, &mut encoded).err();
            entries.push(Entry { key: key.to_vec(), value: encoded, timestamp });
            failure.is_none()
        });
        failure.map_or(Ok(entries), Err)
    }
}

#[cfg(test)]
mod tests;
