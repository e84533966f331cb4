"""`kafka-dump-log` of Apache Kafka 3.9 reads what we wrote: logs, indexes, snapshots, offsets."""

from pathlib import Path

import pytest
from apache_kafka import tool
from confluent_kafka import Consumer, Producer

from zkafka.testing.blocking import BlockingCluster

DUMP = "kafka.tools.DumpLogSegments"
TOPIC = "dumped"


def fill(cluster: BlockingCluster) -> None:
    """Records of every codec over several segments, and a group's commits."""
    cluster.create_topic(
        TOPIC,
        partitions=1,
        replication_factor=3,
        config={"segment.bytes": "120000", "index.interval.bytes": "2048"},
    )
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "enable.idempotence": True,
                "compression.type": codec,
                "batch.num.messages": 20,
                "linger.ms": 2,
            }
        )
        for i in range(1000):
            producer.produce(TOPIC, f"{codec} record {i} ".encode() * 10, f"key-{i % 7}")
        assert producer.flush(120) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "dumped-group",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([TOPIC])
    read = 0
    while read < 5000:
        read += len(consumer.consume(1000, 20))
    consumer.commit(asynchronous=False)
    consumer.close()


@pytest.fixture(scope="module")
def partition_directories(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> list[Path]:
    """The filled partition's directories on every broker, and those of the group's partition."""
    assert kafka_jars.is_dir()
    with BlockingCluster(
        brokers=3,
        directory=tmp_path_factory.mktemp("dump"),
        config={"offsets.topic.num.partitions": "1", "group.initial.rebalance.delay.ms": "0"},
    ) as cluster:
        fill(cluster)
        for broker_id in cluster.brokers:
            cluster.stop(broker_id)  # so that what is on disk is all there is
        return [
            cluster.brokers[broker_id].data_directory / name
            for broker_id in cluster.brokers
            for name in (f"{TOPIC}-0", "__consumer_offsets-0")
        ]


def test_every_log_is_read_record_by_record(partition_directories: list[Path]) -> None:
    for directory in partition_directories:
        logs = sorted(directory.glob("*.log"))
        options = ["--deep-iteration", "--print-data-log", "--files", ",".join(map(str, logs))]
        if directory.name.startswith("__consumer_offsets"):
            options.append("--offsets-decoder")
        said = tool(DUMP, *options)

        assert "isvalid: true" in said
        assert "isvalid: false" not in said
        assert "Found invalid" not in said
        if directory.name == f"{TOPIC}-0":
            assert len(logs) > 2, "the topic was meant to span segments"
            assert said.count("| offset: ") == 5000
            assert all(
                f"compresscodec: {codec}" in said
                for codec in ("none", "gzip", "snappy", "lz4", "zstd")
            )
        else:
            assert (
                f"offset_commit::group=dumped-group,partition={TOPIC}-0" in said.replace(" ", "")
                or "dumped-group" in said
            )


def test_every_index_is_sane(partition_directories: list[Path]) -> None:
    for directory in partition_directories:
        indexes = sorted([*directory.glob("*.index"), *directory.glob("*.timeindex")])
        files = ",".join(map(str, indexes))
        said = tool(DUMP, "--verify-index-only", "--files", files)
        said += tool(DUMP, "--files", files)

        for complaint in (
            "Mismatches",
            "Found timestamp mismatch",
            "out of order",
            "Non-consecutive",
        ):
            assert complaint not in said, said[:3000]


def test_every_producer_snapshot_is_read(partition_directories: list[Path]) -> None:
    directory = partition_directories[0]
    snapshots = sorted(directory.glob("*.snapshot"))
    assert snapshots, "a clean stop leaves a snapshot"
    said = tool(DUMP, "--files", ",".join(map(str, snapshots)))

    assert said.count("producerId: ") >= 5


def test_the_replicas_are_equal_to_the_byte(partition_directories: list[Path]) -> None:
    copies = [d for d in partition_directories if d.name == f"{TOPIC}-0"]
    contents = [b"".join(p.read_bytes() for p in sorted(d.glob("*.log"))) for d in copies]

    assert len(copies) == 3
    assert contents[0] == contents[1] == contents[2]
