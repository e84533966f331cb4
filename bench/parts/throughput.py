"""Many bytes: produce with batching, and consume."""

from collections.abc import Mapping

from bench import loads
from bench.accounting import Usage
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import SHARED
from bench.results import Goal
from bench.sides import Cluster

PARTITIONS = 3
"""Of the topics that carry load: with three brokers, each leads one."""
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
        load = {"size": size, "acks": acks, "codec": codec, "seconds": context.scale.seconds}
        with loads.topic(cluster, "produce", PARTITIONS, replicas) as topic:
            with cluster.counted() as usage:
                done = loads.client("produce", cluster, topic=topic, partitions=PARTITIONS, **load)
        return flow(done["records"], size, done["seconds"], usage)

    label = next(label for label, of in SIZES.items() if of == size)
    coded = "" if codec == "none" else f", {codec}"
    return Case(
        f"produce {label}, RF {replicas}, acks={acks}{coded}",
        (
            Quantity("mb_s", "MB/s", "higher", goal=Goal(1.3 if size == 1000 else 1.0)),
            Quantity("records_s", "records/s", "higher", "records"),
            _PER_GB,
        ),
        measure,
        seconds=4.0,
        quick=codec == "none" and acks == "all" and size <= 1000,
    )


def _java_produce(size: int, replicas: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        records = int(context.scale.seconds * 100_000)
        with loads.topic(cluster, "produce", PARTITIONS, replicas) as topic:
            with cluster.counted() as usage:
                done = loads.java_produce(cluster, topic, records, size)
        return flow(records, size, records / done["records_s"], usage)

    return Case(
        f"produce 1 KB, RF {replicas}, Kafka's ProducerPerformance",
        (Quantity("mb_s", "MB/s", "higher", goal=Goal(1.0)), _PER_GB),
        measure,
        seconds=6.0,
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
        topic, records = _filled(context.cluster, size, context.scale.read_mb * min(1000, size) // 1000)
        with context.cluster.counted() as usage:
            seconds = loads.kcat_read(context.cluster, topic, records)
        return flow(records, size, seconds, usage)

    return Case(
        f"consume {label} from the page cache",
        (
            Quantity("mb_s", "MB/s", "higher", goal=Goal(1.3)),
            Quantity("records_s", "records/s", "higher", "records"),
            _PER_GB,
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


_MATRIX = [
    (size, replicas, acks, "none") for size in (1000, 100, 10_000) for replicas in (1, 3) for acks in ("all", "1")
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
    Part("consume", (_consume("1 KB"), _consume("100 B"), _java_consume()), SHARED),
)
