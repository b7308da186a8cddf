//! A whole broker in which something panics: who is told what, and what goes on.

use super::*;
use crate::broker::Assembly;
use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::disk::{Operation, SimulatedDisk, Trap};
use crate::http::Pages;
use crate::jobs::Jobs;
use crate::journal::JournalConfig;
use crate::topic::{NewTopic, Topic, TopicError};
use kappa_protocol::record::{BatchBuilder, BatchOptions};

/// A broker with its threads, on a disk with a trap.
struct Running {
    trap: Trap,
    disk: SimulatedDisk,
    node: Arc<Node>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    _flusher: crate::flush::Flusher,
}

impl Running {
    /// Its periodic tasks run every 10 ms.
    fn start(disk: SimulatedDisk) -> Self {
        let trap = Trap::default();
        let mut config = BrokerConfig::new("/data");
        for name in ["log.retention.check.interval.ms", "log.flush.offset.checkpoint.interval.ms"] {
            config.set(name, "10").unwrap();
        }
        let jobs = Jobs::on(Handle::current());
        let opened = Assembly::open(
            &config,
            Arc::new(trap.on(disk.clone())),
            Clock::System,
            jobs,
            JournalConfig::default(),
        );
        let Assembly { node, catalog, .. } = opened.unwrap();
        std::thread::spawn(move || catalog.run());
        let flush = node.topics.env().flush.clone();
        let flusher = crate::flush::Flusher::reporting_to(node.panics.clone(), flush).unwrap();
        let (stopping, stop) = watch::channel(false);
        let mut tasks = JoinSet::new();
        start(&node, &Handle::current(), &stop, &mut tasks);
        Self { trap, disk, node, stopping, tasks, _flusher: flusher }
    }

    async fn create(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let new = NewTopic { name: name.into(), partitions: Some(1), configs: Vec::new() };
        let created = self.node.topics.change(move |catalog| catalog.create_topics(&[new], false));
        created.await?.remove(0)
    }

    /// What the pages say: whether it is ready, and why not; and the metrics.
    async fn pages(&self) -> (bool, String, String) {
        let pages = Pages { node: self.node.clone(), stopping: self.stopping.subscribe() };
        let (status, reasons) = crate::http::readiness(&pages);
        (status.is_success(), reasons, crate::http::metrics_text(&pages).unwrap())
    }

    async fn wait_for_panic(&self, name: &str) {
        while !self.node.panics.counts().iter().any(|(panicked, _)| *panicked == name) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (is_ready, reasons, metrics) = self.pages().await;
        assert!(!is_ready && reasons.contains(&format!("panicked: {name};")), "{reasons}");
        assert!(metrics.contains(&format!("kappa_panics_total{{task=\"{name}\"}} ")), "{metrics}");
    }

    async fn stop(mut self) -> SimulatedDisk {
        self.stopping.send_replace(true);
        self.node.groups.stop();
        self.node.topics.abandon();
        while self.tasks.join_next().await.is_some() {}
        self.disk.process_kill()
    }
}

fn produce(topic: &Topic) -> crate::partition::Durable {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.push(1, None, Some(b"x"), std::iter::empty());
    let partition = topic.partition(0).unwrap();
    let appended = partition.append(batch.finish(0)).unwrap();
    partition.durable(appended.mark)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_of_the_catalog_panicked_no_more_are_made_and_records_go_on() {
    let running = Running::start(SimulatedDisk::new(1));
    let sound = running.create("sound").await.unwrap();
    assert!(running.pages().await.0, "{:?}", running.pages().await);
    running.trap.set(Operation::Create, "torn-0");
    assert!(matches!(running.create("torn").await, Err(TopicError::Fenced)));
    running.wait_for_panic("catalog").await;
    assert!(matches!(running.create("later").await, Err(TopicError::Fenced)));
    assert!(running.node.topics.dump().is_err());
    produce(&sound).await.unwrap();
    assert!(running.node.topics.close().is_err(), "the stop is not a clean one");
    let running = Running::start(running.stop().await);
    for name in ["torn", "later"] {
        running.create(name).await.unwrap();
    }
    assert!(running.pages().await.0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_periodic_task_that_panicked_is_known_by_name_and_runs_again() {
    let running = Running::start(SimulatedDisk::new(1));
    let topic = running.create("t").await.unwrap();
    produce(&topic).await.unwrap();
    running.trap.set(Operation::Rename, "kappa-checkpoint");
    topic.partition(0).unwrap().sync().unwrap();
    running.wait_for_panic("checkpoints").await;
    // It runs again, and checkpoints are written when there is something to say.
    running.trap.set(Operation::Rename, "kappa-checkpoint");
    while running.trap.is_set() {
        produce(&topic).await.unwrap();
        topic.partition(0).unwrap().sync().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_make_the_log_durable_outlive_a_panic() {
    for path in ["journal", "t-0"] {
        let running = Running::start(SimulatedDisk::new(1));
        let (torn, sound) = (running.create("t").await.unwrap(), running.create("sound").await.unwrap());
        produce(&torn).await.unwrap();
        running.trap.set(Operation::SyncData, path);
        // Whichever way it is made durable, whoever waits is told.
        let mut waits = JoinSet::new();
        while running.pages().await.0 {
            let partition = torn.partition(0).unwrap();
            let mut batch = BatchBuilder::new(BatchOptions::default());
            batch.push(1, None, Some(&[0; 100_000]), std::iter::empty());
            if let Ok(appended) = partition.append(batch.finish(0)) {
                waits.spawn(partition.synced(appended.mark));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!running.trap.is_set(), "{path}");
        while waits.join_next().await.is_some() {}
        produce(&sound).await.unwrap();
        running.stop().await;
    }
}
