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
use kappa_streams::{DriverError, TestDriver};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

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
}

/// How a vector is run.
#[derive(Debug, Clone, Copy)]
struct Way {
    partitions: i32,
    commit_every: usize,
    between: Between,
}

const PLAIN: Way = Way { partitions: 1, commit_every: 1, between: Between::Nothing };

/// Runs one vector; an error says what is not built, or where the outputs differ.
fn run(vector: &Value, way: Way) -> Result<(), String> {
    if vector.get("attached_nodes").is_some() {
        return Err("shows the changes inside a table node, which the public language does not".to_owned());
    }
    if vector.get("config").is_some_and(|config| config.get("upgrade.from").is_some()) {
        return Err("a rolling upgrade from an older Kafka Streams".to_owned());
    }
    if vector.get("types").is_some_and(|types| types.to_string().contains("NoEqualsImpl")) {
        return Err("shows the identity of Java objects, new in every run".to_owned());
    }
    let topology = Interpreter::wire(vector)?.build().map_err(|errors| errors.to_string())?;
    let driver = TestDriver::new(&topology).partitions(way.partitions).commit_every(way.commit_every);
    let mut driver = driver.start().map_err(|error| error.to_string())?;
    let sinks = sinks(vector);
    for (number, step) in vector.get("steps").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let Some(input) = step.get("in") else { continue };
        let wrong = || format!("step {number} is not readable");
        let field = |index: usize| input.get(index).ok_or_else(wrong);
        let (key, value) =
            (Datum::read(field(1)?).ok_or_else(wrong)?, Datum::read(field(2)?).ok_or_else(wrong)?);
        let topic = driver.input(field(0)?.as_str().ok_or_else(wrong)?, (Data, Data));
        let timestamp = field(3)?.as_i64().ok_or_else(wrong)?;
        topic.pipe(&mut driver, key, value, timestamp).map_err(|error| format!("step {number}: {error}"))?;
        let mut outputs = drain(&mut driver, &sinks).map_err(|error| format!("step {number}: {error}"))?;
        let mut expected = expected(step).ok_or_else(wrong)?;
        if way.partitions > 1 {
            // Partitions have no order among them.
            for records in outputs.values_mut().chain(expected.values_mut()) {
                records.sort_by_cached_key(|record| format!("{record:?}"));
            }
        }
        let disturbed = match way.between {
            Between::Nothing => Ok(()),
            Between::Crash => driver.crash(),
            Between::Rebalance => driver.rebalance(),
        };
        disturbed.map_err(|error| format!("step {number}: {error}"))?;
        if outputs != expected {
            return Err(format!("step {number} gives {outputs:?} instead of {expected:?}"));
        }
    }
    Ok(())
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
    assert!(passing >= 68, "only {passing} vectors pass");
}

#[test]
fn what_passes_does_so_however_it_is_run() {
    let ways = [
        Way { between: Between::Crash, ..PLAIN },
        Way { between: Between::Rebalance, ..PLAIN },
        Way { commit_every: 2, between: Between::Rebalance, ..PLAIN },
        Way { commit_every: 3, ..PLAIN },
        Way { commit_every: 1000, ..PLAIN },
        Way { partitions: 3, commit_every: 2, between: Between::Rebalance },
    ];
    let mut wrong = Vec::new();
    for vector in vectors().iter().filter(|vector| run(vector, PLAIN).is_ok()) {
        let id = vector.get("id").and_then(Value::as_str).unwrap();
        for way in ways {
            if let Err(reason) = run(vector, way) {
                wrong.push(format!("{id} {way:?}: {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
