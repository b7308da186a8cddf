//! Encoded keys as a store holds them: short ones in place, so that finding a row touches one cache line less.

use std::ops::Deref;

/// Longest key that is held in place.
const SHORT_MAX: usize = 22;

/// The bytes of a key.
#[derive(Debug, Clone)]
pub(super) enum KeyBytes {
    Short { length: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<KeyBytes>() == 24);

impl From<&[u8]> for KeyBytes {
    fn from(key: &[u8]) -> KeyBytes {
        let mut bytes = [0; SHORT_MAX];
        match bytes.get_mut(..key.len()) {
            Some(short) => {
                short.copy_from_slice(key);
                KeyBytes::Short { length: key.len() as u8, bytes }
            }
            None => KeyBytes::Long(key.into()),
        }
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            KeyBytes::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            KeyBytes::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_read_back() {
        for length in 0..64 {
            let key: Vec<u8> = (0..length).collect();
            assert_eq!(*KeyBytes::from(&key[..]), *key);
        }
    }
}
