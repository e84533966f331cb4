"""How long one record takes: small requests, lone produce, end to end."""

from collections.abc import Mapping

from bench import loads
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import SHARED
from bench.results import Goal


def percentiles(goal: Goal | None, last: bool = True) -> tuple[Quantity, ...]:
    """p50, p99 and, where rounds have the thousands of records it takes, p99.9."""
    return (
        Quantity("p50", "ms", "lower", "p50", goal),
        Quantity("p99", "ms", "lower", "p99", goal),
        *((Quantity("p99.9", "ms", "lower", "p99.9"),) if last else ()),
    )


def _small(clients: int, window: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load = {"clients": clients, "window": window, "size": 100, "acks": "all"}
        with loads.topic(cluster, "small", 3, 1) as topic, cluster.counted() as usage:
            done = loads.client(
                "closed_loop", cluster, topic=topic, seconds=context.scale.seconds, **load
            )
        requests = done.pop("requests")
        seconds = done.pop("seconds")
        return {
            "requests_s": requests / seconds,
            "cpu_us": usage.cpu_seconds / requests * 1e6,
            **done,
            **usage.values(),
        }

    many = "1 connection, 5 under way" if clients == 1 else f"{clients} connections"
    return Case(
        f"small requests, {many}",
        (
            Quantity("requests_s", "requests/s", "higher", goal=Goal(0.7) if clients > 1 else None),
            Quantity("cpu_us", "us/request", "lower", "broker CPU"),
            *percentiles(None),
        ),
        measure,
        seconds=5.0,
    )


def _lone(replicas: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load = {"size": 100, "acks": "all", "seconds": context.scale.seconds}
        with loads.topic(cluster, "lone", 1, replicas) as topic, cluster.counted() as usage:
            done = loads.client("lone", cluster, topic=topic, **load)
        return {**done, **usage.values()}

    return Case(
        f"lone produce, RF {replicas}, acks=all",
        percentiles(Goal(0.7), last=False),
        measure,
        seconds=4.0,
        quick=True,
    )


def _end_to_end() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load = {"size": 100, "rate": 1000, "seconds": max(3.0, context.scale.seconds)}
        with loads.topic(cluster, "end-to-end", 3, 3) as topic, cluster.counted() as usage:
            done = loads.client("end_to_end", cluster, topic=topic, **load)
        return {**done, **usage.values()}

    p50, p99, last = percentiles(None)
    return Case(
        "end to end, 1,000 records/s, RF 3, acks=all",
        (p50, Quantity("p99", "ms", "lower", "p99", Goal(0.7)), last),
        measure,
        seconds=6.0,
    )


def _java_end_to_end() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        with loads.topic(cluster, "end-to-end", 1, 3) as topic, cluster.counted() as usage:
            mean = loads.java_end_to_end(cluster, topic, int(1000 * context.scale.seconds), 100)
        return {"mean": mean, **usage.values()}

    return Case(
        "end to end, one at a time, Kafka's EndToEndLatency",
        (Quantity("mean", "ms", "lower", "mean"),),
        measure,
        seconds=6.0,
    )


PARTS = (
    Part("small", (_small(1, 5), _small(100, 1)), SHARED),
    Part("lone", (_lone(1), _lone(3)), SHARED),
    Part("end-to-end", (_end_to_end(), _java_end_to_end()), SHARED),
)
