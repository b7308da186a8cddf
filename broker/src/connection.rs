//! One client connection: frames in, answers out, in the order of the requests.
//!
//! A connection is one state machine, polled as one task. It reads and handles on while earlier requests wait for a
//! sync or a long poll; only the oldest waiting answer is polled, since no later one may go before it. Invariant: what
//! a connection holds (buffered input, waiting answers, unsent output) is bounded, and counted in the [`Budget`] of
//! all connections. It knows frames, not what they ask for.

use crate::dispatch::{FrameError, Handled, Peer, handle_frame};
use crate::handler::Node;
use bytes::{Buf, Bytes, BytesMut};
use kappa_protocol::frame::{self, FrameSizeError, PREFIX_LEN};
use kappa_protocol::{ApiKey, EncodeError, LaneError, Reply, ReplyFuture, Response};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Bytes that one read asks for while frames are small.
const READ_BYTES: usize = 64 * 1024;
/// A buffer that grew beyond this for a large frame is given back once it is empty; a smaller one is kept for the next
/// frame, since fresh memory costs more than the copy into it.
const READ_BYTES_KEPT: usize = 4 * 1024 * 1024;
/// Answers that may wait on one connection before it reads no further.
const ANSWERS_MAX: usize = 8192;
/// Unsent bytes on one connection at which it reads no further; one answer may go beyond.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of one vectored write.
const WRITE_PIECES_MAX: usize = 64;
/// Bytes that an answer in waiting is counted as.
const ANSWER_BYTES: usize = 512;
/// How long the rest of a frame may take without a byte of it arriving.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How soon a connection that stopped for the budget looks again.
const BUDGET_RETRY: Duration = Duration::from_millis(5);

/// Bytes that all connections hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    /// At most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.max
    }

    fn change(&self, from: usize, to: usize) {
        if to >= from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }

    fn is_half_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.max / 2
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

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

/// An answer in line.
enum Answer {
    Ready(Vec<Bytes>),
    Waiting(ReplyFuture, Framing),
}

/// A client's connection.
pub(crate) struct Connection {
    node: Arc<Node>,
    budget: Arc<Budget>,
    stream: TcpStream,
    peer: Peer,
    input: BytesMut,
    /// Bytes that the input's buffer has grown to.
    input_bytes: usize,
    /// Size of the largest frame that came whole, up to [`READ_BYTES_KEPT`].
    largest_frame: usize,
    answers: VecDeque<Answer>,
    output: VecDeque<Bytes>,
    output_bytes: usize,
    counted: usize,
    ending: Option<ConnectionError>,
    stopping: bool,
    active_at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("answers", &self.answers.len()).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.budget.change(self.counted, 0);
    }
}

impl Connection {
    /// A connection on a socket that is already set up.
    pub(crate) fn new(node: Arc<Node>, budget: Arc<Budget>, stream: TcpStream, address: SocketAddr) -> Self {
        let check = STALL_MAX.min(node.settings.idle_max);
        Self {
            node,
            budget,
            stream,
            peer: Peer::new(address.ip()),
            input: BytesMut::new(),
            input_bytes: 0,
            largest_frame: 0,
            answers: VecDeque::new(),
            output: VecDeque::new(),
            output_bytes: 0,
            counted: 0,
            ending: None,
            stopping: false,
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
        loop {
            let mut progress = self.handle_buffered();
            if self.may_read() && !self.has_frame() {
                match self.poll_read(cx)? {
                    Poll::Ready(0) => return Poll::Ready(Ok(())),
                    Poll::Ready(_) => {
                        progress = true;
                        self.handle_buffered();
                    }
                    Poll::Pending => {}
                }
            }
            self.poll_answers(cx)?;
            progress |= self.poll_write(cx)?;
            self.count();
            if progress {
                self.active_at = Instant::now();
                continue;
            }
            if (self.stopping || self.ending.is_some()) && self.answers.is_empty() && self.output.is_empty() {
                return Poll::Ready(self.ending.take().map_or(Ok(()), Err));
            }
            ready!(self.poll_timer(cx))?;
        }
    }

    fn may_handle(&self) -> bool {
        let holds_little = self.answers.len() < ANSWERS_MAX && self.output_bytes < OUTPUT_BYTES_MAX;
        let holds_nothing = self.answers.is_empty() && self.output.is_empty();
        !self.stopping && self.ending.is_none() && (holds_nothing || holds_little && !self.budget.is_full())
    }

    /// Whether there is room for what a read may bring: a frame under way may grow its buffer only inside the budget.
    fn may_read(&self) -> bool {
        self.may_handle() && (self.input.len() < READ_BYTES || !self.budget.is_full())
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

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ConnectionError>> {
        let missing = match self.frame_len() {
            Ok(len) => len.map_or(0, |len| len - self.input.len()),
            Err(_) => 0,
        };
        // What a peer announces is believed as far as it has delivered before, now or in an earlier frame.
        let delivered = self.input.len().max(self.largest_frame).max(READ_BYTES);
        let wanted = missing.min(delivered).max(READ_BYTES / 16);
        if self.input.capacity() - self.input.len() < wanted {
            self.input.reserve(wanted.max(READ_BYTES));
            self.input_bytes = self.input_bytes.max(self.input.capacity());
        }
        // Stateless, so it may be dropped when it is not ready. It yields to other tasks now and then by itself.
        let read = std::pin::pin!(self.stream.read_buf(&mut self.input));
        let len = ready!(read.poll(cx))?;
        self.node.metrics.bytes_in.inc_by(len as u64);
        Poll::Ready(Ok(len))
    }

    /// Handles the frames that are whole; returns whether there were any.
    fn handle_buffered(&mut self) -> bool {
        let mut handled = false;
        while self.may_handle() {
            match self.frame_len() {
                Ok(Some(len)) if len <= self.input.len() => {
                    handled = true;
                    self.largest_frame = self.largest_frame.max(len.min(READ_BYTES_KEPT));
                    let mut frame = self.input.split_to(len).freeze();
                    frame.advance(PREFIX_LEN);
                    if let Err(error) = self.handle(frame) {
                        self.ending = Some(error);
                    }
                }
                Ok(_) => break,
                Err(error) => self.ending = Some(error.into()),
            }
        }
        if self.input_bytes > READ_BYTES_KEPT || self.input_bytes > READ_BYTES && self.budget.is_half_full() {
            self.give_back_buffer();
        }
        handled
    }

    fn give_back_buffer(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.input_bytes = 0;
        }
    }

    fn handle(&mut self, frame: Bytes) -> Result<(), ConnectionError> {
        let started = Instant::now();
        let Handled { key, version, correlation_id, reply } =
            handle_frame(&self.node, &mut self.peer, frame)?;
        let framing = Framing { key, version, correlation_id, started };
        match reply {
            Reply::Now(response) => {
                let pieces = self.finish(framing, &response)?;
                if self.answers.is_empty() {
                    self.send(pieces);
                } else {
                    self.answers.push_back(Answer::Ready(pieces));
                }
            }
            Reply::Later(future) => self.answers.push_back(Answer::Waiting(future, framing)),
            Reply::None => self.observe(framing),
        }
        Ok(())
    }

    fn observe(&self, framing: Framing) {
        if let Some(metrics) = self.node.metrics.api(framing.key) {
            metrics.latency.observe(framing.started.elapsed().as_secs_f64());
        }
    }

    fn finish(&self, framing: Framing, response: &Response) -> Result<Vec<Bytes>, ConnectionError> {
        self.observe(framing);
        frame::encode_response(framing.correlation_id, framing.version, response)
            .map_err(|source| ConnectionError::Encode { key: framing.key, source })
    }

    fn send(&mut self, pieces: Vec<Bytes>) {
        self.output_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        self.output.extend(pieces);
    }

    /// Moves the answers that are due to the output, as long as there is room.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        while self.output_bytes < OUTPUT_BYTES_MAX {
            let pieces = match self.answers.front_mut() {
                None => break,
                Some(Answer::Ready(pieces)) => std::mem::take(pieces),
                Some(Answer::Waiting(future, framing)) => {
                    let Poll::Ready(response) = future.as_mut().poll(cx) else { break };
                    let framing = *framing;
                    self.finish(framing, &response?)?
                }
            };
            self.answers.pop_front();
            self.send(pieces);
        }
        Ok(())
    }

    /// Writes what there is; returns whether anything went.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut wrote = false;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(&self.output) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            let Poll::Ready(len) = Pin::new(&mut self.stream).poll_write_vectored(cx, slices)? else { break };
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            wrote = true;
            self.node.metrics.bytes_out.inc_by(len as u64);
            self.sent(len);
        }
        Ok(wrote)
    }

    fn sent(&mut self, mut len: usize) {
        self.output_bytes -= len;
        while let Some(piece) = self.output.front_mut() {
            if piece.len() > len {
                piece.advance(len);
                return;
            }
            len -= piece.len();
            self.output.pop_front();
        }
    }

    fn count(&mut self) {
        let input = if self.input_bytes > READ_BYTES { self.input_bytes } else { 0 };
        let ready = |answer: &Answer| match answer {
            Answer::Ready(pieces) => pieces.iter().map(Bytes::len).sum(),
            Answer::Waiting(..) => 0,
        };
        // Behind a waiting answer there may be finished ones; looking at all of them each time would cost more than
        // they weigh, except where few stand in line.
        let waiting: usize = if self.answers.len() <= 16 { self.answers.iter().map(ready).sum() } else { 0 };
        let now = input + self.output_bytes + self.answers.len() * ANSWER_BYTES + waiting;
        self.budget.change(self.counted, now);
        self.counted = now;
    }

    /// Ends what stands still for too long, and looks again at a full budget.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let held_up = self.budget.is_full() && !self.may_read();
        if held_up && self.timer.deadline() > Instant::now() + BUDGET_RETRY {
            self.timer.as_mut().reset(Instant::now() + BUDGET_RETRY);
        }
        ready!(self.timer.as_mut().poll(cx));
        let idle = self.active_at.elapsed();
        if !held_up {
            self.give_back_buffer();
            self.count();
        }
        let idle_max = self.node.settings.idle_max;
        let mid_frame = !self.input.is_empty() && !self.has_frame();
        let limit = if mid_frame { STALL_MAX.min(idle_max) } else { idle_max };
        // A parked answer may wait for as long as it likes; a peer that does not take what is due may not.
        if idle >= limit && (self.answers.is_empty() || !self.output.is_empty()) {
            return Poll::Ready(Err(ConnectionError::Idle(idle)));
        }
        self.timer
            .as_mut()
            .reset(Instant::now() + if held_up { BUDGET_RETRY } else { STALL_MAX.min(idle_max) });
        Poll::Ready(Ok(()))
    }
}
