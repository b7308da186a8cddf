//! Tasks: one sub-topology over one partition of its inputs, as a synchronous state machine.
//!
//! Batches, restored changelogs and time go in; fetch wishes, outputs and commits come out. A
//! task decides which record is next and whether it may go yet, and is a pure function of what it is given. It
//! does no I/O and reads no clock; the runtime and the test driver only move its bytes.

mod choose;
mod commit;
mod in_order;
mod input;
mod lane;
mod machine;
mod progress;
mod queue;
mod reading;
mod restore;
mod stamps;
mod writers;

pub(crate) use commit::{Commit, CommittedOffset, Position, decode_metadata};
pub(crate) use input::writer_header;
pub use input::{FRONTIER_HEADER, InputBatch, InputBatchBuilder, WRITER_HEADER};
pub(crate) use machine::{Run, Start, Task, TaskConfig};
pub(crate) use progress::ProgressTable;
pub(crate) use reading::{Processed, Reading, Unread};
pub(crate) use restore::{ChangelogRange, RestoreWish, TaskState};
pub(crate) use stamps::{Consumption, StampConfig, Stamps};

use std::fmt;

/// A task's identity: sub-topology and partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Number of the sub-topology.
    pub sub_topology: usize,
    /// Partition of its inputs.
    pub partition: i32,
}

impl TaskId {
    /// The least of all.
    pub(crate) const FIRST: TaskId = TaskId { sub_topology: 0, partition: i32::MIN };
}

/// A task between being taken over and being given up. Its id may come back, its number does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    pub(crate) task: TaskId,
    pub(crate) number: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.sub_topology, self.partition)
    }
}
