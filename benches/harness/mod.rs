//! What every bench shares: interleaved runs, medians, and servers as child processes whose CPU time can be told.
//!
//! A bench compares candidates in one run, A B C A B C..., since the machine drifts; it prints the median and the
//! range, and each ratio against the first candidate. Nothing here knows what is measured.

#![allow(dead_code, reason = "each bench uses its part")]
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

pub(crate) mod baseline;
pub(crate) mod ceiling;
pub(crate) mod daemon;
pub(crate) mod driver;
pub(crate) mod end_to_end;
pub(crate) mod server;

use std::time::{Duration, Instant};

/// Quick runs for tests of the benches themselves; full ones by default.
pub(crate) fn is_quick() -> bool {
    std::env::var_os("KAPPA_BENCH_QUICK").is_some()
}

/// `full`, or a twentieth of it when quick.
pub(crate) fn scaled(full: usize) -> usize {
    if is_quick() { (full / 20).max(1) } else { full }
}

/// Rounds of every comparison.
pub(crate) fn rounds() -> usize {
    if is_quick() { 1 } else { 5 }
}

/// Whether what is called `name` is to be measured: all, or what contains an argument of the command.
pub(crate) fn is_wanted(name: &str) -> bool {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// Where data goes: `KAPPA_BENCH_DIR`, by default `/tmp`.
pub(crate) fn directory() -> std::path::PathBuf {
    std::env::var_os("KAPPA_BENCH_DIR").unwrap_or_else(|| "/tmp".into()).into()
}

/// How long `work` took.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Figures of one candidate over all rounds.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    name: &'static str,
    values: Vec<f64>,
}

impl Series {
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The smallest and the largest value.
    pub(crate) fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }
}

/// One figure of several candidates, the first of which the others are held against.
#[derive(Debug)]
pub(crate) struct Comparison {
    title: String,
    unit: &'static str,
    series: Vec<Series>,
}

impl Comparison {
    /// An empty comparison of values in `unit`.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, series: Vec::new() }
    }

    /// Adds one round's value of a candidate.
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { name, values: vec![value] }),
        }
    }

    /// The middle value of a candidate.
    pub(crate) fn median(&self, name: &str) -> f64 {
        self.series.iter().find(|series| series.name == name).map_or(f64::NAN, Series::median)
    }

    /// One candidate over another: the rounds' own ratios, since the machine drifts between rounds.
    pub(crate) fn ratios(&self, name: &str, to: &str) -> Series {
        let values = |of: &str| match self.series.iter().find(|series| series.name == of) {
            Some(series) => series.values.clone(),
            None => Vec::new(),
        };
        let values = values(name).into_iter().zip(values(to)).map(|(value, to)| value / to).collect();
        Series { name: "ratio", values }
    }

    /// Prints a line per candidate: median, range, ratio to the first.
    pub(crate) fn print(&self) {
        println!("\n{} [{}]", self.title, self.unit);
        let base = self.series.first().map_or(f64::NAN, Series::median);
        for series in &self.series {
            let (min, max) = series.range();
            let median = series.median();
            println!(
                "  {:<34} {:>12} ({} .. {})  {:.2}x",
                series.name,
                figure(median),
                figure(min),
                figure(max),
                median / base
            );
        }
    }
}

fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.2} G", value / 1e9),
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.1} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Deterministic bytes that do not compress to nothing: a xorshift stream.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A batch of `records` records of `record_len` value bytes, at offset 0.
pub(crate) fn batch(
    records: usize,
    record_len: usize,
    compression: kappa_protocol::record::Compression,
) -> bytes::Bytes {
    use kappa_protocol::record::{BatchBuilder, BatchOptions};
    let values = noise(records * record_len, 7);
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for value in values.chunks(record_len.max(1)) {
        builder.push(1_700_000_000_000, None, Some(value), std::iter::empty());
    }
    builder.finish(0)
}
