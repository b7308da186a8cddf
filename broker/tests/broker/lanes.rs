//! Lanes in process: the same answers with no socket, several brokers side by side.

use crate::client::{Running, batch, decode, error_of, fetch, fetched, produce};
use kappa_protocol::messages::create_topics_request::CreatableTopic;
use kappa_protocol::messages::delete_records_request::DeleteRecordsTopic;
use kappa_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kappa_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest,
};
use kappa_protocol::{Context, Principal, Reply, Request, RequestMessage, Service};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::tempdir;

fn cx(version: i16) -> Context {
    let principal = Principal::anonymous();
    Context { version, principal, client_id: None, client_address: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

async fn call<R: RequestMessage>(lane: &Arc<dyn Service>, version: i16, request: R) -> R::Response {
    let response = match lane.call(&cx(version), request.into()) {
        Reply::Now(response) => response,
        Reply::Later(response) => response.await.unwrap(),
        Reply::None => panic!("no answer"),
    };
    R::response(response).unwrap()
}

async fn create(lane: &Arc<dyn Service>, name: &str) {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
    let response = call(lane, 7, CreateTopicsRequest { topics: vec![topic], ..Default::default() }).await;
    assert_eq!(response.topics[0].error_code, 0);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn appends_have_their_order_when_call_returns_and_answers_their_durability() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let lane = running.broker.lane();
    runtime().block_on(async {
        create(&lane, "lines").await;
        let mut replies = Vec::new();
        for i in 0..1000 {
            replies
                .push(lane.call(&cx(9), Request::Produce(produce("lines", 0, -1, batch(&[&i.to_string()])))));
        }
        for (i, reply) in replies.into_iter().enumerate() {
            let response = match reply {
                Reply::Now(response) => response,
                Reply::Later(response) => response.await.unwrap(),
                Reply::None => panic!("no answer"),
            };
            let response = ProduceRequest::response(response).unwrap();
            assert_eq!(error_of(&response), 0);
            assert_eq!(response.responses[0].partition_responses[0].base_offset, i as i64);
        }
        let response = call(&lane, 11, fetch("lines", 0, 0, 0)).await;
        let records = response.responses[0].partitions[0].records.clone().unwrap().to_bytes();
        assert_eq!(decode(&records, 0).0.len(), 1000);
    });
    running.stop();
}

#[test]
fn long_polls_wake_within_5_ms_of_a_visible_append_and_dropped_ones_leave_nothing() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let lane = running.broker.lane();
    runtime().block_on(async {
        create(&lane, "lines").await;
        let mut wakes = Vec::new();
        for offset in 0..101 {
            let Reply::Later(poll) = lane.call(&cx(11), Request::Fetch(fetch("lines", 0, offset, 10_000)))
            else {
                panic!("nothing is there yet");
            };
            let polling = tokio::spawn(async move { (poll.await.unwrap(), Instant::now()) });
            tokio::task::yield_now().await;
            call(&lane, 9, produce("lines", 0, -1, batch(&["next"]))).await;
            let visible = Instant::now();
            let (response, woken) = polling.await.unwrap();
            assert!(fetched(&FetchRequest::response(response).unwrap()) > 0);
            wakes.push(woken.saturating_duration_since(visible));
        }
        // Half of them may be late on a machine that does other things; a timer that is polled makes all of them so.
        wakes.sort_unstable();
        assert!(wakes[50] < Duration::from_millis(5), "{wakes:?}");
        for _ in 0..100 {
            let Reply::Later(poll) = lane.call(&cx(11), Request::Fetch(fetch("lines", 0, 101, 10_000)))
            else {
                panic!("nothing is there yet");
            };
            let _ = tokio::time::timeout(Duration::from_millis(1), poll).await;
        }
        assert_eq!(running.broker.parked(), 0);
    });
    running.stop();
}

#[test]
fn what_cannot_be_done_any_more_is_refused_partition_by_partition() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let lane = running.broker.lane();
    running.client().create_topic("lines", 1);
    running.stop();
    let by_time = ListOffsetsPartition { timestamp: 0, ..Default::default() };
    let topic = ListOffsetsTopic { name: "lines".into(), partitions: vec![by_time] };
    let records = DeleteRecordsTopic { name: "lines".into(), partitions: vec![Default::default()] };
    runtime().block_on(async {
        let listed = call(&lane, 7, ListOffsetsRequest { topics: vec![topic], ..Default::default() }).await;
        let deleted = call(&lane, 2, DeleteRecordsRequest { topics: vec![records], timeout_ms: 1 }).await;
        assert_ne!(listed.topics[0].partitions[0].error_code, 0);
        assert_ne!(deleted.topics[0].partitions[0].error_code, 0);
    });
}

#[test]
fn brokers_of_one_process_do_not_know_each_other() {
    let (first_dir, second_dir) = (tempdir().unwrap(), tempdir().unwrap());
    let (first, second) = (Running::start(first_dir.path()), Running::start(second_dir.path()));
    first.client().create_topic("only-here", 1);
    runtime().block_on(async {
        let refused = call(&second.broker.lane(), 9, produce("only-here", 0, -1, batch(&["x"]))).await;
        assert_ne!(error_of(&refused), 0);
    });
    first.stop();
    second.stop();
}

#[test]
fn a_dropped_broker_gives_its_directory_back_when_no_lane_can_reach_it_any_more() {
    let dir = tempdir().unwrap();
    let Running { broker, runtime } = Running::start(dir.path());
    let lane = broker.lane();
    runtime.block_on(create(&lane, "lines"));
    let stop = Arc::new(AtomicBool::new(false));
    let appending = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = lane.call(&cx(9), Request::Produce(produce("lines", 0, 1, batch(&["value"]))));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    runtime.block_on(async { drop(broker) });
    let size = || std::fs::metadata(dir.path().join("lines-0/00000000000000000000.log")).unwrap().len();
    let before = size();
    std::thread::sleep(Duration::from_millis(100));
    assert!(before > 0);
    assert_eq!(size(), before, "a lane appended to a directory that was given back");
    let again = Running::start(dir.path());
    again.client().produce("lines", 0, &["later"]);
    stop.store(true, Ordering::Relaxed);
    appending.join().unwrap();
    again.stop();
}
