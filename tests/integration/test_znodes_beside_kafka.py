"""What we keep in ZooKeeper beside what Apache Kafka 3.9 keeps there after the same steps: the same
paths, and in each node the same JSON keys with the same types."""

import contextlib
import json
import re
import time
from pathlib import Path

from apache_kafka import ApacheKafka
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from kazoo.client import KazooClient

from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.zookeeper import ZooKeeper

SETTINGS = {
    "offsets.topic.num.partitions": "3",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "group.initial.rebalance.delay.ms": "0",
    "zookeeper.session.timeout.ms": "6000",
}


def the_same_steps(bootstrap: str) -> None:
    """Everything that leaves a trace: topics, settings, growth, deletion, producers, a group."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = [NewTopic("kept", 2, 3, config={"retention.ms": "3600000"}), NewTopic("gone", 1, 1)]
    for future in admin.create_topics(topics, operation_timeout=60).values():
        future.result(90)
    for future in admin.create_partitions([NewPartitions("kept", 3)]).values():
        future.result(90)
    change = ConfigEntry("segment.bytes", "1048576", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "kept", incremental_configs=[change])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(90)
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for i in range(10):
        producer.produce("kept", f"value-{i}")
    assert producer.flush(90) == 0
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["kept"])
    assert len(consumer.consume(10, 90)) == 10
    consumer.commit(asynchronous=False)
    consumer.close()
    for future in admin.delete_topics(["gone"], operation_timeout=60).values():
        future.result(90)


def tree(connect: str) -> dict[str, object]:
    """Path -> shape of every znode but ZooKeeper's own, names that are made up replaced."""
    client = KazooClient(connect)
    client.start(60)
    shapes: dict[str, object] = {}

    def walk(path: str) -> None:
        data, stat = client.get(path or "/")
        kind = "ephemeral" if stat.ephemeralOwner else "persistent"
        shapes[re.sub(r"\d{10}$", "N", path) or "/"] = (kind, shape(data))
        for child in client.get_children(path or "/"):
            if (path, child) != ("", "zookeeper"):
                walk(f"{path}/{child}")

    try:
        walk("")
    finally:
        client.stop()
        client.close()
    return shapes


def shape(data: bytes) -> object:
    """JSON as keys and types; anything else as what it looks like."""
    if not data:
        return "empty"
    try:
        return types_of(json.loads(data))
    except ValueError:
        return "text"


def types_of(value: object) -> object:
    match value:
        case dict():
            return {key: types_of(item) for key, item in sorted(value.items())}
        case list():
            # How many brokers are in sync at the moment of reading is not a matter of format.
            return [types_of(value[0])] if value else []
        case _:
            return type(value).__name__


def settle(connect: str, gone: str) -> None:
    """Wait until the deletion of a topic has been carried out."""
    client = KazooClient(connect)
    client.start(60)
    try:
        deadline = time.monotonic() + 90
        while client.exists(f"/brokers/topics/{gone}") or client.exists(
            f"/admin/delete_topics/{gone}"
        ):
            assert time.monotonic() < deadline, f"{gone} was never deleted"
            time.sleep(0.05)
    finally:
        client.stop()
        client.close()


def test_same_paths_same_keys_same_types(tmp_path: Path, kafka_jars: Path) -> None:
    assert kafka_jars.is_dir()
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(ZooKeeper.create(tmp_path / "theirs"))
        kafka = ApacheKafka(tmp_path, theirs.connect, **SETTINGS)
        stack.callback(kafka.stop)
        kafka.start()
        the_same_steps(kafka.bootstrap)
        settle(theirs.connect, "gone")
        expected = tree(theirs.connect)
    with BlockingCluster(brokers=3, config=SETTINGS, directory=tmp_path / "ours") as cluster:
        the_same_steps(cluster.bootstrap)
        settle(cluster.cluster.zookeeper_connect, "gone")
        ours = tree(cluster.cluster.zookeeper_connect)

    assert sorted(ours) == sorted(expected)
    assert ours == expected
