//! Two items in one: composite keys such as (origin, destination).
//!
//! Layout: u32 length of the first item (big endian), the first item, the second item. A null first item has the
//! length 2^32 - 1. If the second codec has a null, a byte stands before the second item: 0 for a null, 1 for an
//! item. Equal pairs encode alike, and different ones differently; byte order sorts by the length of the first
//! item, then by the first, then by the second.

use super::{Codec, CodecError};

/// Stands for the length of a first item that is null.
const NULL_LEN: u32 = u32::MAX;

impl<A: Codec, B: Codec> Codec for (A, B) {
    type Item = (A::Item, B::Item);

    fn encode(&self, item: &Self::Item, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let at = out.len();
        out.extend_from_slice(&NULL_LEN.to_be_bytes());
        if !self.0.is_null(&item.0) {
            self.0.encode(&item.0, out)?;
            let length = u32::try_from(out.len() - at - 4).expect("an encoded key part is below 4 GiB");
            if let Some(prefix) = out.get_mut(at..at + 4) {
                prefix.copy_from_slice(&length.to_be_bytes());
            }
        }
        if self.1.null().is_some() {
            let null = self.1.is_null(&item.1);
            out.push(u8::from(!null));
            if null {
                return Ok(());
            }
        }
        self.1.encode(&item.1, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Item, CodecError> {
        let truncated = |expected| CodecError::Truncated { item: "pair", expected, actual: bytes.len() };
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| truncated(4))?;
        let length = u32::from_be_bytes(*length);
        let (first, rest) = match self.0.null().filter(|_| length == NULL_LEN) {
            Some(null) => (null, rest),
            None => {
                let length = length as usize;
                let split = rest.split_at_checked(length);
                let (first, rest) = split.ok_or_else(|| truncated(length.saturating_add(4)))?;
                (self.0.decode(first)?, rest)
            }
        };
        let second = match (self.1.null(), rest) {
            (None, rest) => self.1.decode(rest)?,
            (Some(null), [0]) => null,
            (Some(_), [1, rest @ ..]) => self.1.decode(rest)?,
            (Some(_), []) => return Err(truncated(bytes.len() + 1)),
            (Some(_), [found, ..]) => {
                return Err(CodecError::Value { item: "second of a pair", found: *found });
            }
        };
        Ok((first, second))
    }

    fn describe(&self) -> String {
        format!("({}, {})", self.0.describe(), self.1.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{I32, I64, Utf8, opt};
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_null_in_a_pair_is_no_other_item(
            a: (Option<i64>, Option<String>),
            b: (Option<i64>, Option<String>),
        ) {
            let numbers_first = (opt(I64), opt(Utf8));
            let mut encoded = [Vec::new(), Vec::new()];
            numbers_first.encode(&a, &mut encoded[0]).unwrap();
            numbers_first.encode(&b, &mut encoded[1]).unwrap();
            prop_assert_eq!(encoded[0] == encoded[1], a == b);
            prop_assert_eq!(numbers_first.decode(&encoded[0]), Ok(a.clone()));
            let text_first = (opt(Utf8), I64);
            let (text, number) = ((a.1, 7), (b.1, 7));
            let mut encoded = [Vec::new(), Vec::new()];
            text_first.encode(&text, &mut encoded[0]).unwrap();
            text_first.encode(&number, &mut encoded[1]).unwrap();
            prop_assert_eq!(encoded[0] == encoded[1], text == number);
            prop_assert_eq!(text_first.decode(&encoded[0]), Ok(text));
        }
    }
}
