//! The time and fresh ids, injected so that tests and simulations decide what they are.
//!
//! Invariant: nothing below the server asks the operating system for the time but through a [`Clock`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Where the time comes from. Cloning a manual clock shares it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The operating system's wall clock.
    #[default]
    System,
    /// What a test sets.
    Manual(Arc<ManualClock>),
}

/// What both clocks show at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    /// Milliseconds of the clock that nobody sets.
    pub steady_ms: i64,
}

/// The state of a manual clock.
#[derive(Debug, Default)]
pub struct ManualClock {
    /// Milliseconds since the epoch.
    wall_ms: AtomicI64,
    steady_ms: AtomicI64,
    ids: AtomicU64,
}

impl Clock {
    /// A manual clock that stands at `now_ms`.
    pub fn manual(now_ms: i64) -> Self {
        let (wall_ms, steady_ms) = (now_ms.into(), now_ms.into());
        Self::Manual(Arc::new(ManualClock { wall_ms, steady_ms, ids: AtomicU64::new(0) }))
    }

    /// Milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Self::Manual(manual) => manual.wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds that only ever pass, for timeouts: setting the wall clock neither cuts them short nor draws them out.
    pub fn steady_ms(&self) -> i64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match self {
            Self::System => i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX),
            Self::Manual(manual) => manual.steady_ms.load(Ordering::Relaxed),
        }
    }

    /// Both.
    pub fn moment(&self) -> Moment {
        Moment { now_ms: self.now_ms(), steady_ms: self.steady_ms() }
    }

    /// Moves a manual clock forward; the system clock moves by itself.
    pub fn advance(&self, by_ms: i64) {
        if let Self::Manual(manual) = self {
            manual.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
            manual.steady_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// Sets the wall clock of a manual clock by so many milliseconds, forth or back; no time passes.
    pub fn set_by(&self, by_ms: i64) {
        if let Self::Manual(manual) = self {
            manual.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// An id that nothing else has: random, or of a manual clock the next one.
    pub fn fresh_id(&self) -> Uuid {
        match self {
            Self::System => Uuid::new_v4(),
            Self::Manual(manual) => Uuid::from_u64_pair(!0, manual.ids.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
