//! Produces the year's flights in the order in which they left, and the airlines before them.
//!
//! Invariant: when [`flights`] returns, every flight is acknowledged, so the end offsets of the topic are final.

use super::{
    data::{self, FLIGHT_COUNT},
    flight::Flight,
    topology::{CARRIERS, FLIGHTS},
};
use crate::{error, error::Failure, session};
use indicatif::ProgressBar;
use kappa_client::{
    Admin, Client, Producer, ProducerConfig, ProducerRecord, admin::NewTopic, producer::SendError,
};

/// Partitions of the topic of flights.
pub(super) const PARTITIONS: i32 = 6;

/// Creates the demo's topics, which must not be there yet. Their records are of 2013: by Kafka's default retention
/// they would all be too old to keep.
pub(super) async fn create_topics(admin: &Admin) -> Result<(), Failure> {
    let topics = [(FLIGHTS, PARTITIONS), (CARRIERS, 1)]
        .map(|(name, partitions)| NewTopic::new(name, partitions).config("retention.ms", "-1"));
    let created = admin.create_topics(&topics).await;
    session::all(created.map_err(|error| session::refused("create topics", &error))?, |topic, error| {
        session::refused(&format!("create topic '{topic}'"), error)
    })?;
    Ok(())
}

/// Produces the airlines' names by their codes.
pub(super) async fn airlines(client: &Client) -> Result<(), Failure> {
    let producer = producer(client).await?;
    for (carrier, name) in data::airlines().map_err(|error| Failure::failed(error::chain(&error)))? {
        let record = ProducerRecord::to(CARRIERS).key(&carrier).value(&name);
        drop(producer.send(record).await.map_err(|error| session::send_error(CARRIERS, &error))?);
    }
    producer.close().await.map_err(|error| session::delivery_error(CARRIERS, &error))
}

/// Produces every flight: JSON by tail number, its event time the scheduled departure.
pub(super) async fn flights(
    client: &Client,
    flights: &[Flight],
    progress: &ProgressBar,
) -> Result<(), Failure> {
    let producer = producer(client).await?;
    let known = producer.partitions_for(FLIGHTS).await;
    known.map_err(|error| session::topic_error("produce", FLIGHTS, &error))?;
    let mut value = Vec::new();
    for (index, flight) in flights.iter().enumerate() {
        if index % 1_024 == 0 {
            // Sending seldom has to wait, and whoever shares the thread wants to show how far this is.
            tokio::task::yield_now().await;
        }
        value.clear();
        serde_json::to_writer(&mut value, flight).map_err(|error| Failure::failed(error.to_string()))?;
        let mut record = ProducerRecord::to(FLIGHTS).value(&value).timestamp(flight.scheduled);
        record.key = flight.tailnum.as_ref().map(String::as_bytes);
        while let Err(error) = producer.send_nowait(record) {
            match error {
                SendError::Full { .. } => producer.room().await,
                error => return Err(session::send_error(FLIGHTS, &error)),
            }
        }
        progress.inc(1);
    }
    debug_assert_eq!(flights.len(), FLIGHT_COUNT);
    producer.close().await.map_err(|error| session::delivery_error(FLIGHTS, &error))
}

async fn producer(client: &Client) -> Result<Producer, Failure> {
    let producer = Producer::new(client, ProducerConfig::default()).await;
    producer.map_err(|error| session::refused("produce", &error))
}
