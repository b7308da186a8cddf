//! Files that take up room until the disk is full: what frees space must be able to write a little first.
//!
//! The deletion of records and segments is durable before any byte goes, which takes a small file. When the disk has
//! no room for it, the reserve is given up; it is made again when there is room to spare. A start has a reserve of its own,
//! which nothing that runs takes: whatever fills the disk, the process may be killed then and started again.
//! Invariant: a reserve holds nothing that anyone reads.

use super::StorageError;
use crate::disk::Disk;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file for what runs, in the data directory.
const FILE_NAME: &str = "kappa-reserve";
/// Name of the file for starts.
const START_FILE_NAME: &str = "kappa-reserve-start";
/// Size of each in bytes: the checkpoints of more than ten thousand partitions.
const BYTES: usize = 1024 * 1024;
/// Room in bytes that must be left over for the reserve to be made.
const SPARE_BYTES: u64 = 4 * BYTES as u64;

/// Makes the reserves of a data directory if they are missing and there is room for them and more.
///
/// # Errors
/// [`StorageError`]; there may then be none, or smaller ones.
pub fn keep_reserve(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
    [START_FILE_NAME, FILE_NAME].iter().try_for_each(|name| keep(disk, data_dir, name, SPARE_BYTES))
}

/// Makes the reserve for starts again out of what a start left of it.
///
/// # Errors
/// As [`keep_reserve`].
pub fn restore_start_reserve(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
    keep(disk, data_dir, START_FILE_NAME, 0)
}

fn keep(disk: &dyn Disk, data_dir: &Path, name: &str, spare: u64) -> Result<(), StorageError> {
    let path = data_dir.join(name);
    let len = disk.len_if_there(&path).map_err(StorageError::on("measure", &path))?;
    if len.is_some_and(|len| len >= BYTES as u64) {
        return Ok(());
    }
    let available = disk.available_bytes(data_dir).map_err(StorageError::on("measure", data_dir))?;
    let bytes = BYTES.min(usize::try_from(available).unwrap_or(BYTES));
    if available < spare || bytes == 0 {
        return Ok(());
    }
    let file = disk.create(&path).map_err(StorageError::on("create", &path))?;
    // Not zeros, which a file system may keep as a hole.
    file.write_at(0, [&vec![b'.'; bytes], &[]]).map_err(StorageError::on("write to", &path))
}

/// Gives up both reserves, for a start; returns whether there was any.
pub fn release_reserve(disk: &dyn Disk, data_dir: &Path) -> bool {
    let release = |name| {
        let path = data_dir.join(name);
        let is_there = disk.len_if_there(&path).is_ok_and(|len| len.is_some());
        is_there && disk.remove_file_if_there(&path).is_ok()
    };
    let (start, other) = (release(START_FILE_NAME), release(FILE_NAME));
    start || other
}

/// Replaces a small file durably, see [`Disk`]. If the disk is full, the reserve goes first.
pub(super) fn replace(
    disk: &dyn Disk,
    data_dir: &Path,
    target: &Path,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let replace = || disk.replace(target, bytes).map_err(StorageError::on("replace", target));
    write(disk, data_dir, replace)
}

/// Writes a small file. If the disk is full, the reserve goes first, and the write is tried once more.
pub(super) fn write(
    disk: &dyn Disk,
    data_dir: &Path,
    write: impl Fn() -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    match write() {
        Err(error) if error.source.kind() == io::ErrorKind::StorageFull => {
            let path = path(data_dir);
            disk.remove_file_if_there(&path).map_err(StorageError::on("remove", &path))?;
            write()
        }
        written => written,
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}
