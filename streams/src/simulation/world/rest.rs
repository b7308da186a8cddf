//! How a schedule ends: everything comes to rest, and then all processes close.

use super::{super::process::Process, World};
use crate::{instance::Event, task::Task};

/// Time that passes at once while everything comes to rest.
const REST_MS: i64 = 500;
/// The same once everything is processed; less than the lease.
const WAIT_MS: i64 = 5000;
/// The same while a process closes, for which it has a limit in time.
const CLOSING_MS: i64 = 50;

impl World {
    /// Lets everything come to rest, with all of the input written.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        while !self.to_write.is_empty() {
            self.write_input();
        }
        for process in &mut self.processes {
            (process.stopped_until, process.cut_until) = (0, 0);
        }
        let mut waits = false;
        for _ in 0..3000 {
            let is_closing = self.processes.iter().any(|process| process.is_closing);
            self.pass(if is_closing {
                CLOSING_MS
            } else if waits {
                WAIT_MS
            } else {
                REST_MS
            });
            for at in 0..self.processes.len() {
                let sent = self.processes[at].step_to_rest(self.now, &self.cluster, &mut self.random);
                self.send(at, sent);
            }
            while !self.network.is_empty() && self.broker_down_until == 0 {
                self.deliver(0);
            }
            self.end_closed();
            // Nothing that has a limit in time is under way, only partitions that are not idle yet.
            let only_waits = |process: &Process| {
                let is_still = process.change.is_none() && !process.is_closing;
                is_still && process.instance.tasks().values().all(Task::drained)
            };
            waits = self.cluster.is_stable() && self.processes.iter().all(only_waits);
            let rests = self.processes.iter().all(Process::rests);
            let living = self.cluster.consists_of(self.processes.iter().map(|process| process.member));
            if rests && living && self.network.is_empty() && self.cluster.is_stable() {
                return Ok(());
            }
        }
        let tasks = self.processes.iter().flat_map(|process| process.instance.tasks().values());
        let open: Vec<String> =
            tasks.filter(|task| task.has_uncommitted() || !task.drained()).map(Task::standing).collect();
        let waits: Vec<String> = self.processes.iter().map(Process::waits).collect();
        let stable = self.cluster.is_stable();
        Err(format!("{:?}: it does not come to rest: {open:#?} {waits:#?} stable {stable}", self.application))
    }

    pub(super) fn end_all(&mut self) -> Result<(), String> {
        let members: Vec<u64> = self.processes.iter().map(|process| process.member).collect();
        for process in &mut self.processes {
            process.tell(self.now, Event::Close);
        }
        // What was handed over last goes out first.
        for _ in 0..100 {
            for at in 0..self.processes.len() {
                let sent = self.processes[at].step_to_rest(self.now, &self.cluster, &mut self.random);
                self.send(at, sent);
            }
            while !self.network.is_empty() {
                self.deliver(0);
            }
            if self.processes.iter().all(|process| process.closed.is_some()) {
                break;
            }
        }
        for member in members {
            let closed = self.processes.iter().find(|process| process.member == member);
            if closed.is_none_or(|process| process.closed.is_none()) {
                return Err("a process at rest does not close".into());
            }
            self.cluster.leave(member);
        }
        self.processes.clear();
        Ok(())
    }
}
