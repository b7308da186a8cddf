//! What a topology reads from outside, and how.

use super::{GlobalTable, Stream, Table, builder::contents_of};
use crate::{
    codec::{Data, SharedCodec},
    processor::{FailurePolicy, OnFailure, RecordSource, Rows, TableSource, TimeOf, Timestamps},
    record::Meta,
    store::{Fold, GlobalStore, GlobalWriter, Store},
    topology::{
        Changelog, GlobalSource, GlobalTable as AnyGlobalTable, Graph, Outlet, StreamOutlet, TopicId,
        TopicKind, WiringError,
    },
};
use std::{fmt, sync::Arc};

/// The name of a topic, or the names of several; texts and lists of texts convert into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(pub(super) Vec<String>);

impl From<&str> for Topics {
    fn from(topic: &str) -> Topics {
        Topics(vec![topic.to_owned()])
    }
}

impl From<&String> for Topics {
    fn from(topic: &String) -> Topics {
        Topics::from(topic.as_str())
    }
}

impl From<String> for Topics {
    fn from(topic: String) -> Topics {
        Topics(vec![topic])
    }
}

impl<const N: usize> From<[&str; N]> for Topics {
    fn from(topics: [&str; N]) -> Topics {
        Topics::from(&topics[..])
    }
}

impl<const N: usize> From<&[&str; N]> for Topics {
    fn from(topics: &[&str; N]) -> Topics {
        Topics::from(&topics[..])
    }
}

impl From<&[&str]> for Topics {
    fn from(topics: &[&str]) -> Topics {
        Topics(topics.iter().map(|topic| (*topic).to_owned()).collect())
    }
}

impl From<Vec<String>> for Topics {
    fn from(topics: Vec<String>) -> Topics {
        Topics(topics)
    }
}

/// How records of a source become what they are in a topology.
pub(crate) struct Reading<K, V> {
    pub(crate) codecs: (SharedCodec<K>, SharedCodec<V>),
    pub(crate) time: Option<TimeOf<K, V>>,
    pub(crate) on_failure: Option<FailurePolicy>,
}

impl<K, V> Clone for Reading<K, V> {
    fn clone(&self) -> Self {
        Reading { codecs: self.codecs.clone(), time: self.time.clone(), on_failure: self.on_failure }
    }
}

impl<K: Data, V: Data> Reading<K, V> {
    /// A topic of this application, or one of which nothing is said but its codecs.
    pub(crate) fn plain(codecs: (SharedCodec<K>, SharedCodec<V>)) -> Reading<K, V> {
        Reading { codecs, time: None, on_failure: None }
    }

    pub(crate) fn timestamps(&self) -> Option<Timestamps<K, V>> {
        self.time.clone().map(|time| Timestamps { codecs: self.codecs.clone(), time })
    }

    fn describe(&self) -> String {
        let contents = contents_of(&self.codecs);
        if self.time.is_some() { format!("{contents}, event time taken from it") } else { contents }
    }
}

/// A topic of which more is to be said than its codecs; made by [`Builder::source`](super::Builder::source) and ended by
/// [`Source::stream`], [`Source::table`] or [`Source::global_table`].
///
/// ```
/// use kappa_streams::{Builder, OnFailure, TestDriver, codec::{Json, Utf8}};
///
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Order { placed_at: i64, item: String }
///
/// let b = Builder::new("orders");
/// b.source("orders", (Utf8, Json::<Order>::new()))
///     .timestamps(|_, _, order| order.placed_at)
///     .on_failure(OnFailure::dead_letter("bad-orders"))
///     .stream()
///     .map_values(|order| order.item)
///     .to("items", (Utf8, Utf8));
/// let mut driver = TestDriver::new(&b.build()?).start()?;
/// let orders = driver.input("orders", (Utf8, Utf8));
/// orders.pipe(&mut driver, "ann".into(), r#"{"placed_at": 7000, "item": "tea"}"#.into(), 9_999)?;
/// orders.pipe(&mut driver, "bob".into(), "tea?".into(), 9_999)?;
/// let items = driver.output("items", (Utf8, Utf8))?.drain(&mut driver)?;
/// assert_eq!(items.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [7_000]);
/// assert_eq!(driver.output("bad-orders", (Utf8, Utf8))?.drain(&mut driver)?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Source<K, V> {
    graph: Graph,
    topics: Vec<String>,
    reading: Reading<K, V>,
}

impl<K, V> fmt::Debug for Source<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl<K: Data, V: Data> Source<K, V> {
    pub(super) fn new(
        graph: &Graph,
        topics: Topics,
        codecs: (SharedCodec<K>, SharedCodec<V>),
    ) -> Source<K, V> {
        let topics = topics.0;
        if topics.is_empty() {
            graph.error(WiringError::NoTopics { what: "a source" });
        }
        for (index, topic) in topics.iter().enumerate() {
            if topics.iter().take(index).any(|before| before == topic) {
                graph.error(WiringError::RepeatedTopic { topic: topic.clone() });
            }
        }
        Source { graph: graph.clone(), topics, reading: Reading::plain(codecs) }
    }

    /// Takes the event time of each record, in milliseconds since the epoch, from its key, its value or what stands beside
    /// them ([`Meta::timestamp`] is the record's own timestamp), rather than from the record's own timestamp. `time`
    /// returns a number, or an `Option` of one.
    ///
    /// A record for which it is `None` or negative is dropped and counted as one with a negative timestamp is
    /// ([`Counters::negative_timestamps`](crate::Counters::negative_timestamps)), and stays dropped when a table is
    /// restored from its topic. A record that cannot be decoded, and one whose value is null where the codec has no
    /// null (the tombstone of a table), keeps its own timestamp. `time` is to return the same for the same record, always.
    ///
    /// Everything in the application goes by these times: windows, the order between partitions, progress control.
    /// [`StartAt::Time`](crate::StartAt::Time) alone goes by the topic's index, which knows the records' own. The records
    /// of such a source are decoded twice, and `time` sees those of a fetched batch in a row: let it be quick.
    #[must_use]
    pub fn timestamps<T: Into<Option<i64>>>(
        mut self,
        time: impl Fn(&Meta<'_>, &K, &V) -> T + Send + Sync + 'static,
    ) -> Source<K, V> {
        self.reading.time = Some(Arc::new(move |meta, key, value| time(meta, key, value).into()));
        self
    }

    /// What happens to records that cannot be decoded. Default: as [`Builder::on_failure`](super::Builder::on_failure)
    /// says; if it says nothing, the application stops, unless
    /// [`Config::skip_undecodable`](crate::Config::skip_undecodable) is set. It holds for the operators behind a stream
    /// too, as with [`Stream::on_failure`].
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> Source<K, V> {
        self.reading.on_failure = Some(self.graph.policy(policy));
        self
    }

    /// The records as a stream; of several topics all of them, in the order in which they are processed. An operator that
    /// brings equal keys together then needs topics of equal partition counts, which is checked at start.
    pub fn stream(self) -> Stream<K, V> {
        let Source { graph, topics, reading } = self;
        let on_failure = reading.on_failure;
        let parts: Vec<Stream<K, V>> = topics
            .iter()
            .map(|topic| {
                let id = graph.topic(topic, TopicKind::External);
                Stream::from_topic(&graph, "source", topic, id, reading.clone())
            })
            .collect();
        match &parts[..] {
            [only] => only.clone(),
            parts => Stream { on_failure, ..Stream::merged(&graph, "sources", &topics.join("+"), parts) },
        }
    }

    /// The records as a table, see [`Builder::table`](super::Builder::table). A table is read from one topic.
    pub fn table(self) -> Table<K, V> {
        let Some((graph, topic, reading)) = self.one() else { return self.unusable() };
        let id = graph.topic(topic, TopicKind::External);
        let node = graph.node("table source", topic, &[]);
        graph.contents(node, reading.describe());
        let codecs = reading.codecs.clone();
        let outlet = Outlet::new();
        let store = graph.store(topic, node, Changelog::Source(id));
        let value = Arc::clone(&codecs.1);
        let lookup = Table::stored(move |assembly| {
            assembly.store(store, |def| Store::new(Arc::clone(&def.name), Arc::clone(&value), false))
        });
        let table = Table::read(graph, node, Arc::clone(&outlet), codecs.clone(), lookup);
        let (name, send_old, on_failure) = (graph.name(node), table.send_old(), reading.on_failure);
        let timestamps = reading.timestamps();
        graph.source(
            node,
            (id, timestamps.is_some()),
            Arc::new(move |assembly| {
                let value = Arc::clone(&codecs.1);
                let store = assembly.store(store, |def| Store::new(Arc::clone(&def.name), value, false));
                let rows = Rows { store, send_old: send_old.get(), down: outlet.assemble(assembly) };
                let (at, timestamps) = (assembly.fallible(&name, on_failure), timestamps.clone());
                Box::new(TableSource { at, fold: Fold::new(codecs.clone()), timestamps, rows })
            }),
        );
        table
    }

    /// The whole topic as a table in every instance, see [`Builder::global_table`](super::Builder::global_table). It is
    /// read from one topic, and has no dead letters of its own, since every instance would write each; those of
    /// [`Builder::on_failure`](super::Builder::on_failure) are skipped and counted.
    pub fn global_table(self) -> GlobalTable<K, V> {
        let (graph, topic, reading) = match self.one() {
            Some(one) => one,
            None => (&self.graph, "unusable", &self.reading),
        };
        if let Some(FailurePolicy::DeadLetter(_)) = reading.on_failure {
            graph.error(WiringError::GlobalDeadLetters { table: topic.to_owned() });
        }
        let id = graph.topic(topic, TopicKind::External);
        let (name, codecs, timestamps): (Arc<str>, _, _) =
            (topic.into(), reading.codecs.clone(), reading.timestamps());
        let key = Arc::clone(&codecs.0);
        let index = graph.global(
            topic,
            (id, reading.on_failure),
            Arc::new(move || {
                let store = Arc::new(GlobalStore::new(Arc::clone(&name), Arc::clone(&codecs.1)));
                let writer = GlobalWriter::new(Arc::clone(&store), codecs.clone());
                let source = GlobalSource { writer, timestamps: timestamps.clone() };
                (store as _, Arc::new(source) as Arc<dyn AnyGlobalTable>)
            }),
        );
        GlobalTable::new(key, index)
    }

    /// The only topic; reports it if there are several.
    fn one(&self) -> Option<(&Graph, &str, &Reading<K, V>)> {
        match &self.topics[..] {
            [topic] => Some((&self.graph, topic, &self.reading)),
            // Reported already.
            [] => None,
            topics => {
                self.graph.error(WiringError::TableTopics { topics: topics.join(", ") });
                None
            }
        }
    }

    /// Stands in for a table whose wiring has failed and been reported.
    fn unusable(&self) -> Table<K, V> {
        let node = self.graph.node("unusable", "table source", &[]);
        Table::unusable(&self.graph, node)
    }
}

/// Makes a source node; shared by topics and repartition topics.
impl<K: Data, V: Data> Stream<K, V> {
    pub(crate) fn from_topic(
        graph: &Graph,
        operator: &'static str,
        name: &str,
        topic: TopicId,
        reading: Reading<K, V>,
    ) -> Stream<K, V> {
        let node = graph.node(operator, name, &[]);
        graph.contents(node, reading.describe());
        let outlet: Arc<StreamOutlet<K, V>> = Outlet::new();
        let (name, children, of_source) = (graph.name(node), Arc::clone(&outlet), reading.clone());
        let is_own = graph.is_repartition(topic);
        graph.source(
            node,
            (topic, reading.time.is_some()),
            Arc::new(move |assembly| {
                let down = children.assemble(assembly);
                let at = assembly.fallible(&name, of_source.on_failure);
                let (codecs, timestamps) = (of_source.codecs.clone(), of_source.timestamps());
                Box::new(RecordSource { at, codecs, timestamps, is_own, down })
            }),
        );
        let Reading { codecs, on_failure, .. } = reading;
        let stream = Stream::new(graph, node, outlet, (Some(codecs.0), Some(codecs.1)));
        Stream { on_failure, ..stream }
    }
}
