//! What the fuzz target `frames` and its ordinary replay do with any bytes: read them as a request and as a response,
//! and write again what could be read.

use bytes::Bytes;
use kappa_protocol::frame::{self, RequestHeader};
use kappa_protocol::wire::{Reader, Writer};
use kappa_protocol::{ApiKey, Request};

/// A request frame without its length prefix; its first four bytes also choose the API and version of a response.
pub(crate) fn frame(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let mut r = Reader::new(bytes.clone());
    let Ok(header) = RequestHeader::decode(&mut r) else { return };
    let Some(key) = ApiKey::from_i16(header.api_key) else { return };
    if let Ok(request) = Request::decode(key, header.version, &mut r) {
        let mut w = Writer::default();
        request.encode(header.version, &mut w).expect("what was read in a version can be written in it");
        let again = Request::decode(key, header.version, &mut Reader::new(w.into_bytes()));
        assert_eq!(format!("{:?}", again.expect("it was just written")), format!("{request:?}"));
    }
    let _ = frame::decode_response(key, header.version, bytes.slice(4..));
}
