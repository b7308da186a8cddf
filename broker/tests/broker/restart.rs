//! Stops, kills and what must be the same afterwards.

use crate::client::Running;
use kappa_broker::{Broker, BrokerConfig, DataDirError, StartError};
use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kappa_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kappa_protocol::messages::{
    DeleteRecordsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
};
use std::collections::BTreeSet;
use std::path::Path;
use tempfile::tempdir;

fn populate(running: &Running) {
    let mut client = running.client();
    client.create_topic("kept", 3);
    client.create_topic("gone", 2);
    client.produce("kept", 2, &["a", "b"]);
    let config = |name: &str, value: &str| AlterableConfig {
        name: name.into(),
        value: Some(value.into()),
        ..Default::default()
    };
    let resource = |resource_type, name: &str, configs| AlterConfigsResource {
        resource_type,
        resource_name: name.into(),
        configs,
    };
    let altered = client.call(
        1,
        IncrementalAlterConfigsRequest {
            resources: vec![
                resource(2, "kept", vec![config("retention.ms", "1234567")]),
                resource(4, "", vec![config("log.retention.bytes", "99999999")]),
                resource(4, "1", vec![config("message.max.bytes", "777777")]),
            ],
            validate_only: false,
        },
    );
    assert!(altered.responses.iter().all(|response| response.error_code == 0), "{altered:?}");
    let deleted =
        client.call(5, DeleteTopicsRequest { topic_names: vec!["gone".into()], ..Default::default() });
    assert_eq!(deleted.responses[0].error_code, 0);
}

fn partition_dirs(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let dirs = entries.filter(|entry| entry.path().is_dir());
    dirs.map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("__"))
        .collect()
}

#[test]
fn the_catalog_and_the_log_survive_a_clean_stop() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    populate(&running);
    let before = running.broker.catalog_dump().unwrap();
    assert!(before.contains(r#""retention.ms":"1234567""#), "{before}");
    running.stop();
    assert!(dir.path().join(".kafka_cleanshutdown").exists());
    let kept = BTreeSet::from(["kept-0".to_owned(), "kept-1".to_owned(), "kept-2".to_owned()]);
    assert_eq!(partition_dirs(dir.path()), kept);
    let running = Running::start(dir.path());
    assert!(!dir.path().join(".kafka_cleanshutdown").exists());
    assert_eq!(running.broker.catalog_dump().unwrap(), before);
    assert_eq!(running.client().values("kept", 2, 0), ["a", "b"]);
    running.stop();
}

#[test]
fn the_catalog_and_the_log_survive_a_stop_without_warning() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    populate(&running);
    let before = running.broker.catalog_dump().unwrap();
    // What a deleted topic held goes after the answer: it must not go during the copy.
    let retired = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".delete");
    while std::fs::read_dir(dir.path()).unwrap().any(|entry| retired(entry.unwrap())) {
        std::thread::yield_now();
    }
    let copy = tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let running_again = Running::start(copy.path());
    assert_eq!(running_again.broker.catalog_dump().unwrap(), before);
    assert_eq!(running_again.client().values("kept", 2, 0), ["a", "b"]);
    running_again.stop();
    running.stop();
}

/// What a process that is killed leaves behind, taken while it still runs.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn producer_ids_are_never_given_twice() {
    let dir = tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let running = Running::start(dir.path());
        let mut client = running.client();
        for _ in 0..1500 {
            let answer =
                client.call(4, InitProducerIdRequest { transactional_id: None, ..Default::default() });
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(seen.insert(answer.producer_id), "{} twice", answer.producer_id);
        }
        running.stop();
    }
}

#[test]
fn directories_that_no_topic_accounts_for_are_set_aside_and_missing_ones_start_empty() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    populate(&running);
    running.stop();
    std::fs::create_dir(dir.path().join("stranger-0")).unwrap();
    std::fs::write(dir.path().join("stranger-0/precious"), "bytes").unwrap();
    std::fs::remove_dir_all(dir.path().join("kept-1")).unwrap();
    let running = Running::start(dir.path());
    assert!(!dir.path().join("stranger-0").exists());
    let aside: Vec<_> = std::fs::read_dir(dir.path().join("set-aside")).unwrap().collect();
    assert_eq!(aside.len(), 1);
    let found = aside[0].as_ref().unwrap().path().join("precious");
    assert_eq!(std::fs::read_to_string(found).unwrap(), "bytes");
    assert_eq!(running.client().produce("kept", 1, &["anew"]), 0);
    running.stop();
}

#[test]
fn a_directory_in_use_and_one_of_someone_else_are_refused() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = runtime.block_on(Broker::start(BrokerConfig::new(dir.path())));
    assert!(matches!(second, Err(StartError::DataDir(DataDirError::InUse { .. }))), "{second:?}");
    running.stop();
    let foreign = tempdir().unwrap();
    std::fs::write(foreign.path().join("notes.txt"), "mine").unwrap();
    let refused = runtime.block_on(Broker::start(BrokerConfig::new(foreign.path())));
    assert!(matches!(refused, Err(StartError::DataDir(DataDirError::Foreign { .. }))), "{refused:?}");
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_of_the_layout_before_brings_its_checkpoints_along_once() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("t", 1);
    client.produce("t", 0, &["a", "b", "c"]);
    running.stop();
    // As the version before left it: its layout, and Kafka's checkpoints alone.
    let meta = dir.path().join("meta.properties");
    let text = std::fs::read_to_string(&meta).unwrap();
    std::fs::write(&meta, text.replace("kappa.layout=2", "kappa.layout=1")).unwrap();
    std::fs::remove_file(dir.path().join("kappa-checkpoint")).unwrap();
    std::fs::write(dir.path().join("recovery-point-offset-checkpoint"), "0\n1\nt 0 3\n").unwrap();
    std::fs::write(dir.path().join("log-start-offset-checkpoint"), "0\n1\nt 0 2\n").unwrap();
    let running = Running::start(dir.path());
    assert_eq!(running.client().values("t", 0, 2), ["c"]);
    let partition = std::fs::read_to_string(dir.path().join("kappa-checkpoint")).unwrap();
    assert!(partition.contains(" 0 3 2\n"), "{partition}");
    assert!(std::fs::read_to_string(&meta).unwrap().contains("kappa.layout=2\n"));
    running.stop();
    // From then on they are an export.
    std::fs::write(dir.path().join("log-start-offset-checkpoint"), "0\n1\nt 0 3\n").unwrap();
    let running = Running::start(dir.path());
    assert_eq!(running.client().values("t", 0, 2), ["c"]);
    running.stop();
}

fn delete(client: &mut crate::client::Client, name: &str) {
    let request = DeleteTopicsRequest { topic_names: vec![name.into()], ..Default::default() };
    assert_eq!(client.call(5, request).responses[0].error_code, 0);
}

#[test]
fn a_topic_recreated_under_the_longest_name_has_its_own_records() {
    let (dir, name) = (tempdir().unwrap(), "n".repeat(249));
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic(&name, 1);
    client.produce(&name, 0, &["old"]);
    delete(&mut client, &name);
    client.create_topic(&name, 1);
    assert_eq!(client.values(&name, 0, 0), [] as [&str; 0]);
    client.produce(&name, 0, &["new"]);
    running.stop();
    let running = Running::start(dir.path());
    assert_eq!(running.client().values(&name, 0, 0), ["new"]);
    running.stop();
}

#[test]
fn a_recreated_topic_is_read_from_0_after_a_kill_though_records_of_its_name_were_deleted() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("t", 1);
    client.produce("t", 0, &["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 4 }];
    let topics = vec![DeleteRecordsTopic { name: "t".into(), partitions }];
    let deleted = client.call(2, DeleteRecordsRequest { topics, timeout_ms: 1000 });
    assert_eq!(deleted.topics[0].partitions[0].error_code, 0);
    delete(&mut client, "t");
    client.create_topic("t", 1);
    client.produce("t", 0, &["a", "b", "c", "d", "e"]);
    let copy = tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let killed = Running::start(copy.path());
    assert_eq!(killed.client().values("t", 0, 0), ["a", "b", "c", "d", "e"]);
    killed.stop();
    running.stop();
}

#[test]
fn a_flipped_byte_in_the_catalogs_metadata_refuses_the_start_and_loses_no_topic() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    populate(&running);
    running.stop();
    let file = dir.path().join("__kappa_catalog-0/partition.metadata");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[2] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(Broker::start(BrokerConfig::new(dir.path())));
    assert!(refused.unwrap_err().to_string().contains("__kappa_catalog-0"));
    std::fs::write(&file, &whole).unwrap();
    let running = Running::start(dir.path());
    assert_eq!(running.client().values("kept", 2, 0), ["a", "b"]);
    running.stop();
}

#[test]
fn damage_in_the_journal_is_told_after_a_kill_and_no_matter_after_a_clean_stop() {
    const BLOCK: usize = 4096;
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("a", 40);
    let journal = dir.path().join("journal-0.kappa");
    for round in 0..20 {
        for partition in 0..40 {
            client.produce("a", partition, &[&format!("{round}")]);
        }
    }
    assert!(journal.exists(), "a journal is made for as many small appends");
    let killed = tempdir().unwrap();
    let copied =
        std::process::Command::new("cp").arg("-r").arg(dir.path()).arg(killed.path().join("data")).status();
    assert!(copied.unwrap().success());
    running.stop();
    for (data, starts) in [(dir.path().to_path_buf(), true), (killed.path().join("data"), false)] {
        let journal = data.join("journal-0.kappa");
        let mut bytes = std::fs::read(&journal).unwrap();
        bytes[BLOCK + 40] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let started = runtime.block_on(Broker::start(BrokerConfig::new(&data)));
        match started {
            Ok(broker) => {
                assert!(starts, "it started without what the journal had");
                runtime.block_on(broker.stop()).unwrap();
            }
            Err(error) => {
                let text = format!("{error}");
                assert!(!starts && text.contains("journal-0.kappa"), "{text}");
            }
        }
    }
}
