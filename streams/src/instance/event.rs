//! What an instance is told, and what it asks for in return.

use super::{Appended, Sight, Tasks};
use crate::{
    processor::ProcessError,
    task::{
        ChangelogRange, CommittedOffset, InputBatch, Life, Position, RestoreWish, Start, TaskId, TaskState,
    },
    topology::TopicId,
};
use std::ops::Range;

/// A partition of a topic of the topology.
pub(crate) type Place = (TopicId, i32);

/// When something happens, as far as an instance sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Milliseconds on a clock that never goes back.
    pub(crate) ms: i64,
    /// What the group last said; `None` while this is no member of it.
    pub(crate) group: Option<Sight>,
}

/// How far the reader of a partition has come.
#[derive(Debug, Clone)]
pub(crate) struct Consumed {
    pub(crate) place: Place,
    /// Where the partition ended before the rest was asked for.
    pub(crate) end: i64,
    /// Committed offset and its metadata, if there is one.
    pub(crate) committed: Option<(i64, String)>,
}

/// What there is of tasks that are to be taken over.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Where each of their inputs begins.
    pub(crate) starts: Vec<Start>,
    /// Each of their changelogs.
    pub(crate) changelogs: Vec<ChangelogRange>,
    /// Their stores, where somebody of this process has left them by [`Action::Shelve`].
    pub(crate) kept: Vec<(TaskId, TaskState)>,
}

/// A question about tasks; it brings its answer where it is wanted.
pub(crate) type Ask = Box<dyn FnOnce(&Tasks) + Send>;

/// How a commit has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything is kept.
    Done,
    /// The group does not take it in this generation.
    Refused,
    /// It may not have been taken, for a reason that passes.
    Again,
}

/// What happens to an instance.
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// A task may process some records. Told again and again while there is work, and then [`Event::Rest`].
    Work,
    /// Something else is looked at before there is more work.
    Rest,
    /// These partitions are new here. The next change is told only after [`Action::Settled`]; the same for the two that
    /// follow.
    Assigned(Vec<Place>),
    /// These partitions will go once this is settled.
    Revoked(Vec<Place>),
    /// All partitions have gone: this is no member of the group any more.
    Lost,
    /// What there is of tasks, as [`Action::LookUp`] asked.
    Found { lookup: u64, found: Found },
    /// Records of an input.
    Fetched { place: Place, batch: InputBatch },
    /// Below `position` there is nothing of an input but what was fetched; it ends at `end` for now, if that is known.
    Passed { place: Place, position: Option<i64>, end: Option<i64> },
    /// An input has no record of this offset, which was to be read next; it begins and ends here.
    OutOfRange { life: Life, place: Place, offset: i64, bounds: Range<i64> },
    /// Records of the changelog of a store.
    Restored { life: Life, store: usize, batch: InputBatch },
    /// The changelog of a store has been read as far as it was wished for.
    RestoreEnded { life: Life, store: usize },
    /// So many bytes of what was to be appended are on their way.
    Sent { bytes: usize },
    /// What the readers of partitions have processed, as [`Action::AskReaders`] asked.
    Consumed(Vec<Consumed>),
    /// The commit of this number has ended. `logged` says where its rows end in each changelog, as far as that is known.
    CommitEnded { commit: u64, outcome: Outcome, logged: Vec<Position> },
    /// Somebody asks; the answer comes between records.
    Asked(Ask),
    /// Everything processed is to be committed now.
    Commit,
    /// No more records; commit what there is and say when that is done.
    Close,
}

/// What an instance wants.
#[derive(Debug)]
pub(crate) enum Action {
    /// Tell what there is of the inputs, changelogs and stores of these tasks, by [`Event::Found`].
    LookUp { lookup: u64, tasks: Vec<TaskId> },
    /// Fetch an input from here on.
    Fetch(Position),
    /// An input ends before the offset that was to be read next: its next records would be taken for processed. The
    /// application must not go on.
    BeyondEnd { place: Place, offset: i64, end: i64 },
    /// Fetch no more of an input for now.
    Pause(Place),
    /// Go on fetching it.
    Resume(Place),
    /// Read changelogs.
    Restore { life: Life, wishes: Vec<RestoreWish> },
    /// Tell where these partitions end, and then what the group has committed of them, by [`Event::Consumed`].
    AskReaders(Vec<Place>),
    /// Hand over outputs to the [`Outbox`](super::Outbox); the same for the two that follow.
    Append(Appended),
    /// Hand over a commit, whose end is an [`Event::CommitEnded`].
    Commit { commit: u64, rows: Vec<Appended>, offsets: Vec<CommittedOffset> },
    /// Discard what was handed over and has not gone out.
    Discard,
    /// Delete repartition records below these positions.
    Purge(Vec<Position>),
    /// Keep the stores of a task that goes, for as long as a session, for whoever of this process takes it over.
    Shelve { task: TaskId, state: TaskState },
    /// The change of the assignment has been dealt with; so many tasks could not commit before they went.
    Settled { uncommitted: usize },
    /// Everything is over; so many tasks could not commit.
    Closed { uncommitted: usize },
}

/// A task has failed, and with it the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) task: TaskId,
    pub(crate) source: ProcessError,
}
