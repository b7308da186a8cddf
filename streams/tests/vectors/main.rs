//! Runs the vectors recorded from Apache Kafka Streams' own tests.
//!
//! Every vector either gives exactly the recorded outputs of every step, or stands in `not_passing.txt` with the
//! reason; a listed vector that passes, or fails for another reason, is an error too. With `KAPPA_VECTORS_UPDATE`
//! set the list is written anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here is a failure of the test")]

mod datum;
mod functions;
mod interpreter;

use datum::{Data, Datum};
use interpreter::Interpreter;
use kappa_streams::{DriverError, Dump, TestDriver, Topology};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

type Outputs = BTreeMap<String, Vec<(Datum, Datum, i64)>>;

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors"))
}

fn vectors() -> Vec<Value> {
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let mut file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        match file.get_mut("vectors").map(Value::take) {
            Some(Value::Array(vectors)) => vectors,
            _ => panic!("{} has no vectors", path.display()),
        }
    };
    files.iter().flat_map(read).collect()
}

/// Outputs that a step must give.
fn expected(step: &Value) -> Option<Outputs> {
    let mut outputs = Outputs::new();
    for (sink, records) in step.get("out").and_then(Value::as_object).into_iter().flatten() {
        for record in records.as_array()? {
            let field = |index: usize| record.get(index);
            let (key, value) = (Datum::read(field(0)?)?, Datum::read(field(1)?)?);
            outputs.entry(sink.clone()).or_default().push((key, value, field(2)?.as_i64()?));
        }
    }
    Some(outputs)
}

fn drain(driver: &mut TestDriver, sinks: &[String]) -> Result<Outputs, DriverError> {
    let mut outputs = Outputs::new();
    for sink in sinks {
        let records = driver.output(sink, (Data, Data))?.drain(driver)?;
        let records = records.into_iter().map(|record| (record.key, record.value, record.timestamp));
        let records: Vec<_> = records.collect();
        if !records.is_empty() {
            outputs.insert(sink.clone(), records);
        }
    }
    Ok(outputs)
}

fn sinks(vector: &Value) -> Vec<String> {
    let ops = vector.get("topology").and_then(Value::as_array).into_iter().flatten();
    let sink = |op: &Value| match op.get("op")?.as_str()? {
        "process" => Some(op.get("sink")?.as_str()?.to_owned()),
        "to" => Some(op.get("args")?.get(0)?.as_str()?.to_owned()),
        _ => None,
    };
    ops.filter_map(sink).collect()
}

/// What happens after each step of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    Crash,
    Rebalance,
    /// A commit, a commit and a crash, a rebalance or nothing, by chance from this seed.
    Chance(u64),
}

/// How a vector is run.
#[derive(Debug, Clone, Copy)]
struct Way {
    partitions: i32,
    commit_every: usize,
    between: Between,
}

const PLAIN: Way = Way { partitions: 1, commit_every: 1, between: Between::Nothing };

/// A number that depends on nothing but these two.
fn chance(seed: u64, step: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, step).hash(&mut hasher);
    hasher.finish()
}

fn disturb(driver: &mut TestDriver, between: Between, step: usize) -> Result<(), DriverError> {
    match between {
        Between::Nothing => Ok(()),
        Between::Crash => {
            driver.crash()?;
            // What was not committed is processed again before anything new.
            driver.run()
        }
        Between::Rebalance => driver.rebalance(),
        Between::Chance(seed) => match chance(seed, step) % 5 {
            0 => driver.commit(),
            1 => {
                driver.commit()?;
                driver.crash()
            }
            2 => driver.rebalance(),
            _ => Ok(()),
        },
    }
}

/// Outputs of each step, those that it must give, and what is in the stores in the end.
struct Played {
    steps: Vec<(Outputs, Outputs)>,
    dump: Dump,
}

impl Played {
    /// Every output that there is, or that must be, once.
    fn distinct(&self, of: impl Fn(&(Outputs, Outputs)) -> &Outputs) -> BTreeSet<String> {
        let records = self.steps.iter().flat_map(of);
        records
            .flat_map(|(sink, records)| records.iter().map(move |record| format!("{sink} {record:?}")))
            .collect()
    }
}

fn topology(vector: &Value) -> Result<Topology, String> {
    if vector.get("attached_nodes").is_some() {
        return Err("shows the changes inside a table node, which the public language does not".to_owned());
    }
    if vector.get("config").is_some_and(|config| config.get("upgrade.from").is_some()) {
        return Err("a rolling upgrade from an older Kafka Streams".to_owned());
    }
    if vector.get("types").is_some_and(|types| types.to_string().contains("NoEqualsImpl")) {
        return Err("shows the identity of Java objects, new in every run".to_owned());
    }
    Interpreter::wire(vector)?.build().map_err(|errors| errors.to_string())
}

fn steps(vector: &Value) -> impl Iterator<Item = &Value> {
    vector.get("steps").and_then(Value::as_array).into_iter().flatten()
}

/// Plays the inputs of one vector; an error says what is not built or has failed.
fn play(vector: &Value, way: Way) -> Result<Played, String> {
    let topology = topology(vector)?;
    let driver = TestDriver::new(&topology).partitions(way.partitions).commit_every(way.commit_every);
    let mut driver = driver.start().map_err(|error| error.to_string())?;
    let sinks = sinks(vector);
    let mut played = Vec::new();
    for (number, step) in steps(vector).enumerate() {
        let Some(input) = step.get("in") else { continue };
        let wrong = || format!("step {number} is not readable");
        let failed = |error: DriverError| format!("step {number}: {error}");
        let field = |index: usize| input.get(index).ok_or_else(wrong);
        let (key, value) =
            (Datum::read(field(1)?).ok_or_else(wrong)?, Datum::read(field(2)?).ok_or_else(wrong)?);
        let topic = driver.input(field(0)?.as_str().ok_or_else(wrong)?, (Data, Data));
        let timestamp = field(3)?.as_i64().ok_or_else(wrong)?;
        topic.pipe(&mut driver, key, value, timestamp).map_err(failed)?;
        let outputs = drain(&mut driver, &sinks).map_err(failed)?;
        played.push((outputs, expected(step).ok_or_else(wrong)?));
        disturb(&mut driver, way.between, number).map_err(failed)?;
    }
    let mut end = || {
        driver.run()?;
        driver.commit()?;
        played.push((drain(&mut driver, &sinks)?, Outputs::new()));
        driver.dump()
    };
    let dump = end().map_err(|error| error.to_string())?;
    Ok(Played { steps: played, dump })
}

/// Runs one vector; an error says what is not built, or where the outputs differ.
fn run(vector: &Value, way: Way) -> Result<(), String> {
    for (number, (mut outputs, mut expected)) in play(vector, way)?.steps.into_iter().enumerate() {
        if way.partitions > 1 {
            // Partitions have no order among them.
            for records in outputs.values_mut().chain(expected.values_mut()) {
                records.sort_by_cached_key(|record| format!("{record:?}"));
            }
        }
        if outputs != expected {
            return Err(format!("step {number} gives {outputs:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

/// Whether the outcome of a vector is defined though records are processed again, in whatever order those of several
/// topics come then: nothing is kept, or all of it is of one task that goes back as a whole and reads one topic.
fn has_one_outcome(vector: &Value) -> bool {
    let ops = || vector.get("topology").and_then(Value::as_array).into_iter().flatten();
    let keeps = |op: &Value| {
        let op = op.get("op").and_then(Value::as_str).unwrap_or_default();
        ["count", "reduce", "aggregate", "join", "leftJoin", "toTable", "table", "globalTable"].contains(&op)
    };
    let topics: BTreeSet<&str> = steps(vector).filter_map(|step| step.get("in")?.get(0)?.as_str()).collect();
    let stages = topology(vector).map_or(0, |topology| topology.describe().matches("sub-topology").count());
    !ops().any(keeps) || stages == 1 && topics.len() == 1
}

#[test]
fn every_vector_passes_or_is_listed_with_its_reason() {
    let results: BTreeMap<String, Result<(), String>> = vectors()
        .iter()
        .map(|vector| (vector.get("id").and_then(Value::as_str).unwrap().to_owned(), run(vector, PLAIN)))
        .collect();
    let path = directory().join("not_passing.txt");
    if std::env::var_os("KAPPA_VECTORS_UPDATE").is_some() {
        let mut list = String::new();
        for (id, result) in &results {
            if let Err(reason) = result {
                let _ = writeln!(list, "{id}: {reason}");
            }
        }
        fs::write(&path, list).unwrap();
    }
    let list = fs::read_to_string(&path).unwrap();
    let listed: BTreeMap<&str, &str> = list.lines().filter_map(|line| line.split_once(": ")).collect();
    let mut wrong = Vec::new();
    for (id, result) in &results {
        match (result, listed.get(&**id)) {
            (Ok(()), None) => {}
            (Err(reason), Some(listed)) if reason == listed => {}
            (Ok(()), Some(_)) => wrong.push(format!("{id} passes but is listed")),
            (Err(reason), _) => wrong.push(format!("{id}: {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{} vectors:\n{}", wrong.len(), wrong.join("\n"));
    let unknown: Vec<_> = listed.keys().filter(|id| !results.contains_key(**id)).collect();
    assert!(unknown.is_empty(), "listed but not there: {unknown:?}");
    let passing = results.values().filter(|result| result.is_ok()).count();
    assert!(passing >= 71, "only {passing} vectors pass");
}

/// Tries every vector that passes in each of these ways.
fn all_pass(ways: &[Way], mut wrong_in: impl FnMut(&Value, Way) -> Result<(), String>) {
    let mut wrong = Vec::new();
    for vector in vectors().iter().filter(|vector| run(vector, PLAIN).is_ok()) {
        let id = vector.get("id").and_then(Value::as_str).unwrap();
        for way in ways {
            if let Err(reason) = wrong_in(vector, *way) {
                wrong.push(format!("{id} {way:?}: {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_passes_does_so_with_a_crash_or_a_move_after_each_step() {
    let ways = [
        Way { between: Between::Crash, ..PLAIN },
        Way { between: Between::Rebalance, ..PLAIN },
        Way { commit_every: 2, between: Between::Rebalance, ..PLAIN },
    ];
    all_pass(&ways, run);
}

#[test]
fn what_passes_does_so_with_three_partitions() {
    let three = Way { partitions: 3, ..PLAIN };
    let ways = [
        three,
        Way { between: Between::Crash, ..three },
        Way { commit_every: 2, between: Between::Rebalance, ..three },
        Way { commit_every: 1000, ..three },
    ];
    all_pass(&ways, run);
}

#[test]
fn what_passes_does_so_whenever_it_is_committed() {
    let mut ways = vec![Way { commit_every: 3, ..PLAIN }, Way { commit_every: 1000, ..PLAIN }];
    for seed in 0..20 {
        let by_chance = Way { between: Between::Chance(seed), ..PLAIN };
        ways.extend([1, 3].map(|partitions| Way { partitions, commit_every: 1000, ..by_chance }));
        ways.push(Way { commit_every: 1 + chance(seed, 0) as usize % 5, ..by_chance });
    }
    all_pass(&ways, run);
}

#[test]
fn a_crash_with_records_not_committed_repeats_outputs_and_changes_no_outcome() {
    let ways = [2, 3, 1000].map(|commit_every| Way { commit_every, between: Between::Crash, ..PLAIN });
    let (mut compared, mut repeated) = (0, 0);
    all_pass(&ways, |vector, way| {
        if !has_one_outcome(vector) {
            return Ok(());
        }
        compared += 1;
        let (plain, crashed) = (play(vector, PLAIN)?, play(vector, way)?);
        let outputs = |played: &Played| -> usize {
            played.steps.iter().flat_map(|(outputs, _)| outputs.values().map(Vec::len)).sum()
        };
        repeated += outputs(&crashed) - outputs(&plain);
        let (found, expected) = (crashed.distinct(|step| &step.0), plain.distinct(|step| &step.1));
        if found != expected {
            return Err(format!("gives {found:?} instead of {expected:?}"));
        }
        match crashed.dump == plain.dump {
            true => Ok(()),
            false => Err(format!("keeps {:?} instead of {:?}", crashed.dump, plain.dump)),
        }
    });
    println!("{compared} compared, {repeated} outputs repeated");
    assert!(compared >= 60 && repeated > 0, "{compared} compared, {repeated} outputs repeated");
}
