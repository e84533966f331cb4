"""What a producer sends, right and wrong, to Apache Kafka 3.9 and to us with every record checked:
the same code, the same records named, and the same batch in the log.

Where we differ, and `opening.py` or `validation.py` says so, our answer stands in the case.
"""

import gzip
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest
from apache_kafka import ApacheKafka
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
from zkafka.protocol.compression import Codec, compress
from zkafka.protocol.records import (
    Batch,
    Record,
    build_batch,
    iter_records,
    parse_batches,
    put_varint,
    seal,
    verify_crc,
)
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.zookeeper import ZooKeeper

NOW_MS = int(time.time() * 1000)
DAY_MS = 86_400_000
TOPICS = {
    "plain": {},
    "timed": {"message.timestamp.type": "LogAppendTime"},
    "zstd": {"compression.type": "zstd"},
    "none": {"compression.type": "uncompressed"},
    "window": {
        "message.timestamp.before.max.ms": str(DAY_MS),
        "message.timestamp.after.max.ms": "3600000",
    },
    "compacted": {"cleanup.policy": "compact", "message.timestamp.before.max.ms": str(DAY_MS)},
    "small": {"segment.bytes": "2000", "compression.type": "uncompressed"},
}
FOUR = ("plain", "timed", "zstd", "none")


@attrs.frozen
class Case:
    """`ours`: our code where it is not Kafka's."""

    name: str
    data: bytes
    topics: Sequence[str] = ("plain",)
    ours: ErrorCode | None = None


def record(n: int, timestamp: int | None = None, key: bytes | None = b"k") -> Record:
    return Record(key, b"v" * 20, NOW_MS + n if timestamp is None else timestamp)


TWO = [record(0), record(1)]


def patched(data: bytearray, *changes: tuple[str, int, int]) -> bytearray:
    """With header fields overwritten, (form, position, value), and a right checksum."""
    for form, position, value in changes:
        struct.pack_into(form, data, position, value)
    seal(data)
    return data


def broken(data: bytearray, form: str, position: int, value: int) -> bytearray:
    """The same, with the checksum and length as they were."""
    struct.pack_into(form, data, position, value)
    return data


def raw(body: bytes, count: int, codec: int = 0) -> bytearray:
    """These bytes, compressed, as the records of a batch of `count`."""
    data = build_batch([record(n) for n in range(count)])
    del data[61:]
    data += compress(codec, body)
    return patched(data, (">h", 21, codec))


def encoded(deltas: Sequence[int]) -> bytes:
    """Records with these offset deltas."""
    body = bytearray()
    for delta in deltas:
        one = bytearray(b"\0\0")
        put_varint(one, delta)
        one += b"\x02k\x02v\0"
        put_varint(body, len(one))
        body += one
    return bytes(body)


def lying(claimed: int, real: int) -> bytearray:
    """A batch of one codec that says to be of another."""
    return patched(build_batch(TWO, codec=real), (">h", 21, claimed))


def cases() -> Iterator[Case]:
    refused = ErrorCode.INVALID_RECORD
    for codec in Codec:
        yield Case(f"sound, {codec.name}", build_batch(TWO, codec=codec), FOUR)
    # The batch.
    sound = build_batch(TWO)
    yield Case("nothing", b"")
    yield Case("two batches", sound + sound)
    yield Case("a flipped bit", broken(build_batch(TWO), ">B", 70, 1))
    yield Case("shorter than a header", broken(build_batch(TWO), ">i", 8, 20))
    yield Case("a negative length", broken(build_batch(TWO), ">i", 8, -20))
    yield Case("format 1", broken(build_batch(TWO), ">B", 16, 1))
    yield Case("format 9", broken(build_batch(TWO), ">B", 16, 9))
    yield Case("a base offset", build_batch(TWO, base_offset=5))
    yield Case("cut short", sound[:80], ours=ErrorCode.CORRUPT_MESSAGE)
    yield Case("something after it", sound + b"junk", ours=ErrorCode.CORRUPT_MESSAGE)
    yield Case("a control batch", build_batch(TWO, control=True))
    yield Case("a producer without sequence", build_batch(TWO, producer_id=7, producer_epoch=0))
    yield Case(
        "a producer without epoch", build_batch(TWO, producer_id=7, base_sequence=0), ours=refused
    )
    yield Case("no producer but a sequence", build_batch(TWO, base_sequence=3, producer_epoch=2))
    yield Case("bits that mean nothing", patched(build_batch(TWO), (">h", 21, 0x7F00)))
    yield Case(
        "a codec nobody defined",
        patched(build_batch(TWO), (">h", 21, 5)),
        ours=ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
    )
    yield Case("too large", build_batch([record(0)._replace(value=bytes(2_000_000))]))
    huge = [record(n)._replace(value=bytes(1_000_000)) for n in range(2)]
    yield Case("too large once it is opened", build_batch(huge, codec=Codec.ZSTD), FOUR)
    for codec in (Codec.NONE, Codec.GZIP):
        long = build_batch([record(0)._replace(value=bytes(3000))], codec=codec)
        yield Case(f"larger than a segment, {codec.name}", long, ("small",))
    # Counts.
    for codec in (Codec.NONE, Codec.GZIP):
        for count in (1, 3, 0, -1):
            yield Case(
                f"{count} records, {codec.name}",
                patched(build_batch(TWO, codec=codec), (">i", 57, count), (">i", 23, count - 1)),
                FOUR,
            )
    yield Case("counts that disagree", patched(build_batch(TWO), (">i", 57, 3)))
    # Codecs.
    for claimed in Codec:
        for real in Codec:
            if claimed != real:
                yield Case(
                    f"{real.name} said to be {claimed.name}",
                    lying(claimed, real),
                    # What zstd already is stays as it is, opened because of the setting alone.
                    ("plain", "zstd"),
                    None if claimed is Codec.NONE else refused,
                )
    halves = encoded([0]), encoded([0, 1])[len(encoded([0])) :]
    members = raw(b"", 2)
    members[61:] = b"".join(map(gzip.compress, halves))
    yield Case("two gzip members", patched(members, (">h", 21, 1)))
    # Timestamps.
    for name, timestamps in {
        "old": (0, -30 * DAY_MS, 0),
        "old first": (-30 * DAY_MS, 0),
        "young": (0, 30 * DAY_MS),
        "without time": (-1 - NOW_MS, -1 - NOW_MS),
        "before 1970": (-5 - NOW_MS,),
    }.items():
        for codec in (Codec.NONE, Codec.GZIP):
            batch = build_batch([record(t) for t in timestamps], codec=codec)
            yield Case(f"{name}, {codec.name}", batch, ("window", "timed", "plain"))
    for codec in (Codec.NONE, Codec.LZ4):
        for largest in (NOW_MS - 5000, NOW_MS + 10 * DAY_MS):
            yield Case(
                f"largest {largest - NOW_MS}, {codec.name}",
                patched(build_batch(TWO, codec=codec), (">q", 35, largest)),
                ("plain", "window"),
            )
        yield Case(
            f"the broker's bit, {codec.name}",
            build_batch(TWO, codec=codec, log_append_time=True),
            ("timed",),
        )
        yield Case(
            f"the broker's bit without time, {codec.name}",
            build_batch([record(0, -1), record(1, -1)], codec=codec, log_append_time=True),
            FOUR,
        )
    yield Case(
        "the broker's bit with time", build_batch(TWO, log_append_time=True), ("plain", "none")
    )
    # Keys.
    keys = [record(0), record(1, key=None), record(2, key=b""), record(3, key=None)]
    for codec in (Codec.NONE, Codec.SNAPPY):
        yield Case(f"no key, {codec.name}", build_batch(keys, codec=codec), ("compacted", "plain"))
        both = [record(-30 * DAY_MS), record(1, key=None), record(2)]
        yield Case(f"no key and old, {codec.name}", build_batch(both, codec=codec), ("compacted",))
    # Records.
    for codec in (Codec.NONE, Codec.GZIP):
        for name, body, ours in (
            ("something after them", encoded([0, 1]) + b"\0\0", None),
            ("zeros", bytes(60), None),
            ("a header without name", bytes.fromhex("10 00 00 00 01 01 02 01 01" * 2), None),
            ("minus one headers", bytes.fromhex("0c 00 00 00 01 01 01" * 2), None),
            ("ff", b"\xff" * 60, None if codec else refused),
            (
                "longer than said",
                bytes.fromhex("0a 00 00 00 01 01 00" * 2),
                refused if codec else None,
            ),
            ("a key of minus two", bytes.fromhex("0c 00 00 00 03 01 00" * 2), refused),
        ):
            yield Case(f"{name}, {codec.name}", raw(body, 2, codec), FOUR, ours)
    yield Case("offsets 0 and 5, rebuilt", raw(encoded([0, 5]), 2, Codec.GZIP), ("zstd", "none"))
    for codec in (Codec.GZIP, Codec.ZSTD):
        yield Case(f"a bomb, {codec.name}", raw(bytes(100_000_000), 2, codec), ("plain", "none"))


CASES = {case.name: case for case in cases()}


class Outcome(NamedTuple):
    """What became of a batch: the answer, and what is in the log."""

    code: ErrorCode
    at_fault: list[int]
    """Indexes of the records named."""
    is_timed: bool
    """Whether the answer has the broker's time, and near to now."""
    stored: tuple[Any, ...] | None


def answer(port: int, topic: str, data: bytes) -> ErrorCode:
    """The code alone."""
    with Wire(port) as wire:
        return ErrorCode(wire.produce(topic, bytes(data)).error_code)


def outcome(port: int, topic: str, data: bytes) -> Outcome:
    with Wire(port) as wire:
        end = wire.end_offset(topic)
        said = wire.produce(topic, bytes(data))
        code = ErrorCode(said.error_code)
        time_ms = said.log_append_time_ms
        assert time_ms == -1 or abs(time_ms - time.time() * 1000) < 60_000
        stored = None
        if code is ErrorCode.NONE:
            assert said.base_offset == end
            fetched = wire.fetch(topic, end, partition_max_bytes=10_000_000).records
            batch = parse_batches(bytes(fetched), partial_tail=True)[0]
            assert verify_crc(batch)
            assert time_ms == (batch.max_timestamp if batch.is_log_append_time else -1)
            stored = (
                batch.codec,
                batch.attributes,
                batch.base_offset - end,
                batch.base_timestamp,
                None if batch.is_log_append_time else batch.max_timestamp,
                batch.record_count,
                batch.last_offset_delta,
                batch.producer_id,
                batch.base_sequence,
                [
                    r._replace(timestamp=0) if batch.is_log_append_time else r
                    for r in (r._replace(offset=r.offset - end) for r in iter_records(batch))
                ],
            )
        else:
            assert said.base_offset == -1
        named = [error.batch_index for error in said.record_errors]
        return Outcome(code, named, time_ms != -1, stored)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[tuple[int, int]]:
    """Kafka's, and ours."""
    assert kafka_jars.is_dir()
    directory = tmp_path_factory.mktemp("beside")
    with (
        ZooKeeper.create(directory / "zookeeper") as zookeeper,
        BlockingCluster(
            brokers=1,
            directory=directory / "ours",
            config={"zkafka.log.record.validation": "records"},
        ) as ours,
    ):
        kafka = ApacheKafka(directory, zookeeper.connect, brokers=1).start()
        try:
            for bootstrap in (kafka.bootstrap, ours.bootstrap):
                admin = AdminClient({"bootstrap.servers": bootstrap})
                topics = [NewTopic(name, 1, 1, config=config) for name, config in TOPICS.items()]
                for future in admin.create_topics(topics).values():
                    future.result(120)
                for topic in TOPICS:
                    wait_for(lambda: _leads(admin, topic), what=f"a leader of {topic}")  # noqa: B023
            yield kafka.ports[0], ours.brokers[1].port
        finally:
            kafka.stop()


def _leads(admin: AdminClient, topic: str) -> bool:
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return bool(partitions) and partitions[0].leader >= 0


@pytest.mark.parametrize("name", CASES)
def test_the_answer_and_the_log_are_kafkas(ports: tuple[int, int], name: str) -> None:
    case = CASES[name]
    if case.ours is None:
        for topic in case.topics:
            theirs, ours = (outcome(port, topic, case.data) for port in ports)
            assert ours == theirs, topic
        return
    codes = {topic: [answer(port, topic, case.data) for port in ports] for topic in case.topics}
    assert {ours for _, ours in codes.values()} == {case.ours}
    assert {theirs for theirs, _ in codes.values()} != {case.ours}, "no difference any more"


@pytest.mark.parametrize("who", ["kafka", "ours"])
def test_a_topics_settings_change_while_it_is_written(ports: tuple[int, int], who: str) -> None:
    port = ports[who == "ours"]
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
    admin.create_topics([NewTopic("changing", 1, 1)])["changing"].result(120)
    wait_for(lambda: _leads(admin, "changing"))
    old = bytes(build_batch([record(0), record(-2 * DAY_MS)], codec=Codec.LZ4))
    with Wire(port) as wire:
        for key, value, sign in (
            ("compression.type", "gzip", lambda: _last(wire, old).codec == Codec.GZIP),
            ("compression.type", "producer", lambda: _last(wire, old).codec == Codec.LZ4),
            (
                "message.timestamp.before.max.ms",
                str(DAY_MS),
                lambda: wire.produce("changing", old).error_code == ErrorCode.INVALID_TIMESTAMP,
            ),
            (
                "message.timestamp.type",
                "LogAppendTime",
                lambda: _last(wire, old).is_log_append_time,
            ),
            (
                "max.message.bytes",
                "50",
                lambda: wire.produce("changing", old).error_code == ErrorCode.MESSAGE_TOO_LARGE,
            ),
        ):
            change = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            topic = ConfigResource(ResourceType.TOPIC, "changing", incremental_configs=[change])
            admin.incremental_alter_configs([topic])[topic].result(120)
            wait_for(sign, what=f"{key}={value}")


def _last(wire: Wire, data: bytes) -> Batch:
    """The batch as it is in the log, once it was produced."""
    said = wire.produce("changing", data)
    assert said.error_code in (ErrorCode.NONE, ErrorCode.INVALID_TIMESTAMP)
    end = wire.end_offset("changing")
    return parse_batches(bytes(wire.fetch("changing", end - 1).records), partial_tail=True)[0]
