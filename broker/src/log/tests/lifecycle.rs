//! Making and opening a log: fresh directories, foreign ones, torn ones, and epochs that have to be found again.

use super::*;
use crate::disk::CallingDisk;
use parking_lot::Mutex;

#[test]
fn a_log_is_made_in_a_fresh_directory_and_opened_in_its_own() {
    let (_, disk, dir) = simulated(1);
    let make = || Log::create(disk.clone(), dir.clone(), TOPIC, config(), NOW_MS, Arc::default());
    let open_as = |id| Log::open(disk.clone(), dir.clone(), id, config(), Opening::default(), NOW_MS);
    assert!(open_as(TOPIC).is_err(), "it is missing");
    make().unwrap();
    assert_eq!(make().unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
    let error = open_as(Uuid::from_u128(8)).unwrap_err();
    assert!(error.source.to_string().contains("belongs to topic"), "{error:?}");
    open_as(TOPIC).unwrap();
    disk.remove_file(&dir.join("partition.metadata")).unwrap();
    assert!(open_as(TOPIC).is_err(), "it is nobody's");
}

#[test]
fn known_offsets_are_not_given_out_again_though_the_segments_are_gone() {
    let (_, disk, dir) = simulated(1);
    drop(create(&disk, &dir, config()));
    disk.remove_file(&dir.join("00000000000000000000.log")).unwrap();
    let (log, report) = open(&disk, &dir, Opening { clean: false, recovery_point: 77, log_start: 5 });
    assert_eq!((log.log_start(), log.next_offset()), (77, 77));
    assert_eq!(report.damage.len(), 1);
}

#[test]
fn a_log_that_must_be_whole_is_not_opened_without_what_was_synced_and_stays_as_it_is() {
    let whole = || LogConfig { must_be_whole: true, ..config() };
    let first = "00000000000000000000.log";
    for clean in [false, true] {
        for (name, len) in [("first", 0), ("last", 100)] {
            let (_, disk, dir) = simulated(1);
            let (mut log, _) = filled(&disk, &dir, 40);
            sync(&mut log);
            assert!(log.segment_count() > 2);
            let opening = Opening { clean, recovery_point: log.next_offset(), log_start: 0 };
            let last = format!("{:020}.log", log.end().segment);
            drop(log);
            let path = dir.join(if name == "last" { &last } else { first });
            match len {
                0 => disk.remove_file(&path).unwrap(),
                _ => disk.open(&path).unwrap().set_len(len).unwrap(),
            }
            let names = || disk.list(&dir).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
            let before = names();
            for _ in 0..2 {
                let opened = Log::open(disk.clone(), dir.clone(), TOPIC, whole(), opening, NOW_MS);
                let error = opened.expect_err("a log that must be whole");
                assert_eq!(error.source.kind(), io::ErrorKind::InvalidData, "{name} {error:?}");
                assert_eq!(names(), before);
            }
            let (_, report) = open(&disk, &dir, opening);
            assert!(!report.damage.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    for after in 0.. {
        let (faulty, disk, dir) = simulated(1);
        faulty.inject(Fault {
            operation: Operation::Any,
            path_contains: String::new(),
            after,
            times: 1,
            error: io::ErrorKind::StorageFull,
        });
        let made = Log::create(disk.clone(), dir.clone(), TOPIC, config(), NOW_MS, Arc::default());
        faulty.clear_faults();
        if made.is_ok() {
            assert!(after > 3, "{after}");
            break;
        }
        assert!(disk.list_if_there(&dir).unwrap().is_none(), "call {after}");
    }
}

#[test]
fn the_first_sync_makes_the_directory_durable_and_a_blank_log_costs_none() {
    for seed in 0..50 {
        let (simulated, disk, dir) = simulated(seed);
        let mut log = create(&disk, &dir, config());
        let calls = |operation| Fault {
            operation,
            path_contains: String::new(),
            after: 0,
            times: 1,
            error: io::ErrorKind::Other,
        };
        append(&mut log, &batch(1, 10, 1000)).unwrap();
        sync(&mut log);
        // From the second one on, a sync is one of the segment alone.
        append(&mut log, &batch(1, 10, 1000)).unwrap();
        simulated.inject(calls(Operation::SyncDir));
        sync(&mut log);
        simulated.clear_faults();
        let disk: Arc<dyn Disk> = Arc::new(simulated.power_cut());
        let (log, _) = open(&disk, &dir, Opening { recovery_point: 2, ..Opening::default() });
        assert_eq!(log.next_offset(), 2);

        let (simulated, disk, dir) = self::simulated(seed);
        drop(create(&disk, &dir, config()));
        disk.sync_dir(Path::new("/")).unwrap();
        simulated.inject(calls(Operation::SyncDir));
        simulated.inject(calls(Operation::SyncData));
        let (log, _) = Log::open(disk.clone(), dir, TOPIC, config(), Opening::default(), NOW_MS).unwrap();
        assert!(log.begin_sync().is_none() && !log.needs_closing());
    }
}

/// A closed log whose batches were written under the epochs 0, 1 and 2, and what opens it.
fn with_epochs(disk: &Arc<dyn Disk>, dir: &Path) -> (Log, Opening) {
    let (mut log, _) = filled(disk, dir, 12);
    for _ in 0..2 {
        log.begin_epoch(log.next_offset).unwrap();
        append(&mut log, &batch(2, 200, 1000)).unwrap();
    }
    let epochs = log.epochs.clone();
    let opening = close(log);
    let (log, _) = open(disk, dir, opening);
    assert_eq!(log.epochs, epochs);
    (log, opening)
}

#[test]
fn a_damaged_or_missing_epoch_file_is_made_anew_from_the_batches() {
    let spoils: [fn(&dyn Disk, &Path); 3] = [
        |disk, path| disk.remove_file(path).unwrap(),
        |disk, path| disk.open(path).unwrap().set_len(3).unwrap(),
        |disk, path| disk.open(path).unwrap().write_at(4, [b"x", &[]]).unwrap(),
    ];
    for spoil in spoils {
        for clean in [true, false] {
            let (_, disk, dir) = simulated(1);
            let (log, opening) = with_epochs(&disk, &dir);
            let ends: Vec<_> = (0..2).map(|epoch| log.epoch_end(epoch)).collect();
            spoil(&*disk, &dir.join("leader-epoch-checkpoint"));
            let (again, _) = open(&disk, &dir, Opening { clean, ..opening });
            assert_eq!((0..2).map(|epoch| again.epoch_end(epoch)).collect::<Vec<_>>(), ends);
            assert_eq!(again.epoch_end(2), Some((2, again.next_offset())));
            assert_eq!(again.leader_epoch(), 3, "an epoch that no batch shows may have begun");
        }
    }
    let (faulty, disk, dir) = simulated(1);
    let (_, opening) = with_epochs(&disk, &dir);
    faulty.inject(Fault {
        operation: Operation::Open,
        path_contains: "leader-epoch".into(),
        after: 0,
        times: 1,
        error: io::ErrorKind::Other,
    });
    Log::open(disk.clone(), dir.clone(), TOPIC, config(), opening, NOW_MS).unwrap_err();
    let (log, _) = open(&disk, &dir, opening);
    assert_eq!(log.leader_epoch(), 2);
}

#[test]
fn no_epoch_file_is_written_while_epoch_0_lasts() {
    let (_, disk, dir) = simulated(1);
    let (log, _) = filled(&disk, &dir, 12);
    let opening = close(log);
    for clean in [true, false] {
        let (log, _) = open(&disk, &dir, Opening { clean, ..opening });
        assert_eq!(log.leader_epoch(), 0);
        assert!(disk.len_if_there(&dir.join("leader-epoch-checkpoint")).unwrap().is_none());
    }
}

#[test]
fn segments_behind_a_first_one_that_a_power_cut_took_are_set_aside() {
    let (_, disk, dir) = simulated(1);
    let (log, _) = filled(&disk, &dir, 12);
    let segments = log.segment_count();
    drop(log);
    disk.remove_file(&dir.join("00000000000000000000.log")).unwrap();
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.log_start(), log.next_offset(), log.segment_count()), (0, 0, 1));
    assert_eq!(report.set_aside.len(), segments - 1);
}

#[test]
fn a_closed_log_needs_closing_again_only_if_it_changed_or_its_indexes_did() {
    let (_, disk, dir) = simulated(1);
    let (log, _) = filled(&disk, &dir, 12);
    let opening = close(log);
    let (mut log, _) = open(&disk, &dir, opening);
    assert!(!log.needs_closing());
    append(&mut log, &batch(1, 1, 1000)).unwrap();
    assert!(log.needs_closing());
    let opening = close(log);
    let (log, _) = open(&disk, &dir, opening);
    disk.remove_file(&log.files.path(log.active.base_offset, files::TIME_INDEX)).unwrap();
    let (log, _) = open(&disk, &dir, opening);
    assert!(log.needs_closing());
}

/// A log of one segment, closed.
struct Closed {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    opening: Opening,
    /// Where its indexes are, or would be.
    indexes: [PathBuf; 2],
    /// The bytes of its indexes.
    built: (Vec<u8>, Vec<u8>),
}

fn closed_with(count: usize) -> Closed {
    let (_, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    for _ in 0..count {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    let indexes = [files::OFFSET_INDEX, files::TIME_INDEX].map(|suffix| log.files.path(0, suffix));
    let built = log.active.index.clone().finish();
    Closed { disk, dir, opening: close(log), indexes, built }
}

#[test]
fn a_short_segment_is_closed_without_indexes_and_opened_as_if_it_had_them() {
    for (count, has_indexes) in [(3, false), (10, true)] {
        let Closed { disk, dir, opening, indexes, built } = closed_with(count);
        assert!(indexes.iter().all(|path| disk.len_if_there(path).unwrap().is_some() == has_indexes));
        let (log, report) = open(&disk, &dir, opening);
        assert_eq!(report, RecoveryReport::default(), "it is not scanned as after a crash");
        assert_eq!(log.active.index.clone().finish(), built);
        assert!(log.next_offset() == count as i64 && !log.needs_closing());
    }
}

#[test]
fn indexes_of_an_earlier_end_are_taken_away_when_a_short_segment_is_closed() {
    let Closed { disk, dir, opening, indexes, .. } = closed_with(3);
    indexes.iter().for_each(|path| drop(disk.create(path).unwrap()));
    let (mut log, _) = open(&disk, &dir, opening);
    append(&mut log, &batch(1, 1, 1000)).unwrap();
    assert!(log.needs_closing());
    let opening = close(log);
    assert!(indexes.iter().all(|path| disk.len_if_there(path).unwrap().is_none()));
    let (log, _) = open(&disk, &dir, opening);
    assert!(log.next_offset() == 4 && !log.needs_closing());
}

#[test]
fn a_short_segment_behind_others_is_closed_without_a_snapshot_only_if_there_is_one_of_its_beginning() {
    let (_, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    while log.segment_count() < 2 {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    sync(&mut log);
    assert!(!log.needs_closing());
    log.snapshots.clear();
    assert!(log.needs_closing());
    let opening = close(log);
    let (log, _) = open(&disk, &dir, opening);
    assert!(!log.lacks_snapshot());
}

#[test]
fn a_sync_that_a_cut_overtakes_says_nothing_of_what_is_appended_after_the_cut() {
    let (cut, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    append(&mut log, &batch(1, 150, 1000)).unwrap();
    sync(&mut log);
    (0..3).for_each(|_| assert!(append(&mut log, &batch(1, 150, 1000)).is_ok()));
    let job = log.begin_sync().unwrap();
    job.run().unwrap();
    log.truncate_to(1, NOW_MS).unwrap();
    repair(&mut log).unwrap();
    append(&mut log, &batch(1, 150, 2000)).unwrap();
    log.finish_sync(&job);
    assert_eq!((log.synced().offset, log.needs_sync()), (1, true));
    sync(&mut log);
    let end = log.next_offset();
    let disk: Arc<dyn Disk> = Arc::new(cut.power_cut());
    let (log, _) = open(&disk, &dir, Opening { recovery_point: end, ..Opening::default() });
    assert_eq!(log.next_offset(), end);
}

#[test]
fn a_clean_start_opens_no_file_that_the_listing_lacks() {
    let (_, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    append(&mut log, &batch(1, 10, NOW_MS)).unwrap();
    let opening = close(log);
    let opened = Arc::new(Mutex::new(Vec::new()));
    let seen = opened.clone();
    let disk = CallingDisk::new(disk, move |operation, path| {
        if operation == Operation::Open {
            seen.lock().push(path.file_name().unwrap().to_owned());
        }
    });
    let (log, _) = Log::open(Arc::new(disk), dir, TOPIC, config(), opening, NOW_MS).unwrap();
    assert_eq!(log.next_offset(), 1);
    assert_eq!(*opened.lock(), ["partition.metadata", "00000000000000000000.log"]);
}
