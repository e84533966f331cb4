"""What grows: partitions, topics, members; and what it costs then."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from bench import loads, wire
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import GROWTH
from bench.sides import BenchError

RATE = 500
TOPICS = 10
MEMBERS = 100
ASKS = 20


def _administration(context: Context) -> Mapping[str, float]:
    found: dict[str, float] = {}
    with context.fresh(3) as cluster:
        cluster.start()
        with cluster.counted() as usage:
            started = time.perf_counter()
            loads.create_topic(cluster, "topic-0", 1000, 1)
            found["create"] = time.perf_counter() - started
            loads.create_topic(cluster, "grouped", MEMBERS, 1)
            members: dict[str, Any] = {"topic": "grouped", "partitions": MEMBERS}
            loads.client("group", cluster, members=1, **members)  # makes __consumer_offsets
            found["group"] = loads.client("group", cluster, members=MEMBERS, **members)["seconds"]
            for number in range(1, TOPICS):
                loads.create_topic(cluster, f"topic-{number}", 1000, 1)
            frame = wire.metadata_frame(None)
            times = []
            with wire.connect(cluster.any_port()) as connection:
                for _ in range(ASKS):
                    asked = time.perf_counter()
                    wire.exchange(connection, frame)
                    times.append(time.perf_counter() - asked)
            found["metadata"] = statistics.median(times) * 1000
            known = wire.metadata(cluster.any_port(), None).topics
            if sum(len(topic.partitions) for topic in known) < TOPICS * 1000:
                raise BenchError(f"only {len(known)} topics were in the answer")
    return {**found, **usage.values()}


def _spread(partitions: int) -> Case:
    """A steady trickle over more and more partitions: what the partitions themselves cost."""

    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        known = len(wire.partitions(cluster.any_port(), "growing"))
        if not known:
            loads.create_topic(cluster, "growing", partitions, 3)
        elif known < partitions:
            loads.grow_topic(cluster, "growing", partitions)
        load: dict[str, Any] = {
            "partitions": partitions,
            "size": 100,
            "rate": RATE,
        }
        seconds = 4.0
        with loads.ClientProcess(
            "paced", topic="growing", bootstrap=cluster.bootstrap, seconds=seconds, **load
        ) as client:
            patience = loads.LIMIT_SECONDS + partitions / 20
            client.wait_started(patience)
            with cluster.counted() as usage:
                started = time.perf_counter()
                done = client.result(patience)
                elapsed = time.perf_counter() - started
        return {"cpu": usage.cpu_seconds / elapsed * 1000, "p99": done["p99"], **usage.values()}

    return Case(
        f"{RATE} records/s over {partitions:,} partitions, RF 3",
        (
            Quantity("cpu", "ms/s", "lower", "broker CPU", headline=partitions >= 1000),
            Quantity("p99", "ms", "lower", "p99"),
        ),
        measure,
        seconds=8.0 + partitions / 250,
        rounds=1,
    )


PARTS = (
    Part(
        "administration",
        (
            Case(
                "three brokers",
                (
                    Quantity("create", "s", "lower", "create 1,000 partitions", headline=True),
                    Quantity(
                        "metadata", "ms", "lower", "metadata of 10,000 partitions", headline=True
                    ),
                    Quantity("group", "s", "lower", "a group of 100 joins", headline=True),
                ),
                _administration,
                seconds=33.0,
                rounds=2,
            ),
        ),
    ),
    Part("growth", tuple(_spread(partitions) for partitions in (10, 100, 1000, 5000)), GROWTH),
)
