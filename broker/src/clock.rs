//! The wall clock, injected so that tests and simulations decide what time it is.
//!
//! Invariant: nothing below the server asks the operating system for the time but through a [`Clock`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from. Cloning a manual clock shares it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The operating system's wall clock.
    #[default]
    System,
    /// Milliseconds since the epoch that a test sets.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A manual clock that stands at `now_ms`.
    pub fn manual(now_ms: i64) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Self::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds that only ever pass, for timeouts: setting the wall clock neither cuts them short nor draws them out.
    pub fn steady_ms(&self) -> i64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match self {
            Self::System => i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX),
            Self::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock forward; the system clock moves by itself.
    pub fn advance(&self, by_ms: i64) {
        if let Self::Manual(now_ms) = self {
            now_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}
