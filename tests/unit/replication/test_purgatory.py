import pytest
import trio
import trio.testing

from zkafka.replication.purgatory import Purgatory


@pytest.fixture
def purgatory():
    return Purgatory()


async def test_what_holds_already_is_not_waited_for(purgatory):
    assert await purgatory.wait_until(["a"], lambda: True, 0)


async def test_a_deadline_that_is_past_is_not_waited_for(purgatory, autojump_clock):
    assert not await purgatory.wait_until(["a"], lambda: False, 0)
    assert trio.current_time() == 0


async def test_a_sleeper_wakes_when_its_predicate_holds_and_not_before(purgatory, autojump_clock):
    value = 0
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            nonlocal value
            for _ in range(3):
                await trio.sleep(1)
                value += 1
                purgatory.wake("a")

        assert await purgatory.wait_until(["a"], lambda: value == 2, 10_000)
        assert trio.current_time() == 2


async def test_a_wake_judges_only_the_sleepers_of_its_key(purgatory, autojump_clock):
    judged = []
    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(
                purgatory.wait_until, [key], lambda key=key: judged.append(key), 5_000
            )
        await trio.testing.wait_all_tasks_blocked()
        judged.clear()
        purgatory.wake("b")
        assert judged == ["b"]
        purgatory.wake("nobody's")
        assert judged == ["b"]


async def test_time_runs_out(purgatory, autojump_clock):
    assert not await purgatory.wait_until(["a", "b"], lambda: False, 1_500)
    assert trio.current_time() == 1.5
    statistics = purgatory.statistics()
    assert (statistics.sleepers, statistics.keys, statistics.timed_out) == (0, 0, 1)


async def test_one_key_named_twice_counts_once(purgatory, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(purgatory.wait_for_wake, ["a", "a"], lambda _: True)
        await trio.testing.wait_all_tasks_blocked()
        purgatory.wake("a")
    assert purgatory.statistics().completed == 1


async def test_a_cancelled_sleeper_leaves_nothing_behind(purgatory):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(purgatory.wait_until, ["a", "b"], lambda: False)
            await trio.testing.wait_all_tasks_blocked()
            assert purgatory.statistics().keys == 2
            scope.cancel()
    assert purgatory.statistics().keys == 0
    assert purgatory.statistics().sleepers == 0


async def test_two_wakes_in_a_row_wake_once(purgatory):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(purgatory.wait_for_wake, ["a", "b"], lambda _: True)
        await trio.testing.wait_all_tasks_blocked()
        purgatory.wake("a")
        purgatory.wake("b")
    assert purgatory.statistics().completed == 1
