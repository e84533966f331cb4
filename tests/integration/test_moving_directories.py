"""Replicas move between the data directories of real brokers, asked by Java's AdminClient, while an
unmodified producer writes and a consumer reads."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from wire import PATIENCE_S, Wire, wait_for

from zkafka.errors import ErrorCode
from zkafka.protocol.messages.describe_log_dirs import DescribeLogDirsRequest
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.cluster import ClusterBroker
from zkafka.testing.plugin import require
from zkafka.testing.zookeeper import ZooKeeper

TOPIC = "moving"
RATE = "replica.alter.log.dirs.io.max.bytes.per.second"
ALTER = Path(__file__).parent / "clients" / "java" / "AlterReplicaLogDirs.java"
LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
VALUE_BYTES = 4_000

pytestmark = pytest.mark.usefixtures("kafka_jars")


@pytest.fixture
def cluster(
    tmp_path_factory: pytest.TempPathFactory, zookeeper: ZooKeeper
) -> Iterator[BlockingCluster]:
    config = {
        "log.dirs": "one,two",
        "auto.leader.rebalance.enable": "false",
        "zookeeper.session.timeout.ms": "20000",
        "replica.lag.time.max.ms": "20000",
    }
    directory = tmp_path_factory.mktemp("cluster")
    with BlockingCluster(3, config=config, directory=directory) as cluster:
        cluster.create_topic(TOPIC, partitions=1, replication_factor=3)
        yield cluster


class Writing:
    """Writes the numbers from 0 on, with acks=all, until the block ends; `acked` is how many."""

    def __init__(self, cluster: BlockingCluster) -> None:
        self.acked = 0
        self._stop = threading.Event()
        self._failure: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": int(1000 * PATIENCE_S),
            }
        )
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> "Writing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(PATIENCE_S) == 0
        assert self._failure is None, self._failure

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            if len(self._producer) < 200:
                value = b"%d " % number + bytes(VALUE_BYTES)
                self._producer.produce(TOPIC, value, partition=0, on_delivery=self._delivered)
                number += 1
            self._producer.poll(0.005)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failure = error
        else:
            self.acked += 1

    def more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        goal = self.acked + count
        wait_for(lambda: self.acked >= goal, what=f"{goal} records acknowledged")


def consumed(cluster: BlockingCluster, reached: Callable[[int], bool]) -> list[int]:
    """The numbers that a consumer is given from the beginning on, until it has `reached` one."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "moving"})
    consumer.assign([At(TOPIC, 0, 0)])
    found: list[int] = []

    def more() -> bool:
        for message in consumer.consume(1000, 0.5):
            assert message.error() is None, message.error()
            found.append(int((message.value() or b"").split(b" ")[0]))
        return reached(len(found))

    with contextlib.closing(consumer):
        # As long as the test, where that goes on beside it.
        wait_for(more, seconds=10 * PATIENCE_S, what="what was written")
    return found


def alter(bootstrap: str, *replicas: tuple[int, str | Path], topic: str = TOPIC) -> str:
    """Ask each of these brokers to have its replica in this directory; what became of it."""
    require("javac")  # the program is run from its source, which a Java without compiler cannot
    arguments = [word for broker, path in replicas for word in (topic, "0", str(broker), str(path))]
    return apache_kafka.tool(str(ALTER), bootstrap, *arguments)


def described(port: int) -> dict[str, list[tuple[bool, int, int]]]:
    """By directory: (is it a future one, bytes, lag) of the logs of the partition."""
    with Wire(port) as wire:
        results = wire.ask(DescribeLogDirsRequest(topics=None), 4).results
    return {
        Path(result.log_dir).name: [
            (p.is_future_key, p.partition_size, p.offset_lag)
            for topic in result.topics
            if topic.name == TOPIC
            for p in topic.partitions
        ]
        for result in results
    }


def is_only_in(broker: ClusterBroker, name: str) -> bool:
    """Whether the broker says so, and its directories as well."""
    logs = described(broker.port)
    found = [
        path.parent.name
        for path in broker.directory.glob(f"*/{TOPIC}-0*")
        if not path.name.endswith("-delete")
    ]
    is_current = [is_future for is_future, _, _ in logs.pop(name)] == [False]
    return is_current and not any(logs.values()) and found == [name]


def other(broker: ClusterBroker) -> Path:
    """The directory where its replica is not."""
    [current] = [path.parent.name for path in broker.directory.glob(f"*/{TOPIC}-0")]
    return broker.directory / {"one": "two", "two": "one"}[current]


def set_rate(bootstrap: str, broker: int, bytes_per_s: int) -> None:
    entry = ConfigEntry(RATE, str(bytes_per_s), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.BROKER, str(broker), incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_S)


def same_everywhere(cluster: BlockingCluster) -> bool:
    """Whether all replicas have the same bytes, in whichever directory."""
    logs = [
        b"".join(p.read_bytes() for p in sorted(b.directory.glob(f"*/{TOPIC}-0/*.log")))
        for b in cluster.brokers.values()
    ]
    return len(set(logs)) == 1 and len(logs[0]) > 0


def test_every_replica_moves_and_back_under_load(cluster: BlockingCluster) -> None:
    """Leader and followers at the same time; nobody's record is lost, doubled or late."""
    seen: list[int] = []
    done = threading.Event()
    writing = Writing(cluster)
    reading = threading.Thread(
        target=lambda: seen.extend(
            consumed(cluster, lambda count: done.is_set() and count >= writing.acked)
        )
    )
    reading.start()
    try:
        with writing:
            writing.more(300)
            for _ in range(2):
                aims = {number: other(broker) for number, broker in cluster.brokers.items()}
                said = alter(cluster.bootstrap, *aims.items())
                assert said.split()[1::2] == ["NONE"] * 3
                for number, aim in aims.items():
                    broker = cluster.brokers[number]
                    wait_for(lambda b=broker, a=aim: is_only_in(b, a.name), what=f"{aim}")
                writing.more(100)
    finally:
        done.set()
        reading.join()
    assert seen == list(range(writing.acked))
    wait_for(lambda: same_everywhere(cluster), what="equal replicas")
    printed = apache_kafka.tool(LOG_DIRS, "--bootstrap-server", cluster.bootstrap, "--describe")
    assert '"isFuture":true' not in printed
    assert printed.count(f'"partition":"{TOPIC}-0"') == 3


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_a_move_that_a_broker_did_not_live_to_see_goes_on(
    cluster: BlockingCluster, ending: str
) -> None:
    mover = cluster.leader(TOPIC, 0)
    broker = cluster.brokers[mover]
    aim = other(broker)
    with Writing(cluster) as writing:
        writing.more(500)
        set_rate(cluster.bootstrap, mover, 100_000)
        assert alter(cluster.bootstrap, (mover, aim)).split()[1::2] == ["NONE"]
        wait_for(
            lambda: any(
                future and size > 0 for future, size, _ in described(broker.port)[aim.name]
            ),
            what="some of it copied",
        )
        printed = apache_kafka.tool(LOG_DIRS, "--bootstrap-server", cluster.bootstrap, "--describe")
        assert '"isFuture":true' in printed
        getattr(cluster, ending)(mover)
        writing.more(100)
        cluster.start(mover)
        cluster.wait_until_whole()
        [(is_future, _, lag)] = described(broker.port)[aim.name]
        assert is_future
        assert lag > 0
        writing.more(100)
        set_rate(cluster.bootstrap, mover, 2**63 - 1)
        wait_for(lambda: is_only_in(broker, aim.name), what=f"{aim}")
        writing.more(100)
    count = writing.acked
    assert consumed(cluster, lambda found: found >= count) == list(range(count))
    wait_for(lambda: same_everywhere(cluster), what="equal replicas")


def test_what_cannot_be_moved_is_refused(cluster: BlockingCluster) -> None:
    broker = cluster.brokers[1]
    assert alter(cluster.bootstrap, (1, "/nowhere")).split()[1] == "LogDirNotFoundException"
    aim = other(broker)
    said = alter(cluster.bootstrap, (1, aim), topic="nosuch")
    assert said.split()[1] == "UnknownTopicOrPartitionException"
    # But remembered.
    cluster.create_topic("nosuch", partitions=1, replication_factor=3)
    assert (aim / "nosuch-0").is_dir()
    with Wire(broker.port) as wire:
        results = wire.ask(DescribeLogDirsRequest(topics=None), 4).results
    assert [result.error_code for result in results] == [ErrorCode.NONE] * 2
