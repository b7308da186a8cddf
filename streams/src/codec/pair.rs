//! Two items in one: composite keys such as (origin, destination).
//!
//! Layout: u32 length of the first item (big endian), the first item, the second item. Equal pairs encode
//! alike; byte order sorts by the length of the first item, then by the first, then by the second.

use super::{Codec, CodecError};

impl<A: Codec, B: Codec> Codec for (A, B) {
    type Item = (A::Item, B::Item);

    fn encode(&self, item: &Self::Item, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        self.0.encode(&item.0, out)?;
        let length = u32::try_from(out.len() - at - 4).expect("an encoded key part is below 4 GiB");
        if let Some(prefix) = out.get_mut(at..at + 4) {
            prefix.copy_from_slice(&length.to_be_bytes());
        }
        self.1.encode(&item.1, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Item, CodecError> {
        let truncated = |expected| CodecError::Truncated { item: "pair", expected, actual: bytes.len() };
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| truncated(4))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (first, second) =
            rest.split_at_checked(length).ok_or_else(|| truncated(length.saturating_add(4)))?;
        Ok((self.0.decode(first)?, self.1.decode(second)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{I32, Utf8};
    use super::*;

    #[test]
    fn pairs_round_trip_and_a_hostile_length_is_refused() {
        let codec = (Utf8, I32);
        let mut out = Vec::new();
        codec.encode(&("JFK".to_owned(), 7), &mut out).unwrap();
        assert_eq!(out, [0, 0, 0, 3, b'J', b'F', b'K', 0, 0, 0, 7]);
        assert_eq!(codec.decode(&out), Ok(("JFK".to_owned(), 7)));
        let hostile = [0xff, 0xff, 0xff, 0xff, 1];
        assert!(matches!(codec.decode(&hostile), Err(CodecError::Truncated { actual: 5, .. })));
    }
}
