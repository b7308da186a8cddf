//! Which of its records a task takes next, and what holds them.
//!
//! The least by (event time, topic, partition, offset) goes first. It goes if it is within the skew bound of what its own
//! partition may still bring before it and of the task's other inputs, and within a few bounds of the tasks in this process
//! that write for the same readers. The least of all may always go.

use super::{Task, machine::Run, progress::BOUNDS_APART};
use crate::{processor::Frontier, task::queue::Queue, topology::TopicId};

impl Task {
    /// Per queue, the least level of what holds it in other tasks.
    pub(super) fn least_of_others(&self, others: &mut Vec<Frontier>) {
        let partition = Some(self.id.partition);
        let least = |queue: &Queue| match self.stamps.is_empty() {
            false => self.progress.least_of_others(queue.topic, partition),
            true => Frontier::Idle,
        };
        others.clear();
        others.extend(self.queues.iter().map(least));
    }

    /// How far the least of what holds it in other tasks must have come before any of its heads may go.
    pub(crate) fn held_below(&self) -> Option<i64> {
        self.bound?;
        let below = |queue: &Queue| {
            let time = queue.head_time()?;
            Some(time.saturating_sub(self.apart(queue, time)?))
        };
        self.queues.iter().filter_map(below).min()
    }

    /// How far ahead of other writers of its process a record of a partition may be. One that is far ahead of its own
    /// partition may have others behind it that are not, which it would turn late for the readers: within the bound.
    fn apart(&self, queue: &Queue, time: i64) -> Option<i64> {
        let bound = self.config.skew_bound_ms.filter(|_| self.bound.is_some())?;
        let goes_on = Frontier::At(queue.time).admits(time, Some(bound));
        Some(if goes_on { bound.saturating_mul(BOUNDS_APART) } else { bound })
    }

    /// The queue whose head is next, or why there is none. Queues are in the order of topic names, so that the first
    /// of equal heads is the least by (event time, topic, partition, offset); a task has one partition of each topic.
    pub(super) fn choose(&self, others: &[Frontier]) -> Result<usize, Run> {
        if let ([queue], [others]) = (&self.queues[..], others) {
            let Some(time) = queue.head_time().filter(|_| !queue.is_starved()) else {
                return Err(Run::Starved);
            };
            return self.allowed((queue, time), queue.missing(), *others).map(|()| 0);
        }
        if self.queues.iter().any(Queue::is_starved) {
            return Err(Run::Starved);
        }
        let (mut held, mut best) = (Run::Starved, None);
        for (index, queue) in self.queues.iter().enumerate() {
            let (Some((timestamp, _)), Some(time)) = (queue.head(), queue.head_time()) else { continue };
            if best.is_some_and(|(least, _)| timestamp >= least) {
                continue;
            }
            let others = others.get(index).copied().unwrap_or(Frontier::Idle);
            let own = queue.missing().min(self.least_of_own(queue.topic));
            match self.allowed((queue, time), own, others) {
                Ok(()) => best = Some((timestamp, index)),
                Err(Run::Waiting) if held == Run::Held => {}
                Err(why) => held = why,
            }
        }
        best.map(|(_, index)| index).ok_or(held)
    }

    /// The least level of the task's own partitions that hold a topic.
    fn least_of_own(&self, topic: TopicId) -> Frontier {
        let timed = self.queues.iter().filter(|_| self.bound.is_some());
        let holders = timed.filter(|queue| self.progress.holds(queue.topic, topic));
        holders.map(|queue| self.level(queue)).min().unwrap_or(Frontier::Idle)
    }

    /// Whether something of this time may go, by what this task knows and by what others have told.
    fn allowed(&self, (queue, time): (&Queue, i64), own: Frontier, others: Frontier) -> Result<(), Run> {
        // A writer that was idle and is back further behind than the bound may be what the readers wait for.
        if self.is_ahead() && Frontier::At(time).admits(self.taken, self.bound) {
            return Err(Run::Waiting);
        }
        match (own.admits(time, self.bound), others.admits(time, self.apart(queue, time))) {
            (true, true) => Ok(()),
            (true, false) => Err(Run::Held),
            (false, _) => Err(Run::Waiting),
        }
    }

    pub(super) fn level(&self, queue: &Queue) -> Frontier {
        if self.is_restoring() { Frontier::At(queue.time) } else { queue.level() }
    }
}
