//! The language topologies are written in: streams, tables, groups, windows and joins.
//!
//! Handles are typed and cheap to clone; using one twice sends its records to both users. Operators that keep
//! state or write an internal topic take a name, which is part of what is kept. Mistakes are collected and
//! reported together by [`Builder::build`]. Wiring knows operators and graph; it never runs them.

mod branch;
mod builder;
mod fallible;
mod grouped;
mod grouped_table;
mod source;
mod stream;
mod stream_join;
mod table;
mod with_meta;

pub use crate::processor::{OnFailure, Windows};
pub use branch::{Predicate, otherwise, when};
pub use builder::{Builder, GlobalTable};
pub use grouped::{Grouped, WindowedGroup};
pub use grouped_table::GroupedTable;
pub use source::{Source, Topics};
pub use stream::{Repartition, Stream};
pub use table::Table;
