//! A dynamic value, so that one program can run every vector.

use kappa_streams::codec::{Codec, CodecError};
use serde_json::{Value, json};
use std::fmt;

/// A key or a value of a vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Datum {
    /// Null; in a table, no row.
    Null,
    /// Integer, Long.
    Int(i64),
    /// Double.
    Float(f64),
    /// String.
    Text(String),
    /// A windowed key.
    Windowed(Box<Datum>, i64, i64),
}

impl Datum {
    /// Reads a value of a vector.
    pub(crate) fn read(value: &Value) -> Option<Datum> {
        match value {
            Value::Null => Some(Datum::Null),
            Value::Number(number) => number.as_i64().map(Datum::Int).or(number.as_f64().map(Datum::Float)),
            Value::String(text) => Some(Datum::Text(text.clone())),
            Value::Object(object) if object.contains_key("ws") => {
                let key = Datum::read(object.get("k")?)?;
                Some(Datum::Windowed(Box::new(key), object.get("ws")?.as_i64()?, object.get("we")?.as_i64()?))
            }
            Value::Object(object) => hex(object.get("hex")?.as_str()?).map(Datum::Text),
            _ => None,
        }
    }

    fn write(&self) -> Value {
        match self {
            Datum::Null => Value::Null,
            Datum::Int(number) => json!(number),
            Datum::Float(number) => json!(number),
            Datum::Text(text) => json!(text),
            Datum::Windowed(key, start, end) => json!({"k": key.write(), "ws": start, "we": end}),
        }
    }

    /// The integer in it, parsed or cut if need be.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Datum::Int(number) => Some(*number),
            Datum::Float(number) => Some(*number as i64),
            Datum::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Bytes shown as hex are text in all vectors.
fn hex(digits: &str) -> Option<String> {
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datum::Null => f.write_str("null"),
            Datum::Int(number) => write!(f, "{number}"),
            Datum::Float(number) => write!(f, "{number:?}"),
            Datum::Text(text) => f.write_str(text),
            Datum::Windowed(key, start, end) => write!(f, "[{key}@{start}/{end}]"),
        }
    }
}

/// Data as JSON text; null is null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data;

impl Codec for Data {
    type Item = Datum;

    fn encode(&self, item: &Datum, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(item.write().to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Datum, CodecError> {
        let value = serde_json::from_slice(bytes).ok().and_then(|value| Datum::read(&value));
        value.ok_or(CodecError::Truncated { item: "datum", expected: 0, actual: bytes.len() })
    }

    fn null(&self) -> Option<Datum> {
        Some(Datum::Null)
    }

    fn is_null(&self, item: &Datum) -> bool {
        *item == Datum::Null
    }
}
