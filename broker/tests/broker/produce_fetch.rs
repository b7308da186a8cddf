//! Produce and fetch over TCP: round trips, pipelining, long polls, and what is refused.

use crate::client::{Running, batch, decode, error_of, fetch, fetched, produce};
use kappa_broker::BrokerConfig;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::{
    FetchRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
    offset_for_leader_epoch_request as epochs,
};
use kappa_protocol::{ErrorCode, Records};
use std::time::{Duration, Instant};
use tempfile::tempdir;

#[test]
fn what_is_produced_is_fetched_in_every_version() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let metadata = client.call(12, MetadataRequest { topics: None, ..Default::default() });
    let id = metadata.topics.iter().find(|topic| topic.name.as_deref() == Some("lines")).unwrap().topic_id;

    for version in 3..=13 {
        let mut request = produce("lines", 1, -1, batch(&[&format!("value {version}")]));
        if version >= 13 {
            request.topic_data[0].topic_id = id;
        }
        let response = client.call(version, request);
        assert_eq!(error_of(&response), 0);
        assert_eq!(response.responses[0].partition_responses[0].base_offset, i64::from(version) - 3);
    }
    for version in 4..=18 {
        let mut request = fetch("lines", 1, 0, 0);
        if version >= 13 {
            request.topics[0].topic_id = id;
        }
        let response = client.call(version, request);
        let data = &response.responses[0].partitions[0];
        assert_eq!((data.error_code, data.high_watermark, data.log_start_offset.max(0)), (0, 11, 0));
        let (values, next) = decode(&data.records.clone().unwrap().to_bytes(), 0);
        assert_eq!((values.len(), next), (11, 11));
        assert_eq!(values[10], "value 13");
    }
    running.stop();
}

#[test]
fn a_thousand_pipelined_produces_append_and_answer_in_order() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let mut sender = crate::client::Client::connect(running.broker.address());
    let mut receiver = crate::client::Client::connect(running.broker.address());
    receiver.stream = sender.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for i in 0..1000 {
            sender.send(9, produce("lines", 0, -1, batch(&[&i.to_string()])));
        }
    });
    for i in 0..1000 {
        let (id, response) = receiver.receive::<ProduceRequest>(9);
        assert_eq!((id, error_of(&response)), (i + 1, 0));
        assert_eq!(response.responses[0].partition_responses[0].base_offset, i64::from(i));
    }
    sending.join().unwrap();
    let expected: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    assert_eq!(client.values("lines", 0, 0), expected);
    running.stop();
}

#[test]
fn acks_0_is_not_answered_and_acks_1_is() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.send(9, produce("lines", 0, 0, batch(&["silent"])));
    let response = client.call(9, produce("lines", 0, 1, batch(&["spoken"])));
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 1);
    let response = client.call(9, produce("lines", 0, 2, batch(&["wrong"])));
    assert_eq!(error_of(&response), ErrorCode::InvalidRequiredAcks.code());
    client.produce("lines", 0, &["last"]);
    assert_eq!(client.values("lines", 0, 0), ["silent", "spoken", "last"]);
    running.stop();
}

#[test]
fn a_long_poll_holds_up_nothing_and_wakes_at_once() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let (mut consumer, mut producer) = (running.client(), running.client());
    consumer.create_topic("lines", 1);
    producer.produce("lines", 0, &["first"]);
    let mut slowest = Duration::ZERO;
    for offset in 1..=20 {
        consumer.send(11, fetch("lines", 0, offset, 10_000));
        // The answer of a later request shows that the poll is parked before the record comes.
        let response = producer.call(11, fetch("lines", 0, offset, 1));
        assert_eq!(fetched(&response), 0);
        producer.produce("lines", 0, &["next"]);
        let visible = Instant::now();
        let (_, response) = consumer.receive::<FetchRequest>(11);
        slowest = slowest.max(visible.elapsed());
        assert_eq!(
            decode(&response.responses[0].partitions[0].records.clone().unwrap().to_bytes(), offset).0,
            ["next"]
        );
    }
    assert!(slowest < Duration::from_millis(100), "woken after {slowest:?}");
    running.stop();
}

#[test]
fn a_long_poll_ends_with_its_wait_and_without_records() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let started = Instant::now();
    let response = client.call(11, fetch("lines", 0, 0, 200));
    assert_eq!(fetched(&response), 0);
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    running.stop();
}

#[test]
fn min_bytes_are_waited_for() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let (mut consumer, mut producer) = (running.client(), running.client());
    consumer.create_topic("lines", 1);
    let request = FetchRequest { min_bytes: 250, ..fetch("lines", 0, 0, 20_000) };
    consumer.send(11, request);
    let value = "x".repeat(100);
    producer.produce("lines", 0, &[&value]);
    producer.produce("lines", 0, &[&value]);
    let (_, response) = consumer.receive::<FetchRequest>(11);
    assert!(fetched(&response) >= 250);
    running.stop();
}

#[test]
fn limits_hold_but_one_batch_always_goes() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let value = "x".repeat(1000);
    for partition in [0, 1] {
        for _ in 0..5 {
            client.produce("lines", partition, &[&value]);
        }
    }
    let mut request = fetch("lines", 0, 0, 0);
    let mut other = request.topics[0].partitions[0].clone();
    other.partition = 1;
    request.topics[0].partitions.push(other);
    request.max_bytes = 10;
    let response = client.call(11, request.clone());
    let len = |index: usize| response.responses[0].partitions[index].records.as_ref().map_or(0, Records::len);
    assert!(len(0) > 1000 && len(0) < 2000, "{}", len(0));
    assert_eq!(len(1), 0);
    request.max_bytes = 50 << 20;
    request.topics[0].partitions[0].partition_max_bytes = 2500;
    let response = client.call(11, request);
    let len = |index: usize| response.responses[0].partitions[index].records.as_ref().map_or(0, Records::len);
    assert!(len(0) <= 2500 && len(0) > 1000, "{}", len(0));
    assert!(len(1) > 5000, "{}", len(1));
    running.stop();
}

#[test]
fn offsets_topics_and_epochs_that_do_not_exist_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["only"]);
    let mut code = |request: FetchRequest| client.call(11, request).responses[0].partitions[0].error_code;
    assert_eq!(code(fetch("lines", 0, 5, 5000)), ErrorCode::OffsetOutOfRange.code());
    assert_eq!(code(fetch("lines", 0, -1, 5000)), ErrorCode::OffsetOutOfRange.code());
    assert_eq!(code(fetch("lines", 1, 0, 5000)), ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(code(fetch("nothing", 0, 0, 5000)), ErrorCode::UnknownTopicOrPartition.code());
    let mut ahead = fetch("lines", 0, 0, 0);
    ahead.topics[0].partitions[0].current_leader_epoch = 99;
    assert_eq!(code(ahead), ErrorCode::UnknownLeaderEpoch.code());
    let mut session = fetch("lines", 0, 0, 0);
    (session.session_id, session.session_epoch) = (7, 3);
    let response = client.call(11, session);
    assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
    let mut unknown_id = fetch("", 0, 0, 0);
    unknown_id.topics[0].topic_id = uuid::Uuid::from_u128(1);
    let response = client.call(13, unknown_id);
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::UnknownTopicId.code());
    running.stop();
}

#[test]
fn batches_that_are_damaged_too_large_or_foreign_are_refused_and_nothing_is_stored() {
    let dir = tempdir().unwrap();
    let config = BrokerConfig::new(dir.path()).with("message.max.bytes", "2000").unwrap();
    let running = Running::with(config);
    let mut client = running.client();
    client.create_topic("lines", 1);
    let good = batch(&["good"]);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut code = |records: Vec<u8>| error_of(&client.call(9, produce("lines", 0, -1, records.into())));
    assert_eq!(code(flipped), ErrorCode::CorruptMessage.code());
    assert_eq!(code([&good[..], &good[..]].concat()), ErrorCode::CorruptMessage.code());
    assert_eq!(code(Vec::new()), ErrorCode::InvalidRecord.code());
    assert_eq!(code(batch(&[&"x".repeat(5000)]).to_vec()), ErrorCode::MessageTooLarge.code());
    let mut old = good.to_vec();
    old[16] = 1;
    assert_eq!(code(old), ErrorCode::UnsupportedForMessageFormat.code());
    let refused = client.call(9, produce("__kappa_catalog", 0, -1, good.clone()));
    assert_eq!(error_of(&refused), ErrorCode::InvalidTopicException.code());
    assert_eq!(client.produce("lines", 0, &["first"]), 0);
    running.stop();
}

#[test]
fn metadata_creates_what_is_asked_for_and_allowed() {
    let dir = tempdir().unwrap();
    let running = Running::with(BrokerConfig::new(dir.path()).with("num.partitions", "4").unwrap());
    let mut client = running.client();
    let ask = |name: &str, create: bool| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]),
        allow_auto_topic_creation: create,
        ..Default::default()
    };
    let refused = client.call(9, ask("events", false));
    assert_eq!(refused.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
    let created = client.call(9, ask("events", true));
    assert_eq!((created.topics[0].error_code, created.topics[0].partitions.len()), (0, 4));
    assert_eq!(created.brokers[0].port, i32::from(running.broker.address().port()));
    let illegal = client.call(9, ask("no/slashes", true));
    assert_eq!(illegal.topics[0].error_code, ErrorCode::InvalidTopicException.code());
    let by_id = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id: created.topics[0].topic_id, name: None }]),
        ..Default::default()
    };
    let by_id = client.call(12, MetadataRequest { ..by_id });
    assert!(by_id.topics[0].topic_id.is_nil() || by_id.topics[0].name.as_deref() == Some("events"));
    running.stop();
}

#[test]
fn offsets_are_listed_by_place_and_by_time() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["a", "b"]);
    client.produce("lines", 0, &["c"]);
    let mut at = |timestamp: i64| {
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: "lines".into(),
                partitions: vec![ListOffsetsPartition { timestamp, ..Default::default() }],
            }],
            ..Default::default()
        };
        let response = client.call(9, request);
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.error_code, 0);
        found.offset
    };
    assert_eq!((at(-2), at(-4), at(-1)), (0, 0, 3));
    assert_eq!((at(-5), at(-6)), (-1, -1));
    assert_eq!(at(0), 0);
    assert_eq!(at(i64::MAX), -1);
    assert!(at(-3) <= 2);
    running.stop();
}

#[test]
fn the_end_of_a_leader_epoch_is_the_end_of_the_log_while_it_lasts() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["a", "b"]);
    for (leader_epoch, found) in [(0, (0, 0, 2)), (9, (0, -1, -1))] {
        let request = OffsetForLeaderEpochRequest {
            replica_id: -1,
            topics: vec![epochs::OffsetForLeaderTopic {
                topic: "lines".into(),
                partitions: vec![epochs::OffsetForLeaderPartition { leader_epoch, ..Default::default() }],
            }],
        };
        let response = client.call(4, request);
        let end = &response.topics[0].partitions[0];
        assert_eq!((end.error_code, end.leader_epoch, end.end_offset), found, "epoch {leader_epoch}");
    }
    running.stop();
}
