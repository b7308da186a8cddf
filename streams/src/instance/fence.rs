//! Whether an instance still owns its tasks, as far as it can know.
//!
//! Another instance is given a task once the group has not heard of this one for the session timeout. So this one
//! writes only while the group's last answer, counted from its request, is younger than a lease that is shorter by a
//! margin; whoever writes for it asks again before each request. A commit that was refused closes the fence as well,
//! until the group has settled who has what: what was refused is never taken for done. Knows nothing of tasks.

use parking_lot::Mutex;

/// What an instance may assume of its ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody else has what it has.
    Owner,
    /// The group has been silent too long, or has refused a commit. This may pass.
    Unsure,
    /// It is no member: whatever it has may be somebody else's.
    Lost,
}

/// What the group last said, as a fence sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Milliseconds since the request that was answered last.
    pub(crate) age_ms: i64,
    pub(crate) generation: Option<i32>,
}

/// Guards everything that an instance writes.
#[derive(Debug)]
pub(crate) struct Fence {
    lease_ms: i64,
    /// The generation in which a commit was refused.
    refused: Mutex<Option<i32>>,
}

impl Fence {
    /// The fence of a member whose session ends after `session_ms` without heartbeats.
    pub(crate) fn new(session_ms: i64) -> Fence {
        Fence { lease_ms: session_ms - session_ms / 4, refused: Mutex::new(None) }
    }

    pub(crate) fn standing(&self, sight: Option<Sight>) -> Standing {
        let Some(sight) = sight else { return Standing::Lost };
        let refused = *self.refused.lock();
        if sight.age_ms >= self.lease_ms || (refused.is_some() && refused == sight.generation) {
            return Standing::Unsure;
        }
        Standing::Owner
    }

    /// A commit in this generation was refused: nothing more is written in it.
    pub(crate) fn refuse(&self, generation: Option<i32>) {
        *self.refused.lock() = generation;
    }

    /// The time in which what was sent within the lease arrives.
    pub(crate) fn margin_ms(&self) -> i64 {
        self.lease_ms / 3
    }

    /// How long the group may be silent.
    pub(crate) fn lease_ms(&self) -> i64 {
        self.lease_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_the_group_has_not_heard_of_for_a_lease_writes_nothing() {
        let fence = Fence::new(8000);
        let standing =
            |age_ms, generation| fence.standing(Some(Sight { age_ms, generation: Some(generation) }));
        assert_eq!(standing(5999, 1), Standing::Owner);
        assert_eq!(standing(6000, 1), Standing::Unsure);
        assert_eq!(standing(0, 1), Standing::Owner);
        fence.refuse(Some(1));
        assert_eq!(standing(0, 1), Standing::Unsure);
        assert_eq!(standing(0, 2), Standing::Owner);
        assert_eq!(fence.standing(None), Standing::Lost);
    }
}
