//! `kappa demo`, as far as it can be told without running it; `.ci/run` runs it and compares its views.

use crate::harness::{kappa, run};

#[test]
fn a_directory_that_is_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "").unwrap();
    run(kappa().args(["demo", "--data-dir"]).arg(dir.path()), b"").failed(
        1,
        &format!(
            "kappa: '{}' is not empty; give the demo a directory of its own with --data-dir",
            dir.path().display()
        ),
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
