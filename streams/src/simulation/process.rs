//! One process: an instance, and its side of everything that takes time.

use super::{
    Random,
    cluster::{Cluster, SESSION_MS},
};
use crate::{
    instance::{
        Action, Appended, Consumed, Done, Event, Fence, Found, Instance, Moment, Outbox, Outcome, Place,
        Setup, Shelf, Sight, Standing, Step,
    },
    processor::{Frontier, Output},
    safeguard::Safeguard,
    task::{ChangelogRange, CommittedOffset, Life, Position, RestoreWish, Start, TaskId},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// What goes through the network from a process to the cluster. Whoever is told of its arrival knows it by the producer
/// that sent it.
#[derive(Debug)]
pub(super) enum Content {
    Record { life: Life, output: Output, producer: u64 },
    Offsets { producer: u64, generation: Option<i32>, offsets: Vec<CommittedOffset> },
}

/// Sends what it is given while the fence is open, until there is something to discard.
#[derive(Debug, Default)]
struct Producer {
    number: u64,
    is_shut: bool,
    buffer: Vec<(Life, Output)>,
    /// Records sent and not acknowledged.
    in_flight: usize,
    /// Where partitions end behind what was acknowledged since it was flushed.
    ends: BTreeMap<Place, i64>,
}

/// A step of the outbox that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Flush,
    Offsets,
}

/// A changelog that is being read.
#[derive(Debug)]
struct Reading {
    life: Life,
    wish: RestoreWish,
    at: i64,
}

impl Producer {
    fn is_flushed(&self) -> bool {
        self.buffer.is_empty() && self.in_flight == 0
    }
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
    outbox: Outbox,
    producer: Producer,
    under_way: Option<UnderWay>,
    /// What processes on the same machine have left.
    shelf: Arc<Mutex<Shelf>>,
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
            outbox: Outbox::default(),
            producer: Producer::default(),
            under_way: None,
            shelf,
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
            Action::Append(appended) => self.outbox.append(appended),
            Action::AskReaders(places) => self.questions.push(places),
            Action::Commit { commit, rows, offsets } => self.outbox.commit(commit, rows, offsets),
            Action::Discard => {
                self.outbox.discard();
                if !Safeguard::Discards.is_out() {
                    self.under_way = None;
                    self.producer.is_shut = true;
                }
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
            Action::BeyondEnd { .. } => unreachable!("topics in memory keep all"),
        }
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
    pub(super) fn lost(&mut self) {
        self.heard = None;
        self.released.clear();
        self.fetching.clear();
        self.next_change = None;
        self.change = Some(Vec::new());
        // Others may have its tasks before it looks.
        self.mail.push_back(Event::Lost);
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
            let before = self.to_write();
            sent.extend(self.write(now));
            if self.to_write() == before {
                return sent;
            }
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

    /// Goes on with what was handed over, as far as the fence lets it.
    fn write(&mut self, now: i64) -> Vec<Content> {
        let standing = self.fence.standing(self.sight(now));
        let Producer { number: producer, is_shut, buffer, in_flight, .. } = &mut self.producer;
        let producer = *producer;
        let mut sent = Vec::new();
        if standing == Standing::Owner && !*is_shut {
            *in_flight += buffer.len();
            sent.extend(buffer.drain(..).map(|(life, output)| Content::Record { life, output, producer }));
        }
        if self.under_way == Some(UnderWay::Flush) && self.producer.is_flushed() {
            self.under_way = None;
            let position = |((topic, partition), offset)| Position { topic, partition, offset };
            let ends = std::mem::take(&mut self.producer.ends).into_iter().map(position).collect();
            self.done(Done::Flush { ends });
        }
        if self.under_way.is_some() {
            return sent;
        }
        match self.outbox.next(standing) {
            Some(Step::Append(Appended { life, outputs })) => {
                let bytes = outputs.size();
                let mut records: Vec<Output> = outputs.into_records().collect();
                if Safeguard::Frontier.is_out() {
                    let stamps = records.iter_mut().filter_map(|record| record.stamp.as_mut());
                    stamps.for_each(|stamp| stamp.frontier = Frontier::Idle);
                }
                self.producer.buffer.extend(records.into_iter().map(|record| (life, record)));
                self.done(Done::Append { bytes });
            }
            Some(Step::Flush) => self.under_way = Some(UnderWay::Flush),
            Some(Step::Offsets(offsets)) => {
                self.under_way = Some(UnderWay::Offsets);
                let generation = self.heard.and_then(|(_, generation)| generation);
                sent.push(Content::Offsets { producer, generation, offsets });
            }
            Some(Step::Renew) => {
                self.producer = Producer { number: producer + 1, ..Producer::default() };
                self.done(Done::Renew);
            }
            Some(Step::Tell(event)) => self.done(Done::Tell(event)),
            None => {}
        }
        sent
    }

    fn done(&mut self, done: Done) {
        self.mail.extend(self.outbox.done(done));
    }

    /// How much is to be written, in steps and records.
    fn to_write(&self) -> (usize, Option<UnderWay>, usize) {
        (self.outbox.len(), self.under_way, self.producer.buffer.len())
    }

    /// Something that it sent has arrived, and the partition ends behind it.
    pub(super) fn acknowledged(&mut self, producer: u64, place: Place, end: i64) {
        if producer == self.producer.number {
            self.producer.ends.insert(place, end);
            self.producer.in_flight -= 1;
        }
    }

    /// The group has answered to offsets.
    pub(super) fn answered(&mut self, producer: u64, outcome: Outcome) {
        if producer == self.producer.number && self.under_way == Some(UnderWay::Offsets) {
            self.under_way = None;
            self.done(Done::Offsets(outcome));
        }
    }

    /// What it waits for, as text.
    pub(super) fn waits(&self) -> String {
        format!(
            "{}: {} in the mail, {} to write, {} in flight, change {:?}, released {:?}, {} to restore, {} looked up",
            self.member,
            self.mail.len(),
            self.outbox.len(),
            self.producer.in_flight,
            self.change,
            self.released,
            self.readings.len(),
            self.lookups.len()
        )
    }

    /// Whether it waits for nothing.
    pub(super) fn rests(&self) -> bool {
        self.mail.is_empty()
            && self.to_write() == (0, None, 0)
            && self.producer.in_flight == 0
            && self.change.is_none()
            && self.released.is_empty()
            && self.readings.is_empty()
            && self.lookups.is_empty()
            && self.instance.tasks().values().all(|task| !task.has_uncommitted() && task.drained())
    }
}
