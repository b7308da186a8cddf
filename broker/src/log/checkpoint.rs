//! What a data directory remembers across restarts: recovery points, log starts, and whether it was closed cleanly.
//!
//! The files are Kafka's: `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint` (version, count, then
//! `topic partition offset` lines) and `.kafka_cleanshutdown`. Invariant: the marker is gone, durably, before any log
//! is changed, and written only after all logs were closed. This module knows topics as names in lines only.

use super::StorageError;
use crate::disk::Disk;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const CLEAN_MARKER: &str = ".kafka_cleanshutdown";

/// What is known of a log before it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Whether it was closed in good order.
    pub clean: bool,
    /// Everything before this offset was synced; 0 if unknown.
    pub recovery_point: i64,
    /// Records before this offset were deleted; 0 if none were.
    pub log_start: i64,
}

/// What a log contributes to the checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Everything before this offset is synced, its indexes included.
    pub recovery_point: i64,
    /// First offset that may be read.
    pub log_start: i64,
}

/// The checkpoints of a data directory as they were found.
#[derive(Debug, Default)]
pub struct Checkpoints {
    clean: bool,
    recovery_points: HashMap<(String, i32), i64>,
    log_starts: HashMap<(String, i32), i64>,
}

impl Checkpoints {
    /// Reads the checkpoints and removes the marker of a clean shutdown. A file that is missing or makes no sense
    /// counts as empty: recovery then looks at more than it must.
    ///
    /// # Errors
    /// [`StorageError`] if the marker cannot be removed.
    pub fn open(disk: &dyn Disk, data_dir: &Path) -> Result<Self, StorageError> {
        let read = |name: &str| disk.read(&data_dir.join(name)).ok().and_then(|bytes| parse(&bytes));
        let marker = data_dir.join(CLEAN_MARKER);
        let clean = disk.len(&marker).is_ok();
        let (recovery_points, log_starts) = (read(RECOVERY_POINTS), read(LOG_STARTS));
        if clean {
            disk.remove_file(&marker).map_err(StorageError::on("remove", &marker))?;
            disk.sync_dir(data_dir).map_err(StorageError::on("sync the directory", data_dir))?;
        }
        Ok(Self {
            clean: clean && recovery_points.is_some(),
            recovery_points: recovery_points.unwrap_or_default(),
            log_starts: log_starts.unwrap_or_default(),
        })
    }

    /// Whether the directory was closed in good order.
    pub fn clean(&self) -> bool {
        self.clean
    }

    /// What is known of one partition's log. One that no checkpoint lists was not closed cleanly.
    pub fn of(&self, topic: &str, partition: i32) -> Opening {
        let key = (topic.to_owned(), partition);
        let recovery_point = self.recovery_points.get(&key);
        Opening {
            clean: self.clean && recovery_point.is_some(),
            recovery_point: recovery_point.copied().unwrap_or(0),
            log_start: self.log_starts.get(&key).copied().unwrap_or(0),
        }
    }

    /// Writes both checkpoints, durably.
    ///
    /// # Errors
    /// [`StorageError`]; what was there before then stays or was replaced whole.
    pub fn write<'a>(
        disk: &dyn Disk,
        data_dir: &Path,
        logs: impl IntoIterator<Item = (&'a str, i32, Positions)>,
    ) -> Result<(), StorageError> {
        let (mut recovery_points, mut log_starts, mut starts) = (String::new(), String::new(), 0);
        let mut count = 0;
        for (topic, partition, Positions { recovery_point, log_start }) in logs {
            count += 1;
            let _ = writeln!(recovery_points, "{topic} {partition} {recovery_point}");
            // As in Kafka, a log whose records all are there has no line.
            if log_start > 0 {
                starts += 1;
                let _ = writeln!(log_starts, "{topic} {partition} {log_start}");
            }
        }
        for (name, lines, count) in
            [(LOG_STARTS, log_starts, starts), (RECOVERY_POINTS, recovery_points, count)]
        {
            let path = data_dir.join(name);
            let text = format!("0\n{count}\n{lines}");
            disk.replace(&path, text.as_bytes()).map_err(StorageError::on("replace", &path))?;
        }
        Ok(())
    }

    /// Says that every log of the directory was closed and its checkpoints written.
    ///
    /// # Errors
    /// [`StorageError`]; the next start then recovers as after a crash.
    pub fn mark_clean(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
        let marker = data_dir.join(CLEAN_MARKER);
        disk.replace(&marker, br#"{"version":0,"brokerEpoch":-1}"#)
            .map_err(StorageError::on("write", &marker))
    }
}

fn parse(bytes: &[u8]) -> Option<HashMap<(String, i32), i64>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let (version, count): (u32, usize) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    let entries: Option<HashMap<_, _>> = lines
        .map(|line| {
            let mut fields = line.split(' ');
            let topic = fields.next()?.to_owned();
            let (partition, offset) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            fields.next().is_none().then_some(((topic, partition), offset))
        })
        .collect();
    entries.filter(|entries| version == 0 && entries.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn checkpoints_come_back_and_the_clean_marker_only_once() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        assert_eq!(Checkpoints::open(&disk, root).unwrap().of("t", 0), Opening::default());
        let positions = Positions { recovery_point: 17, log_start: 5 };
        let whole = Positions { recovery_point: 3, log_start: 0 };
        Checkpoints::write(&disk, root, [("t", 0, positions), ("u", 3, whole)]).unwrap();
        Checkpoints::mark_clean(&disk, root).unwrap();
        let text = (&disk as &dyn Disk).read(&root.join(RECOVERY_POINTS)).unwrap();
        assert_eq!(text, b"0\n2\nt 0 17\nu 3 3\n");

        let found = Checkpoints::open(&disk, root).unwrap();
        assert_eq!(found.of("t", 0), Opening { clean: true, recovery_point: 17, log_start: 5 });
        assert_eq!(found.of("u", 3), Opening { clean: true, recovery_point: 3, log_start: 0 });
        assert!(!found.of("unknown", 0).clean);
        let after = disk.power_cut();
        let found = Checkpoints::open(&after, root).unwrap();
        assert_eq!(found.of("t", 0), Opening { clean: false, recovery_point: 17, log_start: 5 });
    }

    #[test]
    fn a_checkpoint_that_makes_no_sense_counts_as_empty() {
        for text in ["", "0\n2\nt 0 1\n", "9\n0\n", "0\n1\nt 0\n", "0\n1\nt 0 1 2\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
