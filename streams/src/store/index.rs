//! Finds rows by key: hashes of keys to row ids. The keys themselves stand in the rows.
//!
//! Invariant: each id names a living row, and no two of these rows have the same key.

use super::slab::{RowId, Slab};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// A row that stands under a key.
pub(super) trait HasKey {
    fn key(&self) -> &[u8];
}

/// Row ids by key.
#[derive(Debug)]
pub(super) struct Index {
    hasher: DefaultHashBuilder,
    ids: HashTable<RowId>,
}

impl Index {
    pub(super) fn new() -> Index {
        Index { hasher: DefaultHashBuilder::default(), ids: HashTable::new() }
    }

    pub(super) fn find<R: HasKey>(&self, key: &[u8], rows: &Slab<R>) -> Option<RowId> {
        let is_it = |id: &RowId| rows.get(*id).is_some_and(|row| row.key() == key);
        self.ids.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// A row that probably has this key, if any has; unlike [`Index::find`] it does not wait to see.
    pub(super) fn guess(&self, key: &[u8]) -> Option<RowId> {
        self.ids.find(self.hasher.hash_one(key), |_| true).copied()
    }

    /// Adds a row that is in `rows` already.
    pub(super) fn insert<R: HasKey>(&mut self, key: &[u8], id: RowId, rows: &Slab<R>) {
        debug_assert!(self.find(key, rows).is_none(), "a key has one row");
        debug_assert!(rows.get(id).is_some_and(|row| row.key() == key), "the row stands under its key");
        let Index { hasher, ids } = self;
        let rehash = |id: &RowId| rows.get(*id).map_or(0, |row| hasher.hash_one(row.key()));
        ids.insert_unique(hasher.hash_one(key), id, rehash);
    }

    pub(super) fn remove(&mut self, key: &[u8], id: RowId) {
        let found = self.ids.find_entry(self.hasher.hash_one(key), |found| *found == id);
        debug_assert!(found.is_ok(), "a row is in the index until it is removed");
        if let Ok(entry) = found {
            entry.remove();
        }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
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
