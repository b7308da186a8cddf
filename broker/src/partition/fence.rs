//! The lock of a partition's state, and what a panic makes of the partition.
//!
//! Invariant: a state that a thread panicked over is never used as if it were whole. The partition refuses reads and
//! writes from then on, whoever waits is told, and it is not closed cleanly: the next start checks the log.

use super::{Health, Partition, State, Wakers};
use crate::log::StorageError;
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::ops::{Deref, DerefMut};

/// A lock that fences the state if a thread panics while it holds it.
#[derive(Debug)]
pub(super) struct StateLock(Mutex<State>);

/// The state, locked.
pub(super) struct StateGuard<'a> {
    state: MutexGuard<'a, State>,
    was_panicking: bool,
}

/// Fences a partition if the thread panics before this is dropped, for work beside the lock that others wait for.
#[must_use]
pub(crate) struct FenceOnPanic<'a> {
    partition: &'a Partition,
    was_panicking: bool,
}

impl StateLock {
    pub(super) fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    pub(super) fn lock(&self) -> StateGuard<'_> {
        StateGuard { state: self.0.lock(), was_panicking: std::thread::panicking() }
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            let mut wakers = Wakers::default();
            self.state.fence(&mut wakers);
            MutexGuard::unlocked(&mut self.state, || wakers.wake());
        }
    }
}

impl Drop for FenceOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            let mut wakers = Wakers::default();
            self.partition.state.lock().fence(&mut wakers);
            wakers.wake();
        }
    }
}

impl Partition {
    /// Whether a thread panicked over the partition.
    pub(crate) fn is_fenced(&self) -> bool {
        self.state.lock().is_fenced()
    }

    /// To be held during work beside the lock that must not end half done, be it that of whoever keeps a state by the
    /// partition's records.
    pub(crate) fn fence_on_panic(&self) -> FenceOnPanic<'_> {
        FenceOnPanic { partition: self, was_panicking: std::thread::panicking() }
    }
}

impl State {
    /// Why nothing may be done with the state, if so.
    pub(super) fn check_fence(&self) -> Result<(), StorageError> {
        match &self.health {
            Health::Fenced { error } => Err(error.clone()),
            Health::Sound | Health::Broken { .. } => Ok(()),
        }
    }

    pub(super) fn is_fenced(&self) -> bool {
        matches!(self.health, Health::Fenced { .. })
    }

    fn fence(&mut self, wakers: &mut Wakers) {
        if !self.is_fenced() {
            let directory = self.log.directory();
            tracing::error!(directory = %directory.display(), "a thread panicked over a partition, which refuses everything");
            let cause =
                io::Error::other("a thread panicked over it: restart the broker, which checks the log");
            self.health = Health::Fenced { error: StorageError::on("use", directory)(cause) };
        }
        self.waiting_for_sync.all(wakers);
        self.waiting_for_records.all(wakers);
    }
}
