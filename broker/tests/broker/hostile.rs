//! Frames that no client of good will sends: whatever happens to their connection, the others go on.

use crate::client::{Client, Running, api_versions, batch, produce, still_serves};
use kappa_broker::BrokerConfig;
use kappa_protocol::messages::{ApiVersionsRequest, FetchRequest};
use kappa_protocol::{ApiKey, ErrorCode, Request, frame};
use std::io::Write;
use std::time::Duration;
use tempfile::tempdir;

#[test]
fn an_api_versions_request_from_the_future_is_answered_in_version_0() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let mut bytes = frame::encode_request(7, Some("test"), 4, &api_versions().into()).unwrap().concat();
    bytes[7] = 99;
    client.stream.write_all(&bytes).unwrap();
    let (id, response) = client.receive::<ApiVersionsRequest>(0);
    assert_eq!((id, response.error_code), (7, ErrorCode::UnsupportedVersion.code()));
    let known = response.api_keys.iter().find(|api| api.api_key == ApiKey::ApiVersions as i16).unwrap();
    assert_eq!((known.min_version, known.max_version), (0, 4));
    // The same connection then asks for what there is.
    for version in 0..=4 {
        assert!(client.call(version, api_versions()).api_keys.len() > 20);
    }
    running.stop();
}

#[test]
fn what_is_not_served_closes_its_connection_only() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut other = running.client();
    other.create_topic("lines", 1);
    let body =
        frame::encode_request(1, None, 9, &produce("lines", 0, -1, batch(&["a"])).into()).unwrap().concat();
    let with = |key: i16, version: i16| {
        let mut bytes = body.clone();
        bytes[4..6].copy_from_slice(&key.to_be_bytes());
        bytes[6..8].copy_from_slice(&version.to_be_bytes());
        bytes
    };
    for bytes in [with(0, 2), with(0, 14), with(0, -1), with(999, 0), with(24, 0), with(1, 3)] {
        let mut client = running.client();
        client.stream.write_all(&bytes).unwrap();
        assert!(client.is_closed());
    }
    assert_eq!(other.produce("lines", 0, &["still here"]), 0);
    running.stop();
}

#[test]
fn sizes_beyond_the_cap_and_below_zero_close_the_connection() {
    let dir = tempdir().unwrap();
    let running =
        Running::with(BrokerConfig::new(dir.path()).with("socket.request.max.bytes", "5000").unwrap());
    for size in [5001, i32::MAX, -1, i32::MIN] {
        let mut client = running.client();
        client.stream.write_all(&size.to_be_bytes()).unwrap();
        assert!(client.is_closed(), "{size}");
    }
    still_serves(&running);
    running.stop();
}

#[test]
fn cut_and_flipped_frames_of_every_api_neither_panic_nor_hang_others() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut other = running.client();
    other.create_topic("lines", 1);
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let mut frames = vec![
        frame::encode_request(1, None, 9, &produce("lines", 0, -1, batch(&["a"])).into()).unwrap().concat(),
        frame::encode_request(1, None, 12, &crate::client::fetch("lines", 0, 0, 0).into()).unwrap().concat(),
    ];
    for api in other.call(3, api_versions()).api_keys {
        let key = ApiKey::from_i16(api.api_key).unwrap();
        for version in api.min_version.max(key.schema().min)..=api.max_version {
            // Zeros read as empty strings, empty arrays and nulls: a minimal body of any API.
            let mut reader = kappa_protocol::wire::Reader::new(vec![0; 256].into());
            if let Ok(request) = Request::decode(key, version, &mut reader) {
                frames.push(frame::encode_request(1, None, version, &request).unwrap().concat());
            }
        }
    }
    assert!(frames.len() > 50);
    for bytes in frames {
        for round in 0..8 {
            let mut bytes = bytes.clone();
            if round < 4 {
                let index = 8 + random() % (bytes.len() - 8);
                bytes[index] ^= 1 << (random() % 8);
            } else {
                bytes.truncate(5 + random() % (bytes.len() - 5));
                let len = bytes.len() as i32 - 4;
                bytes[..4].copy_from_slice(&len.to_be_bytes());
            }
            let mut client = running.client();
            client.stream.write_all(&bytes).unwrap();
        }
    }
    still_serves(&running);
    other.produce("lines", 0, &["still here"]);
    running.stop();
}

#[test]
fn half_a_frame_and_silence_hold_up_nobody_and_are_not_waited_for_at_the_stop() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut silent = running.client();
    silent.stream.write_all(&[0, 0, 4, 0, 0, 0]).unwrap();
    let mut poller = running.client();
    poller.create_topic("lines", 1);
    poller.send::<FetchRequest>(11, crate::client::fetch("lines", 0, 0, 60_000));
    still_serves(&running);
    let started = std::time::Instant::now();
    running.stop();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn idle_connections_and_those_beyond_the_cap_are_closed() {
    let dir = tempdir().unwrap();
    let config = BrokerConfig::new(dir.path()).with("connections.max.idle.ms", "300").unwrap();
    let running = Running::with(config.with("max.connections", "2").unwrap());
    let mut first = running.client();
    let mut second = running.client();
    first.call(3, api_versions());
    second.call(3, api_versions());
    let mut third = Client::connect(running.broker.address());
    assert!(third.is_closed());
    assert!(first.is_closed());
    assert!(second.is_closed());
    still_serves(&running);
    running.stop();
}

#[test]
fn a_frame_in_many_pieces_is_one_frame() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    let bytes = frame::encode_request(5, Some("slow"), 3, &api_versions().into()).unwrap().concat();
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive::<ApiVersionsRequest>(3).0, 5);
    running.stop();
}

#[test]
fn a_batch_of_a_megabyte_goes_in_and_comes_out() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let values: Vec<String> = (0..100).map(|i| format!("{i:03}{}", "x".repeat(10_000))).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    for round in 0..5 {
        assert_eq!(client.produce("lines", 0, &values), round * 100);
    }
    let found = client.values("lines", 0, 250);
    assert_eq!(found.len(), 250);
    assert_eq!(found[0], values[50]);
    running.stop();
}
