//! Stores that tasks of this process have left, for workers of this process that take the tasks over.

use crate::{
    instance::Shelf,
    record::millis,
    task::{TaskId, TaskState},
};
use parking_lot::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// The shelf of a process, and its clock.
#[derive(Debug)]
pub(super) struct SharedShelf {
    /// `None` once the application ends.
    shelf: Mutex<Option<Shelf>>,
    /// How long stores are kept.
    keep_ms: i64,
    began: (Instant, SystemTime),
}

impl SharedShelf {
    pub(super) fn new(keep: Duration) -> SharedShelf {
        let began = (Instant::now(), SystemTime::now());
        SharedShelf { shelf: Mutex::new(Some(Shelf::default())), keep_ms: millis(keep), began }
    }

    /// The one clock stands still while the machine sleeps, the other may be set back.
    fn now(&self) -> i64 {
        let (monotonic, wall) = self.began;
        millis(monotonic.elapsed().max(wall.elapsed().unwrap_or_default()))
    }

    /// Keeps the stores of a task for a session.
    pub(super) fn leave(&self, task: TaskId, state: TaskState) {
        let until = self.now().saturating_add(self.keep_ms);
        // What has to be dropped is dropped without the lock: it may be large.
        let before = match &mut *self.shelf.lock() {
            Some(shelf) => shelf.put(task, state, until),
            None => Some(state),
        };
        drop(before);
    }

    /// The stores that a task has left, if they are here.
    pub(super) fn take(&self, task: TaskId) -> Option<TaskState> {
        let now = self.now();
        self.shelf.lock().as_mut()?.take(task, now)
    }

    /// Drops what nobody has taken in time.
    pub(super) fn forget_expired(&self) {
        let now = self.now();
        let expired = self.shelf.lock().as_mut().map(|shelf| shelf.expired(now));
        drop(expired);
    }

    /// Drops everything, and keeps nothing from now on.
    pub(super) fn close(&self) {
        let all = self.shelf.lock().take();
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_longer_than_it_should_or_beyond_the_end() {
        let task = TaskId { sub_topology: 0, partition: 3 };
        let shelf = SharedShelf::new(Duration::from_secs(3600));
        shelf.leave(task, TaskState::default());
        shelf.forget_expired();
        assert!(shelf.take(task).is_some() && shelf.take(task).is_none());
        shelf.leave(task, TaskState::default());
        shelf.close();
        shelf.leave(task, TaskState::default());
        assert!(shelf.take(task).is_none());
        let shelf = SharedShelf::new(Duration::ZERO);
        shelf.leave(task, TaskState::default());
        assert!(shelf.take(task).is_none(), "its time is over");
    }
}
