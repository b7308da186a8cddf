//! Stores that tasks leave when they go, and what becomes of them with who takes them over.

use super::*;
use crate::task::{RestoreWish, TaskState};

const TASK: TaskId = TaskId { sub_topology: 0, partition: 0 };

/// A changelog from `begin` on, which ends at `end`.
fn changelog(begin: i64, end: i64) -> ChangelogRange {
    ChangelogRange { place: (CHANGELOG, 0), begin, end }
}

impl World {
    /// Takes over the task of partition 0, whose input is committed up to an offset; returns what is to be restored.
    fn adopt(
        &mut self,
        committed: i64,
        changelog: ChangelogRange,
        kept: Option<TaskState>,
    ) -> Vec<RestoreWish> {
        self.tell(Event::Assigned(vec![(INPUT, 0)]));
        let lookup = self.lookup();
        let position = Position { topic: INPUT, partition: 0, offset: committed };
        let start = Start { position, metadata: None, committed: committed > 0, pinned_end: None };
        let kept = kept.into_iter().map(|state| (TASK, state)).collect();
        let found = Found { starts: vec![start], changelogs: vec![changelog], kept };
        self.tell(Event::Found { lookup, found });
        let wishes = self.take().into_iter().find_map(|action| match action {
            Action::Restore { wishes, .. } => Some(wishes),
            _ => None,
        });
        wishes.unwrap_or_default()
    }

    /// Processes records and commits them; their rows end in the changelog at `end`.
    fn count(&mut self, first: i64, records: i64, end: i64) {
        self.fetch(0, first, records);
        self.pass(100);
        let (commit, rows, offsets) = self.commit().expect("a commit");
        assert_eq!((rows, offsets), (1, vec![first + records]));
        self.logged(commit, Outcome::Done, end);
    }

    fn logged(&mut self, commit: u64, outcome: Outcome, end: i64) {
        let logged = vec![Position { topic: CHANGELOG, partition: 0, offset: end }];
        self.tell(Event::CommitEnded { commit, outcome, logged });
    }

    /// The stores that the task leaves when it is revoked.
    fn revoke(&mut self) -> Option<TaskState> {
        self.tell(Event::Revoked(vec![(INPUT, 0)]));
        self.shelved()
    }

    fn shelved(&mut self) -> Option<TaskState> {
        self.take().into_iter().find_map(|action| match action {
            Action::Shelve { task: TASK, state } => Some(state),
            _ => None,
        })
    }

    /// Tells rows of the changelog, all of the one key, and that it has been read.
    fn restore(&mut self, first: i64, counts: &[i64]) {
        self.tell_rows(first, counts);
        self.tell(Event::RestoreEnded { life: self.life(0), store: 0 });
        self.work();
    }

    fn tell_rows(&mut self, first: i64, counts: &[i64]) {
        let mut batch = InputBatchBuilder::new(first);
        counts.iter().for_each(|count| batch.push(0, Some(b"k"), Some(&count.to_be_bytes()), Headers::NONE));
        self.tell(Event::Restored { life: self.life(0), store: 0, batch: batch.finish() });
        self.work();
    }

    /// How often the key was counted; `None` while that is being restored.
    fn counted(&self) -> Option<i64> {
        let task = self.instance.tasks.get(&TASK).filter(|task| !task.is_restoring())?;
        let stores = task.dump().unwrap();
        let [(_, rows)] = &stores[..] else { panic!("one store") };
        let counts = rows.iter().map(|row| i64::from_be_bytes(row.value[..].try_into().unwrap()));
        Some(counts.sum())
    }
}

/// A task that has counted ten records, with a row that ends in the changelog at 1, and has gone.
fn left() -> TaskState {
    let mut world = World::new();
    assert_eq!(world.adopt(0, changelog(0, 0), None), []);
    world.count(0, 10, 1);
    world.revoke().expect("its stores are left")
}

fn wish(from: i64, up_to: i64) -> RestoreWish {
    RestoreWish { store: 0, place: (CHANGELOG, 0), from, up_to }
}

#[test]
fn nothing_is_read_where_nobody_has_written_since() {
    let mut sibling = World::new();
    assert_eq!(sibling.adopt(10, changelog(0, 1), Some(left())), []);
    assert_eq!(sibling.counted(), Some(10));
    // It goes on from there, and leaves in turn.
    sibling.count(10, 5, 2);
    let state = sibling.revoke().unwrap();
    let mut next = World::new();
    assert_eq!(next.adopt(15, changelog(0, 2), Some(state)), []);
    assert_eq!(next.counted(), Some(15));
}

#[test]
fn what_somebody_else_has_written_since_is_read() {
    let mut sibling = World::new();
    assert_eq!(sibling.adopt(12, changelog(0, 3), Some(left())), [wish(1, 3)]);
    assert_eq!(sibling.counted(), None);
    sibling.restore(1, &[11, 12]);
    assert_eq!(sibling.counted(), Some(12));
}

#[test]
fn a_changelog_that_does_not_go_on_from_there_is_read_from_its_beginning_into_an_empty_store() {
    for (begin, end) in [(2, 3), (0, 0)] {
        let mut sibling = World::new();
        let wishes = sibling.adopt(10, changelog(begin, end), Some(left()));
        assert_eq!(wishes, if begin < end { vec![wish(begin, end)] } else { vec![] });
        if begin < end {
            sibling.restore(begin, &[]);
        }
        assert_eq!(sibling.counted(), Some(0), "from {begin} to {end}");
    }
}

#[test]
fn rows_of_others_between_its_own_are_read_again() {
    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.count(0, 10, 1);
    // Its row is at 4, so somebody has written from 1 on.
    world.count(10, 5, 5);
    let state = world.revoke();
    let mut sibling = World::new();
    assert_eq!(sibling.adopt(15, changelog(0, 5), state), [wish(1, 5)]);
    // What it had to read is in its store, which is at 5 again.
    sibling.restore(1, &[20, 20, 20, 15]);
    let state = sibling.revoke();
    assert_eq!(World::new().adopt(15, changelog(0, 5), state), []);
}

#[test]
fn rows_whose_offsets_were_refused_are_in_the_changelog_all_the_same() {
    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.fetch(0, 0, 10);
    world.pass(100);
    let (commit, ..) = world.commit().unwrap();
    world.logged(commit, Outcome::Refused, 1);
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    world.pass(100);
    assert!(world.shelved().is_none(), "it is not committed");
    world.heard = Some((world.now, 2));
    world.pass(100);
    let (commit, rows, offsets) = world.commit().unwrap();
    assert_eq!((rows, offsets), (0, vec![10]));
    world.ended(commit, Outcome::Done);
    let state = world.shelved();
    let mut sibling = World::new();
    assert_eq!(sibling.adopt(10, changelog(0, 1), state), []);
    assert_eq!(sibling.counted(), Some(10), "once");
}

#[test]
fn rows_of_which_nobody_knows_where_they_are_are_read_again() {
    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.fetch(0, 0, 10);
    world.pass(100);
    let (commit, ..) = world.commit().unwrap();
    world.ended(commit, Outcome::Done);
    let state = world.revoke();
    assert_eq!(World::new().adopt(10, changelog(0, 1), state), [wish(0, 1)]);
}

#[test]
fn a_close_leaves_stores_too() {
    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.count(0, 10, 1);
    world.tell(Event::Close);
    assert_eq!(closed(&world.actions), Some(0));
    let state = world.shelved();
    assert!(state.is_some() && world.instance.tasks().is_empty());
    assert_eq!(World::new().adopt(10, changelog(0, 1), state), []);
}

#[test]
fn nothing_is_left_of_tasks_that_are_lost_or_go_uncommitted() {
    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.count(0, 10, 1);
    world.tell(Event::Lost);
    assert!(world.shelved().is_none());

    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.fetch(0, 0, 10);
    world.work();
    world.tell(Event::Revoked(vec![(INPUT, 0)]));
    world.pass_in_silence(SESSION_MS);
    assert!(world.shelved().is_none(), "it could not commit");

    let mut world = World::new();
    world.adopt(0, changelog(0, 0), None);
    world.count(0, 10, 1);
    world.now += SESSION_MS;
    assert!(world.revoke().is_none(), "who knows how long it has been away");
}

#[test]
fn a_task_leaves_what_is_restored_of_it_so_far() {
    let mut world = World::new();
    assert_eq!(world.adopt(30, changelog(0, 3), None), [wish(0, 3)]);
    world.tell_rows(0, &[10, 20]);
    let state = world.revoke();
    let mut sibling = World::new();
    assert_eq!(sibling.adopt(30, changelog(0, 3), state), [wish(2, 3)]);
    sibling.restore(2, &[30]);
    assert_eq!(sibling.counted(), Some(30));
}

#[test]
fn a_table_that_is_read_from_a_topic_is_left_as_of_the_committed_offset() {
    let table = || {
        let b = Builder::new("tabled");
        b.table("in", (Utf8, I64)).to_stream().to("out", (Utf8, crate::codec::opt(I64)));
        World::of(b.build().unwrap(), None, 1 << 20)
    };
    let input = |end| ChangelogRange { place: (INPUT, 0), begin: 0, end };
    let left = || {
        let mut world = table();
        world.adopt(0, input(10), None);
        world.fetch(0, 0, 10);
        world.pass(100);
        let (commit, ..) = world.commit().unwrap();
        world.ended(commit, Outcome::Done);
        world.revoke()
    };
    let of_input = |from, up_to| RestoreWish { place: (INPUT, 0), ..wish(from, up_to) };
    assert_eq!(table().adopt(10, input(20), left()), []);
    assert_eq!(table().adopt(15, input(20), left()), [of_input(10, 15)], "somebody else has gone on");
    assert_eq!(table().adopt(5, input(20), left()), [of_input(0, 5)], "the group has been set back");
}
