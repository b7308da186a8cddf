//! Codecs of strings, numbers and plain bytes, in Kafka's byte order.
//!
//! Every encoding here is byte for byte that of Kafka's own serializer of the same type.

use super::{Codec, CodecError};
use bytes::Bytes;

macro_rules! number {
    ($($name:ident, $item:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name;

        impl Codec for $name {
            type Item = $item;

            fn encode(&self, item: &$item, out: &mut Vec<u8>) -> Result<(), CodecError> {
                out.extend_from_slice(&item.to_be_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$item, CodecError> {
                let exact = bytes.try_into().map_err(|_| CodecError::Length {
                    item: stringify!($item),
                    expected: size_of::<$item>(),
                    actual: bytes.len(),
                })?;
                Ok(<$item>::from_be_bytes(exact))
            }
        }
    )*};
}

number! {
    U8, u8, "One byte.";
    I16, i16, "A 16-bit signed integer, big endian.";
    I32, i32, "A 32-bit signed integer, big endian.";
    I64, i64, "A 64-bit signed integer, big endian.";
    U32, u32, "A 32-bit unsigned integer, big endian.";
    U64, u64, "A 64-bit unsigned integer, big endian.";
    F32, f32, "A 32-bit float, big endian.";
    F64, f64, "A 64-bit float, big endian.";
}

/// A boolean, one byte 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bool;

impl Codec for Bool {
    type Item = bool;

    fn encode(&self, item: &bool, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.push(u8::from(*item));
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<bool, CodecError> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            [found] => Err(CodecError::Value { item: "bool", found: *found }),
            _ => Err(CodecError::Length { item: "bool", expected: 1, actual: bytes.len() }),
        }
    }
}

/// UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8;

impl Codec for Utf8 {
    type Item = String;

    fn encode(&self, item: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(item.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| CodecError::Utf8 { valid_up_to: error.valid_up_to() })
    }
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raw;

impl Codec for Raw {
    type Item = Bytes;

    fn encode(&self, item: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(item);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded<C: Codec>(codec: &C, item: &C::Item) -> Vec<u8> {
        let mut out = Vec::new();
        codec.encode(item, &mut out).unwrap();
        out
    }

    #[test]
    fn numbers_are_big_endian_as_kafka_writes_them() {
        assert_eq!(encoded(&I64, &-2), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(encoded(&I32, &258), [0, 0, 1, 2]);
        assert_eq!(encoded(&F64, &1.0), [0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn wrong_sizes_and_bad_text_are_refused_with_the_numbers() {
        assert_eq!(I64.decode(&[1, 2]), Err(CodecError::Length { item: "i64", expected: 8, actual: 2 }));
        assert_eq!(Utf8.decode(b"ab\xff"), Err(CodecError::Utf8 { valid_up_to: 2 }));
        assert_eq!(Bool.decode(&[2]), Err(CodecError::Value { item: "bool", found: 2 }));
    }

    proptest! {
        #[test]
        fn items_survive_the_round_trip(number: i64, float: f64, text: String, bytes: Vec<u8>) {
            prop_assert_eq!(I64.decode(&encoded(&I64, &number)), Ok(number));
            prop_assert_eq!(F64.decode(&encoded(&F64, &float)).map(f64::to_bits), Ok(float.to_bits()));
            prop_assert_eq!(Utf8.decode(&encoded(&Utf8, &text)), Ok(text));
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(Raw.decode(&encoded(&Raw, &bytes)), Ok(bytes));
        }
    }
}
