//! Slow functions, large changelogs and a group that is silent: queries, commits and `close` have their time all the same.

use crate::cluster::{Cluster, settle};
use kappa_client::Admin;
use kappa_streams::{
    App, Builder, Table, Topology,
    codec::{Codec, CodecError, I64, Utf8},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

async fn write(cluster: &Cluster, topic: &str, records: std::ops::Range<i64>) {
    cluster.write(topic, records.map(|at| (0, format!("k{at}"), at.to_string(), at))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_functions_hold_up_neither_queries_nor_commits_nor_the_end() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 0..2000).await;
    let b = Builder::new("slow");
    let last = b
        .stream("in", (Utf8, Utf8))
        .map_values(|value| {
            std::thread::sleep(Duration::from_millis(20));
            value
        })
        .to_table("last", (Utf8, Utf8));
    let config = cluster.config().query_timeout(Duration::from_secs(1));
    let app = App::start(&b.build().unwrap(), config.max_poll_interval(LIMIT)).await.unwrap();
    let began = Instant::now();
    let first = async {
        while app.view(&last).get("k0").await.ok().and_then(|row| row.value.clone()).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), first).await.expect("the first record is processed");
    let committed = || async {
        let offsets = Admin::new(&cluster.client).group_offsets("slow").await.unwrap();
        offsets.values().map(|committed| committed.offset).max().unwrap_or(0)
    };
    let advanced = async {
        let before = committed().await;
        while committed().await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // A commit interval of 100 ms.
    tokio::time::timeout(Duration::from_secs(2), advanced).await.expect("commits go on");
    for _ in 0..20 {
        let asked = Instant::now();
        app.view(&last).get("k0").await.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    // All records together take longer than one may; the member stays the one it was.
    let member = || async { members(&cluster, "slow").await };
    let before = member().await;
    tokio::time::sleep((LIMIT * 2).saturating_sub(began.elapsed())).await;
    assert_eq!((before.len(), member().await), (1, before));
    let closing = Instant::now();
    app.close().await.unwrap();
    assert!(closing.elapsed() < Duration::from_secs(2), "{:?}", closing.elapsed());
    assert!(committed().await < 2000, "it was in the middle of it");
    cluster.stop().await;
}

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(1);

async fn members(cluster: &Cluster, group: &str) -> Vec<String> {
    let mut groups = Admin::new(&cluster.client).describe_groups(&[group]).await.unwrap();
    groups.remove(group).unwrap().unwrap().members.into_iter().map(|member| member.member_id).collect()
}

/// Numbers that take their time to be decoded.
#[derive(Debug, Clone, Copy)]
struct Slow(&'static AtomicU64);

static DECODE_MICROS: AtomicU64 = AtomicU64::new(0);

impl Codec for Slow {
    type Item = i64;

    fn encode(&self, item: &i64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        I64.encode(item, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        std::thread::sleep(Duration::from_micros(self.0.load(Ordering::Relaxed)));
        I64.decode(bytes)
    }

    fn describe(&self) -> String {
        "slow".into()
    }
}

fn two_tables() -> (Topology, Table<String, i64>, Table<String, i64>) {
    let b = Builder::new("restoring");
    let length = |_: &String, value: String, _: i64| value.len() as i64;
    let slow =
        b.stream("in", (Utf8, Utf8)).group_by_key().aggregate("slow", Slow(&DECODE_MICROS), || 0, length);
    let other = b.stream("other", (Utf8, Utf8)).group_by_key().count("other");
    (b.build().unwrap(), slow, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_longer_than_a_call_may_take_ends_all_the_same() {
    static DELAY: AtomicU64 = AtomicU64::new(0);
    let topology = || {
        let b = Builder::new("patient");
        let stream = b.stream("in", (Utf8, Utf8));
        let length = |_: &String, value: String, _: i64| value.len() as i64;
        let lengths = stream.group_by_key().aggregate("lengths", Slow(&DELAY), || 0, length);
        (b.build().unwrap(), lengths)
    };
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 0..1000).await;
    let app = App::start(&topology().0, cluster.config()).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    // A restore of 4 s.
    DELAY.store(4000, Ordering::Relaxed);
    let (topology, lengths) = topology();
    let config = cluster.config().max_poll_interval(LIMIT).query_timeout(Duration::from_secs(20));
    let began = Instant::now();
    let app = App::start(&topology, config).await.unwrap();
    let restoring = async {
        while app.restoring().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        members(&cluster, "patient").await
    };
    let before = tokio::time::timeout(Duration::from_secs(10), restoring).await.expect("it is restored");
    let row = app.view(&lengths).get("k7").await.unwrap();
    assert_eq!(row.value.as_ref().map(|row| row.value), Some(1));
    assert!(began.elapsed() > LIMIT * 3, "{:?}", began.elapsed());
    // Nobody was taken for stuck.
    assert_eq!((before.len(), members(&cluster, "patient").await), (1, before));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_restore_holds_up_no_other_task_and_no_end() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.topic("other", 1).await;
    write(&cluster, "in", 0..4000).await;
    let app = App::start(&two_tables().0, cluster.config()).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();

    DECODE_MICROS.store(5000, Ordering::Relaxed);
    write(&cluster, "other", 0..100).await;
    let (topology, slow, other) = two_tables();
    let app = App::start(&topology, cluster.config().query_timeout(Duration::from_secs(1))).await.unwrap();
    let counted = async {
        while app.view(&other).get("k99").await.ok().and_then(|row| row.value.clone()).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), counted).await.expect("the other task goes on");
    let asked = Instant::now();
    app.view(&slow).get("k0").await.expect_err("its task is still restoring");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let closing = Instant::now();
    app.close().await.unwrap();
    assert!(closing.elapsed() < Duration::from_secs(2), "{:?}", closing.elapsed());

    DECODE_MICROS.store(0, Ordering::Relaxed);
    let (topology, slow, _) = two_tables();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(app.view(&slow).all().await.unwrap().len(), 4000, "what was restored in part is whole again");
    app.close().await.unwrap();
    cluster.stop().await;
}
