//! Deleting the oldest segments: renamed at once, removed after a while, so that reads under way may finish.
//!
//! Invariant: it is durable that a segment's offsets are deleted before its files change their names. Which segments
//! go is decided by [`super::retention`].

use super::files::{DELETED, Files, LOG, OFFSET_INDEX, SNAPSHOT, TIME_INDEX, TRANSACTION_INDEX};
use super::index::NO_TIMESTAMP;
use super::leader_epoch::LeaderEpochs;
use super::segment::SealedSegment;
use super::{Log, LogConfig, RetentionBounds, SegmentFacts, StorageError, plan_retention, spare};
use crate::disk::Disk;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A renamed file, to be removed when its time comes.
#[derive(Debug)]
pub struct Doomed {
    due_ms: i64,
    path: PathBuf,
}

/// A deletion that the log knows of and the disk does not yet.
#[derive(Debug)]
pub struct DeletionJob {
    files: Arc<Files>,
    epochs: LeaderEpochs,
    /// The active segment, if its file has no name yet.
    unnamed: Option<i64>,
    /// Held until the job is done: closing the last handle of a file may wait for the disk.
    segments: Vec<Arc<SealedSegment>>,
    /// Files to rename, the last one first.
    paths: Vec<PathBuf>,
    due_ms: i64,
    doomed: Vec<Doomed>,
}

/// Sealed segments, of which the unread ones are to be closed.
#[derive(Debug)]
pub struct IdleSegments(Arc<Vec<Arc<SealedSegment>>>);

/// A search for segments to delete that knows the log as it was when it was made.
#[derive(Debug)]
pub struct DeletionSearch {
    files: Arc<Files>,
    config: LogConfig,
    sealed: Arc<Vec<Arc<SealedSegment>>>,
    active: SegmentFacts,
    log_start: i64,
    upper: i64,
    /// Offset up to which segments are synced: recovery starts there.
    synced: i64,
    log_size: u64,
}

/// Ending of the names of directories that are about to be removed.
const RETIRED: &str = ".delete";

/// Gives the directory of a deleted or never recorded partition a name that is no partition's, made of the topic's id
/// and the partition's index; however long the topic's name is, this one is short. Returns it. The caller makes the name
/// durable and removes the directory then, or leaves that to the next start.
///
/// # Errors
/// [`StorageError`]; the directory then keeps its name.
pub fn retire(disk: &dyn Disk, dir: &Path, topic_id: Uuid, index: i32) -> Result<PathBuf, StorageError> {
    let mut number = 0_u32;
    let target = loop {
        let name = match number {
            0 => format!("{}-{index}{RETIRED}", topic_id.simple()),
            _ => format!("{}-{index}.{number}{RETIRED}", topic_id.simple()),
        };
        let target = dir.with_file_name(name);
        if disk.list_if_there(&target).map_err(StorageError::on("list", &target))?.is_none() {
            break target;
        }
        number += 1;
    };
    disk.rename(dir, &target).map_err(StorageError::on("rename", dir))?;
    Ok(target)
}

/// Whether a directory of this name was retired. No partition's name ends like that, as it ends in a number.
pub fn is_retired(name: &str) -> bool {
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.strip_suffix(RETIRED) {
        Some(stem) => stem.split_once('-').is_some_and(|(id, _)| is_id(id)),
        // Layout 1 put the id behind the topic's name.
        None => name
            .strip_suffix("-delete")
            .and_then(|stem| stem.rsplit_once('.'))
            .is_some_and(|(_, id)| is_id(id)),
    }
}

impl Log {
    /// A search for the segments that have had their time. Nothing after `upper` goes, nor anything that is not synced, from
    /// where recovery would start. To be run without the lock, since it may have to open segments to learn their age.
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
            upper,
            synced: self.recovery_point(),
            log_size: self.size(),
        }
    }

    /// Takes the sealed segments that end at `up_to` or before out of the log. What that means for the disk is a job, to
    /// be run without the lock and then given to [`Log::finish_deletion`]; there is one at a time. `steady_ms` is the
    /// time from which the files' delay counts. `None` if there are no such segments.
    pub fn begin_deletion(&mut self, up_to: i64, steady_ms: i64) -> Option<DeletionJob> {
        let count = self.sealed.partition_point(|segment| segment.end_offset <= up_to);
        let first = self.sealed.get(count.checked_sub(1)?)?.end_offset;
        self.epochs.trim(first);
        self.log_start = self.log_start.max(first);
        self.sync.deleted_before(first);
        let sealed = self.sealed.clone();
        Arc::make_mut(&mut self.sealed).drain(..count);
        let kept = self.snapshots.split_off(&first);
        let snapshots = std::mem::replace(&mut self.snapshots, kept);
        let segments: Vec<_> = sealed.iter().take(count).cloned().collect();
        let files = &self.files;
        let mut paths: Vec<_> = segments
            .iter()
            .flat_map(|segment| {
                [OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX, LOG]
                    .map(|suffix| files.path(segment.base_offset, suffix))
            })
            .chain(snapshots.iter().map(|snapshot| files.path(*snapshot, SNAPSHOT)))
            .collect();
        // The oldest goes first, and the producers' state only after the batches that it is of.
        paths.reverse();
        Some(DeletionJob {
            files: files.clone(),
            epochs: self.epochs.clone(),
            unnamed: self.sync.unnamed(),
            segments,
            paths,
            due_ms: steady_ms.saturating_add(self.config.file_delete_delay_ms),
            doomed: Vec::new(),
        })
    }

    /// Has a job make durable what the log says now of its epochs and of its active segment.
    pub fn refresh_deletion(&self, job: &mut DeletionJob) {
        job.epochs = self.epochs.clone();
        job.unnamed = self.sync.unnamed();
    }

    /// Takes note that what a job says is durable.
    pub fn finish_naming(&mut self, job: &DeletionJob) {
        self.sync.named(job.unnamed);
    }

    /// Takes note that a job was run with success.
    pub fn finish_deletion(&mut self, job: DeletionJob) {
        self.doomed.extend(job.doomed);
    }

    /// Takes out the renamed files whose time has come, to be removed without the lock.
    pub fn take_doomed(&mut self, steady_ms: i64) -> Vec<Doomed> {
        self.doomed.extract_if(.., |doomed| doomed.due_ms <= steady_ms).collect()
    }

    /// Puts back files that could not be removed; they are tried again.
    pub fn put_back_doomed(&mut self, doomed: Vec<Doomed>) {
        self.doomed.extend(doomed);
    }

    /// What [`IdleSegments`] needs to close sealed segments without the lock.
    pub fn idle_segments(&self) -> IdleSegments {
        IdleSegments(self.sealed.clone())
    }
}

impl IdleSegments {
    /// Closes the segments that were not read since the last call.
    pub fn let_go(&self) {
        self.0.iter().for_each(|segment| segment.let_go());
    }
}

impl DeletionJob {
    /// Segments that it deletes.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Makes it durable that the segments' offsets are deleted: what follows is finished even if the power goes. The sync
    /// that this takes also covers the name of the next segment, whose offsets would else be given out again. The log
    /// must not begin an epoch meanwhile.
    ///
    /// # Errors
    /// [`StorageError`]; it may be tried again.
    pub fn make_durable(&self) -> Result<(), StorageError> {
        self.unnamed.map_or(Ok(()), |base_offset| spare::give_name(&self.files, base_offset))?;
        self.epochs.save(&self.files)
    }

    /// Renames the files, once the deletion is durable.
    ///
    /// # Errors
    /// The first [`StorageError`]; the rest may be tried again.
    pub fn rename(&mut self) -> Result<(), StorageError> {
        while let Some(path) = self.paths.last() {
            match rename_deleted(&self.files, path) {
                Ok(path) => self.doomed.push(Doomed { due_ms: self.due_ms, path }),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            self.paths.pop();
        }
        Ok(())
    }
}

impl Doomed {
    /// Removes the file.
    ///
    /// # Errors
    /// [`StorageError`]; it is still there.
    pub fn remove(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        disk.remove_file_if_there(&self.path).map_err(StorageError::on("remove", &self.path))
    }
}

impl DeletionSearch {
    /// Offset before which every segment has had its time, be it that after the active one; `None` if none has.
    pub fn run(&self, now_ms: i64) -> Option<i64> {
        self.run_up_to(self.upper.min(self.synced), now_ms)
    }

    /// Whether more have had their time and only lack a sync.
    pub fn lacks_sync(&self, now_ms: i64) -> bool {
        self.synced < self.upper && self.run_up_to(self.upper, now_ms) > self.run(now_ms)
    }

    fn run_up_to(&self, upper: i64, now_ms: i64) -> Option<i64> {
        let asks_age = self.config.delete_by_retention && self.config.retention_ms.is_some();
        let sealed = self.sealed.iter().map(|segment| SegmentFacts {
            end_offset: segment.end_offset,
            size: segment.size,
            max_timestamp: if asks_age { self.max_timestamp(segment) } else { None },
        });
        let bounds = RetentionBounds { log_start: self.log_start, upper, log_size: self.log_size, now_ms };
        let count = plan_retention(sealed.chain([self.active]), &self.config, bounds);
        let last = count.checked_sub(1)?;
        Some(self.sealed.get(last).map_or(self.active.end_offset, |segment| segment.end_offset))
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
