"""The client journey with kafka-python: see journey.md."""

import json
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import RebalanceInProgressError

bootstrap, topic = sys.argv[1:]
servers = bootstrap.split(",")
PER_CODEC, LATER = 20, 10
PATIENCE_S = 120


def until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        time.sleep(0.02)


def produce(prefix, count, codec=None):
    producer = KafkaProducer(
        bootstrap_servers=servers, acks="all", compression_type=codec, linger_ms=50
    )
    sent = [producer.send(topic, f"{prefix}-{i}".encode(), f"k{i}".encode()) for i in range(count)]
    for future in sent:
        future.get(PATIENCE_S)
    producer.close()


class Member(threading.Thread):
    """One consumer in a group, read by a thread of its own until told to leave."""

    def __init__(self, sink):
        super().__init__()
        self.sink, self.held, self.leaving = sink, set(), threading.Event()
        self.start()

    def run(self):
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=servers,
            group_id="g-" + topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=10000,
            heartbeat_interval_ms=300,
            metadata_max_age_ms=1000,  # the broker asked may hear of the topic a moment later
        )
        while not self.leaving.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                self.sink.extend(record.value.decode() for record in records)
            self.held = {p.partition for p in consumer.assignment()}
        while True:
            try:
                consumer.commit()
                break
            except RebalanceInProgressError:  # the other one left just now: join, commit again
                consumer.poll(timeout_ms=100)
        consumer.close(autocommit=False)

    def leave(self):
        self.leaving.set()
        self.join()


def main():
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics([NewTopic(topic, 3, 3)])

    seen = []
    first = Member(seen)
    until(lambda: len(first.held) == 3, "the first member gets every partition")
    second = Member(seen)
    until(
        lambda: first.held and second.held and len(first.held) + len(second.held) == 3,
        "the rebalance shares them out",
    )
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        produce(codec or "none", PER_CODEC, codec)
    until(lambda: len(set(seen)) == 5 * PER_CODEC, "everything is consumed")
    shares = [len(first.held), len(second.held)]
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

    reader = KafkaConsumer(bootstrap_servers=servers)
    partitions = [TopicPartition(topic, p) for p in range(3)]
    reader.assign(partitions)
    for partition, found in reader.offsets_for_times(dict.fromkeys(partitions, between)).items():
        if found is None:
            reader.seek_to_end(partition)
        else:
            reader.seek(partition, found.offset)
    by_time = []
    deadline = time.monotonic() + PATIENCE_S
    while len(by_time) < LATER and time.monotonic() < deadline:
        for records in reader.poll(timeout_ms=500).values():
            by_time.extend(record.value.decode() for record in records)
    reader.close()
    admin.close()
    print(json.dumps({"seen": seen, "shares": shares, "resumed": resumed, "by_time": by_time}))


main()
