//! Making a log from its directory: a new one, one that was closed, or one that was not.
//!
//! Invariant: a log that was closed cleanly is opened without looking at more than names, sizes and the end of the
//! last segment; any doubt about it leads to recovery. When a log is there, all that it shows is durable.

use super::files::{LOG, Listing, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX};
use super::index::IndexBuilder;
use super::leader_epoch::LeaderEpochs;
use super::recovery::{RecoveredSegments, Recovery};
use super::scan::{Check, Scan, Step};
use super::segment::{ActiveSegment, SealedSegment};
use super::sync::SyncState;
use super::truncation::first_timestamp;
use super::{Files, Indexed, Log, LogConfig, LogPosition, Opening, RecoveryReport, StorageError, metadata};
use crate::disk::{Disk, File};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

impl Log {
    /// Opens the log in `dir`, which is created if it is missing, and gives it `topic_id` if it has none. Recovers it
    /// unless `opening` says that it was closed cleanly and that is what is found.
    ///
    /// # Errors
    /// [`StorageError`]. Damage is no error but reported.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        topic_id: Option<Uuid>,
        config: LogConfig,
        opening: Opening,
        now_ms: i64,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        let files = Arc::new(Files { disk, dir });
        if files.disk.list(&files.dir).is_err() {
            create_directory(&files)?;
        }
        let mut listing = files.list()?;
        let epochs = LeaderEpochs::load(&files);
        let start = epochs.as_ref().map_or(0, LeaderEpochs::start);
        finish_deletion(&files, &mut listing, start)?;
        for leftover in &listing.leftovers {
            files.remove(leftover)?;
        }
        let topic_id = match (metadata::directory_topic_id(&files.disk, &files.dir), topic_id) {
            (None, Some(id)) => {
                metadata::save(&files, id)?;
                Some(id)
            }
            (found, _) => found,
        };

        let closed = if opening.clean {
            open_closed(&files, &config, opening, &listing.segments, now_ms)?
        } else {
            None
        };
        let (segments, report) = match closed {
            Some(segments) => (segments, RecoveryReport::default()),
            None => recover(&files, &config, opening, (&listing.segments, start), now_ms)?,
        };
        let RecoveredSegments { sealed, active, next_offset } = segments;
        let first = sealed.first().map_or(active.base_offset, |segment| segment.base_offset);
        let epochs = open_epochs(&files, epochs, (first, next_offset), !report.set_aside.is_empty())?;
        let end = LogPosition { offset: next_offset, segment: active.base_offset, position: active.size };
        let mut log = Self {
            files,
            config,
            topic_id,
            sealed: Arc::new(sealed),
            active,
            log_start: opening.log_start.max(first).min(next_offset),
            next_offset,
            epochs,
            sync: SyncState::new(end),
            snapshots: listing.snapshots,
            repairs: Vec::new(),
            doomed: Vec::new(),
        };
        // Beyond the end a snapshot is of batches that were lost; one below it was saved when all before it was synced.
        let beyond = log.snapshots.split_off(&(next_offset + 1));
        for offset in &beyond {
            log.files.remove(&log.files.path(*offset, super::files::SNAPSHOT))?;
        }
        if !beyond.is_empty() {
            log.files.sync_names()?;
        }
        Ok((log, report))
    }
}

fn create_directory(files: &Files) -> Result<(), StorageError> {
    files.disk.create_dir(&files.dir).map_err(StorageError::on("create the directory", &files.dir))?;
    match files.dir.parent() {
        Some(parent) => files.disk.sync_dir(parent).map_err(StorageError::on("sync the directory", parent)),
        None => Ok(()),
    }
}

/// Removes what a deletion up to `start` left behind when it was interrupted.
fn finish_deletion(files: &Files, listing: &mut Listing, start: i64) -> Result<(), StorageError> {
    while let [first, next, ..] = listing.segments.iter().take(2).copied().collect::<Vec<_>>()[..]
        && next <= start
    {
        for suffix in [OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX, LOG] {
            files.remove(&files.path(first, suffix))?;
        }
        listing.segments.remove(&first);
    }
    Ok(())
}

/// The segments of a log that was closed; `None` if what is there is not what a closed log leaves behind.
fn open_closed(
    files: &Files,
    config: &LogConfig,
    opening: Opening,
    bases: &BTreeSet<i64>,
    now_ms: i64,
) -> Result<Option<RecoveredSegments>, StorageError> {
    let Some(last) = bases.last() else { return Ok(None) };
    let mut sealed = Vec::with_capacity(bases.len());
    for (base, end) in bases.iter().zip(bases.iter().skip(1)) {
        let path = files.path(*base, LOG);
        let size = files.disk.len(&path).map_err(StorageError::on("measure", &path))?;
        sealed.push(Arc::new(SealedSegment::found(*base, *end, size)));
    }
    let opened = open_last(files, config, *last, now_ms)?;
    let expected = opened.filter(|(_, next_offset)| *next_offset == opening.recovery_point);
    Ok(expected.map(|(active, next_offset)| RecoveredSegments { sealed, active, next_offset }))
}

/// The last segment and the offset after it, from its indexes and the headers that they do not cover; `None` if the
/// batches do not end where the file does.
fn open_last(
    files: &Files,
    config: &LogConfig,
    base_offset: i64,
    now_ms: i64,
) -> Result<Option<(ActiveSegment, i64)>, StorageError> {
    let path = files.path(base_offset, LOG);
    let on_read = |source| StorageError::on("read", &path)(source);
    let file = files.open(&path)?;
    let size = file.size().map_err(on_read)?;
    // A missing index is as good as an empty one: everything is looked at then.
    let index_bytes = |suffix| files.disk.read(&files.path(base_offset, suffix)).unwrap_or_default();
    let (offsets, times) = (index_bytes(OFFSET_INDEX), index_bytes(TIME_INDEX));
    let interval = config.index_interval_bytes;
    let resumed = IndexBuilder::resume(base_offset, interval, &offsets, &times, size);
    let mut ended = scan_to_end(&*file, size, resumed).map_err(on_read)?;
    if ended.as_ref().is_some_and(|(index, _)| index.clone().finish() != (offsets, times)) {
        let whole = (IndexBuilder::new(base_offset, interval), 0);
        ended = scan_to_end(&*file, size, whole).map_err(on_read)?;
    }
    let Some((index, next_offset)) = ended else { return Ok(None) };
    let first_timestamp = first_timestamp(&*file, size).map_err(on_read)?;
    let active =
        ActiveSegment { base_offset, file, size, index, first_timestamp, created_ms: now_ms, was_cut: false };
    Ok(Some((active, next_offset)))
}

/// Adds the batches from a position on to the indexes. Returns them with the offset after the last batch; `None` if
/// something else is found.
fn scan_to_end(
    file: &dyn File,
    size: u64,
    (mut index, from): (IndexBuilder, u64),
) -> io::Result<Option<(IndexBuilder, i64)>> {
    let mut scan = Scan::new(file, Check::Headers, from, size);
    let mut next_offset = index.base_offset();
    loop {
        match scan.next()? {
            Step::Batch { position, batch } if batch.base_offset() >= next_offset => {
                index.add(position, Indexed::from(&batch));
                next_offset = batch.next_offset();
            }
            Step::Batch { .. } | Step::Invalid { .. } => return Ok(None),
            Step::End => return Ok(Some((index, next_offset))),
        }
    }
}

fn recover(
    files: &Files,
    config: &LogConfig,
    opening: Opening,
    (bases, start): (&BTreeSet<i64>, i64),
    now_ms: i64,
) -> Result<(RecoveredSegments, RecoveryReport), StorageError> {
    let recovery_point = opening.recovery_point;
    if bases.is_empty() {
        // Offsets that were given out are not given out again, even if the files are gone.
        let next_offset = recovery_point.max(opening.log_start).max(start);
        let active = ActiveSegment::create(files, next_offset, config.index_interval_bytes, now_ms)?;
        files.sync_names()?;
        let mut report = RecoveryReport::default();
        if next_offset > 0 {
            let missing = super::Damage { segment: 0, position: 0, bytes: 0, offset: opening.log_start };
            report.damage.push(missing);
        }
        return Ok((RecoveredSegments { sealed: Vec::new(), active, next_offset }, report));
    }
    let mut recovery = Recovery { files, config, recovery_point, now_ms, report: RecoveryReport::default() };
    let segments = recovery.run(bases)?;
    Ok((segments, recovery.report))
}

/// The epochs of the checkpoint; a new one if records that someone may have seen are gone.
fn open_epochs(
    files: &Files,
    found: Option<LeaderEpochs>,
    (first, next_offset): (i64, i64),
    was_cut: bool,
) -> Result<LeaderEpochs, StorageError> {
    let is_new = found.is_none();
    let mut epochs = found.unwrap_or_else(|| LeaderEpochs::new(first));
    // An epoch that begins beyond the end tells of records that are gone without a trace.
    let was_cut = was_cut || epochs.begins_after(next_offset);
    if was_cut {
        epochs.begin_next(next_offset);
    }
    if is_new || was_cut {
        epochs.save(files)?;
    }
    Ok(epochs)
}
