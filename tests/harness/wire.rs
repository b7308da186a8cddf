//! One blocking TCP connection: pipelined typed requests, answers in order, or raw bytes.

use bytes::Bytes;
use kappa_protocol::{ApiKey, Request, RequestMessage, Response, frame};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer: past it the broker hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    next_id: i32,
    waiting: VecDeque<(i32, ApiKey, i16)>,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { stream, next_id: 0, waiting: VecDeque::new() })
    }

    /// Sends a request and does not wait.
    pub(crate) fn send(&mut self, version: i16, request: impl Into<Request>) -> io::Result<()> {
        let request = request.into();
        self.next_id += 1;
        let pieces = frame::encode_request(self.next_id, Some("integration-test"), version, &request)
            .expect("the test chose a version that can carry it");
        self.waiting.push_back((self.next_id, request.api_key(), version));
        self.stream.write_all(&pieces.concat())
    }

    /// Sends a request that gets no answer.
    pub(crate) fn send_unanswered(&mut self, version: i16, request: &Request) -> io::Result<()> {
        self.next_id += 1;
        let pieces = frame::encode_request(self.next_id, Some("integration-test"), version, request)
            .expect("the test chose a version that can carry it");
        self.stream.write_all(&pieces.concat())
    }

    /// The answer to the oldest request that has none yet.
    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        let (id, key, version) = self.waiting.pop_front().expect("something was asked");
        let frame = self.receive_frame()?;
        let (answered, response) = frame::decode_response(key, version, frame)
            .unwrap_or_else(|error| panic!("answer to {key} v{version}: {error}"));
        assert_eq!(answered, id, "answers come in the order of the requests");
        Ok(response)
    }

    /// The typed answer to the oldest request.
    pub(crate) fn receive_as<R: RequestMessage>(&mut self) -> io::Result<R::Response> {
        let response = self.receive()?;
        Ok(R::response(response).unwrap_or_else(|| panic!("an answer to another API than {}", R::KEY)))
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn ask<R: RequestMessage>(&mut self, version: i16, request: R) -> io::Result<R::Response> {
        assert!(self.waiting.is_empty(), "earlier requests still wait for their answers");
        self.send(version, request)?;
        self.receive_as::<R>()
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, without its length prefix.
    pub(crate) fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut prefix = [0; frame::PREFIX_LEN];
        self.stream.read_exact(&mut prefix)?;
        let len = frame::size(prefix, kappa_protocol::limits::RESPONSE_BYTES_MAX).expect("a sane length");
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok(body.into())
    }

    /// How long [`Wire::receive`] waits.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
    }
}
