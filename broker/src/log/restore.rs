//! Putting back into segment files what only the journal has of them, before the log is recovered.
//!
//! Invariant: every byte that is written here was durable at this place before, so that doing it again, or half, does
//! no harm; recovery then checks and syncs the files as those of any log that was not closed.

use super::files::{Files, LOG};
use super::open::check_owner;
use super::{StorageError, spare};
use crate::disk::Disk;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes and where they belong.
#[derive(Debug)]
pub struct RestoredPiece {
    /// Base offset of the segment.
    pub segment: i64,
    /// Position in its file.
    pub position: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Writes the pieces, in order, into the segment files of the log in `dir`, which belongs to `topic_id`; files are made
/// where a crash took them. Only one piece is in memory at a time.
///
/// # Errors
/// [`StorageError`], also if the directory belongs to another topic; to be done again from the start.
pub fn restore(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    topic_id: Uuid,
    pieces: impl Iterator<Item = Result<RestoredPiece, StorageError>>,
) -> Result<(), StorageError> {
    check_owner(&*disk, &dir, topic_id)?;
    let files = Files::new(disk, dir);
    // A segment whose file has no name yet must not get a second file.
    spare::name_found(&files, files.list()?.segments.last().copied())?;
    let mut segments = HashMap::new();
    for piece in pieces {
        let RestoredPiece { segment, position, bytes } = piece?;
        let path = files.path(segment, LOG);
        let file = match segments.get(&segment) {
            Some(file) => file,
            None => {
                let file = match files.disk.open(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => files.disk.create(&path),
                    opened => opened,
                };
                segments.entry(segment).or_insert(file.map_err(StorageError::on("open", &path))?)
            }
        };
        file.write_at(position, [&bytes, &[]]).map_err(StorageError::on("write to", &path))?;
    }
    Ok(())
}
