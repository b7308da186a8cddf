//! The beginning of every topology: its name and what it reads.

use super::{Stream, Table};
use crate::{
    codec::{Codec, Data, SharedCodec},
    processor::{RecordSource, Rows, TableSource},
    store::{Fold, GlobalStore, GlobalWriter, Store, StoreLookup},
    topology::{
        Changelog, GlobalTable as AnyGlobalTable, Graph, Outlet, StreamOutlet, TopicKind, Topology,
        WiringErrors,
    },
};
use std::{fmt, sync::Arc};

/// Wires a topology.
///
/// ```
/// use kappa_streams::{Builder, codec::{I64, Utf8, opt}};
/// let b = Builder::new("word-count");
/// let counts = b
///     .stream("lines", (opt(Utf8), Utf8))
///     .flat_map_values(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
///     .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
///     .count("counts");
/// counts.to_stream().to("word-counts", (Utf8, I64));
/// let topology = b.build()?;
/// assert_eq!(topology.input_topics(), ["lines"]);
/// # Ok::<(), kappa_streams::WiringErrors>(())
/// ```
#[derive(Clone)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// A topology of the application `name`; the name begins the names of its internal topics and its group.
    pub fn new(name: &str) -> Builder {
        Builder { graph: Graph::new(name) }
    }

    /// Reads a topic as a stream. A null that meets a codec without null is dropped and counted.
    pub fn stream<KC: Codec, VC: Codec>(&self, topic: &str, codecs: (KC, VC)) -> Stream<KC::Item, VC::Item> {
        let codecs: (SharedCodec<KC::Item>, SharedCodec<VC::Item>) = (Arc::new(codecs.0), Arc::new(codecs.1));
        let id = self.graph.topic(topic, TopicKind::External);
        Stream::from_topic(&self.graph, "source", topic, id, codecs)
    }

    /// Reads a topic as a table: the last value per key, a null value deletes. The topic itself serves as the
    /// table's changelog. Records without a key are dropped and counted.
    pub fn table<KC: Codec, VC: Codec>(&self, topic: &str, codecs: (KC, VC)) -> Table<KC::Item, VC::Item> {
        let codecs: (SharedCodec<KC::Item>, SharedCodec<VC::Item>) = (Arc::new(codecs.0), Arc::new(codecs.1));
        let id = self.graph.topic(topic, TopicKind::External);
        let node = self.graph.node("table source", topic, &[]);
        self.graph.contents(node, contents_of(&codecs));
        let outlet = Outlet::new();
        let store = self.graph.store(topic, node, Changelog::Source(id));
        let value = Arc::clone(&codecs.1);
        let lookup = Table::stored(move |assembly| {
            assembly.store(store, |def| Store::new(Arc::clone(&def.name), Arc::clone(&value), false))
        });
        let table = Table::read(&self.graph, node, Arc::clone(&outlet), codecs.clone(), lookup);
        let (name, send_old) = (self.graph.name(node), table.send_old());
        self.graph.source(
            node,
            id,
            Arc::new(move |assembly| {
                let value = Arc::clone(&codecs.1);
                let store = assembly.store(store, |def| Store::new(Arc::clone(&def.name), value, false));
                let rows = Rows { store, send_old: send_old.get(), down: outlet.assemble(assembly) };
                Box::new(TableSource { name: Arc::clone(&name), fold: Fold::new(codecs.clone()), rows })
            }),
        );
        table
    }

    /// Reads a whole topic into every instance as a table to join with. It is loaded before records are
    /// processed; later changes of it trigger nothing.
    pub fn global_table<KC: Codec, VC: Codec>(
        &self,
        topic: &str,
        codecs: (KC, VC),
    ) -> GlobalTable<KC::Item, VC::Item> {
        let key: SharedCodec<KC::Item> = Arc::new(codecs.0);
        let value: SharedCodec<VC::Item> = Arc::new(codecs.1);
        let id = self.graph.topic(topic, TopicKind::External);
        let (name, of_writer): (Arc<str>, _) = (topic.into(), Arc::clone(&key));
        let index = self.graph.global(
            topic,
            id,
            Arc::new(move || {
                let store = Arc::new(GlobalStore::new(Arc::clone(&name), Arc::clone(&value)));
                let codecs = (Arc::clone(&of_writer), Arc::clone(&value));
                let writer = GlobalWriter::new(Arc::clone(&store), codecs);
                (store as _, Arc::new(writer) as Arc<dyn AnyGlobalTable>)
            }),
        );
        GlobalTable { key, index, value: std::marker::PhantomData }
    }

    /// Checks the wiring and makes the topology; all mistakes are reported at once. Nothing can be wired after.
    pub fn build(&self) -> Result<Topology, WiringErrors> {
        self.graph.build()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

/// A table that every instance holds whole.
pub struct GlobalTable<K, V> {
    pub(crate) key: SharedCodec<K>,
    pub(crate) index: usize,
    value: std::marker::PhantomData<fn() -> V>,
}

impl<K: Data, V: Data> Clone for GlobalTable<K, V> {
    fn clone(&self) -> Self {
        GlobalTable { key: Arc::clone(&self.key), index: self.index, value: std::marker::PhantomData }
    }
}

impl<K, V> fmt::Debug for GlobalTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalTable").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What the bytes of keys and values are.
pub(crate) fn contents_of<K: Data, V: Data>((keys, values): &(SharedCodec<K>, SharedCodec<V>)) -> String {
    format!("{} -> {}", keys.describe(), values.describe())
}

/// Makes a source node; shared by topics and repartition topics.
impl<K: Data, V: Data> Stream<K, V> {
    pub(crate) fn from_topic(
        graph: &Graph,
        operator: &'static str,
        name: &str,
        topic: crate::topology::TopicId,
        codecs: (SharedCodec<K>, SharedCodec<V>),
    ) -> Stream<K, V> {
        let node = graph.node(operator, name, &[]);
        graph.contents(node, contents_of(&codecs));
        let outlet: Arc<StreamOutlet<K, V>> = Outlet::new();
        let (name, children, of_source) = (graph.name(node), Arc::clone(&outlet), codecs.clone());
        let is_own = graph.is_repartition(topic);
        graph.source(
            node,
            topic,
            Arc::new(move |assembly| {
                let down = children.assemble(assembly);
                Box::new(RecordSource { name: Arc::clone(&name), codecs: of_source.clone(), is_own, down })
            }),
        );
        Stream::new(graph, node, outlet, (Some(codecs.0), Some(codecs.1)))
    }
}

/// The lookup of a table that is kept in a store.
impl<K: Data, V: Data> Table<K, V> {
    pub(crate) fn stored(
        store: impl Fn(&mut crate::topology::Assembly<'_>) -> std::rc::Rc<std::cell::RefCell<Store<V>>>
        + Send
        + Sync
        + 'static,
    ) -> super::table::LookupFactory<K, V> {
        Arc::new(move |assembly| std::rc::Rc::new(StoreLookup(store(assembly))))
    }
}
