//! One record as one line of JSON: what `kappa consume --output json` prints and `kappa produce --json` reads.
//!
//! Keys, values and header values are strings where they are UTF-8, and hexadecimal under `..._hex` names where they
//! are not; so every record survives the way out and back in. Where a record came from (`topic`, `partition`,
//! `offset`) is printed, and ignored when read.

use kappa_protocol::record::Record;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, Visitor},
};
use std::{borrow::Cow, fmt};

/// A record on its way out.
#[derive(Serialize)]
pub(crate) struct RecordOut<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    value: Option<&'a str>,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    value: Option<&'a str>,
}

impl<'a> RecordOut<'a> {
    /// `record` of one partition.
    pub(crate) fn new(topic: &'a str, partition: i32, record: &Record<'a>) -> Self {
        let (key, key_hex) = text_or_hex(record.key);
        let (value, value_hex) = text_or_hex(record.value);
        let headers = record.headers.map(|(name, value)| {
            let (value, value_hex) = text_or_hex(value);
            HeaderOut { name, value_hex, value }
        });
        Self {
            topic,
            partition,
            offset: record.offset,
            timestamp: record.timestamp,
            headers: headers.collect(),
            key_hex,
            key,
            value_hex,
            value,
        }
    }
}

fn text_or_hex(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(std::str::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(_)) => (None, bytes.map(to_hex)),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A record on its way in; what is absent is null.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordIn<'a> {
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(default)]
    key_hex: Option<Hex>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(default)]
    value_hex: Option<Hex>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub(crate) timestamp: Option<i64>,
    #[serde(borrow, default)]
    headers: Vec<HeaderIn<'a>>,
    #[serde(default, rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(default, rename = "partition")]
    _partition: Option<IgnoredAny>,
    #[serde(default, rename = "offset")]
    _offset: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderIn<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(default)]
    value_hex: Option<Hex>,
}

impl RecordIn<'_> {
    /// The key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        bytes(self.key.as_ref(), self.key_hex.as_ref())
    }

    /// The value.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        bytes(self.value.as_ref(), self.value_hex.as_ref())
    }

    /// The headers, in order.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers
            .iter()
            .map(|header| (header.name.as_ref(), bytes(header.value.as_ref(), header.value_hex.as_ref())))
    }
}

fn bytes<'a>(text: Option<&'a Text<'_>>, hex: Option<&'a Hex>) -> Option<&'a [u8]> {
    hex.map(|hex| hex.0.as_slice()).or(text.map(|text| text.0.as_bytes()))
}

/// A string; whoever writes something else is told how it becomes one.
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a string (JSON goes in as text, such as "{\"a\": 1}")"#)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// Bytes written as pairs of hexadecimal digits.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits: Option<Vec<u32>> = text.chars().map(|char| char.to_digit(16)).collect();
        let digits = digits.ok_or("hexadecimal digits expected")?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("an even number of hexadecimal digits expected");
        }
        Ok(Hex(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::record::{BatchBuilder, BatchOptions, DecodedBatch};

    fn round_trip(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> String {
        let mut batch = BatchBuilder::new(BatchOptions::default());
        batch.push(7, key, value, headers.iter().copied());
        let batch = DecodedBatch::decode(batch.finish(3), 1 << 20).unwrap();
        let record = batch.records().next().unwrap().unwrap();
        let line = serde_json::to_string(&RecordOut::new("t", 2, &record)).unwrap();
        let read: RecordIn<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!((read.key(), read.value(), read.timestamp), (key, value, Some(7)), "{line}");
        assert_eq!(read.headers().collect::<Vec<_>>(), headers, "{line}");
        line
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let line = round_trip(Some(b"k"), Some("v \"ü\"\n".as_bytes()), &[]);
        assert_eq!(
            line,
            r#"{"topic":"t","partition":2,"offset":3,"timestamp":7,"key":"k","value":"v \"ü\"\n"}"#
        );
        round_trip(None, None, &[("a", None), ("a", Some(b"1")), ("b", Some(b"\xff\x00"))]);
        round_trip(Some(b""), Some(b"\x80"), &[]);
    }

    #[test]
    fn unknown_fields_and_odd_hex_are_refused() {
        for line in
            [r#"{"vale":"x"}"#, r#"{"value_hex":"f"}"#, r#"{"value_hex":"zz"}"#, r#"{"value":{"a":1}}"#]
        {
            assert!(serde_json::from_str::<RecordIn<'_>>(line).is_err(), "{line}");
        }
    }
}
