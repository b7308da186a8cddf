//! Health and metrics over HTTP, on a port and a runtime of their own, so that a scrape never delays a client.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 while clients are served, every partition takes writes and nothing panicked, else 503 with the reason |
//! | `/metrics` | OpenMetrics text |
//!
//! Every answer ends its connection, of which there are few at a time (`front`).
//! What is a state rather than a count (sizes, offsets, lags) is read here, at each scrape.

mod front;

use crate::handler::Node;
use crate::partition::Offsets;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use front::Front;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What `/metrics` says, in bytes: of the broker, and of a partition whose topic has a name of middling length.
const TEXT_BYTES: usize = 64 * 1024;
const PARTITION_TEXT_BYTES: usize = 300;

/// What the pages are made of.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// The broker.
    pub(crate) node: Arc<Node>,
    /// Whether it is about to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Serves until `stopping` turns true.
pub(crate) async fn serve(listener: TcpListener, pages: Pages) {
    let mut stopping = pages.stopping.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        // One request for each connection: who comes next need not wait for who stays.
        .layer(map_response(async |mut response: Response| {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }))
        .with_state(pages);
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    tokio::select! {
        served = axum::serve(Front::new(listener), router) => {
            if let Err(error) = served {
                tracing::error!(%error, "HTTP ended");
            }
        }
        () = stopped => {}
    }
}

async fn ready(State(pages): State<Pages>) -> impl IntoResponse {
    readiness(&pages)
}

/// Whether clients are served as they should be; why not, in words.
pub(crate) fn readiness(pages: &Pages) -> (StatusCode, String) {
    if *pages.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let broken: Vec<String> = pages
        .node
        .topics
        .all()
        .iter()
        .flat_map(|topic| {
            let partitions = topic.partitions();
            let broken = (0..).zip(partitions.iter()).filter(|(_, partition)| partition.is_broken());
            broken.map(|(index, _)| format!("{}-{index}", topic.name)).collect::<Vec<_>>()
        })
        .collect();
    let panicked: Vec<&str> = pages.node.panics.counts().iter().map(|(name, _)| *name).collect();
    let mut reasons = String::new();
    if !broken.is_empty() {
        reasons += &format!("partitions that refuse writes: {}\n", broken.join(", "));
    }
    if !panicked.is_empty() {
        reasons +=
            &format!("panicked: {}; restart the broker and report what its log says\n", panicked.join(", "));
    }
    match reasons.as_str() {
        "" => (StatusCode::OK, "ready\n".to_owned()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    match metrics_text(&pages) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// All metrics in OpenMetrics' format.
pub(crate) fn metrics_text(pages: &Pages) -> Result<String, fmt::Error> {
    let node = &pages.node;
    node.metrics.in_flight_bytes.set(i64::try_from(node.budget.used()).unwrap_or(i64::MAX));
    let partitions: usize = node.topics.all().iter().map(|topic| topic.partitions().len()).sum();
    // Grown step by step, it would be there twice.
    let mut text = String::with_capacity(TEXT_BYTES + partitions * PARTITION_TEXT_BYTES);
    let mut states = Registry::with_prefix("kappa");
    states.register_collector(Box::new(States { node: node.clone() }));
    encode_registry(&mut text, node.metrics.registry())?;
    encode(&mut text, &states)?;
    Ok(text)
}

/// Sizes, offsets and lags as they are at a scrape.
#[derive(Debug)]
struct States {
    node: Arc<Node>,
}

impl Collector for States {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.partitions(&mut encoder)?;
        self.groups(&mut encoder)?;
        self.panics(&mut encoder)?;
        let flush = self.node.topics.env().flush.stats();
        let counts = [
            ("journal_commits", "Commits by the journal, each one sync for many partitions", flush.commits),
            (
                "journal_committed_partitions",
                "Partitions in commits by the journal",
                flush.committed_partitions,
            ),
            ("flushes", "Syncs of segments, each of one partition", flush.syncs),
            ("flush_failures", "Commits by the journal and syncs of segments that failed", flush.failures),
            (
                "flushed_bytes",
                "Bytes in synced segments; what the journal committed comes to them later",
                flush.bytes,
            ),
        ];
        for (name, help, value) in counts {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let group_bytes = self.node.groups.bytes() as u64;
        let producers = self.node.topics.env().producers.count() as u64;
        let now = [
            (
                "groups_bytes",
                "Bytes of what members of groups said of themselves and were given",
                group_bytes,
            ),
            (
                "producers",
                "Producers that partitions remember, one for each partition that it wrote to",
                producers,
            ),
            ("dirty_bytes", "Bytes appended and in no synced segment yet", flush.dirty_bytes),
            ("held_producers", "Producers that wait until fewer bytes are dirty", flush.held_producers),
        ];
        for (name, help, value) in now {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        let topics = i64::try_from(self.node.topics.count()).unwrap_or(i64::MAX);
        let metric = encoder.encode_descriptor("topics", "Topics", None, MetricType::Gauge)?;
        ConstGauge::new(topics).encode(metric)
    }
}

/// A partition at a scrape.
struct Figures {
    topic: Arc<str>,
    partition: String,
    offsets: Offsets,
    size_bytes: u64,
    segments: usize,
}

type PartitionValue = fn(&Figures) -> i64;

const PARTITION_VALUES: [(&str, &str, PartitionValue); 5] = [
    ("log_size_bytes", "Bytes of a partition's segments", |p| p.size_bytes.cast_signed()),
    ("log_segments", "Segments of a partition", |p| i64::try_from(p.segments).unwrap_or(i64::MAX)),
    ("log_start_offset", "First offset that can be read", |p| p.offsets.log_start),
    ("high_watermark", "First offset that is not shown yet", |p| p.offsets.high_watermark),
    ("log_end_offset", "Next offset to be assigned", |p| p.offsets.log_end),
];

impl States {
    /// Looks at each partition once, under its lock once, and then writes the families one after the other.
    fn partitions(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = Vec::new();
        for topic in self.node.topics.all() {
            for (index, partition) in (0i32..).zip(topic.partitions().iter()) {
                let (offsets, size_bytes, segments) = partition.figures();
                let (topic, partition) = (topic.name.clone(), index.to_string());
                all.push(Figures { topic, partition, offsets, size_bytes, segments });
            }
        }
        for (name, help, value) in PARTITION_VALUES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for figures in &all {
                let labels = [("topic", &*figures.topic), ("partition", figures.partition.as_str())];
                let metric = family.encode_family(&labels)?;
                ConstGauge::new(value(figures)).encode(metric)?;
            }
        }
        Ok(())
    }

    fn panics(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Panics of threads and tasks, by name";
        let mut family = encoder.encode_descriptor("panics", help, None, MetricType::Counter)?;
        for (task, count) in self.node.panics.counts() {
            let labels = [("task", task)];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }

    fn groups(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Records between a group's committed offset and the high watermark";
        let mut family = encoder.encode_descriptor("group_lag", help, None, MetricType::Gauge)?;
        for lag in self.node.groups.lags() {
            let labels = [
                ("group", lag.group.to_string()),
                ("topic", lag.topic.to_string()),
                ("partition", lag.partition.to_string()),
            ];
            let metric = family.encode_family(&labels)?;
            ConstGauge::new(lag.lag).encode(metric)?;
        }
        Ok(())
    }
}
