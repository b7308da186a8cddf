//! What happens in a schedule, and what must be true in the end.

mod rest;

use super::{
    Random,
    applications::{Application, BOUND_MS, Comparable, Input, comparable_topic},
    cluster::{Cluster, Heartbeat, SESSION_MS},
    process::{Content, Process},
};
use crate::{
    Dump, TestDriver,
    instance::{Event, InstanceConfig, Outcome, Pacing, Place, Setup, Shelf},
    record::Headers,
    safeguard::without,
    task::{Life, ProgressTable, StampConfig, TaskConfig, TaskId},
    test_driver::topics::Logged,
    topology::{Globals, Plan, TopicId, Topology},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const PARTITIONS: i32 = 3;
/// Longest time in the network; less than the margin between lease and session.
const NETWORK_MS: i64 = 1500;
const HEARTBEAT_MS: i64 = 500;
const STEPS: u64 = 2000;
/// What a record or two may add to what a writer is ahead.
const SLACK_BYTES: usize = 500;
/// More than a record takes.
const RECORD_BYTES_MAX: usize = 200;
/// Longer than what happens takes.
const IDLE_MS: i64 = 100_000;

/// Something on its way from a process to the cluster.
struct Message {
    from: u64,
    due: i64,
    content: Content,
}

impl Message {
    /// Messages that stay in order have the same.
    fn place(&self) -> Option<Place> {
        match &self.content {
            Content::Record { output, .. } => Some((output.topic, output.partition)),
            Content::Offsets { .. } => None,
        }
    }
}

fn tasks_of(plan: &Plan) -> impl Iterator<Item = TaskId> + '_ {
    plan.sub_topologies.iter().enumerate().flat_map(|(sub_topology, part)| {
        (0..part.tasks).map(move |partition| TaskId { sub_topology, partition })
    })
}

pub(super) struct World {
    random: Random,
    application: Application,
    topology: Topology,
    plan: Plan,
    config: InstanceConfig,
    cluster: Cluster,
    processes: Vec<Process>,
    /// What processes leave to others on the same of two machines.
    shelves: [Arc<Mutex<Shelf>>; 2],
    members: u64,
    network: Vec<Message>,
    now: i64,
    broker_down_until: i64,
    /// When the broker last restarted.
    restarted: i64,
    /// Records that are still to be written to the input.
    to_write: Vec<Input>,
    written: Vec<Input>,
    /// Whether anything may be processed twice.
    rough: bool,
    /// Whether tasks move often.
    restless: bool,
    /// One in so many chances brings a message before it is due.
    slowness: u64,
    /// Whether answers to offsets get lost, which hides what follows from them.
    loses_answers: bool,
    /// So many times as many records come, in the same time.
    abundance: i64,
    /// What has been seen that must not be.
    wrong: Option<String>,
    /// Bytes at most that each life of a task, of a member, has handed over to a partition.
    handed_over: BTreeMap<(Place, TaskId, u64, u64), usize>,
    traced: bool,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> World {
        let mut random = Random(seed);
        let application = Application::chosen(&mut random);
        let topology = application.topology();
        let plan = topology.plan(|_| Some(PARTITIONS)).unwrap();
        let tasks = tasks_of(&plan).collect::<Vec<_>>().into_iter();
        let is_timed = application.is_timed();
        let rough = random.one_in(2) && !application.counts_repetitions();
        let abundance = match application.bounds_leads() {
            true if random.one_in(8) => 6,
            _ => 1,
        };
        let restless = random.one_in(2);
        let slowness = if rough { [1, 1, 50][random.index(3)] } else { 1 };
        let records = (50 + random.below(200) as i64) * abundance;
        let mut to_write: Vec<Input> =
            (0..records).map(|id| application.record(id, PARTITIONS, &mut random)).collect();
        to_write.reverse();
        let task = TaskConfig {
            skew_bound_ms: (random.one_in(2) || is_timed).then_some(BOUND_MS),
            // A partition that nobody looks at for longer counts as idle, and what it then brings as late.
            idle_timeout_ms: if is_timed { IDLE_MS } else { 100 },
            skip_undecodable: true,
            stamps: StampConfig {
                interval_ms: 5,
                ahead_bytes: 300 + random.below(if abundance > 1 { 500 } else { 3000 }),
            },
            buffer_records: 1 + random.index(20),
            buffer_bytes: 1 + random.index(2000),
        };
        let pacing = Pacing::Interval { ms: 20 + random.below(2000) as i64 };
        World {
            application,
            cluster: Cluster::new(tasks),
            topology,
            plan,
            config: InstanceConfig { task, pacing, purge_ms: None },
            processes: Vec::new(),
            shelves: Default::default(),
            members: 0,
            network: Vec::new(),
            now: 1000,
            broker_down_until: 0,
            restarted: -SESSION_MS,
            to_write,
            written: Vec::new(),
            rough,
            restless,
            slowness,
            loses_answers: seed.is_multiple_of(4),
            abundance,
            wrong: None,
            handed_over: BTreeMap::new(),
            random,
            traced,
            trace: Vec::new(),
        }
    }

    fn tell(&mut self, what: impl Fn(&World) -> String) {
        if self.traced {
            self.trace.push(format!("{} {}", self.now, what(self)));
        }
    }

    fn start(&mut self) {
        self.members += 1;
        let member = self.members;
        let setup = Setup {
            topology: self.topology.clone(),
            plan: self.plan.clone(),
            globals: Globals::new(&self.topology),
            progress: Arc::new(ProgressTable::new(&self.topology)),
            config: self.config,
        };
        let slowness = if self.rough { [1, 1, 10, 60][self.random.index(4)] } else { 1 };
        let reading_slowness = [1, 20, 60][self.random.index(3)];
        let shelf = Arc::clone(&self.shelves[member as usize % 2]);
        let mut process = Process::new(member, setup, shelf, (slowness, reading_slowness));
        process.heard = Some((self.now, None));
        self.cluster.join(member, self.now);
        self.processes.push(process);
        self.tell(|_| format!("{member} starts"));
    }

    /// Whether so much comes that it shows how far writers are ahead.
    pub(super) fn is_abundant(&self) -> bool {
        self.abundance > 1
    }

    /// Whether a result that is missing shows, and what was processed twice does not.
    pub(super) fn moves_rows(&self) -> bool {
        self.rough && self.application.moves_rows()
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..1 + self.random.below(3) {
            self.start();
        }
        for _ in 0..STEPS {
            self.step();
            self.wrong.take().map_or(Ok(()), Err)?;
        }
        self.settle()?;
        let exact = !self.rough;
        let expected = without(None, || self.undisturbed(exact));
        self.compare("the running instances", &expected, exact)?;
        self.end_all()?;
        self.start();
        self.settle()?;
        self.compare("who restores it all", &expected, exact)
    }

    fn compare(&self, who: &str, expected: &Comparable, exact: bool) -> Result<(), String> {
        let mut dump = Dump::new();
        for process in &self.processes {
            for (id, task) in process.instance.tasks() {
                dump.extend(task.dump().unwrap().into_iter().map(|(store, rows)| ((store, *id), rows)));
            }
        }
        let mut found = self.application.comparable(dump, exact);
        found.extend(self.outputs(exact, |topic| self.cluster.topics.all(topic)));
        if found == *expected {
            return Ok(());
        }
        let rows = |of: &Comparable| {
            let rows = of.iter().flat_map(|(at, rows)| rows.iter().map(move |row| format!("{at} {row}")));
            rows.collect::<BTreeSet<String>>()
        };
        let (found, expected) = (rows(&found), rows(expected));
        let kind = if exact { "exactly" } else { "at least once" };
        Err(format!(
            "{:?} {kind}: {who} has {:?} instead of {:?}",
            self.application,
            found.difference(&expected).take(4).collect::<Vec<_>>(),
            expected.difference(&found).take(4).collect::<Vec<_>>()
        ))
    }

    /// What is in the topics that the application writes for others.
    fn outputs(&self, exact: bool, all: impl Fn(TopicId) -> Vec<(i32, Logged)>) -> Comparable {
        let topics = ["out", "dead"].into_iter().filter_map(|name| Some((name, self.topic(name)?)));
        topics.map(|(name, topic)| (name.to_owned(), comparable_topic(all(topic), exact))).collect()
    }

    fn topic(&self, name: &str) -> Option<TopicId> {
        let at = self.topology.0.topics.iter().position(|topic| &*topic.name == name)?;
        Some(TopicId(at as u32))
    }

    /// What comes of one instance to which nothing happens.
    fn undisturbed(&self, exact: bool) -> Comparable {
        let driver = TestDriver::new(&self.topology).partitions(PARTITIONS).commit_every(1000);
        let mut driver = driver.skip_undecodable();
        if self.application.is_timed() {
            driver = driver.skew_bound(Duration::from_millis(BOUND_MS as u64));
        }
        let mut driver = driver.start().unwrap();
        for Input { topic, partition, key, value, timestamp } in &self.written {
            let bytes = (key.as_deref(), value.as_deref());
            driver.append(topic, Some(*partition), bytes, *timestamp, Headers::NONE).unwrap();
        }
        driver.run().unwrap();
        assert!(!self.application.is_timed() || driver.counters().late == 0);
        let mut expected = self.application.comparable(driver.dump().unwrap(), exact);
        expected.extend(self.outputs(exact, |topic| driver.written(topic)));
        expected
    }

    fn step(&mut self) {
        match self.random.below(10_000) {
            0..20 if self.processes.len() < 4 => self.start(),
            20..40 if self.processes.len() > 1 => {
                let (now, at) = (self.now, self.random.index(self.processes.len()));
                self.processes[at].tell(now, Event::Close);
                self.tell(|world| format!("{} closes", world.processes[at].member));
            }
            // One that is down most of the time is a reason to give up a close.
            40..50 if self.rough || self.now >= self.restarted + SESSION_MS => self.restart_broker(),
            40..50 => {}
            50..58 if self.rough => {
                let at = self.one_to_crash();
                let process = self.processes.remove(at);
                self.drop_some_of(process.member);
                self.tell(|_| format!("{} crashes", process.member));
                if self.processes.is_empty() {
                    self.start();
                }
            }
            58..110 if self.rough => {
                let until =
                    self.now + self.random.below(2) as i64 * SESSION_MS + self.random.below(8000) as i64;
                let at = self.random.index(self.processes.len());
                self.processes[at].stopped_until = until;
                // It may work before it hears of the group again.
                self.processes[at].last_heartbeat = until;
                self.tell(|world| format!("{} stands still until {until}", world.processes[at].member));
            }
            110..130 if self.rough => {
                let until = self.now + self.random.below(20_000) as i64;
                let at = self.random.index(self.processes.len());
                self.processes[at].cut_until = until;
                self.tell(|world| format!("{} is cut off until {until}", world.processes[at].member));
            }
            130..190 if self.restless => {
                let random = Random(self.random.next());
                self.cluster.shuffle(random);
                self.tell(|_| "the group gives tasks out anew".into());
            }
            190..700 => self.write_input(),
            700..2500 => {
                let by = self.random.below(if self.rough { 300 } else { 50 }) as i64;
                self.pass(by);
            }
            2500..4500 => self.deliver_one(),
            _ => self.let_one_work(),
        }
    }

    fn write_input(&mut self) {
        for _ in 0..self.random.below(4) as i64 * self.abundance * self.abundance.min(2) {
            let Some(input) = self.to_write.pop() else { return };
            let Input { topic, partition, key, value, timestamp } = input.clone();
            let (key, value) = (key.map(Bytes::from), value.map(Bytes::from));
            let topic = self.topic(topic).unwrap();
            let record = Logged::new(timestamp, key, value, Headers::NONE);
            self.cluster.topics.append(topic, partition, record);
            self.written.push(input);
        }
    }

    /// Any process, or that of which most is on its way.
    fn one_to_crash(&mut self) -> usize {
        let sent =
            |process: &Process| self.network.iter().filter(|message| message.from == process.member).count();
        let busiest = (0..self.processes.len()).max_by_key(|at| sent(&self.processes[*at]));
        let any = self.random.index(self.processes.len());
        busiest.filter(|_| self.random.one_in(2)).unwrap_or(any)
    }

    /// What a process has sent last goes with it, if it has not left the machine: of each partition, since a request has a
    /// batch of each.
    fn drop_some_of(&mut self, member: u64) {
        let mut gone = BTreeSet::new();
        let chance = &mut self.random;
        self.network.retain(|message| {
            let is_lost = message.from == member
                && (gone.contains(&message.place()) || chance.one_in(2) && gone.insert(message.place()));
            !is_lost
        });
    }

    fn restart_broker(&mut self) {
        let network = std::mem::take(&mut self.network);
        let mut held = Vec::new();
        for message in network {
            // What had arrived is there; a client sends the rest again, behind its fence.
            if self.random.one_in(2) && held.iter().all(|other: &Message| other.from != message.from) {
                self.arrive(message);
            } else {
                held.push(message);
            }
        }
        self.network = held;
        self.restarted = self.now;
        self.broker_down_until = self.now + self.random.below(1500) as i64;
        let until = self.broker_down_until;
        self.tell(|_| format!("the broker restarts and is back at {until}"));
    }

    /// Passes time: what is due arrives, members are heard of, silent ones are dropped.
    fn pass(&mut self, by: i64) {
        self.now += by;
        let now = self.now;
        if self.broker_down_until > now {
            return;
        }
        if self.broker_down_until > 0 {
            self.broker_down_until = 0;
            self.cluster.begin_again(now);
        }
        while let Some(at) = self.network.iter().position(|message| message.due <= now) {
            self.deliver(at);
        }
        self.heartbeats();
        self.cluster.expire(now);
    }

    fn heartbeats(&mut self) {
        let now = self.now;
        for process in &mut self.processes {
            let silent = process.stopped_until > now || process.cut_until > now;
            let due = now - process.last_heartbeat >= HEARTBEAT_MS;
            if silent || !due && !self.random.one_in(6) {
                continue;
            }
            process.last_heartbeat = now;
            if process.change.is_none() && !process.released.is_empty() {
                self.cluster.released(process.member, &std::mem::take(&mut process.released));
            }
            let settled = process.change.is_none();
            match self.cluster.heartbeat(process.member, now, settled) {
                Heartbeat::Fine => {
                    if let Some((at, _)) = &mut process.heard {
                        *at = now;
                    }
                }
                Heartbeat::Generation { generation, revoked, assigned } => {
                    if self.traced {
                        self.trace.push(format!(
                            "{now} {} generation {generation} -{revoked:?} +{assigned:?}",
                            process.member
                        ));
                    }
                    process.heard = Some((now, Some(generation)));
                    process.rebalanced(now, revoked, assigned);
                }
                // One change at a time: it hears of what it has lost once it has dealt with the one before, and joins again
                // once it has dealt with that.
                Heartbeat::Unknown if !settled => {}
                Heartbeat::Unknown if process.heard.is_some() => {
                    if self.traced {
                        self.trace.push(format!("{now} {} lost", process.member));
                    }
                    process.lost();
                }
                Heartbeat::Unknown => {
                    self.members += 1;
                    process.member = self.members;
                    process.heard = Some((now, None));
                    self.cluster.join(process.member, now);
                }
            }
        }
    }

    fn deliver_one(&mut self) {
        let is_quick = self.random.one_in(self.slowness);
        if is_quick && !self.network.is_empty() && self.broker_down_until == 0 {
            let at = self.random.index(self.network.len());
            self.deliver(at);
        }
    }

    /// Brings a message to the cluster, or one before it that must come first.
    fn deliver(&mut self, at: usize) {
        let (from, place) = (self.network[at].from, self.network[at].place());
        let mut messages = self.network.iter();
        let first = messages.position(|message| message.from == from && message.place() == place);
        let message = self.network.remove(first.unwrap_or(at));
        self.arrive(message);
    }

    fn arrive(&mut self, message: Message) {
        let process = self.processes.iter_mut().find(|process| process.member == message.from);
        match message.content {
            Content::Record { life: Life { task, .. }, output, producer } => {
                if !self.cluster.owns(message.from, task) {
                    self.wrong
                        .get_or_insert(format!("{} writes for {task} and does not have it", message.from));
                }
                let place = (output.topic, output.partition);
                self.cluster.topics.write(output);
                let end = self.cluster.topics.end(place.0, place.1);
                process.into_iter().for_each(|process| process.acknowledged(producer, place, end));
            }
            Content::Offsets { producer, generation, offsets } => {
                let taken = self.cluster.takes(message.from, generation);
                for offset in offsets.into_iter().filter(|_| taken) {
                    let place = (offset.position.topic, offset.position.partition);
                    self.cluster.committed.insert(place, (offset.position.offset, offset.metadata));
                }
                let outcome = match taken {
                    // The answer is lost, the offsets are not.
                    _ if self.loses_answers && self.random.one_in(20) => Outcome::Again,
                    true => Outcome::Done,
                    false => Outcome::Refused,
                };
                process.into_iter().for_each(|process| process.answered(producer, outcome));
                self.tell(|_| format!("offsets of {} in {generation:?} taken: {taken}", message.from));
            }
        }
    }

    fn let_one_work(&mut self) {
        let at = self.random.index(self.processes.len());
        let Process { stopped_until, slowness, .. } = self.processes[at];
        if stopped_until > self.now || !self.random.one_in(slowness) {
            return;
        }
        let sent = self.processes[at].step(self.now, &self.cluster, &mut self.random);
        self.send(at, sent);
        self.measure(at);
        self.end_closed();
    }

    /// What readers keep of a writer is bounded by what each that has had its task may be ahead.
    fn measure(&mut self, at: usize) {
        if !self.application.bounds_leads() {
            return;
        }
        let most = self.config.task.stamps.ahead_bytes as usize + SLACK_BYTES;
        for (id, task) in self.processes[at].instance.tasks() {
            for (topic, bytes) in task.most_bytes() {
                let first = ((topic, id.partition), TaskId::FIRST, 0, 0);
                let of_place = self.handed_over.range(first..).take_while(|(key, _)| key.0 == first.0);
                let mut by_writer = BTreeMap::new();
                for ((_, writer, ..), handed_over) in of_place {
                    *by_writer.entry(writer).or_default() += most.min(*handed_over);
                }
                let bound = by_writer.into_values().max().unwrap_or(0);
                if bytes > bound {
                    self.wrong
                        .get_or_insert(format!("{id} keeps {bytes} bytes of a writer, more than {bound}"));
                }
            }
        }
    }

    fn send(&mut self, at: usize, sent: Vec<Content>) {
        let from = self.processes[at].member;
        for content in sent {
            let due = self.now + self.random.below(NETWORK_MS as u64) as i64;
            if let Content::Record { life, output, .. } = &content
                && self.application.bounds_leads()
            {
                let place = (output.topic, output.partition);
                *self.handed_over.entry((place, life.task, from, life.number)).or_default() +=
                    RECORD_BYTES_MAX;
            }
            self.network.push(Message { from, due, content });
        }
    }

    /// Processes that are through leave the group.
    fn end_closed(&mut self) {
        while let Some(at) = self.processes.iter().position(|process| process.closed.is_some()) {
            let process = self.processes.remove(at);
            let open = process.closed.unwrap_or(0);
            if open == 0 {
                self.cluster.leave(process.member);
            }
            let open = open + process.uncommitted;
            assert!(open == 0 || self.rough, "{open} tasks were given up uncommitted without a reason");
            self.tell(|_| format!("{} has left with {open} uncommitted", process.member));
        }
        if self.processes.is_empty() {
            self.start();
        }
    }
}
