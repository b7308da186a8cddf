//! Kappa's streams library: topics become tables, windows, joins and queryable views.
//!
//! A topology is wired with [`Builder`] from streams and tables, checked as a whole by `build()`, and run by [`App`]
//! against a Kappa or Kafka cluster, or by [`TestDriver`] in memory. Both move the same bytes through the same tasks.
//! Any view can be dropped and computed again by replaying its sources, under the same generation or beside it under
//! a new one.
//!
//! ```
//! use kappa_streams::{Builder, TestDriver, codec::{I64, Utf8, opt}};
//!
//! let b = Builder::new("word-count");
//! let counts = b
//!     .stream("lines", (opt(Utf8), Utf8))
//!     .flat_map_values(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
//!     .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
//!     .count("counts");
//! counts.to_stream().to("word-counts", (Utf8, I64));
//! let topology = b.build()?;
//!
//! // With a broker: `App::start(&topology, Config::bootstrap("127.0.0.1:9092")).await?`. Without one:
//! let mut driver = TestDriver::new(&topology).partitions(6).start()?;
//! let lines = driver.input("lines", (opt(Utf8), Utf8));
//! lines.pipe(&mut driver, None, "a log is a table".into(), 1_000)?;
//! assert_eq!(driver.get(&counts, &"a".into())?.map(|row| row.value), Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layers
//! `dsl` wires a `topology` of `processor`s and `store`s; a `task` runs one sub-topology over one partition; an
//! `instance` decides which tasks run, move, are restored and committed; all of that is synchronous, does no I/O and
//! reads no clock. `runtime` alone meets the client; `test_driver` stands in its place in tests.
//!
//! | A record is | decided in | done in |
//! |---|---|---|
//! | chosen | `instance` (whose turn it is), `task/choose` (which of its heads) | `task/machine` |
//! | written | `task/stamps`, `instance/commits` (what, when), `instance/outbox` (in which order) | `runtime/writer` |
//! | committed | `instance/commits` (when), `task/commit` (what), `instance/outbox` (behind what) | `runtime/writer` |
//! | restored | `instance/moves` (when), `task/restore` (from where) | `runtime/worker/jobs` (read), `task/restore` and `store` (applied) |
//!
//! # Promises
//! - At least once: outputs and changelog are acknowledged before offsets are committed. A task that moves gracefully
//!   commits first, so that counts stay exact; after a kill, what came behind the last commit is processed again.
//! - Event time and headers travel with every record, through operators, repartition topics and sinks.
//! - Nothing is dropped silently: null keys, null values and late records are counted, see [`Counters`].
//! - Reading partitions at different speeds turns nothing late within the skew bound, see [`Config::skew_bound`].
//! - The same sources give the same stores, however often and at whatever speed they are replayed, as far as
//!   aggregates do not depend on the order of records that have no order.

pub mod codec;
mod dsl;
mod instance;
mod processor;
mod query;
mod record;
mod runtime;
mod safeguard;
#[cfg(test)]
mod simulation;
mod store;
mod task;
mod test_driver;
mod topology;

pub use dsl::{
    Builder, GlobalTable, Grouped, GroupedTable, OnFailure, Predicate, Repartition, Source, Stream, Table,
    Topics, WindowedGroup, Windows, otherwise, when,
};
pub use processor::{Counters, ProcessError};
pub use query::{Dump, Row};
pub use record::{Change, Header, Headers, Meta, Record, Window, Windowed};
pub use runtime::{
    Answer, App, AppError, Config, EndOffsets, Fate, GlobalView, Owner, QueryError, ResetError, ResetReport,
    RestoreProgress, StartAt, StartError, State, TopicChange, TopicFate, View, reset, resettable,
};
pub use store::Entry;
pub use task::{FRONTIER_HEADER, InputBatch, InputBatchBuilder, TaskId, WRITER_HEADER};
pub use test_driver::{DriverError, InputTopic, OutputTopic, TestDriver, TestDriverBuilder};
pub use topology::{
    InternalNames, InternalTopic, Plan, PlanError, SubTopologyPlan, TopicId, TopicKind, Topology,
    WiringError, WiringErrors,
};

/// Compiles and runs the snippets of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/STREAMS.md")]
#[derive(Debug)]
pub struct Guide;
