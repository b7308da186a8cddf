//! Streams of records and what can be done with each of them.

use super::{Grouped, Table, builder::contents_of};
use crate::{
    codec::{Codec, Data, SharedCodec, opt},
    processor::{
        Downstream, Filter, FlatMap, FlatMapValues, KeyBytes, Map, MapValues, NullKeys, Peek, Process,
        RecordSink, Rekey, Rows, StreamToTable,
    },
    record::Record,
    store::Store,
    topology::{Assembly, Changelog, Graph, NodeId, Outlet, StreamOutlet, TopicKind, WiringError},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A repartition topic to be: its name and, if not that of the inputs, its number of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repartition {
    pub(crate) name: String,
    pub(crate) partitions: Option<i32>,
}

impl Repartition {
    /// A topic of this name; `&str` converts into one by itself.
    pub fn named(name: &str) -> Repartition {
        Repartition { name: name.to_owned(), partitions: None }
    }

    /// Sets the number of partitions.
    pub fn partitions(self, partitions: i32) -> Repartition {
        Repartition { partitions: Some(partitions), ..self }
    }
}

impl From<&str> for Repartition {
    fn from(name: &str) -> Repartition {
        Repartition::named(name)
    }
}

/// What is known of how keys and values are written.
pub(crate) type KnownCodecs<K, V> = (Option<SharedCodec<K>>, Option<SharedCodec<V>>);

/// A stream of records with keys `K` and values `V`.
pub struct Stream<K, V> {
    pub(crate) graph: Graph,
    pub(crate) node: NodeId,
    pub(crate) outlet: Arc<StreamOutlet<K, V>>,
    pub(crate) codecs: KnownCodecs<K, V>,
    /// Whether keys have changed since the records were partitioned by them.
    pub(crate) rekeyed: bool,
    /// Tells the repartition topic above to keep records without a key.
    pub(crate) keep_null_keys: Option<Arc<AtomicBool>>,
    /// By which codec the key was written to the repartition topic above, if it is still the key.
    pub(crate) kept_key: Option<SharedCodec<K>>,
}

impl<K, V> Clone for Stream<K, V> {
    fn clone(&self) -> Self {
        Stream {
            graph: self.graph.clone(),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            codecs: self.codecs.clone(),
            rekeyed: self.rekeyed,
            keep_null_keys: self.keep_null_keys.clone(),
            kept_key: self.kept_key.clone(),
        }
    }
}

impl<K, V> fmt::Debug for Stream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("name", &self.graph.name(self.node)).finish_non_exhaustive()
    }
}

impl<K: Data, V: Data> Stream<K, V> {
    pub(crate) fn new(
        graph: &Graph,
        node: NodeId,
        outlet: Arc<StreamOutlet<K, V>>,
        codecs: KnownCodecs<K, V>,
    ) -> Stream<K, V> {
        let graph = graph.clone();
        Stream { graph, node, outlet, codecs, rekeyed: false, keep_null_keys: None, kept_key: None }
    }

    pub(crate) fn node_named(&self, operator: &'static str) -> NodeId {
        let name = format!("{}/{operator}", self.graph.name(self.node));
        self.graph.node(operator, &name, &[self.node])
    }

    /// Adds a child operator whose output is a stream.
    pub(crate) fn child<K2: Data, V2: Data>(
        &self,
        node: NodeId,
        codecs: KnownCodecs<K2, V2>,
        make: impl Fn(&mut Assembly<'_>, Downstream<K2, V2>) -> Box<dyn Process<K, V>> + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        let outlet = Outlet::new();
        let children: Arc<StreamOutlet<K2, V2>> = Arc::clone(&outlet);
        self.outlet.add(Box::new(move |assembly| {
            let down = children.assemble(assembly);
            make(assembly, down)
        }));
        Stream {
            graph: self.graph.clone(),
            node,
            outlet,
            codecs,
            rekeyed: self.rekeyed,
            keep_null_keys: self.keep_null_keys.clone(),
            kept_key: None,
        }
    }

    /// Adds a child operator that leaves keys as they are.
    pub(crate) fn child_of_key<V2: Data>(
        &self,
        node: NodeId,
        codecs: KnownCodecs<K, V2>,
        make: impl Fn(&mut Assembly<'_>, Downstream<K, V2>) -> Box<dyn Process<K, V>> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        Stream { kept_key: self.kept_key.clone(), ..self.child(node, codecs, make) }
    }

    /// Says how keys and values are written, where an operator such as [`Stream::map`] has made it unknown.
    pub fn with_codecs<KC: Codec<Item = K>, VC: Codec<Item = V>>(&self, codecs: (KC, VC)) -> Stream<K, V> {
        Stream { codecs: (Some(Arc::new(codecs.0)), Some(Arc::new(codecs.1))), ..self.clone() }
    }

    /// Maps key and value. The key counts as changed: an operator that needs records by key repartitions.
    pub fn map<K2: Data, V2: Data>(
        &self,
        mapper: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        let mapper = Arc::new(mapper);
        let node = self.node_named("map");
        let make = move |_: &mut Assembly<'_>, down| Box::new(Map { mapper: Arc::clone(&mapper), down }) as _;
        Stream { rekeyed: true, ..self.child(node, (None, None), make) }
    }

    /// Maps the value.
    pub fn map_values<V2: Data>(&self, mapper: impl Fn(V) -> V2 + Send + Sync + 'static) -> Stream<K, V2> {
        self.map_values_keyed(move |_, value| mapper(value))
    }

    /// Maps the value, seeing the key.
    pub fn map_values_keyed<V2: Data>(
        &self,
        mapper: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        let mapper = Arc::new(mapper);
        let node = self.node_named("map-values");
        self.child_of_key(node, (self.codecs.0.clone(), None), move |_, down| {
            Box::new(MapValues { mapper: Arc::clone(&mapper), down })
        })
    }

    /// Keeps the records for which `predicate` holds.
    pub fn filter(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Stream<K, V> {
        let predicate = Arc::new(predicate);
        let node = self.node_named("filter");
        self.child_of_key(node, self.codecs.clone(), move |_, down| {
            Box::new(Filter { predicate: Arc::clone(&predicate), down })
        })
    }

    /// Drops the records for which `predicate` holds.
    pub fn filter_not(&self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Stream<K, V> {
        self.filter(move |key, value| !predicate(key, value))
    }

    /// Turns each record into any number of records. The key counts as changed.
    pub fn flat_map<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        let mapper = Arc::new(mapper);
        let node = self.node_named("flat-map");
        let make =
            move |_: &mut Assembly<'_>, down| Box::new(FlatMap { mapper: Arc::clone(&mapper), down }) as _;
        Stream { rekeyed: true, ..self.child(node, (None, None), make) }
    }

    /// Turns each value into any number of values under the same key.
    pub fn flat_map_values<V2: Data, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        self.flat_map_values_keyed(move |_, value| mapper(value))
    }

    /// Turns each value into any number of values under the same key, seeing the key.
    pub fn flat_map_values_keyed<V2: Data, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        let mapper = Arc::new(mapper);
        let node = self.node_named("flat-map-values");
        self.child_of_key(node, (self.codecs.0.clone(), None), move |_, down| {
            Box::new(FlatMapValues { mapper: Arc::clone(&mapper), down })
        })
    }

    /// Shows every record to a function and passes it on.
    pub fn peek(&self, look: impl Fn(&Record<K, V>) + Send + Sync + 'static) -> Stream<K, V> {
        let look = Arc::new(look);
        let node = self.node_named("peek");
        self.child_of_key(node, self.codecs.clone(), move |_, down| {
            Box::new(Peek { look: Arc::clone(&look), down })
        })
    }

    /// Gives records another key. An operator that needs records by key repartitions.
    pub fn select_key<K2: Data>(&self, key: impl Fn(&K, &V) -> K2 + Send + Sync + 'static) -> Stream<K2, V> {
        let key = Arc::new(key);
        let node = self.node_named("select-key");
        let make = move |_: &mut Assembly<'_>, down| Box::new(Rekey { key: Arc::clone(&key), down }) as _;
        Stream { rekeyed: true, ..self.child(node, (None, self.codecs.1.clone()), make) }
    }

    /// The records of both streams, in the order in which they are processed.
    pub fn merge(&self, other: &Stream<K, V>) -> Stream<K, V> {
        let name = format!("{}/merge", self.graph.name(self.node));
        if !self.graph.is_same(&other.graph) {
            self.graph.error(WiringError::ForeignBuilder { operator: "merge", name: name.clone() });
        }
        let node = self.graph.node("merge", &name, &[self.node, other.node]);
        let outlet: Arc<StreamOutlet<K, V>> = Outlet::new();
        for side in [self, other] {
            let children = Arc::clone(&outlet);
            side.outlet.add(Box::new(move |assembly| assembly.shared(node, &children)));
        }
        let codecs = (self.codecs.0.clone(), self.codecs.1.clone());
        let merged = Stream::new(&self.graph, node, outlet, codecs);
        Stream { rekeyed: self.rekeyed || other.rekeyed, ..merged }
    }

    /// Writes records to a topic, with their event time and headers. A value (or key) that is an `Option` may be
    /// written with the codec of what is in it; `None` becomes a null.
    pub fn to<KC: Codec, VC: Codec>(&self, topic: &str, codecs: (KC, VC))
    where
        K: Into<Option<KC::Item>>,
        V: Into<Option<VC::Item>>,
    {
        let id = self.graph.topic(topic, TopicKind::External);
        let node = self.graph.node("sink", &format!("{topic}/sink"), &[self.node]);
        self.sink(node, id, (Arc::new(codecs.0), Arc::new(codecs.1)), NullKeys::Keep, false);
    }

    fn sink<K2: Data, V2: Data>(
        &self,
        node: NodeId,
        topic: crate::topology::TopicId,
        codecs: (SharedCodec<K2>, SharedCodec<V2>),
        null_keys: NullKeys,
        with_origin: bool,
    ) where
        K: Into<Option<K2>>,
        V: Into<Option<V2>>,
    {
        self.graph.sink(node, topic);
        let name = self.graph.name(node);
        self.outlet.add(Box::new(move |_| {
            let (name, codecs, null_keys) = (Arc::clone(&name), codecs.clone(), null_keys.clone());
            Box::new(RecordSink { name, topic, codecs, null_keys, with_origin })
        }));
    }

    /// Sends records through a topic, so that equal keys meet in one task. Records without a key are dropped and
    /// counted, unless a left join behind wants them.
    pub fn repartition<KC: Codec<Item = K>, VC: Codec<Item = V>>(
        &self,
        repartition: impl Into<Repartition>,
        codecs: (KC, VC),
    ) -> Stream<K, V> {
        self.through(&repartition.into(), (Arc::new(codecs.0), Arc::new(codecs.1)))
    }

    pub(crate) fn through<K2: Data>(
        &self,
        repartition: &Repartition,
        codecs: (SharedCodec<K2>, SharedCodec<V>),
    ) -> Stream<K2, V>
    where
        K: Into<Option<K2>>,
    {
        let Repartition { name, partitions } = repartition;
        self.graph.check_name("repartition", name);
        if let Some(partitions) = *partitions
            && partitions <= 0
        {
            self.graph.error(WiringError::Partitions { name: name.clone(), partitions });
        }
        let topic = self.graph.topic(name, TopicKind::Repartition { partitions: *partitions });
        let node = self.graph.node("repartition sink", &format!("{name}/sink"), &[self.node]);
        let wanted = Arc::new(AtomicBool::new(false));
        self.sink(node, topic, codecs.clone(), NullKeys::DropUnless(Arc::clone(&wanted)), true);
        let source = Stream::from_topic(&self.graph, "repartition source", name, topic, codecs);
        let kept_key = source.codecs.0.clone();
        Stream { keep_null_keys: Some(wanted), kept_key, ..source }
    }

    /// This stream, repartitioned under `name` if its keys have changed. Missing codecs are reported.
    pub(crate) fn by_key(&self, operator: &'static str, name: &str) -> Stream<K, V> {
        if !self.rekeyed {
            return self.clone();
        }
        match &self.codecs {
            (Some(key), Some(value)) => {
                self.through(&Repartition::named(name), (Arc::clone(key), Arc::clone(value)))
            }
            (key, _) => {
                let what = if key.is_none() { "keys" } else { "values" };
                self.graph.error(WiringError::Codec { operator, name: name.to_owned(), what });
                self.clone()
            }
        }
    }

    /// Tells the repartition topic above, if any, to keep records without a key.
    pub(crate) fn wants_null_keys(&self) {
        if let Some(keep) = &self.keep_null_keys {
            keep.store(true, Ordering::Relaxed);
        }
    }

    /// Groups records by another key, through a repartition topic. A key that is an `Option` may be given with the
    /// codec of what is in it; records whose key is `None` are dropped and counted.
    pub fn group_by<KC: Codec, VC: Codec<Item = V>, R: Data + Into<Option<KC::Item>>>(
        &self,
        repartition: impl Into<Repartition>,
        codecs: (KC, VC),
        key: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Grouped<KC::Item, V> {
        let rekeyed = self.select_key(key);
        Grouped::new(rekeyed.through(&repartition.into(), (Arc::new(codecs.0), Arc::new(codecs.1))))
    }

    /// Groups records by their key. If keys have changed since they were partitioned, the aggregate repartitions
    /// under its own name.
    pub fn group_by_key(&self) -> Grouped<K, V> {
        Grouped::new(self.clone())
    }

    /// The last value per key as a table, kept under `name`. A value that is an `Option` deletes where it is
    /// `None`. If keys have changed, records are repartitioned under the same name.
    pub fn to_table<KC: Codec<Item = K>, VC: Codec>(&self, name: &str, codecs: (KC, VC)) -> Table<K, VC::Item>
    where
        V: Into<Option<VC::Item>>,
    {
        self.graph.check_name("to-table", name);
        let key: SharedCodec<K> = Arc::new(codecs.0);
        let value: SharedCodec<VC::Item> = Arc::new(codecs.1);
        if !self.rekeyed {
            return self.kept_as_table(name, (key, value));
        }
        let rows = self.map_values(Into::into);
        let nullable: SharedCodec<Option<VC::Item>> = Arc::new(opt(Arc::clone(&value)));
        let rows = Stream { codecs: (Some(Arc::clone(&key)), Some(nullable)), ..rows };
        rows.by_key("to-table", name).kept_as_table(name, (key, value))
    }

    fn kept_as_table<T: Data>(&self, name: &str, codecs: (SharedCodec<K>, SharedCodec<T>)) -> Table<K, T>
    where
        V: Into<Option<T>>,
    {
        let (stream, value) = (self, Arc::clone(&codecs.1));
        let node = stream.graph.node("to-table", name, &[stream.node]);
        stream.graph.contents(node, contents_of(&codecs));
        let changelog = stream.graph.topic(name, TopicKind::Changelog { retention_ms: None });
        let store = stream.graph.store(name, node, Changelog::Own(changelog));
        let outlet = Outlet::new();
        let of_store = Arc::clone(&value);
        let lookup = Table::stored(move |assembly| {
            assembly.store(store, |def| Store::new(Arc::clone(&def.name), Arc::clone(&of_store), true))
        });
        let table = Table::new(&stream.graph, node, Arc::clone(&outlet), codecs.clone(), lookup);
        let (name, send_old, kept_key) = (stream.graph.name(node), table.send_old(), stream.kept_key.clone());
        stream.outlet.add(Box::new(move |assembly| {
            let of_store = Arc::clone(&codecs.1);
            let store = assembly.store(store, |def| Store::new(Arc::clone(&def.name), of_store, true));
            let rows = Rows { store, send_old: send_old.get(), down: outlet.assemble(assembly) };
            let (name, keys) = (Arc::clone(&name), KeyBytes::new(&codecs.0, &kept_key));
            Box::new(StreamToTable { name, keys, rows })
        }));
        table
    }
}
