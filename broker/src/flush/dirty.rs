//! Bytes that were appended and are in no synced segment yet, of all partitions together, and what is done about many.
//!
//! From half the limit on, everything dirty is synced, whatever the flush policies say. At the limit producers wait
//! until syncs have caught up: the kernel would else stop whoever writes next, and that is the thread that serves all
//! clients. Invariants: a partition that has dirty bytes is in the list, at most once; what cannot be synced is not
//! waited for, so that a partition whose disk fails holds nobody back.

use super::FlushQueue;
use crate::budget::{Budget, Share};
use crate::partition::Partition;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// See the module's description.
pub(super) struct Dirty {
    bytes: Arc<Budget>,
    sync_from: usize,
    /// By address.
    listed: Mutex<HashMap<usize, Weak<Partition>>>,
    /// Whether a sync of all that is dirty was asked for and has not begun.
    is_asked: AtomicBool,
}

/// Bytes that a sync has taken on; they are dirty no more when it has ended, whatever it came to.
pub(crate) struct Taken {
    pub(crate) bytes: u64,
    flush: Arc<FlushQueue>,
}

impl Dirty {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Budget::new(bytes_max),
            sync_from: bytes_max / 2,
            listed: Mutex::default(),
            is_asked: AtomicBool::new(false),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.used() as u64
    }

    /// How many producers wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.waiting()
    }

    fn are_many(&self) -> bool {
        self.bytes.used() >= self.sync_from
    }

    /// Whether a sync of all that is dirty is due.
    pub(super) fn is_due(&self) -> bool {
        self.is_asked.load(Ordering::Acquire)
    }
}

impl FlushQueue {
    /// Counts bytes that were appended; before the partition's lock is let go, so that no sync takes them first.
    pub(crate) fn count_dirty(&self, bytes: u64) {
        self.dirty.bytes.add(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Takes note that a partition has dirty bytes, if it is not in the list, and has all synced where they are many.
    pub(crate) fn appended(&self, unlisted: Option<Weak<Partition>>) {
        if let Some(partition) = unlisted {
            self.list(partition);
        }
        if self.dirty.are_many() && !self.dirty.is_due() {
            // The lock makes sure that whoever looks after it does not begin to wait in between.
            let waiting = self.waiting.lock();
            self.dirty.is_asked.store(true, Ordering::Release);
            drop(waiting);
            self.upkeep.notify_one();
        }
    }

    /// Counts bytes as taken on by a sync.
    pub(crate) fn take_dirty(self: &Arc<Self>, bytes: u64) -> Taken {
        Taken { bytes, flush: self.clone() }
    }

    /// What a producer's connection waits with for less to be dirty.
    pub(crate) fn dirty_share(&self) -> Share {
        self.dirty.bytes.share()
    }

    /// Whether producers have to wait.
    pub(crate) fn holds_producers(&self) -> bool {
        self.dirty.bytes.is_over()
    }

    /// Waits while producers have to.
    pub(crate) async fn room(&self) {
        let mut share = self.dirty_share();
        poll_fn(|cx| share.poll_room(cx, 0)).await;
    }

    pub(super) fn leave_dirty_list(&self, partition: &Weak<Partition>) {
        self.dirty.listed.lock().remove(&address(partition.as_ptr()));
    }

    /// Syncs all that is dirty, if it is due; it is due again at once where that leaves many.
    pub(super) fn sync_dirty(&self) {
        if !self.dirty.is_asked.swap(false, Ordering::AcqRel) {
            return;
        }
        let listed = std::mem::take(&mut *self.dirty.listed.lock());
        let partitions: Vec<_> = listed.values().filter_map(Weak::upgrade).collect();
        if partitions.is_empty() {
            return;
        }
        if let Err(error) = Partition::sync_all(&partitions) {
            tracing::error!(%error, cause = %error.source, "not all that is dirty can be synced");
        }
        for partition in partitions.iter().filter(|partition| partition.is_still_dirty()) {
            self.list(Arc::downgrade(partition));
        }
        self.dirty.is_asked.store(self.dirty.are_many(), Ordering::Release);
    }

    fn list(&self, partition: Weak<Partition>) {
        self.dirty.listed.lock().insert(address(partition.as_ptr()), partition);
    }
}

/// What a partition is known by while it is there.
pub(super) fn address(partition: *const Partition) -> usize {
    partition.addr()
}

impl Taken {
    /// The sync does not take the bytes on after all: they stay dirty. Returns how many.
    pub(crate) fn leave(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.flush.dirty.bytes.give_back(usize::try_from(self.bytes).unwrap_or(usize::MAX));
    }
}
