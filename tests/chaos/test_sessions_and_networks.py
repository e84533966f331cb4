"""Sessions that end, and networks that come apart between some and not between others."""

from pathlib import Path

import pytest
import trio
from chaos_settings import PATIENT_SETTINGS, SESSION_SECONDS, SETTINGS

from zkafka.testing.cluster import Cluster
from zkafka.testing.trial import TOPIC, trial


async def test_an_expired_session_costs_a_broker_its_roles_and_not_its_life(
    tmp_path: Path,
) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        pid = cluster.brokers[leader].pid
        await cluster.expire_session(leader)
        await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()
        assert cluster.brokers[leader].pid == pid


async def test_a_controller_whose_session_expires_is_succeeded(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        controller = await cluster.controller()
        await cluster.expire_session(controller)
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()


@pytest.mark.parametrize("silently", [False, True], ids=["reset", "silent"])
async def test_a_leader_cut_from_zookeeper_but_not_from_its_clients(
    tmp_path: Path, silently: bool
) -> None:
    """Its clients still reach it; it must not acknowledge what its successor does not have."""
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        (cluster.black_hole if silently else cluster.cut)(leader, "zookeeper")
        await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(150)
        cluster.heal()
        await cluster.wait_until_whole()


async def test_a_follower_cut_from_its_peers_leaves_the_isr_and_returns(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS, partitions=1) as (cluster, workload):
        leader, controller = await cluster.leader(TOPIC, 0), await cluster.controller()
        follower = next(i for i in cluster.brokers if i not in (leader, controller))
        cluster.isolate(follower)

        async def left_the_isr() -> bool:
            known = await cluster.partition(TOPIC, 0)
            return known is not None and follower not in known.isr_nodes

        await cluster.wait_until("the follower leaves the ISR", left_the_isr)
        await workload.wait_acknowledged(150)
        cluster.heal()
        await cluster.wait_until_whole()


async def test_a_leader_cut_from_its_peers_but_not_from_zookeeper(tmp_path: Path) -> None:
    """It is registered, so nobody replaces it, and alone it may acknowledge nothing."""
    async with trial(tmp_path, config=PATIENT_SETTINGS, partitions=1) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        cluster.isolate(leader)
        await workload.wait_quiet()  # what was in flight may still be answered
        before = workload.acknowledged_count
        with trio.move_on_after(SESSION_SECONDS):
            await workload.wait_acknowledged(1, timeout=60)
        assert workload.acknowledged_count == before, "two followers do not follow any more"
        assert await cluster.leader(TOPIC, 0) == leader
        cluster.heal()
        await workload.wait_acknowledged(150)


async def test_a_controller_cut_from_its_peers_but_not_from_zookeeper(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        controller = await cluster.controller()
        cluster.isolate(controller, silently=True)
        await trio.sleep(SESSION_SECONDS + 1)  # the fault itself is a length of time
        cluster.heal()
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()


async def test_clients_cut_from_a_broker_go_on_when_it_is_healed(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        cluster.cut("clients", await cluster.leader(TOPIC, 0))
        await trio.sleep(2)  # the fault itself is a length of time
        cluster.heal()
        await workload.wait_acknowledged(150)


async def test_what_cannot_be_true_in_the_loop_is_refused(tmp_path: Path) -> None:
    from zkafka.testing.cluster import ClusterError

    async with Cluster(1, mode="in_loop", directory=tmp_path) as cluster:
        with pytest.raises(ClusterError, match="cannot be paused"):
            cluster.pause(1)
