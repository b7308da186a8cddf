//! Lanes: what is sent in order is done and answered in order, and what waits costs nothing.

use crate::harness::daemon::Daemon;
use crate::harness::requests::{
    self, base_offset, batch, create_topic, create_topics, fetch, fetched, produce,
};
use crate::harness::wire::Wire;
use crate::harness::{alone, process, wait_until};
use kappa_broker::{Broker, BrokerConfig};
use kappa_protocol::record::Compression;
use kappa_protocol::{Context, Principal, Reply, Request, RequestMessage, Response, messages as m};
use std::net::{IpAddr, Ipv4Addr};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

const PIPELINED: i64 = 1_000;

fn one_record(n: i64) -> bytes::Bytes {
    batch([n.to_string()], Compression::None, None)
}

fn context(version: i16) -> Context {
    Context {
        version,
        principal: Principal::anonymous(),
        client_id: Some("lanes".into()),
        client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

async fn answer(reply: Reply) -> Response {
    match reply {
        Reply::Now(response) => response,
        Reply::Later(future) => future.await.expect("a lane in process does not break"),
        Reply::None => panic!("the request wants an answer"),
    }
}

async fn answer_as<R: RequestMessage>(reply: Reply) -> R::Response {
    R::response(answer(reply).await).expect("the answer to this API")
}

#[test]
fn pipelined_produces_append_and_answer_in_order_over_tcp() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "pipelined", 1, &[]);
    for n in 0..PIPELINED {
        wire.send(requests::PRODUCE, produce("pipelined", 0, one_record(n))).unwrap();
    }
    for n in 0..PIPELINED {
        let response = wire.receive_as::<m::ProduceRequest>().unwrap();
        assert_eq!(base_offset(&response), Ok(n));
    }
    let records = requests::read_all(&mut wire, "pipelined", 0, 0).unwrap();
    assert!(
        records.iter().map(|(_, value)| &value[..]).eq((0..PIPELINED)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_bytes))
    );
    assert!(daemon.stop().success());
}

#[tokio::test]
async fn pipelined_produces_append_and_answer_in_order_in_process() {
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(BrokerConfig::new(home.path().join("data"))).await.unwrap();
    let lane = broker.lane();
    let created = lane.call(&context(requests::CREATE_TOPICS), create_topics("pipelined", 1, &[]).into());
    assert_eq!(answer_as::<m::CreateTopicsRequest>(created).await.topics[0].error_code, 0);
    let produced: Vec<Reply> = (0..PIPELINED)
        .map(|n| lane.call(&context(requests::PRODUCE), produce("pipelined", 0, one_record(n)).into()))
        .collect();
    for (n, reply) in (0..).zip(produced) {
        assert_eq!(base_offset(&answer_as::<m::ProduceRequest>(reply).await), Ok(n));
    }
    let reply = lane.call(&context(requests::FETCH), fetch("pipelined", 0, 0, 0).into());
    let got = fetched(&answer_as::<m::FetchRequest>(reply).await).unwrap();
    assert_eq!(got.batches.iter().map(|batch| batch.count()).sum::<usize>(), PIPELINED as usize);
    broker.stop().await.unwrap();
}

#[test]
fn requests_behind_a_long_poll_are_carried_out_at_once() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "polled", 1, &[]);
    let begun = Instant::now();
    wire.send(requests::FETCH, fetch("polled", 0, 0, 10_000)).unwrap();
    // On the same connection: only if it is appended while the poll is parked can the poll be answered early.
    wire.send(requests::PRODUCE, produce("polled", 0, one_record(0))).unwrap();
    assert_eq!(fetched(&wire.receive_as::<m::FetchRequest>().unwrap()).unwrap().batches.len(), 1);
    assert_eq!(base_offset(&wire.receive_as::<m::ProduceRequest>().unwrap()), Ok(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "answered after {:?}", begun.elapsed());
}

#[test]
fn idle_long_polls_burn_no_cpu() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "idle", 1, &[]);
    let mut parked: Vec<Wire> = (0..100).map(|_| Wire::connect(daemon.address()).unwrap()).collect();
    for wire in &mut parked {
        wire.send(requests::FETCH, fetch("idle", 0, 0, 60_000)).unwrap();
    }
    // All requests were read once a later one is answered and the broker has come to rest.
    wire.ask(requests::FETCH, fetch("idle", 0, 0, 300)).unwrap();
    let window = Duration::from_secs(2);
    let before = process::cpu_time(daemon.pid());
    std::thread::sleep(window);
    let used = process::cpu_time(daemon.pid()) - before;
    assert!(used <= window / 50, "{used:?} of CPU in {window:?} for {} parked fetches", parked.len());
}

#[test]
fn a_long_poll_wakes_within_5_ms_of_a_visible_append() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut producer = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut producer, "woken", 1, &[]);
    let mut consumer = Wire::connect(daemon.address()).unwrap();
    let mut waits: Vec<Duration> = (0..50)
        .map(|n| {
            consumer.send(requests::FETCH, fetch("woken", 0, n, 20_000)).unwrap();
            // The broker reads this after the fetch was sent, not necessarily after it was parked: both must work.
            let response = producer.ask(requests::PRODUCE, produce("woken", 0, one_record(n))).unwrap();
            let visible = Instant::now();
            assert_eq!(base_offset(&response), Ok(n));
            let got = fetched(&consumer.receive_as::<m::FetchRequest>().unwrap()).unwrap();
            assert_eq!(got.batches.len(), 1);
            visible.elapsed()
        })
        .collect();
    waits.sort();
    let median = waits[waits.len() / 2];
    println!("woken after {median:?} (median), {:?} at worst", waits.last());
    assert!(median <= Duration::from_millis(5), "woken after {median:?} (median of {waits:?})");
}

#[test]
fn dropped_long_polls_leave_nothing_behind_in_process() {
    let _alone = alone();
    tokio::runtime::Runtime::new().unwrap().block_on(drop_long_polls());
}

async fn drop_long_polls() {
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(BrokerConfig::new(home.path().join("data"))).await.unwrap();
    let lane = broker.lane();
    let created = lane.call(&context(requests::CREATE_TOPICS), create_topics("dropped", 1, &[]).into());
    assert_eq!(answer_as::<m::CreateTopicsRequest>(created).await.topics[0].error_code, 0);
    let drop_polls = |count: usize| {
        for _ in 0..count {
            let reply = lane.call(&context(requests::FETCH), fetch("dropped", 0, 0, 600_000).into());
            let Reply::Later(mut future) = reply else { panic!("there is nothing to read yet") };
            let polled = future.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending));
        }
    };
    drop_polls(2_000);
    let before = process::resident_bytes(std::process::id());
    drop_polls(50_000);
    let grown = process::resident_bytes(std::process::id()).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 50,000 dropped long polls");
    // And the partition still answers.
    let produced = lane.call(&context(requests::PRODUCE), produce("dropped", 0, one_record(0)).into());
    assert_eq!(base_offset(&answer_as::<m::ProduceRequest>(produced).await), Ok(0));
    broker.stop().await.unwrap();
}

#[test]
fn closed_connections_leave_nothing_behind() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "left", 1, &[]);
    let before = process::descriptors(daemon.pid());
    for _ in 0..300 {
        let mut short = Wire::connect(daemon.address()).unwrap();
        short.send(requests::FETCH, fetch("left", 0, 0, 600_000)).unwrap();
    }
    wait_until("the descriptors are closed", || process::descriptors(daemon.pid()) <= before);
    wire.ask(requests::PRODUCE, produce("left", 0, one_record(0))).unwrap();
    assert!(daemon.stop().success());
}

/// A produce with acks=0 gets no answer, and those behind it do.
#[test]
fn acks_0_is_appended_and_not_answered() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "silent", 1, &[]);
    let silent: Request = m::ProduceRequest { acks: 0, ..produce("silent", 0, one_record(0)) }.into();
    wire.send_unanswered(requests::PRODUCE, &silent).unwrap();
    let response = wire.ask(requests::PRODUCE, produce("silent", 0, one_record(1))).unwrap();
    assert_eq!(base_offset(&response), Ok(1));
}

/// There is no other way to tell a producer that asked for no answer, and Kafka does the same.
#[test]
fn a_refused_acks_0_closes_the_connection() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&home.path().join("data"), &[]);
    let mut wire = Wire::connect(daemon.address()).unwrap();
    create_topic(&mut wire, "refused", 1, &[]);
    let mut corrupt = one_record(0).to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let silent: Request = m::ProduceRequest { acks: 0, ..produce("refused", 0, corrupt.into()) }.into();
    wire.send_unanswered(requests::PRODUCE, &silent).unwrap();
    let asked = wire.ask(requests::PRODUCE, produce("refused", 0, one_record(1)));
    assert!(asked.is_err(), "answered after a refusal: {asked:?}");
    let mut wire = Wire::connect(daemon.address()).unwrap();
    let response = wire.ask(requests::PRODUCE, produce("refused", 0, one_record(1))).unwrap();
    // What was sent behind the refused batch may have been carried out before the connection was closed.
    assert!(base_offset(&response).is_ok_and(|offset| offset <= 1), "{response:?}");
}
