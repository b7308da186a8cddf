//! The functions that vectors name, as far as their recorded form tells what they do.

use crate::datum::Datum;
use serde_json::Value;

/// What a function sees; parts it has no use for are null.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// The record's key.
    pub key: Datum,
    /// The record's value, or the joined stream's.
    pub value: Datum,
    /// The aggregate, or the other side of a join.
    pub other: Datum,
}

/// A function read from a vector.
#[derive(Debug, Clone)]
pub(crate) enum Function {
    /// Text with `{key}`, `{value}`, `{agg}`, `{left}`, `{right}` filled in; a lone placeholder is the datum itself.
    Template(String),
    /// Known by its description.
    Known(String),
    /// A constant.
    Constant(Datum),
    /// A key and a value.
    Pair(Box<Function>, Box<Function>),
}

const KNOWN: &[&str] = &[
    "second comma-separated token of value; null if value is null or has one token",
    "value % 2 == 0",
    "key % 2 == 0",
    "key % 3 == 0",
    "key % 3 == 0 (branch is consumed, no output)",
    "key % 5 == 0 (branch is dropped, no output)",
    "key % 7 == 0",
    "key < 0",
    "value equals 'accept' ignoring case",
    "swap key and value",
    "same key and value",
    "length of value",
    "length of value + key",
    "list ['v'+value, 'V'+value]",
    "list ['v'+value, 'k'+key]",
    "code of first character - 48",
    "key becomes the text [k@start/end], value unchanged",
    "one-element list with the same key and value",
    "always null",
    "parse int",
];

impl Function {
    /// Functions that the recording leaves open and the named test's source tells.
    pub(crate) fn of_vector(id: &str, operator: &str, index: usize) -> Option<Function> {
        let name = match (id, operator, index) {
            ("group-aggregate-022", "groupBy", 0) => {
                "value as key and value; nulls for the keys null and NULL"
            }
            ("group-aggregate-023", "groupBy", 0) => "first and second character of key",
            ("group-aggregate-023", "aggregate", 2) => "aggregate without value",
            ("stateless-and-table-ops-014", "flatMap", 0) => {
                "one copy per unit of key, keys ten times key plus number"
            }
            ("stateless-and-table-ops-015", "selectKey", 0) => "value in words",
            ("stateless-and-table-ops-017", "map", 0) => "first character of key, counted from A",
            ("stateless-and-table-ops-025", "mapValues", 0) => "first character of value, counted from a",
            ("stateless-and-table-ops-042", "mapValues", 0) => "code of first character - 48",
            ("stateless-and-table-ops-043", "toStream", 0) => "key in words",
            _ => return None,
        };
        Some(Function::Known(name.to_owned()))
    }

    /// Reads a function, or says why its recording does not tell what it does.
    pub(crate) fn read(spec: &Value) -> Result<Function, String> {
        if let Some(does) = spec.get("does").and_then(Value::as_str) {
            return match KNOWN.contains(&does) {
                true => Ok(Function::Known(does.to_owned())),
                false => Err(format!("function not known to the runner: {does}")),
            };
        }
        if let Some(value) = spec.get("value") {
            return Ok(Function::Constant(Datum::read(value).ok_or("constant not readable")?));
        }
        match spec.get("template") {
            Some(Value::String(template)) => Ok(Function::Template(template.clone())),
            Some(Value::Array(pair)) => match &pair[..] {
                [Value::String(key), Value::String(value)] => Ok(Function::Pair(
                    Box::new(Function::Template(key.clone())),
                    Box::new(Function::Template(value.clone())),
                )),
                _ => Err("pair template not readable".to_owned()),
            },
            _ => Err("the function's recording does not tell what it does".to_owned()),
        }
    }

    /// The one value it makes.
    pub(crate) fn one(&self, args: &Args) -> Datum {
        match self {
            Function::Constant(datum) => datum.clone(),
            Function::Template(template) => fill(template, args),
            Function::Pair(_, value) => value.one(args),
            Function::Known(does) => known(does, args),
        }
    }

    /// The key and value it makes.
    pub(crate) fn pair(&self, args: &Args) -> (Datum, Datum) {
        match self {
            Function::Pair(key, value) => (key.one(args), value.one(args)),
            Function::Known(does) if does == "swap key and value" => (args.value.clone(), args.key.clone()),
            Function::Known(does) if does == "same key and value" => {
                let value = match args.value {
                    Datum::Float(number) => Datum::Int(number as i64),
                    ref value => value.clone(),
                };
                (args.key.clone(), value)
            }
            Function::Known(does) if does.starts_with("key becomes the text") => {
                (Datum::Text(args.key.to_string()), args.value.clone())
            }
            Function::Known(does) if does.starts_with("value as key and value") => match args.key.to_string()
            {
                key if does.contains("nulls") && key == "null" => (Datum::Null, args.value.clone()),
                key if does.contains("nulls") && key == "NULL" => (args.value.clone(), Datum::Null),
                _ => (args.value.clone(), args.value.clone()),
            },
            Function::Known(does) if does == "first and second character of key" => {
                let key = args.key.to_string();
                let at = |index: usize| Datum::Text(key.chars().skip(index).take(1).collect());
                (at(0), at(1))
            }
            Function::Known(does) if does == "first character of key, counted from A" => {
                (character(&args.key, b'A'), args.value.clone())
            }
            _ => (args.key.clone(), args.value.clone()),
        }
    }

    /// The values it makes.
    pub(crate) fn list(&self, args: &Args) -> Vec<Datum> {
        let text = |prefix: &str, datum: &Datum| Datum::Text(format!("{prefix}{datum}"));
        match self {
            Function::Known(does) if does == "list ['v'+value, 'V'+value]" => {
                vec![text("v", &args.value), text("V", &args.value)]
            }
            Function::Known(does) if does == "list ['v'+value, 'k'+key]" => {
                vec![text("v", &args.value), text("k", &args.key)]
            }
            _ => vec![args.value.clone()],
        }
    }

    /// The keys and values it makes.
    pub(crate) fn pairs(&self, args: &Args) -> Vec<(Datum, Datum)> {
        match self {
            Function::Known(does) if does.starts_with("one copy per unit of key") => {
                let key = args.key.int().unwrap_or(0);
                let copy = |number: i64| (Datum::Text((key * 10 + number).to_string()), args.value.clone());
                (0..key).map(copy).collect()
            }
            _ => vec![self.pair(args)],
        }
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, args: &Args) -> bool {
        let Function::Known(does) = self else { return false };
        let divides = |datum: &Datum, by: i64| datum.int().is_some_and(|number| number % by == 0);
        match does.split(" (").next().unwrap_or_default() {
            "value % 2 == 0" => divides(&args.value, 2),
            "key % 2 == 0" => divides(&args.key, 2),
            "key % 3 == 0" => divides(&args.key, 3),
            "key % 5 == 0" => divides(&args.key, 5),
            "key % 7 == 0" => divides(&args.key, 7),
            "key < 0" => args.key.int().is_some_and(|key| key < 0),
            "value equals 'accept' ignoring case" => args.value.to_string().eq_ignore_ascii_case("accept"),
            _ => false,
        }
    }
}

/// Topics that a pattern matches, which the recording leaves open and the named test's source tells.
pub(crate) fn topics_of_pattern(id: &str, stream: &str) -> Option<&'static [&'static str]> {
    Some(match (id, stream) {
        ("stateless-and-table-ops-019", "stream2") => &["topic-3", "topic-4"],
        ("stateless-and-table-ops-019", "stream3") => &["topic-A", "topic-Z"],
        ("stateless-and-table-ops-029", "stream2") => {
            &["topic-3", "topic-4", "topic-5", "topic-6", "topic-7"]
        }
        _ => return None,
    })
}

/// Topics among which a vector chooses by record.
pub(crate) fn topics_to_choose_from(id: &str) -> Option<&'static [&'static str]> {
    (id == "stateless-and-table-ops-027").then_some(&["topic-a-v", "topic-b-v"])
}

/// The topic that the named test chooses: that of the record, its key and the first character of its value.
pub(crate) fn chosen_topic(topic: &str, key: &Datum, value: &Datum) -> String {
    format!("{topic}-{key}-{}", value.to_string().chars().take(1).collect::<String>())
}

fn character(datum: &Datum, from: u8) -> Datum {
    Datum::Int(datum.to_string().bytes().next().map_or(0, |byte| i64::from(byte) - i64::from(from)))
}

fn words(datum: &Datum) -> Datum {
    let word = match datum.int() {
        Some(1) => "ONE",
        Some(2) => "TWO",
        Some(3) => "THREE",
        Some(4) => "FOUR",
        _ => return Datum::Null,
    };
    Datum::Text(word.to_owned())
}

fn known(does: &str, args: &Args) -> Datum {
    let length = args.value.to_string().len() as i64;
    match does {
        "length of value" => Datum::Int(length),
        "length of value + key" => Datum::Int(length + args.key.int().unwrap_or(0)),
        "code of first character - 48" => character(&args.value, b'0'),
        "first character of value, counted from a" => character(&args.value, b'a'),
        "value in words" => words(&args.value),
        "key in words" => words(&args.key),
        "aggregate without value" => Datum::Text(args.other.to_string().replace(&args.value.to_string(), "")),
        "parse int" => args.value.int().map_or(Datum::Null, Datum::Int),
        "always null" => Datum::Null,
        "value equals 'accept' ignoring case" => args.value.clone(),
        _ => match &args.value {
            Datum::Text(text) => {
                text.split(',').nth(1).map_or(Datum::Null, |token| Datum::Text(token.to_owned()))
            }
            _ => Datum::Null,
        },
    }
}

fn fill(template: &str, args: &Args) -> Datum {
    let number = |datum: &Datum| datum.int().unwrap_or(0);
    match template {
        "{key}" => args.key.clone(),
        "{value}" => args.value.clone(),
        "{agg}" => args.other.clone(),
        "int sum" => Datum::Int(number(&args.value) + number(&args.other)),
        "int {agg}-{value}" => Datum::Int(number(&args.other) - number(&args.value)),
        "{key}:{int left+right}" => {
            Datum::Text(format!("{}:{}", args.key, number(&args.value) + number(&args.other)))
        }
        _ => {
            let text = template.replace("{key}", &args.key.to_string());
            let text =
                text.replace("{value}", &args.value.to_string()).replace("{left}", &args.value.to_string());
            let text =
                text.replace("{agg}", &args.other.to_string()).replace("{right}", &args.other.to_string());
            Datum::Text(text)
        }
    }
}
