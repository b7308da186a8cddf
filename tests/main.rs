//! One binary of integration tests: foreign clients, kills, lanes, hostile input, and the rules of the source tree.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod crash;
mod foreign;
mod harness;
mod hostile;
mod idempotence;
mod lanes;
mod tidy;
mod versions;
