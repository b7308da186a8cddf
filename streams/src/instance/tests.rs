//! One instance, told by hand what happens to it.

use super::*;
use crate::{
    Builder, Windows,
    codec::{I64, Utf8, opt},
    record::Headers,
    task::{ChangelogRange, CommittedOffset, InputBatchBuilder, Position, StampConfig, Start},
};
use std::time::Duration;

mod handover;

const SESSION_MS: i64 = 8000;
const INPUT: TopicId = TopicId(0);
const CHANGELOG: TopicId = TopicId(1);

/// Counts records by key; a commit each 100 ms.
struct World {
    instance: Instance,
    now: i64,
    /// When the group was last heard, and in which generation.
    heard: Option<(i64, i32)>,
    actions: Vec<Action>,
}

impl World {
    fn new() -> World {
        let b = Builder::new("counting");
        b.stream("in", (Utf8, I64)).group_by_key().count("counts");
        World::of(b.build().unwrap(), None, 1 << 20)
    }

    fn of(topology: Topology, skew_bound_ms: Option<i64>, ahead_bytes: u64) -> World {
        let task = TaskConfig {
            skew_bound_ms,
            idle_timeout_ms: 0,
            skip_undecodable: false,
            stamps: StampConfig { interval_ms: 5, ahead_bytes },
            buffer_records: 10,
            buffer_bytes: 1000,
        };
        let setup = Setup {
            plan: topology.plan(|_| Some(2)).unwrap(),
            globals: Globals::new(&topology),
            progress: Arc::new(ProgressTable::new(&topology)),
            topology,
            config: InstanceConfig { task, pacing: Pacing::Interval { ms: 100 }, purge_ms: None },
        };
        let instance = Instance::new(Arc::new(setup), Arc::new(Fence::new(SESSION_MS)));
        World { instance, now: 0, heard: Some((0, 1)), actions: Vec::new() }
    }

    fn tell(&mut self, event: Event) {
        let heard = self.heard;
        let group =
            heard.map(|(at, generation)| Sight { age_ms: self.now - at, generation: Some(generation) });
        self.instance.on(Moment { ms: self.now, group }, event, &mut self.actions).unwrap();
    }

    /// Passes time in small steps, in which the group is heard of and tasks may work.
    fn pass(&mut self, ms: i64) {
        for _ in 0..ms / 10 {
            self.now += 10;
            self.heard = self.heard.map(|(_, generation)| (self.now, generation));
            self.tell(Event::Tick);
            self.work();
        }
    }

    /// Passes time in which the group is silent.
    fn pass_in_silence(&mut self, ms: i64) {
        for _ in 0..ms / 10 {
            self.now += 10;
            self.tell(Event::Tick);
            self.work();
        }
    }

    fn work(&mut self) {
        while self.instance.has_work() {
            self.tell(Event::Work);
        }
        self.tell(Event::Rest);
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn assign(&mut self, partition: i32) -> Life {
        self.tell(Event::Assigned(vec![(INPUT, partition)]));
        let lookup = self.lookup();
        self.tell(found(lookup, partition));
        self.take();
        self.life(partition)
    }

    fn life(&self, partition: i32) -> Life {
        let mut lives = self.instance.tasks.values().map(Task::life);
        lives.find(|life| life.task.partition == partition).expect("it has the task")
    }

    fn lookup(&mut self) -> u64 {
        let lookup = self.take().into_iter().find_map(|action| match action {
            Action::LookUp { lookup, .. } => Some(lookup),
            _ => None,
        });
        lookup.expect("offsets are looked up")
    }

    fn fetch(&mut self, partition: i32, first: i64, records: i64) {
        let mut batch = InputBatchBuilder::new(first);
        (0..records).for_each(|at| batch.push(at, Some(b"k"), Some(&at.to_be_bytes()), Headers::NONE));
        self.tell(Event::Fetched { place: (INPUT, partition), batch: batch.finish() });
    }

    /// The commit that is wanted: its number, how many changed rows, and its offsets.
    fn commit(&mut self) -> Option<(u64, usize, Vec<i64>)> {
        self.take().into_iter().find_map(|action| match action {
            Action::Commit { commit, rows, offsets } => {
                let offsets =
                    offsets.iter().map(|CommittedOffset { position, .. }| position.offset).collect();
                Some((commit, rows.iter().map(|rows| rows.outputs.len()).sum(), offsets))
            }
            _ => None,
        })
    }

    /// The partitions whose readers' progress is asked for.
    fn asked(&mut self) -> Option<Vec<Place>> {
        let asked = |action: &Action| matches!(action, Action::AskReaders(_));
        let at = self.actions.iter().position(asked)?;
        match self.actions.remove(at) {
            Action::AskReaders(places) => Some(places),
            _ => None,
        }
    }

    fn ended(&mut self, commit: u64, outcome: Outcome) {
        self.tell(Event::CommitEnded { commit, outcome, logged: Vec::new() });
    }
}

fn found(lookup: u64, partition: i32) -> Event {
    let position = Position { topic: INPUT, partition, offset: 0 };
    let start = Start { position, metadata: None, committed: false, pinned_end: None };
    Event::Found { lookup, found: Found { starts: vec![start], ..Found::default() } }
}

/// The same of a task whose changelog has something to read.
fn found_with_changelog(lookup: u64, partition: i32, end: i64) -> Event {
    let Event::Found { found, .. } = found(lookup, partition) else { unreachable!() };
    let changelogs = vec![ChangelogRange { place: (CHANGELOG, partition), begin: 0, end }];
    Event::Found { lookup, found: Found { changelogs, ..found } }
}

fn settled(actions: &[Action]) -> Option<usize> {
    actions.iter().find_map(|action| match action {
        Action::Settled { uncommitted } => Some(*uncommitted),
        _ => None,
    })
}

fn closed(actions: &[Action]) -> Option<usize> {
    actions.iter().find_map(|action| match action {
        Action::Closed { uncommitted } => Some(*uncommitted),
        _ => None,
    })
}

#[test]
fn a_task_runs_once_its_changelog_is_read_and_nothing_else_waits_for_that() {
    let mut world = World::new();
    world.assign(0);
    world.tell(Event::Assigned(vec![(INPUT, 1)]));
    let lookup = world.lookup();
    world.tell(found_with_changelog(lookup, 1, 7));
    let actions = world.take();
    let restored = actions.iter().find_map(|action| match action {
        Action::Restore { life, wishes } => Some((*life, wishes.len())),
        _ => None,
    });
    let (life, 1) = restored.unwrap() else { panic!("one changelog is read") };
    assert_eq!(settled(&actions), Some(0), "the group does not wait for it either");
    world.fetch(0, 0, 5);
    world.fetch(1, 0, 5);
    world.pass(100);
    let (commit, _, offsets) = world.commit().unwrap();
    assert_eq!(offsets, [5], "the other task");
    world.ended(commit, Outcome::Done);
    world.tell(Event::RestoreEnded { life: Life { number: life.number + 1, ..life }, store: 0 });
    world.pass(200);
    assert_eq!(world.commit(), None, "that was the changelog of another life");
    world.tell(Event::RestoreEnded { life, store: 0 });
    world.pass(100);
    assert_eq!(world.commit().unwrap().2, [5]);
}

#[test]
fn nothing_is_committed_before_its_time_while_records_keep_coming() {
    let mut world = World::new();
    world.assign(0);
    let mut commits = 0;
    for first in 0..100 {
        world.fetch(0, first * 5, 5);
        world.pass(10);
        if let Some((commit, ..)) = world.commit() {
            world.ended(commit, Outcome::Done);
            commits += 1;
        }
    }
    assert!((8..=11).contains(&commits), "{commits} commits in a second, at an interval of 100 ms");
    world.pass(30);
    assert!(commits > 10 || world.commit().is_some(), "once nothing comes, there is no need to wait");
}

#[test]
fn a_refused_commit_is_made_again_in_the_next_generation_and_only_there() {
    let mut world = World::new();
    world.assign(0);
    world.fetch(0, 0, 5);
    world.pass(100);
    let (commit, rows, offsets) = world.commit().unwrap();
    assert_eq!((rows, offsets), (1, vec![5]));
    world.ended(commit, Outcome::Refused);
    world.fetch(0, 5, 2);
    world.pass(1000);
    assert_eq!(world.commit(), None, "nothing is processed or written in the generation that refused");
    world.heard = Some((world.now, 2));
    world.pass(100);
    let (_, rows, offsets) = world.commit().unwrap();
    assert_eq!((rows, offsets), (0, vec![5]), "the row is in the changelog already");
}

#[test]
fn a_revoked_task_goes_once_it_is_committed() {
    let mut world = World::new();
    world.assign(0);
    world.assign(1);
    world.fetch(0, 0, 5);
    world.pass(10);
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    world.fetch(0, 5, 5);
    world.fetch(1, 0, 3);
    world.pass(10);
    let actions = world.take();
    assert_eq!(settled(&actions), None);
    world.actions = actions;
    let (commit, _, offsets) = world.commit().unwrap();
    assert_eq!(offsets, [5], "what comes behind the revocation is left to the next owner");
    world.ended(commit, Outcome::Again);
    world.pass(10);
    assert_eq!(world.commit(), None);
    world.pass(20);
    let (again, _, offsets) = world.commit().unwrap();
    assert_eq!(offsets, [5, 3], "the task that stays goes on");
    world.ended(commit, Outcome::Done);
    assert_eq!(settled(&world.take()), None, "that was the first answer once more");
    world.ended(again, Outcome::Done);
    assert_eq!(settled(&world.take()), Some(0));
    assert_eq!(world.instance.tasks().len(), 1);
}

#[test]
fn who_hears_nothing_of_the_group_for_a_lease_writes_nothing_and_lets_go_in_the_end() {
    let mut world = World::new();
    world.assign(0);
    world.fetch(0, 0, 5);
    world.work();
    world.pass_in_silence(SESSION_MS);
    let written = world.take().into_iter().filter(|action| matches!(action, Action::Commit { .. })).count();
    assert_eq!(written, 1, "the one within the lease");
    world.fetch(0, 5, 5);
    world.tell(Event::Close);
    world.pass_in_silence(SESSION_MS);
    assert_eq!(closed(&world.take()), Some(1));

    let mut world = World::new();
    world.assign(0);
    world.fetch(0, 0, 5);
    world.work();
    world.now += SESSION_MS;
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    world.pass_in_silence(SESSION_MS);
    assert_eq!(settled(&world.take()), Some(1));
    assert!(world.instance.tasks().is_empty());
}

#[test]
fn what_is_handed_over_for_a_task_that_goes_uncommitted_is_never_written() {
    let mut world = World::new();
    world.assign(0);
    world.assign(1);
    world.fetch(0, 0, 5);
    world.fetch(1, 0, 5);
    world.pass(100);
    assert_eq!(world.commit().unwrap().2, [5, 5]);
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    world.pass_in_silence(SESSION_MS);
    let actions = world.take();
    assert_eq!(settled(&actions), None, "the task that stays begins again");
    assert!(actions.iter().any(|action| matches!(action, Action::Discard)));
    world.actions = actions;
    let lookup = world.lookup();
    world.tell(found(lookup, 1));
    assert_eq!(settled(&world.take()), Some(1));
    assert_eq!(world.instance.tasks().keys().map(|id| id.partition).collect::<Vec<_>>(), [1]);
}

#[test]
fn tasks_that_are_lost_are_forgotten_with_all_that_was_to_be_written() {
    let mut world = World::new();
    let before = world.assign(0);
    world.fetch(0, 0, 5);
    world.pass(100);
    let (commit, ..) = world.commit().unwrap();
    world.fetch(0, 5, 5);
    world.pass(10);
    world.tell(Event::Lost);
    let actions = world.take();
    assert!(actions.iter().any(|action| matches!(action, Action::Discard)));
    assert_eq!(settled(&actions), Some(0));
    let after = world.assign(0);
    assert_ne!(before, after);
    world.ended(commit, Outcome::Done);
    world.tell(Event::Restored { life: before, store: 0, batch: InputBatchBuilder::new(0).finish() });
    world.fetch(0, 0, 5);
    world.pass(100);
    assert_eq!(world.commit().unwrap().2, [5], "it begins where it is committed");
}

#[test]
fn a_close_ends_with_the_commit_of_all_and_processes_nothing_more() {
    let mut world = World::new();
    world.assign(0);
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    assert_eq!(settled(&world.take()), Some(0), "nothing to commit");
    world.assign(0);
    world.fetch(0, 0, 5);
    world.pass(10);
    world.fetch(0, 5, 5);
    world.tell(Event::Close);
    let actions = world.take();
    assert_eq!(closed(&actions), None);
    world.actions = actions;
    let (commit, _, offsets) = world.commit().unwrap();
    assert_eq!(offsets, [5]);
    world.ended(commit, Outcome::Done);
    assert_eq!(closed(&world.take()), Some(0));
}

#[test]
fn records_that_take_long_are_processed_one_by_one() {
    let mut world = World::new();
    world.assign(0);
    for first in 0..20 {
        world.fetch(0, first * 5, 5);
        world.tell(Event::Work);
        // Each took as long as this.
        world.now += 20;
    }
    let counters = world.instance.counters();
    assert!(counters.records_in <= 24, "{counters:?}");
    world.work();
    world.fetch(0, 100, 900);
    let works = (1..).take_while(|_| {
        world.tell(Event::Work);
        world.instance.has_work()
    });
    assert!(works.count() < 30);
    assert_eq!(world.instance.counters().records_in, 1000, "fast ones are not");
}

#[test]
fn a_task_waits_for_those_who_read_what_it_writes_wherever_they_are() {
    let b = Builder::new("gathering");
    let windows = crate::Windows::tumbling(std::time::Duration::from_secs(1));
    b.stream("in", (Utf8, I64))
        .group_by("by", (I64, I64), |_, id| id % 2)
        .windowed_by(windows)
        .count("counts");
    let mut world = World::of(b.build().unwrap(), Some(1000), 2000);
    world.assign(0);
    world.fetch(0, 0, 1000);
    world.work();
    let first = world.instance.counters().records_in;
    assert!((5..80).contains(&first), "{first} records");
    world.pass(50);
    let places = world.asked().expect("it is asked how far they have come");
    let told = |offset: i64| {
        let consumed =
            |place: &Place| Consumed { place: *place, end: 100, committed: Some((offset, String::new())) };
        Event::Consumed(places.iter().map(consumed).collect())
    };
    world.tell(told(100));
    assert!(!world.instance.has_work(), "it is not known yet that all of that was in the log by then");
    world.pass(10);
    let (commit, ..) = world.commit().expect("it is committed, so that it is known");
    world.ended(commit, Outcome::Done);
    // Whatever was asked meanwhile.
    world.tell(told(0));
    world.pass(30);
    assert!(world.asked().is_some());
    world.tell(told(99));
    assert!(!world.instance.has_work());
    world.pass(30);
    assert!(world.asked().is_some());
    world.tell(told(100));
    world.work();
    let second = world.instance.counters().records_in;
    assert!(second > first && second < 2 * first + 10, "{second} records");
}

#[test]
fn an_input_is_paused_while_enough_of_it_is_buffered() {
    let mut world = World::new();
    world.assign(0);
    world.fetch(0, 0, 9);
    assert!(!world.instance.is_paused((INPUT, 0)));
    world.fetch(0, 9, 100);
    assert!(world.take().iter().any(|action| matches!(action, Action::Pause((INPUT, 0)))));
    world.work();
    assert!(world.take().iter().any(|action| matches!(action, Action::Resume((INPUT, 0)))));
    assert!(!world.instance.is_paused((INPUT, 0)));
    let mut batch = InputBatchBuilder::new(109);
    batch.push(0, Some(&[b'k'; 1000]), Some(&[0; 8]), Headers::NONE);
    world.tell(Event::Fetched { place: (INPUT, 0), batch: batch.finish() });
    assert!(world.instance.is_paused((INPUT, 0)), "few records, many bytes");
    world.work();
    assert!(!world.instance.is_paused((INPUT, 0)));
}

/// Counts by windows of 10 ms that are kept for 50, and tells each count.
fn windowed() -> World {
    let ms = Duration::from_millis;
    let b = Builder::new("windowed");
    let windows = Windows::tumbling(ms(10)).grace(ms(40)).retention(ms(50));
    b.stream("in", (Utf8, I64))
        .group_by_key()
        .windowed_by(windows)
        .count("counts")
        .to_stream()
        .to("out", (crate::codec::windowed(Utf8, ms(10)), opt(I64)));
    World::of(b.build().unwrap(), None, 1 << 20)
}

impl World {
    fn fetch_times(&mut self, first: i64, times: &[i64]) {
        let mut batch = InputBatchBuilder::new(first);
        times.iter().for_each(|time| batch.push(*time, Some(b"k"), Some(&[0; 8]), Headers::NONE));
        self.tell(Event::Fetched { place: (INPUT, 0), batch: batch.finish() });
    }
}

/// A kill between the rows of a commit and its offsets, in a replay in which a window expires meanwhile: its records come
/// again, and its rows have gone.
#[test]
fn a_window_that_expired_before_a_kill_is_not_counted_anew() {
    let mut world = windowed();
    world.assign(0);
    // Five records of the first window are committed.
    world.fetch_times(0, &[0, 1, 2, 3, 4]);
    world.pass(100);
    let commit = |world: &mut World| {
        let commit = world.take().into_iter().find_map(|action| match action {
            Action::Commit { commit, rows, offsets } => {
                let rows: Vec<_> =
                    rows.into_iter().flat_map(|appended| appended.outputs.into_records()).collect();
                Some((commit, rows, offsets))
            }
            _ => None,
        });
        commit.expect("a commit")
    };
    let (number, mut changelog, offsets) = commit(&mut world);
    world.ended(number, Outcome::Done);
    // One more of it, and one so late that the window goes. Rows are written, offsets are not: it is killed.
    world.fetch_times(5, &[5, 200]);
    world.pass(100);
    changelog.extend(commit(&mut world).1);

    let mut next = windowed();
    next.tell(Event::Assigned(vec![(INPUT, 0)]));
    let lookup = next.lookup();
    let CommittedOffset { position, metadata, .. } = offsets.into_iter().next().unwrap();
    assert_eq!(position.offset, 5);
    let start = Start { position, metadata: Some(metadata), committed: true, pinned_end: None };
    let end = changelog.len() as i64;
    let changelogs = vec![ChangelogRange { place: (CHANGELOG, 0), begin: 0, end }];
    next.tell(Event::Found { lookup, found: Found { starts: vec![start], changelogs, kept: Vec::new() } });
    let mut batch = InputBatchBuilder::new(0);
    for row in &changelog {
        assert_eq!(row.topic, CHANGELOG);
        batch.push(row.timestamp, row.key.as_deref(), row.value.as_deref(), Headers::NONE);
    }
    let life = next.life(0);
    next.tell(Event::Restored { life, store: 0, batch: batch.finish() });
    next.tell(Event::RestoreEnded { life, store: 0 });
    next.take();
    next.fetch_times(5, &[5, 200]);
    next.pass(100);
    let told = next.take().into_iter().flat_map(|action| match action {
        Action::Append(Appended { outputs, .. }) => outputs.into_records().collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    // The sink has the count of the sixth: rows are written behind results.
    let of_first = |key: &Option<bytes::Bytes>| key.as_ref().is_some_and(|key| key[1..9] == [0; 8]);
    let told: Vec<_> = told.filter(|record| of_first(&record.key)).map(|record| record.value).collect();
    assert!(told.is_empty(), "a window that has gone is not counted anew: {told:?}");
}

#[test]
fn what_was_deleted_is_passed_and_what_lies_beyond_the_end_stops_the_application() {
    let mut world = World::new();
    let life = world.assign(0);
    let place = (INPUT, 0);
    let mut told = |life, offset, bounds| {
        world.tell(Event::OutOfRange { life, place, offset, bounds });
        world.take()
    };
    let at = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Fetch(position)] => Some(position.offset),
        _ => None,
    };
    assert_eq!(at(told(life, 3, 10..20)), Some(10));
    assert_eq!(at(told(life, 20, 10..20)), Some(20), "they have come meanwhile, or are about to");
    let beyond = told(life, 21, 10..20);
    assert!(matches!(beyond.as_slice(), [Action::BeyondEnd { offset: 21, end: 20, .. }]), "{beyond:?}");
    let earlier = Life { number: life.number + 1, ..life };
    assert!(told(earlier, 3, 10..20).is_empty(), "it is somebody else's position");
}

/// A function that takes 20 ms per record, and another task of the same worker.
#[test]
fn a_slow_task_holds_up_no_other_for_long() {
    let mut world = World::new();
    world.assign(0);
    world.assign(1);
    for partition in 0..2 {
        world.fetch(partition, 0, 1000);
    }
    let taken = |world: &World| {
        let tasks = world.instance.tasks.values();
        tasks.map(|task| task.counters().records_in).collect::<Vec<_>>()
    };
    let began = world.now;
    while taken(&world).contains(&0) {
        world.tell(Event::Work);
        world.now += 20;
        world.heard = Some((world.now, 1));
    }
    let waited = world.now - began;
    assert!(waited < 1000, "the second task has waited for {waited} ms: {:?}", taken(&world));
}
