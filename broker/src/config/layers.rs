//! Which of several settings of a property holds: the topic's, the broker's dynamic ones, the static ones, the default.
//!
//! Invariant: every value held here was accepted by its property. Knows nothing of how settings are stored.

use super::property::{
    Property, PropertyError, Scope, broker_property, coarser_property, topic_property,
    unknown_broker_property, unknown_topic_property,
};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Settings of one layer by name. Every name and value was checked.
pub type Overrides = BTreeMap<String, String>;

/// Where a value comes from, in the numbers of DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set for the topic.
    Topic = 1,
    /// Set for this broker while it ran.
    DynamicBroker = 2,
    /// Set for all brokers while one ran.
    DynamicDefault = 3,
    /// Given at start, by flag or file.
    Static = 4,
    /// Not set anywhere.
    Default = 5,
}

/// A setting of a property in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<'a> {
    /// The name it was set under.
    pub name: &'static str,
    /// The value.
    pub value: Cow<'a, str>,
    /// The layer.
    pub source: Source,
}

/// The broker's settings, layer over layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerLayers {
    /// From flags and files.
    pub fixed: Overrides,
    /// Set at run time for all brokers.
    pub dynamic_default: Overrides,
    /// Set at run time for this one.
    pub dynamic_broker: Overrides,
}

impl BrokerLayers {
    /// Every setting of a property at the broker's level, the one that holds first; the default is the last.
    pub fn settings(&self, property: &'static Property) -> Vec<Setting<'_>> {
        let name = property.broker_name();
        let mut found = Vec::with_capacity(2);
        let layers = [
            (&self.dynamic_broker, Source::DynamicBroker),
            (&self.dynamic_default, Source::DynamicDefault),
            (&self.fixed, Source::Static),
        ];
        for (layer, source) in layers {
            if let Some(value) = layer.get(name) {
                found.push(Setting { name, value: Cow::Borrowed(value), source });
            }
            for &(coarser, factor) in property.coarser {
                if let Some(value) = layer.get(coarser) {
                    let value = Cow::Owned(in_finest_unit(value, factor));
                    found.push(Setting { name, value, source });
                }
            }
        }
        found.push(Setting { name, value: Cow::Borrowed(property.default), source: Source::Default });
        found
    }

    /// The value that holds.
    pub fn value(&self, property: &'static Property) -> Cow<'_, str> {
        self.settings(property)
            .into_iter()
            .next()
            .map_or(Cow::Borrowed(property.default), |setting| setting.value)
    }

    /// The value that holds of the broker property of this name, which must exist.
    pub(super) fn text(&self, name: &str) -> Cow<'_, str> {
        self.value(broker_property(name).expect("the name is in the table"))
    }

    /// The same, as a number; the property must be one of numbers.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> T {
        let Ok(number) = self.text(name).parse() else { unreachable!("{name} was checked when it was set") };
        number
    }
}

/// `-1` means without bound in every unit.
fn in_finest_unit(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) if number >= 0 => number.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    }
}

/// Checks a broker property and adds it to a layer.
///
/// # Errors
/// An unknown name, with the nearest known one, or a value that the property does not take.
pub fn set_broker(layer: &mut Overrides, name: &str, value: &str) -> Result<(), PropertyError> {
    match (broker_property(name), coarser_property(name)) {
        (Some(property), _) => property.check(value).map_err(|error| under_name(error, name))?,
        (None, Some((property, factor))) => {
            let finest =
                value.parse::<i64>().map_or_else(|_| value.to_owned(), |_| in_finest_unit(value, factor));
            property.check(&finest).map_err(|error| under_name(error, name))?;
        }
        (None, None) => return Err(unknown_broker_property(name)),
    }
    layer.insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn under_name(error: PropertyError, name: &str) -> PropertyError {
    match error {
        PropertyError::Value { value, expected, .. } => {
            PropertyError::Value { name: name.into(), value, expected }
        }
        other => other,
    }
}

/// Checks a topic property and adds it to a topic's settings.
///
/// # Errors
/// An unknown name, with the nearest known one, or a value that the property does not take.
pub fn set_topic(layer: &mut Overrides, name: &str, value: &str) -> Result<(), PropertyError> {
    let property = topic_property(name).ok_or_else(|| unknown_topic_property(name))?;
    property.check(value)?;
    layer.insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// Every setting of a topic's property, the one that holds first.
pub fn topic_settings<'a>(
    property: &'static Property,
    topic: &'a Overrides,
    broker: &'a BrokerLayers,
) -> Vec<Setting<'a>> {
    let own = topic.get(property.name).map(|value| Setting {
        name: property.name,
        value: Cow::Borrowed(value.as_str()),
        source: Source::Topic,
    });
    own.into_iter().chain(broker.settings(property)).collect()
}

/// The value of a topic's property that holds; the name must be in the table.
pub(crate) fn topic_text<'a>(name: &str, topic: &'a Overrides, broker: &'a BrokerLayers) -> Cow<'a, str> {
    let property = topic_property(name).expect("the name is in the table");
    debug_assert!(matches!(property.scope, Scope::Topic { .. }));
    match topic.get(name) {
        Some(value) => Cow::Borrowed(value),
        None => broker.value(property),
    }
}

/// The same, as a number; the property must be one of numbers.
pub(crate) fn topic_number<T: std::str::FromStr>(name: &str, topic: &Overrides, broker: &BrokerLayers) -> T {
    let Ok(number) = topic_text(name, topic, broker).parse() else {
        unreachable!("{name} was checked when it was set")
    };
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_wins_over_the_broker_and_the_broker_over_the_default() {
        let mut broker = BrokerLayers::default();
        let mut topic = Overrides::new();
        assert_eq!(topic_number::<i64>("retention.ms", &topic, &broker), -1);
        set_broker(&mut broker.fixed, "log.retention.hours", "2").unwrap();
        assert_eq!(topic_number::<i64>("retention.ms", &topic, &broker), 7_200_000);
        set_broker(&mut broker.fixed, "log.retention.ms", "5").unwrap();
        assert_eq!(topic_number::<i64>("retention.ms", &topic, &broker), 5);
        set_broker(&mut broker.dynamic_default, "log.retention.ms", "6").unwrap();
        set_topic(&mut topic, "retention.ms", "-1").unwrap();
        assert_eq!(topic_number::<i64>("retention.ms", &topic, &broker), -1);
        let sources: Vec<Source> = topic_settings(topic_property("retention.ms").unwrap(), &topic, &broker)
            .into_iter()
            .map(|setting| setting.source)
            .collect();
        let (fixed, default) = (Source::Static, Source::Default);
        assert_eq!(sources, [Source::Topic, Source::DynamicDefault, fixed, fixed, default]);
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_under_the_name_it_was_given() {
        let error = set_broker(&mut Overrides::new(), "log.retention.hours", "-2").unwrap_err();
        assert_eq!(error.to_string(), "log.retention.hours=-2: expected an integer of at least -1");
        let error = set_topic(&mut Overrides::new(), "cleanup.policy", "compact,shred").unwrap_err();
        assert_eq!(error.to_string(), "cleanup.policy=compact,shred: expected a list of delete, compact");
    }
}
