//! The accept loop: takes connections up to a cap, runs each as a task, and ends them gracefully.
//!
//! All of it runs on one thread with its own runtime: a hop between threads costs more than the work of most
//! requests. Knows nothing of frames.

use crate::connection::Connection;
use crate::handler::Node;
use rustix::process::{Resource, getrlimit};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long connections may go on answering once the broker stops.
const STOP_GRACE: Duration = Duration::from_millis(1000);
/// File descriptors that connections leave for the log: a quarter of what the process may have, at most so many.
const DESCRIPTORS_LEFT_MAX: u64 = 64;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves clients until `stopping` turns true, then answers what is in line and returns.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, address)) if !leaves_descriptors(&stream) => {
                node.metrics.connections_refused.inc();
                tracing::warn!(%address, "connection refused: the file descriptors that are left are for the log; \
                               raise the limit of open files (`ulimit -n`, LimitNOFILE=)");
            }
            Ok((stream, address)) if connections.len() < node.settings.connections_max => {
                let watch = node.panics.watch("connections");
                let connection = run(node.clone(), stream, address, stopping.clone());
                connections.spawn(async move {
                    let _watch = watch;
                    connection.await;
                });
            }
            Ok((_, address)) => {
                node.metrics.connections_refused.inc();
                let max = node.settings.connections_max;
                tracing::warn!(%address, max, "connection refused: max.connections are open");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let ended =
        tokio::time::timeout(STOP_GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::debug!(connections = connections.len(), "closed with answers still waiting");
    }
}

/// Whether enough descriptors are free beside this one: the lowest free number is given, so all below it are in use.
fn leaves_descriptors(stream: &TcpStream) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let number = u64::try_from(stream.as_raw_fd()).unwrap_or_default();
    number < limit - (limit / 4).min(DESCRIPTORS_LEFT_MAX)
}

async fn run(node: Arc<Node>, stream: TcpStream, address: SocketAddr, mut stopping: watch::Receiver<bool>) {
    let metrics = node.metrics.clone();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    metrics.connections_accepted.inc();
    metrics.connections.inc();
    let mut connection = Connection::new(node, stream, address);
    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| connection.poll(cx)) => Some(ended),
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.stop();
            poll_fn(|cx| connection.poll(cx)).await
        }
    };
    metrics.connections.dec();
    if let Err(error) = ended {
        if error.is_malformed() {
            metrics.malformed_frames.inc();
        }
        if error.is_ours() {
            tracing::error!(%address, %error, "connection closed: this should not happen");
        } else {
            tracing::debug!(%address, %error, "connection closed");
        }
    }
}
