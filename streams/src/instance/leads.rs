//! How far tasks are ahead of those that read what they write, in other instances too.
//!
//! A reader puts aside what is ahead of event time, in memory. So a task that has written much to a partition of which its
//! reader has not processed enough waits for it; and while it has written half as much, the group is asked now and then
//! what is processed.

use super::{Action, Consumed, Instance, Place};
use crate::task::Task;
use std::collections::BTreeSet;

/// Time between two questions.
const ASK_MS: i64 = 20;

/// The question that is open.
#[derive(Debug, Default)]
pub(super) struct Leads {
    is_open: bool,
    last: i64,
}

impl Instance {
    /// Asks how far readers have come that matter for going on.
    pub(super) fn ask_readers(&mut self, out: &mut Vec<Action>) {
        if self.leads.is_open || self.moment.ms - self.leads.last < ASK_MS || !self.may_work() {
            return;
        }
        // Several tasks write the same partitions; each is asked for once.
        let places: BTreeSet<Place> = self.tasks.values_mut().flat_map(Task::ask_readers).collect();
        if !places.is_empty() {
            self.leads = Leads { is_open: true, last: self.moment.ms };
            out.push(Action::AskReaders(places.into_iter().collect()));
        }
    }

    /// Lets tasks go on whose readers have come on.
    pub(super) fn consumed(&mut self, told: &[Consumed]) {
        self.leads.is_open = false;
        for (id, task) in &mut self.tasks {
            let was_ahead = task.is_ahead();
            for Consumed { place, end, committed } in told {
                let committed = committed.as_ref().map(|(offset, metadata)| (*offset, &**metadata));
                task.consumed(*place, *end, committed);
            }
            if was_ahead && !task.is_ahead() {
                self.ready.insert(*id);
            }
        }
    }
}
