//! One property: its name, what values it takes, its default, and its documentation.
//!
//! Owns how a value is checked and how the nearest known name is found. Knows nothing of files, flags or topics.

use super::foreign;
use super::table::TABLE;
use std::fmt;

/// What values a property takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer within bounds, both included.
    Int(i32, i32),
    /// A 64-bit integer within bounds, both included.
    Long(i64, i64),
    /// A number within bounds, both included.
    Double(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A comma-separated list of these words, at least one.
    List(&'static [&'static str]),
    /// Any text.
    Text,
}

impl Kind {
    /// The type's number in DescribeConfigs answers.
    pub fn wire_type(self) -> i8 {
        match self {
            Kind::Bool => 1,
            Kind::Choice(_) | Kind::Text => 2,
            Kind::Int(..) => 3,
            Kind::Long(..) => 5,
            Kind::Double(..) => 6,
            Kind::List(_) => 7,
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Kind::Bool => matches!(value, "true" | "false"),
            Kind::Int(min, max) => value.parse().is_ok_and(|n: i32| (min..=max).contains(&n)),
            Kind::Long(min, max) => value.parse().is_ok_and(|n: i64| (min..=max).contains(&n)),
            Kind::Double(min, max) => value.parse().is_ok_and(|n: f64| (min..=max).contains(&n)),
            Kind::Choice(words) => words.contains(&value),
            Kind::List(words) => value.split(',').all(|item| words.contains(&item.trim())),
            Kind::Text => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Kind::Bool => f.write_str("true or false"),
            Kind::Int(min, i32::MAX) => write!(f, "an integer of at least {min}"),
            Kind::Int(min, max) => write!(f, "an integer from {min} to {max}"),
            Kind::Long(min, i64::MAX) => write!(f, "an integer of at least {min}"),
            Kind::Long(min, max) => write!(f, "an integer from {min} to {max}"),
            Kind::Double(min, max) => write!(f, "a number from {min} to {max}"),
            Kind::Choice(words) => f.write_str(&words.join(" or ")),
            Kind::List(words) => write!(f, "a list of {}", words.join(", ")),
            Kind::Text => f.write_str("text"),
        }
    }
}

/// Where a property may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For the broker alone: `--config`, `--set`.
    Broker,
    /// Per topic, with a default for all topics under `broker_name`.
    Topic {
        /// Name of the broker's property that holds the default of all topics.
        broker_name: &'static str,
    },
}

/// A property of the table.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its name; Kafka's where Kafka has one.
    pub name: &'static str,
    /// Where it may be set.
    pub scope: Scope,
    /// What values it takes.
    pub kind: Kind,
    /// The value where nothing is set.
    pub default: &'static str,
    /// Other broker properties that set this one in a coarser unit, finest first: name and factor.
    pub coarser: &'static [(&'static str, i64)],
    /// One or two sentences for whoever sets it.
    pub doc: &'static str,
}

impl Property {
    /// The property under which the broker holds this value.
    pub fn broker_name(&self) -> &'static str {
        match self.scope {
            Scope::Broker => self.name,
            Scope::Topic { broker_name } => broker_name,
        }
    }

    /// Whether the broker's value may be changed while it runs.
    pub fn is_dynamic(&self) -> bool {
        matches!(self.scope, Scope::Topic { .. })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// [`PropertyError::Value`] with what would have been right.
    pub fn check(&self, value: &str) -> Result<(), PropertyError> {
        if self.kind.accepts(value) {
            return Ok(());
        }
        Err(PropertyError::Value { name: self.name.into(), value: value.into(), expected: self.kind })
    }
}

/// A property that cannot be set as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PropertyError {
    /// No property has this name.
    #[error("unknown property {name}: {}", advice(*nearest))]
    Unknown {
        /// The name given.
        name: String,
        /// The known name that is meant, if one is near.
        nearest: Option<&'static str>,
    },
    /// Kafka has the property, and there is nothing here that it could set.
    #[error("{name} is a property of Apache Kafka that means nothing here: {reason}")]
    Foreign {
        /// The name given.
        name: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The value is not one that the property takes.
    #[error("{name}={value}: expected {expected}")]
    Value {
        /// The property.
        name: String,
        /// The value given.
        value: String,
        /// What it takes.
        expected: Kind,
    },
    /// A line that is not `KEY=VALUE`.
    #[error("line {line}: expected KEY=VALUE, found {text}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A property that a file sets twice.
    #[error("line {line}: {name} is set on line {first} already: leave one of them out")]
    Twice {
        /// The property.
        name: String,
        /// Number of the line that sets it first, from 1.
        first: usize,
        /// Number of the other.
        line: usize,
    },
    /// Several data directories.
    #[error("{name}={value}: there is one data directory: name one, such as {name}={}", first_of(value))]
    Directories {
        /// The property.
        name: String,
        /// The value given.
        value: String,
    },
    /// An address that is none, or several.
    #[error("{name}={value}: expected one HOST:PORT, such as {name}=127.0.0.1:9092")]
    Address {
        /// The property.
        name: String,
        /// The value given.
        value: String,
    },
    /// A listener of a protocol that is not spoken.
    #[error(
        "{name}={value}: only PLAINTEXT is served: set {name}=PLAINTEXT://HOST:PORT, and let a proxy before it do TLS"
    )]
    Listener {
        /// The property.
        name: String,
        /// The value given.
        value: String,
    },
    /// A topic's property given for the broker, which has another name for its default.
    #[error("{name} is a topic's property: for all topics set {broker_name}")]
    TopicOnly {
        /// The name given.
        name: &'static str,
        /// The broker's property.
        broker_name: &'static str,
    },
}

/// The topic property of this name.
pub fn topic_property(name: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.name == name && matches!(property.scope, Scope::Topic { .. }))
}

/// The property whose broker-level name this is.
pub fn broker_property(name: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.broker_name() == name)
}

/// The property that this broker-level name sets in a coarser unit, and the factor.
pub(super) fn coarser_property(name: &str) -> Option<(&'static Property, i64)> {
    TABLE.iter().find_map(|property| {
        let (_, factor) = property.coarser.iter().find(|(coarser, _)| *coarser == name)?;
        Some((property, *factor))
    })
}

/// The refusal of a topic property that does not exist.
pub fn unknown_topic_property(name: &str) -> PropertyError {
    let known = TABLE.iter().filter(|property| property.is_dynamic()).map(|property| property.name);
    unknown(name, known)
}

fn advice(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "none has a name like it; docs/CONFIGURATION.md lists all".to_owned(),
    }
}

fn first_of(list: &str) -> &str {
    list.split(',').next().unwrap_or(list).trim()
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> PropertyError {
    match foreign::reason(name) {
        Some(reason) => PropertyError::Foreign { name: name.into(), reason },
        None => PropertyError::Unknown { name: name.into(), nearest: nearest(name, known) },
    }
}

/// The refusal of a broker property that does not exist.
pub fn unknown_broker_property(name: &str) -> PropertyError {
    if let Some(property) = topic_property(name) {
        return PropertyError::TopicOnly { name: property.name, broker_name: property.broker_name() };
    }
    let known = TABLE
        .iter()
        .flat_map(|property| property.coarser.iter().map(|(name, _)| *name).chain([property.broker_name()]));
    unknown(name, known)
}

/// The nearest name, if no more than a quarter of this one would have to change.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let (distance, nearest) = known.map(|known| (edit_distance(name, known), known)).min()?;
    (distance * 4 <= name.len().max(4)).then_some(nearest)
}

/// Insertions, deletions and replacements that turn one name into the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(edit_distance("", ""), 0);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("num.partition", "num.partitions"), 1);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one() {
        let error = unknown_broker_property("auto.create.topic.enable");
        assert_eq!(
            error.to_string(),
            "unknown property auto.create.topic.enable: did you mean auto.create.topics.enable?"
        );
        for far in ["frobnicate", "my.own.setting", "x"] {
            let error = unknown_broker_property(far).to_string();
            assert!(!error.contains("did you mean") && error.contains("CONFIGURATION.md"), "{error}");
        }
        assert_eq!(
            unknown_broker_property("process.roles").to_string(),
            "process.roles is a property of Apache Kafka that means nothing here: this is one broker without a \
             controller quorum, so leave it out"
        );
        let error = unknown_topic_property("retention.mss");
        assert_eq!(error.to_string(), "unknown property retention.mss: did you mean retention.ms?");
        let error = unknown_broker_property("retention.ms");
        assert_eq!(
            error.to_string(),
            "retention.ms is a topic's property: for all topics set log.retention.ms"
        );
    }

    #[test]
    fn every_default_is_a_value_its_property_takes_and_every_name_is_unique() {
        let mut names = std::collections::BTreeSet::new();
        for property in TABLE {
            property.check(property.default).unwrap();
            assert!(names.insert(property.broker_name()), "{} twice", property.broker_name());
            assert!(property.doc.ends_with('.'), "{}", property.name);
        }
    }
}
