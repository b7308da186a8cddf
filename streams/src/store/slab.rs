//! Rows in slots, by ids that never name another row.
//!
//! An id is a slot and the slot's generation. The generation grows when a row is taken out, so an id kept by
//! somebody who was not told finds nothing rather than the row that has the slot by then. Slots come in chunks, so that
//! growing moves no row. Knows nothing of keys.

use crate::safeguard::Safeguard;

/// Slots of a chunk.
const CHUNK_SLOTS: usize = 1024;

/// Names one row for as long as it lives, and nothing after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowId {
    slot: u32,
    generation: u32,
}

impl RowId {
    /// The slot, below the number of rows that lived at the same time at most.
    pub(super) fn slot(self) -> usize {
        self.slot as usize
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    row: Option<T>,
}

/// Rows by id.
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// All but the last have [`CHUNK_SLOTS`].
    chunks: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }

    /// Number of rows.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let slots = || self.chunks.iter().flatten();
        let retired = slots().filter(|slot| slot.generation == u32::MAX).count();
        slots().count() - self.free.len() - retired
    }

    fn slot(&self, at: u32) -> Option<&Slot<T>> {
        self.chunks.get(at as usize / CHUNK_SLOTS)?.get(at as usize % CHUNK_SLOTS)
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(at as usize / CHUNK_SLOTS)?.get_mut(at as usize % CHUNK_SLOTS)
    }

    pub(super) fn get(&self, id: RowId) -> Option<&T> {
        let slot = self.slot(id.slot)?;
        if slot.generation == id.generation { slot.row.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, id: RowId) -> Option<&mut T> {
        let slot = self.slot_mut(id.slot)?;
        if slot.generation == id.generation { slot.row.as_mut() } else { None }
    }

    pub(super) fn insert(&mut self, row: T) -> RowId {
        if let Some(at) = self.free.pop()
            && let Some(slot) = self.slot_mut(at)
        {
            debug_assert!(slot.row.is_none(), "slot {at} is free and holds a row");
            slot.row = Some(row);
            return RowId { slot: at, generation: slot.generation };
        }
        let slot = Slot { generation: 0, row: Some(row) };
        let in_last = match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK_SLOTS) {
            Some(chunk) => {
                chunk.push(slot);
                chunk.len() - 1
            }
            None => {
                // The first grows as it is filled: most stores have few rows.
                let capacity = if self.chunks.is_empty() { 1 } else { CHUNK_SLOTS };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(slot);
                self.chunks.push(chunk);
                0
            }
        };
        let at = (self.chunks.len() - 1) * CHUNK_SLOTS + in_last;
        let slot = u32::try_from(at).expect("a store of one task has less than 2^32 rows");
        RowId { slot, generation: 0 }
    }

    /// Takes a row out. Its slot is used again under the next generation; after the last one, never.
    pub(super) fn remove(&mut self, id: RowId) -> Option<T> {
        let slot = self.slot_mut(id.slot).filter(|slot| slot.generation == id.generation)?;
        let row = slot.row.take()?;
        slot.generation += u32::from(!Safeguard::GenerationalIds.is_out());
        if slot.generation < u32::MAX {
            self.free.push(id.slot);
        }
        Some(row)
    }

    /// All rows, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RowId, &T)> {
        self.chunks.iter().flatten().enumerate().filter_map(|(at, slot)| {
            let id = RowId { slot: at as u32, generation: slot.generation };
            Some((id, slot.row.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_id_of_a_row_that_has_gone_finds_nothing_though_its_slot_is_used_again() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!((old.slot(), slab.get(old)), (new.slot(), None));
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
    }

    #[test]
    fn a_slot_of_the_last_generation_is_not_used_again() {
        let mut slab = Slab::new();
        let first = slab.insert(1);
        slab.chunks[0][0].generation = u32::MAX - 1;
        assert_eq!(slab.remove(RowId { generation: u32::MAX - 1, ..first }), Some(1));
        assert_eq!((slab.insert(2).slot(), slab.len()), (1, 1));
    }

    #[test]
    fn a_slab_of_many_chunks_finds_every_row_and_moves_none() {
        let mut slab = Slab::new();
        let first = slab.insert(0);
        let ids: Vec<RowId> = (1..3 * CHUNK_SLOTS).map(|row| slab.insert(row)).collect();
        let before = slab.get(*ids.last().unwrap()).map(std::ptr::from_ref);
        let more: Vec<RowId> = (ids.len() + 1..5 * CHUNK_SLOTS + 1).map(|row| slab.insert(row)).collect();
        assert_eq!(slab.get(*ids.last().unwrap()).map(std::ptr::from_ref), before);
        let all = || std::iter::once(&first).chain(&ids).chain(&more);
        assert!(all().enumerate().all(|(row, id)| id.slot() == row && slab.get(*id) == Some(&row)));
        assert!(slab.iter().map(|(id, _)| id).eq(all().copied()));
        assert_eq!((slab.remove(ids[CHUNK_SLOTS]), slab.len()), (Some(CHUNK_SLOTS + 1), 5 * CHUNK_SLOTS));
        assert_eq!(slab.insert(7).slot(), CHUNK_SLOTS + 1);
    }

    proptest! {
        #[test]
        fn a_slab_is_a_map_whose_keys_are_never_given_twice(steps in prop::collection::vec((any::<bool>(), 0usize..20), 0..200)) {
            let (mut slab, mut model, mut given) = (Slab::new(), BTreeMap::new(), Vec::new());
            for (row, (insert, which)) in steps.into_iter().enumerate() {
                if insert {
                    let id = slab.insert(row);
                    prop_assert!(!given.contains(&id));
                    given.push(id);
                    model.insert(id, row);
                } else if let Some(id) = given.get(which) {
                    prop_assert_eq!(slab.remove(*id), model.remove(id));
                }
                prop_assert_eq!(slab.len(), model.len());
                for id in &given {
                    prop_assert_eq!(slab.get(*id), model.get(id));
                }
            }
            prop_assert!(slab.iter().map(|(id, row)| (id, *row)).eq(
                slab.iter().filter_map(|(id, _)| model.get(&id).map(|row| (id, *row)))));
        }
    }
}
