//! The table of APIs, and the two enums that carry any request and any response.
//!
//! `ApiKey`, [`Request`] and [`Response`] cover every API of the schema; which of them a node answers, and in which
//! versions, it tells by ApiVersions.

use crate::Message;
use crate::messages as m;
use crate::wire::{DecodeError, EncodeError, Reader, Writer};

/// What the schema says of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiSchema {
    /// The API.
    pub key: ApiKey,
    /// Oldest version of the schema.
    pub min: i16,
    /// Newest version of the schema (it may be unstable: see what a released broker advertises).
    pub max: i16,
    /// First version with compact encodings and tagged fields; `i16::MAX` where none has them.
    pub flexible: i16,
}

macro_rules! define_apis {
    ($($name:ident = $key:literal, $request:ident, $response:ident, $min:literal, $max:literal, $flexible:literal;)*) => {
        /// The APIs of the schema, by their number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs)]
        pub enum ApiKey { $($name = $key,)* }

        impl ApiKey {
            /// Every API, in ascending order of its number.
            pub const ALL: &'static [ApiKey] = &[$(ApiKey::$name,)*];

            /// The API of this number on the wire.
            pub fn from_i16(key: i16) -> Option<ApiKey> {
                match key { $($key => Some(ApiKey::$name),)* _ => None }
            }

            /// Versions of the schema.
            pub fn schema(self) -> ApiSchema {
                match self {
                    $(ApiKey::$name => ApiSchema { key: self, min: $min, max: $max, flexible: $flexible },)*
                }
            }

            /// Kafka's name of the API.
            pub fn name(self) -> &'static str {
                match self { $(ApiKey::$name => stringify!($name),)* }
            }
        }

        /// Any request.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Request { $($name(m::$request),)* }

        impl Request {
            /// Its API.
            pub fn api_key(&self) -> ApiKey {
                match self { $(Request::$name(_) => ApiKey::$name,)* }
            }

            /// Reads the body of a request.
            pub fn decode(key: ApiKey, version: i16, r: &mut Reader) -> Result<Request, DecodeError> {
                match key { $(ApiKey::$name => m::$request::decode(r, version).map(Request::$name),)* }
            }

            /// Writes the body.
            pub fn encode(&self, version: i16, w: &mut Writer) -> Result<(), EncodeError> {
                match self { $(Request::$name(body) => body.encode(w, version),)* }
            }
        }

        /// Any response.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Response { $($name(m::$response),)* }

        impl Response {
            /// Its API.
            pub fn api_key(&self) -> ApiKey {
                match self { $(Response::$name(_) => ApiKey::$name,)* }
            }

            /// Reads the body of a response.
            pub fn decode(key: ApiKey, version: i16, r: &mut Reader) -> Result<Response, DecodeError> {
                match key { $(ApiKey::$name => m::$response::decode(r, version).map(Response::$name),)* }
            }

            /// Writes the body.
            pub fn encode(&self, version: i16, w: &mut Writer) -> Result<(), EncodeError> {
                match self { $(Response::$name(body) => body.encode(w, version),)* }
            }
        }

        $(
            impl From<m::$request> for Request {
                fn from(body: m::$request) -> Self { Request::$name(body) }
            }
            impl From<m::$response> for Response {
                fn from(body: m::$response) -> Self { Response::$name(body) }
            }
            impl RequestMessage for m::$request {
                const KEY: ApiKey = ApiKey::$name;
                type Response = m::$response;
                fn response(response: Response) -> Option<m::$response> {
                    match response { Response::$name(body) => Some(body), _ => None }
                }
            }
        )*
    };
}

/// A request message and the response that answers it.
pub trait RequestMessage: Message + Into<Request> {
    /// Its API.
    const KEY: ApiKey;
    /// What answers it.
    type Response: Message + Into<Response>;
    /// The typed body of `response`; `None` if it answers another API.
    fn response(response: Response) -> Option<Self::Response>;
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

include!(concat!(env!("OUT_DIR"), "/apis.rs"));
