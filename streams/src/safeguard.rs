//! What a simulation can leave out, one at a time, to show that it would be missed. Outside tests nothing is left out.

/// Something that keeps a state from going wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "those in the runtime's part are left out by the simulation")
)]
pub(crate) enum Safeguard {
    /// How long ago the group was heard of, and that it has refused something.
    Fence,
    /// That offsets are written behind everything that follows from the records before them.
    Order,
    /// That rows are written behind the results that follow from their changes.
    Results,
    /// That what is handed over and not out is forgotten with the tasks.
    Discards,
    /// How far writers say that they have come.
    Frontier,
    /// That a table is restored from its topic by the fold that it was processed with.
    Fold,
    /// That what has been written to a changelog since its store was left to others of the process is read.
    Tail,
    /// That a slot's id is not given again.
    GenerationalIds,
    /// That a writer waits for readers whom it has left behind.
    Leads,
}

impl Safeguard {
    /// Whether this thread is to do without it.
    #[cfg(not(test))]
    #[inline]
    pub(crate) const fn is_out(self) -> bool {
        false
    }

    /// Whether this thread is to do without it.
    #[cfg(test)]
    pub(crate) fn is_out(self) -> bool {
        LEFT_OUT.get() == Some(self)
    }
}

#[cfg(test)]
thread_local! {
    static LEFT_OUT: std::cell::Cell<Option<Safeguard>> = const { std::cell::Cell::new(None) };
}

/// Runs something without a safeguard, or with all of them.
#[cfg(test)]
pub(crate) fn without<T>(safeguard: Option<Safeguard>, run: impl FnOnce() -> T) -> T {
    let before = LEFT_OUT.replace(safeguard);
    let result = run();
    LEFT_OUT.set(before);
    result
}
