//! What a generation keeps, and topologies, starting points and inputs that change under it.

use crate::cluster::{Cluster, settle};
use kappa_client::{Admin, TopicPartition};
use kappa_streams::{
    App, Builder, StartAt, StartError, Table, Topology, Windows,
    codec::{Codec, I64, Utf8},
    reset,
};
use std::time::Duration;

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
    assert!(matches!(&returned, StartError::LeftBehind { topic, .. } if topic.contains("-a-")), "{returned}");
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
