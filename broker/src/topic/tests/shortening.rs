//! The catalog does not grow with topics that come and go, and forgets nothing that matters.

use super::*;

impl World {
    fn log(&self) -> Arc<Partition> {
        self.topics.partition(CATALOG_TOPIC, 0).unwrap()
    }

    /// Topics that come and go until the log was shortened.
    fn churn(&self) {
        let start = self.log().offsets().log_start;
        for _ in 0..200 {
            self.create("churn", 1).unwrap();
            self.delete("churn").unwrap();
            if self.log().offsets().log_start > start {
                return;
            }
        }
        panic!("the log begins at {start} for ever");
    }
}

#[test]
fn topics_that_come_and_go_leave_the_catalog_short() {
    let world = World::new(1);
    world.create("kept", 2).unwrap();
    world.change(|catalog| catalog.producer_id()).unwrap();
    world.produce("kept", "v");
    let dump = world.topics.dump().unwrap();
    for _ in 0..5 {
        world.churn();
    }
    assert!(world.log().size_bytes() < 8 * 1024, "{}", world.log().size_bytes());
    assert_eq!(world.topics.dump().unwrap(), dump);
    let world = World::open(world.cut_power());
    assert_eq!(world.topics.dump().unwrap(), dump);
    assert_eq!(world.values("kept"), ["v", "v"]);
    assert_eq!(world.change(|catalog| catalog.producer_id()).unwrap(), 1000, "no id is given twice");
}

#[test]
fn whenever_the_power_goes_while_the_catalog_is_shortened_no_topic_is_lost() {
    for calls in 0..40 {
        let world = World::new(calls);
        world.create("kept", 2).unwrap();
        world.produce("kept", "v");
        while world.log().size_bytes() < 4000 {
            world.create("churn", 1).unwrap();
            world.delete("churn").unwrap();
        }
        let dump = world.topics.dump().unwrap();
        world.disk.cut_power_after(calls);
        let _ = world.change(|catalog| catalog.producer_id());
        let _ = world.topics.dump();
        let world = World::open(world.cut_power());
        let topics = |dump: String| {
            dump.lines().filter(|line| !line.contains("producer-ids")).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(topics(world.topics.dump().unwrap()), topics(dump), "after {calls} calls");
        assert_eq!(world.values("kept"), ["v", "v"], "after {calls} calls");
        world.churn();
    }
}

#[test]
fn a_deletion_that_is_owed_is_not_forgotten() {
    let world = World::new(1);
    world.create("owed", 1).unwrap();
    world.produce("owed", "v");
    world.disk.inject(Fault {
        operation: Operation::Rename,
        path_contains: "owed-0".into(),
        after: 0,
        times: 1,
        error: io::ErrorKind::Other,
    });
    world.delete("owed").unwrap();
    assert!(world.disk.list(&Path::new(DATA).join("owed-0")).is_ok());
    world.churn();
    let disk = world.stop();
    let world = World::open(disk);
    let names: Vec<String> =
        world.disk.list(Path::new(DATA)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!names.iter().any(|name| name == "owed-0" || name == "set-aside"), "{names:?}");
}

#[test]
fn a_directory_that_cannot_be_looked_at_leaves_the_catalog_as_long_as_it_is() {
    let world = World::new(1);
    world.disk.create_dir(&Path::new(DATA).join("stranger-0")).unwrap();
    let path_contains = "stranger-0".to_owned();
    let error = io::ErrorKind::Other;
    world.disk.inject(Fault { operation: Operation::Open, path_contains, after: 0, times: u32::MAX, error });
    world.disk.inject(Fault {
        operation: Operation::Read,
        path_contains: "stranger-0".into(),
        after: 0,
        times: u32::MAX,
        error,
    });
    let is_refused =
        crate::log::directory_topic_id(&world.disk, &Path::new(DATA).join("stranger-0")).is_err();
    for _ in 0..60 {
        world.create("churn", 1).unwrap();
        world.delete("churn").unwrap();
    }
    assert_eq!(world.log().offsets().log_start == 0, is_refused);
    world.disk.clear_faults();
    world.churn();
}

/// A world whose catalog has rolled, on a disk that has no room for what the roll left to write.
fn with_an_unfinished_roll() -> World {
    let world = World::new(1);
    world.create("kept", 1).unwrap();
    world.produce("kept", "before");
    for part in [".snapshot", ".index", ".timeindex"] {
        world.disk.inject(Fault {
            operation: Operation::Create,
            path_contains: part.into(),
            after: 0,
            times: u32::MAX,
            error: io::ErrorKind::StorageFull,
        });
    }
    for _ in 0..200 {
        if world.log().segment_count() > 1 || world.log().offsets().log_start > 0 {
            return world;
        }
        let _ = world.change(|catalog| catalog.producer_id());
        world.create("churn", 1).and_then(|_| world.delete("churn")).ok();
    }
    panic!("the catalog was never rewritten");
}

#[test]
fn a_change_that_is_durable_is_made_though_a_roll_is_not_finished() {
    let world = with_an_unfinished_roll();
    world.delete("kept").unwrap();
    assert!(world.topics.topic("kept").is_none());
    world.create("new", 1).unwrap();
    world.produce("new", "one");
    let disk = world.kill();
    disk.clear_faults();
    let world = World::open(disk);
    assert!(world.topics.topic("kept").is_none());
    assert_eq!(world.values("new"), ["one"]);
}
