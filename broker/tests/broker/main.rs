//! The broker as its clients meet it: over TCP and in process, through restarts, and with hostile neighbours.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected may panic"
)]

mod admin;
mod answers;
mod client;
mod folded;
mod gaps;
mod hostile;
mod http;
mod lanes;
mod order;
mod process;
mod produce_fetch;
mod repair;
mod repeated;
mod restart;
mod sessions;
mod single_node;
