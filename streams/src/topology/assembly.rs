//! Making the processors and stores of one task.
//!
//! Children are added to an [`Outlet`] while wiring; when a task is made, every outlet builds its children and
//! hands them, typed, to the node above. `Any` appears only here, while a task is being put together and when
//! a query looks for its table; never per record.

use super::{Changelog, ClockId, NodeId, TopicId, Topology, graph::StoreDef};
use crate::{
    codec::Data,
    processor::{
        Children, Downstream, EventTimes, FailurePolicy, Fallible, Follow, Forked, Process, Shared, Source,
        Timestamps,
    },
    record::Meta,
    store::{Dropped, GlobalStore, GlobalWriter, SharedLookup, Store, StoreHandle},
};
use parking_lot::Mutex;
use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

/// Number of a table in its topology.
pub(crate) type ViewId = usize;

pub(crate) type ChildFactory<C> = Box<dyn Fn(&mut Assembly<'_>) -> Box<C> + Send + Sync>;

/// The children of an operator while wiring.
pub(crate) struct Outlet<C: ?Sized>(Mutex<Vec<ChildFactory<C>>>);

/// Where records of a stream go to.
pub(crate) type StreamOutlet<K, V> = Outlet<dyn Process<K, V>>;

/// Where changes of a table go to.
pub(crate) type TableOutlet<K, V> = Outlet<dyn Follow<K, V>>;

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
    shared: HashMap<NodeId, Rc<dyn Any>>,
    typed_stores: HashMap<usize, Rc<dyn Any>>,
    stores: Vec<(usize, AnyStore)>,
    /// Stores that the source being made has behind it: its keys will be looked up there.
    behind: Vec<usize>,
    clocks: Vec<ClockId>,
    views: HashMap<ViewId, Box<dyn Any>>,
}

/// A store whose type is forgotten.
pub(crate) type AnyStore = Rc<RefCell<dyn StoreHandle>>;

/// What an assembly makes.
pub(crate) struct Parts {
    /// Sources by topic, in the order of their making.
    pub(crate) sources: Vec<(TopicId, Box<dyn Source>)>,
    /// Stores with where they are logged.
    pub(crate) stores: Vec<(Changelog, AnyStore)>,
    /// Stores in which the keys of a topic are looked up as its records come.
    pub(crate) looked_up: Vec<(TopicId, AnyStore)>,
    /// The operators that keep a clock, by clock number.
    pub(crate) clocks: Vec<ClockId>,
    /// Lookups of tables, as `SharedLookup<K, V>` of the table's types.
    pub(crate) views: HashMap<ViewId, Box<dyn Any>>,
}

impl<'a> Assembly<'a> {
    /// Makes the parts of one task of a sub-topology.
    pub(crate) fn run(topology: &'a Topology, sub_topology: usize, globals: &'a Globals) -> Parts {
        let mut assembly = Assembly {
            topology,
            globals,
            shared: HashMap::new(),
            typed_stores: HashMap::new(),
            stores: Vec::new(),
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
            let stores = assembly.stores.iter().filter(|(index, _)| behind.contains(index));
            looked_up.extend(stores.map(|(_, store)| (source.topic, Rc::clone(store))));
        }
        for view in topology.0.views.iter().filter(|view| part.nodes.contains(&view.node)) {
            (view.register)(&mut assembly);
        }
        assembly.stores.sort_by_key(|(index, _)| *index);
        let stores = assembly
            .stores
            .into_iter()
            .filter_map(|(index, store)| topology.0.stores.get(index).map(|def| (def.changelog, store)));
        let (stores, clocks) = (stores.collect(), assembly.clocks);
        Parts { sources, stores, looked_up, clocks, views: assembly.views }
    }

    /// The children of a node with several parents: made once, shared by all of them.
    pub(crate) fn shared<K: Data, V: Data>(
        &mut self,
        node: NodeId,
        outlet: &StreamOutlet<K, V>,
    ) -> Box<dyn Process<K, V>> {
        let known =
            self.shared.get(&node).cloned().and_then(|any| any.downcast::<RefCell<Downstream<K, V>>>().ok());
        let down = known.unwrap_or_else(|| {
            let down = Rc::new(RefCell::new(outlet.assemble(self)));
            self.shared.insert(node, Rc::clone(&down) as Rc<dyn Any>);
            down
        });
        Box::new(Shared(down))
    }

    /// The store of this number, made by the first who asks.
    pub(crate) fn store<V: Data>(
        &mut self,
        index: usize,
        make: impl FnOnce(&StoreDef) -> Store<V>,
    ) -> Rc<RefCell<Store<V>>> {
        self.behind.push(index);
        let known = self.typed_stores.get(&index).cloned();
        if let Some(store) = known.and_then(|any| any.downcast::<RefCell<Store<V>>>().ok()) {
            return store;
        }
        let def = self.topology.0.stores.get(index).expect("store numbers come from this topology");
        let store = Rc::new(RefCell::new(make(def)));
        self.typed_stores.insert(index, Rc::clone(&store) as Rc<dyn Any>);
        self.stores.push((index, Rc::clone(&store) as AnyStore));
        store
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

    pub(crate) fn register<K: Data, V: Data>(&mut self, view: ViewId, lookup: SharedLookup<K, V>) {
        self.views.insert(view, Box::new(lookup));
    }
}
