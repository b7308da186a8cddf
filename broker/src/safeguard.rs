//! Safeguards that a test can take out, to show that it would notice: one at a time, for the thread that it runs in.

use std::cell::Cell;

/// What keeps something from being lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safeguard {
    /// Syncs of files and directories.
    Syncs,
    /// Syncs of directories.
    SyncsOfDirectories,
    /// That a directory is only opened for the topic whose id it carries.
    IdCheck,
    /// That the checkpoints are written again when they change.
    CheckpointRewrite,
    /// That what only the journal has is put into the segments at the start.
    JournalReplay,
    /// That recovery writes again what a failed sync may have lost.
    SecondWrite,
    /// That a start after an unclean stop begins a new leader epoch.
    EpochFloor,
    /// That a name is not given again before what groups committed under it is gone.
    OwedOffsets,
}

thread_local! {
    static TAKEN_OUT: Cell<Option<Safeguard>> = const { Cell::new(None) };
}

impl Safeguard {
    /// Whether this one is taken out in this thread.
    pub(crate) fn is_taken_out(self) -> bool {
        TAKEN_OUT.get() == Some(self)
    }

    /// Takes one out, or none, in this thread.
    pub(crate) fn take_out(safeguard: Option<Safeguard>) {
        TAKEN_OUT.set(safeguard);
    }
}
