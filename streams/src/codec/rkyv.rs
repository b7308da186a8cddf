//! Archives of rkyv, behind an explicit schema id.
//!
//! rkyv checks the structure of an archive and not its schema: an archive of one struct can pass as another.
//! So every archive stands behind a 4-byte schema id (big endian) that the type's owner chooses and changes
//! with the type, and a foreign id is refused before the archive is looked at.

use super::{Codec, CodecError, Data};
use ::rkyv::{
    Archive, Archived, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor::Error,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};
use bytes::Bytes;
use std::{fmt, marker::PhantomData};

const SCHEMA_LEN: usize = 4;

/// Owned items as rkyv archives.
pub struct Rkyv<T> {
    schema: u32,
    item: PhantomData<fn() -> T>,
}

impl<T> Rkyv<T> {
    /// The codec of `T` under schema id `schema`; use a new id whenever the type changes.
    pub const fn new(schema: u32) -> Rkyv<T> {
        Rkyv { schema, item: PhantomData }
    }

    /// The same bytes, read without deserializing.
    pub const fn views(self) -> RkyvView<T> {
        RkyvView(self)
    }

    fn archive<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
        let (schema, archive) = bytes.split_first_chunk::<SCHEMA_LEN>().ok_or(CodecError::Truncated {
            item: "archive",
            expected: SCHEMA_LEN,
            actual: bytes.len(),
        })?;
        match u32::from_be_bytes(*schema) {
            found if found == self.schema => Ok(archive),
            found => Err(CodecError::Schema { expected: self.schema, found }),
        }
    }
}

impl<T> Clone for Rkyv<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rkyv<T> {}

impl<T> fmt::Debug for Rkyv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rkyv").field("schema", &self.schema).finish()
    }
}

impl<T> Codec for Rkyv<T>
where
    T: Data + Archive + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>,
{
    type Item = T;

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let archive = ::rkyv::to_bytes::<Error>(item).map_err(|_| CodecError::Archive { length: 0 })?;
        out.extend_from_slice(&self.schema.to_be_bytes());
        out.extend_from_slice(&archive);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let archive = self.archive(bytes)?;
        ::rkyv::from_bytes::<T, Error>(archive).map_err(|_| CodecError::Archive { length: archive.len() })
    }
}

/// Archives read in place, made by [`Rkyv::views`]: decoding checks the archive and deserializes nothing.
pub struct RkyvView<T>(Rkyv<T>);

impl<T> fmt::Debug for RkyvView<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RkyvView").field(&self.0).finish()
    }
}

/// An archive that has passed its check.
pub struct ArchivedView<T> {
    archive: Bytes,
    item: PhantomData<fn() -> T>,
}

impl<T> Clone for ArchivedView<T> {
    fn clone(&self) -> Self {
        ArchivedView { archive: self.archive.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for ArchivedView<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchivedView").field("length", &self.archive.len()).finish()
    }
}

impl<T> ArchivedView<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    /// The archived value, in place.
    pub fn get(&self) -> &Archived<T> {
        ::rkyv::access::<Archived<T>, Error>(&self.archive)
            .expect("checked when decoded and never changed since")
    }
}

impl<T> Codec for RkyvView<T>
where
    T: 'static + Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    type Item = ArchivedView<T>;

    fn encode(&self, item: &ArchivedView<T>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0.schema.to_be_bytes());
        out.extend_from_slice(&item.archive);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<ArchivedView<T>, CodecError> {
        let archive = self.0.archive(bytes)?;
        ::rkyv::access::<Archived<T>, Error>(archive)
            .map_err(|_| CodecError::Archive { length: archive.len() })?;
        Ok(ArchivedView { archive: Bytes::copy_from_slice(archive), item: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, ::rkyv::Archive, ::rkyv::Serialize, ::rkyv::Deserialize)]
    struct Delay {
        carrier: String,
        minutes: i64,
    }

    #[test]
    fn archives_round_trip_and_are_read_in_place_at_odd_offsets() {
        let codec = Rkyv::<Delay>::new(7);
        let item = Delay { carrier: "UA".into(), minutes: 12 };
        let mut out = vec![0xaa];
        codec.encode(&item, &mut out).unwrap();
        assert_eq!(codec.decode(&out[1..]), Ok(item));
        let view = codec.views().decode(&out[1..]).unwrap();
        assert_eq!((view.get().carrier.as_str(), view.get().minutes.to_native()), ("UA", 12));
    }

    #[test]
    fn another_schema_and_damaged_archives_are_refused() {
        let mut out = Vec::new();
        Rkyv::<Delay>::new(7).encode(&Delay { carrier: "a carrier".into(), minutes: 1 }, &mut out).unwrap();
        let other = Rkyv::<Delay>::new(8);
        assert_eq!(other.decode(&out), Err(CodecError::Schema { expected: 8, found: 7 }));
        assert!(matches!(Rkyv::<Delay>::new(7).decode(&out[..9]), Err(CodecError::Archive { length: 5 })));
        assert!(matches!(other.decode(&[0]), Err(CodecError::Truncated { .. })));
    }
}
