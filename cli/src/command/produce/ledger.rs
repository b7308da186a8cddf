//! Which lines were delivered.
//!
//! Records of one partition are delivered batch by batch, so a run of lines stands for each batch, and is forgotten once
//! its fate is known: what is kept is bounded by the producer's buffer. Knows nothing of files or of the network.

use kappa_client::Delivery;
use std::collections::VecDeque;

/// Place of a line in the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Which of the inputs, from 0.
    pub(super) input: usize,
    /// Which line of it, from 1.
    pub(super) number: u64,
}

/// A line with how many were taken before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) before: u64,
    pub(super) line: Line,
}

/// The records of a batch.
#[derive(Debug)]
struct Run {
    delivery: Delivery,
    first: Taken,
    records: u64,
}

/// What became of the lines that were taken.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By partition, oldest first.
    runs: Vec<VecDeque<Run>>,
    taken: u64,
    delivered: u64,
    lacking: Option<Taken>,
}

impl Ledger {
    /// Notes that the record of a line is on its way.
    pub(super) fn take(&mut self, line: Line, delivery: Delivery) {
        let first = Taken { before: self.taken, line };
        self.taken += 1;
        let partition = usize::try_from(delivery.partition()).unwrap_or(0);
        if partition >= self.runs.len() {
            self.runs.resize_with(partition + 1, VecDeque::new);
        }
        let Some(runs) = self.runs.get_mut(partition) else { return };
        if let Some(last) = runs.back_mut().filter(|last| last.delivery.shares_batch(&delivery)) {
            last.records += 1;
            return;
        }
        runs.push_back(Run { delivery, first, records: 1 });
        self.settle(partition);
    }

    /// Forgets the batches of a partition whose fate is known.
    fn settle(&mut self, partition: usize) {
        let Some(runs) = self.runs.get_mut(partition) else { return };
        while let Some(run) = runs.pop_front() {
            match run.delivery.try_result() {
                None => return runs.push_front(run),
                Some(Ok(_)) => self.delivered += run.records,
                Some(Err(_)) => {
                    if self.lacking.is_none_or(|lacking| run.first.before < lacking.before) {
                        self.lacking = Some(run.first);
                    }
                }
            }
        }
    }

    /// Takes in what is known of every batch.
    pub(super) fn settle_all(&mut self) {
        (0..self.runs.len()).for_each(|partition| self.settle(partition));
    }

    /// Lines that were delivered, as far as that was asked about.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The first line that was not delivered, and how many behind it were all the same.
    pub(super) fn lacking(&self) -> Option<(Line, u64)> {
        self.lacking.map(|lacking| (lacking.line, self.delivered - lacking.before))
    }
}
