"""confluent-kafka (its own librdkafka): idempotent producer, both group protocols' assignors, offsets, admin."""

import time

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType)

from checks import BOOTSTRAP, CODECS, check, contains, equal, fresh, main, wait_until


ADMIN = AdminClient({"bootstrap.servers": BOOTSTRAP})


def done(futures):
    """The results of an admin call, by its keys."""
    return {key: future.result(timeout=30) for key, future in futures.items()}


def create(topic, partitions=1, **configs):
    done(ADMIN.create_topics([NewTopic(topic, partitions, 1, config=configs)]))
    return topic


def producer(**options):
    return Producer({"bootstrap.servers": BOOTSTRAP, **options})


def consumer(group, **options):
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": False}
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, **settings, **options})


def read(reader, count, seconds=30):
    """The next `count` messages."""
    messages, deadline = [], time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < deadline:
        for message in reader.consume(count - len(messages), timeout=0.5):
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
    equal(len(messages), count, "messages read")
    return messages


@check
def every_codec_comes_back_from_an_idempotent_producer():
    for codec in CODECS:
        topic = create(fresh(f"ck-{codec}"))
        reports = []
        out = producer(**{"compression.type": codec, "enable.idempotence": True, "linger.ms": 20})
        for n in range(1000):
            out.produce(
                topic, key=f"k{n}", value=f"{'value ' * 20}{n}", headers=[("n", str(n).encode()), ("null", None)],
                timestamp=1_600_000_000_000 + n, on_delivery=lambda error, message: reports.append((error, message.offset())))
        equal(out.flush(30), 0, "left in the queue")
        equal(reports, [(None, n) for n in range(1000)], "delivery reports")
        reader = consumer(fresh("ck-reader"))
        reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        for n, message in enumerate(read(reader, 1000)):
            equal(
                (message.offset(), message.key(), message.value(), message.timestamp(), message.headers()),
                (n, f"k{n}".encode(), f"{'value ' * 20}{n}".encode(), (1, 1_600_000_000_000 + n),
                 [("n", str(n).encode()), ("null", None)]), codec)
        reader.close()


@check
def null_keys_and_values_and_large_messages_come_back():
    topic = create(fresh("ck-null"))
    body = bytes(range(256)) * 3900
    out = producer()
    for key, value in [(None, b"v"), (b"k", None), (b"", b""), (b"large", body)]:
        out.produce(topic, key=key, value=value)
    equal(out.flush(30), 0, "left in the queue")
    reader = consumer(fresh("ck-reader"))
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages = [(message.key(), message.value()) for message in read(reader, 4)]
    equal(messages[:3], [(None, b"v"), (b"k", None), (b"", b"")])
    equal(messages[3] == (b"large", body), True, "the large message's bytes")
    reader.close()


@check
def a_message_above_the_topic_limit_is_refused():
    topic = create(fresh("ck-limit"), **{"max.message.bytes": "10000"})
    errors = []
    out = producer(**{"message.max.bytes": 1_000_000})
    out.produce(topic, value=bytes(50_000), on_delivery=lambda error, message: errors.append(error.code()))
    out.flush(30)
    equal(errors, [KafkaError.MSG_SIZE_TOO_LARGE])


def rebalances(strategy):
    topic, group = create(fresh(f"ck-{strategy}"), 6), fresh("ck-members")
    out = producer()
    seen = set()

    def produce(first, last):
        for n in range(first, last):
            out.produce(topic, value=str(n), partition=n % 6)
        equal(out.flush(30), 0, "left in the queue")

    def poll(members):
        for member in members:
            for message in member.consume(100, timeout=0.05):
                if message.error():
                    raise KafkaException(message.error())
                seen.add((message.partition(), message.offset(), message.value()))
        return [len(member.assignment()) for member in members]

    options = {"partition.assignment.strategy": strategy, "enable.auto.commit": True, "auto.commit.interval.ms": 100}
    first, second = consumer(group, **options), consumer(group, **options)
    produce(0, 600)
    first.subscribe([topic])
    wait_until(lambda: poll([first]) == [6] and len(seen) == 600, "the only member has and reads all")
    second.subscribe([topic])
    wait_until(lambda: poll([first, second]) == [3, 3], "three partitions each")
    produce(600, 1200)
    wait_until(lambda: poll([first, second]) and len(seen) == 1200, "both read")
    second.close()
    wait_until(lambda: poll([first]) == [6], "all partitions back after a member left")
    produce(1200, 1800)
    wait_until(lambda: poll([first]) and len(seen) == 1800, "the rest read")
    equal({row[2] for row in seen}, {str(n).encode() for n in range(1800)}, "values")
    first.close()


@check
def an_eager_group_rebalances_without_loss():
    rebalances("range")


@check
def a_cooperative_group_rebalances_without_loss():
    rebalances("cooperative-sticky")


@check
def a_static_member_returns_to_its_partitions_without_a_rebalance():
    topic, group = create(fresh("ck-static"), 4), fresh("ck-static-group")

    def member(name):
        reader = consumer(group, **{"group.instance.id": name, "session.timeout.ms": 30_000})
        reader.subscribe([topic])
        return reader

    def partitions(reader):
        return {partition.partition for partition in reader.assignment()}

    def both(one, two):
        one.poll(0.05)
        two.poll(0.05)
        return (len(partitions(one)), len(partitions(two))) == (2, 2)

    one, two = member("one"), member("two")
    wait_until(lambda: both(one, two), "two partitions each")
    owned, kept = partitions(two), partitions(one)
    two.close()
    two = member("two")
    wait_until(lambda: both(one, two), "two partitions each after the return")
    equal((partitions(one), partitions(two)), (kept, owned), "the same partitions")
    one.close()
    two.close()


@check
def commits_are_kept_listed_altered_and_deleted_with_the_group():
    topic, group = create(fresh("ck-commit"), 2), fresh("ck-committer")
    out = producer()
    for n in range(20):
        out.produce(topic, value=str(n), partition=n % 2)
    out.flush(30)
    reader = consumer(group)
    reader.commit(offsets=[TopicPartition(topic, 0, 7, metadata="seven")], asynchronous=False)
    stored = reader.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)])
    equal([(row.partition, row.offset) for row in stored], [(0, 7), (1, -1001)], "committed")
    equal(stored[0].metadata, "seven", "metadata")
    equal(reader.get_watermark_offsets(TopicPartition(topic, 0)), (0, 10), "watermarks")
    reader.close()
    asked = [ConsumerGroupTopicPartitions(group)]
    listed = done(ADMIN.list_consumer_group_offsets(asked))[group].topic_partitions
    equal([(row.topic, row.partition, row.offset) for row in listed], [(topic, 0, 7)], "listed")
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 2), TopicPartition(topic, 1, 3)])
    done(ADMIN.alter_consumer_group_offsets([wanted]))
    listed = done(ADMIN.list_consumer_group_offsets(asked))[group].topic_partitions
    equal(sorted((row.partition, row.offset) for row in listed), [(0, 2), (1, 3)], "altered")
    groups = ADMIN.list_consumer_groups().result(timeout=30)
    contains([row.group_id for row in groups.valid], group)
    described = done(ADMIN.describe_consumer_groups([group]))[group]
    equal((described.state.name, described.members), ("EMPTY", []), "described")
    done(ADMIN.delete_consumer_groups([group]))
    groups = ADMIN.list_consumer_groups().result(timeout=30)
    equal([row.group_id for row in groups.valid if row.group_id == group], [], "deleted group")


@check
def offsets_by_time_earliest_latest_and_largest_time():
    topic = create(fresh("ck-times"))
    out = producer()
    for n in range(100):
        out.produce(topic, value=str(n), timestamp=1_000_000 + (n * 37 % 100))
    out.flush(30)
    reader = consumer(fresh("ck-reader"))
    found = reader.offsets_for_times([TopicPartition(topic, 0, 1_000_050)], timeout=10)
    equal(found[0].offset, next(n for n in range(100) if n * 37 % 100 >= 50), "first at or after the time")
    reader.close()
    partition = TopicPartition(topic, 0)
    for specification, expected in [
        (OffsetSpec.earliest(), 0), (OffsetSpec.latest(), 100),
        (OffsetSpec.max_timestamp(), next(n for n in range(100) if n * 37 % 100 == 99)),
    ]:
        equal(done(ADMIN.list_offsets({partition: specification}))[partition].offset, expected, repr(specification))


@check
def reset_policy_acts_when_the_offset_is_gone():
    topic, group = create(fresh("ck-reset")), fresh("ck-resetter")
    out = producer()
    for n in range(10):
        out.produce(topic, value=str(n))
    out.flush(30)
    done(ADMIN.delete_records([TopicPartition(topic, 0, 6)]))
    reader = consumer(group)
    reader.assign([TopicPartition(topic, 0, 2)])
    equal([message.value() for message in read(reader, 4)], [b"6", b"7", b"8", b"9"])
    reader.close()
    end = consumer(group, **{"auto.offset.reset": "latest", "enable.partition.eof": True})
    end.assign([TopicPartition(topic, 0, OFFSET_END)])
    message = wait_until(lambda: end.poll(0.2), "end of partition")
    equal((message.error().code(), message.offset()), (KafkaError._PARTITION_EOF, 10), "end of partition")
    end.close()


@check
def admin_creates_describes_alters_and_deletes():
    topic = create(fresh("ck-admin"), 2, **{"retention.ms": "3600000"})
    metadata = ADMIN.list_topics(topic, timeout=10)
    equal((len(metadata.topics[topic].partitions), metadata.topics[topic].partitions[0].isrs), (2, [metadata.controller_id]), "metadata")
    described = ADMIN.describe_cluster().result(timeout=30)
    equal((len(described.nodes), described.cluster_id), (1, metadata.cluster_id), "describe cluster")
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("max.message.bytes", "2000000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)])
    done(ADMIN.incremental_alter_configs([resource]))
    values = next(iter(done(ADMIN.describe_configs([ConfigResource(ResourceType.TOPIC, topic)])).values()))
    equal((values["max.message.bytes"].value, values["retention.ms"].value), ("2000000", "-1"), "configs")
    done(ADMIN.create_partitions([NewPartitions(topic, 4)]))
    wait_until(lambda: len(ADMIN.list_topics(topic, timeout=10).topics[topic].partitions) == 4, "four partitions")
    try:
        create(topic)
    except KafkaException as error:
        equal(error.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS, "error")
    else:
        raise AssertionError("an existing topic was created again")
    done(ADMIN.delete_topics([topic]))
    wait_until(lambda: topic not in ADMIN.list_topics(timeout=10).topics, "topic gone")


@check
def topics_are_created_on_first_use():
    topic = fresh("ck-auto")
    out = producer()
    out.produce(topic, value=b"first")
    equal(out.flush(30), 0, "left in the queue")
    reader = consumer(fresh("ck-reader"))
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    equal(read(reader, 1)[0].value(), b"first")
    reader.close()


if __name__ == "__main__":
    main()
