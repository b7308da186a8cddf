//! The names of a log's files, which are Kafka's, and the directory they are in.
//!
//! Invariant: every path that a log touches is made here.

use super::{StorageError, leader_epoch, metadata, reserve, spare};
use crate::disk::{Disk, File};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Suffix of a segment's batches.
pub(super) const LOG: &str = "log";
/// Suffix of a segment's offset index.
pub(super) const OFFSET_INDEX: &str = "index";
/// Suffix of a segment's time index.
pub(super) const TIME_INDEX: &str = "timeindex";
/// Suffix of a segment's index of aborted transactions.
pub(super) const TRANSACTION_INDEX: &str = "txnindex";
/// Suffix of a producer snapshot, named after the offset it is complete up to.
pub(super) const SNAPSHOT: &str = "snapshot";
/// Added to the names of files that are about to be removed.
pub(super) const DELETED: &str = "deleted";
/// Added to the names of files that recovery set aside for a person to look at.
pub(super) const CORRUPT: &str = "corrupt";

/// A log's directory on its disk.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) siblings: Arc<NewDirectories>,
}

/// Directories that were made together in one parent. Their names become durable by one sync, with the first sync of
/// any of their logs; none may be made after that.
#[derive(Debug, Default)]
pub struct NewDirectories {
    are_durable: AtomicBool,
}

impl NewDirectories {
    /// Makes the names durable, if nobody has.
    fn sync(&self, disk: &dyn Disk, parent: &Path) -> Result<(), StorageError> {
        if !self.are_durable.load(Ordering::Acquire) {
            disk.sync_dir(parent).map_err(StorageError::on("sync the directory", parent))?;
            self.are_durable.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// What a listing of the directory found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Base offsets of segments.
    pub(super) segments: BTreeSet<i64>,
    /// Base offsets of indexes.
    pub(super) indexes: BTreeSet<i64>,
    /// Offsets of producer snapshots.
    pub(super) snapshots: BTreeSet<i64>,
    /// Whether there are leader epochs.
    pub(super) has_epochs: bool,
    /// Whether there is a file of the next segment.
    pub(super) has_spare: bool,
    /// Files of an unfinished write or removal.
    pub(super) leftovers: Vec<PathBuf>,
}

impl Files {
    /// A directory whose name is durable.
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, siblings: Arc::new(NewDirectories { are_durable: true.into() }) }
    }

    /// Makes durable that the directory is there and whose it is.
    pub(super) fn sync_root(&self, topic_id: Uuid) -> Result<(), StorageError> {
        if let Some(parent) = self.dir.parent() {
            self.siblings.sync(&*self.disk, parent)?;
        }
        metadata::sync(self, topic_id)?;
        self.sync_names()
    }

    /// Writes a file that is not durable before something else makes it so, and may be torn until then.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let file = self.disk.create(path).map_err(StorageError::on("create", path))?;
        file.write_at(0, [bytes, &[]]).map_err(StorageError::on("write to", path))
    }

    pub(super) fn path(&self, offset: i64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{offset:020}.{suffix}"))
    }

    pub(super) fn open(&self, path: &Path) -> Result<Arc<dyn File>, StorageError> {
        self.disk.open(path).map_err(StorageError::on("open", path))
    }

    pub(super) fn sync_names(&self) -> Result<(), StorageError> {
        self.disk.sync_dir(&self.dir).map_err(StorageError::on("sync the directory", &self.dir))
    }

    /// Like [`Files::replace`] for what frees space: a full disk refuses it only once the reserve is used up.
    pub(super) fn replace_from_reserve(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        reserve::replace(&*self.disk, self.data_dir(), path, bytes)
    }

    /// Like [`Files::write`], from the reserve.
    pub(super) fn write_from_reserve(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        reserve::write(&*self.disk, self.data_dir(), || self.write(path, bytes))
    }

    fn data_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Replaces a small file durably, see [`Disk`].
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        self.disk.replace(path, bytes).map_err(StorageError::on("replace", path))
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.disk.remove_file_if_there(path).map_err(StorageError::on("remove", path))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.disk.rename(from, to).map_err(StorageError::on("rename", from))
    }

    pub(super) fn list(&self) -> Result<Listing, StorageError> {
        let mut listing = Listing::default();
        for entry in self.disk.list(&self.dir).map_err(StorageError::on("list", &self.dir))? {
            listing.has_epochs |= entry.name == leader_epoch::FILE_NAME;
            listing.has_spare |= entry.name == spare::FILE_NAME;
            let Some((stem, suffix)) = entry.name.split_once('.') else { continue };
            if suffix.ends_with(DELETED) || suffix.ends_with("tmp") {
                listing.leftovers.push(self.dir.join(&entry.name));
            }
            let Some(offset) = parse_offset(stem) else { continue };
            match suffix {
                LOG => listing.segments.insert(offset),
                OFFSET_INDEX | TIME_INDEX => listing.indexes.insert(offset),
                SNAPSHOT => listing.snapshots.insert(offset),
                _ => false,
            };
        }
        Ok(listing)
    }
}

/// The offset of a 20-digit name.
fn parse_offset(stem: &str) -> Option<i64> {
    if stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit()) { stem.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn names_are_kafkas_and_strangers_are_left_alone() {
        let files = Files::new(Arc::new(SimulatedDisk::new(1)), "/".into());
        assert_eq!(files.path(42, LOG), Path::new("/00000000000000000042.log"));
        for name in ["00000000000000000042.log", "42.log", "notes.txt", "00000000000000000007.snapshot", "x"]
        {
            files.disk.create(&files.dir.join(name)).unwrap();
        }
        files.disk.create(&files.path(3, "index.deleted")).unwrap();
        let listing = files.list().unwrap();
        assert_eq!(listing.segments, BTreeSet::from([42]));
        assert_eq!(listing.snapshots, BTreeSet::from([7]));
        assert_eq!(listing.leftovers, [files.path(3, "index.deleted")]);
    }
}
