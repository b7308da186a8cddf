//! Groups: members that come and go, assignors, commits around rebalances.

use crate::support::{Cluster, PATIENCE, Read, fill, over_both_transports, read};
use bytes::Bytes;
use kappa_client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetReset, RebalanceListener, TopicPartition,
    admin::NewTopic,
    consumer::{
        ConsumerError, ListenerFuture,
        assignor::{
            AssignError, Assignor, CooperativeStickyAssignor, MemberAssignment, MemberSubscription,
            RangeAssignor, RoundRobinAssignor, StickyAssignor,
        },
    },
};
use kappa_protocol::{
    ApiKey, Context, ErrorCode, Reply, Request, Response, Service, messages::HeartbeatResponse,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

over_both_transports! {
    members_share_the_partitions_and_a_leaver_s_go_to_the_other
    cooperative_member_keeps_reading_what_it_keeps
    custom_assignor_gets_user_data_and_metadata_survives_a_move
    member_that_does_not_poll_is_dropped_and_comes_back
    members_that_start_together_settle_before_a_heartbeat_is_due
    member_that_does_not_poll_gives_up_what_others_wait_for
    member_that_waits_in_a_poll_stays
    static_member_keeps_its_partitions_through_a_restart
    commit_after_a_rebalance_is_refused
    member_closed_while_it_joins_holds_nobody_up
}

/// Notes what it is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Note>>>);

/// What happened to which partitions.
type Note = (&'static str, Vec<i32>);

impl Notes {
    fn note(&self, what: &'static str, partitions: &[TopicPartition]) -> ListenerFuture<'static> {
        let numbers = partitions.iter().map(|partition| partition.partition).collect();
        self.0.lock().unwrap().push((what, numbers));
        Box::pin(tokio::task::yield_now())
    }
}

impl RebalanceListener for Notes {
    fn assigned<'a>(&'a mut self, _: &'a Consumer, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.note("assigned", partitions)
    }

    fn revoked<'a>(&'a mut self, _: &'a Consumer, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.note("revoked", partitions)
    }

    fn lost<'a>(&'a mut self, _: &'a Consumer, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.note("lost", partitions)
    }
}

fn config(assignor: impl Assignor + 'static) -> ConsumerConfig {
    ConsumerConfig::group("g")
        .assignors(vec![Arc::new(assignor) as Arc<dyn Assignor>])
        .offset_reset(OffsetReset::Earliest)
        .heartbeat_interval(Duration::from_millis(50))
        .session_timeout(Duration::from_secs(6))
        .auto_commit(None)
}

async fn topic(client: &Client, name: &str, partitions: i32) -> Vec<TopicPartition> {
    Admin::new(client).create_topic(&NewTopic::new(name, partitions)).await.unwrap();
    (0..partitions).map(|number| TopicPartition::new(name, number)).collect()
}

/// Polls all members in turn until `done`; returns what they read.
async fn poll_until(members: &[&Consumer], done: impl Fn() -> bool) -> Vec<(TopicPartition, Read)> {
    let (started, mut records) = (Instant::now(), Vec::new());
    while !done() {
        assert!(started.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
        for member in members {
            records.extend(read(&member.poll(Duration::from_millis(20)).await.unwrap()));
        }
    }
    records
}

fn sizes(members: &[&Consumer]) -> Vec<usize> {
    let mut sizes: Vec<_> = members.iter().map(|member| member.assignment().len()).collect();
    sizes.sort_unstable();
    sizes
}

async fn members_share_the_partitions_and_a_leaver_s_go_to_the_other(_: &Cluster, client: &Client) {
    let partitions = topic(client, "shared", 4).await;
    for assignor in ["range", "roundrobin", "sticky"] {
        let config = || match assignor {
            "range" => config(RangeAssignor::default()),
            "roundrobin" => config(RoundRobinAssignor::default()),
            _ => config(StickyAssignor::default()),
        };
        let (first, second) =
            (Consumer::new(client, config()).unwrap(), Consumer::new(client, config()).unwrap());
        let notes = Notes::default();
        first.subscribe_with(["shared"], notes.clone()).unwrap();
        poll_until(&[&first], || first.assignment() == partitions).await;
        second.subscribe(["shared"]).unwrap();
        poll_until(&[&first, &second], || sizes(&[&first, &second]) == [2, 2]).await;
        let both: BTreeSet<_> = first.assignment().into_iter().chain(second.assignment()).collect();
        assert!(both.iter().eq(&partitions), "{assignor}");
        let generations = [&first, &second].map(|member| member.membership().unwrap().generation);
        assert_eq!(generations[0], generations[1]);
        second.close().await.unwrap();
        poll_until(&[&first], || first.assignment() == partitions).await;
        first.close().await.unwrap();
        let notes = notes.0.lock().unwrap();
        assert_eq!(notes[0], ("assigned", vec![0, 1, 2, 3]));
        assert_eq!(notes[1], ("revoked", vec![0, 1, 2, 3]), "eager members give up everything");
        assert_eq!(*notes.last().unwrap(), ("revoked", vec![0, 1, 2, 3]), "closing revokes");
    }
}

async fn cooperative_member_keeps_reading_what_it_keeps(_: &Cluster, client: &Client) {
    let partitions = topic(client, "kept", 4).await;
    let new = || Consumer::new(client, config(CooperativeStickyAssignor::default())).unwrap();
    let (first, second, notes) = (new(), new(), Notes::default());
    first.subscribe_with(["kept"], notes.clone()).unwrap();
    poll_until(&[&first], || first.assignment() == partitions).await;
    second.subscribe(["kept"]).unwrap();
    poll_until(&[&first, &second], || sizes(&[&first, &second]) == [2, 2]).await;
    for partition in &partitions {
        fill(client, partition, 5).await;
    }
    let read_by = Mutex::new(0);
    let mut records = Vec::new();
    while *read_by.lock().unwrap() < 20 {
        for member in [&first, &second] {
            records.extend(read(&member.poll(Duration::from_millis(20)).await.unwrap()));
        }
        *read_by.lock().unwrap() = records.len();
    }
    assert_eq!(records.len(), 20);
    second.close().await.unwrap();
    poll_until(&[&first], || first.assignment() == partitions).await;
    let revoked: Vec<_> = {
        let notes = notes.0.lock().unwrap();
        notes.iter().filter(|(what, _)| *what == "revoked").map(|(_, partitions)| partitions.len()).collect()
    };
    assert_eq!(revoked, [2], "only what moved was given up");
    first.close().await.unwrap();
}

/// Gives every partition to the member whose user data is largest.
#[derive(Debug)]
struct Largest(u8);

impl Assignor for Largest {
    fn name(&self) -> &'static str {
        "largest"
    }

    fn user_data(&self, _: &[Arc<str>], _: &[TopicPartition]) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&[self.0]))
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &[MemberSubscription],
    ) -> Result<BTreeMap<String, MemberAssignment>, AssignError> {
        let largest = members.iter().max_by_key(|member| member.user_data.clone()).unwrap();
        let all = partitions
            .iter()
            .flat_map(|(topic, count)| (0..*count).map(|number| TopicPartition::new(topic.clone(), number)));
        let user_data = Some(Bytes::from_static(b"all yours"));
        let assignment = MemberAssignment { partitions: all.collect(), user_data };
        Ok(BTreeMap::from([(largest.member_id.clone(), assignment)]))
    }

    fn assigned(&self, assignment: &MemberAssignment, generation: i32) {
        assert!(generation > 0);
        assert_eq!(assignment.user_data.is_some(), !assignment.partitions.is_empty());
    }
}

async fn custom_assignor_gets_user_data_and_metadata_survives_a_move(_: &Cluster, client: &Client) {
    let partitions = topic(client, "custom", 3).await;
    fill(client, &partitions[1], 10).await;
    let small = Consumer::new(client, config(Largest(1))).unwrap();
    small.subscribe(["custom"]).unwrap();
    poll_until(&[&small], || small.assignment() == partitions).await;
    let offset = kappa_client::admin::OffsetAndMetadata::new(4).metadata("time=77");
    small.commit_offsets(&[(partitions[1].clone(), offset.clone())]).await.unwrap();
    let large = Consumer::new(client, config(Largest(2))).unwrap();
    large.subscribe(["custom"]).unwrap();
    let records = poll_until(&[&small, &large], || large.assignment() == partitions).await;
    assert!(small.assignment().is_empty());
    assert_eq!(large.committed(&partitions).await.unwrap()[&partitions[1]], offset);
    let mut moved: Vec<_> = records.into_iter().filter(|(_, (offset, _))| *offset >= 4).collect();
    let started = Instant::now();
    while moved.len() < 6 {
        assert!(started.elapsed() < PATIENCE);
        moved.extend(read(&large.poll(Duration::from_millis(100)).await.unwrap()));
    }
    large.close().await.unwrap();
    small.close().await.unwrap();
}

async fn member_that_does_not_poll_is_dropped_and_comes_back(_: &Cluster, client: &Client) {
    let partitions = topic(client, "idle", 2).await;
    let config = config(RangeAssignor::default()).max_poll_interval(Duration::from_millis(700));
    let (consumer, notes) = (Consumer::new(client, config).unwrap(), Notes::default());
    consumer.subscribe_with(["idle"], notes.clone()).unwrap();
    poll_until(&[&consumer], || consumer.assignment() == partitions).await;
    let started = Instant::now();
    while consumer.membership().is_some() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = || notes.0.lock().unwrap().iter().filter(|(what, _)| *what == "assigned").count() == 2;
    poll_until(&[&consumer], back).await;
    let noted: Vec<_> = notes.0.lock().unwrap().iter().map(|(what, _)| *what).collect();
    assert_eq!(noted, ["assigned", "lost", "assigned"]);
    consumer.close().await.unwrap();
}

async fn member_that_does_not_poll_gives_up_what_others_wait_for(_: &Cluster, client: &Client) {
    let partitions = topic(client, "held", 4).await;
    let new = |max_poll_interval| {
        let config = config(CooperativeStickyAssignor::default()).max_poll_interval(max_poll_interval);
        Consumer::new(client, config).unwrap()
    };
    let (idle, busy) = (new(Duration::from_secs(2)), new(PATIENCE));
    let notes = Notes::default();
    idle.subscribe_with(["held"], notes.clone()).unwrap();
    poll_until(&[&idle], || idle.assignment() == partitions).await;
    busy.subscribe(["held"]).unwrap();
    poll_until(&[&busy], || busy.assignment() == partitions).await;
    poll_until(&[&idle, &busy], || sizes(&[&idle, &busy]) == [2, 2]).await;
    let notes = notes.0.lock().unwrap().clone();
    assert_eq!(notes[..2], [("assigned", vec![0, 1, 2, 3]), ("lost", vec![0, 1, 2, 3])]);
    idle.close().await.unwrap();
    busy.close().await.unwrap();
}

async fn member_that_waits_in_a_poll_stays(_: &Cluster, client: &Client) {
    let partitions = topic(client, "waiting", 2).await;
    let config = config(RangeAssignor::default()).max_poll_interval(Duration::from_millis(300));
    let (consumer, notes) = (Consumer::new(client, config).unwrap(), Notes::default());
    consumer.subscribe_with(["waiting"], notes.clone()).unwrap();
    poll_until(&[&consumer], || consumer.assignment() == partitions).await;
    let started = Instant::now();
    assert!(consumer.poll(Duration::from_millis(1500)).await.unwrap().is_empty());
    assert!((1500..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert!(consumer.membership().is_some());
    let noted: Vec<_> = notes.0.lock().unwrap().iter().map(|(what, _)| *what).collect();
    assert_eq!(noted, ["assigned"]);
    consumer.close().await.unwrap();
}

async fn members_that_start_together_settle_before_a_heartbeat_is_due(_: &Cluster, client: &Client) {
    let _ = topic(client, "together", 4).await;
    let interval = Duration::from_secs(6);
    let config = || {
        let config = config(CooperativeStickyAssignor::default()).group_id("together".to_owned());
        config.heartbeat_interval(interval).session_timeout(interval * 4)
    };
    let members = [(); 2].map(|()| Consumer::new(client, config()).unwrap());
    let [first, second] = &members;
    first.subscribe(["together"]).unwrap();
    poll_until(&[first], || first.assignment().len() == 4).await;
    let started = Instant::now();
    second.subscribe(["together"]).unwrap();
    // Two rebalances: half is let go, then given out.
    poll_until(&[first, second], || sizes(&[first, second]) == [2, 2]).await;
    assert!(started.elapsed() < interval / 2, "{:?}", started.elapsed());
    for member in members {
        member.close().await.unwrap();
    }
}

async fn static_member_keeps_its_partitions_through_a_restart(_: &Cluster, client: &Client) {
    let partitions = topic(client, "static", 2).await;
    let config =
        || config(RangeAssignor::default()).group_id("s".to_owned()).group_instance_id("only".to_owned());
    let first = Consumer::new(client, config()).unwrap();
    first.subscribe(["static"]).unwrap();
    poll_until(&[&first], || first.assignment() == partitions).await;
    let generation = first.membership().unwrap().generation;
    first.close().await.unwrap();
    let second = Consumer::new(client, config()).unwrap();
    second.subscribe(["static"]).unwrap();
    poll_until(&[&second], || second.assignment() == partitions).await;
    assert_eq!(second.membership().unwrap().generation, generation, "no rebalance");
    second.close().await.unwrap();
}

async fn commit_after_a_rebalance_is_refused(_: &Cluster, client: &Client) {
    let partitions = topic(client, "late", 1).await;
    let consumer = Consumer::new(client, config(RangeAssignor::default())).unwrap();
    consumer.subscribe(["late"]).unwrap();
    poll_until(&[&consumer], || consumer.assignment() == partitions).await;
    let outsider = Consumer::new(client, ConsumerConfig::group("g").auto_commit(None)).unwrap();
    let error = outsider.commit_offsets(&[(partitions[0].clone(), 1.into())]).await.unwrap_err();
    assert!(matches!(error, ConsumerError::Rebalanced { .. }), "{error}");
    consumer.commit_offsets(&[(partitions[0].clone(), 1.into())]).await.unwrap();
    consumer.close().await.unwrap();
    outsider.commit_offsets(&[(partitions[0].clone(), 2.into())]).await.unwrap();
    outsider.close().await.unwrap();
}

/// Holds the answers to joins back, and refuses a heartbeat when told.
struct Meddling {
    broker: Arc<dyn Service>,
    illegal: AtomicBool,
}

impl Service for Meddling {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        if request.api_key() == ApiKey::Heartbeat && self.illegal.swap(false, Ordering::SeqCst) {
            let error_code = ErrorCode::IllegalGeneration.code();
            return Reply::Now(Response::Heartbeat(HeartbeatResponse { error_code, ..Default::default() }));
        }
        let joins = request.api_key() == ApiKey::JoinGroup;
        match self.broker.call(cx, request) {
            reply if !joins => reply,
            reply => Reply::Later(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                match reply {
                    Reply::Now(response) => Ok(response),
                    Reply::Later(later) => later.await,
                    Reply::None => unreachable!("joins are answered"),
                }
            })),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_leaves_though_it_was_closed_before_it_knew_its_id() {
    let cluster = Cluster::start().await;
    let meddling = Arc::new(Meddling { broker: cluster.broker.lane(), illegal: AtomicBool::new(false) });
    let client = Client::in_process(meddling);
    let partitions = topic(&client, "slow", 2).await;
    let new = || {
        let consumer = Consumer::new(&client, config(RangeAssignor::default())).unwrap();
        consumer.subscribe(["slow"]).unwrap();
        consumer
    };
    // Before the answer that tells the id, and before that to the join under it.
    for wait in [50, 150] {
        let brief = new();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        brief.close().await.unwrap();
        let (started, next) = (Instant::now(), new());
        poll_until(&[&next], || next.assignment() == partitions).await;
        let took = started.elapsed();
        assert!(
            took < Duration::from_secs(3),
            "closed after {wait} ms, it held the next one up for {took:?}"
        );
        next.close().await.unwrap();
    }
    client.close().await;
    cluster.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_missed_a_rebalance_joins_again_as_the_same() {
    let cluster = Cluster::start().await;
    let meddling = Arc::new(Meddling { broker: cluster.broker.lane(), illegal: AtomicBool::new(false) });
    let client = Client::in_process(meddling.clone());
    let partitions = topic(&client, "missed", 2).await;
    let member = Consumer::new(&client, config(RangeAssignor::default())).unwrap();
    let notes = Notes::default();
    member.subscribe_with(["missed"], notes.clone()).unwrap();
    poll_until(&[&member], || member.assignment() == partitions).await;
    let before = member.membership().unwrap();
    meddling.illegal.store(true, Ordering::SeqCst);
    let started = Instant::now();
    poll_until(&[&member], || {
        notes.0.lock().unwrap().iter().filter(|(what, _)| *what == "assigned").count() == 2
    })
    .await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "it waited for itself under its old id for {took:?}");
    assert_eq!(member.membership().unwrap().member_id, before.member_id);
    member.close().await.unwrap();
    client.close().await;
    cluster.broker.stop().await.unwrap();
}

/// A member that is closed before its first join is answered must not stay in the group until its session ends (6 s).
async fn member_closed_while_it_joins_holds_nobody_up(_: &Cluster, client: &Client) {
    let partitions = topic(client, "brief", 2).await;
    let new = || {
        let consumer = Consumer::new(client, config(RangeAssignor::default())).unwrap();
        consumer.subscribe(["brief"]).unwrap();
        consumer
    };
    for round in 0..40 {
        let (started, first) = (Instant::now(), new());
        poll_until(&[&first], || first.assignment() == partitions).await;
        let second = new();
        // Somewhere between the request and the answers to it.
        let until = Instant::now() + Duration::from_micros(50 * round);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        second.close().await.unwrap();
        first.close().await.unwrap();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3), "round {round}: joined and closed after {took:?}");
    }
}
