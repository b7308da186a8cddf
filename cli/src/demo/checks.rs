//! What must hold after both passes, checked one by one and said out loud.

use super::{data::FLIGHT_COUNT, pass::Pass};
use crate::{
    error::{Exit, Failure},
    output::{self, grouped},
};
use std::collections::BTreeMap;

/// One thing that must hold.
struct Check {
    holds: bool,
    /// What was found, in words that are true either way.
    found: String,
}

/// Prints every check and fails if one does not hold.
pub(super) fn verdict(first: &Pass, replay: &Pass) -> Result<(), Failure> {
    let checks = [
        all_counted("the first pass", first),
        all_counted("the replay", replay),
        none_late(first, replay),
        repartitioned("the first pass", first),
        repartitioned("the replay", replay),
        same_entries(first, replay),
    ];
    for Check { holds, found } in &checks {
        output::line(&format!("{} {found}", if *holds { "ok  " } else { "FAIL" }))?;
    }
    let failed = checks.iter().filter(|check| !check.holds).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Unsound, format!("{failed} of {} checks do not hold", checks.len())))
}

fn all_counted(which: &str, pass: &Pass) -> Check {
    let (airlines, hourly) = pass.report.flights();
    let expected = FLIGHT_COUNT as i64;
    Check {
        holds: airlines == expected && hourly == expected,
        found: format!(
            "{which} counted {} flights by airline and {} by hour, of {}",
            grouped(airlines.unsigned_abs()),
            grouped(hourly.unsigned_abs()),
            grouped(FLIGHT_COUNT as u64),
        ),
    }
}

fn none_late(first: &Pass, replay: &Pass) -> Check {
    let (first, replay) = (first.counters.late, replay.counters.late);
    Check {
        holds: first == 0 && replay == 0,
        found: format!("{first} flights dropped as late in the first pass, {replay} in the replay"),
    }
}

fn repartitioned(which: &str, pass: &Pass) -> Check {
    let (written, consumed) = pass.repartitioned;
    // Every flight goes through three repartition topics, and every change of a route through a fourth.
    let expected = 4 * FLIGHT_COUNT as i64;
    Check {
        holds: written == consumed && written >= expected,
        found: format!(
            "{which} consumed {} repartition records of {} written",
            grouped(consumed.unsigned_abs()),
            grouped(written.unsigned_abs())
        ),
    }
}

fn same_entries(first: &Pass, replay: &Pass) -> Check {
    let entries = |pass: &Pass| pass.entries.values().map(Vec::len).sum::<usize>();
    let holds = first.entries == replay.entries && !first.entries.is_empty();
    let found = if holds {
        format!(
            "all {} store entries are the same: key, value and timestamp, in key order",
            grouped(entries(first) as u64)
        )
    } else {
        format!(
            "{} store entries in the first pass, {} in the replay: {}",
            entries(first),
            entries(replay),
            difference(first, replay)
        )
    };
    Check { holds, found }
}

/// The first store of a task whose entries differ.
fn difference(first: &Pass, replay: &Pass) -> String {
    let stores: BTreeMap<_, _> = first.entries.iter().chain(&replay.entries).collect();
    let differs = stores.into_keys().find(|store| first.entries.get(store) != replay.entries.get(store));
    match differs {
        None => "there are none at all".to_owned(),
        Some(store) => {
            let entries = |pass: &Pass| pass.entries.get(store).cloned().unwrap_or_default();
            let (a, b) = (entries(first), entries(replay));
            let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            format!(
                "store {} of task {} differs from entry {at} on: {:?} and {:?}",
                store.0,
                store.1,
                a.get(at),
                b.get(at)
            )
        }
    }
}
