//! Keeping what recovery takes out of a log, for a person to look at.
//!
//! Invariant: bytes leave a log's files only after they are durable in a file of their own, under a name that nothing
//! else uses.

use super::files::{CORRUPT, Files, LOG, OFFSET_INDEX, TIME_INDEX};
use super::recovery::SetAside;
use super::{LogPosition, StorageError};
use crate::disk::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes copied at once.
const COPY_BYTES: usize = 1024 * 1024;

/// Copies what a segment's file has from `end` on to a file of its own and cuts it off.
pub(super) fn tail(files: &Files, file: &dyn File, end: LogPosition) -> Result<SetAside, StorageError> {
    let source = files.path(end.segment, LOG);
    let size = file.size().map_err(StorageError::on("measure", &source))?;
    let path = free_name(files, &format!("{:020}.log.{}", end.segment, end.position))?;
    let copied = copy_tail(files, file, end.position..size, &source, &path);
    if let Err(error) = copied {
        // A start that is tried again must not find less room each time.
        let _ = files.remove(&path);
        return Err(error);
    }
    files.sync_names()?;
    file.set_len(end.position).map_err(StorageError::on("cut", &source))?;
    file.sync_data().map_err(StorageError::on("sync", &source))?;
    Ok(SetAside { path, bytes: size - end.position, from_offset: end.offset })
}

fn copy_tail(
    files: &Files,
    file: &dyn File,
    range: Range<u64>,
    source: &Path,
    path: &Path,
) -> Result<(), StorageError> {
    let copy = files.disk.create(path).map_err(StorageError::on("create", path))?;
    let mut buffer = Vec::new();
    let mut position = range.start;
    while position < range.end {
        buffer.clear();
        let len = COPY_BYTES.min((range.end - position) as usize);
        let read = file.read_at(position, len, &mut buffer).map_err(StorageError::on("read", source))?;
        if read == 0 {
            break;
        }
        let copied = copy.write_at(position - range.start, [&buffer, &[]]);
        copied.map_err(StorageError::on("write to", path))?;
        position += read as u64;
    }
    copy.sync_data().map_err(StorageError::on("sync", path))
}

/// Renames the whole file of a segment and removes its indexes.
pub(super) fn segment(files: &Files, base_offset: i64) -> Result<SetAside, StorageError> {
    let aside = whole(files, &files.path(base_offset, LOG), &format!("{base_offset:020}.log"), base_offset)?;
    files.remove(&files.path(base_offset, OFFSET_INDEX))?;
    files.remove(&files.path(base_offset, TIME_INDEX))?;
    files.sync_names()?;
    Ok(aside)
}

/// Renames a file. The caller makes the names durable before the log grows.
pub(super) fn whole(
    files: &Files,
    source: &Path,
    stem: &str,
    from_offset: i64,
) -> Result<SetAside, StorageError> {
    let bytes = files.disk.len(source).map_err(StorageError::on("measure", source))?;
    let path = free_name(files, stem)?;
    files.rename(source, &path)?;
    Ok(SetAside { path, bytes, from_offset })
}

fn free_name(files: &Files, stem: &str) -> Result<PathBuf, StorageError> {
    let mut number = 0_u32;
    loop {
        let path = match number {
            0 => files.dir.join(format!("{stem}.{CORRUPT}")),
            _ => files.dir.join(format!("{stem}.{number}.{CORRUPT}")),
        };
        if files.disk.len_if_there(&path).map_err(StorageError::on("measure", &path))?.is_none() {
            return Ok(path);
        }
        number += 1;
    }
}
