//! What a broker can be told: one table of properties, the layers they are set in, and the typed result.
//!
//! Flags, properties files, DescribeConfigs, AlterConfigs and docs/CONFIGURATION.md all read the same table, so a
//! property either works or is refused by name. Knows nothing of topics that exist or of files but the one it parses.

mod foreign;
mod layers;
mod markdown;
mod property;
mod table;

pub use layers::{BrokerLayers, Overrides, Setting, Source, set_broker, set_topic, topic_settings};
pub(crate) use layers::{topic_number, topic_text};
pub use markdown::configuration_markdown;
pub use property::{
    Kind, Property, PropertyError, Scope, broker_property, topic_property, unknown_broker_property,
    unknown_topic_property,
};
pub use table::TABLE;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a broker needs to start. All of it has defaults but the data directory.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where the log lives; created if it does not exist.
    pub data_dir: PathBuf,
    /// `HOST:PORT` to serve clients on; port 0 picks a free one.
    pub listen: String,
    /// `HOST:PORT` that clients are told; `None` is where the broker listens.
    pub advertise: Option<String>,
    /// `HOST:PORT` to serve health and metrics on; `None` serves neither.
    pub http: Option<String>,
    properties: Overrides,
}

impl BrokerConfig {
    /// A broker on free loopback ports without HTTP: what a test or an embedding application wants.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: "127.0.0.1:0".into(),
            advertise: None,
            http: None,
            properties: Overrides::new(),
        }
    }

    /// The daemon's defaults: Kafka's port on loopback, HTTP beside it, `./kappa-data`.
    pub fn daemon() -> Self {
        Self {
            listen: "127.0.0.1:9092".into(),
            http: Some("127.0.0.1:9644".into()),
            ..Self::new("./kappa-data")
        }
    }

    /// Sets a property of the table.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one; or a value that the property does not take.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        let unusable = || PropertyError::Address { name: name.to_owned(), value: value.to_owned() };
        let listener = match name {
            "listeners" => bound(without_protocol(name, value)?).ok_or_else(unusable)?,
            "kappa.http" if value != "off" && !value.is_empty() => bound(value).ok_or_else(unusable)?,
            "advertised.listeners" => {
                let address = without_protocol(name, value)?;
                if !address.is_empty() && !is_address(address) {
                    return Err(unusable());
                }
                address.to_owned()
            }
            "log.dirs" if value.contains(',') => {
                return Err(PropertyError::Directories { name: name.to_owned(), value: value.to_owned() });
            }
            _ => value.to_owned(),
        };
        set_broker(&mut self.properties, name, value)?;
        match name {
            "log.dirs" => self.data_dir = value.into(),
            "listeners" => self.listen = listener,
            "advertised.listeners" => self.advertise = Some(listener).filter(|text| !text.is_empty()),
            "kappa.http" => self.http = Some(listener).filter(|text| text != "off"),
            _ => {}
        }
        Ok(())
    }

    /// The same, by value.
    ///
    /// # Errors
    /// As [`BrokerConfig::set`].
    pub fn with(mut self, name: &str, value: &str) -> Result<Self, PropertyError> {
        self.set(name, value)?;
        Ok(self)
    }

    /// Sets every property of a file in Java's properties format (`KEY=VALUE` or `KEY: VALUE` lines, `#` comments).
    ///
    /// # Errors
    /// The first line that cannot be read or set, or that sets what another has set.
    pub fn set_all(&mut self, text: &str) -> Result<(), PropertyError> {
        let mut lines = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let (name, value) = line
                .split_once(['=', ':'])
                .ok_or_else(|| PropertyError::Line { line: index + 1, text: line.to_owned() })?;
            let (name, line) = (name.trim(), index + 1);
            if let Some(first) = lines.insert(name, line) {
                return Err(PropertyError::Twice { name: name.to_owned(), first, line });
            }
            self.set(name, value.trim())?;
        }
        Ok(())
    }

    /// What was set, as the static layer; the fields of this structure count as set.
    pub fn layers(&self) -> BrokerLayers {
        let mut fixed = self.properties.clone();
        fixed.insert("log.dirs".into(), self.data_dir.display().to_string());
        fixed.insert("listeners".into(), format!("PLAINTEXT://{}", self.listen));
        fixed.insert("kappa.http".into(), self.http.clone().unwrap_or_else(|| "off".into()));
        if let Some(advertise) = &self.advertise {
            fixed.insert("advertised.listeners".into(), format!("PLAINTEXT://{advertise}"));
        }
        BrokerLayers { fixed, ..BrokerLayers::default() }
    }
}

/// Whether this is one `HOST:PORT`.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty() && (is_bracketed || !host.contains([':', ',', '/']));
    is_host && port.parse::<u16>().is_ok() && !text.contains(char::is_whitespace)
}

/// An address to listen on: one without a host is that port of all interfaces, as in Kafka. `None` if it is no address.
pub(crate) fn bound(text: &str) -> Option<String> {
    let address = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    is_address(&address).then_some(address)
}

/// An address that clients are told, or `None` if this is none.
pub(crate) fn told(text: &str) -> Option<String> {
    is_address(text).then(|| text.to_owned())
}

/// The address of a listener, whose protocol may be left out.
fn without_protocol<'a>(name: &str, listener: &'a str) -> Result<&'a str, PropertyError> {
    match listener.split_once("://") {
        None => Ok(listener),
        Some((protocol, address)) if protocol.eq_ignore_ascii_case("PLAINTEXT") => Ok(address),
        Some(_) => Err(PropertyError::Listener { name: name.to_owned(), value: listener.to_owned() }),
    }
}

/// The broker's own settings as types. They hold from start to stop.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `node.id`.
    pub node_id: i32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `num.partitions`.
    pub partitions_default: i32,
    /// `kappa.max.partitions.per.topic`.
    pub partitions_max_per_topic: i32,
    /// `kappa.max.partitions`.
    pub partitions_max: i32,
    /// `fetch.max.bytes`.
    pub fetch_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_sessions_max: usize,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `queued.max.request.bytes`.
    pub in_flight_bytes_max: usize,
    /// `kappa.dirty.bytes.max`.
    pub dirty_bytes_max: usize,
    /// `kappa.producers.bytes.max`.
    pub producers_bytes_max: usize,
    /// `max.connections`.
    pub connections_max: usize,
    /// `connections.max.idle.ms`.
    pub idle_max: Duration,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval: Duration,
    /// How often the recovery points are written.
    pub checkpoint_interval: Duration,
    /// What the group coordinator is told.
    pub group: GroupConfig,
}

/// The group coordinator's settings.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `offsets.topic.num.partitions`.
    pub offsets_partitions: i32,
    /// `offsets.topic.segment.bytes`.
    pub offsets_segment_bytes: i32,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub group_size_max: usize,
    /// `kappa.groups.bytes.max`.
    pub bytes_max: usize,
}

impl Settings {
    /// The values that hold in these layers.
    pub fn new(layers: &BrokerLayers) -> Self {
        let millis = |name| Duration::from_millis(layers.number(name));
        Self {
            node_id: layers.number("node.id"),
            auto_create_topics: layers.number("auto.create.topics.enable"),
            delete_topics: layers.number("delete.topic.enable"),
            partitions_default: layers.number("num.partitions"),
            partitions_max_per_topic: layers.number("kappa.max.partitions.per.topic"),
            partitions_max: layers.number("kappa.max.partitions"),
            fetch_bytes_max: layers.number("fetch.max.bytes"),
            fetch_sessions_max: layers.number("max.incremental.fetch.session.cache.slots"),
            request_bytes_max: layers.number("socket.request.max.bytes"),
            in_flight_bytes_max: layers.number("queued.max.request.bytes"),
            dirty_bytes_max: layers.number("kappa.dirty.bytes.max"),
            producers_bytes_max: layers.number("kappa.producers.bytes.max"),
            connections_max: layers.number("max.connections"),
            idle_max: millis("connections.max.idle.ms"),
            retention_check_interval: millis("log.retention.check.interval.ms"),
            checkpoint_interval: millis("log.flush.offset.checkpoint.interval.ms"),
            group: GroupConfig {
                offsets_partitions: layers.number("offsets.topic.num.partitions"),
                offsets_segment_bytes: layers.number("offsets.topic.segment.bytes"),
                offsets_retention_ms: layers.number::<i64>("offsets.retention.minutes") * 60_000,
                offsets_retention_check_interval_ms: layers.number("offsets.retention.check.interval.ms"),
                offset_metadata_bytes_max: layers.number("offset.metadata.max.bytes"),
                session_timeout_min_ms: layers.number("group.min.session.timeout.ms"),
                session_timeout_max_ms: layers.number("group.max.session.timeout.ms"),
                initial_rebalance_delay_ms: layers.number("group.initial.rebalance.delay.ms"),
                group_size_max: layers.number("group.max.size"),
                bytes_max: layers.number("kappa.groups.bytes.max"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_properties_file_sets_what_flags_set() {
        let mut config = BrokerConfig::daemon();
        let text =
            "# a comment\n\nlisteners=PLAINTEXT://0.0.0.0:19092\nnum.partitions = 6\nkappa.http: off\n";
        config.set_all(text).unwrap();
        assert_eq!(config.listen, "0.0.0.0:19092");
        assert_eq!(config.http, None);
        assert_eq!(Settings::new(&config.layers()).partitions_default, 6);
    }

    #[test]
    fn what_can_be_told_from_the_value_is_refused_by_name_with_the_cure() {
        for (name, value, words) in [
            ("log.dirs", "/x/a,/x/b", "name one, such as log.dirs=/x/a"),
            ("listeners", "9092", "listeners=9092: expected one HOST:PORT"),
            ("listeners", "PLAINTEXT://a:1,PLAINTEXT://b:2", "expected one HOST:PORT"),
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093", "expected one HOST:PORT"),
            ("advertised.listeners", "PLAINTEXT://:9092", "expected one HOST:PORT"),
            ("advertised.listeners", "nonsense", "expected one HOST:PORT"),
            ("kappa.http", "on", "kappa.http=on: expected one HOST:PORT"),
        ] {
            let error = BrokerConfig::daemon().set(name, value).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = BrokerConfig::daemon().set_all("node.id=1\n\nnum.partitions=2\nnode.id=1\n").unwrap_err();
        assert_eq!(error.to_string(), "line 4: node.id is set on line 1 already: leave one of them out");
    }

    #[test]
    fn a_listener_without_a_host_is_on_all_interfaces() {
        let mut config = BrokerConfig::daemon();
        for (value, listen) in [
            ("PLAINTEXT://:39099", "0.0.0.0:39099"),
            (":39099", "0.0.0.0:39099"),
            ("[::1]:9092", "[::1]:9092"),
        ] {
            config.set("listeners", value).unwrap();
            assert_eq!(config.listen, listen);
        }
    }

    #[test]
    fn a_line_without_a_value_is_refused_with_its_number() {
        let error = BrokerConfig::daemon().set_all("num.partitions=1\nnonsense").unwrap_err();
        assert_eq!(error.to_string(), "line 2: expected KEY=VALUE, found nonsense");
    }

    #[test]
    fn a_listener_of_another_protocol_is_refused_with_the_cure() {
        for name in ["listeners", "advertised.listeners"] {
            let mut config = BrokerConfig::daemon();
            for protocol in ["SSL", "SASL_SSL", "SASL_PLAINTEXT", "EXTERNAL"] {
                let error =
                    config.set(name, &format!("{protocol}://127.0.0.1:9092")).unwrap_err().to_string();
                assert!(error.contains(&format!("{name}=PLAINTEXT://HOST:PORT")), "{error}");
            }
            config.set(name, "plaintext://example.org:9092").unwrap();
            config.set(name, "example.org:9092").unwrap();
        }
    }

    #[test]
    fn every_setting_is_in_the_table() {
        let settings = Settings::new(&BrokerConfig::new("data").layers());
        assert_eq!(settings.node_id, 1);
        assert_eq!(settings.group.offsets_retention_ms, 604_800_000);
    }
}
