"""What Apache Kafka 3.9 left of transactions, committed, aborted and open, reaches readers of
committed records here as it did there, and in a log of our own making as in Kafka's. One that was
left open is ended with Kafka's own tool."""

from random import Random

import pytest
from apache_kafka import tool
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Producer
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from test_both_ways import PATIENCE_S, Place
from test_moves_both_ways import place, port, where  # noqa: F401
from test_moving_directories import TOPIC, alter
from wire import Wire, wait_for

from zkafka.errors import ErrorCode
from zkafka.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)

ROUNDS = 120
Seen = tuple[int, list[tuple[int, bytes]]]


def transact(place: Place, rng: Random) -> None:  # noqa: F811
    """Transactions of three producers, one in the middle of the other, and records of a fourth
    between them. The last ones are left open."""
    settings = {"bootstrap.servers": place.bootstrap, "batch.num.messages": 5}
    producers = [
        Producer(settings | {"transactional.id": name, "transaction.timeout.ms": 800_000})
        for name in ("first", "second", "third")
    ]
    plain = Producer(settings)
    for producer in producers:
        producer.init_transactions(PATIENCE_S)
    is_open = dict.fromkeys(producers, False)
    for number in range(ROUNDS):
        producer = rng.choice([*producers, plain])
        if producer is not plain and not is_open[producer]:
            producer.begin_transaction()
            is_open[producer] = True
        for part in range(rng.randint(1, 12)):
            producer.produce(TOPIC, b"%d %d " % (number, part) + b"." * 90, partition=0)
        producer.flush(PATIENCE_S)
        if producer is not plain and rng.random() < 0.4 and number < ROUNDS - 10:
            decide = rng.choice([producer.commit_transaction, producer.abort_transaction])
            decide(PATIENCE_S)
            is_open[producer] = False
    assert any(is_open.values())


def reader(place: Place, max_bytes: int) -> Consumer:  # noqa: F811
    """Of committed records, from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "max.partition.fetch.bytes": max_bytes,
            "check.crcs": True,
        }
    )
    consumer.assign([At(TOPIC, 0, OFFSET_BEGINNING)])
    return consumer


def read_to_end(consumer: Consumer) -> list[tuple[int, bytes]]:
    """Offsets and values of what comes until the end is told."""
    seen: list[tuple[int, bytes]] = []

    def at_end() -> bool:
        for message in consumer.consume(1000, 0.5):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                return True
            seen.append((message.offset() or 0, message.value() or b""))
        return False

    wait_for(at_end, seconds=PATIENCE_S)
    return seen


def committed(place: Place, max_bytes: int) -> Seen:  # noqa: F811
    """The last stable offset, and what is read up to there in answers of about this size."""
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    [end] = admin.list_offsets(
        {At(TOPIC, 0): OffsetSpec.latest()}, isolation_level=IsolationLevel.READ_COMMITTED
    ).values()
    consumer = reader(place, max_bytes)
    seen = read_to_end(consumer)
    consumer.close()
    return end.result(PATIENCE_S).offset, seen


def aborted(place: Place) -> bytes:  # noqa: F811
    """The log's index of aborted transactions, from segment to segment."""
    indexes = place.directory.glob(f"*/{TOPIC}-0/*.txnindex")
    return b"".join(index.read_bytes() for index in sorted(indexes))


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_committed_records_are_the_same_with_both(place: Place, ending: str) -> None:  # noqa: F811
    place.start("kafka")
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    for future in admin.create_topics([NewTopic(TOPIC, 1, 1)]).values():
        future.result(PATIENCE_S)
    place.topics.add(TOPIC)
    transact(place, Random(39))
    stable, seen = committed(place, 1_000_000)
    assert len(seen) > ROUNDS
    assert seen[-1][0] < stable
    entries = aborted(place)
    assert len(entries) > 5 * 34
    place.end(ending)

    place.start("zkafka")
    for max_bytes in (1_000_000, 1500):
        assert committed(place, max_bytes) == (stable, seen)
    assert aborted(place) == entries
    here = where(place)
    there = place.directory / {"data": "more", "more": "data"}[here]
    assert alter(place.bootstrap, (1, there)).split()[1] == "NONE"
    wait_for(lambda: where(place) != here, seconds=PATIENCE_S)
    assert committed(place, 1500) == (stable, seen)
    place.end(ending)
    place.start("zkafka")
    assert committed(place, 1500) == (stable, seen)
    assert aborted(place) == entries, "Kafka's own, though written by us"
    place.end(ending)

    place.start("kafka")
    assert committed(place, 1500) == (stable, seen)
    place.end(ending)


COLUMNS = (
    "ProducerId ProducerEpoch LatestCoordinatorEpoch LastSequence LastTimestamp"
    " CurrentTransactionStartOffset"
)
LOADING = (14, 15, 16)
"""Codes of a coordinator that is not ready."""


def transactions(place: Place, action: str, partition: At, *arguments: str) -> str:  # noqa: F811
    """What Kafka's tool for them says of a partition."""
    name = "org.apache.kafka.tools.TransactionsCommand"
    where = ("--topic", partition.topic, "--partition", str(partition.partition))
    return tool(name, "--bootstrap-server", place.bootstrap, action, *where, *arguments)


def producers_of(place: Place, partition: At) -> dict[str, dict[str, str]]:  # noqa: F811
    """The partition's producers by their ids, as the tool's columns describe them."""
    described = transactions(place, "describe-producers", partition)
    head, *rows = (line.split() for line in described.splitlines())
    assert head == COLUMNS.split()
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def open_since(place: Place, partition: At) -> list[str]:  # noqa: F811
    """Where the partition's open transactions begin."""
    starts = [
        row["CurrentTransactionStartOffset"] for row in producers_of(place, partition).values()
    ]
    return [start for start in starts if start != "None"]


def offset_of_group(place: Place) -> tuple[int, int]:  # noqa: F811
    """What the group has committed, and the code in its place while that is undecided."""
    asked = OffsetFetchRequestGroup(
        group_id="group",
        topics=[OffsetFetchRequestTopics(name=TOPIC, partition_indexes=[0])],
    )
    request = OffsetFetchRequest(groups=[asked], require_stable=True)

    def answer() -> tuple[int, int] | None:
        with Wire(port(place)) as wire:
            [group] = wire.ask(request, 8).groups
        if group.error_code in LOADING:
            return None
        [found] = group.topics[0].partitions
        return found.committed_offset, found.error_code

    told: tuple[int, int] = wait_for(answer, seconds=PATIENCE_S)
    return told


def test_a_transaction_that_was_left_open_is_ended_with_kafkas_tool(place: Place) -> None:  # noqa: F811
    place.start("kafka")
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    for future in admin.create_topics([NewTopic(TOPIC, 1, 1)]).values():
        future.result(PATIENCE_S)
    place.topics |= {TOPIC, "__consumer_offsets"}
    settings = {"bootstrap.servers": place.bootstrap}
    left, other = (
        Producer(settings | {"transactional.id": name, "transaction.timeout.ms": 800_000})
        for name in ("left", "other")
    )
    group = Consumer(settings | {"group.id": "group"})

    def write(producer: Producer, what: bytes, read_to: int | None = None) -> None:
        for number in range(3):
            producer.produce(TOPIC, b"%s %d" % (what, number), partition=0)
        assert producer.flush(PATIENCE_S) == 0
        if read_to is not None:
            read, by = [At(TOPIC, 0, read_to)], group.consumer_group_metadata()
            producer.send_offsets_to_transaction(read, by, PATIENCE_S)

    for producer in (left, other):
        producer.init_transactions(PATIENCE_S)
    left.begin_transaction()
    write(left, b"first", read_to=1)
    left.commit_transaction(PATIENCE_S)
    left.begin_transaction()
    write(left, b"open", read_to=2)
    other.begin_transaction()
    write(other, b"later")
    other.commit_transaction(PATIENCE_S)
    write(Producer(settings), b"plain")
    group.close()
    first = [(at, b"first %d" % at) for at in range(3)]
    later = [(7 + at, b"later %d" % at) for at in range(3)]
    later += [(11 + at, b"plain %d" % at) for at in range(3)]
    records = At(TOPIC, 0)
    assert committed(place, 1_000_000) == (4, first)
    known = producers_of(place, records)
    undecided = (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert offset_of_group(place) == undecided
    place.end("stop")

    place.start("zkafka")
    assert committed(place, 1_000_000) == (4, first)
    assert producers_of(place, records) == known
    assert open_since(place, records) == ["4"]
    waiting = reader(place, 1_000_000)
    assert read_to_end(waiting) == first
    transactions(place, "abort", records, "--start-offset", "4")
    found: list[tuple[int, bytes]] = []

    def has_later() -> bool:
        found.extend(read_to_end(waiting))
        return len(found) >= len(later)

    wait_for(has_later, seconds=PATIENCE_S)
    assert found == later
    waiting.close()
    ended = (15, first + later)
    assert committed(place, 1_000_000) == ended
    assert offset_of_group(place) == undecided, "that is another partition"
    [(offsets, start)] = [
        (partition, start)
        for partition in (At("__consumer_offsets", 0), At("__consumer_offsets", 1))
        for start in open_since(place, partition)
    ]
    transactions(place, "abort", offsets, "--start-offset", start)
    assert offset_of_group(place) == (1, 0)
    known = producers_of(place, records)
    place.end("kill")

    indexes = []
    for who in ("zkafka", "kafka"):
        place.start(who)
        assert committed(place, 1_000_000) == ended
        assert offset_of_group(place) == (1, 0)
        assert producers_of(place, records) == known
        assert open_since(place, records) == open_since(place, offsets) == []
        place.end("stop")
        indexes.append(aborted(place))
    [ours, theirs] = indexes
    assert len(ours) == 34
    assert theirs == ours
