//! Syncs of the file system that fail, for whichever file.

use super::*;

const COUNT: i32 = SYNC_TOGETHER_MIN as i32 + 8;

/// Partitions of which each shows a record that is in no synced file.
fn shown_unsynced() -> House {
    let house = lax_house(COUNT, DIRTY_BYTES_MAX);
    // A partition is opened where its directory's name is durable.
    house.disk.sync_dir(Path::new("/data")).unwrap();
    for partition in &house.partitions {
        partition.append(batch(1)).unwrap();
        assert_eq!(partition.offsets().high_watermark, 1);
    }
    house
}

fn ends(house: &House) -> Vec<i64> {
    house.partitions.iter().map(|partition| partition.offsets().log_end).collect()
}

#[test]
fn an_error_of_a_file_of_somebody_else_cuts_nothing() {
    let house = shown_unsynced();
    house.disk.fail_elsewhere(1);
    Partition::sync_all(&house.partitions).unwrap();
    assert!(house.partitions.iter().all(|partition| !partition.needs_sync() && !partition.is_broken()));
    assert_eq!(ends(&house.after_power_cut()), [1; COUNT as usize]);
}

#[test]
fn of_a_sync_of_the_file_system_that_failed_only_what_was_lost_is_cut() {
    let house = shown_unsynced();
    house.disk.fail_elsewhere(1);
    house.fail(Operation::SyncData, "/t-7/0000", 1);
    Partition::sync_all(&house.partitions).unwrap_err();
    let expected: Vec<_> = (0..COUNT).map(|index| i64::from(index != 7)).collect();
    assert_eq!(ends(&house), expected);
    assert_eq!(ends(&house.after_power_cut()), expected);
}

#[test]
fn what_a_sync_of_the_file_system_lost_is_not_taken_for_synced() {
    let house = shown_unsynced();
    house.fail(Operation::SyncFileSystem, "", 1);
    Partition::sync_all(&house.partitions).unwrap_err();
    assert_eq!(ends(&house), [0; COUNT as usize]);
    for partition in &house.partitions {
        partition.append(batch(2)).unwrap();
    }
    Partition::sync_all(&house.partitions).unwrap();
    assert_eq!(ends(&house.after_power_cut()), [1; COUNT as usize]);
}

#[test]
fn what_was_lost_of_partitions_that_were_not_asked_for_is_not_taken_for_synced_later() {
    let house = lax_house(2 * COUNT, DIRTY_BYTES_MAX);
    for partition in &house.partitions {
        partition.append(batch(1)).unwrap();
    }
    let (asked, others) = house.partitions.split_at(COUNT as usize);
    house.fail(Operation::SyncFileSystem, "", 1);
    Partition::sync_all(asked).unwrap_err();
    Partition::sync_all(others).unwrap_err();
    let ends: Vec<_> = others.iter().map(|partition| partition.offsets().log_end).collect();
    assert_eq!(ends, [0; COUNT as usize]);
    // Those that were synced by themselves since are synced by one call again.
    for round in 0..2 {
        for partition in others {
            partition.append(batch(2)).unwrap();
        }
        if round == 1 {
            house.fail(Operation::SyncData, ".log", u32::MAX);
        }
        Partition::sync_all(others).unwrap();
    }
}
