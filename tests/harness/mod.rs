//! What the integration tests stand on: a broker as a child process, a plain blocking connection, seeded randomness.
//!
//! The connection is deliberately not the product's client: it sends what it is told, when it is told, and hides no
//! error, so that a test can say what was acknowledged.

pub(crate) mod daemon;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod requests;
pub(crate) mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Held by tests that measure time or memory and by those that take the whole machine, so that they run one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number from the environment, for runs that are longer than an ordinary `cargo test`.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, is {text}")))
}

/// Polls until `condition` holds, for 30 s at most: the limit is for the broken case only.
pub(crate) fn becomes_true(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Insists on [`becomes_true`].
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(becomes_true(condition), "not within 30 s: {what}");
}
