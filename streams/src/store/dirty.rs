//! Rows changed since the last flush, once each, in the order in which they were first changed.
//!
//! Invariant: a slot's mark stands if and only if the row that lives in it is in the list.

use super::slab::RowId;

/// The changed rows of a store.
#[derive(Debug, Default)]
pub(super) struct DirtySet {
    ids: Vec<RowId>,
    /// By slot: a bit each.
    marks: Vec<u64>,
}

impl DirtySet {
    fn bit(id: RowId) -> (usize, u64) {
        (id.slot() / 64, 1 << (id.slot() % 64))
    }

    #[cfg(test)]
    pub(super) fn contains(&self, id: RowId) -> bool {
        let (word, bit) = DirtySet::bit(id);
        self.marks.get(word).is_some_and(|marks| marks & bit != 0)
    }

    pub(super) fn insert(&mut self, id: RowId) {
        let (word, bit) = DirtySet::bit(id);
        if self.marks.len() <= word {
            self.marks.resize(word + 1, 0);
        }
        if let Some(marks) = self.marks.get_mut(word)
            && *marks & bit == 0
        {
            *marks |= bit;
            self.ids.push(id);
        }
    }

    /// The row has gone, or the changelog holds it as it is. Its id stays in the list until that is taken.
    pub(super) fn forget(&mut self, id: RowId) {
        let (word, bit) = DirtySet::bit(id);
        if let Some(marks) = self.marks.get_mut(word) {
            *marks &= !bit;
        }
    }

    /// Empties the set. Ids of rows that were forgotten may be among those returned; one that was forgotten and then
    /// changed again comes twice.
    pub(super) fn take(&mut self) -> Vec<RowId> {
        let ids = std::mem::take(&mut self.ids);
        ids.iter().for_each(|id| self.forget(*id));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::{super::slab::Slab, *};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_dirty_set_is_a_set_of_the_rows_that_live(steps in prop::collection::vec((0u8..4, 0usize..8), 0..300)) {
            let (mut dirty, mut rows, mut model) = (DirtySet::default(), Slab::new(), BTreeSet::new());
            let mut live: Vec<RowId> = (0..8).map(|_| rows.insert(())).collect();
            for (step, at) in steps {
                let id = live[at];
                match step {
                    0 | 1 => {
                        dirty.insert(id);
                        model.insert(id);
                    }
                    2 => {
                        dirty.forget(id);
                        rows.remove(id);
                        model.remove(&id);
                        live[at] = rows.insert(());
                    }
                    _ => {
                        let taken: BTreeSet<RowId> =
                            dirty.take().into_iter().filter(|id| rows.get(*id).is_some()).collect();
                        prop_assert_eq!(&taken, &model);
                        model.clear();
                    }
                }
                for id in &live {
                    prop_assert_eq!(dirty.contains(*id), model.contains(id));
                }
            }
        }
    }
}
