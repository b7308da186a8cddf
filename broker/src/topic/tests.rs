//! Topics created, deleted, recreated and opened again over a disk that fails, cuts power and runs full.

use super::*;
use crate::clock::Clock;
use crate::config::{BrokerConfig, Settings};
use crate::disk::{Disk, Fault, Operation, SimulatedDisk};
use crate::flush::FlushQueue;
use crate::partition::{IsolationLevel, ReadRequest};
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions};
use std::io;
use std::path::Path;

mod many;

const DATA: &str = "/data";

struct World {
    clock: Clock,
    disk: SimulatedDisk,
    topics: Topics,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.create_dir(Path::new(DATA)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        Self::open(disk)
    }

    fn open(disk: SimulatedDisk) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let topics = Self::open_at(&disk, clock.clone()).unwrap();
        Self { clock, disk, topics }
    }

    fn try_open(disk: &SimulatedDisk) -> Result<Topics, OpenError> {
        Self::open_at(disk, Clock::manual(1_700_000_000_000))
    }

    fn open_at(disk: &SimulatedDisk, clock: Clock) -> Result<Topics, OpenError> {
        let layers = BrokerConfig::new(DATA).layers();
        let env = PartitionEnv {
            disk: Arc::new(disk.clone()),
            clock: clock.clone(),
            flush: FlushQueue::new(clock),
            producers: Arc::default(),
        };
        let opened = Topics::open(env, Path::new(DATA), false, &layers.fixed, &Settings::new(&layers));
        opened.map(|(topics, catalog)| {
            std::thread::spawn(move || catalog.run());
            topics
        })
    }

    /// The disk is well again, and so long that the catalog tries it.
    fn heal(&self) {
        self.disk.clear_faults();
        self.clock.advance(60_000);
    }

    /// Carries out a change of the catalog and waits for it.
    fn change<R: Send + 'static>(&self, change: impl FnOnce(&Catalog) -> R + Send + 'static) -> R {
        let (answer, answered) = std::sync::mpsc::channel();
        let job = Box::new(move |catalog: &Catalog| answer.send(change(catalog)).unwrap());
        self.topics.enqueue(Change { job, is_long: false }).unwrap();
        answered.recv().unwrap()
    }

    fn create(&self, name: &str, partitions: i32) -> Result<Arc<Topic>, TopicError> {
        let new = NewTopic { name: name.into(), partitions: Some(partitions), configs: Vec::new() };
        self.change(move |catalog| catalog.create_topics(&[new], false).remove(0))
    }

    fn delete(&self, name: &str) -> Result<(), TopicError> {
        let id = self.topics.topic(name).unwrap().id;
        self.change(move |catalog| catalog.delete_topics(&[id]).remove(0).map(|_| ()))
    }

    /// Waits until nothing is left to remove.
    fn settle(&self) {
        while !self.change(Catalog::owes_nothing) {}
    }

    /// Appends one record to every partition of a topic, durably.
    fn produce(&self, name: &str, value: &str) {
        for partition in self.topics.topic(name).unwrap().partitions().iter() {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            batch.push(1, None, Some(value.as_bytes()), std::iter::empty());
            let appended = partition.append(batch.finish(0)).unwrap();
            partition.sync_through(appended.mark).unwrap();
        }
    }

    /// Every partition of a topic as its values, joined.
    fn values(&self, name: &str) -> Vec<String> {
        let topic = self.topics.topic(name).unwrap_or_else(|| panic!("topic {name} is gone"));
        topic.partitions().iter().map(|partition| values(partition)).collect()
    }

    fn stop(self) -> SimulatedDisk {
        self.topics.close().unwrap();
        self.disk.process_kill()
    }

    fn kill(self) -> SimulatedDisk {
        self.topics.abandon();
        self.disk.process_kill()
    }

    fn cut_power(self) -> SimulatedDisk {
        self.topics.abandon();
        self.disk.power_cut()
    }
}

mod shortening;

fn values(partition: &Partition) -> String {
    let (mut values, mut offset) = (Vec::new(), partition.offsets().log_start);
    loop {
        let isolation = IsolationLevel::ReadUncommitted;
        let request = ReadRequest { offset, max_bytes: 1 << 20, at_least_one: true, isolation };
        let records = partition.read(request).unwrap().records;
        let mut rest = &records[..];
        if rest.is_empty() {
            return values.join(",");
        }
        while !rest.is_empty() {
            let (batch, after) = Batch::stored(rest).unwrap();
            for record in batch.decode(1 << 20).unwrap().iter() {
                values.push(String::from_utf8_lossy(record.unwrap().value.unwrap()).into_owned());
            }
            (offset, rest) = (batch.next_offset(), after);
        }
    }
}

/// The `after`-th call of this kind fails.
fn fault(operation: Operation, after: u32, error: io::ErrorKind) -> Fault {
    Fault { operation, path_contains: String::new(), after, times: 1, error }
}

fn names(disk: &SimulatedDisk, dir: &str) -> Vec<String> {
    let listed = disk.list(Path::new(dir)).unwrap_or_default();
    let mut names: Vec<_> = listed.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
    names.sort();
    names
}

/// Everything on the disk: paths and bytes.
fn contents(disk: &SimulatedDisk) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut dirs) = (Vec::new(), vec![DATA.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in disk.list(Path::new(&dir)).unwrap() {
            let path = format!("{dir}/{}", entry.name);
            if entry.is_dir {
                dirs.push(path);
            } else {
                let bytes = (disk as &dyn Disk).read(Path::new(&path)).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_creation_that_fails_at_any_call_leaves_nothing_that_a_later_topic_meets() {
    // The call that fails, and how often: once, or from then on, so that nothing can be removed again.
    for times in [1, u32::MAX] {
        for after in 0.. {
            let world = World::new(u64::from(after));
            world.create("other", 1).unwrap();
            world.disk.inject(Fault { times, ..fault(Operation::Any, after, io::ErrorKind::StorageFull) });
            let failed = world.create("t", 5);
            world.heal();
            if failed.is_ok() {
                assert!(after > 20, "only {after} calls");
                break;
            }
            assert!(world.topics.topic("t").is_none());
            world.create("t", 3).unwrap_or_else(|error| panic!("call {after}, {times} times: {error}"));
            world.produce("t", "kept");
            let disk = match after % 3 {
                0 => world.stop(),
                1 => world.kill(),
                _ => world.cut_power(),
            };
            let world = World::open(disk);
            assert_eq!(world.values("t"), ["kept", "kept", "kept"], "call {after}, {times} times");
            let again = World::open(world.stop());
            assert_eq!(again.values("t"), ["kept", "kept", "kept"], "call {after}, {times} times");
            again.settle();
            assert_eq!(names(&again.disk, DATA), ["__kappa_catalog-0", "other-0", "t-0", "t-1", "t-2"]);
        }
    }
}

#[test]
fn added_partitions_that_could_not_be_made_are_added_later() {
    for after in 0.. {
        let world = World::new(u64::from(after));
        world.create("t", 1).unwrap();
        world.produce("t", "first");
        let add = |world: &World| world.change(|catalog| catalog.create_partitions("t", 4, false));
        world.disk.inject(Fault { times: u32::MAX, ..fault(Operation::Any, after, io::ErrorKind::Other) });
        let failed = add(&world);
        world.heal();
        if failed.is_ok() {
            break;
        }
        let world = if after % 2 == 0 { World::open(world.cut_power()) } else { world };
        add(&world).unwrap();
        world.produce("t", "second");
        let world = World::open(world.cut_power());
        assert_eq!(world.values("t"), ["first,second", "second", "second", "second"], "call {after}");
    }
}

#[test]
fn a_start_that_fails_at_any_call_changes_no_record() {
    type End = fn(World) -> SimulatedDisk;
    let kinds = [Operation::Open, Operation::Read, Operation::List, Operation::Len, Operation::Any];
    for (end, operation) in [World::stop as End, World::kill, World::cut_power]
        .into_iter()
        .flat_map(|end| kinds.map(|operation| (end, operation)))
    {
        let mut fail = 0;
        loop {
            let world = World::new(7);
            world.create("t", 3).unwrap();
            world.produce("t", "a");
            world.create("u", 1).unwrap();
            world.produce("u", "b");
            world.topics.write_checkpoints().unwrap();
            world.produce("u", "c");
            let disk = end(world);
            disk.inject(fault(operation, fail, io::ErrorKind::Other));
            let refused = World::try_open(&disk);
            disk.clear_faults();
            let ended = refused.is_ok();
            drop(refused);
            let world = World::open(disk.process_kill());
            assert_eq!((world.values("t"), world.values("u")), (vec!["a".into(); 3], vec!["b,c".into()]));
            assert_eq!(names(&world.disk, "/data/set-aside"), [] as [&str; 0], "{operation:?} {fail}");
            fail += 1;
            if ended {
                break;
            }
        }
        assert!(fail > 2, "{operation:?}: only {fail} calls");
    }
}

#[test]
fn damage_refuses_the_start_by_name_and_moves_nothing() {
    for file in ["__kappa_catalog-0/partition.metadata", "t-1/partition.metadata", "kappa-checkpoint"] {
        let world = World::new(1);
        world.create("t", 2).unwrap();
        world.produce("t", "a");
        let disk = world.stop();
        let path = Path::new(DATA).join(file);
        let whole = (&disk as &dyn Disk).read(&path).unwrap();
        disk.open(&path).unwrap().write_at(5, [&[whole[5] ^ 1], &[]]).unwrap();
        let before = contents(&disk);
        let error = World::try_open(&disk).unwrap_err().to_string();
        assert!(error.contains(file.rsplit('/').next().unwrap()), "{error}");
        assert_eq!(contents(&disk), before, "{file}");
        disk.open(&path).unwrap().write_at(0, [&whole, &[]]).unwrap();
        assert_eq!(World::open(disk).values("t"), ["a", "a"]);
    }
}

#[test]
fn a_directory_that_held_records_and_is_gone_refuses_the_start() {
    for lost in ["t-0", "__kappa_catalog-0"] {
        let world = World::new(1);
        world.create("t", 1).unwrap();
        world.produce("t", "a");
        let disk = world.stop();
        let (path, away) = (Path::new(DATA).join(lost), Path::new("/away"));
        disk.rename(&path, away).unwrap();
        let error = World::try_open(&disk).unwrap_err().to_string();
        assert!(error.contains(lost) && error.contains("put "), "{error}");
        disk.rename(away, &path).unwrap();
        assert_eq!(World::open(disk).values("t"), ["a"]);
    }
}

#[test]
fn a_topic_with_the_longest_name_is_deleted_and_its_successor_kept() {
    let name = "n".repeat(249);
    let world = World::new(1);
    world.create(&name, 2).unwrap();
    world.produce(&name, "old");
    world.delete(&name).unwrap();
    world.settle();
    assert_eq!(names(&world.disk, DATA), ["__kappa_catalog-0"]);
    world.create(&name, 2).unwrap();
    world.produce(&name, "new");
    let world = World::open(world.cut_power());
    assert_eq!(world.values(&name), ["new", "new"]);
    // What nobody knows is set aside by a name that fits as well.
    let disk = world.stop();
    let stranger = format!("{}-0", "s".repeat(249));
    disk.create_dir(&Path::new(DATA).join(&stranger)).unwrap();
    let file = disk.create(&Path::new(DATA).join(&stranger).join("precious")).unwrap();
    file.write_at(0, [b"bytes", &[]]).unwrap();
    let world = World::open(disk);
    let aside = names(&world.disk, "/data/set-aside");
    assert!(aside.len() == 1 && aside[0].len() < 255, "{aside:?}");
}

#[test]
fn a_deletion_that_fails_at_any_call_never_hands_its_files_to_the_next_topic() {
    for times in [1, u32::MAX] {
        for after in 0.. {
            let world = World::new(u64::from(after));
            world.create("t", 2).unwrap();
            world.produce("t", "old");
            world.disk.inject(Fault { times, ..fault(Operation::Any, after, io::ErrorKind::Other) });
            let deleted = world.delete("t");
            world.settle();
            let reached = deleted.is_ok();
            // While the disk refuses, the name is not free, or nothing of the old topic is met.
            let early = if reached { world.create("t", 2).ok() } else { None };
            let is_untouched = if times == 1 { world.disk.has_faults() } else { early.is_some() };
            world.heal();
            let world = match (reached, early) {
                (true, Some(_)) => world,
                (true, None) => {
                    world.create("t", 2).unwrap();
                    world
                }
                (false, _) => {
                    assert_eq!(world.values("t"), ["old", "old"]);
                    world.delete("t").unwrap();
                    world.create("t", 2).unwrap();
                    world
                }
            };
            assert_eq!(world.values("t"), ["", ""], "call {after}, {times} times");
            world.produce("t", "new");
            let disk = if after % 2 == 0 { world.cut_power() } else { world.stop() };
            let world = World::open(disk);
            assert_eq!(world.values("t"), ["new", "new"], "call {after}, {times} times");
            world.settle();
            assert_eq!(names(&world.disk, DATA), ["__kappa_catalog-0", "t-0", "t-1"]);
            if is_untouched {
                assert!(after > 10);
                break;
            }
        }
    }
}

#[test]
fn checkpoints_of_a_deleted_topic_say_nothing_of_its_successor() {
    let world = World::new(1);
    world.create("t", 1).unwrap();
    for _ in 0..9 {
        world.produce("t", "old");
    }
    world.topics.partition("t", 0).unwrap().delete_records(7).unwrap();
    world.topics.write_checkpoints().unwrap();
    world.delete("t").unwrap();
    world.create("t", 1).unwrap();
    for _ in 0..5 {
        world.produce("t", "new");
    }
    let world = World::open(world.kill());
    let offsets = world.topics.partition("t", 0).unwrap().offsets();
    assert_eq!((offsets.log_start, offsets.log_end), (0, 5));
    assert_eq!(world.values("t"), ["new,new,new,new,new"]);
}

#[test]
fn records_are_deleted_durably_on_a_full_disk_or_the_deletion_fails() {
    let world = World::new(1);
    world.create("t", 1).unwrap();
    for value in ["a", "b", "c"] {
        world.produce("t", value);
    }
    world.topics.write_checkpoints().unwrap();
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let partition = world.topics.partition("t", 0).unwrap();
    partition.delete_records(2).unwrap();
    world.topics.write_checkpoints().unwrap();
    // There is room again but not enough for a reserve; then it is used up.
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    partition.delete_records(3).unwrap();
    assert!(world.topics.write_checkpoints().is_err());
    let world = World::open(world.cut_power());
    assert_eq!(world.values("t"), ["c"]);
}

#[test]
fn retention_frees_a_full_disk() {
    let world = World::new(1);
    let configs = [("segment.bytes", "1048576"), ("retention.bytes", "1"), ("file.delete.delay.ms", "0")];
    let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let new = NewTopic { name: "t".into(), partitions: Some(1), configs };
    world.change(move |catalog| catalog.create_topics(&[new], false).remove(0)).unwrap();
    let value = "v".repeat(700_000);
    for _ in 0..3 {
        world.produce("t", &value);
    }
    let partition = world.topics.partition("t", 0).unwrap();
    assert!(partition.segment_count() > 1);
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.push(1, None, Some(value.as_bytes()), std::iter::empty());
    assert!(partition.append(batch.finish(0)).is_err());
    let before = world.disk.used_bytes();
    // The indexes of the newest segment do not fit yet.
    assert!(partition.maintain().is_err());
    world.clock.advance(1);
    partition.maintain().unwrap();
    assert!(world.disk.used_bytes() < before - 700_000);
}

#[test]
fn an_untouched_partition_costs_a_stop_nothing() {
    let world = World::new(1);
    world.create("t", 3).unwrap();
    world.produce("t", "a");
    world.create("empty", 3).unwrap();
    let world = World::open(world.stop());
    // Every call on any partition's directory would fail.
    for name in ["t-", "empty-"] {
        let fault = fault(Operation::Any, 0, io::ErrorKind::Other);
        world.disk.inject(Fault { path_contains: name.into(), times: u32::MAX, ..fault });
    }
    let world = World::open(world.stop());
    assert_eq!(world.values("t"), ["a", "a", "a"]);
    assert!(world.topics.topic("empty").is_some());
}

#[test]
fn creating_partitions_syncs_the_catalog_alone() {
    let world = World::new(1);
    let fault = fault(Operation::SyncData, 0, io::ErrorKind::Other);
    world.disk.inject(Fault { path_contains: "/t-".into(), ..fault.clone() });
    world.disk.inject(Fault { operation: Operation::SyncDir, path_contains: "/t-".into(), ..fault });
    world.create("t", 50).unwrap();
    assert!(world.disk.has_faults());
    // A power cut takes directories that were never synced, and the next start makes them again.
    let world = World::open(world.cut_power());
    assert_eq!(world.topics.topic("t").unwrap().partitions().len(), 50);
    world.produce("t", "a");
    let world = World::open(world.cut_power());
    assert_eq!(world.values("t"), vec!["a"; 50]);
}
