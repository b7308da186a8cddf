//! One lane: an ordered way to one node, which connects when it is needed and again when it broke.
//!
//! Invariant: at most one connection per lane, dialled by one caller at a time while the others wait for it.
//! A lane knows its node's address and nothing of topics or groups.

use super::{
    backoff::Backoff,
    connection::Connection,
    versions::{Versions, newest},
};
use crate::{ClientConfig, ConnectError, RequestError};
use kappa_protocol::{
    ApiKey, Context, LaneError, Principal, Reply, Request, RequestMessage, Response, Service,
    messages::{ApiVersionsRequest, ApiVersionsResponse},
};
use parking_lot::Mutex;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, runtime::Handle, sync::Semaphore, task::JoinHandle, time::Instant};

/// Requests that may wait on one lane; further callers wait for their turn.
const IN_FLIGHT_MAX: usize = 64;

/// What a lane is for. Over TCP each has its own connection, so that what parks on one holds back no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// Produce requests.
    Produce,
    /// Fetch requests that may wait for records.
    Fetch,
    /// Fetch requests that must not queue behind a waiting one.
    CatchUp,
    /// Joining, syncing, heartbeats.
    Group,
    /// Everything else: it is answered soon.
    Admin,
}

/// Where a node is.
#[derive(Clone)]
pub(crate) enum Endpoint {
    /// Across a socket, as `host:port`.
    Tcp(Arc<str>),
    /// In this process.
    InProcess(Arc<dyn Service>),
}

impl Endpoint {
    /// The address for people.
    pub(crate) fn address(&self) -> Arc<str> {
        match self {
            Endpoint::Tcp(address) => address.clone(),
            Endpoint::InProcess(_) => Arc::from("the embedded broker"),
        }
    }

    pub(crate) fn is_same(&self, other: &Endpoint) -> bool {
        match (self, other) {
            (Endpoint::Tcp(a), Endpoint::Tcp(b)) => a == b,
            (Endpoint::InProcess(_), Endpoint::InProcess(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

/// An ordered way to one node.
#[derive(Debug)]
pub struct Lane {
    endpoint: Endpoint,
    address: Arc<str>,
    config: Arc<ClientConfig>,
    runtime: Handle,
    link: Mutex<State>,
    dialing: tokio::sync::Mutex<Redial>,
    turns: Semaphore,
}

#[derive(Debug)]
enum State {
    Down,
    Up(Link),
    Closed,
}

/// When a connection may be tried again.
#[derive(Debug)]
struct Redial {
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// A lane that is connected, with the versions that its node speaks.
#[derive(Clone)]
pub(crate) struct Link {
    service: Arc<dyn Service>,
    /// The same as `service` where there is a socket.
    connection: Option<Arc<Connection>>,
    versions: Arc<Versions>,
    context: Context,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn versions(&self) -> &Versions {
        &self.versions
    }

    fn is_open(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.is_open())
    }

    /// Asks, in `version`. The request has its place in the lane's order when this returns.
    pub(crate) fn call(&self, version: i16, request: impl Into<Request>) -> Reply {
        let context = Context { version, ..self.context.clone() };
        self.service.call(&context, request.into())
    }
}

impl Lane {
    pub(crate) fn new(endpoint: Endpoint, config: Arc<ClientConfig>, runtime: Handle) -> Lane {
        let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
        Lane {
            address: endpoint.address(),
            endpoint,
            config,
            runtime,
            link: Mutex::new(State::Down),
            dialing: tokio::sync::Mutex::new(Redial { backoff, not_before: None }),
            turns: Semaphore::new(IN_FLIGHT_MAX),
        }
    }

    /// The node's address.
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks in the newest version that both sides know; `build` makes the request for it. Connects if need be.
    ///
    /// # Errors
    /// If there is no connection, it breaks, or no answer comes within the client's request timeout. An error code
    /// within the answer is the caller's to find.
    pub async fn request<R: RequestMessage>(
        &self,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        self.request_within(self.config.request_timeout, build).await
    }

    /// [`Lane::request`] with a timeout of its own.
    pub(crate) async fn request_within<R: RequestMessage>(
        &self,
        timeout: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        let _turn = self.turns.acquire().await.map_err(|_| ConnectError::Closed)?;
        let link = self.ready().await?;
        let version = self.version(&link, R::KEY)?;
        let reply = link.call(version, build(version));
        let response = self.answer(&link, R::KEY, reply, timeout).await?;
        R::response(response).ok_or(RequestError::Incomplete { api: R::KEY })
    }

    /// The newest common version of `key`.
    pub(crate) fn version(&self, link: &Link, key: ApiKey) -> Result<i16, RequestError> {
        link.versions.newest(key).ok_or_else(|| RequestError::Unsupported {
            api: key,
            address: self.address.clone(),
            min: key.schema().min,
            max: newest(key),
        })
    }

    /// Waits for a reply of `link`. A connection that does not answer in time is closed, since what follows on it
    /// would wait behind.
    pub(crate) async fn answer(
        &self,
        link: &Link,
        api: ApiKey,
        reply: Reply,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        let outcome = match reply {
            Reply::Now(response) => return Ok(response),
            Reply::None => return Err(RequestError::Incomplete { api }),
            Reply::Later(answer) => tokio::time::timeout(timeout, answer).await,
        };
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let reason = match outcome {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(reason)) => reason,
            Err(_) => LaneError::Timeout { millis },
        };
        if let (LaneError::Timeout { .. }, Some(connection)) = (&reason, &link.connection) {
            connection.close("a request was not answered in time");
        }
        Err(RequestError::Lane { api, address: self.address.clone(), reason })
    }

    /// The connection, if there is one.
    pub(crate) fn open(&self) -> Option<Link> {
        match &*self.link.lock() {
            State::Up(link) if link.is_open() => Some(link.clone()),
            _ => None,
        }
    }

    /// The connection; makes one if there is none, after the wait that earlier failures ask for.
    pub(crate) async fn ready(&self) -> Result<Link, ConnectError> {
        if let Some(link) = self.open() {
            return Ok(link);
        }
        let mut redial = self.dialing.lock().await;
        if let Some(link) = self.open() {
            return Ok(link);
        }
        if let Some(instant) = redial.not_before {
            tokio::time::sleep_until(instant).await;
        }
        if matches!(*self.link.lock(), State::Closed) {
            return Err(ConnectError::Closed);
        }
        // A connection that is lost at once counts as a failure too, so the wait is set before the outcome is known.
        redial.not_before = Some(Instant::now() + redial.backoff.next());
        let link = self.dial().await?;
        redial.backoff.reset();
        let mut state = self.link.lock();
        if matches!(*state, State::Closed) {
            return Err(ConnectError::Closed);
        }
        *state = State::Up(link.clone());
        Ok(link)
    }

    /// Closes the connection; no other will be made. Gives the task that then ends.
    pub(crate) fn close(&self) -> Option<JoinHandle<()>> {
        let state = std::mem::replace(&mut *self.link.lock(), State::Closed);
        let State::Up(Link { connection: Some(connection), .. }) = state else { return None };
        connection.close("the client was closed");
        connection.task()
    }

    async fn dial(&self) -> Result<Link, ConnectError> {
        let (service, connection): (Arc<dyn Service>, _) = match &self.endpoint {
            Endpoint::InProcess(service) => (service.clone(), None),
            Endpoint::Tcp(address) => {
                let connection = Arc::new(self.connect(address.clone()).await?);
                (connection.clone(), Some(connection))
            }
        };
        let context = Context {
            version: 0,
            principal: Principal::anonymous(),
            client_id: Some(Arc::from(self.config.client_id.as_str())),
            client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let mut link = Link { service, connection, versions: Arc::default(), context };
        let versions = self.ask_versions(&link).await.map_err(|reason| ConnectError::NotABroker {
            address: self.address.clone(),
            reason: Arc::from(reason.to_string()),
        })?;
        link.versions = Arc::new(Versions::new(&versions));
        Ok(link)
    }

    /// Connects on the client's runtime, since a socket belongs to the runtime on which it was made.
    async fn connect(&self, address: Arc<str>) -> Result<Connection, ConnectError> {
        let (timeout, runtime) = (self.config.connect_timeout, self.runtime.clone());
        let connecting = self.runtime.spawn(async move {
            let stream = connect(&address, timeout).await?;
            Ok(Connection::start(stream, &runtime))
        });
        connecting.await.unwrap_or(Err(ConnectError::Closed))
    }

    /// Asks in our newest version, and in the oldest if the node does not know it.
    async fn ask_versions(&self, link: &Link) -> Result<ApiVersionsResponse, RequestError> {
        let mut response = ApiVersionsResponse::default();
        for version in [newest(ApiKey::ApiVersions), 0] {
            let request = ApiVersionsRequest {
                client_software_name: "kappa-client".to_owned(),
                client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let reply = link.call(version, request);
            let answer = self.answer(link, ApiKey::ApiVersions, reply, self.config.connect_timeout).await?;
            response = ApiVersionsRequest::response(answer)
                .ok_or(RequestError::Incomplete { api: ApiKey::ApiVersions })?;
            if response.error_code == 0 {
                return Ok(response);
            }
        }
        RequestError::check(ApiKey::ApiVersions, response.error_code, None).map(|()| response)
    }
}

async fn connect(address: &Arc<str>, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let unresolved =
        |reason: &str| ConnectError::Unresolved { address: address.clone(), reason: Arc::from(reason) };
    let unreachable =
        |reason: String| ConnectError::Unreachable { address: address.clone(), reason: reason.into() };
    let candidates = match tokio::time::timeout(timeout, tokio::net::lookup_host(&**address)).await {
        Ok(Ok(candidates)) => candidates,
        Ok(Err(error)) => return Err(unresolved(&error.to_string())),
        Err(_) => return Err(unresolved("no answer from the resolver")),
    };
    let mut failure = unresolved("the name has no address");
    for candidate in candidates {
        match tokio::time::timeout(timeout, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => {
                // Without it, small requests would wait for earlier answers; a failure costs only that.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failure = unreachable(plain(&error)),
            Err(_) => failure = unreachable(format!("no connection within {} ms", timeout.as_millis())),
        }
    }
    Err(failure)
}

/// The operating system's words, without its error number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
