//! Any bytes as record batches, checked, decompressed, iterated and built again.
//!
//! `cargo +nightly fuzz run record_batch` in `protocol/`; `tests/record` replays the corpus.
#![no_main]

#[path = "../../tests/record/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::record_batch(input));
