//! Indexes left behind by a broker that was killed, against those that a fresh scan of the same log builds.

use crate::harness::daemon::Daemon;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CHECKPOINTS: [&str; 2] = [".kafka_cleanshutdown", "kappa-checkpoint"];

/// Takes every index, and what says how far the log is known to be good, from a copy of `data`, lets a broker scan it all
/// and rebuild them there, and compares the bytes. Each entry of an offset index must moreover point at the start of a
/// batch that the index is right about.
pub(super) fn assert_equal_to_a_fresh_scan(data: &Path, settings: &[&str]) {
    let copy = data.with_file_name("copy");
    copy_of_logs(data, &copy);
    assert!(Daemon::start(&copy, settings).stop().success());
    let (left, rebuilt) = (indexes(data), indexes(&copy));
    let missing: Vec<_> = left.keys().filter(|path| !rebuilt.contains_key(*path)).collect();
    let surplus: Vec<_> = rebuilt.keys().filter(|path| !left.contains_key(*path)).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "index files not rebuilt {missing:?}, rebuilt only {surplus:?}"
    );
    assert!(left.values().any(|bytes| !bytes.is_empty()), "some index has entries");
    for (path, bytes) in &left {
        assert!(
            bytes == &rebuilt[path],
            "{}: {} bytes left behind, {} rebuilt",
            path.display(),
            bytes.len(),
            rebuilt[path].len()
        );
        if path.extension().is_some_and(|extension| extension == "index") {
            assert_points_at_batches(&data.join(path), bytes);
        }
    }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "index" || extension == "timeindex")
}

fn copy_of_logs(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (source, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if source.is_dir() {
            copy_of_logs(&source, &to.join(name));
        } else if !is_index(&source) && !CHECKPOINTS.iter().any(|checkpoint| name == *checkpoint) {
            fs::copy(&source, to.join(name)).unwrap();
        }
    }
}

/// Every index of the live partitions by its path below `data`.
fn indexes(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for partition in fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()) {
        if !partition.is_dir() || partition.to_string_lossy().ends_with(".delete") {
            continue;
        }
        for file in fs::read_dir(&partition).unwrap().map(|entry| entry.unwrap().path()) {
            if is_index(&file) {
                found.insert(file.strip_prefix(data).unwrap().to_owned(), fs::read(&file).unwrap());
            }
        }
    }
    found
}

/// Entries are `(offset relative to the base: u32, position: u32)`: at the position a batch begins whose last offset
/// is the entry's.
fn assert_points_at_batches(index: &Path, bytes: &[u8]) {
    let log = fs::read(index.with_extension("log")).unwrap();
    let base: i64 = index.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    for entry in bytes.chunks_exact(8) {
        let offset = base + i64::from(u32::from_be_bytes(entry[..4].try_into().unwrap()));
        let position = u32::from_be_bytes(entry[4..].try_into().unwrap()) as usize;
        let batch = kappa_protocol::record::Batch::header(&log[position..]).unwrap();
        assert!(
            (batch.base_offset()..=batch.last_offset()).contains(&offset),
            "{}: {offset} is not in the batch at {position}",
            index.display()
        );
    }
}
