//! Whether a worker still owns its tasks, as far as it can know.
//!
//! Another worker is given a task once the group has not heard of this one for the session timeout. So this one
//! writes only while the group's last answer, counted from its request, is younger than a lease that is shorter by a
//! margin; the producer asks before each request. A commit that was refused closes the fence as well, until the
//! group has settled who has what: what was refused is never taken for done. Knows nothing of tasks.

use kappa_client::Consumer;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// What a worker may assume of its ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody else has what it has.
    Owner,
    /// The group has been silent too long, or has refused a commit. This may pass.
    Unsure,
    /// It is no member: whatever it has may be somebody else's.
    Lost,
}

/// What the group last said, as a fence sees it.
#[derive(Debug, Clone, Copy)]
struct Sight {
    /// Since the request that was answered last.
    age: Duration,
    generation: Option<i32>,
}

/// Guards everything that a worker writes.
pub(super) struct Fence {
    look: Box<dyn Fn() -> Option<Sight> + Send + Sync>,
    lease: Duration,
    /// The generation in which a commit was refused.
    refused: Mutex<Option<i32>>,
}

impl Fence {
    /// The fence of a consumer whose session ends after `session` without heartbeats.
    pub(super) fn new(consumer: &Arc<Consumer>, session: Duration) -> Fence {
        let consumer = Arc::clone(consumer);
        let generation = |consumer: &Consumer| consumer.membership().map(|member| member.generation);
        Fence::looking(
            move || Some(Sight { age: consumer.confirmed_since()?, generation: generation(&consumer) }),
            session,
        )
    }

    fn looking(look: impl Fn() -> Option<Sight> + Send + Sync + 'static, session: Duration) -> Fence {
        Fence { look: Box::new(look), lease: session - session / 4, refused: Mutex::new(None) }
    }

    pub(super) fn standing(&self) -> Standing {
        let Some(sight) = (self.look)() else { return Standing::Lost };
        let refused = *self.refused.lock();
        if sight.age >= self.lease || (refused.is_some() && refused == sight.generation) {
            return Standing::Unsure;
        }
        Standing::Owner
    }

    /// A commit in the present generation was refused: nothing more is written in it.
    pub(super) fn refuse(&self, generation: Option<i32>) {
        *self.refused.lock() = generation;
    }

    /// How long the group may be silent.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_the_group_has_not_heard_of_for_a_lease_writes_nothing() {
        let group = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&group);
        let fence = Fence::looking(move || *seen.lock(), Duration::from_secs(8));
        let standing = |age: u64, generation| {
            *group.lock() = Some(Sight { age: Duration::from_secs(age), generation: Some(generation) });
            fence.standing()
        };
        assert_eq!(standing(5, 1), Standing::Owner);
        assert_eq!(standing(6, 1), Standing::Unsure);
        assert_eq!(standing(0, 1), Standing::Owner);
        fence.refuse(Some(1));
        assert_eq!(standing(0, 1), Standing::Unsure);
        assert_eq!(standing(0, 2), Standing::Owner);
        *group.lock() = None;
        assert_eq!(fence.standing(), Standing::Lost);
    }
}
