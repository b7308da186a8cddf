import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

import kafka.admin.ConfigCommand;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Exit;
import org.apache.kafka.tools.BrokerApiVersionsCommand;
import org.apache.kafka.tools.ClusterTool;
import org.apache.kafka.tools.ConsoleProducer;
import org.apache.kafka.tools.ConsumerPerformance;
import org.apache.kafka.tools.DeleteRecordsCommand;
import org.apache.kafka.tools.DumpLogSegments;
import org.apache.kafka.tools.EndToEndLatency;
import org.apache.kafka.tools.FeatureCommand;
import org.apache.kafka.tools.GetOffsetShell;
import org.apache.kafka.tools.GroupsCommand;
import org.apache.kafka.tools.LeaderElectionCommand;
import org.apache.kafka.tools.LogDirsCommand;
import org.apache.kafka.tools.MetadataQuorumCommand;
import org.apache.kafka.tools.ProducerPerformance;
import org.apache.kafka.tools.TopicCommand;
import org.apache.kafka.tools.VerifiableConsumer;
import org.apache.kafka.tools.VerifiableProducer;
import org.apache.kafka.tools.consumer.ConsoleConsumer;
import org.apache.kafka.tools.consumer.group.ConsumerGroupCommand;
import org.apache.kafka.tools.reassign.ReassignPartitionsCommand;

/**
 * Apache Kafka's own programs, unchanged, through their `main`, in one JVM: their standard output and exit code are
 * captured and checked. With the argument `dump`, DumpLogSegments reads the data directory of a stopped broker instead.
 * One line for each check: `ok NAME` or `FAIL NAME: why`.
 */
public final class KafkaPrograms {
    private static final PrintStream OUT = System.out;
    private static final String BOOTSTRAP = System.getenv("KAPPA_BOOTSTRAP");
    private static final Path DATA = Path.of(System.getenv("KAPPA_DATA"));
    private static final int PERFORMANCE_RECORDS = 20_000;
    private static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    private static int failed = 0;
    private static volatile int exitCode = -1;

    /** What a program printed and how it ended. */
    private record Result(int code, String out, String err) {
        Result succeeded() {
            if (code != 0) throw new AssertionError("exit code " + code + ", printed " + cut(out + err));
            return this;
        }

        Result contains(String... parts) {
            for (String part : parts)
                if (!out.contains(part)) throw new AssertionError("no \"" + part + "\" in what it printed: " + cut(out + err));
            return this;
        }

        Result lacks(String part) {
            if (out.contains(part)) throw new AssertionError("\"" + part + "\" in what it printed: " + cut(out));
            return this;
        }

        Matcher matches(String pattern) {
            Matcher matcher = Pattern.compile(pattern, Pattern.MULTILINE).matcher(out);
            if (!matcher.find()) throw new AssertionError("no match of /" + pattern + "/ in what it printed: " + cut(out + err));
            return matcher;
        }
    }

    /** Thrown where a program would end the process. */
    private static final class Exited extends RuntimeException {
    }

    private interface Check {
        void run() throws Exception;
    }

    public static void main(String[] arguments) {
        Exit.Procedure exit = (code, message) -> {
            // A program that catches what is thrown here ends again, with another code: the first one counts.
            if (exitCode < 0) exitCode = code;
            throw new Exited();
        };
        Exit.setExitProcedure(exit);
        Exit.setHaltProcedure(exit);
        if (arguments.length > 0 && arguments[0].equals("dump")) {
            dumpChecks();
        } else {
            onlineChecks();
        }
        OUT.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    private static void onlineChecks() {
        check("BrokerApiVersionsCommand shows what is served", KafkaPrograms::apiVersions);
        check("TopicCommand creates, lists, describes, alters and deletes", KafkaPrograms::topics);
        check("ConfigCommand describes, sets and removes topic configs", KafkaPrograms::configs);
        check("ConfigCommand describes the broker's configs", KafkaPrograms::brokerConfigs);
        for (String codec : CODECS)
            check("ProducerPerformance and ConsumerPerformance with " + codec, () -> performance(codec));
        check("GetOffsetShell finds earliest, latest, largest time and time", KafkaPrograms::offsets);
        check("ConsoleProducer and ConsoleConsumer carry keys, headers and nulls", KafkaPrograms::console);
        check("VerifiableProducer and VerifiableConsumer agree", KafkaPrograms::verifiable);
        check("ConsumerGroupCommand lists and describes an active group", KafkaPrograms::activeGroup);
        check("ConsumerGroupCommand resets and deletes", KafkaPrograms::resetAndDelete);
        check("GroupsCommand lists the group", KafkaPrograms::groups);
        check("DeleteRecordsCommand moves the log start", KafkaPrograms::deleteRecords);
        check("LogDirsCommand shows the sizes", KafkaPrograms::logDirs);
        check("LeaderElectionCommand finds every partition led", KafkaPrograms::elections);
        check("ReassignPartitionsCommand finds the only replica where it is", KafkaPrograms::reassignments);
        check("MetadataQuorumCommand, FeatureCommand and ClusterTool see one node", KafkaPrograms::oneNode);
        check("EndToEndLatency prints percentiles", KafkaPrograms::latency);
        check("two Java consumers share a group and one takes over", KafkaPrograms::javaGroup);
    }

    private static void check(String name, Check check) {
        long started = System.nanoTime();
        try {
            check.run();
            OUT.printf(Locale.ROOT, "ok %s (%.1f s)%n", name, (System.nanoTime() - started) / 1e9);
        } catch (Throwable error) {
            failed++;
            OUT.println("FAIL " + name + ": " + (error.getClass().getSimpleName() + ": " + error.getMessage()).replace('\n', '~').replaceAll("~\tat [^~]*", ""));
        }
        OUT.flush();
    }

    private static Result run(Class<?> program, String... arguments) {
        return run("", program, arguments);
    }

    private static Result run(String input, Class<?> program, String... arguments) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        InputStream in = System.in;
        PrintStream standardError = System.err;
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        exitCode = -1;
        try {
            program.getMethod("main", String[].class).invoke(null, (Object) arguments);
        } catch (InvocationTargetException error) {
            if (!(error.getCause() instanceof Exited)) {
                exitCode = 1;
                error.getCause().printStackTrace();
            }
        } catch (ReflectiveOperationException error) {
            throw new AssertionError(error);
        } finally {
            System.out.flush();
            System.setIn(in);
            System.setOut(OUT);
            System.setErr(standardError);
        }
        return new Result(Math.max(exitCode, 0), out.toString(StandardCharsets.UTF_8), err.toString(StandardCharsets.UTF_8));
    }

    /** A program that prints its summary while the JVM shuts down needs a JVM of its own. */
    private static Result runAlone(Class<?> program, String... arguments) throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        List<String> command = new ArrayList<>(List.of(java, "-cp", System.getProperty("java.class.path"), program.getName()));
        command.addAll(List.of(withBootstrap(arguments)));
        Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.DISCARD).start();
        String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        return new Result(process.waitFor(), out, "");
    }

    private static Result online(Class<?> program, String... arguments) {
        return run(program, withBootstrap(arguments));
    }

    private static String[] withBootstrap(String... arguments) {
        return Stream.concat(Stream.of("--bootstrap-server", BOOTSTRAP), Stream.of(arguments)).toArray(String[]::new);
    }

    private static void apiVersions() {
        Result result = online(BrokerApiVersionsCommand.class).succeeded().contains(BOOTSTRAP + " (id: ");
        String served = "Produce(0): 0 to 13; Fetch(1): 4 to 18; ListOffsets(2): 1 to 11; Metadata(3): 0 to 13;"
            + " OffsetCommit(8): 2 to 10; OffsetFetch(9): 1 to 10; FindCoordinator(10): 0 to 6; JoinGroup(11): 0 to 9;"
            + " Heartbeat(12): 0 to 4; LeaveGroup(13): 0 to 5; SyncGroup(14): 0 to 5; DescribeGroups(15): 0 to 6;"
            + " ListGroups(16): 0 to 5; ApiVersions(18): 0 to 4; CreateTopics(19): 2 to 7; DeleteTopics(20): 1 to 6;"
            + " DeleteRecords(21): 0 to 2; InitProducerId(22): 0 to 5; OffsetForLeaderEpoch(23): 2 to 4;"
            + " DescribeConfigs(32): 1 to 4; AlterConfigs(33): 0 to 2; AlterReplicaLogDirs(34): 1 to 2; DescribeLogDirs(35): 1 to 5;"
            + " CreatePartitions(37): 0 to 3; DeleteGroups(42): 0 to 2; ElectLeaders(43): 0 to 2; IncrementalAlterConfigs(44): 0 to 1;"
            + " AlterPartitionReassignments(45): 0 to 1; ListPartitionReassignments(46): 0; OffsetDelete(47): 0; DescribeQuorum(55): 0 to 2;"
            + " UpdateFeatures(57): 0 to 2; DescribeCluster(60): 0 to 2; UnregisterBroker(64): 0;"
            + " ListConfigResources(74): 0 to 1; DescribeTopicPartitions(75): 0";
        for (String line : served.split("; ?")) result.contains("\t" + line + " [usable: ");
        result.lacks("ERROR");
    }

    private static void topics() {
        online(TopicCommand.class, "--create", "--topic", "jt-topics", "--partitions", "3", "--replication-factor", "1",
            "--config", "retention.ms=3600000").succeeded().contains("Created topic jt-topics.");
        online(TopicCommand.class, "--create", "--topic", "jt-topics", "--if-not-exists").succeeded();
        Result again = online(TopicCommand.class, "--create", "--topic", "jt-topics");
        if (again.code != 1) throw new AssertionError("an existing topic was created again");
        again.contains("jt-topics", " already exists");
        online(TopicCommand.class, "--list").succeeded().matches("^jt-topics$");
        Result described = online(TopicCommand.class, "--describe", "--topic", "jt-topics").succeeded();
        described.matches("^Topic: jt-topics\tTopicId: [A-Za-z0-9_-]{22}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: .*retention.ms=3600000");
        for (int partition = 0; partition < 3; partition++)
            described.matches("^\tTopic: jt-topics\tPartition: " + partition + "\tLeader: (\\d+)\tReplicas: \\1\tIsr: \\1");
        online(TopicCommand.class, "--alter", "--topic", "jt-topics", "--partitions", "5").succeeded();
        online(TopicCommand.class, "--describe", "--topic", "jt-topics").succeeded().contains("PartitionCount: 5");
        Result fewer = online(TopicCommand.class, "--alter", "--topic", "jt-topics", "--partitions", "2");
        if (fewer.code != 1) throw new AssertionError("the number of partitions was reduced");
        online(TopicCommand.class, "--describe", "--unavailable-partitions").succeeded().lacks("jt-topics");
        Result bad = online(TopicCommand.class, "--create", "--topic", "jt-bad", "--config", "retention.ms=soon");
        if (bad.code != 1) throw new AssertionError("an invalid config was accepted");
        Result odd = online(TopicCommand.class, "--create", "--topic", "jt bad");
        if (odd.code != 1) throw new AssertionError("an invalid name was accepted");
        online(TopicCommand.class, "--delete", "--topic", "jt-topics").succeeded();
        online(TopicCommand.class, "--list").succeeded().lacks("jt-topics");
        Result gone = online(TopicCommand.class, "--describe", "--topic", "jt-topics");
        gone.contains("Topic 'jt-topics' does not exist as expected");
    }

    private static void create(String topic, int partitions) {
        online(TopicCommand.class, "--create", "--topic", topic, "--partitions", String.valueOf(partitions)).succeeded();
    }

    private static void configs() {
        create("jt-configs", 1);
        String[] entity = {"--entity-type", "topics", "--entity-name", "jt-configs"};
        config(entity, "--alter", "--add-config", "retention.ms=7200000,cleanup.policy=[compact,delete]")
            .succeeded().contains("Completed updating config for topic jt-configs.");
        config(entity, "--describe").succeeded().contains("Dynamic configs for topic jt-configs are:",
            "  retention.ms=7200000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=7200000",
            "  cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}");
        config(entity, "--describe", "--all").succeeded().contains("All configs for topic jt-configs are:",
            "  segment.bytes=1073741824 sensitive=false synonyms={", "  max.message.bytes=1048588 sensitive=false", "  compression.type=producer ");
        config(entity, "--alter", "--delete-config", "retention.ms").succeeded();
        config(entity, "--describe").succeeded().lacks("retention.ms").contains("cleanup.policy=compact,delete");
        Result bad = config(entity, "--alter", "--add-config", "max.message.bytes=-7");
        if (bad.code == 0) throw new AssertionError("an invalid value was accepted");
        Result unknown = config(entity, "--alter", "--add-config", "no.such.key=1");
        if (unknown.code == 0) throw new AssertionError("an unknown key was accepted");
    }

    private static Result config(String[] entity, String... arguments) {
        return online(ConfigCommand.class, Stream.concat(Stream.of(entity), Stream.of(arguments)).toArray(String[]::new));
    }

    private static String node() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP))) {
            return String.valueOf(admin.describeCluster().controller().get().id());
        }
    }

    private static void brokerConfigs() throws Exception {
        String[] entity = {"--entity-type", "brokers", "--entity-name", node()};
        config(entity, "--describe", "--all").succeeded()
            .contains("All configs for broker " + node() + " are:", "  num.partitions=1 ", "  auto.create.topics.enable=true ");
    }

    private static void performance(String codec) {
        String topic = "jt-perf-" + codec;
        create(topic, 1);
        run(ProducerPerformance.class, "--bootstrap-server", BOOTSTRAP, "--topic", topic, "--num-records",
            String.valueOf(PERFORMANCE_RECORDS), "--record-size", "200", "--throughput", "-1", "--command-property", "compression.type=" + codec)
            .succeeded().matches("^" + PERFORMANCE_RECORDS + " records sent, [0-9.]+ records/sec \\([0-9.]+ MB/sec\\), [0-9.]+ ms avg latency");
        Result consumed = online(ConsumerPerformance.class, "--topic", topic, "--num-records", String.valueOf(PERFORMANCE_RECORDS),
            "--group", "jt-perf-" + codec).succeeded();
        String row = consumed.out.lines().filter(line -> line.startsWith("20")).reduce((first, last) -> last).orElse("");
        String[] columns = row.split(", ");
        if (columns.length < 6 || !columns[4].equals(String.valueOf(PERFORMANCE_RECORDS)))
            throw new AssertionError("expected " + PERFORMANCE_RECORDS + " messages consumed: " + cut(consumed.out + consumed.err));
    }

    private static void offsets() throws Exception {
        create("jt-offsets", 2);
        try (KafkaProducer<String, String> producer = producer()) {
            for (int n = 0; n < 100; n++)
                producer.send(new ProducerRecord<>("jt-offsets", n % 2, 1_000_000L + n, null, "v" + n)).get();
        }
        online(GetOffsetShell.class, "--topic", "jt-offsets").succeeded().contains("jt-offsets:0:50\n", "jt-offsets:1:50\n");
        online(GetOffsetShell.class, "--topic-partitions", "jt-offsets:1", "--time", "earliest").succeeded().contains("jt-offsets:1:0\n").lacks("jt-offsets:0");
        online(GetOffsetShell.class, "--topic", "jt-offsets", "--time", "-3").succeeded().contains("jt-offsets:0:49\n", "jt-offsets:1:49\n");
        online(GetOffsetShell.class, "--topic", "jt-offsets", "--time", "1000051").succeeded().contains("jt-offsets:0:26\n", "jt-offsets:1:25\n");
        online(GetOffsetShell.class, "--topic", "jt-offsets", "--time", "earliest-local").succeeded().contains("jt-offsets:0:0\n");
        online(GetOffsetShell.class, "--topic", "jt-offsets", "--time", "2000000").succeeded();
    }

    private static void console() {
        create("jt-console", 1);
        run("h1:a,h2:b\tk1\tone\nh1:c\tk2\tNULL\nh1:\tNULL\ttwo\n", ConsoleProducer.class, withBootstrap("--topic", "jt-console",
            "--reader-property", "parse.key=true", "--reader-property", "parse.headers=true", "--reader-property", "null.marker=NULL"))
            .succeeded();
        Result all = online(ConsoleConsumer.class, "--topic", "jt-console", "--from-beginning", "--max-messages", "3", "--timeout-ms", "20000",
            "--formatter-property", "print.key=true", "--formatter-property", "print.headers=true", "--formatter-property", "print.offset=true",
            "--formatter-property", "print.partition=true", "--formatter-property", "print.timestamp=true").succeeded();
        all.matches("^CreateTime:\\d{13}\tPartition:0\tOffset:0\th1:a,h2:b\tk1\tone$");
        all.matches("^CreateTime:\\d{13}\tPartition:0\tOffset:1\th1:c\tk2\tnull$");
        all.matches("^CreateTime:\\d{13}\tPartition:0\tOffset:2\th1:\tnull\ttwo$");
        Result part = online(ConsoleConsumer.class, "--topic", "jt-console", "--partition", "0", "--offset", "2", "--max-messages", "1", "--timeout-ms", "20000");
        part.succeeded();
        if (!part.out.equals("two\n")) throw new AssertionError("from offset 2: " + cut(part.out + part.err));
    }

    private static void verifiable() throws Exception {
        create("jt-verifiable", 3);
        runAlone(VerifiableProducer.class, "--topic", "jt-verifiable", "--max-messages", "1000", "--acks", "-1")
            .succeeded().matches("\"name\":\"tool_data\",\"sent\":1000,\"acked\":1000,");
        Result consumed = runAlone(VerifiableConsumer.class, "--topic", "jt-verifiable", "--group-id", "jt-verifiable",
            "--max-messages", "1000", "--reset-policy", "earliest", "--verbose").succeeded();
        consumed.contains("\"name\":\"startup_complete\"", "\"name\":\"partitions_assigned\"", "\"name\":\"offsets_committed\"", "\"success\":true", "\"name\":\"shutdown_complete\"")
            .lacks("\"success\":false");
        Set<String> values = new HashSet<>();
        Matcher matcher = Pattern.compile("\"name\":\"record_data\".*\"value\":\"(\\d+)\"").matcher(consumed.out);
        int rows = 0;
        while (matcher.find()) {
            values.add(matcher.group(1));
            rows++;
        }
        if (rows != 1000 || values.size() != 1000) throw new AssertionError(rows + " records, " + values.size() + " values of 1000: " + cut(consumed.out));
    }

    private static KafkaProducer<String, String> producer() {
        return new KafkaProducer<>(Map.of("bootstrap.servers", BOOTSTRAP, "linger.ms", "0"), new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String group, String client) {
        Properties settings = new Properties();
        settings.putAll(Map.of("bootstrap.servers", BOOTSTRAP, "group.id", group, "client.id", client, "auto.offset.reset", "earliest",
            "enable.auto.commit", "false"));
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static void fill(String topic, int partitions, int records) throws Exception {
        create(topic, partitions);
        try (KafkaProducer<String, String> producer = producer()) {
            List<java.util.concurrent.Future<?>> sent = new ArrayList<>();
            for (int n = 0; n < records; n++) sent.add(producer.send(new ProducerRecord<>(topic, n % partitions, "k" + n, "v" + n)));
            for (java.util.concurrent.Future<?> future : sent) future.get();
        }
    }

    private static void activeGroup() throws Exception {
        fill("jt-group", 2, 100);
        try (KafkaConsumer<String, String> consumer = consumer("jt-group", "jt-client")) {
            consumer.subscribe(List.of("jt-group"));
            int seen = 0;
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (seen < 100 && System.nanoTime() < deadline) seen += consumer.poll(Duration.ofMillis(100)).count();
            if (seen != 100) throw new AssertionError("read " + seen + " of 100 records");
            consumer.commitSync();
            try (KafkaProducer<String, String> producer = producer()) {
                for (int n = 0; n < 5; n++) producer.send(new ProducerRecord<>("jt-group", 1, null, "more")).get();
            }
            online(ConsumerGroupCommand.class, "--list").succeeded().matches("^jt-group$");
            online(ConsumerGroupCommand.class, "--list", "--state").succeeded().matches("^jt-group +Stable *$");
            Result rows = online(ConsumerGroupCommand.class, "--describe", "--group", "jt-group").succeeded();
            rows.matches("^GROUP +TOPIC +PARTITION +CURRENT-OFFSET +LOG-END-OFFSET +LAG +CONSUMER-ID +HOST +CLIENT-ID");
            rows.matches("^jt-group +jt-group +0 +50 +50 +0 +jt-client-[0-9a-f-]{36} +/127.0.0.1 +jt-client *$");
            rows.matches("^jt-group +jt-group +1 +50 +55 +5 +jt-client-[0-9a-f-]{36} +/127.0.0.1 +jt-client *$");
            online(ConsumerGroupCommand.class, "--describe", "--group", "jt-group", "--members", "--verbose").succeeded()
                .matches("^jt-group +jt-client-[0-9a-f-]{36} +/127.0.0.1 +jt-client +2 .*jt-group[:(]0,1");
            online(ConsumerGroupCommand.class, "--describe", "--group", "jt-group", "--state").succeeded()
                .matches("^jt-group +127.0.0.1:\\d+ +\\(\\d+\\) +range +Stable +1 *$");
            Result refused = online(ConsumerGroupCommand.class, "--delete", "--group", "jt-group");
            refused.contains("GroupNotEmptyException");
        }
        online(ConsumerGroupCommand.class, "--describe", "--group", "jt-group", "--state").succeeded().matches("^jt-group .* Empty +0 *$");
    }

    private static void resetAndDelete() throws Exception {
        fill("jt-reset", 2, 40);
        try (KafkaConsumer<String, String> consumer = consumer("jt-reset", "jt-client")) {
            consumer.subscribe(List.of("jt-reset"));
            int seen = 0;
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (seen < 40 && System.nanoTime() < deadline) seen += consumer.poll(Duration.ofMillis(100)).count();
            consumer.commitSync();
        }
        reset("--to-offset", "7", "--dry-run").matches("^jt-reset +jt-reset +0 +7 *$");
        describeReset().matches("^jt-reset +jt-reset +0 +20 +20 +0 ");
        reset("--to-offset", "7", "--execute").matches("^jt-reset +jt-reset +1 +7 *$");
        describeReset().matches("^jt-reset +jt-reset +0 +7 +20 +13 ");
        reset("--shift-by", "3", "--execute").matches("^jt-reset +jt-reset +0 +10 *$");
        reset("--to-earliest", "--execute").matches("^jt-reset +jt-reset +0 +0 *$");
        reset("--to-datetime", "2000-01-01T00:00:00.000", "--execute").matches("^jt-reset +jt-reset +0 +0 *$");
        reset("--to-latest", "--execute").matches("^jt-reset +jt-reset +1 +20 *$");
        online(ConsumerGroupCommand.class, "--delete-offsets", "--group", "jt-reset", "--topic", "jt-reset:1").succeeded().matches("^jt-reset +1 +Successful");
        describeReset().matches("^jt-reset +jt-reset +0 +20 +20 +0 ");
        describeReset().lacks("jt-reset        jt-reset        1 ");
        online(ConsumerGroupCommand.class, "--delete", "--group", "jt-reset").succeeded()
            .contains("Deletion of requested consumer groups ('jt-reset') was successful.");
        online(ConsumerGroupCommand.class, "--list").succeeded().lacks("jt-reset");
        online(ConsumerGroupCommand.class, "--describe", "--group", "jt-reset").contains("GroupIdNotFoundException", "jt-reset");
    }

    private static Result reset(String... how) {
        String[] base = {"--reset-offsets", "--group", "jt-reset", "--topic", "jt-reset"};
        return online(ConsumerGroupCommand.class, Stream.concat(Stream.of(base), Stream.of(how)).toArray(String[]::new)).succeeded();
    }

    private static Result describeReset() {
        return online(ConsumerGroupCommand.class, "--describe", "--group", "jt-reset").succeeded();
    }

    private static void groups() {
        online(GroupsCommand.class, "--list").succeeded().matches("^jt-group +Classic +consumer *$");
        online(GroupsCommand.class, "--list", "--consumer").succeeded().matches("^jt-group +Classic +consumer *$");
    }

    private static void deleteRecords() throws Exception {
        fill("jt-delete", 1, 20);
        Path file = Files.createTempFile("delete-records", ".json");
        Files.writeString(file, "{\"partitions\":[{\"topic\":\"jt-delete\",\"partition\":0,\"offset\":8}],\"version\":1}");
        online(DeleteRecordsCommand.class, "--offset-json-file", file.toString()).succeeded()
            .contains("Executing records delete operation", "Records delete operation completed:", "partition: jt-delete-0\tlow_watermark: 8");
        Files.delete(file);
        online(GetOffsetShell.class, "--topic", "jt-delete", "--time", "earliest").succeeded().contains("jt-delete:0:8\n");
        Result rest = online(ConsoleConsumer.class, "--topic", "jt-delete", "--from-beginning", "--max-messages", "12", "--timeout-ms", "20000").succeeded();
        if (!rest.out.startsWith("v8\n") || !rest.out.endsWith("v19\n")) throw new AssertionError("after the deletion: " + cut(rest.out));
    }

    private static void logDirs() throws Exception {
        Result result = online(LogDirsCommand.class, "--describe", "--topic-list", "jt-delete,jt-perf-none").succeeded();
        result.contains("Querying brokers for log directories information", "Received log directory information from brokers " + node(),
            "\"logDir\":\"" + DATA.toAbsolutePath(), "\"error\":null");
        int size = Integer.parseInt(result.matches("\"partition\":\"jt-perf-none-0\",\"size\":(\\d+)|\"size\":(\\d+),\"partition\":\"jt-perf-none-0\"").group(1));
        if (size < 200 * PERFORMANCE_RECORDS) throw new AssertionError("jt-perf-none-0 of " + size + " bytes");
    }

    private static void elections() {
        create("jt-node", 2);
        for (String type : List.of("preferred", "unclean")) {
            online(LeaderElectionCommand.class, "--election-type", type, "--all-topic-partitions").succeeded();
            online(LeaderElectionCommand.class, "--election-type", type, "--topic", "jt-node", "--partition", "1").succeeded()
                .contains("Valid replica already elected for partitions jt-node-1");
        }
        Result unknown = online(LeaderElectionCommand.class, "--election-type", "preferred", "--topic", "jt-none", "--partition", "0");
        refused(unknown, "UnknownTopicOrPartitionException");
    }

    private static void reassignments() throws Exception {
        online(ReassignPartitionsCommand.class, "--list").contains("No partition reassignments found.");
        Path file = Files.createTempFile("reassignment", ".json");
        try {
            Files.writeString(file, "{\"version\":1,\"partitions\":[{\"topic\":\"jt-node\",\"partition\":0,\"replicas\":[" + node()
                + "],\"log_dirs\":[\"" + DATA.toAbsolutePath() + "\"]}]}");
            String[] how = {"--preserve-throttles", "--reassignment-json-file", file.toString()};
            online(ReassignPartitionsCommand.class, "--execute", how[1], how[2])
                .contains("Successfully started partition reassignment for jt-node-0", "Successfully started moving log directory to " + DATA.toAbsolutePath());
            online(ReassignPartitionsCommand.class, "--verify", how[0], how[1], how[2])
                .contains("Reassignment of partition jt-node-0 is completed.", " completed successfully.");
            online(ReassignPartitionsCommand.class, "--cancel", how[0], how[1], how[2])
                .contains("None of the specified partition reassignments are active.");
        } finally {
            Files.delete(file);
        }
    }

    private static void oneNode() throws Exception {
        Result status = online(MetadataQuorumCommand.class, "describe", "--status").succeeded();
        status.matches("^LeaderId: +" + node() + "$");
        status.matches("^HighWatermark: +[1-9][0-9]*$");
        status.matches("^CurrentVoters: +\\[\\{\"id\": " + node() + ", [^{]*$");
        status.matches("^CurrentObservers: +\\[\\]$");
        online(MetadataQuorumCommand.class, "describe", "--replication").succeeded().matches("^" + node() + "\\s.*\\sLeader\\s*$");
        refused(online(FeatureCommand.class, "upgrade", "--feature", "no.version=1"), "Could not upgrade no.version to 1");
        refused(run(ClusterTool.class, "unregister", "--bootstrap-server", BOOTSTRAP, "--id", "99"), "BrokerIdNotRegisteredException");
    }

    private static void refused(Result result, String why) {
        if (result.code != 1) throw new AssertionError("exit code " + result.code + ", printed " + cut(result.out + result.err));
        new Result(1, result.out + result.err, "").contains(why);
    }

    private static void latency() {
        create("jt-latency", 1);
        Result result = online(EndToEndLatency.class, "--topic", "jt-latency", "--num-records", "200", "--producer-acks", "all", "--record-size", "100").succeeded();
        result.matches("^Avg latency: [0-9.]+ ms");
        result.matches("^Percentiles: 50th = \\d+, 99th = \\d+, 99.9th = \\d+");
    }

    private static void javaGroup() throws Exception {
        fill("jt-shared", 4, 40);
        Set<String> seen = new HashSet<>();
        try (KafkaConsumer<String, String> one = consumer("jt-shared", "one")) {
            one.subscribe(List.of("jt-shared"));
            pollUntil(seen, 4, 40, one);
            KafkaConsumer<String, String> two = consumer("jt-shared", "two");
            two.subscribe(List.of("jt-shared"));
            one.commitSync();
            Thread poller = new Thread(() -> pollUntil(new HashSet<>(), 2, 0, one));
            poller.start();
            pollUntil(seen, 2, 40, two);
            poller.join();
            two.close();
            pollUntil(seen, 4, 40, one);
        }
    }

    /** Polls until `partitions` are assigned and `values` different values were seen. */
    private static void pollUntil(Set<String> seen, int partitions, int values, KafkaConsumer<String, String> consumer) {
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (consumer.assignment().size() != partitions || seen.size() < values) {
            if (System.nanoTime() > deadline)
                throw new AssertionError(consumer.assignment() + " assigned, " + seen.size() + " values; expected " + partitions + ", " + values);
            consumer.poll(Duration.ofMillis(50)).forEach(record -> seen.add(record.value()));
        }
    }

    private static void dumpChecks() {
        check("DumpLogSegments finds every batch and record of every log valid", KafkaPrograms::dumpLogs);
        check("DumpLogSegments decodes the records that were produced", KafkaPrograms::dumpRecords);
        check("DumpLogSegments finds every index sane and in agreement with its log", KafkaPrograms::dumpIndexes);
        check("DumpLogSegments reads every producer snapshot", KafkaPrograms::dumpSnapshots);
        check("DumpLogSegments decodes group offsets", KafkaPrograms::dumpOffsets);
    }

    private static List<Path> files(String suffix) throws Exception {
        try (Stream<Path> all = Files.walk(DATA)) {
            return all.filter(path -> path.toString().endsWith(suffix) && !path.toString().contains("-delete/"))
                .sorted().collect(Collectors.toList());
        }
    }

    private static Result dump(Path file, String... more) {
        return run(DumpLogSegments.class, Stream.concat(Stream.of("--files", file.toString()), Stream.of(more)).toArray(String[]::new)).succeeded();
    }

    private static void dumpLogs() throws Exception {
        List<Path> logs = files(".log");
        if (logs.size() < 20) throw new AssertionError("only " + logs.size() + " segments in " + DATA);
        long batches = 0;
        for (Path log : logs) {
            Result result = dump(log, "--deep-iteration");
            batches += result.out.lines().filter(line -> line.startsWith("baseOffset: ")).count();
            result.lacks("isvalid: false").lacks("invalid bytes").lacks("Found non-consecutive").lacks("WARN");
            if (Files.size(log) > 0) result.contains("isvalid: true");
        }
        if (batches < 100) throw new AssertionError("only " + batches + " batches");
    }

    private static Path partition(String name) {
        return DATA.resolve(name).resolve("00000000000000000000.log");
    }

    private static void dumpRecords() {
        Result console = dump(partition("jt-console-0"), "--print-data-log");
        console.matches("\\| offset: 0 .*isValid|\\| offset: 0 CreateTime: \\d+ keySize: 2 valueSize: 3 sequence: \\d+ headerKeys: \\[h1,h2\\] key: k1 payload: one");
        console.matches("\\| offset: 1 CreateTime: \\d+ keySize: 2 valueSize: -1 ");
        console.matches("\\| offset: 2 CreateTime: \\d+ keySize: -1 valueSize: 3 .* payload: two");
        for (String codec : CODECS) {
            Result result = dump(partition("jt-perf-" + codec + "-0"), "--deep-iteration");
            result.contains("compresscodec: " + codec);
            long records = result.out.lines().filter(line -> line.startsWith("| offset: ")).count();
            if (records != PERFORMANCE_RECORDS) throw new AssertionError(codec + ": " + records + " records of " + PERFORMANCE_RECORDS);
        }
    }

    private static void dumpIndexes() throws Exception {
        Map<String, Integer> entries = new TreeMap<>();
        for (String suffix : List.of(".index", ".timeindex")) {
            for (Path index : files(suffix)) {
                if (!dump(index, "--index-sanity-check").out.contains(" is empty."))
                    dump(index, "--index-sanity-check").contains(" passed sanity check.");
                Result verified = dump(index, "--verify-index-only");
                verified.lacks("Mismatches in").lacks("Found timestamp mismatch").lacks("Found out of order").lacks("Found indexed offset without");
                Result listed = dump(index);
                entries.merge(suffix, (int) listed.out.lines().filter(line -> line.matches("(offset: [1-9]|timestamp: \\d{10,}).*")).count(), Integer::sum);
            }
        }
        if (entries.getOrDefault(".index", 0) < 100 || entries.getOrDefault(".timeindex", 0) < 20)
            throw new AssertionError("hardly any index entries: " + entries);
    }

    private static void dumpSnapshots() throws Exception {
        int producers = 0;
        for (Path snapshot : files(".snapshot"))
            producers += (int) dump(snapshot).out.lines().filter(line -> line.matches("producerId: \\d+ producerEpoch: \\d+ .*")).count();
        if (producers == 0) throw new AssertionError("no producer in any snapshot");
    }

    private static void dumpOffsets() throws Exception {
        StringBuilder all = new StringBuilder();
        for (Path log : files(".log"))
            if (log.toString().contains("__consumer_offsets-")) all.append(dump(log, "--offsets-decoder").out);
        Result decoded = new Result(0, all.toString(), "");
        decoded.contains("\"group\":\"jt-group\"", "\"topic\":\"jt-group\"", "\"protocolType\":\"consumer\"");
        decoded.matches("key: \\{\"type\":\"1\",\"data\":\\{\"group\":\"jt-group\",\"topic\":\"jt-group\",\"partition\":0\\}\\} payload: \\{\"version\":\"\\d\",\"data\":\\{\"offset\":50,");
        decoded.matches("key: \\{\"type\":\"2\",\"data\":\\{\"group\":\"jt-group\"\\}\\} payload: \\{\"version\":\"\\d\",\"data\":\\{");
        decoded.matches("key: \\{\"type\":\"2\",\"data\":\\{\"group\":\"jt-reset\"\\}\\} payload: (<DELETE>|null|NULL)");
    }

    private static String cut(String text) {
        return text.length() <= 900 ? text : text.substring(0, 450) + " ... " + text.substring(text.length() - 450) + "... (" + text.length() + " characters)";
    }
}
