//! Finds rows by key: hashes of keys to row ids. The keys themselves stand in the rows, which are looked at only where
//! the hash is right, and not at all when the index grows.
//!
//! Invariant: each id names a living row whose key has the hash, and no two of these rows have the same key.

use super::slab::{RowId, Slab};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// A row that stands under a key.
pub(super) trait HasKey {
    fn key(&self) -> &[u8];
}

/// A row, and 32 bits of its key's hash.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: RowId,
    hash: u32,
}

/// Row ids by key.
#[derive(Debug)]
pub(super) struct Index {
    hasher: DefaultHashBuilder,
    entries: HashTable<Entry>,
}

/// The bits of a hash over a whole word, as the table wants them.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Index {
    pub(super) fn new() -> Index {
        Index { hasher: DefaultHashBuilder::default(), entries: HashTable::new() }
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    pub(super) fn find<R: HasKey>(&self, key: &[u8], rows: &Slab<R>) -> Option<RowId> {
        let hash = self.hash(key);
        let is_it =
            |entry: &Entry| entry.hash == hash && rows.get(entry.id).is_some_and(|row| row.key() == key);
        self.entries.find(spread(hash), is_it).map(|entry| entry.id)
    }

    /// A row that probably has this key, if any has; unlike [`Index::find`] it does not wait to see.
    pub(super) fn guess(&self, key: &[u8]) -> Option<RowId> {
        let hash = self.hash(key);
        self.entries.find(spread(hash), |entry| entry.hash == hash).map(|entry| entry.id)
    }

    /// Adds a row that is in `rows` already.
    pub(super) fn insert<R: HasKey>(&mut self, key: &[u8], id: RowId, rows: &Slab<R>) {
        debug_assert!(self.find(key, rows).is_none(), "a key has one row");
        debug_assert!(rows.get(id).is_some_and(|row| row.key() == key), "the row stands under its key");
        let hash = self.hash(key);
        self.entries.insert_unique(spread(hash), Entry { id, hash }, |entry| spread(entry.hash));
    }

    pub(super) fn remove(&mut self, key: &[u8], id: RowId) {
        let found = self.entries.find_entry(spread(self.hash(key)), |entry| entry.id == id);
        debug_assert!(found.is_ok(), "a row is in the index until it is removed");
        if let Ok(entry) = found {
            entry.remove();
        }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl HasKey for Vec<u8> {
        fn key(&self) -> &[u8] {
            self
        }
    }

    proptest! {
        #[test]
        fn an_index_is_a_map(steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0u8..3, 0..4)), 0..300)) {
            let (mut index, mut rows, mut model) = (Index::new(), Slab::new(), BTreeMap::new());
            for (insert, key) in steps {
                prop_assert_eq!(index.find(&key, &rows), model.get(&key).copied());
                match model.remove(&key) {
                    Some(id) => {
                        index.remove(&key, id);
                        rows.remove(id);
                    }
                    None if insert => {
                        let id = rows.insert(key.clone());
                        index.insert(&key, id, &rows);
                        model.insert(key, id);
                    }
                    None => {}
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for (key, id) in &model {
                prop_assert_eq!(index.find(key, &rows), Some(*id));
            }
        }
    }
}
