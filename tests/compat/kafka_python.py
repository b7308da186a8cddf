"""kafka-python: producer, consumer, two-member groups, offsets and admin."""

import itertools
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import TopicAlreadyExistsError

from checks import BOOTSTRAP, CODECS, check, contains, equal, fresh, main, wait_until


def consumer(**options):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "consumer_timeout_ms": 10_000}
    return KafkaConsumer(bootstrap_servers=BOOTSTRAP, **{**settings, **options})


def read(topic, count, partition=0):
    reader = consumer()
    reader.assign([TopicPartition(topic, partition)])
    records = list(itertools.islice(reader, count))
    reader.close()
    equal(len(records), count, "records read")
    return records


def create(topic, partitions=1, **configs):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    specification = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    admin.create_topics({topic: specification}, wait_for_metadata=True)
    admin.close()
    return topic


@check
def every_codec_comes_back_with_keys_headers_and_timestamps():
    for codec in CODECS:
        topic = create(fresh(f"kp-{codec}"))
        producer = KafkaProducer(
            bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=20,
            compression_type=None if codec == "none" else codec)
        for n in range(500):
            producer.send(
                topic, key=f"k{n}".encode(), value=b"value " * 20 + str(n).encode(),
                headers=[("n", str(n).encode()), ("twice", b"a"), ("twice", b"b")], timestamp_ms=1_600_000_000_000 + n)
        producer.flush()
        producer.close()
        for n, record in enumerate(read(topic, 500)):
            equal(
                (record.offset, record.key, record.value, record.timestamp, record.timestamp_type, list(record.headers)),
                (n, f"k{n}".encode(), b"value " * 20 + str(n).encode(), 1_600_000_000_000 + n, 0,
                 [("n", str(n).encode()), ("twice", b"a"), ("twice", b"b")]), codec)


@check
def null_keys_and_values_stay_null():
    topic = create(fresh("kp-null"))
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for key, value in [(None, b"v"), (b"k", None), (b"", b"")]:
        metadata = producer.send(topic, key=key, value=value).get(timeout=10)
    equal(metadata.offset, 2, "offset of the last record")
    producer.close()
    equal([(record.key, record.value) for record in read(topic, 3)], [(None, b"v"), (b"k", None), (b"", b"")])


@check
def acks_of_every_kind_append():
    topic = create(fresh("kp-acks"))
    for acks in (0, 1, "all"):
        producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks=acks, enable_idempotence=False)
        for n in range(100):
            producer.send(topic, value=f"{acks} {n}".encode(), partition=0)
        producer.flush()
        producer.close()
        wait_until(lambda count=100 * ((0, 1, "all").index(acks) + 1): end_offset(topic) == count, f"acks={acks} appended")


def end_offset(topic):
    reader = consumer()
    try:
        return reader.end_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
    finally:
        reader.close()


@check
def offsets_are_found_by_time_and_seek_goes_there():
    topic = create(fresh("kp-times"))
    partition = TopicPartition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for n in range(100):
        producer.send(topic, value=str(n).encode(), timestamp_ms=1_000_000 + 10 * n)
    producer.close()
    reader = consumer()
    reader.assign([partition])
    equal(reader.beginning_offsets([partition]), {partition: 0}, "beginning")
    equal(reader.end_offsets([partition]), {partition: 100}, "end")
    found = reader.offsets_for_times({partition: 1_000_505})[partition]
    equal((found.offset, found.timestamp), (51, 1_000_510), "first at or after the time")
    equal(reader.offsets_for_times({partition: 2_000_000})[partition], None, "after the last")
    reader.seek(partition, 97)
    equal([record.value for record in itertools.islice(reader, 3)], [b"97", b"98", b"99"])
    reader.close()


class Member(threading.Thread):
    """A group member that polls until told to stop, and remembers what it read and was assigned."""

    def __init__(self, topic, group, **options):
        super().__init__(daemon=True)
        self.topic, self.group, self.options = topic, group, options
        self.seen, self.assigned, self.stopping, self.error = [], set(), threading.Event(), None

    def run(self):
        try:
            reader = consumer(group_id=self.group, enable_auto_commit=True, auto_commit_interval_ms=100, **self.options)
            reader.subscribe([self.topic])
            while not self.stopping.is_set():
                for records in reader.poll(timeout_ms=100).values():
                    self.seen += [(record.partition, record.offset, record.value) for record in records]
                self.assigned = {partition.partition for partition in reader.assignment()}
            reader.close()
        except Exception as error:  # noqa: BLE001 - shown by the check
            self.error = error

    def stop(self):
        self.stopping.set()
        self.join(timeout=30)
        if self.error:
            raise self.error


@check
def two_members_share_the_partitions_and_one_takes_over():
    topic, group = create(fresh("kp-group"), 4), fresh("kp-members")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)

    def produce(first, last):
        for n in range(first, last):
            producer.send(topic, value=str(n).encode(), partition=n % 4)
        producer.flush()

    produce(0, 100)
    one = Member(topic, group)
    one.start()
    wait_until(lambda: one.error or len(one.seen) == 100, "the only member reads all")
    equal(one.assigned, {0, 1, 2, 3}, "all partitions to the only member")
    two = Member(topic, group)
    two.start()
    wait_until(lambda: one.error or (len(one.assigned), len(two.assigned)) == (2, 2), "two partitions each")
    equal(one.assigned | two.assigned, {0, 1, 2, 3}, "no partition left out")
    time.sleep(0.3)
    produce(100, 200)
    wait_until(lambda: len({row[2] for row in one.seen + two.seen}) == 200, "everything read")
    one.stop()
    wait_until(lambda: two.assigned == {0, 1, 2, 3}, "the other takes over")
    produce(200, 300)
    wait_until(lambda: len({row[2] for row in one.seen + two.seen}) == 300, "everything read after a member left")
    two.stop()
    producer.close()
    equal(len(one.seen + two.seen), 300, "records read, with none twice")


@check
def commits_are_kept_with_their_metadata_and_reset():
    topic, group = create(fresh("kp-commit")), fresh("kp-committer")
    partition = TopicPartition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for n in range(10):
        producer.send(topic, value=str(n).encode())
    producer.close()
    reader = consumer(group_id=group)
    reader.assign([partition])
    equal(reader.committed(partition), None, "before any commit")
    reader.commit({partition: OffsetAndMetadata(4, "four", -1)})
    equal(reader.committed(partition), 4, "after the commit")
    equal(reader.committed(partition, metadata=True).metadata, "four", "metadata")
    reader.close()
    again = consumer(group_id=group)
    again.assign([partition])
    equal(next(again).value, b"4", "a new consumer goes on there")
    again.close()
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    listed = admin.list_group_offsets([group])
    equal(listed[group][partition].offset, 4, "listed by admin")
    admin.reset_group_offsets(group, {partition: OffsetSpec.EARLIEST})
    equal(admin.list_group_offsets([group])[group][partition].offset, 0, "after the reset")
    admin.close()


@check
def admin_creates_describes_alters_and_deletes():
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    topic = create(fresh("kp-admin"), 3, **{"retention.ms": "86400000"})
    described = admin.describe_topics([topic])[0]
    equal((described["name"], len(described["partitions"])), (topic, 3), "describe topics")
    contains(admin.list_topics(), topic)
    try:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
    except TopicAlreadyExistsError:
        pass
    else:
        raise AssertionError("an existing topic was created again")
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "2000000"})
    admin.alter_configs([resource])
    configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    values = configs["topic"][topic]
    equal({name: values[name]["value"] for name in ("retention.ms", "max.message.bytes", "cleanup.policy")},
          {"retention.ms": "86400000", "max.message.bytes": "2000000", "cleanup.policy": "delete"}, "configs")
    admin.create_partitions({topic: 5})
    wait_until(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 5, "five partitions")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for n in range(10):
        producer.send(topic, value=str(n).encode(), partition=1)
    producer.close()
    admin.delete_records({TopicPartition(topic, 1): 6})
    offsets = admin.list_partition_offsets({TopicPartition(topic, 1): OffsetSpec.EARLIEST})
    equal(offsets[TopicPartition(topic, 1)].offset, 6, "log start after delete records")
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics(), "topic gone")
    admin.close()


@check
def admin_lists_describes_and_deletes_groups():
    topic, group = create(fresh("kp-groups"), 2), fresh("kp-listed")
    member = Member(topic, group, client_id="kp-client")
    member.start()
    wait_until(lambda: member.error or len(member.assigned) == 2, "assigned")
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    described = admin.describe_groups([group])[group]
    equal((str(described["group_state"]).split(".")[-1].upper(), len(described["members"])), ("STABLE", 1), "described")
    equal(described["members"][0]["client_id"], "kp-client", "client id")
    listed = {row["group_id"] for row in admin.list_groups()}
    contains(listed, group)
    member.stop()
    admin.delete_groups([group])
    wait_until(lambda: group not in {row["group_id"] for row in admin.list_groups()}, "group gone")
    admin.close()


@check
def a_large_record_is_kept_and_a_too_large_one_is_refused():
    topic = create(fresh("kp-large"))
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, max_request_size=8_000_000)
    body = bytes(range(256)) * 3900
    producer.send(topic, value=body).get(timeout=10)
    try:
        producer.send(topic, value=bytes(2_000_000)).get(timeout=10)
    except Exception as error:  # noqa: BLE001 - its name is checked
        contains(type(error).__name__, "TooLarge")
    else:
        raise AssertionError("a record above max.message.bytes was accepted")
    producer.close()
    equal(read(topic, 1)[0].value == body, True, "the large record's bytes")


if __name__ == "__main__":
    main()
