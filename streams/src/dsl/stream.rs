//! Streams of records and what can be done with each of them.

use super::{Grouped, Table, Topics, builder::contents_of, source::Reading};
use crate::{
    codec::{Codec, Data, SharedCodec, opt},
    processor::{
        AnyProcess, ChoosingSink, Context, Downstream, FailurePolicy, Fallible, Filter, FlatMap,
        FlatMapValues, KeyBytes, Map, MapValues, NullKeys, OnFailure, Peek, RecordSink, Rekey, Rows, Step,
        StreamToTable,
    },
    record::{Meta, Record},
    store::Store,
    topology::{Assembly, Changelog, Graph, NodeId, Outlet, StreamOutlet, TopicKind, WiringError},
};
use std::{
    collections::BTreeMap,
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
    /// What happens to records for which operators behind fail; `None` where nothing was said.
    pub(crate) on_failure: Option<FailurePolicy>,
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
            on_failure: self.on_failure,
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
        Stream {
            graph,
            node,
            outlet,
            codecs,
            rekeyed: false,
            keep_null_keys: None,
            kept_key: None,
            on_failure: None,
        }
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
        make: impl Fn(&mut Assembly<'_>, Downstream<K2, V2>) -> Box<AnyProcess<K, V>> + Send + Sync + 'static,
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
            on_failure: self.on_failure,
        }
    }

    /// Adds a child operator that leaves keys as they are.
    pub(crate) fn child_of_key<V2: Data>(
        &self,
        node: NodeId,
        codecs: KnownCodecs<K, V2>,
        make: impl Fn(&mut Assembly<'_>, Downstream<K, V2>) -> Box<AnyProcess<K, V>> + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        Stream { kept_key: self.kept_key.clone(), ..self.child(node, codecs, make) }
    }

    /// Adds a child operator that does `step` with each record and changes its key.
    pub(super) fn step<K2: Data, V2: Data>(
        &self,
        operator: &'static str,
        values: Option<SharedCodec<V2>>,
        step: impl Fn(&mut Context<'_>, &Fallible, K, V, &mut Downstream<K2, V2>) + Send + Sync + 'static,
    ) -> Stream<K2, V2> {
        let (node, step, policy) = (self.node_named(operator), Arc::new(step), self.on_failure);
        let name = self.graph.name(node);
        let make = move |assembly: &mut Assembly<'_>, down| {
            let (step, at) = (Arc::clone(&step), assembly.fallible(&name, policy));
            Box::new(Step { step, at, down }) as _
        };
        Stream { rekeyed: true, ..self.child(node, (None, values), make) }
    }

    /// Adds a child operator that does `step` with each record and leaves its key as it is.
    pub(super) fn step_of_key<V2: Data>(
        &self,
        operator: &'static str,
        values: Option<SharedCodec<V2>>,
        step: impl Fn(&mut Context<'_>, &Fallible, K, V, &mut Downstream<K, V2>) + Send + Sync + 'static,
    ) -> Stream<K, V2> {
        let stream = self.step(operator, values, step);
        let (codecs, kept_key) = ((self.codecs.0.clone(), stream.codecs.1.clone()), self.kept_key.clone());
        Stream { codecs, kept_key, rekeyed: self.rekeyed, ..stream }
    }

    /// Says how keys and values are written, where an operator such as [`Stream::map`] has made it unknown.
    pub fn with_codecs<KC: Codec<Item = K>, VC: Codec<Item = V>>(&self, codecs: (KC, VC)) -> Stream<K, V> {
        Stream { codecs: (Some(Arc::new(codecs.0)), Some(Arc::new(codecs.1))), ..self.clone() }
    }

    /// What happens to records for which fallible operators behind this fail, until it is said again; see
    /// [`OnFailure`]. Default: as was said of the source ([`Source::on_failure`](super::Source::on_failure)) or of the
    /// topology ([`Builder::on_failure`](super::Builder::on_failure)), else the application stops.
    pub fn on_failure(&self, policy: OnFailure) -> Stream<K, V> {
        Stream { on_failure: Some(self.graph.policy(policy)), ..self.clone() }
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
        let merged = Stream::merged(&self.graph, "merge", &name, &[self.clone(), other.clone()]);
        Stream { on_failure: self.on_failure, ..merged }
    }

    /// The records of all these streams; codecs are those of the first.
    pub(crate) fn merged(
        graph: &Graph,
        operator: &'static str,
        name: &str,
        parts: &[Stream<K, V>],
    ) -> Stream<K, V> {
        let parents: Vec<NodeId> = parts.iter().map(|part| part.node).collect();
        let node = graph.node(operator, name, &parents);
        let outlet: Arc<StreamOutlet<K, V>> = Outlet::new();
        for part in parts {
            let children = Arc::clone(&outlet);
            part.outlet.add(Box::new(move |assembly| assembly.shared(node, &children)));
        }
        let codecs = parts.first().map_or((None, None), |first| first.codecs.clone());
        let rekeyed = parts.iter().any(|part| part.rekeyed);
        Stream { rekeyed, ..Stream::new(graph, node, outlet, codecs) }
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

    /// Writes each record to the topic that `choose` names for it, one of `topics`, with its event time and headers. Nulls are
    /// as with [`Stream::to`]. A record for a topic that is not among them fails, as said by [`Stream::on_failure`]: topics
    /// that are not named could be neither created nor checked at start.
    ///
    /// ```
    /// use kappa_streams::{Builder, TestDriver, codec::{I64, Utf8}};
    /// let b = Builder::new("split");
    /// b.stream("amounts", (Utf8, I64))
    ///     .to_with(["small", "large"], (Utf8, I64), |_, _, amount| if *amount < 100 { "small" } else { "large" });
    /// let mut driver = TestDriver::new(&b.build()?).start()?;
    /// let amounts = driver.input("amounts", (Utf8, I64));
    /// amounts.pipe(&mut driver, "ann".into(), 7, 1)?;
    /// amounts.pipe(&mut driver, "ann".into(), 700, 2)?;
    /// assert_eq!(driver.output("large", (Utf8, I64))?.drain(&mut driver)?[0].value, 700);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_with<KC: Codec, VC: Codec, T: AsRef<str>>(
        &self,
        topics: impl Into<Topics>,
        codecs: (KC, VC),
        choose: impl Fn(&Meta<'_>, &K, &V) -> T + Send + Sync + 'static,
    ) where
        K: Into<Option<KC::Item>>,
        V: Into<Option<VC::Item>>,
    {
        let node = self.node_named("to");
        let mut ids = BTreeMap::new();
        for topic in topics.into().0 {
            let id = self.graph.topic(&topic, TopicKind::External);
            let sink = self.graph.node("sink", &format!("{topic}/sink"), &[node]);
            self.graph.sink(sink, id);
            ids.insert(topic, id);
        }
        if ids.is_empty() {
            self.graph.error(WiringError::NoTopics { what: "a sink" });
        }
        let codecs: (SharedCodec<KC::Item>, SharedCodec<VC::Item>) = (Arc::new(codecs.0), Arc::new(codecs.1));
        let (choose, name, policy) = (Arc::new(choose), self.graph.name(node), self.on_failure);
        self.outlet.add(Box::new(move |assembly| {
            let (topics, choose, codecs) = (ids.clone(), Arc::clone(&choose), codecs.clone());
            Box::new(ChoosingSink { at: assembly.fallible(&name, policy), topics, choose, codecs })
        }));
    }

    fn sink<K2: Data, V2: Data>(
        &self,
        node: NodeId,
        topic: crate::topology::TopicId,
        codecs: (SharedCodec<K2>, SharedCodec<V2>),
        null_keys: NullKeys,
        with_writer: bool,
    ) where
        K: Into<Option<K2>>,
        V: Into<Option<V2>>,
    {
        self.graph.sink(node, topic);
        let name = self.graph.name(node);
        self.outlet.add(Box::new(move |_| {
            let (name, codecs, null_keys) = (Arc::clone(&name), codecs.clone(), null_keys.clone());
            Box::new(RecordSink { name, topic, codecs, null_keys, with_writer })
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
        let reading = Reading::plain(codecs);
        let source = Stream::from_topic(&self.graph, "repartition source", name, topic, reading);
        let (kept_key, on_failure) = (source.codecs.0.clone(), self.on_failure);
        Stream { keep_null_keys: Some(wanted), kept_key, on_failure, ..source }
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
        stream.graph.join(stream.node, stream.node, name);
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
