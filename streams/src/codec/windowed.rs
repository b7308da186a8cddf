//! Codecs of windowed keys and of table changes, in the layouts of Kafka Streams.
//!
//! A windowed key in a topic is `key ‖ window start (8 bytes, big endian)`; in a window store and its changelog
//! it is `key ‖ window start (8) ‖ sequence number (4, always 0)`. A change in a repartition topic is `new ‖ 1`,
//! `old ‖ 0`, or `varint(length of new) ‖ new ‖ old ‖ 2`.

use super::{Codec, CodecError, Data, SharedCodec};
use crate::record::{Change, Window, Windowed};
use std::time::Duration;

/// Bytes that a window store puts behind the encoded key.
pub(crate) const WINDOW_SUFFIX: usize = 12;

/// Reads the window start from a key of a window store.
pub(crate) fn window_start_of(store_key: &[u8]) -> Option<i64> {
    let at = store_key.len().checked_sub(WINDOW_SUFFIX)?;
    let (start, _) = store_key.get(at..)?.split_first_chunk::<8>()?;
    Some(i64::from_be_bytes(*start))
}

/// Windowed keys of windows of one size, see [`windowed`].
#[derive(Debug, Clone, Copy)]
pub struct WindowedKeys<C> {
    key: C,
    size_ms: i64,
    suffix: bool,
}

/// Codec of the keys of a windowed table as Kafka writes them to a topic; the size of the windows is not
/// in the bytes, so it is given here.
pub fn windowed<C>(key: C, size: Duration) -> WindowedKeys<C> {
    WindowedKeys { key, size_ms: crate::record::millis(size), suffix: false }
}

impl<C: Codec> WindowedKeys<C> {
    /// The layout of window stores, with a sequence number behind the window start.
    pub(crate) fn in_store(key: C, size_ms: i64) -> WindowedKeys<C> {
        WindowedKeys { key, size_ms, suffix: true }
    }
}

impl<C: Codec> Codec for WindowedKeys<C> {
    type Item = Windowed<C::Item>;

    fn encode(&self, item: &Self::Item, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.key.encode(&item.key, out)?;
        out.extend_from_slice(&item.window.start.to_be_bytes());
        if self.suffix {
            out.extend_from_slice(&[0; 4]);
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Item, CodecError> {
        let tail = if self.suffix { WINDOW_SUFFIX } else { 8 };
        let short = CodecError::Truncated { item: "windowed key", expected: tail, actual: bytes.len() };
        let at = bytes.len().checked_sub(tail).ok_or_else(|| short.clone())?;
        let (key, rest) = bytes.split_at_checked(at).ok_or_else(|| short.clone())?;
        let (start, _) = rest.split_first_chunk::<8>().ok_or(short)?;
        let start = i64::from_be_bytes(*start);
        let window = Window { start, end: start.saturating_add(self.size_ms) };
        Ok(Windowed { key: self.key.decode(key)?, window })
    }

    fn is_null(&self, item: &Self::Item) -> bool {
        self.key.is_null(&item.key)
    }

    fn partitioned_by<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        let key = encoded.len().checked_sub(WINDOW_SUFFIX).and_then(|end| encoded.get(..end));
        match key.filter(|_| self.suffix) {
            Some(key) => self.key.partitioned_by(key),
            None => encoded,
        }
    }

    fn describe(&self) -> String {
        format!("windowed({}, {} ms)", self.key.describe(), self.size_ms)
    }
}

/// Changes of a table on their way through a repartition topic.
pub(crate) struct ChangeCodec<V>(pub(crate) SharedCodec<V>);

const OLD_ONLY: u8 = 0;
const NEW_ONLY: u8 = 1;
const BOTH: u8 = 2;

impl<V: Data> Codec for ChangeCodec<V> {
    type Item = Change<V>;

    fn encode(&self, item: &Change<V>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match (&item.new, &item.old) {
            (Some(new), Some(old)) => {
                let mut encoded = Vec::new();
                self.0.encode(new, &mut encoded)?;
                write_varint(encoded.len(), out);
                out.extend_from_slice(&encoded);
                self.0.encode(old, out)?;
                out.push(BOTH);
            }
            (Some(new), None) => {
                self.0.encode(new, out)?;
                out.push(NEW_ONLY);
            }
            (None, Some(old)) => {
                self.0.encode(old, out)?;
                out.push(OLD_ONLY);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Change<V>, CodecError> {
        let short = || CodecError::Truncated { item: "change", expected: 1, actual: bytes.len() };
        let (flag, body) = bytes.split_last().ok_or_else(short)?;
        match *flag {
            OLD_ONLY => Ok(Change { old: Some(self.0.decode(body)?), new: None }),
            NEW_ONLY => Ok(Change { old: None, new: Some(self.0.decode(body)?) }),
            BOTH => {
                let (length, rest) = read_varint(body).ok_or_else(short)?;
                let (new, old) = rest.split_at_checked(length).ok_or(CodecError::Truncated {
                    item: "change",
                    expected: length,
                    actual: rest.len(),
                })?;
                Ok(Change { old: Some(self.0.decode(old)?), new: Some(self.0.decode(new)?) })
            }
            found => Err(CodecError::Value { item: "change flag", found }),
        }
    }

    fn describe(&self) -> String {
        format!("change({})", self.0.describe())
    }
}

/// Zigzag varint of a length, as Kafka's `ByteUtils.writeVarint` writes it.
fn write_varint(length: usize, out: &mut Vec<u8>) {
    let mut rest = (length as u64) << 1;
    while rest >= 0x80 {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn read_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let length = if value & 1 == 0 { usize::try_from(value >> 1).ok()? } else { return None };
            return Some((length, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{I64, Utf8};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn windowed_keys_have_the_layouts_of_kafka() {
        let key = Windowed { key: "k".to_owned(), window: Window { start: 5000, end: 10_000 } };
        let mut out = Vec::new();
        let topic = windowed(Utf8, Duration::from_secs(5));
        topic.encode(&key, &mut out).unwrap();
        assert_eq!(out, [b'k', 0, 0, 0, 0, 0, 0, 0x13, 0x88]);
        assert_eq!(topic.decode(&out), Ok(key.clone()));
        let store = WindowedKeys::in_store(Utf8, 5000);
        out.clear();
        store.encode(&key, &mut out).unwrap();
        assert_eq!(out, [b'k', 0, 0, 0, 0, 0, 0, 0x13, 0x88, 0, 0, 0, 0]);
        assert_eq!(window_start_of(&out), Some(5000));
        assert_eq!(store.decode(&out), Ok(key));
        assert!(store.decode(&out[..11]).is_err());
    }

    #[test]
    fn changes_carry_kafkas_flags() {
        let codec = ChangeCodec::<i64>(Arc::new(I64));
        let encoded = |old, new| {
            let mut out = Vec::new();
            codec.encode(&Change { old, new }, &mut out).unwrap();
            assert_eq!(codec.decode(&out), Ok(Change { old, new }));
            out
        };
        assert_eq!(encoded(None, Some(1)).last(), Some(&1));
        assert_eq!(encoded(Some(1), None).last(), Some(&0));
        let both = encoded(Some(1), Some(2));
        assert_eq!((both[0], both.len(), both[17]), (16, 18, 2));
    }

    #[test]
    fn a_change_with_a_hostile_length_is_refused() {
        let codec = ChangeCodec::<i64>(Arc::new(I64));
        assert!(codec.decode(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 2]).is_err());
        assert!(codec.decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        assert!(codec.decode(&[]).is_err());
        assert!(codec.decode(&[1, 9]).is_err());
    }
}
