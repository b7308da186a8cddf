//! Partition directories and segment files as they lie on disk, read one batch at a time.
//!
//! Reads Kafka's file formats and nothing else: no locks, no checkpoints, no writes. The files may be damaged in any
//! way and may grow while they are read; a length found in them is trusted only as far as the file reaches. Memory is
//! bounded by the largest batch.

use crate::error::{Exit, Failure};
use kappa_protocol::record::{BATCH_HEADER_LEN, Batch, BatchError};
use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const OFFSET_ENTRY_LEN: usize = 8;
const TIME_ENTRY_LEN: usize = 12;
/// Bytes looked through at once for a batch behind damage.
const WINDOW_BYTES: usize = 1024 * 1024;
/// The file of a segment until a sync names it after its first offset.
const UNNAMED: &str = "next-segment";

/// The directory of one partition.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartitionDir {
    /// Name of the topic.
    pub(super) topic: String,
    /// Number of the partition.
    pub(super) partition: i32,
    /// Where it is.
    pub(super) path: PathBuf,
}

/// All partitions below `dir`, which is a data directory or the directory of one partition.
pub(super) fn partitions(dir: &Path) -> Result<Vec<PartitionDir>, Failure> {
    if let Some(partition) = partition_dir(dir) {
        return Ok(vec![partition]);
    }
    let entries = fs::read_dir(dir).map_err(|error| Failure::file("read the directory", dir, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::file("read the directory", dir, &error))?.path();
        found.extend(partition_dir(&path));
    }
    if found.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("'{}' holds no partitions", dir.display()))
            .cure("give the broker's --data-dir, or the directory of one partition in it"));
    }
    found.sort();
    Ok(found)
}

/// Whether this is the directory of one partition.
pub(super) fn is_partition(dir: &Path) -> bool {
    partition_dir(dir).is_some()
}

/// `path` as the directory `TOPIC-N` of a partition, if it is one.
fn partition_dir(path: &Path) -> Option<PartitionDir> {
    let canonical = path.canonicalize().ok()?;
    let (topic, partition) = topic_and_number(canonical.file_name()?.to_str()?)?;
    let has_segments = !segments(path).ok()?.found.is_empty();
    (path.is_dir() && has_segments).then(|| PartitionDir { topic, partition, path: path.to_owned() })
}

fn topic_and_number(name: &str) -> Option<(String, i32)> {
    let (topic, number) = name.rsplit_once('-')?;
    let number = number.parse().ok().filter(|number: &i32| *number >= 0 && !topic.is_empty())?;
    Some((topic.to_owned(), number))
}

/// What [`partitions`] finds, or what else has batches: a directory with segments whatever its name, those that were set
/// aside in `path`, or one file.
pub(super) fn anything(path: &Path) -> Result<Vec<PartitionDir>, Failure> {
    let metadata = fs::metadata(path).map_err(|error| Failure::file("read", path, &error))?;
    if !metadata.is_dir() {
        let holder = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        return Ok(vec![renamed(path, holder.as_deref().unwrap_or(path))]);
    }
    let has_segments = |path: &Path| segments(path).is_ok_and(|segments| !segments.found.is_empty());
    if has_segments(path) {
        return Ok(vec![renamed(path, path)]);
    }
    let nothing = match partitions(path) {
        Err(nothing) if nothing.exit() == Exit::NotFound => nothing,
        found => return found,
    };
    let entries = fs::read_dir(path).map_err(|error| Failure::file("read the directory", path, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::file("read the directory", path, &error))?.path();
        if path.is_dir() && has_segments(&path) {
            found.push(renamed(&path, &path));
        }
    }
    found.sort();
    if found.is_empty() { Err(nothing) } else { Ok(found) }
}

/// `path` as part of the partition that `directory` is named after: `TOPIC-N`, perhaps with what `set-aside` or a deletion
/// appends. With another name that is the topic, and the number is -1.
fn renamed(path: &Path, directory: &Path) -> PartitionDir {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let shorter = name.rsplit_once('.').and_then(|(shorter, _)| topic_and_number(shorter));
    let (topic, partition) = topic_and_number(&name).or(shorter).unwrap_or((name, -1));
    PartitionDir { topic, partition, path: path.to_owned() }
}

/// A segment in a partition's directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Offset of its first record.
    pub(super) base_offset: i64,
    /// Its batches.
    pub(super) path: PathBuf,
}

/// What a partition's directory holds.
#[derive(Debug)]
pub(super) struct Segments {
    /// By base offset, ascending.
    pub(super) found: Vec<Segment>,
    /// What is wrong with the file that has no name yet, in words, if it is no segment of these.
    pub(super) strange: Option<String>,
}

/// The segments in a partition's directory. After a crash the last one may still lack its name.
pub(super) fn segments(dir: &Path) -> io::Result<Segments> {
    let mut found: Vec<_> = base_offsets(dir)?
        .into_iter()
        .map(|base_offset| Segment { base_offset, path: file(dir, base_offset, "log") })
        .collect();
    let path = dir.join(UNNAMED);
    let strange = match first_offset(&path) {
        Ok(None) => None,
        Ok(Some(first)) => match found.last().map(|last| last.base_offset).filter(|last| *last >= first) {
            Some(last) => Some(format!("{UNNAMED}: offset {first} does not follow segment {last}")),
            None => {
                found.push(Segment { base_offset: first, path });
                None
            }
        },
        Err(ReadError::Batch(error)) => Some(format!("{UNNAMED}, position 0: {error}")),
        Err(ReadError::Io(error)) => return Err(error),
    };
    Ok(Segments { found, strange })
}

/// One file as a segment. Its name begins with its base offset, or says nothing of it.
pub(super) fn single(path: &Path) -> Segment {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split_once('.').map(|(number, _)| number).filter(|number| number.len() == 20);
    let named = number.and_then(|number| number.parse::<i64>().ok());
    let base_offset = named.or_else(|| first_offset(path).ok().flatten()).unwrap_or(0);
    Segment { base_offset, path: path.to_owned() }
}

/// Whether the file is what recovery cut off a segment.
pub(super) fn is_cut_off(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "corrupt")
}

/// Offset of the first batch of a file; `None` if there is no file, or nothing in it.
fn first_offset(path: &Path) -> Result<Option<i64>, ReadError> {
    let mut reader = match BatchReader::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        reader => reader?,
    };
    match reader.next()? {
        Some(Found { damage: Some(damage), .. }) => Err(damage.into()),
        found => Ok(found.map(|found| found.batch.base_offset())),
    }
}

fn base_offsets(dir: &Path) -> io::Result<Vec<i64>> {
    let mut offsets = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| stem.len() == 20);
            offsets.extend(stem.and_then(|stem| stem.parse::<i64>().ok()));
        }
    }
    offsets.sort_unstable();
    Ok(offsets)
}

/// The file of a segment with one of the suffixes `log`, `index`, `timeindex`.
pub(super) fn file(dir: &Path, base_offset: i64, suffix: &str) -> PathBuf {
    dir.join(format!("{base_offset:020}.{suffix}"))
}

/// Reads the batches of one `.log` file in order.
#[derive(Debug)]
pub(super) struct BatchReader {
    file: BufReader<File>,
    len: u64,
    position: u64,
    batch: Vec<u8>,
}

/// A batch in a segment.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Position of its first byte.
    pub(super) position: u64,
    /// The batch; only its header can be relied on if it is damaged.
    pub(super) batch: Batch<'a>,
    /// What is wrong with it, if anything.
    pub(super) damage: Option<BatchError>,
}

/// Why no further batch can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no batch, so there is no way to tell where another one begins.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl BatchReader {
    /// At the first batch.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: BufReader::with_capacity(256 * 1024, file), len, position: 0, batch: Vec::new() })
    }

    /// The next batch; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Found<'_>>, ReadError> {
        let left = usize::try_from(self.len - self.position).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        self.batch.resize(left.min(BATCH_HEADER_LEN), 0);
        self.file.read_exact(&mut self.batch)?;
        let size = Batch::header(&self.batch)?.size();
        if size > left {
            return Err(BatchError::Incomplete { needed: size, available: left }.into());
        }
        self.batch.resize(size, 0);
        self.file.read_exact(self.batch.get_mut(BATCH_HEADER_LEN..).unwrap_or_default())?;
        let position = self.position;
        self.position += size as u64;
        let damage = Batch::stored(&self.batch).err();
        Ok(Some(Found { position, batch: Batch::header(&self.batch)?, damage }))
    }

    /// Goes on at the first whole and sound batch behind `position` whose offsets a segment from `base_offset` on can have.
    /// `None` if there is none: then this is the end.
    pub(super) fn skip_damage(&mut self, position: u64, base_offset: i64) -> io::Result<Option<u64>> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut at = position + 1;
        let offsets = base_offset..=base_offset.saturating_add(i64::from(i32::MAX));
        while at + BATCH_HEADER_LEN as u64 <= self.len {
            let len = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(WINDOW_BYTES);
            let bytes = window.get_mut(..len).unwrap_or_default();
            self.file.seek(SeekFrom::Start(at))?;
            self.file.read_exact(bytes)?;
            for (candidate, header) in (at..).zip(bytes.windows(BATCH_HEADER_LEN)) {
                let Ok(batch) = Batch::header(header) else { continue };
                let size = batch.size();
                if !offsets.contains(&batch.base_offset()) || size as u64 > self.len - candidate {
                    continue;
                }
                self.batch.resize(size, 0);
                self.file.seek(SeekFrom::Start(candidate))?;
                self.file.read_exact(&mut self.batch)?;
                if Batch::stored(&self.batch).is_ok() {
                    self.file.seek(SeekFrom::Start(candidate))?;
                    self.position = candidate;
                    return Ok(Some(candidate));
                }
            }
            // The next window begins with the headers that this one cut.
            at += (len - (BATCH_HEADER_LEN - 1)) as u64;
        }
        self.position = self.len;
        Ok(None)
    }

    /// Bytes of the file when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }
}

/// An entry of an offset index: the last offset of a batch and where the batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    /// Offset in the partition.
    pub(super) offset: i64,
    /// Byte position in the segment.
    pub(super) position: u64,
}

/// An entry of a time index: the largest timestamp so far and the last offset of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeEntry {
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// Offset in the partition.
    pub(super) offset: i64,
}

/// The entries of an offset index; the zeros of a preallocated file end it. A missing file has none.
pub(super) fn offset_index(path: &Path, base_offset: i64) -> io::Result<Vec<OffsetEntry>> {
    let entry = |bytes: &[u8; OFFSET_ENTRY_LEN]| {
        let (relative, position) = (number(bytes.get(..4)), number(bytes.get(4..)));
        OffsetEntry { offset: base_offset + relative as i64, position }
    };
    index(path, entry)
}

/// The entries of a time index, likewise.
pub(super) fn time_index(path: &Path, base_offset: i64) -> io::Result<Vec<TimeEntry>> {
    let entry = |bytes: &[u8; TIME_ENTRY_LEN]| {
        let (timestamp, relative) = (number(bytes.get(..8)), number(bytes.get(8..)));
        TimeEntry { timestamp: timestamp as i64, offset: base_offset + relative as i64 }
    };
    index(path, entry)
}

fn index<const N: usize, E>(path: &Path, entry: impl Fn(&[u8; N]) -> E) -> io::Result<Vec<E>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let (entries, _) = bytes.as_chunks::<N>();
    let unused = entries.iter().rev().take_while(|bytes| bytes.iter().all(|byte| *byte == 0)).count();
    Ok(entries.iter().take(entries.len() - unused).map(entry).collect())
}

/// An unsigned big-endian number of up to eight bytes.
fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.unwrap_or_default().iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_with_segments_are_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a-b-1", "a-b-x", "-1", "plain"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("00000000000000000000.log"), b"").unwrap();
        }
        fs::create_dir(at("empty-0")).unwrap();
        let found = partitions(dir.path()).unwrap();
        assert_eq!(found, [PartitionDir { topic: "a-b".into(), partition: 1, path: at("a-b-1") }]);
        assert_eq!(partitions(&at("a-b-1")).unwrap().len(), 1);
        assert!(partitions(&at("plain")).is_err());
    }

    #[test]
    fn partitions_are_told_by_whatever_name_they_were_given() {
        let dir = tempfile::tempdir().unwrap();
        for (name, topic, partition) in [
            ("a-b-1", "a-b", 1),
            ("a.b-1.1690000000000", "a.b", 1),
            ("c0ffee-2.delete", "c0ffee", 2),
            ("plain", "plain", -1),
        ] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            let file = path.join("00000000000000000007.log.61.corrupt");
            fs::write(path.join("00000000000000000007.log"), b"").unwrap();
            fs::write(&file, b"").unwrap();
            for path in [path, file] {
                let found = PartitionDir { topic: topic.into(), partition, path: path.clone() };
                assert_eq!(anything(&path).unwrap(), [found]);
            }
        }
        assert_eq!(single(&dir.path().join("00000000000000000007.log.61.corrupt")).base_offset, 7);
        fs::remove_dir_all(dir.path().join("a-b-1")).unwrap();
        assert_eq!(anything(dir.path()).unwrap().len(), 3);
        assert!(anything(&dir.path().join("none")).is_err());
    }

    #[test]
    fn zeros_at_the_end_of_an_index_are_no_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000100.index");
        let bytes = [[0, 0, 0, 5, 0, 0, 1, 0], [0; 8], [0; 8]].concat();
        fs::write(&path, bytes).unwrap();
        assert_eq!(offset_index(&path, 100).unwrap(), [OffsetEntry { offset: 105, position: 256 }]);
        assert_eq!(offset_index(&dir.path().join("none"), 0).unwrap(), []);
    }
}
