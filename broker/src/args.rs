//! The flags of a broker and what they ask for.

use crate::config::{BrokerConfig, PropertyError, bound, told};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Flags of `kappa broker` and of `kappa-broker`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the log lives; created if it does not exist [default: ./kappa-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve Kafka clients on; port 0 picks a free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address that clients are told [default: where the broker listens]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Address of health and metrics, or `off` [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub http: Option<String>,
    /// File of KEY=VALUE lines, as in Kafka; what --set and the flags above say wins over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets a property (see docs/CONFIGURATION.md); may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Flags that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// The file cannot be read.
    #[error("cannot read --config {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file sets something that cannot be set.
    #[error("--config {}: {source}", path.display())]
    Property {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PropertyError,
    },
    /// A `--set` that cannot be set.
    #[error("--set {0}")]
    Set(#[from] PropertyError),
    /// A `--set` without a value.
    #[error("--set {0}: expected KEY=VALUE")]
    Pair(String),
    /// A flag that is no address.
    #[error("{flag} {value}: expected HOST:PORT, such as {flag} 127.0.0.1:9092")]
    Address {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// Two flags that say different things.
    #[error("{first} and {second} contradict each other: leave one of them out")]
    Contradiction {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
}

impl ArgsError {
    /// How a process ends for it: 4 where the file does not exist, 1 where it cannot be read, 2 where what was typed, or
    /// stands in the file, cannot be understood.
    pub fn exit_code(&self) -> u8 {
        match self {
            ArgsError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 4,
            ArgsError::File { .. } => 1,
            _ => 2,
        }
    }
}

impl Args {
    /// The configuration these flags ask for: the file first, then `--set`, then the flags of their own.
    ///
    /// # Errors
    /// The first thing that cannot be read or set, or that contradicts another on the command line.
    pub fn into_config(self) -> Result<BrokerConfig, ArgsError> {
        let mut config = BrokerConfig::daemon();
        if let Some(path) = self.config {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ArgsError::File { path: path.clone(), source })?;
            config.set_all(&text).map_err(|source| ArgsError::Property { path, source })?;
        }
        let mut set: BTreeMap<String, String> = BTreeMap::new();
        for pair in self.set {
            let (name, value) = pair.split_once('=').ok_or_else(|| ArgsError::Pair(pair.clone()))?;
            let (name, value) = (name.trim(), value.trim());
            config.set(name, value)?;
            if let Some(before) =
                set.insert(name.to_owned(), value.to_owned()).filter(|before| before != value)
            {
                return Err(ArgsError::Contradiction {
                    first: format!("--set {name}={before}"),
                    second: format!("--set {name}={value}"),
                });
            }
        }
        let agree = |flag: &str, value: &str, name: &str, same: bool| match set.get(name) {
            Some(other) if !same => Err(ArgsError::Contradiction {
                first: format!("{flag} {value}"),
                second: format!("--set {name}={other}"),
            }),
            _ => Ok(()),
        };
        let unusable = |flag: &'static str, value: &str| ArgsError::Address { flag, value: value.to_owned() };
        if let Some(data_dir) = self.data_dir {
            agree("--data-dir", &data_dir.to_string_lossy(), "log.dirs", config.data_dir == data_dir)?;
            config.data_dir = data_dir;
        }
        if let Some(listen) = self.listen {
            let address = bound(&listen).ok_or_else(|| unusable("--listen", &listen))?;
            agree("--listen", &listen, "listeners", config.listen == address)?;
            config.listen = address;
        }
        if let Some(advertise) = self.advertise {
            let address = told(&advertise).ok_or_else(|| unusable("--advertise", &advertise))?;
            let same = config.advertise.as_ref() == Some(&address);
            agree("--advertise", &advertise, "advertised.listeners", same)?;
            config.advertise = Some(address);
        }
        if let Some(http) = self.http {
            let address = match http.as_str() {
                "off" => None,
                _ => Some(bound(&http).ok_or_else(|| unusable("--http", &http))?),
            };
            agree("--http", &http, "kappa.http", config.http == address)?;
            config.http = address;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        args: Args,
    }

    fn config(flags: &[&str]) -> Result<BrokerConfig, ArgsError> {
        Flags::parse_from([&["broker"], flags].concat()).args.into_config()
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for (flags, words) in [
            (["--data-dir", "/a", "--set", "log.dirs=/b"], "--data-dir /a and --set log.dirs=/b contradict"),
            (["--listen", "a:1", "--set", "listeners=PLAINTEXT://a:2"], "--listen a:1 and --set listeners="),
            (["--http", "off", "--set", "kappa.http=a:1"], "--http off and --set kappa.http=a:1"),
            (["--advertise", "a:1", "--set", "advertised.listeners=b:1"], "--advertise a:1 and --set"),
            (["--set", "node.id=1", "--set", "node.id=2"], "--set node.id=1 and --set node.id=2"),
        ] {
            let error = config(&flags).unwrap_err();
            assert!(error.to_string().starts_with(words), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let same = config(&["--listen", ":1", "--set", "listeners=PLAINTEXT://:1", "--http", "off"]).unwrap();
        assert_eq!((same.listen.as_str(), same.http), ("0.0.0.0:1", None));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "listeners=a:1\nnode.id=5\n").unwrap();
        let config =
            config(&["--config", file.path().to_str().unwrap(), "--listen", "b:2", "--set", "node.id=6"]);
        assert_eq!(config.unwrap().listen, "b:2");
    }
}
