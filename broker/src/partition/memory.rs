//! How many producers partitions remember: each by itself, and all of a broker together.
//!
//! Invariant: a partition may always remember a few and never more than [`PRODUCERS_MAX`]; between the two it may as
//! long as all together are within the limit. What was remembered before is kept whatever others remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Producers that one partition remembers at most: what a roll has to write of them stays near the size of the smallest
/// segment.
pub(super) const PRODUCERS_MAX: usize = 10_000;
/// Producers that a partition remembers whatever others do.
pub(super) const PRODUCERS_MIN: usize = 32;
/// Memory of one, with what its table has free.
const PRODUCER_BYTES: usize = 192;
/// Bytes unless `kappa.producers.bytes.max` says otherwise.
const BYTES_MAX: usize = 128 * 1024 * 1024;

/// What all partitions of a broker remember of producers.
#[derive(Debug)]
pub struct ProducerMemory {
    /// Producers beyond which a partition forgets one for each that comes.
    max: usize,
    used: AtomicUsize,
}

impl ProducerMemory {
    /// About `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { max: bytes_max / PRODUCER_BYTES, used: AtomicUsize::new(0) })
    }

    /// Producers that are remembered now; one that several partitions remember counts for each.
    pub fn count(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for ProducerMemory {
    fn default() -> Self {
        Self { max: BYTES_MAX / PRODUCER_BYTES, used: AtomicUsize::new(0) }
    }
}

/// What one partition has of it.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<ProducerMemory>,
    count: usize,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(memory: Arc<ProducerMemory>) -> Self {
        Self { memory, count: 0 }
    }

    /// How many producers the partition may remember.
    pub(super) fn limit(&self) -> usize {
        let free = self.memory.max.saturating_sub(self.memory.count());
        (self.count + free).clamp(PRODUCERS_MIN, PRODUCERS_MAX)
    }

    /// It remembers so many.
    pub(super) fn set(&mut self, count: usize) {
        if count != self.count {
            let before = std::mem::replace(&mut self.count, count);
            self.memory.used.fetch_add(count, Ordering::Relaxed);
            self.memory.used.fetch_sub(before, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_still_has_a_few_and_what_goes_is_there_for_others() {
        let memory = ProducerMemory::new(1000 * PRODUCER_BYTES);
        let [mut first, mut second] = [(); 2].map(|()| Held::new(memory.clone()));
        assert_eq!(first.limit(), 1000);
        first.set(900);
        assert_eq!((first.limit(), second.limit()), (1000, 100));
        second.set(100);
        assert_eq!((first.limit(), second.limit()), (900, 100));
        assert_eq!(Held::new(memory.clone()).limit(), PRODUCERS_MIN);
        drop(first);
        assert_eq!((second.limit(), memory.count()), (1000, 100));
        assert_eq!(Held::new(ProducerMemory::new(usize::MAX)).limit(), PRODUCERS_MAX);
    }
}
