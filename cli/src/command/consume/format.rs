//! The format string of `kappa consume -f`: parsed once, written for every record without allocation.

use super::Fetched;
use std::io::{self, Write};

/// A piece of the output of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    KeyLen,
    Value,
    ValueLen,
    Headers,
}

/// A parsed format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

/// A format string that means nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// An unknown `%x`.
    #[error(
        "'%{0}' is not a field; known are %t topic, %p partition, %o offset, %T timestamp, %k key, %K its length, %s value, %S its length, %h headers, %%"
    )]
    Field(char),
    /// An unknown `\x`.
    #[error("'\\{0}' is not an escape; known are \\n \\r \\t \\0 \\\\")]
    Escape(char),
    /// It ends within a `%x` or `\x`.
    #[error("the format string ends with a lone '{0}'")]
    Unfinished(char),
}

impl std::str::FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            let piece = match char {
                '%' => match chars.next().ok_or(FormatError::Unfinished('%'))? {
                    't' => Piece::Topic,
                    'p' => Piece::Partition,
                    'o' => Piece::Offset,
                    'T' => Piece::Timestamp,
                    'k' => Piece::Key,
                    'K' => Piece::KeyLen,
                    's' => Piece::Value,
                    'S' => Piece::ValueLen,
                    'h' => Piece::Headers,
                    '%' => {
                        literal.push('%');
                        continue;
                    }
                    other => return Err(FormatError::Field(other)),
                },
                '\\' => {
                    literal.push(escape(chars.next().ok_or(FormatError::Unfinished('\\'))?)?);
                    continue;
                }
                other => {
                    literal.push(other);
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into_bytes()));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into_bytes()));
        }
        Ok(Format(pieces))
    }
}

fn escape(char: char) -> Result<char, FormatError> {
    match char {
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        '0' => Ok('\0'),
        '\\' => Ok('\\'),
        other => Err(FormatError::Escape(other)),
    }
}

impl Format {
    /// The value and a line feed: what `kappa consume` prints without `-f`.
    pub(crate) fn value_lines() -> Self {
        Self(vec![Piece::Value, Piece::Text(b"\n".to_vec())])
    }

    /// Writes one record. A null key or value is written as nothing, with length -1.
    pub(crate) fn write(&self, out: &mut impl Write, fetched: &Fetched<'_>) -> io::Result<()> {
        let record = &fetched.record;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Topic => out.write_all(fetched.topic.as_bytes())?,
                Piece::Partition => write!(out, "{}", fetched.partition)?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Timestamp => write!(out, "{}", record.timestamp)?,
                Piece::Key => out.write_all(record.key.unwrap_or_default())?,
                Piece::KeyLen => write_len(out, record.key)?,
                Piece::Value => out.write_all(record.value.unwrap_or_default())?,
                Piece::ValueLen => write_len(out, record.value)?,
                Piece::Headers => write_headers(out, fetched)?,
            }
        }
        Ok(())
    }
}

fn write_len(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes {
        Some(bytes) => write!(out, "{}", bytes.len()),
        None => out.write_all(b"-1"),
    }
}

/// `name=value`, separated by commas; a null value as `NULL`.
fn write_headers(out: &mut impl Write, fetched: &Fetched<'_>) -> io::Result<()> {
    for (index, (name, value)) in fetched.record.headers.into_iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        write!(out, "{name}=")?;
        out.write_all(value.unwrap_or(b"NULL"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_text_and_escapes_are_told_apart() {
        let Format(pieces) = r"%t[%p]@%o\t%k=%s%%\n".parse().unwrap();
        let text = |text: &str| Piece::Text(text.as_bytes().to_vec());
        assert_eq!(
            pieces,
            [
                Piece::Topic,
                text("["),
                Piece::Partition,
                text("]@"),
                Piece::Offset,
                text("\t"),
                Piece::Key,
                text("="),
                Piece::Value,
                text("%\n")
            ]
        );
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, error) in [
            ("%x", FormatError::Field('x')),
            (r"\q", FormatError::Escape('q')),
            ("100%", FormatError::Unfinished('%')),
            ("\\", FormatError::Unfinished('\\')),
        ] {
            assert_eq!(text.parse::<Format>(), Err(error));
        }
    }
}
