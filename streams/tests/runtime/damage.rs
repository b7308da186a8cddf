//! Records that cannot be read stop an application, with the place: what it would answer without them is wrong.

use crate::cluster::Cluster;
use kappa_client::Client;
use kappa_protocol::{Context, ErrorCode, Reply, Request, Response, Service};
use kappa_streams::{App, Builder, Config, codec::Utf8};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A broker whose log of one topic is damaged from some time on.
struct Damaged {
    broker: Arc<dyn Service>,
    topic: &'static str,
    is_damaged: Arc<AtomicBool>,
}

impl Service for Damaged {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let Request::Fetch(fetch) = &request else { return self.broker.call(cx, request) };
        let here = fetch.topics.iter().filter(|topic| topic.topic == self.topic);
        let here: HashSet<_> = here.map(|topic| topic.topic_id).collect();
        let is_damaged = self.is_damaged.clone();
        let spoil = move |response: Response| {
            let Response::Fetch(mut fetch) = response else { return response };
            let topics = fetch.responses.iter_mut().filter(|topic| here.contains(&topic.topic_id));
            for data in topics.flat_map(|topic| &mut topic.partitions) {
                if is_damaged.load(Ordering::SeqCst) {
                    data.error_code = ErrorCode::CorruptMessage.code();
                    data.records = None;
                }
            }
            Response::Fetch(fetch)
        };
        match self.broker.call(cx, request) {
            Reply::Now(response) => Reply::Now(spoil(response)),
            Reply::Later(later) => Reply::Later(Box::pin(async move { later.await.map(spoil) })),
            Reply::None => Reply::None,
        }
    }
}

/// Runs an application over a stream and a global table, lets `topic` be damaged under it and says how it ends.
async fn failure(topic: &'static str) -> String {
    let cluster = Cluster::start().await;
    cluster.topic("flights", 1).await;
    cluster.topic("airlines", 1).await;
    let is_damaged = Arc::new(AtomicBool::new(false));
    let damaged = Damaged { broker: cluster.lane(), topic, is_damaged: is_damaged.clone() };
    let client = Client::in_process(Arc::new(damaged));

    let b = Builder::new("names");
    let airlines = b.global_table("airlines", (Utf8, Utf8));
    b.stream("flights", (Utf8, Utf8))
        .left_join_global("name", &airlines, |key, _| key.clone(), |_, flight, _| flight)
        .group_by_key()
        .count("flights-by-airline");
    let app = App::start(&b.build().unwrap(), Config::client(&client)).await.unwrap();
    let failing = tokio::time::timeout(Duration::from_millis(800), app.failed()).await;
    assert!(failing.is_err(), "{failing:?}");
    is_damaged.store(true, Ordering::SeqCst);
    let failed = tokio::time::timeout(Duration::from_secs(20), app.failed()).await;
    let failed = failed.expect("the application stops in time").unwrap().to_string();
    assert!(app.close().await.is_err());
    client.close().await;
    cluster.stop().await;
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_input_stops_the_application() {
    let failed = failure("flights").await;
    assert!(failed.contains("flights-0 is damaged at offset 0: "), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_global_table_stops_the_application() {
    let failed = failure("airlines").await;
    assert!(failed.contains("airlines-0 is damaged at offset 0: "), "{failed}");
}
