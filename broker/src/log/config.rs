//! The settings of a log, under Kafka's names and with its defaults.
//!
//! Invariant: a configuration holds only values that a log can work with as they are.

/// How a log cuts, indexes and forgets. Times are ms, sizes bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size at which a segment is rolled (`segment.bytes`, 1 GiB). No batch may be larger.
    pub segment_bytes: u32,
    /// Age in batch timestamps at which a segment is rolled (`segment.ms`, 7 days).
    pub segment_ms: i64,
    /// Size that an offset or time index may reach before its segment is rolled (`segment.index.bytes`, 10 MiB).
    pub segment_index_bytes: u32,
    /// Bytes of batches between two index entries (`index.interval.bytes`, 4 KiB).
    pub index_interval_bytes: u32,
    /// Age of its newest record at which a segment is deleted (`retention.ms`, 7 days); `None` for never.
    pub retention_ms: Option<i64>,
    /// Size of the log above which the oldest segments are deleted (`retention.bytes`); `None` for any size.
    pub retention_bytes: Option<u64>,
    /// Whether retention deletes at all (`cleanup.policy` contains `delete`).
    pub delete_by_retention: bool,
    /// Time between renaming a segment to `.deleted` and removing it (`file.delete.delay.ms`, 1 minute).
    pub file_delete_delay_ms: i64,
    /// Whether the log is not opened, and stays as it is, where something is missing that had been synced: for one that is
    /// folded into a state, of which an older one is a wrong one.
    pub must_be_whole: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            delete_by_retention: true,
            file_delete_delay_ms: 60_000,
            must_be_whole: false,
        }
    }
}
