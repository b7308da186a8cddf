//! Frames as a connection sees them: headers of each version around bodies, and record data that is never copied.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "frame/exercise.rs"]
mod exercise;

use bytes::Bytes;
use kappa_protocol::frame::{self, RequestHeader};
use kappa_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kappa_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kappa_protocol::messages::{ApiVersionsResponse, FetchResponse, MetadataRequest, ProduceRequest};
use kappa_protocol::wire::{EncodeError, Reader};
use kappa_protocol::{ApiKey, Piece, Records, Region, Request, Response};
use std::sync::Arc;

/// Frames in memory, whichever way they were made.
trait Joined {
    fn joined(&self) -> Bytes;
}

impl Joined for Vec<Bytes> {
    fn joined(&self) -> Bytes {
        Records::from(self.clone()).to_bytes()
    }
}

impl Joined for Vec<Piece> {
    fn joined(&self) -> Bytes {
        Records::from_iter(self.clone()).to_bytes()
    }
}

/// The frame behind a checked length prefix.
fn unprefixed(parts: &impl Joined) -> Bytes {
    let all = parts.joined();
    let len = frame::size(all[..4].try_into().unwrap(), 1 << 20).unwrap();
    assert_eq!(len, all.len() - 4);
    all.slice(4..)
}

#[test]
fn requests_round_trip_in_every_version() {
    for version in 0..=13 {
        let request = Request::from(MetadataRequest::default());
        let parts = frame::encode_request(7, Some("test"), version, &request).unwrap();
        let mut r = Reader::new(unprefixed(&parts));
        let header = RequestHeader::decode(&mut r).unwrap();
        assert_eq!(
            header,
            RequestHeader { api_key: 3, version, correlation_id: 7, client_id: Some("test".into()) }
        );
        assert_eq!(Request::decode(ApiKey::Metadata, version, &mut r).unwrap(), request);
        r.finish().unwrap();
    }
}

#[test]
fn api_versions_answers_without_tagged_fields_in_the_header() {
    let parts = frame::encode_response(1, 4, &ApiVersionsResponse::default().into()).unwrap();
    let bytes = unprefixed(&parts);
    assert_eq!(&bytes[..6], [0, 0, 0, 1, 0, 0], "the error code follows the correlation id at once");
    let (id, _) = frame::decode_response(ApiKey::ApiVersions, 4, bytes).unwrap();
    assert_eq!(id, 1);
}

#[test]
fn record_data_of_a_fetch_response_is_shared_not_copied() {
    let (first, second) = (Bytes::from(vec![1u8; 4000]), Bytes::from(vec![2u8; 5000]));
    let partition =
        |records: Vec<Bytes>| PartitionData { records: Some(Records::from(records)), ..Default::default() };
    let response = Response::from(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".into(),
            partitions: vec![partition(vec![first.clone(), second.clone()]), partition(vec![first.clone()])],
            ..Default::default()
        }],
        ..Default::default()
    });
    for version in [4, 12] {
        let parts = frame::encode_response(9, version, &response).unwrap();
        for data in [&first, &second] {
            let shared = |p: &Bytes| p.as_ptr() == data.as_ptr() && p.len() == data.len();
            assert!(parts.iter().filter_map(Piece::as_bytes).any(shared));
        }
        let (id, decoded) = frame::decode_response(ApiKey::Fetch, version, unprefixed(&parts)).unwrap();
        assert_eq!((id, &decoded), (9, &response));
    }
}

#[test]
fn a_field_that_a_version_cannot_carry_is_an_error() {
    let request = ProduceRequest { transactional_id: Some("t".into()), ..Default::default() };
    assert!(frame::encode_request(1, None, 3, &request.into()).is_ok());
    let fetch = kappa_protocol::messages::ListOffsetsRequest { isolation_level: 1, ..Default::default() };
    let error = frame::encode_request(1, None, 1, &fetch.into()).unwrap_err();
    assert!(matches!(error, EncodeError::NotInVersion { version: 1, .. }), "{error}");
}

#[test]
fn a_frame_size_beyond_the_cap_or_negative_is_refused() {
    assert_eq!(frame::size([0, 0, 1, 0], 256), Ok(256));
    assert!(frame::size([0, 0, 1, 1], 256).is_err());
    assert!(frame::size([0xff; 4], 256).is_err());
}

/// Replays the corpus of the fuzz target `frames`, so that what it once found stays found.
#[test]
fn fuzz_corpus_is_handled() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let seeds: Vec<_> = std::fs::read_dir(&corpus).expect("the corpus is in the repository").collect();
    assert!(seeds.len() >= 10, "only {} seeds in {}", seeds.len(), corpus.display());
    for seed in seeds {
        exercise::frame(&std::fs::read(seed.expect("a directory entry").path()).expect("a seed"));
    }
}

#[test]
fn a_region_of_a_file_keeps_its_place_in_a_response_and_goes_into_no_request() {
    let region = Region { file: Arc::new("a file"), position: 7, len: 9000 };
    let behind = Bytes::from_static(b"behind");
    let partition = |records: Records| PartitionData { records: Some(records), ..Default::default() };
    let partitions = vec![partition(region.clone().into()), partition(behind.clone().into())];
    let topic = FetchableTopicResponse { topic: "t".into(), partitions, ..Default::default() };
    let response = Response::from(FetchResponse { responses: vec![topic], ..Default::default() });
    for version in [4, 12] {
        let pieces = frame::encode_response(9, version, &response).unwrap();
        let [Piece::Bytes(before), Piece::Region(kept), Piece::Bytes(rest)] = pieces.as_slice() else {
            panic!("{pieces:?}");
        };
        assert_eq!((kept.position, kept.len), (7, 9000));
        assert!(rest.windows(behind.len()).any(|window| window == behind));
        let len = pieces.iter().map(Piece::len).sum::<usize>() - frame::PREFIX_LEN;
        assert_eq!(before[..4], (len as i32).to_be_bytes());
    }
    let partition_data = vec![PartitionProduceData { index: 0, records: Some(region.into()) }];
    let topic_data = vec![TopicProduceData { name: "t".into(), partition_data, ..Default::default() }];
    let request = ProduceRequest { topic_data, ..Default::default() };
    assert!(matches!(frame::encode_request(1, None, 9, &request.into()), Err(EncodeError::Region)));
}
