//! Fetch sessions (KIP-227), and fetches of many partitions: what is told, what is refused, and what a wake costs.

use crate::client::{Client, Running, batch, fetch, fetched, produce};
use kappa_broker::BrokerConfig;
use kappa_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kappa_protocol::messages::metadata_request::MetadataRequestTopic;
use kappa_protocol::messages::{
    DeleteRecordsRequest, DeleteTopicsRequest, FetchRequest, FetchResponse, MetadataRequest,
};
use kappa_protocol::{Context, Principal, Records, Reply, Service};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tempfile::tempdir;
use uuid::Uuid;

/// No partition.
const NOTHING: [i32; 0] = [];
const ID_NOT_FOUND: i16 = 70;
const INVALID_EPOCH: i16 = 71;
const TOPIC_ID_ERROR: i16 = 106;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// A session as a client keeps it: number, epoch, and the version that it speaks.
struct Session {
    id: i32,
    epoch: i32,
    version: i16,
    topic_id: Uuid,
}

impl Session {
    fn request(&self, offsets: &[(i32, i64)]) -> FetchRequest {
        let partition = |&(partition, fetch_offset): &(i32, i64)| FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic {
            topic: if self.version < 13 { "lines".into() } else { String::new() },
            topic_id: self.topic_id,
            partitions: offsets.iter().map(partition).collect(),
        };
        FetchRequest {
            max_wait_ms: 0,
            min_bytes: 1,
            session_id: self.id,
            session_epoch: self.epoch,
            topics: if offsets.is_empty() { Vec::new() } else { vec![topic] },
            ..Default::default()
        }
    }

    fn open(
        client: &mut Client,
        version: i16,
        topic_id: Uuid,
        offsets: &[(i32, i64)],
    ) -> (Self, FetchResponse) {
        let mut session = Session { id: 0, epoch: 0, version, topic_id };
        let response = client.call(version, session.request(offsets));
        (session.id, session.epoch) = (response.session_id, 1);
        (session, response)
    }

    fn call(&mut self, client: &mut Client, offsets: &[(i32, i64)]) -> FetchResponse {
        self.send(client, self.request(offsets))
    }

    fn send(&mut self, client: &mut Client, request: FetchRequest) -> FetchResponse {
        let response = client.call(self.version, request);
        self.epoch += 1;
        response
    }
}

/// Index, error and bytes of every partition that an answer names.
fn told(response: &FetchResponse) -> Vec<(i32, i16, usize)> {
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let mut told: Vec<_> = partitions
        .map(|data| (data.partition_index, data.error_code, data.records.as_ref().map_or(0, Records::len)))
        .collect();
    told.sort_unstable();
    told
}

fn indexes(response: &FetchResponse) -> Vec<i32> {
    told(response).into_iter().map(|(index, ..)| index).collect()
}

fn topic_id(client: &mut Client, version: i16) -> Uuid {
    if version < 13 {
        return Uuid::nil();
    }
    let topic = MetadataRequestTopic { name: Some("lines".into()), ..Default::default() };
    client.call(12, MetadataRequest { topics: Some(vec![topic]), ..Default::default() }).topics[0].topic_id
}

#[test]
fn a_session_is_told_of_what_changed_and_of_nothing_else() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 5);
    client.produce("lines", 4, &["already there"]);
    for version in [7, 12, 13, 18] {
        let id = topic_id(&mut client, version);
        let ends: Vec<(i32, i64)> = (0..5).map(|index| (index, end(&mut client, index))).collect();
        let (mut session, first) = Session::open(&mut client, version, id, &ends);
        assert!(session.id > 0);
        assert_eq!(indexes(&first), [0, 1, 2, 3, 4]);
        let nothing = session.call(&mut client, &[]);
        assert_eq!((indexes(&nothing), nothing.session_id), (vec![], session.id));

        client.produce("lines", 2, &["new"]);
        assert_eq!(indexes(&session.call(&mut client, &[])), [2], "new records");
        assert_eq!(indexes(&session.call(&mut client, &[])), [2], "that are not passed yet");
        assert_eq!(indexes(&session.call(&mut client, &[(2, ends[2].1 + 1)])), NOTHING);
        let back = session.call(&mut client, &[(2, ends[2].1)]);
        assert!(told(&back)[0].2 > 0, "its client went back");
        assert_eq!(indexes(&session.call(&mut client, &[(2, ends[2].1 + 1)])), NOTHING);

        let forgotten = ForgottenTopic {
            topic: if version < 13 { "lines".into() } else { String::new() },
            topic_id: id,
            partitions: vec![3],
        };
        let request = FetchRequest { forgotten_topics_data: vec![forgotten], ..session.request(&[]) };
        assert_eq!(indexes(&session.send(&mut client, request)), NOTHING);
        client.produce("lines", 3, &["for others"]);
        client.produce("lines", 1, &["x"]);
        assert_eq!(indexes(&session.call(&mut client, &[])), [1]);
        assert_eq!(indexes(&session.call(&mut client, &[(1, ends[1].1 + 1), (3, ends[3].1)])), [3]);

        // One that is not there is told of each time, and holds back no other.
        let unknown = session.call(&mut client, &[(3, ends[3].1 + 1), (9, 0)]);
        assert_eq!(told(&unknown), [(9, UNKNOWN_TOPIC_OR_PARTITION, 0)]);
        assert_eq!(indexes(&session.call(&mut client, &[])), [9]);
        client.produce("lines", 0, &["x"]);
        assert_eq!(indexes(&session.call(&mut client, &[])), [0, 9]);
    }
    running.stop();
}

fn end(client: &mut Client, index: i32) -> i64 {
    client.values("lines", index, 0).len() as i64
}

#[test]
fn a_parked_fetch_of_a_session_wakes_for_what_was_idle() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 3);
    let (mut session, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0), (1, 0), (2, 0)]);
    for round in 0..3 {
        let mut request = session.request(&[]);
        request.max_wait_ms = 20_000;
        client.send(12, request);
        session.epoch += 1;
        std::thread::sleep(Duration::from_millis(20));
        running.client().produce("lines", 1, &["x"]);
        let (_, response) = client.receive::<FetchRequest>(12);
        assert_eq!(indexes(&response), [1], "round {round}");
        assert_eq!(indexes(&session.call(&mut client, &[(1, round + 1)])), NOTHING);
    }
    running.stop();
}

#[test]
fn an_epoch_is_used_once_and_a_session_that_is_not_there_is_told() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let (mut session, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0)]);
    session.call(&mut client, &[]);
    for wrong in [1, 3, 99] {
        let request = FetchRequest { session_epoch: wrong, ..session.request(&[]) };
        let response = client.call(12, request);
        assert_eq!((response.error_code, response.session_id), (INVALID_EPOCH, 0), "epoch {wrong}");
    }
    assert_eq!(client.call(13, session.request(&[])).error_code, TOPIC_ID_ERROR);
    // None of these used the epoch up.
    assert_eq!(session.call(&mut client, &[]).error_code, 0);
    let other = FetchRequest { session_id: session.id ^ 1, ..session.request(&[]) };
    assert_eq!(client.call(12, other).error_code, ID_NOT_FOUND);

    // One that asks in full is done with the session that it names.
    let closing = FetchRequest { session_epoch: -1, ..session.request(&[(0, 0)]) };
    let closed = client.call(12, closing);
    assert_eq!((indexes(&closed), closed.session_id), (vec![0], 0));
    assert_eq!(client.call(12, session.request(&[])).error_code, ID_NOT_FOUND);
    let (again, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0)]);
    let renewed = FetchRequest { session_epoch: 0, ..again.request(&[(1, 0)]) };
    let renewed = client.call(12, renewed);
    assert!(renewed.session_id > 0 && renewed.session_id != again.id);
    assert_eq!(client.call(12, again.request(&[])).error_code, ID_NOT_FOUND);
    running.stop();
}

#[test]
fn a_topic_that_is_deleted_and_made_again_is_followed_by_name() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let (mut session, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0)]);
    let delete = DeleteTopicsRequest { topic_names: vec!["lines".into()], ..Default::default() };
    client.call(5, delete);
    let gone = told(&session.call(&mut client, &[]));
    assert!(gone.len() == 1 && gone[0].1 != 0, "{gone:?}");
    assert_eq!(told(&session.call(&mut client, &[])), [(0, UNKNOWN_TOPIC_OR_PARTITION, 0)]);
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["of the new one"]);
    let found = told(&session.call(&mut client, &[]));
    assert!(found[0].1 == 0 && found[0].2 > 0, "{found:?}");
    running.stop();
}

#[test]
fn a_client_that_gets_no_session_is_answered_in_full() {
    let dir = tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let running = Running::with(config.with("max.incremental.fetch.session.cache.slots", "2").unwrap());
    let mut client = running.client();
    client.create_topic("lines", 2);
    let open = |client: &mut Client| Session::open(client, 12, Uuid::nil(), &[(0, 0), (1, 0)]);
    let ids: Vec<i32> = (0..3).map(|_| open(&mut client).0.id).collect();
    assert!(ids[0] > 0 && ids[1] > 0 && ids[2] == 0, "{ids:?}");
    let (_, answer) = open(&mut client);
    assert_eq!((indexes(&answer), answer.session_id), (vec![0, 1], 0));
    running.stop();
}

async fn call(lane: &Arc<dyn Service>, version: i16, request: impl Into<kappa_protocol::Request>) {
    let reply = lane.call(&context(version), request.into());
    if let Reply::Later(reply) = reply {
        reply.await.unwrap();
    }
}

fn context(version: i16) -> Context {
    let client_address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Context { version, principal: Principal::anonymous(), client_id: None, client_address }
}

/// The time that a long poll over so many partitions takes of its thread, for a thousand wakes.
fn cost_of_wakes(running: &Running, topic: &str, partitions: i32) -> Duration {
    let lane = running.broker.lane();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut request = fetch(topic, 0, 0, 60_000);
        request.min_bytes = 1 << 30;
        request.topics[0].partitions = (0..partitions)
            .map(|partition| FetchPartition { partition, partition_max_bytes: 1 << 30, ..Default::default() })
            .collect();
        let Reply::Later(mut poll) = lane.call(&context(11), request.into()) else {
            panic!("nothing is there yet")
        };
        let looked = tokio::time::timeout(Duration::from_millis(300), &mut poll).await;
        assert!(looked.is_err());
        let mut cost = Duration::ZERO;
        for _ in 0..1000 {
            call(&lane, 9, produce(topic, partitions - 1, 1, batch(&["x"]))).await;
            let started = Instant::now();
            let polled = std::future::poll_fn(|cx| Poll::Ready(poll.as_mut().poll(cx))).await;
            cost += started.elapsed();
            assert!(polled.is_pending());
        }
        cost
    })
}

#[test]
fn a_wake_costs_what_became_ready_however_much_is_waited_for() {
    let dir = tempdir().unwrap();
    let running = Running::with(BrokerConfig::new(dir.path()).with("kappa.flush", "os").unwrap());
    let mut client = running.client();
    client.create_topic("few", 10);
    client.create_topic("many", 2000);
    let few = cost_of_wakes(&running, "few", 10);
    let many = cost_of_wakes(&running, "many", 2000);
    assert!(many < few * 5 + Duration::from_millis(20), "10 partitions {few:?}, 2000 partitions {many:?}");
    assert_eq!(running.broker.parked(), 0);
    running.stop();
}

#[test]
fn a_session_of_idle_partitions_costs_next_to_nothing_a_fetch() {
    let dir = tempdir().unwrap();
    let running = Running::with(BrokerConfig::new(dir.path()).with("kappa.flush", "os").unwrap());
    let mut client = running.client();
    client.create_topic("lines", 2000);
    let cost = |client: &mut Client, partitions: i32| {
        let offsets: Vec<(i32, i64)> = (0..partitions).map(|index| (index, 0)).collect();
        let (mut session, first) = Session::open(client, 12, Uuid::nil(), &offsets);
        assert_eq!(indexes(&first).len(), offsets.len());
        let mut took = Vec::new();
        for _ in 0..500 {
            let started = Instant::now();
            assert_eq!(session.call(client, &[]).responses.len(), 0);
            took.push(started.elapsed());
        }
        // What else the machine does is in the slow ones.
        took.sort_unstable();
        took[50]
    };
    let few = cost(&mut client, 10);
    let many = cost(&mut client, 2000);
    assert!(many < few * 4 + Duration::from_micros(500), "10 partitions {few:?}, 2000 partitions {many:?}");
    client.produce("lines", 1999, &["x"]);
    assert!(fetched(&client.call(11, fetch("lines", 1999, 0, 0))) > 0);
    running.stop();
}

#[test]
fn a_log_start_that_moved_is_told_of_though_nothing_was_written() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 2);
    client.produce("lines", 1, &["a", "b"]);
    let (mut session, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0), (1, 2)]);
    assert_eq!(indexes(&session.call(&mut client, &[])), NOTHING);
    let records = DeleteRecordsPartition { partition_index: 1, offset: 1 };
    let topic = DeleteRecordsTopic { name: "lines".into(), partitions: vec![records] };
    client.call(2, DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5000 });
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let told = session.call(&mut client, &[]);
        if let Some(topic) = told.responses.first() {
            assert_eq!((topic.partitions.len(), topic.partitions[0].log_start_offset), (1, 1));
            break;
        }
        assert!(Instant::now() < deadline, "nobody told");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(indexes(&session.call(&mut client, &[])), NOTHING);
    running.stop();
}

#[test]
fn an_answer_on_its_way_outlives_its_topic() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let value = "x".repeat(100_000);
    for _ in 0..40 {
        client.call(9, produce("lines", 0, -1, batch(&[value.as_str(); 9])));
    }
    let mut slow = running.client();
    let mut request = fetch("lines", 0, 0, 0);
    request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    slow.send(11, request);
    // The first bytes are there, and more than sockets hold is not.
    let mut first = [0; 1];
    slow.stream.peek(&mut first).unwrap();
    let delete = DeleteTopicsRequest { topic_names: vec!["lines".into()], ..Default::default() };
    assert_eq!(client.call(5, delete).responses[0].error_code, 0);
    client.create_topic("lines", 1);
    let (_, answer) = slow.receive::<FetchRequest>(11);
    let records = answer.responses[0].partitions[0].records.clone().unwrap().to_bytes();
    assert!(records.len() > 30_000_000);
    assert_eq!(crate::client::decode(&records, 0).0, vec![value; 360]);
    running.stop();
}

#[test]
fn a_name_that_no_topic_can_have_is_answered_and_not_kept() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let mut client = running.client();
    client.create_topic("lines", 1);
    let named = |session: &Session, len: usize| {
        let mut request = session.request(&[(0, 0)]);
        request.topics[0].topic = "x".repeat(len);
        request
    };
    let code = |response: &FetchResponse| response.responses[0].partitions[0].error_code;
    for _ in 0..8 {
        let initial = Session { id: 0, epoch: 0, version: 12, topic_id: Uuid::nil() };
        let response = client.call(12, named(&initial, 10 << 20));
        assert_eq!((response.session_id, code(&response)), (0, UNKNOWN_TOPIC_OR_PARTITION));
    }
    let (mut session, _) = Session::open(&mut client, 12, Uuid::nil(), &[(0, 0)]);
    assert!(session.id > 0);
    let request = named(&session, 249);
    assert_eq!(session.send(&mut client, request).session_id, session.id);
    let request = named(&session, 250);
    let response = session.send(&mut client, request);
    assert_eq!(response.session_id, 0, "the session took it up");
    assert_eq!(session.call(&mut client, &[]).error_code, ID_NOT_FOUND);
    running.stop();
}

#[test]
fn a_session_serves_every_partition_in_turn() {
    let dir = tempdir().unwrap();
    let running = Running::with(BrokerConfig::new(dir.path()).with("kappa.flush", "os").unwrap());
    let mut client = running.client();
    client.create_topic("lines", 3);
    let value = "x".repeat(1000);
    for partition in 0..3 {
        for _ in 0..50 {
            client.produce("lines", partition, &[value.as_str(); 4]);
        }
    }
    let mut session = Session { id: 0, epoch: 0, version: 12, topic_id: Uuid::nil() };
    let mut offsets = [0; 3];
    let mut changed: Vec<(i32, i64)> = (0..3).map(|index| (index, 0)).collect();
    for round in 0..9 {
        let mut request = session.request(&changed);
        // An answer holds no more than one partition has.
        request.max_bytes = 20_000;
        let response = session.send(&mut client, request);
        (session.id, changed) = (response.session_id, Vec::new());
        for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
            let records = data.records.as_ref().map(Records::to_bytes).unwrap_or_default();
            if !records.is_empty() {
                let offset = &mut offsets[data.partition_index as usize];
                *offset = crate::client::decode(&records, *offset).1;
                changed.push((data.partition_index, *offset));
            }
        }
        if round % 3 == 2 {
            assert!(offsets.iter().all(|offset| *offset == offsets[0] && *offset > 0), "{offsets:?}");
        }
    }
    running.stop();
}

#[test]
fn a_session_nobody_uses_keeps_no_file_of_a_deleted_topic() {
    let dir = tempdir().unwrap();
    let running = Running::start(dir.path());
    let segments = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets =
            files.filter_map(|file| Some(std::fs::read_link(file.path()).ok()?.display().to_string()));
        let home = dir.path().display().to_string();
        targets.filter(|target| target.starts_with(&home) && target.contains(".log")).collect::<Vec<_>>()
    };
    let (mut client, mut other) = (running.client(), running.client());
    let before = segments();
    client.create_topic("lines", 2);
    for partition in 0..2 {
        client.produce("lines", partition, &["x"]);
    }
    assert!(segments().len() >= before.len() + 2);
    // One partition waits for records in the session, one is to be looked at again.
    let (session, _) = Session::open(&mut other, 12, Uuid::nil(), &[(0, 1), (1, 0)]);
    assert!(session.id > 0);
    client.call(5, DeleteTopicsRequest { topic_names: vec!["lines".into()], ..Default::default() });
    let deadline = Instant::now() + Duration::from_secs(10);
    while segments() != before {
        assert!(Instant::now() < deadline, "{:?}", segments());
        std::thread::sleep(Duration::from_millis(20));
    }
    running.stop();
}
