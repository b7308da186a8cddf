//! Who has which task, as the group's leader tells every member, so that a question can be sent where its answer is.
//!
//! Two formats, both behind the topology's fingerprint in the user data of the group's own messages. What a member says:
//! a version (1) and its address. What it is told: whether another round follows (0 or 1), a version (1), the members (id
//! and address) and, by sub-topology and partition, the number of the member that has the task. Numbers are big endian,
//! text is its length (4 bytes) and UTF-8, a list is its length (4 bytes) and its items, a member's number has 2 bytes.
//! Versions grow at the end: who reads one takes what it knows and leaves the rest. What is missing or damaged is not known,
//! and never more than that.

use crate::task::TaskId;
use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const VERSION: u8 = 1;
/// The number of a member in place of which there is none.
const NOBODY: u16 = u16::MAX;

/// Where an instance can be asked; none if it did not say so.
pub(super) type Address = Option<Arc<str>>;

/// A member of the group, of which an instance has one per worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) address: Address,
}

/// Who has which task once what the group gives is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    members: Vec<Member>,
    /// By sub-topology and partition.
    tasks: Vec<Vec<u16>>,
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // No text of a message is as long as 4 GiB.
    out.put_u32(u32::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

fn take_text(data: &mut Bytes) -> Option<String> {
    let length = usize::try_from(data.try_get_u32().ok()?).ok().filter(|length| *length <= data.len())?;
    String::from_utf8(data.split_to(length).to_vec()).ok()
}

/// An address that can be shown.
fn address(text: &str) -> Address {
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.into())
}

/// What a member says of itself.
pub(super) fn say(fingerprint: u32, address: &Address) -> Bytes {
    let mut out = fingerprint.to_be_bytes().to_vec();
    // Without an address there is nothing to say that every version does not say.
    if let Some(address) = address {
        out.put_u8(VERSION);
        put_text(address, &mut out);
    }
    out.into()
}

/// The fingerprint and the address of a member.
pub(super) fn said(mut data: Bytes) -> Option<(u32, Address)> {
    let fingerprint = data.try_get_u32().ok()?;
    let version = data.try_get_u8().ok().filter(|version| *version >= VERSION);
    let text = version.and_then(|_| take_text(&mut data));
    Some((fingerprint, text.and_then(|text| address(&text))))
}

/// What the leader tells members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Of the group's topology.
    pub(super) fingerprint: u32,
    /// Whether tasks are on their way from one member to another, so that another round follows.
    pub(super) more_to_come: bool,
    pub(super) layout: Option<Layout>,
}

impl Told {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = self.fingerprint.to_be_bytes().to_vec();
        if let Some(layout) = &self.layout {
            out.put_slice(&[u8::from(self.more_to_come), VERSION]);
            layout.encode(&mut out);
        }
        out.into()
    }

    /// Reads what a leader of any version tells.
    pub(super) fn decode(mut data: Bytes) -> Option<Told> {
        let fingerprint = data.try_get_u32().ok()?;
        let more_to_come = data.try_get_u8().is_ok_and(|more| more != 0);
        let version = data.try_get_u8().ok().filter(|version| *version >= VERSION);
        let layout = version.and_then(|_| Layout::decode(&mut data));
        Some(Told { fingerprint, more_to_come, layout })
    }
}

impl Layout {
    /// The tasks of members; others are nobody's for now.
    pub(super) fn new<'a>(
        members: Vec<Member>,
        tasks: impl Iterator<Item = &'a TaskId>,
        of: &BTreeMap<TaskId, &str>,
    ) -> Layout {
        let number = |task| {
            let id = of.get(task)?;
            let at = members.iter().position(|member| &*member.id == *id)?;
            u16::try_from(at).ok().filter(|at| *at != NOBODY)
        };
        let mut by_part: Vec<Vec<u16>> = Vec::new();
        // In the order of tasks: sub-topologies, and partitions from 0 on in each.
        for task in tasks {
            by_part.resize(by_part.len().max(task.sub_topology + 1), Vec::new());
            if let Some(part) = by_part.get_mut(task.sub_topology) {
                part.push(number(task).unwrap_or(NOBODY));
            }
        }
        Layout { members, tasks: by_part }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let count = |count: usize| u32::try_from(count).unwrap_or(0);
        out.put_u32(count(self.members.len()));
        for member in &self.members {
            put_text(&member.id, out);
            put_text(member.address.as_deref().unwrap_or(""), out);
        }
        out.put_u32(count(self.tasks.len()));
        for part in &self.tasks {
            out.put_u32(count(part.len()));
            part.iter().for_each(|member| out.put_u16(*member));
        }
    }

    fn decode(data: &mut Bytes) -> Option<Layout> {
        // Lists grow as their items are read: no length is believed before.
        let (mut members, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..data.try_get_u32().ok()? {
            let (id, told) = (take_text(data)?, take_text(data)?);
            members.push(Member { id: id.into(), address: address(&told) });
        }
        for _ in 0..data.try_get_u32().ok()? {
            let mut part = Vec::new();
            for _ in 0..data.try_get_u32().ok()? {
                part.push(data.try_get_u16().ok()?);
            }
            tasks.push(part);
        }
        Some(Layout { members, tasks })
    }

    /// Who has a task.
    pub(super) fn owner(&self, task: TaskId) -> Option<&Member> {
        let number = self.tasks.get(task.sub_topology)?.get(usize::try_from(task.partition).ok()?)?;
        self.members.get(usize::from(*number))
    }
}

/// Who has a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// A worker of this instance, or it is about to.
    Here,
    /// A member of another instance.
    Elsewhere(Member),
    /// Nobody for now, or this instance has not heard.
    Unsettled,
}

/// What a worker was last given.
#[derive(Debug)]
struct Given {
    generation: i32,
    tasks: BTreeSet<TaskId>,
    layout: Option<Layout>,
}

#[derive(Debug, Default)]
struct Workers {
    /// What each was given; `None` if it has not heard yet.
    given: BTreeMap<usize, Option<Given>>,
    /// The newest generation in which a worker that has ended may have had tasks.
    ended: Option<i32>,
}

/// Who has which task, as the workers of this instance last heard.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<Workers>);

impl Owners {
    /// A worker has begun.
    pub(super) fn begun(&self, worker: usize) {
        self.0.lock().given.insert(worker, None);
    }

    /// A worker has ended, and has nothing any more, whatever the others have heard up to now.
    pub(super) fn ended(&self, worker: usize) {
        let mut workers = self.0.lock();
        let last = workers.given.remove(&worker).flatten().map(|given| given.generation);
        workers.ended = workers.ended.max(last);
    }

    /// Notes what a worker was given.
    pub(super) fn given(
        &self,
        worker: usize,
        generation: i32,
        (tasks, layout): (BTreeSet<TaskId>, Option<Layout>),
    ) {
        if let Some(given) = self.0.lock().given.get_mut(&worker) {
            *given = Some(Given { generation, tasks, layout });
        }
    }

    /// Who has a task. While workers have heard of different generations, only what is here is known.
    pub(super) fn holder(&self, task: TaskId) -> Holder {
        let Workers { given: workers, ended } = &*self.0.lock();
        if workers.values().flatten().any(|given| given.tasks.contains(&task)) {
            return Holder::Here;
        }
        let newest = workers.values().flatten().map(|given| given.generation).max();
        let is_newest =
            |given: &Option<Given>| given.as_ref().is_some_and(|given| Some(given.generation) == newest);
        let is_known = newest > *ended && workers.values().all(is_newest);
        let layout = workers.values().flatten().find_map(|given| given.layout.as_ref());
        let owner = layout.filter(|_| is_known).and_then(|layout| layout.owner(task));
        owner.map_or(Holder::Unsettled, |member| Holder::Elsewhere(member.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(partition: i32) -> TaskId {
        TaskId { sub_topology: 1, partition }
    }

    fn layout() -> Layout {
        let member = |id: &str, at: Option<&str>| Member { id: id.into(), address: at.map(Arc::from) };
        let members = vec![member("a", Some("10.0.0.2:7000")), member("b", None)];
        let all = [TaskId { sub_topology: 0, partition: 0 }, task(0), task(1), task(2)];
        let of = BTreeMap::from([(all[0], "a"), (all[1], "b"), (all[3], "a")]);
        Layout::new(members, all.iter(), &of)
    }

    #[test]
    fn what_is_said_and_told_is_read_as_it_was_and_by_every_version() {
        let here: Address = Some("10.0.0.2:7000".into());
        assert_eq!(said(say(7, &here)), Some((7, here)));
        assert_eq!(said(say(7, &None)), Some((7, None)));
        // Versions before addresses said and told the fingerprint, and that more was to come.
        assert_eq!(say(7, &None), Bytes::from_static(&[0, 0, 0, 7]));
        let told = |data: &'static [u8]| Told::decode(Bytes::from_static(data));
        let older = |more_to_come| Some(Told { fingerprint: 7, more_to_come, layout: None });
        assert_eq!((told(&[0, 0, 0, 7]), told(&[0, 0, 0, 7, 1])), (older(false), older(true)));
        let newest = Told { fingerprint: 7, more_to_come: true, layout: Some(layout()) };
        let mut bytes = newest.encode().to_vec();
        assert_eq!(Told::decode(bytes.clone().into()), Some(newest.clone()));
        // A later version has more behind it.
        bytes[5] = 9;
        bytes.extend([1, 2, 3]);
        assert_eq!(Told::decode(bytes.into()), Some(newest));
        let mut bytes = say(7, &Some("a:1".into())).to_vec();
        bytes[4] = 9;
        bytes.push(1);
        assert_eq!(said(bytes.into()), Some((7, Some("a:1".into()))));
        let escape = say(7, &Some("\u{1b}[2Jhost:1".into()));
        assert_eq!(said(escape), Some((7, None)), "an address is shown to people");
    }

    #[test]
    fn who_has_a_task_is_told_only_when_all_workers_have_heard_of_the_same() {
        let owners = Owners::default();
        [0, 1].into_iter().for_each(|worker| owners.begun(worker));
        let holders = || [0, 1, 2, 9].map(|partition| owners.holder(task(partition)));
        assert_eq!(holders(), [const { Holder::Unsettled }; 4]);
        owners.given(0, 3, (BTreeSet::from([task(2)]), Some(layout())));
        let [first, .., last] = &holders()[..] else { panic!("four") };
        assert_eq!((first, last), (&Holder::Unsettled, &Holder::Unsettled));
        assert_eq!(holders()[2], Holder::Here, "what is here is known at once");
        owners.given(1, 3, (BTreeSet::new(), Some(layout())));
        let b = Member { id: "b".into(), address: None };
        let settled = [Holder::Elsewhere(b), Holder::Unsettled, Holder::Here, Holder::Unsettled];
        assert_eq!(holders(), settled);
        owners.given(1, 4, (BTreeSet::from([task(0)]), Some(layout())));
        assert_eq!(holders()[0], Holder::Here);
        assert_eq!(holders()[1], Holder::Unsettled);
        owners.ended(0);
        let a = Member { id: "a".into(), address: Some("10.0.0.2:7000".into()) };
        assert_eq!(holders()[2], Holder::Elsewhere(a), "what an ended worker had is not here");
        owners.begun(2);
        owners.given(2, 4, (BTreeSet::new(), Some(layout())));
        owners.ended(2);
        assert_eq!(
            holders()[2],
            Holder::Unsettled,
            "it may have had it in the generation that the other knows"
        );
        owners.begun(2);
        assert_eq!(holders()[2], Holder::Unsettled, "it has not heard");
    }

    proptest! {
        #[test]
        fn damaged_user_data_is_unknown_and_nothing_worse(
            random in prop::collection::vec(any::<u8>(), 0..64),
            cut in 0usize..200,
            flip in (0usize..200, any::<u8>()),
        ) {
            let told = Told { fingerprint: 7, more_to_come: false, layout: Some(layout()) };
            for whole in [told.encode(), say(7, &Some("10.0.0.2:7000".into())), Bytes::from(random)] {
                let mut damaged = whole.to_vec();
                if let Some(byte) = damaged.get_mut(flip.0) {
                    *byte ^= flip.1;
                }
                damaged.truncate(cut);
                let damaged = Bytes::from(damaged);
                let _ = said(damaged.clone());
                if let Some(Told { layout: Some(layout), .. }) = Told::decode(damaged) {
                    for partition in [i32::MIN, -1, 0, 1, i32::MAX] {
                        layout.owner(task(partition));
                    }
                }
            }
        }
    }
}
