"""The same batches, compacted by Apache Kafka 3.9 and by us: batch for batch the same is left.

And what is left of ours Kafka's own tools read, clients consume, and a restart finds.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from apache_kafka import ApacheKafka, tool
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from wire import Wire, wait_for

from zkafka.errors import ErrorCode
from zkafka.protocol.compression import Codec
from zkafka.protocol.records import (
    DELETE_HORIZON,
    Record,
    build_batch,
    iter_records,
    parse_batches,
    verify_crc,
)
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.zookeeper import ZooKeeper

NOW_MS = int(time.time() * 1000) - 60_000
TOPIC = "compacted"
PATIENCE_S = 240.0
"""How long anything may take on a busy machine."""
NEVER, AT_ONCE = "1.0", "0.01"
CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": "6000",
    "index.interval.bytes": "500",
    "min.cleanable.dirty.ratio": NEVER,
    "delete.retention.ms": "0",
    "file.delete.delay.ms": "200",
    "max.message.bytes": "3000",
}
CLEANER = {
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.flush.offset.checkpoint.interval.ms": "100",
}


class Batches:
    """What a few producers write, the same for every broker: keys come again, some are deleted."""

    def __init__(self) -> None:
        self._rng = random.Random(7)
        self._sequences = {-1: -1, 501: 0, 502: 0, 503: 0}
        self._count = 0

    def some(self, count: int) -> Iterator[bytes]:
        rng = self._rng
        for _ in range(count):
            records = []
            for _ in range(rng.choice([1, 1, 3, 12])):
                self._count += 1
                key = b"key-%d" % rng.randrange(40) * rng.choice([1, 1, 4])
                value = None if rng.random() < 0.15 else b"%d " % self._count * rng.choice([1, 9])
                headers = [("h", b"x")] if rng.random() < 0.2 else ()
                records.append(Record(key, value, NOW_MS + rng.randrange(1000), headers))
            producer_id = rng.choice([-1, -1, 501, 502, 503])
            sequence = self._sequences[producer_id]
            if producer_id >= 0:
                self._sequences[producer_id] += len(records)
            yield bytes(
                build_batch(
                    records,
                    codec=rng.choice([Codec.NONE, *Codec]),
                    producer_id=producer_id,
                    producer_epoch=-1 if producer_id < 0 else 0,
                    base_sequence=sequence,
                )
            )


@attrs.frozen
class Side:
    """One broker, and where it keeps the partition."""

    port: int
    directory: Path
    admin: AdminClient

    @classmethod
    def of(cls, port: int, directory: Path) -> "Side":
        return cls(port, directory, AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}))

    def create(self) -> None:
        self.admin.create_topics([NewTopic(TOPIC, 1, 1, config=CONFIG)])[TOPIC].result(120)

    def alter(self, **values: str) -> None:
        changes = [
            ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for key, value in values.items()
        ]
        topic = ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=changes)
        self.admin.incremental_alter_configs([topic])[topic].result(120)

    def produce(self, batches: list[bytes]) -> None:
        with Wire(self.port) as wire:
            for batch in batches:
                wait_for(
                    lambda: wire.produce(TOPIC, batch).error_code == ErrorCode.NONE,  # noqa: B023
                    what=f"an acknowledgement by {self.port}",
                )

    def segments(self) -> list[Path]:
        return sorted((self.directory / f"{TOPIC}-0").glob("*.log"))

    def wait_until_flushed(self) -> None:
        """What is not on the disk we do not compact yet; Kafka does. One round is to take all."""
        self._wait_until_checkpointed("recovery-point-offset-checkpoint")

    def wait_until_clean(self) -> None:
        self._wait_until_checkpointed("cleaner-offset-checkpoint")

    def _wait_until_checkpointed(self, name: str) -> None:
        active = int(self.segments()[-1].stem)
        wait_for(
            lambda: (_checkpointed(self.directory / f"{TOPIC}-0", name) or 0) >= active,
            seconds=PATIENCE_S,
            what=f"{active} in {name} of {self.port}",
        )

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """By segment: the batches' headers but for what depends on the time, and the records."""
        return {path.name: [_told(path, raw) for raw in _batches(path)] for path in self.segments()}


def _checkpointed(partition: Path, name: str = "cleaner-offset-checkpoint") -> int | None:
    """The partition's offset, up to where it was compacted, in a checkpoint of its directory."""
    checkpoint = partition.parent / name
    text = checkpoint.read_text() if checkpoint.exists() else ""
    topic, _, number = partition.name.rpartition("-")
    found = re.search(rf"^{topic} {number} (\d+)$", text, re.MULTILINE)
    return None if found is None else int(found[1])


def _batches(path: Path) -> list[Any]:
    return parse_batches(path.read_bytes())


def _told(path: Path, batch: Any) -> tuple[Any, ...]:
    assert verify_crc(batch), path
    has_horizon = bool(batch.attributes & DELETE_HORIZON)
    return (
        batch.base_offset,
        batch.last_offset,
        batch.leader_epoch,
        batch.attributes,
        None if has_horizon else batch.base_timestamp,
        batch.max_timestamp,
        (batch.producer_id, batch.producer_epoch, batch.base_sequence),
        batch.record_count,
        list(iter_records(batch)),
        # To the byte, where no compressor and no clock had a hand in it.
        None if has_horizon or batch.codec else bytes(batch.view),
    )


@pytest.fixture(scope="module")
def sides(
    tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path
) -> Iterator[Mapping[str, Side]]:
    """Kafka and us, each with the topic."""
    assert kafka_jars.is_dir()
    directory = tmp_path_factory.mktemp("compaction")
    with (
        ZooKeeper.create(directory / "zookeeper") as zookeeper,
        BlockingCluster(brokers=1, directory=directory / "ours", config=CLEANER) as ours,
    ):
        kafka = ApacheKafka(directory, zookeeper.connect, brokers=1, **CLEANER).start()
        try:
            found = {
                "kafka": Side.of(kafka.ports[0], directory / "kafka-1"),
                "ours": Side.of(ours.brokers[1].port, ours.brokers[1].data_directory),
            }
            for side in found.values():
                side.create()
            yield found
        finally:
            kafka.stop()


def test_the_same_is_left_of_the_same_batches(sides: Mapping[str, Side]) -> None:
    batches = Batches()
    first, second = list(batches.some(250)), list(batches.some(120))
    # Too large, until the settings that are changed together with max.message.bytes are in force.
    large = bytes(build_batch([Record(b"key-1", b"large " * 700, NOW_MS)]))
    counts = []
    for sent in (first, [large, *second]):
        for side in sides.values():
            side.produce(sent)
        sides["ours"].wait_until_flushed()
        dirty = {name: side.contents() for name, side in sides.items()}
        assert dirty["ours"].keys() == dirty["kafka"].keys()
        for side in sides.values():
            # In the second round several segments become one.
            larger = {"segment_bytes": "15000"} if counts else {}
            side.alter(min_cleanable_dirty_ratio=AT_ONCE, **larger)
            side.wait_until_clean()
            side.alter(min_cleanable_dirty_ratio=NEVER, max_message_bytes="50000")
        clean = {name: side.contents() for name, side in sides.items()}
        assert clean["ours"].keys() == clean["kafka"].keys()
        for segment, expected in clean["kafka"].items():
            assert clean["ours"][segment] == expected, segment
        counts.append(_seen(clean["ours"]))
        assert counts[-1]["records"] < _seen(dirty["ours"])["records"] / 2
    assert len(clean["ours"]) < len(dirty["ours"]) / 2
    assert counts[0]["tombstones"] > 0
    assert counts[0]["horizons"] > 0
    assert counts[1]["empty"] + counts[0]["empty"] > 0


def _seen(contents: Mapping[str, list[tuple[Any, ...]]]) -> dict[str, int]:
    told = [batch for batches in contents.values() for batch in batches]
    return {
        "records": sum(batch[7] for batch in told),
        "tombstones": sum(r.value is None for batch in told for r in batch[8]),
        "horizons": sum(bool(batch[3] & DELETE_HORIZON) for batch in told),
        "empty": sum(batch[7] == 0 for batch in told),
    }


def test_kafkas_tools_read_what_is_left(sides: Mapping[str, Side]) -> None:
    ours = sides["ours"]
    wait_for(
        lambda: not list((ours.directory / f"{TOPIC}-0").glob("*.deleted")),
        seconds=PATIENCE_S,
        what="the removal of the old segments",
    )
    logs = ours.segments()
    assert _checkpointed(ours.directory / f"{TOPIC}-0") == int(logs[-1].stem)
    dump = "kafka.tools.DumpLogSegments"
    said = tool(dump, "--deep-iteration", "--print-data-log", "--files", ",".join(map(str, logs)))
    assert "isvalid: true" in said
    assert "isvalid: false" not in said
    assert "Found invalid" not in said
    records = [r for batches in ours.contents().values() for batch in batches for r in batch[8]]
    assert said.count("| offset: ") == len(records)
    assert "deleteHorizonMs: OptionalLong[" in said
    sealed = [path.with_suffix(suffix) for path in logs[:-1] for suffix in (".index", ".timeindex")]
    said = tool(dump, "--files", ",".join(map(str, sealed)))
    said += tool(dump, "--verify-index-only", "--files", ",".join(map(str, sealed)))
    for complaint in ("Mismatches", "timestamp mismatch", "out of order", "Non-consecutive"):
        assert complaint not in said, said[:3000]


def test_a_consumer_finds_the_last_value_of_every_key(sides: Mapping[str, Side]) -> None:
    last: dict[str, dict[bytes, bytes | None]] = {}
    for name, side in sides.items():
        with Wire(side.port) as wire:
            end = wire.end_offset(TOPIC)
        consumer = Consumer(
            {
                "bootstrap.servers": f"127.0.0.1:{side.port}",
                "group.id": "reader",
                "enable.auto.commit": False,
                "enable.partition.eof": False,
            }
        )
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        last[name] = {}
        deadline = time.monotonic() + PATIENCE_S
        while consumer.position([TopicPartition(TOPIC, 0)])[0].offset < end:
            assert time.monotonic() < deadline
            for message in consumer.consume(500, 1.0):
                assert message.error() is None
                last[name][message.key()] = message.value()
        consumer.close()
    assert last["ours"] == last["kafka"]
    assert len(last["ours"]) > 40


def test_the_offsets_topic_is_compacted_and_found_again(tmp_path: Path) -> None:
    config = {
        "offsets.topic.num.partitions": "1",
        "offsets.topic.segment.bytes": "10000",
        "log.cleaner.backoff.ms": "100",
        "log.cleaner.min.cleanable.ratio": "0.01",
        "log.segment.delete.delay.ms": "0",
    }
    with BlockingCluster(brokers=1, directory=tmp_path, config=config) as cluster:
        cluster.create_topic("t", partitions=1, replication_factor=1)
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        directory = cluster.brokers[1].data_directory / "__consumer_offsets-0"

        def commit(offset: int) -> None:
            wanted = ConsumerGroupTopicPartitions("g", [TopicPartition("t", 0, offset)])
            [future] = admin.alter_consumer_group_offsets([wanted]).values()
            [committed] = future.result(120).topic_partitions
            assert committed.error is None

        def committed() -> int:
            # One client for each: librdkafka's waits for the coordinator that it lost.
            admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
            asked = ConsumerGroupTopicPartitions("g", [TopicPartition("t", 0)])
            [future] = admin.list_consumer_group_offsets([asked]).values()
            offset: int = future.result(120).topic_partitions[0].offset
            return offset

        def at_most(count: int) -> bool:
            try:
                found = [b.record_count for p in directory.glob("*.log") for b in _batches(p)]
            except FileNotFoundError:
                return False  # a compacted segment has just taken its place
            return sum(found) <= count

        for offset in range(400):
            commit(offset)
        wait_for(lambda: at_most(200), seconds=PATIENCE_S, what="a compacted log")
        cluster.kill(1)
        cluster.start(1)
        wait_for(lambda: committed() == 399, what="the last commit")
        wait_for(
            lambda: _checkpointed(directory) == 384, seconds=PATIENCE_S, what="the whole round"
        )
        cluster.restart(1)
        wait_for(lambda: committed() == 399, what="the last commit, again")
        wait_for(lambda: at_most(20), seconds=PATIENCE_S, what="what was left before")
