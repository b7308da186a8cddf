//! One client connection: frames in, answers out, in the order of the requests.
//!
//! A connection is one state machine, polled as one task. It takes requests in line while earlier ones wait for a sync
//! or a long poll, as far as their [`Order`] allows; the others stay in the input until what is before them has been
//! answered. Only the oldest waiting answer is polled, since no later one may go before it. Invariant: what a connection
//! holds (buffered input, requests in line, answers, unsent output) is bounded, and counted in the [`Budget`] of all
//! connections as soon as it is there. It knows frames, not what they ask for.
//!
//! [`Budget`]: crate::budget::Budget

mod elsewhere;
mod output;

use crate::budget::Share;
use crate::dispatch::{Frame, FrameError, LONG_BYTES, Order, Peer, Unanswered, encoded_bytes, order_of};
use crate::flush::Gathering;
use crate::handler::Node;
use bytes::{Buf, Bytes, BytesMut};
use elsewhere::{answer_elsewhere, encode_elsewhere, handle_elsewhere, handle_later};
use kappa_protocol::frame::{self, FrameSizeError, PREFIX_LEN};
use kappa_protocol::{ApiKey, EncodeError, LaneError, Piece, Reply, ReplyFuture, Response};
use output::{Output, bytes_of};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Bytes that one read asks for while frames are small. Of a buffer of this size only what is in it is counted, since a
/// connection that waits for its peer keeps none.
const READ_BYTES: usize = 64 * 1024;
/// The beginning of a frame up to this size waits for the rest in a buffer of its own size.
const BEGINNING_BYTES: usize = READ_BYTES / 16;
/// A buffer that grew beyond this for a large frame is given back once it is empty; a smaller one is kept for the next
/// frame, since fresh memory costs more than the copy into it.
const READ_BYTES_KEPT: usize = 4 * 1024 * 1024;
/// Requests that may stand in line on one connection before it takes no further.
const LINE_MAX: usize = 8192;
/// Bytes of requests and answers in line and of unsent output at which a connection takes no further requests; one
/// answer may go beyond.
const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that a request in line is counted as, beside what was decoded of its frame.
const REQUEST_BYTES: usize = 512;
/// Bytes that a byte of a frame may become when it is decoded: names and arrays of small items.
const DECODED_FACTOR: usize = 8;
/// A request from this size on is decoded and handled where it holds up no other client.
const LARGE_FRAME_BYTES: usize = 64 * 1024;
/// How long the rest of a frame may take without a byte of it arriving.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long answers may stay unsent without a byte of them going while others wait for memory.
const UNSENT_MAX: Duration = Duration::from_secs(5);
/// Bytes of a large frame that must arrive in each such time meanwhile: 16 KiB a second.
const ARRIVING_BYTES_MIN: usize = 80 * 1024;

/// Why a connection ended other than by its peer closing it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A frame of a size that is not allowed.
    #[error(transparent)]
    FrameSize(#[from] FrameSizeError),
    /// A frame that is no request of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An answer that its version cannot carry.
    #[error("answer to {key}: {source}")]
    Encode {
        /// The API.
        key: ApiKey,
        /// What the encoder said.
        source: EncodeError,
    },
    /// A handler gave up.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// Nothing came or went for too long.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// A large frame came too slowly while others waited for the memory that it holds.
    #[error("next to nothing of a large request came in {0:?} while others waited for memory")]
    Slow(Duration),
}

impl ConnectionError {
    /// Whether the peer broke the protocol.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self, Self::FrameSize(_) | Self::Frame(_))
    }

    /// Whether the broker made the mistake.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Encode { .. } | Self::Lane(_))
    }
}

/// How an answer is framed and timed.
#[derive(Clone, Copy, Debug)]
struct Framing {
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    started: Instant,
}

/// What comes of a request that is begun later, or elsewhere.
enum Outcome {
    Pieces(Vec<Piece>),
    Response(Response),
    None,
}

type OutcomeFuture = Pin<Box<dyn Future<Output = Result<Outcome, ConnectionError>> + Send>>;

enum Waiting {
    /// The answer of a request that has been begun.
    Reply(ReplyFuture),
    /// A request and its answer.
    Request(OutcomeFuture),
}

/// A request in line, or its answer.
enum Place {
    Ready(Vec<Piece>),
    Waiting { waiting: Waiting, framing: Framing, order: Order, begun: bool, bytes: usize },
}

/// A client's connection.
pub(crate) struct Connection {
    node: Arc<Node>,
    share: Share,
    /// What it waits with, if it produces, until fewer bytes are to be synced.
    dirty: Share,
    stream: TcpStream,
    peer: Peer,
    input: BytesMut,
    /// Bytes that the input's buffer has grown to.
    input_bytes: usize,
    /// Size of the largest frame that came whole, up to [`READ_BYTES_KEPT`].
    largest_frame: usize,
    line: VecDeque<Place>,
    line_bytes: usize,
    unanswered: Unanswered,
    output: Output,
    /// Bytes that there were of a large frame when it was last looked at.
    arrived: usize,
    /// Whether it stands in line for memory; renewed by every poll.
    waits_for_room: bool,
    ending: Option<ConnectionError>,
    stopping: bool,
    /// Whether the peer sends no more and takes nothing.
    gone: bool,
    active_at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("line", &self.line.len()).finish()
    }
}

impl Connection {
    /// A connection on a socket that is already set up.
    pub(crate) fn new(node: Arc<Node>, stream: TcpStream, address: SocketAddr) -> Self {
        let check = STALL_MAX.min(node.settings.idle_max);
        Self {
            share: node.budget.share(),
            dirty: node.topics.env().flush.dirty_share(),
            node,
            stream,
            peer: Peer::new(address.ip()),
            input: BytesMut::new(),
            input_bytes: 0,
            largest_frame: 0,
            line: VecDeque::new(),
            line_bytes: 0,
            unanswered: Unanswered::default(),
            output: Output::default(),
            arrived: 0,
            waits_for_room: false,
            ending: None,
            stopping: false,
            gone: false,
            active_at: Instant::now(),
            timer: Box::pin(tokio::time::sleep(check)),
        }
    }

    /// Reads no further: the connection ends once what is in line has been answered.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Goes on until the connection has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let mut gathering = Gathering::default();
        loop {
            self.waits_for_room = false;
            let mut progress = self.take_frames(cx, &mut gathering);
            if self.may_read() {
                match self.poll_read(cx) {
                    // A peer that is gone still gets done what it asked for.
                    Poll::Ready(Ok(0) | Err(_)) => {
                        self.gone = true;
                        progress = true;
                    }
                    Poll::Ready(Ok(_)) => {
                        progress = true;
                        self.take_frames(cx, &mut gathering);
                    }
                    Poll::Pending => {}
                }
            }
            progress |= self.poll_line(cx)?;
            progress |= self.poll_write(cx);
            self.count();
            if !self.waits_for_room {
                self.share.leave_line();
                self.dirty.leave_line();
            }
            if self.gone {
                self.forget_answers();
                if !self.has_frame() {
                    return Poll::Ready(Ok(()));
                }
            }
            if progress {
                self.active_at = Instant::now();
                if self.output.turn_is_over() {
                    return Poll::Pending;
                }
                continue;
            }
            if (self.stopping || self.ending.is_some()) && self.line.is_empty() && self.output.is_empty() {
                return Poll::Ready(self.ending.take().map_or(Ok(()), Err));
            }
            self.rest();
            ready!(self.poll_timer(cx))?;
        }
    }

    /// Whether it holds so little that it may take another request.
    fn holds_little(&self) -> bool {
        let held = self.line_bytes + self.output.bytes();
        self.line.len() < LINE_MAX && held < HELD_BYTES_MAX && !self.stopping && self.ending.is_none()
    }

    /// Whether there is memory for a request of these bytes. A connection of which nothing is in line does not wait if
    /// the request is small, nor if its frame is large and therefore counted: only handling that gives it back.
    fn has_room(&mut self, cx: &Context<'_>, bytes: usize) -> bool {
        let idle = self.line.is_empty() && self.output.is_empty();
        let free = idle && (bytes <= READ_BYTES || self.input_bytes > READ_BYTES);
        if free || self.share.poll_room(cx, bytes).is_ready() {
            return true;
        }
        self.waits_for_room = true;
        false
    }

    /// Whether the disk keeps up with what is appended: where it does not, producers wait before the kernel makes the
    /// thread wait that serves everybody.
    fn may_append(&mut self, cx: &Context<'_>, bytes: usize) -> bool {
        if self.dirty.poll_room(cx, bytes).is_ready() {
            return true;
        }
        self.waits_for_room = true;
        false
    }

    /// Whether to look for more input: for the rest of a frame, or, behind a request that has to wait for its turn, for
    /// the end of the connection.
    fn may_read(&self) -> bool {
        !self.gone && self.holds_little() && (!self.has_frame() || self.input.len() < READ_BYTES)
    }

    /// Size of the frame that the input starts with, prefix included.
    fn frame_len(&self) -> Result<Option<usize>, FrameSizeError> {
        let Some(prefix) = self.input.first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let len = frame::size(*prefix, self.node.settings.request_bytes_max)?;
        Ok(Some(PREFIX_LEN + len))
    }

    fn has_frame(&self) -> bool {
        self.frame_len().is_ok_and(|len| len.is_some_and(|len| len <= self.input.len()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = match self.frame_len() {
            Ok(len) => len.map_or(0, |len| len.saturating_sub(self.input.len())),
            Err(_) => 0,
        };
        // What a peer announces is believed as far as it has delivered before, now or in an earlier frame.
        let delivered = self.input.len().max(self.largest_frame).max(READ_BYTES);
        let wanted = missing.min(delivered).max(BEGINNING_BYTES);
        if self.input.capacity() - self.input.len() < wanted {
            let grows = self.input.len() + wanted > READ_BYTES.max(self.input_bytes);
            if grows && self.share.poll_room(cx, wanted).is_pending() {
                self.waits_for_room = true;
                return Poll::Pending;
            }
            self.input.reserve(wanted.max(READ_BYTES));
            self.input_bytes = self.input_bytes.max(self.input.capacity());
        }
        // Stateless, so it may be dropped when it is not ready. It yields to other tasks now and then by itself.
        let read = std::pin::pin!(self.stream.read_buf(&mut self.input));
        let len = ready!(read.poll(cx))?;
        self.node.metrics.bytes_in.inc_by(len as u64);
        Poll::Ready(Ok(len))
    }

    /// Takes the frames in line that are whole and whose turn it is; returns whether there were any.
    fn take_frames(&mut self, cx: &mut Context<'_>, gathering: &mut Gathering) -> bool {
        let mut taken = false;
        while self.holds_little() {
            match self.frame_len() {
                Ok(Some(len)) if len <= self.input.len() => {
                    let order = order_of(self.input.get(PREFIX_LEN..).unwrap_or_default());
                    let bytes = match order {
                        // Its batches go to the log, and the rest is little.
                        Order::Append => REQUEST_BYTES,
                        _ => REQUEST_BYTES + DECODED_FACTOR * len,
                    };
                    let may_begin = order.may_follow(self.unanswered)
                        && (order != Order::Append || self.may_append(cx, len))
                        && self.has_room(cx, bytes);
                    if !may_begin {
                        break;
                    }
                    taken = true;
                    if order == Order::Append {
                        gathering.add(&self.node.topics.env().flush, len);
                    }
                    self.largest_frame = self.largest_frame.max(len.min(READ_BYTES_KEPT));
                    let mut frame = self.input.split_to(len).freeze();
                    frame.advance(PREFIX_LEN);
                    if let Err(error) = self.take(frame, order, bytes) {
                        self.ending = Some(error);
                    }
                    self.count();
                }
                Ok(_) => break,
                Err(error) => self.ending = Some(error.into()),
            }
        }
        if self.input_bytes > READ_BYTES_KEPT
            || self.input_bytes > READ_BYTES && self.node.budget.is_half_full()
        {
            self.give_back_buffer();
        }
        taken
    }

    /// Lets go of a small buffer before it waits: thousands of idle connections have none.
    fn rest(&mut self) {
        if self.input_bytes <= READ_BYTES {
            self.give_back_buffer();
            if self.input.len() <= BEGINNING_BYTES && self.input.capacity() > 2 * BEGINNING_BYTES {
                self.input = BytesMut::from(&*self.input);
                self.input_bytes = self.input.capacity();
            }
        }
    }

    fn give_back_buffer(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.input_bytes = 0;
        }
    }

    fn take(&mut self, bytes: Bytes, order: Order, counted: usize) -> Result<(), ConnectionError> {
        let started = Instant::now();
        let large = bytes.len() >= LARGE_FRAME_BYTES && order != Order::Append;
        let frame = Frame::read(&mut self.peer, bytes)?;
        let Frame { key, version, correlation_id, .. } = frame;
        let framing = Framing { key, version, correlation_id, started };
        if large {
            let parked = self.node.budget.park(counted);
            let request = handle_elsewhere(self.node.clone(), frame, framing, parked);
            self.wait(Waiting::Request(Box::pin(request)), framing, order, counted, false);
        } else if order == Order::Poll && !self.line.is_empty() {
            let request = handle_later(self.node.clone(), frame, framing, counted);
            self.wait(Waiting::Request(Box::pin(request)), framing, order, counted, false);
        } else {
            let asked = frame.decode(&self.node)?;
            let Some(kept) = asked.short_bytes(&self.node) else {
                let parked = self.node.budget.park(counted);
                let request = answer_elsewhere(self.node.clone(), asked, framing, parked);
                self.wait(Waiting::Request(Box::pin(request)), framing, order, counted, true);
                return Ok(());
            };
            match asked.handle(&self.node) {
                Reply::Now(response) if encoded_bytes(&response) >= LONG_BYTES => {
                    let parked = self.node.budget.park(counted);
                    let encoded = Box::pin(encode_elsewhere(self.node.clone(), framing, response, parked));
                    self.wait(Waiting::Request(encoded), framing, order, counted, true);
                }
                Reply::Now(response) => {
                    let pieces = self.finish(framing, &response)?;
                    self.answer(pieces);
                }
                Reply::Later(reply) => self.wait(Waiting::Reply(reply), framing, order, counted + kept, true),
                Reply::None => self.observe(framing),
            }
        }
        Ok(())
    }

    fn answer(&mut self, pieces: Vec<Piece>) {
        if self.line.is_empty() {
            self.output.push(pieces);
        } else {
            self.line_bytes += REQUEST_BYTES + bytes_of(&pieces);
            self.line.push_back(Place::Ready(pieces));
        }
    }

    fn wait(&mut self, waiting: Waiting, framing: Framing, order: Order, bytes: usize, begun: bool) {
        self.unanswered.add(order, begun);
        self.line_bytes += bytes;
        self.line.push_back(Place::Waiting { waiting, framing, order, begun, bytes });
    }

    fn observe(&self, framing: Framing) {
        if let Some(metrics) = self.node.metrics.api(framing.key) {
            metrics.latency.observe(framing.started.elapsed().as_secs_f64());
        }
    }

    fn finish(&self, framing: Framing, response: &Response) -> Result<Vec<Piece>, ConnectionError> {
        self.observe(framing);
        framing.encode(response)
    }

    /// Moves the answers that are due to the output, as long as there is room; returns whether any went or was begun.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut progress = false;
        while self.output.bytes() < HELD_BYTES_MAX {
            let pieces = match self.line.front_mut() {
                None => break,
                Some(Place::Ready(pieces)) => {
                    let pieces = std::mem::take(pieces);
                    self.line_bytes -= REQUEST_BYTES + bytes_of(&pieces);
                    pieces
                }
                Some(Place::Waiting { waiting, framing, order, begun, bytes }) => {
                    let (framing, order, bytes) = (*framing, *order, *bytes);
                    let polled = waiting.poll(cx);
                    if polled.is_pending() && *begun {
                        break;
                    }
                    let was_begun = std::mem::replace(begun, true);
                    self.unanswered.remove(order, was_begun);
                    progress = true;
                    let Poll::Ready(outcome) = polled else {
                        self.unanswered.add(order, true);
                        break;
                    };
                    let outcome = match outcome? {
                        Outcome::Response(response) if encoded_bytes(&response) >= LONG_BYTES => {
                            let parked = self.node.budget.park(bytes);
                            let encoded = encode_elsewhere(self.node.clone(), framing, response, parked);
                            *waiting = Waiting::Request(Box::pin(encoded));
                            self.unanswered.add(order, true);
                            continue;
                        }
                        outcome => outcome,
                    };
                    self.line_bytes -= bytes;
                    match outcome {
                        Outcome::Pieces(pieces) => {
                            self.observe(framing);
                            pieces
                        }
                        Outcome::Response(response) => self.finish(framing, &response)?,
                        Outcome::None => Vec::new(),
                    }
                }
            };
            progress = true;
            self.line.pop_front();
            self.output.push(pieces);
            self.count();
        }
        Ok(progress)
    }

    /// Nobody takes answers any more: what waits for other clients is dropped, what takes effect is waited for.
    fn forget_answers(&mut self) {
        self.output.clear();
        while let Some(place) = self.line.front() {
            match place {
                Place::Ready(pieces) => self.line_bytes -= REQUEST_BYTES + bytes_of(pieces),
                Place::Waiting { order, begun, bytes, .. } if order.is_parking() => {
                    self.unanswered.remove(*order, *begun);
                    self.line_bytes -= bytes;
                }
                Place::Waiting { .. } => break,
            }
            self.line.pop_front();
        }
        self.count();
    }

    /// Writes what there is; returns whether anything went.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.gone {
            return false;
        }
        let mut wrote = false;
        let sent = |len: usize| {
            wrote = true;
            self.node.metrics.bytes_out.inc_by(len as u64);
        };
        if let Poll::Ready(Err(_)) = self.output.poll_send(cx, &mut self.stream, &self.node.jobs, sent) {
            self.gone = true;
            return true;
        }
        wrote
    }

    /// Whether others wait for memory, and of the large frame that this connection holds memory for next to nothing has
    /// arrived since it was last looked at.
    fn trickles(&mut self, mid_frame: bool) -> bool {
        let is_large = mid_frame && self.input_bytes > READ_BYTES && !self.waits_for_room;
        let before = std::mem::replace(&mut self.arrived, if is_large { self.input.len() } else { 0 });
        let since = self.input.len().checked_sub(before).filter(|_| is_large && before > 0);
        since.is_some_and(|since| since < ARRIVING_BYTES_MIN) && self.node.budget.is_short()
    }

    fn count(&mut self) {
        let input = if self.input_bytes > READ_BYTES { self.input_bytes } else { self.input.len() };
        self.share.set(input + self.line_bytes + self.output.bytes());
    }

    /// Ends what stands still for too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let idle_max = self.node.settings.idle_max;
        let holds_little = self.output.is_empty() && self.input_bytes <= READ_BYTES;
        let period = STALL_MAX.min(idle_max).min(if holds_little { STALL_MAX } else { UNSENT_MAX });
        let latest = Instant::now() + period;
        if self.timer.deadline() > latest {
            self.timer.as_mut().reset(latest);
        }
        ready!(self.timer.as_mut().poll(cx));
        let idle = self.active_at.elapsed();
        self.give_back_buffer();
        self.count();
        let mid_frame = !self.input.is_empty() && !self.has_frame();
        // What is not taken is in the way of those who wait for memory.
        let in_the_way = !self.output.is_empty() && self.node.budget.is_short();
        if self.trickles(mid_frame) {
            return Poll::Ready(Err(ConnectionError::Slow(period)));
        }
        let limit = match (in_the_way, mid_frame) {
            (true, _) => UNSENT_MAX.min(idle_max),
            (false, true) => STALL_MAX.min(idle_max),
            (false, false) => idle_max,
        };
        // A parked answer may wait for as long as it likes, and a request for memory; a peer that does not take what is
        // due may not.
        let waits = !self.line.is_empty() || self.waits_for_room && !mid_frame;
        if idle >= limit && (!waits || !self.output.is_empty()) {
            return Poll::Ready(Err(ConnectionError::Idle(idle)));
        }
        self.timer.as_mut().reset(Instant::now() + period);
        Poll::Ready(Ok(()))
    }
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, ConnectionError>> {
        match self {
            Waiting::Reply(reply) => reply.as_mut().poll(cx).map(|reply| Ok(Outcome::Response(reply?))),
            Waiting::Request(request) => request.as_mut().poll(cx),
        }
    }
}

impl Framing {
    fn encode(self, response: &Response) -> Result<Vec<Piece>, ConnectionError> {
        frame::encode_response(self.correlation_id, self.version, response)
            .map_err(|source| ConnectionError::Encode { key: self.key, source })
    }
}
