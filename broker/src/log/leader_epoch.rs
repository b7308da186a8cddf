//! Which leader epoch began at which offset, kept in Kafka's `leader-epoch-checkpoint`.
//!
//! ```text
//! 0                 version
//! 2                 number of entries
//! 0 0               epoch, its first offset
//! 3 1250
//! ```
//! Invariant: epochs and offsets ascend, and the last entry is the epoch that batches are appended under. An epoch is
//! begun anew whenever offsets that a consumer may have seen were cut off, so that it can tell, and at every start that
//! does not know whether any were ([`super::EpochFloor`]). What is synced has its epochs in the checkpoint; what only
//! the recovery of a log finds tells its epoch itself. As in Kafka, the first
//! offset follows the deletion of old segments; here it is written before any of their names changes, so that a
//! deletion that a crash interrupted, in whatever order its renames reached the disk, is finished and not repaired.

use super::StorageError;
use super::files::Files;
use std::fmt::Write as _;
use std::path::PathBuf;

pub(super) const FILE_NAME: &str = "leader-epoch-checkpoint";
/// A checkpoint that has yet to take the place of the one before. Another name than a replacement has meanwhile.
const STAGED_NAME: &str = "leader-epoch-checkpoint.staged.tmp";

/// One epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochStart {
    /// The epoch.
    pub(super) epoch: i32,
    /// Offset of its first record, or of the record to come.
    pub(super) start_offset: i64,
}

/// The epochs of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

/// What the checkpoint of a log turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// There is none, as while epoch 0 has lasted from offset 0 on.
    Missing,
    /// It makes no sense: the batches have to say.
    Damaged,
    /// These epochs.
    Epochs(LeaderEpochs),
}

impl Stored {
    /// Offset before which everything was deleted, as far as is known.
    pub(super) fn start(&self) -> i64 {
        match self {
            Self::Epochs(epochs) => epochs.start(),
            Self::Missing | Self::Damaged => 0,
        }
    }
}

impl LeaderEpochs {
    pub(super) fn new(start_offset: i64) -> Self {
        Self { entries: vec![EpochStart { epoch: 0, start_offset }] }
    }

    /// The epochs of a log whose batches, in order, begin at these offsets under these epochs.
    pub(super) fn of_batches(start_offset: i64, batches: impl IntoIterator<Item = EpochStart>) -> Self {
        let mut epochs = Self { entries: Vec::new() };
        for batch in batches {
            match epochs.entries.last() {
                None => epochs.entries.push(EpochStart { start_offset, ..batch }),
                Some(last) if last.epoch < batch.epoch => epochs.entries.push(batch),
                Some(_) => {}
            }
        }
        if epochs.entries.is_empty() { Self::new(start_offset) } else { epochs }
    }

    /// Reads the checkpoint.
    ///
    /// # Errors
    /// [`StorageError`] if it is there and cannot be read.
    pub(super) fn load(files: &Files) -> Result<Stored, StorageError> {
        let path = path(files);
        let read = files.disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
        Ok(match read.map(|bytes| parse(&bytes)) {
            None => Stored::Missing,
            Some(None) => Stored::Damaged,
            Some(Some(entries)) => Stored::Epochs(Self { entries }),
        })
    }

    /// Replaces the checkpoint, durably.
    ///
    /// # Errors
    /// [`StorageError`]; the one before is still there.
    pub(super) fn save(&self, files: &Files) -> Result<(), StorageError> {
        files.replace_from_reserve(&path(files), self.text().as_bytes())
    }

    /// Writes the checkpoint beside the one before, whose place it takes by [`place_staged`] once it is durable.
    ///
    /// # Errors
    /// [`StorageError`]; the one before is still there.
    pub(super) fn stage(&self, files: &Files) -> Result<(), StorageError> {
        files.write_from_reserve(&files.dir.join(STAGED_NAME), self.text().as_bytes())
    }

    fn text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for EpochStart { epoch, start_offset } in &self.entries {
            let _ = writeln!(text, "{epoch} {start_offset}");
        }
        text
    }

    pub(super) fn current(&self) -> i32 {
        self.entries.last().map_or(0, |entry| entry.epoch)
    }

    /// Offset before which everything was deleted.
    pub(super) fn start(&self) -> i64 {
        self.entries.first().map_or(0, |entry| entry.start_offset)
    }

    /// Whether the current epoch begins after `offset`.
    pub(super) fn begins_after(&self, offset: i64) -> bool {
        self.entries.last().is_some_and(|entry| entry.start_offset > offset)
    }

    /// Forgets what is before `start_offset`, at most the log's end.
    pub(super) fn trim(&mut self, start_offset: i64) {
        let ended =
            self.entries.partition_point(|entry| entry.start_offset <= start_offset).saturating_sub(1);
        self.entries.drain(..ended);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = first.start_offset.max(start_offset);
        }
    }

    /// Begins the next epoch at `start_offset`, which the log was just cut to.
    pub(super) fn begin_next(&mut self, start_offset: i64) {
        self.raise(self.current().saturating_add(1), start_offset);
    }

    /// Begins `epoch` at `start_offset`, the log's end, if the current one is older; whether it was.
    pub(super) fn raise(&mut self, epoch: i32, start_offset: i64) -> bool {
        let is_older = self.current() < epoch;
        if is_older {
            self.entries.retain(|entry| entry.start_offset < start_offset);
            self.entries.push(EpochStart { epoch, start_offset });
        }
        is_older
    }

    /// The epoch of what is at `offset`: the last that began there or before, else the first.
    pub(super) fn at(&self, offset: i64) -> i32 {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        self.entries.get(after.saturating_sub(1)).map_or(self.current(), |entry| entry.epoch)
    }

    /// The largest epoch that is at most `epoch`, and the offset after its last record; `None` if there is none.
    pub(super) fn end_of(&self, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        let after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let found = self.entries.get(after.checked_sub(1)?)?;
        Some((found.epoch, self.entries.get(after).map_or(log_end, |next| next.start_offset)))
    }
}

/// Puts a staged checkpoint, which is durable, in the place of the one before. It is there durably after one more sync.
///
/// # Errors
/// [`StorageError`]; the one before is still there.
pub(super) fn place_staged(files: &Files) -> Result<(), StorageError> {
    files.rename(&files.dir.join(STAGED_NAME), &path(files))
}

fn path(files: &Files) -> PathBuf {
    files.dir.join(FILE_NAME)
}

fn parse(bytes: &[u8]) -> Option<Vec<EpochStart>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let (version, count): (u32, usize) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    let entries: Option<Vec<_>> = lines
        .map(|line| {
            let (epoch, start_offset) = line.split_once(' ')?;
            Some(EpochStart { epoch: epoch.parse().ok()?, start_offset: start_offset.parse().ok()? })
        })
        .collect();
    let entries = entries?;
    let ascend = entries.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset <= b.start_offset);
    (version == 0 && count == entries.len() && count > 0 && ascend).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use std::sync::Arc;

    #[test]
    fn epochs_answer_where_they_end_and_survive_a_reload() {
        let files = Files::new(Arc::new(SimulatedDisk::new(1)), "/".into());
        assert_eq!(LeaderEpochs::load(&files).unwrap(), Stored::Missing);
        let mut epochs = LeaderEpochs::new(0);
        epochs.begin_next(100);
        epochs.begin_next(250);
        epochs.save(&files).unwrap();
        assert_eq!(LeaderEpochs::load(&files).unwrap(), Stored::Epochs(epochs.clone()));
        let text = files.disk.read(&path(&files)).unwrap();
        assert_eq!(text, b"0\n3\n0 0\n1 100\n2 250\n");
        assert_eq!(epochs.end_of(0, 300), Some((0, 100)));
        assert_eq!(epochs.end_of(2, 300), Some((2, 300)));
        assert_eq!(epochs.end_of(9, 300), Some((2, 300)));
        assert_eq!(epochs.end_of(-1, 300), None);
        assert_eq!([0, 99, 100, 249, 250, 900].map(|offset| epochs.at(offset)), [0, 0, 1, 1, 2, 2]);
        epochs.trim(120);
        assert_eq!(
            (epochs.start(), epochs.end_of(0, 300), epochs.end_of(1, 300)),
            (120, None, Some((1, 250)))
        );
        let Stored::Epochs(mut epochs) = LeaderEpochs::load(&files).unwrap() else { panic!("not stored") };
        assert!(epochs.begins_after(249) && !epochs.begins_after(250));
        epochs.begin_next(90);
        assert_eq!((epochs.current(), epochs.end_of(0, 300)), (3, Some((0, 90))));
    }

    #[test]
    fn batches_tell_their_epochs() {
        let batch = |epoch, start_offset| EpochStart { epoch, start_offset };
        let epochs = LeaderEpochs::of_batches(4, [batch(1, 5), batch(1, 7), batch(3, 9), batch(3, 11)]);
        assert_eq!(epochs.entries, [batch(1, 4), batch(3, 9)]);
        assert_eq!(LeaderEpochs::of_batches(4, []), LeaderEpochs::new(4));
    }

    #[test]
    fn a_checkpoint_that_makes_no_sense_is_not_used() {
        for text in ["", "0\n2\n0 0\n", "1\n1\n0 0\n", "0\n1\n0\n", "0\n2\n1 0\n0 5\n", "0\n0\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
