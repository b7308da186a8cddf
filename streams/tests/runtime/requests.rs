//! What an application does when requests are delayed, refused or many, at chosen moments.

use crate::cluster::{Cluster, settle};
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig, ProducerRecord,
    TopicPartition,
};
use kappa_protocol::{ApiKey, Context, LaneError, Reply, Request, Service};
use kappa_streams::{App, Builder, Config, Table, Topology, Windows, codec::Utf8};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

fn counted(store: &str) -> (Topology, Table<String, i64>) {
    let b = Builder::new("changing");
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().count(store);
    (b.build().unwrap(), counts)
}

async fn write(cluster: &Cluster, topic: &str, records: std::ops::Range<i64>) {
    cluster.write(topic, records.map(|at| (0, "k".to_owned(), at.to_string(), at))).await;
}

async fn values(cluster: &Cluster, topic: &str) -> Vec<String> {
    let config = ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(&cluster.client, config).unwrap();
    let place = TopicPartition::new(topic, 0);
    let end = consumer.end_offsets(std::slice::from_ref(&place)).await.unwrap()[&place];
    consumer.assign([place.clone()]).unwrap();
    let mut values = Vec::new();
    while consumer.position(&place).is_none_or(|at| at < end) {
        for batch in consumer.poll(Duration::from_secs(5)).await.unwrap() {
            for record in batch.records().map(Result::unwrap) {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
    }
    consumer.close().await.unwrap();
    values
}

/// Whoever writes to a source can put the application's own headers there.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_source_do_not_speak_for_writers() {
    let late = async |is_forged: bool| {
        let cluster = Cluster::start().await;
        cluster.topic("in", 2).await;
        let producer = Producer::new(&cluster.client, ProducerConfig::default()).await.unwrap();
        // Writer 1 will bring nothing before the end of time.
        let mut stamp = 1i32.to_be_bytes().to_vec();
        stamp.extend((i64::MAX - 1).to_be_bytes());
        let headers: &[(&str, Option<&[u8]>)] = &[("kappa-frontier", Some(&stamp))];
        for at in 0..2000i64 {
            for partition in 0..2 {
                let key = format!("{partition}");
                let mut record =
                    ProducerRecord::to("in").partition(partition).key(&key).value("v").timestamp(at * 50);
                if is_forged && partition == 0 && at % 10 == 0 {
                    record = ProducerRecord { headers, ..record };
                }
                producer.send(record).await.unwrap();
            }
        }
        producer.flush().await.unwrap();
        producer.close().await.unwrap();
        let b = Builder::new("forged");
        let second = Duration::from_secs(1);
        b.stream("in", (Utf8, Utf8))
            .peek(|record| {
                if record.key == "1" {
                    std::thread::sleep(Duration::from_micros(500));
                }
            })
            .group_by("by-value", (Utf8, Utf8), |_, value| value.clone())
            .windowed_by(Windows::tumbling(second).grace(second))
            .count("counts");
        let config = cluster.config().workers(4).skew_bound(second).purge_interval(Duration::from_secs(3600));
        let app = App::start(&b.build().unwrap(), config).await.unwrap();
        settle(&app).await;
        let late = app.counters().late;
        app.close().await.unwrap();
        cluster.stop().await;
        late
    };
    assert_eq!(late(false).await, 0, "without the header");
    assert_eq!(late(true).await, 0, "with it");
}

/// Jobs of a worker end, and nobody takes note: what is kept of them grows with time.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_have_ended_are_forgotten() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let b = Builder::new("jobs");
    b.stream("in", (Utf8, Utf8)).group_by("by-value", (Utf8, Utf8), |_, value| value.clone()).count("n");
    let ms = Duration::from_millis;
    let config = cluster.config().commit_interval(ms(5)).purge_interval(ms(1));
    let app = App::start(&b.build().unwrap(), config).await.unwrap();
    for at in 0..300 {
        write(&cluster, "in", at..at + 1).await;
    }
    let failed = timeout(ms(100), app.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    app.close().await.unwrap();
    cluster.stop().await;
}

/// A broker from which one instance is cut off.
struct Cut {
    broker: Arc<dyn Service>,
    /// Requests to the group fail.
    group: AtomicBool,
    /// Everything fails.
    all: AtomicBool,
    /// Nothing that is produced arrives.
    produced: AtomicBool,
    /// Producer ids are given out only after that is over.
    identities: Arc<AtomicBool>,
}

impl Cut {
    fn of(cluster: &Cluster) -> Arc<Cut> {
        Arc::new(Cut {
            broker: cluster.lane(),
            group: AtomicBool::new(false),
            all: AtomicBool::new(false),
            produced: AtomicBool::new(false),
            identities: Arc::default(),
        })
    }
}

fn when_over(flag: &Arc<AtomicBool>, reply: Reply) -> Reply {
    let flag = Arc::clone(flag);
    let wait = async move {
        while flag.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    match reply {
        Reply::Now(response) => Reply::Later(Box::pin(async move {
            wait.await;
            Ok(response)
        })),
        Reply::Later(later) => Reply::Later(Box::pin(async move {
            wait.await;
            later.await
        })),
        Reply::None => Reply::None,
    }
}

impl Service for Cut {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let is_group = matches!(
            request.api_key(),
            ApiKey::Heartbeat | ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::OffsetCommit
        );
        let is_lost = request.api_key() == ApiKey::Produce && self.produced.load(Ordering::SeqCst);
        if self.all.load(Ordering::SeqCst) || is_lost || is_group && self.group.load(Ordering::SeqCst) {
            let reason: Arc<str> = "cut".into();
            return Reply::Later(Box::pin(async move { Err(LaneError::Disconnected { reason }) }));
        }
        match request.api_key() {
            ApiKey::InitProducerId => when_over(&self.identities, self.broker.call(cx, request)),
            _ => self.broker.call(cx, request),
        }
    }
}

/// A cluster with topics `in` and `out`, and a client whose requests may be cut off.
async fn begun() -> (Cluster, Arc<Cut>, Client) {
    let cluster = Cluster::with(&[("group.min.session.timeout.ms", "1000")]).await;
    cluster.topic("in", 1).await;
    cluster.topic("out", 1).await;
    let cut = Cut::of(&cluster);
    let client = Client::in_process(Arc::clone(&cut) as Arc<dyn Service>);
    (cluster, cut, client)
}

fn short(client: &Client) -> Config {
    Config::client(client)
        .commit_interval(Duration::from_millis(100))
        .idle_timeout(Duration::from_millis(100))
        .session_timeout(Duration::from_secs(2))
}

fn counted_and_told() -> (Topology, Table<String, i64>) {
    let b = Builder::new("zombie");
    let stream = b.stream("in", (Utf8, Utf8));
    stream.to("out", (Utf8, Utf8));
    let counts = stream.group_by_key().count("counts");
    (b.build().unwrap(), counts)
}

/// An instance that the group has dropped joins it again before it has a new producer: what the old one had not sent goes
/// out, over what the next owner has written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_is_never_written_though_a_producer_id_takes_its_time() {
    what_is_discarded_is_never_written(true).await;
}

/// The same where one is given at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_is_never_written_with_a_producer_id_at_once() {
    what_is_discarded_is_never_written(false).await;
}

async fn what_is_discarded_is_never_written(takes_time: bool) {
    let (cluster, cut, client) = begun().await;
    let first = App::start(&counted_and_told().0, short(&client)).await.unwrap();
    timeout(Duration::from_secs(20), first.running()).await.unwrap().unwrap();
    write(&cluster, "in", 0..5).await;
    settle(&first).await;
    // Nothing arrives that it writes, then the group does not hear of it either.
    cut.produced.store(true, Ordering::SeqCst);
    write(&cluster, "in", 5..15).await;
    sleep(Duration::from_millis(500)).await;
    cut.group.store(true, Ordering::SeqCst);
    let (topology, counts) = counted_and_told();
    let second = App::start(&topology, short(&cluster.client)).await.unwrap();
    write(&cluster, "in", 15..100).await;
    settle(&second).await;
    let count = second.view(&counts).get("k").await.unwrap().value.map(|row| row.value);
    println!("the second has counted {count:?}");
    // The first is dropped by now. It hears so, and joins again at once.
    cut.identities.store(takes_time, Ordering::SeqCst);
    cut.group.store(false, Ordering::SeqCst);
    cut.produced.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(6)).await;
    cut.identities.store(false, Ordering::SeqCst);
    settle(&second).await;
    second.close().await.unwrap();
    println!("first: {:?}", first.close().await);
    let (topology, counts) = counted_and_told();
    let third = App::start(&topology, short(&cluster.client)).await.unwrap();
    settle(&third).await;
    let restored = third.view(&counts).get("k").await.unwrap().value.map(|row| row.value);
    third.close().await.unwrap();
    client.close().await;
    cluster.stop().await;
    assert!(restored >= Some(100), "restored: {restored:?}");
}

/// An instance that the group has given up for another goes on answering.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_lost_a_table_does_not_answer_for_it() {
    let (cluster, cut, client) = begun().await;
    let (topology, counts) = counted_and_told();
    let config = |client| short(client).query_timeout(Duration::from_secs(2));
    let first = App::start(&topology, config(&client)).await.unwrap();
    write(&cluster, "in", 0..5).await;
    settle(&first).await;
    cut.all.store(true, Ordering::SeqCst);
    let (topology, theirs) = counted_and_told();
    let second = App::start(&topology, config(&cluster.client)).await.unwrap();
    // A fetch that was under way brings it the first of these.
    write(&cluster, "in", 5..50).await;
    sleep(Duration::from_secs(1)).await;
    write(&cluster, "in", 50..100).await;
    settle(&second).await;
    sleep(Duration::from_secs(2)).await;
    let now = second.view(&theirs).get("k").await.unwrap().value.map(|row| row.value);
    let old = first.view(&counts).get("k").await.map(|answer| answer.value.map(|row| row.value));
    let owner = first.view(&counts).owner_of("k");
    println!("{old:?} {now:?} {owner:?} {:?}", first.state());
    cut.all.store(false, Ordering::SeqCst);
    let _ = second.close().await;
    let _ = first.close().await;
    client.close().await;
    cluster.stop().await;
    assert!(old.as_ref().map_or(true, |old| *old == now), "{old:?} where it is {now:?}; owner {owner:?}");
}

/// A worker that begins while there is no broker cannot be told to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_waits_no_longer_than_a_session_for_a_worker_that_has_just_begun() {
    let (cluster, cut, client) = begun().await;
    let app = Arc::new(App::start(&counted_and_told().0, short(&client)).await.unwrap());
    write(&cluster, "in", 0..5).await;
    settle(&app).await;
    cut.all.store(true, Ordering::SeqCst);
    let more = tokio::spawn({
        let app = Arc::clone(&app);
        async move { app.set_workers(2).await }
    });
    sleep(Duration::from_millis(300)).await;
    let began = std::time::Instant::now();
    let closed = timeout(Duration::from_secs(90), app.close()).await;
    let took = began.elapsed();
    println!("{closed:?} {:?} in {took:?}", more.await);
    cut.all.store(false, Ordering::SeqCst);
    client.close().await;
    cluster.stop().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// A partition that ends before what is committed of it, as a log does that lost its tail (KIP-320).
#[tokio::test(flavor = "multi_thread")]
async fn records_below_a_committed_offset_beyond_the_end_are_not_dropped_in_silence() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.topic("out", 1).await;
    write(&cluster, "in", 0..10).await;
    let offset = kappa_client::admin::OffsetAndMetadata::new(30);
    let admin = Admin::new(&cluster.client);
    let altered =
        admin.alter_group_offsets("beyond", &[(TopicPartition::new("in", 0), offset)]).await.unwrap();
    assert!(altered.values().all(Result::is_ok), "{altered:?}");
    let b = Builder::new("beyond");
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    let failed = timeout(Duration::from_secs(20), app.failed()).await.expect("it stops").unwrap();
    assert!(failed.to_string().contains("in-0 ends at 10"), "{failed}");
    assert!(app.close().await.is_err());
    cluster.stop().await;
}

/// Whoever asks all the time, each once the last answer has come.
#[tokio::test(flavor = "multi_thread")]
async fn questions_do_not_keep_a_worker_from_its_records() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    cluster.write("in", (0..20_000).map(|at| (0, format!("k{at}"), "v".to_owned(), at))).await;
    let (topology, counts) = counted("a");
    let app = Arc::new(App::start(&topology, cluster.config()).await.unwrap());
    settle(&app).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for _ in 0..16 {
        let (view, over) = (app.view(&counts), Arc::clone(&over));
        asking.push(tokio::spawn(async move {
            let mut answers = 0;
            while !over.load(Ordering::SeqCst) {
                match view.all().await {
                    Ok(_) => answers += 1,
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            }
            answers
        }));
    }
    sleep(Duration::from_millis(500)).await;
    cluster.write("in", [(0, "new".to_owned(), "v".to_owned(), 0)]).await;
    let ends = app.end_offsets().await.unwrap();
    let began = std::time::Instant::now();
    let caught_up = timeout(Duration::from_secs(30), app.caught_up(&ends)).await;
    let took = began.elapsed();
    let began = std::time::Instant::now();
    let closed = timeout(Duration::from_secs(30), app.close()).await.is_ok();
    println!("closed {closed} in {:?}", began.elapsed());
    over.store(true, Ordering::SeqCst);
    let mut answers = 0;
    for asked in asking {
        answers += asked.await.unwrap();
    }
    println!("one record took {took:?} beside {answers} answers");
    app.close().await.unwrap();
    cluster.stop().await;
    assert!(
        caught_up.is_ok() && took < Duration::from_secs(5),
        "one record is not processed in {took:?} beside {answers} answers"
    );
}

/// A worker that begins has no tasks, and holds up the answers of those that have.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_begins_holds_up_no_question() {
    let (cluster, cut, client) = begun().await;
    let (topology, counts) = counted_and_told();
    let config = short(&client).query_timeout(Duration::from_secs(3));
    let app = Arc::new(App::start(&topology, config).await.unwrap());
    write(&cluster, "in", 0..5).await;
    settle(&app).await;
    cut.identities.store(true, Ordering::SeqCst);
    app.set_workers(2).await.unwrap();
    let answer = app.view(&counts).get("k").await.map(|answer| answer.value.map(|row| row.value));
    cut.identities.store(false, Ordering::SeqCst);
    let _ = app.close().await;
    client.close().await;
    cluster.stop().await;
    assert!(matches!(answer, Ok(Some(5))), "{answer:?}");
}

/// A worker is a member of the group before it can write: tasks move to it and stand still there.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_do_not_move_to_a_worker_that_cannot_write_yet() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 4).await;
    cluster.topic("out", 1).await;
    let cut = Cut::of(&cluster);
    let client = Client::in_process(Arc::clone(&cut) as Arc<dyn Service>);
    let config = Config::client(&client).commit_interval(Duration::from_millis(100));
    let app = App::start(&counted_and_told().0, config).await.unwrap();
    let one_each = |name: &'static str| (0..4).map(move |at| (at, "k".to_owned(), format!("{name}{at}"), 0));
    cluster.write("in", one_each("before")).await;
    settle(&app).await;
    cut.identities.store(true, Ordering::SeqCst);
    app.set_workers(2).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    cluster.write("in", one_each("after")).await;
    sleep(Duration::from_secs(4)).await;
    let mut out = values(&cluster, "out").await;
    out.retain(|value| value.starts_with("after"));
    out.sort();
    cut.identities.store(false, Ordering::SeqCst);
    let _ = app.close().await;
    client.close().await;
    cluster.stop().await;
    assert_eq!(out.len(), 4, "processed in 4 s: {out:?}");
}
