"""Clusters that many cases share, and how they are warmed up."""

from typing import Any

from bench import loads
from bench.cases import Context, Stage

FEWEST, MOST = 3, 6
STEADY = 0.9


def warm(context: Context) -> None:
    """Load a cluster until its CPU seconds for a record fall no more: no JVM is measured cold.

    Both sides go through the same; ours is steady after the fewest repetitions.
    """
    cluster = context.cluster
    costs: list[float] = []
    while len(costs) < FEWEST or (costs[-1] < STEADY * costs[-2] and len(costs) < MOST):
        with loads.topic(cluster, "warm", 3, 3) as topic:
            load: dict[str, Any] = {"topic": topic, "partitions": 3, "codec": "none", "acks": "all"}
            with cluster.counted() as usage:
                done = loads.client("produce", cluster, size=100, seconds=2.0, **load)
            costs.append(usage.cpu_seconds / done["records"])
            loads.kcat_read(cluster, topic, int(done["records"]))
            small: dict[str, Any] = {"clients": 10, "window": 1, "size": 100, "seconds": 2.0}
            loads.client("closed_loop", cluster, topic=topic, acks="all", **small)


SHARED = Stage("throughput and latency", brokers=3, prepare=warm, seconds=60.0)

FAILING_PARTITIONS = 100


def fill_for_failures(context: Context) -> None:
    """A topic of a hundred partitions on all brokers, written to."""
    loads.create_topic(context.cluster, "failures", FAILING_PARTITIONS, 3)
    loads.touch(context.cluster, "failures", FAILING_PARTITIONS)


FAILURES = Stage("failures", brokers=3, prepare=fill_for_failures, seconds=20.0)

GROWTH = Stage("growth", brokers=3, prepare=warm, seconds=60.0)
