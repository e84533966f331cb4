"""Faults in an order nobody thought of: drawn from a seed, one after another and overlapping.

    ZKAFKA_CHAOS_SEED=17 ZKAFKA_CHAOS_FAULTS=30 bin/test tests/chaos/test_a_bad_day.py

At most one broker is down, asleep or cut off at a time, so that two replicas of three are left, and
writing must go on within `WITHIN_SECONDS` while it lasts. The order of events between processes is
the machine's, so a seed repeats the faults and not the race; the history is kept either way.
"""

import os
import random
from pathlib import Path

import trio
from chaos_settings import SESSION_SECONDS, SETTINGS

from zkafka.testing.cluster import Cluster
from zkafka.testing.trial import trial

SEED = int(os.environ.get("ZKAFKA_CHAOS_SEED", "1"))
FAULTS = int(os.environ.get("ZKAFKA_CHAOS_FAULTS", "6"))
WITHIN_SECONDS = 30.0


async def strike(cluster: Cluster, victim: int, fault: str, rng: random.Random) -> None:
    """Break one thing."""
    match fault:
        case "kill":
            await cluster.kill(victim)
        case "stop":
            await cluster.stop(victim)
        case "pause":
            cluster.pause(victim)
        case "expire":
            await cluster.wait_until_whole()  # there must be a session to expire
            await cluster.expire_session(victim)
        case "isolate":
            cluster.isolate(victim, silently=rng.random() < 0.5)
        case "cut from zookeeper":
            cluster.cut(victim, "zookeeper")
        case "silence to zookeeper":
            cluster.black_hole(victim, "zookeeper")
        case "zookeeper restarts":
            await cluster.zookeeper.stop_async()
            await cluster.zookeeper.start_async()


async def mend(cluster: Cluster, victim: int, fault: str) -> None:
    """Undo it."""
    match fault:
        case "kill" | "stop":
            await cluster.start(victim)
        case "pause":
            cluster.resume(victim)
    cluster.heal()


async def test_a_bad_day(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    faults = ["kill", "stop", "pause", "expire", "isolate"]
    faults += ["cut from zookeeper", "silence to zookeeper", "zookeeper restarts"]
    async with trial(tmp_path, config=SETTINGS, partitions=4) as (cluster, workload):
        for number in range(FAULTS):
            victim, fault = rng.choice(sorted(cluster.brokers)), rng.choice(faults)
            lasts = rng.uniform(0.2, SESSION_SECONDS + 2)
            print(f"{trio.current_time():.1f} fault {number}: {fault} {victim} for {lasts:.1f} s")
            await strike(cluster, victim, fault, rng)
            await trio.sleep(lasts)  # how long it lasts is part of the fault
            await mend(cluster, victim, fault)
            await workload.wait_acknowledged(50, timeout=WITHIN_SECONDS)
            if rng.random() < 0.7:
                await cluster.wait_until_whole()
