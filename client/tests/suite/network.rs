//! What only a socket brings: connections that are cut, peers that talk nonsense, nobody there.

use crate::support::{Cluster, PATIENCE, consume, reader};
use kappa_broker::{Broker, BrokerConfig};
use kappa_client::{
    Client, ClientConfig, ConnectError, Producer, ProducerConfig, ProducerRecord, RequestError,
    TopicPartition,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Passes bytes on, and cuts connections.
struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
    /// How many connections were cut so far.
    cuts: Arc<AtomicUsize>,
    /// While true, answers are swallowed and the connection cut when the next one comes.
    cutting: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(target: impl Fn() -> SocketAddr + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cutting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (cut_count, is_cutting) = (cuts.clone(), cutting.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect(target()).await else { continue };
                connections.spawn(pass(client, broker, cut_count.clone(), is_cutting.clone()));
            }
        });
        Proxy { address, task, cuts, cutting }
    }
}

/// The broker's answer to a request that got through is what is lost: the client cannot know what became of it.
async fn pass(client: TcpStream, broker: TcpStream, cuts: Arc<AtomicUsize>, cutting: Arc<AtomicBool>) {
    let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
        (client.into_split(), broker.into_split());
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_broker).await });
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from_broker.read(&mut bytes).await {
        if cutting.swap(false, Ordering::SeqCst) {
            cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to_client.write_all(&bytes[..len]).await.is_err() {
            break;
        }
    }
    requests.abort();
}

/// A broker that advertises a proxy in front of it.
async fn behind_a_proxy() -> (Broker, Proxy, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let target = Arc::new(std::sync::OnceLock::new());
    let known = target.clone();
    let proxy = Proxy::start(move || *known.get().unwrap()).await;
    let mut config = BrokerConfig::new(directory.path().join("data"));
    config.listen = "127.0.0.1:0".to_owned();
    config.advertise = Some(proxy.address.to_string());
    config.http = None;
    let broker = Broker::start(config).await.unwrap();
    target.set(broker.address()).unwrap();
    (broker, proxy, directory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_after_cut_connections_neither_lose_nor_double_nor_reorder() {
    let (broker, proxy, _directory) = behind_a_proxy().await;
    let config = ClientConfig::default().retry_backoff(Duration::from_millis(5));
    let client = Client::connect(&proxy.address.to_string(), config).await.unwrap();
    let partition = TopicPartition::new("cut", 0);
    let config = ProducerConfig::default().batch_bytes(500_usize).linger(Duration::ZERO);
    let producer = Producer::new(&client, config).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..3000 {
        let value = number.to_string();
        let record = ProducerRecord::to("cut").partition(0).value(&value);
        deliveries.push(producer.send(record).await.unwrap());
        if number % 300 == 150 {
            proxy.cutting.store(true, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    }
    for (number, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.await.unwrap().offset, number);
    }
    producer.close().await.unwrap();
    assert!(proxy.cuts.load(Ordering::SeqCst) > 0, "no connection was cut");
    let direct = Client::in_process(broker.lane());
    let consumer = reader(&direct, &partition);
    let records = consume(&consumer, 3000).await.remove(&partition).unwrap();
    assert!(records.iter().zip(0..).all(|((offset, value), n)| *offset == n && *value == n.to_string()));
    consumer.close().await.unwrap();
    client.close().await;
    proxy.task.abort();
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_goes_on_after_its_connections_are_cut() {
    let (broker, proxy, _directory) = behind_a_proxy().await;
    let client = Client::connect(&proxy.address.to_string(), ClientConfig::default()).await.unwrap();
    let partition = TopicPartition::new("cut", 0);
    crate::support::fill(&client, &partition, 10).await;
    let consumer = reader(&client, &partition);
    consume(&consumer, 10).await;
    for round in 1..4 {
        proxy.cutting.store(true, Ordering::SeqCst);
        let direct = Client::in_process(broker.lane());
        crate::support::fill(&direct, &partition, 10).await;
        let records = consume(&consumer, 10).await.remove(&partition).unwrap();
        assert_eq!(records[0].0, round * 10);
    }
    assert!(proxy.cuts.load(Ordering::SeqCst) > 0);
    consumer.close().await.unwrap();
    client.close().await;
    proxy.task.abort();
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_with_address_and_cure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::connect(&address.to_string(), ClientConfig::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot reach {address}: connection refused; is the broker running?")
    );
    for wrong in ["localhost", ":9092", "host:port"] {
        let error = Client::connect(wrong, ClientConfig::default()).await.unwrap_err();
        assert_eq!(error, ConnectError::InvalidAddress(Arc::from(wrong)));
    }
    assert_eq!(Client::connect("", ClientConfig::default()).await.unwrap_err(), ConnectError::NoAddress);
}

#[tokio::test]
async fn peers_that_talk_nonsense_are_told_apart_from_brokers() {
    let answers: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0x7f, 0xff, 0xff, 0xff],
        &[0, 0, 0, 4, 0, 0, 0, 99],
        &[0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x0f],
        &[],
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 256];
            let _ = stream.read(&mut bytes).await;
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            // Read on, so that the close does not turn into a reset before the answer is read.
            while let Ok(1..) = stream.read(&mut bytes).await {}
        });
        let connected = Client::connect(&address, ClientConfig::default());
        let error = tokio::time::timeout(PATIENCE, connected).await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectError::NotABroker { .. }), "{error}");
        peer.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_client_refuses_what_is_made_from_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client(crate::support::Transport::Tcp).await;
    let producer = Producer::new(&client, ProducerConfig::default()).await.unwrap();
    client.close().await;
    let error = producer.partitions_for("t").await.unwrap_err();
    assert!(matches!(error, RequestError::Connect(ConnectError::Closed)), "{error}");
    drop(producer);
    cluster.broker.stop().await.unwrap();
}
