//! Processors: the typed nodes that a task runs records through.
//!
//! `process` is synchronous and depth first: a child's subtree is done before the next child sees the record.
//! A node owns its children as typed trait objects, so a hop costs one virtual call and no allocation. Types
//! are erased only at sources and sinks. Processors know nothing of tasks, clocks or the network; what leaves
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
    TableToStream,
};
pub(crate) use table::{FilterTable, MapTable, RegroupTable};
pub(crate) use window::WindowAggregate;
pub use windows::Windows;

use crate::{codec::Data, record::Record};

/// One node of a running sub-topology.
pub(crate) trait Process<K, V> {
    /// Takes one record and everything that follows from it.
    fn process(&mut self, cx: &mut Context, record: Record<K, V>);
}

/// The children of a node, in the order in which they were added.
pub(crate) struct Downstream<K, V>(Vec<Box<dyn Process<K, V>>>);

impl<K: Data, V: Data> Downstream<K, V> {
    pub(crate) fn new(children: Vec<Box<dyn Process<K, V>>>) -> Downstream<K, V> {
        Downstream(children)
    }

    /// Whether nobody would see a record, so that it need not be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the record to every child; the last one gets it without a copy.
    pub(crate) fn forward(&mut self, cx: &mut Context, record: Record<K, V>) {
        let Some((last, others)) = self.0.split_last_mut() else { return };
        for child in others {
            child.process(cx, record.clone());
        }
        last.process(cx, record);
    }
}
