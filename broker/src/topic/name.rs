//! Names of topics: a [`TopicName`] exists only if Kafka would allow it.

use kappa_protocol::limits::TOPIC_NAME_BYTES_MAX;
use std::sync::Arc;

/// A legal name of a topic: 1 to 249 ASCII letters, digits, `.`, `_` and `-`, and neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicName(Arc<str>);

/// Why a text is not the name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicNameError {
    /// Empty, `.` or `..`.
    #[error("a topic cannot be named {0:?}")]
    Reserved(String),
    /// Longer than a directory name allows.
    #[error("the topic name is {len} bytes long: at most {max} are allowed")]
    TooLong {
        /// Bytes of the name.
        len: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// A character that is not allowed.
    #[error("topic name {name:?} contains {found:?}: allowed are ASCII letters, digits, '.', '_' and '-'")]
    Character {
        /// The name.
        name: String,
        /// Its first character that is not allowed.
        found: char,
    },
}

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// What makes it illegal.
    pub(crate) fn new(name: &str) -> Result<Self, TopicNameError> {
        if matches!(name, "" | "." | "..") {
            return Err(TopicNameError::Reserved(name.into()));
        }
        if name.len() > TOPIC_NAME_BYTES_MAX {
            return Err(TopicNameError::TooLong { len: name.len(), max: TOPIC_NAME_BYTES_MAX });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match name.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(TopicNameError::Character { name: name.into(), found }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name, shared.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// What two names have in common if metrics, which know no `.`, could not tell them apart.
    pub(crate) fn collision_key(name: &str) -> String {
        name.replace('.', "_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_as_in_kafka() {
        for legal in ["a", "A.b_c-9", "...", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(&*TopicName::new(legal).unwrap().shared(), legal);
        }
        for illegal in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            TopicName::new(illegal).unwrap_err();
        }
    }
}
