"""A broker that was killed with 2,000 partitions comes back with all of them, and says how far it
is."""

import re

import pytest
import trio
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from zkafka.testing.cluster import Cluster
from zkafka.testing.zookeeper import ZooKeeper

PARTITIONS = 2000
PATIENCE_S = 240.0
"""How long anything may take on a busy machine."""


def produce(cluster: Cluster, value: str) -> None:
    """One acknowledged record in each partition."""
    failed: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all"})
    for partition in range(PARTITIONS):
        producer.produce(
            "many",
            f"{value} {partition}",
            partition=partition,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert producer.flush(PATIENCE_S) == 0
    assert not failed


def consume(cluster: Cluster, count: int) -> dict[int, list[str]]:
    """The values in each partition, once there are `count` in all."""
    found: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "nobody"})
    try:
        consumer.assign(
            [TopicPartition("many", number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
        )
        for _ in range(count):
            message = consumer.poll(PATIENCE_S)
            assert message is not None
            assert message.error() is None
            found[message.partition()].append(message.value().decode())
    finally:
        consumer.close()
    return found


@pytest.mark.slow
async def test_a_killed_broker_comes_back_with_two_thousand_partitions(
    tmp_path, zookeeper: ZooKeeper
):
    async with Cluster(
        1, zookeeper=zookeeper, chroot="/many", directory=tmp_path / "cluster"
    ) as cluster:
        broker = cluster.brokers[1]
        await cluster.create_topic("many", partitions=PARTITIONS, timeout=PATIENCE_S)
        await trio.to_thread.run_sync(produce, cluster, "before")
        await cluster.kill(1)
        told_before = len(broker.log_text())
        await cluster.start(1, timeout=PATIENCE_S)
        await cluster.wait_until_whole(timeout=PATIENCE_S)
        told = broker.log_text()[told_before:]
        assert (
            f"loading logs dir={broker.data_directory} partitions={PARTITIONS} clean=False" in told
        )
        steps = [
            int(done) for done in re.findall(rf"loaded logs .*done=(\d+) of={PARTITIONS}", told)
        ]
        assert len(steps) >= 20
        assert steps == sorted(steps)
        assert steps[-1] == PARTITIONS
        await trio.to_thread.run_sync(produce, cluster, "after")
        assert await trio.to_thread.run_sync(consume, cluster, 2 * PARTITIONS) == {
            partition: [f"before {partition}", f"after {partition}"]
            for partition in range(PARTITIONS)
        }
