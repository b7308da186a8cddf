//! Seeded schedules of several instances of one application over a log and a group in memory, in one thread.
//!
//! What an instance asks for is carried out later, in any order that a network allows; instances come, close, crash,
//! stand still and are cut off from the group; the broker restarts. In the end everything that was written to the
//! inputs must be in the views exactly as one undisturbed instance has it; twice only where a crash, a standstill or a
//! cut explains it. At no time may anybody write for a task that the group has given to another, or to nobody. The ordinary test runs the same seeds each time, `KAPPA_SIMULATIONS` so many fresh ones, and
//! `KAPPA_SIMULATION_SEED` one alone, told step by step.

mod applications;
mod cluster;
mod process;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use world::World;

/// Schedules of the ordinary test, and the time after which it is content with fewer.
const SCHEDULES: u64 = 1500;
const TIME_MAX: Duration = Duration::from_secs(15);

/// What is left out, for a test to show that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ignored {
    Nothing,
    /// How long ago the group was heard of, and that it has refused something.
    Fence,
    /// That offsets are written behind everything that follows from the records before them.
    Order,
    /// That what is handed over and not out is forgotten with the tasks.
    Discards,
    /// How far writers say that they have come.
    Frontier,
    /// What has been written to a changelog since its store was left to others of the process.
    Tail,
}

/// Chance, from a seed: SplitMix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    /// An index of something that has so many.
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// The trace of a schedule and how it ended.
fn replay(seed: u64, ignored: Ignored, traced: bool) -> (Vec<String>, Result<(), String>) {
    let mut world = World::new(seed, ignored, traced);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
    });
    (world.trace, outcome)
}

fn check(seed: u64) {
    if let (_, Err(wrong)) = replay(seed, Ignored::Nothing, false) {
        panic!("seed {seed}: {wrong}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn views_are_those_of_one_undisturbed_instance_whatever_happens() {
    if let Some(seed) = number("KAPPA_SIMULATION_SEED") {
        let (trace, outcome) = replay(seed, Ignored::Nothing, true);
        println!("{}", trace.join("\n"));
        return outcome.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    let asked = number("KAPPA_SIMULATIONS");
    let first = match asked {
        Some(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        None => 0,
    };
    let begun = Instant::now();
    let mut done = 0;
    for seed in (first..).take(usize::try_from(asked.unwrap_or(SCHEDULES)).unwrap()) {
        if asked.is_none() && begun.elapsed() > TIME_MAX {
            break;
        }
        check(seed);
        done += 1;
    }
    println!("{done} schedules from seed {first} on, in {:?}", begun.elapsed());
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..20 {
        let (first, second) = (replay(seed, Ignored::Nothing, true), replay(seed, Ignored::Nothing, true));
        let differs = first.0.iter().zip(&second.0).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.1, second.1, "seed {seed}");
    }
}

/// How many of a hundred schedules fail.
fn failures_without(ignored: Ignored) -> usize {
    (0..100).filter(|seed| replay(*seed, ignored, false).1.is_err()).count()
}

#[test]
fn without_the_fence_it_fails() {
    let failures = failures_without(Ignored::Fence);
    assert!(failures >= 2, "{failures} of 100");
}

#[test]
fn without_the_order_of_a_commit_it_fails() {
    let failures = failures_without(Ignored::Order);
    assert!(failures >= 2, "{failures} of 100");
}

#[test]
fn without_frontiers_it_fails() {
    let failures = failures_without(Ignored::Frontier);
    assert!(failures >= 2, "{failures} of 100");
}

#[test]
fn without_the_tail_of_changelogs_it_fails() {
    let failures = failures_without(Ignored::Tail);
    assert!(failures >= 2, "{failures} of 100");
}

#[test]
fn without_discards_it_fails() {
    let failures = failures_without(Ignored::Discards);
    assert!(failures >= 2, "{failures} of 100");
}
