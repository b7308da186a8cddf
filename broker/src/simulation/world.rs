//! One simulated machine: a disk, a clock, lives of a broker on it one after the other, and whoever asks it.
//!
//! Everything runs in one thread. Whatever production hands to another thread waits here until it is picked: jobs, the
//! catalog's changes, syncs, answers. During a sync others may append, through the disk's callback.

use super::clients::{self, Asked, Part, context};
use super::model::{Kind, Model, Wrong};
use super::random::Random;
use crate::background;
use crate::broker::Assembly;
use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::data_dir::DataDir;
use crate::disk::{Fault, Operation, SimulatedDisk};
use crate::dispatch;
use crate::handler::Node;
use crate::jobs::{Job, Jobs};
use crate::journal::JournalConfig;
use crate::safeguard::Safeguard;
use crate::topic::{CatalogWorker, Topic};
use bytes::Bytes;
use kappa_protocol::messages::FindCoordinatorRequest;
use kappa_protocol::{Reply, ReplyFuture, Request};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;
use uuid::Uuid;

pub(super) const START_MS: i64 = 1_700_000_000_000;
/// Batches of an idempotent stream that are not acknowledged.
pub(super) const IN_FLIGHT_MAX: usize = 3;
pub(super) const GROUPS: [&str; 2] = ["g", "h"];

/// Small enough to be full now and then.
const JOURNAL: JournalConfig =
    JournalConfig { file_bytes: 32 * 1024, files_max: 2, piece_bytes_max: 4096, misses_before_first: 0 };

/// Bytes on the disk of most machines: too few for a reserve, which costs more than all else that they do.
const ROOM: u64 = 3 << 20;

/// What half of the steps of a schedule are taken from, by its seed: anything; topics that come and go; records that do;
/// groups.
const FAVOURITES: [&[u64]; 4] = [
    &[],
    &[0, 0, 8, 8, 15, 15, 40, 60, 68, 68, 68, 78, 78, 107],
    &[15, 15, 30, 40, 40, 60, 60, 78, 78, 92, 94, 107],
    &[0, 8, 15, 51, 51, 51, 58, 60, 68, 68, 68, 78, 78, 107],
];

/// Jobs that nobody carries out yet.
type Waiting = Arc<Mutex<Vec<Job>>>;

/// A process.
pub(super) struct Life {
    pub(super) node: Arc<Node>,
    pub(super) catalog: CatalogWorker,
    pub(super) _data_dir: DataDir,
    pub(super) jobs: Waiting,
    pub(super) pending: Vec<(Asked, ReplyFuture)>,
    pub(super) coordinator: tokio::task::JoinHandle<()>,
}

/// What may happen while a sync goes on.
pub(super) struct Interrupts {
    node: Option<Arc<Node>>,
    random: Random,
    left: u64,
    /// The model's count of losses.
    losses: u64,
    tokens: u64,
    issued: Vec<(Arc<Topic>, Asked, Reply)>,
}

/// Batches of one idempotent producer to one partition, in order.
pub(super) struct Stream {
    pub(super) producer_id: i64,
    pub(super) topic: Uuid,
    pub(super) index: i32,
    pub(super) next_sequence: i32,
    pub(super) unacknowledged: VecDeque<(Vec<u64>, Bytes, bool)>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Kill,
    PowerCut,
    Stop,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) disk: SimulatedDisk,
    pub(super) without: Option<Safeguard>,
    /// The directory of a partition whose file was damaged.
    pub(super) spoiled: Option<String>,
    pub(super) clock: Clock,
    pub(super) runtime: Runtime,
    pub(super) model: Model,
    pub(super) streams: Vec<Stream>,
    pub(super) producer_ids: Vec<i64>,
    pub(super) members: BTreeMap<String, (String, i32)>,
    pub(super) life: Option<Life>,
    /// Faults may be waiting to happen.
    pub(super) faulty: bool,
    /// The power will go.
    pub(super) armed: bool,
    pub(super) interrupts: Arc<Mutex<Interrupts>>,
    /// What happened, in words, if anybody wants to know.
    pub(super) trace: Option<Vec<String>>,
}

pub(super) fn kind_of(topic: &Topic) -> Kind {
    let overrides = topic.overrides();
    let is_commit = overrides.get("kappa.flush").is_none_or(|mode| mode == "commit");
    Kind { is_commit, is_retained: overrides.contains_key("retention.bytes") }
}

pub(super) fn topics_of(node: &Node) -> Vec<Arc<Topic>> {
    node.topics.all().into_iter().filter(|topic| !topic.is_internal()).collect()
}

pub(super) fn pick(node: &Node, random: &mut Random) -> Option<(Arc<Topic>, i32)> {
    let topics = topics_of(node);
    let topic = topics.get(random.below(topics.len().max(1) as u64) as usize)?.clone();
    let index = random.below(topic.partitions().len().max(1) as u64) as i32;
    Some((topic, index))
}

impl Interrupts {
    /// Called at the begin and at the end of each sync, with whatever locks the one who syncs holds.
    fn run(&mut self) {
        let Some(node) = self.node.clone() else { return };
        if self.left == 0 || !self.random.one_in(2) {
            return;
        }
        // Who syncs under a partition's lock keeps everybody else out.
        let all = node.topics.all();
        if all.iter().any(|topic| topic.partitions().iter().any(|partition| partition.is_locked())) {
            return;
        }
        self.left -= 1;
        let Some((topic, index)) = pick(&node, &mut self.random) else { return };
        let tokens: Vec<u64> = (0..=self.random.below(2)).map(|number| self.tokens + number).collect();
        self.tokens += 2;
        let bytes = clients::batch(node.topics.env().clock.now_ms(), &tokens, None);
        let parts = vec![Part { topic: topic.id, index, tokens, stream: None, bytes }];
        let acks = if self.random.one_in(4) { 1 } else { -1 };
        let request = clients::produce(acks, &parts);
        let reply = dispatch::call(&node, &context(13), request.into());
        self.issued.push((topic, Asked::Produce { acks, parts, losses: self.losses }, reply));
        if self.random.one_in(2) {
            node.topics.env().flush.commit_beside();
        }
    }
}

impl Drop for World {
    /// The disk calls back who has the node, and the node has the disk.
    fn drop(&mut self) {
        self.interrupts.lock().node = None;
        let _ = self.disk.process_kill();
        if let Some(life) = self.life.take() {
            let _entered = self.runtime.enter();
            life.bury();
        }
    }
}

impl Life {
    /// Lets go of all that a process had when it ended. Its disk refuses everything by now.
    fn bury(self) {
        self.coordinator.abort();
        // These have the node, or a partition, that has them.
        self.jobs.lock().clear();
        self.node.topics.env().flush.forget_all();
    }
}

impl World {
    pub(super) fn new(seed: u64, without: Option<Safeguard>) -> Self {
        let interrupts = Interrupts {
            node: None,
            random: Random(seed),
            left: 0,
            losses: 0,
            tokens: 1 << 32,
            issued: Vec::new(),
        };
        Self {
            seed,
            disk: SimulatedDisk::new(seed),
            without,
            spoiled: None,
            clock: Clock::manual(START_MS),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap(),
            model: Model::default(),
            streams: Vec::new(),
            producer_ids: Vec::new(),
            members: BTreeMap::new(),
            life: None,
            faulty: false,
            armed: false,
            interrupts: Arc::new(Mutex::new(interrupts)),
            trace: None,
        }
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    /// Carries out the steps of these numbers, and holds what is left against the model. What a step does depends on
    /// the seed, its number, and what it finds.
    pub(super) fn run(&mut self, steps: &[u64]) -> Result<(), Wrong> {
        self.start(&mut Random::of(self.seed, u64::MAX))?;
        for number in steps {
            self.note(|| format!("step {number}"));
            self.step(&mut Random::of(self.seed, *number))
                .map_err(|wrong| format!("step {number}: {wrong}"))?;
        }
        let mut random = Random::of(self.seed, u64::MAX - 1);
        let end = [End::Kill, End::PowerCut, End::Stop][random.below(3) as usize];
        self.end(end, &mut random)
            .and_then(|()| self.start(&mut random))
            .map_err(|wrong| format!("end: {wrong}"))
    }

    pub(super) fn open(&self) -> Result<(Assembly, Waiting), String> {
        let mut config = BrokerConfig::new("/data");
        for (name, value) in [("offsets.topic.segment.bytes", "2048"), ("log.index.interval.bytes", "200")] {
            config.set(name, value).unwrap();
        }
        let queue = Arc::new(Mutex::new(Vec::new()));
        let jobs = {
            let queue = queue.clone();
            Jobs::new(move |job| queue.lock().push(job))
        };
        let opened = Assembly::open(&config, Arc::new(self.disk.clone()), self.clock.clone(), jobs, JOURNAL);
        opened.map(|assembly| (assembly, queue)).map_err(|error| error.to_string())
    }

    /// Starts a broker, which is refused only if the disk is at fault, and shows everything else.
    pub(super) fn start(&mut self, random: &mut Random) -> Result<(), Wrong> {
        self.disk.set_ignore_syncs(self.without == Some(Safeguard::Syncs));
        self.disk.set_capacity(self.room());
        if self.without == Some(Safeguard::SyncsOfDirectories) {
            self.disk.set_ignore_dir_syncs(true);
        }
        let is_faulty = random.one_in(5);
        if is_faulty {
            let after = random.below(40) as u32;
            match random.below(9) {
                0 => self.inject(Operation::Open, after, 1000),
                1 => self.inject(Operation::Create, after, 1000),
                2 => self.inject(Operation::Read, after, 1000),
                3 => self.inject(Operation::SyncDir, after, 1000),
                4 => self.inject(Operation::Rename, after / 8, 1000),
                5 => self.inject(Operation::SyncData, after / 4, 1000),
                6 => self.inject(Operation::Write, after / 4, 1000),
                7 => self.disk.set_read_only(true),
                // No descriptors are left.
                _ => [Operation::Open, Operation::Create].iter().for_each(|op| self.inject(*op, after, 1000)),
            }
        }
        let mut opened = self.open();
        self.disk.clear_faults();
        self.disk.set_read_only(false);
        if let (true, Err(refused)) = (is_faulty, &opened) {
            self.note(|| format!("refused: {refused}"));
            opened = self.open();
        }
        self.live(opened.map_err(|error| format!("the start is refused: {error}"))?);
        self.check_all()?;
        self.model.all_found();
        Ok(())
    }

    /// Has what was opened be the present life.
    pub(super) fn live(&mut self, (assembly, jobs): (Assembly, Waiting)) {
        let Assembly { node, catalog, data_dir } = assembly;
        let coordinator = {
            let _entered = self.runtime.enter();
            self.runtime.spawn(node.groups.clone().run())
        };
        self.interrupts.lock().node = Some(node.clone());
        let interrupts = self.interrupts.clone();
        self.disk.on_sync(move || {
            if let Some(mut interrupts) = interrupts.try_lock() {
                interrupts.run();
            }
        });
        self.life = Some(Life { node, catalog, _data_dir: data_dir, jobs, pending: Vec::new(), coordinator });
        self.settle();
    }

    /// Bytes on the disk while it is not full.
    fn room(&self) -> Option<u64> {
        (!self.seed.is_multiple_of(8)).then_some(ROOM)
    }

    /// Lets the tasks of the runtime run; no time passes.
    pub(super) fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn end(&mut self, end: End, random: &mut Random) -> Result<(), Wrong> {
        self.drain_interrupts()?;
        let armed = self.armed;
        self.note(|| format!("{end:?}, power goes: {armed}"));
        let is_clean = matches!(end, End::Stop) && !self.armed && self.stop()?;
        let power_goes = self.armed || matches!(end, End::PowerCut) || (is_clean && random.one_in(3));
        let disk = if power_goes { self.disk.power_cut() } else { self.disk.process_kill() };
        if (power_goes || self.faulty) && !is_clean {
            self.model.lose_unsynced();
        }
        self.disk = disk;
        self.disk.set_capacity(self.room());
        self.disk.set_read_only(false);
        (self.faulty, self.armed) = (false, false);
        {
            // Nobody asks for anything while the next life begins and is held against the model.
            let mut interrupts = self.interrupts.lock();
            (interrupts.node, interrupts.left) = (None, 0);
        }
        self.model.settle_deletions();
        if let Some(life) = self.life.take() {
            let _entered = self.runtime.enter();
            life.bury();
        }
        self.settle();
        for stream in &mut self.streams {
            stream.unacknowledged.iter_mut().for_each(|(.., is_sent)| *is_sent = false);
        }
        self.members.clear();
        self.disk.clear_faults();
        Ok(())
    }

    /// Carries out all that waits, and takes in the answers.
    pub(super) fn finish(&mut self) -> Result<(), Wrong> {
        for _ in 0..3 {
            while self.life.as_ref().is_some_and(|life| life.catalog.step()) {}
            self.settle();
            self.job(&mut Random(0));
            self.node().topics.env().flush.run_due();
            self.answers(1, &mut Random(0))?;
        }
        Ok(())
    }

    /// A clean stop as the broker does it; whether it came to its end.
    pub(super) fn stop(&mut self) -> Result<bool, Wrong> {
        let node = self.node();
        node.groups.stop();
        self.settle();
        node.topics.end_changes();
        while self.life.as_ref().is_some_and(|life| life.catalog.step()) {}
        loop {
            let job = self.life.as_ref().and_then(|life| life.jobs.lock().pop());
            let Some(job) = job else { break };
            job();
        }
        let closed = node.topics.close();
        node.topics.env().flush.run_due();
        self.drain_interrupts()?;
        self.answers(1, &mut Random(0))?;
        Ok(closed.is_ok())
    }

    /// What a step does, as a number that [`World::step`] has the meaning of.
    fn choose(&self, random: &mut Random) -> u64 {
        let favourites = FAVOURITES[(self.seed % FAVOURITES.len() as u64) as usize];
        match random.one_in(2) {
            true if !favourites.is_empty() => favourites[random.below(favourites.len() as u64) as usize],
            _ => random.below(112),
        }
    }

    fn step(&mut self, random: &mut Random) -> Result<(), Wrong> {
        {
            let mut interrupts = self.interrupts.lock();
            interrupts.random = Random(random.next());
            interrupts.left = random.below(4);
            interrupts.losses = self.model.losses;
        }
        let node = self.node();
        let advance_ms = random.below(60) as i64;
        self.clock.advance(advance_ms);
        match self.choose(random) {
            0..8 => self.create(random)?,
            8..11 => self.delete(random)?,
            11..13 => self.add_partitions(random)?,
            13..15 => self.alter(random)?,
            15..30 => self.produce(random)?,
            30..40 => self.produce_idempotently(random)?,
            40..43 => self.delete_records(random)?,
            43..49 => self.fetch(random)?,
            49..51 => self.list_offsets(random)?,
            51..56 => self.commit(random)?,
            56..58 => self.member(random)?,
            58..60 => self.ask(
                4,
                FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() },
                Asked::Other,
            )?,
            60..68 => self.job(random),
            68..78 => {
                if let Some(life) = &self.life {
                    life.catalog.step();
                }
            }
            78..88 => drop(node.topics.env().flush.run_due()),
            88..92 => self.pass(random),
            92..94 => {
                background::maintain(&node);
                background::shorten(&node);
            }
            94..96 => background::checkpoint(&node),
            96..99 => self.break_disk(random),
            99..102 => self.mend_disk(),
            102 => self.clock.set_by(random.below(3_600_000) as i64 - 1_800_000),
            103..105 => {
                self.armed = true;
                self.disk.cut_power_after(1 + random.below(60));
            }
            105..107 => self.end_and_start(End::PowerCut, random)?,
            107..109 => self.end_and_start(End::Kill, random)?,
            109..111 => self.end_and_start(End::Stop, random)?,
            _ if !self.faulty && !self.armed => self.check_all()?,
            _ => {}
        }
        self.drain_interrupts()?;
        let share = 1 + random.below(3);
        self.answers(share, random)?;
        self.look()
    }

    pub(super) fn node(&self) -> Arc<Node> {
        self.life.as_ref().map(|life| life.node.clone()).unwrap()
    }

    fn end_and_start(&mut self, end: End, random: &mut Random) -> Result<(), Wrong> {
        self.end(end, random)?;
        if random.one_in(4) {
            self.flip_bit(random)?;
        }
        self.start(random)
    }

    pub(super) fn job(&mut self, random: &mut Random) {
        let Some(life) = &self.life else { return };
        let job = {
            let mut jobs = life.jobs.lock();
            if jobs.is_empty() {
                return;
            }
            let which = random.below(jobs.len() as u64) as usize;
            jobs.remove(which)
        };
        job();
    }

    pub(super) fn pass(&mut self, random: &mut Random) {
        let ms = if random.one_in(6) { 20_000 } else { 1 + random.below(2_000) };
        self.clock.advance(ms as i64);
        self.runtime.block_on(tokio::time::advance(Duration::from_millis(ms)));
        self.settle();
    }

    pub(super) fn break_disk(&mut self, random: &mut Random) {
        self.faulty = true;
        self.model.lose_unsynced();
        let which = random.below(16);
        self.note(|| format!("disk fault {which}"));
        let (operation, times) = match which {
            0 => (Operation::Open, 3),
            1 => (Operation::Create, 3),
            2 => (Operation::Rename, 3),
            3 => (Operation::SyncDir, 3),
            4 | 5 => (Operation::SyncData, 3),
            6 => (Operation::Write, 3),
            7 => return self.disk.set_read_only(true),
            8 => (Operation::SyncFileSystem, 2),
            9 => (Operation::Remove, 3),
            10 => (Operation::Read, 3),
            11 => (Operation::Len, 3),
            12 => (Operation::List, 3),
            // No descriptors are left.
            13 => {
                self.inject(Operation::Open, 0, 50);
                (Operation::Create, 50)
            }
            _ => return self.disk.set_capacity(Some(self.disk.used_bytes() + random.below(3000))),
        };
        let (after, times) = (random.below(4) as u32, 1 + random.below(times) as u32);
        self.inject(operation, after, times);
    }

    fn inject(&self, operation: Operation, after: u32, times: u32) {
        let error = io::ErrorKind::Other;
        self.disk.inject(Fault { operation, path_contains: String::new(), after, times, error });
    }

    pub(super) fn mend_disk(&mut self) {
        self.disk.clear_faults();
        self.disk.set_read_only(false);
        self.disk.set_capacity(self.room());
        self.model.lose_unsynced();
        self.faulty = false;
    }

    pub(super) fn ask(
        &mut self,
        version: i16,
        request: impl Into<Request>,
        asked: Asked,
    ) -> Result<(), Wrong> {
        let node = self.node();
        let reply = {
            let _entered = self.runtime.enter();
            dispatch::call(&node, &context(version), request.into())
        };
        self.replied(asked, reply)
    }

    pub(super) fn replied(&mut self, asked: Asked, reply: Reply) -> Result<(), Wrong> {
        match reply {
            Reply::Now(response) => self.answered(asked, Ok(response)),
            Reply::Later(reply) => {
                if let Some(life) = &mut self.life {
                    life.pending.push((asked, reply));
                }
                Ok(())
            }
            Reply::None => Ok(()),
        }
    }

    pub(super) fn drain_interrupts(&mut self) -> Result<(), Wrong> {
        let issued = std::mem::take(&mut self.interrupts.lock().issued);
        for (topic, asked, reply) in issued {
            self.adopt(&topic)?;
            if let Asked::Produce { parts, .. } = &asked {
                parts.iter().for_each(|part| self.model.sent_in_order(part.topic, part.index, &part.tokens));
            }
            self.replied(asked, reply)?;
        }
        Ok(())
    }

    /// Looks whether there are answers: to one in `share` requests.
    pub(super) fn answers(&mut self, share: u64, random: &mut Random) -> Result<(), Wrong> {
        self.settle();
        let Some(life) = &mut self.life else { return Ok(()) };
        let mut answered = Vec::new();
        {
            let _entered = self.runtime.enter();
            let mut cx = Context::from_waker(Waker::noop());
            for (asked, mut reply) in std::mem::take(&mut life.pending) {
                let looks = share == 1 || random.one_in(share);
                match looks.then(|| reply.as_mut().poll(&mut cx)) {
                    Some(Poll::Ready(answer)) => answered.push((asked, answer)),
                    _ => life.pending.push((asked, reply)),
                }
            }
        }
        answered.into_iter().try_for_each(|(asked, answer)| self.answered(asked, answer))
    }

    /// Takes in a topic that is shown.
    pub(super) fn adopt(&mut self, topic: &Topic) -> Result<(), Wrong> {
        self.model.exists(topic.id, &topic.name, kind_of(topic), topic.partitions().len() as i32)
    }
}
