"""aiokafka: asyncio producer, consumer and group."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from checks import BOOTSTRAP, CODECS, check, equal, fresh, main


async def create(topic, partitions=1):
    admin = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await admin.start()
    await admin.create_topics([NewTopic(topic, partitions, 1)])
    await admin.close()
    return topic


async def produce(topic, rows, codec=None):
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True, compression_type=codec) as producer:
        sent = [await producer.send(topic, **row) for row in rows]
        return [(await future).offset for future in sent]


@check
def every_codec_comes_back():
    async def body():
        for codec in CODECS:
            topic = await create(fresh(f"aio-{codec}"))
            rows = [{"key": f"k{n}".encode(), "value": b"value " * 20 + str(n).encode(),
                     "headers": [("n", str(n).encode())], "timestamp_ms": 1_600_000_000_000 + n} for n in range(300)]
            equal(await produce(topic, rows, None if codec == "none" else codec), list(range(300)), "offsets")
            async with AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest") as consumer:
                consumer.assign([TopicPartition(topic, 0)])
                for row in rows:
                    record = await asyncio.wait_for(consumer.getone(), 10)
                    equal((record.key, record.value, list(record.headers), record.timestamp),
                          (row["key"], row["value"], row["headers"], row["timestamp_ms"]), codec)
    asyncio.run(body())


@check
def a_group_of_two_shares_commits_and_takes_over():
    async def body():
        topic, group = await create(fresh("aio-group"), 4), fresh("aio-members")
        options = {"bootstrap_servers": BOOTSTRAP, "group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False}

        async def shared(*members):
            for _ in range(300):
                sizes = [len(member.assignment()) for member in members]
                if sizes == [4 // len(members)] * len(members):
                    return
                await asyncio.sleep(0.1)
            raise AssertionError(f"assigned {sizes} of 4 partitions")

        first = AIOKafkaConsumer(topic, **options)
        await first.start()
        await shared(first)
        second = AIOKafkaConsumer(topic, **options)
        await second.start()
        await shared(first, second)
        await produce(topic, [{"value": str(n).encode(), "partition": n % 4} for n in range(100)])
        got = []
        for _ in range(100):
            for member in (first, second):
                for records in (await member.getmany(timeout_ms=100)).values():
                    got += [record.value for record in records]
            if len(got) >= 100:
                break
        equal(sorted(got, key=int), [str(n).encode() for n in range(100)], "values")
        await first.commit()
        await second.commit()
        await second.stop()
        await shared(first)
        equal([await first.committed(TopicPartition(topic, n)) for n in range(4)], [25] * 4, "committed")
        await first.stop()
    asyncio.run(body())


if __name__ == "__main__":
    main()
