//! What the record of a topic means for a table: the same while it is processed, restored, and read as global.
//!
//! A table's key is the decoded key encoded again, so that every spelling of a key is one row.

use crate::codec::{CodecError, Data, Nulls, SharedCodec, encode_into};

/// Why a record does not become part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dropped {
    NegativeTimestamp,
    NullKey,
    Undecodable(CodecError),
}

/// Turns records into rows of one table.
pub(crate) struct Fold<K, V> {
    keys: SharedCodec<K>,
    values: SharedCodec<V>,
    nulls: Nulls<V>,
    scratch: Vec<u8>,
}

impl<K: Data, V: Data> Fold<K, V> {
    pub(crate) fn new((keys, values): (SharedCodec<K>, SharedCodec<V>)) -> Fold<K, V> {
        Fold { nulls: Nulls::of(&values), keys, values, scratch: Vec::new() }
    }

    /// The key, its bytes and the row that a record sets; a row of `None` is deleted.
    pub(crate) fn row(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
    ) -> Result<(K, &[u8], Option<V>), Dropped> {
        if timestamp < 0 {
            return Err(Dropped::NegativeTimestamp);
        }
        let key = self.keys.decode(key.ok_or(Dropped::NullKey)?).map_err(Dropped::Undecodable)?;
        let value = value.map(|value| self.values.decode(value)).transpose().map_err(Dropped::Undecodable)?;
        let encoded = encode_into(&*self.keys, &key, &mut self.scratch).map_err(Dropped::Undecodable)?;
        let encoded = encoded.ok_or(Dropped::NullKey)?;
        Ok((key, encoded, self.nulls.to_none(value)))
    }
}
