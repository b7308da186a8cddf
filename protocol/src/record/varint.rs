//! Variable-length integers as Kafka writes them: base 128, least significant group first.
//!
//! Signed values (`varint`, `varlong`) are zigzag-mapped first, so that small negative numbers
//! stay short; records use those. Unsigned ones are the lengths of flexible messages.
//! Invariant: a reader takes at most 5 (32 bits) or 10 (64 bits) bytes, refuses a value that does
//! not fit its type, and leaves its input where it was when it fails.

use bytes::BufMut;

/// Longest encoding of a 32-bit value in bytes.
pub const MAX_VARINT_LEN: usize = 5;
/// Longest encoding of a 64-bit value in bytes.
pub const MAX_VARLONG_LEN: usize = 10;

/// Why a variable-length integer could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The input ends within the integer.
    #[error("input ends within a variable-length integer")]
    Truncated,
    /// The value does not fit its type.
    #[error("variable-length integer does not fit {bits} bits")]
    Overflow {
        /// Width of the type that was asked for.
        bits: u32,
    },
}

/// Reads an unsigned 32-bit integer and moves `input` behind it.
#[inline]
pub fn read_unsigned(input: &mut &[u8]) -> Result<u32, VarintError> {
    match input.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *input = rest;
            Ok(u32::from(byte))
        }
        _ => {
            let (value, rest) = read_groups(input, u32::BITS)?;
            *input = rest;
            Ok(value as u32)
        }
    }
}

/// Reads an unsigned 64-bit integer and moves `input` behind it.
#[inline]
pub fn read_unsigned_long(input: &mut &[u8]) -> Result<u64, VarintError> {
    match input.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *input = rest;
            Ok(u64::from(byte))
        }
        _ => {
            let (value, rest) = read_groups(input, u64::BITS)?;
            *input = rest;
            Ok(value)
        }
    }
}

/// Reads a zigzag-mapped 32-bit integer and moves `input` behind it.
#[inline]
pub fn read_varint(input: &mut &[u8]) -> Result<i32, VarintError> {
    let raw = read_unsigned(input)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

/// Reads a zigzag-mapped 64-bit integer and moves `input` behind it.
#[inline]
pub fn read_varlong(input: &mut &[u8]) -> Result<i64, VarintError> {
    let raw = read_unsigned_long(input)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

/// Appends an unsigned 32-bit integer.
#[inline]
pub fn write_unsigned(out: &mut impl BufMut, value: u32) {
    write_unsigned_long(out, u64::from(value));
}

/// Appends an unsigned 64-bit integer.
#[inline]
pub fn write_unsigned_long(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends a zigzag-mapped 32-bit integer.
#[inline]
pub fn write_varint(out: &mut impl BufMut, value: i32) {
    write_unsigned(out, zigzag(value));
}

/// Appends a zigzag-mapped 64-bit integer.
#[inline]
pub fn write_varlong(out: &mut impl BufMut, value: i64) {
    write_unsigned_long(out, zigzag_long(value));
}

/// Bytes that [`write_unsigned`] writes for `value`.
#[inline]
pub const fn unsigned_len(value: u32) -> usize {
    unsigned_long_len(value as u64)
}

/// Bytes that [`write_unsigned_long`] writes for `value`.
#[inline]
pub const fn unsigned_long_len(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Bytes that [`write_varint`] writes for `value`.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    unsigned_len(zigzag(value))
}

/// Bytes that [`write_varlong`] writes for `value`.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    unsigned_long_len(zigzag_long(value))
}

const fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)).cast_unsigned()
}

const fn zigzag_long(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The general case: any number of groups, up to what `bits` can hold.
fn read_groups(input: &[u8], bits: u32) -> Result<(u64, &[u8]), VarintError> {
    let mut value = 0_u64;
    let mut shift = 0;
    let mut rest = input;
    while let Some((&byte, behind)) = rest.split_first() {
        let group = u64::from(byte & 0x7f);
        let room = bits.saturating_sub(shift);
        if room < 7 && group >> room != 0 {
            return Err(VarintError::Overflow { bits });
        }
        value |= group << shift;
        if byte < 0x80 {
            return Ok((value, behind));
        }
        shift += 7;
        if shift >= bits {
            return Err(VarintError::Overflow { bits });
        }
        rest = behind;
    }
    Err(VarintError::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn overlong_encoding_is_refused_and_input_stays() {
        for bytes in [&[0xff; 11][..], &[0x80; 5], &[0xff, 0xff, 0xff, 0xff, 0x10]] {
            let mut input = bytes;
            assert_eq!(read_unsigned(&mut input), Err(VarintError::Overflow { bits: 32 }));
            assert_eq!(input, bytes);
        }
        let mut input = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..];
        assert_eq!(read_unsigned_long(&mut input), Err(VarintError::Overflow { bits: 64 }));
        let mut input = &[0xff, 0xff][..];
        assert_eq!(read_varint(&mut input), Err(VarintError::Truncated));
        assert_eq!(input.len(), 2);
    }

    proptest! {
        #[test]
        fn written_value_is_read_back_and_its_length_is_foreseen(int: i32, long: i64, shift in 0_u32..64) {
            let (int, long) = (int >> (shift % 32), long >> shift);
            let mut out = Vec::new();
            write_varint(&mut out, int);
            prop_assert_eq!(out.len(), varint_len(int));
            write_varlong(&mut out, long);
            prop_assert_eq!(out.len(), varint_len(int) + varlong_len(long));
            write_unsigned(&mut out, int.cast_unsigned());
            let mut input = &out[..];
            prop_assert_eq!(read_varint(&mut input), Ok(int));
            prop_assert_eq!(read_varlong(&mut input), Ok(long));
            prop_assert_eq!(read_unsigned(&mut input), Ok(int.cast_unsigned()));
            prop_assert!(input.is_empty());
        }
    }
}
