//! What an application says of itself while it starts, restores, runs and ends.

use crate::cluster::{Cluster, settle};
use kappa_streams::{
    App, AppError, Builder, State, Topology,
    codec::{Codec, CodecError, I64, Utf8},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn write(cluster: &Cluster, records: std::ops::Range<i64>) {
    cluster.write("in", records.map(|at| (0, format!("k{at}"), at.to_string(), at))).await;
}

/// Numbers that are decoded only while nobody holds them.
#[derive(Debug, Clone, Copy)]
struct Held;

static HOLD: AtomicBool = AtomicBool::new(false);

impl Codec for Held {
    type Item = i64;

    fn encode(&self, item: &i64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        I64.encode(item, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        while HOLD.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        I64.decode(bytes)
    }
}

fn summed() -> Topology {
    let b = Builder::new("summed");
    b.stream("in", (Utf8, Utf8)).group_by_key().aggregate(
        "sums",
        Held,
        || 0,
        |_, value, sum| sum + value.len() as i64,
    );
    b.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_tells_what_it_is_doing_and_how_far_it_is_restored() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 2).await;
    write(&cluster, 0..500).await;
    let app = App::start(&summed(), cluster.config().workers(2)).await.unwrap();
    let mut states = app.states();
    timeout(PATIENCE, app.running()).await.expect("it comes to run").unwrap();
    assert_eq!((app.state(), *states.borrow_and_update()), (State::Running, State::Running));
    settle(&app).await;
    let text = app.prometheus();
    for line in [
        "kappa_streams_records_in_total{application=\"summed\",generation=\"0\"} 500",
        "kappa_streams_state{application=\"summed\",generation=\"0\",state=\"running\"} 1",
        "kappa_streams_tasks{application=\"summed\",generation=\"0\"} 2",
    ] {
        assert!(text.contains(line), "{text}");
    }
    app.close().await.unwrap();
    assert_eq!(app.state(), State::Closed);
    assert!(states.has_changed().unwrap_or(true));
    assert!(matches!(app.running().await, Err(AppError::Closed)));

    HOLD.store(true, Ordering::Relaxed);
    let app = App::start(&summed(), cluster.config()).await.unwrap();
    // Of the two partitions one holds all records; its store waits for its first.
    let restoring = async {
        loop {
            let restoring = app.restoring();
            if app.state() == State::Rebalancing && !restoring.is_empty() {
                return restoring;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let restoring = timeout(PATIENCE, restoring).await;
    HOLD.store(false, Ordering::Relaxed);
    let restoring = restoring.expect("it tells what it restores");
    let [store] = &restoring[..] else { panic!("one store has something to restore: {restoring:?}") };
    assert_eq!((&*store.store, store.partition, store.of), ("sums", 0, 500));
    assert!((0..=500).contains(&store.done), "{store:?}");
    timeout(PATIENCE, app.running()).await.expect("it comes to run").unwrap();
    assert_eq!(app.restoring(), []);
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_a_state_and_ends_the_wait_for_running() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..1).await;
    let b = Builder::new("failing");
    b.stream("in", (Utf8, Utf8)).try_filter(|_, _| Err::<bool, _>("no")).to("out", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    let mut states = app.states();
    timeout(PATIENCE, states.wait_for(|state| *state == State::Failed)).await.expect("it fails").unwrap();
    let error = app.running().await.unwrap_err().to_string();
    for part in ["\"in/filter\"", "in-0 offset 0", ": no;"] {
        assert!(error.contains(part), "{error} does not say {part}");
    }
    app.close().await.unwrap_err();
    assert_eq!(app.state(), State::Failed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_takes_no_longer_than_it_may() {
    static BUSY: AtomicBool = AtomicBool::new(true);
    static SEEN: AtomicBool = AtomicBool::new(false);
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..1).await;
    let b = Builder::new("stuck");
    b.stream("in", (Utf8, Utf8))
        .peek(|_| {
            SEEN.store(true, Ordering::Relaxed);
            while BUSY.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .to("out", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    let seen = async {
        while !SEEN.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, seen).await.expect("the record is processed");
    let closing = Instant::now();
    let closed = app.close_within(Duration::from_millis(200)).await;
    assert!(matches!(closed, Err(AppError::StillClosing { .. })), "{closed:?}");
    assert!(closing.elapsed() < Duration::from_secs(5), "{:?}", closing.elapsed());
    assert_eq!(app.state(), State::Closing);
    BUSY.store(false, Ordering::Relaxed);
    timeout(PATIENCE, app.close()).await.expect("it ends by itself").unwrap();
    assert_eq!(app.state(), State::Closed);
    app.close_within(Duration::from_millis(200)).await.unwrap();
    cluster.stop().await;
}
