//! librdkafka against an embedded broker: what its users see through produce, consume, groups and admin.

use kappa_broker::{Broker, BrokerConfig};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    broker: Broker,
    _home: TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let home = tempfile::tempdir().unwrap();
        let broker = Broker::start(BrokerConfig::new(home.path().join("data"))).await.unwrap();
        Cluster { broker, _home: home }
    }

    fn config(&self, settings: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.broker.address().to_string());
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config
    }

    fn producer(&self, settings: &[(&str, &str)]) -> FutureProducer {
        self.config(settings).create().unwrap()
    }

    fn member(&self, group: &str, topic: &str, settings: &[(&str, &str)]) -> StreamConsumer {
        let mut config = self.config(&[
            ("group.id", group),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.commit", "false"),
        ]);
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let consumer: StreamConsumer = config.create().unwrap();
        consumer.subscribe(&[topic]).unwrap();
        consumer
    }

    async fn create(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.config(&[]).create().unwrap();
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let results = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

/// Sends `0..count` to partition `n % partitions` and waits for every delivery.
async fn send_numbers(
    producer: &FutureProducer,
    topic: &str,
    numbers: std::ops::Range<i32>,
    partitions: i32,
) {
    let sent: Vec<_> = numbers
        .map(|n| {
            let value = n.to_string();
            let record = FutureRecord::<(), String>::to(topic).payload(&value).partition(n % partitions);
            producer.send_result(record).map_err(|(error, _)| error).unwrap()
        })
        .collect();
    for delivery in sent {
        delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
    }
}

async fn next_number(consumer: &StreamConsumer) -> (i32, i64, i32) {
    let message = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("a message in time").unwrap();
    let number = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
    (message.partition(), message.offset(), number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_with_keys_headers_and_timestamps_in_every_codec() {
    let cluster = Cluster::start().await;
    for codec in ["none", "snappy", "lz4"] {
        let topic = format!("codec-{codec}");
        cluster.create(&topic, 1).await;
        let producer = cluster.producer(&[
            ("compression.type", codec),
            ("enable.idempotence", "true"),
            ("linger.ms", "5"),
        ]);
        let mut sent = Vec::new();
        for n in 0..500_i64 {
            let (key, value) = (format!("key {n}"), format!("{}{n}", "value ".repeat(20)));
            let headers = OwnedHeaders::new().insert(Header { key: "n", value: Some(&n.to_string()) });
            let record = FutureRecord::to(&topic)
                .key(&key)
                .payload(&value)
                .timestamp(1_600_000_000_000 + n)
                .headers(headers);
            sent.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
        for (n, delivery) in (0..).zip(sent) {
            let delivery = delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
            assert_eq!((delivery.partition, delivery.offset), (0, n));
        }
        let consumer = cluster.member(&format!("group-{codec}"), &topic, &[]);
        for n in 0..500_i64 {
            let message =
                tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("a message in time").unwrap();
            assert_eq!(message.offset(), n);
            assert_eq!(message.key(), Some(format!("key {n}").as_bytes()));
            assert_eq!(message.payload(), Some(format!("{}{n}", "value ".repeat(20)).as_bytes()));
            assert_eq!(message.timestamp().to_millis(), Some(1_600_000_000_000 + n));
            assert_eq!(message.headers().unwrap().get(0).value, Some(n.to_string().as_bytes()));
        }
    }
    cluster.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_keys_and_values_and_tombstones_come_back() {
    let cluster = Cluster::start().await;
    cluster.create("nulls", 1).await;
    let producer = cluster.producer(&[]);
    let records: [(Option<&str>, Option<&str>); 3] =
        [(None, Some("v")), (Some("k"), None), (Some(""), Some(""))];
    for (key, value) in records {
        let mut record = FutureRecord::<str, str>::to("nulls");
        (record.key, record.payload) = (key, value);
        producer.send(record, PATIENCE).await.map_err(|(error, _)| error).unwrap();
    }
    let consumer = cluster.member("nulls", "nulls", &[]);
    for (key, value) in records {
        let message =
            tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("a message in time").unwrap();
        assert_eq!((message.key(), message.payload()), (key.map(str::as_bytes), value.map(str::as_bytes)));
    }
    cluster.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_share_a_topic_and_one_takes_over_when_the_other_leaves() {
    for strategy in ["range", "cooperative-sticky"] {
        let cluster = Cluster::start().await;
        cluster.create("shared", 4).await;
        let producer = cluster.producer(&[]);
        let settings = [("partition.assignment.strategy", strategy), ("heartbeat.interval.ms", "200")];
        send_numbers(&producer, "shared", 0..100, 4).await;
        let first = cluster.member("members", "shared", &settings);
        let mut seen = BTreeSet::new();
        while seen.len() < 100 {
            seen.insert(next_number(&first).await);
        }
        first.commit_consumer_state(CommitMode::Sync).unwrap();
        let second = cluster.member("members", "shared", &settings);
        shared(&[&first, &second], &mut seen).await;
        send_numbers(&producer, "shared", 100..200, 4).await;
        while seen.len() < 200 {
            tokio::select! {
                record = next_number(&first) => { seen.insert(record); }
                record = next_number(&second) => { seen.insert(record); }
            }
        }
        first.commit_consumer_state(CommitMode::Sync).unwrap();
        second.commit_consumer_state(CommitMode::Sync).unwrap();
        drop(second);
        shared(&[&first], &mut seen).await;
        send_numbers(&producer, "shared", 200..300, 4).await;
        while seen.len() < 300 {
            seen.insert(next_number(&first).await);
        }
        let numbers: BTreeSet<i32> = seen.iter().map(|(_, _, number)| *number).collect();
        assert_eq!(numbers, (0..300).collect());
        assert_eq!(seen.len(), 300, "{strategy}: no number stands at two offsets");
        drop(first);
        cluster.broker.stop().await.unwrap();
    }
}

/// Polls until each member has an equal share of the four partitions.
async fn shared(members: &[&StreamConsumer], seen: &mut BTreeSet<(i32, i64, i32)>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shares: Vec<usize> = members.iter().map(|member| member.assignment().unwrap().count()).collect();
        if shares == vec![4 / members.len(); members.len()] {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "shares of 4 partitions: {shares:?}");
        for member in members {
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(20), member.recv()).await {
                let message = message.unwrap();
                let number = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
                seen.insert((message.partition(), message.offset(), number));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_at_its_commits_after_the_broker_restarted() {
    let home = tempfile::tempdir().unwrap();
    let config = || BrokerConfig::new(home.path().join("data"));
    let cluster =
        Cluster { broker: Broker::start(config()).await.unwrap(), _home: tempfile::tempdir().unwrap() };
    cluster.create("kept", 1).await;
    send_numbers(&cluster.producer(&[]), "kept", 0..10, 1).await;
    let consumer = cluster.member("keepers", "kept", &[]);
    for n in 0..4 {
        assert_eq!(next_number(&consumer).await, (0, i64::from(n), n));
    }
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("kept", 0, Offset::Offset(4)).unwrap();
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
    drop(consumer);
    cluster.broker.stop().await.unwrap();

    let cluster =
        Cluster { broker: Broker::start(config()).await.unwrap(), _home: tempfile::tempdir().unwrap() };
    let consumer = cluster.member("keepers", "kept", &[]);
    for n in 4..10 {
        assert_eq!(next_number(&consumer).await, (0, i64::from(n), n));
    }
    drop(consumer);
    cluster.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_watermarks_and_times_are_told() {
    let cluster = Cluster::start().await;
    cluster.create("told", 2).await;
    let producer = cluster.producer(&[]);
    for n in 0..20_i64 {
        let value = n.to_string();
        let record =
            FutureRecord::<(), String>::to("told").payload(&value).partition(1).timestamp(1_000_000 + n);
        producer.send(record, PATIENCE).await.map_err(|(error, _)| error).unwrap();
    }
    let asked = tokio::task::spawn_blocking(move || {
        let client = producer.client();
        let metadata = client.fetch_metadata(Some("told"), PATIENCE).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), 2);
        assert_eq!(metadata.brokers().len(), 1);
        client.fetch_watermarks("told", 1, PATIENCE).unwrap()
    });
    assert_eq!(asked.await.unwrap(), (0, 20));
    let consumer: StreamConsumer = cluster.config(&[("group.id", "told")]).create().unwrap();
    let found = tokio::task::spawn_blocking(move || {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset("told", 1, Offset::Offset(1_000_007)).unwrap();
        consumer.offsets_for_times(times, PATIENCE).unwrap()
    });
    assert_eq!(found.await.unwrap().elements()[0].offset(), Offset::Offset(7));
    cluster.broker.stop().await.unwrap();
}
