//! Making the processors and stores of one task.
//!
//! Children are added to an [`Outlet`] while wiring; when a task is made, every outlet builds its children and
//! hands them, typed, to the node above. `Any` appears only here, while a task is being put together and when
//! a query looks for its table; never per record.

use super::{Changelog, ClockId, NodeId, TopicId, Topology, graph::StoreDef};
use crate::{
    codec::Data,
    processor::{
        AnyFollow, AnyProcess, Children, EventTimes, FailurePolicy, Fallible, Forked, Shared, SharedNodes,
        Source, Timestamps,
    },
    record::Meta,
    store::{Dropped, GlobalStore, GlobalWriter, Handle, Store, Stores, TableLookup},
};
use parking_lot::Mutex;
use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Number of a table in its topology.
pub(crate) type ViewId = usize;

pub(crate) type ChildFactory<C> = Box<dyn Fn(&mut Assembly<'_>) -> Box<C> + Send + Sync>;

/// The children of an operator while wiring.
pub(crate) struct Outlet<C: ?Sized>(Mutex<Vec<ChildFactory<C>>>);

/// Where records of a stream go to.
pub(crate) type StreamOutlet<K, V> = Outlet<AnyProcess<K, V>>;

/// Where changes of a table go to.
pub(crate) type TableOutlet<K, V> = Outlet<AnyFollow<K, V>>;

impl<C: ?Sized + Forked> Outlet<C> {
    pub(crate) fn new() -> Arc<Outlet<C>> {
        Arc::new(Outlet(Mutex::new(Vec::new())))
    }

    pub(crate) fn add(&self, child: ChildFactory<C>) {
        self.0.lock().push(child);
    }

    /// Makes the children for one task.
    pub(crate) fn assemble(&self, assembly: &mut Assembly<'_>) -> Children<C> {
        Children::new(self.0.lock().iter().map(|child| child(assembly)).collect())
    }
}

/// A global table whose type is forgotten.
pub(crate) trait GlobalTable: Send + Sync {
    /// Applies a record of its topic.
    fn apply(&self, record: &Meta<'_>, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Dropped>;
}

/// Reads the topic of a global table.
pub(crate) struct GlobalSource<K, V> {
    pub(crate) writer: GlobalWriter<K, V>,
    pub(crate) timestamps: Option<Timestamps<K, V>>,
}

impl<K: Data, V: Data> GlobalTable for GlobalSource<K, V> {
    fn apply(&self, record: &Meta<'_>, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Dropped> {
        let time = |timestamps: &Timestamps<K, V>| timestamps.time(record, key, value);
        self.writer.apply(key, value, self.timestamps.as_ref().map_or(record.timestamp, time))
    }
}

pub(crate) type AnyGlobal = Arc<dyn Any + Send + Sync>;

/// The global tables of one instance, in the topology's order.
#[derive(Clone)]
pub(crate) struct Globals(Arc<[(AnyGlobal, Arc<dyn GlobalTable>)]>);

impl Globals {
    /// Empty global tables of a topology.
    pub(crate) fn new(topology: &Topology) -> Globals {
        Globals(topology.0.globals.iter().map(|global| (global.make)()).collect())
    }

    pub(crate) fn table(&self, index: usize) -> Option<&Arc<dyn GlobalTable>> {
        self.0.get(index).map(|(_, table)| table)
    }

    pub(crate) fn store<T: Data>(&self, index: usize) -> Arc<GlobalStore<T>> {
        let any = self.0.get(index).map(|(any, _)| Arc::clone(any));
        let store = any.and_then(|any| any.downcast::<GlobalStore<T>>().ok());
        store.expect("a global table's handle has the type it was made with")
    }
}

/// A task being put together.
pub(crate) struct Assembly<'a> {
    topology: &'a Topology,
    globals: &'a Globals,
    shared: SharedNodes,
    /// Handles of the nodes in it.
    shared_handles: HashMap<NodeId, Box<dyn Any>>,
    stores: Stores,
    /// Their numbers in the topology.
    store_numbers: Vec<usize>,
    /// Stores that the source being made has behind it: its keys will be looked up there.
    behind: Vec<usize>,
    clocks: Vec<ClockId>,
    views: Views,
}

/// Lookups of tables, as `TableLookup<K, V>` of the table's types.
pub(crate) type Views = HashMap<ViewId, Box<dyn Any + Send>>;

/// What an assembly makes.
pub(crate) struct Parts {
    /// Sources by topic, in the order of their making.
    pub(crate) sources: Vec<(TopicId, Box<dyn Source>)>,
    pub(crate) stores: Stores,
    /// Where they are logged, by number.
    pub(crate) changelogs: Vec<Changelog>,
    /// Stores in which the keys of a topic are looked up as its records come, by number.
    pub(crate) looked_up: Vec<(TopicId, usize)>,
    /// Nodes with several parents.
    pub(crate) shared: SharedNodes,
    /// The operators that keep a clock, by clock number.
    pub(crate) clocks: Vec<ClockId>,
    pub(crate) views: Views,
}

impl<'a> Assembly<'a> {
    /// Makes the parts of one task of a sub-topology.
    pub(crate) fn run(topology: &'a Topology, sub_topology: usize, globals: &'a Globals) -> Parts {
        let mut assembly = Assembly {
            topology,
            globals,
            shared: SharedNodes::default(),
            shared_handles: HashMap::new(),
            stores: Stores::default(),
            store_numbers: Vec::new(),
            behind: Vec::new(),
            clocks: Vec::new(),
            views: HashMap::new(),
        };
        let part = topology.sub_topology(sub_topology);
        let defs = part.sources.iter().filter_map(|index| topology.0.sources.get(*index));
        let (mut sources, mut looked_up) = (Vec::new(), Vec::new());
        for source in defs {
            sources.push((source.topic, (source.make)(&mut assembly)));
            let behind: BTreeSet<usize> = assembly.behind.drain(..).collect();
            let stores = assembly.store_numbers.iter().enumerate();
            let stores = stores.filter(|(_, number)| behind.contains(number));
            looked_up.extend(stores.map(|(at, _)| (source.topic, at)));
        }
        for view in topology.0.views.iter().filter(|view| part.nodes.contains(&view.node)) {
            (view.register)(&mut assembly);
        }
        let changelogs = assembly.store_numbers.iter().map(|number| topology.store(*number).changelog);
        let changelogs = changelogs.collect();
        let Assembly { stores, shared, clocks, views, .. } = assembly;
        Parts { sources, stores, changelogs, looked_up, shared, clocks, views }
    }

    /// The children of a node with several parents: made once, shared by all of them.
    pub(crate) fn shared<K: Data, V: Data>(
        &mut self,
        node: NodeId,
        outlet: &StreamOutlet<K, V>,
    ) -> Box<AnyProcess<K, V>> {
        let known = self.shared_handles.get(&node).and_then(|any| any.downcast_ref::<Shared<K, V>>());
        let shared = known.copied().unwrap_or_else(|| {
            let down = outlet.assemble(self);
            let shared = self.shared.add(down);
            self.shared_handles.insert(node, Box::new(shared));
            shared
        });
        Box::new(shared)
    }

    /// The store of this number, made by the first who asks.
    pub(crate) fn store<V: Data>(
        &mut self,
        number: usize,
        make: impl FnOnce(&StoreDef) -> Store<V>,
    ) -> Handle<V> {
        self.behind.push(number);
        if let Some(at) = self.store_numbers.iter().position(|known| *known == number) {
            return self.stores.handle(at).expect("whoever asks for a store knows the type of its rows");
        }
        self.store_numbers.push(number);
        self.stores.add(make(self.topology.store(number)))
    }

    /// An operator that may fail, with what was said of it, else of the topology.
    pub(crate) fn fallible(&self, operator: &Arc<str>, policy: Option<FailurePolicy>) -> Fallible {
        Fallible { operator: Arc::clone(operator), policy: policy.or(self.topology.0.on_failure) }
    }

    /// A clock for an operator, kept under its name.
    pub(crate) fn clock(&mut self, name: &str) -> usize {
        self.clocks.push(ClockId::of(name));
        self.clocks.len() - 1
    }

    pub(crate) fn global<T: Data>(&self, index: usize) -> Arc<GlobalStore<T>> {
        self.globals.store(index)
    }

    pub(crate) fn register<K: Data, V: Data>(&mut self, view: ViewId, lookup: TableLookup<K, V>) {
        self.views.insert(view, Box::new(lookup));
    }
}
