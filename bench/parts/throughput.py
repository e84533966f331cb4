"""Many bytes: produce with batching, and consume."""

from collections.abc import Mapping
from typing import Any

import attrs

from bench import accounting, loads
from bench.accounting import Usage
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import SHARED
from bench.results import Goal
from bench.sides import BenchError, Cluster

PARTITIONS = 3
"""Of the topics that carry load: with three brokers, each leads one."""
READERS = 4
"""That read a topic at once. One alone is what is measured, not the brokers: librdkafka asks for
nothing for half a second whenever it holds 100,000 records or 64 MB that nobody took yet, and its
thread is busy for less than half of the time. Four keep both cores at work."""
SIZES = {"100 B": 100, "1 KB": 1000, "10 KB": 10_000}
_PER_GB = Quantity("cpu_per_gb", "s/GB", "lower", "broker CPU", Goal(0.7))


def flow(records: float, size: int, seconds: float, usage: Usage) -> dict[str, float]:
    """Rates and costs of so many records of `size` bytes."""
    return {
        "mb_s": records * size / seconds / 1e6,
        "records_s": records / seconds,
        "cpu_per_gb": usage.cpu_seconds / (records * size / 1e9),
        **usage.values(),
    }


def _produce(size: int, replicas: int, acks: str, codec: str) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load: dict[str, Any] = {
            "size": size,
            "acks": acks,
            "codec": codec,
        }
        with (
            loads.topic(cluster, "produce", PARTITIONS, replicas) as topic,
            cluster.counted() as usage,
        ):
            load |= {"topic": topic, "partitions": PARTITIONS, "seconds": context.scale.seconds}
            done = loads.client("produce", cluster, **load)
        return flow(done["records"], size, done["seconds"], usage)

    label = next(label for label, of in SIZES.items() if of == size)
    goal = Goal(1.3 if size == 1000 and codec == "none" else 1.0)
    headline = acks == "all" and (codec == "none" or replicas == 3)
    coded = "" if codec == "none" else f", {codec}"
    return Case(
        f"produce {label}, RF {replicas}, acks={acks}{coded}",
        (
            Quantity("mb_s", "MB/s", "higher", goal=goal, headline=headline),
            Quantity("records_s", "records/s", "higher", "records"),
            attrs.evolve(_PER_GB, headline=headline and size == 1000 and codec == "none"),
        ),
        measure,
        seconds=3.2,
        quick=codec == "none" and acks == "all" and size <= 1000,
    )


def _java_produce(size: int, replicas: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        records = int(context.scale.seconds * 100_000)
        with (
            loads.topic(cluster, "produce", PARTITIONS, replicas) as topic,
            cluster.counted() as usage,
        ):
            done = loads.java_produce(cluster, topic, records, size)
        return flow(records, size, records / done["records_s"], usage)

    return Case(
        f"produce 1 KB, RF {replicas}, Kafka's ProducerPerformance",
        (Quantity("mb_s", "MB/s", "higher", goal=Goal(1.0), headline=replicas == 3), _PER_GB),
        measure,
        seconds=5.5,
    )


def _filled(cluster: Cluster, size: int, megabytes: int) -> tuple[str, int]:
    """A topic with that many MB of records of `size` bytes, made once; its name and its records."""
    name = f"read-{size}"
    records = megabytes * 1_000_000 // size
    if not cluster.data_files(name):
        loads.create_topic(cluster, name, PARTITIONS, 1)
        done = loads.client(
            "produce", cluster, topic=name, partitions=PARTITIONS, size=size, records=records
        )
        loads.write_out(cluster.data_files(name))
        records = int(done["records"])
    return name, records


def _consume(label: str) -> Case:
    size = SIZES[label]

    def measure(context: Context) -> Mapping[str, float]:
        topic, records = _filled(
            context.cluster, size, context.scale.read_mb * min(1000, size) // 1000
        )
        with context.cluster.counted() as usage:
            seconds = loads.kcat_read(context.cluster, topic, records, READERS)
        return flow(READERS * records, size, seconds, usage)

    return Case(
        f"consume {label} from the page cache, {READERS} consumers",
        (
            Quantity("mb_s", "MB/s", "higher", goal=Goal(1.3), headline=True),
            Quantity("records_s", "records/s", "higher", "records"),
            attrs.evolve(_PER_GB, headline=size == 1000),
        ),
        measure,
        seconds=4.0,
        quick=label == "1 KB",
    )


def _java_consume() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        topic, records = _filled(context.cluster, 1000, context.scale.read_mb)
        with context.cluster.counted() as usage:
            rate = loads.java_consume(context.cluster, topic, records)
        return flow(records, 1000, records / rate, usage)

    return Case(
        "consume 1 KB, Kafka's ConsumerPerformance",
        (Quantity("mb_s", "MB/s", "higher", goal=Goal(1.3)), _PER_GB),
        measure,
        seconds=5.0,
    )


_OFTEN = 0.002
"""Seconds between the records of a producer beside a reader who needs one second."""


def _consume_cold() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        megabytes = min(300, context.scale.read_mb)
        size = 1010  # a topic of its own
        topic, records = _filled(cluster, size, megabytes)
        logs = [path for path in cluster.data_files(topic) if path.suffix == ".log"]
        with loads.topic(cluster, "beside", 1, 3) as beside:
            loads.kcat_read(cluster, topic, records)  # now it is in the page cache
            with _producing_beside(cluster, beside, _OFTEN) as lone:
                loads.kcat_read(cluster, topic, records)
                warm = lone.finish()["p99"]
            with _producing_beside(cluster, beside, _OFTEN) as lone:
                loads.write_out(logs, forget=True)
                before = accounting.bytes_read(cluster.pids)
                with cluster.counted() as usage:
                    seconds = loads.kcat_read(cluster, topic, records)
                read = accounting.bytes_read(cluster.pids) - before
                p99 = lone.finish()["p99"]
        if read < 0.9 * records * size:
            raise BenchError(f"only {read} of {records * size} bytes came from the disk")
        return {**flow(records, size, seconds, usage), "p99": p99, "slower": p99 / warm}

    return Case(
        "consume 1 KB from a cold disk",
        (
            Quantity("mb_s", "MB/s", "higher", headline=True),
            _PER_GB,
            Quantity("p99", "ms", "lower", "p99 of a producer beside", headline=True),
            Quantity(
                "slower",
                "times",
                "lower",
                "that p99 over the same beside a reader of the page cache",
                Goal(2.0, "absolute"),
                True,
            ),
        ),
        measure,
        seconds=12.0,
    )


def _producing_beside(cluster: Cluster, topic: str, interval: float = 0.01) -> loads.ClientProcess:
    """Somebody who writes a record each `interval` seconds while others are at work."""
    load: dict[str, Any] = {"topic": topic, "size": 100, "acks": "all", "interval": interval}
    return loads.ClientProcess("lone", bootstrap=cluster.bootstrap, **load).wait_started()


def _ten_groups() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        with (
            loads.topic(cluster, "beside", 1, 3) as beside,
            loads.topic(cluster, "produce", PARTITIONS, 3) as topic,
            loads.group_readers(cluster, topic, 10),
            _producing_beside(cluster, beside) as lone,
        ):
            with cluster.counted() as usage:
                load: dict[str, Any] = {
                    "topic": topic,
                    "partitions": PARTITIONS,
                    "seconds": context.scale.seconds,
                }
                done = loads.client("produce", cluster, size=1000, **load)
            p99 = lone.finish()["p99"]
        return {**flow(done["records"], 1000, done["seconds"], usage), "p99": p99}

    return Case(
        "produce 1 KB, RF 3, ten groups reading",
        (
            Quantity("mb_s", "MB/s", "higher", headline=True),
            _PER_GB,
            Quantity("p99", "ms", "lower", "p99 of a producer beside", headline=True),
        ),
        measure,
        seconds=9.0,
    )


_MATRIX = [
    (size, replicas, acks, "none")
    for size in (1000, 100, 10_000)
    for replicas in (1, 3)
    for acks in ("all", "1")
]
_CODED = [(1000, replicas, "all", codec) for codec in ("lz4", "zstd") for replicas in (1, 3)]

PARTS = (
    Part(
        "produce",
        (
            *(_produce(*each) for each in (*_MATRIX, *_CODED)),
            *(_java_produce(1000, replicas) for replicas in (1, 3)),
        ),
        SHARED,
    ),
    Part(
        "consume", (_consume("1 KB"), _consume("100 B"), _java_consume(), _consume_cold()), SHARED
    ),
    Part("readers", (_ten_groups(),), SHARED),
)
