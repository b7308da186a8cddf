//! Making a log from its directory: a new one, one that was closed, or one that was not.
//!
//! Invariant: a directory is made or found, never whichever of both; one that belongs to another topic is refused. A
//! log that was closed cleanly is opened without looking at more than names, sizes and the end of the last segment; any
//! doubt about it leads to recovery. When a log with records is there, all that it shows is durable, or will be by a sync
//! of the file system that its owner promises; a log without any costs no sync, for its first sync covers its directory.

use super::files::{LOG, Listing, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX};
use super::index::IndexBuilder;
use super::leader_epoch::{EpochStart, LeaderEpochs, Stored};
use super::recovery::{RecoveredSegments, Recovery};
use super::scan::{Check, Scan, Step};
use super::segment::{ActiveSegment, SealedSegment};
use super::spare::{self, Spare};
use super::sync::SyncState;
use super::truncation::first_timestamp;
use super::{
    Damage, Files, Indexed, Log, LogConfig, LogPosition, NewDirectories, Opening, Owner, RecoveryEnd,
    RecoveryReport, StorageError, metadata,
};
use super::{SetAside, set_aside};
use crate::disk::{Disk, File};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

impl Log {
    /// Makes the log of a partition of `topic_id` in a directory that must not be there yet. `siblings` are made with
    /// it. Nothing is durable before the first sync.
    ///
    /// # Errors
    /// [`StorageError`], of kind [`io::ErrorKind::AlreadyExists`] if the directory is there. What was made is removed
    /// again, if the disk lets it.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        topic_id: Uuid,
        config: LogConfig,
        now_ms: i64,
        siblings: Arc<NewDirectories>,
    ) -> Result<Self, StorageError> {
        if disk.list_if_there(&dir).map_err(StorageError::on("list", &dir))?.is_some() {
            let cause = io::Error::new(io::ErrorKind::AlreadyExists, "it is there already");
            return Err(StorageError::on("create the directory", &dir)(cause));
        }
        disk.create_dir(&dir).map_err(StorageError::on("create the directory", &dir))?;
        let files = Arc::new(Files { disk, dir, siblings });
        let active = metadata::write(&files, topic_id)
            .and_then(|()| ActiveSegment::create(&files, 0, config.index_interval_bytes, now_ms));
        let active = active.inspect_err(|_| {
            if let Err(error) = files.disk.remove_dir_all(&files.dir) {
                let directory = files.dir.display();
                tracing::warn!(%directory, %error, "a directory that could not be made whole stays");
            }
        })?;
        let end = LogPosition { offset: 0, segment: 0, position: 0 };
        Ok(Self {
            files,
            config,
            topic_id,
            sealed: Arc::default(),
            active,
            log_start: 0,
            next_offset: 0,
            epochs: LeaderEpochs::new(0),
            are_epochs_saved: true,
            sync: SyncState::new(end, false),
            snapshots: BTreeSet::new(),
            spare: Spare::None,
            repairs: Vec::new(),
            doomed: Vec::new(),
            is_as_closed: false,
            has_indexes: false,
        })
    }

    /// Opens the log in `dir`, which belongs to `topic_id` and whose name is durable. Recovers it unless `opening` says
    /// that it was closed cleanly and that is what is found.
    ///
    /// # Errors
    /// [`StorageError`], also if there is no such directory or it belongs to another topic, or none; nothing is changed
    /// then. Damage of batches is no error but reported.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        topic_id: Uuid,
        config: LogConfig,
        opening: Opening,
        now_ms: i64,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        Self::open_with(disk, dir, topic_id, config, (opening, RecoveryEnd::Synced), now_ms)
    }

    /// The same, with `ending` to say who syncs what a recovery found.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        topic_id: Uuid,
        config: LogConfig,
        (opening, ending): (Opening, RecoveryEnd),
        now_ms: i64,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        check_owner(&*disk, &dir, topic_id)?;
        let files = Arc::new(Files::new(disk, dir));
        let mut listing = files.list()?;
        // What the listing lacks is not asked for: of ten thousand logs, each open and look counts.
        let epochs = if listing.has_epochs { LeaderEpochs::load(&files)? } else { Stored::Missing };
        let start = epochs.start();
        finish_deletion(&files, &mut listing, start)?;
        for leftover in &listing.leftovers {
            files.remove(leftover)?;
        }

        let (unnamed, strange) = match listing.has_spare {
            true => spare::adopt(&files, listing.segments.last().copied())?,
            false => (None, None),
        };
        listing.segments.extend(unnamed);
        let mut orphans = match epochs {
            Stored::Missing if opening.recovery_point == 0 => set_orphans_aside(&files, &mut listing)?,
            _ => Vec::new(),
        };
        orphans.extend(strange);

        let missing = missing_before(&listing.segments, &epochs, opening);
        missing.iter().try_for_each(|damage| damage.refuse(&files, &config))?;
        let closed =
            if opening.clean { open_closed(&files, &config, opening, &listing, now_ms)? } else { None };
        let was_closed = closed.is_some();
        let is_as_closed = closed.as_ref().is_some_and(|(_, has_indexes)| *has_indexes);
        let (segments, mut report) = match closed {
            Some((segments, _)) => (segments, RecoveryReport::default()),
            None => recover(&files, &config, (opening, ending), (&listing, start), now_ms)?,
        };
        report.set_aside.extend(orphans);
        let RecoveredSegments { sealed, active, next_offset } = segments;
        // A recovery point beyond the start tells of a sync, which covered the directory. That an empty log was closed
        // tells nothing: a sync may have failed over its directory before.
        let is_rooted = opening.recovery_point > 0;
        if !is_rooted && next_offset > 0 {
            match ending {
                RecoveryEnd::Synced => files.sync_root(topic_id)?,
                RecoveryEnd::ToBeSynced => {
                    metadata::write_again(&files, topic_id)?;
                    report.is_unsynced = true;
                }
            }
        }
        // A segment whose deletion came before its indexes were saved leaves some behind.
        remove_indexes(&files, listing.indexes.difference(&listing.segments))?;
        let mut has_indexes = listing.indexes.contains(&active.base_offset);
        if has_indexes && !was_closed {
            // They are of an earlier end, and torn if a stop was cut short; nobody looks at them before they are replaced.
            remove_indexes(&files, [&active.base_offset])?;
            has_indexes = false;
        }
        let first = sealed.first().map_or(active.base_offset, |segment| segment.base_offset);
        report.damage.splice(..0, missing);
        let end = LogPosition { offset: next_offset, segment: active.base_offset, position: active.size };
        let mut log = Self {
            files,
            config,
            topic_id,
            sealed: Arc::new(sealed),
            active,
            log_start: opening.log_start.max(first).min(next_offset),
            next_offset,
            epochs: LeaderEpochs::new(first),
            are_epochs_saved: true,
            sync: SyncState::new(end, is_rooted || next_offset > 0),
            snapshots: listing.snapshots,
            spare: Spare::None,
            repairs: Vec::new(),
            doomed: Vec::new(),
            is_as_closed,
            has_indexes,
        };
        log.open_epochs(epochs, (first, opening.recovery_point), !report.set_aside.is_empty())?;
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

    /// Takes the epochs that are stored and those of the batches past the recovery point, or has all batches say them;
    /// begins a new one if records that someone may have seen are gone. `first` is the offset of the first segment.
    fn open_epochs(
        &mut self,
        stored: Stored,
        (first, recovery_point): (i64, i64),
        was_cut: bool,
    ) -> Result<(), StorageError> {
        let whole = match stored {
            Stored::Epochs(epochs) => Some(epochs),
            // There are none while epoch 0 lasts, and then the last batch that was synced is of it.
            Stored::Missing if self.epoch_before(recovery_point)?.unwrap_or(0) == 0 => {
                Some(LeaderEpochs::new(first))
            }
            Stored::Missing | Stored::Damaged => None,
        };
        let is_whole = whole.is_some();
        self.epochs = match whole {
            Some(epochs) => epochs,
            None => LeaderEpochs::of_batches(first, self.batch_epochs(first)?),
        };
        if !is_whole {
            tracing::warn!(
                directory = %self.files.dir.display(),
                epoch = self.epochs.current(),
                "the leader epochs were made anew from the batches, since their checkpoint is missing or damaged"
            );
        }
        let mut has_more = false;
        for EpochStart { epoch, start_offset } in self.batch_epochs(recovery_point)? {
            has_more |= self.epochs.raise(epoch, start_offset);
        }
        // An epoch that begins beyond the end tells of records that are gone without a trace, and one that no batch
        // was written under yet is known to the checkpoint only.
        if was_cut || !is_whole || self.epochs.begins_after(self.next_offset) {
            self.begin_epoch(self.next_offset)
        } else if has_more {
            self.epochs.save(&self.files)
        } else {
            Ok(())
        }
    }

    /// The epochs of the batches from `offset` on, each with the first of them.
    fn batch_epochs(&self, offset: i64) -> Result<Vec<EpochStart>, StorageError> {
        let mut starts = Vec::new();
        if offset < self.next_offset {
            self.replay(offset, |batch| {
                starts.push(EpochStart { epoch: batch.leader_epoch(), start_offset: batch.base_offset() });
                starts.dedup_by_key(|start| start.epoch);
            })?;
        }
        Ok(starts)
    }

    /// The epoch of the last batch before `offset`, if there is one.
    fn epoch_before(&self, offset: i64) -> Result<Option<i32>, StorageError> {
        let (mut epoch, offset) = (None, offset.min(self.next_offset));
        if offset > 0 {
            self.replay(offset - 1, |batch| {
                if batch.base_offset() < offset {
                    epoch = Some(batch.leader_epoch());
                }
            })?;
        }
        Ok(epoch)
    }
}

/// Refuses a directory that is not one of `topic_id`.
pub(super) fn check_owner(disk: &dyn Disk, dir: &Path, topic_id: Uuid) -> Result<(), StorageError> {
    let found = metadata::directory_owner(disk, dir)?;
    let own_index = metadata::index_of(dir);
    let is_partition = |index: Option<i32>| index.is_none() || own_index.is_none() || index == own_index;
    if found.is_some_and(|found| is_owner(found.topic_id, topic_id) && is_partition(found.index)) {
        return Ok(());
    }
    let found = found.map_or_else(
        || "no topic".to_owned(),
        |Owner { topic_id, index }| {
            format!(
                "topic {topic_id}{}",
                index.map_or_else(String::new, |index| format!(", partition {index}"))
            )
        },
    );
    let cause =
        io::Error::new(io::ErrorKind::InvalidData, format!("it belongs to {found}, not to {topic_id}"));
    Err(StorageError::on("open the directory", dir)(cause))
}

/// Whether a directory that carries the id `found` is one of `topic_id`.
pub fn is_owner(found: Uuid, topic_id: Uuid) -> bool {
    #[cfg(test)]
    if crate::safeguard::Safeguard::IdCheck.is_taken_out() {
        return true;
    }
    found == topic_id
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

/// What is missing at the beginning: a deletion would have said so.
fn missing_before(segments: &BTreeSet<i64>, epochs: &Stored, opening: Opening) -> Option<Damage> {
    let kept_from = opening.log_start.max(epochs.start());
    // Offsets that were given out are not given out again, even if the files are gone.
    let first = segments.first().copied().unwrap_or(kept_from.max(opening.recovery_point));
    let is_missing = first > kept_from && *epochs != Stored::Damaged;
    is_missing.then_some(Damage { segment: kept_from, position: 0, bytes: 0, offset: kept_from })
}

fn remove_indexes<'a>(files: &Files, bases: impl IntoIterator<Item = &'a i64>) -> Result<(), StorageError> {
    for base in bases {
        for suffix in [OFFSET_INDEX, TIME_INDEX] {
            files.remove(&files.path(*base, suffix))?;
        }
    }
    Ok(())
}

/// Sets aside the segments of a log that has lost its first one and was never synced: nothing was deleted from it, since
/// that leaves an epoch file behind, and a sync would have kept the first one's name.
fn set_orphans_aside(files: &Files, listing: &mut Listing) -> Result<Vec<SetAside>, StorageError> {
    if listing.segments.first().is_none_or(|first| *first == 0) {
        return Ok(Vec::new());
    }
    std::mem::take(&mut listing.segments).into_iter().map(|base| set_aside::segment(files, base)).collect()
}

/// The segments of a log that was closed, and whether the indexes of the last one are whole; `None` if what is there is not what a closed log leaves behind.
fn open_closed(
    files: &Files,
    config: &LogConfig,
    opening: Opening,
    listing: &Listing,
    now_ms: i64,
) -> Result<Option<(RecoveredSegments, bool)>, StorageError> {
    let bases = &listing.segments;
    let Some(last) = bases.last() else { return Ok(None) };
    let mut sealed = Vec::with_capacity(bases.len());
    for (base, end) in bases.iter().zip(bases.iter().skip(1)) {
        let path = files.path(*base, LOG);
        let size = files.disk.len(&path).map_err(StorageError::on("measure", &path))?;
        sealed.push(Arc::new(SealedSegment::found(*base, *end, size)));
    }
    let opened = open_last(files, config, (*last, listing.indexes.contains(last)), now_ms)?;
    let expected = opened.filter(|(_, next_offset, _)| *next_offset == opening.recovery_point);
    Ok(expected.map(|(active, next_offset, has_indexes)| {
        (RecoveredSegments { sealed, active, next_offset }, has_indexes)
    }))
}

/// The last segment and the offset after it, from its indexes (if it has any) and the headers that they do not cover, and
/// whether the indexes were right; `None` if the batches do not end where the file does.
fn open_last(
    files: &Files,
    config: &LogConfig,
    (base_offset, has_any_index): (i64, bool),
    now_ms: i64,
) -> Result<Option<(ActiveSegment, i64, bool)>, StorageError> {
    let path = files.path(base_offset, LOG);
    let on_read = |source| StorageError::on("read", &path)(source);
    let file = files.open(&path)?;
    let size = file.size().map_err(on_read)?;
    // A missing index is as good as an empty one: everything is looked at then.
    let index_bytes = |suffix| {
        if !has_any_index {
            return Ok(Vec::new());
        }
        let path = files.path(base_offset, suffix);
        let read = files.disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
        Ok::<_, StorageError>(read.unwrap_or_default())
    };
    let (offsets, times) = (index_bytes(OFFSET_INDEX)?, index_bytes(TIME_INDEX)?);
    let interval = config.index_interval_bytes;
    let resumed = IndexBuilder::resume(base_offset, interval, &offsets, &times, size);
    let mut ended = scan_to_end(&*file, size, resumed).map_err(on_read)?;
    let is_whole = offsets.is_empty() && times.is_empty();
    let has_indexes = ended.as_ref().is_some_and(|(index, _)| index.clone().finish() == (offsets, times));
    if ended.is_some() && !has_indexes && !is_whole {
        let whole = (IndexBuilder::new(base_offset, interval), 0);
        ended = scan_to_end(&*file, size, whole).map_err(on_read)?;
    }
    let Some((index, next_offset)) = ended else { return Ok(None) };
    let first_timestamp = first_timestamp(&*file, size).map_err(on_read)?;
    let active =
        ActiveSegment { base_offset, file, size, index, first_timestamp, created_ms: now_ms, was_cut: false };
    Ok(Some((active, next_offset, has_indexes)))
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
    (opening, ending): (Opening, RecoveryEnd),
    (listing, start): (&Listing, i64),
    now_ms: i64,
) -> Result<(RecoveredSegments, RecoveryReport), StorageError> {
    let (recovery_point, bases, snapshots) = (opening.recovery_point, &listing.segments, &listing.snapshots);
    if bases.is_empty() {
        // Offsets that were given out are not given out again, even if the files are gone.
        let next_offset = recovery_point.max(opening.log_start).max(start);
        let active = ActiveSegment::create(files, next_offset, config.index_interval_bytes, now_ms)?;
        if next_offset > 0 {
            files.sync_names()?;
        }
        return Ok((
            RecoveredSegments { sealed: Vec::new(), active, next_offset },
            RecoveryReport::default(),
        ));
    }
    if bases.len() == 1 && bases.contains(&0) && recovery_point == 0 {
        let path = files.path(0, LOG);
        let file = files.open(&path)?;
        if file.size().map_err(StorageError::on("measure", &path))? == 0 {
            let active = ActiveSegment::empty(file, 0, config.index_interval_bytes, now_ms);
            return Ok((
                RecoveredSegments { sealed: Vec::new(), active, next_offset: 0 },
                RecoveryReport::default(),
            ));
        }
    }
    let report = RecoveryReport::default();
    let mut recovery = Recovery { files, config, recovery_point, snapshots, ending, now_ms, report };
    let segments = recovery.run(bases)?;
    Ok((segments, recovery.report))
}
