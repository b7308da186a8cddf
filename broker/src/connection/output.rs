//! What a connection has to send: bytes from memory, and regions of files by `sendfile`.
//!
//! Invariants: pieces go in order; a region is sent only where its bytes are in the page cache, and has the pool read
//! them into it otherwise; one turn sends so much that others are not held up. It knows neither frames nor requests.

use crate::disk::{File, OpenFile};
use crate::jobs::Jobs;
use bytes::Buf;
use kappa_protocol::{Piece, Region};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Pieces of one vectored write.
const WRITE_PIECES_MAX: usize = 64;
/// Bytes of a region that are sent, or read ahead by the pool, at once: every call wakes the receiver.
const SEND_BYTES: usize = 1024 * 1024;
/// Bytes after which a connection lets others have a turn.
const TURN_BYTES: usize = 2 * 1024 * 1024;
/// What a region is counted as: the memory of its place in line.
const REGION_BYTES: usize = 256;

type Warming = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Pieces in line to be sent.
#[derive(Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Bytes of the region in front that were just read ahead.
    warm: usize,
    warming: Option<Warming>,
    turn_is_over: bool,
}

/// Bytes of memory that pieces hold.
pub(super) fn bytes_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(bytes_of_one).sum()
}

fn bytes_of_one(piece: &Piece) -> usize {
    piece.as_bytes().map_or(REGION_BYTES, bytes::Bytes::len)
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, pieces: Vec<Piece>) {
        self.bytes += bytes_of(&pieces);
        self.pieces.extend(pieces);
    }

    /// Whether it stopped sending to let others have a turn; it will be woken again.
    pub(super) fn turn_is_over(&self) -> bool {
        self.turn_is_over
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends what there is; `sent` is told of every part that went. Ready once nothing is left.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        jobs: &Jobs,
        mut sent: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        let mut left = TURN_BYTES;
        self.turn_is_over = false;
        while let Some(front) = self.pieces.front() {
            if left == 0 {
                self.turn_is_over = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let region = match front {
                Piece::Bytes(_) => None,
                Piece::Region(region) => Some(region.clone()),
            };
            let len = match region {
                None => ready!(self.poll_bytes(cx, stream))?,
                Some(region) => ready!(self.poll_region(cx, stream, jobs, &region))?,
            };
            self.advance(len);
            left = left.saturating_sub(len);
            sent(len);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_bytes(&self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(self.pieces.iter().map_while(Piece::as_bytes)) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match ready!(Pin::new(stream).poll_write_vectored(cx, slices))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            len => Poll::Ready(Ok(len)),
        }
    }

    fn poll_region(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        jobs: &Jobs,
        region: &Region,
    ) -> Poll<io::Result<usize>> {
        let Some(OpenFile(file)) = region.file.downcast_ref() else {
            return Poll::Ready(Err(io::Error::other("a region of something that is no file of ours")));
        };
        loop {
            if let Some(warming) = &mut self.warming {
                let warmed = ready!(warming.as_mut().poll(cx));
                self.warming = None;
                warmed?;
            }
            // The socket first: what was found in the cache is sent before it can leave it.
            ready!(stream.poll_write_ready(cx))?;
            if self.warm == 0 {
                let len = region.len.min(SEND_BYTES);
                if !file.is_cached(region.position, len) {
                    self.warm = region.len.min(SEND_BYTES);
                    self.warming = Some(warm(jobs, file, region.position, self.warm));
                    continue;
                }
                self.warm = len;
            }
            let len = region.len.min(self.warm);
            let socket = stream.as_fd();
            match stream.try_io(Interest::WRITABLE, || file.send_at(region.position, len, socket)) {
                // Cut off by a failed sync: the frame can no longer be what its length says.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => {
                    self.warm -= len;
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.warm = 0,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn advance(&mut self, mut len: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > len {
                match piece {
                    Piece::Bytes(bytes) => {
                        bytes.advance(len);
                        self.bytes -= len;
                    }
                    Piece::Region(region) => {
                        region.position += len as u64;
                        region.len -= len;
                    }
                }
                return;
            }
            len -= piece.len();
            self.bytes -= bytes_of_one(piece);
            self.warm = 0;
            self.pieces.pop_front();
        }
    }
}

/// Has the pool read a range into the page cache.
fn warm(jobs: &Jobs, file: &Arc<dyn File>, position: u64, len: usize) -> Warming {
    let file = file.clone();
    let read = jobs.run(move || file.read_at(position, len, &mut Vec::new()).map(drop));
    Box::pin(async move { read.await.unwrap_or_else(|error| Err(io::Error::other(error))) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Mapping, SimulatedDisk};
    use std::os::fd::BorrowedFd;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    /// A file of which so many bytes from the start are in the page cache.
    #[derive(Debug)]
    struct Cold {
        file: Arc<dyn File>,
        cached: AtomicUsize,
    }

    impl File for Cold {
        fn size(&self) -> io::Result<u64> {
            self.file.size()
        }

        fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
            self.cached.fetch_max(position as usize + len, Ordering::Relaxed);
            self.file.read_at(position, len, into)
        }

        fn is_cached(&self, position: u64, len: usize) -> bool {
            position as usize + len <= self.cached.load(Ordering::Relaxed)
        }

        fn send_at(&self, position: u64, len: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
            assert!(self.is_cached(position, len), "the thread that serves everybody waits for the disk");
            self.file.send_at(position, len, socket)
        }

        fn write_at(&self, position: u64, parts: [&[u8]; 2]) -> io::Result<()> {
            self.file.write_at(position, parts)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn map(&self) -> io::Result<Mapping> {
            self.file.map()
        }
    }

    fn file() -> Arc<dyn File> {
        let disk = SimulatedDisk::new(1);
        disk.create_dir(Path::new("/data")).unwrap();
        disk.create(Path::new("/data/log")).unwrap()
    }

    /// Sends pieces and says what came at the other end.
    async fn sent(pieces: Vec<Piece>) -> (io::Result<()>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut receiver = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let receiving = tokio::spawn(async move {
            let mut bytes = Vec::new();
            receiver.read_to_end(&mut bytes).await.unwrap();
            bytes
        });
        let jobs = Jobs::on(tokio::runtime::Handle::current());
        let mut output = Output::default();
        output.push(pieces);
        let outcome = std::future::poll_fn(|cx| output.poll_send(cx, &mut stream, &jobs, |_| ())).await;
        assert!(outcome.is_err() || output.is_empty() && output.bytes() == 0);
        drop(stream);
        (outcome, receiving.await.unwrap())
    }

    #[tokio::test]
    async fn what_is_not_cached_is_read_ahead_elsewhere_and_pieces_keep_their_order() {
        let content: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let file = file();
        file.write_at(0, [&content, &[]]).unwrap();
        let file = Arc::new(OpenFile(Arc::new(Cold { file, cached: AtomicUsize::new(100_000) })));
        let region = |position, len| Piece::Region(Region { file: file.clone(), position, len });
        let pieces = vec![
            Piece::Bytes("head".into()),
            region(50_000, 20_000),
            Piece::Bytes("between".into()),
            region(0, 4_500_000),
            region(7, 1),
        ];
        let expected =
            [b"head", &content[50_000..70_000], b"between", &content[..4_500_000], &content[7..8]].concat();
        let (outcome, came) = sent(pieces).await;
        outcome.unwrap();
        assert!(came == expected, "{} of {} bytes", came.len(), expected.len());
    }

    #[tokio::test]
    async fn a_region_that_was_cut_off_ends_the_connection() {
        let file = file();
        file.write_at(0, [&[7; 1000], &[]]).unwrap();
        let region = Region { file: Arc::new(OpenFile(file)), position: 500, len: 1000 };
        let (outcome, came) = sent(vec![Piece::Region(region), Piece::Bytes("behind".into())]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(came, [7; 500]);
    }
}
