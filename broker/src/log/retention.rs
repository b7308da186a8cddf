//! Which segments have had their time: a pure decision, carried out by the log.
//!
//! Invariant: only a leading run of segments is ever chosen, and never one that reaches beyond the offset up to which
//! records are safe to forget. This module touches no file.

use super::LogConfig;

/// What retention looks at in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Offset after its last record.
    pub end_offset: i64,
    /// Size of its batches in bytes.
    pub size: u64,
    /// Its largest timestamp in ms; `None` if unknown, then age does not delete it.
    pub max_timestamp: Option<i64>,
}

/// What retention goes by besides the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionBounds {
    /// First offset that may still be read.
    pub log_start: i64,
    /// No segment that ends after this offset is deleted.
    pub upper: i64,
    /// Size of the whole log in bytes.
    pub log_size: u64,
    /// The time in ms.
    pub now_ms: i64,
}

/// How many of the oldest segments to delete. `segments` are all of the log, oldest first, the active one last; they
/// are only looked at until one stays.
pub fn plan(
    segments: impl Iterator<Item = SegmentFacts>,
    config: &LogConfig,
    bounds: RetentionBounds,
) -> usize {
    let by_retention = config.delete_by_retention;
    let mut excess = config.retention_bytes.map_or(0, |limit| bounds.log_size.saturating_sub(limit));
    segments
        .take_while(|segment| {
            let expired = config
                .retention_ms
                .zip(segment.max_timestamp)
                .is_some_and(|(retention_ms, newest)| bounds.now_ms.saturating_sub(newest) > retention_ms);
            let over_size = excess > 0 && excess >= segment.size;
            let before_start = segment.end_offset <= bounds.log_start;
            let deletes = before_start || (by_retention && (expired || over_size));
            if deletes {
                excess = excess.saturating_sub(segment.size);
            }
            deletes && segment.size > 0 && segment.end_offset <= bounds.upper
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five segments of 10 records and 100 bytes; segment n has timestamps up to 1000 (n + 1).
    fn segments() -> impl Iterator<Item = SegmentFacts> {
        (0..5).map(|n| SegmentFacts {
            end_offset: 10 * (n + 1),
            size: 100,
            max_timestamp: Some(1000 * (n + 1)),
        })
    }

    fn config(retention_ms: Option<i64>, retention_bytes: Option<u64>) -> LogConfig {
        LogConfig { retention_ms, retention_bytes, ..LogConfig::default() }
    }

    const BOUNDS: RetentionBounds = RetentionBounds { log_start: 0, upper: 50, log_size: 500, now_ms: 6000 };

    #[test]
    fn age_deletes_segments_whose_newest_record_is_too_old() {
        assert_eq!(plan(segments(), &config(None, None), BOUNDS), 0);
        assert_eq!(plan(segments(), &config(Some(3000), None), BOUNDS), 2);
        assert_eq!(plan(segments(), &config(Some(0), None), BOUNDS), 5);
        let unknown = segments().map(|facts| SegmentFacts { max_timestamp: None, ..facts });
        assert_eq!(plan(unknown, &config(Some(0), None), BOUNDS), 0);
    }

    #[test]
    fn size_deletes_only_whole_segments_of_excess() {
        assert_eq!(plan(segments(), &config(None, Some(250)), BOUNDS), 2);
        assert_eq!(plan(segments(), &config(None, Some(450)), BOUNDS), 0);
        assert_eq!(plan(segments(), &config(None, Some(0)), BOUNDS), 5);
    }

    #[test]
    fn what_is_before_the_log_start_goes_even_if_nothing_else_deletes() {
        let config = LogConfig { delete_by_retention: false, ..config(Some(0), Some(0)) };
        assert_eq!(plan(segments(), &config, RetentionBounds { log_start: 25, ..BOUNDS }), 2);
        assert_eq!(plan(segments(), &config, BOUNDS), 0);
    }

    #[test]
    fn nothing_beyond_the_upper_bound_is_deleted() {
        assert_eq!(plan(segments(), &config(Some(0), None), RetentionBounds { upper: 29, ..BOUNDS }), 2);
    }
}
