//! Waits that double with each failure, with jitter, so that many clients do not come back at the same instant.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The wait before the next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `min` and never exceeds `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, failures: 0 }
    }

    /// The wait after one more failure: doubled, between 80 and 120 percent of it.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.failures.min(20));
        self.failures += 1;
        doubled.min(self.max).mul_f64(0.8 + 0.4 * (random() >> 32) as f64 / f64::from(u32::MAX))
    }

    /// Forgets the failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Sixty-four random bits, from the keys that the standard library draws for its maps.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_doubles_up_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for expected in [100.0, 200.0, 350.0, 350.0] {
            let wait = backoff.next().as_secs_f64() * 1000.0;
            assert!(
                (0.79 * expected..=1.21 * expected).contains(&wait),
                "{wait} ms where {expected} are due"
            );
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(125));
    }
}
