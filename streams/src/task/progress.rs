//! Progress of the partitions that feed a sub-topology, shared by the tasks and threads of one instance.
//!
//! Each task publishes, for each of its partitions, how far its event time has come; a task may take a head only
//! within the skew bound of the least of all the others. Published times never go back, so a stale read holds a task
//! longer than need be and never lets it run ahead. A topic never holds one that it is made from, else both would
//! wait for each other.

use crate::topology::{TopicId, Topology};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

/// How far a partition has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// It may still bring records of this event time or later; `i64::MIN` before anything is known.
    At(i64),
    /// It has come to this time and is empty; what it still brings comes from topics that have their own levels.
    Behind(i64),
    /// It holds nobody: it has been at its end long enough, or has reached its pinned end.
    Released,
}

/// How a topic relates to others.
#[derive(Debug, Default)]
struct Relations {
    /// Topics read by the same sub-topology, itself included, that are not made from it.
    holders: Vec<TopicId>,
    /// Topics that it is made from, directly or through others.
    ancestors: BTreeSet<TopicId>,
}

/// The levels of the partitions of one topic, ordered, so that the least is found without looking at all.
#[derive(Debug, Default)]
struct Levels {
    by_partition: BTreeMap<i32, Level>,
    ordered: BTreeSet<(Level, i32)>,
}

impl Levels {
    /// Sets or forgets the level of a partition; returns whether that changes anything.
    fn set(&mut self, partition: i32, level: Option<Level>) -> bool {
        let before = match level {
            Some(level) => self.by_partition.insert(partition, level),
            None => self.by_partition.remove(&partition),
        };
        if before == level {
            return false;
        }
        if let Some(before) = before {
            self.ordered.remove(&(before, partition));
        }
        if let Some(level) = level {
            self.ordered.insert((level, partition));
        }
        true
    }

    /// The first level from this one on, but for that of one partition.
    fn first(&self, from: Level, but: Option<i32>) -> Option<Level> {
        let mut levels = self.ordered.range((from, i32::MIN)..);
        levels.find(|(_, of)| Some(*of) != but).map(|(level, _)| *level)
    }

    /// The least among those that are known, and among those that are only known to be behind others.
    fn least(&self, but: Option<i32>) -> (Option<Level>, Option<Level>) {
        let at = self.first(Level::At(i64::MIN), but).filter(|level| matches!(level, Level::At(_)));
        let behind =
            self.first(Level::Behind(i64::MIN), but).filter(|level| matches!(level, Level::Behind(_)));
        (at.or_else(|| self.first(Level::Released, but)), behind)
    }
}

/// Levels by topic and partition.
pub(crate) struct ProgressTable {
    levels: Vec<Mutex<Levels>>,
    relations: Vec<Relations>,
    /// Counts the changes of levels.
    version: AtomicU64,
    /// Told when a level has changed, since that may let others go.
    on_change: Option<Box<dyn Fn() + Send + Sync>>,
}

impl ProgressTable {
    pub(crate) fn new(topology: &Topology) -> ProgressTable {
        let count = topology.0.topics.len();
        let ancestors: Vec<BTreeSet<TopicId>> =
            (0..count).map(|topic| topology.ancestors(TopicId(topic as u32))).collect();
        let mut relations: Vec<Relations> = Vec::new();
        for (topic, own) in ancestors.iter().enumerate() {
            let topic = TopicId(topic as u32);
            let readers = topology.0.sub_topologies.iter().filter(|part| part.inputs.contains(&topic));
            let inputs = readers.flat_map(|part| part.inputs.iter().copied());
            let made_from_it = |other: &TopicId| {
                *other != topic && ancestors.get(other.0 as usize).is_some_and(|of| of.contains(&topic))
            };
            let holders = inputs.filter(|other| !made_from_it(other)).collect();
            relations.push(Relations { holders, ancestors: own.clone() });
        }
        ProgressTable {
            levels: (0..count).map(|_| Mutex::default()).collect(),
            relations,
            version: AtomicU64::new(0),
            on_change: None,
        }
    }

    /// Calls `told` whenever a level has changed.
    pub(crate) fn on_change(self, told: impl Fn() + Send + Sync + 'static) -> ProgressTable {
        ProgressTable { on_change: Some(Box::new(told)), ..self }
    }

    /// Another number whenever a level has changed.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        if let Some(told) = &self.on_change {
            told();
        }
    }

    fn relations(&self, topic: TopicId) -> &Relations {
        self.relations.get(topic.0 as usize).expect("topic ids come from the table's topology")
    }

    fn levels(&self, topic: TopicId) -> &Mutex<Levels> {
        self.levels.get(topic.0 as usize).expect("topic ids come from the table's topology")
    }

    /// Sets the levels of the partitions of one task.
    pub(crate) fn publish(&self, partition: i32, levels: impl Iterator<Item = (TopicId, Level)>) {
        let mut changed = false;
        for (topic, level) in levels {
            changed |= self.levels(topic).lock().set(partition, Some(level));
        }
        if changed {
            self.changed();
        }
    }

    /// Forgets the partitions of a task that has gone.
    pub(crate) fn withdraw(&self, partition: i32, topics: impl Iterator<Item = TopicId>) {
        let mut changed = false;
        for topic in topics {
            changed |= self.levels(topic).lock().set(partition, None);
        }
        if changed {
            self.changed();
        }
    }

    /// Whether partitions of `holder` hold those of `topic`; both are read by the same sub-topology.
    pub(crate) fn holds(&self, holder: TopicId, topic: TopicId) -> bool {
        self.relations(topic).holders.contains(&holder)
    }

    /// The least level of whatever holds a topic, but for the partitions of one task.
    pub(crate) fn least_of_others(&self, topic: TopicId, but: Option<i32>) -> Level {
        let least = |holder: &TopicId| {
            // `Behind` sorts by time among its like, and its true level is never below the topics it comes from.
            let (known, behind) = self.levels(*holder).lock().least(but);
            let behind = behind.map(|level| self.resolve(*holder, level));
            known.into_iter().chain(behind).min()
        };
        self.relations(topic).holders.iter().filter_map(least).min().unwrap_or(Level::Released)
    }

    /// How far all have come that hold any of these topics, at best.
    pub(crate) fn reach(&self, topics: &[TopicId]) -> Level {
        let least = |topic: &TopicId| self.least_of_others(*topic, None);
        topics.iter().map(least).max().unwrap_or(Level::Released)
    }

    /// The level of an empty partition by those of the topics it is made from.
    pub(crate) fn resolve(&self, topic: TopicId, level: Level) -> Level {
        let Level::Behind(time) = level else { return level };
        match self.least_feeding(topic) {
            Level::At(feeding) | Level::Behind(feeding) => Level::At(feeding.max(time)),
            Level::Released => Level::At(time),
        }
    }

    /// The least level of all partitions whose records a topic is made from.
    pub(crate) fn least_feeding(&self, topic: TopicId) -> Level {
        let ancestors = self.relations(topic).ancestors.iter().filter(|ancestor| **ancestor != topic);
        let least = |ancestor: &TopicId| self.levels(*ancestor).lock().least(None).0;
        ancestors.filter_map(least).min().unwrap_or(Level::Released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Builder,
        codec::{I64, Utf8},
    };
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = Option<Level>> {
        let time = -3i64..3;
        prop_oneof![
            time.clone().prop_map(|time| Some(Level::At(time))),
            time.prop_map(|time| Some(Level::Behind(time))),
            Just(Some(Level::Released)),
            Just(None),
        ]
    }

    proptest! {
        #[test]
        fn the_least_level_is_the_least_of_all(steps in prop::collection::vec((0i32..6, level()), 0..60), but in 0i32..7) {
            let (mut levels, mut model) = (Levels::default(), BTreeMap::new());
            for (partition, level) in steps {
                let before = match level {
                    Some(level) => model.insert(partition, level),
                    None => model.remove(&partition),
                };
                prop_assert_eq!(levels.set(partition, level), before != level);
                let others = model.iter().filter(|(of, _)| **of != but).map(|(_, level)| *level);
                let (behind, known): (Vec<Level>, Vec<Level>) =
                    others.partition(|level| matches!(level, Level::Behind(_)));
                let least = (known.into_iter().min(), behind.into_iter().min());
                prop_assert_eq!(levels.least(Some(but)), least);
            }
        }
    }

    /// A stream joined with a table that is made from the same stream, in one sub-topology.
    fn circular() -> Topology {
        let b = Builder::new("circular");
        let stream = b.stream("in", (Utf8, I64));
        let table = stream.group_by("by-key", (Utf8, I64), |key, _| key.clone()).count("counts");
        stream.join_table("joined", &table, |_, value, count| value + count).to("out", (Utf8, I64));
        b.build().unwrap()
    }

    #[test]
    fn a_topic_never_holds_one_that_it_is_made_from() {
        let topology = circular();
        let topic = |name: &str| {
            let index = topology.0.topics.iter().position(|topic| &*topic.name == name).unwrap();
            TopicId(index as u32)
        };
        let (input, repartition) = (topic("in"), topic("by-key"));
        let table = ProgressTable::new(&topology);
        assert!(!table.holds(repartition, input) && table.holds(input, repartition));
        table.publish(0, [(input, Level::At(50)), (repartition, Level::Behind(10))].into_iter());
        table.publish(1, [(input, Level::At(70)), (repartition, Level::Behind(60))].into_iter());
        assert_eq!(table.least_of_others(input, Some(0)), Level::At(70));
        assert_eq!(table.least_of_others(repartition, Some(0)), Level::At(60));
        assert_eq!(table.resolve(repartition, Level::Behind(10)), Level::At(50));
        table.withdraw(1, [input, repartition].into_iter());
        assert_eq!(table.least_of_others(input, Some(0)), Level::Released);
    }

    #[test]
    fn an_empty_partition_comes_as_far_as_what_feeds_it() {
        let b = Builder::new("chain");
        b.stream("in", (Utf8, I64)).group_by("by-key", (Utf8, I64), |key, _| key.clone()).count("counts");
        let topology = b.build().unwrap();
        let table = ProgressTable::new(&topology);
        let (input, repartition) = (TopicId(0), TopicId(1));
        assert_eq!(table.resolve(repartition, Level::Behind(5)), Level::At(5));
        table.publish(0, std::iter::once((input, Level::At(90))));
        table.publish(1, std::iter::once((repartition, Level::Behind(5))));
        assert_eq!(table.least_of_others(repartition, Some(0)), Level::At(90));
        table.publish(0, std::iter::once((input, Level::Released)));
        assert_eq!(table.least_of_others(repartition, Some(0)), Level::At(5));
    }
}
