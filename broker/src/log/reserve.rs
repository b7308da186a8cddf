//! A file that takes up room until the disk is full: what frees space must be able to write a little first.
//!
//! The deletion of records and segments is durable before any byte goes, which takes a small file. When the disk has
//! no room for it, the reserve is given up; it is made again when there is room to spare.
//! Invariant: the reserve holds nothing that anyone reads.

use super::StorageError;
use crate::disk::Disk;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory.
pub(crate) const FILE_NAME: &str = "kappa-reserve";
/// Its size in bytes: the checkpoints of more than ten thousand partitions.
const BYTES: usize = 1024 * 1024;
/// Room in bytes that must be left over for the reserve to be made.
const SPARE_BYTES: u64 = 4 * BYTES as u64;

/// Makes the reserve of a data directory if it is missing and there is room for it and more.
///
/// # Errors
/// [`StorageError`]; there may then be none, or a smaller one.
pub fn keep_reserve(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
    let path = path(data_dir);
    let len = disk.len_if_there(&path).map_err(StorageError::on("measure", &path))?;
    if len.is_some_and(|len| len >= BYTES as u64) {
        return Ok(());
    }
    let available = disk.available_bytes(data_dir).map_err(StorageError::on("measure", data_dir))?;
    if available < SPARE_BYTES {
        return Ok(());
    }
    let file = disk.create(&path).map_err(StorageError::on("create", &path))?;
    // Not zeros, which a file system may keep as a hole.
    file.write_at(0, [&vec![b'.'; BYTES], &[]]).map_err(StorageError::on("write to", &path))
}

/// Gives the reserve up; returns whether there was one.
pub fn release_reserve(disk: &dyn Disk, data_dir: &Path) -> bool {
    let path = path(data_dir);
    let is_there = disk.len_if_there(&path).is_ok_and(|len| len.is_some());
    is_there && disk.remove_file_if_there(&path).is_ok()
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
