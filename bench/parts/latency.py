"""How long one record takes: small requests, lone produce, end to end."""

from collections.abc import Mapping
from typing import Any

import attrs

from bench import loads
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import SHARED
from bench.results import Goal

P50 = Quantity("p50", "ms", "lower", "p50")
P99 = Quantity("p99", "ms", "lower", "p99")
P999 = Quantity("p99.9", "ms", "lower", "p99.9")
_GOAL = Goal(0.7)


def _small(clients: int, window: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load: dict[str, Any] = {"clients": clients, "window": window, "size": 100, "acks": "all"}
        load |= {"bootstrap": cluster.bootstrap, "seconds": context.scale.seconds}
        with (
            loads.topic(cluster, "small", 3, 1) as topic,
            loads.ClientProcess("closed_loop", topic=topic, **load).wait_started() as client,
            cluster.counted() as usage,  # without what it takes to connect
        ):
            done = client.result()
        requests = done.pop("requests")
        seconds = done.pop("seconds")
        return {
            "requests_s": requests / seconds,
            "cpu_us": usage.cpu_seconds / requests * 1e6,
            **done,
            **usage.values(),
        }

    many = "1 connection" if clients == 1 else f"{clients:,} connections"
    if window > 1:
        many += f", {window} under way"
    return Case(
        f"small requests, {many}",
        (
            Quantity(
                "requests_s",
                "requests/s",
                "higher",
                goal=_GOAL if clients >= 100 else None,
                headline=window > 1 or clients >= 100,
            ),
            Quantity("cpu_us", "us/request", "lower", "broker CPU"),
            P50,
            P99,
            P999,
        ),
        measure,
        seconds=4.0 + clients / 100,
        rounds=1 if clients > 100 else None,
    )


def _lone(replicas: int) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load: dict[str, Any] = {"size": 100, "acks": "all", "seconds": context.scale.seconds}
        with loads.topic(cluster, "lone", 1, replicas) as topic, cluster.counted() as usage:
            done = loads.client("lone", cluster, topic=topic, **load)
        return {**done, **usage.values()}

    return Case(
        f"lone produce, RF {replicas}, acks=all",
        tuple(attrs.evolve(each, goal=_GOAL, headline=True) for each in (P50, P99)),
        measure,
        seconds=3.0,
        quick=True,
    )


def _end_to_end() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        load: dict[str, Any] = {
            "size": 100,
            "rate": 1000,
            "seconds": max(3.0, context.scale.seconds),
        }
        with loads.topic(cluster, "end-to-end", 3, 3) as topic, cluster.counted() as usage:
            done = loads.client("end_to_end", cluster, topic=topic, **load)
        return {**done, **usage.values()}

    return Case(
        "end to end, 1,000 records/s, RF 3, acks=all",
        (
            attrs.evolve(P50, headline=True),
            attrs.evolve(P99, goal=_GOAL, headline=True),
            P999,
        ),
        measure,
        seconds=6.0,
    )


def _java_end_to_end() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        with loads.topic(cluster, "end-to-end", 1, 3) as topic, cluster.counted() as usage:
            mean = loads.java_end_to_end(cluster, topic, int(400 * context.scale.seconds), 100)
        return {"mean": mean, **usage.values()}

    return Case(
        "end to end, one at a time, Kafka's EndToEndLatency",
        (Quantity("mean", "ms", "lower", "mean"),),
        measure,
        seconds=5.0,
    )


PARTS = (
    Part("small", (_small(1, 5), *(_small(clients, 1) for clients in (1, 10, 100, 1000))), SHARED),
    Part("lone", (_lone(1), _lone(3)), SHARED),
    Part("end-to-end", (_end_to_end(), _java_end_to_end()), SHARED),
)
