//! Deleting the oldest segments: renamed at once, removed after a while, so that reads under way may finish.
//!
//! Invariant: it is durable that a segment's offsets are deleted before its files change their names. Which segments
//! go is decided by [`super::retention`].

use super::files::{DELETED, Files, LOG, OFFSET_INDEX, SNAPSHOT, TIME_INDEX, TRANSACTION_INDEX};
use super::index::NO_TIMESTAMP;
use super::segment::SealedSegment;
use super::{Log, LogConfig, RetentionBounds, SegmentFacts, StorageError, plan_retention};
use crate::disk::Disk;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A renamed file, to be removed when its time comes.
#[derive(Debug)]
pub(super) struct Doomed {
    due_ms: i64,
    path: PathBuf,
}

/// A search for segments to delete that knows the log as it was when it was made.
#[derive(Debug)]
pub struct DeletionSearch {
    files: Arc<Files>,
    config: LogConfig,
    sealed: Arc<Vec<Arc<SealedSegment>>>,
    active: SegmentFacts,
    log_start: i64,
    upper: i64,
    log_size: u64,
}

/// Renames a log's directory so that it is not taken for a log any more, durably, and removes it.
///
/// # Errors
/// [`StorageError`]; once renamed, it may be removed later.
pub fn remove_directory(disk: &dyn Disk, dir: &Path, suffix: &str) -> Result<(), StorageError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let target = dir.with_file_name(format!("{name}.{suffix}-delete"));
    disk.rename(dir, &target).map_err(StorageError::on("rename", dir))?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent).map_err(StorageError::on("sync the directory", parent))?;
    }
    disk.remove_dir_all(&target).map_err(StorageError::on("remove", &target))
}

impl Log {
    /// A search for the segments that have had their time. Nothing after `upper` goes, nor anything that recovery would
    /// start from. To be run without the lock, since it may have to open segments to learn their age.
    pub fn deletion_search(&self, upper: i64) -> DeletionSearch {
        DeletionSearch {
            files: self.files.clone(),
            config: self.config.clone(),
            sealed: self.sealed.clone(),
            active: SegmentFacts {
                end_offset: self.next_offset,
                size: self.active.size,
                max_timestamp: known(self.active.index.max_timestamp().0),
            },
            log_start: self.log_start,
            upper: upper.min(self.recovery_point()),
            log_size: self.size(),
        }
    }

    /// Deletes the `count` oldest sealed segments, or all if there are fewer. Returns how many.
    ///
    /// # Errors
    /// [`StorageError`]; if the deletion is durable by then, files that still have their names are removed at the next
    /// start.
    pub fn delete_oldest(&mut self, count: usize, now_ms: i64) -> Result<usize, StorageError> {
        let count = count.min(self.sealed.len());
        if count == 0 {
            return Ok(0);
        }
        // From here on the deletion is finished even if the power goes. The sync that this takes also covers the name
        // of what follows, whose offsets would else be given out again.
        let first = self.sealed.get(count).map_or(self.active.base_offset, |segment| segment.base_offset);
        self.epochs.trim(first);
        self.epochs.save(&self.files)?;
        self.log_start = self.log_start.max(first);

        let due_ms = now_ms.saturating_add(self.config.file_delete_delay_ms);
        let deleted: Vec<_> = Arc::make_mut(&mut self.sealed).drain(..count).collect();
        let kept = self.snapshots.split_off(&first);
        let snapshots = std::mem::replace(&mut self.snapshots, kept);
        for segment in deleted {
            for suffix in [OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX, LOG] {
                self.doom(&self.files.path(segment.base_offset, suffix), due_ms)?;
            }
        }
        for snapshot in snapshots {
            self.doom(&self.files.path(snapshot, SNAPSHOT), due_ms)?;
        }
        Ok(count)
    }

    /// Removes renamed files whose time has come.
    ///
    /// # Errors
    /// The first failure; the rest is tried again the next time.
    pub fn remove_doomed(&mut self, now_ms: i64) -> Result<(), StorageError> {
        while let Some(position) = self.doomed.iter().position(|doomed| doomed.due_ms <= now_ms) {
            let doomed = self.doomed.swap_remove(position);
            self.files.remove(&doomed.path)?;
        }
        Ok(())
    }

    /// Closes sealed segments that were not read since the last call.
    pub fn let_go_idle(&self) {
        self.sealed.iter().for_each(|segment| segment.let_go());
    }

    fn doom(&mut self, path: &Path, due_ms: i64) -> Result<(), StorageError> {
        match rename_deleted(&self.files, path) {
            Ok(path) => self.doomed.push(Doomed { due_ms, path }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl DeletionSearch {
    /// How many of the oldest segments, the active one counted last, have had their time.
    pub fn run(&self, now_ms: i64) -> usize {
        let asks_age = self.config.delete_by_retention && self.config.retention_ms.is_some();
        let sealed = self.sealed.iter().map(|segment| SegmentFacts {
            end_offset: segment.end_offset,
            size: segment.size,
            max_timestamp: if asks_age { self.max_timestamp(segment) } else { None },
        });
        let bounds =
            RetentionBounds { log_start: self.log_start, upper: self.upper, log_size: self.log_size, now_ms };
        plan_retention(sealed.chain([self.active]), &self.config, bounds)
    }

    fn max_timestamp(&self, segment: &SealedSegment) -> Option<i64> {
        match segment.content(&self.files, self.config.index_interval_bytes) {
            Ok(content) => known(content.max_timestamp.0),
            Err(error) => {
                tracing::warn!(%error, cause = %error.source, "retention cannot tell the age of a segment");
                None
            }
        }
    }
}

fn known(timestamp: i64) -> Option<i64> {
    (timestamp != NO_TIMESTAMP).then_some(timestamp)
}

fn rename_deleted(files: &Files, path: &Path) -> Result<PathBuf, StorageError> {
    let mut target = path.as_os_str().to_owned();
    target.push(format!(".{DELETED}"));
    let target = PathBuf::from(target);
    files.rename(path, &target)?;
    Ok(target)
}
