//! Seeded schedules of the whole broker: catalog, topics, groups and durability on a simulated disk, in one thread.
//!
//! A schedule is a list of numbered steps: something is asked, something that waits is carried out (a job, a change of
//! the catalog, a sync, an answer), time passes, the disk fails, the process ends and another begins. What each step
//! does follows from the seed and its number, so a seed can be repeated, and steps can be left out: a failure is told
//! with its seed and the fewest steps that still fail. The ordinary test runs the same seeds each time,
//! `KAPPA_SIMULATIONS` so many fresh ones on all cores (for at most `KAPPA_SIMULATION_SECONDS`, or from
//! `KAPPA_SIMULATION_FROM` on), `KAPPA_SIMULATION_SEED` runs one alone and tells what happened
//! in it, and `KAPPA_SIMULATION_SURVEY` goes on after a failure and tells each kind of failure once.

mod answers;
mod cases;
mod checks;
mod clients;
mod flips;
mod model;
mod random;
mod requests;
mod world;

use crate::safeguard::Safeguard;
use random::Random;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use world::World;

/// That of the daemon: the tests of a process share it, and a simulation does little but ask for memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS_MAX: u64 = 70;
/// Schedules of the ordinary test, and the time after which it is content with fewer.
const SCHEDULES: u64 = 2000;
const TIME_MAX: Duration = Duration::from_secs(20);
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

/// The trace of a schedule and how it ended.
fn replay(
    seed: u64,
    steps: &[u64],
    without: Option<Safeguard>,
    traced: bool,
) -> (Vec<String>, Result<(), String>) {
    Safeguard::take_out(without);
    let mut world = World::new(seed, without);
    world.trace = traced.then(Vec::new);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(steps)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
    });
    let trace = world.trace.take().unwrap_or_default();
    drop(world);
    Safeguard::take_out(None);
    (trace, outcome)
}

fn steps(seed: u64) -> Vec<u64> {
    (0..20 + Random(seed).below(STEPS_MAX - 20)).collect()
}

/// What kind of failure it is: what is wrong without where and how much.
fn kind(wrong: &str) -> String {
    let what = wrong.split_once(": ").map_or(wrong, |(_, what)| what);
    let what = what.split_once(": ").map_or(what, |(_, what)| what);
    what.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

/// The fewest steps, as far as leaving out can tell, that still fail alike.
fn shrink(seed: u64, mut steps: Vec<u64>, wrong: &str) -> Vec<u64> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + size).min(steps.len()));
            if replay(seed, &fewer, None, false).1.is_err_and(|other| kind(&other) == kind(wrong)) {
                steps = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    steps
}

/// A seed that fails, told with what it takes.
fn check(seed: u64) -> Result<(), String> {
    let steps = steps(seed);
    let Err(wrong) = replay(seed, &steps, None, false).1 else { return Ok(()) };
    let few = shrink(seed, steps, &wrong);
    let (trace, outcome) = replay(seed, &few, None, true);
    Err(format!(
        "seed {seed}: {wrong}\nfewest steps {few:?}: {}\n  {}",
        outcome.err().unwrap_or_default(),
        trace.join("\n  ")
    ))
}

/// What came of schedules.
#[derive(Default)]
struct Outcome {
    done: u64,
    /// Failures by kind: how many, and the first seed with what was wrong.
    kinds: BTreeMap<String, (u64, u64, String)>,
}

/// Runs the schedules of `count` seeds from `first` on, by so many threads, until one fails or `time_max` is over; after
/// failures it goes on if that is wanted.
fn run(first: u64, count: u64, threads: usize, time_max: Duration, goes_on: bool) -> Outcome {
    let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let running: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let (begun, (told, failures)) = (Instant::now(), channel());
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        for running in &running {
            let (told, next, stopped) = (told.clone(), &next, &stopped);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) && begun.elapsed() < time_max {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    running.store(seed, Ordering::Relaxed);
                    if let Err(wrong) = replay(seed, &steps(seed), None, false).1 {
                        stopped.fetch_or(!goes_on, Ordering::Relaxed);
                        let _ = told.send((seed, wrong));
                    }
                }
            });
        }
        drop(told);
        loop {
            match failures.recv_timeout(PROGRESS) {
                Ok((seed, wrong)) => {
                    let found = outcome.kinds.entry(kind(&wrong)).or_insert((0, seed, wrong));
                    found.0 += 1;
                    if found.0 == 1 {
                        println!("seed {seed}: {}", found.2);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let done = next.load(Ordering::Relaxed).min(count);
                    let rate = done as f64 / begun.elapsed().as_secs_f64();
                    println!("{done} of {count} schedules, {rate:.0} per second, at {running:?}");
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    outcome.done = next.load(Ordering::Relaxed).min(count);
    outcome
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_was_acknowledged_is_there_whatever_happens() {
    if let Some(seed) = number("KAPPA_SIMULATION_SEED") {
        return check(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let asked = number("KAPPA_SIMULATIONS");
    let goes_on = std::env::var_os("KAPPA_SIMULATION_SURVEY").is_some();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let (first, threads, time_max) = match asked {
        Some(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seconds = number("KAPPA_SIMULATION_SECONDS").map_or(Duration::MAX, Duration::from_secs);
            let first = number("KAPPA_SIMULATION_FROM").unwrap_or(now.as_nanos() as u64);
            (first, cores, seconds)
        }
        None => (0, 1, TIME_MAX),
    };
    let begun = Instant::now();
    let outcome = run(first, asked.unwrap_or(SCHEDULES), threads, time_max, goes_on);
    println!("{} schedules from seed {first} on, in {:?}", outcome.done, begun.elapsed());
    for (count, seed, wrong) in outcome.kinds.values() {
        println!("{count} times, first by seed {seed}: {wrong}");
    }
    if let Some((_, seed, _)) = outcome.kinds.values().next() {
        check(*seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        panic!("seed {seed} fails only now and then");
    }
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..20 {
        let (first, second) =
            (replay(seed, &steps(seed), None, true), replay(seed, &steps(seed), None, true));
        let differs = first.0.iter().zip(&second.0).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.1, second.1, "seed {seed}");
    }
}

/// That some schedule fails where a safeguard is taken out.
fn is_noticed(safeguard: Safeguard) {
    let fails = |seed: &u64| replay(*seed, &steps(*seed), Some(safeguard), false).1.is_err();
    let seed = (0..SCHEDULES).find(fails);
    println!("{safeguard:?}: by seed {seed:?}");
    assert!(seed.is_some(), "nothing notices that there is no {safeguard:?}");
}

#[test]
fn without_syncs_it_fails() {
    is_noticed(Safeguard::Syncs);
}

#[test]
fn without_syncs_of_directories_it_fails() {
    is_noticed(Safeguard::SyncsOfDirectories);
}

#[test]
fn without_the_rewrite_of_checkpoints_it_fails() {
    is_noticed(Safeguard::CheckpointRewrite);
}

#[test]
fn without_the_replay_of_the_journal_it_fails() {
    is_noticed(Safeguard::JournalReplay);
}

#[test]
fn without_the_second_write_it_fails() {
    is_noticed(Safeguard::SecondWrite);
}

#[test]
fn without_a_new_leader_epoch_it_fails() {
    is_noticed(Safeguard::EpochFloor);
}
