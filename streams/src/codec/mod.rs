//! Codecs turn keys and values into bytes and back.
//!
//! Nullability is part of the type: a plain codec never yields a null, so a null that meets it is dropped and
//! counted by the engine; [`opt`] makes the item an `Option`. Integers and floats are big endian, exactly as
//! Kafka's serializers write them. Codecs know nothing of topics, stores or tasks.

mod json;
mod pair;
mod postcard;
mod primitive;
mod rkyv;
mod windowed;

pub use json::Json;
pub use postcard::Postcard;
pub use primitive::{Bool, F32, F64, I16, I32, I64, Raw, U8, U32, U64, Utf8};
pub use rkyv::{ArchivedView, Rkyv, RkyvView};
pub(crate) use windowed::{ChangeCodec, WINDOW_SUFFIX, window_start_of};
pub use windowed::{WindowedKeys, windowed};

use std::sync::Arc;

/// Why bytes could not be turned into an item, or an item into bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The item has a fixed size and the bytes do not have it.
    #[error("{item} takes {expected} bytes, got {actual}")]
    Length {
        /// What was to be read.
        item: &'static str,
        /// The size it has.
        expected: usize,
        /// The size found.
        actual: usize,
    },
    /// The bytes end before the item does.
    #[error("{item} is cut short: {actual} bytes of {expected}")]
    Truncated {
        /// What was to be read.
        item: &'static str,
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        actual: usize,
    },
    /// A null where there must be bytes, such as in the key of a query.
    #[error("a null has no bytes; there is none to write, to look up or to compare with")]
    Null,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8 from byte {valid_up_to} on")]
    Utf8 {
        /// Length of the valid part.
        valid_up_to: usize,
    },
    /// A byte that stands for no value of the item.
    #[error("{item} has no value {found}")]
    Value {
        /// What was to be read.
        item: &'static str,
        /// The byte found.
        found: u8,
    },
    /// JSON that does not have the form of the item, or an item that JSON cannot express.
    #[error("json at line {line}, column {column}: {reason}")]
    Json {
        /// Line of the input, from 1; 0 while writing.
        line: usize,
        /// Column of the input, from 1; 0 while writing.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// Postcard that is not of the item's form, or an item that it cannot express.
    #[error("postcard of {length} bytes: {reason}")]
    Postcard {
        /// Bytes there; 0 while writing.
        length: usize,
        /// What is wrong with them.
        reason: String,
    },
    /// An archive of another schema than the codec's.
    #[error("archive has schema {found:#010x}, expected {expected:#010x}")]
    Schema {
        /// The codec's schema id.
        expected: u32,
        /// The id in front of the archive.
        found: u32,
    },
    /// An archive that fails its structural check.
    #[error("archive of {length} bytes is not valid")]
    Archive {
        /// Its length without the schema id.
        length: usize,
    },
}

/// What a key or a value must be: copied to several children, moved between threads and read from several, borrowing nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key or a value of a stream or table",
    label = "keys and values are copied, sent to and shared by threads, and borrow nothing",
    note = "derive `Clone`, and own what it holds: `String` for `&str`, `Arc` for `Rc`, a lock for a `Cell`"
)]
pub trait Data: Clone + Send + Sync + 'static {}

impl<T: Clone + Send + Sync + 'static> Data for T {}

/// Encodes and decodes one type of key or value.
///
/// Equal items must encode to equal bytes: stores, changelogs and the partitioner see only the bytes of a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no codec",
    label = "needs a codec of keys or values here, as in `(Utf8, Json::<Order>::new())`",
    note = "codecs are in `kappa_streams::codec`: `Utf8`, `I64`, `Raw`, `Json::<T>::new()`, `Postcard::<T>::new()`, `Rkyv`, pairs of them, and `opt(..)` around one that admits null"
)]
pub trait Codec: Send + Sync + 'static {
    /// What is encoded.
    type Item: Data;

    /// Appends the encoded `item` to `out`. Never called for an item that [`Codec::is_null`] says is null.
    fn encode(&self, item: &Self::Item, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads an item from exactly these bytes.
    fn decode(&self, bytes: &[u8]) -> Result<Self::Item, CodecError>;

    /// The item that stands for a null; `None` (the default) when the type has no null.
    fn null(&self) -> Option<Self::Item> {
        None
    }

    /// Whether the item is a null; `false` by default.
    fn is_null(&self, _item: &Self::Item) -> bool {
        false
    }

    /// The part of an encoded key that decides its partition: all of it by default, and of the keys of a window store what
    /// stands before the window.
    fn partitioned_by<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        encoded
    }

    /// What the bytes are, in a word or two. It is recorded with every store and repartition topic, and an
    /// application that would read them with a codec of another description is refused. The default is the name of
    /// the codec's type without its modules.
    fn describe(&self) -> String {
        short_type_name(std::any::type_name::<Self>())
    }
}

/// A type's name without modules: `a::B<c::D>` is `B<D>`.
fn short_type_name(name: &str) -> String {
    let mut short = String::new();
    let mut word = 0;
    for c in name.chars() {
        short.push(c);
        if c == ':' {
            short.truncate(word);
        } else if !(c.is_alphanumeric() || c == '_') {
            word = short.len();
        }
    }
    short
}

/// A codec whose own type is forgotten.
pub type SharedCodec<T> = Arc<dyn Codec<Item = T>>;

impl<T: Data> Codec for SharedCodec<T> {
    type Item = T;

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        (**self).encode(item, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        (**self).decode(bytes)
    }

    fn null(&self) -> Option<T> {
        (**self).null()
    }

    fn is_null(&self, item: &T) -> bool {
        (**self).is_null(item)
    }

    fn partitioned_by<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        (**self).partitioned_by(encoded)
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

/// A codec that admits null, see [`opt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt<C>(C);

/// Makes a codec nullable: its items are `Option`s, and `None` is a null on the wire.
///
/// ```
/// use kappa_streams::codec::{Codec, Utf8, opt};
/// let codec = opt(Utf8);
/// assert!(codec.is_null(&None));
/// assert_eq!(codec.decode(b"kappa"), Ok(Some("kappa".to_owned())));
/// ```
pub const fn opt<C>(codec: C) -> Opt<C> {
    Opt(codec)
}

impl<C: Codec> Codec for Opt<C> {
    type Item = Option<C::Item>;

    fn encode(&self, item: &Self::Item, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match item {
            Some(item) => self.0.encode(item, out),
            None => Err(CodecError::Null),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Item, CodecError> {
        self.0.decode(bytes).map(Some)
    }

    fn null(&self) -> Option<Self::Item> {
        Some(None)
    }

    fn is_null(&self, item: &Self::Item) -> bool {
        item.as_ref().is_none_or(|item| self.0.is_null(item))
    }

    fn describe(&self) -> String {
        format!("opt({})", self.0.describe())
    }
}

/// Tells which items of a codec are nulls, at no cost where the type has none.
pub(crate) struct Nulls<T>(Option<SharedCodec<T>>);

impl<T> Clone for Nulls<T> {
    fn clone(&self) -> Self {
        Nulls(self.0.clone())
    }
}

impl<T: Data> Nulls<T> {
    pub(crate) fn of(codec: &SharedCodec<T>) -> Nulls<T> {
        Nulls(codec.null().is_some().then(|| Arc::clone(codec)))
    }

    /// Whether an item is a null.
    pub(crate) fn is_null(&self, item: &T) -> bool {
        self.0.as_ref().is_some_and(|codec| codec.is_null(item))
    }

    /// `None` in place of a null.
    pub(crate) fn to_none(&self, item: Option<T>) -> Option<T> {
        match &self.0 {
            None => item,
            Some(codec) => item.filter(|item| !codec.is_null(item)),
        }
    }
}

/// Encodes `item`, or returns `None` for a null; `scratch` is cleared first.
pub(crate) fn encode_into<'a, T: Data>(
    codec: &dyn Codec<Item = T>,
    item: &T,
    scratch: &'a mut Vec<u8>,
) -> Result<Option<&'a [u8]>, CodecError> {
    scratch.clear();
    if codec.is_null(item) {
        return Ok(None);
    }
    codec.encode(item, scratch)?;
    Ok(Some(scratch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_codecs_have_no_null_and_opt_has_one() {
        assert_eq!(Utf8.null(), None);
        assert_eq!(opt(I64).null(), Some(None));
        assert!(opt(I64).is_null(&None));
        assert!(!opt(I64).is_null(&Some(0)));
    }

    #[test]
    fn codecs_describe_what_the_bytes_are() {
        let pair: SharedCodec<(Option<i64>, String)> = Arc::new((opt(I64), Utf8));
        assert_eq!(pair.describe(), "(opt(I64), Utf8)");
        assert_eq!(windowed(Utf8, std::time::Duration::from_secs(1)).describe(), "windowed(Utf8, 1000 ms)");
        assert_eq!(Json::<std::collections::BTreeSet<String>>::new().describe(), "Json<BTreeSet<String>>");
    }

    #[test]
    fn a_shared_codec_answers_as_the_codec_it_holds() {
        let shared: SharedCodec<Option<i64>> = Arc::new(opt(I64));
        let mut out = Vec::new();
        shared.encode(&Some(7), &mut out).unwrap();
        assert_eq!(out, 7i64.to_be_bytes());
        assert_eq!(shared.null(), Some(None));
    }
}
