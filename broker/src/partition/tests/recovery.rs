//! What a start makes of a log whose indexes were not saved, or whose bytes changed after they were synced.

use super::*;
use crate::log::RecoveryReport;

impl Bench {
    /// The partition as a start finds it after the process was killed.
    fn killed(&self) -> (Arc<Partition>, RecoveryReport) {
        let Positions { recovery_point, log_start } = self.partition.positions();
        self.opened(Opening { clean: false, recovery_point, log_start })
    }

    fn opened(&self, opening: Opening) -> (Arc<Partition>, RecoveryReport) {
        let env = PartitionEnv { disk: Arc::new(self.disk.process_kill()), ..self.env.clone() };
        Partition::open(&env, "/t-0".into(), TOPIC, self.config.clone(), opening).unwrap()
    }

    /// Appends and syncs until there is one segment more.
    fn roll(&self) {
        let segments = self.partition.segment_count();
        while self.partition.segment_count() == segments {
            self.append(1).unwrap();
            // The indexes may not be saved.
            let _ = self.partition.sync();
        }
    }

    /// Flips a bit of the second of equally large batches.
    fn damage_second_batch(&self) {
        let file = self.disk.open(Path::new("/t-0/00000000000000000000.log")).unwrap();
        let mut byte = Vec::new();
        let position = batch(1, None).len() as u64 + 80;
        file.read_at(position, 1, &mut byte).unwrap();
        file.write_at(position, [&[byte[0] ^ 1], &[]]).unwrap();
        file.sync_data().unwrap();
        self.disk.sync_dir(Path::new("/")).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.disk.list(Path::new("/t-0")).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// Indexes of segments that are not there.
    fn stray_indexes(&self) -> Vec<String> {
        let names = self.names();
        let has_log = |name: &String| names.contains(&format!("{}.log", name.split_once('.').unwrap().0));
        names.iter().filter(|name| name.ends_with("index") && !has_log(name)).cloned().collect()
    }
}

#[test]
fn damage_that_was_fenced_takes_nothing_synced_along_while_indexes_cannot_be_saved() {
    let mut bench = Bench::new(FlushMode::Commit);
    for _ in 0..5 {
        bench.append(1).unwrap();
        bench.partition.sync().unwrap();
    }
    bench.damage_second_batch();
    let opening = Opening { clean: false, recovery_point: 5, log_start: 0 };
    let (partition, report) =
        Partition::open(&bench.env, "/t-0".into(), TOPIC, bench.config.clone(), opening).unwrap();
    assert_eq!((report.damage.len(), report.set_aside.len()), (1, 0));
    bench.partition = partition;

    bench.fail(Operation::Create, "index", u32::MAX, io::ErrorKind::StorageFull);
    bench.roll();
    bench.roll();
    bench.append(1).unwrap();
    let _ = bench.partition.sync();
    let end = bench.partition.offsets().high_watermark;
    assert_eq!(bench.partition.positions().recovery_point, end);

    let (partition, report) = bench.killed();
    assert_eq!((partition.offsets().high_watermark, report.set_aside), (end, Vec::new()));
    assert_eq!(visible(&partition, 2), (2..end).collect::<Vec<_>>());
}

#[test]
fn a_kill_before_indexes_and_producers_are_saved_costs_neither() {
    let bench = Bench::new(FlushMode::Commit);
    bench.fail(Operation::Create, "index", u32::MAX, io::ErrorKind::StorageFull);
    for sequence in 0..40 {
        bench.partition.append(sequenced(0, sequence, 1)).unwrap();
        let _ = bench.partition.sync();
    }
    assert!(bench.partition.segment_count() > 2);
    assert!(bench.names().iter().all(|name| !name.ends_with("snapshot") && !name.ends_with("index")));
    let (partition, report) = bench.killed();
    assert_eq!((report.damage, report.set_aside), (Vec::new(), Vec::new()));
    assert_eq!(partition.producer_snapshot(), bench.partition.producer_snapshot());
    assert_eq!(visible(&partition, 0), (0..40).collect::<Vec<_>>());
    for offset in 0..40 {
        assert_eq!(visible(&partition, offset).len() as i64, 40 - offset);
    }
}

#[test]
fn indexes_of_a_stop_that_was_cut_short_are_not_left_for_the_sealed_segment() {
    let mut bench = Bench::new(FlushMode::Commit);
    for _ in 0..9 {
        bench.append(1).unwrap();
    }
    bench.partition.close().unwrap();
    let indexes = bench.names().into_iter().filter(|name| name.ends_with("index")).max().unwrap();
    let recovery_point = bench.partition.offsets().log_end;
    bench.reopen(Opening { clean: false, recovery_point, log_start: 0 });
    assert!(!bench.names().contains(&indexes), "{:?}", bench.names());
}

#[test]
fn retention_of_the_active_segment_leaves_no_index_behind() {
    let mut config = config(FlushMode::Commit);
    config.log.retention_ms = Some(1000);
    config.log.file_delete_delay_ms = 0;
    let bench = Bench::with(config);
    for sequence in 0..3 {
        bench.partition.append(sequenced(0, sequence, 1)).unwrap();
    }
    bench.partition.sync().unwrap();
    bench.env.clock.advance(1_000_000);
    assert_eq!(bench.partition.maintain().unwrap().deleted_segments, 1);
    assert_eq!(bench.partition.offsets().log_start, 3);
    bench.append(1).unwrap();
    bench.partition.sync().unwrap();
    bench.env.clock.advance(1);
    bench.partition.maintain().unwrap();
    bench.partition.close().unwrap();
    assert_eq!(bench.stray_indexes(), Vec::<String>::new());

    // The producers are known although every batch of theirs is gone.
    let (partition, _) = bench.killed();
    assert_eq!(partition.producer_snapshot(), bench.partition.producer_snapshot());
}

#[test]
fn a_start_removes_indexes_without_a_segment() {
    let bench = Bench::new(FlushMode::Commit);
    bench.roll();
    bench.partition.sync().unwrap();
    for name in ["00000000000000000001.index", "00000000000000000001.timeindex"] {
        bench.disk.create(&Path::new("/t-0").join(name)).unwrap();
    }
    bench.disk.sync_dir(Path::new("/t-0")).unwrap();
    let positions = bench.partition.positions();
    let opening =
        Opening { clean: false, recovery_point: positions.recovery_point, log_start: positions.log_start };
    assert_eq!(bench.stray_indexes().len(), 2);
    open(&bench.env, &bench.config, opening);
    assert_eq!(bench.stray_indexes(), Vec::<String>::new());
}
