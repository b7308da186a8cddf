//! Any bytes as a request frame and as a response frame of any API and version.
//!
//! `cargo +nightly fuzz run frames` in `protocol/`; `tests/frames.rs` replays the corpus.
#![no_main]

#[path = "../../tests/frame/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::frame(input));
