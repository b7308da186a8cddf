//! Everything that runs beside the requests: each task by name, with its period, its owner and its end.
//!
//! | task | runs on | period | does |
//! |---|---|---|---|
//! | `kappa-io` | own thread | – | accepts and serves clients ([`crate::server`]) |
//! | `connections` | `kappa-io` | – | one for each client |
//! | `catalog` | own thread | on demand | changes topics and configs ([`crate::topic`]) |
//! | `kappa-commit`, `kappa-sync`, `kappa-journal` | own threads | on demand | make the log durable ([`crate::flush`]) |
//! | `jobs` | background runtime | on demand | what requests have to wait for ([`crate::jobs`]) |
//! | `http` | background runtime | – | health and metrics ([`crate::http`]) |
//! | `maintenance` | background runtime | `log.retention.check.interval.ms` | retention, expiry of producer ids |
//! | `checkpoints` | background runtime | at start, then `log.flush.offset.checkpoint.interval.ms` | how far the logs are whole: recovery begins there |
//! | `shortening` | background runtime | 1 s | rewrites the logs of groups that have grown |
//! | `groups` | background runtime | on demand | session timeouts, rebalances, expiry of offsets ([`crate::group`]) |
//!
//! All of them end when the broker stops: each watches the same flag. One that panics is counted by its name, which
//! `/readyz` and `/metrics` show ([`crate::panics`]); all but `kappa-io`, `http` and `catalog` go on.

use crate::group;
use crate::handler::Node;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time between looks at how long the logs of groups are.
const SHORTENING: Duration = Duration::from_secs(1);

/// Starts the periodic tasks.
pub(crate) fn start(
    node: &Arc<Node>,
    runtime: &Handle,
    stopping: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let (retention, checkpoints) =
        (node.settings.retention_check_interval, node.settings.checkpoint_interval);
    let mut repeat = |name, period, work| {
        tasks.spawn_on(every(name, period, stopping.clone(), node.clone(), work), runtime);
    };
    repeat("maintenance", retention, maintain);
    repeat("checkpoints", checkpoints, checkpoint);
    repeat("shortening", SHORTENING, shorten);
    // What was just recovered need not be again.
    let first = node.clone();
    tasks.spawn_blocking_on(
        move || {
            let _ = first.panics.contain("checkpoints", || checkpoint(&first));
        },
        runtime,
    );
    tasks.spawn_on(named(group::TASK, node, node.groups.clone().run()), runtime);
}

/// A task whose panic is counted under its name.
pub(crate) fn named<T: Future<Output = ()> + Send>(
    name: &'static str,
    node: &Node,
    task: T,
) -> impl Future<Output = ()> + Send + use<T> {
    let watch = node.panics.watch(name);
    async move {
        let _watch = watch;
        task.await;
    }
}

async fn every(
    name: &'static str,
    period: Duration,
    mut stopping: watch::Receiver<bool>,
    node: Arc<Node>,
    work: fn(&Node),
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let node = node.clone();
        // A panic ends this one run, and the next starts afresh.
        let _ = node.jobs.clone().run(move || node.panics.contain(name, || work(&node))).await;
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

/// Shortens the logs of what is folded beside the catalog, which its worker shortens itself.
pub(crate) fn shorten(node: &Node) {
    node.groups.shorten();
}

/// Writes how far the logs are whole.
pub(crate) fn checkpoint(node: &Node) {
    if let Err(error) = node.topics.write_checkpoints() {
        tracing::warn!(%error, "checkpoints not written");
    }
}

#[cfg(test)]
mod tests;
