//! Fetch: whole batches out of partitions, at once or when enough has become visible.
//!
//! A fetch is looked at in steps: a step reads what is queued of what it wants ([`wanted`]), and either answers, or waits
//! for what becomes ready ([`ready`]), or goes to the pool, where the disk may be waited for. What a session wants
//! ([`session`]) outlives the fetch. A fetch whose answer goes to a socket leaves large batches in their files and copies
//! as much as it could reserve of the memory of all connections; one that has to be in memory waits for a reservation.

mod answer;
mod ready;
mod session;
mod wanted;

use super::Node;
use crate::budget::Share;
use crate::partition::IsolationLevel;
use answer::Look;
use kappa_protocol::limits::TOPIC_NAME_BYTES_MAX;
use kappa_protocol::messages::{FetchRequest, FetchResponse};
use kappa_protocol::{Context, ErrorCode, Reply};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use wanted::Wanted;

pub(crate) use session::Sessions;
pub(crate) use wanted::{check_leader_epoch, named_bytes};

/// Longest wait of a fetch, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Bytes from which on batches are sent from their file. Under it the copy costs less than the system calls beside it.
const REGION_BYTES_MIN: usize = 16 * 1024;
/// Partitions from which on looking at them takes too long for the thread that serves everybody.
const MANY_PARTITIONS: usize = 500;
/// First version that names topics by id.
const VERSION_WITH_IDS: i16 = 13;

/// Handles a fetch whose answer is to be in memory.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: FetchRequest) -> Reply {
    handle_for(node, cx, request, false)
}

/// Handles a fetch whose answer goes to a socket, which can take regions of files.
pub(crate) fn handle_for_socket(node: &Arc<Node>, cx: &Context, request: FetchRequest) -> Reply {
    handle_for(node, cx, request, true)
}

fn handle_for(node: &Arc<Node>, cx: &Context, request: FetchRequest, to_socket: bool) -> Reply {
    let wait = Duration::from_millis(request.max_wait_ms.try_into().unwrap_or(0)).min(WAIT_MAX);
    let mut fetch = match Fetch::begin(node, cx, request, to_socket) {
        Ok(fetch) => fetch,
        Err(code) => {
            let error_code = node.error(code);
            return Reply::Now(FetchResponse { error_code, ..Default::default() }.into());
        }
    };
    let deadline = Instant::now() + wait;
    let is_last = wait.is_zero();
    if fetch.wanted().queued() <= MANY_PARTITIONS
        && let Some(reserved) = fetch.try_reserve()
    {
        match fetch.step(&reserved, false, is_last) {
            Step::Done(response) => return Reply::Now(response.into()),
            Step::Wait => {
                return Reply::later(async move {
                    fetch.wait(deadline).await;
                    fetch.finish(deadline, true).await.into()
                });
            }
            Step::Cold => {}
        }
    }
    Reply::later(async move { fetch.finish(deadline, is_last).await.into() })
}

/// How what is wanted stands to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Told in full and forgotten.
    Sessionless,
    /// Told in full and kept, if there is room.
    Opening,
    /// Told what changed, and kept under this number.
    Session(i32),
}

/// What a fetch wants, given back to its session when the fetch ends, however it does.
#[derive(Debug)]
struct Held {
    node: Arc<Node>,
    kind: Kind,
    wanted: Wanted,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Kind::Session(id) = self.kind {
            self.node.sessions.put_back(id, std::mem::take(&mut self.wanted));
        }
    }
}

/// A fetch under way.
#[derive(Debug)]
struct Fetch {
    cx: Context,
    isolation: IsolationLevel,
    /// Bytes of batches that are asked for.
    bytes_max: usize,
    min_bytes: usize,
    to_socket: bool,
    held: Held,
}

/// What a step led to.
enum Step {
    Done(FetchResponse),
    /// There is too little yet; what will make it enough wakes the fetch.
    Wait,
    /// The disk has to be waited for.
    Cold,
}

impl Held {
    fn begin(node: &Arc<Node>, cx: &Context, request: FetchRequest) -> Result<Self, ErrorCode> {
        let uses_ids = cx.version >= VERSION_WITH_IDS;
        let (id, epoch) = (request.session_id, request.session_epoch);
        let node = node.clone();
        // Who names what no topic is called is told so at once, and nothing of it is kept.
        let may_keep = request.topics.iter().all(|topic| topic.topic.len() <= TOPIC_NAME_BYTES_MAX);
        if epoch == session::EPOCH_INITIAL || epoch == session::EPOCH_FINAL {
            // Who asks in full has no use for the session that it names.
            if id != 0 {
                node.sessions.close(id);
            }
            let kind = match epoch == session::EPOCH_INITIAL && may_keep {
                true => Kind::Opening,
                false => Kind::Sessionless,
            };
            let wanted = Wanted::new(&node, cx, request.topics, kind == Kind::Opening);
            return Ok(Self { node, kind, wanted });
        }
        let now_ms = node.topics.env().clock.steady_ms();
        let (wanted, sweep) = node.sessions.take(id, epoch, uses_ids, now_ms)?;
        let mut held = Self { node, kind: Kind::Session(id), wanted };
        held.wanted.update(&held.node, cx, request.topics);
        for forgotten in request.forgotten_topics_data {
            held.wanted.forget(&forgotten.topic, forgotten.topic_id, &forgotten.partitions);
        }
        if sweep {
            held.wanted.sweep();
        }
        if held.wanted.is_empty() || !may_keep {
            held.kind = Kind::Sessionless;
            held.node.sessions.close(id);
        }
        Ok(held)
    }
}

impl Fetch {
    fn begin(
        node: &Arc<Node>,
        cx: &Context,
        request: FetchRequest,
        to_socket: bool,
    ) -> Result<Self, ErrorCode> {
        let asked = usize::try_from(request.max_bytes).unwrap_or(0);
        Ok(Self {
            cx: cx.clone(),
            isolation: match request.isolation_level {
                1 => IsolationLevel::ReadCommitted,
                _ => IsolationLevel::ReadUncommitted,
            },
            bytes_max: asked.min(node.settings.fetch_bytes_max),
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            to_socket,
            held: Held::begin(node, cx, request)?,
        })
    }

    fn node(&self) -> &Arc<Node> {
        &self.held.node
    }

    fn wanted(&self) -> &Wanted {
        &self.held.wanted
    }

    /// Bytes of memory that the answer may take.
    fn copied_max(&self) -> usize {
        let of_partition = if self.to_socket { REGION_BYTES_MIN } else { usize::MAX };
        let wanted = self.wanted().queued_items().map(|item| item.bytes_max.min(of_partition));
        wanted.fold(0, usize::saturating_add).min(self.bytes_max)
    }

    /// Memory for the answer, perhaps less than it would take; `None` if that has to be waited for. A socket waits for
    /// none: it takes files.
    fn try_reserve(&self) -> Option<Share> {
        let budget = &self.node().budget;
        let reserved = budget.try_reserve(self.copied_max());
        if self.to_socket { Some(reserved.unwrap_or_else(|| budget.share())) } else { reserved }
    }

    async fn reserve(&self) -> Share {
        match self.try_reserve() {
            Some(reserved) => reserved,
            None => self.node().budget.reserve(self.copied_max()).await,
        }
    }

    /// Looks at what is queued, and answers if that is enough, or the last that there is.
    fn step(&mut self, reserved: &Share, may_wait: bool, is_last: bool) -> Step {
        let is_cut_short = !self.to_socket && reserved.bytes() < self.copied_max();
        let bytes_max = if self.to_socket { self.bytes_max } else { reserved.bytes().min(self.bytes_max) };
        let numbers = self.held.wanted.take_queue(&self.held.node, &self.cx);
        let look = Look {
            wanted: self.wanted(),
            isolation: self.isolation,
            bytes_max,
            copied_max: self.to_socket.then_some(reserved.bytes()),
            may_wait,
        };
        let Some(told) = look.at(&numbers) else {
            self.held.wanted.queue_again(numbers);
            return Step::Cold;
        };
        let is_enough = told.bytes >= self.min_bytes || is_cut_short && told.bytes > 0 || told.failed;
        if is_last || is_enough || self.wanted().is_empty() {
            self.node().metrics.fetched_bytes.inc_by(told.bytes as u64);
            return Step::Done(self.held.answer(told, self.cx.version >= VERSION_WITH_IDS));
        }
        drop(told);
        self.held.wanted.queue_again(numbers);
        // What became visible meanwhile may be enough; then it is looked at again, once.
        if self.held.wanted.begin_waiting() || self.wanted().readable() >= self.min_bytes {
            return self.step(reserved, may_wait, true);
        }
        Step::Wait
    }

    /// Waits until enough can be read, a partition refuses, or the deadline has passed.
    async fn wait(&mut self, deadline: Instant) {
        let (wanted, min_bytes) = (&mut self.held.wanted, self.min_bytes);
        let mut timer = std::pin::pin!(tokio::time::sleep_until(deadline));
        poll_fn(|cx| {
            while let Poll::Ready(refused) = wanted.take_woken(Some(cx)) {
                if refused || wanted.readable() >= min_bytes {
                    return Poll::Ready(());
                }
            }
            timer.as_mut().poll(cx)
        })
        .await;
    }

    /// Answers at the deadline at the latest, by way of the pool where that is needed.
    async fn finish(mut self, deadline: Instant, mut is_last: bool) -> FetchResponse {
        loop {
            let reserved = self.reserve().await;
            let step = match self.wanted().queued() <= MANY_PARTITIONS {
                true => self.step(&reserved, false, is_last),
                false => Step::Cold,
            };
            let step = if let Step::Cold = step {
                let node = self.node().clone();
                let looked = node.jobs.run(move || {
                    self.node().metrics.cold_reads.inc();
                    let step = self.step(&reserved, true, is_last);
                    (self, step, reserved)
                });
                let Ok((fetch, step, _)) = looked.await else {
                    let error_code = node.error(ErrorCode::UnknownServerError);
                    return FetchResponse { error_code, ..Default::default() };
                };
                self = fetch;
                step
            } else {
                // What waits for records holds no memory.
                drop(reserved);
                step
            };
            if let Step::Done(response) = step {
                return response;
            }
            self.wait(deadline).await;
            is_last = true;
        }
    }
}
