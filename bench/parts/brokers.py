"""One broker by itself: how fast it starts, what it costs when it has little to do."""

import time
from collections.abc import Mapping

from bench import accounting, loads, wire
from bench.cases import Case, Context, Part, Quantity
from bench.results import Goal
from bench.sides import Cluster

SETTLE_SECONDS = 2.0
WATCH_SECONDS = 3.0
CONNECTIONS = 1000
PARTITIONS = 1000


def _start(cluster: Cluster) -> float:
    """Seconds from exec until it lists itself as the controller's broker."""
    started = time.perf_counter()
    cluster.start()
    return time.perf_counter() - started


def _watch(cluster: Cluster) -> tuple[float, float]:
    """A broker left alone for a while: its resident MB, and its CPU in thousandths of a core."""
    time.sleep(SETTLE_SECONDS)
    before = accounting.cpu_seconds(cluster.pids)
    time.sleep(WATCH_SECONDS)
    cpu = accounting.cpu_seconds(cluster.pids) - before
    return accounting.resident_mb(cluster.pids), cpu / WATCH_SECONDS * 1000


def _life(context: Context) -> Mapping[str, float]:
    found: dict[str, float] = {}
    with context.fresh(1) as cluster:
        found["start"] = _start(cluster)
        with cluster.counted() as usage:
            found["idle_mb"], found["idle_cpu"] = _watch(cluster)
            port = cluster.any_port()
            frame = wire.metadata_frame([])
            connections = [wire.connect(port) for _ in range(CONNECTIONS)]
            try:
                for connection in connections:
                    wire.exchange(connection, frame)
                found["connections_mb"], found["connections_cpu"] = _watch(cluster)
            finally:
                for connection in connections:
                    connection.close()
            cluster.end(1)
            cluster.start()
            loads.create_topic(cluster, "many", PARTITIONS, 1)
            found["partitions_mb"], found["partitions_cpu"] = _watch(cluster)
            cluster.end(1)
            started = time.perf_counter()
            cluster.start()
            loads.wait_whole(cluster, "many", PARTITIONS)
            found["restart"] = time.perf_counter() - started
    return {**found, **usage.values()}


QUANTITIES = (
    Quantity("start", "s", "lower", "start, until it serves", Goal(0.3), True),
    Quantity("restart", "s", "lower", "restart with 1,000 partitions", None, True),
    Quantity("idle_mb", "MB", "lower", "idle, resident", Goal(0.15), True),
    Quantity("partitions_mb", "MB", "lower", "1,000 partitions, resident", None, True),
    Quantity("connections_mb", "MB", "lower", "1,000 connections, resident", None, True),
    Quantity("idle_cpu", "ms/s", "lower", "idle, CPU", None, True),
    Quantity("partitions_cpu", "ms/s", "lower", "1,000 partitions, CPU"),
    Quantity("connections_cpu", "ms/s", "lower", "1,000 connections, CPU"),
)
PARTS = (Part("brokers", (Case("broker", QUANTITIES, _life, seconds=31.0, quick=True, rounds=2),)),)
