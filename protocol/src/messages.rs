//! Every message of Kafka 4.3 and every coordinator record, generated from `schema/` when the crate is built.
//!
//! Structures are owned; `bytes` and record data are slices of the frame they were read from. Optional fields are
//! those that may be null in some version. A field that a version lacks is left at its default when read.

#![allow(clippy::all, unused_variables, clippy::indexing_slicing, clippy::too_many_lines)]

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
