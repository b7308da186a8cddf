//! What commands print: lists and facts as an aligned table or as JSON, always through a checked, buffered stdout.
//!
//! Invariant: nothing here panics when the reader goes away (`kappa ... | head`), which `println!` would. Tables are
//! plain columns, so that `awk` and eyes both can read them; JSON has the same rows under field names.

use crate::error::Failure;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, BufWriter, Write};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// A column of a table: its title and the side its cells lean to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Text, leaning left.
    Text(&'static str),
    /// Numbers, leaning right.
    Number(&'static str),
}

/// A row that can be shown in both forms.
pub(crate) trait Row: Serialize {
    /// The columns of the table.
    const COLUMNS: &'static [Column];

    /// One cell for each column.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// Prints rows of one kind; a table without rows prints `none` in place of its body.
    pub(crate) fn rows<R: Row>(self, rows: &[R], none: &str) -> Result<(), Failure> {
        match self {
            Output::Json => line(&json_text(&rows, serde_json::to_string_pretty)?),
            Output::Table if rows.is_empty() => line(none),
            Output::Table => line(&table(R::COLUMNS, rows.iter().map(R::cells))),
        }
    }

    /// Prints what was done: `text` for people, `value` on one line for programs.
    pub(crate) fn done(self, text: &str, value: &impl Serialize) -> Result<(), Failure> {
        match self {
            Output::Json => line(&json_text(value, serde_json::to_string)?),
            Output::Table => line(text),
        }
    }
}

fn json_text<T: Serialize>(
    value: &T,
    write: fn(&T) -> serde_json::Result<String>,
) -> Result<String, Failure> {
    write(value).map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))
}

/// The columns as aligned text without borders; trailing blanks are cut.
pub(crate) fn table(columns: &[Column], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let alignment = |column: &Column| match column {
        Column::Text(_) => CellAlignment::Left,
        Column::Number(_) => CellAlignment::Right,
    };
    table.set_header(columns.iter().map(|column| {
        let (Column::Text(title) | Column::Number(title)) = column;
        Cell::new(title).set_alignment(alignment(column))
    }));
    for cells in rows {
        table.add_row(
            cells.iter().zip(columns).map(|(cell, column)| Cell::new(cell).set_alignment(alignment(column))),
        );
    }
    // Each cell is padded by a blank on both sides; the outermost ones say nothing.
    let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints one line, or several.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Standard output with a buffer of 64 KiB, to be flushed by whoever holds it.
pub(crate) fn stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// `12345678` as `12,345,678`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (336_776, "336,776"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_align_and_nothing_trails() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "12".to_owned()]];
        let text = table(&[Column::Text("TOPIC"), Column::Number("N")], rows.into_iter());
        assert_eq!(text, "TOPIC   N\na       1\nlong   12");
    }
}
