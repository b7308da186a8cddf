//! The engine through its public face: the language, the test driver, no broker.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here is a failure of the test")]

mod ahead;
mod copies;
mod failures;
mod metadata;
mod operators;
mod progress;
mod reports;
mod sources;
mod state;
mod tables;
mod wiring;
