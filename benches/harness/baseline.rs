//! The daemon of an earlier commit, built once: its source comes from git, everything made lies under `target/baseline`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The binary.
pub(crate) fn build(commit: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let place = root.join("target/baseline").join(commit);
    let (source, target) = (place.join("source"), place.join("target"));
    let binary = target.join("release/kappa-broker");
    if binary.exists() {
        return binary;
    }
    std::fs::create_dir_all(&source).expect("target/ can be written to");
    let mut archive = Command::new("git")
        .args(["archive", commit])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    let mut unpacked = Command::new("tar");
    unpacked.arg("x").current_dir(&source).stdin(archive.stdout.take().expect("piped"));
    assert!(
        unpacked.status().expect("tar").success() && archive.wait().expect("git").success(),
        "no {commit}"
    );
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--package", "kappa-broker"]).current_dir(source);
    let built = cargo.env("CARGO_TARGET_DIR", target).status().expect("cargo");
    assert!(built.success(), "{commit} does not build");
    binary
}
