"""kcat (librdkafka of Debian) with no option but -b: produce, consume, query, groups."""

import json
import subprocess
import tempfile
import time

from checks import BOOTSTRAP, CODECS, check, contains, equal, fresh, main, wait_until


def kcat(*arguments, text="", seconds=60):
    """What kcat prints; it must end with 0."""
    done = subprocess.run(
        ["kcat", "-b", BOOTSTRAP, *arguments],
        input=text, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        raise AssertionError(f"kcat {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def consume(topic, *arguments, template="%k=%s\n"):
    return kcat("-C", "-q", "-e", "-t", topic, "-f", template, *arguments)


@check
def metadata_names_the_broker_and_the_topic():
    topic = fresh("kcat-list")
    kcat("-P", "-t", topic, text="one\n")
    contains(kcat("-L"), "1 brokers:", f"at {BOOTSTRAP} (controller)", f'topic "{topic}" with 1 partitions:')
    listed = json.loads(kcat("-L", "-J", "-t", topic))
    equal([entry["topic"] for entry in listed["topics"]], [topic], "topics")
    equal(listed["brokers"][0]["name"], BOOTSTRAP, "broker address")


@check
def lines_come_back_in_order_with_offsets_and_sizes():
    topic = fresh("kcat-lines")
    kcat("-P", "-t", topic, text="".join(f"line {n}\n" for n in range(1000)))
    got = consume(topic, "-o", "beginning", template="%p %o %S %s\n")
    equal(got, "".join(f"0 {n} {len(f'line {n}')} line {n}\n" for n in range(1000)))


@check
def every_codec_comes_back_with_its_bytes():
    for codec in CODECS:
        topic = fresh(f"kcat-{codec}")
        lines = [f"k{n}:{'value ' * 20}{n}" for n in range(500)]
        kcat("-P", "-t", topic, "-K:", "-z", codec, text="\n".join(lines) + "\n")
        equal(consume(topic, "-o", "beginning", template="%k:%s\n").splitlines(), lines, codec)


@check
def keys_headers_nulls_and_timestamps_come_back():
    topic = fresh("kcat-fields")
    before = int(time.time() * 1000)
    kcat("-P", "-t", topic, "-K:", "-Z", "-H", "kind=test", "-H", "empty=", text="a:1\nb:\n:2\n")
    after = int(time.time() * 1000)
    rows = [line.split("|") for line in consume(topic, "-o", "beginning", template="%K|%k|%S|%s|%h|%T\n").splitlines()]
    equal([row[:5] for row in rows], [
        ["1", "a", "1", "1", "kind=test,empty="],
        ["1", "b", "-1", "", "kind=test,empty="],
        ["-1", "", "1", "2", "kind=test,empty="],
    ])
    for row in rows:
        if not before - 1000 <= int(row[5]) <= after + 1000:
            raise AssertionError(f"timestamp {row[5]} is not between {before} and {after}")


@check
def reading_starts_at_end_offset_and_time():
    topic = fresh("kcat-offsets")
    kcat("-P", "-t", topic, text="a\nb\nc\n")
    time.sleep(0.05)
    between = int(time.time() * 1000)
    time.sleep(0.05)
    kcat("-P", "-t", topic, text="d\ne\n")
    equal(consume(topic, "-o", "-2", template="%s"), "de", "-o -2")
    equal(consume(topic, "-o", "1", template="%s"), "bcde", "-o 1")
    equal(consume(topic, "-o", f"s@{between}", template="%s"), "de", "-o s@time")
    equal(consume(topic, "-o", "end", template="%s"), "", "-o end")
    equal(kcat("-Q", "-t", f"{topic}:0:{between}"), f"{topic} [0] offset 3\n", "-Q time")
    equal(kcat("-Q", "-t", f"{topic}:0:-1"), f"{topic} [0] offset 5\n", "-Q end")
    equal(kcat("-Q", "-t", f"{topic}:0:-2"), f"{topic} [0] offset 0\n", "-Q beginning")


@check
def a_large_message_comes_back():
    topic = fresh("kcat-large")
    with tempfile.NamedTemporaryFile("w") as file:
        body = "".join(f"{n:08d}" for n in range(120_000))
        file.write(body)
        file.flush()
        kcat("-P", "-t", topic, file.name)
    got = consume(topic, "-o", "beginning", template="%s")
    if got != body:
        raise AssertionError(f"{len(body)} bytes produced, {len(got)} consumed, not equal")


@check
def a_group_goes_on_where_it_stopped():
    topic, group = fresh("kcat-group"), fresh("kcat-members")
    kcat("-P", "-t", topic, text="one\ntwo\n")
    first = kcat("-G", group, "-q", "-e", "-o", "beginning", topic)
    equal(first, "one\ntwo\n")
    kcat("-P", "-t", topic, text="three\n")
    equal(kcat("-G", group, "-q", "-e", topic), "three\n")


@check
def a_waiting_consumer_sees_a_record_at_once():
    topic = fresh("kcat-tail")
    kcat("-P", "-t", topic, text="old\n")
    child = subprocess.Popen(
        ["kcat", "-b", BOOTSTRAP, "-C", "-u", "-q", "-t", topic, "-o", "beginning", "-c", "2"],
        stdout=subprocess.PIPE, text=True)
    try:
        equal(child.stdout.readline(), "old\n")
        kcat("-P", "-t", topic, text="new\n")
        started = time.monotonic()
        equal(child.stdout.readline(), "new\n")
        if time.monotonic() - started > 1:
            raise AssertionError(f"the record was seen {time.monotonic() - started:.1f} s after it was acknowledged")
        wait_until(lambda: child.poll() is not None, "kcat ends after two records")
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
