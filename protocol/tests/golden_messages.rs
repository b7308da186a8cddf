//! Every request, response and header of Kafka 4.3 in every version, against bytes that Kafka's own classes wrote.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use kappa_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, RequestHeader, ResponseHeader,
};
use kappa_protocol::wire::{DecodeError, Reader, Writer};
use kappa_protocol::{ApiKey, Message, Request, Response};

/// Every request, response and header of every version, as `{msg, apiKey, type, version, case, json, hex}` lines.
const VECTORS: &str = include_str!("vectors/messages_kafka43.jsonl");

#[derive(Debug)]
struct Case {
    message: String,
    kind: String,
    key: Option<ApiKey>,
    version: i16,
    is_default: bool,
    bytes: Bytes,
}

fn cases() -> Vec<Case> {
    VECTORS
        .lines()
        .map(|line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            Case {
                message: v["msg"].as_str().unwrap().into(),
                kind: v["type"].as_str().unwrap().into(),
                key: v["apiKey"].as_i64().and_then(|k| ApiKey::from_i16(k as i16)),
                version: v["version"].as_i64().unwrap() as i16,
                is_default: v["case"] == "default",
                bytes: unhex(v["hex"].as_str().unwrap()),
            }
        })
        .collect()
}

fn unhex(text: &str) -> Bytes {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Decodes, checks that everything was read, encodes again.
fn again<M: Message>(bytes: Bytes, version: i16) -> Result<Bytes, DecodeError> {
    let mut r = Reader::new(bytes);
    let message = M::decode(&mut r, version)?;
    r.finish()?;
    let mut w = Writer::default();
    message.encode(&mut w, version).unwrap();
    Ok(w.into_bytes())
}

/// `again` for a request or response of any API.
fn again_by_key(case: &Case, bytes: Bytes) -> Result<Bytes, DecodeError> {
    let mut r = Reader::new(bytes);
    let mut w = Writer::default();
    let key = case.key.expect("requests and responses have a known key");
    if case.kind == "request" {
        Request::decode(key, case.version, &mut r)?.encode(case.version, &mut w).unwrap();
    } else {
        Response::decode(key, case.version, &mut r)?.encode(case.version, &mut w).unwrap();
    }
    r.finish()?;
    Ok(w.into_bytes())
}

fn again_by_name(case: &Case, bytes: Bytes) -> Result<Bytes, DecodeError> {
    match case.message.as_str() {
        "RequestHeader" => again::<RequestHeader>(bytes, case.version),
        "ResponseHeader" => again::<ResponseHeader>(bytes, case.version),
        "ConsumerProtocolAssignment" => again::<ConsumerProtocolAssignment>(bytes, case.version),
        "ConsumerProtocolSubscription" => again::<ConsumerProtocolSubscription>(bytes, case.version),
        other => panic!("no type for {other}"),
    }
}

#[test]
fn all_golden_messages_decode_and_encode_to_the_same_bytes() {
    let cases = cases();
    assert_eq!(cases.len(), 1232);
    for case in &cases {
        let bytes = case.bytes.clone();
        let encoded = match case.key {
            Some(_) => again_by_key(case, bytes),
            None => again_by_name(case, bytes),
        };
        let encoded = encoded.unwrap_or_else(|e| panic!("{case:?}: {e}"));
        assert_eq!(encoded, case.bytes, "{} v{}", case.message, case.version);
    }
}

#[test]
fn defaults_are_the_schemas() {
    use kappa_protocol::messages::{
        CreateTopicsRequest, FetchRequest, MetadataRequest, PushTelemetryRequest,
    };
    assert_eq!(CreateTopicsRequest::default().timeout_ms, 60_000);
    assert_eq!((FetchRequest::default().max_bytes, FetchRequest::default().session_epoch), (i32::MAX, -1));
    assert!(MetadataRequest::default().allow_auto_topic_creation);
    assert_eq!(FetchRequest::default().rack_id, "");
    assert_eq!(PushTelemetryRequest::default().metrics, Bytes::new());
}

#[test]
fn truncated_messages_are_refused_and_never_panic() {
    for case in cases().iter().filter(|c| c.key.is_some() && !c.bytes.is_empty()) {
        for len in 0..case.bytes.len() {
            assert!(
                again_by_key(case, case.bytes.slice(..len)).is_err(),
                "{} v{} cut at {len}",
                case.message,
                case.version
            );
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for case in cases().iter().filter(|c| c.key.is_some() && !c.is_default) {
        for bit in 0..case.bytes.len() * 8 {
            let mut bytes = case.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut r = Reader::new(bytes.into());
            let key = case.key.unwrap();
            let _ = match case.kind.as_str() {
                "request" => Request::decode(key, case.version, &mut r).map(drop),
                _ => Response::decode(key, case.version, &mut r).map(drop),
            };
        }
    }
}

/// Five bytes that make a codec that trusts array lengths ask for 154 GB.
#[test]
fn a_huge_array_length_allocates_nothing() {
    let bytes = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0x00]);
    let error = Request::decode(ApiKey::Metadata, 4, &mut Reader::new(bytes)).unwrap_err();
    assert_eq!(error, DecodeError::Truncated { needed: 0x7fff_fffe, remaining: 1 });
}

/// A frame of one-byte structures must not grow into memory without bound either.
#[test]
fn the_items_of_a_frame_are_bounded() {
    let count = 3_000_000u32;
    let mut bytes = count.to_be_bytes().to_vec();
    bytes.resize(4 + 2 * count as usize, 0);
    let error = Request::decode(ApiKey::Metadata, 4, &mut Reader::new(bytes.into())).unwrap_err();
    assert!(matches!(error, DecodeError::TooManyItems { .. }), "{error}");
}
