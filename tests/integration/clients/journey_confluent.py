"""The client journey with confluent-kafka (librdkafka): see journey.md."""

import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

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
    failures = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": codec,
            "linger.ms": 50,
        }
    )
    for i in range(count):
        producer.produce(
            topic,
            f"{prefix}-{i}",
            f"k{i}",
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    left = producer.flush(PATIENCE_S)
    if left or failures:
        sys.exit(f"produce {prefix}: {left} left, {failures}")


class Member(threading.Thread):
    """One consumer in a group, read by a thread of its own until told to leave."""

    def __init__(self, sink, assignor="range"):
        super().__init__()
        self.sink, self.held = sink, set()
        self.enough, self.committed, self.leaving = (threading.Event() for _ in range(3))
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "g-" + topic,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 10000,
                "heartbeat.interval.ms": 300,
                # The broker asked may hear of the topic a moment later.
                "topic.metadata.refresh.interval.ms": 1000,
                "partition.assignment.strategy": assignor,
            }
        )
        self.consumer.subscribe([topic], on_assign=self.assigned, on_revoke=self.revoked)
        self.start()

    def assigned(self, _, partitions):
        self.held |= {p.partition for p in partitions}

    def revoked(self, _, partitions):
        self.held -= {p.partition for p in partitions}

    def run(self):
        while not self.enough.is_set():
            message = self.consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.sink.append(message.value().decode())
        if self.sink and self.held:
            try:
                self.consumer.commit(asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._NO_OFFSET:  # it read nothing of its own
                    raise
        self.committed.set()
        self.leaving.wait()
        self.consumer.close()

    def commit(self):
        """Read no more, and commit: before anybody leaves, since then the others join anew."""
        self.enough.set()
        while not self.committed.wait(0.1):
            assert self.is_alive(), "it could not commit"

    def leave(self):
        self.leaving.set()
        self.join()


def main():
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 3, 3)])[topic].result(PATIENCE_S)
    until(lambda: topic in admin.list_topics(timeout=60).topics, "it is among all topics")

    seen = []
    first = Member(seen, "cooperative-sticky")
    until(lambda: len(first.held) == 3, "the first member gets every partition")
    second = Member(seen, "cooperative-sticky")
    until(
        lambda: first.held and second.held and len(first.held) + len(second.held) == 3,
        "the rebalance shares them out",
    )
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        produce(codec, PER_CODEC, codec)
    until(lambda: len(set(seen)) == 5 * PER_CODEC, "everything is consumed")
    shares = [len(first.held), len(second.held)]
    first.commit()
    second.commit()
    first.leave()
    second.leave()

    time.sleep(0.02)  # the clock the records carry must move on
    between = int(time.time() * 1000)
    time.sleep(0.02)
    produce("later", LATER)
    resumed = []
    third = Member(resumed, "cooperative-sticky")
    until(lambda: len(resumed) >= LATER, "the group resumes")
    third.commit()
    third.leave()

    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
    starts = reader.offsets_for_times([TopicPartition(topic, p, between) for p in range(3)], 60)
    reader.assign(starts)
    by_time = []
    deadline = time.monotonic() + PATIENCE_S
    while len(by_time) < LATER and time.monotonic() < deadline:
        message = reader.poll(0.5)
        if message is not None and message.error() is None:
            by_time.append(message.value().decode())
    reader.close()
    print(json.dumps({"seen": seen, "shares": shares, "resumed": resumed, "by_time": by_time}))


main()
