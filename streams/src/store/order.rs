//! Keys in the order of their bytes, made by the first ordered read and kept up from then on.
//!
//! Invariant: once made, it holds the key of every row and no other.

use super::slab::RowId;
use std::{cell::OnceCell, collections::BTreeMap, ops::Bound};

/// Row ids in key-byte order.
#[derive(Debug, Default)]
pub(super) struct Order(OnceCell<BTreeMap<Box<[u8]>, RowId>>);

impl Order {
    pub(super) fn insert(&mut self, key: &[u8], id: RowId) {
        if let Some(ids) = self.0.get_mut() {
            let before = ids.insert(key.into(), id);
            debug_assert!(before.is_none(), "a key has one row");
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], id: RowId) {
        if let Some(ids) = self.0.get_mut() {
            let before = ids.remove(key);
            debug_assert!(before == Some(id), "a key that goes takes its own row along");
        }
    }

    /// The ids of a range; `all` tells every row, and is asked once.
    pub(super) fn range<'a, I: Iterator<Item = (&'a [u8], RowId)>>(
        &self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        all: impl FnOnce() -> I,
    ) -> impl Iterator<Item = RowId> {
        let ids = self.0.get_or_init(|| all().map(|(key, id)| (Box::from(key), id)).collect());
        is_range(from, to).then(|| ids.range::<[u8], _>((from, to))).into_iter().flatten().map(|(_, id)| *id)
    }

    /// Number of keys; `None` before it is made.
    #[cfg(test)]
    pub(super) fn len(&self) -> Option<usize> {
        self.0.get().map(BTreeMap::len)
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

#[cfg(test)]
mod tests {
    use super::{super::slab::Slab, *};
    use proptest::prelude::*;

    #[test]
    fn a_backward_range_is_empty() {
        let order = Order::default();
        let mut rows = Slab::new();
        let id = rows.insert(());
        let range = (Bound::Included(&b"b"[..]), Bound::Included(&b"a"[..]));
        assert_eq!(order.range(range, || std::iter::once((&b"a"[..], id))).count(), 0);
    }

    proptest! {
        #[test]
        fn an_order_equals_its_rows_whenever_it_is_made(
            steps in prop::collection::vec(prop::collection::vec(0u8..3, 0..3), 0..100),
            made_at in 0usize..100,
            (from, to) in (prop::collection::vec(0u8..3, 0..3), prop::collection::vec(0u8..3, 0..3)),
        ) {
            let (mut order, mut rows, mut model) = (Order::default(), Slab::new(), BTreeMap::new());
            let everything = (Bound::Unbounded, Bound::Unbounded);
            for (at, key) in steps.into_iter().enumerate() {
                match model.remove(&key) {
                    Some(id) => {
                        order.remove(&key, id);
                        rows.remove(id);
                    }
                    None => {
                        let id = rows.insert(());
                        order.insert(&key, id);
                        model.insert(key, id);
                    }
                }
                if at >= made_at {
                    let ids: Vec<RowId> = order
                        .range(everything, || model.iter().map(|(key, id)| (&key[..], *id)))
                        .collect();
                    prop_assert_eq!(ids, model.values().copied().collect::<Vec<_>>());
                    prop_assert_eq!(order.len(), Some(model.len()));
                }
            }
            let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            let ids: Vec<RowId> =
                order.range(range, || model.iter().map(|(key, id)| (&key[..], *id))).collect();
            let expected = model.iter().filter(|(key, _)| **key >= from && **key < to).map(|(_, id)| *id);
            prop_assert_eq!(ids, expected.collect::<Vec<_>>());
        }
    }
}
