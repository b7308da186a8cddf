//! Copying a partition's directory as far as it can be read, and leaving out of a copy what is no batch.
//!
//! For repairs: nothing here runs in a broker, and nothing is changed but the copy. Invariant: of the batches that can be
//! read none is left out, and whatever is left out is told by its offsets.

use super::files::{Files, LOG, SNAPSHOT};
use super::leader_epoch::{LeaderEpochs, Stored};
use super::restore::RestoredPiece;
use super::restored::Restored;
use super::scan::{Check, Scan, Step};
use super::{StorageError, metadata, spare};
use crate::disk::{Disk, File};
use kappa_protocol::record::Batch;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes copied at once; what cannot be read is left out by so many.
const COPY_BYTES: usize = 64 * 1024;

/// What a partition's directory holds that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Offset of the first batch, or of the first segment if there is none.
    pub start: i64,
    /// Offset before which everything was deleted, as the leader epochs say.
    pub deleted_before: i64,
    /// Offset after the last batch.
    pub end: i64,
    /// Number of batches.
    pub batches: u64,
    /// What could not be read, by offset.
    pub lost: Vec<Lost>,
}

/// Bytes of a segment that are no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Base offset of the segment.
    pub segment: i64,
    /// Where in its file they begin.
    pub position: u64,
    /// How many they are.
    pub bytes: u64,
    /// First offset that they may have held.
    pub from: i64,
    /// Offset of what follows; `None` if nothing does.
    pub to: Option<i64>,
}

/// Reads a partition's directory as it would be with `pieces` put back; `visit` is given every batch, whole. A directory
/// that is not there is empty. `synced` is the end of a batch, as a checkpoint says; 0 if there is none.
///
/// # Errors
/// [`StorageError`] where the disk does not let it be read.
pub fn survey(
    disk: Arc<dyn Disk>,
    dir: &Path,
    pieces: &[RestoredPiece],
    synced: i64,
    mut visit: impl FnMut(&Batch<'_>),
) -> Result<Salvaged, StorageError> {
    let files = Files::new(disk, dir.into());
    each_segment(&files, pieces, synced, &mut visit, |_, _, _| Ok(()))
}

/// The base offset of the first segment; `None` if there is no segment, or no directory.
///
/// # Errors
/// [`StorageError`] if the directory cannot be listed.
pub fn first_segment(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<i64>, StorageError> {
    match disk.list_if_there(dir).map_err(StorageError::on("list", dir))? {
        Some(_) => Ok(Files::new(disk.clone(), dir.into()).list()?.segments.first().copied()),
        None => Ok(None),
    }
}

/// Leaves out of a copy whatever is no batch, durably once its file system is synced.
///
/// # Errors
/// [`StorageError`].
pub fn drop_damage(disk: Arc<dyn Disk>, dir: &Path, synced: i64) -> Result<Salvaged, StorageError> {
    let files = Files::new(disk, dir.into());
    each_segment(&files, &[], synced, &mut |_| (), |path, good, size| {
        if good.iter().map(|range| range.end - range.start).sum::<u64>() == size {
            return Ok(());
        }
        let temporary = path.with_extension("log.repaired");
        let (source, target) = (files.open(path)?, create(&files, &temporary)?);
        let mut at = 0;
        for range in good {
            let mut position = range.start;
            while position < range.end {
                let len = COPY_BYTES.min(usize::try_from(range.end - position).unwrap_or(usize::MAX));
                let mut bytes = Vec::with_capacity(len);
                let read = source.read_at(position, len, &mut bytes);
                read.map_err(StorageError::on("read", path))?;
                target.write_at(at, [&bytes, &[]]).map_err(StorageError::on("write to", &temporary))?;
                at += bytes.len() as u64;
                position += bytes.len().max(1) as u64;
            }
        }
        files.rename(&temporary, path)
    })
}

/// Makes the directory of a partition without any segment: where its log begins, the checkpoints say.
///
/// # Errors
/// [`StorageError`].
pub fn make_directory(disk: &Arc<dyn Disk>, dir: &Path, topic_id: Uuid) -> Result<(), StorageError> {
    disk.create_dir(dir).map_err(StorageError::on("create the directory", dir))?;
    metadata::write(&Files::new(disk.clone(), dir.into()), topic_id)
}

/// Copies what counts of a partition's directory to one that is made: segments, snapshots and epochs, and whose it is.
/// Indexes are made again by whoever opens it. Returns how many blocks could not be read: they are zeros.
///
/// # Errors
/// [`StorageError`] if the copy cannot be written, or the directory not be listed.
pub fn copy(disk: &Arc<dyn Disk>, from: &Path, to: &Path, topic_id: Uuid) -> Result<u64, StorageError> {
    make_directory(disk, to, topic_id)?;
    let (source, target) = (Files::new(disk.clone(), from.into()), Files::new(disk.clone(), to.into()));
    let mut unreadable = 0;
    for entry in disk.list(from).map_err(StorageError::on("list", from))? {
        let stem =
            [LOG, SNAPSHOT].iter().find_map(|suffix| entry.name.strip_suffix(suffix)?.strip_suffix('.'));
        let is_numbered =
            stem.is_some_and(|stem| stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit()));
        if is_numbered || entry.name == spare::FILE_NAME {
            unreadable += copy_file(disk, &from.join(&entry.name), &to.join(&entry.name))?;
        }
    }
    // Epochs that are missing or damaged are made again from the batches.
    if let Ok(Stored::Epochs(epochs)) = LeaderEpochs::load(&source) {
        epochs.save(&target)?;
    }
    Ok(unreadable)
}

fn copy_file(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<u64, StorageError> {
    let target = disk.create(to).map_err(StorageError::on("create", to))?;
    let Ok(source) = disk.open(from) else { return Ok(1) };
    let Ok(size) = source.size() else { return Ok(1) };
    let (mut position, mut unreadable) = (0, 0);
    while position < size {
        let len = COPY_BYTES.min(usize::try_from(size - position).unwrap_or(usize::MAX));
        let mut bytes = Vec::with_capacity(len);
        match source.read_at(position, len, &mut bytes) {
            Ok(_) => target.write_at(position, [&bytes, &[]]).map_err(StorageError::on("write to", to))?,
            Err(_) => unreadable += 1,
        }
        position += len as u64;
    }
    target.set_len(size).map_err(StorageError::on("write to", to))?;
    Ok(unreadable)
}

fn create(files: &Files, path: &Path) -> Result<Arc<dyn crate::disk::File>, StorageError> {
    files.disk.create(path).map_err(StorageError::on("create", path))
}

/// Scans the segments in order. `then` is given the path of each, the ranges of its file that hold batches, and its size.
fn each_segment(
    files: &Files,
    pieces: &[RestoredPiece],
    synced: i64,
    visit: &mut impl FnMut(&Batch<'_>),
    mut then: impl FnMut(&Path, &Vec<Range<u64>>, u64) -> Result<(), StorageError>,
) -> Result<Salvaged, StorageError> {
    let mut segments: BTreeMap<i64, (PathBuf, Option<Arc<dyn File>>)> = BTreeMap::new();
    if files.disk.list_if_there(&files.dir).map_err(StorageError::on("list", &files.dir))?.is_some() {
        let named = files.list()?.segments;
        let unnamed = spare::unnamed(files, named.last().copied())?.map(|base| (base, spare::path(files)));
        for (base, path) in named.into_iter().map(|base| (base, files.path(base, LOG))).chain(unnamed) {
            let file = files.open(&path)?;
            segments.insert(base, (path, Some(file)));
        }
    }
    for piece in pieces {
        segments.entry(piece.segment).or_insert_with(|| (files.path(piece.segment, LOG), None));
    }
    let segments: Vec<_> = segments.into_iter().collect();
    let start = segments.first().map_or(0, |(base, _)| *base);
    let deleted_before = LeaderEpochs::load(files)?.start();
    let mut salvaged = Salvaged { start, deleted_before, end: start, ..Salvaged::default() };
    for (number, (base, (path, file))) in segments.iter().enumerate() {
        let on_read = |source| StorageError::on("read", path)(source);
        let next_base = segments.get(number + 1).map(|(base, _)| *base);
        let pieces = pieces.iter().filter(|piece| piece.segment == *base).collect();
        let file = Restored { file: file.clone(), pieces };
        let size = file.size().map_err(on_read)?;
        let mut scan = Scan::new(&file, Check::Checksums, 0, size);
        let mut good: Vec<Range<u64>> = Vec::new();
        salvaged.end = salvaged.end.max(*base);
        loop {
            let misplaced = scan.skip_misplaced(salvaged.end, synced).map_err(on_read)?;
            let (invalid_at, found) = if let Some(bytes) = misplaced {
                (bytes.start, Some(bytes.end).filter(|end| *end < size))
            } else {
                let invalid_at = match scan.next().map_err(on_read)? {
                    Step::End => break,
                    Step::Batch { position, batch } if batch.base_offset() >= salvaged.end => {
                        visit(&batch);
                        if salvaged.batches == 0 {
                            salvaged.start = batch.base_offset();
                        }
                        salvaged.batches += 1;
                        salvaged.end = batch.next_offset();
                        let end = position + batch.size() as u64;
                        match good.last_mut().filter(|last| last.end == position) {
                            Some(last) => last.end = end,
                            None => good.push(position..end),
                        }
                        continue;
                    }
                    Step::Batch { position, .. } | Step::Invalid { position } => position,
                };
                scan.back_to(invalid_at);
                let last = next_base.map_or(i64::MAX, |base| base - 1);
                (invalid_at, scan.skip_damage(salvaged.end..=last.max(salvaged.end)).map_err(on_read)?)
            };
            let to = match found {
                Some(_) => peek(&mut scan).map_err(on_read)?,
                None => next_base,
            };
            let bytes = found.unwrap_or(size) - invalid_at;
            let lost = Lost { segment: *base, position: invalid_at, bytes, from: salvaged.end, to };
            salvaged.lost.push(lost);
        }
        then(path, &good, size)?;
    }
    Ok(salvaged)
}

/// The offset of the batch that a scan stands before.
fn peek(scan: &mut Scan<'_>) -> std::io::Result<Option<i64>> {
    let (position, offset) = match scan.next()? {
        Step::Batch { position, batch } => (position, batch.base_offset()),
        Step::Invalid { .. } | Step::End => return Ok(None),
    };
    scan.back_to(position);
    Ok(Some(offset))
}
