//! From a produce request sent to its record fetched by another connection, at a fixed rate.

use super::driver::Driver;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Times in microseconds, sorted.
#[derive(Debug)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn new(mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        Self(micros)
    }

    /// The time that a share of them, 0 to 1, does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let at = ((self.0.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Sends `total` requests of one batch of one record with acks=all and follows them with a long poll; the first `warm_up` of
/// them do not count. The topic is there and empty.
pub(crate) fn end_to_end(
    address: SocketAddr,
    batch: &Bytes,
    rate: f64,
    warm_up: usize,
    total: usize,
) -> Times {
    let sent: Arc<Vec<OnceLock<Instant>>> = Arc::new((0..total).map(|_| OnceLock::new()).collect());
    let (producer, mut consumer) = (Driver::connect(address), Driver::connect(address));
    let times = Arc::clone(&sent);
    let follower = std::thread::spawn(move || {
        let mut micros = Vec::with_capacity(total);
        consumer.follow(total as i64, |offset| {
            let sent = times.get(offset).and_then(OnceLock::get).expect("it was sent");
            if offset >= warm_up {
                micros.push(sent.elapsed().as_secs_f64() * 1e6);
            }
        });
        micros
    });
    producer.produce_at_rate(batch, rate, total, &sent);
    Times::new(follower.join().expect("every record is fetched"))
}
