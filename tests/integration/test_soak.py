"""Ten minutes of everything that grows and shrinks a log, on one broker process.

Segments are small, so that thousands are rolled, deleted and compacted under those who write and
read. In the end every acknowledged record that retention or compaction did not take is read,
at the offset of its acknowledgement, and the process is no larger than before and has no more files
open. `ZKAFKA_SOAK_SECONDS` makes it shorter, for whoever works on this test.
"""

import os
import statistics
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as Place

from zkafka.testing.cluster import Cluster
from zkafka.testing.zookeeper import ZooKeeper

SECONDS = float(os.environ.get("ZKAFKA_SOAK_SECONDS", "600"))
PATIENCE_S = 120.0
PARTITIONS = 3
KEYS = 300
AT_ONCE = 200
GROWTH_BYTES = 4 << 20
"""What the resident memory may differ from one third of the time to the next, both at their median:
a byte for each of the records of a third would be as much."""
GROWTH_FILES = 30
"""How many there are goes with the pace; thousands of segments come and go in a third."""

SETTINGS = {
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.backoff.ms": "200",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.segment.delete.delay.ms": "1000",
}
TOPICS = {
    "deleted": {"segment.bytes": "200000", "retention.bytes": "2000000"},
    "compacted": {
        "segment.bytes": "100000",
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
    },
}

Numbers = dict[int, "array[int]"]
"""By partition: the number in the record at each offset, -1 where none is known."""


def nothing() -> Numbers:
    return {partition: array("q") for partition in range(PARTITIONS)}


def note(numbers: Numbers, message: Message) -> None:
    known, offset = numbers[message.partition()], message.offset()
    while len(known) <= offset:
        known.append(-1)
    assert known[offset] == -1, f"{message.topic()}-{message.partition()}: {offset} twice"
    known[offset] = int(message.value()[:12])


def number_of(message: Message) -> int:
    assert message.error() is None, message.error()
    return int(message.value()[:12])


def produce(bootstrap: str, topic: str, stop: threading.Event, acked: Numbers) -> None:
    """Records with rising numbers and a few keys, until told to stop; all of them acknowledged."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            note(acked, message)
        else:
            failed.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    number = 0
    while not stop.is_set():
        for _ in range(AT_ONCE):
            number += 1
            key = number * 7919 % KEYS
            producer.produce(
                topic,
                b"%012d" % number + b"x" * (key % 150),
                b"%d" % key,
                partition=key % PARTITIONS,
                on_delivery=delivered,
            )
        assert producer.flush(PATIENCE_S) == 0
        assert not failed, failed


def consumer_of(bootstrap: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 500,
            "log_level": 3,  # that retention was quicker is no news
        }
    )


def follow(bootstrap: str, topic: str, stop: threading.Event, seen: Numbers) -> None:
    """What a group's consumer at the end of the log is given. It misses only what is gone."""
    consumer = consumer_of(bootstrap, f"followers of {topic}")
    consumer.subscribe([topic])
    due = dict.fromkeys(range(PARTITIONS), 0)
    try:
        while not stop.is_set():
            for message in consumer.consume(1000, 0.5):
                assert message.error() is None, message.error()
                partition, offset = message.partition(), message.offset()
                assert offset >= due[partition]
                if offset > due[partition] and topic == "deleted":
                    low, _ = consumer.get_watermark_offsets(Place(topic, partition))
                    assert low >= offset, "skipped what is still there"
                due[partition] = offset + 1
                note(seen, message)
    finally:
        consumer.close()


def reread(bootstrap: str, topic: str, stop: threading.Event, _: Numbers) -> None:
    """Somebody who begins at the beginning again and again, where segments are about to go."""
    consumer = consumer_of(bootstrap, "nobody")
    try:
        while not stop.is_set():
            consumer.assign(
                [Place(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
            )
            for _ in range(20):
                for message in consumer.consume(500, 0.5):
                    number_of(message)
    finally:
        consumer.close()


def read_all(
    bootstrap: str, topic: str
) -> tuple[dict[int, int], Numbers, dict[int, dict[bytes, int]]]:
    """Where each partition begins, what is in it, and the last number of each key."""
    starts, found = {}, nothing()
    last: dict[int, dict[bytes, int]] = {partition: {} for partition in range(PARTITIONS)}
    consumer = consumer_of(bootstrap, "readers")
    try:
        for partition in range(PARTITIONS):
            place = Place(topic, partition)
            starts[partition], end = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
            place.offset = OFFSET_BEGINNING
            consumer.assign([place])
            offset = -1
            while offset < end - 1:
                message = consumer.poll(PATIENCE_S)
                assert message is not None, (
                    f"no more of {topic}-{partition} after {offset} of {end}"
                )
                last[partition][message.key()] = number_of(message)
                note(found, message)
                offset = message.offset()
    finally:
        consumer.close()
    return starts, found, last


def resident_bytes(pid: int) -> int:
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) * 1024


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


Worker = Callable[[str, str, threading.Event, Numbers], None]


@pytest.mark.long
async def test_ten_minutes_of_it_leave_nothing_behind(tmp_path, zookeeper: ZooKeeper):
    acked = {topic: nothing() for topic in TOPICS}
    seen = {topic: nothing() for topic in TOPICS}
    samples: list[tuple[int, int]] = []
    async with Cluster(
        1, zookeeper=zookeeper, chroot="/soak", directory=tmp_path / "cluster", config=SETTINGS
    ) as cluster:
        for topic, config in TOPICS.items():
            await cluster.create_topic(topic, partitions=PARTITIONS, config=config)
        pid = cluster.brokers[1].pid
        produced, consumed = threading.Event(), threading.Event()
        try:
            async with trio.open_nursery() as consuming:
                try:
                    async with trio.open_nursery() as producing:

                        def begin(
                            nursery: trio.Nursery, worker: Worker, *arguments: object
                        ) -> None:
                            nursery.start_soon(
                                trio.to_thread.run_sync, worker, cluster.bootstrap, *arguments
                            )

                        for topic in TOPICS:
                            begin(producing, produce, topic, produced, acked[topic])
                            begin(consuming, follow, topic, consumed, seen[topic])
                            begin(consuming, reread, topic, consumed, seen[topic])
                        end = trio.current_time() + SECONDS
                        while trio.current_time() < end:
                            await trio.sleep(1.0)
                            samples.append((resident_bytes(pid), open_files(pid)))
                        produced.set()
                finally:
                    produced.set()
                    consumed.set()
        finally:
            produced.set()
            consumed.set()
        await judge(cluster, acked, seen)
    third = len(samples) // 3
    second, third = samples[third : 2 * third], samples[2 * third :]
    memory = [statistics.median(sample[0] for sample in part) for part in (second, third)]
    files = [statistics.median(sample[1] for sample in part) for part in (second, third)]
    print(f"resident MiB {memory[0] / 2**20:.1f} {memory[1] / 2**20:.1f}, open files {files}")
    assert memory[1] - memory[0] < GROWTH_BYTES
    assert files[1] - files[0] <= GROWTH_FILES


async def judge(cluster: Cluster, acked: dict[str, Numbers], seen: dict[str, Numbers]) -> None:
    for topic in TOPICS:
        starts, found, last = await trio.to_thread.run_sync(read_all, cluster.bootstrap, topic)
        for partition in range(PARTITIONS):
            sent, start = acked[topic][partition], starts[partition]
            assert -1 not in sent, "an offset that nobody's record got"
            there = {o: n for o, n in enumerate(found[partition]) if n >= 0}
            assert len(sent) > 1000
            print(f"{topic}-{partition}: {len(sent)} sent, starts at {start}, {len(there)} there")
            for offset, number in enumerate(seen[topic][partition]):
                assert number in (-1, sent[offset])
            if topic == "deleted":
                assert start > 0
                assert there == dict(enumerate(sent[start:], start))
                continue
            assert all(sent[offset] == number for offset, number in there.items())
            assert len(there) < len(sent) / 2
            latest = {b"%d" % (number * 7919 % KEYS): number for number in sent}
            assert last[partition] == latest
