import pytest
import trio
import trio.testing
from answers import watched

from zkafka.replication.purgatory import Purgatory, Watch

FOREVER_MS = 10**9


@pytest.fixture
def purgatory():
    return Purgatory()


def watching(purgatory, *keys) -> Watch[str]:
    watch = purgatory.watch()
    for key in keys:
        watch.add(key)
    return watch


def test_it_remembers_what_was_woken_until_asked(purgatory):
    watch = watching(purgatory, "a", "b")
    purgatory.wake("a")
    purgatory.wake("a")
    purgatory.wake("elsewhere")
    assert watch.take() == {"a"}
    assert watch.take() == set()


def test_a_discarded_key_is_forgotten_with_its_wakes(purgatory):
    watch = watching(purgatory, "a", "b")
    purgatory.wake("a")
    watch.discard("a")
    purgatory.wake("a")
    purgatory.wake("b")
    assert watch.take() == {"b"}


def test_a_closed_watch_leaves_nothing_behind(purgatory):
    watch = watching(purgatory, "a", "b")
    other = watching(purgatory, "a")
    watch.close()
    other.close()
    assert purgatory._watches == {}
    purgatory.wake("a")
    assert watch.take() == set()


async def test_the_waiter_resumes_when_its_judge_says_so(purgatory, autojump_clock):
    watch = watching(purgatory, "a", "b")
    judged = []

    def judge(key):
        judged.append(key)
        return len(judged) == 2

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await trio.sleep(1)
            purgatory.wake("a")
            await trio.sleep(1)
            purgatory.wake("b")

        assert await watched(watch, judge, FOREVER_MS)
        assert trio.current_time() == pytest.approx(2)
    assert judged == ["a", "b"]
    assert watch.take() == {"a", "b"}


async def test_time_runs_out_and_what_moved_is_still_told(purgatory, autojump_clock):
    watch = watching(purgatory, "a")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await trio.sleep(0.5)
            purgatory.wake("a")

        assert not await watched(watch, lambda _: False, 1_000)
    assert watch.take() == {"a"}
    assert not await watched(watch, lambda _: True, 1_000)
    assert purgatory.statistics().sleepers == 0


async def test_closing_lets_the_waiter_go(purgatory, autojump_clock):
    watch = watching(purgatory, "a")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await trio.sleep(1)
            watch.close()

        assert await watched(watch, lambda _: False, FOREVER_MS)


async def test_a_second_waiter_lets_the_first_go(purgatory, autojump_clock):
    watch = watching(purgatory, "a")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            await trio.sleep(1)
            assert not await watched(watch, lambda _: False, 2_000)

        assert await watched(watch, lambda _: False, FOREVER_MS)
        assert trio.current_time() == pytest.approx(1)


@pytest.mark.parametrize("how", ["watch", "keys"])
async def test_a_wake_between_a_cancellation_and_its_delivery_is_harmless(purgatory, how):
    # trio reschedules a cancelled task at once and runs it in its next round: until then it looks
    # asleep, and rescheduling it again would break trio.
    watch = watching(purgatory, "a")
    ended = []

    async def sleeper():
        try:
            if how == "watch":
                await watched(watch, lambda _: True, FOREVER_MS)
            else:
                await purgatory.wait_for_wake(["a"], lambda _: True)
        finally:
            ended.append(how)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        purgatory.wake("a")
    assert ended == [how]
    assert purgatory.statistics().sleepers == 0
