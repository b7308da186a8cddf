//! Every metric of the broker: its name, its help, and the handle by which it is counted.
//!
//! What is counted per request is resolved to a handle when the broker starts, so counting is an atomic addition. What
//! is a state (sizes, offsets, lags) is read when someone asks, by [`crate::http`].

use kappa_protocol::{ApiKey, ErrorCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Upper bounds of the latency buckets in seconds: 50 us to 30 s.
const LATENCY_BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0,
];

/// No error code is as large.
const ERROR_CODES_END: i16 = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    api: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    error: String,
}

/// What is counted of one API.
#[derive(Clone, Debug)]
pub(crate) struct ApiMetrics {
    /// Requests read.
    pub(crate) requests: Counter,
    /// From a request read to its answer ready, in seconds.
    pub(crate) latency: Histogram,
}

/// Handles of everything that is counted while the broker runs.
#[derive(Debug)]
pub(crate) struct Metrics {
    apis: Vec<Option<ApiMetrics>>,
    errors: Family<ErrorLabel, Counter>,
    /// Bytes of frames read from clients.
    pub(crate) bytes_in: Counter,
    /// Bytes of frames written to clients.
    pub(crate) bytes_out: Counter,
    /// Bytes of record batches appended for clients.
    pub(crate) appended_bytes: Counter,
    /// Records appended for clients.
    pub(crate) appended_records: Counter,
    /// Bytes of record batches given to clients.
    pub(crate) fetched_bytes: Counter,
    /// Fetches that had to wait for the disk.
    pub(crate) cold_reads: Counter,
    /// Connections open now.
    pub(crate) connections: Gauge,
    /// Connections accepted.
    pub(crate) connections_accepted: Counter,
    /// Connections closed at once: too many.
    pub(crate) connections_refused: Counter,
    /// Connections closed for what they sent.
    pub(crate) malformed_frames: Counter,
    /// Bytes of requests and answers that connections hold now.
    pub(crate) in_flight_bytes: Gauge,
    /// How long commits by the journal and syncs of segments take, in seconds.
    pub(crate) flush_latency: Histogram,
    registry: Registry,
}

impl Metrics {
    /// Registers everything; `served` are the APIs that are answered.
    pub(crate) fn new(served: impl Iterator<Item = ApiKey>) -> Self {
        let mut registry = Registry::with_prefix("kappa");
        let requests = Family::<ApiLabel, Counter>::default();
        let latency = Family::<ApiLabel, Histogram>::new_with_constructor(latency_histogram);
        let errors = Family::<ErrorLabel, Counter>::default();
        registry.register("requests", "Requests read, by API", requests.clone());
        registry.register(
            "request_latency_seconds",
            "From a request read to its answer ready, by API",
            latency.clone(),
        );
        registry.register("errors", "Errors answered, by code", errors.clone());
        // Each is there before it is answered: what appears with its first error is no rise to who watches.
        for code in (-1..ERROR_CODES_END).map(ErrorCode::from).filter(|code| !code.is_none()) {
            drop(errors.get_or_create(&ErrorLabel { error: code.name().to_owned() }));
        }
        let mut apis = Vec::new();
        for key in served {
            let label = ApiLabel { api: key.name().to_owned() };
            let metrics = ApiMetrics {
                requests: requests.get_or_create(&label).clone(),
                latency: latency.get_or_create(&label).clone(),
            };
            let index = usize::try_from(key as i16).unwrap_or_default();
            if apis.len() <= index {
                apis.resize(index + 1, None);
            }
            if let Some(slot) = apis.get_mut(index) {
                *slot = Some(metrics);
            }
        }
        let flush_latency = latency_histogram();
        let help = "How long commits by the journal and syncs of segments take";
        registry.register("flush_latency_seconds", help, flush_latency.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let bytes_in = counter("received_bytes", "Bytes of frames read from clients");
        let bytes_out = counter("sent_bytes", "Bytes of frames written to clients");
        let appended_bytes = counter("appended_bytes", "Bytes of record batches appended for clients");
        let appended_records = counter("appended_records", "Records appended for clients");
        let fetched_bytes = counter("fetched_bytes", "Bytes of record batches given to clients");
        let cold_reads = counter("cold_reads", "Fetches that had to wait for the disk");
        let connections_accepted = counter("connections_accepted", "Connections accepted");
        let connections_refused = counter("connections_refused", "Connections closed at once: too many");
        let malformed_frames = counter("malformed_frames", "Connections closed for what they sent");
        let (connections, in_flight_bytes) = (Gauge::default(), Gauge::default());
        registry.register("connections", "Connections open now", connections.clone());
        registry.register(
            "in_flight_bytes",
            "Bytes of requests and answers that connections hold now",
            in_flight_bytes.clone(),
        );
        Self {
            apis,
            errors,
            bytes_in,
            bytes_out,
            appended_bytes,
            appended_records,
            fetched_bytes,
            cold_reads,
            connections,
            connections_accepted,
            connections_refused,
            malformed_frames,
            in_flight_bytes,
            flush_latency,
            registry,
        }
    }

    /// The handles of an API; `None` for one that is not served.
    pub(crate) fn api(&self, key: ApiKey) -> Option<&ApiMetrics> {
        self.apis.get(usize::try_from(key as i16).ok()?)?.as_ref()
    }

    /// Counts an error that is answered, and returns its number on the wire.
    pub(crate) fn error(&self, code: ErrorCode) -> i16 {
        if !code.is_none() {
            self.errors.get_or_create(&ErrorLabel { error: code.name().to_owned() }).inc();
        }
        code.code()
    }

    /// Counts a commit by the journal or a sync of a segment.
    pub(crate) fn flushed(&self, took: Duration) {
        self.flush_latency.observe(took.as_secs_f64());
    }

    /// What is registered, for writing it out.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}
