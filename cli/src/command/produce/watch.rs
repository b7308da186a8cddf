//! Says when a broker does not acknowledge what it is sent, and when it does again.

use indicatif::ProgressBar;
use kappa_client::{Backlog, Producer};
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

/// How long nothing is acknowledged before that is said.
const STALLED: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Watches until the producer has stopped at a record that was not delivered.
pub(super) async fn until_stopped(producer: Producer, counter: ProgressBar, timeout: Duration) {
    let mut told: Option<Instant> = None;
    while !producer.has_stopped() {
        let backlog = producer.backlog().filter(|backlog| backlog.stalled >= STALLED);
        match (backlog, told) {
            (Some(backlog), None) => {
                say(&counter, &waiting(&backlog, timeout));
                told = Instant::now().checked_sub(backlog.stalled);
            }
            (None, Some(since)) => {
                let seconds = since.elapsed().as_secs();
                say(&counter, &format!("the broker acknowledges again, after {seconds} s"));
                told = None;
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Nobody has to read it: records are delivered all the same.
fn say(counter: &ProgressBar, text: &str) {
    counter.suspend(|| {
        let _ = writeln!(io::stderr(), "kappa: {text}");
    });
}

fn waiting(backlog: &Backlog, timeout: Duration) -> String {
    let Backlog { records, stalled, obstacle } = backlog;
    let reason = match obstacle {
        Some(obstacle) => obstacle.to_string(),
        None => "the broker does not answer".to_owned(),
    };
    format!(
        "nothing was acknowledged for {} s: {reason}; {records} records wait, for up to {} s",
        stalled.as_secs(),
        timeout.as_secs()
    )
}
