//! One instance: word count over both transports, restore, global tables, generations, replay, failures.

use crate::cluster::{Cluster, settle, state};
use kappa_streams::{
    App, AppError, Builder, Config, QueryError, StartAt, StartError, Table, Topology, Windowed, Windows,
    codec::{I64, Raw, Utf8, opt},
    reset,
};
use std::time::Duration;

const HOUR: i64 = 3_600_000;

fn word_count() -> (Topology, Table<String, i64>) {
    let b = Builder::new("word-count");
    let counts = b
        .stream("lines", (opt(Utf8), Utf8))
        .flat_map_values(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
        .count("counts");
    counts.to_stream().to("word-counts", (Utf8, I64));
    (b.build().unwrap(), counts)
}

fn lines(texts: &[&str]) -> Vec<(i32, String, String, i64)> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| (at as i32 % 3, "k".to_owned(), (*text).to_owned(), at as i64))
        .collect()
}

async fn counts_words(cluster: &Cluster, config: Config) {
    cluster.topic("lines", 3).await;
    cluster.write("lines", lines(&["a log is a table", "a table is a log"])).await;
    let (topology, counts) = word_count();
    let app = App::start(&topology, config).await.unwrap();
    settle(&app).await;
    let answer = app.view(&counts).get("a").await.unwrap();
    assert_eq!(answer.value.as_ref().map(|row| (row.value, row.timestamp)), Some((4, 1)));
    assert_eq!(app.view(&counts).get("stream").await.unwrap().value, None);
    let all = app.view(&counts).all().await.unwrap();
    let all: Vec<_> = all.value.into_iter().map(|(word, row)| (word, row.value)).collect();
    assert_eq!(
        all,
        [("a", 4), ("is", 2), ("log", 2), ("table", 2)].map(|(word, count)| (word.to_owned(), count))
    );
    let range = app.view(&counts).range("b", "m", 10).await.unwrap();
    assert_eq!(range.len(), 2);
    app.close().await.unwrap();
    assert!(matches!(app.view(&counts).get("a").await, Err(QueryError::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_counted_in_process() {
    let cluster = Cluster::start().await;
    counts_words(&cluster, cluster.config()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_counted_over_tcp() {
    let cluster = Cluster::start().await;
    let remote = cluster.remote().await;
    counts_words(&cluster, Config::client(&remote).workers(2).idle_timeout(Duration::from_millis(100))).await;
    remote.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_restores_and_goes_on_where_it_stopped() {
    let cluster = Cluster::start().await;
    cluster.topic("lines", 3).await;
    cluster.write("lines", lines(&["a b", "a c"])).await;
    let (topology, _) = word_count();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    let (before, _) = state(&app).await;
    app.close().await.unwrap();
    cluster.write("lines", lines(&["a"])).await;
    let (topology, counts) = word_count();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    let count = |word: &'static str| {
        let view = app.view(&counts);
        async move { view.get(word).await.unwrap().value.map(|row| row.value) }
    };
    assert_eq!((count("a").await, count("b").await), (Some(3), Some(1)));
    let (after, counters) = state(&app).await;
    assert_eq!(counters.records_in, 2, "one line, one word");
    assert_ne!(before, after);
    app.close().await.unwrap();
    cluster.stop().await;
}

fn hourly() -> (Topology, Table<Windowed<String>, i64>) {
    let b = Builder::new("hourly");
    let airlines = b.global_table("airlines", (Utf8, Utf8));
    let windows = Windows::tumbling(Duration::from_secs(3600))
        .grace(Duration::from_secs(3600))
        .retention(Duration::from_secs(400 * 86_400));
    let counts = b
        .stream("flights", (Utf8, Utf8))
        .left_join_global(
            "airline",
            &airlines,
            |_, flight| flight.clone(),
            |_, flight, name| name.cloned().unwrap_or(flight),
        )
        .group_by("by-airline", (Utf8, Utf8), |_, name| name.clone())
        .windowed_by(windows)
        .count("hourly");
    (b.build().unwrap(), counts)
}

async fn flights(cluster: &Cluster, minutes: std::ops::Range<i64>) {
    let flight = |minute: i64| {
        let carrier = if minute % 3 == 0 { "UA" } else { "XX" };
        (0..6).map(move |partition| (partition, format!("N{partition}"), carrier.to_owned(), minute * 60_000))
    };
    cluster.write("flights", minutes.flat_map(flight)).await;
}

async fn airline_topics(cluster: &Cluster) {
    cluster.topic("flights", 6).await;
    cluster.topic("airlines", 1).await;
    cluster.write("airlines", [(0, "UA".to_owned(), "United".to_owned(), 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_application_replays_to_the_same_stores() {
    let cluster = Cluster::start().await;
    airline_topics(&cluster).await;
    flights(&cluster, 0..600).await;
    let config = || cluster.config().skew_bound(Duration::from_secs(1800));
    let (topology, counts) = hourly();
    let app = App::start(&topology, config()).await.unwrap();
    let ends = settle(&app).await;
    assert_eq!(ends.total(), 3600);
    let (first, counters) = state(&app).await;
    assert_eq!((counters.late, counters.records_in), (0, 7200));
    let windows = app.view(&counts).windows("United", 0..=HOUR).await.unwrap();
    let windows: Vec<_> = windows.iter().map(|(key, row)| (key.window.start, row.value)).collect();
    assert_eq!(windows, [(0, 120), (HOUR, 120)]);
    app.close().await.unwrap();

    flights(&cluster, 600..660).await;
    let report = reset(&cluster.client, "hourly", 0).await.unwrap();
    assert_eq!(report.topics.len(), 2);
    let (topology, _) = hourly();
    let app = App::start(&topology, config().replay_until(ends.clone())).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), app.caught_up(&ends)).await.unwrap().unwrap();
    let (second, counters) = state(&app).await;
    assert_eq!((counters.late, counters.records_in), (0, 7200));
    assert_eq!(first, second);
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_feed_one_repartition_topic_turn_nothing_late() {
    let cluster = Cluster::start().await;
    airline_topics(&cluster).await;
    flights(&cluster, 0..600).await;
    let (topology, _) = hourly();
    let config = cluster.config().skew_bound(Duration::from_secs(3600)).workers(2);
    let app = App::start(&topology, config).await.unwrap();
    settle(&app).await;
    let (_, counters) = state(&app).await;
    assert_eq!((counters.late, counters.records_in), (0, 7200));
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_replays_beside_the_old_one_from_a_chosen_time() {
    let cluster = Cluster::start().await;
    airline_topics(&cluster).await;
    flights(&cluster, 0..120).await;
    let (topology, counts) = hourly();
    let old = App::start(&topology, cluster.config()).await.unwrap();
    settle(&old).await;
    let (topology, new_counts) = hourly();
    let config = cluster.config().generation(1).start_at(StartAt::Time(HOUR));
    let new = App::start(&topology, config).await.unwrap();
    settle(&new).await;
    let rows = |app: &App, table: &Table<Windowed<String>, i64>| {
        let view = app.view(table);
        async move { view.all().await.unwrap().len() }
    };
    assert_eq!((rows(&old, &counts).await, rows(&new, &new_counts).await), (4, 2));
    old.close().await.unwrap();
    new.close().await.unwrap();
    let latest = App::start(&hourly().0, cluster.config()).await.unwrap();
    assert_eq!(latest.generation(), 1);
    latest.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why() {
    let cluster = Cluster::start().await;
    let (topology, _) = word_count();
    let missing = App::start(&topology, cluster.config()).await.unwrap_err();
    assert!(matches!(&missing, StartError::Plan(_)), "{missing}");
    cluster.topic("lines", 1).await;
    cluster.topic("numbers", 1).await;
    let b = Builder::new("strict");
    b.stream("numbers", (Raw, I64)).to("doubled", (Raw, I64));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    cluster.write("numbers", [(0, "k".to_owned(), "no number".to_owned(), 0)]).await;
    let failure = tokio::time::timeout(Duration::from_secs(10), app.failed()).await.unwrap();
    assert!(matches!(failure, Some(AppError::Task { .. })), "{failure:?}");
    assert!(app.close().await.is_err());

    let b = Builder::new("panics");
    b.stream("lines", (Raw, Utf8)).map_values(|line| assert!(line.is_empty(), "no lines today")).count_all();
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    cluster.write("lines", lines(&["x"])).await;
    let failure = tokio::time::timeout(Duration::from_secs(10), app.failed()).await.unwrap().unwrap();
    assert!(failure.to_string().contains("no lines today"), "{failure}");
    assert!(app.close().await.is_err());
    cluster.stop().await;
}

trait CountAll {
    fn count_all(&self);
}

impl CountAll for kappa_streams::Stream<bytes::Bytes, ()> {
    fn count_all(&self) {
        self.map_values(|()| 1i64).with_codecs((Raw, I64)).group_by_key().count("n");
    }
}
