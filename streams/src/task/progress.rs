//! Progress of the tasks of one instance that write for others, shared by its threads.
//!
//! What turns nothing late are the stamps in the log. This only keeps the writers of one process together, so that
//! little is put aside by their readers: each task publishes, for each of its partitions, how far its event time has come,
//! and takes a head only within some skew bounds of the least of all the others ([`BOUNDS_APART`]). A topic never holds one
//! that it is made from, else both would wait for each other.

use crate::{
    processor::Frontier,
    topology::{TopicId, Topology},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

/// How many skew bounds the writers of one process may be apart. Within one, threads would hardly do more than wait for each
/// other: what it admits is often done in less time than it takes to wake another.
pub(super) const BOUNDS_APART: i64 = 8;

/// The levels of the partitions of one topic, ordered, so that the least is found without looking at all.
#[derive(Debug, Default)]
struct Levels {
    by_partition: BTreeMap<i32, Frontier>,
    ordered: BTreeSet<(Frontier, i32)>,
}

impl Levels {
    /// Sets or forgets the level of a partition; returns whether that changes anything.
    fn set(&mut self, partition: i32, level: Option<Frontier>) -> bool {
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

    /// The least, but for that of one partition.
    fn least(&self, but: Option<i32>) -> Option<Frontier> {
        self.ordered.iter().find(|(_, of)| Some(*of) != but).map(|(level, _)| *level)
    }
}

/// Levels by topic and partition.
pub(crate) struct ProgressTable {
    levels: Vec<Mutex<Levels>>,
    /// Per topic, those read by the same sub-topology, itself included, that are not made from it.
    holders: Vec<Vec<TopicId>>,
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
        let holders = |topic: TopicId| -> Vec<TopicId> {
            let readers = topology.0.sub_topologies.iter().filter(move |part| part.inputs.contains(&topic));
            let inputs = readers.flat_map(|part| part.inputs.iter().copied());
            let made_from_it = |other: &TopicId| {
                *other != topic && ancestors.get(other.0 as usize).is_some_and(|of| of.contains(&topic))
            };
            inputs.filter(|other| !made_from_it(other)).collect()
        };
        ProgressTable {
            levels: (0..count).map(|_| Mutex::default()).collect(),
            holders: (0..count).map(|topic| holders(TopicId(topic as u32))).collect(),
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

    fn holders(&self, topic: TopicId) -> &[TopicId] {
        self.holders.get(topic.0 as usize).expect("topic ids come from the table's topology")
    }

    fn levels(&self, topic: TopicId) -> &Mutex<Levels> {
        self.levels.get(topic.0 as usize).expect("topic ids come from the table's topology")
    }

    /// Sets the levels of the partitions of one task.
    pub(crate) fn publish(&self, partition: i32, levels: impl Iterator<Item = (TopicId, Frontier)>) {
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
        self.holders(topic).contains(&holder)
    }

    /// The least level of whatever holds a topic, but for the partitions of one task.
    pub(crate) fn least_of_others(&self, topic: TopicId, but: Option<i32>) -> Frontier {
        let least = |holder: &TopicId| self.levels(*holder).lock().least(but);
        self.holders(topic).iter().filter_map(least).min().unwrap_or(Frontier::Idle)
    }

    /// How far all have come that hold any of these topics, at best.
    pub(crate) fn reach(&self, topics: &[TopicId]) -> Frontier {
        let least = |topic: &TopicId| self.least_of_others(*topic, None);
        topics.iter().map(least).max().unwrap_or(Frontier::Idle)
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

    fn level() -> impl Strategy<Value = Option<Frontier>> {
        let time = -3i64..3;
        prop_oneof![
            3 => time.prop_map(|time| Some(Frontier::At(time))),
            1 => Just(Some(Frontier::Idle)),
            1 => Just(None),
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
                prop_assert_eq!(levels.least(Some(but)), others.min());
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
        table.publish(0, [(input, Frontier::At(50)), (repartition, Frontier::At(10))].into_iter());
        table.publish(1, [(input, Frontier::At(70)), (repartition, Frontier::At(60))].into_iter());
        assert_eq!(table.least_of_others(input, Some(0)), Frontier::At(70));
        assert_eq!(table.least_of_others(repartition, Some(0)), Frontier::At(60));
        assert_eq!(table.reach(&[input, repartition]), Frontier::At(50));
        table.withdraw(1, [input, repartition].into_iter());
        assert_eq!(table.least_of_others(input, Some(0)), Frontier::Idle);
    }
}
