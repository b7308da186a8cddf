//! Stores that tasks have left in their process when they went, until somebody of it takes them over.
//!
//! What stands here says up to where its changelogs are applied, and whoever takes it reads on from there; so it is never
//! wrong, only of use for as long as changelogs keep their tombstones, and it takes memory. Knows nothing of threads.

use crate::task::{TaskId, TaskState};
use std::collections::BTreeMap;

/// Stores of tasks that have gone, each until a time in milliseconds on one clock.
#[derive(Debug, Default)]
pub(crate) struct Shelf(BTreeMap<TaskId, (i64, TaskState)>);

impl Shelf {
    /// Keeps the stores of a task until a time; what stood here of it before is returned to be dropped.
    pub(crate) fn put(&mut self, task: TaskId, state: TaskState, until: i64) -> Option<TaskState> {
        self.0.insert(task, (until, state)).map(|(_, before)| before)
    }

    /// The stores of a task, if they are here and their time is not over. They are here no longer.
    pub(crate) fn take(&mut self, task: TaskId, now: i64) -> Option<TaskState> {
        self.0.remove(&task).filter(|(until, _)| now < *until).map(|(_, state)| state)
    }

    /// Takes out everything whose time is over, to be dropped.
    pub(crate) fn expired(&mut self, now: i64) -> Vec<TaskState> {
        let expired = self.0.extract_if(.., |_, (until, _)| *until <= now);
        expired.map(|(_, (_, state))| state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_taken_once_and_not_after_its_time() {
        let id = |partition| TaskId { sub_topology: 0, partition };
        let mut shelf = Shelf::default();
        for partition in 0..3 {
            assert!(shelf.put(id(partition), TaskState::default(), 10 + i64::from(partition)).is_none());
        }
        assert!(shelf.take(id(1), 10).is_some() && shelf.take(id(1), 10).is_none());
        assert!(shelf.take(id(0), 10).is_none(), "its time is over");
        assert!(shelf.put(id(2), TaskState::default(), 20).is_some(), "there is one of each task");
        assert_eq!((shelf.expired(19).len(), shelf.expired(20).len(), shelf.expired(20).len()), (0, 1, 0));
    }
}
