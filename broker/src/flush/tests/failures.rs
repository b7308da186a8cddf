//! Syncs of the file system that fail, for whichever file.

use super::*;
use crate::partition::Commit;

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

/// Runs the next round, and no sync of what it hands on.
fn run_round(house: &House) {
    let due = house.env.flush.waiting.lock().take_now();
    house.env.flush.commit(&due);
}

#[test]
fn a_round_leaves_it_to_the_threads_that_sync_what_one_sync_of_all_could_not() {
    let house = House::open(bare_disk(), 2 * COUNT);
    let (flush, large) = (&house.env.flush, large_batch());
    let append = |partitions: &[Arc<Partition>]| -> Vec<Durable> {
        let append = |partition: &Arc<Partition>| partition.append(large.clone()).unwrap().mark;
        partitions.iter().map(|partition| partition.durable(append(partition))).collect()
    };
    let (some, others) = house.partitions.split_at(COUNT as usize);
    let mut waiting = append(some);
    let dirty = flush.stats().dirty_bytes;
    house.disk.fail_elsewhere(1);
    run_round(&house);
    // Nothing was synced one by one, and nothing is taken for synced.
    assert_eq!((flush.stats().syncs, flush.stats().dirty_bytes), (0, dirty));
    assert_eq!(outcomes(&mut waiting), [None; COUNT as usize]);
    assert!(matches!(some[0].begin_commit(u64::MAX), Commit::Sync), "its pages may be gone from memory");
    // Those that know of the failure by no sync of their own, neither.
    waiting.extend(append(others));
    run_round(&house);
    assert_eq!((flush.stats().syncs, flush.stats().dirty_bytes), (0, 2 * dirty));
    flush.run_due();
    assert_eq!(outcomes(&mut waiting), [Some(true); 2 * COUNT as usize]);
    assert_eq!((flush.stats().syncs, flush.stats().dirty_bytes), (2 * COUNT as u64, 0));
    // One sync is enough for all of them again.
    let mut waiting = append(&house.partitions);
    house.fail(Operation::SyncData, ".log", u32::MAX);
    run_round(&house);
    assert_eq!(outcomes(&mut waiting), [Some(true); 2 * COUNT as usize]);
    assert_eq!(ends(&house.after_power_cut()), [2; 2 * COUNT as usize]);
}

/// Larger than what the journal takes of a partition.
fn large_batch() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(NOW_MS, None, Some(&[7; 5000]), std::iter::empty());
    builder.finish(0)
}
