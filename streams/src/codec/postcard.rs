//! Postcard through serde: few bytes and no field names.

use super::{Codec, CodecError, Data};
use ::postcard::{Error, ser_flavors::Flavor, serialize_with_flavor, take_from_bytes};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// Items in postcard's compact form: numbers as varints, fields and variants by position.
///
/// The bytes do not say what they are. A field or a variant that is added, removed or moved makes what was written before
/// unreadable, or readable as something else. Give the type another name then: an application that would read what was
/// kept under the old one is refused at start ([`Codec::describe`]). In [`Json`](super::Json) fields may be added. As a key
/// codec it is only right for types that always serialize alike (structs and tuples do, hash maps do not).
///
/// ```
/// use kappa_streams::codec::{Codec, Postcard};
/// let codec = Postcard::<(u32, String)>::new();
/// let mut bytes = Vec::new();
/// codec.encode(&(7, "tea".to_owned()), &mut bytes)?;
/// assert_eq!(bytes, [7, 3, b't', b'e', b'a']);
/// assert_eq!(codec.decode(&bytes)?, (7, "tea".to_owned()));
/// # Ok::<(), kappa_streams::codec::CodecError>(())
/// ```
pub struct Postcard<T>(PhantomData<fn() -> T>);

impl<T> Postcard<T> {
    /// The codec of `T`.
    pub const fn new() -> Postcard<T> {
        Postcard(PhantomData)
    }
}

impl<T> Default for Postcard<T> {
    fn default() -> Self {
        Postcard::new()
    }
}

impl<T> Clone for Postcard<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Postcard<T> {}

impl<T> fmt::Debug for Postcard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postcard")
    }
}

/// Appends to bytes that stay with their owner whether writing succeeds or not.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> Result<(), Error> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> Result<(), Error> {
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + Data> Codec for Postcard<T> {
    type Item = T;

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serialize_with_flavor(item, Append(out))
            .map_err(|error| CodecError::Postcard { length: 0, reason: error.to_string() })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let failed = |reason| CodecError::Postcard { length: bytes.len(), reason };
        let (item, rest) = take_from_bytes(bytes).map_err(|error| failed(error.to_string()))?;
        if rest.is_empty() { Ok(item) } else { Err(failed(format!("{} bytes are left over", rest.len()))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Event {
        Departed { flight: u32, delay: Option<i32> },
        Cancelled(String),
    }

    #[test]
    fn items_round_trip_and_others_are_refused() {
        let codec = Postcard::<Event>::new();
        for event in [
            Event::Departed { flight: 1545, delay: Some(-3) },
            Event::Departed { flight: 0, delay: None },
            Event::Cancelled("fog".into()),
        ] {
            let mut bytes = b"before".to_vec();
            codec.encode(&event, &mut bytes).unwrap();
            let bytes = &bytes["before".len()..];
            assert_eq!(codec.decode(bytes), Ok(event));
            for cut in 0..bytes.len() {
                let error = codec.decode(&bytes[..cut]).unwrap_err();
                assert!(matches!(error, CodecError::Postcard { length, .. } if length == cut), "{error}");
            }
            let longer = [bytes, &[0]].concat();
            assert!(codec.decode(&longer).unwrap_err().to_string().contains("1 bytes are left over"));
        }
        assert!(codec.decode(&[9]).is_err(), "no such variant");
    }

    #[test]
    fn a_length_that_is_not_there_sizes_no_allocation() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(Postcard::<Vec<u64>>::new().decode(&huge).is_err());
        assert!(Postcard::<BTreeMap<String, u64>>::new().decode(&huge).is_err());
    }

    #[test]
    fn an_item_that_cannot_be_written_leaves_what_was_there() {
        #[derive(Clone, serde::Deserialize)]
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let mut out = b"kept".to_vec();
        assert!(Postcard::<Stubborn>::new().encode(&Stubborn, &mut out).is_err());
        assert!(out.starts_with(b"kept"));
    }
}
