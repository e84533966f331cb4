"""The chaos tests themselves are tested: a broker that lies is found out."""

import sys
import time
from pathlib import Path

import pytest
from chaos_settings import SETTINGS

from zkafka.testing.checker import Kind, check
from zkafka.testing.cluster import Cluster
from zkafka.testing.history import History, ProduceAcknowledged, ProduceAttempted
from zkafka.testing.trial import TOPIC
from zkafka.testing.workload import Workload

LIAR = (sys.executable, str(Path(__file__).with_name("lying_broker.py")))


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "lying"])
async def test_acknowledging_before_replicating_is_found(tmp_path: Path, honest: bool) -> None:
    """A leader alone with its clients acknowledges, and dies before anybody has followed.

    It is not long alone enough to remove the others from the ISR, which would stop a liar, too.
    """
    config = SETTINGS | {"replica.lag.time.max.ms": "30000"}
    history = History()
    command = {} if honest else {"command": LIAR}
    # An idempotent producer notices by itself that its sequence has a hole, and gives up.
    forgiving = {} if honest else {"enable.idempotence": False}
    async with Cluster(3, config=config, directory=tmp_path, **command) as cluster:
        await cluster.create_topic(TOPIC, partitions=1)
        leader = await cluster.leader(TOPIC, 0)
        async with Workload(
            cluster.bootstrap,
            TOPIC,
            partitions=1,
            history=history,
            producers=1,
            consumers=0,
            producer_config=forgiving,
            directory=tmp_path,
        ) as workload:
            await workload.wait_acknowledged(100)
            cluster.isolate(leader)
            await cluster.partition(TOPIC, 0)  # by then every connection has been reset
            alone_since_ms = time.monotonic_ns() // 1_000_000

            async def has_lied() -> bool:
                begun = {
                    event.value
                    for event in history
                    if isinstance(event, ProduceAttempted) and event.at_ms > alone_since_ms
                }
                told = (e.value for e in history if isinstance(e, ProduceAcknowledged))
                return len(begun.intersection(told)) >= 100

            if honest:
                await workload.wait_quiet()
                assert not await has_lied()
            else:
                await cluster.wait_until("what nobody follows is acknowledged", has_lied)
            await cluster.kill(leader)
            await cluster.leader(TOPIC, 0, other_than=leader)
            cluster.heal()
            await workload.wait_acknowledged(100)
            await workload.finish()
        await cluster.start(leader)
        await cluster.wait_until_whole()
        await cluster.wait_until_replicas_agree(TOPIC, 1)
        for contents in cluster.replica_contents(TOPIC, 0):
            history.add(contents)
    verdict = check(history)
    if honest:
        assert verdict.valid, verdict.report()
    else:
        assert len(verdict.of_kind(Kind.LOST_WRITE)) >= 10, verdict.report()
