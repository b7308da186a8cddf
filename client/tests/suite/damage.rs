//! Bits that have turned in a log's file, under a broker that does not know it: told once, with the place, and what lies
//! around it is read.

use crate::support::{Cluster, PATIENCE, consume, fill, over_both_transports, read, reader};
use kappa_client::{
    Admin, Client, TopicPartition,
    admin::NewTopic,
    consumer::{ConsumerError, Damage},
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Batches of the damaged partition, each of one record.
const BATCHES: usize = 24;
/// Which is damaged, and its offset.
const BATCH: usize = 6;
const OFFSET: i64 = 6;

over_both_transports! {
    unreadable_batch_is_told_once_and_a_seek_goes_on_behind_it
    batch_that_is_not_as_it_was_written_is_told_once_and_a_seek_goes_on_behind_it
    offsets_that_lead_beyond_the_end_are_damage
    offsets_that_lead_over_those_that_follow_are_damage
    offsets_that_lead_back_are_damage
}

async fn unreadable_batch_is_told_once_and_a_seek_goes_on_behind_it(cluster: &Cluster, client: &Client) {
    // A bit of the length, which leads into the middle of another batch.
    let reason = told(cluster, client, |batch| batch[11] ^= 0x10, Some(7)).await;
    assert!(matches!(reason, Damage::Unreadable | Damage::Batch(_)), "{reason:?}");
    // The whole batch.
    let reason = told(cluster, client, |batch| batch.fill(0), Some(7)).await;
    assert!(matches!(reason, Damage::Unreadable), "{reason:?}");
}

async fn batch_that_is_not_as_it_was_written_is_told_once_and_a_seek_goes_on_behind_it(
    cluster: &Cluster,
    client: &Client,
) {
    let reason = told(cluster, client, |batch| *batch.last_mut().unwrap() ^= 1, Some(7)).await;
    assert!(matches!(reason, Damage::Batch(_)), "{reason:?}");
}

async fn offsets_that_lead_beyond_the_end_are_damage(cluster: &Cluster, client: &Client) {
    let reason = told(cluster, client, |batch| batch[2] ^= 1, None).await;
    assert!(matches!(reason, Damage::Misplaced { base_offset, .. } if base_offset == OFFSET + (1 << 40)));
}

async fn offsets_that_lead_over_those_that_follow_are_damage(cluster: &Cluster, client: &Client) {
    let reason = told(cluster, client, |batch| batch[7] ^= 8, None).await;
    assert!(matches!(reason, Damage::Misplaced { base_offset: 14, last_offset: 14 }), "{reason:?}");
}

async fn offsets_that_lead_back_are_damage(cluster: &Cluster, client: &Client) {
    let reason = told(cluster, client, |batch| batch[7] ^= 4, Some(7)).await;
    assert!(matches!(reason, Damage::Misplaced { base_offset: 2, last_offset: 2 }), "{reason:?}");
}

/// Damages one batch of a partition beside a sound one, checks what a consumer of both sees, and returns why the one
/// cannot be read. `behind` is an offset from which it can be.
async fn told(cluster: &Cluster, client: &Client, damage: impl Fn(&mut [u8]), behind: Option<i64>) -> Damage {
    static NAMES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let topic = format!("t{}", NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    Admin::new(client).create_topic(&NewTopic::new(&*topic, 2)).await.unwrap();
    let [damaged, sound] = [0, 1].map(|number| TopicPartition::new(&*topic, number));
    for _ in 0..BATCHES {
        fill(client, &damaged, 1).await;
    }
    fill(client, &sound, 3).await;
    spoil(cluster, &damaged, damage);

    let consumer = reader(client, &damaged);
    consumer.assign([damaged.clone(), sound.clone()]).unwrap();
    let (started, mut records, mut reasons) = (Instant::now(), Vec::new(), Vec::new());
    let mut quiet_polls = 0;
    while reasons.is_empty() || records.len() < BATCH + 3 || quiet_polls < 3 {
        assert!(started.elapsed() < PATIENCE, "{records:?} {reasons:?}");
        match consumer.poll(Duration::from_millis(700)).await {
            Ok(batches) if batches.is_empty() => quiet_polls += 1,
            Ok(batches) => records.extend(read(&batches)),
            Err(ConsumerError::Corrupt { partition, offset, reason }) => {
                assert_eq!((&partition, offset), (&damaged, OFFSET));
                let seen = records.iter().filter(|(partition, _)| *partition == damaged).count();
                assert_eq!((seen, consumer.position(&damaged)), (BATCH, Some(OFFSET)));
                reasons.push(reason);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((reasons.len(), records.len(), consumer.position(&damaged)), (1, BATCH + 3, Some(OFFSET)));

    // The other partition goes on all the while.
    fill(client, &sound, 1).await;
    assert_eq!(consume(&consumer, 1).await.keys().collect::<Vec<_>>(), [&sound]);
    if let Some(behind) = behind {
        consumer.seek(&damaged, behind).unwrap();
        let rest = consume(&consumer, BATCHES - 7).await;
        let offsets: Vec<i64> = rest[&damaged].iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (7..24).collect::<Vec<_>>());
    }
    consumer.close().await.unwrap();
    reasons.remove(0)
}

/// Changes the bytes of the batch in the partition's only segment.
fn spoil(cluster: &Cluster, partition: &TopicPartition, damage: impl Fn(&mut [u8])) {
    let directory = cluster.data_dir().join(format!("{}-{}", partition.topic, partition.partition));
    let path = directory.join("00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    let len = |bytes: &[u8], at: usize| {
        12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize
    };
    let at = (0..BATCH).fold(0, |at, _| at + len(&bytes, at));
    assert_eq!(bytes[at..at + 8], OFFSET.to_be_bytes());
    let end = at + len(&bytes, at);
    damage(&mut bytes[at..end]);
    fs::write(&path, bytes).unwrap();
}
