"""The client journey with kcat, and `zkafka topics create` for what kcat cannot: see journey.md."""

import collections
import json
import re
import subprocess
import sys
import threading
import time

bootstrap, topic = sys.argv[1:]
PER_CODEC, LATER = 20, 10
PATIENCE_S = 120


def until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        time.sleep(0.02)


def produce(prefix, count, codec="none"):
    lines = "".join(f"k{i}:{prefix}-{i}\n" for i in range(count))
    subprocess.run(
        ["kcat", "-b", bootstrap, "-P", "-t", topic, "-K:", "-z", codec, "-X", "acks=all"]
        + ["-X", "enable.idempotence=true"],
        input=lines.encode(),
        check=True,
        timeout=PATIENCE_S,
    )


class Member:
    """`kcat -G`: what it printed, and from its rebalance reports how many partitions it holds."""

    def __init__(self, sink):
        self.held = 0
        self.process = subprocess.Popen(
            ["kcat", "-b", bootstrap, "-G", "g-" + topic, "-u", "-f", "%s\n"]
            + ["-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=300"]
            # The broker asked may hear of the topic a moment later.
            + ["-X", "topic.metadata.refresh.interval.ms=1000"]
            + ["-X", "session.timeout.ms=10000", topic],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.threads = [
            threading.Thread(target=self.read, args=(sink,)),
            threading.Thread(target=self.watch),
        ]
        for thread in self.threads:
            thread.start()

    def read(self, sink):
        for line in self.process.stdout:
            sink.append(line.strip())

    def watch(self):
        for line in self.process.stderr:
            if "rebalanced" in line and "assigned:" in line:
                assigned = line.split("assigned:")[1]
                self.held = len(re.findall(re.escape(topic) + r" \[\d+\]", assigned))
            elif "revoked" in line:
                self.held = 0

    def leave(self):
        """It commits what it has read, and leaves."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        for thread in self.threads:
            thread.join()


def main():
    create = [sys.executable, "-m", "zkafka.cli.main", "topics", "create", "-b", bootstrap, topic]
    subprocess.run(
        [*create, "-p", "3", "-r", "3"], check=True, timeout=PATIENCE_S, capture_output=True
    )

    seen = []
    first = Member(seen)
    until(lambda: first.held == 3, "the first member gets every partition")
    second = Member(seen)
    until(
        lambda: first.held and second.held and first.held + second.held == 3,
        "the rebalance shares them out",
    )
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        produce(codec, PER_CODEC, codec)
    until(lambda: len(set(seen)) == 5 * PER_CODEC, "everything is consumed")
    shares = [first.held, second.held]
    first.leave()
    second.leave()

    time.sleep(0.02)  # the clock the records carry must move on
    between = int(time.time() * 1000)
    time.sleep(0.02)
    produce("later", LATER)
    resumed = []
    third = Member(resumed)
    until(lambda: len(resumed) >= LATER, "the group resumes")
    third.leave()

    by_time = subprocess.run(
        ["kcat", "-b", bootstrap, "-C", "-t", topic, "-o", f"s@{between}", "-e", "-q"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout.split()
    counts = collections.Counter(seen)
    assert counts, "nothing was seen"
    print(json.dumps({"seen": seen, "shares": shares, "resumed": resumed, "by_time": by_time}))


main()
