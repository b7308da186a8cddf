//! Instances killed by SIGKILL, or stopped and continued, while they work: nothing that was written to the input may be
//! missing from the views. `KAPPA_KILLS` says how often, in each test of its own.

use crate::cluster::{Cluster, settle};
use kappa_client::{Producer, ProducerConfig, ProducerRecord};
use kappa_streams::{
    App, Builder, Config, Table, Topology, Windowed, Windows,
    codec::{I64, Json, Utf8, opt},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::{Duration, Instant},
};

/// Tells a child where the broker is.
const BROKER: &str = "KAPPA_TEST_BROKER";
/// What a child says once it has processed records.
const WORKING: &str = "records are processed";
const PARTITIONS: i64 = 4;
const KEYS: i64 = 10_000;
const KILLS: u64 = 6;
const STOPS: u64 = 4;
/// Milliseconds of event time, of which there is one per record.
const WINDOW: i64 = 1000;
/// Keys of the windows.
const SHARES: i64 = 8;
/// Tells a child to stop itself.
const STOPS_ITSELF: &str = "KAPPA_TEST_STOPS_ITSELF";
/// After so many records that it has counted.
const STOP_AFTER: i64 = 5000;
/// Records written every 10 ms: so many that at any time some are between input, outputs, changelog and offsets.
const BURST: i64 = 200;
const SESSION: Duration = Duration::from_secs(1);

/// Which records there are by key, and by key and window: sets, so that what is processed twice does not hide what is not
/// processed at all; and how many, which is then too many.
struct Views {
    seen: Table<String, BTreeSet<i64>>,
    windows: Table<Windowed<i64>, BTreeSet<i64>>,
    counts: Table<Windowed<i64>, i64>,
}

fn topology() -> (Topology, Views) {
    let b = Builder::new("killed");
    let records = b.stream("in", (opt(Utf8), Json::<i64>::new()));
    let seen = records
        .group_by("by-remainder", (Utf8, Json::new()), |_, id: &i64| (id % KEYS).to_string())
        .aggregate("seen", Json::new(), BTreeSet::new, |_, id, mut seen| {
            stand_still_if_told();
            seen.insert(id);
            seen
        });
    let day = Duration::from_secs(86_400);
    let windows = Windows::tumbling(Duration::from_millis(WINDOW as u64)).grace(day).retention(day * 2);
    let shares =
        records.group_by("by-share", (I64, Json::new()), |_, id: &i64| id % SHARES).windowed_by(windows);
    let counts = shares.count("counts");
    let windows = shares.aggregate_mut("windows", Json::new(), BTreeSet::new, |_, id, seen| {
        seen.insert(id);
    });
    (b.build().unwrap(), Views { seen, windows, counts })
}

/// How often instances are disturbed.
fn times(otherwise: u64) -> u64 {
    std::env::var("KAPPA_KILLS").ok().and_then(|times| times.parse().ok()).unwrap_or(otherwise)
}

/// In an instance that was told to: stops the process in the middle of its work, once.
fn stand_still_if_told() {
    static LEFT: AtomicI64 = AtomicI64::new(STOP_AFTER);
    if std::env::var_os(STOPS_ITSELF).is_some() && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        let stop = ["-STOP", &std::process::id().to_string()].map(str::to_owned);
        assert!(Command::new("kill").args(stop).status().unwrap().success());
    }
}

/// An instance in a process of its own. It ends with the parent at the latest: its input is then at its end.
struct Instance(Child);

impl Instance {
    /// Starts one and waits until it has processed something.
    fn start(broker: &str) -> Instance {
        let mut instance = Instance::spawn(broker, &[]);
        let mut lines = BufReader::new(instance.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(WORKING)), "the instance never worked");
        instance
    }

    fn spawn(broker: &str, variables: &[(&str, &str)]) -> Instance {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::instance", "--ignored", "--nocapture"])
            .env(BROKER, broker)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Instance(child.unwrap())
    }

    /// Waits until it has stopped itself.
    fn stopped(&self) {
        let stat = format!("/proc/{}/stat", self.0.id());
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(std::time::Instant::now() < until, "the instance never stopped");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGSTOP.
    fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// SIGKILL.
    fn kill(self) {}
}

impl Drop for Instance {
    fn drop(&mut self) {
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

/// Looks for the records below `written` in views that are restored for it.
async fn missing(cluster: &Cluster, written: i64) {
    let (topology, views) = topology();
    let config = cluster.config().query_timeout(Duration::from_secs(60));
    let app = App::start(&topology, config).await.unwrap();
    caught_up(&app).await;
    let rows = app.view(&views.seen).all().await.unwrap();
    none_missing("rows", written, rows.iter().flat_map(|(_, row)| row.value.iter().copied()).collect());
    let rows = app.view(&views.windows).all().await.unwrap();
    none_missing("windows", written, rows.iter().flat_map(|(_, row)| row.value.iter().copied()).collect());
    let held: BTreeMap<(i64, i64), i64> =
        rows.iter().map(|(key, row)| ((key.key, key.window.start), row.value.len() as i64)).collect();
    let rows = app.view(&views.counts).all().await.unwrap();
    let counted: BTreeMap<(i64, i64), i64> =
        rows.iter().map(|(key, row)| ((key.key, key.window.start), row.value)).collect();
    for (window, held) in held {
        assert!(counted.get(&window) >= Some(&held), "{window:?}: {:?} of {held}", counted.get(&window));
    }
    assert_eq!(app.counters().late, 0);
    app.close().await.unwrap();
}

/// Waits for what is left, as long as it becomes less.
async fn caught_up(app: &App) {
    let ends = app.end_offsets().await.unwrap();
    let mut before = None;
    while tokio::time::timeout(Duration::from_secs(30), app.caught_up(&ends))
        .await
        .map(Result::unwrap)
        .is_err()
    {
        let now = Some((app.restoring(), app.counters_now().await.unwrap()));
        assert_ne!(before, now, "nothing has been processed for 30 s");
        before = now;
    }
}

fn none_missing(what: &str, written: i64, seen: BTreeSet<i64>) {
    let missing: Vec<i64> = (0..written).filter(|id| !seen.contains(id)).collect();
    assert!(
        missing.is_empty(),
        "{what}: {} of {written} missing, the first is {}",
        missing.len(),
        missing[0]
    );
}

/// Writes records without a pause while `disturb` runs, and looks for each of them in a view restored afterwards.
async fn nothing_is_lost(disturb: impl FnOnce(String) + Send + 'static) {
    let began = Instant::now();
    let cluster = Cluster::with(&[("group.min.session.timeout.ms", "1000")]).await;
    cluster.topic("in", PARTITIONS as i32).await;
    let address = cluster.address();
    let disturbed = AtomicBool::new(false);
    let producing = async {
        let producer = Producer::new(&cluster.client, ProducerConfig::default()).await.unwrap();
        let mut written = 0;
        while !disturbed.load(Ordering::Relaxed) {
            for id in written..written + BURST {
                let value = id.to_string();
                let record =
                    ProducerRecord::to("in").partition((id % PARTITIONS) as i32).value(&value).timestamp(id);
                producer.send(record).await.unwrap();
            }
            written += BURST;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        producer.close().await.unwrap();
        written
    };
    let disturbing = async {
        tokio::task::spawn_blocking(move || disturb(address)).await.unwrap();
        disturbed.store(true, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(producing, disturbing);
    let disturbed = began.elapsed();
    missing(&cluster, written).await;
    println!(
        "{written} records, disturbed for {disturbed:?}, looked for in {:?}",
        began.elapsed() - disturbed
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_loses_nothing() {
    nothing_is_lost(|address| {
        let mut instances = vec![Instance::start(&address), Instance::start(&address)];
        for kill in 0..times(KILLS) {
            // Spread over the phases of a commit, of a restore and of a rebalance.
            std::thread::sleep(Duration::from_millis(kill * 137 % 500));
            instances.remove(0).kill();
            instances.push(Instance::start(&address));
        }
        instances.into_iter().for_each(Instance::kill);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_stopped_and_continued_loses_nothing() {
    nothing_is_lost(|address| {
        let instances = [(); 3].map(|()| Instance::start(&address));
        for stop in 0..times(STOPS) {
            // Spread over the phases of a commit and of the rebalances that the one before has brought.
            std::thread::sleep(Duration::from_millis(stop * 211 % 700));
            let stopped = &instances[stop as usize % instances.len()];
            stopped.stop();
            // Beyond its session; every third time within it, though not within the lease.
            std::thread::sleep(if stop % 3 == 2 {
                SESSION * 9 / 10
            } else {
                SESSION * (3 + stop as u32 % 4) / 2
            });
            stopped.go_on();
        }
        instances.into_iter().for_each(Instance::kill);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stands_still_beyond_its_session_and_goes_on_overwrites_nothing() {
    let cluster = Cluster::with(&[("group.min.session.timeout.ms", "1000")]).await;
    cluster.topic("in", PARTITIONS as i32).await;
    let write = async |ids: std::ops::Range<i64>| {
        let record = |id: i64| ((id % PARTITIONS) as i32, String::new(), id.to_string(), id);
        cluster.write("in", ids.map(record)).await;
    };
    let address = cluster.address();
    let stopped = Instance::spawn(&address, &[(STOPS_ITSELF, "1")]);
    write(0..2 * KEYS).await;
    let stopped = tokio::task::spawn_blocking(|| {
        stopped.stopped();
        stopped
    });
    let stopped = stopped.await.unwrap();
    // Another one takes over and goes on with the same rows.
    let (topology, _) = self::topology();
    let other = App::start(&topology, cluster.config().session_timeout(SESSION)).await.unwrap();
    write(2 * KEYS..4 * KEYS).await;
    settle(&other).await;
    stopped.go_on();
    tokio::time::sleep(SESSION * 2).await;
    drop(stopped);
    other.close().await.unwrap();
    missing(&cluster, 4 * KEYS).await;
    cluster.stop().await;
}
