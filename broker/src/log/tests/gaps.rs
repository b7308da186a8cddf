//! Offsets that are missing between valid batches, where no recovery point tells of them: a repair's gap is kept, what an
//! unfinished write leaves is not.

use super::*;

const FIRST: &str = "00000000000000000000.log";

fn bytes_of(disk: &Arc<dyn Disk>, path: &Path) -> Vec<u8> {
    disk.read(path).unwrap()
}

/// Writes a file anew of some of its batches.
fn keep(disk: &Arc<dyn Disk>, path: &Path, is_kept: impl Fn(i64) -> bool) {
    let bytes = bytes_of(disk, path);
    let (mut rest, mut kept) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (batch, after) = Batch::stored(rest).unwrap();
        if is_kept(batch.base_offset()) {
            kept.extend_from_slice(batch.bytes());
        }
        rest = after;
    }
    disk.create(path).unwrap().write_at(0, [&kept, &[]]).unwrap();
}

fn offsets(log: &Log) -> Vec<i64> {
    let mut offsets = Vec::new();
    log.replay(0, |batch| offsets.push(batch.base_offset())).unwrap();
    offsets
}

#[test]
fn a_gap_between_valid_batches_is_kept_without_a_checkpoint() {
    for gap in [vec![0], vec![4], vec![0, 2, 8, 10]] {
        let (_, disk, dir) = simulated(1);
        let (mut log, _) = filled(&disk, &dir, 9);
        sync(&mut log);
        drop(log);
        keep(&disk, &dir.join(FIRST), |offset| !gap.contains(&offset));
        let (log, report) = open(&disk, &dir, Opening::default());
        assert_eq!((report.damage, report.set_aside), (Vec::new(), Vec::new()), "{gap:?}");
        assert_eq!(log.next_offset(), 18);
        let kept: Vec<_> = (0..9).map(|number| 2 * number).filter(|offset| !gap.contains(offset)).collect();
        assert_eq!(offsets(&log), kept);
        assert_indexes_equal_a_scan(&log);
    }
}

#[test]
fn a_gap_before_a_segment_is_kept_if_a_snapshot_says_that_all_before_was_synced() {
    for has_snapshot in [true, false] {
        let (_, disk, dir) = simulated(1);
        let (mut log, _) = filled(&disk, &dir, 60);
        sync(&mut log);
        let (end, second) = (log.next_offset(), log.sealed[0].end_offset);
        let snapshot = dir.join(format!("{second:020}.snapshot"));
        assert!(disk.len_if_there(&snapshot).unwrap().is_some());
        drop(log);
        keep(&disk, &dir.join(FIRST), |offset| offset < second - 4);
        if !has_snapshot {
            disk.remove_file(&snapshot).unwrap();
        }
        let (log, report) = open(&disk, &dir, Opening::default());
        assert_eq!(report.damage, Vec::new());
        match has_snapshot {
            true => {
                assert_eq!((log.next_offset(), report.set_aside), (end, Vec::new()));
                let kept = |offset: &i64| *offset < second - 4 || *offset >= second;
                let expected: Vec<_> = (0..60).map(|number| 2 * number).filter(kept).collect();
                assert_eq!(offsets(&log), expected);
            }
            // It may be the end of a write that the power cut.
            false => assert_eq!((log.next_offset(), report.set_aside.is_empty()), (second - 4, false)),
        }
    }
}

#[test]
fn bytes_of_an_older_epoch_behind_a_gap_end_the_log() {
    let (_, disk, dir) = simulated(1);
    let (mut log, _) = filled(&disk, &dir, 4);
    sync(&mut log);
    drop(log);
    keep(&disk, &dir.join(FIRST), |offset| offset == 6);
    let old = bytes_of(&disk, &dir.join(FIRST));

    let (_, disk, dir) = simulated(1);
    let mut log = create(&disk, &dir, config());
    log.raise_epoch(5, true).unwrap();
    append(&mut log, &batch(2, 60, 1000)).unwrap();
    let size = log.size();
    sync(&mut log);
    drop(log);
    disk.open(&dir.join(FIRST)).unwrap().write_at(size, [&old, &[]]).unwrap();
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.next_offset(), report.set_aside.len()), (2, 1));
}

#[test]
fn a_hole_that_a_power_cut_left_ends_the_log() {
    let (_, disk, dir) = simulated(1);
    let (mut log, model) = filled(&disk, &dir, 9);
    sync(&mut log);
    drop(log);
    let size = model.batches[0].2.len();
    let file = disk.open(&dir.join(FIRST)).unwrap();
    file.write_at(3 * size as u64, [&vec![0; size], &[]]).unwrap();
    let (log, report) = open(&disk, &dir, Opening::default());
    assert_eq!((log.next_offset(), report.set_aside.len()), (6, 1));
}

#[test]
fn a_flipped_bit_of_a_base_offset_is_damage_of_its_batch_alone() {
    let (_, disk, dir) = simulated(1);
    let (mut log, _) = filled(&disk, &dir, 9);
    sync(&mut log);
    let end = log.next_offset();
    drop(log);
    let path = dir.join(FIRST);
    let whole = bytes_of(&disk, &path);
    let size = whole.len() / 9;
    // The last one could be the first that was not synced, behind one that is missing: offset 18.
    let told = |(batch, bit): &(usize, usize)| (2 * *batch as u64) ^ (1 << 63 >> bit) != end as u64;
    for (batch, bit) in (0..9).flat_map(|batch| (0..64).map(move |bit| (batch, bit))).filter(told) {
        let mut bytes = whole.clone();
        bytes[batch * size + bit / 8] ^= 0x80 >> (bit % 8);
        disk.create(&path).unwrap().write_at(0, [&bytes, &[]]).unwrap();
        let (position, offset) = ((batch * size) as u64, 2 * batch as i64);
        let found = survey(disk.clone(), &dir, &[], end, |_| ()).unwrap();
        let to = (batch < 8).then_some(offset + 2);
        let lost = Lost { segment: 0, position, bytes: size as u64, from: offset, to };
        assert_eq!((found.batches, found.lost), (8, vec![lost]), "batch {batch}, bit {bit}");
        let opening = Opening { clean: false, recovery_point: end, log_start: 0 };
        let (log, report) = open(&disk, &dir, opening);
        let damage = Damage { segment: 0, position, bytes: size as u64, offset };
        assert_eq!((report.damage, report.set_aside), (vec![damage], Vec::new()), "batch {batch}, bit {bit}");
        assert_eq!(log.next_offset(), end);
        drop(log);
        // Damage to the end makes the log go on in a segment of its own.
        disk.remove_file_if_there(&dir.join(format!("{end:020}.log"))).unwrap();
        let is_forward = bit > 0 && whole[batch * size + bit / 8] & (0x80 >> (bit % 8)) == 0;
        if is_forward && batch < 8 {
            let (log, report) = open(&disk, &dir, Opening::default());
            assert_eq!((report.damage.len(), report.set_aside.len(), log.next_offset()), (1, 0, end));
        }
    }
}
