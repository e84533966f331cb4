"""Clusters that many cases share."""

from bench import loads
from bench.cases import Context, Stage


def warm(context: Context) -> None:
    """Some seconds of each kind of load, so that no JVM is measured while it still compiles."""
    cluster = context.cluster
    for replicas, size in ((3, 1000), (1, 100)):
        with loads.topic(cluster, f"warm-{replicas}", 3, replicas) as topic:
            several = {"topic": topic, "acks": "all"}
            produced = loads.client(
                "produce", cluster, partitions=3, size=size, seconds=3.0, codec="none", **several
            )
            loads.kcat_read(cluster, topic, int(produced["records"]))
            loads.client("closed_loop", cluster, clients=10, window=1, size=100, seconds=2.0, **several)


SHARED = Stage("shared", brokers=3, prepare=warm, seconds=50.0)
