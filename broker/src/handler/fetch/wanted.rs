//! The partitions that a fetch wants: where each is read from, what its client was told of it, and which may have news.
//!
//! A partition is *queued* if it has to be looked at, and *idle* otherwise: then it has a waiter that queues it when
//! records become visible. Invariant: every partition is queued or idle, and an idle one has nothing to tell but what
//! [`Wanted::sweep`] finds. It keeps no partition alive: what is deleted while nobody fetches is gone. It knows neither sessions nor when an answer is due.

use super::ready::ReadyList;
use crate::handler::{Node, Refusal};
use crate::partition::{Partition, VisiblePast};
use crate::topic::Topic;
use kappa_protocol::messages::FetchRequest;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kappa_protocol::messages::fetch_response::EpochEndOffset;
use kappa_protocol::{Context, ErrorCode, Operation, Resource};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use uuid::Uuid;

/// Memory that a partition takes here and, while it is idle, as a waiter; the name of its topic comes to it. Its place is
/// in a list of which an eighth may be free; the rest is its number by name, two numbers in lists, its waker, and a node
/// of the partition's tree of waiters.
pub(super) const PARTITION_BYTES: usize = size_of::<Option<Item>>() * 9 / 8 + 512;
/// A topic beside its name.
const TOPIC_BYTES: usize = 64;
/// Bytes from which on it is looked at what is named again.
const MUCH_BYTES: usize = 256 * 1024;

/// Memory that what a request names takes until it is answered.
pub(crate) fn named_bytes(request: &FetchRequest) -> usize {
    let of_topic = |topic: &FetchTopic| TOPIC_BYTES + topic.topic.len();
    let topics: usize = request.topics.iter().map(of_topic).sum();
    let named: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    if named * PARTITION_BYTES < MUCH_BYTES {
        return topics + named * PARTITION_BYTES;
    }
    let indexes = |topic: &FetchTopic| -> Vec<i32> {
        topic.partitions.iter().map(|partition| partition.partition).collect()
    };
    let mut once: HashMap<(&str, Uuid), Vec<i32>> = HashMap::new();
    for topic in &request.topics {
        once.entry((&topic.topic, topic.topic_id)).or_default().extend(indexes(topic));
    }
    let count = |mut indexes: Vec<i32>| {
        indexes.sort_unstable();
        indexes.dedup();
        indexes.len()
    };
    topics + once.into_values().map(count).sum::<usize>() * PARTITION_BYTES
}

/// A topic as a client names it: by name, or from version 13 on by id.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TopicKey {
    pub(super) name: String,
    pub(super) id: Uuid,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) topic: Arc<TopicKey>,
    pub(super) index: i32,
    pub(super) offset: i64,
    pub(super) bytes_max: usize,
    leader_epoch: i32,
    last_fetched_epoch: i32,
    partition: Result<Weak<Partition>, ErrorCode>,
    /// High watermark and log start that the client knows.
    pub(super) told: Option<(i64, i64)>,
    /// Bytes that could be read when it was last looked at while the fetch waited.
    readable: usize,
    queued: bool,
    waiter: Option<VisiblePast>,
    waker: Option<Waker>,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    items: Vec<Option<Item>>,
    free: Vec<u32>,
    /// Bytes of their topics' names.
    names: usize,
    /// Numbers by what clients name, where that is asked for.
    numbers: Option<HashMap<(Arc<TopicKey>, i32), u32>>,
    queue: VecDeque<u32>,
    list: Arc<ReadyList>,
    woken: Vec<u32>,
    /// Sum of what is readable, while a fetch waits.
    readable: usize,
}

impl Wanted {
    /// What a request names, all of it queued; what is named again is taken once, as it is named last, where it was named
    /// first. With `by_name` it can be changed by name later.
    pub(super) fn new(node: &Node, cx: &Context, topics: Vec<FetchTopic>, by_name: bool) -> Self {
        let named: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
        let mut wanted = Self { numbers: (by_name || named > 1).then(HashMap::new), ..Self::default() };
        wanted.update(node, cx, topics);
        if !by_name {
            wanted.numbers = None;
        }
        wanted
    }

    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.items.len() * PARTITION_BYTES + self.names
    }

    /// How many are queued, those that were taken from it meanwhile included.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Those that are queued, in order.
    pub(super) fn queued_items(&self) -> impl Iterator<Item = &Item> {
        self.queue.iter().filter_map(|number| self.item(*number))
    }

    pub(super) fn item(&self, number: u32) -> Option<&Item> {
        self.items.get(number as usize)?.as_ref()
    }

    fn item_mut(&mut self, number: u32) -> Option<&mut Item> {
        self.items.get_mut(number as usize)?.as_mut()
    }

    /// Adds partitions, or changes from where they are wanted.
    pub(super) fn update(&mut self, node: &Node, cx: &Context, topics: Vec<FetchTopic>) {
        for FetchTopic { topic, topic_id, partitions, .. } in topics {
            let topic = Arc::new(TopicKey { name: topic, id: topic_id });
            let found = find(node, cx, &topic);
            for wanted in partitions {
                let known = self
                    .numbers
                    .as_ref()
                    .and_then(|numbers| numbers.get(&(topic.clone(), wanted.partition)).copied());
                match known {
                    Some(number) => self.change(number, &wanted),
                    None => self.add(&topic, &found, &wanted),
                }
            }
        }
    }

    fn change(&mut self, number: u32, wanted: &FetchPartition) {
        if let Some(item) = self.item_mut(number) {
            item.offset = wanted.fetch_offset;
            item.bytes_max = usize::try_from(wanted.partition_max_bytes).unwrap_or(0);
            (item.leader_epoch, item.last_fetched_epoch) =
                (wanted.current_leader_epoch, wanted.last_fetched_epoch);
        }
        self.enqueue(number);
    }

    fn add(&mut self, topic: &Arc<TopicKey>, found: &Result<Arc<Topic>, ErrorCode>, wanted: &FetchPartition) {
        let item = Item {
            topic: topic.clone(),
            index: wanted.partition,
            offset: wanted.fetch_offset,
            bytes_max: usize::try_from(wanted.partition_max_bytes).unwrap_or(0),
            leader_epoch: wanted.current_leader_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
            partition: partition_of(found, wanted.partition),
            told: None,
            readable: 0,
            queued: false,
            waiter: None,
            waker: None,
        };
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.items.get_mut(number as usize) {
                    *place = Some(item);
                }
                number
            }
            None => {
                if self.items.len() == self.items.capacity() {
                    self.items.reserve_exact(self.items.len() / 8 + 1);
                }
                self.items.push(Some(item));
                u32::try_from(self.items.len() - 1).expect("a frame names fewer partitions")
            }
        };
        self.names += topic.name.len();
        if let Some(numbers) = &mut self.numbers {
            numbers.insert((topic.clone(), wanted.partition), number);
        }
        self.enqueue(number);
    }

    /// Wants a partition no longer.
    pub(super) fn forget(&mut self, name: &str, id: Uuid, indexes: &[i32]) {
        let topic = Arc::new(TopicKey { name: name.to_owned(), id });
        for index in indexes {
            let number = self.numbers.as_mut().and_then(|numbers| numbers.remove(&(topic.clone(), *index)));
            if let Some(place) = number.and_then(|number| self.items.get_mut(number as usize)) {
                *place = None;
                self.names -= name.len();
                self.free.extend(number);
            }
        }
    }

    fn enqueue(&mut self, number: u32) {
        if let Some(item) = self.item_mut(number)
            && !std::mem::replace(&mut item.queued, true)
        {
            self.queue.push_back(number);
        }
    }

    /// Takes everything that has to be looked at, in order. What was not found when it was looked at last is looked for
    /// again.
    pub(super) fn take_queue(&mut self, node: &Node, cx: &Context) -> Vec<u32> {
        let _ = self.take_woken(None);
        let queue = std::mem::take(&mut self.queue);
        let mut taken = Vec::with_capacity(queue.len());
        for number in queue {
            let Some(item) = self.item_mut(number).filter(|item| item.queued) else { continue };
            item.queued = false;
            if item.partition.is_err() {
                item.partition = partition_of(&find(node, cx, &item.topic), item.index);
            }
            taken.push(number);
        }
        taken
    }

    /// Puts back what was taken, looked at or not.
    pub(super) fn queue_again(&mut self, numbers: impl IntoIterator<Item = u32>) {
        numbers.into_iter().for_each(|number| self.enqueue(number));
    }

    /// Everything else that may have to be told of is queued: what a waiter for records does not notice.
    pub(super) fn sweep(&mut self) {
        for number in 0..u32::try_from(self.items.len()).unwrap_or(u32::MAX) {
            let changed = self.item(number).is_some_and(|item| {
                let offsets = item.there().map(|partition| partition.offsets());
                offsets.map(|offsets| (offsets.high_watermark, offsets.log_start)).ok() != item.told
            });
            if changed {
                self.enqueue(number);
            }
        }
    }

    /// Nothing but that can be told of a partition before records pass `high_watermark`: it is idle until then.
    pub(super) fn rest(&mut self, number: u32, high_watermark: i64) {
        if self.wait_past(number, high_watermark) {
            self.enqueue(number);
        }
    }

    /// Waits for records past `high_watermark`; returns whether there are some already, or none can be waited for.
    fn wait_past(&mut self, number: u32, high_watermark: i64) -> bool {
        let list = &self.list;
        let Some(item) = self.items.get_mut(number as usize).and_then(Option::as_mut) else { return false };
        let Ok(partition) = item.there() else { return true };
        let waker = item.waker.get_or_insert_with(|| list.waker(number));
        let mut waiter = partition.visible_past(high_watermark.max(item.offset));
        let is_ready = Pin::new(&mut waiter).poll(&mut std::task::Context::from_waker(waker)).is_ready();
        item.waiter = (!is_ready).then_some(waiter);
        is_ready
    }

    /// Has everything that is queued, and stays so, waited for; returns whether a partition refuses.
    pub(super) fn begin_waiting(&mut self) -> bool {
        self.readable = 0;
        let mut refused = false;
        for at in 0..self.queue.len() {
            if let Some(number) = self.queue.get(at).copied() {
                if let Some(item) = self.item_mut(number) {
                    item.readable = 0;
                }
                refused |= self.measure(number);
            }
        }
        refused
    }

    /// Takes over what was woken; returns whether there was anything, and whether a partition refuses. If there was
    /// nothing, the task of `cx` is woken by the next.
    pub(super) fn take_woken(&mut self, cx: Option<&std::task::Context<'_>>) -> Poll<bool> {
        let mut woken = std::mem::take(&mut self.woken);
        self.list.take(&mut woken, cx);
        let outcome = if woken.is_empty() { Poll::Pending } else { Poll::Ready(()) };
        let mut refused = false;
        for number in woken.drain(..) {
            self.enqueue(number);
            refused |= cx.is_some() && self.measure(number);
        }
        self.woken = woken;
        outcome.map(|()| refused)
    }

    /// Waits for more of one partition and counts what it has; returns whether it refuses.
    fn measure(&mut self, number: u32) -> bool {
        let mut high_watermark = None;
        loop {
            let Some(item) = self.item(number) else { return false };
            let Ok(partition) = item.there() else { return true };
            let before = high_watermark.replace(partition.offsets().high_watermark);
            if before == high_watermark {
                // There is nothing new, and it does not let itself be waited for.
                return true;
            }
            if !self.wait_past(number, high_watermark.unwrap_or(0)) {
                break;
            }
        }
        let Some(item) = self.items.get_mut(number as usize).and_then(Option::as_mut) else { return false };
        let Ok(partition) = item.there() else { return true };
        let readable = partition.readable_bytes(item.offset).min(item.bytes_max);
        self.readable = self.readable.saturating_sub(item.readable).saturating_add(readable);
        item.readable = readable;
        false
    }

    /// Bytes that can be read of everything that was looked at while the fetch waits.
    pub(super) fn readable(&self) -> usize {
        self.readable
    }

    /// The partition is not what it was: it is looked for again.
    pub(super) fn lose(&mut self, number: u32, code: ErrorCode) {
        if let Some(item) = self.item_mut(number) {
            item.partition = Err(code);
            item.waiter = None;
        }
    }

    pub(super) fn tell(&mut self, number: u32, told: Option<(i64, i64)>) {
        if let Some(item) = self.item_mut(number) {
            item.told = told;
        }
    }
}

#[cfg(test)]
impl Wanted {
    /// So many partitions that are not there.
    pub(super) fn of_nothing(len: usize) -> Self {
        let mut wanted = Self { numbers: Some(HashMap::new()), ..Self::default() };
        wanted.add_nothing("", len);
        wanted
    }

    /// So many partitions more, of a topic that is not there.
    pub(super) fn add_nothing(&mut self, name: &str, len: usize) {
        let topic = Arc::new(TopicKey { name: name.to_owned(), id: Uuid::nil() });
        for partition in (0..).take(len) {
            let named = FetchPartition { partition, ..Default::default() };
            self.add(&topic, &Err(ErrorCode::UnknownTopicOrPartition), &named);
        }
    }
}

impl Item {
    /// The partition, if it is there and its leader epoch is what the client takes it for.
    pub(super) fn partition(&self) -> Result<Arc<Partition>, ErrorCode> {
        let partition = self.there()?;
        check_leader_epoch(&partition, self.leader_epoch).map_err(|refusal| refusal.code)?;
        Ok(partition)
    }

    /// The partition, if it is there.
    fn there(&self) -> Result<Arc<Partition>, ErrorCode> {
        let partition = self.partition.as_ref().map_err(|code| *code)?;
        partition.upgrade().ok_or(ErrorCode::NotLeaderOrFollower)
    }

    /// Where the fetcher's log parts from this one, if it says which epoch its last record had.
    pub(super) fn diverging(&self, partition: &Partition) -> Option<EpochEndOffset> {
        if self.last_fetched_epoch < 0 {
            return None;
        }
        let (epoch, end_offset) = partition.epoch_end(self.last_fetched_epoch)?;
        let diverges = epoch < self.last_fetched_epoch || end_offset < self.offset;
        diverges.then_some(EpochEndOffset { epoch, end_offset })
    }
}

fn find(node: &Node, cx: &Context, topic: &TopicKey) -> Result<Arc<Topic>, ErrorCode> {
    let found = match topic.id.is_nil() {
        true => node.topics.topic(&topic.name),
        false => node.topics.by_id(topic.id),
    };
    match found {
        Some(found) if !cx.allows(Operation::Read, Resource::Topic(&found.name)) => {
            Err(ErrorCode::TopicAuthorizationFailed)
        }
        Some(found) => Ok(found),
        None => Err(Refusal::unknown_topic(&topic.name, topic.id).code),
    }
}

fn partition_of(topic: &Result<Arc<Topic>, ErrorCode>, index: i32) -> Result<Weak<Partition>, ErrorCode> {
    let partition = topic.as_ref().map_err(|code| *code)?.partition(index);
    partition.map(|partition| Arc::downgrade(&partition)).ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// A client that knows an older leader epoch must learn the newer one, and one that knows a newer is ahead of us.
pub(crate) fn check_leader_epoch(partition: &Partition, current: i32) -> Result<(), Refusal> {
    if current == -1 {
        return Ok(());
    }
    let epoch = partition.leader_epoch();
    let code = match current {
        known if known < epoch => ErrorCode::FencedLeaderEpoch,
        known if known > epoch => ErrorCode::UnknownLeaderEpoch,
        _ => return Ok(()),
    };
    Err(Refusal::new(code, format!("the leader epoch is {epoch}, the request says {current}")))
}
