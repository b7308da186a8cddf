//! How long a worker processes records before it looks at anything else, and how questions take turns with records.
//!
//! A question is answered between two stints, at once. The next one waits for as long as the answer took, which records
//! have, so that no number of questions keeps them from being processed. Knows no clock: it is told how long things took.

use std::time::Duration;

/// How long records are processed before anything else is looked at.
const TURN: Duration = Duration::from_millis(10);

/// Turns of questions and records.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How long records may be processed before the next question, since there was one.
    owed: Option<Duration>,
}

impl Pace {
    /// Whether a question may be answered now.
    pub(crate) fn may_ask(&self) -> bool {
        self.owed.is_none()
    }

    /// A question was answered, which took so long.
    pub(crate) fn asked(&mut self, took: Duration) {
        self.owed = Some(took.min(TURN));
    }

    /// Nothing is there to be processed: questions need not wait.
    pub(crate) fn rest(&mut self) {
        self.owed = None;
    }

    /// Whether records go on being processed, for `elapsed` already in this turn.
    pub(crate) fn goes_on(&self, elapsed: Duration, is_asked: bool) -> bool {
        elapsed < TURN && (!is_asked || elapsed < self.owed.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_question_ends_a_turn_unless_records_are_owed_time() {
        let mut pace = Pace::default();
        assert!(pace.may_ask());
        assert!(pace.goes_on(ms(9), false));
        assert!(!pace.goes_on(ms(10), false), "something else is looked at in the end");
        assert!(!pace.goes_on(ms(0), true));
        pace.asked(ms(3));
        assert!(!pace.may_ask());
        assert!(pace.goes_on(ms(2), true));
        assert!(!pace.goes_on(ms(3), true));
        pace.rest();
        assert!(pace.may_ask());
    }

    #[test]
    fn a_question_that_took_long_owes_a_turn_at_most() {
        let mut pace = Pace::default();
        pace.asked(ms(500));
        assert!(pace.goes_on(ms(9), true));
        assert!(!pace.goes_on(ms(10), true));
    }
}
