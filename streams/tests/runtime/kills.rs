//! Instances killed by SIGKILL while they work: nothing that was written to the input may be missing from the view.

use crate::cluster::{Cluster, settle};
use kappa_client::{Producer, ProducerConfig, ProducerRecord};
use kappa_streams::{
    App, Builder, Config, Table, Topology,
    codec::{Json, Utf8, opt},
};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Tells a child where the broker is.
const BROKER: &str = "KAPPA_TEST_BROKER";
/// What a child says once it has processed records.
const WORKING: &str = "records are processed";
const PARTITIONS: i64 = 4;
const KEYS: i64 = 10_000;
const KILLS: u64 = 6;
/// Records written every 5 ms: so many that at any time some are between input, outputs, changelog and offsets.
const BURST: i64 = 200;
const SESSION: Duration = Duration::from_secs(1);

/// Which records there are by key: a set, so that what is processed twice does not hide what is not processed at all.
fn topology() -> (Topology, Table<String, BTreeSet<i64>>) {
    let b = Builder::new("killed");
    let seen = b
        .stream("in", (opt(Utf8), Json::<i64>::new()))
        .group_by("by-remainder", (Utf8, Json::new()), |_, id: &i64| (id % KEYS).to_string())
        .aggregate("seen", Json::new(), BTreeSet::new, |_, id, mut seen| {
            seen.insert(id);
            seen
        });
    (b.build().unwrap(), seen)
}

/// An instance in a process of its own. It ends with the parent at the latest: its input is then at its end.
struct Instance(Child);

impl Instance {
    /// Starts one and waits until it has processed something.
    fn start(broker: &str) -> Instance {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::instance", "--ignored", "--nocapture"])
            .env(BROKER, broker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(WORKING)), "the instance never worked");
        Instance(child)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that a_killed_instance_loses_nothing starts"]
async fn instance() {
    let Ok(broker) = std::env::var(BROKER) else { return };
    let (topology, _) = topology();
    let config =
        Config::bootstrap(&broker).session_timeout(SESSION).commit_interval(Duration::from_millis(50));
    let app = App::start(&topology, config).await.unwrap();
    let working = async {
        while app.counters().records_in == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("{WORKING}");
    };
    tokio::time::timeout(Duration::from_secs(30), working).await.expect("work comes");
    // Until it is killed, or the parent ends.
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_loses_nothing() {
    let cluster = Cluster::with(&[("group.min.session.timeout.ms", "1000")]).await;
    cluster.topic("in", PARTITIONS as i32).await;
    let address = cluster.address();
    let killed = AtomicBool::new(false);
    let producing = async {
        let producer = Producer::new(&cluster.client, ProducerConfig::default()).await.unwrap();
        let mut written = 0;
        while !killed.load(Ordering::Relaxed) {
            for id in written..written + BURST {
                let value = id.to_string();
                let record =
                    ProducerRecord::to("in").partition((id % PARTITIONS) as i32).value(&value).timestamp(id);
                producer.send(record).await.unwrap();
            }
            written += BURST;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        producer.close().await.unwrap();
        written
    };
    let killing = async {
        tokio::task::spawn_blocking(move || {
            let mut instances = vec![Instance::start(&address), Instance::start(&address)];
            for kill in 0..KILLS {
                // Spread over the phases of a commit, of a restore and of a rebalance.
                std::thread::sleep(Duration::from_millis(kill * 137 % 500));
                instances.remove(0).kill();
                instances.push(Instance::start(&address));
            }
            instances.into_iter().for_each(Instance::kill);
        })
        .await
        .unwrap();
        killed.store(true, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(producing, killing);

    let (topology, seen) = topology();
    let app = App::start(&topology, cluster.config()).await.unwrap();
    settle(&app).await;
    let rows = app.view(&seen).all().await.unwrap();
    let seen: BTreeSet<i64> = rows.iter().flat_map(|(_, row)| &row.value).copied().collect();
    let missing: Vec<i64> = (0..written).filter(|id| !seen.contains(id)).collect();
    assert!(missing.is_empty(), "{} of {written} are missing, the first is {}", missing.len(), missing[0]);
    app.close().await.unwrap();
    cluster.stop().await;
}
