//! What an instance has handed over to be written, and what is done with it next.
//!
//! Everything goes out in the order in which it was handed over, in steps that [`Outbox::next`] tells one at a time; whoever
//! has the producer carries a step out and says so by [`Outbox::done`]. A commit is several steps, whose order is what at
//! least once means: its rows come behind acknowledged results, for a row that is kept without the results of its change
//! suppresses them when its record comes again; its offsets come behind acknowledged rows. What was discarded ends with its
//! producer. Knows no producer and no task, and waits for nothing.

use super::{Event, Outcome, Standing};
use crate::{
    processor::Outputs,
    safeguard::Safeguard,
    task::{CommittedOffset, Life, Position},
};
use std::collections::VecDeque;

/// Records that are to be appended for a task.
#[derive(Debug)]
pub(crate) struct Appended {
    /// For whom: the simulation checks that it is still theirs.
    #[cfg_attr(not(test), expect(dead_code, reason = "who carries it out need not know"))]
    pub(crate) life: Life,
    pub(crate) outputs: Outputs,
}

/// What is done next.
pub(crate) enum Step {
    /// Give these to the producer, which sends them as long as the fence is open.
    Append(Appended),
    /// Wait until everything is acknowledged that the producer was given.
    Flush,
    /// Write these offsets.
    Offsets(Vec<CommittedOffset>),
    /// Forget the producer with everything that it has not sent, and have another.
    Renew,
    /// Tell the instance.
    Tell(Event),
}

/// How a step has ended that was carried out.
pub(crate) enum Done {
    /// The producer has so many bytes.
    Append { bytes: usize },
    /// Everything is acknowledged; what was given to the producer since the last time ends here, as far as that is known.
    Flush { ends: Vec<Position> },
    /// The group has answered.
    Offsets(Outcome),
    /// There is a new producer.
    Renew,
    /// The instance is to be told.
    Tell(Event),
}

#[derive(Debug)]
enum Waiting {
    Append(Appended),
    Flush,
    Offsets { commit: u64, offsets: Vec<CommittedOffset> },
    Renew,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Waiting>,
    /// Where partitions end behind what was acknowledged last.
    ends: Vec<Position>,
    /// The commit whose offsets are being written.
    committing: Option<u64>,
    /// Whether nothing more is handed over.
    is_closed: bool,
}

impl Outbox {
    /// Hands over records of a task.
    pub(crate) fn append(&mut self, appended: Appended) {
        self.waiting.push_back(Waiting::Append(appended));
    }

    /// Hands over a commit, which is for everything handed over before.
    pub(crate) fn commit(&mut self, commit: u64, rows: Vec<Appended>, offsets: Vec<CommittedOffset>) {
        let offsets = Waiting::Offsets { commit, offsets };
        let flush = |safeguard: Safeguard| (!safeguard.is_out()).then_some(Waiting::Flush);
        let before_rows = flush(if rows.is_empty() { Safeguard::Order } else { Safeguard::Results });
        let behind_rows = (!rows.is_empty()).then(|| flush(Safeguard::Order)).flatten();
        self.waiting.extend(before_rows);
        self.waiting.extend(rows.into_iter().map(Waiting::Append));
        self.waiting.extend(behind_rows);
        self.waiting.push_back(offsets);
    }

    /// Forgets everything that was handed over and has not gone out. A step that is being carried out is to be dropped
    /// where it stands: it is not done any more.
    pub(crate) fn discard(&mut self) {
        if Safeguard::Discards.is_out() {
            return;
        }
        *self = Outbox { waiting: VecDeque::from([Waiting::Renew]), ..Outbox::default() };
    }

    /// Nothing more is handed over, so that nothing needs another producer.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.waiting.pop_back_if(|last| matches!(last, Waiting::Renew));
    }

    /// Whether there is nothing to do any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closed && self.waiting.is_empty()
    }

    /// What is to be done next, once what came before it is done.
    pub(crate) fn next(&mut self, standing: Standing) -> Option<Step> {
        Some(match self.waiting.pop_front()? {
            Waiting::Append(appended) => Step::Append(appended),
            Waiting::Flush => Step::Flush,
            Waiting::Renew => Step::Renew,
            // It may be somebody else's work: nothing is written of it.
            Waiting::Offsets { commit, .. } if standing != Standing::Owner => {
                Step::Tell(self.ended(commit, Outcome::Again))
            }
            Waiting::Offsets { commit, offsets } if offsets.is_empty() => {
                Step::Tell(self.ended(commit, Outcome::Done))
            }
            Waiting::Offsets { commit, offsets } => {
                self.committing = Some(commit);
                Step::Offsets(offsets)
            }
        })
    }

    /// Steps that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes note of what was carried out; returns what the instance is to be told of it.
    pub(crate) fn done(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Append { bytes } => Some(Event::Sent { bytes }),
            Done::Flush { ends } => {
                self.ends = ends;
                None
            }
            Done::Offsets(outcome) => self.committing.take().map(|commit| self.ended(commit, outcome)),
            Done::Renew => None,
            Done::Tell(event) => Some(event),
        }
    }

    fn ended(&mut self, commit: u64, outcome: Outcome) -> Event {
        Event::CommitEnded { commit, outcome, logged: std::mem::take(&mut self.ends) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{processor::OutputTo, record::Headers, task::TaskId, topology::TopicId};

    const SINK: TopicId = TopicId(1);
    const CHANGELOG: TopicId = TopicId(2);

    fn record(topic: TopicId) -> Appended {
        let mut outputs = Outputs::default();
        outputs.push(OutputTo { topic, partition: 0, timestamp: 0 }, Some(b"k"), None, Headers::NONE);
        Appended { life: Life { task: TaskId::FIRST, number: 0 }, outputs }
    }

    fn offsets() -> Vec<CommittedOffset> {
        let position = Position { topic: TopicId(0), partition: 0, offset: 7 };
        vec![CommittedOffset { position, leader_epoch: -1, metadata: String::new(), steps: 0 }]
    }

    fn row_end() -> Vec<Position> {
        vec![Position { topic: CHANGELOG, partition: 0, offset: 1 }]
    }

    /// Carries out so many steps and says what they were.
    fn run(outbox: &mut Outbox, standing: Standing, most: usize) -> Vec<String> {
        let mut steps = Vec::new();
        while steps.len() < most
            && let Some(step) = outbox.next(standing)
        {
            let (said, done) = match step {
                Step::Append(appended) => {
                    let topic = appended.outputs.iter().next().unwrap().topic;
                    (Some(format!("append to {}", topic.0)), Done::Append { bytes: appended.outputs.size() })
                }
                Step::Flush => (Some("flush".to_owned()), Done::Flush { ends: row_end() }),
                Step::Offsets(offsets) => {
                    (Some(format!("offset {}", offsets[0].position.offset)), Done::Offsets(Outcome::Done))
                }
                Step::Renew => (Some("renew".to_owned()), Done::Renew),
                Step::Tell(event) => (None, Done::Tell(event)),
            };
            steps.extend(said);
            steps.extend(outbox.done(done).iter().map(told));
        }
        steps
    }

    fn told(event: &Event) -> String {
        match event {
            Event::Sent { .. } => "sent".to_owned(),
            Event::CommitEnded { commit, outcome, logged } => {
                format!("commit {commit} {outcome:?}, {} logged", logged.len())
            }
            _ => "another".to_owned(),
        }
    }

    #[test]
    fn rows_come_behind_acknowledged_results_and_offsets_behind_acknowledged_rows() {
        let mut outbox = Outbox::default();
        outbox.append(record(SINK));
        outbox.commit(3, vec![record(CHANGELOG)], offsets());
        let steps = run(&mut outbox, Standing::Owner, 99);
        let right = [
            "append to 1",
            "sent",
            "flush",
            "append to 2",
            "sent",
            "flush",
            "offset 7",
            "commit 3 Done, 1 logged",
        ];
        assert_eq!(steps, right);
        assert!(outbox.next(Standing::Owner).is_none());
    }

    #[test]
    fn a_commit_without_rows_waits_for_results_all_the_same() {
        let mut outbox = Outbox::default();
        outbox.append(record(SINK));
        outbox.commit(3, Vec::new(), offsets());
        outbox.commit(4, Vec::new(), Vec::new());
        let steps = run(&mut outbox, Standing::Owner, 99);
        assert_eq!(steps[2..4], ["flush", "offset 7"]);
        assert_eq!(steps[5..], ["flush", "commit 4 Done, 1 logged"], "without offsets nobody is asked");
    }

    #[test]
    fn whoever_may_have_lost_the_tasks_writes_no_offsets() {
        for standing in [Standing::Unsure, Standing::Lost] {
            let mut outbox = Outbox::default();
            outbox.commit(3, vec![record(CHANGELOG)], offsets());
            let steps = run(&mut outbox, standing, 99);
            // What the producer is given waits there, and the flush with it, until the fence is open.
            assert_eq!(steps.last().unwrap(), "commit 3 Again, 1 logged");
            assert!(!steps.contains(&"offset 7".to_owned()));
        }
    }

    #[test]
    fn nothing_is_left_of_what_is_discarded_but_a_new_producer() {
        let mut outbox = Outbox::default();
        outbox.append(record(SINK));
        outbox.commit(3, vec![record(CHANGELOG)], offsets());
        run(&mut outbox, Standing::Owner, 2);
        outbox.discard();
        outbox.append(record(SINK));
        assert_eq!(run(&mut outbox, Standing::Owner, 99), ["renew", "append to 1", "sent"]);

        // A discard is the last thing that happens to a commit whose offsets are on their way.
        outbox.commit(4, Vec::new(), offsets());
        assert!(matches!(outbox.next(Standing::Owner), Some(Step::Flush)));
        assert!(outbox.done(Done::Flush { ends: row_end() }).is_none());
        assert!(matches!(outbox.next(Standing::Owner), Some(Step::Offsets(_))));
        outbox.discard();
        outbox.commit(5, Vec::new(), offsets());
        let steps = run(&mut outbox, Standing::Owner, 99);
        assert_eq!(steps, ["renew", "flush", "offset 7", "commit 5 Done, 1 logged"]);
    }

    #[test]
    fn no_producer_is_renewed_for_nothing_at_the_end() {
        let mut outbox = Outbox::default();
        outbox.discard();
        outbox.close();
        assert!(outbox.is_over());
        let mut outbox = Outbox::default();
        outbox.discard();
        outbox.append(record(SINK));
        outbox.close();
        assert!(!outbox.is_over());
        assert_eq!(run(&mut outbox, Standing::Owner, 99), ["renew", "append to 1", "sent"]);
        assert!(outbox.is_over());
    }
}
