//! The graph while it is being wired, and its cut into sub-topologies.
//!
//! All handles of one builder share one [`Graph`]. Mistakes are collected, not thrown, so that `build()` can
//! report all of them. Once built, a graph is sealed: wiring on is a programmer's error and panics.

use super::{
    Assembly, Built, CLOCKS_MAX, ClockId, GlobalTable, SubTopology, TopicId, TopicKind, Topology,
    WiringError, WiringErrors,
    assembly::AnyGlobal,
    names::{TopicDef, generation_in},
    valid_topic,
};
use crate::processor::{FailurePolicy, OnFailure, Source};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A node of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u32);

/// What the description tells of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) operator: &'static str,
    pub(crate) parents: Vec<NodeId>,
    /// Topic read or written.
    pub(crate) topic: Option<TopicId>,
    pub(crate) is_source: bool,
    /// What its bytes are: codecs, and windows where there are some.
    pub(crate) contents: Option<String>,
    /// Where what it does with a record depends on how far event time has come elsewhere: how far ahead that may be, in
    /// milliseconds, without any being late.
    pub(crate) skew_max: Option<i64>,
}

/// Where the content of a store can be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changelog {
    /// A topic of its own.
    Own(TopicId),
    /// The topic that the table is read from, below the committed offset.
    Source(TopicId),
}

#[derive(Debug, Clone)]
pub(crate) struct StoreDef {
    pub(crate) name: Arc<str>,
    pub(crate) node: NodeId,
    pub(crate) changelog: Changelog,
}

pub(crate) type SourceFactory = Arc<dyn Fn(&mut Assembly<'_>) -> Box<dyn Source> + Send + Sync>;

pub(crate) struct SourceDef {
    pub(crate) node: NodeId,
    pub(crate) topic: TopicId,
    pub(crate) make: SourceFactory,
}

pub(crate) struct ViewDef {
    pub(crate) node: NodeId,
    pub(crate) register: Arc<dyn Fn(&mut Assembly<'_>) + Send + Sync>,
}

pub(crate) type GlobalFactory = Arc<dyn Fn() -> (AnyGlobal, Arc<dyn GlobalTable>) + Send + Sync>;

pub(crate) struct GlobalDef {
    pub(crate) name: Arc<str>,
    pub(crate) topic: TopicId,
    /// What happens to records that cannot be decoded; `None` where nothing was said of the table.
    pub(crate) on_failure: Option<FailurePolicy>,
    pub(crate) make: GlobalFactory,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    topics: Vec<TopicDef>,
    sources: Vec<SourceDef>,
    stores: Vec<StoreDef>,
    views: Vec<ViewDef>,
    globals: Vec<GlobalDef>,
    joins: Vec<(NodeId, NodeId, Arc<str>)>,
    /// Topics whose records get their event times from a source.
    timestamped: BTreeSet<TopicId>,
    /// Topics that records are written to for which something fails.
    dead_letters: BTreeSet<TopicId>,
    /// What happens to records for which something fails, where nothing else was said.
    on_failure: Option<FailurePolicy>,
    errors: Vec<WiringError>,
    node_names: BTreeSet<Arc<str>>,
    sealed: bool,
}

/// The graph that a builder and its handles share.
#[derive(Clone)]
pub(crate) struct Graph {
    application: Arc<str>,
    state: Arc<Mutex<State>>,
}

impl Graph {
    pub(crate) fn new(application: &str) -> Graph {
        let graph = Graph { application: application.into(), state: Arc::default() };
        if !valid_topic(application) {
            graph.error(WiringError::Application { name: application.to_owned() });
        }
        if let Some((of, generation)) = generation_in(application) {
            let (name, application) = (application.to_owned(), of.to_owned());
            let generation = generation.to_owned();
            graph.error(WiringError::GenerationName { name, application, generation });
        }
        graph
    }

    fn open(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock();
        assert!(!state.sealed, "the topology is built; wire everything before build()");
        state
    }

    pub(crate) fn is_same(&self, other: &Graph) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    pub(crate) fn error(&self, error: WiringError) {
        self.open().errors.push(error);
    }

    /// Reports a name that cannot be part of a topic name.
    pub(crate) fn check_name(&self, operator: &'static str, name: &str) {
        if !valid_topic(name) {
            self.error(WiringError::Name { operator, name: name.to_owned() });
        }
    }

    pub(crate) fn name(&self, node: NodeId) -> Arc<str> {
        let state = self.state.lock();
        state.nodes.get(node.0 as usize).map_or_else(|| "".into(), |node| Arc::clone(&node.name))
    }

    /// Adds an operator; its name is made unique if it is not.
    pub(crate) fn node(&self, operator: &'static str, name: &str, parents: &[NodeId]) -> NodeId {
        let mut state = self.open();
        let mut unique: Arc<str> = name.into();
        let mut number = 1;
        while !state.node_names.insert(Arc::clone(&unique)) {
            number += 1;
            unique = format!("{name}-{number}").into();
        }
        let id = NodeId(u32::try_from(state.nodes.len()).expect("a topology has less than 2^32 nodes"));
        let parents = parents.to_vec();
        state.nodes.push(Node {
            name: unique,
            operator,
            parents,
            topic: None,
            is_source: false,
            contents: None,
            skew_max: None,
        });
        id
    }

    /// The id of a topic; the same topic has the same id.
    pub(crate) fn topic(&self, name: &str, kind: TopicKind) -> TopicId {
        let mut state = self.open();
        if kind == TopicKind::External {
            if !valid_topic(name) {
                state.errors.push(WiringError::Topic { name: name.to_owned() });
            }
            let known = state.topics.iter().position(|topic| topic.kind == kind && &*topic.name == name);
            if let Some(known) = known {
                return TopicId(known as u32);
            }
        }
        state.topics.push(TopicDef { name: name.into(), kind });
        TopicId(u32::try_from(state.topics.len() - 1).expect("a topology has less than 2^32 topics"))
    }

    /// Whether a topic is a repartition topic of this application.
    pub(crate) fn is_repartition(&self, topic: TopicId) -> bool {
        let state = self.open();
        let def = state.topics.get(topic.0 as usize);
        def.is_some_and(|def| matches!(def.kind, TopicKind::Repartition { .. }))
    }

    /// Makes a node the source of a topic; `timestamped` says whether it takes event times from the records.
    pub(crate) fn source(&self, node: NodeId, (topic, timestamped): (TopicId, bool), make: SourceFactory) {
        let mut state = self.open();
        if timestamped {
            state.timestamped.insert(topic);
        }
        if let Some(source) = state.nodes.get_mut(node.0 as usize) {
            source.topic = Some(topic);
            source.is_source = true;
        }
        state.sources.push(SourceDef { node, topic, make });
    }

    /// A policy whose dead-letter topic, if it has one, is a topic of this topology.
    pub(crate) fn policy(&self, policy: OnFailure) -> FailurePolicy {
        match policy {
            OnFailure::Stop => FailurePolicy::Stop,
            OnFailure::Skip => FailurePolicy::Skip,
            OnFailure::DeadLetter(topic) => {
                let topic = self.topic(&topic, TopicKind::External);
                self.open().dead_letters.insert(topic);
                FailurePolicy::DeadLetter(topic)
            }
        }
    }

    /// Says what happens to records for which something fails, where nothing else is said.
    pub(crate) fn on_failure(&self, policy: OnFailure) {
        let policy = self.policy(policy);
        self.open().on_failure = Some(policy);
    }

    pub(crate) fn sink(&self, node: NodeId, topic: TopicId) {
        if let Some(sink) = self.open().nodes.get_mut(node.0 as usize) {
            sink.topic = Some(topic);
        }
    }

    /// Says that a node depends on how far event time has come elsewhere, and how far ahead that may be.
    pub(crate) fn timed(&self, node: NodeId, skew_max: i64) {
        if let Some(node) = self.open().nodes.get_mut(node.0 as usize) {
            node.skew_max = Some(skew_max);
        }
    }

    /// Says what the bytes are that a node reads from its topic or keeps in its store.
    pub(crate) fn contents(&self, node: NodeId, contents: String) {
        if let Some(node) = self.open().nodes.get_mut(node.0 as usize) {
            node.contents = Some(contents);
        }
    }

    /// Adds a store; returns its number in the topology.
    pub(crate) fn store(&self, name: &str, node: NodeId, changelog: Changelog) -> usize {
        let mut state = self.open();
        state.stores.push(StoreDef { name: name.into(), node, changelog });
        state.stores.len() - 1
    }

    /// Adds a table that can be looked up; `register` puts its lookup into a task under the number returned.
    pub(crate) fn view(
        &self,
        node: NodeId,
        register: impl Fn(usize, &mut Assembly<'_>) + Send + Sync + 'static,
    ) -> usize {
        let mut state = self.open();
        let id = state.views.len();
        state.views.push(ViewDef { node, register: Arc::new(move |assembly| register(id, assembly)) });
        id
    }

    pub(crate) fn global(
        &self,
        name: &str,
        (topic, on_failure): (TopicId, Option<FailurePolicy>),
        make: GlobalFactory,
    ) -> usize {
        let mut state = self.open();
        state.globals.push(GlobalDef { name: name.into(), topic, on_failure, make });
        state.globals.len() - 1
    }

    /// Notes that two nodes, and the topics that the records of each come from, must be partitioned alike.
    pub(crate) fn join(&self, left: NodeId, right: NodeId, name: &str) {
        self.open().joins.push((left, right, name.into()));
    }

    /// Checks everything, cuts the graph and seals it.
    pub(crate) fn build(&self) -> Result<Topology, WiringErrors> {
        let mut state = self.open();
        let mut errors = std::mem::take(&mut state.errors);
        errors.extend(duplicates(&state));
        errors.extend(misread(&state));
        let sub_topologies = cut(&state);
        errors.extend(sub_topologies.iter().filter_map(|part| too_many_clocks(&state, part)));
        if state.sources.is_empty() {
            errors.push(WiringError::NoSource);
        }
        if !errors.is_empty() {
            state.errors = errors.clone();
            return Err(WiringErrors(errors));
        }
        state.sealed = true;
        Ok(Topology(Arc::new(Built {
            application: Arc::clone(&self.application),
            // Handles go on naming their nodes.
            nodes: state.nodes.clone(),
            topics: std::mem::take(&mut state.topics),
            sources: std::mem::take(&mut state.sources),
            stores: std::mem::take(&mut state.stores),
            views: std::mem::take(&mut state.views),
            globals: std::mem::take(&mut state.globals),
            joins: std::mem::take(&mut state.joins),
            sub_topologies,
            on_failure: state.on_failure,
        })))
    }
}

fn duplicates(state: &State) -> Vec<WiringError> {
    let mut seen: BTreeMap<(&'static str, &str), usize> = BTreeMap::new();
    for store in &state.stores {
        *seen.entry(("store", &store.name)).or_default() += 1;
    }
    for global in &state.globals {
        *seen.entry(("global table", &global.name)).or_default() += 1;
    }
    for topic in &state.topics {
        if let TopicKind::Repartition { .. } = topic.kind {
            *seen.entry(("repartition", &topic.name)).or_default() += 1;
        }
    }
    let repeated = seen.into_iter().filter(|(_, times)| *times > 1);
    let error = |((what, name), times): ((&'static str, &str), usize)| WiringError::DuplicateName {
        what,
        name: name.to_owned(),
        times,
    };
    repeated.map(error).collect()
}

/// Topics that are read in two ways that do not go together.
fn misread(state: &State) -> Vec<WiringError> {
    let name = |topic: &TopicId| {
        state.topics.get(topic.0 as usize).map_or_else(String::new, |topic| topic.name.to_string())
    };
    let times = |topic: &TopicId| state.sources.iter().filter(|source| source.topic == *topic).count();
    let timed = state.timestamped.iter().filter(|topic| times(topic) > 1);
    let global = |topic: &TopicId| state.globals.iter().any(|global| global.topic == *topic);
    let letters = state.dead_letters.iter().filter(|topic| times(topic) > 0 || global(topic));
    timed
        .map(|topic| WiringError::Timestamps { topic: name(topic), times: times(topic) })
        .chain(letters.map(|topic| WiringError::DeadLetters { topic: name(topic) }))
        .collect()
}

/// What is wrong with the operators of a sub-topology that keep a clock, which is each with windows.
fn too_many_clocks(state: &State, part: &SubTopology) -> Option<WiringError> {
    let is_windowed = |store: &&StoreDef| match store.changelog {
        Changelog::Own(topic) => state
            .topics
            .get(topic.0 as usize)
            .is_some_and(|topic| matches!(topic.kind, TopicKind::Changelog { retention_ms: Some(_) })),
        Changelog::Source(_) => false,
    };
    let stores = part.stores.iter().filter_map(|index| state.stores.get(*index)).filter(is_windowed);
    let mut ids: BTreeMap<ClockId, &str> = BTreeMap::new();
    for store in stores {
        if let Some(other) =
            ids.insert(ClockId::of(&store.name), &store.name).filter(|other| **other != *store.name)
        {
            let (first, second) = (other.to_owned(), store.name.to_string());
            return Some(WiringError::EqualClocks { first, second });
        }
    }
    let last = ids.values().next_back().filter(|_| ids.len() > CLOCKS_MAX)?;
    Some(WiringError::Clocks { one: (*last).to_owned(), count: ids.len(), max: CLOCKS_MAX })
}

/// Connected components by parents and by shared source topics, numbered by their first source.
fn cut(state: &State) -> Vec<SubTopology> {
    let mut root: Vec<u32> = (0..state.nodes.len() as u32).collect();
    for (at, node) in state.nodes.iter().enumerate() {
        for parent in &node.parents {
            unite(&mut root, at as u32, parent.0);
        }
    }
    let mut readers: BTreeMap<TopicId, NodeId> = BTreeMap::new();
    for source in &state.sources {
        let first = *readers.entry(source.topic).or_insert(source.node);
        unite(&mut root, first.0, source.node.0);
    }
    let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
    let mut parts: Vec<SubTopology> = Vec::new();
    for (index, source) in state.sources.iter().enumerate() {
        let number = *numbers.entry(find(&mut root, source.node.0)).or_insert_with(|| {
            parts.push(SubTopology::default());
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(number) {
            part.sources.push(index);
            if !part.inputs.contains(&source.topic) {
                part.inputs.push(source.topic);
            }
        }
    }
    for at in 0..state.nodes.len() as u32 {
        let Some(part) = numbers.get(&find(&mut root, at)).and_then(|number| parts.get_mut(*number)) else {
            continue;
        };
        part.nodes.push(NodeId(at));
        if let Some(node) = state.nodes.get(at as usize)
            && let Some(topic) = node.topic.filter(|_| !node.is_source)
            && !part.outputs.contains(&topic)
        {
            part.outputs.push(topic);
        }
        part.stores.extend(
            (0..state.stores.len())
                .filter(|index| state.stores.get(*index).is_some_and(|store| store.node == NodeId(at))),
        );
    }
    let name = |topic: &TopicId| state.topics.get(topic.0 as usize).map(|topic| Arc::clone(&topic.name));
    for part in &mut parts {
        part.inputs.sort_by_key(|topic| (name(topic), *topic));
    }
    parts
}

fn find(root: &mut [u32], node: u32) -> u32 {
    let parent = root.get(node as usize).copied().unwrap_or(node);
    if parent == node {
        return node;
    }
    let top = find(root, parent);
    if let Some(slot) = root.get_mut(node as usize) {
        *slot = top;
    }
    top
}

fn unite(root: &mut [u32], a: u32, b: u32) {
    let (a, b) = (find(root, a), find(root, b));
    if let Some(slot) = root.get_mut(a.max(b) as usize) {
        *slot = a.min(b);
    }
}
