//! The catalog and the committed offsets with records missing that had been synced: an older state is a wrong one, so the
//! start is refused, every time, until a repair says what is lost.

use crate::client::Running;
use crate::repair::{check_all, committing, refusal, repaired, served, stopped, told};
use kappa_protocol::messages::FindCoordinatorRequest;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const FIRST: &str = "00000000000000000000.log";

/// Has the file end after its first batch, as a file system does that lost the rest. Returns whether there was any.
fn shorten(log: &Path) -> bool {
    let bytes = fs::read(log).unwrap();
    let Some(size) = bytes.get(8..12) else { return false };
    let first = 12 + u32::from_be_bytes(size.try_into().unwrap()) as usize;
    fs::write(log, &bytes[..first]).unwrap();
    first < bytes.len()
}

/// A start that is refused changes nothing that the next one goes by.
fn check_refused(dir: &Path, partition: &str) {
    for attempt in 0..3 {
        let refused = refusal(dir);
        assert!(refused.contains(partition), "start {attempt}: {refused}");
        assert!(refused.contains("kappa log repair"), "start {attempt}: {refused}");
    }
    assert!(!dir.join("set-aside").exists());
}

/// A stopped directory in which two groups committed.
fn committed() -> TempDir {
    let dir = stopped();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let found = client.call(3, FindCoordinatorRequest { key: "g".into(), ..Default::default() });
    assert_eq!(found.error_code, 0);
    for offset in [1, 2, 3] {
        let committed = client.call(7, committing("g", offset));
        assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    }
    running.stop();
    dir
}

/// The offsets partition that has the commits.
fn offsets_log(dir: &Path) -> (String, std::path::PathBuf) {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut logs = entries
        .filter(|name| name.starts_with("__consumer_offsets-"))
        .map(|name| (name.clone(), dir.join(name).join(FIRST)));
    logs.find(|(_, log)| fs::metadata(log).unwrap().len() > 0).unwrap()
}

#[test]
fn a_catalog_that_is_too_short_refuses_the_start() {
    let dir = stopped();
    assert!(shorten(&dir.path().join("__kappa_catalog-0").join(FIRST)));
    check_refused(dir.path(), "__kappa_catalog-0");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("__kappa_catalog-0"), "{}", told(&repaired));
    check_all(&served(&home));
}

#[test]
fn a_catalog_whose_file_is_gone_refuses_the_start() {
    let dir = stopped();
    fs::remove_file(dir.path().join("__kappa_catalog-0").join(FIRST)).unwrap();
    check_refused(dir.path(), "__kappa_catalog-0");
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains("__kappa_catalog-0"), "{}", told(&repaired));
    check_all(&served(&home));
}

#[test]
fn offsets_that_are_too_short_refuse_the_start() {
    let dir = committed();
    let (partition, log) = offsets_log(dir.path());
    assert!(shorten(&log));
    check_refused(dir.path(), &partition);
    let (repaired, home) = repaired(dir.path());
    let told = told(&repaired);
    assert!(told.contains(&format!("{partition}: ends before what had been synced")), "{told}");
    check_all(&served(&home));
}

#[test]
fn offsets_whose_file_is_gone_refuse_the_start() {
    let dir = committed();
    let (partition, log) = offsets_log(dir.path());
    fs::remove_file(log).unwrap();
    check_refused(dir.path(), &partition);
    let (repaired, home) = repaired(dir.path());
    assert!(told(&repaired).contains(&partition), "{}", told(&repaired));
    check_all(&served(&home));
}
