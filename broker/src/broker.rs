//! The broker as a value: start it, talk to it, stop it. Several may live in one process.

use crate::background;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{BrokerConfig, Settings};
use crate::data_dir::{DataDir, DataDirError};
use crate::disk::{Disk, RealDisk};
use crate::dispatch::{self, APIS};
use crate::flush::{FlushQueue, Flusher};
use crate::group::{GroupCoordinator, OpenGroupsError};
use crate::handler::fetch::Sessions;
use crate::handler::{Advertised, Node};
use crate::http::{self, Pages};
use crate::jobs::Jobs;
use crate::journal::{Journal, JournalConfig};
use crate::log::{StorageError, release_reserve, restore_start_reserve};
use crate::metrics::Metrics;
use crate::panics::Panics;
use crate::partition::{PartitionEnv, ProducerMemory};
use crate::server;
use crate::topic::{CatalogWorker, OpenError, REPAIR, Topics};
use kappa_protocol::{Context, Reply, Request, Service};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Threads that may wait for the disk at a time.
const BLOCKING_THREADS_MAX: usize = 4;

/// How long work that waits for the disk may take to end when a broker is dropped.
const ABANDON_GRACE: Duration = Duration::from_secs(10);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not ours, not free, or not readable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The journal cannot be read or written.
    #[error("the journal cannot be used: {0}; {REPAIR}")]
    Journal(#[from] StorageError),
    /// The topics cannot be opened.
    #[error(transparent)]
    Topics(#[from] OpenError),
    /// The groups cannot be loaded.
    #[error(transparent)]
    Groups(#[from] OpenGroupsError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address with {flag}")]
    Listen {
        /// The address.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `--advertise` is not an address.
    #[error(
        "cannot advertise {0:?}: clients connect to it, so --advertise takes a HOST:PORT with a name or an address \
         that they can reach and a port that is not 0"
    )]
    Advertise(String),
    /// A thread or a runtime could not be started.
    #[error("cannot start {what}: {source}")]
    Thread {
        /// Its name.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a broker did not stop cleanly. Nothing acknowledged is lost; the next start checks the log.
#[derive(Debug, thiserror::Error)]
#[error("stopped, but not cleanly: {0}")]
pub struct StopError(String);

/// Why a folded state cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("no dump: {0}")]
pub struct DumpError(String);

/// A running broker.
///
/// Dropping it without [`Broker::stop`] is like killing it: what was acknowledged is kept, and the next start recovers.
#[derive(Debug)]
pub struct Broker {
    node: Arc<Node>,
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    stopping: watch::Sender<bool>,
    running: Option<Running>,
}

/// What has to be ended, in this order.
#[derive(Debug)]
struct Running {
    io: JoinHandle<()>,
    tasks: JoinSet<()>,
    catalog: JoinHandle<()>,
    flusher: Flusher,
    runtime: Runtime,
    data_dir: DataDir,
}

/// What the system said, if that is what an error comes from.
pub(crate) fn system_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| {
        let shared = cause.downcast_ref::<Arc<io::Error>>().map(|error| &**error);
        shared.or_else(|| cause.downcast_ref::<io::Error>())
    })
}

fn lacks_room(error: &StartError) -> bool {
    system_error(error).is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
}

/// A broker's state, opened, with nothing running yet: what threads, sockets and timers are put around.
pub(crate) struct Assembly {
    pub(crate) node: Arc<Node>,
    pub(crate) catalog: CatalogWorker,
    pub(crate) data_dir: DataDir,
}

impl Assembly {
    /// Takes the data directory and recovers what a crash left, with the room of the reserve if the disk is full. Blocks
    /// on the disk.
    pub(crate) fn open(
        config: &BrokerConfig,
        disk: Arc<dyn Disk>,
        clock: Clock,
        jobs: Jobs,
        journal: JournalConfig,
    ) -> Result<Self, StartError> {
        let open = || Self::open_once(config, disk.clone(), clock.clone(), jobs.clone(), journal);
        match open() {
            // It begins anew: what was done by halves is found like that of any start that was cut short.
            Err(error) if lacks_room(&error) && release_reserve(&*disk, &config.data_dir) => {
                tracing::warn!(%error, "the disk is full: the reserve is used to start");
                let opened = open()?;
                if let Err(error) = restore_start_reserve(&*disk, &config.data_dir) {
                    tracing::warn!(%error, "no reserve for another start on a full disk");
                }
                Ok(opened)
            }
            opened => opened,
        }
    }

    fn open_once(
        config: &BrokerConfig,
        disk: Arc<dyn Disk>,
        clock: Clock,
        jobs: Jobs,
        journal: JournalConfig,
    ) -> Result<Self, StartError> {
        let layers = config.layers();
        let settings = Settings::new(&layers);
        let mut data_dir = DataDir::open(&*disk, &config.data_dir, settings.node_id)?;
        let metrics = Arc::new(Metrics::new(APIS.iter().map(|api| api.key)));
        let (journal, pieces) = Journal::open(disk.clone(), &config.data_dir, journal)?;
        let flush = FlushQueue::with_journal(clock.clone(), journal, pieces, settings.dirty_bytes_max);
        let observer = metrics.clone();
        flush.observe(move |took| observer.flushed(took));
        let producers = ProducerMemory::new(settings.producers_bytes_max);
        let env = PartitionEnv { disk: disk.clone(), clock: clock.clone(), flush, producers };
        let (topics, catalog) =
            Topics::open(env, &config.data_dir, data_dir.is_layout_1, &layers.fixed, &settings)?;
        if data_dir.is_layout_1 {
            topics.write_checkpoints().map_err(|error| OpenError::Catalog(Box::new(error)))?;
            data_dir.upgrade(&*disk)?;
        }
        let panics = Panics::default();
        let topics = Arc::new(topics.reporting_to(panics.clone()));
        topics.env().flush.begin()?;
        let groups = Arc::new(GroupCoordinator::open(topics.clone(), settings.group.clone(), clock)?);
        let told = Arc::downgrade(&groups);
        topics.on_deletion(move |deleted| {
            told.upgrade().is_none_or(|groups| groups.drop_offsets_of(|name| deleted.contains(name)))
        });
        let budget = Budget::new(settings.in_flight_bytes_max);
        let node = Arc::new(Node {
            cluster_id: data_dir.cluster_id.clone(),
            topics,
            groups,
            metrics,
            apis: APIS,
            jobs: jobs.reporting_to(panics.clone()),
            panics,
            sessions: Sessions::new(settings.fetch_sessions_max, &budget),
            budget,
            large_requests: tokio::sync::Semaphore::new(1),
            advertised: OnceLock::new(),
            settings,
        });
        Ok(Self { node, catalog, data_dir })
    }
}

impl Broker {
    /// Starts a broker: opens the data directory, recovers what a crash left, and serves.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub async fn start(config: BrokerConfig) -> Result<Broker, StartError> {
        let (started, outcome) = oneshot::channel();
        // Recovery waits for the disk for as long as it takes, which no async runtime should.
        let thread = std::thread::Builder::new().name("kappa-start".into());
        thread
            .spawn(move || {
                let _ = started.send(Broker::start_blocking(&config));
            })
            .map_err(|source| StartError::Thread { what: "kappa-start", source })?;
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_) => Err(StartError::Thread {
                what: "kappa-start",
                source: io::Error::other("it panicked: see the log"),
            }),
        }
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_blocking(config: &BrokerConfig) -> Result<Broker, StartError> {
        let (listener, address) = listen(&config.listen, "--listen")?;
        let http = config.http.as_deref().map(|address| listen(address, "--http")).transpose()?;
        let advertised = advertised(config.advertise.as_deref(), &config.listen, address)?;
        let runtime = background_runtime()?;
        let jobs = Jobs::on(runtime.handle().clone());
        let Assembly { node, catalog, data_dir } =
            Assembly::open(config, RealDisk::shared(), Clock::System, jobs, JournalConfig::default())?;
        let _ = node.advertised.set(advertised);
        let flusher = Flusher::reporting_to(node.panics.clone(), node.topics.env().flush.clone())
            .map_err(|source| StartError::Thread { what: "kappa-flush", source })?;
        let catalog = std::thread::Builder::new()
            .name("kappa-catalog".into())
            .spawn(move || catalog.run())
            .map_err(|source| StartError::Thread { what: "kappa-catalog", source })?;

        let (stopping, stop) = watch::channel(false);
        let mut tasks = JoinSet::new();
        background::start(&node, runtime.handle(), &stop, &mut tasks);
        let mut http_address = None;
        if let Some((listener, address)) = http {
            let listener = into_tokio(listener, &runtime)?;
            let pages = Pages { node: node.clone(), stopping: stop.clone() };
            let served = background::named("http", &node, http::serve(listener, pages));
            tasks.spawn_on(served, runtime.handle());
            http_address = Some(address);
        }
        let io = start_io(node.clone(), listener, stop)?;
        let running = Running { io, tasks, catalog, flusher, runtime, data_dir };
        Ok(Broker { node, address, http_address, stopping, running: Some(running) })
    }

    /// Where clients are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are served, if they are.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// What its handlers work on.
    #[cfg(test)]
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// An ordered lane into this broker with no socket and no codec. Batches are shared as they are.
    pub fn lane(&self) -> Arc<dyn Service> {
        Arc::new(Lane { node: self.node.clone() })
    }

    /// The catalog's folded state as text, the same for the same state: what replaying its topic must give again.
    ///
    /// # Errors
    /// The catalog cannot be read, or the broker is stopping.
    pub fn catalog_dump(&self) -> Result<String, DumpError> {
        let dump = self.node.topics.dump();
        dump.map_err(|error| DumpError(error.to_string()))
    }

    /// The groups' folded state as text, as [`Broker::catalog_dump`].
    ///
    /// # Errors
    /// The offsets' topic cannot be read.
    pub fn group_dump(&self) -> Result<String, DumpError> {
        self.node.groups.dump().map_err(|error| DumpError(error.to_string()))
    }

    /// Long polls and acknowledgements that wait on some partition now.
    pub fn parked(&self) -> usize {
        let topics = self.node.topics.all();
        let partitions =
            topics.iter().flat_map(|topic| topic.partitions().iter().cloned().collect::<Vec<_>>());
        partitions.map(|partition| partition.waiter_counts()).map(|(syncs, records)| syncs + records).sum()
    }

    /// Answers what is in line, syncs everything, and leaves the mark of a clean stop.
    ///
    /// # Errors
    /// The disk failed on the way: the broker has stopped all the same, and the next start will check the log.
    pub async fn stop(mut self) -> Result<(), StopError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (node, stopping) = (self.node.clone(), self.stopping.clone());
        let (stopped, outcome) = oneshot::channel();
        let thread = std::thread::Builder::new().name("kappa-stop".into());
        thread
            .spawn(move || {
                let _ = stopped.send(running.stop(&node, &stopping));
            })
            .map_err(|error| StopError(error.to_string()))?;
        outcome.await.unwrap_or_else(|_| Err(StopError("the stopping thread panicked".into())))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.stopping.send_replace(true);
        let node = &self.node;
        // An async runtime lets no thread of its own wait for another runtime's end.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("kappa-drop".into());
            if let Err(error) = thread.spawn_scoped(scope, || running.abandon(node)) {
                tracing::error!(%error, "no thread to end the broker in order");
            }
        });
    }
}

impl Running {
    /// Ends everything that reaches the disk, and only then gives the data directory back.
    fn abandon(self, node: &Node) {
        let Running { io, mut tasks, catalog, flusher, runtime, data_dir } = self;
        node.topics.end_changes();
        if catalog.join().is_err() {
            tracing::error!("the catalog's worker panicked");
        }
        // Appends are refused first, so that neither connections nor lanes bring up anything more to do.
        node.topics.abandon();
        node.groups.stop();
        let _ = io.join();
        tasks.abort_all();
        flusher.stop();
        runtime.shutdown_timeout(ABANDON_GRACE);
        drop(data_dir);
    }

    fn stop(self, node: &Node, stopping: &watch::Sender<bool>) -> Result<(), StopError> {
        let Running { io, mut tasks, catalog, flusher, runtime, data_dir } = self;
        stopping.send_replace(true);
        node.groups.stop();
        let served = io.join();
        runtime.block_on(async { while tasks.join_next().await.is_some() {} });
        node.topics.end_changes();
        if catalog.join().is_err() {
            tracing::error!("the catalog's worker panicked");
        }
        let closed = node.topics.close();
        flusher.stop();
        runtime.shutdown_background();
        drop(data_dir);
        closed.map_err(|error| StopError(error.to_string()))?;
        served.map_err(|_| StopError("the I/O thread panicked".into()))
    }
}

/// A lane of an application that embeds the broker.
#[derive(Debug)]
struct Lane {
    node: Arc<Node>,
}

impl Service for Lane {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let key = request.api_key();
        if let Some(metrics) = self.node.metrics.api(key) {
            metrics.requests.inc();
        }
        dispatch::call(&self.node, cx, request)
    }
}

fn background_runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("kappa-background")
        .enable_all()
        .build()
        .map_err(|source| StartError::Thread { what: "kappa-background", source })
}

fn listen(address: &str, flag: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address: address.to_owned(), flag, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn into_tokio(listener: TcpListener, runtime: &Runtime) -> Result<tokio::net::TcpListener, StartError> {
    let _entered = runtime.enter();
    tokio::net::TcpListener::from_std(listener).map_err(|source| StartError::Thread { what: "http", source })
}

/// What clients are told: `--advertise`, else the name in `--listen` with the port that was bound.
fn advertised(advertise: Option<&str>, listen: &str, bound: SocketAddr) -> Result<Advertised, StartError> {
    if let Some(text) = advertise {
        let wrong = || StartError::Advertise(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (host, port) = (unbracketed(host), port.parse().map_err(|_| wrong())?);
        return if port != 0 && is_host(host) {
            Ok(Advertised { host: host.into(), port })
        } else {
            Err(wrong())
        };
    }
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = match bound.ip() {
        // No client can connect to "any address".
        ip if ip.is_unspecified() => "127.0.0.1".into(),
        _ => unbracketed(host).into(),
    };
    Ok(Advertised { host, port: bound.port() })
}

/// Whether a client may connect to it: a name, or an address of one machine.
fn is_host(host: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    match host.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified() && !address.is_multicast(),
        Err(_) => !host.is_empty() && host.chars().all(is_part),
    }
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The one thread that serves all clients.
fn start_io(
    node: Arc<Node>,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let failed = |source| StartError::Thread { what: "kappa-io", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let listener = into_tokio(listener, &runtime)?;
    std::thread::Builder::new()
        .name("kappa-io".into())
        .spawn(move || {
            let _watch = node.panics.watch("kappa-io");
            runtime.block_on(server::serve(node.clone(), listener, stop));
        })
        .map_err(failed)
}

#[cfg(test)]
mod held;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, Operation, SimulatedDisk};
    use std::path::Path;

    #[test]
    fn a_start_on_a_full_disk_has_the_room_of_the_reserve() {
        for has_reserve in [true, false] {
            let disk = SimulatedDisk::new(1);
            disk.create_dir(Path::new("/data")).unwrap();
            let runtime = background_runtime().unwrap();
            let open = |disk: &SimulatedDisk| {
                let (config, jobs) = (BrokerConfig::new("/data"), Jobs::on(runtime.handle().clone()));
                Assembly::open(&config, Arc::new(disk.clone()), Clock::System, jobs, JournalConfig::default())
            };
            drop(open(&disk).unwrap());
            let disk = disk.process_kill();
            if !has_reserve {
                assert!(release_reserve(&disk, Path::new("/data")));
            }
            let (operation, error) = (Operation::Open, io::ErrorKind::StorageFull);
            disk.inject(Fault { operation, path_contains: ".log".into(), after: 0, times: 1, error });
            let opened = open(&disk).map(drop);
            assert_eq!(opened.is_ok(), has_reserve, "{opened:?}");
            if has_reserve {
                assert!(release_reserve(&disk.process_kill(), Path::new("/data")), "for another start");
            }
        }
    }

    #[test]
    fn only_what_a_client_can_connect_to_is_advertised() {
        let bound = "127.0.0.1:9092".parse().unwrap();
        let advertise = |text| advertised(Some(text), "127.0.0.1:9092", bound);
        for text in
            ["0.0.0.0:9092", "[::]:9092", ":::9092", ":9092", "example.org", "example.org:", "example.org:0"]
        {
            assert!(matches!(advertise(text), Err(StartError::Advertise(_))), "{text}");
        }
        for text in ["http://example.org:9092", "a b:1", "[]:1", "example.org:99999", "224.0.0.1:9092", ""] {
            assert!(matches!(advertise(text), Err(StartError::Advertise(_))), "{text}");
        }
        for (text, host) in [
            ("example.org:9092", "example.org"),
            ("kafka_1:9092", "kafka_1"),
            ("10.0.0.7:1", "10.0.0.7"),
            ("[::1]:9092", "::1"),
        ] {
            assert_eq!(&*advertise(text).unwrap().host, host);
        }
        assert_eq!(
            &*advertised(None, "0.0.0.0:9092", "0.0.0.0:9092".parse().unwrap()).unwrap().host,
            "127.0.0.1"
        );
    }
}
