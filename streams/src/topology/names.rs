//! Names of topics: which are legal, and how internal ones are made.
//!
//! Generation 0 has plain names; generation `g` puts `g<g>` behind the application: store `counts` of
//! application `wc` has changelog `wc-counts-changelog`, and in generation 2 `wc-g2-counts-changelog`; the
//! consumer group is `wc` and `wc-g2`.

use std::{fmt, sync::Arc};

/// Longest topic name that brokers accept.
const TOPIC_NAME_MAX: usize = 249;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// Belongs to the user; its name is used as it is.
    External,
    /// Carries records to the tasks that own their keys; purged once consumed.
    Repartition {
        /// Number of partitions asked for; `None` takes that of the inputs.
        partitions: Option<i32>,
    },
    /// Last value per key of a store.
    Changelog {
        /// How long windows are kept, in milliseconds; `None` for state that does not expire.
        retention_ms: Option<i64>,
    },
}

/// A topic of a topology under its short name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicDef {
    pub(crate) name: Arc<str>,
    pub(crate) kind: TopicKind,
}

/// Makes the names of one generation of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalNames {
    prefix: String,
}

impl InternalNames {
    /// Names of generation `generation` of `application`.
    pub fn new(application: &str, generation: u32) -> InternalNames {
        let prefix = match generation {
            0 => application.to_owned(),
            generation => format!("{application}-g{generation}"),
        };
        InternalNames { prefix }
    }

    /// Id of the consumer group.
    pub fn group(&self) -> &str {
        &self.prefix
    }

    /// Full name of a topic.
    pub(crate) fn topic(&self, topic: &TopicDef) -> String {
        match topic.kind {
            TopicKind::External => topic.name.to_string(),
            TopicKind::Repartition { .. } => format!("{}-{}-repartition", self.prefix, topic.name),
            TopicKind::Changelog { .. } => format!("{}-{}-changelog", self.prefix, topic.name),
        }
    }
}

impl fmt::Display for InternalNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

/// The application and the generation whose group has this name, if it is not that of generation 0.
pub(crate) fn generation_in(name: &str) -> Option<(&str, &str)> {
    let (application, number) = name.rsplit_once("-g")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((application, number))
}

/// Whether brokers accept a topic of this name.
pub(crate) fn valid_topic(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= TOPIC_NAME_MAX && name != "." && name != ".." && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_zero_has_plain_names() {
        let changelog = TopicDef { name: "counts".into(), kind: TopicKind::Changelog { retention_ms: None } };
        assert_eq!(InternalNames::new("wc", 0).topic(&changelog), "wc-counts-changelog");
        assert_eq!(InternalNames::new("wc", 2).topic(&changelog), "wc-g2-counts-changelog");
        assert_eq!(InternalNames::new("wc", 2).group(), "wc-g2");
    }

    #[test]
    fn names_of_generations_are_known() {
        assert_eq!(generation_in(InternalNames::new("wc", 12).group()), Some(("wc", "12")));
        for name in ["wc", "wc-g", "wc-g1a", "wc-g1-x", "g1"] {
            assert_eq!(generation_in(name), None, "{name}");
        }
    }

    #[test]
    fn topic_names_are_checked_as_brokers_do() {
        assert!(valid_topic("a.b_c-1"));
        assert!(
            !valid_topic("") && !valid_topic("..") && !valid_topic("a b") && !valid_topic(&"x".repeat(250))
        );
    }
}
