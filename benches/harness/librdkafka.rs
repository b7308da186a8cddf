//! librdkafka as a producer. Only for benches of the package `kappa-tests`, the one that may use it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientContext, config::ClientConfig};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Produces as many records of `value` as fast as it can, with librdkafka's defaults but for `settings`; returns how
/// long it took until all were acknowledged.
pub(crate) fn produce(
    address: SocketAddr,
    topic: &str,
    settings: &[(&str, &str)],
    value: &[u8],
    records: usize,
) -> Duration {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string());
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let producer: BaseProducer<Delivered> =
        config.create_with_context(Delivered::default()).expect("known settings");
    let metadata = producer.client().fetch_metadata(Some(topic), Duration::from_secs(10));
    metadata.expect("the topic is there");
    let start = Instant::now();
    for sent in 0..records {
        let mut record = BaseRecord::<(), [u8]>::to(topic).payload(value);
        while let Err((error, refused)) = producer.send(record) {
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                    producer.poll(Duration::from_millis(1));
                }
                error => panic!("{error}"),
            }
            record = refused;
        }
        if sent % 1024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60)).expect("everything is settled");
    let took = start.elapsed();
    assert_eq!(producer.context().0.load(Ordering::Relaxed), records, "everything is acknowledged");
    took
}

/// Counts acknowledgements.
#[derive(Default)]
struct Delivered(AtomicUsize);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
    }
}
