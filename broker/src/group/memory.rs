//! The memory of groups that have members, all together: what members say of themselves, and what they are given.
//!
//! Invariants: what is kept is counted, and given back with its group; what is asked for is counted before it is kept,
//! and refused beyond the limit. What was written before is kept whatever the limit is now.

use super::GroupError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that all live groups hold together.
#[derive(Debug)]
pub(super) struct Memory {
    /// `kappa.groups.bytes.max`.
    max: usize,
    used: AtomicUsize,
    /// Whether the last that was asked for was refused: that is said once.
    is_full: AtomicBool,
}

impl Memory {
    /// At most `max` bytes.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicUsize::new(0), is_full: AtomicBool::new(false) })
    }

    /// Bytes held now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> Result<(), GroupError> {
        if bytes == 0 {
            return Ok(());
        }
        let max = self.max;
        let fits = |used: usize| used.checked_add(bytes).filter(|next| *next <= max);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        let was_full = self.is_full.swap(taken.is_err(), Ordering::Relaxed);
        taken.map(drop).map_err(|used| {
            let error = GroupError::OutOfMemory { used, bytes, max };
            if !was_full {
                tracing::warn!(%error, "members are refused until others go");
            }
            error
        })
    }
}

/// What one group holds.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, bytes: 0 }
    }

    /// Holds `bytes` more, if there is room.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), GroupError> {
        self.memory.try_take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Holds `bytes`: counts what is there.
    pub(super) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
