//! Processors: the typed nodes that a task runs records through.
//!
//! `process` is synchronous and depth first: a child's subtree is done before the next child sees the record.
//! A node owns its children as typed trait objects, so a hop costs one virtual call and no allocation; what no
//! operator between two stores changes (event time, headers) does not travel with it, but stands in the [`Context`].
//! Types are erased only at sources and sinks. Processors know nothing of tasks, clocks or the network; what leaves
//! them goes through [`Context`].

mod aggregate;
mod context;
mod edge;
mod join;
mod stateless;
mod table;
mod window;
mod windows;

pub(crate) use aggregate::{Keyed, StreamAggregate, TableAggregate, TableReduce};
pub(crate) use context::{Context, Origin, Output, Outputs, RecordView};
pub use context::{Counters, ProcessError, TopicId};
pub(crate) use edge::{NullKeys, RecordSink, RecordSource, Rows, Source, StreamToTable, TableSource};
pub(crate) use join::{GlobalJoin, JoinKind, TableJoin};
pub(crate) use stateless::{
    Branch, BranchPredicate, Filter, FlatMap, FlatMapValues, Map, MapValues, Peek, Rekey, Shared,
};
pub(crate) use table::{FilterTable, MapTable, RegroupTable, TableToStream};
pub(crate) use window::WindowAggregate;
pub use windows::Windows;

use crate::codec::Data;

/// One node of a running sub-topology. The event time and the headers of what it is given stand in the context.
pub(crate) trait Process<K, V> {
    /// Takes one record and everything that follows from it.
    fn process(&mut self, cx: &mut Context, key: K, value: V);
}

/// The children of a node, in the order in which they were added.
pub(crate) struct Children<C: ?Sized> {
    others: Vec<Box<C>>,
    /// Apart from the others, since it is given what they are given copies of.
    last: Option<Box<C>>,
}

/// The children of a node that puts out records.
pub(crate) type Downstream<K, V> = Children<dyn Process<K, V>>;

/// An operator behind a table. It is shown rows where they stand: who needs one for longer makes a copy.
pub(crate) trait Follow<K, V> {
    /// The row of a key before it changes, `None` if there is none. Told only where somebody wants to know, and
    /// always followed by [`Follow::after`].
    fn before(&mut self, key: &K, old: Option<&V>);

    /// The row of a key as it is now, `None` if it is deleted.
    fn after(&mut self, cx: &mut Context, key: K, new: Option<&V>);
}

/// The operators behind a table.
pub(crate) type Followers<K, V> = Children<dyn Follow<K, V>>;

impl<C: ?Sized> Children<C> {
    pub(crate) fn new(mut children: Vec<Box<C>>) -> Children<C> {
        let last = children.pop();
        Children { others: children, last }
    }

    /// Whether nobody would see a record, so that it need not be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}

impl<K: Data, V: Data> Downstream<K, V> {
    /// Gives the record to every child; the last one gets it without a copy.
    #[inline]
    pub(crate) fn forward(&mut self, cx: &mut Context, key: K, value: V) {
        let Some(last) = &mut self.last else { return };
        if !self.others.is_empty() {
            copy_to(&mut self.others, cx, &key, &value);
        }
        last.process(cx, key, value);
    }
}

/// Apart, so that a chain of single children is nothing but calls.
#[inline(never)]
fn copy_to<K: Data, V: Data>(others: &mut [Box<dyn Process<K, V>>], cx: &mut Context, key: &K, value: &V) {
    for child in others {
        child.process(cx, key.clone(), value.clone());
    }
}

impl<K: Data, V: Data> Followers<K, V> {
    pub(crate) fn before(&mut self, key: &K, old: Option<&V>) {
        for child in self.others.iter_mut().chain(&mut self.last) {
            child.before(key, old);
        }
    }

    pub(crate) fn after(&mut self, cx: &mut Context, key: K, new: Option<&V>) {
        for child in &mut self.others {
            child.after(cx, key.clone(), new);
        }
        if let Some(last) = &mut self.last {
            last.after(cx, key, new);
        }
    }
}
