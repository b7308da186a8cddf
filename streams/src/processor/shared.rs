//! Nodes with several parents.
//!
//! What is behind such a node is made once per task and stands in an arena of it; every parent has a handle. No record
//! comes back to a node that it has not left, since a sub-topology has no circles.

use super::{Context, Downstream, Process};
use crate::codec::Data;
use std::{any::Any, cell::RefCell, marker::PhantomData};

/// What a parent has of a node with several.
pub(crate) struct Shared<K, V> {
    at: usize,
    records: PhantomData<fn(K, V)>,
}

impl<K, V> Clone for Shared<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Shared<K, V> {}

/// What is behind the nodes of a task that have several parents.
#[derive(Default)]
pub(crate) struct SharedNodes(Vec<RefCell<Box<dyn Any + Send>>>);

impl SharedNodes {
    pub(crate) fn add<K: Data, V: Data>(&mut self, down: Downstream<K, V>) -> Shared<K, V> {
        self.0.push(RefCell::new(Box::new(down)));
        Shared { at: self.0.len() - 1, records: PhantomData }
    }
}

impl<K: Data, V: Data> Process<K, V> for Shared<K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        let cell = cx.shared.0.get(self.at).expect("handles are of the task that they were made for");
        let mut node = cell.borrow_mut();
        let down = node.downcast_mut::<Downstream<K, V>>();
        down.expect("a handle has the types of its node").forward(cx, key, value);
    }
}
