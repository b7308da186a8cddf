//! The file of the next segment, made before it is needed, so that a roll under the log's lock touches no name.
//!
//! ```text
//! next-segment     empty, or the active segment's batches until a sync gives it the name of its first offset
//! ```
//! The name is none that Kafka looks at. Invariants: there is one such file at most, of the last segment; a sync gives it
//! its name before it makes any of its bytes durable; one that is found with batches at a start is given its name then, for a killed process
//! loses nothing that it wrote.

use super::files::{Files, LOG};
use super::scan::{Check, Scan, Step};
use super::{Log, SetAside, StorageError, set_aside};
use crate::disk::File;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const FILE_NAME: &str = "next-segment";

/// Parts of a segment, of which so many are written when the next one's file is made.
const FULL_PARTS: (u64, u64) = (3, 4);

/// What of the next segment's file there is.
#[derive(Debug, Default)]
pub(super) enum Spare {
    /// Nothing, and nobody was asked to make it.
    #[default]
    None,
    /// Somebody is to make it, or tried in vain.
    Asked,
    /// The file.
    Ready(Arc<dyn File>),
}

/// The making of a file.
#[derive(Debug)]
pub struct SpareJob {
    files: Arc<Files>,
}

impl SpareJob {
    /// Makes the file. Nothing of it has to be durable.
    ///
    /// # Errors
    /// [`StorageError`]; the roll then makes its file itself.
    pub fn run(&self) -> Result<Arc<dyn File>, StorageError> {
        let path = path(&self.files);
        self.files.disk.create(&path).map_err(StorageError::on("create", &path))
    }
}

impl Log {
    /// Whether the active segment is so full that the next one's file should be made, by a [`SpareJob`].
    pub fn wants_spare(&self) -> bool {
        let (parts, all) = FULL_PARTS;
        let full = u64::from(self.config.segment_bytes).saturating_mul(parts) / all;
        matches!(self.spare, Spare::None) && self.active.size >= full && self.may_make_spare()
    }

    /// The work that makes the next segment's file, if there is none: to be run without the lock, one at a time and not
    /// beside a [`super::SyncJob`], and then given to [`Log::finish_spare`].
    pub fn begin_spare(&mut self) -> Option<SpareJob> {
        if matches!(self.spare, Spare::Ready(_)) || !self.may_make_spare() {
            return None;
        }
        self.spare = Spare::Asked;
        Some(SpareJob { files: self.files.clone() })
    }

    /// Whether no file can be there that has batches, nor be about to be removed.
    fn may_make_spare(&self) -> bool {
        self.sync.unnamed().is_none() && !self.needs_repair()
    }

    /// Takes the file that was made. One that came too late, after the roll, is of no use and holds nothing.
    pub fn finish_spare(&mut self, file: Arc<dyn File>) {
        if matches!(self.spare, Spare::Asked) {
            self.spare = Spare::Ready(file);
        }
    }
}

/// Gives the file the name of the segment that begins at `base_offset`, if it has not got it.
pub(super) fn give_name(files: &Files, base_offset: i64) -> Result<(), StorageError> {
    let named = files.path(base_offset, LOG);
    match files.rename(&path(files), &named) {
        // An earlier sync came as far as this.
        Err(error) if error.is_not_found() => {
            files.disk.len(&named).map(drop).map_err(StorageError::on("measure", &named))
        }
        renamed => renamed,
    }
}

pub(super) fn path(files: &Files) -> PathBuf {
    files.dir.join(FILE_NAME)
}

/// The base offset of the batches that a killed process wrote to the file before a sync gave it its name; `None` if there
/// are none, or they do not follow the segment at `last`, the last one that has a name.
pub(super) fn unnamed(files: &Files, last: Option<i64>) -> Result<Option<i64>, StorageError> {
    let path = path(files);
    let on_read = |source| StorageError::on("read", &path)(source);
    let len = files.disk.len_if_there(&path).map_err(StorageError::on("measure", &path))?;
    if len.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let file = files.open(&path)?;
    let size = file.size().map_err(on_read)?;
    let mut scan = Scan::new(&*file, Check::Checksums, 0, size);
    Ok(match scan.next().map_err(on_read)? {
        Step::Batch { batch, .. } => {
            Some(batch.base_offset()).filter(|base_offset| last.is_none_or(|last| last < *base_offset))
        }
        Step::Invalid { .. } | Step::End => None,
    })
}

/// Gives its name to such a segment. Returns its base offset.
pub(super) fn name_found(files: &Files, last: Option<i64>) -> Result<Option<i64>, StorageError> {
    let found = unnamed(files, last)?;
    found.map_or(Ok(()), |base_offset| give_name(files, base_offset))?;
    Ok(found)
}

/// The same. Returns where the file went if it holds something else.
pub(super) fn adopt(
    files: &Files,
    last: Option<i64>,
) -> Result<(Option<i64>, Option<SetAside>), StorageError> {
    if let Some(base_offset) = name_found(files, last)? {
        return Ok((Some(base_offset), None));
    }
    let path = path(files);
    let len = files.disk.len_if_there(&path).map_err(StorageError::on("measure", &path))?;
    if len.unwrap_or(0) == 0 {
        return Ok((None, None));
    }
    Ok((None, Some(set_aside::whole(files, &path, FILE_NAME, last.unwrap_or(0))?)))
}
