//! One TCP connection as a [`Service`]: a lane whose other end is across a socket.
//!
//! A request is encoded and, if the socket takes it, written by the caller itself; what the socket does not take
//! yet is written by the connection's one task, which also reads. Answers come in the order of the requests.
//! Invariant: the order of `pending` is the order of the frames on the wire, since both change under one lock.
//! The task ends when the connection fails or its [`Connection`] is dropped; whoever waits is told.

use bytes::{Buf, Bytes, BytesMut};
use kappa_protocol::{
    ApiKey, Context, DecodeError, ErrorCode, LaneError, Reply, Request, Response, Service, frame, limits,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};

/// Free space kept in the read buffer; also the first allocation for a frame.
const READ_BYTES: usize = 64 * 1024;
/// Space allocated at once on the word of a length prefix; more follows as the bytes come in.
const FRAME_BYTES_TRUSTED: usize = 1024 * 1024;
/// Pieces given to one vectored write.
const SLICES_MAX: usize = 64;

/// The sending half, owned by a lane.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    correlation_id: AtomicI32,
    queue: Mutex<Queue>,
    /// Something was left unwritten, or the connection failed.
    wake: Notify,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Requests on the wire or in `unwritten`, oldest first.
    pending: VecDeque<Pending>,
    unwritten: VecDeque<Bytes>,
    failure: Option<LaneError>,
}

#[derive(Debug)]
struct Pending {
    correlation_id: i32,
    answer: oneshot::Sender<Result<Bytes, LaneError>>,
}

impl Connection {
    /// Takes over a connected stream and starts its task on the current runtime.
    pub(super) fn start(stream: TcpStream, runtime: &tokio::runtime::Handle) -> Connection {
        let shared = Arc::new(Shared {
            stream,
            correlation_id: AtomicI32::new(0),
            queue: Mutex::default(),
            wake: Notify::new(),
            failed: AtomicBool::new(false),
        });
        let task = Mutex::new(Some(runtime.spawn(run(shared.clone()))));
        Connection { shared, task }
    }

    /// Whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.failed.load(Ordering::Acquire)
    }

    /// The task, to wait for its end after [`Connection::close`]; given once.
    pub(super) fn task(&self) -> Option<JoinHandle<()>> {
        self.task.lock().take()
    }

    /// Ends it: whoever waits for an answer gets `reason`.
    pub(super) fn close(&self, reason: &str) {
        self.shared.fail(LaneError::Disconnected { reason: Arc::from(reason) });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close("closed by this client");
    }
}

impl Service for Connection {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let shared = &self.shared;
        let (key, version) = (request.api_key(), cx.version);
        let correlation_id = shared.correlation_id.fetch_add(1, Ordering::Relaxed);
        let pieces = match frame::encode_request(correlation_id, cx.client_id.as_deref(), version, &request) {
            Ok(pieces) => pieces,
            Err(error) => return Reply::Later(Box::pin(std::future::ready(Err(LaneError::Encode(error))))),
        };
        let answered = !matches!(&request, Request::Produce(produce) if produce.acks == 0);
        let (answer, waiting) = oneshot::channel();
        shared.enqueue(pieces, answered.then_some(Pending { correlation_id, answer }));
        if !answered {
            return Reply::None;
        }
        let shared = shared.clone();
        Reply::Later(Box::pin(async move {
            let gone = || LaneError::Disconnected { reason: Arc::from("the connection's task ended") };
            let frame = waiting.await.map_err(|_| gone())??;
            decode(key, version, frame).map_err(|error| {
                shared.fail(LaneError::Decode(error.clone()));
                LaneError::Decode(error)
            })
        }))
    }
}

/// Reads an answer. A node that does not know our version of ApiVersions answers in version 0 (KIP-511).
fn decode(key: ApiKey, version: i16, frame: Bytes) -> Result<Response, DecodeError> {
    let unsupported = ErrorCode::UnsupportedVersion.code().to_be_bytes();
    let in_oldest = key == ApiKey::ApiVersions && frame.get(4..6) == Some(&unsupported[..]);
    let version = if in_oldest { 0 } else { version };
    frame::decode_response(key, version, frame).map(|(_, response)| response)
}

impl Shared {
    fn enqueue(&self, pieces: Vec<Bytes>, pending: Option<Pending>) {
        let mut queue = self.queue.lock();
        if let Some(failure) = &queue.failure {
            let failure = failure.clone();
            if let Some(pending) = pending {
                // The receiver is gone only if nobody wants to know.
                let _ = pending.answer.send(Err(failure));
            }
            return;
        }
        queue.pending.extend(pending);
        let idle = queue.unwritten.is_empty();
        queue.unwritten.extend(pieces);
        if !idle {
            return;
        }
        let written = self.write(&mut queue);
        let left = !queue.unwritten.is_empty();
        drop(queue);
        match written {
            Ok(()) if left => self.wake.notify_one(),
            Ok(()) => {}
            Err(error) => self.fail(disconnected(&error)),
        }
    }

    /// Writes until nothing is left or the socket takes no more.
    fn write(&self, queue: &mut Queue) -> io::Result<()> {
        while !queue.unwritten.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
            for (slice, piece) in slices.iter_mut().zip(&queue.unwritten) {
                *slice = io::IoSlice::new(piece);
            }
            let mut written = match self.stream.try_write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            while let Some(piece) = queue.unwritten.front_mut() {
                if written < piece.len() {
                    piece.advance(written);
                    break;
                }
                written -= piece.len();
                queue.unwritten.pop_front();
            }
        }
        Ok(())
    }

    fn answer(&self, frame: Bytes) -> Result<(), LaneError> {
        let correlation_id = frame::correlation_id(&frame)?;
        let pending = self.queue.lock().pending.pop_front();
        match pending {
            Some(pending) if pending.correlation_id == correlation_id => {
                // Nobody waits any more if the request's future was dropped.
                let _ = pending.answer.send(Ok(frame));
                Ok(())
            }
            Some(pending) => {
                let reason = format!("answer {correlation_id} where {} is due", pending.correlation_id);
                let error = LaneError::Disconnected { reason: Arc::from(reason) };
                let _ = pending.answer.send(Err(error.clone()));
                Err(error)
            }
            None => {
                Err(LaneError::Disconnected { reason: Arc::from("answer to a request that was not made") })
            }
        }
    }

    fn fail(&self, failure: LaneError) {
        let mut queue = self.queue.lock();
        let failure = queue.failure.get_or_insert(failure).clone();
        self.failed.store(true, Ordering::Release);
        queue.unwritten.clear();
        let pending = std::mem::take(&mut queue.pending);
        drop(queue);
        for waiting in pending {
            let _ = waiting.answer.send(Err(failure.clone()));
        }
        self.wake.notify_one();
    }
}

/// The connection's task.
async fn run(shared: Arc<Shared>) {
    let failure = tokio::select! {
        failure = read_frames(&shared) => failure,
        failure = write_rest(&shared) => failure,
    };
    if let Err(failure) = failure {
        shared.fail(failure);
    }
}

async fn write_rest(shared: &Shared) -> Result<(), LaneError> {
    loop {
        shared.wake.notified().await;
        while !shared.queue.lock().unwritten.is_empty() {
            shared.stream.writable().await.map_err(|error| disconnected(&error))?;
            shared.write(&mut shared.queue.lock()).map_err(|error| disconnected(&error))?;
        }
        if shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}

async fn read_frames(shared: &Shared) -> Result<(), LaneError> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = next_frame(&mut buffer)? {
            shared.answer(frame)?;
        }
        shared.stream.readable().await.map_err(|error| disconnected(&error))?;
        match shared.stream.try_read_buf(&mut buffer) {
            Ok(0) => return Err(LaneError::Disconnected { reason: Arc::from("closed by the broker") }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(disconnected(&error)),
        }
    }
}

/// The next whole frame without its prefix, or room for what is missing of it.
fn next_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, LaneError> {
    let Some(prefix) = buffer.first_chunk() else {
        buffer.reserve(READ_BYTES);
        return Ok(None);
    };
    let size = frame::size(*prefix, limits::RESPONSE_BYTES_MAX)
        .map_err(|error| LaneError::Disconnected { reason: Arc::from(error.to_string()) })?;
    let missing = (frame::PREFIX_LEN + size).saturating_sub(buffer.len());
    if missing > 0 {
        buffer.reserve(missing.min(buffer.len().max(FRAME_BYTES_TRUSTED)));
        return Ok(None);
    }
    buffer.advance(frame::PREFIX_LEN);
    Ok(Some(buffer.split_to(size).freeze()))
}

fn disconnected(error: &io::Error) -> LaneError {
    LaneError::Disconnected { reason: Arc::from(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_as_they_come_in_and_a_hostile_length_is_refused() {
        let mut buffer = BytesMut::new();
        assert_eq!(next_frame(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[0, 0, 0, 2, 7]);
        assert_eq!(next_frame(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0xff]);
        assert_eq!(next_frame(&mut buffer), Ok(Some(Bytes::from_static(&[7, 8]))));
        assert_eq!(next_frame(&mut buffer), Ok(Some(Bytes::new())));
        assert_eq!(next_frame(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[0xff, 0xff, 0xff]);
        assert!(next_frame(&mut buffer).is_err());
    }

    #[test]
    fn length_prefix_alone_allocates_little() {
        let mut buffer = BytesMut::from(&(100_i32 << 20).to_be_bytes()[..]);
        assert_eq!(next_frame(&mut buffer), Ok(None));
        assert!(buffer.capacity() <= 2 * FRAME_BYTES_TRUSTED);
    }
}
