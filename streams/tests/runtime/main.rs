//! Applications against an embedded broker: start, queries, restore, moves, generations, replay.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure here is a failure of the test")]

mod apps;
mod changes;
mod cluster;
mod damage;
mod generations;
mod kills;
mod lifecycle;
mod limits;
mod markers;
mod moves;
mod owners;
mod reports;
mod requests;
mod topics;
mod workers;
