//! Records counted by key per second and core: by the engine alone, and from a broker; and how fast a count is restored.
//!
//! `cargo bench -p kappa-benches --bench streams`. The load is that of docs/BENCHMARKS.md's table of stream processors: 3 M
//! records of about 65 bytes, 100,000 random keys, one partition. "engine" feeds batches to the very tasks that run in
//! production, with no changelog topic to write; "broker" is an application with one worker against an embedded broker
//! (`kappa.flush=commit`), changelog included; "restore" starts it again with nothing to read but its changelog. The
//! limit is a plain map of the same keys, counted from the same bytes on one core. "partitions" is what a record costs the engine
//! by the number of partitions that wait for each other: windows of an hour, a bound on skew of ten minutes. "hops" is what one more
//! operator that keeps nothing costs, by a chain of ten; "observed" is an aggregate of 10,000 texts with operators behind it; "keys"
//! counts by keys that take time to encode; "workers" is two workers against one, each through a topic that all tasks write: a replay into hourly
//! windows with a bound on skew of an hour, and a count of 10,000 keys; "repartitioned" is the count from the broker behind a topic of its own; "queries" is
//! how long a question takes while the application counts as fast as it can, and while each record takes 20 ms; "restore" tells the rows of a restore from
//! the start of an application. A word as an argument leaves only what is called so.

mod harness;

use bytes::Bytes;
use harness::server::own_usage;
use harness::{Comparison, is_wanted, rounds, scaled};
use kappa_broker::{Broker, BrokerConfig};
use kappa_client::{Client, Producer, ProducerConfig, ProducerRecord};
use kappa_protocol::record::{BatchBuilder, BatchOptions, DecodedBatch};
use kappa_streams::codec::{I64, Json, Raw, Utf8};
use kappa_streams::{
    App, Builder, Config, Headers, InputBatch, InputBatchBuilder, Stream, Table, TestDriver, Topology,
    Windows,
};
use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 100_000;
const BATCH_RECORDS: usize = 1000;

fn main() {
    if is_wanted("partitions") {
        partitions();
    }
    if is_wanted("hops") {
        hops();
    }
    if is_wanted("observed") {
        observed();
    }
    if is_wanted("keys") {
        keys();
    }
    if is_wanted("count") {
        count();
    }
    if is_wanted("workers") {
        workers();
    }
    if is_wanted("repartitioned") {
        repartitioned();
    }
    if is_wanted("queries") {
        queries();
    }
    if is_wanted("restore") {
        restore();
    }
}

/// Partitions of the topic that several workers read.
const SHARED_PARTITIONS: i32 = 6;
/// Event time between two records of a partition of it: 300 of them within the bound.
const SHARED_STEP_MS: i64 = 12_000;

/// What one more worker brings.
fn workers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let each = scaled(6_000_000) as i64 / i64::from(SHARED_PARTITIONS);
    let hour = Duration::from_secs(3600);
    let windowed = Builder::new("windowed");
    windowed
        .stream("shared", (Raw, I64))
        .group_by("by-region", (I64, I64), |_, number| number % 50)
        .windowed_by(Windows::tumbling(hour).grace(hour).retention(hour * 48))
        .count("hourly");
    let counted = Builder::new("counted");
    counted
        .stream("shared", (Raw, I64))
        .group_by("by-key", (I64, I64), |_, number| number % 10_000)
        .count("all");
    for (name, builder) in [("windows of a replay", windowed), ("count", counted)] {
        let topology = builder.build().expect("it is wired");
        let mut speed = Comparison::new(format!("{name}, through a topic"), "source records/s");
        let mut busy = Comparison::new("the same, CPU of everything in the process", "cores");
        for _ in 0..rounds() {
            let measured = runtime.block_on(shared(&topology, each));
            for (name, (rate, cores)) in ["one worker", "two workers"].into_iter().zip(measured) {
                speed.add(name, rate);
                busy.add(name, cores);
            }
        }
        speed.print();
        busy.print();
        let ratios = speed.ratios("two workers", "one worker");
        println!("  two over one, round by round: {:.2} {:.2?}", ratios.median(), ratios.range());
    }
}

/// Source records per second with one worker and with two, over the same log, and how many cores that keeps busy.
async fn shared(topology: &Topology, each: i64) -> [(f64, f64); 2] {
    let parent = std::env::var_os("KAPPA_BENCH_DIR").unwrap_or_else(|| "/tmp".into());
    let directory = tempfile::tempdir_in(parent).expect("a directory for the data");
    let partitions = SHARED_PARTITIONS.to_string();
    let config = BrokerConfig::new(directory.path().join("data")).with("num.partitions", &partitions);
    let broker = Broker::start(config.expect("a setting")).await.expect("the broker starts");
    let client = Client::in_process(broker.lane());
    let producer = Producer::new(&client, ProducerConfig::default()).await.expect("a producer");
    for at in 0..each {
        for partition in 0..SHARED_PARTITIONS {
            let number = (at * i64::from(SHARED_PARTITIONS) + i64::from(partition)).to_be_bytes();
            let record = ProducerRecord::to("shared").partition(partition).key(b"flight").value(&number);
            drop(producer.send(record.timestamp(at * SHARED_STEP_MS)).await.expect("it is taken"));
        }
    }
    producer.flush().await.expect("all is acknowledged");
    producer.close().await.expect("a clean end");
    let ends = || (0..SHARED_PARTITIONS).map(|partition| (("shared".to_owned(), partition), each)).collect();
    let mut speeds = [(0.0, 0.0); 2];
    for (workers, speed) in speeds.iter_mut().enumerate() {
        let config = Config::client(&client).workers(workers + 1).generation(workers as u32 + 1);
        let (cpu, began) = (own_usage().0, Instant::now());
        let app = App::start(topology, config.replay_until(ends())).await.expect("it starts");
        app.caught_up(&ends()).await.expect("it catches up");
        let seconds = began.elapsed().as_secs_f64();
        let cores = (own_usage().0 - cpu) as f64 / 1e6 / seconds;
        *speed = ((each * i64::from(SHARED_PARTITIONS)) as f64 / seconds, cores);
        let counters = app.counters();
        assert_eq!(
            (counters.late, counters.records_in),
            (0, 2 * (each * i64::from(SHARED_PARTITIONS)) as u64)
        );
        app.close().await.expect("a clean end");
    }
    client.close().await;
    broker.stop().await.expect("the broker stops");
    speeds
}

/// Counting by 100,000 keys, in memory and from a broker, and restoring what was counted.
fn count() {
    let records = scaled(3_000_000) / BATCH_RECORDS * BATCH_RECORDS;
    let batches = batches(records);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut rate = Comparison::new("count by 100,000 keys", "records/s");
    let mut cpu = Comparison::new("count by 100,000 keys, CPU of everything in the process", "us/record");
    for _ in 0..rounds() {
        let (seconds, micros) = measured(|| plain_map(&batches));
        rate.add("plain map", records as f64 / seconds);
        cpu.add("plain map", micros / records as f64);
        let (seconds, micros) = measured(|| engine(&batches, records));
        rate.add("engine", records as f64 / seconds);
        cpu.add("engine", micros / records as f64);
        let [counted, restored] = runtime.block_on(from_broker(records, KEYS, topology()));
        rate.add("broker", records as f64 / counted.0);
        cpu.add("broker", counted.1 / records as f64);
        rate.add("restore (keys/s)", KEYS.min(records as u64) as f64 / restored.0);
    }
    rate.print();
    cpu.print();
}

/// Restoring a million keys, from the start of the application until it answers; and a thousand, which is the start.
fn restore() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut taken = Comparison::new("restoring a count", "ms");
    let mut cpu = Comparison::new("restoring a count, CPU of everything in the process", "ms");
    for _ in 0..rounds() {
        for (name, keys) in [("1,000,000 keys", scaled(1_000_000)), ("1,000 keys", 1000)] {
            let [_, (seconds, micros)] = runtime.block_on(from_broker(keys, keys as u64, topology()));
            taken.add(name, seconds * 1e3);
            cpu.add(name, micros / 1e3);
        }
    }
    taken.print();
    cpu.print();
}

/// Nanoseconds of CPU per record of a topology that reads "events", given these batches time and again.
fn per_record(topology: &Topology, batches: &[InputBatch], times: usize) -> f64 {
    let records: usize = batches.iter().map(InputBatch::len).sum();
    let mut taken = Duration::ZERO;
    for _ in 0..times {
        // Offsets have to grow, so each time is a run of its own.
        let driver = TestDriver::new(topology).commit_every(usize::MAX).start();
        let mut driver = driver.expect("it starts");
        let feed = |batch: &InputBatch| driver.feed("events", 0, batch).expect("it is processed");
        let start = thread_time();
        batches.iter().for_each(feed);
        taken += thread_time() - start;
        assert!(driver.counters().records_in >= records as u64);
    }
    taken.as_nanos() as f64 / (records * times) as f64
}

/// CPU that this thread has used; finer than what a process is told of its usage.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Batches of a thousand records.
fn made(records: usize, record: impl Fn(usize) -> (Vec<u8>, Vec<u8>)) -> Vec<InputBatch> {
    let batch = |first: usize| {
        let mut builder = InputBatchBuilder::new(first as i64);
        for number in first..first + BATCH_RECORDS {
            let (key, value) = record(number);
            builder.push(number as i64, Some(&key), Some(&value), Headers::NONE);
        }
        builder.finish()
    };
    (0..records).step_by(BATCH_RECORDS).map(batch).collect()
}

/// What an operator without state adds to a record, by chains of ten.
fn hops() {
    type Texts = Stream<String, i64>;
    type Grow = fn(Texts) -> Texts;
    let chains: [(&'static str, Grow); 5] = [
        ("map_values", |s| s.map_values(|value| value.wrapping_mul(3))),
        ("filter", |s| s.filter(|_, value| *value != i64::MIN)),
        ("map", |s| s.map(|key, value| (key, value ^ 5))),
        ("peek", |s| s.peek(|record| _ = black_box(record.value))),
        ("flat_map_values", |s| s.flat_map_values(|value| [value])),
    ];
    let number = |number: usize| (record(number as u64).0.to_vec(), (number as i64).to_be_bytes().to_vec());
    let (batches, times) = (made(scaled(200_000).max(BATCH_RECORDS), number), 5);
    let chain = |hops: usize, grow: Grow| {
        let b = Builder::new("bench");
        let stream = (0..hops).fold(b.stream("events", (Utf8, I64)), |stream, _| grow(stream));
        stream.peek(|record| _ = black_box(record.timestamp));
        b.build().expect("it is wired")
    };
    let mut cost = Comparison::new("an operator without state, in a chain of ten", "ns/record");
    for _ in 0..rounds() {
        for (name, grow) in chains {
            let [none, ten] = [0, 10].map(|hops| per_record(&chain(hops, grow), &batches, times));
            cost.add(name, (ten - none) / 10.0);
            cost.add("(the record itself)", none);
        }
    }
    cost.print();
}

/// An aggregate of 10,000 texts, by what is behind it.
fn observed() {
    let number = |number: usize| (b"the key".to_vec(), (number as i64).to_be_bytes().to_vec());
    let batches = made(scaled(20_000).max(BATCH_RECORDS), number);
    let topology = |behind: fn(&Table<String, Vec<String>>)| {
        let b = Builder::new("bench");
        let whole = || (0..10_000).map(|number: u64| number.to_string()).collect::<Vec<String>>();
        let texts = b.stream("events", (Utf8, I64)).group_by_key().aggregate(
            "texts",
            Json::<Vec<String>>::new(),
            whole,
            |_, value, mut texts| {
                let at = value as usize % texts.len();
                if let Some(text) = texts.get_mut(at) {
                    text.clear();
                }
                texts
            },
        );
        behind(&texts);
        b.build().expect("it is wired")
    };
    let mut cost = Comparison::new("an aggregate of 10,000 texts, by what is behind it", "ns/record");
    for _ in 0..rounds() {
        let mut add = |name, behind| {
            cost.add(name, per_record(&topology(behind), &batches, 1));
        };
        add("nothing", |_| {});
        add("map_values", |table| drop(table.map_values(|_, texts| texts.len()).to_stream()));
        add("filter, map_values", |table| {
            let some = table.filter(|_, texts| !texts.is_empty());
            drop(some.map_values(|_, texts| texts.len()).to_stream());
        });
        add("to_stream", |table| {
            table.to_stream().peek(|record| _ = black_box(record.timestamp));
        });
    }
    cost.print();
}

/// Counting by keys of JSON, which have to be written again once read.
fn keys() {
    let json = |number: usize| {
        let key = format!("[\"key-{:06}\",{}]", number % 1000, number % 7);
        (key.into_bytes(), (number as i64).to_be_bytes().to_vec())
    };
    let text =
        |number: usize| (format!("key-{:06}", number % 7000).into_bytes(), 7i64.to_be_bytes().to_vec());
    let records = scaled(300_000).max(BATCH_RECORDS);
    let (json, text) = (made(records, json), made(records, text));
    let of_json = Builder::new("bench");
    let pairs = Json::<(String, i64)>::new();
    of_json.stream("events", (pairs, I64)).group_by_key().count("counts");
    let of_json = of_json.build().expect("it is wired");
    let through = Builder::new("bench");
    through
        .stream("events", (pairs, I64))
        .group_by("again", (pairs, I64), |key, _| key.clone())
        .count("counts");
    let through = through.build().expect("it is wired");
    let of_text = Builder::new("bench");
    of_text.stream("events", (Utf8, I64)).group_by_key().count("counts");
    let of_text = of_text.build().expect("it is wired");
    let mut cost = Comparison::new("count by 7,000 keys, by what they are", "ns/record");
    for _ in 0..rounds() {
        cost.add("text", per_record(&of_text, &text, 1));
        cost.add("JSON", per_record(&of_json, &json, 1));
        cost.add("JSON, repartitioned", per_record(&through, &json, 1));
    }
    cost.print();
}

/// Seconds on the clock and microseconds of CPU.
fn measured<T>(work: impl FnOnce() -> T) -> (f64, f64) {
    let (cpu, start) = (own_usage().0, Instant::now());
    black_box(work());
    (start.elapsed().as_secs_f64(), (own_usage().0 - cpu) as f64)
}

/// Key and value of the record with this number; the same in every run.
fn record(number: u64) -> ([u8; 12], [u8; 53]) {
    let mixed = (number ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    record_of((mixed >> 20) % KEYS)
}

/// The record with this number in a load of so many keys; but for the common one, they come in turn.
fn record_among(number: u64, keys: u64) -> ([u8; 12], [u8; 53]) {
    if keys == KEYS { record(number) } else { record_of(number % keys) }
}

fn record_of(key: u64) -> ([u8; 12], [u8; 53]) {
    let key = format!("key-{key:08}");
    (key.as_bytes().try_into().expect("12 bytes"), [b'v'; 53])
}

fn batches(records: usize) -> Vec<DecodedBatch> {
    let batch = |first: usize| {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for number in first..first + BATCH_RECORDS {
            let (key, value) = record(number as u64);
            builder.push(number as i64, Some(&key), Some(&value), []);
        }
        DecodedBatch::decode(builder.finish(first as i64), usize::MAX).expect("a valid batch")
    };
    (0..records).step_by(BATCH_RECORDS).map(batch).collect()
}

fn plain_map(batches: &[DecodedBatch]) -> HashMap<Bytes, i64> {
    let mut counts: HashMap<Bytes, i64> = HashMap::new();
    for batch in batches {
        for record in batch.records() {
            let key = record.expect("a valid record").key.expect("every record has a key");
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => drop(counts.insert(Bytes::copy_from_slice(key), 1)),
            }
        }
    }
    counts
}

/// Counting by window and key as records come, one in each of so many partitions at a time.
fn partitions() {
    let mut cost = Comparison::new("windowed count, by partitions that wait for each other", "ns/record");
    for _ in 0..rounds() {
        for (name, partitions) in [("10", 10), ("500", 500), ("2,000", 2000)] {
            let each = scaled(200_000).div_ceil(partitions as usize).max(10);
            let b = Builder::new("bench");
            let windows = Windows::tumbling(Duration::from_secs(3600)).grace(Duration::from_secs(3600));
            b.stream("events", (Raw, Raw)).group_by_key().windowed_by(windows).count("counts");
            let topology = b.build().expect("it is wired");
            let driver = TestDriver::new(&topology).partitions(partitions).commit_every(usize::MAX);
            let mut driver = driver.skew_bound(Duration::from_secs(600)).start().expect("it starts");
            let mut micros = 0.0;
            for minute in 0..each {
                for partition in 0..partitions {
                    let (key, value) = record((minute * partitions as usize) as u64 + partition as u64);
                    let (bytes, at) = ((Some(&key[..]), Some(&value[..])), minute as i64 * 60_000);
                    driver
                        .append("events", Some(partition), bytes, at, Headers::NONE)
                        .expect("it is appended");
                }
                micros += measured(|| driver.run().expect("it is processed")).1;
            }
            assert_eq!(driver.counters().records_in, (each * partitions as usize) as u64);
            cost.add(name, micros * 1000.0 / (each * partitions as usize) as f64);
        }
    }
    cost.print();
}

type Counted = (Topology, Table<Bytes, i64>);

fn topology() -> Counted {
    let b = Builder::new("bench");
    let counts = b.stream("events", (Raw, Raw)).group_by_key().count("counts");
    (b.build().expect("it is wired"), counts)
}

/// The same behind a topic, as if the key were new.
fn through_a_topic() -> Counted {
    let b = Builder::new("bench");
    let records = b.stream("events", (Raw, Raw));
    let counts = records.group_by("again", (Raw, Raw), |key, _| key.clone()).count("counts");
    (b.build().expect("it is wired"), counts)
}

/// What a topic between source and count costs.
fn repartitioned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let records = scaled(1_000_000);
    let mut rate = Comparison::new("count from the broker by 100,000 keys", "records/s");
    let mut cpu = Comparison::new("the same, CPU of everything in the process", "us/record");
    for _ in 0..rounds() {
        for (name, made) in [("directly", topology as fn() -> Counted), ("through a topic", through_a_topic)]
        {
            let [(seconds, micros), _] = runtime.block_on(from_broker(records, KEYS, made()));
            rate.add(name, records as f64 / seconds);
            cpu.add(name, micros / records as f64);
        }
    }
    rate.print();
    cpu.print();
}

/// How long it takes to ask for a row while records are processed.
fn queries() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for (name, records, work) in [
        ("at full speed", scaled(3_000_000), Duration::ZERO),
        ("20 ms a record", 150, Duration::from_millis(20)),
    ] {
        let mut times = runtime.block_on(asked(records, work));
        times.sort_unstable();
        let at = |part: usize| {
            times.get((times.len() - 1) * part / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        println!("\na row asked for while records are processed, {name}: {} questions", times.len());
        println!("  p50 {:.3} ms  p99 {:.3} ms  longest {:.3} ms", at(50), at(99), at(100));
    }
}

/// How long each question took until all was processed.
async fn asked(records: usize, work: Duration) -> Vec<Duration> {
    let parent = std::env::var_os("KAPPA_BENCH_DIR").unwrap_or_else(|| "/tmp".into());
    let directory = tempfile::tempdir_in(parent).expect("a directory for the data");
    let config = BrokerConfig::new(directory.path().join("data")).with("num.partitions", "1");
    let broker = Broker::start(config.expect("a setting")).await.expect("the broker starts");
    let client = Client::in_process(broker.lane());
    produce(&client, records, KEYS).await;
    let b = Builder::new("bench");
    let events = b.stream("events", (Raw, Raw)).peek(move |_| {
        if !work.is_zero() {
            std::thread::sleep(work);
        }
    });
    let counts = events.group_by_key().count("counts");
    let topology = b.build().expect("it is wired");
    let app = App::start(&topology, Config::client(&client)).await.expect("it starts");
    let ends = app.end_offsets().await.expect("the topic has an end");
    let view = app.view(&counts);
    let key = Bytes::copy_from_slice(&record(0).0);
    while app.counters().records_in == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut times = Vec::new();
    while app.counters().records_in < ends.total() as u64 {
        let start = Instant::now();
        drop(view.get(key.clone()).await.expect("it can be asked"));
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    app.close().await.expect("a clean end");
    client.close().await;
    broker.stop().await.expect("the broker stops");
    times
}

fn engine(batches: &[DecodedBatch], records: usize) -> u64 {
    let (topology, _) = topology();
    let mut driver = TestDriver::new(&topology).commit_every(records).start().expect("it starts");
    for batch in batches {
        let batch = InputBatch::from_decoded(batch).expect("valid records");
        driver.feed("events", 0, &batch).expect("it is processed");
    }
    assert_eq!(driver.counters().records_in, records as u64);
    driver.counters().records_in
}

/// Counting from the broker, then restoring what was counted: seconds and CPU microseconds of each.
async fn from_broker(records: usize, keys: u64, (topology, counts): Counted) -> [(f64, f64); 2] {
    let parent = std::env::var_os("KAPPA_BENCH_DIR").unwrap_or_else(|| "/tmp".into());
    let directory = tempfile::tempdir_in(parent).expect("a directory for the data");
    let config =
        BrokerConfig::new(directory.path().join("data")).with("num.partitions", "1").expect("a setting");
    let broker = Broker::start(config).await.expect("the broker starts");
    let client = Client::in_process(broker.lane());
    produce(&client, records, keys).await;

    let counted = run(&client, &topology, &counts, keys).await;
    let restored = run(&client, &topology, &counts, keys).await;
    client.close().await;
    broker.stop().await.expect("the broker stops");
    [counted, restored]
}

async fn produce(client: &Client, records: usize, keys: u64) {
    let producer = Producer::new(client, ProducerConfig::default()).await.expect("a producer");
    for number in 0..records {
        let (key, value) = record_among(number as u64, keys);
        let record = ProducerRecord::to("events").key(&key).value(&value).timestamp(number as i64);
        drop(producer.send(record).await.expect("it is taken"));
    }
    producer.flush().await.expect("all is acknowledged");
    producer.close().await.expect("a clean end");
}

/// Starts the application and waits until it has counted, or restored, everything there is and answers for it.
async fn run(client: &Client, topology: &Topology, counts: &Table<Bytes, i64>, keys: u64) -> (f64, f64) {
    let (cpu, start) = (own_usage().0, Instant::now());
    let app = App::start(topology, Config::client(client)).await.expect("it starts");
    let ends = app.end_offsets().await.expect("the topic has an end");
    app.caught_up(&ends).await.expect("it catches up");
    let (key, _) = record_among(0, keys);
    let row = app.view(counts).get(Bytes::copy_from_slice(&key)).await.expect("it can be asked");
    assert!(row.value.is_some(), "the first record's key was counted");
    let taken = (start.elapsed().as_secs_f64(), (own_usage().0 - cpu) as f64);
    let rows = app.view(counts).all().await.expect("it can be asked").value;
    let total: i64 = rows.iter().map(|(_, row)| row.value).sum();
    assert_eq!(total, ends.total(), "every record is counted once");
    app.close().await.expect("a clean end");
    taken
}
