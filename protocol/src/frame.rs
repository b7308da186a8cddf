//! Frames: the length prefix, and request and response headers of every version around a body.
//!
//! Owns what precedes a body on the wire. Knows nothing of sockets: callers hand in the bytes.

use crate::Piece;
use crate::api::{ApiKey, Request, Response};
use crate::wire::{DecodeError, EncodeError, Reader, Writer};
use bytes::Bytes;

/// Bytes of the length prefix.
pub const PREFIX_LEN: usize = 4;

/// A length prefix that no frame of ours may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {size} bytes: allowed are 0 to {max}")]
pub struct FrameSizeError {
    /// The prefix as a signed number.
    pub size: i32,
    /// The cap in bytes.
    pub max: usize,
}

/// Length of the frame that follows this prefix.
pub fn size(prefix: [u8; PREFIX_LEN], max: usize) -> Result<usize, FrameSizeError> {
    let size = i32::from_be_bytes(prefix);
    match usize::try_from(size) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(FrameSizeError { size, max }),
    }
}

/// What precedes a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API's number; it may be one that the schema lacks.
    pub api_key: i16,
    /// Version of the body.
    pub version: i16,
    /// Echoed in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// Reads a header. That of an unknown API is read up to the client id: only the schema tells whether tagged
    /// fields follow.
    pub fn decode(r: &mut Reader) -> Result<RequestHeader, DecodeError> {
        let (api_key, version, correlation_id) = (r.i16()?, r.i16()?, r.i32()?);
        // The client id keeps its old form in every header version (KIP-482).
        let client_id = r.nullable_string(false)?;
        if ApiKey::from_i16(api_key).is_some_and(|key| version >= key.schema().flexible) {
            for _ in 0..r.uvarint()? {
                let (_, end) = r.begin_tag()?;
                r.skip_to(end);
            }
        }
        Ok(RequestHeader { api_key, version, correlation_id, client_id })
    }
}

/// A whole request frame, length prefix included, as pieces for a vectored write.
pub fn encode_request(
    correlation_id: i32,
    client_id: Option<&str>,
    version: i16,
    request: &Request,
) -> Result<Vec<Bytes>, EncodeError> {
    let key = request.api_key();
    let mut w = Writer::with_capacity(256);
    w.put_i32(0);
    w.put_i16(key as i16);
    w.put_i16(version);
    w.put_i32(correlation_id);
    w.put_nullable_string(client_id, false)?;
    if version >= key.schema().flexible {
        w.put_uvarint(0);
    }
    request.encode(version, &mut w)?;
    let in_memory = |piece| match piece {
        Piece::Bytes(bytes) => Ok(bytes),
        Piece::Region(_) => Err(EncodeError::Region),
    };
    finish(w)?.into_iter().map(in_memory).collect()
}

/// A whole response frame, length prefix included, as pieces to be sent one after the other.
pub fn encode_response(
    correlation_id: i32,
    version: i16,
    response: &Response,
) -> Result<Vec<Piece>, EncodeError> {
    let mut w = Writer::with_capacity(256);
    w.put_i32(0);
    w.put_i32(correlation_id);
    if response_header_is_flexible(response.api_key(), version) {
        w.put_uvarint(0);
    }
    response.encode(version, &mut w)?;
    finish(w)
}

/// The correlation id that opens a response frame (without its length prefix).
pub fn correlation_id(frame: &Bytes) -> Result<i32, DecodeError> {
    Reader::new(frame.clone()).i32()
}

/// Reads a response frame (without its length prefix) that answers a request of this API and version.
pub fn decode_response(key: ApiKey, version: i16, frame: Bytes) -> Result<(i32, Response), DecodeError> {
    let mut r = Reader::new(frame);
    let correlation_id = r.i32()?;
    if response_header_is_flexible(key, version) {
        for _ in 0..r.uvarint()? {
            let (_, end) = r.begin_tag()?;
            r.skip_to(end);
        }
    }
    let response = Response::decode(key, version, &mut r)?;
    r.finish()?;
    Ok((correlation_id, response))
}

/// ApiVersions answers with the oldest header always: a client must be able to read it before it knows anything.
fn response_header_is_flexible(key: ApiKey, version: i16) -> bool {
    key != ApiKey::ApiVersions && version >= key.schema().flexible
}

fn finish(w: Writer) -> Result<Vec<Piece>, EncodeError> {
    let len = w.len() - PREFIX_LEN;
    let prefix = i32::try_from(len).map_err(|_| EncodeError::TooLong { len, max: i32::MAX as usize })?;
    Ok(w.finish_with_prefix(prefix.to_be_bytes()))
}
