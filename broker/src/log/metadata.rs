//! `partition.metadata`: which topic a directory belongs to, in Kafka's format, and which partition it is.
//!
//! ```text
//! version: 0
//! topic_id: 5r0HbWvPQvGeYpHbY4PEdA
//! partition: 3
//! ```
//! The id is the 16 bytes of a UUID in URL-safe base64 without padding. The last line is ours; one that is missing or cut
//! short says nothing.

use super::StorageError;
use super::files::Files;
use crate::disk::{Disk, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

const FILE_NAME: &str = "partition.metadata";
const PARTITION: &str = "partition: ";
const PREFIX: &str = "version: 0\ntopic_id: ";
/// Length of an id.
const ID_BYTES: usize = 22;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes the file. The first sync of the log makes it durable.
pub(super) fn write(files: &Files, topic_id: Uuid) -> Result<(), StorageError> {
    files.write(&path(&files.dir), text(&files.dir, topic_id).as_bytes())
}

/// Writes the file over with the same bytes, which a sync that failed before may have lost.
pub(super) fn write_again(files: &Files, topic_id: Uuid) -> Result<Arc<dyn File>, StorageError> {
    let path = path(&files.dir);
    let file = files.open(&path)?;
    file.write_at(0, [text(&files.dir, topic_id).as_bytes(), &[]])
        .map_err(StorageError::on("write to", &path))?;
    Ok(file)
}

/// Makes the file durable.
pub(super) fn sync(files: &Files, topic_id: Uuid) -> Result<(), StorageError> {
    let file = write_again(files, topic_id)?;
    file.sync_data().map_err(|source| StorageError::on("sync", &path(&files.dir))(source))
}

fn text(dir: &Path, topic_id: Uuid) -> String {
    let partition = index_of(dir).map_or_else(String::new, |index| format!("{PARTITION}{index}\n"));
    format!("{PREFIX}{}\n{partition}", encode(topic_id))
}

/// The number of a partition that its directory's name ends in.
pub fn index_of(dir: &Path) -> Option<i32> {
    dir.file_name()?.to_str()?.rsplit_once('-')?.1.parse().ok()
}

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition, if that is said.
    pub index: Option<i32>,
}

/// The id of the topic that a directory belongs to, as [`directory_owner`] says.
///
/// # Errors
/// As [`directory_owner`].
pub fn directory_topic_id(disk: &dyn Disk, dir: &Path) -> Result<Option<Uuid>, StorageError> {
    Ok(directory_owner(disk, dir)?.map(|owner| owner.topic_id))
}

/// The partition that a directory belongs to; `None` if the file is missing, cut short or all zeros, as a full disk
/// or a power cut before the first sync of the log leaves it. Nothing of such a log was ever durable.
///
/// # Errors
/// [`StorageError`] if the file cannot be read, or is damaged.
pub fn directory_owner(disk: &dyn Disk, dir: &Path) -> Result<Option<Owner>, StorageError> {
    let path = path(dir);
    let read = disk.read_if_there(&path).map_err(StorageError::on("read", &path))?;
    let Some(bytes) = read else { return Ok(None) };
    match parse(&bytes) {
        Some(owner) => Ok(Some(owner)),
        None if is_torn(&bytes) => Ok(None),
        None => Err(StorageError::damaged(&path, "it names no topic id")),
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Whether the file may have become what it is by a write that did not come to its end.
fn is_torn(bytes: &[u8]) -> bool {
    let written = bytes.len().min(PREFIX.len());
    let is_cut = bytes.len() < PREFIX.len() + ID_BYTES + 1
        && bytes.get(..written) == PREFIX.as_bytes().get(..written)
        && bytes.get(written..).is_some_and(|id| id.iter().all(|byte| ALPHABET.contains(byte)));
    is_cut || bytes.iter().all(|byte| *byte == 0)
}

fn parse(bytes: &[u8]) -> Option<Owner> {
    let (id, partition) = bytes.strip_prefix(PREFIX.as_bytes())?.split_at_checked(ID_BYTES + 1)?;
    let topic_id = decode(std::str::from_utf8(id).ok()?.strip_suffix('\n')?)?;
    let (said, number) = partition.split_at(partition.len().min(PARTITION.len()));
    let is_written = said == PARTITION.as_bytes();
    let number = if is_written { number } else { &[] };
    let index = match number.split_last() {
        Some((b'\n', digits)) => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
        // The power went while the line was added.
        _ if number.iter().all(u8::is_ascii_digit) => None,
        _ => return None,
    };
    let is_cut = PARTITION.as_bytes().starts_with(said) || partition.iter().all(|byte| *byte == 0);
    (is_written || is_cut).then_some(Owner { topic_id, index })
}

fn encode(id: Uuid) -> String {
    // 128 bits are 22 characters of 6 bits, the last 4 of them zero.
    let bits = id.as_u128();
    let sextet = |number: u32| if number < 21 { bits >> (122 - 6 * number) } else { bits << 4 };
    (0..22)
        .filter_map(|number| ALPHABET.get((sextet(number) & 63) as usize))
        .map(|byte| char::from(*byte))
        .collect()
}

fn decode(text: &str) -> Option<Uuid> {
    let mut bits = 0_u128;
    for (number, byte) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        bits = if number < 21 { (bits << 6) | value } else { (bits << 2) | (value >> 4) };
    }
    (text.len() == ID_BYTES).then(|| Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use std::sync::Arc;

    #[test]
    fn a_directory_has_an_owner_or_none_or_cannot_be_told() {
        let files = Files::new(Arc::new(SimulatedDisk::new(1)), "/t-23".into());
        let id = || directory_owner(&*files.disk, &files.dir);
        files.disk.create_dir(&files.dir).unwrap();
        assert_eq!(id().unwrap(), None);
        let topic_id = Uuid::from_u128(7);
        write(&files, topic_id).unwrap();
        assert_eq!(id().unwrap(), Some(Owner { topic_id, index: Some(23) }));
        let bytes = files.disk.read(&path(&files.dir)).unwrap();
        let id_ends = PREFIX.len() + ID_BYTES + 1;
        for torn in (0..id_ends).map(|len| &bytes[..len]).chain([&[0; 44][..]]) {
            files.write(&path(&files.dir), torn).unwrap();
            assert_eq!(id().unwrap(), None, "{torn:?}");
        }
        // A line that was added to a file without it.
        for torn in (id_ends..bytes.len()).map(|len| bytes[..len].to_vec()) {
            let zeros = [&bytes[..id_ends], &vec![0; torn.len() - id_ends]].concat();
            for torn in [torn, zeros] {
                files.write(&path(&files.dir), &torn).unwrap();
                assert_eq!(id().unwrap(), Some(Owner { topic_id, index: None }), "{torn:?}");
            }
        }
        let is_number = |at: &usize| (21..43).contains(at) || (bytes.len() - 3..bytes.len() - 1).contains(at);
        for at in (0..bytes.len()).filter(|at| !is_number(at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            files.write(&path(&files.dir), &flipped).unwrap();
            assert!(id().unwrap_err().to_string().contains("partition.metadata"), "byte {at}");
        }
    }

    #[test]
    fn topic_ids_are_written_as_kafka_writes_them() {
        let id = Uuid::from_bytes([
            0xe6, 0xbd, 0x07, 0x6d, 0x6b, 0xcf, 0x42, 0xf1, 0x9e, 0x62, 0x91, 0xdb, 0x63, 0x83, 0xc4, 0x74,
        ]);
        assert_eq!(encode(id), "5r0HbWvPQvGeYpHbY4PEdA");
        assert_eq!(decode("5r0HbWvPQvGeYpHbY4PEdA"), Some(id));
        assert_eq!(encode(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(decode("AAAAAAAAAAAAAAAAAAAAAQ"), Some(Uuid::from_u128(1)));
        assert_eq!(decode("short"), None);
        assert_eq!(decode("5r0HbWvPQvGeYpHbY4PE!A"), None);
    }
}
