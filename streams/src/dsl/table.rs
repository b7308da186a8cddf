//! Tables: the last value per key, as changes for the operators behind and as rows for joins and queries.

use super::{GroupedTable, Repartition, Stream, builder::contents_of};
use crate::{
    codec::{Codec, Data, Nulls, SharedCodec},
    processor::{AnyFollow, FilterTable, Followers, KeyBytes, Keyed, MapTable, RegroupTable, TableToStream},
    store::{Bounds, FilteredLookup, Lookup, MappedLookup, RowRef, Store, Stores, TableLookup},
    topology::{Assembly, Changelog, Graph, NodeId, Outlet, StreamOutlet, TableOutlet, TopicKind, ViewId},
};
use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) type LookupFactory<K, V> = Arc<dyn Fn(&mut Assembly<'_>) -> TableLookup<K, V> + Send + Sync>;

/// Whether an operator behind a table needs the row before a change. Known when wiring is complete.
#[derive(Debug, Clone, Default)]
pub(crate) struct SendOld {
    this: Arc<AtomicBool>,
    above: Vec<Arc<AtomicBool>>,
    /// Whether an operator keeps the rows. As in Kafka Streams a filter asks for old rows only then, so that one on a
    /// table read from a topic passes every tombstone.
    operator: bool,
}

impl SendOld {
    pub(crate) fn get(&self) -> bool {
        self.this.load(Ordering::Relaxed)
    }

    fn want(&self) {
        for flag in self.above.iter().chain([&self.this]) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn child(&self) -> SendOld {
        let above = self.above.iter().chain([&self.this]).map(Arc::clone).collect();
        SendOld { this: Arc::default(), above, operator: self.operator }
    }
}

/// A table with keys `K` and rows `V`; also the handle to query it by.
pub struct Table<K, V> {
    pub(crate) graph: Graph,
    pub(crate) node: NodeId,
    pub(crate) outlet: Arc<TableOutlet<K, V>>,
    /// Codec of keys as the store holds them, and of rows where it is known.
    pub(crate) codecs: (SharedCodec<K>, Option<SharedCodec<V>>),
    pub(crate) lookup: LookupFactory<K, V>,
    pub(crate) view: ViewId,
    send_old: SendOld,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Table {
            graph: self.graph.clone(),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            codecs: self.codecs.clone(),
            lookup: Arc::clone(&self.lookup),
            view: self.view,
            send_old: self.send_old.clone(),
        }
    }
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.graph.name(self.node)).finish_non_exhaustive()
    }
}

impl<K: Data, V: Data> Table<K, V> {
    /// The table of an operator that keeps a row per key in a store with a changelog, both called `name`; and, per
    /// task, what the operator works with.
    pub(crate) fn kept(
        graph: &Graph,
        node: NodeId,
        name: &str,
        codecs: (SharedCodec<K>, SharedCodec<V>),
        kept_key: Option<SharedCodec<K>>,
    ) -> (Table<K, V>, impl Fn(&mut Assembly<'_>) -> Keyed<K, V> + Send + Sync + 'static) {
        graph.contents(node, contents_of(&codecs));
        let changelog = graph.topic(name, TopicKind::Changelog { retention_ms: None });
        let store = graph.store(name, node, Changelog::Own(changelog));
        let (rows, nulls) = (Arc::clone(&codecs.1), Nulls::of(&codecs.1));
        let open = move |assembly: &mut Assembly<'_>| {
            assembly.store(store, |def| Store::new(Arc::clone(&def.name), Arc::clone(&rows), true))
        };
        let (outlet, keys, name) = (Outlet::new(), Arc::clone(&codecs.0), graph.name(node));
        let table = Table::new(graph, node, Arc::clone(&outlet), codecs, Table::stored(open.clone()));
        let send_old = table.send_old();
        let kept = move |assembly: &mut Assembly<'_>| Keyed {
            name: Arc::clone(&name),
            keys: KeyBytes::new(&keys, &kept_key),
            store: open(assembly),
            nulls: nulls.clone(),
            send_old: send_old.get(),
            down: outlet.assemble(assembly),
        };
        (table, kept)
    }

    pub(crate) fn new(
        graph: &Graph,
        node: NodeId,
        outlet: Arc<TableOutlet<K, V>>,
        codecs: (SharedCodec<K>, SharedCodec<V>),
        lookup: LookupFactory<K, V>,
    ) -> Table<K, V> {
        let send_old = SendOld { operator: true, ..SendOld::default() };
        Table::derived(graph, node, outlet, (codecs.0, Some(codecs.1)), lookup, send_old)
    }

    /// A table whose rows are those of a topic.
    pub(crate) fn read(
        graph: &Graph,
        node: NodeId,
        outlet: Arc<TableOutlet<K, V>>,
        codecs: (SharedCodec<K>, SharedCodec<V>),
        lookup: LookupFactory<K, V>,
    ) -> Table<K, V> {
        Table::derived(graph, node, outlet, (codecs.0, Some(codecs.1)), lookup, SendOld::default())
    }

    fn derived(
        graph: &Graph,
        node: NodeId,
        outlet: Arc<TableOutlet<K, V>>,
        codecs: (SharedCodec<K>, Option<SharedCodec<V>>),
        lookup: LookupFactory<K, V>,
        send_old: SendOld,
    ) -> Table<K, V> {
        let of_view = Arc::clone(&lookup);
        let view = graph.view(node, move |id, assembly| {
            let lookup = of_view(assembly);
            assembly.register(id, lookup);
        });
        Table { graph: graph.clone(), node, outlet, codecs, lookup, view, send_old }
    }

    /// Stands in for a table whose wiring failed; `build()` reports why, so it is never assembled.
    pub(crate) fn unusable(graph: &Graph, node: NodeId) -> Table<K, V> {
        let codecs = (Arc::new(NoCodec(PhantomData)) as SharedCodec<K>, None);
        Table::derived(graph, node, Outlet::new(), codecs, Arc::new(|_| Box::new(NoRows)), SendOld::default())
    }

    pub(crate) fn send_old(&self) -> SendOld {
        self.send_old.clone()
    }

    fn node_named(&self, operator: &'static str) -> NodeId {
        let name = format!("{}/{operator}", self.graph.name(self.node));
        self.graph.node(operator, &name, &[self.node])
    }

    fn child<V2: Data>(
        &self,
        node: NodeId,
        value: Option<SharedCodec<V2>>,
        lookup: LookupFactory<K, V2>,
        make: impl Fn(bool, Followers<K, V2>) -> Box<AnyFollow<K, V>> + Send + Sync + 'static,
    ) -> Table<K, V2> {
        let send_old = self.send_old.child();
        let outlet: Arc<TableOutlet<K, V2>> = Outlet::new();
        let (children, of_child) = (Arc::clone(&outlet), send_old.clone());
        self.outlet.add(Box::new(move |assembly| make(of_child.get(), children.assemble(assembly))));
        let codecs = (Arc::clone(&self.codecs.0), value);
        Table::derived(&self.graph, node, outlet, codecs, lookup, send_old)
    }

    /// The rows for which `predicate` holds. A row for which it has ceased to hold is deleted. One
    /// for which it never held changes nothing, except that the filter of a table read from a topic passes every
    /// deletion on, as in Kafka Streams.
    pub fn filter(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Table<K, V> {
        if self.send_old.operator {
            self.send_old.want();
        }
        let (predicate, behind) = (Arc::new(predicate), self.send_old.clone());
        let node = self.node_named("filter");
        let (inner, key, of_lookup) =
            (Arc::clone(&self.lookup), Arc::clone(&self.codecs.0), Arc::clone(&predicate));
        let lookup: LookupFactory<K, V> = Arc::new(move |assembly| {
            let (key, predicate) = (Arc::clone(&key), Arc::clone(&of_lookup));
            Box::new(FilteredLookup { inner: inner(assembly), key, predicate })
        });
        self.child(node, self.codecs.1.clone(), lookup, move |send_old, down| {
            let (predicate, old_known) = (Arc::clone(&predicate), behind.get());
            Box::new(FilterTable { predicate, old_known, send_old, passed: false, down })
        })
    }

    /// The rows for which `predicate` does not hold.
    pub fn filter_not(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Table<K, V> {
        self.filter(move |key, value| !predicate(key, value))
    }

    /// The rows with their values mapped; computed again when looked up, so nothing more is stored.
    pub fn map_values<V2: Data>(
        &self,
        mapper: impl Fn(&K, &V) -> V2 + Send + Sync + 'static,
    ) -> Table<K, V2> {
        let mapper = Arc::new(mapper);
        let node = self.node_named("map-values");
        let (inner, key, of_lookup) =
            (Arc::clone(&self.lookup), Arc::clone(&self.codecs.0), Arc::clone(&mapper));
        let lookup: LookupFactory<K, V2> = Arc::new(move |assembly| {
            let (key, mapper) = (Arc::clone(&key), Arc::clone(&of_lookup));
            Box::new(MappedLookup { inner: inner(assembly), key, mapper, mapped: PhantomData })
        });
        self.child(node, None, lookup, move |send_old, down| {
            Box::new(MapTable { mapper: Arc::clone(&mapper), send_old, down })
        })
    }

    /// The changes as a stream: the new row, or `None` for a deletion. A stream owns its values, so each row is copied;
    /// where rows are large, take what is wanted of them by [`Table::map_values`] first.
    pub fn to_stream(&self) -> Stream<K, Option<V>> {
        let node = self.node_named("to-stream");
        let outlet: Arc<StreamOutlet<K, Option<V>>> = Outlet::new();
        let children = Arc::clone(&outlet);
        self.outlet.add(Box::new(move |assembly| Box::new(TableToStream(children.assemble(assembly)))));
        let value =
            self.codecs.1.clone().map(|codec| Arc::new(crate::codec::opt(codec)) as SharedCodec<Option<V>>);
        Stream::new(&self.graph, node, outlet, (Some(Arc::clone(&self.codecs.0)), value))
    }

    /// Groups rows by another key, through a repartition topic, for an aggregate that follows every change: what a
    /// row was is subtracted, what it is now is added.
    pub fn group_by<KC: Codec, VC: Codec>(
        &self,
        repartition: impl Into<Repartition>,
        codecs: (KC, VC),
        mapper: impl Fn(&K, &V) -> (KC::Item, VC::Item) + Send + Sync + 'static,
    ) -> GroupedTable<KC::Item, VC::Item> {
        self.send_old.want();
        let Repartition { name, partitions } = repartition.into();
        self.graph.check_name("repartition", &name);
        let topic = self.graph.topic(&name, TopicKind::Repartition { partitions });
        let node = self.graph.node("repartition sink", &format!("{name}/sink"), &[self.node]);
        self.graph.sink(node, topic);
        let keys: SharedCodec<KC::Item> = Arc::new(codecs.0);
        let values: SharedCodec<VC::Item> = Arc::new(codecs.1);
        let (mapper, of_sink, sink_name) =
            (Arc::new(mapper), (Arc::clone(&keys), Arc::clone(&values)), self.graph.name(node));
        self.outlet.add(Box::new(move |_| {
            let sink = (Arc::clone(&sink_name), topic);
            Box::new(RegroupTable::new(sink, Arc::clone(&mapper), of_sink.clone()))
        }));
        GroupedTable::new(&self.graph, &name, topic, (keys, values))
    }
}

/// Codec of a table that cannot be.
struct NoCodec<T>(PhantomData<fn() -> T>);

impl<T: Data> Codec for NoCodec<T> {
    type Item = T;

    fn encode(&self, _: &T, _: &mut Vec<u8>) -> Result<(), crate::codec::CodecError> {
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, crate::codec::CodecError> {
        Err(crate::codec::CodecError::Length { item: "unusable table", expected: 0, actual: bytes.len() })
    }
}

struct NoRows;

impl<K, V> Lookup<K, V> for NoRows {
    fn with(&self, _: &Stores, _: (&K, &[u8]), read: &mut dyn FnMut(RowRef<'_, V>)) {
        read(None);
    }

    fn range(&self, _: &Stores, _: Bounds<'_>, _: &mut dyn FnMut(&[u8], &V, i64) -> bool) {}
}
