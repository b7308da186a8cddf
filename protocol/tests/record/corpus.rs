//! Replays the corpus of the fuzz target `record_batch`, so that what it once found stays found.

use std::{fs, path::Path};

use super::exercise;

#[test]
fn fuzz_corpus_is_handled() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/record_batch");
    let mut seeds = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is in the repository") {
        let input = fs::read(entry.expect("a directory entry").path()).expect("a seed");
        exercise::record_batch(&input);
        seeds += 1;
    }
    assert!(seeds >= 10, "only {seeds} seeds in {}", corpus.display());
}
