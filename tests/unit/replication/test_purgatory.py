import weakref

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


async def test_each_deadline_comes_in_its_time_in_whatever_order_they_were_set(
    purgatory, autojump_clock
):
    ended = []

    async def wait(deadline_ms):
        assert not await purgatory.wait_until(["a"], lambda: False, deadline_ms)
        ended.append((deadline_ms, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for deadline_ms in (5_000, 2_000, 9_000, 2_000, 1_000):
            nursery.start_soon(wait, deadline_ms)
            await trio.testing.wait_all_tasks_blocked()
    assert ended == [(1_000, 1), (2_000, 2), (2_000, 2), (5_000, 5), (9_000, 9)]


async def test_waits_that_ended_leave_few_deadlines_behind(purgatory, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(purgatory.wait_until, ["slow"], lambda: False, 50_000)
        for _ in range(3_000):
            nursery.start_soon(purgatory.wait_for_wake, ["a"], lambda _key: True, 30_000)
            await trio.testing.wait_all_tasks_blocked()
            purgatory.wake("a")
            await trio.testing.wait_all_tasks_blocked()
        assert len(purgatory._deadlines) <= 1_002
        assert purgatory.statistics().sleepers == 1
    assert trio.current_time() == 50


async def test_a_cancelled_wait_is_neither_timed_out_nor_completed(purgatory, autojump_clock):
    with trio.move_on_after(1):
        await purgatory.wait_until(["a"], lambda: False, 5_000)
    await trio.sleep(10)
    statistics = purgatory.statistics()
    assert (statistics.sleepers, statistics.completed, statistics.timed_out) == (0, 0, 0)


# --- Calls instead of tasks -----------------------------------------------------------------------

settle = trio.testing.wait_all_tasks_blocked


async def test_a_call_is_made_once_after_the_step_that_ends_the_wait(purgatory, autojump_clock):
    calls, judged = [], []

    def judge(key):
        judged.append(key)
        return key == "b"

    purgatory.call_after_wake(["a", "b", "b"], judge, 5_000, lambda: calls.append("called"))
    assert purgatory.statistics().sleepers == 1
    purgatory.wake("a")
    purgatory.wake("b")
    purgatory.wake("b")
    assert (judged, calls) == (["a", "b"], [])
    await settle()
    assert calls == ["called"]
    statistics = purgatory.statistics()
    assert (statistics.sleepers, statistics.keys, statistics.completed) == (0, 0, 1)
    await trio.sleep(10)
    assert calls == ["called"]


@pytest.mark.parametrize(("deadline_ms", "when"), [(5_000, 5), (0, 0)])
async def test_a_call_is_made_when_time_is_up(purgatory, autojump_clock, deadline_ms, when):
    called = []
    purgatory.call_after_wake(
        ["a"], lambda _: False, deadline_ms, lambda: called.append(trio.current_time())
    )
    assert called == []
    await trio.sleep(10)
    assert called == [when]
    statistics = purgatory.statistics()
    assert (statistics.sleepers, statistics.keys, statistics.timed_out) == (0, 0, 1)


async def test_a_call_that_was_made_is_not_kept_until_its_deadline(purgatory, autojump_clock):
    class Asked:
        def answer(self):
            done.set()

    for cancelled in (False, True):
        done, asked = trio.Event(), Asked()
        gone = weakref.ref(asked)
        watch = purgatory.watch()
        watch.add("a")
        sleeps = [
            purgatory.call_after_wake(["a"], lambda _: True, 5_000, asked.answer),
            watch.call_after(lambda _: True, 5_000, asked.answer),
        ]
        del asked
        if cancelled:
            for sleep in sleeps:
                sleep.cancel()
        else:
            purgatory.wake("a")
            await done.wait()
            await trio.testing.wait_all_tasks_blocked()
        del sleeps
        watch.close()
        assert gone() is None
    assert trio.current_time() == 0


async def test_a_cancelled_call_is_not_made_and_counts_for_nothing(purgatory, autojump_clock):
    calls = []
    sleep = purgatory.call_after_wake(["a"], lambda _: True, 5_000, lambda: calls.append(1))
    sleep.cancel()
    sleep.cancel()
    purgatory.wake("a")
    await trio.sleep(10)
    assert calls == []
    statistics = purgatory.statistics()
    assert (statistics.sleepers, statistics.keys) == (0, 0)
    assert (statistics.completed, statistics.timed_out) == (0, 0)
