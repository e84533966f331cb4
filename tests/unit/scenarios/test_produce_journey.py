"""The journey of a produce with acks=all: from the append to the acknowledgement, step by step.

Three brokers with real logs in one loop; `min.insync.replicas` is 2.
"""

import pytest
import trio
import trio.testing
from replication_world import TP, World, records

from zkafka.errors import ApiError, ErrorCode

NONE = ErrorCode.NONE


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 3, min_insync_replicas=2)


def soon():
    return int(trio.current_time() * 1000) + 10_000


async def test_a_produce_is_acknowledged_when_the_whole_isr_has_it(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        leader = world[1]

        # 3, 4, 5: the batch is checked and appended; nobody else has it, so nothing is committed.
        result = leader.produce("m1", "m2")
        assert (result.base_offset, result.last_offset, result.leader_epoch) == (0, 1, 0)
        assert leader.everything() == ["m1", "m2"]
        assert leader.machine().high_watermark == 0
        assert leader.fetch(0) == (NONE, []), "consumers do not see it yet"
        assert leader.replicas.verdict(result) is None

        # 6, 7: the producer sleeps; the followers' fetches move the high watermark, and wake it.
        assert await leader.replicas.wait_replicated([result], soon()) == [NONE]
        assert leader.machine().high_watermark == 2
        assert leader.fetch(0) == (NONE, ["m1", "m2"])
        for follower in (world[2], world[3]):
            assert follower.everything() == ["m1", "m2"]

        # A round later, which on a quiet partition takes replica.fetch.wait.max.ms, the followers
        # know that it is committed.
        await trio.sleep(1)
        assert [world[n].machine().high_watermark for n in (2, 3)] == [2, 2]


async def test_nobody_waits_who_does_not_ask_for_it(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        result = world[1].produce("m1", acks=1)
        assert result.base_offset == 0
        assert world[1].replicas.verdict(result) is None


async def test_pipelined_produces_are_acknowledged_together(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        results = [world[1].produce(n) for n in range(20)]
        assert await world[1].replicas.wait_replicated(results, soon()) == [NONE] * 20
        assert world[3].everything() == [str(n) for n in range(20)]


async def test_a_slow_replica_holds_the_acknowledgement_until_it_left_the_isr(
    world, autojump_clock
):
    async with world.running():
        await world.assign(1)
        world.cut(1, 3)
        result = world[1].produce("m1")
        assert await world[1].replicas.wait_replicated([result], soon()) == [
            ErrorCode.REQUEST_TIMED_OUT
        ]
        assert world[2].everything() == ["m1"], "timed out is not undone"
        # The lag time over, the leader proposes to go on without it; the controller agrees.
        deadline_ms = int(trio.current_time() * 1000) + 60_000
        assert await world[1].replicas.wait_replicated([result], deadline_ms) == [NONE]
        assert world.proposals == [(TP, [1, 2])]
        assert world.states[TP].isr == [1, 2]

        # Back again it catches up, and joins.
        world.heal()
        await trio.sleep(5)
        assert world[3].everything() == ["m1"]
        assert sorted(world.states[TP].isr) == [1, 2, 3]
        statistics = world[1].replicas.statistics()
        assert (statistics.isr_shrinks, statistics.isr_expands) == (1, 1)
        assert statistics.under_replicated == 0


async def test_what_was_replicated_stays_acknowledged_when_the_rest_fails(world, autojump_clock):
    """One request appended both; its answer waits for the second."""
    async with world.running():
        await world.assign(1)
        first = world[1].produce("m1")
        assert await world[1].replicas.wait_replicated([first], soon()) == [NONE]
        world.cut(1, 2)
        world.cut(1, 3)
        second = world[1].produce("m2")
        told = []
        over = trio.Event()

        def call(verdicts):
            told.extend(verdicts)
            over.set()

        world[1].replicas.call_when_replicated([first, second], 10**9, -1, call)
        await world.assign(2)
        await over.wait()
        assert told == [NONE, ErrorCode.NOT_LEADER_OR_FOLLOWER]


async def test_too_few_in_sync_refuses_before_and_holds_after_the_append(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        held = world[1].produce("m1")
        deadline_ms = int(trio.current_time() * 1000) + 50_000
        verdicts = await world[1].replicas.wait_replicated([held], deadline_ms)
        assert verdicts == [ErrorCode.REQUEST_TIMED_OUT]
        assert world.states[TP].isr == [1], "both fell behind"

        with pytest.raises(ApiError) as refused:
            world[1].produce("m2")
        assert refused.value.code is ErrorCode.NOT_ENOUGH_REPLICAS
        assert world[1].everything() == ["m1"], "nothing was written"
        world[1].produce("m3", acks=1)
        assert world[1].machine().high_watermark == 0, "and nothing is committed by one alone"

        world.heal()
        await trio.sleep(5)
        assert world[1].machine().high_watermark == 2
        assert world[1].replicas.verdict(held) is NONE


async def test_an_isr_that_shrinks_too_far_in_the_same_moment_is_told(world, autojump_clock):
    """The high watermark passed, but fewer than min.insync.replicas count by then: error 20."""
    async with world.running():
        await world.assign(1)
        result = world[1].produce("m1")
        assert await world[1].replicas.wait_replicated([result], soon()) == [NONE]
        world.cut(1, 2)
        world.cut(1, 3)
        world[1].produce("m2", acks=1)
        await trio.sleep(50)
        assert world[1].replicas.verdict(result) is (ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)


async def test_a_leadership_lost_while_waiting_is_told_at_once(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        result = world[1].produce("m1")
        verdicts = []

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                verdicts.extend(await world[1].replicas.wait_replicated([result], soon()))

            await trio.testing.wait_all_tasks_blocked()
            await world.assign(2)
        assert verdicts == [ErrorCode.NOT_LEADER_OR_FOLLOWER]


async def test_a_leadership_lost_and_regained_acknowledges_nothing_of_before(world, autojump_clock):
    """Others may have led in between; what lies at these offsets now may be another record."""
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        result = world[1].produce("lost")
        await world.assign(2, isr=[2, 3])
        other = world[2].produce("kept")
        assert await world[2].replicas.wait_replicated([other], soon()) == [NONE]
        world.heal()
        await trio.sleep(5)
        await world.assign(1)
        await trio.sleep(5)
        assert world[1].everything() == ["kept"]
        assert world[1].machine().high_watermark > result.last_offset
        assert world[1].replicas.verdict(result) is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_a_retained_leadership_acknowledges_what_was_appended_before(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        result = world[1].produce("m1")
        await world.assign(1)
        world.heal()
        assert await world[1].replicas.wait_replicated([result], soon()) == [NONE]


async def test_a_repeated_batch_is_acknowledged_as_the_first_was_also_by_a_new_leader(
    world, autojump_clock
):
    async with world.running():
        await world.assign(1)
        how = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
        first = world[1].produce("m1", "m2", **how)
        again = world[1].produce("m1", "m2", **how)
        assert (again.base_offset, again.last_offset, again.duplicate) == (0, 1, True)
        assert await world[1].replicas.wait_replicated([first, again], soon()) == [NONE, NONE]

        await world.assign(2)
        later = world[2].produce("m1", "m2", **how)
        assert (later.base_offset, later.duplicate) == (0, True)
        await trio.sleep(1)
        assert world[3].everything() == ["m1", "m2"]


async def test_an_old_leader_that_was_not_told_acknowledges_nothing(world, autojump_clock):
    """Cut off with the old epoch, it takes the write, but nobody who counts fetches it."""
    async with world.running():
        await world.assign(1)
        world.cut(1, 2)
        world.cut(1, 3)
        await world.assign(2, tell=[2, 3])
        result = world[1].produce("never")
        world.heal()
        other = world[2].produce("kept")
        assert await world[2].replicas.wait_replicated([other], soon()) == [
            ErrorCode.REQUEST_TIMED_OUT
        ], "1 is still in the ISR, and does not fetch"
        assert world[1].replicas.verdict(result) is None
        await world.tell(1)
        assert world[1].replicas.verdict(result) is ErrorCode.NOT_LEADER_OR_FOLLOWER
        await trio.sleep(5)
        assert world[1].everything() == ["kept"]


@pytest.mark.parametrize("leader", [2, 3])
async def test_whoever_of_the_isr_is_elected_has_all_that_was_acknowledged(
    world, autojump_clock, leader
):
    async with world.running():
        await world.assign(1)
        acknowledged = []
        for n in range(30):
            result = world[1].produce(n)
            if n % 3 == 0:
                assert await world[1].replicas.wait_replicated([result], soon()) == [NONE]
                acknowledged = [str(value) for value in range(n + 1)]
        for follower in (2, 3):
            world.cut(1, follower)
        await world.assign(leader, isr=[2, 3], tell=[2, 3])
        assert world[leader].everything()[: len(acknowledged)] == acknowledged


async def test_a_stranger_is_refused(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        with pytest.raises(ApiError) as refused:
            world[2].replicas.append(TP, records("m"), required_acks=-1)
        assert refused.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
        with pytest.raises(ApiError) as refused:
            world[1].replicas.append(TP._replace(partition=9), records("m"), required_acks=-1)
        assert refused.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
