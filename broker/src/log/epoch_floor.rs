//! The leader epoch that every log of a data directory has at least: one more after each stop that was not clean.
//!
//! What a power cut took of a log that is not synced at every append leaves no trace in the log itself: the shorter log
//! looks like one that was never longer. A consumer notices only by a newer leader epoch. One number for all logs costs
//! one small file at a start that needs it, and no log has to be touched before it is appended to.
//! ```text
//! kappa-leader-epoch 1
//! 3
//! checksum 0a1b2c3d                  CRC-32C of the lines before
//! ```
//! Invariant: it is durable before any log shows anything under it, and never becomes smaller.

use super::{StorageError, reserve};
use crate::disk::Disk;
use kappa_protocol::record::crc32c;
use std::path::Path;

const FILE_NAME: &str = "kappa-leader-epoch";
const HEADER: &str = "kappa-leader-epoch 1";

/// The least leader epoch of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochFloor {
    /// The epoch.
    pub epoch: i32,
    /// Whether the directory knows it yet.
    is_durable: bool,
}

impl EpochFloor {
    /// What holds for this start: the epoch of the last one, if that left everything as it was seen, else the next one.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`StorageError`] if the file cannot be read or is damaged.
    pub fn read(disk: &dyn Disk, data_dir: &Path, nothing_is_gone: bool) -> Result<Self, StorageError> {
        let path = data_dir.join(FILE_NAME);
        let read = disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
        let epoch = match read {
            None => 0,
            Some(bytes) => parse(&bytes).ok_or_else(|| {
                StorageError::damaged(
                    &path,
                    "its checksum is wrong; without it consumers may not notice that records which were never synced \
                     are gone: restore the file, or move it away to have the leader epochs count from 0",
                )
            })?,
        };
        Ok(match nothing_is_gone {
            true => Self { epoch, is_durable: true },
            false => Self { epoch: epoch.saturating_add(1), is_durable: false },
        })
    }

    /// Makes it durable, from the reserve if the disk is full.
    ///
    /// # Errors
    /// [`StorageError`]; no log may show anything then.
    pub fn make_durable(&mut self, disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
        if !self.is_durable {
            reserve::replace(disk, data_dir, &data_dir.join(FILE_NAME), format(self.epoch).as_bytes())?;
            self.is_durable = true;
        }
        Ok(())
    }
}

fn format(epoch: i32) -> String {
    let text = format!("{HEADER}\n{epoch}\n");
    format!("{text}checksum {:08x}\n", crc32c(text.as_bytes()))
}

fn parse(bytes: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let epoch = text.lines().nth(1)?.parse().ok()?;
    (format(epoch) == text).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn it_grows_with_every_start_that_does_not_know_what_is_gone() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        let read = |disk: &SimulatedDisk, nothing_is_gone| EpochFloor::read(disk, root, nothing_is_gone);
        assert_eq!(read(&disk, true).unwrap().epoch, 0);
        let mut floor = read(&disk, false).unwrap();
        assert_eq!(floor.epoch, 1);
        assert_eq!(read(&disk, false).unwrap().epoch, 1, "nobody was shown the one that was not durable");
        floor.make_durable(&disk, root).unwrap();
        let disk = disk.power_cut();
        assert_eq!(read(&disk, true).unwrap().epoch, 1);
        assert_eq!(read(&disk, false).unwrap().epoch, 2);
    }

    #[test]
    fn a_file_that_is_damaged_is_an_error_that_names_a_cure() {
        let disk = SimulatedDisk::new(1);
        let root = Path::new("/");
        let text = format(70);
        assert_eq!(parse(text.as_bytes()), Some(70));
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            assert_eq!(parse(&flipped), None, "byte {at}");
            assert_eq!(parse(&text.as_bytes()[..at]), None, "{at} bytes");
        }
        (&disk as &dyn Disk).replace(&root.join(FILE_NAME), &text.as_bytes()[1..]).unwrap();
        let error = EpochFloor::read(&disk, root, true).unwrap_err();
        assert!(error.source.to_string().contains("restore the file"), "{error:?}");
    }
}
