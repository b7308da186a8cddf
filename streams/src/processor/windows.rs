//! Windows of event time as values.

use crate::record::{Window, millis};
use std::time::Duration;

/// Windows shorter than this are kept this long anyway, so that a view can show what has just closed.
const RETENTION_MS_DEFAULT: i64 = 24 * 60 * 60 * 1000;

/// Windows of a fixed size that follow each other (tumbling) or overlap (hopping).
///
/// They begin at multiples of the advance since the epoch; the start is inclusive, the end exclusive.
///
/// ```
/// use kappa_streams::Windows;
/// use std::time::Duration;
/// let hourly = Windows::tumbling(Duration::from_secs(3600)).grace(Duration::from_secs(600));
/// # let _ = hourly;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    size_ms: i64,
    advance_ms: i64,
    grace_ms: i64,
    retention_ms: Option<i64>,
}

impl Windows {
    /// Windows that follow each other without gap or overlap. Grace is 0 unless set.
    pub fn tumbling(size: Duration) -> Windows {
        Windows::hopping(size, size)
    }

    /// Windows of `size`, one beginning every `advance`. Grace is 0 unless set.
    pub fn hopping(size: Duration, advance: Duration) -> Windows {
        Windows { size_ms: millis(size), advance_ms: millis(advance), grace_ms: 0, retention_ms: None }
    }

    /// How long, in stream time, a window takes records behind its end.
    pub fn grace(self, grace: Duration) -> Windows {
        Windows { grace_ms: millis(grace), ..self }
    }

    /// How long, in stream time from a window's start, it is kept and can be queried; at least size and grace.
    /// Default: one day, or size and grace if that is longer.
    pub fn retention(self, retention: Duration) -> Windows {
        Windows { retention_ms: Some(millis(retention)), ..self }
    }

    pub(crate) fn size_ms(&self) -> i64 {
        self.size_ms
    }

    pub(crate) fn advance_ms(&self) -> i64 {
        self.advance_ms
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    pub(crate) fn retention_ms(&self) -> i64 {
        let least = self.size_ms.saturating_add(self.grace_ms);
        self.retention_ms.unwrap_or_else(|| least.max(RETENTION_MS_DEFAULT))
    }

    /// The windows that hold a timestamp, earliest first.
    pub(crate) fn containing(&self, timestamp: i64) -> impl Iterator<Item = Window> + use<> {
        let Windows { size_ms, advance_ms, .. } = *self;
        let first = (timestamp - size_ms + advance_ms).max(0) / advance_ms * advance_ms;
        let starts = std::iter::successors(Some(first), move |start| start.checked_add(advance_ms));
        starts
            .take_while(move |start| *start <= timestamp)
            .map(move |start| Window { start, end: start.saturating_add(size_ms) })
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "windows of {} ms every {} ms, grace {} ms, retention {} ms",
            self.size_ms,
            self.advance_ms,
            self.grace_ms,
            self.retention_ms()
        )
    }

    /// The rule these windows break, if any.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        let least = self.size_ms.saturating_add(self.grace_ms);
        let reason = if self.size_ms <= 0 {
            "the size must be positive"
        } else if self.advance_ms <= 0 || self.advance_ms > self.size_ms {
            "the advance must be positive and not above the size"
        } else if self.retention_ms() < least {
            "the retention must cover size and grace"
        } else {
            return None;
        };
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(size: u64, advance: u64, timestamp: i64) -> Vec<i64> {
        let windows = Windows::hopping(Duration::from_millis(size), Duration::from_millis(advance));
        windows.containing(timestamp).map(|window| window.start).collect()
    }

    #[test]
    fn a_timestamp_is_in_every_window_that_spans_it() {
        assert_eq!(starts(10, 10, 0), [0]);
        assert_eq!(starts(10, 10, 9), [0]);
        assert_eq!(starts(10, 10, 10), [10]);
        assert_eq!(starts(12, 5, 21), [10, 15, 20]);
        assert_eq!(starts(12, 5, 2), [0]);
    }

    #[test]
    fn impossible_windows_are_reported() {
        let second = Duration::from_secs(1);
        assert!(Windows::tumbling(Duration::ZERO).broken_rule().is_some());
        assert!(Windows::hopping(second, second * 2).broken_rule().is_some());
        assert!(Windows::tumbling(second).retention(Duration::from_millis(1)).broken_rule().is_some());
        assert!(Windows::tumbling(second).grace(second).broken_rule().is_none());
    }
}
