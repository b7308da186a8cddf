//! The stores of one task, by typed handles.
//!
//! A task owns its stores here; processors and lookups have handles, and reach the stores through what they are given with
//! each record. Each store stands in a cell of its own: while a row is shown to who is behind, they may look into the same
//! store and change others. Nobody changes a store while a row of it is shown, since a sub-topology has no circles.

use super::{AnyStore, Store};
use crate::codec::Data;
use std::{
    any::Any,
    cell::{Ref, RefCell, RefMut},
    marker::PhantomData,
};

/// Names a store of `V` in the arena of its task.
pub(crate) struct Handle<V> {
    at: usize,
    rows: PhantomData<fn() -> V>,
}

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Handle<V> {}

/// Why typed access finds what it looks for.
const TYPED: &str = "a handle is of a store of its arena, and has its type";

/// The stores of a task, in the order of their making.
#[derive(Default)]
pub(crate) struct Stores(Vec<RefCell<Box<dyn AnyStore>>>);

impl Stores {
    /// Takes a store in, at the next number.
    pub(crate) fn add<V: Data>(&mut self, store: Store<V>) -> Handle<V> {
        self.0.push(RefCell::new(Box::new(store)));
        Handle { at: self.0.len() - 1, rows: PhantomData }
    }

    /// The handle of the store of this number, if that has rows of `V`.
    pub(crate) fn handle<V: Data>(&self, at: usize) -> Option<Handle<V>> {
        let store = self.0.get(at)?.borrow();
        typed::<V>(&**store).map(|_| Handle { at, rows: PhantomData })
    }

    /// A store to read.
    #[inline]
    pub(crate) fn get<V: Data>(&self, handle: Handle<V>) -> Ref<'_, Store<V>> {
        Ref::map(self.0.get(handle.at).expect(TYPED).borrow(), |store| typed(&**store).expect(TYPED))
    }

    /// A store to change, which must not be borrowed.
    #[inline]
    pub(crate) fn get_mut<V: Data>(&self, handle: Handle<V>) -> RefMut<'_, Store<V>> {
        let store = self.0.get(handle.at).expect(TYPED).borrow_mut();
        RefMut::map(store, |store| {
            let store: &mut dyn Any = &mut **store;
            store.downcast_mut().expect(TYPED)
        })
    }

    /// The store of this number, with its type forgotten.
    pub(crate) fn any(&self, at: usize) -> Option<Ref<'_, dyn AnyStore>> {
        Some(Ref::map(self.0.get(at)?.borrow(), |store| &**store))
    }

    /// The same to change.
    pub(crate) fn any_mut(&mut self, at: usize) -> Option<&mut dyn AnyStore> {
        Some(&mut **self.0.get_mut(at)?.get_mut())
    }

    /// Puts the store of the same number of another arena in the place of this one, if it is one of the same name and rows.
    pub(crate) fn replace(&mut self, at: usize, other: &mut Stores) -> bool {
        let (Some(ours), Some(theirs)) = (self.0.get_mut(at), other.0.get_mut(at)) else { return false };
        let (ours, theirs) = (ours.get_mut(), theirs.get_mut());
        let is_same = ours.name() == theirs.name() && (**ours).type_id() == (**theirs).type_id();
        if is_same {
            std::mem::swap(ours, theirs);
        }
        is_same
    }

    /// Number of stores.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn typed<V: Data>(store: &dyn AnyStore) -> Option<&Store<V>> {
    (store as &dyn Any).downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{I64, Utf8};
    use std::sync::Arc;

    #[test]
    fn a_handle_is_given_for_the_type_of_its_store_only() {
        let mut stores = Stores::default();
        let numbers = stores.add(Store::new("numbers".into(), Arc::new(I64), true));
        let texts = stores.add(Store::new("texts".into(), Arc::new(Utf8), true));
        stores.get_mut(numbers).put(b"k", Some(1), 10);
        stores.get_mut(texts).put(b"k", Some("one".into()), 20);
        let again = stores.handle::<i64>(0).expect("the first has numbers");
        assert_eq!(stores.get(again).get(b"k"), Some((&1, 10)));
        assert!(stores.handle::<i64>(1).is_none() && stores.handle::<String>(2).is_none());
    }

    #[test]
    fn a_store_takes_the_place_of_one_of_its_name_and_type_only() {
        let of = |name: &str| {
            let mut stores = Stores::default();
            let handle = stores.add(Store::new(name.into(), Arc::new(I64), true));
            stores.get_mut(handle).put(b"k", Some(7), 10);
            stores
        };
        let mut texts = Stores::default();
        texts.add(Store::new("numbers".into(), Arc::new(Utf8), true));
        let mut stores = Stores::default();
        let numbers = stores.add(Store::new("numbers".into(), Arc::new(I64), true));
        assert!(!stores.replace(0, &mut of("others")) && !stores.replace(0, &mut texts));
        assert!(!stores.replace(1, &mut of("numbers")) && stores.get(numbers).get(b"k").is_none());
        assert!(stores.replace(0, &mut of("numbers")));
        assert_eq!(stores.get(numbers).get(b"k"), Some((&7, 10)));
    }

    #[test]
    fn a_row_that_is_shown_stays_while_its_store_is_read_and_another_changed() {
        let mut stores = Stores::default();
        let shown = stores.add(Store::new("shown".into(), Arc::new(I64), true));
        let other = stores.add(Store::new("other".into(), Arc::new(I64), true));
        stores.get_mut(shown).put(b"k", Some(1), 10);
        let store = stores.get(shown);
        let row = store.get(b"k");
        stores.get_mut(other).put(b"k", stores.get(shown).get(b"k").map(|(row, _)| row + 1), 20);
        assert_eq!((row, stores.get(other).get(b"k")), (Some((&1, 10)), Some((&2, 20))));
    }
}
