//! The bytes that Kafka's own classes write: batches, hashes, variable-length integers.

use kappa_protocol::record::{
    Batch, BatchBuilder, BatchError, BatchOptions, Compression, DecodedBatch, ProducerStamp, Record,
    TimestampType, crc32c, murmur2, partition_for_key, patched_prefix, varint,
};
use serde_json::Value;

use super::batches::{LIMIT, Plain};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/record_batches.json")).expect("the vectors are JSON")
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("{name} is a list in {value}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is an integer"))
}

fn nullable_bytes(value: &Value) -> Option<Vec<u8>> {
    value.as_str().map(unhex)
}

/// Name, bytes and description of every case whose batches have the wanted format.
fn cases(wanted: impl Fn(i64) -> bool) -> Vec<(String, Vec<u8>, Value)> {
    let vectors = vectors();
    let of_format = |case: &&Value| wanted(int(&case["batches"][0]["magic"]));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let cases = list(&vectors, "cases").iter().filter(of_format);
    cases.map(|case| (text(&case["name"]), unhex(&text(&case["hex"])), case.clone())).collect()
}

fn assert_header(name: &str, batch: &Batch<'_>, expected: &Value) {
    let compression = batch.compression().expect("a known codec");
    let timestamp_type = match batch.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    let found = serde_json::json!({
        "magic": 2,
        "baseOffset": batch.base_offset(),
        "lastOffset": batch.last_offset(),
        "sizeInBytes": batch.size(),
        "crc": batch.crc(),
        "compression": compression.name(),
        "timestampType": timestamp_type,
        "valid": crc32c(&batch.bytes()[21..]) == batch.crc(),
        "partitionLeaderEpoch": batch.leader_epoch(),
        "attributes": batch.attributes(),
        "baseTimestamp": batch.base_timestamp(),
        "maxTimestamp": batch.max_timestamp(),
        "producerId": batch.producer_id(),
        "producerEpoch": batch.producer_epoch(),
        "baseSequence": batch.base_sequence(),
        "count": batch.count(),
        "transactional": batch.is_transactional(),
        "control": batch.is_control(),
        "deleteHorizonMs": batch.delete_horizon(),
        "records": expected["records"],
    });
    assert_eq!(&found, expected, "{name}");
}

fn assert_record(name: &str, batch: &Batch<'_>, record: &Record<'_>, expected: &Value) {
    assert_eq!(record.offset, int(&expected["offset"]), "{name}");
    let delta = (record.offset - batch.base_offset()) as i32;
    let sequence = match batch.base_sequence() {
        -1 => -1,
        base => base.wrapping_add(delta) & i32::MAX,
    };
    assert_eq!(i64::from(sequence), int(&expected["sequence"]), "{name}");
    let header = |pair: &Value| (pair[0].as_str().expect("a name").to_owned(), nullable_bytes(&pair[1]));
    let plain = Plain {
        timestamp: int(&expected["timestamp"]),
        key: nullable_bytes(&expected["key"]),
        value: nullable_bytes(&expected["value"]),
        headers: list(expected, "headers").iter().map(header).collect(),
    };
    assert_eq!(Plain::of(record), plain, "{name}");
}

#[test]
fn every_field_of_kafkas_batches_is_read() {
    let cases = cases(|magic| magic == 2);
    assert_eq!(cases.iter().map(|(.., case)| list(case, "batches").len()).sum::<usize>(), 15);
    for (name, bytes, case) in cases {
        let mut rest = &bytes[..];
        for expected in list(&case, "batches") {
            let (batch, behind) = Batch::stored(rest).expect(&name);
            assert_header(&name, &batch, expected);
            let borrowed = batch.decode(LIMIT).expect(&name);
            let own_bytes = bytes::Bytes::copy_from_slice(batch.bytes());
            let owned = DecodedBatch::decode(own_bytes, LIMIT).expect(&name);
            for records in [borrowed.iter(), owned.records()] {
                let records: Vec<_> = records.collect::<Result<_, _>>().expect(&name);
                assert_eq!(records.len(), list(expected, "records").len(), "{name}");
                for (record, expected) in records.iter().zip(list(expected, "records")) {
                    assert_record(&name, &batch, record, expected);
                }
            }
            rest = behind;
        }
        assert!(rest.is_empty(), "{name}");
    }
}

#[test]
fn only_batches_that_a_producer_may_send_are_taken_from_one() {
    for (name, bytes, _) in cases(|magic| magic == 2) {
        let refused = match Batch::produced(&bytes) {
            Ok(_) => "",
            Err(BatchError::ControlBatch) => "control",
            Err(BatchError::InvalidCount { .. }) => "count",
            Err(BatchError::TrailingBytes { .. }) => "trailing",
            Err(other) => panic!("{name}: {other}"),
        };
        let expected = match name.as_str() {
            name if name.starts_with("v2-control") => "control",
            "v2-offset-gaps" | "v2-empty-batch" => "count",
            "v2-two-batches" => "trailing",
            _ => "",
        };
        assert_eq!(refused, expected, "{name}");
    }
}

#[test]
fn message_sets_of_old_formats_are_refused_by_their_magic() {
    let cases = cases(|magic| magic < 2);
    assert_eq!(cases.len(), 8);
    for (name, bytes, case) in cases {
        let expected = int(&case["batches"][0]["magic"]);
        let errors = [
            Batch::produced(&bytes).expect_err(&name),
            Batch::stored(&bytes).expect_err(&name),
            Batch::header(&bytes).expect_err(&name),
        ];
        for error in errors {
            let BatchError::UnsupportedMagic { magic } = error else { panic!("{name}: {error}") };
            assert_eq!(i64::from(magic), expected, "{name}");
        }
    }
}

/// Builds again what was decoded; append time hides the timestamps that producers gave, so its bit is
/// taken out before.
fn build_again(batch: &Batch<'_>) -> Vec<u8> {
    let append_time = batch.timestamp_type() == TimestampType::LogAppendTime;
    let producer = ProducerStamp {
        id: batch.producer_id(),
        epoch: batch.producer_epoch(),
        sequence: batch.base_sequence(),
    };
    let mut builder = BatchBuilder::new(BatchOptions {
        compression: batch.compression().expect("a known codec"),
        log_append_time: append_time.then(|| batch.max_timestamp()),
        producer: (producer.id >= 0).then_some(producer),
        transactional: batch.is_transactional(),
        control: batch.is_control(),
    });
    let mut bytes = batch.bytes().to_vec();
    bytes[22] &= !0x08;
    let create_time =
        Batch::header(&bytes).expect("only a bit is gone").decode(LIMIT).expect("decoded before");
    for record in &create_time {
        let record = record.expect("decoded before");
        let headers: Vec<_> = record.headers.collect();
        let delta = (record.offset - batch.base_offset()) as i32;
        let before = builder.estimated_size();
        builder.push_at(
            delta,
            record.timestamp,
            record.key,
            record.value,
            headers.iter().map(|(name, value)| (&**name, *value)),
        );
        assert!(builder.estimated_size() > before);
    }
    builder.span(batch.last_offset_delta(), batch.max_timestamp());
    let built = builder.finish(batch.base_offset());
    let prefix = patched_prefix(&built, batch.base_offset(), batch.leader_epoch());
    [&prefix, &built[16..]].concat()
}

#[test]
fn builder_writes_the_bytes_that_kafka_writes() {
    let mut same = 0;
    for (name, bytes, case) in cases(|magic| magic == 2) {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (batch, behind) = Batch::stored(rest).expect(&name);
            let again = build_again(&batch);
            if case["encoder_bytes_must_match"] == true {
                assert_eq!(again, batch.bytes(), "{name}");
                same += 1;
            } else {
                let (again, _) = Batch::stored(&again).expect(&name);
                let (first, second) = (batch.decode(LIMIT).expect(&name), again.decode(LIMIT).expect(&name));
                assert_eq!(first.bytes(), second.bytes(), "{name}");
            }
            rest = behind;
        }
    }
    assert_eq!(same, 11, "batches compared");
}

#[test]
fn append_time_and_producer_can_be_set_in_the_header_of_a_whole_batch() {
    let (_, bytes, _) = cases(|magic| magic == 2).remove(1);
    let (batch, _) = Batch::stored(&bytes).expect("golden");
    let header = batch.header_with_append_time(77, 4, 1_800_000_000_000);
    let stamped = [&header, batch.body()].concat();
    let (stamped, _) = Batch::stored(&stamped).expect("the checksum was made anew");
    assert_eq!((stamped.base_offset(), stamped.leader_epoch()), (77, 4));
    assert_eq!(stamped.timestamp_type(), TimestampType::LogAppendTime);
    let body = stamped.decode(LIMIT).expect("golden");
    assert!(body.iter().all(|record| record.expect("golden").timestamp == 1_800_000_000_000));

    let producer = ProducerStamp { id: 9, epoch: 3, sequence: i32::MAX };
    let header = batch.header_with_producer(producer);
    let stamped = [&header, batch.body()].concat();
    let stamped = Batch::produced(&stamped).expect("the checksum was made anew");
    assert_eq!((stamped.producer_id(), stamped.producer_epoch()), (9, 3));
    assert_eq!(stamped.last_sequence(), stamped.last_offset_delta() - 1, "sequences wrap to 0");
}

#[test]
fn hashes_and_partitions_are_kafkas() {
    let vectors = vectors();
    for case in list(&vectors, "murmur2") {
        let key = case["key"].as_str().expect("text").as_bytes();
        assert_eq!(i64::from(murmur2(key)), int(&case["murmur2"]), "{case}");
        for pair in list(case, "partition_of") {
            let partitions = int(&pair[0]) as i32;
            assert_eq!(i64::from(partition_for_key(key, partitions)), int(&pair[1]), "{case}");
        }
    }
    assert_eq!(list(&vectors, "murmur2").len(), 16);
}

#[test]
fn variable_length_integers_are_kafkas() {
    let vectors = vectors();
    for case in list(&vectors, "varints") {
        let value = int(&case["value"]);
        let mut out = Vec::new();
        varint::write_varlong(&mut out, value);
        assert_eq!(Some(&out), nullable_bytes(&case["zigzag_varlong"]).as_ref(), "{case}");
        assert_eq!(varint::read_varlong(&mut &out[..]), Ok(value));
        let Ok(value) = i32::try_from(value) else { continue };
        out.clear();
        varint::write_varint(&mut out, value);
        assert_eq!(Some(&out), nullable_bytes(&case["zigzag_varint"]).as_ref(), "{case}");
        assert_eq!(varint::read_varint(&mut &out[..]), Ok(value));
        out.clear();
        varint::write_unsigned(&mut out, value.cast_unsigned());
        assert_eq!(Some(&out), nullable_bytes(&case["unsigned_varint_of_int32_bits"]).as_ref(), "{case}");
        assert_eq!(varint::read_unsigned(&mut &out[..]), Ok(value.cast_unsigned()));
    }
    assert_eq!(list(&vectors, "varints").len(), 15);
}

#[test]
fn compression_names_are_kafkas() {
    for codec in Compression::ALL {
        assert_eq!(codec.to_string().parse(), Ok(codec));
        assert_eq!(Compression::from_id(codec.id()), Some(codec));
    }
    assert_eq!(Compression::from_id(5), None);
    assert!("LZ4".parse::<Compression>().is_err());
}
