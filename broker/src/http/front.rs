//! Connections of the HTTP port: few at a time, one request each, none for long.
//!
//! Invariants: so many descriptors and no more are taken by whoever reaches the port; a connection that sends no request,
//! or does not take its answer, ends. It knows nothing of HTTP but that the server speaks second.

use axum::serve::Listener;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time. Others wait in the kernel's line, where they take no descriptor.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// How long a request may take to come and be worked on.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How long its answer may take to go.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A listener that takes few connections at a time.
#[derive(Debug)]
pub(super) struct Front {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Front {
    /// Takes connections of this listener.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Front {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        // Nobody closes the semaphore.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let deadline = Box::pin(tokio::time::sleep(REQUEST_MAX));
        (Visit { stream, deadline, answering: false, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place and its time.
#[derive(Debug)]
pub(super) struct Visit {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// Whether the answer has begun to go.
    answering: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Visit {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn check_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !std::mem::replace(&mut self.answering, true) {
            self.deadline.as_mut().reset(Instant::now() + ANSWER_MAX);
        }
        self.check(cx)
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_write(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_write(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use tokio::io::AsyncReadExt;

    async fn front() -> (Front, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Front::new(listener), address)
    }

    #[tokio::test]
    async fn so_many_connections_are_taken_and_the_next_when_one_ends() {
        let (mut front, address) = front().await;
        let mut clients = Vec::new();
        for _ in 0..=CONNECTIONS_MAX {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let mut visits = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            visits.push(front.accept().await.0);
        }
        let mut next = pin!(front.accept());
        assert!(poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
        visits.pop();
        next.await;
    }

    #[tokio::test]
    async fn who_asks_for_nothing_is_sent_away() {
        let (mut front, address) = front().await;
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut visit, _) = front.accept().await;
        tokio::time::pause();
        let read = visit.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
