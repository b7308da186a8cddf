//! Topologies: graphs of operators, cut into sub-topologies at repartition topics.
//!
//! A [`Topology`] is a factory: every task has its own processors and stores made from it. It knows the short
//! names of its internal topics; the application id and the generation are put in front by [`InternalNames`].
//! Nothing here touches records.

mod assembly;
mod clock;
mod describe;
mod error;
mod graph;
mod names;
mod plan;

use crate::processor::FailurePolicy;
pub use crate::processor::TopicId;
pub(crate) use assembly::{
    Assembly, GlobalSource, GlobalTable, Globals, Outlet, StreamOutlet, TableOutlet, ViewId, Views,
};
pub(crate) use clock::{CLOCKS_MAX, ClockId};
pub use error::{PlanError, WiringError, WiringErrors};
pub(crate) use graph::{Changelog, Graph, NodeId};
pub(crate) use names::valid_topic;
pub use names::{InternalNames, TopicKind};
pub use plan::{InternalTopic, Plan, SubTopologyPlan};

use graph::{GlobalDef, Node, SourceDef, StoreDef, ViewDef};
pub(crate) use names::TopicDef;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// A checked topology, cheap to clone, from which tasks are made.
#[derive(Clone)]
pub struct Topology(pub(crate) Arc<Built>);

/// The parts of a built topology.
pub(crate) struct Built {
    pub(crate) application: Arc<str>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) topics: Vec<TopicDef>,
    pub(crate) sources: Vec<SourceDef>,
    pub(crate) stores: Vec<StoreDef>,
    pub(crate) views: Vec<ViewDef>,
    pub(crate) globals: Vec<GlobalDef>,
    pub(crate) joins: Vec<(NodeId, NodeId, Arc<str>)>,
    pub(crate) sub_topologies: Vec<SubTopology>,
    /// What happens to records for which something fails, where nothing else was said.
    pub(crate) on_failure: Option<FailurePolicy>,
}

/// A connected part of the graph between topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SubTopology {
    pub(crate) nodes: Vec<NodeId>,
    /// Indexes into the sources, in the order of their making.
    pub(crate) sources: Vec<usize>,
    /// Topics read, ordered by name, so that ties between heads do not depend on the order of wiring.
    pub(crate) inputs: Vec<TopicId>,
    /// Topics written by sinks, in order, each once.
    pub(crate) outputs: Vec<TopicId>,
    /// Indexes into the stores.
    pub(crate) stores: Vec<usize>,
}

impl Topology {
    /// The store of this number.
    fn store(&self, number: usize) -> &StoreDef {
        self.0.stores.get(number).expect("store numbers come from this topology")
    }

    /// Where the stores of a sub-topology are logged.
    pub(crate) fn changelogs(&self, sub_topology: usize) -> impl Iterator<Item = Changelog> + '_ {
        self.sub_topology(sub_topology).stores.iter().map(|number| self.store(*number).changelog)
    }

    /// The application's name, the first part of its internal names.
    pub fn application(&self) -> &str {
        &self.0.application
    }

    /// The graph as text: sub-topologies, their sources, operators, stores and sinks. Stable for a given wiring.
    pub fn describe(&self) -> String {
        describe::describe(&self.0)
    }

    /// Checksum of what tasks of this topology must agree on; instances with different ones cannot share work.
    pub fn fingerprint(&self) -> u32 {
        crc32fast::hash(self.describe().as_bytes())
    }

    /// Short names of the topics that are read from outside: sources and global tables, ordered and each once.
    pub fn input_topics(&self) -> Vec<&str> {
        let sources = self.0.sources.iter().map(|source| source.topic);
        self.external(sources.chain(self.0.globals.iter().map(|global| global.topic)))
    }

    /// The same without global tables.
    pub(crate) fn source_topics(&self) -> Vec<&str> {
        self.external(self.0.sources.iter().map(|source| source.topic))
    }

    fn external(&self, topics: impl Iterator<Item = TopicId>) -> Vec<&str> {
        let topics = topics.filter_map(|topic| self.0.topics.get(topic.0 as usize));
        let mut names: Vec<&str> =
            topics.filter(|topic| topic.kind == TopicKind::External).map(|topic| &*topic.name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether anything in a sub-topology, or behind what it writes, depends on how far event time has come elsewhere.
    pub(crate) fn is_timed(&self, sub_topology: usize) -> bool {
        self.skew_max(sub_topology).is_some()
    }

    /// How far ahead that may be: the shortest grace of any window there.
    pub(crate) fn skew_max(&self, sub_topology: usize) -> Option<i64> {
        let mut least: Option<i64> = None;
        let (mut seen, mut open) = (vec![false; self.0.sub_topologies.len()], vec![sub_topology]);
        while let Some(at) = open.pop() {
            let Some(part) = self.0.sub_topologies.get(at) else { continue };
            let nodes = part.nodes.iter().filter_map(|node| self.0.nodes.get(node.0 as usize));
            least = nodes.filter_map(|node| node.skew_max).chain(least).min();
            if let Some(seen) = seen.get_mut(at).filter(|seen| !**seen) {
                *seen = true;
                let reads =
                    |other: &SubTopology| part.outputs.iter().any(|topic| other.inputs.contains(topic));
                let parts = self.0.sub_topologies.iter().enumerate();
                open.extend(parts.filter(|(_, other)| reads(other)).map(|(at, _)| at));
            }
        }
        least
    }

    /// Whether a global table is to go on without a record that cannot be decoded; `otherwise` where nothing was said. It
    /// has no dead letters: every instance would write each.
    pub(crate) fn skips_undecodable(&self, global: usize, otherwise: bool) -> bool {
        let said = self.0.globals.get(global).and_then(|global| global.on_failure);
        said.or(self.0.on_failure).map_or(otherwise, |policy| policy != FailurePolicy::Stop)
    }

    /// Whether a table is read from a topic.
    pub(crate) fn is_table(&self, topic: TopicId) -> bool {
        self.0.stores.iter().any(|store| store.changelog == Changelog::Source(topic))
    }

    /// What the bytes in each internal topic are, and for a store by which operator, by full name.
    pub(crate) fn contents(&self, names: &InternalNames) -> BTreeMap<String, String> {
        let repartitioned = self.0.nodes.iter().filter(|node| node.is_source);
        let repartitioned = repartitioned.filter_map(|node| Some((node.topic?, node.contents.clone()?)));
        let kept = self.0.stores.iter().filter_map(|store| match store.changelog {
            Changelog::Own(topic) => {
                let node = self.0.nodes.get(store.node.0 as usize)?;
                Some((topic, format!("{} ({})", node.contents.as_ref()?, node.operator)))
            }
            Changelog::Source(_) => None,
        });
        let all = repartitioned.chain(kept).map(|(topic, contents)| (self.topic(topic), contents));
        let internal = all.filter(|(topic, _)| topic.kind != TopicKind::External);
        internal.map(|(topic, contents)| (names.topic(topic), contents)).collect()
    }

    /// Full names of the topics, by topic id.
    pub(crate) fn topic_names(&self, names: &InternalNames) -> Arc<[Arc<str>]> {
        self.0.topics.iter().map(|topic| Arc::from(names.topic(topic))).collect()
    }

    pub(crate) fn topic(&self, topic: TopicId) -> &TopicDef {
        self.0.topics.get(topic.0 as usize).expect("topic ids come from this topology")
    }

    pub(crate) fn sub_topology(&self, index: usize) -> &SubTopology {
        self.0.sub_topologies.get(index).expect("task ids come from this topology's plan")
    }
}

impl Plan {
    /// Partitions and full names of the topics, by topic id.
    pub(crate) fn topics(&self) -> (Arc<[i32]>, Arc<[Arc<str>]>) {
        (Arc::clone(&self.partition_counts), Arc::clone(&self.topic_names))
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("application", &self.0.application)
            .field("sub_topologies", &self.0.sub_topologies.len())
            .field("fingerprint", &self.fingerprint())
            .finish()
    }
}
