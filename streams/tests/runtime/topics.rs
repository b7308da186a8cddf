//! Topics of an application: created where that is wanted, written to with what went wrong, and named in full.

use crate::cluster::{Cluster, settle};
use kappa_client::{
    Admin, Client, Compression, Consumer, ConsumerConfig, OffsetReset, TopicPartition, admin::ConfigResource,
};
use kappa_protocol::{
    Context, ErrorCode, Reply, Request, Response, Service,
    messages::{
        CreateTopicsResponse, create_topics_request::CreatableTopic,
        create_topics_response::CreatableTopicResult,
    },
};
use kappa_streams::{
    App, Builder, Config, OnFailure, StartError,
    codec::{I64, Utf8},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

type Read = (String, String, i64, BTreeMap<String, String>);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// All records of a topic: key, value, timestamp and headers.
async fn read(cluster: &Cluster, topic: &str) -> Vec<Read> {
    let config = ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(&cluster.client, config).unwrap();
    let count = consumer.partitions_for(topic).await.unwrap();
    let partitions: Vec<_> = (0..count).map(|partition| TopicPartition::new(topic, partition)).collect();
    let mut open: i64 = consumer.end_offsets(&partitions).await.unwrap().values().sum();
    consumer.assign(partitions).unwrap();
    let mut records = Vec::new();
    while open > 0 {
        for batch in consumer.poll(Duration::from_secs(5)).await.unwrap() {
            for record in batch.records().map(Result::unwrap) {
                let headers =
                    record.headers.map(|(key, value)| (key.into_owned(), text(value.unwrap_or_default())));
                let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
                records.push((text(key), text(value), record.timestamp, headers.collect()));
                open -= 1;
            }
        }
    }
    consumer.close().await.unwrap();
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_missing_are_created_where_that_is_wanted() {
    let cluster = Cluster::with(&[("auto.create.topics.enable", "false")]).await;
    cluster.topic("there", 2).await;
    let b = Builder::new("creating");
    let names = b.global_table("names", (Utf8, Utf8));
    b.stream(["in", "there"], (Utf8, Utf8))
        .on_failure(OnFailure::dead_letter("letters"))
        .join_global("named", &names, |key, _| key.clone(), |_, value, _| value)
        .to_with(["out", "other"], (Utf8, Utf8), |_, _, _| "out");
    let topology = b.build().unwrap();
    let refused = |error: StartError, named: &[&str]| {
        let text = error.to_string();
        assert!(matches!(error, StartError::Plan(_)) && text.contains("create_topics"), "{text}");
        assert!(named.iter().all(|topic| text.contains(&format!("{topic:?} does not exist"))), "{text}");
    };
    refused(App::start(&topology, cluster.config()).await.unwrap_err(), &["in", "names"]);
    let b = Builder::new("writing");
    let outputs = ["out", "other", "third", "fourth"];
    b.stream("there", (Utf8, Utf8)).to_with(outputs, (Utf8, Utf8), |_, _, _| "out");
    let began = Instant::now();
    refused(App::start(&b.build().unwrap(), cluster.config()).await.unwrap_err(), &outputs);
    // A client is patient for 3 s with a topic in the making; it is so once.
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    // The second start finds them.
    for _ in 0..2 {
        let app = App::start(&topology, cluster.config().create_topics(3)).await.unwrap();
        app.running().await.unwrap();
        app.close().await.unwrap();
    }
    let topics = ["in", "there", "names", "out", "other", "letters"];
    let described = Admin::new(&cluster.client).describe_topics(&topics).await.unwrap();
    let partitions = topics.map(|topic| described[topic].as_ref().unwrap().partitions.len());
    assert_eq!(partitions, [3, 2, 3, 3, 3, 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_reaches_its_topic_with_its_headers() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 2).await;
    let records = [("7", 10), ("seven", 20), ("8", 30)];
    cluster.write("in", records.map(|(value, time)| (1, "k".to_owned(), value.to_owned(), time))).await;
    let b = Builder::new("letters");
    b.on_failure(OnFailure::dead_letter("dead"));
    b.stream("in", (Utf8, Utf8))
        .try_map_values(|text| text.parse::<i64>())
        .map_values(|number| number.to_string())
        .to("out", (Utf8, Utf8));
    // Settings of the producer and the consumer are there to be set; what they do is the client's to test.
    let config = cluster
        .config()
        .linger(Duration::from_millis(1))
        .batch_bytes(100)
        .send_buffer_bytes(1000)
        .record_bytes_max(900)
        .compression(Compression::Lz4)
        .delivery_timeout(Duration::from_secs(30))
        .fetch_wait(Duration::from_millis(50))
        .fetch_bytes(10_000)
        .partition_fetch_bytes(1)
        .prefetch_bytes(10_000)
        .max_poll_interval(Duration::from_secs(60))
        .create_topics(1);
    let app = App::start(&b.build().unwrap(), config).await.unwrap();
    settle(&app).await;
    assert_eq!((app.counters().failed, app.counters().dead_letters), (1, 1));
    app.close().await.unwrap();
    let out: Vec<_> = read(&cluster, "out").await.into_iter().map(|(_, value, ..)| value).collect();
    assert_eq!(out, ["7", "8"]);
    let dead = read(&cluster, "dead").await;
    let [(key, value, time, headers)] = &dead[..] else { panic!("one letter: {dead:?}") };
    assert_eq!((&**key, &**value, *time), ("k", "seven", 20));
    let expected = [
        ("exception", "core::num::error::ParseIntError"),
        ("message", "invalid digit found in string"),
        ("offset", "1"),
        ("operator", "in/map-values"),
        ("partition", "1"),
        ("topic", "in"),
    ];
    let expected = expected.map(|(name, value)| (format!("__streams.errors.{name}"), value.to_owned()));
    assert_eq!(*headers, BTreeMap::from(expected));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_has_the_full_names_of_a_generation() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.write("in", [(0, "k".to_owned(), "v".to_owned(), 5)]).await;
    let b = Builder::new("named");
    let seen = b
        .stream("in", (Utf8, Utf8))
        .repartition("again", (Utf8, Utf8))
        .map_values_with(|meta, _, _| format!("{}@{} t{}", meta.topic(), meta.offset(), meta.timestamp()))
        .to_table("seen", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config().generation(3)).await.unwrap();
    settle(&app).await;
    let row = app.view(&seen).get("k").await.unwrap().value.unwrap();
    assert_eq!(row.value, "named-g3-again-repartition@0 t5");
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_table_skips_what_it_may_and_takes_times_from_the_payload() {
    let cluster = Cluster::start().await;
    cluster.topic("names", 1).await;
    cluster.topic("in", 1).await;
    let records = [("a", "700"), ("b", "no number"), ("c", "-1"), ("d", "800")];
    cluster.write("names", records.map(|(key, value)| (0, key.to_owned(), value.to_owned(), 5))).await;
    let b = Builder::new("global");
    let names = b
        .source("names", (Utf8, kappa_streams::codec::Json::<i64>::new()))
        .timestamps(|meta, _, time| if meta.offset() == 3 { meta.timestamp() } else { *time })
        .on_failure(OnFailure::Skip)
        .global_table();
    b.stream("in", (Utf8, I64))
        .join_global("j", &names, |key, _| key.clone(), |_, n, m| n + m)
        .to("out", (Utf8, I64));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    let rows = app.global_view(&names).all().unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(key, row)| (key, row.value, row.timestamp)).collect();
    assert_eq!(rows, [("a".to_owned(), 700, 700), ("d".to_owned(), 800, 5)]);
    let counters = app.counters();
    assert_eq!((counters.undecodable, counters.negative_timestamps), (1, 1));
    app.close().await.unwrap();
    cluster.stop().await;
}

/// A broker that knows no limits of timestamps by topic.
struct Older(Arc<dyn Service>);

impl Service for Older {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let Request::CreateTopics(create) = request else { return self.0.call(cx, request) };
        let is_new = |name: &str| {
            name.starts_with("message.timestamp.before") || name.starts_with("message.timestamp.after")
        };
        if !create.topics.iter().any(|topic| topic.configs.iter().any(|config| is_new(&config.name))) {
            return self.0.call(cx, Request::CreateTopics(create));
        }
        let refused = |topic: CreatableTopic| CreatableTopicResult {
            name: topic.name,
            error_code: ErrorCode::InvalidConfig.code(),
            ..CreatableTopicResult::default()
        };
        let topics = create.topics.into_iter().map(refused).collect();
        Reply::Now(Response::CreateTopics(CreateTopicsResponse { topics, ..Default::default() }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_topics_take_any_event_time_where_the_broker_lets_them() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let older = Client::in_process(Arc::new(Older(cluster.lane())));
    let clients = [("new", cluster.client.clone()), ("older", older.clone())];
    for (name, client) in clients {
        let b = Builder::new(name);
        b.stream("in", (Utf8, Utf8)).group_by("again", (Utf8, Utf8), |key, _| key.clone()).count("counts");
        let app = App::start(&b.build().unwrap(), Config::client(&client)).await.unwrap();
        app.running().await.unwrap();
        app.close().await.unwrap();
        let topics = [format!("{name}-counts-changelog"), format!("{name}-again-repartition")];
        for topic in topics.map(ConfigResource::Topic) {
            let admin = Admin::new(&cluster.client);
            let configs = admin.describe_configs(std::slice::from_ref(&topic)).await.unwrap();
            let value = |name: &str| {
                let entries = configs[&topic].as_ref().unwrap();
                entries.iter().find(|entry| entry.name == name).unwrap().value.clone().unwrap()
            };
            assert_eq!(value("message.timestamp.type"), "CreateTime");
            let limit = if name == "new" { i64::MAX.to_string() } else { "3600000".to_owned() };
            assert_eq!(value("message.timestamp.after.max.ms"), limit, "{topic:?}");
        }
    }
    older.close().await;
    cluster.stop().await;
}
