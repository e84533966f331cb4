"""The client journey with Apache Kafka's own console tools: see journey.md.

KAFKA_JARS names the folder of jars. A JVM per step, as an operator would.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import threading
import time

bootstrap, topic = sys.argv[1:]
JAVA = ["java", "-Xmx200m", "-XX:TieredStopAtLevel=1", "-cp", os.environ["KAFKA_JARS"] + "/*"]
TOPICS = "org.apache.kafka.tools.TopicCommand"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
PRODUCER = "kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
PER_CODEC, LATER = 20, 10
PATIENCE_S = 240


def tool(name, *arguments, stdin=""):
    done = subprocess.run(
        [*JAVA, name, "--bootstrap-server", bootstrap, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        sys.exit(f"{name} {arguments}: {done.stdout[-1500:]} {done.stderr[-1500:]}")
    return done.stdout


def until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        time.sleep(0.02)


def produce(prefix, count, codec="none"):
    lines = "".join(f"k{i}:{prefix}-{i}\n" for i in range(count))
    options = ["--property", "parse.key=true", "--property", "key.separator=:"]
    options += ["--producer-property", "acks=all", "--compression-codec", codec]
    tool(PRODUCER, "--topic", topic, *options, stdin=lines)


class Member:
    """A console consumer in the group; it commits when it is told to end."""

    def __init__(self, sink):
        self.process = subprocess.Popen(
            [*JAVA, CONSUMER, "--bootstrap-server", bootstrap, "--topic", topic]
            + ["--group", "g-" + topic, "--consumer-property", "auto.offset.reset=earliest"]
            + ["--consumer-property", "heartbeat.interval.ms=300"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.thread = threading.Thread(target=self.read, args=(sink,))
        self.thread.start()

    def read(self, sink):
        for line in self.process.stdout:
            sink.append(line.strip())

    def leave(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.thread.join()


def shares_of_group():
    """How many partitions each member holds, as the groups tool tells."""
    members = re.findall(
        rf"^g-{topic}\s+{topic}\s+\d+\s+\S+\s+\S+\s+\S+\s+(\S+)\s",
        tool(GROUPS, "--describe", "--group", "g-" + topic),
        re.MULTILINE,
    )
    return sorted(members.count(member) for member in set(members) if member != "-")


def main():
    tool(TOPICS, "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "3")
    assert "PartitionCount: 3" in tool(TOPICS, "--describe", "--topic", topic)

    seen = []
    first = Member(seen)
    until(lambda: shares_of_group() == [3], "the first member gets every partition")
    second = Member(seen)
    shares = []
    until(lambda: shares.append(shares_of_group()) or len(shares[-1]) == 2, "the rebalance")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        produce(codec, PER_CODEC, codec)
    until(lambda: len(set(seen)) == 5 * PER_CODEC, "everything is consumed")
    first.leave()
    second.leave()

    time.sleep(0.02)  # the clock the records carry must move on
    between = datetime.datetime.now(datetime.UTC)
    time.sleep(0.02)
    produce("later", LATER)
    resumed = []
    third = Member(resumed)
    until(lambda: len(resumed) >= LATER, "the group resumes")
    third.leave()

    moment = between.strftime("%Y-%m-%dT%H:%M:%S.") + f"{between.microsecond // 1000:03d}"
    reset = ["--reset-offsets", "--group", "t-" + topic, "--topic", topic, "--execute"]
    tool(GROUPS, *reset, "--to-datetime", moment)
    by_time = tool(
        CONSUMER, "--topic", topic, "--group", "t-" + topic, "--max-messages", str(LATER)
    ).split()
    print(json.dumps({"seen": seen, "shares": shares[-1], "resumed": resumed, "by_time": by_time}))


main()
