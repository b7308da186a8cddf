//! `kappa bench`: how fast a broker takes records, gives them back, and how long one record takes through it.
//!
//! Results are records and bytes per second, and for times the median, 99 % and 99.9 %, exact to 0.1 %. Records
//! are random bytes from a fixed seed, so that runs compare and codecs find nothing to squeeze unless asked to.

use super::produce::{Pace, acks};
use crate::{
    error::Failure,
    output::{Column, Row, grouped},
    place, progress,
    session::{self, Session},
};
use hdrhistogram::Histogram;
use kappa_client::{
    Acks, Compression, Consumer, ConsumerConfig, Delivery, Producer, ProducerConfig, ProducerRecord,
    admin::NewTopic, producer::SendError,
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Measure producing, consuming and latency against a broker
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BenchCommand {
    /// Produce records as fast as the broker takes them, or at a rate
    #[command(after_long_help = PRODUCE_EXAMPLES)]
    Produce(Load),
    /// Read everything that a topic holds
    Consume(Read),
    /// Produce at a fixed rate and measure each record until a consumer has it
    #[command(after_long_help = LATENCY_EXAMPLES)]
    Latency(Load),
}

const PRODUCE_EXAMPLES: &str = "\
Examples:
  kappa bench produce bench --partitions 6 --records 5000000 --size 100
  kappa bench produce bench --rate 20000 --acks 1 --compression lz4";

const LATENCY_EXAMPLES: &str = "\
Examples:
  kappa bench latency bench --rate 1000 --records 30000
  kappa bench latency bench --rate 100 --records 1000 --acks 1 --output json";

/// What is produced.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// Name of the topic; created if it does not exist
    #[arg(value_name = "TOPIC", default_value = "kappa-bench")]
    topic: String,
    /// Partitions, where the topic is created
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// How many records [default: 1000000, for latency 10000]
    #[arg(short = 'n', long, value_name = "N")]
    records: Option<u64>,
    /// Bytes of each value
    #[arg(short, long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=900_000))]
    size: u32,
    /// Records per second [default: as many as possible, for latency 1000]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// When a record counts as delivered: 0, 1 or all
    #[arg(short, long, value_name = "0|1|all", default_value = "all", value_parser = acks)]
    acks: Acks,
    /// Codec: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none")]
    compression: Compression,
}

/// What is read.
#[derive(Debug, clap::Args)]
pub(crate) struct Read {
    /// Name of the topic
    #[arg(value_name = "TOPIC", default_value = "kappa-bench")]
    topic: String,
    /// Stop after so many records [default: all that are there]
    #[arg(short = 'n', long, value_name = "N")]
    records: Option<u64>,
}

impl BenchCommand {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let measured = match self {
            BenchCommand::Produce(load) => load.produce(session).await?,
            BenchCommand::Consume(read) => read.run(session).await?,
            BenchCommand::Latency(load) => load.latency(session).await?,
        };
        session.output.rows(&[measured], "nothing was measured")
    }
}

/// The result of a run.
#[derive(Serialize)]
struct Measured {
    bench: &'static str,
    topic: String,
    records: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    p999_ms: Option<f64>,
    max_ms: Option<f64>,
}

impl Row for Measured {
    const COLUMNS: &'static [Column] = &[
        Column::Text("BENCH"),
        Column::Number("RECORDS"),
        Column::Number("SECONDS"),
        Column::Number("RECORDS/S"),
        Column::Number("MB/S"),
        Column::Number("P50 MS"),
        Column::Number("P99 MS"),
        Column::Number("P99.9 MS"),
        Column::Number("MAX MS"),
    ];

    fn cells(&self) -> Vec<String> {
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        vec![
            self.bench.to_owned(),
            grouped(self.records),
            format!("{:.2}", self.seconds),
            grouped(self.records_per_second as u64),
            format!("{:.1}", self.megabytes_per_second),
            ms(self.p50_ms),
            ms(self.p99_ms),
            ms(self.p999_ms),
            ms(self.max_ms),
        ]
    }
}

impl Measured {
    fn new(
        bench: &'static str,
        topic: &str,
        records: u64,
        bytes: u64,
        took: Duration,
        times: Option<&Times>,
    ) -> Self {
        let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
        let quantile = |quantile| times.map(|times| times.quantile_ms(quantile));
        Self {
            bench,
            topic: topic.to_owned(),
            records,
            seconds,
            records_per_second: records as f64 / seconds,
            megabytes_per_second: bytes as f64 / 1e6 / seconds,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: quantile(1.0),
        }
    }
}

/// Durations in microseconds, up to a minute.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are constants that a test tries"),
        )
    }

    fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl Load {
    async fn topic(&self, session: &Session) -> Result<(), Failure> {
        let exists =
            session.admin.list_topics().await.map_err(|error| session::refused("list topics", &error))?;
        if exists.iter().any(|topic| topic.name == self.topic) {
            return Ok(());
        }
        let created = session.admin.create_topic(&NewTopic::new(self.topic.as_str(), self.partitions)).await;
        created.map_err(|error| session::refused(&format!("create topic '{}'", self.topic), &error))?;
        Ok(())
    }

    async fn producer(&self, session: &Session) -> Result<Producer, Failure> {
        let config = ProducerConfig::default()
            .acks(self.acks)
            .idempotent(self.acks == Acks::All)
            .compression(self.compression);
        let producer = Producer::new(&session.client, config);
        let producer = producer.await.map_err(|error| session::refused("produce", &error))?;
        let known = producer.partitions_for(&self.topic).await;
        known.map_err(|error| session::topic_error("produce", &self.topic, &error))?;
        Ok(producer)
    }

    async fn send(&self, producer: &Producer, value: &[u8]) -> Result<Delivery, Failure> {
        producer
            .send(ProducerRecord::to(&self.topic).value(value))
            .await
            .map_err(|error| session::send_error(&self.topic, &error))
    }

    /// At full speed only throughput is measured: a record's time would be that of the queue before it.
    async fn produce(&self, session: &Session) -> Result<Measured, Failure> {
        self.topic(session).await?;
        let producer = self.producer(session).await?;
        let records = self.records.unwrap_or(1_000_000);
        let mut values = Values::new(self.size);
        let mut pace = self.rate.map(Pace::new);
        let bar = progress::bar(records, "records produced");
        let started = Instant::now();
        for sent in 0..records {
            if let Some(pace) = &mut pace {
                pace.wait().await;
            }
            let value = values.next();
            while let Err(error) = producer.send_nowait(ProducerRecord::to(&self.topic).value(value)) {
                match error {
                    SendError::Full { .. } => producer.room().await,
                    error => return Err(session::send_error(&self.topic, &error)),
                }
            }
            if sent % 1_024 == 0 {
                bar.set_position(sent);
            }
        }
        producer.flush().await.map_err(|error| session::delivery_error(&self.topic, &error))?;
        let took = started.elapsed();
        bar.finish_and_clear();
        Ok(Measured::new("produce", &self.topic, records, records * u64::from(self.size), took, None))
    }

    /// A record's time runs from when it was due, not from when a late sender got round to it.
    async fn latency(&self, session: &Session) -> Result<Measured, Failure> {
        self.topic(session).await?;
        let producer = self.producer(session).await?;
        let records = self.records.unwrap_or(10_000);
        let consumer = tail(session, &self.topic).await?;
        let mut pace = Pace::new(self.rate.unwrap_or(1_000));
        let mut values = Values::new(self.size);
        let epoch = Instant::now();
        let bar = progress::bar(records, "records there and back");
        let sending = async {
            for _ in 0..records {
                let due = pace.wait().await;
                let value = values.next_with((due - epoch).as_nanos() as u64);
                drop(self.send(&producer, value).await?);
            }
            producer.flush().await.map_err(|error| session::delivery_error(&self.topic, &error))
        };
        let receiving = async {
            let mut times = Times::new();
            while times.0.len() < records {
                let batches = consumer.poll(Duration::from_secs(1)).await;
                let batches = batches.map_err(|error| session::consumer_error("consume", &error))?;
                let now = epoch.elapsed();
                for record in batches.iter().flat_map(|batch| batch.records()) {
                    let record = record.map_err(|error| Failure::failed(error.to_string()))?;
                    if let Some(due) = record.value.and_then(<[u8]>::first_chunk) {
                        times.record(now.saturating_sub(Duration::from_nanos(u64::from_le_bytes(*due))));
                    }
                }
                bar.set_position(times.0.len());
            }
            Ok(times)
        };
        let ((), times) = tokio::try_join!(sending, receiving)?;
        let took = epoch.elapsed();
        bar.finish_and_clear();
        let bytes = records * u64::from(self.size);
        Ok(Measured::new("latency", &self.topic, records, bytes, took, Some(&times)))
    }
}

/// A consumer at the end of every partition, whose positions are known.
async fn tail(session: &Session, topic: &str) -> Result<Consumer, Failure> {
    let failure = |error| session::consumer_error("consume", &error);
    let partitions = session.partitions(topic, &[]).await?;
    let consumer = Consumer::new(&session.client, ConsumerConfig::default()).map_err(failure)?;
    consumer.assign(partitions.iter().cloned()).map_err(failure)?;
    for (partition, span) in place::spans(&session.admin, &partitions).await? {
        consumer.seek(&partition, span.end).map_err(failure)?;
    }
    Ok(consumer)
}

impl Read {
    async fn run(self, session: &Session) -> Result<Measured, Failure> {
        let partitions = session.partitions(&self.topic, &[]).await?;
        let spans = place::spans(&session.admin, &partitions).await?;
        let there = spans.values().map(|span| (span.end - span.start).max(0) as u64).sum();
        let records = self.records.unwrap_or(there).min(there);
        let failure = |error| session::consumer_error("consume", &error);
        let consumer = Consumer::new(&session.client, ConsumerConfig::default()).map_err(failure)?;
        consumer.assign(partitions).map_err(failure)?;
        let bar = progress::bar(records, "records consumed");
        let started = Instant::now();
        for (partition, span) in &spans {
            consumer.seek(partition, span.start).map_err(failure)?;
        }
        let (mut read, mut bytes) = (0, 0);
        let behind = |consumer: &Consumer| {
            spans.iter().any(|(partition, span)| {
                consumer.position(partition).is_none_or(|position| position < span.end)
            })
        };
        while read < records && behind(&consumer) {
            for batch in consumer.poll(Duration::from_secs(1)).await.map_err(failure)? {
                for record in batch.records() {
                    let record = record.map_err(|error| Failure::failed(error.to_string()))?;
                    bytes += [record.key, record.value].into_iter().flatten().map(<[u8]>::len).sum::<usize>();
                    read += 1;
                }
            }
            bar.set_position(read);
        }
        let took = started.elapsed();
        bar.finish_and_clear();
        Ok(Measured::new("consume", &self.topic, read, bytes as u64, took, None))
    }
}

/// Values of one size: windows into random bytes.
struct Values {
    random: Vec<u8>,
    size: usize,
    at: usize,
    stamped: Vec<u8>,
}

impl Values {
    /// Bytes that the windows move over.
    const SPREAD: usize = 64 * 1024;

    fn new(size: u32) -> Self {
        let size = size as usize;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let random = std::iter::repeat_with(|| {
            // xorshift64: enough to leave a codec nothing to find.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        Self { random: random.take(Self::SPREAD + size).collect(), size, at: 0, stamped: Vec::new() }
    }

    fn next(&mut self) -> &[u8] {
        self.at = (self.at + 61) % Self::SPREAD;
        self.random.get(self.at..self.at + self.size).unwrap_or_default()
    }

    /// The next value with `stamp` in its first eight bytes.
    fn next_with(&mut self, stamp: u64) -> &[u8] {
        let mut stamped = std::mem::take(&mut self.stamped);
        stamped.clear();
        stamped.extend_from_slice(&stamp.to_le_bytes());
        stamped.extend_from_slice(self.next().get(stamped.len()..).unwrap_or_default());
        self.stamped = stamped;
        &self.stamped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_carry_a_stamp() {
        let mut values = Values::new(100);
        for stamp in 0..10_000 {
            assert_eq!(values.next().len(), 100);
            let value = values.next_with(stamp);
            assert_eq!((value.len(), value.first_chunk()), (100, Some(&stamp.to_le_bytes())));
        }
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let mut times = Times::new();
        (1..=1_000).for_each(|ms| times.record(Duration::from_millis(ms)));
        assert!((times.quantile_ms(0.5) - 500.0).abs() < 1.0);
        assert!((times.quantile_ms(1.0) - 1_000.0).abs() < 1.0);
    }
}
