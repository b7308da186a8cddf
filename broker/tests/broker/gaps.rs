//! A repaired copy has gaps, and goes on having all else when its checkpoint is lost.

use crate::client::Running;
use crate::repair::{flip, refusal, repaired, stopped, values};
use kappa_broker::repair;
use std::fs;
use std::path::Path;

fn read(dir: &Path) -> Vec<String> {
    let running = Running::start(dir);
    let mut client = running.client();
    let read = values(&mut client, "a", 0);
    drop(client);
    running.stop();
    read
}

#[test]
fn gaps_of_a_repair_outlive_the_loss_of_the_checkpoint() {
    let dir = stopped();
    // The second batch of a-0.
    let log = dir.path().join("a-0/00000000000000000000.log");
    let bytes = fs::read(&log).unwrap();
    let first = 12 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
    flip(&log, first + 70);
    let (_, home) = repaired(dir.path());
    let copy = home.path().join("copy");
    assert_eq!(read(&copy), ["one", "three"]);

    let checkpoint = copy.join("kappa-checkpoint");
    flip(&checkpoint, 30);
    assert!(refusal(&copy).contains("move it away"));
    let again = home.path().join("again");
    repair(&copy, Some(&again)).unwrap();
    assert_eq!(read(&again), ["one", "three"], "repaired once more");
    fs::remove_file(&checkpoint).unwrap();
    assert_eq!(read(&copy), ["one", "three"], "moved away, as the refusal says");
}
