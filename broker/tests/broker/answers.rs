//! Answers in the details that clients go by.

use crate::client::{Running, batch, produce};
use kappa_protocol::ErrorCode;
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::{CreateTopicsRequest, ListOffsetsRequest};
use kappa_protocol::record::{Batch, BatchBuilder, BatchOptions, crc32c};
use tempfile::tempdir;

/// What is answered for a timestamp: error code, timestamp, offset.
fn list(client: &mut crate::client::Client, timestamp: i64) -> (i16, i64, i64) {
    let partitions = vec![ListOffsetsPartition { partition_index: 0, timestamp, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: "lines".into(), partitions }];
    let response = client.call(7, ListOffsetsRequest { replica_id: -1, topics, ..Default::default() });
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.timestamp, answer.offset)
}

#[test]
fn a_created_topic_has_no_error_message_in_any_version() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    for version in 2..=7 {
        let name = format!("t{version}");
        let topic = CreatableTopic { name, num_partitions: 1, replication_factor: 1, ..Default::default() };
        let response =
            client.call(version, CreateTopicsRequest { topics: vec![topic], ..Default::default() });
        assert_eq!((response.topics[0].error_code, &response.topics[0].error_message), (0, &None));
    }
    running.stop();
}

#[test]
fn a_timestamp_without_a_meaning_is_of_another_version() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    for timestamp in [-7, -100, i64::MIN] {
        assert_eq!(list(&mut client, timestamp).0, ErrorCode::UnsupportedVersion.code());
    }
    running.stop();
}

#[test]
fn a_header_name_that_is_not_utf8_hides_no_record_from_a_lookup_by_time() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(1000, None, Some(b"value"), [("cafe", Some(&b"1"[..]))]);
    let mut bytes = builder.finish(0).to_vec();
    let name = bytes.windows(4).position(|window| window == b"cafe").unwrap();
    bytes[name + 3] = 0xe9;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(Batch::produced(&bytes).is_ok());
    let response = client.call(9, produce("lines", 0, -1, bytes.into()));
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    client.call(9, produce("lines", 0, -1, batch(&["next"])));
    assert_eq!(list(&mut client, 500), (0, 1000, 0));
    assert_eq!(list(&mut client, 1001).2, 1);
    running.stop();
}
