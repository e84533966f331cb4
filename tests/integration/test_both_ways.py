"""One data directory and one ZooKeeper, served in turn by Apache Kafka 3.9 and by us.

Whoever comes next serves every record with its offset, timestamp, key and headers, and every
group's offsets, under the same cluster id and topic ids, whether the one before was stopped or
killed; and goes on where it ended.
"""

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_kafka import command, tool
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from zkafka.testing.processes import ChildProcess, free_ports
from zkafka.testing.zookeeper import ZooKeeper

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PATIENCE_S = 240.0
"""How long anything may take on a busy machine."""

SETTINGS = {
    "broker.id": "1",
    "zookeeper.session.timeout.ms": "6000",
    "offsets.topic.num.partitions": "2",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.segment.bytes": "12000",
    "log.index.interval.bytes": "1000",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.cleaner.enable": "false",  # compaction has tests of its own
}

TOPICS: dict[str, dict[str, str]] = {
    "plain": {},
    "timed": {"message.timestamp.type": "LogAppendTime"},
    **{codec: {"compression.type": codec} for codec in ("gzip", "snappy", "lz4", "zstd")},
    "uncompressed": {"compression.type": "uncompressed", "message.timestamp.type": "LogAppendTime"},
}

LOG4J = """
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
"""

Seen = dict[tuple[str, int], list[tuple[Any, ...]]]


class Place:
    """The directory, the settings and the ZooKeeper that both are started on."""

    def __init__(self, directory: Path, zookeeper: ZooKeeper) -> None:
        (port,) = free_ports(1)
        self.bootstrap = f"127.0.0.1:{port}"
        self.connect = zookeeper.connect
        self.directory = directory
        self.data = directory / "data"
        self.properties = directory / "server.properties"
        settings = SETTINGS | {
            "listeners": f"PLAINTEXT://{self.bootstrap}",
            "zookeeper.connect": self.connect,
            "log.dirs": str(self.data),
        }
        self.log4j = directory / "log4j.properties"
        self.log4j.write_text(LOG4J)
        self.properties.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self.topics: set[str] = set()
        """Those that must be there when somebody starts."""
        self.process: ChildProcess | None = None
        self.starts = itertools.count(1)

    def start(self, who: str) -> None:
        """`kafka` or `zkafka`; returns when every partition has a leader."""
        self.wait_until_gone()
        java, *rest = command("kafka.Kafka", str(self.properties))
        argv = {
            "kafka": [java, f"-Dlog4j.configuration=file:{self.log4j}", *rest],
            "zkafka": [sys.executable, "-m", "zkafka", str(self.properties)],
        }[who]
        log_path = self.directory / f"{next(self.starts)}-{who}.log"
        self.process = ChildProcess.spawn(who, argv, log_path=log_path)
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_whole():
            assert self.process.running, self.process.log_tail()
            assert time.monotonic() < deadline, self.process.log_tail()

    def is_whole(self) -> bool:
        try:
            picture = AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=5)
        except KafkaException:
            return False
        partitions = [p for t in picture.topics.values() for p in t.partitions.values()]
        known = picture.topics.keys() >= self.topics
        return bool(picture.brokers) and known and all(p.leader == 1 for p in partitions)

    def wait_until_gone(self) -> None:
        """Wait until the last one's registration has ended with its session: Kafka would not start
        beside it."""
        deadline = time.monotonic() + PATIENCE_S
        while znode(self.connect, "/brokers/ids/1") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self, ending: str) -> str:
        """Stop or kill whoever serves; what it printed."""
        process, self.process = self.process, None
        assert process is not None
        if ending == "kill":
            process.signal(signal.SIGKILL)
            assert process.wait(60)
        else:
            process.end(60)
        clean = (self.data / ".kafka_cleanshutdown").exists()
        assert clean == (ending == "stop")
        said = process.log_path.read_text()
        assert "Traceback" not in said
        assert not re.search(r"(?m)^\S+ \S+ (ERROR|CRITICAL)|^\[[^]]*\] (ERROR|FATAL)", said), said
        return said


@pytest.fixture
def place(tmp_path: Path, kafka_jars: Path) -> Iterator[Place]:
    assert kafka_jars.is_dir()
    with ZooKeeper.create(tmp_path / "zookeeper") as zookeeper:
        place = Place(tmp_path, zookeeper)
        try:
            yield place
        finally:
            if place.process is not None:
                place.process.end(5)


def znode(connect: str, path: str) -> bytes | None:
    """What ZooKeeper holds there; None if nothing is there."""
    client = KazooClient(connect)
    client.start(PATIENCE_S)
    try:
        data: bytes = client.get(path)[0]
        return data
    except NoNodeError:
        return None
    finally:
        client.stop()
        client.close()


# --- What is written and read --------------------------------------------------------------------


def create_topics(place: Place, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    topics = [NewTopic(prefix + name, 2, 1, config=config) for name, config in TOPICS.items()]
    for name, future in admin.create_topics(topics).items():
        future.result(PATIENCE_S)
        place.topics.add(name)


def fill(place: Place, prefix: str, round_: int) -> None:
    """Records of every codec into every topic, with headers, null keys and null values."""
    now_ms = int(time.time() * 1000)
    for codec in CODECS:
        producer = Producer(
            {
                "bootstrap.servers": place.bootstrap,
                "compression.type": codec,
                "enable.idempotence": codec != "none",
                "batch.num.messages": 25,
                "linger.ms": 5,
            }
        )
        for name, n in itertools.product(TOPICS, range(150)):
            producer.produce(
                prefix + name,
                None if n % 10 == 9 else f"{codec} {round_} {n} ".encode() * 12,
                None if n % 7 == 6 else f"key-{n % 5}",
                partition=n % 2,
                timestamp=now_ms - 10_000 * (n % 13),
                headers=[("codec", codec.encode()), ("empty", None), ("codec", b"")][: n % 4],
            )
        assert producer.flush(PATIENCE_S) == 0


def transact(place: Place, topic: str) -> None:
    """A transaction committed and one aborted: their markers are batches as well."""
    producer = Producer(
        {"bootstrap.servers": place.bootstrap, "transactional.id": "t", "compression.type": "lz4"}
    )
    producer.init_transactions(PATIENCE_S)
    for decide in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for n in range(10):
            producer.produce(topic, f"{decide.__name__} {n}", partition=0)
        decide(PATIENCE_S)


def commit(place: Place, group: str, topic: str, offset: int) -> None:
    """Through a real membership, so that the group's own record is there too."""
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + PATIENCE_S
    while not consumer.assignment():
        consumer.poll(0.1)
        assert time.monotonic() < deadline
    offsets = [TopicPartition(topic, p, offset + p, f"up to {offset}") for p in (0, 1)]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def committed(place: Place, *groups: str) -> dict[str, set[tuple[Any, ...]]]:
    """Group -> its offsets, with their texts."""
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    found = {}
    for group in groups:
        asked = [ConsumerGroupTopicPartitions(group)]
        (future,) = admin.list_consumer_group_offsets(asked).values()
        offsets = future.result(PATIENCE_S).topic_partitions
        found[group] = {(o.topic, o.partition, o.offset, o.metadata) for o in offsets}
    return found


def everything(place: Place, *prefixes: str) -> Seen:
    """Every record of every partition, aborted ones as well."""
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    asked = {
        TopicPartition(prefix + name, partition): OffsetSpec.latest()
        for prefix, name, partition in itertools.product(prefixes, TOPICS, (0, 1))
    }
    ends = {
        (tp.topic, tp.partition): future.result(PATIENCE_S).offset
        for tp, future in (admin.list_offsets(asked) if asked else {}).items()
    }
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "check.crcs": True,
        }
    )
    seen: Seen = {at: [] for at in ends}
    waiting = {at for at, end in ends.items() if end}
    consumer.assign([TopicPartition(*at, OFFSET_BEGINNING) for at in waiting])
    deadline = time.monotonic() + PATIENCE_S
    while waiting:
        assert time.monotonic() < deadline, waiting
        for message in consumer.consume(1000, 0.5):
            assert message.error() is None, message.error()
            at = message.topic(), message.partition()
            seen[at].append(
                (
                    message.offset(),
                    message.timestamp(),
                    message.key(),
                    message.value(),
                    message.headers(),
                )
            )
        for position in consumer.position([TopicPartition(*at) for at in waiting]):
            if position.offset >= ends[position.topic, position.partition]:
                waiting.discard((position.topic, position.partition))
    consumer.close()
    return seen


def by_time(place: Place, seen: Seen) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """For some timestamps of each partition, (timestamp, the offset found for it)."""
    consumer = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "reader"})
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for at, records in seen.items():
        found[at] = []
        for record in records[:: max(1, len(records) // 5)]:
            wanted = TopicPartition(*at, record[1][1])
            (answer,) = consumer.offsets_for_times([wanted], PATIENCE_S)
            assert answer.error is None
            found[at].append((record[1][1], answer.offset))
    consumer.close()
    return found


def expected_by_time(seen: Seen) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """The same, from the records."""
    return {
        at: [
            (timestamp, next(r[0] for r in records if r[1][1] >= timestamp))
            for _, (_, timestamp), *_ in records[:: max(1, len(records) // 5)]
        ]
        for at, records in seen.items()
    }


def youngest(place: Place, seen: Seen) -> dict[tuple[str, int], tuple[int, int]]:
    """What is answered for the largest timestamp: (offset, timestamp). It may be a marker's, which
    no consumer sees; else it is the first record that has it."""
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    asked = {TopicPartition(*at): OffsetSpec.max_timestamp() for at in seen}
    answers = admin.list_offsets(asked).items() if asked else ()
    found = {(tp.topic, tp.partition): future.result(PATIENCE_S) for tp, future in answers}
    for at, answer in found.items():
        first = max(seen[at], key=lambda record: record[1][1])
        unseen = answer.offset not in {record[0] for record in seen[at]}
        assert unseen or (answer.offset, answer.timestamp) == (first[0], first[1][1])
        assert answer.timestamp >= first[1][1]
    return {at: (answer.offset, answer.timestamp) for at, answer in found.items()}


def identity(place: Place, topics: list[str]) -> dict[str, str]:
    """Cluster id and topic ids, which ZooKeeper and the data directory must agree about."""
    data = znode(place.connect, "/cluster/id")
    assert data is not None
    ids = {"cluster": json.loads(data)["id"]}
    meta = (place.data / "meta.properties").read_text()
    assert f"cluster.id={ids['cluster']}\n" in meta
    assert "broker.id=1\n" in meta
    assert "version=0\n" in meta
    for topic in topics:
        node = znode(place.connect, f"/brokers/topics/{topic}")
        assert node is not None
        ids[topic] = json.loads(node)["topic_id"]
        for path in place.data.glob(f"{topic}-[0-9]"):
            assert f"topic_id: {ids[topic]}" in (path / "partition.metadata").read_text()
    return ids


def check_dump(place: Place) -> None:
    """Kafka's own tool reads every segment, record by record."""
    logs = sorted(map(str, place.data.glob("*/*.log")))
    said = tool("kafka.tools.DumpLogSegments", "--deep-iteration", "--files", ",".join(logs))
    assert "isvalid: true" in said
    assert "isvalid: false" not in said
    assert "invalid" not in said.replace("isvalid", "")
    for codec in CODECS:
        assert f"compresscodec: {codec}" in said


# --- The tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["stop", "kill"])
@pytest.mark.parametrize("order", [("kafka", "zkafka", "kafka"), ("zkafka", "kafka", "zkafka")])
def test_each_serves_what_the_other_wrote(
    place: Place, order: tuple[str, ...], ending: str
) -> None:
    seen: Seen = {}
    young: dict[tuple[str, int], tuple[int, int]] = {}
    groups: dict[str, set[tuple[Any, ...]]] = {}
    ids: dict[str, str] = {}
    prefixes: list[str] = []
    for round_, who in enumerate(order):
        place.start(who)
        before = everything(place, *prefixes)
        assert before == seen, f"{who} serves what was there"
        assert by_time(place, before) == expected_by_time(before)
        assert youngest(place, before) == young
        assert committed(place, *groups) == groups
        if round_ < 2:
            prefixes.append(f"{who}-")
            create_topics(place, prefixes[-1])
        for prefix in prefixes:
            fill(place, prefix, round_)
        if who == "kafka":
            transact(place, prefixes[0] + "plain")
        for group in ("ours", f"of-{who}"):
            commit(place, group, prefixes[0] + "plain", 100 * (round_ + 1))
        seen = everything(place, *prefixes)
        for at, records in before.items():
            assert seen[at][: len(records)] == records
            assert len(seen[at]) > len(records), f"{who} went on in {at}"
        young = youngest(place, seen)
        groups = committed(place, "ours", *(f"of-{name}" for name in order[: round_ + 1]))
        assert all(len(offsets) == 2 for offsets in groups.values())
        now = identity(place, [prefix + name for prefix in prefixes for name in TOPICS])
        assert now.items() >= ids.items()
        ids = now
        place.end(ending)
        check_dump(place)
    assert len(list((place.data / f"{prefixes[0]}plain-0").glob("*.log"))) > 3, "segments"
