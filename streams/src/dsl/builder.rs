//! The beginning of every topology: its name and what it reads.

use super::{Source, Stream, Table, Topics};
use crate::{
    codec::{Codec, Data, SharedCodec},
    processor::OnFailure,
    store::{Handle, StoreLookup},
    topology::{Graph, Topology, WiringErrors},
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

    /// Reads a topic, or several as one, as a stream: `b.stream("a", ..)`, `b.stream(["a", "b"], ..)`. A null that meets a
    /// codec without null is dropped and counted.
    pub fn stream<KC: Codec, VC: Codec>(
        &self,
        topics: impl Into<Topics>,
        codecs: (KC, VC),
    ) -> Stream<KC::Item, VC::Item> {
        self.source(topics, codecs).stream()
    }

    /// Reads a topic as a table: the last value per key, a null value deletes. The topic itself serves as the
    /// table's changelog. Records without a key are dropped and counted.
    pub fn table<KC: Codec, VC: Codec>(&self, topic: &str, codecs: (KC, VC)) -> Table<KC::Item, VC::Item> {
        self.source(topic, codecs).table()
    }

    /// Reads a whole topic into every instance as a table to join with. It is loaded before records are
    /// processed; later changes of it trigger nothing.
    pub fn global_table<KC: Codec, VC: Codec>(
        &self,
        topic: &str,
        codecs: (KC, VC),
    ) -> GlobalTable<KC::Item, VC::Item> {
        self.source(topic, codecs).global_table()
    }

    /// A topic, or several as one, of which more is to be said: where event times come from, what happens to records that
    /// cannot be decoded. [`Source::stream`], [`Source::table`] or [`Source::global_table`] ends it.
    ///
    /// Topics are named one by one. A pattern would make the tasks, and the outcome of a replay, depend on which topics
    /// there were when each instance looked; whoever wants one asks the cluster for its topics and passes the list.
    pub fn source<KC: Codec, VC: Codec>(
        &self,
        topics: impl Into<Topics>,
        codecs: (KC, VC),
    ) -> Source<KC::Item, VC::Item> {
        Source::new(&self.graph, topics.into(), (Arc::new(codecs.0), Arc::new(codecs.1)))
    }

    /// What happens to records that a source cannot decode or a fallible operator fails for, where nothing else is said of
    /// the source ([`Source::on_failure`]) or the stream ([`Stream::on_failure`]). It may be said before or after the
    /// operators are wired. Default: the application stops.
    pub fn on_failure(&self, policy: OnFailure) {
        self.graph.on_failure(policy);
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

impl<K: Data, V: Data> GlobalTable<K, V> {
    pub(super) fn new(key: SharedCodec<K>, index: usize) -> GlobalTable<K, V> {
        GlobalTable { key, index, value: std::marker::PhantomData }
    }
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

/// The lookup of a table that is kept in a store.
impl<K: Data, V: Data> Table<K, V> {
    pub(crate) fn stored(
        store: impl Fn(&mut crate::topology::Assembly<'_>) -> Handle<V> + Send + Sync + 'static,
    ) -> super::table::LookupFactory<K, V> {
        Arc::new(move |assembly| Box::new(StoreLookup(store(assembly))))
    }
}
