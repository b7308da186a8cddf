//! Running a topology: the only part of this crate that meets the network.
//!
//! An [`App`] has worker threads; each is a member of the application's consumer group with a consumer, a producer
//! and an instance, which decides everything: the worker tells it what happens and carries out what it wants.
//!
//! Delivery is at least once: outputs and changelog are acknowledged before offsets are committed. A task that moves
//! gracefully commits first and counts exactly; after a kill, what came behind the last commit is processed again.

mod app;
mod assignor;
mod config;
mod error;
mod generation;
mod generations;
mod globals;
mod moves;
mod offsets;
mod owners;
mod prometheus;
mod shared;
mod shelf;
mod state;
mod topics;
mod view;
mod watch;
mod worker;
mod workers;
mod writer;

pub use app::App;
pub use config::{Config, StartAt};
pub use error::{AppError, QueryError, ResetError, StartError};
pub use generation::{Fate, ResetReport, TopicFate, reset, resettable};
pub use offsets::EndOffsets;
pub use state::{RestoreProgress, State};
pub use view::{Answer, GlobalView, Owner, View};
pub use watch::TopicChange;
