import pytest
import trio
import trio.lowlevel

from zkafka.admin import loop
from zkafka.admin.loop import LoopMeter


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what the test says."""
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    return now


def live(meter, clock, *, busy, idle):
    clock[0] += busy
    meter.before_io_wait(idle)
    clock[0] += idle
    meter.after_io_wait(idle)


def test_time_at_work_and_asleep_is_told_apart(clock):
    meter = LoopMeter()
    live(meter, clock, busy=0.02, idle=0.5)
    live(meter, clock, busy=0.04, idle=0.25)
    found = meter.statistics()
    assert found.passes == 2
    assert found.busy_seconds == pytest.approx(0.06)
    assert found.idle_seconds == pytest.approx(0.75)
    assert found.longest_pass_ms == pytest.approx(40)
    assert found.stalls == 0


def test_a_long_pass_is_a_stall(clock):
    meter = LoopMeter()
    live(meter, clock, busy=0.15, idle=0)
    assert meter.statistics().stalls == 1


def test_idleness_is_that_of_the_last_whole_window(clock):
    meter = LoopMeter()
    for _ in range(10):
        live(meter, clock, busy=0.25, idle=0.75)
    assert meter.statistics().idle_ratio == pytest.approx(0.75)
    for _ in range(20):
        live(meter, clock, busy=0.5, idle=0.0)
    assert meter.statistics().idle_ratio == pytest.approx(0.0)


async def test_it_measures_the_loop_it_runs_in():
    meter = LoopMeter()
    async with trio.open_nursery() as nursery:
        await nursery.start(meter.run)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    passes = meter.statistics().passes
    assert passes > 0
    await trio.lowlevel.checkpoint()
    assert meter.statistics().passes == passes
