//! The signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP, all three alike.
//!
//! They are listened for from a command's first step on. Left to their defaults they would do nothing at all to the
//! first process of a container, and end any other one before it has left its group.

use crate::error::Failure;
use std::{fs, future::Future, io};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives the signals; one that comes before it is waited for is not missed.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started the process wants it to outlive its terminal (`nohup`).
    hangup: Option<Signal>,
}

impl Interrupt {
    /// Begins to listen, within a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let hangup = SignalKind::hangup();
        let all = || -> io::Result<Self> {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
            })
        };
        all().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
    }

    /// Waits for the next one.
    pub(crate) async fn received(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hangup => {}
        }
    }

    /// Carries out `work`, unless a signal comes before it is done.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.received() => Err(Failure::interrupted()),
        }
    }
}

/// Whether the process was started with the signal ignored, as far as the system tells.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    ignored >> (kind.as_raw_value() - 1) & 1 == 1
}
