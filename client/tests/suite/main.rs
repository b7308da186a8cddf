//! The client against a broker of ours, every case once over TCP and once in process.
//!
//! Each case gets a broker of its own on an empty directory. What only makes sense with a socket (connections that
//! are cut, peers that talk nonsense) is in `network`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test may fail by panicking, and reads best when it is short"
)]

mod administration;
mod damage;
mod groups;
mod network;
mod produce_consume;
mod support;
