//! The `kappa` binary as a user meets it: what it prints, what it refuses and how it ends.
//!
//! Every test runs the real binary, most of them against a broker of their own: a child `kappa broker` on free
//! ports with its data in a temporary directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up what it needs has failed")]

mod app;
mod demo;
mod group;
mod harness;
mod log;
mod records;
mod signals;
mod topic;
mod usage;
