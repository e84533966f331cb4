"""Brokers that die: how long nobody can write, and when they are back.

Default settings, so ZooKeeper gives a silent broker up after 18 s. 100 partitions of three
replicas, acks=all: whichever broker dies, every partition loses a replica, and a third its leader.
"""

import signal
import time
from collections.abc import Mapping

from bench import loads
from bench.cases import Case, Context, Part, Quantity
from bench.parts.stages import FAILING_PARTITIONS, FAILURES
from bench.results import Goal
from bench.sides import Cluster

TOPIC = "failures"


def _whole_again(cluster: Cluster) -> None:
    loads.wait_whole(cluster, TOPIC, FAILING_PARTITIONS)
    loads.lead_as_preferred(cluster, TOPIC)


def _outage(name: str, number: signal.Signals, *, of_controller: bool, goal: Goal | None) -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        _whole_again(cluster)
        controller = cluster.controller()
        others = [broker_id for broker_id in cluster.brokers if broker_id != controller]
        victim = cluster.brokers[controller if of_controller else others[0]]
        assert victim.process is not None
        load = {"partitions": FAILING_PARTITIONS, "pid": victim.process.pid, "number": int(number)}
        with cluster.counted() as usage:
            found = loads.client("outage", cluster, topic=TOPIC, timeout=150.0, **load)
        cluster.killed(victim.broker_id)
        cluster.revive(victim.broker_id)
        loads.wait_whole(cluster, TOPIC, FAILING_PARTITIONS)
        return {"seconds": found["seconds"], **usage.values()}

    return Case(
        name,
        (Quantity("seconds", "s", "lower", goal=goal, headline=True),),
        measure,
        seconds=5.0,
        quick=goal is not None and not of_controller,
        of_kills=True,
    )


def _restart() -> Case:
    def measure(context: Context) -> Mapping[str, float]:
        cluster = context.cluster
        _whole_again(cluster)
        victim = next(
            broker_id for broker_id in cluster.brokers if broker_id != cluster.controller()
        )
        with cluster.counted() as usage:
            started = time.perf_counter()
            cluster.end(victim, signal.SIGKILL)
            cluster.revive(victim)
            loads.wait_whole(cluster, TOPIC, FAILING_PARTITIONS)
            loads.touch(cluster, TOPIC, FAILING_PARTITIONS)
            loads.wait_whole(cluster, TOPIC, FAILING_PARTITIONS)
            elapsed = time.perf_counter() - started
        return {"seconds": elapsed, **usage.values()}

    return Case(
        "kill -9 and start again at once, until it is back in every ISR",
        (Quantity("seconds", "s", "lower", headline=True),),
        measure,
        seconds=10.0,
        rounds=2,
    )


PARTS = (
    Part(
        "failures",
        (
            _outage(
                "kill -9 a leader, until all is written again",
                signal.SIGKILL,
                of_controller=False,
                goal=Goal(1.0, "absolute"),
            ),
            _outage(
                "kill -9 the controller, until all is written again",
                signal.SIGKILL,
                of_controller=True,
                goal=Goal(1.0, "absolute"),
            ),
            _outage(
                "stop a broker politely, longest wait of a record",
                signal.SIGTERM,
                of_controller=False,
                goal=None,
            ),
            _restart(),
        ),
        FAILURES,
    ),
)
