//! `partition.metadata`: which topic a directory belongs to, in Kafka's format.
//!
//! ```text
//! version: 0
//! topic_id: 5r0HbWvPQvGeYpHbY4PEdA
//! ```
//! The id is the 16 bytes of a UUID in URL-safe base64 without padding.

use super::StorageError;
use super::files::Files;
use crate::disk::Disk;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

const FILE_NAME: &str = "partition.metadata";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes the file, durably.
pub(super) fn save(files: &Files, topic_id: Uuid) -> Result<(), StorageError> {
    let text = format!("version: 0\ntopic_id: {}\n", encode(topic_id));
    files.replace(&files.dir.join(FILE_NAME), text.as_bytes())
}

/// The id of the topic that a directory belongs to, if it says so.
pub fn directory_topic_id(disk: &Arc<dyn Disk>, dir: &Path) -> Option<Uuid> {
    let bytes = disk.read(&dir.join(FILE_NAME)).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    decode(text.strip_prefix("version: 0\ntopic_id: ")?.trim_end())
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
    (text.len() == 22).then(|| Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

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
