//! Running a topology: the only part of this crate that meets the network.
//!
//! An [`App`] has worker threads; each is a member of the application's consumer group with a consumer, a producer
//! and the tasks it was given. Workers move bytes between the cluster and their tasks, commit, answer queries
//! between records, and hand tasks over when the group rebalances. What a task does with its bytes is none of the
//! runtime's business.
//!
//! Delivery is at least once: outputs and changelog are acknowledged before offsets are committed. A task that moves
//! gracefully commits first and counts exactly; after a kill, what came behind the last commit is processed again.

mod app;
mod assignor;
mod config;
mod error;
mod fence;
mod generation;
mod globals;
mod moves;
mod offsets;
mod outbox;
mod restore;
mod shared;
mod topics;
mod view;
mod worker;

pub use app::App;
pub use config::{Config, StartAt};
pub use error::{AppError, QueryError, ResetError, StartError};
pub use generation::{ResetReport, reset};
pub use offsets::EndOffsets;
pub use view::{Answer, GlobalView, View};
