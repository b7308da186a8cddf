//! Where work goes that may wait for the disk, so that the threads that serve clients do not.
//!
//! Invariant: whoever asked learns the result, or that there will be none. Who carries the work out is decided where
//! the broker is assembled; this module knows neither the work nor who asks for it.

use crate::panics::Panics;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Hands work to whoever carries it out. Clones hand it to the same.
#[derive(Clone)]
pub(crate) struct Jobs(Arc<dyn Fn(Job) + Send + Sync>);

/// What the work is known by if it panics.
const NAME: &str = "jobs";

/// The work panicked, or the broker stopped before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was not finished: it panicked, or the broker stopped")]
pub(crate) struct Unfinished;

impl Jobs {
    /// Has `carry_out` called, at once and without waiting for the work, with everything that there is to do.
    pub(crate) fn new(carry_out: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self(Arc::new(carry_out))
    }

    /// The blocking threads of a runtime.
    pub(crate) fn on(runtime: tokio::runtime::Handle) -> Self {
        Self::new(move |job| drop(runtime.spawn_blocking(job)))
    }

    /// The same, with panics counted.
    pub(crate) fn reporting_to(self, panics: Panics) -> Self {
        Self::new(move |job| {
            let panics = panics.clone();
            (self.0)(Box::new(move || {
                let _ = panics.contain(NAME, job);
            }));
        })
    }

    /// Has `work` carried out; the future waits for its result. Dropping the future changes nothing.
    pub(crate) fn run<R, W>(&self, work: W) -> impl Future<Output = Result<R, Unfinished>> + Send + use<R, W>
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        (self.0)(Box::new(move || {
            let _ = answer.send(work());
        }));
        async move { answered.await.map_err(|_| Unfinished) }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jobs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_result_comes_back_and_a_panic_is_told() {
        let jobs = Jobs::on(tokio::runtime::Handle::current());
        assert_eq!(jobs.run(|| 5).await, Ok(5));
        let panicked = jobs.run(|| assert!(std::thread::current().name().is_none(), "on purpose"));
        assert_eq!(panicked.await, Err(Unfinished));
        assert_eq!(Jobs::new(drop).run(|| 5).await, Err(Unfinished));
    }
}
