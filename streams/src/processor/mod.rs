//! Processors: the typed nodes that a task runs records through.
//!
//! `process` is synchronous and depth first: a child's subtree is done before the next child sees the record.
//! A node owns its children as typed trait objects, so a hop costs one virtual call and no allocation; what no
//! operator between two stores changes (event time, headers) does not travel with it, but stands in the [`Context`].
//! Types are erased only at sources and sinks. Processors know nothing of tasks, clocks or the network; what leaves
//! them goes through [`Context`].

mod aggregate;
mod context;
mod counters;
mod edge;
mod failure;
mod join;
mod key;
mod outputs;
mod shared;
mod stamp;
mod stateless;
mod table;
mod timestamps;
mod window;
mod windows;

pub(crate) use aggregate::{Keyed, StreamAggregate, TableAggregate};
pub(crate) use context::{Context, ContextState, RecordView, panic_text};
pub use context::{ProcessError, TopicId};
pub use counters::Counters;
pub(crate) use edge::{
    ChoosingSink, NullKeys, RecordSink, RecordSource, Rows, Source, StreamToTable, TableSource,
};
pub use failure::OnFailure;
pub(crate) use failure::{FailurePolicy, Fallible};
pub(crate) use join::{GlobalJoin, JoinKind, TableJoin};
pub(crate) use key::KeyBytes;
pub(crate) use outputs::{Output, OutputTo, OutputView, Outputs};
pub(crate) use shared::{Shared, SharedNodes};
pub(crate) use stamp::{Frontier, Stamp};
pub(crate) use stateless::{
    Branch, BranchPredicate, Filter, FlatMap, FlatMapValues, Map, MapValues, Peek, Rekey, Step, spread,
};
pub(crate) use table::{FilterTable, MapTable, RegroupTable, TableToStream};
pub(crate) use timestamps::{EventTimes, TimeOf, Timestamps};
pub(crate) use window::WindowAggregate;
pub use windows::Windows;

use crate::codec::Data;

/// One node of a running sub-topology. The event time and the headers of what it is given stand in the context.
pub(crate) trait Process<K, V> {
    /// Takes one record and everything that follows from it.
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V);
}

/// An operator behind a table. It is shown rows where they stand: who needs one for longer makes a copy.
pub(crate) trait Follow<K, V> {
    /// The row of a key before it changes, `None` if there is none. Told only where somebody wants to know, and
    /// always followed by [`Follow::after`].
    fn before(&mut self, key: &K, old: Option<&V>);

    /// The row of a key as it is now, `None` if it is deleted.
    fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V>);
}

/// A node of a task, which moves between threads.
pub(crate) type AnyProcess<K, V> = dyn Process<K, V> + Send;

/// An operator behind a table of a task, which moves between threads.
pub(crate) type AnyFollow<K, V> = dyn Follow<K, V> + Send;

/// What is behind a node: nothing, a child, or a [`Fork`] to several, so that a chain of single children is nothing but
/// calls.
pub(crate) struct Children<C: ?Sized>(Option<Box<C>>);

/// What is behind a node that puts out records.
pub(crate) type Downstream<K, V> = Children<AnyProcess<K, V>>;

/// What is behind a table.
pub(crate) type Followers<K, V> = Children<AnyFollow<K, V>>;

/// Several children as one. They are served in the order in which they were added; all but the last get copies.
pub(crate) struct Fork<C: ?Sized> {
    others: Vec<Box<C>>,
    last: Box<C>,
}

/// A kind of node that several can be taken for.
pub(crate) trait Forked {
    fn fork(children: Fork<Self>) -> Box<Self>;
}

impl<C: ?Sized + Forked> Children<C> {
    pub(crate) fn new(mut children: Vec<Box<C>>) -> Children<C> {
        let last = children.pop();
        Children(match children.is_empty() {
            true => last,
            false => last.map(|last| C::fork(Fork { others: children, last })),
        })
    }

    /// Whether nobody would see a record, so that it need not be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<K: Data, V: Data> Downstream<K, V> {
    #[inline]
    pub(crate) fn forward(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        if let Some(child) = &mut self.0 {
            child.process(cx, key, value);
        }
    }
}

impl<K: Data, V: Data> Followers<K, V> {
    pub(crate) fn before(&mut self, key: &K, old: Option<&V>) {
        if let Some(child) = &mut self.0 {
            child.before(key, old);
        }
    }

    pub(crate) fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V>) {
        if let Some(child) = &mut self.0 {
            child.after(cx, key, new);
        }
    }
}

impl<K: Data, V: Data> Forked for AnyProcess<K, V> {
    fn fork(children: Fork<Self>) -> Box<Self> {
        Box::new(children)
    }
}

impl<K: Data, V: Data> Process<K, V> for Fork<AnyProcess<K, V>> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        for child in &mut self.others {
            child.process(cx, key.clone(), value.clone());
        }
        self.last.process(cx, key, value);
    }
}

impl<K: Data, V: Data> Forked for AnyFollow<K, V> {
    fn fork(children: Fork<Self>) -> Box<Self> {
        Box::new(children)
    }
}

impl<K: Data, V: Data> Follow<K, V> for Fork<AnyFollow<K, V>> {
    fn before(&mut self, key: &K, old: Option<&V>) {
        self.others.iter_mut().for_each(|child| child.before(key, old));
        self.last.before(key, old);
    }

    fn after(&mut self, cx: &mut Context<'_>, key: K, new: Option<&V>) {
        for child in &mut self.others {
            child.after(cx, key.clone(), new);
        }
        self.last.after(cx, key, new);
    }
}
