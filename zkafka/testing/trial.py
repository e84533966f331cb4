"""A cluster under load, something going wrong in the middle, and a verdict.

    async with trial(directory) as (cluster, workload):
        await cluster.kill(await cluster.leader(workload.topic, 0))
        await workload.wait_acknowledged(200)
        await cluster.start(1)

When the body has ended, the network is healed, writing must go on, everything acknowledged must be
read, every broker that runs must be in sync again, and the history must be without an anomaly. The
history is kept as `history.jsonl` in the directory, whatever the outcome.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import trio

from zkafka.testing.checker import Verdict, check
from zkafka.testing.cluster import Cluster, Mode
from zkafka.testing.history import History
from zkafka.testing.observer import observe
from zkafka.testing.workload import Workload

TOPIC = "trial"
WARM_UP = 150
"""Values acknowledged before the body runs, and once more after it."""


@asynccontextmanager
async def trial(
    directory: Path,
    *,
    brokers: int = 3,
    partitions: int = 3,
    mode: Mode = "process",
    zookeepers: Literal[1, 3, 5] = 1,
    config: Mapping[str, str] | None = None,
    rate: float = 150.0,
    inter_broker_listener: bool = False,
    recovery_seconds: float = 60.0,
) -> AsyncIterator[tuple[Cluster, Workload]]:
    """Run the body against a cluster under load, then judge what was seen.

    The topic is `TOPIC`, replicated on up to three brokers with min.insync.replicas=2. Raises
    AssertionError with a report if a promise was broken, ClusterError or WorkloadFailed if the
    cluster did not recover within `recovery_seconds`.
    """
    history = History()
    try:
        async with Cluster(
            brokers,
            mode=mode,
            zookeepers=zookeepers,
            config=config,
            directory=directory,
            inter_broker_listener=inter_broker_listener,
        ) as cluster:
            await cluster.create_topic(TOPIC, partitions=partitions)
            async with trio.open_nursery() as nursery:
                await nursery.start(observe, cluster, TOPIC, history)
                async with Workload(
                    cluster.bootstrap,
                    TOPIC,
                    partitions=partitions,
                    history=history,
                    rate=rate,
                    directory=directory,
                ) as workload:
                    await workload.wait_acknowledged(WARM_UP)
                    await workload.wait_consuming()
                    yield cluster, workload
                    cluster.heal()
                    await workload.wait_acknowledged(WARM_UP, timeout=recovery_seconds)
                    await workload.finish(timeout=recovery_seconds)
                await cluster.wait_until_whole(timeout=recovery_seconds)
                nursery.cancel_scope.cancel()
            await cluster.wait_until_replicas_agree(TOPIC, partitions, timeout=recovery_seconds)
            for partition in range(partitions):
                for contents in cluster.replica_contents(TOPIC, partition):
                    history.add(contents)
    finally:
        (directory / "history.jsonl").write_text(history.to_json_lines())
    judge(history)


def judge(history: History) -> Verdict:
    """The verdict on a history that ended well; AssertionError with a report otherwise."""
    verdict = check(history)
    assert verdict.valid, verdict.report()
    assert verdict.acknowledged_count > 0, "nothing was acknowledged: nothing was shown"
    assert verdict.failed_count == verdict.unknown_count == 0, verdict.report()
    assert verdict.unread_count == 0, verdict.report()
    return verdict
