"""SIGKILL and SIGSTOP: whoever dies or sleeps, nothing acknowledged is lost, doubled or reordered.

Each test breaks something while two idempotent producers (acks=all, min.insync.replicas=2) and a
group of two are at work; `trial` judges what they saw.
"""

from pathlib import Path

import trio
from chaos_settings import PATIENT_SETTINGS, SESSION_SECONDS, SETTINGS

from zkafka.testing.trial import TOPIC, trial


async def test_a_killed_leader_is_replaced_and_comes_back_as_a_follower(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        await cluster.kill(leader)
        await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(150)
        await cluster.start(leader)


async def test_a_killed_follower_does_not_stop_writing(tmp_path: Path) -> None:
    async with trial(tmp_path, config=PATIENT_SETTINGS, partitions=1) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        follower = next(i for i in cluster.brokers if i != leader)
        await cluster.kill(follower)
        await workload.wait_acknowledged(150)
        assert await cluster.leader(TOPIC, 0) == leader
        await cluster.start(follower)


async def test_a_killed_controller_is_succeeded(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        controller = await cluster.controller()
        await cluster.kill(controller)
        successor = await cluster.controller(other_than=controller)
        await cluster.leader(TOPIC, 0, other_than=controller)
        await workload.wait_acknowledged(150)
        await cluster.start(controller)
        await cluster.wait_until_whole()
        assert await cluster.controller() == successor


async def test_a_killed_coordinator_forgets_no_commit(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        coordinator = await cluster.coordinator("workload")
        await cluster.kill(coordinator)
        await workload.wait_acknowledged(150)
        await workload.wait_read()
        await cluster.coordinator("workload", other_than=coordinator)
        await cluster.start(coordinator)


async def test_two_of_three_killed_in_turn(tmp_path: Path) -> None:
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        for victim in (await cluster.leader(TOPIC, 0), await cluster.leader(TOPIC, 1)):
            await cluster.kill(victim)
            await cluster.leader(TOPIC, 0, other_than=victim)
            await workload.wait_acknowledged(150)
            await cluster.start(victim)
            await cluster.wait_until_whole()


async def test_two_of_three_killed_at_once_pause_writing_and_lose_nothing(tmp_path: Path) -> None:
    """One replica is below min.insync.replicas: nothing is acknowledged until a second is back."""
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        survivor = await cluster.leader(TOPIC, 0)
        victims = [i for i in cluster.brokers if i != survivor]
        for victim in victims:
            await cluster.kill(victim)
        await cluster.wait_until_whole()  # the survivor leads all, alone
        await workload.wait_quiet()
        before = workload.acknowledged_count
        with trio.move_on_after(1.0):
            await workload.wait_acknowledged(1)
        assert workload.acknowledged_count == before
        for victim in victims:
            await cluster.start(victim)


async def test_a_leader_asleep_past_its_session_wakes_as_nobody(tmp_path: Path) -> None:
    """It still believes to lead when it wakes; every door refuses it, and it follows."""
    async with trial(tmp_path, config=SETTINGS) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        cluster.pause(leader)
        with trio.move_on_after(SESSION_SECONDS + 5):
            await cluster.leader(TOPIC, 0, other_than=leader)
        await workload.wait_acknowledged(150)
        cluster.resume(leader)


async def test_a_nap_shorter_than_the_session_changes_nothing(tmp_path: Path) -> None:
    async with trial(tmp_path, config=PATIENT_SETTINGS, partitions=1) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        before = await cluster.partition(TOPIC, 0)
        cluster.pause(leader)
        await trio.sleep(SESSION_SECONDS / 4)  # the fault itself is a length of time
        cluster.resume(leader)
        await workload.wait_acknowledged(150)
        after = await cluster.partition(TOPIC, 0)
        assert before is not None
        assert after is not None
        assert (after.leader_id, after.leader_epoch) == (before.leader_id, before.leader_epoch)


async def test_brokers_in_the_loop_are_killed_without_closing_their_session(
    tmp_path: Path,
) -> None:
    settings = SETTINGS | {"zkafka.broker.suspicion.timeout.ms": "0"}
    async with trial(tmp_path, config=settings, mode="in_loop", rate=50) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        began = trio.current_time()
        await cluster.kill(leader)
        await cluster.leader(TOPIC, 0, other_than=leader)
        # Had it closed its session, another would have led at once.
        assert trio.current_time() - began > SESSION_SECONDS / 4
        await workload.wait_acknowledged(50)
        await cluster.start(leader)
