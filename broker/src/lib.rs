//! The Kappa broker as a library: a durable, partitioned log that every Kafka client can use.
//!
//! ```text
//! produce  connection -> dispatch -> handler::produce -> partition -> log -> disk;  flush wakes the waiting answer
//! fetch    connection -> dispatch -> handler::fetch   -> partition -> log -> disk;  record bytes go out as they lie
//! admin    connection -> dispatch -> handler::*       -> topic (catalog worker) -> partition -> log -> disk
//! ```
//! Imports point to the right, never back. [`Broker`] starts and stops all of it; the TCP front end and
//! [`Broker::lane`] meet in `dispatch`. Every state (catalog, groups, offsets, producer ids) is a fold of an internal
//! topic: a record is durable before its effect is seen.

mod args;
mod background;
mod broker;
mod budget;
pub mod clock;
pub mod config;
mod connection;
mod data_dir;
pub mod disk;
mod dispatch;
pub mod flush;
mod group;
mod handler;
mod http;
mod jobs;
pub mod journal;
pub mod log;
mod metrics;
mod panics;
pub mod partition;
mod process;
mod repair;
#[cfg(test)]
mod safeguard;
mod server;
#[cfg(test)]
mod simulation;
mod topic;

pub use args::{Args, ArgsError};
pub use broker::{Broker, DumpError, StartError, StopError};
pub use config::{BrokerConfig, configuration_markdown};
pub use data_dir::DataDirError;
pub use dispatch::protocol_markdown;
pub use process::{log_to_stderr, run};
pub use repair::{Finding, Kept, RepairError, Repaired, repair};
pub use topic::{OpenError as OpenTopicsError, Refusal as OpenTopicsRefusal};
