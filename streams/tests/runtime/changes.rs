//! What a generation keeps, and topologies, starting points and inputs that change under it.

use crate::cluster::{Cluster, settle};
use kappa_client::{Admin, Client, TopicPartition};
use kappa_protocol::{ApiKey, Context, LaneError, Reply, Request, Service};
use kappa_streams::{
    App, Builder, Config, Fate, StartAt, StartError, Table, TopicFate, Topology, Windows,
    codec::{Codec, CodecError, I64, Utf8},
    reset,
};
use std::{sync::Arc, time::Duration};

fn counted(store: &str) -> (Topology, Table<String, i64>) {
    let b = Builder::new("changing");
    let counts = b.stream("in", (Utf8, Utf8)).group_by_key().count(store);
    (b.build().unwrap(), counts)
}

fn last<C: Codec<Item = V>, V>(codec: C, value: impl Fn(String) -> V + Send + Sync + 'static) -> Topology
where
    V: Clone + Send + Sync + 'static,
{
    let b = Builder::new("changing");
    b.stream("in", (Utf8, Utf8)).map_values(value).to_table("last", (Utf8, codec));
    b.build().unwrap()
}

fn windowed(seconds: u64) -> Topology {
    let b = Builder::new("changing");
    let windows = Windows::tumbling(Duration::from_secs(seconds));
    b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows).count("windows");
    b.build().unwrap()
}

async fn write(cluster: &Cluster, topic: &str, records: i64) {
    cluster.write(topic, (0..records).map(|at| (0, "k".to_owned(), at.to_string(), at))).await;
}

async fn run(cluster: &Cluster, topology: &Topology) -> Result<(), StartError> {
    let app = App::start(topology, cluster.config()).await?;
    settle(&app).await;
    app.close().await.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_deletes_what_earlier_topologies_kept_as_well() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    run(&cluster, &counted("a").0).await.unwrap();
    run(&cluster, &counted("b").0).await.unwrap();
    let returned = run(&cluster, &counted("a").0).await.unwrap_err();
    let left = |refused: &[TopicFate]| {
        let [TopicFate { topic, fate, .. }] = refused else { return false };
        topic.contains("-a-") && *fate == Fate::LeftBehind
    };
    assert!(matches!(&returned, StartError::Changed { refused, .. } if left(refused)), "{returned}");
    assert_eq!(reset(&cluster.client, "changing", 0).await.unwrap().topics.len(), 2);
    let (topology, counts) = counted("a");
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(app.view(&counts).get("k").await.unwrap().value.map(|row| row.value), Some(10));
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_under_other_codecs_or_windows_is_not_read() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    run(&cluster, &last(I64, |text| text.parse().unwrap())).await.unwrap();
    let changed = run(&cluster, &last(Utf8, |text| text)).await.unwrap_err();
    assert!(matches!(changed, StartError::Changed { .. }), "{changed}");
    assert!(changed.to_string().contains("Utf8 -> I64"), "{changed}");
    reset(&cluster.client, "changing", 0).await.unwrap();
    run(&cluster, &windowed(60)).await.unwrap();
    let changed = run(&cluster, &windowed(10)).await.unwrap_err();
    assert!(matches!(changed, StartError::Changed { .. }), "{changed}");
    run(&cluster, &windowed(60)).await.unwrap();
    // Another operator under the same name, of the same bytes, means something else by them.
    let b = Builder::new("changing");
    let windows = Windows::tumbling(Duration::from_secs(60));
    let grouped = b.stream("in", (Utf8, Utf8)).group_by_key().windowed_by(windows);
    grouped.aggregate("windows", I64, || 0, |_, value, sum| sum + value.len() as i64);
    let changed = run(&cluster, &b.build().unwrap()).await.unwrap_err().to_string();
    for part in ["store \"windows\"", "(windowed count)", "(windowed aggregate)", "new generation", "reset"] {
        assert!(changed.contains(part), "{part} is not in {changed}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_after_a_topology_without_state_is_refused() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    run(&cluster, &counted("a").0).await.unwrap();
    let b = Builder::new("changing");
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    write(&cluster, "in", 10).await;
    run(&cluster, &b.build().unwrap()).await.unwrap();
    let returned = run(&cluster, &counted("a").0).await.unwrap_err().to_string();
    assert!(returned.contains("store \"a\"") && returned.contains("left behind"), "{returned}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_store_begins_anew_beside_one_that_goes_on() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    let two = |renamed: &str| {
        let b = Builder::new("changing");
        let stream = b.stream("in", (Utf8, Utf8));
        let kept = stream.group_by_key().count("kept");
        let renamed = stream.group_by("again", (Utf8, Utf8), |key, _| key.clone()).count(renamed);
        (b.build().unwrap(), kept, renamed)
    };
    run(&cluster, &two("old").0).await.unwrap();
    write(&cluster, "in", 5).await;
    let (topology, kept, renamed) = two("new");
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    let count = async |table| app.view(table).get("k").await.unwrap().value.map(|row| row.value);
    assert_eq!((count(&kept).await, count(&renamed).await), (Some(15), Some(5)));
    app.close().await.unwrap();
    let returned = run(&cluster, &two("old").0).await.unwrap_err().to_string();
    assert!(returned.contains("store \"old\"") && !returned.contains("store \"kept\""), "{returned}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_have_changed_since_the_last_run_are_refused() {
    let cluster = Cluster::start().await;
    let admin = Admin::new(&cluster.client);
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    run(&cluster, &counted("a").0).await.unwrap();
    admin.create_partitions(&[("in", 2)]).await.unwrap();
    let grown = run(&cluster, &counted("a").0).await.unwrap_err();
    let told =
        matches!(&grown, StartError::InternalTopic { expected: 2, found: 1, topic } if topic.contains("-a-"));
    assert!(told, "{grown}");
    for cure in ["reset", "new generation"] {
        assert!(grown.to_string().contains(cure), "{grown}");
    }
    admin.delete_topics(&["in"]).await.unwrap();
    cluster.topic("in", 1).await;
    write(&cluster, "in", 3).await;
    let replaced = run(&cluster, &counted("a").0).await.unwrap_err();
    assert!(matches!(&replaced, StartError::SourceReplaced { topic, .. } if topic == "in"), "{replaced}");
    reset(&cluster.client, "changing", 0).await.unwrap();
    let (topology, counts) = counted("a");
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(app.view(&counts).get("k").await.unwrap().value.map(|row| row.value), Some(3));
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_made_anew_is_refused_without_state_too() {
    let cluster = Cluster::start().await;
    let admin = Admin::new(&cluster.client);
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    let stateless = || {
        let b = Builder::new("stateless");
        b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
        b.build().unwrap()
    };
    let app = App::start(&stateless(), cluster.config()).await.unwrap();
    settle(&app).await;
    admin.delete_topics(&["in"]).await.unwrap();
    cluster.topic("in", 1).await;
    cluster.write("in", (1000..1030).map(|at| (0, "k".to_owned(), at.to_string(), at))).await;
    let why = stops_with(&app).await;
    assert!(why.contains("\"in\" was deleted and created again") && why.contains("reset"), "{why}");
    assert!(app.close().await.is_err());
    let replaced = run(&cluster, &stateless()).await.unwrap_err();
    assert!(matches!(&replaced, StartError::SourceReplaced { topic, .. } if topic == "in"), "{replaced}");
    reset(&cluster.client, "stateless", 0).await.unwrap();
    run(&cluster, &stateless()).await.unwrap();
    let out = cluster.values("out").await;
    let missing: Vec<i64> = (1000..1030).filter(|at| !out.contains(&at.to_string())).collect();
    assert!(missing.is_empty(), "never processed: {missing:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_nothing_reads_any_more_may_be_deleted() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    run(&cluster, &counted("a").0).await.unwrap();
    let app = App::start(&counted("b").0, cluster.config()).await.unwrap();
    settle(&app).await;
    Admin::new(&cluster.client).delete_topics(&["changing-a-changelog"]).await.unwrap();
    let failed = tokio::time::timeout(Duration::from_secs(7), app.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    app.close().await.unwrap();
    run(&cluster, &counted("b").0).await.unwrap();
    cluster.stop().await;
}

/// A broker that creates topics, and tells so only once it may.
struct Hesitant(Arc<dyn Service>, tokio::sync::watch::Receiver<bool>);

impl Service for Hesitant {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let is_creation = request.api_key() == ApiKey::CreateTopics;
        let reply = self.0.call(cx, request);
        if !is_creation {
            return reply;
        }
        let mut may = self.1.clone();
        Reply::Later(Box::pin(async move {
            let _ = may.wait_for(|may| *may).await;
            match reply {
                Reply::Now(response) => Ok(response),
                Reply::Later(later) => later.await,
                Reply::None => Err(LaneError::Disconnected { reason: "no answer".into() }),
            }
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_grows_during_the_start_is_noticed() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    let (may, is_allowed) = tokio::sync::watch::channel(false);
    let client = Client::in_process(Arc::new(Hesitant(cluster.lane(), is_allowed)));
    let config = Config::client(&client);
    let starting = tokio::spawn(async move { App::start(&counted("a").0, config).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    Admin::new(&cluster.client).create_partitions(&[("in", 2)]).await.unwrap();
    may.send_replace(true);
    let app = starting.await.unwrap().unwrap();
    let why = stops_with(&app).await;
    assert!(why.contains("\"in\" has grown from 1 to 2 partitions"), "{why}");
    assert!(app.close().await.is_err());
    client.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_from_its_beginning_wherever_its_streams_begin() {
    let cluster = Cluster::start().await;
    cluster.topic("rows", 1).await;
    cluster.topic("in", 1).await;
    cluster.write("rows", [(0, "k".to_owned(), "old".to_owned(), 1)]).await;
    cluster
        .write("in", [(0, "k".to_owned(), "a".to_owned(), 2), (0, "k".to_owned(), "b".to_owned(), 60)])
        .await;
    let b = Builder::new("joined");
    let rows = b.table("rows", (Utf8, Utf8));
    let joined = b
        .stream("in", (Utf8, Utf8))
        .left_join_table("join", &rows, |_, value, row| format!("{value} {row:?}"))
        .to_table("joined", (Utf8, Utf8));
    let config = cluster.config().start_at(StartAt::Time(50));
    let app = App::start(&b.build().unwrap(), config).await.unwrap();
    settle(&app).await;
    let row = app.view(&joined).get("k").await.unwrap().value.clone();
    assert_eq!(row.map(|row| row.value), Some("b Some(\"old\")".to_owned()));
    assert_eq!(app.counters().records_in, 2);
    app.close().await.unwrap();
    cluster.stop().await;
}

async fn stops_with(app: &App) -> String {
    let failed = tokio::time::timeout(Duration::from_secs(20), app.failed()).await.expect("it stops");
    failed.expect("it says why").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_changes_under_an_application_stops_it_by_name() {
    let cluster = Cluster::start().await;
    let admin = Admin::new(&cluster.client);
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    let app = App::start(&counted("a").0, cluster.config()).await.unwrap();
    settle(&app).await;
    admin.create_partitions(&[("in", 2)]).await.unwrap();
    let why = stops_with(&app).await;
    assert!(why.contains("\"in\" has grown from 1 to 2 partitions"), "{why}");
    assert!(app.close().await.is_err());

    cluster.topic("other", 1).await;
    write(&cluster, "other", 10).await;
    let b = Builder::new("replaced");
    b.stream("other", (Utf8, Utf8)).group_by_key().count("counts");
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    settle(&app).await;
    admin.delete_topics(&["other"]).await.unwrap();
    cluster.topic("other", 1).await;
    let why = stops_with(&app).await;
    assert!(why.contains("\"other\" was deleted and created again"), "{why}");
    assert!(app.close().await.is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_without_records_count_as_read() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 1).await;
    write(&cluster, "in", 5).await;
    run(&cluster, &counted("a").0).await.unwrap();
    write(&cluster, "in", 5).await;
    let place = TopicPartition::new("in", 0);
    Admin::new(&cluster.client).delete_records(&[(place, 10)]).await.unwrap();
    let (topology, counts) = counted("a");
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    assert_eq!(app.view(&counts).get("k").await.unwrap().value.map(|row| row.value), Some(5));
    app.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_emptied_counts_as_read_whichever_instance_has_it() {
    let cluster = Cluster::start().await;
    cluster.topic("in", 4).await;
    cluster.write("in", (0..40).map(|at| (at % 4, "k".to_owned(), "v".to_owned(), 0))).await;
    let ends: Vec<_> = (0..4).map(|partition| (TopicPartition::new("in", partition), 10)).collect();
    Admin::new(&cluster.client).delete_records(&ends).await.unwrap();
    let topology = || {
        let b = Builder::new("emptied");
        b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
        b.build().unwrap()
    };
    let first = App::start(&topology(), cluster.config()).await.unwrap();
    let second = App::start(&topology(), cluster.config()).await.unwrap();
    let both = async {
        while first.counters_now().await.unwrap().len() != 2
            || second.counters_now().await.unwrap().len() != 2
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("each has half of the tasks");
    for app in [&first, &second] {
        let ends = app.end_offsets().await.unwrap();
        assert_eq!(ends.total(), 40);
        let caught_up = tokio::time::timeout(Duration::from_secs(5), app.caught_up(&ends)).await;
        caught_up.expect("there is nothing to wait for").unwrap();
    }
    first.close().await.unwrap();
    second.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_stops_for_a_topic_leaves_it_as_it_is() {
    let cluster = Cluster::start().await;
    let admin = Admin::new(&cluster.client);
    cluster.topic("in", 1).await;
    write(&cluster, "in", 10).await;
    let again = || {
        let b = Builder::new("again");
        b.stream("in", (Utf8, Utf8)).group_by("by-value", (Utf8, Utf8), |_, value| value.clone()).count("n");
        b.build().unwrap()
    };
    let app = App::start(&again(), cluster.config()).await.unwrap();
    settle(&app).await;
    admin.delete_topics(&["again-by-value-repartition"]).await.unwrap();
    cluster.topic("again-by-value-repartition", 1).await;
    let why = stops_with(&app).await;
    assert!(why.contains("\"again-by-value-repartition\" was deleted and created again"), "{why}");
    assert!(app.close().await.is_err());

    let b = Builder::new("gone");
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    settle(&app).await;
    admin.delete_topics(&["in"]).await.unwrap();
    let why = stops_with(&app).await;
    assert!(why.contains("\"in\" was deleted while"), "{why}");
    assert!(app.close().await.is_err());
    let described = admin.describe_topics(&["in"]).await.unwrap();
    assert!(described["in"].is_err(), "nobody makes it again");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_table_skips_what_cannot_be_decoded_and_goes_on() {
    let cluster = Cluster::start().await;
    cluster.topic("rows", 1).await;
    cluster.topic("in", 1).await;
    let row = |key: &str, value: &str, time| (0, key.to_owned(), value.to_owned(), time);
    cluster.write("rows", [row("a", "no number", 1), row("b", "12345678", 2)]).await;
    let b = Builder::new("globals");
    let rows = b.global_table("rows", (Utf8, I64));
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    let topology = b.build().unwrap();
    let refused = App::start(&topology, cluster.config()).await.unwrap_err();
    assert!(matches!(refused, StartError::GlobalTable { offset: 0, .. }), "{refused}");
    let app = App::start(&topology, cluster.config().skip_undecodable()).await.unwrap();
    cluster.write("rows", [row("c", "12345678", 3), row("d", "none", 4), row("e", "12345678", 5)]).await;
    let view = app.global_view(&rows);
    let followed = async {
        while view.all().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), followed).await.expect("what follows is applied");
    while app.counters().undecodable < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.close().await.unwrap();
    cluster.stop().await;
}

/// Text, but for one that nobody expects.
#[derive(Debug, Clone, Copy)]
struct Panics;

impl Codec for Panics {
    type Item = String;

    fn encode(&self, item: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Utf8.encode(item, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        assert!(bytes != b"boom", "unexpected");
        Utf8.decode(bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_table_that_is_followed_no_more_stops_the_application() {
    let cluster = Cluster::start().await;
    cluster.topic("rows", 1).await;
    cluster.topic("in", 1).await;
    let row = |key: &str, value: &str, time| (0, key.to_owned(), value.to_owned(), time);
    cluster.write("rows", [row("a", "1", 1)]).await;
    let b = Builder::new("globals");
    b.global_table("rows", (Utf8, Panics));
    b.stream("in", (Utf8, Utf8)).to("out", (Utf8, Utf8));
    let app = App::start(&b.build().unwrap(), cluster.config()).await.unwrap();
    cluster.write("rows", [row("b", "boom", 2), row("a", "2", 3)]).await;
    let why = stops_with(&app).await;
    assert!(why.contains("global table \"rows\"") && why.contains("unexpected"), "{why}");
    assert!(app.close().await.is_err());
    cluster.stop().await;
}
