//! Kills: a broker under load dies by SIGKILL at a random moment and starts again on the same directory, many times.
//!
//! After each start, everything that was acknowledged is there: records exactly once, in order, with their bytes;
//! committed offsets; topics and configs; and no producer id was given out twice. At the end every index must be equal to
//! the one that a fresh scan of the log builds. A kill loses no page of the operating system's cache: power cuts are
//! tested where the disk is simulated.
//!
//! `KAPPA_KILLS` sets the number of kills (4), `KAPPA_SEED` their moments.

mod catalog;
mod indexes;
mod load;
mod reborn;

use crate::harness::daemon::Daemon;
use crate::harness::random::Random;
use crate::harness::wire::Wire;
use crate::harness::{alone, becomes_true, setting};
use catalog::Catalog;
use load::{Committer, Idempotent, Ids, Plain};
use reborn::Reborn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Small segments and dense indexes, so that kills fall into rolls and index writes too.
const SETTINGS: &[&str] = &["log.segment.bytes=65536", "log.index.interval.bytes=256"];

/// Something that keeps the broker busy and remembers what the broker owes it.
trait Load: Send {
    /// Topics and the like, once, before the first kill.
    fn set_up(&mut self, wire: &mut Wire);

    /// Works until the connection breaks; `acknowledged` counts what was.
    fn work(&mut self, wire: &mut Wire, acknowledged: &AtomicU64) -> io::Result<()>;

    /// Panics unless everything acknowledged is there.
    fn verify(&mut self, wire: &mut Wire, depth: Depth);
}

/// How much is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What was added since the last time.
    News,
    /// Everything from the beginning.
    All,
}

#[test]
fn whatever_was_acknowledged_survives_a_kill() {
    let _alone = alone();
    let kills = setting("KAPPA_KILLS", 4);
    let seed = setting("KAPPA_SEED", u64::from(std::process::id()));
    println!("{kills} kills with KAPPA_SEED={seed}");
    let mut random = Random::new(seed);
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let ids = Ids::new();
    let mut loads: Vec<Box<dyn Load>> = vec![
        Box::new(Idempotent::new("idempotent", 0, ids.clone())),
        Box::new(Idempotent::new("idempotent", 1, ids.clone())),
        Box::new(Plain::new("plain")),
        Box::new(Committer::new("committed")),
        Box::new(Catalog::new()),
        Box::new(Reborn::new()),
        Box::new(ids),
    ];

    let mut daemon = Daemon::start(&data, SETTINGS);
    connected(daemon.address(), &mut loads, |load, wire| load.set_up(wire));
    let mut slowest_start = Duration::ZERO;
    for kill in 0..kills {
        let acknowledged = work_until_killed(&mut daemon, &mut loads, &mut random);
        daemon = Daemon::start(&data, SETTINGS);
        slowest_start = slowest_start.max(daemon.started_in());
        println!("kill {kill}: {acknowledged} acknowledged, started again in {:?}", daemon.started_in());
        connected(daemon.address(), &mut loads, |load, wire| load.verify(wire, Depth::News));
    }
    connected(daemon.address(), &mut loads, |load, wire| load.verify(wire, Depth::All));
    assert!(daemon.stop().success(), "a clean stop ends with 0");
    indexes::assert_equal_to_a_fresh_scan(&data, SETTINGS);
    println!("{kills} kills, slowest start {slowest_start:?}");
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let daemon = Daemon::start(&data, &[]);
    let second = crate::harness::daemon::command(&data, &[]).output().expect("the binary runs");
    assert!(!second.status.success());
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(errors.contains("data"), "the message names the directory: {errors}");
    assert!(daemon.stop().success());
}

#[test]
fn a_directory_that_is_not_ours_is_refused_untouched() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let strange = home.path().join("letters");
    std::fs::create_dir(&strange).expect("the parent is ours");
    std::fs::write(strange.join("dear.txt"), "dear").expect("the directory is ours");
    let refused = crate::harness::daemon::command(&strange, &[]).output().expect("the binary runs");
    assert!(!refused.status.success());
    let left: Vec<_> = std::fs::read_dir(&strange).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dear.txt"]);
}

/// Runs `action` for each load on a connection of its own.
fn connected(
    address: SocketAddr,
    loads: &mut [Box<dyn Load>],
    mut action: impl FnMut(&mut Box<dyn Load>, &mut Wire),
) {
    for load in loads {
        let mut wire = Wire::connect(address).expect("the broker listens");
        action(load, &mut wire);
    }
}

/// All loads work at once; some random time after each had an acknowledgement, the broker is killed.
fn work_until_killed(daemon: &mut Daemon, loads: &mut [Box<dyn Load>], random: &mut Random) -> u64 {
    let address = daemon.address();
    let counters: Vec<AtomicU64> = loads.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (load, acknowledged) in loads.iter_mut().zip(&counters) {
            scope.spawn(move || {
                // Any error means that the broker is gone, as it must be sooner or later.
                let _ = Wire::connect(address).and_then(|mut wire| load.work(&mut wire, acknowledged));
            });
        }
        // Killed in any case: the threads end only when their connections break.
        becomes_true(|| counters.iter().all(|counter| counter.load(Ordering::Relaxed) > 0));
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        daemon.kill();
    });
    let counters = counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert!(
        counters.iter().all(|counter| *counter > 0),
        "acknowledged by load: {counters:?}\n{}",
        daemon.errors()
    );
    counters.iter().sum()
}
