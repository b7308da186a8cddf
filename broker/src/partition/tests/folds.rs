//! Folds that cannot go on, and the rewrite that shortens their logs.

use super::*;
use std::convert::Infallible;

/// Counts records, and stumbles when told to.
#[derive(Debug, Default)]
struct Count {
    records: i64,
    stumbles: Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
#[error("it stumbled")]
struct Stumbled;

const NOT: usize = 0;
const FAILS: usize = 1;
const PANICS: usize = 2;

impl FoldState for Count {
    type Error = Stumbled;

    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), Stumbled> {
        match self.stumbles.load(Ordering::Relaxed) {
            FAILS => return Err(Stumbled),
            PANICS => panic!("on purpose"),
            _ => {}
        }
        self.records = batch.next_offset();
        Ok(())
    }
}

fn fold(bench: &Bench) -> (Fold<Count>, Arc<AtomicUsize>) {
    let state = Count::default();
    let stumbles = state.stumbles.clone();
    (Fold::new(bench.partition.clone(), state), stumbles)
}

fn durably(bench: &Bench, count: usize) {
    let appended = bench.append(count).unwrap();
    bench.partition.sync_through(appended.mark).unwrap();
}

#[test]
fn a_batch_that_could_not_be_applied_is_never_passed_over() {
    let bench = Bench::new(FlushMode::Commit);
    let (fold, stumbles) = fold(&bench);
    durably(&bench, 2);
    assert_eq!(fold.with(|state| state.records).unwrap(), 2);
    stumbles.store(FAILS, Ordering::Relaxed);
    durably(&bench, 1);
    for _ in 0..2 {
        let error = fold.with(|state| state.records).unwrap_err();
        assert!(matches!(error, FoldError::State { next_offset: 3, .. }), "{error}");
    }
    assert!(!bench.partition.is_broken());
    stumbles.store(NOT, Ordering::Relaxed);
    assert_eq!(fold.with(|state| state.records).unwrap(), 3);
}

#[test]
fn a_panic_over_a_fold_fences_it_with_its_partition_and_no_other() {
    let (bench, other) = (Bench::new(FlushMode::Commit), Bench::new(FlushMode::Commit));
    let ((fold, stumbles), (sound, _)) = (self::fold(&bench), self::fold(&other));
    durably(&bench, 1);
    durably(&other, 1);
    stumbles.store(PANICS, Ordering::Relaxed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fold.with(|_| ())));
    assert!(panicked.is_err() && bench.partition.is_broken());
    stumbles.store(NOT, Ordering::Relaxed);
    assert!(matches!(fold.with(|state| state.records), Err(FoldError::Read(_))));
    assert!(matches!(bench.append(1), Err(AppendError::Storage(_))));
    assert!(bench.partition.close().is_err(), "it is not marked clean");
    assert_eq!(sound.with(|state| state.records).unwrap(), 1);
    durably(&other, 1);

    let (bench, fold) = (other, fold_again(&sound));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        fold.with_mut(|_| -> Infallible { panic!("on purpose") })
    }));
    assert!(panicked.is_err() && bench.partition.is_broken());
}

fn fold_again(fold: &Fold<Count>) -> Fold<Count> {
    Fold::new(fold.partition().clone(), Count::default())
}

#[test]
fn a_fold_whose_next_records_were_deleted_says_so() {
    let bench = Bench::new(FlushMode::Commit);
    let (fold, _) = fold(&bench);
    durably(&bench, 2);
    fold.with(|_| ()).unwrap();
    durably(&bench, 2);
    bench.partition.delete_records(3).unwrap();
    let error = fold.with(|_| ()).unwrap_err();
    assert!(matches!(error, FoldError::Behind { next_offset: 2, log_start: 3 }), "{error}");
    assert_eq!(fold_again(&fold).with(|state| state.records).unwrap(), 4);
}

#[test]
fn a_rewrite_leaves_what_came_since_its_begin() {
    let mut bench = Bench::new(FlushMode::Commit);
    let (fold, _) = fold(&bench);
    for _ in 0..60 {
        bench.append(5).unwrap();
    }
    let rewrite = bench.partition.begin_rewrite().unwrap();
    bench.append(3).unwrap();
    fold.finish_rewrite(rewrite).unwrap();
    let offsets = bench.partition.offsets();
    assert_eq!((offsets.log_start, offsets.high_watermark, bench.partition.segment_count()), (300, 303, 1));
    bench.reopen(Opening::default());
    assert_eq!(bench.partition.offsets(), offsets, "without any checkpoint");
}

#[test]
fn a_rewrite_of_which_a_failed_sync_took_something_drops_nothing() {
    let bench = Bench::new(FlushMode::Commit);
    let (fold, _) = fold(&bench);
    durably(&bench, 5);
    let rewrite = bench.partition.begin_rewrite().unwrap();
    bench.append(3).unwrap();
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.partition.sync().unwrap_err();
    bench.wait_out_the_retry();
    durably(&bench, 1);
    assert!(matches!(fold.finish_rewrite(rewrite), Err(RewriteError::Storage(_))));
    assert_eq!(bench.partition.offsets().log_start, 0);
    let rewrite = bench.partition.begin_rewrite().unwrap();
    durably(&bench, 1);
    fold.finish_rewrite(rewrite).unwrap();
    assert_eq!(bench.partition.offsets().log_start, 6);
}

#[test]
fn a_state_without_the_records_at_the_end_is_not_shown() {
    let mut bench = Bench::new(FlushMode::Commit);
    durably(&bench, 2);
    let size = bench.partition.size_bytes();
    durably(&bench, 1);
    bench.disk.open(Path::new("/t-0/00000000000000000000.log")).unwrap().set_len(size).unwrap();
    bench.disk.sync_dir(Path::new("/")).unwrap();
    let opening = Opening { clean: false, recovery_point: 3, log_start: 0 };
    let opened = Partition::open(&bench.env, "/t-0".into(), TOPIC, bench.config.clone(), opening);
    bench.partition = opened.unwrap().0;
    let (fold, _) = fold(&bench);
    let error = fold.with(|state| state.records).unwrap_err();
    assert!(matches!(error, FoldError::Missing { next_offset: 2, high_watermark: 3 }), "{error}");
}
