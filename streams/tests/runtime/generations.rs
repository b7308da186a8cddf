//! What is on record of a generation, and what a start and a reset make of it, ended halfway too.

use crate::cluster::{Cluster, settle};
use kappa_client::{Admin, Client, Producer, ProducerConfig, ProducerRecord};
use kappa_protocol::{ApiKey, Context, LaneError, Reply, Request, Response, Service};
use kappa_streams::{
    App, Builder, Config, ResetError, StartError, Table, Topology,
    codec::{I64, Utf8},
    reset,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::timeout;

const CHANGELOG: &str = "changing-a-changelog";

fn counted(store: &str) -> (Topology, Table<String, i64>) {
    let b = Builder::new("changing");
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().count(store);
    (b.build().unwrap(), counts)
}

async fn write(cluster: &Cluster, records: std::ops::Range<i64>) {
    cluster.write("in", records.map(|at| (0, "k".to_owned(), at.to_string(), at))).await;
}

/// Counts in a store, and what has come of it.
async fn count(cluster: &Cluster, store: &str) -> Result<Option<i64>, StartError> {
    let (topology, counts) = counted(store);
    let app = App::start(&topology, cluster.config()).await?;
    settle(&app).await;
    let count = app.view(&counts).get("k").await.unwrap().value.map(|row| row.value);
    app.close().await.unwrap();
    Ok(count)
}

/// What is on record of the only generation, changed.
async fn rewrite(cluster: &Cluster, change: impl Fn(&mut serde_json::Value)) {
    let record = cluster.values("changing-generations").await.pop().unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    change(&mut record);
    let producer = Producer::new(&cluster.client, ProducerConfig::default()).await.unwrap();
    let value = record.to_string();
    let record = ProducerRecord::to("changing-generations").partition(0).key("0").value(&value);
    producer.send(record).await.unwrap().await.unwrap();
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_starts_too_early_is_refused_and_starts_later() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    let old = App::start(&counted("a").0, cluster.config()).await.unwrap();
    settle(&old).await;
    let early = count(&cluster, "b").await.unwrap_err();
    assert!(matches!(early, StartError::OthersRun { members: 1, .. }), "{early}");
    for cure in ["stop them", "new generation"] {
        assert!(early.to_string().contains(cure), "{early}");
    }
    let described = Admin::new(&cluster.client).describe_topics(&["changing-b-changelog"]).await.unwrap();
    assert!(described["changing-b-changelog"].is_err(), "nothing is created");
    // Another instance of what runs is no other.
    let second = App::start(&counted("a").0, cluster.config()).await.unwrap();
    second.close().await.unwrap();
    old.close().await.unwrap();
    write(&cluster, 10..15).await;
    for expected in [5, 5] {
        assert_eq!(count(&cluster, "b").await.unwrap(), Some(expected), "a renamed store begins anew");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changelog_that_has_gone_is_not_taken_for_an_empty_one() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
    let admin = Admin::new(&cluster.client);
    admin.delete_topics(&[CHANGELOG]).await.unwrap();
    write(&cluster, 10..11).await;
    let gone = count(&cluster, "a").await.unwrap_err().to_string();
    for part in [CHANGELOG, "was deleted since", "reset", "new generation"] {
        assert!(gone.contains(part), "{part} is not in {gone}");
    }
    cluster.topic(CHANGELOG, 1).await;
    let another = count(&cluster, "a").await.unwrap_err().to_string();
    assert!(another.contains("was deleted and created again since"), "{another}");
    reset(&cluster.client, "changing", 0).await.unwrap();
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(11));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_ids_is_taken_as_it_is() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
    let older = |record: &mut serde_json::Value| {
        let fields = record.as_object_mut().unwrap();
        assert!(fields.remove("ids").is_some() && fields.remove("making").is_some());
    };
    rewrite(&cluster, older).await;
    write(&cluster, 10..15).await;
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(15));
    // It has the ids again; what has gone under a record without them is missed for the sake of what is committed.
    rewrite(&cluster, older).await;
    Admin::new(&cluster.client).delete_topics(&[CHANGELOG]).await.unwrap();
    let gone = count(&cluster, "a").await.unwrap_err();
    assert!(matches!(gone, StartError::InternalTopicChanged { .. }), "{gone}");
    Admin::new(&cluster.client).delete_groups(&["changing"]).await.unwrap();
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(15));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_ends_halfway_is_refused_and_can_be_run_again() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    for ends_at in [ApiKey::DeleteTopics, ApiKey::DeleteGroups, ApiKey::InitProducerId] {
        assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
        let client = Client::in_process(Arc::new(Failing(cluster.lane(), ends_at)));
        let halfway = timeout(Duration::from_secs(5), reset(&client, "changing", 0)).await;
        assert!(!matches!(halfway, Ok(Ok(_))), "{halfway:?}");
        client.close().await;
        let refused = count(&cluster, "a").await.unwrap_err();
        assert!(matches!(refused, StartError::InternalTopicChanged { .. }), "{refused}");
        reset(&cluster.client, "changing", 0).await.unwrap();
    }
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
    cluster.stop().await;
}

/// A broker that carries out requests of a kind, and whose answers to them do not arrive.
struct Failing(Arc<dyn Service>, ApiKey);

impl Service for Failing {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let fails = request.api_key() == self.1;
        let reply = self.0.call(cx, request);
        if !fails {
            return reply;
        }
        Reply::Later(Box::pin(async move {
            if let Reply::Later(later) = reply {
                let _ = later.await;
            }
            Err(LaneError::Disconnected { reason: "cut".into() })
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_ended_halfway_is_followed_by_another() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    // The names are on record, and a topic is there whose id is not.
    let (topology, _) = counted("a");
    let client = Client::in_process(Arc::new(Failing(cluster.lane(), ApiKey::CreateTopics)));
    let halfway = timeout(Duration::from_secs(2), App::start(&topology, Config::client(&client))).await;
    assert!(!matches!(halfway, Ok(Ok(_))), "{halfway:?}");
    client.close().await;
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
    // The same, and none of the topics is there.
    reset(&cluster.client, "changing", 0).await.unwrap();
    rewrite(&cluster, |record| {
        record["topics"] = [CHANGELOG].into();
        record["making"] = [CHANGELOG].into();
    })
    .await;
    assert_eq!(count(&cluster, "a").await.unwrap(), Some(10));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_the_generation_that_cannot_be_read_is_not_taken_for_absent() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    let last = |is_number: bool| {
        let b = Builder::new("changing");
        let stream = b.stream("in", (Utf8, Utf8));
        match is_number {
            true => drop(stream.map_values(|_| 0x6161_6161_6161_6161).to_table("last", (Utf8, I64))),
            false => drop(stream.to_table("last", (Utf8, Utf8))),
        }
        b.build().unwrap()
    };
    let app = App::start(&last(true), cluster.config()).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    // A later version writes the fingerprint as text, say.
    rewrite(&cluster, |record| record["fingerprint"] = record["fingerprint"].to_string().into()).await;
    let unread = App::start(&last(false), cluster.config()).await.unwrap_err();
    let named = |topic: &str, key: &str| topic == "changing-generations" && key == "0";
    let is_right = matches!(&unread, StartError::GenerationRecord { topic, key, .. } if named(topic, key));
    assert!(is_right, "{unread}");
    let unread = reset(&cluster.client, "changing", 0).await.unwrap_err();
    assert!(matches!(unread, ResetError::Record(_)), "{unread}");
    // It says nothing of other generations.
    let app = App::start(&last(false), cluster.config().generation(1)).await.unwrap();
    app.close().await.unwrap();
    cluster.stop().await;
}

/// A broker that has no leader for the generations' topic when it is first asked.
struct Leaderless(Arc<dyn Service>, Arc<AtomicBool>);

impl Service for Leaderless {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let is_metadata = request.api_key() == ApiKey::Metadata;
        let first = Arc::clone(&self.1);
        let mark = move |response: Response| {
            let Response::Metadata(mut metadata) = response else { return response };
            for topic in &mut metadata.topics {
                if topic.name.as_deref().is_some_and(|name| name.ends_with("-generations"))
                    && first.swap(false, SeqCst)
                {
                    topic.error_code = kappa_protocol::ErrorCode::LeaderNotAvailable.code();
                }
            }
            Response::Metadata(metadata)
        };
        match self.0.call(cx, request) {
            Reply::Now(response) if is_metadata => Reply::Now(mark(response)),
            Reply::Later(later) if is_metadata => {
                Reply::Later(Box::pin(async move { later.await.map(mark) }))
            }
            other => other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_that_cannot_be_looked_up_are_not_taken_for_none() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, 0..10).await;
    let app = App::start(&counted("a").0, cluster.config().generation(1)).await.unwrap();
    settle(&app).await;
    app.close().await.unwrap();
    let client = Client::in_process(Arc::new(Leaderless(cluster.lane(), Arc::new(AtomicBool::new(true)))));
    let (topology, _) = counted("a");
    let start = App::start(&topology, Config::client(&client));
    let app = timeout(Duration::from_secs(20), start).await.expect("it ends").unwrap();
    assert_eq!(app.generation(), 1, "the latest");
    app.close().await.unwrap();
    client.close().await;
    cluster.stop().await;
}
