//! Records there and back: codecs, order, partitions, positions.

use crate::support::{Cluster, PATIENCE, consume, fill, over_both_transports, producer, reader};
use kappa_client::{
    Acks, Admin, Client, Compression, Consumer, ConsumerConfig, OffsetReset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition,
    admin::NewTopic,
    producer::{DeliveryError, SendError},
};
use kappa_protocol::{ApiKey, Context, ErrorCode, Reply, Request, Response, Service};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

over_both_transports! {
    every_codec_brings_back_keys_values_headers_and_timestamps
    every_acks_setting_delivers_in_order
    records_of_a_burst_keep_their_order_with_five_requests_in_flight
    buffer_is_bounded_and_senders_wait_for_room
    a_run_ends_where_another_partition_begins_or_room_ends
    keys_choose_the_partition_and_null_keys_reach_all
    seek_pause_resume_and_position
    seek_by_time_and_offsets_by_time
    position_out_of_range_follows_the_reset_policy
    committed_offsets_carry_metadata_and_are_where_the_next_consumer_starts
    fresh_record_reaches_a_waiting_poll_at_once
    resumed_partition_does_not_wait_for_the_long_poll_of_others
    unknown_topic_and_closed_producer_are_told
}

async fn every_codec_brings_back_keys_values_headers_and_timestamps(_: &Cluster, client: &Client) {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    for codec in [None, Gzip, Snappy, Lz4, Zstd] {
        let partition = TopicPartition::new(format!("codec-{codec}"), 0);
        let producer = Producer::new(client, ProducerConfig::default().compression(codec)).await.unwrap();
        let value = "compressible ".repeat(40);
        let headers: &[(&str, Option<&[u8]>)] =
            &[("a", Some(b"1")), ("empty", Some(b"")), ("null", Option::None)];
        for number in 0..50_i64 {
            let key = number.to_be_bytes();
            let record =
                ProducerRecord::to(&partition.topic).partition(0).timestamp(number * 10).headers(headers);
            let record = if number % 7 == 0 { record } else { record.key(&key).value(&value) };
            producer.send(record).await.unwrap();
        }
        producer.close().await.unwrap();
        let consumer = reader(client, &partition);
        let mut next = 0;
        while next < 50 {
            for batch in consumer.poll(PATIENCE).await.unwrap() {
                for record in batch.records().map(Result::unwrap) {
                    assert_eq!((record.offset, record.timestamp), (next, next * 10));
                    assert!(record.headers.eq(headers.iter().map(|(name, value)| ((*name).into(), *value))));
                    let expected = (next % 7 != 0).then_some((next.to_be_bytes(), value.as_bytes()));
                    assert_eq!(record.key, expected.as_ref().map(|(key, _)| &key[..]));
                    assert_eq!(record.value, expected.map(|(_, value)| value));
                    next += 1;
                }
            }
        }
        consumer.close().await.unwrap();
    }
}

async fn every_acks_setting_delivers_in_order(_: &Cluster, client: &Client) {
    for (number, acks) in [Acks::None, Acks::Leader, Acks::All].into_iter().enumerate() {
        let partition = TopicPartition::new(format!("acks-{number}"), 0);
        let producer = Producer::new(client, ProducerConfig::default().acks(acks)).await.unwrap();
        let mut deliveries = Vec::new();
        for value in 0..100 {
            let value = value.to_string();
            let record = ProducerRecord::to(&partition.topic).partition(0).value(&value);
            deliveries.push(producer.send(record).await.unwrap());
        }
        for (offset, delivery) in (0..).zip(deliveries) {
            let metadata = delivery.await.unwrap();
            assert_eq!(metadata.offset, if acks == Acks::None { -1 } else { offset });
        }
        let consumer = reader(client, &partition);
        let records = consume(&consumer, 100).await.remove(&partition).unwrap();
        assert!(records.iter().zip(0..).all(|((offset, value), n)| *offset == n && *value == n.to_string()));
        producer.close().await.unwrap();
        consumer.close().await.unwrap();
    }
}

async fn records_of_a_burst_keep_their_order_with_five_requests_in_flight(_: &Cluster, client: &Client) {
    let config = ProducerConfig::default().batch_bytes(2_000_usize).linger(Duration::ZERO);
    let producer = Producer::new(client, config).await.unwrap();
    assert_eq!(producer.partitions_for("burst").await.unwrap(), 3);
    for number in 0..20_000 {
        let (value, partition) = (number.to_string(), number % 3);
        producer.send_nowait(ProducerRecord::to("burst").partition(partition).value(&value)).unwrap();
    }
    producer.flush().await.unwrap();
    assert_eq!(producer.unacknowledged(), 0);
    let consumer =
        Consumer::new(client, ConsumerConfig::default().offset_reset(OffsetReset::Earliest)).unwrap();
    consumer.assign((0..3).map(|number| TopicPartition::new("burst", number))).unwrap();
    for (partition, records) in consume(&consumer, 20_000).await {
        let expected = (i64::from(partition.partition)..20_000).step_by(3).map(|number| number.to_string());
        assert!(records.iter().map(|(_, value)| value.clone()).eq(expected), "{partition}");
        assert!(records.iter().map(|(offset, _)| *offset).eq(0..records.len() as i64));
    }
    consumer.close().await.unwrap();
    producer.close().await.unwrap();
}

async fn buffer_is_bounded_and_senders_wait_for_room(_: &Cluster, client: &Client) {
    let config = ProducerConfig::default().buffer_bytes(20_000_usize).linger(Duration::from_secs(60));
    let producer = Producer::new(client, config).await.unwrap();
    producer.partitions_for("bounded").await.unwrap();
    let value = vec![7_u8; 1000];
    let record = ProducerRecord::to("bounded").partition(0).value(&value);
    let mut taken = 0;
    let full = loop {
        match producer.try_send(record) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100_000, "the buffer is not bounded");
    };
    assert!(matches!(full, SendError::Full { max: 20_000, .. }), "{full}");
    assert!(producer.unacknowledged() <= 20);
    for _ in 0..500 {
        producer.send(record).await.unwrap();
        assert!(producer.unacknowledged() <= 20);
    }
    producer.close().await.unwrap();
    assert!(matches!(producer.try_send(record), Err(SendError::Closed)));
    let consumer = reader(client, &TopicPartition::new("bounded", 0));
    assert_eq!(
        consumer.end_offsets(&consumer.assignment()).await.unwrap().into_values().sum::<i64>(),
        taken + 500
    );
    consumer.close().await.unwrap();
}

async fn a_run_ends_where_another_partition_begins_or_room_ends(_: &Cluster, client: &Client) {
    let config = ProducerConfig::default().buffer_bytes(20_000_usize).record_bytes_max(2000_usize);
    let producer = Producer::new(client, config.linger(Duration::from_secs(60))).await.unwrap();
    let (value, large) = (vec![7_u8; 1000], vec![7_u8; 3000]);
    let to = |partition| ProducerRecord::to("runs").partition(partition).value(&value);
    assert!(matches!(producer.try_send_run(&[to(0)]), Err(SendError::TopicUnknown { .. })));
    producer.partitions_for("runs").await.unwrap();
    let taken = |records: &[ProducerRecord<'_>]| producer.try_send_run(records).unwrap();
    let (count, last) = taken(&[to(1), to(1), to(1), to(2)]);
    assert_eq!((count, last.partition(), producer.unacknowledged()), (3, 1, 3));
    assert_eq!(taken(&[to(2), to(2), to(2).value(&large), to(2)]).0, 2);
    assert!(matches!(producer.try_send_run(&[to(2).value(&large)]), Err(SendError::TooLarge { .. })));
    let unplaced = ProducerRecord::to("runs").value(&value);
    assert_eq!(taken(&[unplaced; 4]).0, 1, "nobody knows that they go to one partition");
    assert!(matches!(producer.try_send_run(&[to(9)]), Err(SendError::PartitionUnknown { .. })));
    // Room for some of the run only: they go one by one, and then none.
    let mut more = 0;
    let full = loop {
        match producer.try_send_run(&[to(0); 30]) {
            Ok((count, _)) => more += count,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SendError::Full { .. }) && (10..14).contains(&more), "{more} {full}");
    assert_eq!(producer.unacknowledged(), 6 + more);
    producer.flush().await.unwrap();
    assert_eq!(last.await.unwrap().offset, 2, "the handle is that of the last record");
    assert_eq!(taken(&[to(0); 30]).0, 19, "as many as the whole buffer holds");
    producer.close().await.unwrap();
}

async fn keys_choose_the_partition_and_null_keys_reach_all(_: &Cluster, client: &Client) {
    let producer = producer(client).await;
    let delivery = producer.send(ProducerRecord::to("keyed").key("kafka").value("x")).await.unwrap();
    // murmur2("kafka") = 0xd067cf64, as Kafka's own tests have it.
    assert_eq!(delivery.await.unwrap().partition, (0xd067_cf64_u32 & 0x7fff_ffff) as i32 % 3);
    let value = vec![1_u8; 100_000];
    let mut reached = BTreeSet::new();
    for _ in 0..200 {
        reached.insert(producer.send(ProducerRecord::to("keyed").value(&value)).await.unwrap().partition());
    }
    assert_eq!(reached.len(), 3);
    producer.close().await.unwrap();
}

async fn seek_pause_resume_and_position(_: &Cluster, client: &Client) {
    let partition = TopicPartition::new("seek", 0);
    fill(client, &partition, 10).await;
    let consumer = reader(client, &partition);
    assert_eq!(consume(&consumer, 10).await[&partition][9], (9, "v9".to_owned()));
    assert_eq!(consumer.position(&partition), Some(10));
    assert_eq!((consumer.high_watermark(&partition), consumer.lag(&partition)), (Some(10), Some(0)));
    // Offset 7 lies within a batch: what comes before is left out.
    consumer.seek(&partition, 7).unwrap();
    assert_eq!(consume(&consumer, 3).await[&partition][0], (7, "v7".to_owned()));
    consumer.seek_to_beginning(std::slice::from_ref(&partition)).await.unwrap();
    consumer.pause(std::slice::from_ref(&partition));
    assert!(consumer.poll(Duration::from_millis(100)).await.unwrap().is_empty());
    assert_eq!(consumer.paused(), [partition.clone()]);
    consumer.resume(std::slice::from_ref(&partition));
    assert_eq!(consume(&consumer, 10).await[&partition].len(), 10);
    consumer.seek_to_end(std::slice::from_ref(&partition)).await.unwrap();
    assert_eq!(consumer.position(&partition), Some(10));
    assert!(consumer.seek(&TopicPartition::new("seek", 1), 0).is_err());
    consumer.close().await.unwrap();
    assert!(consumer.poll(Duration::ZERO).await.is_err());
}

async fn seek_by_time_and_offsets_by_time(_: &Cluster, client: &Client) {
    let partition = TopicPartition::new("time", 0);
    fill(client, &partition, 10).await;
    let consumer = reader(client, &partition);
    let names = [partition.clone()];
    let at = |time| [(partition.clone(), time)];
    let found = consumer.offsets_for_times(&at(1004)).await.unwrap()[&partition].unwrap();
    assert_eq!((found.offset, found.timestamp), (4, 1004));
    assert_eq!(consumer.offsets_for_times(&at(5000)).await.unwrap()[&partition], None);
    assert_eq!(consumer.beginning_offsets(&names).await.unwrap()[&partition], 0);
    assert_eq!(consumer.end_offsets(&names).await.unwrap()[&partition], 10);
    consumer.seek_to_time(&names, 1006).await.unwrap();
    assert_eq!(consume(&consumer, 4).await[&partition][0].0, 6);
    consumer.seek_to_time(&names, 9999).await.unwrap();
    assert_eq!(consumer.position(&partition), Some(10));
    consumer.close().await.unwrap();
}

async fn position_out_of_range_follows_the_reset_policy(_: &Cluster, client: &Client) {
    let partition = TopicPartition::new("range", 0);
    fill(client, &partition, 5).await;
    let consumer = reader(client, &partition);
    consumer.seek(&partition, 99).unwrap();
    assert_eq!(consume(&consumer, 5).await[&partition][0].0, 0);
    consumer.close().await.unwrap();
    let consumer = Consumer::new(client, ConsumerConfig::default().offset_reset(OffsetReset::None)).unwrap();
    consumer.assign([partition.clone()]).unwrap();
    let error = consumer.poll(PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("no committed offset"), "{error}");
    consumer.seek(&partition, 99).unwrap();
    let error = consumer.poll(PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("offset 99 of range-0 is out of range"), "{error}");
    consumer.seek(&partition, 3).unwrap();
    assert_eq!(consume(&consumer, 2).await[&partition][0].0, 3);
    consumer.close().await.unwrap();
}

async fn committed_offsets_carry_metadata_and_are_where_the_next_consumer_starts(
    _: &Cluster,
    client: &Client,
) {
    let partition = TopicPartition::new("committed", 0);
    fill(client, &partition, 10).await;
    let config = || ConsumerConfig::group("g").auto_commit(None).offset_reset(OffsetReset::Earliest);
    let first = Consumer::new(client, config()).unwrap();
    first.assign([partition.clone()]).unwrap();
    assert!(first.committed(&[partition.clone()]).await.unwrap().is_empty());
    let offset = kappa_client::admin::OffsetAndMetadata::new(6).metadata("six");
    first.commit_offsets(&[(partition.clone(), offset)]).await.unwrap();
    let committed = first.committed(&[partition.clone()]).await.unwrap();
    assert_eq!((committed[&partition].offset, committed[&partition].metadata.as_str()), (6, "six"));
    first.close().await.unwrap();
    let second = Consumer::new(client, config()).unwrap();
    second.assign([partition.clone()]).unwrap();
    assert_eq!(consume(&second, 4).await[&partition][0].0, 6);
    second.commit().await.unwrap();
    assert_eq!(second.committed(&[partition.clone()]).await.unwrap()[&partition].offset, 10);
    second.close().await.unwrap();
}

async fn fresh_record_reaches_a_waiting_poll_at_once(_: &Cluster, client: &Client) {
    let partition = TopicPartition::new("fresh", 0);
    fill(client, &partition, 1).await;
    let consumer = reader(client, &partition);
    consume(&consumer, 1).await;
    let producer = producer(client).await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let record = ProducerRecord::to("fresh").partition(0).value("x");
        let (sent, polled) = tokio::join!(producer.send(record), consumer.poll(PATIENCE));
        sent.unwrap();
        assert_eq!(polled.unwrap().len(), 1);
        waits.push(started.elapsed());
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(100), "median {:?}", waits[10]);
    producer.close().await.unwrap();
    consumer.close().await.unwrap();
}

async fn resumed_partition_does_not_wait_for_the_long_poll_of_others(_: &Cluster, client: &Client) {
    let (idle, busy) = (TopicPartition::new("resume", 0), TopicPartition::new("resume", 1));
    fill(client, &busy, 10).await;
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest).fetch_wait_max(PATIENCE);
    let consumer = Consumer::new(client, config).unwrap();
    consumer.assign([idle, busy.clone()]).unwrap();
    consumer.pause(std::slice::from_ref(&busy));
    assert!(consumer.poll(Duration::from_millis(300)).await.unwrap().is_empty());
    let started = Instant::now();
    consumer.resume(std::slice::from_ref(&busy));
    assert_eq!(consume(&consumer, 10).await[&busy].len(), 10);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    consumer.close().await.unwrap();
}

async fn unknown_topic_and_closed_producer_are_told(_: &Cluster, client: &Client) {
    let producer = producer(client).await;
    let record = ProducerRecord::to("not-yet").value("x");
    assert!(matches!(producer.try_send(record), Err(SendError::TopicUnknown { .. })));
    let error = producer.send(ProducerRecord::to("bad/name").value("x")).await.unwrap_err();
    assert!(error.to_string().contains("bad/name"), "{error}");
    producer.send(record).await.unwrap().await.unwrap();
    let error = producer.try_send(record.partition(3)).unwrap_err();
    assert_eq!(error.to_string(), "topic not-yet has 3 partitions, there is no partition 3");
    let large = vec![0_u8; 2 << 20];
    assert!(matches!(producer.send(record.value(&large)).await, Err(SendError::TooLarge { .. })));
    producer.close().await.unwrap();
    producer.close().await.unwrap();
    assert!(matches!(producer.send(record).await, Err(SendError::Closed)));
}

/// Counts the requests for metadata.
struct CountsMetadata {
    broker: Arc<dyn Service>,
    asked: AtomicUsize,
}

impl Service for CountsMetadata {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        self.asked.fetch_add(usize::from(request.api_key() == ApiKey::Metadata), Ordering::SeqCst);
        self.broker.call(cx, request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_deleted_under_its_reader_is_asked_for_now_and_then_until_it_is_back() {
    let cluster = Cluster::start().await;
    let plain = cluster.client(crate::support::Transport::InProcess).await;
    let service = Arc::new(CountsMetadata { broker: cluster.broker.lane(), asked: AtomicUsize::new(0) });
    let client = Client::in_process(service.clone());
    let admin = Admin::new(&plain);
    admin.create_topic(&NewTopic::new("gone", 1)).await.unwrap();
    let partition = TopicPartition::new("gone", 0);
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(&client, config.allow_auto_create_topics(false)).unwrap();
    consumer.assign([partition.clone()]).unwrap();
    fill(&plain, &partition, 1).await;
    consume(&consumer, 1).await;
    admin.delete_topics(&["gone"]).await.unwrap();
    let before = service.asked.load(Ordering::SeqCst);
    consumer.poll(Duration::from_secs(2)).await.unwrap();
    let asked = service.asked.load(Ordering::SeqCst) - before;
    assert!((2..40).contains(&asked), "{asked} requests in 2 s");
    admin.create_topic(&NewTopic::new("gone", 1)).await.unwrap();
    fill(&plain, &partition, 2).await;
    assert_eq!(consume(&consumer, 1).await[&partition], [(1, "v1".to_owned())]);
    consumer.close().await.unwrap();
    client.close().await;
    cluster.broker.stop().await.unwrap();
}

/// Answers the third produce request with a refusal, and does not pass it on.
struct RefusesOne {
    broker: Arc<dyn Service>,
    produced: AtomicUsize,
}

impl Service for RefusesOne {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        let produces = request.api_key() == ApiKey::Produce;
        if !produces || self.produced.fetch_add(1, Ordering::SeqCst) != 2 {
            return self.broker.call(cx, request);
        }
        let Request::Produce(request) = request else { unreachable!("it is a produce request") };
        let mut response = kappa_protocol::messages::ProduceResponse::default();
        for topic in request.topic_data {
            let partition = |data: kappa_protocol::messages::produce_request::PartitionProduceData| {
                kappa_protocol::messages::produce_response::PartitionProduceResponse {
                    index: data.index,
                    error_code: ErrorCode::InvalidRecord.code(),
                    ..Default::default()
                }
            };
            response.responses.push(kappa_protocol::messages::produce_response::TopicProduceResponse {
                name: topic.name,
                topic_id: topic.topic_id,
                partition_responses: topic.partition_data.into_iter().map(partition).collect(),
            });
        }
        Reply::Now(Response::Produce(response))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_that_stops_on_failure_leaves_no_hole() {
    let cluster = Cluster::start().await;
    let plain = cluster.client(crate::support::Transport::InProcess).await;
    let service = RefusesOne { broker: cluster.broker.lane(), produced: AtomicUsize::new(0) };
    let client = Client::in_process(Arc::new(service));
    kappa_client::Admin::new(&client)
        .create_topic(&kappa_client::admin::NewTopic::new("holes", 1))
        .await
        .unwrap();
    // Ten records to a batch; the buffer takes thirty batches.
    let config =
        ProducerConfig::default().batch_bytes(400_usize).buffer_bytes(12_000_usize).stop_on_failure(true);
    let producer = Producer::new(&client, config).await.unwrap();
    let (mut deliveries, mut refused) = (Vec::new(), None);
    for number in 0..10_000 {
        let value = format!("v{number}");
        match producer.send(ProducerRecord::to("holes").partition(0).value(&value)).await {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(SendError::Stopped), "no record is taken behind one that was not delivered");
    assert!(producer.has_stopped());
    let first = producer.close().await.unwrap_err();
    assert!(matches!(first, DeliveryError::Refused { code: ErrorCode::InvalidRecord, .. }), "{first}");
    let outcomes: Vec<_> = deliveries.iter().map(|delivery| delivery.try_result().unwrap()).collect();
    let delivered = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!(delivered > 0 && outcomes.iter().skip(delivered).all(Result::is_err), "{delivered}");
    let partition = TopicPartition::new("holes", 0);
    let reader = reader(&plain, &partition);
    let records = consume(&reader, delivered).await.remove(&partition).unwrap();
    assert!((0..).zip(&records).all(|(at, (offset, value))| *offset == at && *value == format!("v{at}")));
    assert_eq!(reader.end_offsets(&[partition.clone()]).await.unwrap()[&partition], delivered as i64);
    assert!(producer.backlog().is_none());
}
