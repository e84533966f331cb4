"""One healthy cluster of three real processes for every test here that breaks nothing."""

from collections.abc import Callable
from pathlib import Path

import apache_kafka
import pytest

from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.plugin import require


@pytest.fixture(scope="session")
def three_brokers(zkafka_clusters: Callable[..., BlockingCluster]) -> BlockingCluster:
    """Shared by the session: tests use topics and groups of their own, and kill nobody."""
    config = {
        "group.initial.rebalance.delay.ms": "200",
        "num.partitions": "3",
        "zookeeper.session.timeout.ms": "60000",  # so that a busy machine kills nobody either
    }
    return zkafka_clusters(brokers=3, config=config)


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The jars of Apache Kafka 3.9, gathered with Maven."""
    require("java")
    require("mvn")
    return apache_kafka.jars()
