//! Everything that runs beside the requests: each task by name, with its period, its owner and its end.
//!
//! | task | runs on | period | does |
//! |---|---|---|---|
//! | `kappa-io` | own thread | – | accepts and serves clients ([`crate::server`]) |
//! | `kappa-catalog` | own thread | on demand | changes topics and configs ([`crate::topic`]) |
//! | `kappa-flush` | own thread | on demand | syncs the log ([`crate::flush`]) |
//! | `http` | background runtime | – | health and metrics ([`crate::http`]) |
//! | `maintenance` | background runtime | `log.retention.check.interval.ms` | retention, expiry of producer ids |
//! | `checkpoints` | background runtime | at start, then `log.flush.offset.checkpoint.interval.ms` | how far the logs are whole: recovery begins there |
//! | `groups` | background runtime | on demand | session timeouts, rebalances, expiry of offsets ([`crate::group`]) |
//!
//! All of them end when the broker stops: each watches the same flag.

use crate::handler::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Starts the periodic tasks.
pub(crate) fn start(
    node: &Arc<Node>,
    runtime: &Handle,
    stopping: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let (retention, checkpoints) =
        (node.settings.retention_check_interval, node.settings.checkpoint_interval);
    tasks.spawn_on(every(retention, stopping.clone(), node.clone(), maintain), runtime);
    // What was just recovered need not be again.
    let first = node.clone();
    tasks.spawn_blocking_on(move || checkpoint(&first), runtime);
    tasks.spawn_on(every(checkpoints, stopping.clone(), node.clone(), checkpoint), runtime);
    tasks.spawn_on(node.groups.clone().run(), runtime);
}

async fn every(period: Duration, mut stopping: watch::Receiver<bool>, node: Arc<Node>, work: fn(&Node)) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let node = node.clone();
        // A panic ends this one run; it was reported by the panic hook, and the next run starts afresh.
        let _ = node.jobs.clone().run(move || work(&node)).await;
    }
}

/// Retention and what else partitions need now and then.
pub(crate) fn maintain(node: &Node) {
    for topic in node.topics.all() {
        for (index, partition) in (0i32..).zip(topic.partitions().iter()) {
            if let Err(error) = partition.maintain() {
                tracing::warn!(topic = %topic.name, partition = index, %error, "maintenance failed");
            }
        }
    }
}

/// Writes how far the logs are whole.
pub(crate) fn checkpoint(node: &Node) {
    if let Err(error) = node.topics.write_checkpoints() {
        tracing::warn!(%error, "checkpoints not written");
    }
}
