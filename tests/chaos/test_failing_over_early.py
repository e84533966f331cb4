"""Brokers that are taken for dead before their sessions end: rightly, and wrongly.

A process that is killed refuses connections, and its proxies do so for it. A listener that refuses
while its broker lives is a proxy of the brokers' own listener that refuses: ZooKeeper and the
clients see nothing of it, and the broker believes to be what it was. What was acknowledged must be
there in the end, whoever was suspected of what.

The session is Kafka's default of 18 s, so that nothing here could be the session's doing.
"""

from collections.abc import Mapping
from pathlib import Path

import trio

from zkafka.testing.cluster import Cluster
from zkafka.testing.trial import TOPIC, trial
from zkafka.testing.workload import Workload

RATE = 50.0
"""Of each producer, per second: a machine that runs this may have other work."""

SETTINGS = {
    "zookeeper.session.timeout.ms": "18000",
    "replica.lag.time.max.ms": "3000",
    "replica.socket.timeout.ms": "3000",
    "controller.socket.timeout.ms": "3000",
}
WELL_WITHIN_THE_SESSION = 9.0


async def writes_again(workload: Workload) -> None:
    """Every partition has a leader that acknowledges, long before any session could have ended."""
    with trio.fail_after(WELL_WITHIN_THE_SESSION):
        await workload.wait_acknowledged(150, timeout=WELL_WITHIN_THE_SESSION)


async def said(cluster: Cluster, broker_id: int, what: str) -> None:
    """Wait until a broker's log says it."""

    async def found() -> bool:
        return what in cluster.brokers[broker_id].log_text()

    await cluster.wait_until(f"broker {broker_id} says {what!r}", found)


async def suspected(cluster: Cluster, suspect: int, *, by: int) -> None:
    await said(cluster, by, f"suspected broker={by} suspect={suspect} ")


async def leaders(cluster: Cluster, partitions: int = 3) -> Mapping[int, int]:
    return {p: await cluster.leader(TOPIC, p) for p in range(partitions)}


async def one_that_leads(cluster: Cluster, *, other_than: int) -> tuple[int, int]:
    """A broker that leads one of the trial's partitions, and which."""
    led = await leaders(cluster)
    return next((leader, p) for p, leader in led.items() if leader != other_than)


async def test_a_killed_leader_is_replaced_long_before_its_session_ends(tmp_path: Path) -> None:
    async with trial(tmp_path, rate=RATE, config=SETTINGS) as (cluster, workload):
        controller = await cluster.controller()
        leader, partition = await one_that_leads(cluster, other_than=controller)
        await cluster.kill(leader)
        await cluster.leader(TOPIC, partition, other_than=leader, timeout=WELL_WITHIN_THE_SESSION)
        await writes_again(workload)
        await cluster.start(leader)


async def test_a_killed_controller_is_succeeded_long_before_its_session_ends(
    tmp_path: Path,
) -> None:
    async with trial(tmp_path, rate=RATE, config=SETTINGS) as (cluster, workload):
        controller = await cluster.controller()
        await cluster.kill(controller)
        await cluster.controller(other_than=controller, timeout=WELL_WITHIN_THE_SESSION)
        await writes_again(workload)
        await cluster.start(controller)


async def test_with_suspicion_turned_off_the_session_decides(tmp_path: Path) -> None:
    settings = SETTINGS | {
        "zookeeper.session.timeout.ms": "6000",
        "zkafka.broker.suspicion.timeout.ms": "0",
    }
    async with trial(tmp_path, rate=RATE, config=settings, partitions=1) as (cluster, workload):
        leader = await cluster.leader(TOPIC, 0)
        await cluster.kill(leader)
        began = trio.current_time()
        await cluster.leader(TOPIC, 0, other_than=leader)
        assert trio.current_time() - began > 2.0
        await workload.wait_acknowledged(50)
        await cluster.start(leader)


async def test_a_leader_whose_listener_refuses_its_peers_loses_its_partitions_and_no_record(
    tmp_path: Path,
) -> None:
    """Clients go on writing to it for as long as they take it for the leader: it acknowledges
    nothing that its successors lack, and follows them when it is healed."""
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        leader, partition = await one_that_leads(cluster, other_than=controller)
        pid = cluster.brokers[leader].pid
        cluster.refuse(leader)
        await suspected(cluster, leader, by=controller)
        await cluster.leader(TOPIC, partition, other_than=leader)
        await workload.wait_acknowledged(150)
        cluster.heal()
        await said(cluster, controller, "it answers")
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()
        assert cluster.brokers[leader].pid == pid


async def test_a_follower_whose_listener_refuses_leaves_the_isr_and_comes_back(
    tmp_path: Path,
) -> None:
    async with trial(
        tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True, partitions=1
    ) as (
        cluster,
        workload,
    ):
        controller, leader = await cluster.controller(), await cluster.leader(TOPIC, 0)
        follower = next(i for i in cluster.brokers if i not in (controller, leader))
        cluster.refuse(follower)
        await suspected(cluster, follower, by=controller)
        await writes_again(workload)
        known = await cluster.partition(TOPIC, 0)
        assert known is not None
        assert known.leader_id == leader
        assert follower not in known.isr_nodes
        cluster.heal()
        await cluster.wait_until_whole()


async def test_a_controller_whose_listener_refuses_its_peers_is_succeeded(tmp_path: Path) -> None:
    """It lives, and is registered: it finds itself deposed, and is a follower once healed."""
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        pid = cluster.brokers[controller].pid
        cluster.refuse(controller)
        await said(cluster, controller, f"resigned as controller broker={controller}")
        others = [i for i in cluster.brokers if i != controller]

        async def succeeded() -> bool:
            named = {(await cluster.metadata(i, [])).controller_id for i in others}
            return len(named) == 1 and named <= set(others)

        await cluster.wait_until("the others have a controller among them", succeeded)
        await workload.wait_acknowledged(150)
        cluster.heal()
        await cluster.wait_until_whole()
        assert cluster.brokers[controller].pid == pid


async def test_two_of_three_that_refuse_at_once_are_not_suspected(tmp_path: Path) -> None:
    """For the controller, that is: it may well be the one that is cut off. Nobody is elected."""
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        before = [await cluster.partition(TOPIC, p) for p in range(3)]
        others = [i for i in cluster.brokers if i != controller]
        for other in others:
            cluster.refuse(other)
        for other in others:
            await said(cluster, controller, f"not suspected broker={controller} refused_by={other}")
        after = [await cluster.partition(TOPIC, p) for p in range(3)]
        cluster.heal()
        assert [(p and p.leader_id, p and p.leader_epoch) for p in before] == [
            (p and p.leader_id, p and p.leader_epoch) for p in after
        ]
        assert (
            f"suspected broker={controller} suspect" not in cluster.brokers[controller].log_text()
        )
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()


async def test_a_second_one_after_the_first_is_left_to_its_session(tmp_path: Path) -> None:
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        first, second = (i for i in cluster.brokers if i != controller)
        await cluster.kill(first)
        await suspected(cluster, first, by=controller)
        await writes_again(workload)
        cluster.refuse(second)
        await said(cluster, controller, f"not suspected broker={controller} refused_by={second}")
        cluster.heal()
        await workload.wait_acknowledged(150)
        await cluster.start(first)


async def test_a_suspect_that_comes_and_goes(tmp_path: Path) -> None:
    """Healed while its partitions are being led by others, and refused again."""
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        suspect, _ = await one_that_leads(cluster, other_than=controller)
        log = cluster.brokers[controller]
        for time in range(1, 4):
            cluster.refuse(suspect)

            async def counted(time: int = time) -> bool:
                return log.log_text().count(f"suspected broker={controller} suspect=") >= time

            await cluster.wait_until(f"suspected {time} times", counted)
            cluster.heal()

            async def answered(time: int = time) -> bool:
                return log.log_text().count("it answers") >= time

            await cluster.wait_until(f"answered {time} times", answered)
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()


async def test_a_suspect_that_is_killed_and_started_again_is_taken_for_what_it_is(
    tmp_path: Path,
) -> None:
    """Refused first, then killed, then registered anew while the suspicion still stands."""
    async with trial(tmp_path, rate=RATE, config=SETTINGS, inter_broker_listener=True) as (
        cluster,
        workload,
    ):
        controller = await cluster.controller()
        suspect, partition = await one_that_leads(cluster, other_than=controller)
        cluster.refuse(suspect)
        await suspected(cluster, suspect, by=controller)
        await cluster.kill(suspect)
        await cluster.leader(TOPIC, partition, other_than=suspect)
        await cluster.start(suspect)
        await workload.wait_acknowledged(150)
        await cluster.wait_until_whole()
