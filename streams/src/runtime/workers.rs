//! The workers of an instance: threads that come and go while it runs.
//!
//! Each is a member of the group by itself. One that is to go commits, leaves its stores to the others and leaves the group;
//! until then it has its tasks and answers questions about them.

use super::{AppError, QueryError, shared::Shared, worker::Worker};
use crate::{instance::Ask, processor::panic_text};
use parking_lot::Mutex;
use std::{
    any::Any,
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot, watch};

/// Most workers of an instance.
pub(super) const WORKERS_MAX: usize = 256;
/// Questions that wait for a worker; who asks more waits for a place.
const QUESTIONS_MAX: usize = 64;

/// How a worker that was told to go has ended.
type Left = oneshot::Receiver<Result<(), AppError>>;

/// A worker whose thread runs.
#[derive(Debug)]
struct Running {
    asks: mpsc::Sender<Ask>,
    /// Whether it is told to go.
    leave: watch::Sender<bool>,
    /// Whom to tell how it has ended, if it is.
    left: Option<oneshot::Sender<Result<(), AppError>>>,
}

#[derive(Debug, Default)]
struct Set {
    running: BTreeMap<usize, Running>,
    /// Number of the next worker; none is given twice.
    next: usize,
    /// Nobody starts any more.
    is_closed: bool,
}

/// All workers of an instance.
#[derive(Debug)]
pub(super) struct Workers {
    set: Mutex<Set>,
    /// Ticks when one has ended.
    ended: watch::Sender<()>,
    /// Held by who changes how many there are.
    pub(super) change: tokio::sync::Mutex<()>,
}

impl Workers {
    pub(super) fn new() -> Workers {
        Workers { set: Mutex::default(), ended: watch::channel(()).0, change: tokio::sync::Mutex::default() }
    }

    /// Where each can be asked; an error if there are none any more.
    pub(super) fn asks(&self) -> Result<Vec<mpsc::Sender<Ask>>, QueryError> {
        let asks: Vec<_> = self.set.lock().running.values().map(|running| running.asks.clone()).collect();
        if asks.is_empty() { Err(QueryError::Stopped) } else { Ok(asks) }
    }

    /// The numbers of those that are to stay.
    pub(super) fn staying(&self) -> Vec<usize> {
        let set = self.set.lock();
        let staying = set.running.iter().filter(|(_, running)| !*running.leave.borrow());
        staying.map(|(number, _)| *number).collect()
    }

    /// Has nobody start any more. Returns whether that is new.
    pub(super) fn close(&self) -> bool {
        !std::mem::replace(&mut self.set.lock().is_closed, true)
    }

    /// Waits until all have ended.
    pub(super) async fn all_ended(&self) {
        let mut ended = self.ended.subscribe();
        while !self.set.lock().running.is_empty() {
            // The sender is here.
            let _ = ended.changed().await;
        }
    }

    /// Tells the youngest to go, so many of those that are to stay.
    pub(super) fn part_with(&self, workers: usize) -> Vec<Left> {
        let mut set = self.set.lock();
        let staying = set.running.values_mut().rev().filter(|running| !*running.leave.borrow());
        let tell = |running: &mut Running| {
            let (left, told) = oneshot::channel();
            running.left = Some(left);
            running.leave.send_replace(true);
            told
        };
        staying.take(workers).map(tell).collect()
    }
}

/// Starts one more worker, unless the application is being closed.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let mut set = shared.workers.set.lock();
    if set.is_closed {
        return Ok(());
    }
    let number = set.next;
    let (asks, asked) = mpsc::channel(QUESTIONS_MAX);
    let (leave, leaving) = watch::channel(false);
    let of_thread = Arc::clone(shared);
    let run = move || {
        let ran = catch_unwind(AssertUnwindSafe(|| Worker::run(number, &of_thread, (asked, leaving))));
        let panicked = |panic: Box<dyn Any + Send>| {
            Err(AppError::Panic { worker: number, message: panic_text(&*panic) })
        };
        ended(&of_thread, number, ran.unwrap_or_else(panicked));
    };
    let name = format!("{}-{number}", shared.setup.topology.application());
    shared.owners.begun(number);
    if let Err(error) = std::thread::Builder::new().name(name).spawn(run) {
        shared.owners.ended(number);
        return Err(error);
    }
    set.next += 1;
    set.running.insert(number, Running { asks, leave, left: None });
    Ok(())
}

/// A worker has ended. If it was to go alone and could not commit, its records are processed again by others, and the
/// application goes on.
fn ended(shared: &Shared, number: usize, result: Result<(), AppError>) {
    let left = shared.workers.set.lock().running.get_mut(&number).and_then(|running| running.left.take());
    let alone = left.is_some() && !*shared.closing.borrow();
    if let Err(error) = &result
        && !(alone && matches!(error, AppError::Uncommitted { .. }))
    {
        shared.fail(error.clone());
    }
    let mut status = shared.status.lock();
    if let Some(counters) = status.counters.remove(&number) {
        status.gone.add(&counters);
    }
    status.committed.remove(&number);
    status.readiness.remove(&number);
    drop(status);
    shared.owners.ended(number);
    shared.workers.set.lock().running.remove(&number);
    if let Some(left) = left {
        // Whoever wanted it may have given up.
        let _ = left.send(result);
    }
    shared.workers.ended.send_replace(());
    shared.reported.send_replace(());
}
