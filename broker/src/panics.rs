//! The threads and tasks that panicked, by name, for whoever asks how the broker is.
//!
//! A panic is a fault of the program. What it was over is fenced by whoever owns it; this module only keeps the rest
//! going and remembers. It knows neither the work nor what became of it.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Panics since the start. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics(Arc<Mutex<BTreeMap<&'static str, u64>>>);

/// Counts a panic of the thread or task that it lives in.
#[derive(Debug)]
pub(crate) struct Watch {
    panics: Panics,
    name: &'static str,
    was_panicking: bool,
}

impl Panics {
    /// Does work of `name`. `None` if it panicked: the panic hook has reported where, and it is counted.
    pub(crate) fn contain<R>(&self, name: &'static str, work: impl FnOnce() -> R) -> Option<R> {
        let watch = self.watch(name);
        let result = catch_unwind(AssertUnwindSafe(move || {
            let _watch = watch;
            work()
        }));
        result.ok()
    }

    /// Counts a panic under `name` if there is one before what is returned is dropped.
    pub(crate) fn watch(&self, name: &'static str) -> Watch {
        Watch { panics: self.clone(), name, was_panicking: std::thread::panicking() }
    }

    /// What panicked, and how often.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().iter().map(|(name, count)| (*name, *count)).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            *self.panics.0.lock().entry(self.name).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_counted_by_name_and_go_no_further() {
        let panics = Panics::default();
        assert_eq!(panics.contain("sound", || 5), Some(5));
        assert_eq!(panics.counts(), []);
        assert!(panics.contain("torn", || panic!("on purpose")).is_none());
        assert_eq!(panics.clone().counts(), [("torn", 1)]);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_known_by_name() {
        let panics = Panics::default();
        let watch = panics.watch("task");
        let task = tokio::spawn(async move {
            let _watch = watch;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert_eq!(panics.counts(), [("task", 1)]);
        drop(panics.watch("task"));
        assert_eq!(panics.counts(), [("task", 1)]);
    }
}
