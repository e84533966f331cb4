"""A move that Apache Kafka 3.9 began goes on with us, and the other way round: both find a future
log in the other's directory, and what a finished move leaves there is in nobody's way."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient, NewTopic
from test_both_ways import PATIENCE_S, Place
from test_moving_directories import TOPIC, alter, described, set_rate
from wire import wait_for

from zkafka.testing.zookeeper import ZooKeeper


@pytest.fixture
def place(tmp_path: Path, kafka_jars: Path) -> Iterator[Place]:
    """One broker's, with two data directories."""
    assert kafka_jars.is_dir()
    with ZooKeeper.create(tmp_path / "zookeeper") as zookeeper:
        place = Place(tmp_path, zookeeper)
        with place.properties.open("a") as settings:
            settings.write(f"log.dirs={place.data},{tmp_path / 'more'}\n")
        try:
            yield place
        finally:
            if place.process is not None:
                place.process.end(5)


def port(place: Place) -> int:
    return int(place.bootstrap.rpartition(":")[2])


def write(place: Place, numbers: range) -> None:
    # No batch is larger than a segment may be there.
    settings = {"enable.idempotence": True, "batch.num.messages": 10}
    producer = Producer({"bootstrap.servers": place.bootstrap, **settings})
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    for number in numbers:
        producer.produce(TOPIC, b"%d " % number + bytes(800), partition=0, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0
    assert not failed, failed[0]


def read(place: Place, count: int) -> list[int]:
    """The numbers written, until there were so many."""
    consumer = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "reader"})
    consumer.assign([At(TOPIC, 0, OFFSET_BEGINNING)])
    found: list[int] = []

    def more() -> bool:
        for message in consumer.consume(1000, 0.5):
            assert message.error() is None, message.error()
            found.append(int((message.value() or b"").split(b" ")[0]))
        return len(found) >= count

    wait_for(more, seconds=PATIENCE_S)
    consumer.close()
    return found


def where(place: Place) -> str:
    """The directory of the partition's log, when there is no other any more."""

    def alone() -> str | None:
        logs = {name: found for name, found in described(port(place)).items() if found}
        [(name, found)] = logs.items() if len(logs) == 1 else [("", [])]
        return name if [is_future for is_future, _, _ in found] == [False] else None

    found: str = wait_for(alone, seconds=PATIENCE_S, what="one log")
    return found


@pytest.mark.parametrize("order", [("kafka", "zkafka", "kafka"), ("zkafka", "kafka", "zkafka")])
def test_a_move_that_one_began_the_other_finishes(place: Place, order: tuple[str, ...]) -> None:
    first, second, third = order
    place.start(first)
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    for future in admin.create_topics([NewTopic(TOPIC, 1, 1)]).values():
        future.result(PATIENCE_S)
    place.topics.add(TOPIC)
    write(place, range(3000))
    here = where(place)
    there = {"data": "more", "more": "data"}[here]
    # There, and half the way back.
    assert alter(place.bootstrap, (1, place.directory / there)).split()[1] == "NONE"
    wait_for(lambda: where(place) == there, seconds=PATIENCE_S)
    set_rate(place.bootstrap, 1, 100_000)
    assert alter(place.bootstrap, (1, place.directory / here)).split()[1] == "NONE"
    wait_for(
        lambda: any(is_future and size for is_future, size, _ in described(port(place))[here]),
        seconds=PATIENCE_S,
    )
    place.end("kill")

    place.start(second)
    assert [is_future for is_future, _, _ in described(port(place))[here]] == [True]
    set_rate(place.bootstrap, 1, 2**63 - 1)
    wait_for(lambda: where(place) == here, seconds=PATIENCE_S)
    assert read(place, 3000) == list(range(3000))
    write(place, range(3000, 3100))
    place.end("kill")

    place.start(third)
    assert where(place) == here
    assert alter(place.bootstrap, (1, place.directory / there)).split()[1] == "NONE"
    wait_for(lambda: where(place) == there, seconds=PATIENCE_S)
    assert read(place, 3100) == list(range(3100))
    place.end("stop")
