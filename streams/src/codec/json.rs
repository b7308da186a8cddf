//! JSON through serde.

use super::{Codec, CodecError, Data};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// Items as JSON text.
///
/// As a key codec it is only right for types that always print alike (structs and tuples do, hash maps do not).
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Json<T> {
    /// The codec of `T`.
    pub const fn new() -> Json<T> {
        Json(PhantomData)
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Json::new()
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Json<T> {}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Json")
    }
}

impl<T: Serialize + DeserializeOwned + Data> Codec for Json<T> {
    type Item = T;

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, item).map_err(json_error)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(json_error)
    }
}

fn json_error(error: serde_json::Error) -> CodecError {
    CodecError::Json { line: error.line(), column: error.column(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Flight {
        origin: String,
        delay: Option<i32>,
    }

    #[test]
    fn json_round_trips_and_says_where_it_fails() {
        let codec = Json::<Flight>::new();
        let flight = Flight { origin: "JFK".into(), delay: None };
        let mut out = Vec::new();
        codec.encode(&flight, &mut out).unwrap();
        assert_eq!(out, br#"{"origin":"JFK","delay":null}"#);
        assert_eq!(codec.decode(&out), Ok(flight));
        assert!(matches!(codec.decode(b"{\"origin\":1}"), Err(CodecError::Json { line: 1, .. })));
    }
}
