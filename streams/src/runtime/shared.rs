//! What the workers of one instance and its handles have in common.

use super::{
    AppError, Config, QueryError,
    owners::Owners,
    shelf::SharedShelf,
    state::{Readiness, Restores, State},
    watch::Look,
    workers::Workers,
};
use crate::{
    instance::{Place, Setup},
    processor::Counters,
    task::{Position, TaskId},
    topology::{InternalNames, TopicId, Topology},
};
use kappa_client::{Client, TopicPartition};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::sync::watch;

/// Full names of a topology's topics, both ways.
#[derive(Debug)]
pub(super) struct TopicNames {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, TopicId>,
}

impl TopicNames {
    pub(super) fn new(topology: &Topology, names: &InternalNames) -> TopicNames {
        let names: Vec<Arc<str>> =
            topology.0.topics.iter().map(|topic| Arc::from(names.topic(topic))).collect();
        let ids =
            names.iter().enumerate().map(|(index, name)| (Arc::clone(name), TopicId(index as u32))).collect();
        TopicNames { names, ids }
    }

    pub(super) fn name(&self, topic: TopicId) -> &Arc<str> {
        self.names.get(topic.0 as usize).expect("topic ids come from this topology")
    }

    pub(super) fn id(&self, name: &str) -> Option<TopicId> {
        self.ids.get(name).copied()
    }

    pub(super) fn partition(&self, topic: TopicId, partition: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(self.name(topic)), partition)
    }
}

/// What workers report.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// By worker; counters of tasks that have gone stay in it.
    pub(super) counters: BTreeMap<usize, Counters>,
    /// What workers have counted that have ended.
    pub(super) gone: Counters,
    /// What was dropped on the way into global tables.
    pub(super) globals: Counters,
    /// Committed positions by worker and task.
    pub(super) committed: BTreeMap<usize, BTreeMap<TaskId, Vec<Position>>>,
    /// By worker.
    pub(super) readiness: BTreeMap<usize, Readiness>,
}

/// What an instance consists of besides its threads.
pub(super) struct Shared {
    pub(super) setup: Arc<Setup>,
    pub(super) topics: TopicNames,
    pub(super) names: InternalNames,
    pub(super) config: Config,
    pub(super) client: Client,
    /// The topics that it counts on, as they were when it was laid over them.
    pub(super) counted_on: Look,
    /// Ticks when a task has published progress.
    pub(super) progressed: watch::Sender<()>,
    pub(super) status: Mutex<Status>,
    /// Ticks when the status has changed.
    pub(super) reported: watch::Sender<()>,
    /// What the application is doing, as told to who watches.
    pub(super) state: watch::Sender<State>,
    pub(super) restores: Restores,
    /// Who has which task.
    pub(super) owners: Arc<Owners>,
    pub(super) shelf: SharedShelf,
    pub(super) workers: Workers,
    pub(super) closing: watch::Sender<bool>,
    /// The first failure of any worker.
    pub(super) failure: Mutex<Option<AppError>>,
}

impl Shared {
    /// Notes a failure and lets all workers end.
    pub(super) fn fail(&self, error: AppError) {
        tracing::error!(application = self.setup.topology.application(), %error, "the application has failed");
        self.failure.lock().get_or_insert(error);
        self.closing.send_replace(true);
        self.shelf.close();
        self.reported.send_replace(());
    }

    /// Whether questions are still answered.
    pub(super) fn may_be_asked(&self) -> Result<(), QueryError> {
        if *self.closing.borrow() { Err(QueryError::Stopped) } else { Ok(()) }
    }

    /// Number of tasks of a sub-topology.
    pub(super) fn task_count(&self, sub_topology: usize) -> i32 {
        self.setup.plan.sub_topologies.get(sub_topology).map_or(0, |plan| plan.tasks)
    }

    /// Partitions of a topic.
    pub(super) fn partitions(&self, topic: TopicId) -> i32 {
        self.setup.partitions(topic)
    }

    /// The input partitions of a task.
    pub(super) fn inputs(&self, id: TaskId) -> Vec<Place> {
        self.setup.inputs(id)
    }
}
