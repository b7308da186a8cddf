//! One process: an instance, and its side of everything that takes time.

use super::{
    Random,
    cluster::{Cluster, SESSION_MS},
};
use crate::{
    instance::{
        Action, Consumed, Event, Fence, Found, Instance, Moment, Outcome, Place, Setup, Shelf, Sight,
        Standing,
    },
    processor::{Frontier, Output},
    safeguard::Safeguard,
    task::{ChangelogRange, CommittedOffset, Life, Position, RestoreWish, Start, TaskId},
    topology::{Changelog, SubTopology},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Something that is handed over to be written.
#[derive(Debug)]
enum Job {
    Append { life: Life, records: Vec<Output>, bytes: usize },
    Commit { commit: u64, records: Vec<(TaskId, Output)>, bytes: usize, offsets: Vec<CommittedOffset> },
}

/// What goes through the network from a process to the cluster.
#[derive(Debug)]
pub(super) enum Content {
    Record(Life, Output),
    Offsets { commit: u64, generation: Option<i32>, offsets: Vec<CommittedOffset> },
}

/// A changelog that is being read.
#[derive(Debug)]
struct Reading {
    life: Life,
    wish: RestoreWish,
    at: i64,
}

/// One member of the group.
pub(super) struct Process {
    pub(super) member: u64,
    /// It has so many times less to do than others.
    pub(super) slowness: u64,
    /// It reads so many times less of changelogs than others.
    reading_slowness: u64,
    setup: Arc<Setup>,
    fence: Arc<Fence>,
    pub(super) instance: Instance,
    /// Generation and time of the last heartbeat that was answered, while it is a member.
    pub(super) heard: Option<(i64, Option<i32>)>,
    pub(super) last_heartbeat: i64,
    /// It does nothing before this time.
    pub(super) stopped_until: i64,
    /// The group hears nothing of it before this time.
    pub(super) cut_until: i64,
    /// Events that wait until it looks.
    pub(super) mail: VecDeque<Event>,
    /// Tasks that the change under way takes away; `None` if there is no change.
    pub(super) change: Option<Vec<TaskId>>,
    /// Tasks given up of which the group has not heard.
    pub(super) released: Vec<TaskId>,
    /// What comes once the change is settled.
    next_change: Option<Vec<TaskId>>,
    fetching: BTreeMap<Place, i64>,
    lookups: Vec<(u64, Vec<TaskId>)>,
    readings: Vec<Reading>,
    jobs: VecDeque<Job>,
    /// What processes on the same machine have left.
    shelf: Arc<Mutex<Shelf>>,
    /// Where changelogs end behind the rows that the commit under way has appended.
    logged: BTreeMap<Place, i64>,
    /// Records sent and not acknowledged.
    pub(super) in_flight: usize,
    /// Partitions whose readers' progress is asked for.
    questions: Vec<Vec<Place>>,
    /// Whether it has been told to close.
    pub(super) is_closing: bool,
    /// How many tasks could not commit at the end.
    pub(super) closed: Option<usize>,
    /// Tasks given up uncommitted.
    pub(super) uncommitted: usize,
}

impl Process {
    pub(super) fn new(
        member: u64,
        setup: Setup,
        shelf: Arc<Mutex<Shelf>>,
        (slowness, reading_slowness): (u64, u64),
    ) -> Process {
        let (setup, fence) = (Arc::new(setup), Arc::new(Fence::new(SESSION_MS)));
        Process {
            member,
            slowness,
            reading_slowness,
            instance: Instance::new(Arc::clone(&setup), Arc::clone(&fence)),
            setup,
            fence,
            heard: None,
            last_heartbeat: 0,
            stopped_until: 0,
            cut_until: 0,
            mail: VecDeque::new(),
            change: None,
            released: Vec::new(),
            next_change: None,
            fetching: BTreeMap::new(),
            lookups: Vec::new(),
            readings: Vec::new(),
            jobs: VecDeque::new(),
            shelf,
            logged: BTreeMap::new(),
            in_flight: 0,
            questions: Vec::new(),
            is_closing: false,
            closed: None,
            uncommitted: 0,
        }
    }

    fn sight(&self, now: i64) -> Option<Sight> {
        let (at, generation) = self.heard?;
        Some(match Safeguard::Fence.is_out() {
            true => Sight { age_ms: 0, generation: None },
            false => Sight { age_ms: now - at, generation },
        })
    }

    /// Tells the instance something and notes what it wants.
    pub(super) fn tell(&mut self, now: i64, event: Event) {
        self.is_closing |= matches!(event, Event::Close);
        let mut actions = Vec::new();
        let moment = Moment { ms: now, group: self.sight(now) };
        self.instance.on(moment, event, &mut actions).unwrap();
        actions.into_iter().for_each(|action| self.note(now, action));
    }

    fn note(&mut self, now: i64, action: Action) {
        match action {
            Action::LookUp { lookup, tasks } => self.lookups.push((lookup, tasks)),
            Action::Fetch(Position { topic, partition, offset }) => {
                self.fetching.insert((topic, partition), offset);
            }
            Action::Restore { life, wishes } => {
                let readings = wishes.into_iter().map(|wish| Reading { life, wish, at: wish.from });
                self.readings.extend(readings);
            }
            Action::Append { life, outputs } => {
                let bytes = outputs.size();
                let mut records: Vec<Output> = outputs.into_records().collect();
                if Safeguard::Frontier.is_out() {
                    let stamps = records.iter_mut().filter_map(|record| record.stamp.as_mut());
                    stamps.for_each(|stamp| stamp.frontier = Frontier::Idle);
                }
                self.jobs.push_back(Job::Append { life, records, bytes });
            }
            Action::AskReaders(places) => self.questions.push(places),
            Action::Commit { commit, records, offsets } => {
                let bytes = records.iter().map(crate::processor::Outputs::size).sum();
                let records = records.into_iter().flat_map(|outputs| outputs.into_records());
                let records = records.map(|record| (self.task_of_changelog(&record), record)).collect();
                self.jobs.push_back(Job::Commit { commit, records, bytes, offsets });
            }
            Action::Discard if Safeguard::Discards.is_out() => {}
            Action::Discard => {
                self.jobs.clear();
                self.in_flight = 0;
            }
            Action::Settled { uncommitted } => {
                self.uncommitted += uncommitted;
                self.released.extend(self.change.take().into_iter().flatten());
                if let Some(assigned) = self.next_change.take() {
                    self.change = Some(Vec::new());
                    self.tell(now, Event::Assigned(self.places(&assigned)));
                }
            }
            Action::Shelve { task, state } => drop(self.shelf.lock().put(task, state, now + SESSION_MS)),
            Action::Closed { uncommitted } => self.closed = Some(uncommitted),
            Action::Pause(_) | Action::Resume(_) | Action::Purge(_) => {}
        }
    }

    /// Which task a changed row is of.
    fn task_of_changelog(&self, record: &Output) -> TaskId {
        let topology = &self.setup.topology.0;
        let is_of = |part: &SubTopology| {
            let mut stores = part.stores.iter().map(|index| topology.stores[*index].changelog);
            stores.any(|changelog| changelog == Changelog::Own(record.topic))
        };
        let sub_topology = topology.sub_topologies.iter().position(is_of).unwrap();
        TaskId { sub_topology, partition: record.partition }
    }

    fn places(&self, tasks: &[TaskId]) -> Vec<Place> {
        tasks.iter().flat_map(|id| self.setup.inputs(*id)).collect()
    }

    /// What the group says of the tasks.
    pub(super) fn rebalanced(&mut self, now: i64, revoked: Vec<TaskId>, assigned: Vec<TaskId>) {
        if !revoked.is_empty() {
            let places = self.places(&revoked);
            self.change = Some(revoked);
            self.next_change = Some(assigned).filter(|assigned| !assigned.is_empty());
            self.fetching.retain(|place, _| !places.contains(place));
            self.tell(now, Event::Revoked(places));
        } else if !assigned.is_empty() {
            self.change = Some(Vec::new());
            self.tell(now, Event::Assigned(self.places(&assigned)));
        }
    }

    /// It is no member any more.
    pub(super) fn lost(&mut self, now: i64) {
        self.heard = None;
        self.released.clear();
        self.fetching.clear();
        self.next_change = None;
        self.change = Some(Vec::new());
        self.tell(now, Event::Lost);
    }

    /// Lets it look at what has come, work and write; returns what goes into the network.
    pub(super) fn step(&mut self, now: i64, cluster: &Cluster, random: &mut Random) -> Vec<Content> {
        let mut sent = Vec::new();
        for _ in 0..1 + random.below(12) {
            match random.below(9) {
                0 => self.tell(now, Event::Tick),
                1 if random.one_in(2) => self.ask_readers(now, cluster),
                1 => self.look_up(now, cluster),
                2 if random.one_in(self.reading_slowness) => self.read_changelog(now, cluster, random),
                2 => {}
                3 => {
                    let most = 1 + random.below(8) as i64;
                    self.fetch(now, cluster, (random.index(usize::MAX), most));
                }
                4 => {
                    for _ in 0..random.below(6) {
                        self.tell(now, Event::Work);
                    }
                    self.tell(now, Event::Rest);
                }
                5 | 6 => sent.extend(self.write(now)),
                _ => {
                    if let Some(event) = self.mail.pop_front() {
                        self.tell(now, event);
                    }
                }
            }
        }
        sent
    }

    /// Does all that can be done.
    pub(super) fn step_to_rest(&mut self, now: i64, cluster: &Cluster, random: &mut Random) -> Vec<Content> {
        self.look_up(now, cluster);
        while let Some(event) = self.mail.pop_front() {
            self.tell(now, event);
        }
        self.tell(now, Event::Tick);
        self.ask_readers(now, cluster);
        while !self.readings.is_empty() {
            self.read_changelog(now, cluster, random);
        }
        for input in 0..self.fetching.len() * 2 {
            self.fetch(now, cluster, (input, 100));
        }
        while self.instance.has_work() {
            self.tell(now, Event::Work);
        }
        self.tell(now, Event::Rest);
        let mut sent = Vec::new();
        loop {
            let more = self.write(now);
            if more.is_empty() {
                return sent;
            }
            sent.extend(more);
        }
    }

    /// Looks up where inputs begin; it is told of that some time later.
    fn look_up(&mut self, now: i64, cluster: &Cluster) {
        let Some((lookup, tasks)) = self.lookups.pop() else { return };
        let start = |place: Place| {
            let committed = cluster.committed.get(&place);
            let offset = committed.map_or(0, |(offset, _)| *offset);
            Start {
                position: Position { topic: place.0, partition: place.1, offset },
                metadata: committed.map(|(_, metadata)| metadata.clone()),
                committed: committed.is_some(),
                pinned_end: None,
            }
        };
        let starts = tasks.iter().flat_map(|id| self.setup.inputs(*id)).map(start).collect();
        let mut shelf = self.shelf.lock();
        let mut kept: Vec<_> = tasks.iter().filter_map(|id| Some((*id, shelf.take(*id, now)?))).collect();
        drop(shelf);
        if Safeguard::Tail.is_out() {
            kept.iter_mut()
                .for_each(|(id, state)| state.claim(|topic| cluster.topics.end(topic, id.partition)));
        }
        let places = tasks.iter().flat_map(|id| self.setup.changelogs(*id));
        let range =
            |place: Place| ChangelogRange { place, begin: 0, end: cluster.topics.end(place.0, place.1) };
        let changelogs = places.map(range).collect();
        self.mail.push_back(Event::Found { lookup, found: Found { starts, changelogs, kept } });
    }

    fn ask_readers(&mut self, now: i64, cluster: &Cluster) {
        let Some(places) = self.questions.pop() else { return };
        let consumed = |place: Place| Consumed {
            place,
            end: cluster.topics.end(place.0, place.1),
            committed: cluster.committed.get(&place).cloned(),
        };
        self.tell(now, Event::Consumed(places.into_iter().map(consumed).collect()));
    }

    fn read_changelog(&mut self, now: i64, cluster: &Cluster, random: &mut Random) {
        if self.readings.is_empty() {
            return;
        }
        let at = random.index(self.readings.len());
        let reading = &mut self.readings[at];
        let RestoreWish { store, place: (topic, partition), up_to, .. } = reading.wish;
        let life = reading.life;
        let part = (reading.at + 1 + random.below(10) as i64).min(up_to);
        let event = match cluster.topics.fetch(topic, partition, reading.at, part) {
            Some(batch) => {
                reading.at = batch.next_offset;
                Event::Restored { life, store, batch }
            }
            None => {
                self.readings.swap_remove(at);
                Event::RestoreEnded { life, store }
            }
        };
        self.tell(now, event);
    }

    /// Fetches so many records at most of an input.
    fn fetch(&mut self, now: i64, cluster: &Cluster, (input, most): (usize, i64)) {
        if self.fetching.is_empty() {
            return;
        }
        let index = input % self.fetching.len();
        let (place, at) = self.fetching.iter().nth(index).map(|(place, at)| (*place, *at)).unwrap();
        let end = cluster.topics.end(place.0, place.1);
        if !self.instance.is_paused(place)
            && let Some(batch) = cluster.topics.fetch(place.0, place.1, at, end.min(at + most))
        {
            self.fetching.insert(place, batch.next_offset);
            self.tell(now, Event::Fetched { place, batch });
        }
        let position = self.fetching.get(&place).copied();
        self.tell(now, Event::Passed { place, position, end: Some(end) });
    }

    /// Does the next of what was handed over, as far as the fence lets it.
    fn write(&mut self, now: i64) -> Vec<Content> {
        if self.fence.standing(self.sight(now)) != Standing::Owner {
            return Vec::new();
        }
        if let Some(Job::Commit { records, .. }) = self.jobs.front()
            && self.in_flight > 0
            && !(if records.is_empty() { Safeguard::Order } else { Safeguard::Results }).is_out()
        {
            return Vec::new();
        }
        let generation = self.heard.and_then(|(_, generation)| generation);
        match self.jobs.pop_front() {
            Some(Job::Append { life, records, bytes }) => {
                self.in_flight += records.len();
                self.mail.push_back(Event::Sent { bytes });
                records.into_iter().map(|record| Content::Record(life, record)).collect()
            }
            Some(Job::Commit { commit, records, bytes, offsets }) if !records.is_empty() => {
                self.in_flight += records.len();
                self.mail.push_back(Event::Sent { bytes });
                self.jobs.push_front(Job::Commit { commit, records: Vec::new(), bytes: 0, offsets });
                let mut sent: Vec<Content> = records
                    .into_iter()
                    .map(|(task, record)| Content::Record(Life { task, number: 0 }, record))
                    .collect();
                if Safeguard::Order.is_out() {
                    let Some(Job::Commit { offsets, .. }) = self.jobs.pop_front() else { return sent };
                    sent.insert(0, Content::Offsets { commit, generation, offsets });
                }
                sent
            }
            Some(Job::Commit { commit, offsets, .. }) => {
                vec![Content::Offsets { commit, generation, offsets }]
            }
            None => Vec::new(),
        }
    }

    /// Something that it sent has arrived, and the partition ends behind it.
    pub(super) fn acknowledged(&mut self, place: Place, end: i64) {
        self.logged.insert(place, end);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn answered(&mut self, commit: u64, taken: bool) {
        let outcome = if taken { Outcome::Done } else { Outcome::Refused };
        let position = |((topic, partition), offset)| Position { topic, partition, offset };
        let logged = std::mem::take(&mut self.logged).into_iter().map(position).collect();
        self.mail.push_back(Event::CommitEnded { commit, outcome, logged });
    }

    /// What it waits for, as text.
    pub(super) fn waits(&self) -> String {
        format!(
            "{}: {} in the mail, {} to write, {} in flight, change {:?}, released {:?}, {} to restore, {} looked up",
            self.member,
            self.mail.len(),
            self.jobs.len(),
            self.in_flight,
            self.change,
            self.released,
            self.readings.len(),
            self.lookups.len()
        )
    }

    /// Whether it waits for nothing.
    pub(super) fn rests(&self) -> bool {
        self.mail.is_empty()
            && self.jobs.is_empty()
            && self.in_flight == 0
            && self.change.is_none()
            && self.released.is_empty()
            && self.readings.is_empty()
            && self.lookups.is_empty()
            && self.instance.tasks().values().all(|task| !task.has_uncommitted() && task.drained())
    }
}
