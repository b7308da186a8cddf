//! The next segment's file, made beforehand: rolls that touch no name, and every way in which a process can end with it.

use super::*;

/// A log whose next segment's file is ready, with `count` batches after the roll to it.
fn rolled(disk: &Arc<dyn Disk>, dir: &Path, count: usize) -> Log {
    let mut log = create(disk, dir, config());
    while !log.wants_spare() {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    make_spare(&mut log);
    assert!(!log.wants_spare());
    while log.segment_count() < 2 {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    for _ in 1..count {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    log
}

fn make_spare(log: &mut Log) {
    let job = log.begin_spare().unwrap();
    log.finish_spare(job.run().unwrap());
}

fn files_of(disk: &Arc<dyn Disk>, dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = disk.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.retain(|name| name.ends_with("log") || name.contains("next-segment"));
    names
}

#[test]
fn a_roll_to_a_file_made_beforehand_touches_no_name() {
    let (faulty, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    while !log.wants_spare() {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    make_spare(&mut log);
    for operation in [Operation::Create, Operation::Rename, Operation::Remove, Operation::SyncDir] {
        let error = io::ErrorKind::Other;
        faulty.inject(Fault { operation, path_contains: String::new(), after: 0, times: u32::MAX, error });
    }
    while log.segment_count() < 2 {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    faulty.clear_faults();
    let base_offset = log.active.base_offset;
    sync(&mut log);
    assert_eq!(files_of(&disk, &dir), ["00000000000000000000.log", &format!("{base_offset:020}.log")]);
    // The next one is made anew.
    while !log.wants_spare() {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    make_spare(&mut log);
    assert_eq!(files_of(&disk, &dir).len(), 3);
}

#[test]
fn a_killed_process_loses_nothing_of_a_segment_without_a_name() {
    let (killed, disk, dir) = simulated(1);
    let log = rolled(&disk, &dir, 3);
    disk.sync_dir(Path::new("/")).unwrap();
    let (end, bytes) = (log.next_offset(), read_from(&log, 0, 1 << 20).unwrap());
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(killed.process_kill());
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.next_offset(), log.segment_count(), report.set_aside.len()), (end, 2, 0));
    assert_eq!(read_from(&log, 0, 1 << 20).unwrap(), bytes);
    assert!(!files_of(&disk, &dir).contains(&"next-segment".to_owned()));
}

#[test]
fn a_restored_piece_of_a_segment_without_a_name_goes_into_its_file() {
    let (killed, disk, dir) = simulated(1);
    let log = rolled(&disk, &dir, 3);
    disk.sync_dir(Path::new("/")).unwrap();
    let (topic_id, segment, end) = (log.topic_id(), log.active.base_offset, log.next_offset());
    let bytes = read_from(&log, 0, 1 << 20).unwrap();
    let mut first = Vec::new();
    log.active.file.read_at(0, log.active.size as usize / 3, &mut first).unwrap();
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(killed.process_kill());
    let piece = RestoredPiece { segment, position: 0, bytes: first };
    restore(disk.clone(), dir.clone(), topic_id, [Ok(piece)].into_iter()).unwrap();
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.next_offset(), log.segment_count(), report.set_aside.len()), (end, 2, 0));
    assert_eq!(read_from(&log, 0, 1 << 20).unwrap(), bytes);
}

#[test]
fn only_the_last_segment_is_without_a_name_though_no_sync_comes_between_two_rolls() {
    let (killed, disk, dir) = simulated(1);
    let mut log = rolled(&disk, &dir, 1);
    while log.segment_count() < 3 {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    let (end, bytes) = (log.next_offset(), read_from(&log, 0, 1 << 20).unwrap());
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(killed.process_kill());
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.next_offset(), log.segment_count(), report.set_aside.len()), (end, 3, 0));
    assert_eq!(read_from(&log, 0, 1 << 20).unwrap(), bytes);
}

#[test]
fn what_was_synced_of_a_segment_made_beforehand_survives_a_power_cut() {
    for seed in 0..50 {
        let (cut, disk, dir) = simulated(seed);
        let mut log = rolled(&disk, &dir, 3);
        sync(&mut log);
        let (end, bytes) = (log.next_offset(), read_from(&log, 0, 1 << 20).unwrap());
        for _ in 0..3 {
            append(&mut log, &batch(1, 150, 1000)).unwrap();
        }
        let disk: Arc<dyn Disk> = Arc::new(cut.power_cut());
        let opening = Opening { recovery_point: end, ..Opening::default() };
        let (log, report) = open(&disk, &dir, opening);
        assert!(log.next_offset() >= end && report.damage.is_empty(), "seed {seed}: {report:?}");
        assert!(read_from(&log, 0, 1 << 20).unwrap().starts_with(&bytes), "seed {seed}");
    }
}

#[test]
fn a_power_cut_before_the_sync_leaves_a_log_that_goes_on() {
    for seed in 0..50 {
        let (cut, disk, dir) = simulated(seed);
        let mut log = create(&disk, &dir, config());
        append(&mut log, &batch(1, 150, 1000)).unwrap();
        sync(&mut log);
        while !log.wants_spare() {
            append(&mut log, &batch(1, 150, 1000)).unwrap();
        }
        make_spare(&mut log);
        while log.segment_count() < 2 {
            append(&mut log, &batch(1, 150, 1000)).unwrap();
        }
        let disk: Arc<dyn Disk> = Arc::new(cut.power_cut());
        let opening = Opening { recovery_point: 1, ..Opening::default() };
        let (mut log, _) = open(&disk, &dir, opening);
        let before = log.next_offset();
        assert!(before >= 1, "seed {seed}");
        for _ in 0..20 {
            append(&mut log, &batch(1, 150, 1000)).unwrap();
        }
        sync(&mut log);
        let recovery_point = log.recovery_point();
        drop(log);
        let (log, report) = open(&disk, &dir, Opening { recovery_point, ..Opening::default() });
        assert_eq!((log.next_offset(), report.damage.len()), (before + 20, 0), "seed {seed}");
    }
}

#[test]
fn a_file_that_does_not_begin_with_a_batch_of_the_end_is_set_aside() {
    for content in [&b"no batch"[..], &batch(1, 150, 1000)] {
        let (_, disk, dir) = simulated(1);
        let (log, _) = filled(&disk, &dir, 12);
        let end = log.next_offset();
        drop(log);
        let file = disk.create(&dir.join("next-segment")).unwrap();
        file.write_at(0, [content, &[]]).unwrap();
        let (log, report) = open(&disk, &dir, Opening::default());
        assert_eq!((log.next_offset(), report.set_aside.len()), (end, 1));
        assert_eq!(report.set_aside[0].path, dir.join("next-segment.corrupt"));
    }
}

#[test]
fn a_cut_before_a_segment_without_a_name_takes_its_file_away() {
    let (_, disk, dir) = simulated(1);
    let mut log = rolled(&disk, &dir, 3);
    log.truncate_to(2, NOW_MS).unwrap();
    repair(&mut log).unwrap();
    assert_eq!(files_of(&disk, &dir), ["00000000000000000000.log"]);
    while log.segment_count() < 3 {
        append(&mut log, &batch(1, 150, 1000)).unwrap();
    }
    let end = log.next_offset();
    sync(&mut log);
    drop(log);
    let (log, _) = open(&disk, &dir, Opening::default());
    assert_eq!(log.next_offset(), end);
}

#[test]
fn a_deletion_names_the_segment_that_the_log_goes_on_in() {
    let (cut, disk, dir) = simulated(1);
    let (mut log, _) = filled(&disk, &dir, 12);
    sync(&mut log);
    make_spare(&mut log);
    log.roll(NOW_MS, b"snapshot".to_vec()).unwrap();
    let end = log.next_offset();
    sync(&mut log);
    let mut job = log.begin_deletion(end, NOW_MS).unwrap();
    job.make_durable().unwrap();
    log.finish_naming(&job);
    job.rename().unwrap();
    log.finish_deletion(job);
    let disk: Arc<dyn Disk> = Arc::new(cut.power_cut());
    let (log, _) = open(&disk, &dir, Opening::default());
    assert_eq!((log.log_start(), log.next_offset()), (end, end));
}

#[test]
fn a_repair_finds_a_segment_without_a_name() {
    let (killed, disk, dir) = simulated(1);
    let log = rolled(&disk, &dir, 3);
    disk.sync_dir(Path::new("/")).unwrap();
    let (topic_id, end) = (log.topic_id(), log.next_offset());
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(killed.process_kill());
    assert_eq!(survey(disk.clone(), &dir, &[], 0, |_| ()).unwrap().end, end);
    let copy = Path::new("/copy");
    copy_log(&disk, &dir, copy, topic_id).unwrap();
    assert_eq!(drop_damage(disk.clone(), copy, 0).unwrap().end, end);
    let (log, _) = open(&disk, copy, Opening::default());
    assert_eq!(log.next_offset(), end);
}
