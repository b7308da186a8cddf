//! Changes of many partitions: who goes first, which names are taken meanwhile, what is owed at the end, and starts that
//! sync many partitions together.

use super::*;
use crate::journal::{Journal, JournalConfig};
use std::sync::mpsc::channel;

/// Many enough for several steps, and to be recovered together.
const MANY: i32 = 80;

/// Topics whose worker does nothing but what it is told.
fn opened(disk: &SimulatedDisk) -> (Topics, CatalogWorker) {
    let (layers, clock) = (BrokerConfig::new(DATA).layers(), Clock::manual(1_700_000_000_000));
    let env = PartitionEnv {
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        flush: FlushQueue::new(clock),
        producers: Arc::default(),
    };
    Topics::open(env, Path::new(DATA), false, &layers.fixed, &Settings::new(&layers)).unwrap()
}

fn new(name: &str, partitions: i32) -> [NewTopic; 1] {
    [NewTopic { name: name.into(), partitions: Some(partitions), configs: Vec::new() }]
}

fn fresh() -> SimulatedDisk {
    World::new(1).kill()
}

#[test]
fn short_changes_go_first_while_many_partitions_are_made() {
    let (topics, worker) = opened(&fresh());
    let (told, hears) = channel();
    let tell = |name: &'static str| {
        let told = told.clone();
        move |result: Result<(), TopicError>| {
            told.send((name, result.map_err(|error| error.to_string()))).unwrap()
        }
    };
    let done = tell("many");
    let _long = topics.change_of(MANY as usize, move |catalog| {
        done(catalog.create_topics(&new("many", MANY), false).remove(0).map(|_| ()));
    });
    let done = tell("long, too");
    let _other = topics.change_of(MANY as usize, move |catalog| {
        done(catalog.create_topics(&new("other", MANY), false).remove(0).map(|_| ()));
    });
    let done = tell("id");
    let _id = topics.change(move |catalog| done(catalog.producer_id().map(|_| ())));
    let done = tell("same name");
    let _same = topics.change(move |catalog| {
        done(catalog.create_topics(&new("many", 1), false).remove(0).map(|_| ()));
    });
    let done = tell("like it");
    let _like = topics.change(move |catalog| {
        let [first, like] = ["a.b", "a_b"].map(|name| catalog.create_topics(&new(name, 1), false).remove(0));
        assert!(first.is_ok());
        done(like.map(|_| ()));
    });
    while worker.step() {}
    let order: Vec<_> = hears.try_iter().collect();
    let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["id", "same name", "like it", "many", "long, too"]);
    let outcomes: Vec<_> = order.iter().map(|(_, outcome)| outcome.is_ok()).collect();
    assert_eq!(outcomes, [true, false, false, true, true], "{order:?}");
    assert_eq!(topics.topic("many").unwrap().partitions().len(), MANY as usize);
    let (kept, replayed) = worker.dumps();
    assert_eq!(kept, replayed);
}

#[test]
fn a_topic_deleted_while_it_grows_is_gone_and_so_is_what_it_grew_by() {
    let disk = fresh();
    let (topics, worker) = opened(&disk);
    let _made = topics.change(|catalog| assert!(catalog.create_topics(&new("t", 1), false)[0].is_ok()));
    worker.step();
    let id = topics.topic("t").unwrap().id;
    let _grown = topics.change_of(usize::MAX, |catalog| {
        assert!(matches!(catalog.create_partitions("t", MANY, false), Err(TopicError::Unknown(_))));
    });
    let _deleted = topics.change(move |catalog| assert!(catalog.delete_topics(&[id])[0].is_ok()));
    while worker.step() {}
    assert_eq!(names(&disk, DATA), ["__kappa_catalog-0"]);
}

#[test]
fn what_a_deleted_topic_held_is_removed_after_the_answer_or_after_the_next_start() {
    let disk = fresh();
    let (topics, worker) = opened(&disk);
    let _made = topics.change(|catalog| assert!(catalog.create_topics(&new("t", MANY), false)[0].is_ok()));
    while worker.step() {}
    let id = topics.topic("t").unwrap().id;
    let _deleted = topics.change_of(MANY as usize, move |catalog| {
        assert!(catalog.delete_topics(&[id])[0].is_ok());
    });
    // It is let go first, when some directories still have the topic's name.
    let _taken = topics.change(|catalog| {
        assert!(matches!(catalog.create_topics(&new("t", 1), false)[0], Err(TopicError::Exists(_))));
    });
    assert!(worker.step());
    let retired =
        |disk: &SimulatedDisk| names(disk, DATA).iter().filter(|name| name.ends_with(".delete")).count();
    assert_eq!(retired(&disk), MANY as usize);
    let _again = topics.change(|catalog| assert!(catalog.create_topics(&new("t", 2), false)[0].is_ok()));
    for left in [MANY, MANY - 1, MANY - 2] {
        worker.step();
        assert_eq!(retired(&disk), left as usize, "a change goes before any removal");
    }
    topics.abandon();
    let disk = disk.power_cut();
    let (topics, worker) = opened(&disk);
    assert_eq!(topics.topic("t").unwrap().partitions().len(), 2);
    while worker.step() {}
    assert_eq!(names(&disk, DATA), ["__kappa_catalog-0", "t-0", "t-1"]);
}

#[test]
fn many_partitions_are_recovered_by_one_sync_of_the_file_system_before_anybody_sees_them() {
    let world = World::new(1);
    world.create("t", MANY).unwrap();
    for partition in world.topics.topic("t").unwrap().partitions().iter() {
        let mut batch = BatchBuilder::new(BatchOptions::default());
        batch.push(1, None, Some(b"a"), std::iter::empty());
        partition.append(batch.finish(0)).unwrap();
    }
    let disk = world.kill();
    for operation in [Operation::SyncData, Operation::SyncDir] {
        let error = io::ErrorKind::Other;
        disk.inject(Fault { operation, path_contains: "/t-".into(), after: 0, times: 1, error });
    }
    let world = World::open(disk);
    assert!(world.disk.has_faults(), "none is synced by itself");
    world.disk.clear_faults();
    assert_eq!(world.values("t"), vec!["a"; MANY as usize]);
    let world = World::open(world.cut_power());
    assert_eq!(world.values("t"), vec!["a"; MANY as usize]);
}

/// Topics whose partitions have a journal, opened as a broker opens them.
fn journaled(disk: &SimulatedDisk) -> (Topics, CatalogWorker) {
    let (layers, clock) = (BrokerConfig::new(DATA).layers(), Clock::manual(1_700_000_000_000));
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let sizes = JournalConfig { misses_before_first: 0, ..JournalConfig::default() };
    let (journal, pieces) = Journal::open(disk.clone(), Path::new(DATA), sizes).unwrap();
    let flush = FlushQueue::with_journal(clock.clone(), journal, pieces, usize::MAX);
    let env = PartitionEnv { disk, clock, flush, producers: Arc::default() };
    let opened = Topics::open(env, Path::new(DATA), false, &layers.fixed, &Settings::new(&layers)).unwrap();
    opened.0.env().flush.begin().unwrap();
    opened
}

#[test]
fn many_partitions_that_only_the_journal_knows_are_made_again_and_synced_together() {
    let disk = fresh();
    let (topics, worker) = journaled(&disk);
    let write = |name: &str| {
        for partition in topics.topic(name).unwrap().partitions().iter() {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            batch.push(1, None, Some(b"a"), std::iter::empty());
            partition.append(batch.finish(0)).unwrap();
        }
        topics.env().flush.run_due();
    };
    for name in ["first", "t"] {
        let _made =
            topics.change(move |catalog| assert!(catalog.create_topics(&new(name, MANY), false)[0].is_ok()));
        while worker.step() {}
        // The first finds no journal yet, and has one made.
        write(name);
    }
    let is_journaled =
        |partition: &Arc<Partition>| partition.needs_sync() && partition.offsets().high_watermark == 1;
    assert!(topics.topic("t").unwrap().partitions().iter().all(is_journaled));
    topics.abandon();
    let disk = disk.power_cut();
    let kept = names(&disk, DATA).iter().filter(|name| name.starts_with("t-")).count();
    assert!(kept < MANY as usize, "their directories were not durable");
    for operation in [Operation::SyncData, Operation::SyncDir] {
        let error = io::ErrorKind::Other;
        disk.inject(Fault { operation, path_contains: "/t-".into(), after: 0, times: 1, error });
    }
    let (topics, _worker) = journaled(&disk);
    assert!(disk.has_faults(), "none is synced by itself");
    topics.abandon();
    disk.clear_faults();
    let (topics, _worker) = journaled(&disk.power_cut());
    assert!(topics.topic("t").unwrap().partitions().iter().all(|partition| values(partition) == "a"));
}
