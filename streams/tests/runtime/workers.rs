//! Workers that come and go while an application runs: tasks move with their stores, and nothing is lost or counted twice.

use crate::cluster::{Cluster, settle};
use kappa_client::Admin;
use kappa_streams::{
    App, AppError, Builder, QueryError, Table, Topology,
    codec::{Codec, CodecError, I64, Utf8},
};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

const PARTITIONS: i32 = 4;
const KEYS: i64 = 400;
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers, each time that one is decoded is counted: a store decodes what is restored, and nothing else.
#[derive(Debug, Clone, Copy)]
struct Decoded;

static DECODED: AtomicU64 = AtomicU64::new(0);

impl Codec for Decoded {
    type Item = i64;

    fn encode(&self, item: &i64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        I64.encode(item, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        I64.decode(bytes)
    }
}

/// Counts by a codec of its own.
fn counting<C: Codec<Item = i64>>(application: &str, codec: C) -> (Topology, Table<String, i64>) {
    let b = Builder::new(application);
    let by_key = b.stream("in", (Utf8, Utf8)).group_by("by-key", (Utf8, Utf8), |key, _| key.clone());
    let counts = by_key.aggregate("counts", codec, || 0, |_, _, count| count + 1);
    (b.build().unwrap(), counts)
}

async fn write(cluster: &Cluster, records: std::ops::Range<i64>) {
    let record =
        |at: i64| ((at % i64::from(PARTITIONS)) as i32, format!("k{}", at % KEYS), at.to_string(), at);
    cluster.write("in", records.map(record)).await;
}

/// Waits until so many members of a group have partitions, and the application runs.
async fn spread(cluster: &Cluster, app: &App, group: &str, members: usize) {
    let admin = Admin::new(&cluster.client);
    let is_spread = async {
        loop {
            let groups = admin.describe_groups(&[group]).await.unwrap();
            // Until the first worker has joined there is none.
            if let Ok(group) = &groups[group] {
                let with_some = group.members.iter().filter(|member| !member.assignment.is_empty());
                if group.state == "Stable" && group.members.len() == members && with_some.count() == members {
                    return;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, is_spread).await.expect("every worker gets tasks");
    timeout(PATIENCE, app.running()).await.expect("it comes to run").unwrap();
}

async fn total(app: &App, counts: &Table<String, i64>) -> i64 {
    app.view(counts).all().await.unwrap().iter().map(|(_, row)| row.value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_move_between_workers_without_reading_a_record_of_their_changelogs() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (topology, counts) = counting("handing-over", Decoded);
    let app = App::start(&topology, cluster.config()).await.unwrap();
    write(&cluster, 0..2 * KEYS).await;
    settle(&app).await;
    assert_eq!(DECODED.load(Ordering::Relaxed), 0, "there was nothing to restore");
    for (workers, written) in [(3, 2), (2, 3), (1, 4), (2, 5)] {
        app.set_workers(workers).await.unwrap();
        spread(&cluster, &app, "handing-over", workers).await;
        assert_eq!(total(&app, &counts).await, written * KEYS, "{workers} workers");
        write(&cluster, written * KEYS..(written + 1) * KEYS).await;
        settle(&app).await;
    }
    assert_eq!(DECODED.load(Ordering::Relaxed), 0, "rows were restored");
    app.close().await.unwrap();
    // The test would see it if there were any.
    let app = App::start(&topology, cluster.config()).await.unwrap();
    timeout(PATIENCE, app.running()).await.unwrap().unwrap();
    assert_eq!(total(&app, &counts).await, 6 * KEYS);
    assert!(DECODED.load(Ordering::Relaxed) >= KEYS as u64);
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_and_go_under_load_and_counts_stay_exact() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (topology, counts) = counting("coming-and-going", I64);
    let query_timeout = Duration::from_secs(2);
    let app = App::start(&topology, cluster.config().query_timeout(query_timeout)).await.unwrap();
    let changed = AtomicBool::new(false);
    let writing = async {
        let mut written = 0;
        while !changed.load(Ordering::Relaxed) {
            write(&cluster, written..written + KEYS).await;
            written += KEYS;
        }
        written
    };
    let asking = async {
        let (view, mut answered) = (app.view(&counts), 0);
        while !changed.load(Ordering::Relaxed) {
            let asked = Instant::now();
            match view.get("k7").await {
                Ok(_) => answered += 1,
                Err(QueryError::Incomplete { .. } | QueryError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(asked.elapsed() < query_timeout * 2, "{:?}", asked.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        answered
    };
    let changing = async {
        for workers in [3, 1, 2, 4, 1] {
            timeout(PATIENCE, app.set_workers(workers)).await.expect("it is set").unwrap();
            assert_eq!(app.workers(), workers);
            spread(&cluster, &app, "coming-and-going", workers).await;
        }
        changed.store(true, Ordering::Relaxed);
    };
    let (written, answered, ()) = tokio::join!(writing, asking, changing);
    assert!(answered > 0);
    settle(&app).await;
    assert_eq!(total(&app, &counts).await, written);
    assert_eq!(app.counters().records_in, 2 * written as u64, "those of workers that have left count too");
    app.close().await.unwrap();
    // What the log says is the same.
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(total(&app, &counts).await, written);
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_cannot_be_are_refused_and_calls_take_their_turns() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (topology, _) = counting("turns", I64);
    let app = App::start(&topology, cluster.config()).await.unwrap();
    for asked in [0, 257, usize::MAX] {
        let refused = app.set_workers(asked).await;
        assert!(
            matches!(refused, Err(AppError::Workers { asked: of, most: 256 }) if of == asked),
            "{refused:?}"
        );
    }
    assert_eq!(app.workers(), 1);
    let (first, second, third) = tokio::join!(app.set_workers(3), app.set_workers(1), app.set_workers(2));
    [first, second, third].into_iter().for_each(Result::unwrap);
    assert_eq!(app.workers(), 2);
    spread(&cluster, &app, "turns", 2).await;
    app.close().await.unwrap();
    assert!(matches!(app.set_workers(2).await, Err(AppError::Closed)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_ends_in_the_middle_of_a_change() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (topology, counts) = counting("closing", I64);
    for round in 0..6 {
        let app = App::start(&topology, cluster.config().workers(3)).await.unwrap();
        write(&cluster, round * KEYS..(round + 1) * KEYS).await;
        if round % 2 == 0 {
            spread(&cluster, &app, "closing", 3).await;
        }
        let changing = app.set_workers(if round < 3 { 1 } else { 4 });
        let closing = async {
            sleep(Duration::from_millis(round as u64 * 3)).await;
            app.close().await
        };
        let (changed, closed) =
            timeout(PATIENCE, async { tokio::join!(changing, closing) }).await.expect("both end");
        assert!(matches!(changed, Ok(()) | Err(AppError::Closed)), "{changed:?}");
        closed.unwrap();
    }
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(total(&app, &counts).await, 6 * KEYS);
    app.close().await.unwrap();
    cluster.stop().await;
}
