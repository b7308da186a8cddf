//! What must be there: a plain account of everything that was answered, against which the broker is held.
//!
//! Invariant: an outcome that nobody was told is possible, never certain. It knows answers and what is found, and
//! nothing of how the broker works.

use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What is wrong with what was found.
pub(super) type Wrong = String;

/// Group, topic's name, partition.
pub(super) type Committed = (String, String, i32);

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Every topic that there ever was, for certain, by id.
    topics: BTreeMap<Uuid, Topic>,
    /// Offsets that were sent to be committed, oldest first, and up to which of them an answer says that it is kept.
    commits: BTreeMap<Committed, Vec<Commit>>,
    /// Values of `max.message.bytes` that were asked for, by name of the topic: the next one may get them.
    alterations: BTreeSet<(String, i64)>,
    /// Deletions of records that are not answered, by name, partition and offset: likewise.
    deletions: Vec<(String, i32, i64)>,
    producer_ids: BTreeSet<i64>,
    /// Times that what was not synced may have been lost.
    pub(super) losses: u64,
    pub(super) tokens: u64,
}

#[derive(Clone, Copy, Debug)]
struct Commit {
    offset: i64,
    topic: Uuid,
    acknowledged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existence {
    Certain,
    /// Its deletion was asked for and not answered, or refused.
    Doubtful,
    Gone,
}

/// How a topic was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Acknowledged means synced.
    pub(super) is_commit: bool,
    /// Retention deletes by size.
    pub(super) is_retained: bool,
}

#[derive(Clone, Debug)]
struct Topic {
    name: String,
    kind: Kind,
    existence: Existence,
    partitions: i32,
    /// The value of `max.message.bytes` that was acknowledged last.
    limit: Option<i64>,
    logs: BTreeMap<i32, Log>,
}

#[derive(Clone, Debug, Default)]
struct Log {
    /// Tokens that were ever sent here.
    sent: BTreeSet<u64>,
    /// Those that were sent once, by one of two who each wait for the call before the next and not for its answer.
    ordered: BTreeSet<u64>,
    /// By offset, what must be there.
    promised: BTreeMap<i64, u64>,
    /// By offset, what a consumer saw and in which epoch.
    seen: BTreeMap<i64, (u64, i32)>,
    high_watermark: (i64, i32),
    /// Records before were deleted, for certain.
    deleted: i64,
    /// Records before may have been.
    deletable: i64,
}

/// A record as a consumer finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) offset: i64,
    pub(super) token: u64,
    pub(super) epoch: i32,
}

/// What a fetch found from an offset on.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) from: i64,
    /// What was found may be from before the last acknowledgement.
    pub(super) is_late: bool,
    pub(super) log_start: i64,
    pub(super) high_watermark: i64,
    pub(super) epoch: i32,
    pub(super) records: Vec<Found>,
}

impl Model {
    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// A topic was created, or got more partitions. It may be deleted already.
    pub(super) fn created(&mut self, id: Uuid, name: &str, kind: Kind, partitions: i32) -> Result<(), Wrong> {
        let is_gone = self.topics.get(&id).is_some_and(|topic| topic.existence == Existence::Gone);
        if is_gone { Ok(()) } else { self.exists(id, name, kind, partitions) }
    }

    /// A topic is there of which an answer or a look at the broker told.
    pub(super) fn exists(&mut self, id: Uuid, name: &str, kind: Kind, partitions: i32) -> Result<(), Wrong> {
        let deletions = &self.deletions;
        let topic = self.topics.entry(id).or_insert_with(|| {
            let mut logs: BTreeMap<i32, Log> = BTreeMap::new();
            for (_, index, before) in deletions.iter().filter(|(of, ..)| of == name) {
                logs.entry(*index).or_default().may_delete(*before);
            }
            let (name, existence) = (name.to_owned(), Existence::Certain);
            Topic { name, kind, existence, partitions, limit: None, logs }
        });
        if topic.existence == Existence::Gone {
            return Err(format!("topic {} of id {id} was deleted and is there", short(name)));
        }
        topic.partitions = topic.partitions.max(partitions);
        Ok(())
    }

    pub(super) fn deleting(&mut self, id: Uuid) {
        if let Some(topic) = self.topics.get_mut(&id).filter(|topic| topic.existence == Existence::Certain) {
            topic.existence = Existence::Doubtful;
        }
    }

    pub(super) fn deleted(&mut self, id: Uuid) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.existence = Existence::Gone;
        }
    }

    /// The deletion was refused.
    pub(super) fn not_deleted(&mut self, id: Uuid) {
        if let Some(topic) = self.topics.get_mut(&id).filter(|topic| topic.existence == Existence::Doubtful) {
            topic.existence = Existence::Certain;
        }
    }

    /// Nobody waits for a deletion, and those that are not known to be gone were found.
    pub(super) fn all_found(&mut self) {
        let doubtful = self.topics.values_mut().filter(|topic| topic.existence == Existence::Doubtful);
        doubtful.for_each(|topic| topic.existence = Existence::Certain);
    }

    /// Every topic that must be there, and that which may be: id, name, partitions, whether it must.
    pub(super) fn topics(&self) -> Vec<(Uuid, String, i32, bool)> {
        let there = self.topics.iter().filter(|(_, topic)| topic.existence != Existence::Gone);
        there
            .map(|(id, topic)| {
                (*id, topic.name.clone(), topic.partitions, topic.existence == Existence::Certain)
            })
            .collect()
    }

    pub(super) fn kind(&self, id: Uuid) -> Option<Kind> {
        self.topics.get(&id).map(|topic| topic.kind)
    }

    pub(super) fn altering(&mut self, name: &str, limit: i64) {
        self.alterations.insert((name.to_owned(), limit));
    }

    pub(super) fn altered(&mut self, id: Uuid, limit: i64) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.limit = topic.limit.max(Some(limit));
        }
    }

    /// Holds the value of `max.message.bytes` against what was answered; later values are larger.
    pub(super) fn check_limit(&mut self, id: Uuid, found: Option<i64>) -> Result<(), Wrong> {
        let Some(topic) = self.topics.get_mut(&id) else { return Ok(()) };
        let was_asked = found.is_none_or(|limit| self.alterations.contains(&(topic.name.clone(), limit)));
        if found < topic.limit || !was_asked {
            let name = short(&topic.name);
            return Err(format!("max.message.bytes of {name} is {found:?}, it was {:?}", topic.limit));
        }
        // Shown is as good as answered.
        topic.limit = found;
        Ok(())
    }

    fn log(&mut self, id: Uuid, index: i32) -> Option<&mut Log> {
        self.topics.get_mut(&id).map(|topic| topic.logs.entry(index).or_default())
    }

    pub(super) fn sent(&mut self, id: Uuid, index: i32, tokens: &[u64]) {
        if let Some(log) = self.log(id, index) {
            log.sent.extend(tokens);
        }
    }

    /// The same for what is sent once, each time after all that was sent so before.
    pub(super) fn sent_in_order(&mut self, id: Uuid, index: i32, tokens: &[u64]) {
        self.sent(id, index, tokens);
        if let Some(log) = self.log(id, index) {
            log.ordered.extend(tokens);
        }
    }

    pub(super) fn promise(
        &mut self,
        id: Uuid,
        index: i32,
        base_offset: i64,
        tokens: &[u64],
    ) -> Result<(), Wrong> {
        let name = self.topics.get(&id).map(|topic| short(&topic.name)).unwrap_or_default();
        let Some(log) = self.log(id, index) else { return Ok(()) };
        for (offset, token) in (base_offset..).zip(tokens) {
            if let Some(other) = log.promised.insert(offset, *token).filter(|other| other != token) {
                return Err(format!("{name}-{index}: offset {offset} was given to {other} and to {token}"));
            }
        }
        Ok(())
    }

    pub(super) fn deleting_records(&mut self, id: Uuid, name: &str, index: i32, before: i64) {
        self.deletions.push((name.to_owned(), index, before));
        if let Some(log) = self.log(id, index) {
            log.may_delete(before);
        }
    }

    /// A deletion of records has happened, or not, to the topic that had the name then.
    pub(super) fn settle_deletion(&mut self, name: &str, index: i32, before: i64) {
        if let Some(at) = self.deletions.iter().position(|other| *other == (name.to_owned(), index, before)) {
            self.deletions.remove(at);
        }
        let alike = self.topics.values_mut().filter(|topic| topic.name == name);
        let logs = alike.filter(|topic| topic.existence != Existence::Gone);
        logs.for_each(|topic| topic.logs.entry(index).or_default().may_delete(before));
    }

    /// All deletions of records that are not answered never will be.
    pub(super) fn settle_deletions(&mut self) {
        for (name, index, before) in self.deletions.clone() {
            self.settle_deletion(&name, index, before);
        }
    }

    pub(super) fn deleted_records(&mut self, id: Uuid, index: i32, before: i64) {
        if let Some(log) = self.log(id, index) {
            log.deleted = log.deleted.max(before);
        }
    }

    /// What was not synced may be gone.
    pub(super) fn lose_unsynced(&mut self) {
        self.losses += 1;
        for topic in self.topics.values_mut().filter(|topic| !topic.kind.is_commit) {
            for log in topic.logs.values_mut() {
                log.promised.clear();
            }
        }
    }

    /// Nothing is promised any more of the partition in this directory, but that it shows nothing wrong.
    pub(super) fn spoil(&mut self, directory: &str) {
        for topic in self.topics.values_mut() {
            for (index, log) in &mut topic.logs {
                if directory == format!("{}-{index}", topic.name) {
                    let sent = std::mem::take(&mut log.sent);
                    *log = Log { sent, deletable: i64::MAX, ..Log::default() };
                }
            }
        }
    }

    /// Consumers could see so much of a partition.
    pub(super) fn seen(&mut self, id: Uuid, index: i32, high_watermark: i64, epoch: i32) {
        if let Some(log) = self.log(id, index).filter(|log| high_watermark > log.high_watermark.0) {
            log.high_watermark = (high_watermark, epoch);
        }
    }

    /// Holds what was found in a partition against what was promised.
    pub(super) fn check_log(&mut self, id: Uuid, index: i32, observed: &Observed) -> Result<(), Wrong> {
        let Some(topic) = self.topics.get_mut(&id) else { return Ok(()) };
        let (is_commit, is_retained) = (topic.kind.is_commit, topic.kind.is_retained);
        let name = short(&topic.name);
        let log = topic.logs.entry(index).or_default();
        log.check(observed, is_commit, is_retained).map_err(|wrong| format!("{name}-{index}: {wrong}"))
    }

    pub(super) fn producer_id(&mut self, id: i64) -> Result<(), Wrong> {
        if self.producer_ids.insert(id) { Ok(()) } else { Err(format!("producer id {id} was given twice")) }
    }

    pub(super) fn committing(&mut self, key: Committed, topic: Uuid, offset: i64) {
        self.commits.entry(key).or_default().push(Commit { offset, topic, acknowledged: false });
    }

    pub(super) fn committed(&mut self, key: &Committed, offset: i64) {
        let Some(commits) = self.commits.get_mut(key) else { return };
        if let Some(at) = commits.iter().position(|commit| commit.offset == offset) {
            commits[at].acknowledged = true;
            commits.drain(..at);
        }
    }

    pub(super) fn commit_keys(&self) -> Vec<Committed> {
        self.commits.keys().cloned().collect()
    }

    /// Holds a committed offset (-1: none) against what was answered; `topic` is the one that has the name now.
    pub(super) fn check_commit(&self, key: &Committed, topic: Uuid, found: i64) -> Result<(), Wrong> {
        let Some(commits) = self.commits.get(key) else { return Ok(()) };
        let what = || format!("group {} has {found} of {}-{}", key.0, short(&key.1), key.2);
        let of_this = commits.iter().filter(|commit| commit.topic == topic);
        if found == -1 {
            return match of_this.clone().find(|commit| commit.acknowledged) {
                Some(kept) => Err(format!("{}, {} was kept", what(), kept.offset)),
                None => Ok(()),
            };
        }
        match commits.iter().find(|commit| commit.offset == found) {
            None => Err(format!("{}, possible are {commits:?}", what())),
            Some(stale) if stale.topic != topic => {
                let is_gone =
                    self.topics.get(&stale.topic).is_none_or(|old| old.existence == Existence::Gone);
                if is_gone { Err(format!("{}, which is of a deleted topic", what())) } else { Ok(()) }
            }
            Some(_) => Ok(()),
        }
    }
}

impl Log {
    fn may_delete(&mut self, before: i64) {
        self.deletable = self.deletable.max(before);
    }

    fn check(&mut self, observed: &Observed, is_commit: bool, is_retained: bool) -> Result<(), Wrong> {
        let Observed { from, is_late, log_start, high_watermark, epoch, records } = observed;
        if !is_late && *log_start < self.deleted {
            return Err(format!(
                "records before {} were deleted, the log starts at {log_start}",
                self.deleted
            ));
        }
        if *log_start > self.deletable && !is_retained {
            return Err(format!(
                "the log starts at {log_start}, only what is before {} may be deleted",
                self.deletable
            ));
        }
        let (seen, seen_epoch) = self.high_watermark;
        if !is_late && *high_watermark < seen && (is_commit || *epoch <= seen_epoch) {
            return Err(format!(
                "the high watermark went from {seen} in epoch {seen_epoch} to {high_watermark} in {epoch}"
            ));
        }
        if !is_late || *high_watermark > seen {
            // An answer that is late may be of the epoch before.
            self.high_watermark = (*high_watermark, if *is_late { seen_epoch } else { *epoch });
        }
        let mut by_offset = BTreeMap::new();
        let mut tokens = BTreeSet::new();
        let mut last = BTreeMap::new();
        for record in records {
            if !self.sent.contains(&record.token) {
                return Err(format!("{record:?} was never sent here"));
            }
            if !tokens.insert(record.token) {
                return Err(format!("{record:?} is there twice"));
            }
            if self.ordered.contains(&record.token)
                && let Some(before) = last.insert(record.token >> 32, record.token)
                && before > record.token
            {
                return Err(format!("{record:?} was sent before {before} and is behind it"));
            }
            by_offset.insert(record.offset, *record);
            if let Some((token, epoch)) = self.seen.get(&record.offset)
                && *token != record.token
                && (is_commit || record.epoch <= *epoch)
            {
                return Err(format!("{record:?} was {token} before, in epoch {epoch}"));
            }
        }
        let end = records.last().map_or(*high_watermark, |last| last.offset + 1).min(*high_watermark);
        for (offset, token) in self.promised.range((*from).max(*log_start)..end.max(*from).max(*log_start)) {
            if by_offset.get(offset).map(|record| record.token) != Some(*token) {
                return Err(format!(
                    "{token} at {offset} was acknowledged, found is {:?}",
                    by_offset.get(offset)
                ));
            }
        }
        if !is_late {
            let beyond = self.promised.range((*high_watermark).max(*log_start)..).next();
            if let Some((offset, token)) = beyond {
                return Err(format!(
                    "{token} at {offset} was acknowledged, the log ends at {high_watermark}"
                ));
            }
        }
        for record in records {
            self.seen.insert(record.offset, (record.token, record.epoch));
            if is_commit {
                self.promised.insert(record.offset, record.token);
            }
        }
        Ok(())
    }
}

/// A name that fits a line.
pub(super) fn short(name: &str) -> String {
    if name.len() > 20 { format!("{}…{}", &name[..3], name.len()) } else { name.to_owned() }
}
