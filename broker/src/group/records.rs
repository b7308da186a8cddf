//! The records of `__consumer_offsets`, byte for byte as Apache Kafka writes them.
//!
//! A key is its type (2 bytes) and its fields; a value its version (2 bytes) and its fields; no value is a tombstone.
//! Written are OffsetCommit (key 1, value 3; value 1 where a client set its own retention) and GroupMetadata (key 2,
//! value 3), which every tool that decodes the topic knows. All versions are read; other types are none of ours yet.

use super::offsets::CommittedOffset;
use bytes::Bytes;
use kappa_protocol::messages::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use kappa_protocol::wire::{Reader, Writer};
use kappa_protocol::{DecodeError, EncodeError, Message};

const LEGACY_OFFSET_COMMIT_KEY: i16 = 0;
const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;
/// Fields of a key do not change with its type.
const KEY_FIELDS: i16 = 0;
const OFFSET_COMMIT_VALUE: i16 = 3;
/// The only one that has room for a time of expiry.
const OFFSET_COMMIT_VALUE_WITH_EXPIRY: i16 = 1;
const GROUP_METADATA_VALUE: i16 = 3;

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GroupRecord {
    /// A group committed an offset; `None` takes it back.
    Offset {
        /// Group, topic and partition.
        key: OffsetCommitKey,
        /// The offset.
        value: Option<CommittedOffset>,
    },
    /// A group's generation with its members; `None` removes the group.
    Metadata {
        /// Group id.
        group: String,
        /// The group.
        value: Option<GroupMetadataValue>,
    },
    /// A record of a type that is not read here.
    Other {
        /// Its type.
        key_type: i16,
    },
}

/// A key and a value, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// The key.
    pub(crate) key: Bytes,
    /// The value; `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
}

impl GroupRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// Bytes that are no such record.
    pub(crate) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(key));
        match reader.i16()? {
            LEGACY_OFFSET_COMMIT_KEY | OFFSET_COMMIT_KEY => Ok(Self::Offset {
                key: OffsetCommitKey::decode(&mut reader, KEY_FIELDS)?,
                value: value.map(decode_value::<OffsetCommitValue>).transpose()?.map(CommittedOffset::from),
            }),
            GROUP_METADATA_KEY => Ok(Self::Metadata {
                group: GroupMetadataKey::decode(&mut reader, KEY_FIELDS)?.group,
                value: value.map(decode_value::<GroupMetadataValue>).transpose()?,
            }),
            key_type => Ok(Self::Other { key_type }),
        }
    }
}

/// The record by which a group commits an offset, or takes it back.
///
/// # Errors
/// A name too long for the format (32,767 bytes).
pub(crate) fn offset(
    group: &str,
    topic: &str,
    partition: i32,
    value: Option<&CommittedOffset>,
) -> Result<Encoded, EncodeError> {
    let key = OffsetCommitKey { group: group.to_owned(), topic: topic.to_owned(), partition };
    let encode = |committed: &CommittedOffset| {
        let version = match committed.expires_at_ms {
            Some(_) => OFFSET_COMMIT_VALUE_WITH_EXPIRY,
            None => OFFSET_COMMIT_VALUE,
        };
        encode(version, version, &OffsetCommitValue::from(committed))
    };
    Ok(Encoded { key: encode_key(OFFSET_COMMIT_KEY, &key)?, value: value.map(encode).transpose()? })
}

/// The record of a group, or of its removal.
///
/// # Errors
/// A text too long for the format (32,767 bytes).
pub(crate) fn metadata(group: &str, value: Option<&GroupMetadataValue>) -> Result<Encoded, EncodeError> {
    let key = GroupMetadataKey { group: group.to_owned() };
    let encode = |value| encode(GROUP_METADATA_VALUE, GROUP_METADATA_VALUE, value);
    Ok(Encoded { key: encode_key(GROUP_METADATA_KEY, &key)?, value: value.map(encode).transpose()? })
}

fn encode_key(key_type: i16, key: &impl Message) -> Result<Bytes, EncodeError> {
    encode(key_type, KEY_FIELDS, key)
}

fn encode(prefix: i16, version: i16, message: &impl Message) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::with_capacity(128);
    writer.put_i16(prefix);
    message.encode(&mut writer, version)?;
    Ok(writer.into_bytes())
}

fn decode_value<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let version = reader.i16()?;
    M::decode(&mut reader, version)
}

impl From<OffsetCommitValue> for CommittedOffset {
    fn from(value: OffsetCommitValue) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata,
            committed_at_ms: value.commit_timestamp,
            expires_at_ms: (value.expire_timestamp >= 0).then_some(value.expire_timestamp),
        }
    }
}

impl From<&CommittedOffset> for OffsetCommitValue {
    fn from(committed: &CommittedOffset) -> Self {
        Self {
            offset: committed.offset,
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata.clone(),
            commit_timestamp: committed.committed_at_ms,
            expire_timestamp: committed.expires_at_ms.unwrap_or(-1),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::messages::group_metadata_value::MemberMetadata;

    fn committed() -> CommittedOffset {
        CommittedOffset {
            offset: 0x0102_0304_0506_0708,
            leader_epoch: 7,
            metadata: "note".into(),
            committed_at_ms: 0x1112_1314_1516_1718,
            expires_at_ms: None,
        }
    }

    #[test]
    fn an_offset_has_the_bytes_that_kafka_writes() {
        let encoded = offset("g", "t0", 5, Some(&committed())).unwrap();
        assert_eq!(&encoded.key[..], b"\x00\x01\x00\x01g\x00\x02t0\x00\x00\x00\x05");
        let value = b"\x00\x03\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x07\x00\x04note\x11\x12\x13\x14\x15\x16\x17\x18";
        assert_eq!(&encoded.value.unwrap()[..], value);
    }

    #[test]
    fn an_offset_with_its_own_retention_has_the_version_that_keeps_it() {
        let committed = CommittedOffset { expires_at_ms: Some(9), leader_epoch: -1, ..committed() };
        let encoded = offset("g", "t0", 5, Some(&committed)).unwrap();
        assert_eq!(&encoded.value.as_ref().unwrap()[..2], b"\x00\x01");
        let GroupRecord::Offset { value, .. } =
            GroupRecord::decode(&encoded.key, encoded.value.as_deref()).unwrap()
        else {
            panic!("an offset")
        };
        assert_eq!(value.unwrap(), committed);
    }

    #[test]
    fn a_group_has_the_bytes_that_kafka_writes() {
        let member = MemberMetadata {
            member_id: "m".into(),
            group_instance_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout: 2,
            session_timeout: 3,
            subscription: Bytes::from_static(b"s"),
            assignment: Bytes::from_static(b"a"),
        };
        let value = GroupMetadataValue {
            protocol_type: "consumer".into(),
            generation: 1,
            protocol: Some("range".into()),
            leader: Some("m".into()),
            current_state_timestamp: 4,
            members: vec![member],
        };
        let encoded = metadata("g", Some(&value)).unwrap();
        assert_eq!(&encoded.key[..], b"\x00\x02\x00\x01g");
        let head = b"\x00\x03\x00\x08consumer\x00\x00\x00\x01\x00\x05range\x00\x01m\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x01";
        let tail = b"\x00\x01m\xff\xff\x00\x01c\x00\x02/h\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x01s\x00\x00\x00\x01a";
        assert_eq!(&encoded.value.as_ref().unwrap()[..], [&head[..], &tail[..]].concat());
        let decoded = GroupRecord::decode(&encoded.key, encoded.value.as_deref()).unwrap();
        assert_eq!(decoded, GroupRecord::Metadata { group: "g".into(), value: Some(value) });
    }

    #[test]
    fn tombstones_and_types_of_others_are_read() {
        let encoded = metadata("g", None).unwrap();
        let decoded = GroupRecord::decode(&encoded.key, None).unwrap();
        assert_eq!(decoded, GroupRecord::Metadata { group: "g".into(), value: None });
        let decoded = GroupRecord::decode(b"\x00\x03\x00\x01g", Some(b"\x00\x00")).unwrap();
        assert_eq!(decoded, GroupRecord::Other { key_type: 3 });
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for key in [&b""[..], b"\x00", b"\x00\x01\x7f\xff", b"\x00\x02\x00\x09g"] {
            GroupRecord::decode(key, None).unwrap_err();
        }
        let key = metadata("g", None).unwrap().key;
        for value in [&b""[..], b"\x00\x09", b"\x00\x03\x00\x08cons", b"\xff\xff"] {
            GroupRecord::decode(&key, Some(value)).unwrap_err();
        }
        let long = "x".repeat(40_000);
        offset(&long, "t", 0, None).unwrap_err();
    }
}
