//! Idempotent produce as a client sees it on the wire, also across a kill.

use crate::harness::daemon::Daemon;
use crate::harness::requests::{self, base_offset, batch, create_topic, init_producer_id, produce, read_all};
use crate::harness::wire::Wire;
use kappa_protocol::ErrorCode;
use kappa_protocol::record::{Compression, ProducerStamp};

const TOPIC: &str = "once";

/// Produces three records with this stamp.
fn three(wire: &mut Wire, id: i64, epoch: i16, sequence: i32) -> Result<i64, ErrorCode> {
    let records = batch(["a", "b", "c"], Compression::None, Some(ProducerStamp { id, epoch, sequence }));
    base_offset(&wire.ask(requests::PRODUCE, produce(TOPIC, 0, records)).expect("the broker runs"))
}

#[test]
fn duplicates_get_their_first_offset_and_gaps_are_refused_also_after_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut daemon = Daemon::start(&data, &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, TOPIC, 1, &[]);
    let (id, epoch) = init_producer_id(&mut wire).unwrap();
    for n in 0..6 {
        assert_eq!(three(&mut wire, id, epoch, 3 * n), Ok(i64::from(3 * n)));
    }
    let check = |wire: &mut Wire| {
        // The last five batches of a producer are remembered.
        for n in 1..6 {
            assert_eq!(three(wire, id, epoch, 3 * n), Ok(i64::from(3 * n)), "duplicate of batch {n}");
        }
        assert_eq!(three(wire, id, epoch, 99), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(three(wire, id, epoch - 1, 18), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(read_all(wire, TOPIC, 0, 0).unwrap().len(), 18);
    };
    check(&mut wire);
    daemon.kill();
    let daemon = Daemon::start(&data, &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    check(&mut wire);
    assert_eq!(three(&mut wire, id, epoch, 18), Ok(18), "and the producer goes on");
    assert!(daemon.stop().success());
}

#[test]
fn an_unknown_producer_starts_anywhere_and_sequences_wrap_to_0() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, TOPIC, 1, &[]);
    let (id, epoch) = init_producer_id(&mut wire).unwrap();
    // Sequences MAX-1, MAX and 0: the batch itself wraps.
    assert_eq!(three(&mut wire, id, epoch, i32::MAX - 1), Ok(0));
    assert_eq!(three(&mut wire, id, epoch, 1), Ok(3));
    assert_eq!(three(&mut wire, id, epoch, i32::MAX - 1), Ok(0), "a duplicate across the wrap");
    // A new epoch starts at 0 and fences the old one.
    assert_eq!(three(&mut wire, id, epoch + 1, 0), Ok(6));
    assert_eq!(three(&mut wire, id, epoch, 4), Err(ErrorCode::InvalidProducerEpoch));
    assert!(daemon.stop().success());
}

#[test]
fn transactional_batches_are_refused_clearly() {
    use kappa_protocol::record::{BatchBuilder, BatchOptions};
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, TOPIC, 1, &[]);
    let mut builder = BatchBuilder::new(BatchOptions { transactional: true, ..BatchOptions::default() });
    builder.push(0, None, Some(b"v"), std::iter::empty());
    let records = builder.finish_with(0, Some(ProducerStamp { id: 1, epoch: 0, sequence: 0 }));
    let response = wire.ask(requests::PRODUCE, produce(TOPIC, 0, records)).unwrap();
    let code = base_offset(&response).expect_err("there are no transactions yet");
    assert!(!code.is_retriable(), "{code} would be retried for ever");
    assert_eq!(read_all(&mut wire, TOPIC, 0, 0).unwrap(), []);
    assert!(daemon.stop().success());
}
