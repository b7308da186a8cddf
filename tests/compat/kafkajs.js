// kafkajs (no flexible versions): round trips in every codec, groups, offsets, admin.
"use strict";

const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require("kafkajs");
const lz4 = require("lz4-napi");
const snappy = require("kafkajs-snappy");
const { ZstdCodec } = require("zstd-codec");
const { randomUUID } = require("node:crypto");
const assert = require("node:assert/strict");

const kafka = new Kafka({
  brokers: [process.env.KAPPA_BOOTSTRAP],
  clientId: "kafkajs-checks",
  logLevel: logLevel.NOTHING,
  retry: { retries: 5 },
});
const admin = kafka.admin();
const checks = [];
const check = (name, body) => checks.push({ name, body });
const fresh = (stem) => `${stem}-${randomUUID().slice(0, 8)}`;

async function waitUntil(condition, what, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function create(topic, numPartitions = 1, configEntries = []) {
  assert.equal(await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions, configEntries }] }), true);
  return topic;
}

async function send(topic, messages, compression = CompressionTypes.None, options = {}) {
  const producer = kafka.producer(options);
  await producer.connect();
  const result = await producer.send({ topic, messages, compression, acks: -1 });
  await producer.disconnect();
  return result;
}

/** A group member that remembers what it saw. */
async function member(topic, groupId) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 200, rebalanceTimeout: 5_000, maxWaitTimeInMs: 200 });
  const state = { consumer, seen: [], assigned: [], offsets: [] };
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    state.assigned = payload.memberAssignment[topic] ?? [];
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({
    autoCommitInterval: 100,
    eachMessage: async ({ partition, message }) => {
      state.seen.push({ ...message, partition });
    },
  });
  return state;
}

async function read(topic, count) {
  const reader = await member(topic, fresh("js-reader"));
  await waitUntil(() => reader.seen.length >= count, `${count} messages read`);
  await reader.consumer.disconnect();
  assert.equal(reader.seen.length, count);
  return reader.seen;
}

for (const [codec, type] of Object.entries(CompressionTypes)) {
  check(`messages in ${codec} come back with keys, headers and timestamps`, async () => {
    const topic = await create(fresh(`js-${codec.toLowerCase()}`));
    const messages = Array.from({ length: 300 }, (_, n) => ({
      key: `k${n}`,
      value: `${"value ".repeat(20)}${n}`,
      headers: { n: String(n), twice: ["a", "b"] },
      timestamp: String(1_600_000_000_000 + n),
    }));
    const [result] = await send(topic, messages, type);
    assert.deepEqual([result.errorCode, result.baseOffset, result.partition], [0, "0", 0]);
    const seen = await read(topic, 300);
    seen.forEach((message, n) => {
      assert.equal(message.offset, String(n));
      assert.equal(message.key.toString(), messages[n].key);
      assert.equal(message.value.toString(), messages[n].value);
      assert.equal(message.timestamp, messages[n].timestamp);
      assert.equal(message.headers.n.toString(), String(n));
      assert.deepEqual(message.headers.twice.map(String), ["a", "b"]);
    });
  });
}

check("null keys and values and large messages come back", async () => {
  const topic = await create(fresh("js-null"));
  const large = Buffer.alloc(900_000, "0123456789");
  await send(topic, [{ key: null, value: "v" }, { key: "k", value: null }, { key: "large", value: large }]);
  const seen = await read(topic, 3);
  assert.deepEqual([seen[0].key, seen[0].value.toString()], [null, "v"]);
  assert.deepEqual([seen[1].key.toString(), seen[1].value], ["k", null]);
  assert.ok(seen[2].value.equals(large));
});

check("an idempotent producer appends in order", async () => {
  const topic = await create(fresh("js-idempotent"));
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (let n = 0; n < 50; n++) await producer.send({ topic, messages: [{ value: `a${n}` }, { value: `b${n}` }] });
  await producer.disconnect();
  const seen = await read(topic, 100);
  assert.deepEqual(seen.map((message) => message.value.toString()), Array.from({ length: 100 }, (_, n) => `${"ab"[n % 2]}${n >> 1}`));
});

check("two members share the partitions and one takes over", async () => {
  const topic = await create(fresh("js-group"), 4);
  const group = fresh("js-members");
  const batch = (first) => Array.from({ length: 100 }, (_, n) => ({ value: String(first + n), partition: n % 4 }));
  await send(topic, batch(0));
  const one = await member(topic, group);
  await waitUntil(() => one.seen.length === 100, "the only member reads all");
  const two = await member(topic, group);
  await waitUntil(() => one.assigned.length === 2 && two.assigned.length === 2, "two partitions each");
  assert.deepEqual([...one.assigned, ...two.assigned].sort(), [0, 1, 2, 3]);
  await send(topic, batch(100));
  const values = () => new Set([...one.seen, ...two.seen].map((message) => message.value.toString())).size;
  await waitUntil(() => values() === 200, "both read");
  await one.consumer.disconnect();
  await waitUntil(() => two.assigned.length === 4, "the other takes over");
  await send(topic, batch(200));
  await waitUntil(() => values() === 300, "the rest read");
  await two.consumer.disconnect();
});

check("offsets are committed, fetched, reset and set", async () => {
  const topic = await create(fresh("js-offsets"), 2);
  const group = fresh("js-committer");
  await send(topic, Array.from({ length: 20 }, (_, n) => ({ value: String(n), partition: n % 2 })));
  const reader = await member(topic, group);
  await waitUntil(() => reader.seen.length === 20, "read");
  await reader.consumer.commitOffsets([{ topic, partition: 0, offset: "10", metadata: "ten" }, { topic, partition: 1, offset: "10" }]);
  await reader.consumer.disconnect();
  const fetched = async () => {
    const [entry] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    return entry.partitions.sort((a, b) => a.partition - b.partition).map(({ offset, metadata }) => [offset, metadata]);
  };
  assert.deepEqual(await fetched(), [["10", "ten"], ["10", null]]);
  await admin.resetOffsets({ groupId: group, topic, earliest: true });
  // kafkajs commits the special offset -2 and looks the earliest up when it reads.
  assert.deepEqual((await fetched()).map(([offset]) => offset), ["-2", "-2"]);
  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 1, offset: "4" }] });
  assert.deepEqual((await fetched()).map(([offset]) => offset), ["-2", "4"]);
  const again = await member(topic, group);
  await waitUntil(() => again.seen.length === 16, "read again from the offsets set");
  await again.consumer.disconnect();
});

check("topic offsets and offsets by time", async () => {
  const topic = await create(fresh("js-times"));
  await send(topic, Array.from({ length: 10 }, (_, n) => ({ value: String(n), timestamp: String(1_000_000 + n) })));
  assert.deepEqual(await admin.fetchTopicOffsets(topic), [{ partition: 0, offset: "10", high: "10", low: "0" }]);
  assert.deepEqual(await admin.fetchTopicOffsetsByTimestamp(topic, 1_000_004), [{ partition: 0, offset: "4" }]);
});

check("admin creates, describes, alters and deletes", async () => {
  const topic = await create(fresh("js-admin"), 2, [{ name: "retention.ms", value: "3600000" }]);
  assert.equal(await admin.createTopics({ topics: [{ topic }] }), false);
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  assert.equal(topics[0].partitions.length, 2);
  assert.ok((await admin.listTopics()).includes(topic));
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: "max.message.bytes", value: "2000000" }] }],
  });
  const { resources } = await admin.describeConfigs({ includeSynonyms: true, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic }] });
  const value = (name) => resources[0].configEntries.find((entry) => entry.configName === name).configValue;
  // AlterConfigs replaces them all: the retention is back at its default.
  assert.deepEqual([value("max.message.bytes"), value("retention.ms")], ["2000000", "-1"]);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
  await waitUntil(async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length === 4, "four partitions");
  await send(topic, Array.from({ length: 10 }, (_, n) => ({ value: String(n), partition: 3 })));
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 3, offset: "7" }] });
  const offsets = await admin.fetchTopicOffsets(topic);
  assert.equal(offsets.find(({ partition }) => partition === 3).low, "7");
  const cluster = await admin.describeCluster();
  assert.deepEqual([cluster.brokers.length, cluster.controller], [1, cluster.brokers[0].nodeId]);
  await admin.deleteTopics({ topics: [topic] });
  await waitUntil(async () => !(await admin.listTopics()).includes(topic), "topic gone");
});

check("groups are listed, described and deleted", async () => {
  const topic = await create(fresh("js-listed"));
  const group = fresh("js-listed-group");
  const reader = await member(topic, group);
  await waitUntil(() => reader.assigned.length === 1, "assigned");
  assert.ok((await admin.listGroups()).groups.some(({ groupId, protocolType }) => groupId === group && protocolType === "consumer"));
  const described = (await admin.describeGroups([group])).groups[0];
  assert.deepEqual([described.state, described.members.length, described.members[0].clientId], ["Stable", 1, "kafkajs-checks"]);
  await reader.consumer.disconnect();
  await admin.deleteGroups([group]);
  assert.ok(!(await admin.listGroups()).groups.some(({ groupId }) => groupId === group));
});

check("a topic is created on first use", async () => {
  const topic = fresh("js-auto");
  await send(topic, [{ value: "first" }]);
  assert.equal((await read(topic, 1))[0].value.toString(), "first");
});

async function main() {
  const zstd = await new Promise((resolve) => ZstdCodec.run(resolve));
  const simple = new zstd.Simple();
  CompressionCodecs[CompressionTypes.Snappy] = snappy;
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: async (encoder) => lz4.compressFrameSync(encoder.buffer),
    decompress: async (buffer) => lz4.decompressFrameSync(buffer),
  });
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async (encoder) => Buffer.from(simple.compress(encoder.buffer)),
    decompress: async (buffer) => Buffer.from(simple.decompress(buffer)),
  });
  let failed = 0;
  await admin.connect();
  for (const { name, body } of checks) {
    const started = Date.now();
    try {
      await body();
      console.log(`ok ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${`${error.name}: ${error.message}`.replaceAll("\n", "~").slice(0, 900)}`);
    }
  }
  await admin.disconnect();
  process.exit(failed === 0 ? 0 : 1);
}

main();
