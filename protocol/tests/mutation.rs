//! The fuzz targets on a stable compiler: seeds of their corpora, mutated at random for a while.
//!
//! `KAPPA_FUZZ_SECONDS` says for how long (1), `KAPPA_FUZZ_SEED` with which number to begin; by default that is another one
//! each time. A failure prints the number of its input: beginning with that one repeats it at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "frame/exercise.rs"]
mod frame;
#[path = "record/exercise.rs"]
mod record;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest input in bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// What lengths, counts and varints trip over.
const EDGES: [u8; 10] = [0x00, 0x01, 0x02, 0x7e, 0x7f, 0x80, 0x81, 0xfd, 0xfe, 0xff];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The input of a number: a seed with a few changes, many of them near its begin, where headers are.
fn input(corpus: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(8) {
        let reach = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(80) };
        let at = random.below(reach);
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = EDGES[random.below(EDGES.len())],
            2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            3 => bytes.insert(at, EDGES[random.below(EDGES.len())]),
            4 if !bytes.is_empty() => drop(bytes.drain(at..bytes.len().min(at + 1 + random.below(8)))),
            5 => bytes.truncate(at),
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let piece = &other[from..other.len().min(from + 1 + random.below(64))];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }
    bytes
}

fn run(target: &str, exercise: fn(&[u8])) {
    let corpus = corpus(target);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = setting("KAPPA_FUZZ_SEED").unwrap_or(since.as_nanos() as u64);
    let end = Instant::now() + Duration::from_secs(setting("KAPPA_FUZZ_SECONDS").unwrap_or(1));
    let mut number = first;
    while Instant::now() < end {
        let bytes = input(&corpus, number);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| exercise(&bytes))) {
            println!("{target}: KAPPA_FUZZ_SEED={number} fails with {bytes:02x?}");
            resume_unwind(panic);
        }
        number = number.wrapping_add(1);
    }
    let count = number.wrapping_sub(first);
    println!("{target}: {count} inputs from KAPPA_FUZZ_SEED={first}");
    assert!(count > 100, "only {count} inputs");
}

#[test]
fn mutated_batches_are_handled() {
    run("record_batch", record::record_batch);
}

#[test]
fn mutated_frames_are_handled() {
    run("frames", frame::frame);
}
