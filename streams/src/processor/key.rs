//! How an operator comes by the bytes of a record's key.
//!
//! In a repartition topic keys stand as this application has encoded them, so their bytes serve every operator behind
//! it that keeps the key and encodes it with the same codec. A topic from outside may spell a key otherwise; there the
//! decoded key is encoded again, so that every spelling is one key.

use super::Context;
use crate::codec::{CodecError, Data, SharedCodec, encode_into};
use std::sync::Arc;

/// The key bytes of the records of one operator.
pub(crate) struct KeyBytes<K> {
    codec: SharedCodec<K>,
    is_kept: bool,
    scratch: Vec<u8>,
}

impl<K: Data> KeyBytes<K> {
    /// Bytes by `codec`; `kept` is the codec by which the key was encoded before it came here, if it has stayed the same.
    pub(crate) fn new(codec: &SharedCodec<K>, kept: &Option<SharedCodec<K>>) -> KeyBytes<K> {
        let is_kept = kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, codec));
        KeyBytes { codec: Arc::clone(codec), is_kept, scratch: Vec::new() }
    }

    /// The bytes of the key of the record that is being processed; `None` for a null.
    #[inline]
    pub(crate) fn of<'a>(&'a mut self, cx: &'a Context<'_>, key: &K) -> Result<Option<&'a [u8]>, CodecError> {
        match self.is_kept {
            true => Ok(cx.kept_key()),
            false => encode_into(&*self.codec, key, &mut self.scratch),
        }
    }
}
