//! Situations that public reports of comparable systems tell of, each with the report's id.

use crate::cluster::{Cluster, settle};
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig, ProducerRecord,
    TopicPartition, admin::NewTopic,
};
use kappa_protocol::{
    Context, ErrorCode, Reply, Request, Response, Service,
    messages::{
        ProduceResponse,
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
};
use kappa_streams::{
    App, Builder, Config, Topology, Windows,
    codec::{I64, Utf8, opt},
    reset,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// When a process is killed, once it is armed.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// The first request that has rows for this changelog has arrived; what would have been sent next is not.
    Logged(&'static str),
    /// All is written but the offsets.
    Committing,
}

/// The broker as a process sees it that is killed at a chosen moment: nothing that it would send later arrives.
struct Mortal {
    broker: Arc<dyn Service>,
    when: When,
    armed: AtomicBool,
    dead: AtomicBool,
}

impl Service for Mortal {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let never = || Reply::Later(Box::pin(std::future::pending()));
        let killed = self.armed.load(SeqCst)
            && match (&request, self.when) {
                (Request::Produce(produce), When::Logged(name)) => {
                    produce.topic_data.iter().any(|topic| topic.name == name)
                }
                (Request::OffsetCommit(_), When::Committing) => true,
                _ => false,
            };
        if killed && !self.dead.swap(true, SeqCst) && matches!(request, Request::Produce(_)) {
            drop(self.broker.call(cx, request));
            return never();
        }
        if self.dead.load(SeqCst) { never() } else { self.broker.call(cx, request) }
    }
}

type Written = Vec<(i32, String, Option<String>, i64)>;

async fn write(cluster: &Cluster, topic: &str, records: Written) {
    let producer = Producer::new(&cluster.client, ProducerConfig::default()).await.unwrap();
    for (partition, key, value, timestamp) in records {
        let record = ProducerRecord::to(topic).partition(partition).key(&key).timestamp(timestamp);
        let record = if let Some(value) = &value { record.value(value) } else { record };
        producer.send(record).await.unwrap();
    }
    producer.flush().await.unwrap();
    producer.close().await.unwrap();
}

/// All records of partition 0 of a topic: key, value and timestamp.
async fn read(cluster: &Cluster, topic: &str) -> Vec<(String, Option<Vec<u8>>, i64)> {
    let config = ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(&cluster.client, config).unwrap();
    let place = TopicPartition::new(topic, 0);
    let mut open = consumer.end_offsets(std::slice::from_ref(&place)).await.unwrap()[&place];
    open -= consumer.beginning_offsets(std::slice::from_ref(&place)).await.unwrap()[&place];
    consumer.assign(vec![place]).unwrap();
    let mut records = Vec::new();
    while open > 0 {
        for batch in consumer.poll(Duration::from_secs(5)).await.unwrap() {
            for record in batch.records().map(Result::unwrap) {
                let key = String::from_utf8(record.key.unwrap_or_default().to_vec()).unwrap();
                records.push((key, record.value.map(|value| value.to_vec()), record.timestamp));
                open -= 1;
            }
        }
    }
    consumer.close().await.unwrap();
    records
}

fn quick(config: Config) -> Config {
    config.session_timeout(Duration::from_secs(6)).idle_timeout(Duration::from_millis(100))
}

fn record(key: &str, value: &str, time: i64) -> (i32, String, Option<String>, i64) {
    (0, key.to_owned(), Some(value.to_owned()), time)
}

/// Runs an application over `before` to its end, kills it over `after`, and lets another process go on to the end.
async fn killed_and_continued(
    cluster: &Cluster,
    topology: &Topology,
    when: When,
    before: Written,
    after: Written,
) -> App {
    write(cluster, "in", before).await;
    let mortal = Arc::new(Mortal {
        broker: cluster.lane(),
        when,
        armed: AtomicBool::new(false),
        dead: AtomicBool::new(false),
    });
    let client = Client::in_process(mortal.clone());
    // Small batches stand for many records.
    let config = quick(Config::client(&client)).batch_bytes(1000).commit_interval(Duration::from_millis(100));
    let app = App::start(topology, config).await.unwrap();
    settle(&app).await;
    mortal.armed.store(true, SeqCst);
    write(cluster, "in", after).await;
    let killed = async {
        while !mortal.dead.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), killed).await.expect("it is killed");
    client.close().await;
    drop(app);
    let app = App::start(topology, quick(cluster.config())).await.unwrap();
    settle(&app).await;
    app
}

/// A key that has changed very often, and others behind it that change once.
fn often_and_then(last: &str) -> Written {
    let often = (0..2000).map(|at| record("often", &["a", "b"][at as usize % 2].repeat(100), at));
    often.chain((0..10).map(|key| record(&format!("k{key}"), last, 5000))).collect()
}

fn ten(value: &str) -> Written {
    (0..10).map(|key| record(&format!("k{key}"), value, 0)).collect()
}

/// KAFKA-12508 (rows that are ahead of the offsets after a failure suppress results that were never sent): the
/// tombstone of a row that has ceased to pass a filter is written, whenever the process is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_row_and_its_results_suppresses_no_tombstone() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.topic("out", 1).await;
    let b = Builder::new("killed");
    let last = b.stream("in", (Utf8, Utf8)).group_by_key().reduce("last", |_, value| value);
    last.filter(|_, value| value != "gone").to_stream().to("out", (Utf8, opt(Utf8)));
    let topology = b.build().unwrap();
    let when = When::Logged("killed-last-changelog");
    let app = killed_and_continued(&cluster, &topology, when, ten("here"), often_and_then("gone")).await;
    app.close().await.unwrap();
    let last: BTreeMap<_, _> =
        read(&cluster, "out").await.into_iter().map(|(key, value, _)| (key, value.is_some())).collect();
    let stale: Vec<_> = last.iter().filter(|(key, is_there)| key.starts_with('k') && **is_there).collect();
    assert!(stale.is_empty(), "rows that are gone, and whose tombstone was never written: {stale:?}");
    cluster.stop().await;
}

/// KAFKA-12508, ksql #6854 (negative or stale sums of a re-grouped table): what a row was is taken away from its old
/// group, whenever the process is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_row_and_its_results_loses_no_retraction() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("killed");
    let last = b.stream("in", (Utf8, Utf8)).to_table("last", (Utf8, Utf8));
    let groups = last.group_by("by-value", (Utf8, Utf8), |key, value| (value.clone(), key.clone()));
    let members = groups.aggregate(
        "members",
        Utf8,
        String::new,
        |_, key, members| if key == "often" { members } else { format!("{members}+{key}") },
        |_, key, members| if key == "often" { members } else { format!("{members}-{key}") },
    );
    let topology = b.build().unwrap();
    let when = When::Logged("killed-last-changelog");
    let app = killed_and_continued(&cluster, &topology, when, ten("here"), often_and_then("there")).await;
    let rows = app.view(&members).all().await.unwrap();
    let member = |group: &str, key: &str| {
        let row = rows.iter().find(|(name, _)| name == group).map_or("", |(_, row)| row.value.as_str());
        row.matches(&format!("+{key}")).count() as i64 - row.matches(&format!("-{key}")).count() as i64
    };
    // At least once: a change may come twice, each time with what takes it back.
    let wrong: Vec<_> = (0..10)
        .map(|key| format!("k{key}"))
        .map(|key| (member("here", &key), member("there", &key), key))
        .filter(|(here, there, _)| *here > 0 || *there < 1)
        .collect();
    assert!(wrong.is_empty(), "(still in the old group, in the new one, key): {wrong:?}");
    app.close().await.unwrap();
    cluster.stop().await;
}

/// KAFKA-12508 and KAFKA-16123 (expired state and records that are not late): records that are processed again after a
/// kill never take a window's result back to less than it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_expired_before_a_kill_is_not_counted_anew() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.topic("out", 1).await;
    let b = Builder::new("killed");
    let windows = Windows::tumbling(Duration::from_secs(3600));
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("counts");
    counts
        .to_stream()
        .map(|key, count| (format!("{} {}", key.key, key.window.start), count))
        .to("out", (Utf8, opt(I64)));
    let topology = b.build().unwrap();
    let before = (0..5).map(|time| record("k", "v", time)).collect();
    // A replay reads days of event time between two commits.
    let after = vec![record("k", "v", 5), record("k", "v", 2 * DAY)];
    let app = killed_and_continued(&cluster, &topology, When::Committing, before, after).await;
    app.close().await.unwrap();
    let out = read(&cluster, "out").await;
    let counts: Vec<i64> = out
        .into_iter()
        .filter(|(key, ..)| key == "k 0")
        .map(|(_, count, _)| i64::from_be_bytes(count.unwrap().try_into().unwrap()))
        .collect();
    assert!(counts.last() >= Some(&6), "results of a window with 6 records: {counts:?}");
    cluster.stop().await;
}

async fn typed_topic(cluster: &Cluster, name: &str, configs: &[(&str, &str)]) {
    let topic = NewTopic::new(name, 1).config("retention.ms", "-1");
    let topic = configs.iter().fold(topic, |topic, (key, value)| topic.config(*key, *value));
    Admin::new(&cluster.client).create_topic(&topic).await.unwrap();
}

/// KAFKA-6614, KAFKA-4785: on a broker whose topics have LogAppendTime by default, internal topics keep event time all
/// the same, as Kafka Streams' do (`message.timestamp.type=CreateTime`).
#[tokio::test(flavor = "multi_thread")]
async fn event_time_survives_a_broker_that_stamps_by_default() {
    let cluster = Cluster::with(&[("log.message.timestamp.type", "LogAppendTime")]).await;
    typed_topic(&cluster, "in", &[("message.timestamp.type", "CreateTime")]).await;
    write(&cluster, "in", vec![record("k", "v", 10), record("k", "v", 7_200_000)]).await;
    let b = Builder::new("stamped");
    let windows = Windows::tumbling(Duration::from_secs(3600)).grace(Duration::from_secs(86_400));
    let stream = b.stream("in", (Utf8, Utf8));
    let counts =
        stream.group_by("again", (Utf8, Utf8), |key, _| key.clone()).windowed_by(windows).count("counts");
    let last = stream.to_table("last", (Utf8, Utf8));
    let topology = b.build().unwrap();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    app.running().await.unwrap();
    let row = app.view(&last).get("k").await.unwrap().value.map(|row| row.timestamp);
    let rows = app.view(&counts).all().await.unwrap();
    let starts: Vec<_> = rows.iter().map(|(key, row)| (key.window.start, row.value)).collect();
    assert_eq!((row, starts), (Some(7_200_000), vec![(0, 1), (7_200_000, 1)]));
    app.close().await.unwrap();
    cluster.stop().await;
}

/// KAFKA-14991, KIP-937 (brokers refuse timestamps more than an hour ahead, by default): event times of the payload may
/// be in the future, as those of departures are.
#[tokio::test(flavor = "multi_thread")]
async fn event_times_of_tomorrow_are_event_times() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let tomorrow = now + DAY;
    write(&cluster, "in", vec![record("k", &tomorrow.to_string(), now)]).await;
    let b = Builder::new("departures");
    let windows = Windows::tumbling(Duration::from_secs(3600));
    let counts = b
        .source("in", (Utf8, Utf8))
        .timestamps(|_, _, time| time.parse::<i64>().ok())
        .stream()
        .group_by("again", (Utf8, Utf8), |key, _| key.clone())
        .windowed_by(windows)
        .count("counts");
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    let ends = app.end_offsets().await.unwrap();
    let done = tokio::time::timeout(Duration::from_secs(20), app.caught_up(&ends)).await.expect("in time");
    assert!(done.is_ok(), "{done:?}");
    let rows = app.view(&counts).all().await.unwrap();
    assert_eq!(
        rows.iter().map(|(key, row)| (key.window.start, row.value)).collect::<Vec<_>>(),
        [(tomorrow / 3_600_000 * 3_600_000, 1)]
    );
    app.close().await.unwrap();
    cluster.stop().await;
}

/// Writes 500 small records and perhaps a large one, with a topic that takes no batch of more than 3000 bytes.
async fn with_a_small_topic(cluster: &Cluster, topology: &Topology, batch_bytes: usize, large: usize) -> App {
    cluster.topic("in", 1).await;
    typed_topic(cluster, "out", &[("max.message.bytes", "3000")]).await;
    let many =
        (0..500).map(|at| record(&format!("k{at}"), &"x".repeat(if at == 250 { large } else { 100 }), at));
    write(cluster, "in", many.collect()).await;
    App::start(topology, cluster.config().batch_bytes(batch_bytes)).await.unwrap()
}

fn copied() -> Topology {
    let b = Builder::new("large");
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    b.build().unwrap()
}

/// KAFKA-19479: a record that is too large for its topic stops the application by name, and nothing of what is not
/// written is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_not_lost() {
    let cluster = Cluster::start().await;
    let app = with_a_small_topic(&cluster, &copied(), 2000, 5000).await;
    let failed =
        tokio::time::timeout(Duration::from_secs(20), app.failed()).await.expect("it stops").unwrap();
    assert!(failed.to_string().contains("out-0") && failed.to_string().contains("3000"), "{failed}");
    assert!(app.close().await.is_err());
    Admin::new(&cluster.client).delete_topics(&["out"]).await.unwrap();
    cluster.topic("out", 1).await;
    let app = App::start(&copied(), quick(cluster.config())).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    assert_eq!(read(&cluster, "out").await.len(), 500);
    cluster.stop().await;
}

async fn run(cluster: &Cluster, topology: &Topology) -> Result<(), String> {
    let app = App::start(topology, cluster.config()).await.map_err(|error| error.to_string())?;
    let ends = app.end_offsets().await.unwrap();
    let done = tokio::time::timeout(Duration::from_secs(20), app.caught_up(&ends)).await.expect("in time");
    let closed = app.close().await;
    done.and(closed).map_err(|error| error.to_string())
}

/// KAFKA-10357 (accidental deletion of repartition topics): an internal topic that somebody deleted while the
/// application was down is not made again in silence, with counts that begin at 0 behind committed offsets.
#[tokio::test(flavor = "multi_thread")]
async fn a_changelog_deleted_between_runs_is_noticed() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("deleted");
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().count("counts");
    let topology = b.build().unwrap();
    write(&cluster, "in", (0..10).map(|at| record("k", "v", at)).collect()).await;
    run(&cluster, &topology).await.unwrap();
    let admin = Admin::new(&cluster.client);
    admin.delete_topics(&["deleted-counts-changelog"]).await.unwrap();
    write(&cluster, "in", vec![record("k", "v", 10)]).await;
    match App::start(&topology, cluster.config()).await {
        Err(refused) => assert!(refused.to_string().contains("deleted-counts-changelog"), "{refused}"),
        Ok(app) => {
            settle(&app).await;
            let count = app.view(&counts).get("k").await.unwrap().value.map(|row| row.value);
            assert_eq!(count, Some(11), "counted of 11 records, and no error");
            app.close().await.unwrap();
        }
    }
    cluster.stop().await;
}

/// KAFKA-10357: a repartition topic that was deleted while it still had records.
#[tokio::test(flavor = "multi_thread")]
async fn a_repartition_topic_deleted_between_runs_is_noticed() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("deleted");
    let stream = b.stream("in", (Utf8, Utf8));
    let counts = stream.group_by("by-value", (Utf8, Utf8), |_, value| value.clone()).count("counts");
    let topology = b.build().unwrap();
    write(&cluster, "in", (0..10).map(|at| record("k", "v", at)).collect()).await;
    run(&cluster, &topology).await.unwrap();
    let admin = Admin::new(&cluster.client);
    admin.delete_topics(&["deleted-by-value-repartition"]).await.unwrap();
    write(&cluster, "in", vec![record("k", "v", 10), record("k", "v", 11)]).await;
    match App::start(&topology, cluster.config()).await {
        Err(refused) => assert!(refused.to_string().contains("deleted-by-value-repartition"), "{refused}"),
        Ok(app) => {
            let ends = app.end_offsets().await.unwrap();
            let done = tokio::time::timeout(Duration::from_secs(20), app.caught_up(&ends)).await;
            assert!(done.is_ok(), "it never comes to the end");
            let count = app.view(&counts).get("v").await.unwrap().value.map(|row| row.value);
            assert_eq!(count, Some(12), "counted of 12 records, and no error");
            app.close().await.unwrap();
        }
    }
    cluster.stop().await;
}

/// faust-streaming/faust #597, LGouellec/streamiz #421 (recovery hangs where a changelog is empty or does not begin at
/// 0): nobody empties a changelog, whose rows only newer ones replace.
#[tokio::test(flavor = "multi_thread")]
async fn a_changelog_cannot_be_emptied() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("emptied");
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().count("counts");
    let topology = b.build().unwrap();
    write(&cluster, "in", (0..10).map(|at| record("k", "v", at)).collect()).await;
    run(&cluster, &topology).await.unwrap();
    let changelog = TopicPartition::new("emptied-counts-changelog", 0);
    let emptied = Admin::new(&cluster.client).delete_records(&[(changelog.clone(), -1)]).await.unwrap();
    let code = emptied[&changelog].as_ref().unwrap_err().code();
    assert_eq!(code, Some(ErrorCode::PolicyViolation), "it is only compacted");
    write(&cluster, "in", vec![record("k", "v", 10)]).await;
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(app.view(&counts).get("k").await.unwrap().value.map(|row| row.value), Some(11));
    app.close().await.unwrap();
    cluster.stop().await;
}

/// quix-streams #1114, KAFKA-6121 (a committed offset of a source that is no longer retained): a table whose source was
/// trimmed beyond the committed offset has the rows that are left, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_source_was_trimmed_beyond_the_committed_offset_goes_on() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("trimmed");
    let rows = b.table("in", (Utf8, Utf8));
    let counts = rows.group_by("by-value", (Utf8, I64), |_, value| (value.clone(), 1)).count("counts");
    let topology = b.build().unwrap();
    write(&cluster, "in", (0..5).map(|at| record(&format!("k{at}"), "v", at)).collect()).await;
    run(&cluster, &topology).await.unwrap();
    write(&cluster, "in", (5..10).map(|at| record(&format!("k{at}"), "v", at)).collect()).await;
    Admin::new(&cluster.client).delete_records(&[(TopicPartition::new("in", 0), 8)]).await.unwrap();
    for start in ["first", "second"] {
        let app = App::start(&topology, cluster.config()).await.unwrap();
        settle(&app).await;
        let all = app.view(&rows).all().await.unwrap();
        let keys: Vec<_> = all.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["k8", "k9"], "{start} start");
        // Five were counted before, and nothing says that they have gone.
        let count = app.view(&counts).get("v").await.unwrap().value.map(|row| row.value);
        assert_eq!(count, Some(7));
        app.close().await.unwrap();
    }
    cluster.stop().await;
}

/// A broker that takes nothing for the topic `out` while it is told so, because replicas are missing.
struct Short {
    broker: Arc<dyn Service>,
    is_short: AtomicBool,
}

impl Service for Short {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        match request {
            Request::Produce(produce)
                if self.is_short.load(SeqCst)
                    && produce.topic_data.iter().any(|topic| topic.name == "out") =>
            {
                let refused = |index| PartitionProduceResponse {
                    index,
                    error_code: ErrorCode::NotEnoughReplicas.code(),
                    base_offset: -1,
                    ..PartitionProduceResponse::default()
                };
                let topics = produce.topic_data.into_iter().map(|topic| TopicProduceResponse {
                    name: topic.name,
                    topic_id: topic.topic_id,
                    partition_responses: topic
                        .partition_data
                        .iter()
                        .map(|data| refused(data.index))
                        .collect(),
                });
                let responses = topics.collect();
                Reply::Now(Response::Produce(ProduceResponse { responses, ..ProduceResponse::default() }))
            }
            request => self.broker.call(cx, request),
        }
    }
}

/// KAFKA-9274 (time-outs of the producer): what was not written in `delivery_timeout` stops the application by
/// name, nothing of it is committed, and the next start writes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_delivered_in_time_is_not_lost() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.topic("out", 1).await;
    let short = Arc::new(Short { broker: cluster.lane(), is_short: AtomicBool::new(true) });
    let client = Client::in_process(short.clone());
    write(&cluster, "in", (0..100).map(|at| record(&format!("k{at}"), "v", at)).collect()).await;
    let config = || quick(Config::client(&client)).delivery_timeout(Duration::from_secs(2));
    let app = App::start(&copied(), config()).await.unwrap();
    let failed =
        tokio::time::timeout(Duration::from_secs(20), app.failed()).await.expect("it stops").unwrap();
    assert!(failed.to_string().contains("out-0"), "{failed}");
    assert!(app.close().await.is_err());
    short.is_short.store(false, SeqCst);
    let app = App::start(&copied(), config()).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    assert_eq!(read(&cluster, "out").await.len(), 100);
    client.close().await;
    cluster.stop().await;
}

/// KAFKA-14922 (`kafka-streams-application-reset` deletes topics of applications whose names begin alike): a reset takes
/// nothing of another application, and no application reads what another keeps.
#[tokio::test(flavor = "multi_thread")]
async fn applications_whose_names_begin_alike_share_nothing() {
    let cluster = Cluster::start().await;
    for (topic, records) in [("a", 1), ("b", 2), ("d", 4)] {
        cluster.topic(topic, 1).await;
        write(&cluster, topic, (0..records).map(|at| record("k", "v", at)).collect()).await;
    }
    let count = async |application: &str, store: &str, topic: &str, generation: u32| {
        let b = Builder::new(application);
        let counts = b.stream(topic, (Utf8, Utf8)).group_by_key().count(store);
        let app = App::start(&b.build().unwrap(), cluster.config().generation(generation)).await?;
        settle(&app).await;
        let count = app.view(&counts).get("k").await.unwrap().value.map(|row| row.value);
        app.close().await.unwrap();
        Ok::<_, kappa_streams::StartError>(count)
    };
    assert_eq!(count("visits", "counts", "a", 0).await.unwrap(), Some(1));
    assert_eq!(count("visits-counts", "counts", "b", 0).await.unwrap(), Some(2));
    reset(&cluster.client, "visits", 0).await.unwrap();
    assert_eq!(count("visits-counts", "counts", "b", 0).await.unwrap(), Some(2));
    assert_eq!(count("visits", "counts", "a", 1).await.unwrap(), Some(1));
    // `visits-g1-counts-changelog` would be of a generation of `visits` and of `visits-g1`, `visits-counts-counts-changelog`
    // is of `visits-counts` and of a store `counts-counts` of `visits`.
    let b = Builder::new("visits-g1");
    b.stream("c", (Utf8, Utf8)).group_by_key().count("counts");
    let called = b.build().unwrap_err().to_string();
    assert!(called.contains("generation 1 of \"visits\""), "{called}");
    let stored = count("visits", "counts-counts", "d", 0).await.unwrap_err();
    assert!(matches!(stored, kappa_streams::StartError::InternalTopicTaken { .. }), "{stored}");
    assert_eq!(count("visits-counts", "counts", "b", 0).await.unwrap(), Some(2));
    cluster.stop().await;
}

/// ksql #779, streamiz #391 (instances that start at once and create the same topics): each creates the internal topics or
/// finds them, and all run.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_at_once_all_run() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 4).await;
    cluster.write("in", (0..400).map(|at| (at % 4, format!("k{at}"), format!("v{}", at % 10), 0))).await;
    let topology = || {
        let b = Builder::new("at-once");
        let stream = b.stream("in", (Utf8, Utf8));
        let counts = stream.group_by("by-value", (Utf8, Utf8), |_, value| value.clone()).count("counts");
        (b.build().unwrap(), counts)
    };
    let [one, two, three] = [topology(), topology(), topology()];
    let start = |topology| App::start(topology, quick(cluster.config()));
    let apps = tokio::join!(start(&one.0), start(&two.0), start(&three.0));
    let apps = [apps.0.unwrap(), apps.1.unwrap(), apps.2.unwrap()];
    let all = async {
        loop {
            let mut sum = 0;
            for (app, counts) in apps.iter().zip([&one.1, &two.1, &three.1]) {
                let rows = app.view(counts).partial().all().await.unwrap();
                sum += rows.iter().map(|(_, row)| row.value).sum::<i64>();
            }
            if sum == 400 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("each record is counted once");
    for app in apps {
        app.close().await.unwrap();
    }
    cluster.stop().await;
}
