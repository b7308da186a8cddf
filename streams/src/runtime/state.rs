//! What a running application is doing, and how far its stores are restored.

use super::{AppError, shared::Shared};
use crate::{
    task::{RestoreWish, TaskId},
    topology::{Changelog, Topology},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What an application is doing, as far as this instance goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has started, and no worker is a member of the group yet.
    Created,
    /// The group gives out its tasks, or stores of tasks that this instance was given are restored.
    Rebalancing,
    /// Every worker has the tasks that the group has given it, and their stores are restored.
    Running,
    /// [`App::close`](super::App::close) was called and is not through.
    Closing,
    /// It was closed, and nothing failed.
    Closed,
    /// It has failed, and processes nothing more; [`App::failed`](super::App::failed) says why.
    Failed,
}

impl State {
    /// In lower case, as metrics have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Rebalancing => "rebalancing",
            State::Running => "running",
            State::Closing => "closing",
            State::Closed => "closed",
            State::Failed => "failed",
        }
    }

    pub(super) const ALL: [State; 6] =
        [State::Created, State::Rebalancing, State::Running, State::Closing, State::Closed, State::Failed];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a worker is with what the group has given it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    /// It is no member of the group.
    Outside,
    /// Some of its tasks are not there or not restored yet.
    Preparing,
    /// All of its tasks run.
    Ready,
}

/// The state, as what has happened and what workers last reported make it.
pub(super) fn now(shared: &Shared) -> State {
    if shared.failure.lock().is_some() {
        return State::Failed;
    }
    if *shared.closing.borrow() {
        return State::Closing;
    }
    let staying = shared.workers.staying();
    let status = shared.status.lock();
    let least = staying.iter().map(|worker| status.readiness.get(worker).copied());
    match least.map(|readiness| readiness.unwrap_or(Readiness::Outside)).min() {
        Some(Readiness::Ready) => State::Running,
        _ if status.readiness.values().all(|readiness| *readiness == Readiness::Outside) => State::Created,
        _ => State::Rebalancing,
    }
}

/// Tells who watches of every change, until the application closes or fails.
pub(super) async fn follow(shared: Arc<Shared>) {
    let (mut reported, mut closing) = (shared.reported.subscribe(), shared.closing.subscribe());
    while !*closing.borrow_and_update() {
        tell(&shared, now(&shared));
        tokio::select! {
            _ = reported.changed() => {}
            _ = closing.changed() => {}
        }
    }
    tell(&shared, now(&shared));
}

/// A group that settles again after a while is told of as rebalancing, never as created.
pub(super) fn tell(shared: &Shared, state: State) {
    shared.state.send_if_modified(|told| {
        let state =
            if state == State::Created && *told != State::Created { State::Rebalancing } else { state };
        let changed = *told != state;
        *told = state;
        changed
    });
}

/// Waits until the application runs; an error if it fails or closes before.
pub(super) async fn running(shared: &Shared) -> Result<(), AppError> {
    let mut state = shared.state.subscribe();
    let ended = |state: &State| !matches!(state, State::Created | State::Rebalancing);
    let reached = state.wait_for(ended).await.map(|state| *state);
    match reached {
        Ok(State::Running) => Ok(()),
        _ => Err(shared.failure.lock().clone().unwrap_or(AppError::Closed)),
    }
}

/// How far the store of a task is restored from its changelog, or from the topic that its table is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreProgress {
    /// The store.
    pub store: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Offsets read so far; the last of them may still be on their way into the store.
    pub done: i64,
    /// Offsets there were to read when it began.
    pub of: i64,
}

/// Worker, task and number of the store in it.
type StoreOf = (usize, TaskId, usize);

/// The stores of this instance that are being restored, each with the offset at which it began.
#[derive(Debug, Default)]
pub(super) struct Restores(Mutex<BTreeMap<StoreOf, (RestoreProgress, i64)>>);

impl Restores {
    /// A worker begins to read the changelog of a store.
    pub(super) fn begin(&self, topology: &Topology, (worker, task): (usize, TaskId), wish: &RestoreWish) {
        let stores = topology.sub_topology(task.sub_topology).stores.iter();
        let mut stores = stores.filter_map(|index| topology.0.stores.get(*index));
        let store = stores.find(|store| match store.changelog {
            Changelog::Own(topic) | Changelog::Source(topic) => topic == wish.place.0,
        });
        let Some(store) = store.map(|store| Arc::clone(&store.name)) else { return };
        let (partition, of) = (wish.place.1, wish.up_to - wish.from);
        let progress = RestoreProgress { store, partition, done: 0, of };
        self.0.lock().insert((worker, task, wish.store), (progress, wish.from));
    }

    /// It has been read up to an offset.
    pub(super) fn reached(&self, worker: usize, task: TaskId, store: usize, offset: i64) {
        if let Some((progress, begin)) = self.0.lock().get_mut(&(worker, task, store)) {
            progress.done = (offset - *begin).clamp(progress.done, progress.of);
        }
    }

    /// Forgets the tasks of a worker that are restored, or have gone.
    pub(super) fn retain(&self, worker: usize, is_restoring: impl Fn(&TaskId) -> bool) {
        self.0.lock().retain(|(of, task, _), _| *of != worker || is_restoring(task));
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<RestoreProgress> {
        self.0.lock().values().map(|(progress, _)| progress.clone()).collect()
    }
}
