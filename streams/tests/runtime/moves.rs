//! Two instances: tasks move when one joins, leaves or stands still, and nothing is lost or counted twice.

use crate::cluster::{Cluster, settle};
use kappa_streams::{
    App, AppError, Builder, Config, StartError, Table, Topology, Windows,
    codec::{I64, Utf8},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const PARTITIONS: i32 = 4;

fn topology() -> (Topology, Table<String, i64>) {
    let b = Builder::new("moving");
    let counts = b
        .stream("in", (Utf8, Utf8))
        .group_by("by-value", (Utf8, Utf8), |_, value| value.clone())
        .count("counts");
    (b.build().unwrap(), counts)
}

async fn write(cluster: &Cluster, records: std::ops::Range<i64>) {
    let record =
        |at: i64| ((at % i64::from(PARTITIONS)) as i32, format!("k{at}"), format!("v{}", at % 10), at);
    cluster.write("in", records.map(record)).await;
}

/// Counts per value over both instances; each value is on one of them.
async fn counted(apps: &[(&App, &Table<String, i64>)]) -> i64 {
    let mut sum = 0;
    for (app, counts) in apps {
        sum += app.view(*counts).partial().all().await.unwrap().iter().map(|(_, row)| row.value).sum::<i64>();
    }
    sum
}

async fn wait_for(total: i64, apps: &[(&App, &Table<String, i64>)]) {
    let reached = async {
        while counted(apps).await != total {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), reached).await.is_err() {
        panic!("{} counted, not {total}", counted(apps).await);
    }
}

async fn running_tasks(app: &App) -> usize {
    app.counters_now().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_move_under_load_and_counts_stay_exact() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (first_topology, first_counts) = topology();
    let first = App::start(&first_topology, cluster.config()).await.unwrap();
    write(&cluster, 0..2000).await;
    settle(&first).await;
    assert_eq!(running_tasks(&first).await, 8);

    let (second_topology, second_counts) = topology();
    let second = App::start(&second_topology, cluster.config()).await.unwrap();
    for batch in 1..6 {
        write(&cluster, batch * 2000..(batch + 1) * 2000).await;
    }
    wait_for(12_000, &[(&first, &first_counts), (&second, &second_counts)]).await;
    let spread = async {
        while running_tasks(&second).await != 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), spread).await.expect("half of the tasks move");
    wait_for(12_000, &[(&first, &first_counts), (&second, &second_counts)]).await;

    second.close().await.unwrap();
    write(&cluster, 12_000..13_000).await;
    settle(&first).await;
    wait_for(13_000, &[(&first, &first_counts)]).await;
    assert_eq!(running_tasks(&first).await, 8);
    first.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_stay_exact_when_an_instance_closes_in_the_middle_of_a_rebalance() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let moved = AtomicBool::new(false);
    let writing = async {
        let mut written = 0;
        while !moved.load(Ordering::Relaxed) {
            write(&cluster, written..written + 200).await;
            written += 200;
        }
        written
    };
    let moving = async {
        let mut app = App::start(&topology().0, cluster.config()).await.unwrap();
        for round in 0..20 {
            let next = App::start(&topology().0, cluster.config()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5 + round * 23 % 445)).await;
            app.close().await.unwrap();
            app = next;
        }
        moved.store(true, Ordering::Relaxed);
        app
    };
    let (written, app) = tokio::join!(writing, moving);
    settle(&app).await;
    app.close().await.unwrap();
    let (last_topology, counts) = topology();
    let last = App::start(&last_topology, cluster.config()).await.unwrap();
    settle(&last).await;
    let rows = last.view(&counts).all().await.unwrap();
    assert_eq!(rows.iter().map(|(_, row)| row.value).sum::<i64>(), written);
    last.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_loses_nothing() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let config = || cluster.config().session_timeout(Duration::from_secs(6));
    let (first_topology, first_counts) = topology();
    let first = App::start(&first_topology, config()).await.unwrap();
    let remote = cluster.remote().await;
    let (second_topology, second_counts) = topology();
    let config = Config::client(&remote)
        .session_timeout(Duration::from_secs(6))
        .commit_interval(Duration::from_secs(60));
    let second = App::start(&second_topology, config).await.unwrap();
    write(&cluster, 0..2000).await;
    wait_for(2000, &[(&first, &first_counts), (&second, &second_counts)]).await;

    // No commit, no leave: its connections are gone, and the group waits for its heartbeats in vain. Closing would
    // wait for acknowledgements that cannot come, so the handle is dropped.
    remote.close().await;
    drop(second);
    write(&cluster, 2000..2500).await;
    settle(&first).await;
    let counted = counted(&[(&first, &first_counts)]).await;
    assert!(counted >= 2500, "{counted} counted of 2500");
    assert_eq!(running_tasks(&first).await, 8);
    first.close().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_topology_under_the_same_name_is_refused() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    let (old_topology, old_counts) = topology();
    let old = App::start(&old_topology, cluster.config()).await.unwrap();
    write(&cluster, 0..100).await;
    settle(&old).await;
    let b = Builder::new("moving");
    b.stream("in", (Utf8, Utf8)).map_values(|_| 1i64).to("ones", (Utf8, I64));
    let refused = App::start(&b.build().unwrap(), cluster.config()).await.unwrap_err();
    assert!(matches!(refused, StartError::OthersRun { members: 1, .. }), "{refused}");
    write(&cluster, 100..200).await;
    wait_for(200, &[(&old, &old_counts)]).await;
    old.close().await.unwrap();
    cluster.stop().await;
}

/// One says in repartition topics how far it has come, and the other does not: they would wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_the_groups_skew_bound_is_refused() {
    let topology = |is_timed: bool| {
        let b = Builder::new("bounded");
        let grouped =
            b.stream("in", (Utf8, Utf8)).group_by("by-value", (Utf8, Utf8), |_, value| value.clone());
        if is_timed {
            grouped.windowed_by(Windows::tumbling(Duration::from_secs(1))).count("counts");
        } else {
            grouped.count("counts");
        }
        b.build().unwrap()
    };
    let bounds = [true, false, true];
    for (is_timed, first) in [(true, 0), (true, 1), (false, 0)] {
        let cluster = Cluster::start().await;
        cluster.topic("in", 2).await;
        let config = |has_bound| if has_bound { cluster.config() } else { cluster.config().no_skew_bound() };
        let one = App::start(&topology(is_timed), config(bounds[first])).await.unwrap();
        settle(&one).await;
        let other = App::start(&topology(is_timed), config(bounds[first + 1])).await.unwrap();
        if is_timed {
            let failed = tokio::time::timeout(Duration::from_secs(20), other.failed()).await.unwrap();
            let failed = failed.unwrap();
            let text = failed.to_string();
            let says = if bounds[first] { "runs with a skew bound" } else { "runs without a skew bound" };
            assert!(matches!(failed, AppError::Fingerprint { .. }) && text.contains(says), "{text}");
            assert!(other.close().await.is_err());
        } else {
            let running = tokio::time::timeout(Duration::from_secs(20), other.running()).await;
            running.expect("nothing waits").unwrap();
            other.close().await.unwrap();
        }
        cluster.write("in", (0..20).map(|at| (at % 2, "k".to_owned(), "v".to_owned(), 0))).await;
        settle(&one).await;
        one.close().await.unwrap();
        cluster.stop().await;
    }
}
