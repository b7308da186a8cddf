//! The journal: what all partitions appended since the last commit, in one write and one sync.
//!
//! A few files of blocks that were written beforehand, since overwriting and syncing those is the cheapest durable
//! write there is. A frame covers any number of partitions and is valid whole or not at all. The same bytes lie in the
//! segments' files, which are synced later; a journal file is written over once the segments have all that it covers.
//! (The term and the idea are those of Apache BookKeeper's journal.)
//! Invariants: a frame that was answered as written is read again by every later [`Journal::open`] until the segments
//! have its bytes; a frame that failed is made invalid before the journal goes on. The bytes of a partition below its
//! durable offset never change, so that applying a frame twice does no harm.
//! It knows partitions as keys, their logs as places of bytes, and neither of them as things.

mod frame;
mod scan;

use crate::disk::{Disk, File};
use crate::log::StorageError;
use frame::{BLOCK, HEADERS_AT, file_header};
use parking_lot::Mutex;
use scan::{Scanned, damaged, scan};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub use frame::{Frame, PartitionKey, Place};

/// Bytes written at once when a file is made.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Bytes of a file in the making that are synced at a time: a commit beside it waits for no more than these.
const STEP_BYTES: u64 = 1024 * 1024;

/// Longest pause between two such steps.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How many times its size a disk must have free for another file to be made.
const ROOM_FACTOR: u64 = 16;
/// Pieces without room after which a file is asked for again, where it could not be made before.
const MISSES_AFTER_FAILURE_MIN: u32 = 1000;

/// Sizes of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Size of the first file in bytes; each further one is twice as large.
    pub file_bytes: u64,
    /// Files at most.
    pub files_max: usize,
    /// Bytes of one partition beyond which it is better synced by itself than written twice.
    pub piece_bytes_max: u64,
    /// Pieces that find no room before the first file is made: a broker that hardly writes needs none.
    pub misses_before_first: u32,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { file_bytes: 8 << 20, files_max: 3, piece_bytes_max: 512 << 10, misses_before_first: 16 }
    }
}

/// Bytes that a journal held when it was opened.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Where they belong.
    pub place: Place,
    sequence: u64,
    file: Arc<dyn File>,
    path: Arc<Path>,
    at: u64,
    len: usize,
}

impl Piece {
    /// Reads the bytes.
    ///
    /// # Errors
    /// [`StorageError`]; the frame was valid when the journal was opened, so bytes that are missing are an error too.
    pub fn read(&self) -> Result<Vec<u8>, StorageError> {
        let mut bytes = Vec::with_capacity(self.len);
        let read = self.file.read_at(self.at, self.len, &mut bytes);
        match read.map_err(StorageError::on("read", &self.path))? {
            len if len == self.len => Ok(bytes),
            _ => Err(StorageError::on("read", &self.path)(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// By partition, oldest first.
pub type Pieces = HashMap<PartitionKey, Vec<Piece>>;

/// Why a frame was not written.
#[derive(Debug)]
pub enum WriteError {
    /// No file has room now: the segments are to be synced instead.
    NoRoom,
    /// The disk failed. The frame may be on it until [`Journal::heal`] succeeds.
    Failed(StorageError),
}

/// What the journal needs beside the commits.
#[derive(Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Another file, see [`Journal::add_file`].
    File,
    /// That the segments of these partitions are synced, so that a full file can be used again.
    Sync(Vec<PartitionKey>),
}

/// See the module's description.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: JournalConfig,
    /// Held while a file is made: there is one at a time. Taken before `state`.
    making: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: Vec<JournalFile>,
    current: Option<usize>,
    /// Those of the newest file and frame.
    generation: u64,
    sequence: u64,
    /// The frame that is being written covers these partitions up to these offsets.
    writing: HashMap<PartitionKey, i64>,
    /// A frame whose write failed: file and position.
    failed: Option<(usize, u64)>,
    /// Pieces that found no room since a file was asked for.
    misses: u32,
    /// How many of them ask for another file.
    misses_max: u32,
    /// Whether the last frame found no room.
    is_short: bool,
    /// Whether the last file could not be made.
    was_refused: bool,
}

#[derive(Debug)]
struct JournalFile {
    path: Arc<Path>,
    file: Arc<dyn File>,
    size: u64,
    generation: u64,
    /// Which of its two headers is valid; the other one is written next.
    header: usize,
    /// Where the next frame goes.
    end: u64,
    /// What is not in synced segments yet: up to which offset, by partition.
    covers: HashMap<PartitionKey, i64>,
}

impl Journal {
    /// Opens the journal in `dir`, with what its files hold. Nothing is written to it before [`Journal::retire`].
    ///
    /// # Errors
    /// [`StorageError`]: a file that cannot be read may hold what nothing else does.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: JournalConfig,
    ) -> Result<(Self, Pieces), StorageError> {
        let (mut files, mut found) = (Vec::new(), Vec::new());
        for path in file_paths(&*disk, dir)? {
            let (file, scanned) = open_file(&*disk, path)?;
            found.extend(scanned.whole().map_err(StorageError::on("read", &file.path))?.pieces);
            files.push(file);
        }
        found.sort_by_key(|piece| piece.sequence);
        let state = State {
            generation: files.iter().map(|file| file.generation).max().unwrap_or(0),
            sequence: found.last().map_or(0, |piece| piece.sequence),
            files,
            current: None,
            writing: HashMap::new(),
            failed: None,
            misses: 0,
            misses_max: config.misses_before_first,
            is_short: false,
            was_refused: false,
        };
        Ok((
            Self { disk, dir: dir.into(), config, making: Mutex::default(), state: Mutex::new(state) },
            by_partition(found),
        ))
    }

    /// What the files in `dir` hold that can be read, and what cannot.
    ///
    /// # Errors
    /// [`StorageError`] if the directory cannot be listed.
    pub fn survey(disk: &dyn Disk, dir: &Path) -> Result<(Pieces, Vec<StorageError>), StorageError> {
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        for path in file_paths(disk, dir)? {
            match open_file(disk, path) {
                Ok((file, scanned)) => {
                    let damage = scanned.damaged_at.map(damaged);
                    unreadable.extend(damage.map(StorageError::on("read", &file.path)));
                    found.extend(scanned.pieces);
                }
                Err(error) => unreadable.push(error),
            }
        }
        found.sort_by_key(|piece| piece.sequence);
        Ok((by_partition(found), unreadable))
    }

    /// The sizes.
    pub fn config(&self) -> &JournalConfig {
        &self.config
    }

    /// Forgets what the files held, durably: it is all in synced segments. They are written to from here on.
    ///
    /// # Errors
    /// [`StorageError`]; what they held would then be applied again at the next start.
    pub fn retire(&self) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let State { files, generation, .. } = &mut *state;
        // One without a generation was in the making when the process ended: it has no blocks to write to.
        for unmade in files.extract_if(.., |file| file.generation == 0) {
            let removed = self.disk.remove_file_if_there(&unmade.path);
            removed.map_err(StorageError::on("remove", &unmade.path))?;
        }
        for file in files {
            *generation = next_generation(*generation);
            (file.generation, file.end) = (*generation, BLOCK as u64);
            let written = write_header(&*file.file, 1 - file.header, *generation);
            written.map_err(StorageError::on("write to", &file.path))?;
            file.header = 1 - file.header;
        }
        Ok(())
    }

    /// Writes a frame, waiting for the device: its pieces are durable when this returns. One at a time.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, frame: &mut Frame) -> Result<(), WriteError> {
        let (file, path, position, begins, bytes) = {
            let mut state = self.state.lock();
            let size = frame.size() as u64;
            let index = state.room_for(size, frame.ends().len()).ok_or(WriteError::NoRoom)?;
            state.writing = frame.ends().iter().copied().collect();
            state.sequence += 1;
            let sequence = state.sequence;
            let file = state.files.get_mut(index).ok_or(WriteError::NoRoom)?;
            let begins = (file.end == BLOCK as u64).then_some((1 - file.header, file.generation));
            let bytes = frame.seal(file.generation, sequence);
            (file.file.clone(), file.path.clone(), file.end, begins, bytes)
        };
        // The generation is durable before its first frame: frames of an earlier one are then told from damaged ones.
        let begun = begins.map_or(Ok(()), |(which, generation)| write_header(&*file, which, generation));
        let result =
            begun.and_then(|()| file.write_at(position, [bytes, &[]])).and_then(|()| file.sync_data());
        let mut state = self.state.lock();
        let State { files, current, writing, failed, .. } = &mut *state;
        let written = std::mem::take(writing);
        let index = current.unwrap_or_default();
        let Some(file) = files.get_mut(index) else { return Err(WriteError::NoRoom) };
        match result {
            Ok(()) => {
                file.end = position + bytes.len() as u64;
                file.header = begins.map_or(file.header, |(which, _)| which);
                for (key, end) in written {
                    let covered = file.covers.entry(key).or_insert(end);
                    *covered = end.max(*covered);
                }
                Ok(())
            }
            Err(source) => {
                *failed = Some((index, position));
                Err(WriteError::Failed(StorageError::on("write to", &path)(source)))
            }
        }
    }

    /// Makes a frame that failed invalid, durably. Nothing else is written before.
    ///
    /// # Errors
    /// [`StorageError`]; to be tried again.
    pub fn heal(&self) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let State { files, failed, .. } = &mut *state;
        let Some((index, position)) = *failed else { return Ok(()) };
        let Some(file) = files.get_mut(index) else { return Ok(()) };
        let begins = position == BLOCK as u64;
        let which = if begins { 1 - file.header } else { file.header };
        let begun = if begins { write_header(&*file.file, which, file.generation) } else { Ok(()) };
        let written = begun.and_then(|()| file.file.write_at(position, [&[0; BLOCK], &[]]));
        written.and_then(|()| file.file.sync_data()).map_err(StorageError::on("write to", &file.path))?;
        file.header = which;
        *failed = None;
        Ok(())
    }

    /// Takes note that the segments of a partition are synced up to `offset`.
    pub fn release(&self, key: PartitionKey, offset: i64) {
        let mut state = self.state.lock();
        let State { files, writing, .. } = &mut *state;
        for covers in files.iter_mut().map(|file| &mut file.covers).chain([writing]) {
            if covers.get(&key).is_some_and(|end| *end <= offset) {
                covers.remove(&key);
            }
        }
    }

    /// Whether [`Journal::upkeep`] has an answer.
    pub fn needs_upkeep(&self) -> bool {
        let state = self.state.lock();
        self.wants_file(&state) || state.oldest_full().is_some()
    }

    /// What the journal needs now; `None` for nothing.
    pub fn upkeep(&self) -> Option<Upkeep> {
        let state = self.state.lock();
        // A file that is freed may do instead of another one. The oldest may be kept by one that cannot be synced.
        if let Some(oldest) = state.oldest_full() {
            let asked = if state.is_short { state.full().collect() } else { vec![oldest] };
            let keys: BTreeSet<_> = asked.into_iter().flat_map(|file| file.covers.keys().copied()).collect();
            return Some(Upkeep::Sync(keys.into_iter().collect()));
        }
        self.wants_file(&state).then_some(Upkeep::File)
    }

    /// Whether commits found no room, or soon will.
    fn wants_file(&self, state: &State) -> bool {
        state.files.len() < self.config.files_max
            && (state.misses > state.misses_max || state.is_running_out())
    }

    /// Makes the first file at once, unless there is one: where many partitions wait, that is sooner done than a sync of
    /// all of them. Returns whether there is a file now.
    ///
    /// # Errors
    /// As [`Journal::add_file`].
    pub fn add_first_file(&self) -> Result<bool, StorageError> {
        let _one_at_a_time = self.making.lock();
        let state = self.state.lock();
        let may_be_made = state.files.is_empty() && self.config.files_max > 0 && !state.was_refused;
        let is_there = !state.files.is_empty();
        drop(state);
        if may_be_made {
            self.make_next(Duration::ZERO)?;
        }
        Ok(is_there || may_be_made)
    }

    /// Makes another file, writing all its blocks. Takes its time.
    ///
    /// # Errors
    /// [`StorageError`], also where the disk would have little room left; the journal goes on without it, and asks for
    /// one again after twice as many pieces that found no room.
    pub fn add_file(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.making.lock();
        self.make_next(PAUSE_MAX)
    }

    fn make_next(&self, pause_max: Duration) -> Result<(), StorageError> {
        let (path, size): (Arc<Path>, u64) = {
            let mut state = self.state.lock();
            state.misses = 0;
            let number = state.files.iter().filter_map(|file| file_number(file.path.file_name()?.to_str()?));
            let number = number.max().map_or(0, |last| last + 1);
            (self.dir.join(file_name(number)).into(), self.config.file_bytes << state.files.len().min(8))
        };
        let made = self.check_room(size).and_then(|()| self.make_file(&path, size, pause_max));
        if made.is_err() {
            let mut state = self.state.lock();
            state.misses_max = state.misses_max.saturating_mul(2).max(MISSES_AFTER_FAILURE_MIN);
            state.was_refused = true;
            drop(state);
            // What is there of it is taken for no file of the journal at the next start either: it has no header.
            let _ = self.disk.remove_file_if_there(&path);
        }
        let file = made.map_err(StorageError::on("prepare", &path))?;
        let mut state = self.state.lock();
        (state.misses_max, state.was_refused) = (0, false);
        state.generation = next_generation(state.generation);
        let generation = state.generation;
        state.files.push(JournalFile {
            path,
            file,
            size,
            generation,
            header: 1,
            end: BLOCK as u64,
            covers: HashMap::new(),
        });
        Ok(())
    }

    /// The journal only saves time: it takes nothing of the last room for records.
    fn check_room(&self, size: u64) -> io::Result<()> {
        let available = self.disk.available_bytes(&self.dir)?;
        if available < size.saturating_mul(ROOM_FACTOR) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    /// Writes and syncs a file step by step, and leaves the disk to others for as long as each step took, but no longer
    /// than `pause_max`.
    fn make_file(&self, path: &Path, size: u64, pause_max: Duration) -> io::Result<Arc<dyn File>> {
        let file = self.disk.create(path)?;
        let mut position = 0;
        while position < size {
            let (started, end) = (Instant::now(), size.min(position + STEP_BYTES));
            while position < end {
                let len = ZEROS.len().min(usize::try_from(end - position).unwrap_or(ZEROS.len()));
                file.write_at(position, [ZEROS.get(..len).unwrap_or(&ZEROS), &[]])?;
                position += len as u64;
            }
            file.sync_data()?;
            std::thread::sleep(started.elapsed().min(pause_max));
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// What the journal has of a partition, oldest first, read again from its files.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn pieces_of(&self, key: PartitionKey) -> Result<Vec<Piece>, StorageError> {
        let files: Vec<_> =
            self.state.lock().files.iter().map(|file| (file.file.clone(), file.path.clone())).collect();
        let mut found = Vec::new();
        for (file, path) in files {
            let scanned = scan(&file, &path).and_then(Scanned::whole);
            let scanned = scanned.map_err(StorageError::on("read", &path))?;
            found.extend(scanned.pieces.into_iter().filter(|piece| piece.place.key == key));
        }
        found.sort_by_key(|piece| piece.sequence);
        Ok(found)
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().files.iter().map(|file| file.size).sum()
    }
}

impl State {
    /// The files that are not written to and cover what segments lack.
    fn full(&self) -> impl Iterator<Item = &JournalFile> {
        let others = self.files.iter().enumerate().filter(|(index, _)| Some(*index) != self.current);
        others.map(|(_, file)| file).filter(|file| !file.covers.is_empty())
    }

    /// The oldest of them.
    fn oldest_full(&self) -> Option<&JournalFile> {
        self.full().min_by_key(|file| file.generation)
    }

    /// Whether the file that is written to is half full and no other is free: the next is better made beforehand.
    fn is_running_out(&self) -> bool {
        let current = self.current.and_then(|index| self.files.get(index));
        let is_half_full = current.is_some_and(|file| file.end >= file.size / 2);
        let mut others = self.files.iter().enumerate().filter(|(index, _)| Some(*index) != self.current);
        is_half_full && !self.was_refused && others.all(|(_, file)| !file.covers.is_empty())
    }

    /// The file that has room for so many bytes of so many partitions; the next one is begun if the current one has not.
    fn room_for(&mut self, size: u64, partitions: usize) -> Option<usize> {
        if self.failed.is_some() {
            return None;
        }
        if let Some(index) = self.current
            && self.files.get(index).is_some_and(|file| file.end + size <= file.size)
        {
            return Some(index);
        }
        // Full: it may be used again once the segments have what it covers.
        self.current = None;
        let is_free = |file: &JournalFile| file.covers.is_empty() && BLOCK as u64 + size <= file.size;
        let free = self.files.iter().enumerate().filter(|(_, file)| is_free(file));
        let Some(index) = free.min_by_key(|(_, file)| file.generation).map(|(index, _)| index) else {
            self.misses = self.misses.saturating_add(u32::try_from(partitions).unwrap_or(u32::MAX));
            self.is_short = true;
            return None;
        };
        self.is_short = false;
        self.current = Some(index);
        self.generation = next_generation(self.generation);
        let file = self.files.get_mut(index)?;
        (file.generation, file.end) = (self.generation, BLOCK as u64);
        Some(index)
    }
}

fn file_name(number: u32) -> String {
    format!("journal-{number}.kappa")
}

fn file_number(name: &str) -> Option<u32> {
    name.strip_prefix("journal-")?.strip_suffix(".kappa")?.parse().ok()
}

fn write_header(file: &dyn File, which: usize, generation: u64) -> io::Result<()> {
    let at = HEADERS_AT.get(which).copied().unwrap_or_default();
    file.write_at(at as u64, [&file_header(generation), &[]])?;
    file.sync_data()
}

/// A later generation, which nobody can guess: records of a client's are else taken for frames where a file is used again.
fn next_generation(generation: u64) -> u64 {
    let step = 1 + (Uuid::new_v4().as_u128() & u128::from(u32::MAX)) as u64;
    generation.saturating_add(step)
}

/// The files of a journal, in order of their names.
fn file_paths(disk: &dyn Disk, dir: &Path) -> Result<Vec<Arc<Path>>, StorageError> {
    let names = disk.list(dir).map_err(StorageError::on("list", dir))?;
    let names = names.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name);
    let names: BTreeSet<_> = names.filter(|name| file_number(name).is_some()).collect();
    Ok(names.into_iter().map(|name| dir.join(name).into()).collect())
}

/// A file and what it holds. It is full until it is written to anew.
fn open_file(disk: &dyn Disk, path: Arc<Path>) -> Result<(JournalFile, Scanned), StorageError> {
    let file = disk.open(&path).map_err(StorageError::on("open", &path))?;
    let scanned = scan(&file, &path).map_err(StorageError::on("read", &path))?;
    let size = file.size().map_err(StorageError::on("measure", &path))?;
    let Scanned { generation, header, .. } = scanned;
    Ok((JournalFile { path, file, size, generation, header, end: size, covers: HashMap::new() }, scanned))
}

fn by_partition(found: Vec<Piece>) -> Pieces {
    let mut pieces = Pieces::new();
    for piece in found {
        pieces.entry(piece.place.key).or_default().push(piece);
    }
    pieces
}

#[cfg(test)]
impl Journal {
    /// Whether somebody holds the lock that writing needs.
    pub(crate) fn is_held(&self) -> bool {
        self.state.is_locked()
    }
}

#[cfg(test)]
mod tests;
