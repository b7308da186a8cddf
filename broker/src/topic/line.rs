//! What waits for the catalog's worker: changes in line, names that a change under way has taken, and directories of
//! deleted topics that are owed their removal.
//!
//! A change of many partitions is *long*: between its steps it lets short ones go first, so that nobody waits seconds for
//! a producer id. Invariants: there is one long change at a time, in the order in which they came; a name that a change
//! under way makes or frees is nobody else's until it is done; directories are removed while nothing is in line, and
//! those that are left at the end are removed after the next start.

use super::catalog::Catalog;
use super::name::TopicName;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};

/// Changes that may wait for the worker.
pub(super) const QUEUE_MAX: usize = 4096;
/// Partitions of a step of a long change; a change of more is long.
pub(super) const STEP_PARTITIONS: usize = 16;
/// Short changes that go first between two steps: the long one, too, is to come to its end.
const CHANGES_PER_STEP: usize = 4;

/// What a change does.
pub(super) type Job = Box<dyn FnOnce(&Catalog) + Send>;

/// A change in line.
pub(super) struct Change {
    pub(super) job: Job,
    pub(super) is_long: bool,
}

/// See the module's description.
pub(super) struct Line {
    queue: Receiver<Change>,
    /// Long changes that came during another.
    put_back: RefCell<VecDeque<Change>>,
    /// Whether a long change is under way, and not one that it let go first.
    is_long: Cell<bool>,
    /// Partitions that long changes have done.
    done: Cell<usize>,
    taken: RefCell<BTreeMap<u64, Taken>>,
    numbered: Cell<u64>,
    owed: RefCell<VecDeque<PathBuf>>,
}

struct Taken {
    key: String,
    name: String,
    /// Partitions that are being made under it.
    partitions: i64,
}

/// A hold on names; they are free when this is dropped.
pub(super) struct Hold<'a> {
    line: &'a Line,
    numbers: Vec<u64>,
}

impl Line {
    /// The line that `queue` brings changes to; `owed` are directories to be removed.
    pub(super) fn new(queue: Receiver<Change>, owed: Vec<PathBuf>) -> Self {
        Self {
            queue,
            put_back: RefCell::default(),
            is_long: Cell::default(),
            done: Cell::default(),
            taken: RefCell::default(),
            numbered: Cell::default(),
            owed: RefCell::new(owed.into()),
        }
    }

    /// Owes the removal of directories that belong to no topic, durably.
    pub(super) fn owe(&self, directories: Vec<PathBuf>) {
        self.owed.borrow_mut().extend(directories);
    }

    /// Takes names, with the number of partitions that are to be made under each.
    pub(super) fn hold<'a>(&self, names: impl Iterator<Item = (&'a str, i64)>) -> Hold<'_> {
        let mut taken = self.taken.borrow_mut();
        let numbers = names.map(|(name, partitions)| {
            let number = self.numbered.replace(self.numbered.get() + 1);
            taken.insert(
                number,
                Taken { key: TopicName::collision_key(name), name: name.to_owned(), partitions },
            );
            number
        });
        Hold { line: self, numbers: numbers.collect() }
    }

    /// The name under way that has this collision key.
    pub(super) fn taken_like(&self, key: &str) -> Option<String> {
        self.taken.borrow().values().find(|taken| taken.key == key).map(|taken| taken.name.clone())
    }

    /// Partitions that are being made.
    pub(super) fn partitions(&self) -> i64 {
        self.taken.borrow().values().map(|taken| taken.partitions).sum()
    }

    fn try_next(&self) -> Result<Change, TryRecvError> {
        let put_back = self.put_back.borrow_mut().pop_front();
        put_back.map_or_else(|| self.queue.try_recv(), Ok)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut taken = self.line.taken.borrow_mut();
        self.numbers.iter().for_each(|number| drop(taken.remove(number)));
    }
}

impl Catalog {
    /// Carries out changes until no more are taken and none is left; removes what is owed while none waits.
    pub(super) fn run(&self) {
        loop {
            match self.line.try_next() {
                Ok(change) => self.carry_out_and_shorten(change),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if self.remove_owed() => {}
                Err(TryRecvError::Empty) => match self.line.queue.recv() {
                    Ok(change) => self.carry_out_and_shorten(change),
                    Err(_) => return,
                },
            }
        }
    }

    /// Carries out the next change, or removes a directory that is owed, if there is either.
    #[cfg(test)]
    pub(super) fn step(&self) -> bool {
        match self.line.try_next() {
            Ok(change) => {
                self.carry_out_and_shorten(change);
                true
            }
            Err(_) => self.remove_owed(),
        }
    }

    #[cfg(test)]
    pub(super) fn owes_nothing(&self) -> bool {
        self.line.owed.borrow().is_empty()
    }

    /// No change is under way then, so none of its records is passed over.
    fn carry_out_and_shorten(&self, change: Change) {
        self.carry_out(change);
        self.shorten();
    }

    fn carry_out(&self, change: Change) {
        self.line.is_long.set(change.is_long);
        (change.job)(self);
        self.line.is_long.set(false);
    }

    /// To be called with each partition that a change has done: at the end of a step, short changes that wait go first.
    pub(super) fn let_others_go(&self) {
        let done = self.line.done.replace(self.line.done.get().wrapping_add(1));
        if !self.line.is_long.get() || !done.is_multiple_of(STEP_PARTITIONS) {
            return;
        }
        let mut gone = 0;
        while gone < CHANGES_PER_STEP && self.line.put_back.borrow().len() < QUEUE_MAX {
            match self.line.queue.try_recv() {
                Err(_) => return,
                Ok(change) if change.is_long => self.line.put_back.borrow_mut().push_back(change),
                Ok(change) => {
                    self.carry_out(change);
                    self.line.is_long.set(true);
                    gone += 1;
                }
            }
        }
    }

    /// Removes the next directory that is owed. Returns whether there was one.
    fn remove_owed(&self) -> bool {
        let Some(path) = self.line.owed.borrow_mut().pop_front() else { return false };
        if let Err(error) = self.env.disk.remove_dir_all(&path) {
            tracing::warn!(directory = %path.display(), %error, "what is left of a deleted topic stays until the next start");
        }
        true
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("owed", &self.owed.borrow().len()).finish_non_exhaustive()
    }
}
