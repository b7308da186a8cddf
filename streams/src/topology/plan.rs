//! A topology laid over topics that exist: how many tasks there are and which internal topics are needed.
//!
//! Inputs of a join must have equal partition counts. A repartition topic takes the count it was asked for,
//! else that of the topic it is joined with, else the largest count among the inputs of who writes it.

use super::{InternalNames, NodeId, PlanError, TopicId, TopicKind, Topology, graph::Node};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// An internal topic that the application needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalTopic {
    /// The topic.
    pub topic: TopicId,
    /// What it is for.
    pub kind: TopicKind,
    /// Its partitions.
    pub partitions: i32,
}

/// One sub-topology of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubTopologyPlan {
    /// Number of tasks: the largest partition count among the inputs.
    pub tasks: i32,
    /// Topics read.
    pub inputs: Vec<TopicId>,
}

/// What has to exist and run for a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By number of the sub-topology.
    pub sub_topologies: Vec<SubTopologyPlan>,
    /// Internal topics to create.
    pub internal_topics: Vec<InternalTopic>,
    /// Partitions of every topic, by topic id; 0 where unknown and not needed.
    pub(crate) partition_counts: Arc<[i32]>,
    /// Full names of the topics, by topic id; those of generation 0 until told otherwise.
    pub(crate) topic_names: Arc<[Arc<str>]>,
    /// Tasks that write a repartition topic, by topic id; 0 for others.
    pub(crate) writers: Arc<[i32]>,
}

impl Plan {
    /// How many tasks write a repartition topic; none, another topic.
    pub(crate) fn writers(&self, topic: TopicId) -> usize {
        let count = self.writers.get(topic.0 as usize).copied().unwrap_or(0);
        usize::try_from(count).unwrap_or(0)
    }
}

impl Topology {
    /// Lays the topology over topics whose partition counts `count` tells, `None` for a topic that is not there.
    /// Topics that are only written may be missing.
    pub fn plan(&self, count: impl Fn(&str) -> Option<i32>) -> Result<Plan, Vec<PlanError>> {
        let mut planner = Planner { topology: self, counts: BTreeMap::new(), errors: Vec::new() };
        planner.external(&count);
        if planner.errors.is_empty() {
            planner.repartition();
            planner.joins();
        }
        if planner.errors.is_empty() { Ok(planner.finish()) } else { Err(planner.errors) }
    }
}

impl Topology {
    /// Sources that a node's records come from, each with its topic.
    fn sources_of(&self, node: NodeId) -> Vec<(&Node, TopicId)> {
        let mut sources: Vec<(&Node, TopicId)> = Vec::new();
        let mut open = vec![node];
        while let Some(node) = open.pop().and_then(|node| self.0.nodes.get(node.0 as usize)) {
            let source = node.topic.filter(|_| node.is_source).map(|topic| (node, topic));
            sources.extend(
                source.filter(|(node, _)| !sources.iter().any(|(known, _)| std::ptr::eq(*known, *node))),
            );
            open.extend(&node.parents);
        }
        sources
    }

    /// Topics that a node's records come from, without crossing a topic.
    fn inputs_of(&self, node: NodeId) -> Vec<TopicId> {
        let mut topics = Vec::new();
        for (_, topic) in self.sources_of(node) {
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Topics in which the partition of a key tells the task that has it, if the keys of a node have the bytes that they have
    /// there: codecs of the same description, though a window may stand behind them.
    pub(crate) fn placed_by(&self, node: NodeId, codec: &str, has_window: bool) -> Option<Vec<TopicId>> {
        let bare = |codec: &str| {
            let inner = codec.strip_prefix("opt(").and_then(|inner| inner.strip_suffix(')'));
            inner.unwrap_or(codec).to_owned()
        };
        let is_same = |(source, _): &(&Node, TopicId)| {
            let contents = source.contents.as_deref().and_then(|contents| contents.split_once(" -> "));
            let Some((keys, _)) = contents else { return false };
            let keys = bare(keys.strip_prefix("changes of ").unwrap_or(keys));
            match has_window {
                true => ["", "opt("].iter().any(|opt| codec.starts_with(&format!("windowed({opt}{keys}"))),
                false => bare(codec) == keys,
            }
        };
        let all = self.sources_of(node).iter().all(is_same);
        Some(self.inputs_of(node)).filter(|topics| all && !topics.is_empty())
    }

    /// Topics that the records of a topic come from, without crossing another topic.
    pub(crate) fn feeding(&self, topic: TopicId) -> Vec<TopicId> {
        let nodes = self.0.nodes.iter().enumerate();
        let writers = nodes.filter(|(_, node)| node.topic == Some(topic) && !node.is_source);
        writers.flat_map(|(index, _)| self.inputs_of(NodeId(index as u32))).collect()
    }

    /// Topics that the records of a topic come from, directly or through other topics.
    pub(crate) fn ancestors(&self, topic: TopicId) -> BTreeSet<TopicId> {
        let mut found = BTreeSet::new();
        let mut open = vec![topic];
        while let Some(topic) = open.pop() {
            open.extend(self.feeding(topic).into_iter().filter(|input| found.insert(*input)));
        }
        found
    }

    /// Repartition topics written by a sub-topology whose readers go by event time.
    pub(crate) fn stamped(&self, sub_topology: usize) -> impl Iterator<Item = TopicId> + '_ {
        let is_repartition =
            |topic: &TopicId| matches!(self.topic(*topic).kind, TopicKind::Repartition { .. });
        let is_timed = |topic: &TopicId| {
            let parts = self.0.sub_topologies.iter().enumerate();
            parts.filter(|(_, part)| part.inputs.contains(topic)).any(|(reader, _)| self.is_timed(reader))
        };
        let outputs = self.sub_topology(sub_topology).outputs.iter().copied();
        outputs.filter(is_repartition).filter(is_timed)
    }
}

struct Planner<'a> {
    topology: &'a Topology,
    counts: BTreeMap<TopicId, i32>,
    errors: Vec<PlanError>,
}

impl Planner<'_> {
    fn external(&mut self, count: &impl Fn(&str) -> Option<i32>) {
        let inputs = self.topology.input_topics();
        for (index, topic) in self.topology.0.topics.iter().enumerate() {
            if topic.kind != TopicKind::External {
                continue;
            }
            match count(&topic.name) {
                Some(partitions) => {
                    self.counts.insert(TopicId(index as u32), partitions);
                }
                None if inputs.contains(&&*topic.name) => {
                    self.errors.push(PlanError::MissingTopic { topic: topic.name.to_string() });
                }
                None => {}
            }
        }
    }

    fn enforced(&self, topic: TopicId) -> Option<i32> {
        match self.topology.topic(topic).kind {
            TopicKind::Repartition { partitions } => partitions,
            _ => None,
        }
    }

    fn is_repartition(&self, topic: TopicId) -> bool {
        matches!(self.topology.topic(topic).kind, TopicKind::Repartition { .. })
    }

    /// Counts flow from the writers to the readers of repartition topics; the graph has no cycles, so as many
    /// rounds as there are sub-topologies are enough.
    fn repartition(&mut self) {
        for _ in 0..=self.topology.0.sub_topologies.len() {
            let topology = self.topology;
            for part in &topology.0.sub_topologies {
                let widest = part.inputs.iter().filter_map(|topic| self.counts.get(topic)).max().copied();
                for topic in part.outputs.iter().copied() {
                    if !self.is_repartition(topic) {
                        continue;
                    }
                    if let Some(count) = self.enforced(topic).or(widest) {
                        self.counts.insert(topic, count);
                    }
                }
            }
            self.align();
        }
    }

    /// Repartition topics without a count of their own follow what they are joined with.
    fn align(&mut self) {
        for (left, right, _) in &self.topology.0.joins {
            let inputs: Vec<TopicId> =
                self.topology.inputs_of(*left).into_iter().chain(self.topology.inputs_of(*right)).collect();
            let fixed = |topic: &&TopicId| !self.is_repartition(**topic) || self.enforced(**topic).is_some();
            let count = inputs.iter().filter(fixed).filter_map(|topic| self.counts.get(topic)).max();
            let any = inputs.iter().filter_map(|topic| self.counts.get(topic)).max();
            let Some(count) = count.or(any).copied() else { continue };
            for topic in inputs {
                if self.is_repartition(topic) && self.enforced(topic).is_none() {
                    self.counts.insert(topic, count);
                }
            }
        }
    }

    fn joins(&mut self) {
        for (left, right, join) in &self.topology.0.joins {
            let mut inputs =
                self.topology.inputs_of(*left).into_iter().chain(self.topology.inputs_of(*right));
            let Some(first) = inputs.next() else { continue };
            let count = |topic: TopicId| self.counts.get(&topic).copied().unwrap_or(0);
            let found =
                inputs.find(|other| count(*other) != count(first)).map(|other| PlanError::CoPartition {
                    join: Arc::clone(join),
                    left: self.topology.topic(first).name.to_string(),
                    left_partitions: count(first),
                    right: self.topology.topic(other).name.to_string(),
                    right_partitions: count(other),
                });
            self.errors.extend(found);
        }
    }

    fn finish(self) -> Plan {
        let topology = self.topology;
        let count = |topic: &TopicId| self.counts.get(topic).copied().unwrap_or(0);
        let sub_topologies: Vec<SubTopologyPlan> = topology
            .0
            .sub_topologies
            .iter()
            .map(|part| SubTopologyPlan {
                tasks: part.inputs.iter().map(count).max().unwrap_or(0),
                inputs: part.inputs.clone(),
            })
            .collect();
        let mut partition_counts: Vec<i32> =
            (0..topology.0.topics.len()).map(|index| count(&TopicId(index as u32))).collect();
        for (part, plan) in topology.0.sub_topologies.iter().zip(&sub_topologies) {
            let stores = part.stores.iter().filter_map(|index| topology.0.stores.get(*index));
            for store in stores {
                if let super::Changelog::Own(topic) = store.changelog
                    && let Some(slot) = partition_counts.get_mut(topic.0 as usize)
                {
                    *slot = plan.tasks;
                }
            }
        }
        let internal =
            topology.0.topics.iter().enumerate().filter(|(_, topic)| topic.kind != TopicKind::External);
        let internal_topics = internal
            .map(|(index, topic)| InternalTopic {
                topic: TopicId(index as u32),
                kind: topic.kind,
                partitions: partition_counts.get(index).copied().unwrap_or(0),
            })
            .collect();
        let mut writers = vec![0; topology.0.topics.len()];
        for (part, plan) in topology.0.sub_topologies.iter().zip(&sub_topologies) {
            for topic in part.outputs.iter().filter(|topic| self.is_repartition(**topic)) {
                if let Some(count) = writers.get_mut(topic.0 as usize) {
                    *count = plan.tasks;
                }
            }
        }
        let (partition_counts, writers) = (partition_counts.into(), writers.into());
        let topic_names = topology.topic_names(&InternalNames::new(topology.application(), 0));
        Plan { sub_topologies, internal_topics, partition_counts, topic_names, writers }
    }
}
