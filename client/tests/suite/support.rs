//! A broker per case, and the two ways to it.

use kappa_broker::{Broker, BrokerConfig};
use kappa_client::{
    Client, ClientConfig, Consumer, ConsumerConfig, FetchedBatch, OffsetReset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a case waits for what has to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with its directory.
pub struct Cluster {
    pub broker: Broker,
    directory: TempDir,
}

/// How a client reaches it.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp,
    InProcess,
}

impl Cluster {
    pub async fn start() -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let mut config = BrokerConfig::new(directory.path().join("data"));
        config.listen = "127.0.0.1:0".to_owned();
        config.http = None;
        config.set("group.initial.rebalance.delay.ms", "0").unwrap();
        config.set("num.partitions", "3").unwrap();
        let broker = Broker::start(config).await.unwrap();
        Cluster { broker, directory }
    }

    pub fn data_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    pub async fn client(&self, transport: Transport) -> Client {
        let config = ClientConfig::default().api_timeout(PATIENCE);
        match transport {
            Transport::Tcp => Client::connect(&self.broker.address().to_string(), config).await.unwrap(),
            Transport::InProcess => Client::in_process_with(self.broker.lane(), config),
        }
    }
}

/// Makes each named function, which takes a [`Cluster`] and a [`Client`], a test over either transport.
macro_rules! over_both_transports {
    ($($case:ident)*) => {
        mod tcp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let cluster = $crate::support::Cluster::start().await;
                let client = cluster.client($crate::support::Transport::Tcp).await;
                super::$case(&cluster, &client).await;
                client.close().await;
                cluster.broker.stop().await.unwrap();
            })*
        }
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let cluster = $crate::support::Cluster::start().await;
                let client = cluster.client($crate::support::Transport::InProcess).await;
                super::$case(&cluster, &client).await;
                client.close().await;
                cluster.broker.stop().await.unwrap();
            })*
        }
    };
}
pub(crate) use over_both_transports;

pub async fn producer(client: &Client) -> Producer {
    Producer::new(client, ProducerConfig::default()).await.unwrap()
}

/// A consumer of one partition from its beginning.
pub fn reader(client: &Client, partition: &TopicPartition) -> Consumer {
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(client, config).unwrap();
    consumer.assign([partition.clone()]).unwrap();
    consumer
}

/// Sends `v0`, `v1`, ... to one partition and waits for the acknowledgements.
pub async fn fill(client: &Client, partition: &TopicPartition, count: usize) {
    let producer = producer(client).await;
    for number in 0..count {
        let value = format!("v{number}");
        let record = ProducerRecord::to(&partition.topic).partition(partition.partition).value(&value);
        producer.send(record.timestamp(1000 + number as i64)).await.unwrap();
    }
    producer.close().await.unwrap();
}

/// Offset and value of a record.
pub type Read = (i64, String);

pub fn read(batches: &[FetchedBatch]) -> Vec<(TopicPartition, Read)> {
    let mut records = Vec::new();
    for batch in batches {
        for record in batch.records() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap();
            records.push((batch.partition.clone(), (record.offset, value)));
        }
    }
    records
}

/// Polls until `count` records have come.
pub async fn consume(consumer: &Consumer, count: usize) -> BTreeMap<TopicPartition, Vec<Read>> {
    let (started, mut found, mut by_partition) = (Instant::now(), 0, BTreeMap::new());
    while found < count {
        assert!(started.elapsed() < PATIENCE, "{found} of {count} records after {PATIENCE:?}");
        for (partition, record) in read(&consumer.poll(Duration::from_millis(500)).await.unwrap()) {
            by_partition.entry(partition).or_insert_with(Vec::new).push(record);
            found += 1;
        }
    }
    assert_eq!(found, count);
    by_partition
}
