//! A broker in the test's own process, and records in its topics.

use kappa_broker::{Broker, BrokerConfig};
use kappa_client::{
    Admin, Client, ClientConfig, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition, admin::NewTopic,
};
use kappa_streams::{App, Config, Counters, Dump, EndOffsets};
use std::time::Duration;
use tempfile::TempDir;

/// A broker and a client of it.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    broker: Broker,
    _data: TempDir,
}

impl Cluster {
    /// A broker on an empty directory; the client shares its memory.
    pub(crate) async fn start() -> Cluster {
        Cluster::with(&[]).await
    }

    /// The same with settings of the broker.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Cluster {
        let data = TempDir::new().unwrap();
        let mut config = BrokerConfig::new(data.path());
        settings.iter().for_each(|(key, value)| config.set(key, value).unwrap());
        let broker = Broker::start(config).await.unwrap();
        let client = Client::in_process(broker.lane());
        Cluster { client, broker, _data: data }
    }

    /// Where the broker listens.
    pub(crate) fn address(&self) -> String {
        self.broker.address().to_string()
    }

    /// The broker without a client.
    pub(crate) fn lane(&self) -> std::sync::Arc<dyn kappa_protocol::Service> {
        self.broker.lane()
    }

    /// A client over TCP.
    pub(crate) async fn remote(&self) -> Client {
        Client::connect(&self.address(), ClientConfig::default()).await.unwrap()
    }

    /// Creates a topic that keeps everything.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions).config("retention.ms", "-1");
        Admin::new(&self.client).create_topic(&topic).await.unwrap();
    }

    /// Writes text records: partition, key, value, timestamp.
    pub(crate) async fn write(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = (i32, String, String, i64)>,
    ) {
        let producer = Producer::new(&self.client, ProducerConfig::default()).await.unwrap();
        for (partition, key, value, timestamp) in records {
            let record =
                ProducerRecord::to(topic).partition(partition).key(&key).value(&value).timestamp(timestamp);
            producer.send(record).await.unwrap();
        }
        producer.flush().await.unwrap();
        producer.close().await.unwrap();
    }

    /// All values of partition 0 of a topic, as text.
    pub(crate) async fn values(&self, topic: &str) -> Vec<String> {
        let config =
            ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
        let consumer = Consumer::new(&self.client, config).unwrap();
        let place = TopicPartition::new(topic, 0);
        let end = consumer.end_offsets(std::slice::from_ref(&place)).await.unwrap()[&place];
        consumer.assign([place.clone()]).unwrap();
        let mut values = Vec::new();
        while end > 0 && consumer.position(&place).is_none_or(|at| at < end) {
            for batch in consumer.poll(Duration::from_secs(5)).await.unwrap() {
                for record in batch.records().map(Result::unwrap) {
                    values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                }
            }
        }
        consumer.close().await.unwrap();
        values
    }

    /// Settings for tests: short waits, and no hold longer than needed.
    pub(crate) fn config(&self) -> Config {
        Config::client(&self.client)
            .commit_interval(Duration::from_millis(100))
            .idle_timeout(Duration::from_millis(100))
    }

    pub(crate) async fn stop(self) {
        self.client.close().await;
        self.broker.stop().await.unwrap();
    }
}

/// Waits until an application has processed all there is.
pub(crate) async fn settle(app: &App) -> EndOffsets {
    let ends = app.end_offsets().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), app.caught_up(&ends))
        .await
        .expect("caught up in time")
        .unwrap();
    ends
}

/// All rows, and what has been counted.
pub(crate) async fn state(app: &App) -> (Dump, Counters) {
    let mut sum = Counters::default();
    app.counters_now().await.unwrap().values().for_each(|counters| sum.add(counters));
    (app.dump().await.unwrap(), sum)
}
