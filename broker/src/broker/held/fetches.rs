//! What a fetch names, and what is held of it while it waits.

use super::*;
use kappa_protocol::messages::FetchRequest;
use kappa_protocol::messages::fetch_request::{FetchPartition, FetchTopic};

/// Bytes that one of the partitions takes at least.
const LEAST: usize = 500;

fn fetch(topic: &str, indexes: impl IntoIterator<Item = i32>, max_wait_ms: i32) -> Request {
    let partition =
        |partition| FetchPartition { partition, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic {
        topic: topic.into(),
        partitions: indexes.into_iter().map(partition).collect(),
        ..Default::default()
    };
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
    .into()
}

fn answered(client: &mut Client) -> usize {
    let Response::Fetch(answer) = client.receive(ApiKey::Fetch, 4) else { panic!("another answer") };
    answer.responses.iter().map(|topic| topic.partitions.len()).sum()
}

#[test]
fn what_a_fetch_names_is_counted_while_it_waits() {
    const WIDE: i32 = 2000;
    let slow = Slow::start();
    slow.create_topic("wide", WIDE);
    let used = |slow: &Slow| slow.node.budget.used();
    slow.wait_until("nothing is held", |slow| used(slow) == 0);
    // Looked at where it is read, elsewhere, and behind another.
    for (count, before) in [(300, 0), (WIDE, 0), (300, 1), (WIDE, 1)] {
        let mut client = slow.client();
        for _ in 0..before {
            client.send(4, &fetch("t", [0], 200));
        }
        client.send(4, &fetch("wide", 0..count, 250_000));
        for _ in 0..before {
            assert_eq!(answered(&mut client), 1);
        }
        let least = LEAST * count as usize;
        slow.wait_until("it is not counted", |slow| used(slow) >= least);
        slow.wait_until("it is not begun", |slow| slow.waits_for_records("wide", count - 1));
        assert!((least..3 * least).contains(&used(&slow)), "{}", used(&slow));
        drop(client);
        slow.wait_until("it is held for nobody", |slow| used(slow) == 0);
    }
}

#[test]
fn a_partition_that_a_fetch_names_again_and_again_is_held_once() {
    let slow = Slow::start();
    let mut client = slow.client();
    client.send(4, &fetch("t", [0; 3000], 250_000));
    slow.wait_until("it is not begun", |slow| slow.waits_for_records("t", 0));
    let partition = slow.node.topics.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.waiter_counts().1, 1);
    // What is counted is its frame.
    let used = slow.node.budget.used();
    assert!(used < 3000 * 16 * 9, "{used}");
    drop(client);
    slow.wait_until("it is held for nobody", |slow| slow.node.budget.used() == 0);
}

#[test]
fn a_fetch_of_more_partitions_than_there_can_be_is_refused() {
    let slow = Slow::start();
    let mut client = slow.client();
    client.send(4, &fetch("t", std::iter::repeat_n(0, 70_000), 0));
    assert_eq!(answered(&mut client), 1);
    client.send(4, &fetch("t", std::iter::repeat_n(0, 200_000), 0));
    let answered = client.stream.read(&mut [0; 4]);
    assert!(matches!(answered, Ok(0) | Err(_)), "{answered:?}");
}
