//! Records from the lines of a file or of stdin.
//!
//! Owns the two input forms: plain lines, split at a key separator if there is one, and JSON lines
//! ([`crate::record_json`]). A line that cannot be read is an error with its number; nothing is skipped silently.

use crate::record_json::RecordIn;
use std::io::{self, BufRead};

/// How a line becomes a record.
#[derive(Debug, Clone)]
pub(crate) enum LineForm {
    /// The whole line is the value; with a separator, what stands before its first occurrence is the key.
    Plain {
        /// The key separator.
        separator: Option<String>,
        /// Whether empty keys and values are null.
        empty_as_null: bool,
    },
    /// One JSON object.
    Json,
}

/// One record as read; borrowed from the line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LineRecord<'a> {
    /// The key, if not null.
    pub(crate) key: Option<&'a [u8]>,
    /// The value, if not null.
    pub(crate) value: Option<&'a [u8]>,
    /// Milliseconds since 1970, if the line says.
    pub(crate) timestamp: Option<i64>,
    /// The line's own headers.
    pub(crate) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The key separator is missing.
    #[error("has no key separator '{0}'")]
    Separator(String),
    /// It is not JSON of the expected form.
    #[error("is not a record in JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl LineForm {
    /// Hands the record that `line` (without its line feed) holds to `then`.
    pub(crate) fn with_record<R>(
        &self,
        line: &[u8],
        then: impl FnOnce(LineRecord<'_>) -> R,
    ) -> Result<R, LineError> {
        match self {
            LineForm::Plain { separator, empty_as_null } => {
                let (key, value) = match separator {
                    None => (None, line),
                    Some(separator) => {
                        let (key, value) = split_at(line, separator.as_bytes())
                            .ok_or_else(|| LineError::Separator(separator.clone()))?;
                        (Some(key), value)
                    }
                };
                let not_null = |bytes: &&[u8]| !(*empty_as_null && bytes.is_empty());
                let (key, value) = (key.filter(not_null), Some(value).filter(not_null));
                Ok(then(LineRecord { key, value, ..LineRecord::default() }))
            }
            LineForm::Json => {
                let record: RecordIn<'_> = serde_json::from_slice(line)?;
                Ok(then(LineRecord {
                    key: record.key(),
                    value: record.value(),
                    timestamp: record.timestamp,
                    headers: record.headers().collect(),
                }))
            }
        }
    }
}

fn split_at<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = line.windows(separator.len()).position(|window| window == separator)?;
    Some((line.get(..start)?, line.get(start + separator.len()..)?))
}

/// Reads the next line into `line`, without its line feed; false at the end.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if reader.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(separator: Option<&str>, empty_as_null: bool) -> LineForm {
        LineForm::Plain { separator: separator.map(str::to_owned), empty_as_null }
    }

    fn key_value(form: &LineForm, line: &str) -> Result<(Option<String>, Option<String>), LineError> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        form.with_record(line.as_bytes(), |record| (text(record.key), text(record.value)))
    }

    #[test]
    fn plain_lines_split_at_the_first_separator() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(key_value(&plain(None, false), "a:b").unwrap(), (None, some("a:b")));
        assert_eq!(key_value(&plain(Some(":"), false), "a:b:c").unwrap(), (some("a"), some("b:c")));
        assert_eq!(key_value(&plain(Some("=>"), false), "=>").unwrap(), (some(""), some("")));
        assert_eq!(key_value(&plain(Some(":"), true), ":").unwrap(), (None, None));
        assert!(matches!(key_value(&plain(Some(":"), true), "ab"), Err(LineError::Separator(_))));
    }

    #[test]
    fn json_lines_carry_everything() {
        let line =
            br#"{"key":"k","value":"v","timestamp":5,"headers":[{"name":"h","value":"1"}],"offset":9}"#;
        let check = |record: LineRecord<'_>| {
            let headers = vec![("h", Some(b"1".as_slice()))];
            assert_eq!(
                record,
                LineRecord { key: Some(b"k"), value: Some(b"v"), timestamp: Some(5), headers }
            );
        };
        LineForm::Json.with_record(line, check).unwrap();
        assert!(LineForm::Json.with_record(b"v", |_| ()).is_err());
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        let mut input = b"a\n\nb".as_slice();
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut input, &mut line).unwrap() {
            lines.push(line.clone());
        }
        assert_eq!(lines, [b"a".to_vec(), Vec::new(), b"b".to_vec()]);
    }
}
