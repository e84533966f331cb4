"""A rate that changes under those who wait for it."""

import math

import pytest
import trio
import trio.testing

from zkafka.config import DOUBLE_MAX
from zkafka.replication.throttle import Throttle


async def test_a_new_rate_holds_for_who_waits_already(autojump_clock):
    throttle = Throttle(10)
    done = []

    async def pay(size):
        await throttle.pay(size)
        done.append((size, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pay, 100)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pay, 200)
        await trio.sleep(5)
        throttle.change(50)
    assert [size for size, _ in done] == [100, 200]
    assert [at for _, at in done] == [pytest.approx(6), pytest.approx(10)]


async def test_a_rate_of_nothing_waits_for_another(autojump_clock):
    throttle = Throttle(0)
    with trio.move_on_after(10**6) as waiting:
        await throttle.pay(1)
    assert waiting.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(throttle.pay, 10**9)
        await trio.testing.wait_all_tasks_blocked()
        throttle.change(DOUBLE_MAX)
    await throttle.pay(10**9)
    assert trio.current_time() == 10**6


@pytest.mark.parametrize("bytes_per_s", [1e-3, 1e18, math.nextafter(DOUBLE_MAX, 0)])
async def test_no_rate_is_lost_in_rounding(autojump_clock, bytes_per_s):
    await trio.sleep(86_400)
    throttle = Throttle(bytes_per_s)
    for _ in range(10):
        await throttle.pay(1)
    assert trio.current_time() == pytest.approx(86_400 + 10 / bytes_per_s)
