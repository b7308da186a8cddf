//! What goes on beside a partition's lock, what a panic leaves, and clocks that are set: on a disk that calls back.

use super::*;
use crate::disk::CallingDisk;
use parking_lot::Condvar;

impl Bench {
    /// A partition whose disk calls `before` once this has returned.
    fn calling(config: PartitionConfig, before: impl Fn(Operation, &Path) + Send + Sync + 'static) -> Self {
        let mut bench = Self::with(config);
        let disk = CallingDisk::new(bench.env.disk.clone(), before);
        bench.env.disk = Arc::new(disk);
        bench.partition = open(&bench.env, &bench.config, Opening::default());
        bench
    }
}

/// Lets calls through or not, and counts those that wait.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many calls wait before it.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }

    fn shut(&self, is_shut: bool) {
        self.state.lock().0 = is_shut;
        self.changed.notify_all();
    }

    fn wait_for_a_call(&self) {
        let mut state = self.state.lock();
        while state.1 == 0 {
            self.changed.wait(&mut state);
        }
    }
}

#[test]
fn appends_and_reads_go_on_while_segments_are_deleted() {
    // With retention's own calls held one after the other: what makes it durable, renames, removals.
    for held in [Operation::SyncDir, Operation::Rename, Operation::Remove] {
        let gate = Arc::new(Gate::default());
        let before = gate.clone();
        let bench = Bench::calling(config(FlushMode::Os), move |operation, _| {
            if operation == held {
                before.pass();
            }
        });
        for _ in 0..40 {
            bench.append(1).unwrap();
        }
        bench.partition.sync().unwrap();
        let retention_bytes = Some(bench.partition.size_bytes() - 3 * 2000);
        let log = LogConfig { retention_bytes, file_delete_delay_ms: 0, ..config(FlushMode::Os).log };
        bench.partition.reconfigure(PartitionConfig { log, ..config(FlushMode::Os) });
        bench.partition.maintain().unwrap();
        let log_start = bench.partition.offsets().log_start;
        for _ in 0..40 {
            bench.append(1).unwrap();
        }
        bench.partition.sync().unwrap();

        gate.shut(true);
        std::thread::scope(|scope| {
            let deletion = scope.spawn(|| bench.partition.maintain().unwrap());
            gate.wait_for_a_call();
            // Were they to wait, so would this test.
            assert_eq!(bench.append(1).unwrap().base_offset, 80, "{held:?}");
            let offsets = bench.partition.offsets();
            assert!(offsets.log_start > log_start || held != Operation::Remove);
            assert_eq!(visible(&bench.partition, offsets.log_start).last(), Some(&80));
            gate.shut(false);
            assert!(deletion.join().unwrap().deleted_segments > 1);
        });
        let names = |bench: &Bench| bench.disk.list(Path::new("/t-0")).unwrap();
        let logs = names(&bench).iter().filter(|entry| entry.name.ends_with(".log")).count();
        assert_eq!(logs, bench.partition.segment_count(), "{held:?}");
        bench.partition.maintain().unwrap();
        assert!(names(&bench).iter().all(|entry| !entry.name.ends_with(".deleted")), "{held:?}");
    }
}

#[test]
fn a_deletion_that_fails_is_finished_by_the_next_maintenance() {
    for (operation, path) in
        [(Operation::Create, "leader-epoch"), (Operation::Rename, ".log"), (Operation::Rename, "index")]
    {
        let mut bench = Bench::new(FlushMode::Commit);
        for _ in 0..40 {
            bench.append(1).unwrap();
        }
        bench.env.flush.run_due();
        bench.partition.maintain().unwrap();
        bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
        bench.fail(operation, path, 1, io::ErrorKind::Other);
        bench.partition.maintain().unwrap_err();
        assert_eq!(bench.partition.offsets(), Offsets::opened(40, 40), "the log has forgotten them");
        assert!(bench.partition.maintain().unwrap().deleted_segments > 1);
        let entries = bench.disk.list(Path::new("/t-0")).unwrap();
        assert_eq!(
            entries.iter().filter(|entry| entry.name.ends_with(".log")).count(),
            1,
            "{operation:?} {path}"
        );
        bench.reopen(Opening { clean: false, recovery_point: 40, log_start: 40 });
        assert_eq!(bench.partition.offsets(), Offsets::opened(40, 40));
    }
}

#[test]
fn timeouts_pass_though_the_clock_is_set_back() {
    let hour_ms = 60 * 60 * 1000;
    let bench = Bench::new(FlushMode::Os);
    bench.fail(Operation::Write, ".log", 1, io::ErrorKind::StorageFull);
    bench.append(1).unwrap_err();
    bench.env.clock.set_by(-hour_ms);
    assert!(bench.append(1).is_err(), "refused without a try");
    bench.wait_out_the_retry();
    let early = PartitionConfig { timestamp_after_max_ms: i64::MAX, ..config(FlushMode::Os) };
    bench.partition.reconfigure(early);
    assert_eq!(bench.append(1).unwrap().base_offset, 0);

    let bench = Bench::new(FlushMode::Interval);
    bench.append(1).unwrap();
    bench.env.clock.set_by(-hour_ms);
    bench.env.clock.advance(1000);
    assert_eq!(bench.env.flush.run_due(), 1);

    let bench = Bench::new(FlushMode::Commit);
    for _ in 0..40 {
        bench.append(1).unwrap();
    }
    bench.env.flush.run_due();
    bench.env.clock.advance(8 * 24 * hour_ms);
    bench.partition.maintain().unwrap();
    let doomed = || {
        let entries = bench.disk.list(Path::new("/t-0")).unwrap();
        entries.iter().filter(|entry| entry.name.ends_with(".deleted")).count()
    };
    assert!(doomed() > 0);
    bench.env.clock.set_by(-hour_ms);
    bench.env.clock.advance(60_000);
    bench.partition.maintain().unwrap();
    assert_eq!(doomed(), 0);
}

/// Panics at the next operation of a kind on a path, once told to.
fn trap(operation: Operation, path_contains: &'static str) -> (Arc<AtomicUsize>, impl Fn(Operation, &Path)) {
    let armed = Arc::new(AtomicUsize::new(0));
    let own = armed.clone();
    let before = move |called, path: &Path| {
        let is_meant = called == operation && path.to_string_lossy().contains(path_contains);
        if is_meant && own.swap(0, Ordering::Relaxed) == 1 {
            panic!("the trap of this test");
        }
    };
    (armed, before)
}

fn panics(work: impl FnOnce()) {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
}

#[test]
fn a_panic_over_a_partition_fences_it_and_tells_whoever_waits() {
    type Work = fn(&Bench);
    let append: Work = |bench| drop(bench.append(1));
    let sync: Work = |bench| drop(bench.partition.sync());
    let maintain: Work = |bench| drop(bench.partition.maintain());
    for (operation, path, work) in [
        (Operation::Write, ".log", append),
        (Operation::SyncData, ".log", sync),
        (Operation::Rename, "leader-epoch", maintain),
    ] {
        let (armed, before) = trap(operation, path);
        let mut bench = Bench::calling(config(FlushMode::Commit), before);
        for _ in 0..40 {
            bench.append(1).unwrap();
        }
        bench.partition.sync().unwrap();
        bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
        let appended = bench.append(1).unwrap();
        let (wakes, seen_wakes) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let mut durable = bench.partition.durable(appended.mark);
        let mut seen = bench.partition.visible_past(40);
        assert!(poll(&mut durable, &wakes).is_pending() && poll(&mut seen, &seen_wakes).is_pending());
        assert!(!bench.partition.is_broken());

        armed.store(1, Ordering::Relaxed);
        panics(|| work(&bench));
        let woken = [&wakes, &seen_wakes].map(|wakes| wakes.0.load(Ordering::Relaxed));
        assert_eq!(woken, [1, 1], "{operation:?}");
        let Poll::Ready(Err(error)) = poll(&mut durable, &wakes) else { panic!("{operation:?}") };
        assert!(format!("{error}: {}", error.source).contains("restart"), "{error}: {}", error.source);
        assert!(poll(&mut seen, &wakes).is_ready() && bench.partition.is_broken());
        assert!(matches!(bench.append(1), Err(AppendError::Storage(_))));
        assert!(matches!(bench.partition.read(request(0)), Err(ReadError::Slice(_))));
        assert!(bench.partition.max_timestamp_offset().is_err());
        assert!(bench.partition.sync().is_err() && bench.partition.maintain().is_err());
        assert!(bench.partition.close().is_err(), "it is not marked clean");

        let start = bench.partition.offsets().log_start;
        bench.reopen(Opening { clean: false, recovery_point: 40, log_start: start });
        assert!(!bench.partition.is_broken() && bench.partition.offsets().log_end >= 40);
        bench.append(1).unwrap();
    }
}

#[test]
fn rolls_touch_no_name_under_the_lock_whether_an_append_or_retention_makes_them() {
    for mode in [FlushMode::Commit, FlushMode::Os] {
        let (held, slot) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Weak::<Partition>::new())));
        let (seen, locked) = (held.clone(), slot.clone());
        let bench = Bench::calling(config(mode), move |operation, path| {
            let is_locked = locked.lock().upgrade().is_some_and(|partition| partition.is_locked());
            if is_locked && !matches!(operation, Operation::Read | Operation::Write) {
                seen.lock().push((operation, path.to_owned()));
            }
        });
        *slot.lock() = Arc::downgrade(&bench.partition);
        for _ in 0..60 {
            bench.append(1).unwrap();
            bench.env.flush.run_due();
        }
        assert!(bench.partition.segment_count() > 4);
        bench.partition.sync().unwrap();
        bench.env.clock.advance(8 * 24 * 60 * 60 * 1000);
        bench.partition.maintain().unwrap();
        let offsets = bench.partition.offsets();
        assert_eq!((offsets.log_start, bench.partition.segment_count()), (offsets.log_end, 1));
        assert_eq!(*held.lock(), []);
    }
}

#[test]
fn a_cut_after_a_failed_sync_waits_for_no_disk_under_the_lock() {
    let (held, slot) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Weak::<Partition>::new())));
    let (seen, locked) = (held.clone(), slot.clone());
    let bench = Bench::calling(config(FlushMode::Commit), move |operation, path| {
        let is_locked = locked.lock().upgrade().is_some_and(|partition| partition.is_locked());
        if is_locked && matches!(operation, Operation::SyncData | Operation::SyncDir) {
            seen.lock().push((operation, path.to_owned()));
        }
    });
    *slot.lock() = Arc::downgrade(&bench.partition);
    bench.append(1).unwrap();
    bench.partition.sync().unwrap();
    bench.append(1).unwrap();
    bench.fail(Operation::SyncData, ".log", 1, io::ErrorKind::Other);
    bench.partition.sync().unwrap_err();
    assert_eq!(*held.lock(), []);
}

#[test]
fn an_index_that_cannot_be_opened_is_not_one_that_is_missing() {
    let made = Arc::new(Mutex::new(Vec::new()));
    let seen = made.clone();
    let mut bench = Bench::calling(config(FlushMode::Os), move |operation, path| {
        if operation == Operation::Create {
            seen.lock().push(path.to_owned());
        }
    });
    for _ in 0..40 {
        bench.append(1).unwrap();
    }
    bench.partition.close().unwrap();
    bench.reopen(Opening { clean: true, recovery_point: 40, log_start: 0 });
    made.lock().clear();
    bench.fail(Operation::Open, "index", 1, io::ErrorKind::Other);
    bench.partition.read(request(0)).unwrap_err();
    assert_eq!(*made.lock(), Vec::<PathBuf>::new(), "built anew from the whole segment");
    bench.partition.read(request(0)).unwrap();
}
