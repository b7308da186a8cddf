//! The record with the largest timestamp, whatever is deleted or not visible yet, and what finding it costs.

use super::*;
use crate::disk::{Fault, Operation};

/// The first record with the largest timestamp from `log_start` on and before `upper`.
fn largest(model: &Model, log_start: i64, upper: i64) -> Option<(i64, i64)> {
    let mut largest = None;
    for (_, _, bytes) in model.batches.iter().filter(|(_, next_offset, _)| *next_offset <= upper) {
        let (batch, _) = Batch::stored(bytes).unwrap();
        for record in batch.decode(1 << 20).unwrap().iter().map(Result::unwrap) {
            if record.offset >= log_start && largest.is_none_or(|(latest, _)| record.timestamp > latest) {
                largest = Some((record.timestamp, record.offset));
            }
        }
    }
    largest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_largest_timestamp_is_that_of_the_visible_records(
        batches in prop::collection::vec((1_usize..5, 0_usize..300, 1000_i64..1100), 1..40),
        start in 0.0..1.0,
    ) {
        let (_, disk, dir) = simulated(1);
        let (mut log, _) = open(&disk, &dir, Opening::default());
        let (mut model, mut ends) = (Model::default(), vec![log.end()]);
        for (count, value_len, timestamp) in batches {
            let bytes = batch(count, value_len, timestamp);
            append(&mut log, &bytes).unwrap();
            model.append(&bytes);
            ends.push(log.end());
        }
        let log_start = (model.next_offset as f64 * start) as i64;
        log.advance_start(log_start);
        for upper in ends {
            let found = log.timestamp_search(upper).latest().unwrap();
            let found = found.map(|found| (found.timestamp, found.offset));
            prop_assert_eq!(found, largest(&model, log_start, upper.offset), "before {:?}", upper);
        }
    }
}

#[test]
fn finding_the_largest_timestamp_reads_a_segment_once_at_most() {
    let (simulated, disk, dir) = simulated(1);
    let config = LogConfig { segment_bytes: 1 << 20, index_interval_bytes: 4096, ..config() };
    let mut log = Log::create(disk, dir, TOPIC, config, NOW_MS, Arc::default()).unwrap();
    // Larger than what the scan reads at once, so that every batch costs a read.
    for number in 0..40 {
        append(&mut log, &batch(1, 5000, 1000 + number)).unwrap();
    }
    let visible = log.end();
    append(&mut log, &batch(1, 10, 5000)).unwrap();
    let reads_at_most = |reads, find: &dyn Fn() -> i64| {
        let error = io::ErrorKind::Other;
        let operation = Operation::Read;
        simulated.inject(Fault { operation, path_contains: ".log".into(), after: reads, times: 1, error });
        assert_eq!(find(), 39);
        simulated.clear_faults();
    };
    reads_at_most(5, &|| log.timestamp_search(visible).latest().unwrap().unwrap().offset);
    log.advance_start(1);
    reads_at_most(5, &|| log.timestamp_search(visible).latest().unwrap().unwrap().offset);
}
