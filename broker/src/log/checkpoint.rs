//! What a data directory remembers across restarts: recovery points, log starts, and whether it was closed cleanly.
//!
//! Ours is `kappa-checkpoint`, which knows logs by the id of their topic, so that nothing of a deleted topic is ever
//! taken for a later one's of the same name:
//! ```text
//! kappa-checkpoint 1
//! 0191f3c2d1b07c0c9d0e5a4f6b7c8d9e 0 1250 0      topic id, partition, recovery point, log start
//! checksum 1 0a1b2c3d                            number of logs, CRC-32C of all lines before
//! ```
//! Kafka's `recovery-point-offset-checkpoint` and `log-start-offset-checkpoint` (version, count, then
//! `topic partition offset` lines) are written for its tools and never read, but once in a data directory of layout 1,
//! which has no others. Invariant: `.kafka_cleanshutdown` is gone, durably, before any log is changed, and written only
//! after all logs were closed.

use super::{StorageError, reserve};
use crate::disk::Disk;
use kappa_protocol::record::crc32c;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use uuid::Uuid;

const OURS: &str = "kappa-checkpoint";
const HEADER: &str = "kappa-checkpoint 1";
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

impl Opening {
    /// Whether the log is known to have held something that was durable.
    pub fn held_records(&self) -> bool {
        self.recovery_point > 0 || self.log_start > 0
    }
}

/// What a log contributes to the checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Everything before this offset is synced.
    pub recovery_point: i64,
    /// First offset that may be read.
    pub log_start: i64,
}

/// A log as the checkpoints have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpointed<N> {
    /// Id of its topic.
    pub topic_id: Uuid,
    /// Name of its topic, for the files that are Kafka's.
    pub topic: N,
    /// Its partition's index.
    pub partition: i32,
    /// What is known of it.
    pub positions: Positions,
}

/// The checkpoints of a data directory as they were found.
#[derive(Debug, Default)]
pub struct Checkpoints {
    clean: bool,
    by_id: HashMap<(Uuid, i32), Positions>,
    /// Those of a directory of layout 1, by the topics' names.
    by_name: HashMap<(String, i32), Positions>,
}

impl Checkpoints {
    /// Reads the checkpoints and changes nothing. In a directory of layout 1 that has none of ours, Kafka's count.
    ///
    /// # Errors
    /// [`StorageError`] if a file is there that cannot be read or is damaged.
    pub fn read(disk: &dyn Disk, data_dir: &Path, is_layout_1: bool) -> Result<Self, StorageError> {
        let read = |name: &str| {
            let path = data_dir.join(name);
            let read = disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
            Ok::<_, StorageError>(read.map(|bytes| (path, bytes)))
        };
        let marker = data_dir.join(CLEAN_MARKER);
        let clean = disk.len_if_there(&marker).map_err(StorageError::on("measure", &marker))?.is_some();
        if let Some((path, bytes)) = read(OURS)? {
            let by_id = parse(&bytes).ok_or_else(|| {
                StorageError::damaged(
                    &path,
                    "its checksum is wrong; without it every log is checked from its start, and records that \
                     DeleteRecords took from the middle of a segment are back: restore the file or move it away \
                     (`kappa log repair` does so in a copy)",
                )
            })?;
            return Ok(Self { clean, by_id, by_name: HashMap::new() });
        }
        let mut by_name = HashMap::<_, Positions>::new();
        if is_layout_1 {
            let kafkas =
                |name| Ok::<_, StorageError>(read(name)?.and_then(|(_, bytes)| parse_kafkas(&bytes)));
            for (key, recovery_point) in kafkas(RECOVERY_POINTS)?.unwrap_or_default() {
                by_name.entry(key).or_default().recovery_point = recovery_point;
            }
            for (key, log_start) in kafkas(LOG_STARTS)?.unwrap_or_default() {
                by_name.entry(key).or_default().log_start = log_start;
            }
        }
        Ok(Self { clean, by_id: HashMap::new(), by_name })
    }

    /// Removes the marker of a clean stop, durably, before any log is changed.
    ///
    /// # Errors
    /// [`StorageError`]; no log may be changed then.
    pub fn take_marker(&self, disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
        if self.clean {
            let marker = data_dir.join(CLEAN_MARKER);
            disk.remove_file_if_there(&marker).map_err(StorageError::on("remove", &marker))?;
            disk.sync_dir(data_dir).map_err(StorageError::on("sync the directory", data_dir))?;
        }
        Ok(())
    }

    /// Whether the directory was closed in good order.
    pub fn clean(&self) -> bool {
        self.clean
    }

    /// What is known of one partition's log. One that no checkpoint lists was not closed cleanly.
    pub fn of(&self, topic_id: Uuid, topic: &str, partition: i32) -> Opening {
        let by_name = || self.by_name.get(&(topic.to_owned(), partition));
        let found = self.by_id.get(&(topic_id, partition)).or_else(by_name);
        let Positions { recovery_point, log_start } = found.copied().unwrap_or_default();
        Opening { clean: self.clean && found.is_some(), recovery_point, log_start }
    }

    /// Writes ours, durably, from the reserve if the disk is full, and Kafka's as well as can be.
    ///
    /// # Errors
    /// [`StorageError`]; what was there before then stays.
    pub fn write<N: AsRef<str>>(
        disk: &dyn Disk,
        data_dir: &Path,
        logs: &[Checkpointed<N>],
    ) -> Result<(), StorageError> {
        reserve::replace(disk, data_dir, &data_dir.join(OURS), format(logs).as_bytes())?;
        let (mut recovery_points, mut log_starts, mut starts) = (String::new(), String::new(), 0);
        for Checkpointed { topic, partition, positions, .. } in logs {
            let (topic, Positions { recovery_point, log_start }) = (topic.as_ref(), positions);
            let _ = writeln!(recovery_points, "{topic} {partition} {recovery_point}");
            // As in Kafka, a log whose records all are there has no line.
            if *log_start > 0 {
                starts += 1;
                let _ = writeln!(log_starts, "{topic} {partition} {log_start}");
            }
        }
        for (name, lines, count) in
            [(LOG_STARTS, log_starts, starts), (RECOVERY_POINTS, recovery_points, logs.len())]
        {
            if let Err(error) = export(disk, &data_dir.join(name), &format!("0\n{count}\n{lines}")) {
                tracing::debug!(name, %error, "not written for Kafka's tools");
            }
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

/// Writes a file that nobody of ours reads: whole or not at all, but not durably.
fn export(disk: &dyn Disk, path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    disk.create(&temporary)?.write_at(0, [text.as_bytes(), &[]])?;
    disk.rename(&temporary, path)
}

fn format<N>(logs: &[Checkpointed<N>]) -> String {
    let mut text = format!("{HEADER}\n");
    for Checkpointed { topic_id, partition, positions, .. } in logs {
        let Positions { recovery_point, log_start } = positions;
        let _ = writeln!(text, "{} {partition} {recovery_point} {log_start}", topic_id.simple());
    }
    let checksum = crc32c(text.as_bytes());
    let _ = writeln!(text, "checksum {} {checksum:08x}", logs.len());
    text
}

fn parse(bytes: &[u8]) -> Option<HashMap<(Uuid, i32), Positions>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (lines, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let (count, checksum) = last.strip_prefix("checksum ")?.split_once(' ')?;
    let checked = text.get(..=lines.len())?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32c(checked.as_bytes()) {
        return None;
    }
    let mut lines = lines.lines();
    if lines.next() != Some(HEADER) {
        return None;
    }
    let logs: Option<HashMap<_, _>> = lines
        .map(|line| {
            let mut fields = line.split(' ');
            let key = (Uuid::parse_str(fields.next()?).ok()?, fields.next()?.parse().ok()?);
            let (recovery_point, log_start) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            fields.next().is_none().then_some((key, Positions { recovery_point, log_start }))
        })
        .collect();
    logs.filter(|logs| count.parse() == Ok(logs.len()))
}

fn parse_kafkas(bytes: &[u8]) -> Option<HashMap<(String, i32), i64>> {
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
    use crate::disk::{Fault, Operation, SimulatedDisk};

    const T: Uuid = Uuid::from_u128(7);
    const U: Uuid = Uuid::from_u128(8);

    fn logs() -> Vec<Checkpointed<&'static str>> {
        let log = |topic_id, topic, partition, recovery_point, log_start| {
            let positions = Positions { recovery_point, log_start };
            Checkpointed { topic_id, topic, partition, positions }
        };
        vec![log(T, "t", 0, 17, 5), log(U, "u", 3, 3, 0)]
    }

    #[test]
    fn checkpoints_come_back_by_id_and_the_clean_marker_only_once() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        assert_eq!(Checkpoints::read(&disk, root, false).unwrap().of(T, "t", 0), Opening::default());
        Checkpoints::write(&disk, root, &logs()).unwrap();
        Checkpoints::mark_clean(&disk, root).unwrap();
        let text = (&disk as &dyn Disk).read(&root.join(RECOVERY_POINTS)).unwrap();
        assert_eq!(text, b"0\n2\nt 0 17\nu 3 3\n");

        let found = Checkpoints::read(&disk, root, false).unwrap();
        assert_eq!(found.of(T, "t", 0), Opening { clean: true, recovery_point: 17, log_start: 5 });
        assert_eq!(found.of(U, "u", 3), Opening { clean: true, recovery_point: 3, log_start: 0 });
        assert_eq!(
            found.of(Uuid::from_u128(9), "t", 0),
            Opening::default(),
            "a later topic of the same name"
        );
        found.take_marker(&disk, root).unwrap();
        let found = Checkpoints::read(&disk.power_cut(), root, false).unwrap();
        assert_eq!(found.of(T, "t", 0), Opening { clean: false, recovery_point: 17, log_start: 5 });
    }

    #[test]
    fn a_checkpoint_that_is_damaged_or_cannot_be_read_is_an_error() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        let text = format(&logs());
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 2;
            assert_eq!(parse(&flipped), None, "byte {at}");
            assert_eq!(parse(&text.as_bytes()[..at]), None, "{at} bytes");
        }
        (&disk as &dyn Disk).replace(&root.join(OURS), &text.as_bytes()[1..]).unwrap();
        let error = Checkpoints::read(&disk, root, true).unwrap_err();
        assert!(error.source.to_string().contains("move it away"), "{error:?}");
        for name in [OURS, CLEAN_MARKER] {
            Checkpoints::write(&disk, root, &logs()).unwrap();
            for operation in [Operation::Open, Operation::Len] {
                let error = std::io::ErrorKind::Other;
                disk.inject(Fault { operation, path_contains: name.into(), after: 0, times: 1, error });
            }
            Checkpoints::read(&disk, root, true).unwrap_err();
            disk.clear_faults();
        }
    }

    #[test]
    fn kafkas_files_count_in_layout_1_while_there_are_none_of_ours() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        let write = |name: &str, text: &[u8]| (&disk as &dyn Disk).replace(&root.join(name), text).unwrap();
        write(RECOVERY_POINTS, b"0\n1\nt 0 17\n");
        write(LOG_STARTS, b"0\n1\nt 0 5\n");
        let opening = |is_layout_1| Checkpoints::read(&disk, root, is_layout_1).unwrap().of(T, "t", 0);
        assert_eq!(opening(true), Opening { clean: false, recovery_point: 17, log_start: 5 });
        assert_eq!(opening(false), Opening::default());
        Checkpoints::write::<&str>(&disk, root, &[]).unwrap();
        write(RECOVERY_POINTS, b"0\n1\nt 0 17\n");
        assert_eq!(opening(true), Opening::default());
    }

    #[test]
    fn a_file_of_kafkas_that_makes_no_sense_counts_as_empty() {
        for text in ["", "0\n2\nt 0 1\n", "9\n0\n", "0\n1\nt 0\n", "0\n1\nt 0 1 2\n"] {
            assert_eq!(parse_kafkas(text.as_bytes()), None, "{text:?}");
        }
    }
}
