//! State stores: typed values with timestamps under encoded key bytes.
//!
//! A [`Store`] is the state, its changelog buffer and, for windowed state, its expiry in one type. Point access
//! is by hash; every iteration is in key-byte order, so hash order never reaches an output. Keys written since
//! the last [`StoreHandle::flush`] are remembered once each, in the order first written. A store knows nothing
//! of topics and offsets; where its bytes come from and go to is the task's business.

mod global;
mod key;
mod lookup;

pub(crate) use global::GlobalStore;
pub(crate) use lookup::{FilteredLookup, Lookup, MappedLookup, RowRef, SharedLookup, StoreLookup};

use crate::codec::{CodecError, Data, SharedCodec, window_start_of};
use hashbrown::{DefaultHashBuilder, HashTable};
use key::KeyBytes;
use std::{cell::RefCell, collections::BTreeMap, hash::BuildHasher, ops::Bound, sync::Arc};

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

/// Takes the rows that a flush writes; a `None` value is a tombstone.
pub(crate) trait ChangelogWriter {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64);
}

/// A store whose value type is forgotten.
pub(crate) trait StoreHandle {
    fn name(&self) -> &Arc<str>;
    /// Writes the last value of every key changed since the flush before, once per key.
    fn flush(&mut self, out: &mut dyn ChangelogWriter) -> Result<(), CodecError>;
    /// Applies a changelog record; it is not written to the changelog again.
    fn restore(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) -> Result<(), CodecError>;
    /// Every row in key-byte order.
    fn dump(&self) -> Result<Vec<Entry>, CodecError>;
}

#[derive(Debug)]
struct Slot<V> {
    key: KeyBytes,
    value: Option<V>,
    timestamp: i64,
    dirty: bool,
}

/// Rows by window start, for expiry by stream time.
#[derive(Debug)]
struct Expiry {
    retention_ms: i64,
    starts: BTreeMap<i64, Vec<u32>>,
}

/// State of one operator in one task, in memory.
pub(crate) struct Store<V> {
    name: Arc<str>,
    codec: SharedCodec<V>,
    hasher: DefaultHashBuilder,
    index: HashTable<u32>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    /// Keys in order; made by the first ordered read and kept up from then on.
    order: RefCell<Option<BTreeMap<Box<[u8]>, u32>>>,
    logged: bool,
    dirty: Vec<u32>,
    expiry: Option<Expiry>,
}

impl<V: Data> Store<V> {
    /// An empty store; `logged` says whether changes are kept for a changelog.
    pub(crate) fn new(name: Arc<str>, codec: SharedCodec<V>, logged: bool) -> Store<V> {
        Store {
            name,
            codec,
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            order: RefCell::new(None),
            logged,
            dirty: Vec::new(),
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
        let expiry = Expiry { retention_ms, starts: BTreeMap::new() };
        Store { expiry: Some(expiry), ..Store::new(name, codec, logged) }
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index
            .find(hash, |&at| self.slots.get(at as usize).is_some_and(|slot| *slot.key == *key))
            .copied()
    }

    fn slot(&self, at: u32) -> &Slot<V> {
        self.slots.get(at as usize).expect("the index holds only slots that exist")
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot<V> {
        self.slots.get_mut(at as usize).expect("the index holds only slots that exist")
    }

    /// The row of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(&V, i64)> {
        let slot = self.slot(self.find(key)?);
        slot.value.as_ref().map(|value| (value, slot.timestamp))
    }

    /// Gives `change` the row of a key and keeps what it returns. `None` deletes.
    pub(crate) fn update<R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<V>, i64) -> (Option<V>, i64, R),
    ) -> R {
        let Some(at) = self.find(key) else {
            let (value, timestamp, answer) = change(None, i64::MIN);
            if value.is_some() || self.logged {
                let at = self.insert(key, value, timestamp);
                self.mark(at);
            }
            return answer;
        };
        let slot = self.slot_mut(at);
        let old = slot.value.take();
        let time = if old.is_some() { slot.timestamp } else { i64::MIN };
        let (value, timestamp, answer) = change(old, time);
        slot.value = value;
        slot.timestamp = timestamp;
        self.mark(at);
        answer
    }

    /// Sets or, with `None`, deletes the row of a key; returns the row before.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> Option<(V, i64)> {
        self.update(key, |old, time| (value, timestamp, old.map(|old| (old, time))))
    }

    /// Deletes windows that `stream_time` has left `retention` behind, with tombstones.
    pub(crate) fn expire(&mut self, stream_time: i64) {
        loop {
            let Some(expiry) = self.expiry.as_mut() else { return };
            let limit = stream_time.saturating_sub(expiry.retention_ms);
            let Some(first) = expiry.starts.first_entry().filter(|first| *first.key() <= limit) else {
                return;
            };
            let start = *first.key();
            for at in first.remove() {
                let slot = self.slot_mut(at);
                if slot.value.is_some() && window_start_of(&slot.key) == Some(start) {
                    slot.value = None;
                    self.mark(at);
                }
            }
        }
    }

    /// Visits rows in key-byte order until `visit` says no.
    pub(crate) fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &V, i64) -> bool,
    ) {
        let mut order = self.order.borrow_mut();
        let order = order.get_or_insert_with(|| {
            let live = self.index.iter().map(|&at| (Box::from(&*self.slot(at).key), at));
            live.collect()
        });
        if !is_range(from, to) {
            return;
        }
        for (key, &at) in order.range::<[u8], _>((from, to)) {
            let slot = self.slot(at);
            if let Some(value) = &slot.value
                && !visit(key, value, slot.timestamp)
            {
                return;
            }
        }
    }

    fn insert(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> u32 {
        let slot = Slot { key: key.into(), value, timestamp, dirty: false };
        let at = match self.free.pop() {
            Some(at) => {
                *self.slot_mut(at) = slot;
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("a store of one task has less than 2^32 rows")
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |&at: &u32| slots.get(at as usize).map_or(0, |slot| hasher.hash_one(&*slot.key));
        self.index.insert_unique(self.hasher.hash_one(key), at, rehash);
        if let Some(order) = self.order.get_mut() {
            order.insert(key.into(), at);
        }
        if let Some(expiry) = &mut self.expiry
            && let Some(start) = window_start_of(key)
        {
            expiry.starts.entry(start).or_default().push(at);
        }
        at
    }

    /// Notes a change for the changelog; without one, a deleted row goes at once.
    fn mark(&mut self, at: u32) {
        if !self.logged {
            if self.slot(at).value.is_none() {
                self.release(at);
            }
            return;
        }
        let slot = self.slot_mut(at);
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(at);
        }
    }

    fn release(&mut self, at: u32) {
        let key = self.slot(at).key.clone();
        let hash = self.hasher.hash_one(&*key);
        if let Ok(entry) = self.index.find_entry(hash, |&found| found == at) {
            entry.remove();
        }
        if let Some(order) = self.order.get_mut() {
            order.remove(&*key);
        }
        self.free.push(at);
    }
}

/// `BTreeMap::range` panics on a range whose ends are the wrong way round; this says whether they are not.
fn is_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Excluded(from), Bound::Excluded(to)) => from < to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from <= to
        }
    }
}

impl<V: Data> StoreHandle for Store<V> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn flush(&mut self, out: &mut dyn ChangelogWriter) -> Result<(), CodecError> {
        let mut scratch = Vec::new();
        for at in std::mem::take(&mut self.dirty) {
            let codec = Arc::clone(&self.codec);
            let slot = self.slot_mut(at);
            slot.dirty = false;
            let Some(value) = &slot.value else {
                out.write(&slot.key, None, slot.timestamp);
                self.release(at);
                continue;
            };
            scratch.clear();
            codec.encode(value, &mut scratch)?;
            out.write(&slot.key, Some(&scratch), slot.timestamp);
        }
        Ok(())
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) -> Result<(), CodecError> {
        let value = value.map(|value| self.codec.decode(value)).transpose()?;
        match (self.find(key), value) {
            (Some(at), Some(value)) => {
                let slot = self.slot_mut(at);
                slot.value = Some(value);
                slot.timestamp = timestamp;
            }
            (Some(at), None) => self.release(at),
            (None, Some(value)) => {
                self.insert(key, Some(value), timestamp);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn dump(&self) -> Result<Vec<Entry>, CodecError> {
        let mut entries = Vec::new();
        let mut failure = None;
        self.range(Bound::Unbounded, Bound::Unbounded, &mut |key, value, timestamp| {
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
