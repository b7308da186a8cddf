//! Subscriptions and assignments as members write them to each other (the `consumer` protocol type).

use super::assignor::{MemberAssignment, MemberSubscription};
use crate::TopicPartition;
use bytes::Bytes;
use kappa_protocol::{
    DecodeError, EncodeError, Message,
    messages::{
        ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol_assignment,
        consumer_protocol_subscription,
    },
    wire::{Reader, Writer},
};
use std::{collections::BTreeMap, sync::Arc};

/// Version of both messages that this client writes; readers of older ones read as far as they know.
const VERSION: i16 = 3;

pub(crate) const PROTOCOL_TYPE: &str = "consumer";

/// A member's subscription; its member id travels beside it.
pub(crate) fn encode_subscription(subscription: &MemberSubscription) -> Result<Bytes, EncodeError> {
    let owned = by_topic(&subscription.owned).into_iter();
    let owned_partitions = owned
        .map(|(topic, partitions)| consumer_protocol_subscription::TopicPartition { topic, partitions })
        .collect();
    let message = ConsumerProtocolSubscription {
        topics: subscription.topics.iter().map(|topic| topic.to_string()).collect(),
        user_data: subscription.user_data.clone(),
        owned_partitions,
        generation_id: subscription.generation,
        rack_id: None,
    };
    encode(&message)
}

pub(crate) fn decode_subscription(
    member_id: &str,
    group_instance_id: Option<&str>,
    bytes: &Bytes,
) -> Result<MemberSubscription, DecodeError> {
    let message: ConsumerProtocolSubscription = decode(bytes)?;
    let owned = message.owned_partitions.into_iter();
    Ok(MemberSubscription {
        member_id: member_id.to_owned(),
        group_instance_id: group_instance_id.map(str::to_owned),
        topics: message.topics.into_iter().map(Arc::from).collect(),
        owned: owned.flat_map(|owned| partitions(owned.topic, owned.partitions)).collect(),
        generation: message.generation_id,
        user_data: message.user_data,
    })
}

pub(crate) fn encode_assignment(assignment: &MemberAssignment) -> Result<Bytes, EncodeError> {
    let assigned = by_topic(&assignment.partitions).into_iter();
    let assigned_partitions = assigned
        .map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition { topic, partitions })
        .collect();
    encode(&ConsumerProtocolAssignment { assigned_partitions, user_data: assignment.user_data.clone() })
}

pub(crate) fn decode_assignment(bytes: &Bytes) -> Result<MemberAssignment, DecodeError> {
    if bytes.is_empty() {
        // A coordinator gives nothing to members that the leader left out.
        return Ok(MemberAssignment::default());
    }
    let message: ConsumerProtocolAssignment = decode(bytes)?;
    let assigned = message.assigned_partitions.into_iter();
    Ok(MemberAssignment {
        partitions: assigned.flat_map(|assigned| partitions(assigned.topic, assigned.partitions)).collect(),
        user_data: message.user_data,
    })
}

fn encode<M: Message>(message: &M) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::default();
    writer.put_i16(VERSION);
    message.encode(&mut writer, VERSION)?;
    Ok(writer.into_bytes())
}

/// Reads a message of any version: later ones only add at the end.
fn decode<M: Message>(bytes: &Bytes) -> Result<M, DecodeError> {
    let mut reader = Reader::new(bytes.clone());
    let version = reader.i16()?;
    M::decode(&mut reader, version.clamp(0, VERSION))
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<String, Vec<i32>> {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for TopicPartition { topic, partition } in partitions {
        topics.entry(topic.to_string()).or_default().push(*partition);
    }
    topics
}

fn partitions(topic: String, numbers: Vec<i32>) -> impl Iterator<Item = TopicPartition> {
    let topic: Arc<str> = Arc::from(topic);
    numbers.into_iter().map(move |partition| TopicPartition::new(topic.clone(), partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_and_assignment_are_read_back() {
        let subscription = MemberSubscription {
            member_id: "m".into(),
            group_instance_id: Some("i".into()),
            topics: vec![Arc::from("a"), Arc::from("b")],
            owned: vec![TopicPartition::new("a", 1), TopicPartition::new("b", 0)],
            generation: 4,
            user_data: Some(Bytes::from_static(b"data")),
        };
        let bytes = encode_subscription(&subscription).unwrap();
        assert_eq!(decode_subscription("m", Some("i"), &bytes), Ok(subscription));
        let partitions = vec![TopicPartition::new("a", 0), TopicPartition::new("a", 7)];
        let assignment = MemberAssignment { partitions, user_data: None };
        assert_eq!(decode_assignment(&encode_assignment(&assignment).unwrap()), Ok(assignment));
        assert_eq!(decode_assignment(&Bytes::new()), Ok(MemberAssignment::default()));
    }

    #[test]
    fn oldest_subscription_is_read() {
        let bytes = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff]);
        let subscription = decode_subscription("m", None, &bytes).unwrap();
        assert_eq!(
            (subscription.topics.len(), subscription.generation, subscription.user_data),
            (1, -1, None)
        );
    }
}
