//! Producer, consumer and admin client for Kappa and Apache Kafka.
//!
//! A [`Client`] is the way to a cluster: over TCP ([`Client::connect`]) or, for an application that embeds its broker,
//! in process ([`Client::in_process`]); everything made from it works the same over either. A [`Producer`] sends
//! records, a [`Consumer`] reads them, an [`Admin`] looks after topics, configurations and groups.
//!
//! ```
//! use kappa_client::{Admin, Client, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig, ProducerRecord};
//! use kappa_client::{TopicPartition, admin::NewTopic};
//! use std::time::Duration;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let mut config = kappa_broker::BrokerConfig::new(directory.path().join("data"));
//! # (config.listen, config.http) = ("127.0.0.1:0".to_owned(), None);
//! # let broker = kappa_broker::Broker::start(config).await?;
//! // Or, for a broker elsewhere: Client::connect("127.0.0.1:9092", ClientConfig::default()).await?
//! let client = Client::in_process(broker.lane());
//! Admin::new(&client).create_topic(&NewTopic::new("greetings", 1)).await?;
//!
//! let producer = Producer::new(&client, ProducerConfig::default()).await?;
//! let delivery = producer.send(ProducerRecord::to("greetings").key("en").value("hello")).await?;
//! assert_eq!(delivery.await?.offset, 0);
//! producer.close().await?;
//!
//! let config = ConsumerConfig::group("readers").offset_reset(OffsetReset::Earliest);
//! let consumer = Consumer::new(&client, config)?;
//! consumer.subscribe(["greetings"])?;
//! 'reading: loop {
//!     for batch in consumer.poll(Duration::from_secs(1)).await? {
//!         for record in batch.records() {
//!             let record = record?;
//!             assert_eq!((record.key, record.value), (Some(&b"en"[..]), Some(&b"hello"[..])));
//!             break 'reading;
//!         }
//!     }
//! }
//! consumer.commit().await?;
//! assert_eq!(consumer.position(&TopicPartition::new("greetings", 0)), Some(1));
//! consumer.close().await?;
//! client.close().await;
//! # broker.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Layers, downwards only: producer, consumer and admin; the client, which finds the node to ask and retries; lanes,
//! one ordered way to one node each, whether across a socket or not. Nothing above a lane knows which it is.

pub mod admin;
mod client;
mod config;
pub mod consumer;
mod coordinator;
mod error;
mod offsets;
pub mod producer;
mod routing;
mod topic_partition;

pub use admin::Admin;
pub use client::Client;
pub use config::ClientConfig;
pub use consumer::{Consumer, ConsumerConfig, FetchedBatch, IsolationLevel, OffsetReset, RebalanceListener};
pub use error::{ConnectError, RequestError};
pub use kappa_protocol::record::{Compression, DecodedBatch, Headers, Record};
pub use producer::{Acks, Backlog, Delivery, Producer, ProducerConfig, ProducerRecord, RecordMetadata};
pub use routing::{Lane, LaneKind};
pub use topic_partition::TopicPartition;
