//! Record batches: golden bytes of Kafka, round trips, hostile input, another implementation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod batches;
mod compacted;
mod corpus;
mod exercise;
mod golden;
mod hostile;
mod oracle;
mod round_trip;
