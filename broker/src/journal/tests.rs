//! The journal on a simulated disk: what is found again, what is used again, and what must never come back.

use super::*;
use crate::disk::{Fault, Operation, SimulatedDisk};
use uuid::Uuid;

const CONFIG: JournalConfig = JournalConfig {
    file_bytes: 5 * BLOCK as u64,
    files_max: 2,
    piece_bytes_max: 1000,
    misses_before_first: 0,
};

fn disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &SimulatedDisk) -> (Journal, Pieces) {
    Journal::open(Arc::new(disk.clone()), Path::new("/data"), CONFIG).unwrap()
}

fn begun(disk: &SimulatedDisk) -> Journal {
    let (journal, pieces) = open(disk);
    assert!(pieces.is_empty());
    journal.retire().unwrap();
    journal
}

/// The same with its first file, which the first frame that finds none asks for.
fn with_file(disk: &SimulatedDisk) -> Journal {
    let journal = begun(disk);
    assert!(journal.write(&mut frame(&[(0, 1)])).is_err());
    journal.add_file().unwrap();
    journal
}

fn key(index: i32) -> PartitionKey {
    PartitionKey { topic_id: Uuid::from_u128(9), index }
}

fn frame(pieces: &[(i32, i64)]) -> Frame {
    let mut frame = Frame::new();
    for (index, next_offset) in pieces {
        let bytes = format!("{index} up to {next_offset}");
        let place = Place { key: key(*index), segment: 0, position: 0, next_offset: *next_offset };
        assert!(frame.add(place, bytes.len(), |into| {
            into.extend_from_slice(bytes.as_bytes());
            Ok(bytes.len())
        }));
    }
    frame
}

fn texts(pieces: &Pieces, index: i32) -> Vec<String> {
    let pieces = pieces.get(&key(index)).map(Vec::as_slice).unwrap_or_default();
    pieces.iter().map(|piece| String::from_utf8(piece.read().unwrap()).unwrap()).collect()
}

#[test]
fn what_was_written_is_found_after_a_power_cut_in_order() {
    let disk = disk();
    let journal = begun(&disk);
    assert!(matches!(journal.write(&mut frame(&[(0, 1)])), Err(WriteError::NoRoom)));
    assert_eq!(journal.upkeep(), Some(Upkeep::File));
    journal.add_file().unwrap();
    journal.write(&mut frame(&[(0, 1), (1, 5)])).unwrap();
    journal.write(&mut frame(&[(0, 2)])).unwrap();
    assert_eq!(journal.pieces_of(key(0)).unwrap().len(), 2);
    let (_, pieces) = open(&disk.power_cut());
    assert_eq!(texts(&pieces, 0), ["0 up to 1", "0 up to 2"]);
    assert_eq!(texts(&pieces, 1), ["1 up to 5"]);
}

#[test]
fn a_full_file_is_used_again_only_once_the_segments_have_what_it_covers() {
    let disk = disk();
    let journal = with_file(&disk);
    for offset in 1..=4 {
        // The next file is made before this one is full.
        assert_eq!(journal.upkeep(), (offset > 2).then_some(Upkeep::File));
        journal.write(&mut frame(&[(0, offset)])).unwrap();
    }
    assert!(matches!(journal.write(&mut frame(&[(0, 5)])), Err(WriteError::NoRoom)));
    assert_eq!(journal.upkeep(), Some(Upkeep::Sync(vec![key(0)])));
    journal.add_file().unwrap();
    for offset in 5..=13 {
        journal.write(&mut frame(&[(0, offset)])).unwrap();
    }
    // The second file is twice as large, and full too.
    assert!(matches!(journal.write(&mut frame(&[(0, 14)])), Err(WriteError::NoRoom)));
    journal.release(key(0), 3);
    assert!(matches!(journal.write(&mut frame(&[(0, 14)])), Err(WriteError::NoRoom)));
    journal.release(key(0), 4);
    journal.write(&mut frame(&[(0, 14)])).unwrap();
    let (_, pieces) = open(&disk.power_cut());
    assert_eq!(texts(&pieces, 0).len(), 10);
    assert_eq!(texts(&pieces, 0).last().unwrap(), "0 up to 14");
}

#[test]
fn a_release_while_a_frame_is_written_counts_for_what_it_covers() {
    let journal = with_file(&disk());
    journal.state.lock().writing.insert(key(3), 7);
    journal.release(key(3), 7);
    assert!(journal.state.lock().writing.is_empty());
}

#[test]
fn a_frame_that_failed_never_comes_back_and_nothing_is_written_before_that_is_sure() {
    let disk = disk();
    let journal = with_file(&disk);
    for first in [true, false] {
        // The bytes may be on the disk although the sync fails: as if the kernel had written them before.
        disk.inject(Fault {
            operation: Operation::SyncData,
            path_contains: "journal".into(),
            after: 0,
            times: 2,
            error: io::ErrorKind::Other,
        });
        assert!(matches!(journal.write(&mut frame(&[(0, 66)])), Err(WriteError::Failed(_))));
        assert!(journal.heal().is_err());
        assert!(matches!(journal.write(&mut frame(&[(1, 1)])), Err(WriteError::NoRoom)));
        journal.heal().unwrap();
        let (_, pieces) = open(&disk);
        assert!(texts(&pieces, 0).is_empty(), "{first}");
        journal.write(&mut frame(&[(1, if first { 1 } else { 2 })])).unwrap();
    }
    let (_, pieces) = open(&disk.power_cut());
    assert_eq!(texts(&pieces, 1), ["1 up to 1", "1 up to 2"]);
    assert!(texts(&pieces, 0).is_empty());
}

#[test]
fn what_was_retired_is_not_found_again() {
    let disk = disk();
    let journal = with_file(&disk);
    journal.write(&mut frame(&[(0, 1)])).unwrap();
    let (journal, pieces) = open(&disk);
    assert_eq!(pieces.len(), 1);
    journal.retire().unwrap();
    let (_, pieces) = open(&disk.power_cut());
    assert!(pieces.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_not_an_empty_journal() {
    let disk = disk();
    drop(with_file(&disk));
    for operation in [Operation::Open, Operation::Read] {
        let path_contains = "journal".into();
        disk.inject(Fault { operation, path_contains, after: 0, times: 1, error: io::ErrorKind::Other });
        assert!(Journal::open(Arc::new(disk.clone()), Path::new("/data"), CONFIG).is_err());
    }
}

#[test]
fn a_disk_with_little_room_is_left_to_the_records() {
    let disk = disk();
    disk.set_capacity(Some(CONFIG.file_bytes * 15));
    let journal = begun(&disk);
    assert!(journal.write(&mut frame(&[(0, 1)])).is_err());
    assert!(journal.add_file().is_err());
    assert_eq!(disk.used_bytes(), 0);
    disk.set_capacity(None);
    for _ in 0..1000 {
        assert!(journal.write(&mut frame(&[(0, 1)])).is_err());
        assert_eq!(journal.upkeep(), None, "not asked for at every turn");
    }
    assert!(journal.write(&mut frame(&[(0, 1)])).is_err());
    assert_eq!(journal.upkeep(), Some(Upkeep::File));
    journal.add_file().unwrap();
    journal.write(&mut frame(&[(0, 1)])).unwrap();
}

#[test]
fn a_damaged_frame_with_whole_ones_behind_it_is_no_end() {
    let disk = disk();
    let journal = with_file(&disk);
    for offset in 1..=3 {
        journal.write(&mut frame(&[(0, offset)])).unwrap();
    }
    let path = Path::new("/data/journal-0.kappa");
    let flipped = |position: usize| {
        let disk = disk.copy(1);
        let mut bytes = (&disk as &dyn Disk).read_if_there(path).unwrap().unwrap();
        bytes[position] ^= 4;
        disk.create(path).unwrap().write_at(0, [&bytes, &[]]).unwrap();
        Journal::open(Arc::new(disk), Path::new("/data"), CONFIG).map(|(_, pieces)| texts(&pieces, 0).len())
    };
    // The header and the first two frames.
    for position in [9, BLOCK + 1, BLOCK + 40, 2 * BLOCK + 40] {
        let error = flipped(position).unwrap_err();
        assert!(error.source.to_string().contains("damaged"), "{position}: {error:?}");
    }
    // The last one may have been under way.
    assert_eq!(flipped(3 * BLOCK + 40).unwrap(), 2);
}

#[test]
fn frames_of_an_earlier_use_are_no_damage_however_the_next_one_begins() {
    for seed in 0..40 {
        for (operation, heals) in [Operation::Write, Operation::SyncData].into_iter().zip([true, false]) {
            let disk = SimulatedDisk::new(seed);
            disk.create_dir(Path::new("/data")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            let journal = with_file(&disk);
            for offset in 1..=4 {
                journal.write(&mut frame(&[(0, offset)])).unwrap();
            }
            journal.release(key(0), 4);
            let (error, after) = (io::ErrorKind::Other, (seed % 3) as u32);
            disk.inject(Fault { operation, path_contains: "journal".into(), after, times: 1, error });
            let came = journal.write(&mut frame(&[(0, 5)])).is_ok();
            disk.clear_faults();
            if heals {
                journal.heal().unwrap();
            }
            let (_, pieces) = open(&disk.power_cut());
            assert!(!came || texts(&pieces, 0) == ["0 up to 5"], "seed {seed}");
        }
    }
}

#[test]
fn a_header_that_could_not_be_written_takes_nothing_of_what_the_one_before_says() {
    for (seed, operation) in (0..100).map(|seed| (seed, Operation::Write)).chain([(0, Operation::SyncData)]) {
        let disk = SimulatedDisk::new(seed);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let journal = with_file(&disk);
        journal.write(&mut frame(&[(0, 1)])).unwrap();
        let mut disk = disk;
        for power_goes in [true, false] {
            let (journal, pieces) = open(&disk);
            // The write may have failed at its last byte.
            assert!(pieces.is_empty() || texts(&pieces, 0) == ["0 up to 1"], "seed {seed}");
            let (path_contains, error) = ("journal".into(), io::ErrorKind::Other);
            disk.inject(Fault { operation, path_contains, after: 0, times: 1, error });
            assert!(journal.retire().is_err());
            if power_goes || operation == Operation::SyncData {
                disk = disk.power_cut();
            }
        }
        let (journal, _) = open(&disk);
        journal.retire().unwrap();
        assert!(open(&disk).1.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_damaged_header_with_frames_behind_it_is_told() {
    let disk = disk();
    let journal = with_file(&disk);
    journal.write(&mut frame(&[(0, 1)])).unwrap();
    journal.retire().unwrap();
    journal.release(key(0), 1);
    journal.write(&mut frame(&[(0, 2)])).unwrap();
    let path = Path::new("/data/journal-0.kappa");
    for at in HEADERS_AT {
        let disk = disk.copy(1);
        disk.open(path).unwrap().write_at(at as u64 + 15, [b"?", b""]).unwrap();
        match Journal::open(Arc::new(disk), Path::new("/data"), CONFIG) {
            Ok((_, pieces)) => assert_eq!(texts(&pieces, 0), ["0 up to 2"], "header at {at}"),
            Err(error) => assert!(error.source.to_string().contains("damaged"), "header at {at}: {error:?}"),
        }
    }
}

#[test]
fn records_that_look_like_frames_are_none() {
    let disk = disk();
    let journal = with_file(&disk);
    journal.add_file().unwrap();
    // Whole frames of the generations to come, where blocks begin.
    let before = journal.state.lock().generation;
    let pad = BLOCK - frame::FRAME_HEADER_LEN - frame::PIECE_HEADER_LEN;
    let forged: Vec<u8> =
        (1..=4).flat_map(|n| frame(&[(7, 99)]).seal(before + n, 1 << 40).to_vec()).collect();
    let record = [vec![1; pad], forged].concat();
    let mut forging = Frame::new();
    let place = Place { key: key(0), segment: 0, position: 0, next_offset: 1 };
    assert!(forging.add(place, record.len(), |into| {
        into.extend_from_slice(&record);
        Ok(record.len())
    }));
    journal.write(&mut forging).unwrap();
    assert!(!open(&disk).1.contains_key(&key(7)));
    journal.release(key(0), 1);
    journal.retire().unwrap();
    journal.write(&mut frame(&[(0, 2)])).unwrap();
    let (_, pieces) = open(&disk);
    assert_eq!(texts(&pieces, 0), ["0 up to 2"]);
    assert!(!pieces.contains_key(&key(7)));
}

#[test]
fn files_in_the_making_when_the_process_was_killed_do_not_end_the_journal() {
    let disk = disk();
    for number in 0..CONFIG.files_max {
        let path = Path::new("/data").join(format!("journal-{number}.kappa"));
        disk.create(&path).unwrap().write_at(0, [&[0; 2 * BLOCK], &[]]).unwrap();
    }
    let journal = begun(&disk);
    assert_eq!(disk.used_bytes(), 0);
    assert!(journal.write(&mut frame(&[(0, 1)])).is_err());
    assert_eq!(journal.upkeep(), Some(Upkeep::File));
    journal.add_file().unwrap();
    journal.write(&mut frame(&[(0, 1)])).unwrap();
}
