//! The flags of a broker and what they ask for.

use crate::config::{BrokerConfig, PropertyError};
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
    /// File of KEY=VALUE lines, as in Kafka
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
}

impl Args {
    /// The configuration these flags ask for: the file first, then `--set`, then the flags of their own.
    ///
    /// # Errors
    /// The first thing that cannot be read or set.
    pub fn into_config(self) -> Result<BrokerConfig, ArgsError> {
        let mut config = BrokerConfig::daemon();
        if let Some(path) = self.config {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ArgsError::File { path: path.clone(), source })?;
            config.set_all(&text).map_err(|source| ArgsError::Property { path, source })?;
        }
        for pair in self.set {
            let (name, value) = pair.split_once('=').ok_or_else(|| ArgsError::Pair(pair.clone()))?;
            config.set(name.trim(), value.trim())?;
        }
        if let Some(data_dir) = self.data_dir {
            config.data_dir = data_dir;
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(advertise) = self.advertise {
            config.advertise = Some(advertise);
        }
        if let Some(http) = self.http {
            config.http = Some(http).filter(|http| http != "off");
        }
        Ok(config)
    }
}
