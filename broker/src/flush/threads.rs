//! The threads that serve a [`FlushQueue`]: one commits, a few sync, one looks after the journal and what is dirty.

use super::FlushQueue;
use super::commit::RETRY_AFTER;
use crate::panics::Panics;
use crate::partition::Partition;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that sync. Two writers to 18 partitions were 1.6 times as fast with four as with one, and no faster with
/// eight (docs/adr/0007-four-sync-threads.md).
pub(super) const SYNC_THREADS: usize = 4;

/// The threads of a queue.
#[derive(Debug)]
pub struct Flusher {
    queue: Arc<FlushQueue>,
    /// The one that commits comes first: what it hands on is synced by the others before they end.
    threads: Vec<JoinHandle<()>>,
}

impl FlushQueue {
    /// Commits what waits, again and again, until told to stop and nothing is left.
    fn run_commits(&self) {
        loop {
            let due = {
                let mut waiting = self.waiting.lock();
                waiting.committing = false;
                while !waiting.has_now() && !waiting.is_stopping {
                    self.commits.wait(&mut waiting);
                }
                waiting.committing = true;
                waiting.take_now()
            };
            if due.is_empty() {
                return;
            }
            // Those that were panicked over are fenced; the others are synced instead.
            let committed = catch_unwind(AssertUnwindSafe(|| self.commit(&due)));
            if let Err(panic) = committed {
                self.push_direct(due);
                resume_unwind(panic);
            }
        }
    }

    fn run_syncs(&self) {
        while let Some(partition) = self.wait_for_sync() {
            self.sync(&partition);
        }
    }

    fn wait_for_sync(&self) -> Option<Arc<Partition>> {
        let mut waiting = self.waiting.lock();
        loop {
            let now_ms = self.clock.steady_ms();
            if let Some(partition) = waiting.take_sync(now_ms) {
                return Some(partition);
            }
            if waiting.is_stopping {
                return None;
            }
            match waiting.next_due_ms() {
                Some(due_ms) => {
                    let wait_ms = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0).max(1);
                    self.syncs.wait_for(&mut waiting, Duration::from_millis(wait_ms));
                }
                None => self.syncs.wait(&mut waiting),
            }
        }
    }

    fn run_upkeep(&self) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.is_stopping {
                    return;
                }
                match waiting.blocked.is_empty() {
                    true if self.dirty.is_due() => {}
                    true => self.upkeep.wait(&mut waiting),
                    false => {
                        self.upkeep.wait_for(&mut waiting, RETRY_AFTER);
                    }
                }
            }
            self.sync_dirty();
            self.look_after_journal();
        }
    }
}

impl Flusher {
    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn start(queue: Arc<FlushQueue>) -> io::Result<Self> {
        Self::reporting_to(Panics::default(), queue)
    }

    /// The same, with panics counted elsewhere.
    pub(crate) fn reporting_to(panics: Panics, queue: Arc<FlushQueue>) -> io::Result<Self> {
        let mut flusher = Self { queue, threads: Vec::with_capacity(SYNC_THREADS + 2) };
        flusher.spawn(&panics, "kappa-commit", FlushQueue::run_commits)?;
        for _ in 0..SYNC_THREADS {
            flusher.spawn(&panics, "kappa-sync", FlushQueue::run_syncs)?;
        }
        flusher.spawn(&panics, "kappa-journal", FlushQueue::run_upkeep)?;
        Ok(flusher)
    }

    fn spawn(&mut self, panics: &Panics, name: &'static str, run: fn(&FlushQueue)) -> io::Result<()> {
        let (queue, panics) = (self.queue.clone(), panics.clone());
        // Whoever waits for the thread would wait for ever: it goes on after a panic. What it had taken is fenced.
        let run = move || {
            while panics.contain(name, || run(&queue)).is_none() {
                std::thread::sleep(RETRY_AFTER);
            }
        };
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(run)?);
        Ok(())
    }

    /// Makes durable what waits and ends the threads. Waits for them.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.queue.waiting.lock().is_stopping = true;
        for changed in [&self.queue.commits, &self.queue.syncs, &self.queue.upkeep] {
            changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
        // What the last round handed on after the others had ended.
        self.queue.run_due();
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.join();
    }
}
