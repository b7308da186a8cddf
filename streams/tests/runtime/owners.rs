//! Several instances, each of which has part of a table: whoever is asked answers or says who does, and takes no time over it.

use crate::cluster::{Cluster, settle};
use kappa_streams::{
    App, Builder, Owner, QueryError, Row, Table, Topology, Windowed, Windows,
    codec::{I64, Json, Utf8},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const PARTITIONS: i32 = 4;
const KEYS: i64 = 40;
/// What an answer may take that waits for nothing, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

struct Tables {
    counts: Table<String, i64>,
    hourly: Table<Windowed<String>, i64>,
    filtered: Table<String, i64>,
    /// Its keys have other bytes than those that its partitions go by.
    quoted: Table<String, i64>,
}

fn topology() -> (Topology, Tables) {
    let b = Builder::new("owned");
    let grouped =
        b.stream("in", (Utf8, Utf8)).group_by("by-value", (Utf8, Utf8), |_, value: &String| value.clone());
    let counts = grouped.count("counts");
    let hourly = grouped.windowed_by(Windows::tumbling(Duration::from_secs(3600))).count("hourly");
    let filtered = counts.filter(|_, count| *count > 0).map_values(|_, count| -count);
    let ones = b.stream("in", (Utf8, Utf8)).map_values(|_| 1);
    let quoted = ones.to_table("quoted", (Json::<String>::new(), I64));
    (b.build().unwrap(), Tables { counts, hourly, filtered, quoted })
}

async fn write(cluster: &Cluster, records: std::ops::Range<i64>) {
    let record =
        |at: i64| ((at % i64::from(PARTITIONS)) as i32, format!("k{at}"), format!("v{}", at % KEYS), at);
    cluster.write("in", records.map(record)).await;
}

/// An instance that can be asked at an address, or nowhere.
struct Instance {
    app: App,
    tables: Tables,
}

impl Instance {
    async fn start(cluster: &Cluster, address: Option<&str>) -> Instance {
        let config = cluster.config().query_timeout(QUERY_TIMEOUT);
        let config = match address {
            Some(address) => config.advertised(address),
            None => config,
        };
        let (topology, tables) = topology();
        Instance { app: App::start(&topology, config).await.unwrap(), tables }
    }

    async fn get(&self, key: &str) -> (Result<Option<i64>, QueryError>, Duration) {
        let asked = Instant::now();
        let answer = self.app.view(&self.tables.counts).get(key).await;
        (answer.map(|row| row.value.as_ref().map(|row: &Row<i64>| row.value)), asked.elapsed())
    }

    fn owner_of(&self, key: &str) -> Owner {
        self.app.view(&self.tables.counts).owner_of(key).unwrap()
    }

    fn has(&self, key: &str) -> bool {
        self.owner_of(key) == Owner::Here
    }
}

/// Waits until all instances agree on who has each key, and each has some.
async fn spread(instances: &[&Instance]) {
    let all: Vec<String> = (0..KEYS).map(|key| format!("v{key}")).collect();
    let agreed = async {
        loop {
            let here = |key: &String| instances.iter().filter(|instance| instance.has(key)).count();
            let moving = |key: &String| instances.iter().any(|of| of.owner_of(key) == Owner::Moving);
            let each = instances.iter().all(|instance| all.iter().any(|key| instance.has(key)));
            if each && all.iter().all(|key| here(key) == 1 && !moving(key)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), agreed).await.expect("tasks are spread");
    for instance in instances {
        tokio::time::timeout(Duration::from_secs(30), instance.app.running()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_what_is_elsewhere_says_at_once_who_has_it() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    write(&cluster, 0..4000).await;
    let first = Instance::start(&cluster, Some("10.0.0.1:7000")).await;
    settle(&first.app).await;
    let second = Instance::start(&cluster, Some("10.0.0.2:7000")).await;
    spread(&[&first, &second]).await;
    for (key, expected) in
        (0..KEYS).map(|key| (format!("v{key}"), Some(100))).chain([("absent".into(), None)])
    {
        let (owner, other, address) = match first.has(&key) {
            true => (&first, &second, "10.0.0.1:7000"),
            false => (&second, &first, "10.0.0.2:7000"),
        };
        let (row, took) = owner.get(&key).await;
        assert_eq!(row.unwrap(), expected, "{key}");
        assert!(took < AT_ONCE, "{took:?}");
        let (row, took) = other.get(&key).await;
        assert!(took < AT_ONCE, "{took:?}");
        let text = row.unwrap_err().to_string();
        let expected = format!(" of table \"counts\" is with {address}; ask there");
        assert!(text.starts_with("partition ") && text.ends_with(&expected), "{text}");
        let told =
            matches!(other.owner_of(&key), Owner::Elsewhere { address: Some(at), .. } if &*at == address);
        assert!(told, "{:?}", other.owner_of(&key));

        // The windows of a key, and tables made from a table, are with the key.
        let asked = Instant::now();
        let windows = |of: &Instance| {
            let (view, key) = (of.app.view(&of.tables.hourly), key.clone());
            async move { view.windows(key, 0..=i64::MAX).await.map(|rows| rows.len()) }
        };
        assert_eq!(windows(owner).await.unwrap(), usize::from(key != "absent"));
        assert!(
            matches!(windows(other).await, Err(QueryError::Elsewhere { partitions, .. }) if partitions.len() == 1)
        );
        let row = owner.app.view(&owner.tables.filtered).get(&*key).await.unwrap().value.map(|row| row.value);
        assert_eq!(row, (key != "absent").then_some(-100));
        assert!(other.app.view(&other.tables.filtered).get(&*key).await.is_err());
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }
    // Of all rows each has a part, and says who has the others.
    let asked = Instant::now();
    let mut named = BTreeMap::new();
    for instance in [&first, &second] {
        match instance.app.view(&instance.tables.counts).all().await {
            Err(QueryError::Elsewhere { partitions, .. }) => named.extend(partitions),
            other => panic!("{other:?}"),
        }
    }
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(named.len(), PARTITIONS as usize, "{named:?}");
    // Where the bytes of a key do not tell its partition, one may be in any.
    let quoted = first.app.view(&first.tables.quoted);
    assert_eq!(quoted.owner_of("k1").unwrap(), Owner::Unknown);
    assert!(matches!(quoted.get("absent").await, Err(QueryError::Elsewhere { .. })));

    // An instance that has no address is told of without.
    let third = Instance::start(&cluster, None).await;
    spread(&[&first, &second, &third]).await;
    let key = (0..KEYS).map(|key| format!("v{key}")).find(|key| third.has(key)).unwrap();
    let (row, took) = first.get(&key).await;
    assert!(took < AT_ONCE, "{took:?}");
    let text = row.unwrap_err().to_string();
    assert!(text.contains("is with an instance that advertises no address"), "{text}");
    for instance in [first, second, third] {
        instance.app.close().await.unwrap();
        let view = instance.app.view(&instance.tables.counts);
        assert!(matches!(view.owner_of("v0"), Err(QueryError::Stopped)));
    }
    cluster.stop().await;
}

/// Asks for keys without a pause, by turns at each of two addresses, and goes where it is sent; returns how many answers it had.
async fn ask(instances: &[Arc<Instance>], done: &AtomicBool) -> usize {
    let (mut answers, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let key = format!("v{}", answers as i64 % KEYS);
        let mut at = answers % instances.len();
        let mut hops = 0;
        loop {
            let (row, took) = instances[at].get(&key).await;
            longest = longest.max(took);
            match row {
                Ok(row) => break assert_eq!(row, Some(100), "{key} at {at}"),
                Err(QueryError::Elsewhere { partitions, .. }) => {
                    let [(_, Some(address))] = &partitions[..] else { panic!("{partitions:?}") };
                    at = address.parse().unwrap();
                }
                Err(error) => panic!("{error} after {took:?}"),
            }
            // Two that have not heard of the same may send it to and fro until they have.
            hops += 1;
            assert!(hops < 10_000, "nobody answers for {key}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answers += 1;
    }
    assert!(longest < QUERY_TIMEOUT, "{longest:?}");
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_the_addresses_has_an_answer_while_tasks_move() {
    let cluster = Cluster::start().await;
    cluster.topic("in", PARTITIONS).await;
    write(&cluster, 0..4000).await;
    let first = Arc::new(Instance::start(&cluster, Some("0")).await);
    settle(&first.app).await;
    let second = Arc::new(Instance::start(&cluster, Some("1")).await);
    let done = AtomicBool::new(false);
    let moving = async {
        spread(&[&first, &second]).await;
        for _ in 0..2 {
            let third = Instance::start(&cluster, Some("0")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            third.app.close().await.unwrap();
            spread(&[&first, &second]).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let both = [Arc::clone(&first), Arc::clone(&second)];
    let (answers, ()) = tokio::join!(ask(&both, &done), moving);
    assert!(answers >= KEYS as usize, "{answers}");
    first.app.close().await.unwrap();
    second.app.close().await.unwrap();
    cluster.stop().await;
}
