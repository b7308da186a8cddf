//! Seeded schedules of several instances of one application over a log and a group in memory, in one thread.
//!
//! What an instance asks for is carried out later, in any order that a network allows; instances come, close, crash,
//! stand still and are cut off from the group; the broker restarts. In the end everything that was written to the
//! inputs must be in the views exactly as one undisturbed instance has it; twice only where a crash, a standstill or a
//! cut explains it. At no time may anybody write for a task that the group has given to another, or to nobody. The ordinary test runs the same seeds each time, `KAPPA_SIMULATIONS` so many fresh ones, and
//! `KAPPA_SIMULATION_SEED` one alone, told step by step.

mod applications;
mod cluster;
mod composed;
mod process;
mod world;

use crate::safeguard::{Safeguard, without};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use world::World;

/// Schedules of the ordinary test, and the time after which it is content with fewer.
const SCHEDULES: u64 = 1500;
const TIME_MAX: Duration = Duration::from_secs(15);

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

/// The trace of a schedule, without a safeguard if one is given, and how it ended.
fn replay(seed: u64, left_out: Option<Safeguard>, traced: bool) -> (Vec<String>, Result<(), String>) {
    let mut world = World::new(seed, traced);
    let outcome = without(left_out, || catch_unwind(AssertUnwindSafe(|| world.run())));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
    });
    (world.trace, outcome)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn views_are_those_of_one_undisturbed_instance_whatever_happens() {
    if let Some(seed) = number("KAPPA_SIMULATION_SEED") {
        let (trace, outcome) = replay(seed, None, true);
        println!("{}", trace.join("\n"));
        return outcome.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    let asked = number("KAPPA_SIMULATIONS");
    let first = match asked {
        Some(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        None => 0,
    };
    let begun = Instant::now();
    let (mut done, mut wrong) = (0, Vec::new());
    for seed in (first..).take(usize::try_from(asked.unwrap_or(SCHEDULES)).unwrap()) {
        if asked.is_none() && begun.elapsed() > TIME_MAX {
            break;
        }
        if let (_, Err(how)) = replay(seed, None, false) {
            println!("seed {seed}: {how}");
            wrong.push(seed);
        }
        done += 1;
    }
    println!("{done} schedules from seed {first} on, in {:?}", begun.elapsed());
    assert!(wrong.is_empty(), "these seeds fail: {wrong:?}");
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..20 {
        let (first, second) = (replay(seed, None, true), replay(seed, None, true));
        let differs = first.0.iter().zip(&second.0).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.1, second.1, "seed {seed}");
    }
}

/// Of a hundred schedules without it, or of a hundred such ones, at least two fail.
fn is_missed_in(safeguard: Safeguard, such: impl Fn(&World) -> bool) {
    let seeds = (0..).filter(|seed| such(&World::new(*seed, false))).take(100);
    let failures: Vec<u64> =
        seeds.filter(|seed| replay(*seed, Some(safeguard), false).1.is_err()).take(2).collect();
    println!("without {safeguard:?}: {failures:?}");
    assert_eq!(failures.len(), 2, "without {safeguard:?} only these fail: {failures:?}");
}

fn is_missed(safeguard: Safeguard) {
    is_missed_in(safeguard, |_| true);
}

#[test]
fn without_the_fence_it_fails() {
    is_missed(Safeguard::Fence);
}

#[test]
fn without_the_order_of_a_commit_it_fails() {
    is_missed(Safeguard::Order);
}

#[test]
fn without_results_before_rows_it_fails() {
    is_missed_in(Safeguard::Results, World::moves_rows);
}

#[test]
fn without_frontiers_it_fails() {
    is_missed(Safeguard::Frontier);
}

#[test]
fn without_the_tail_of_changelogs_it_fails() {
    is_missed(Safeguard::Tail);
}

#[test]
fn without_discards_it_fails() {
    is_missed(Safeguard::Discards);
}

#[test]
fn without_restoring_as_it_was_processed_it_fails() {
    is_missed(Safeguard::Fold);
}

#[test]
fn without_generational_ids_it_fails() {
    is_missed(Safeguard::GenerationalIds);
}

#[test]
fn without_bounds_on_leads_it_fails() {
    is_missed_in(Safeguard::Leads, World::is_abundant);
}
