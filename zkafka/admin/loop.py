"""How the broker's one loop fares: how long others had to wait for a turn, and how idle it is.

A trio instrument that reads a clock before and after the loop sleeps. A pass, from waking up to
sleeping again, runs every task that was ready: its length is how long the slowest of them, or all
together, kept others from their turn. Two clock readings per pass is all it costs.

Kafka counts idle threads (NetworkProcessorAvgIdlePercent, RequestHandlerAvgIdlePercent); here the
idle share of the loop is both.
"""

import time

import attrs
import trio

STALL_MS = 100.0
"""A pass of this length is a stall: a tenth of a second in which nobody is answered."""
WINDOW_S = 10.0
"""Idleness is told for the last whole window, so that it follows the load within seconds."""


@attrs.frozen
class LoopStatistics:
    """Totals since the start, and the idle share (0 to 1) of the last window."""

    passes: int
    busy_seconds: float
    idle_seconds: float
    stalls: int
    longest_pass_ms: float
    idle_ratio: float


class LoopMeter(trio.abc.Instrument):
    """Measures the loop it runs in, while it runs."""

    def __init__(self) -> None:
        now = time.perf_counter()
        self._woke = now
        self._slept = now
        self._passes = 0
        self._busy = 0.0
        self._idle = 0.0
        self._stalls = 0
        self._longest = 0.0
        self._window_end = now + WINDOW_S
        self._window_idle = 0.0
        self._idle_ratio = 1.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """A pass ends."""
        self._slept = now = time.perf_counter()
        took = now - self._woke
        self._passes += 1
        self._busy += took
        if took > self._longest:
            self._longest = took
        if took * 1000 >= STALL_MS:
            self._stalls += 1

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._woke = now = time.perf_counter()
        self._idle += now - self._slept
        if now >= self._window_end:
            length = now - self._window_end + WINDOW_S
            self._idle_ratio = min(1.0, (self._idle - self._window_idle) / length)
            self._window_idle = self._idle
            self._window_end = now + WINDOW_S

    def statistics(self) -> LoopStatistics:
        """How it went so far."""
        return LoopStatistics(
            passes=self._passes,
            busy_seconds=self._busy,
            idle_seconds=self._idle,
            stalls=self._stalls,
            longest_pass_ms=self._longest * 1000,
            idle_ratio=self._idle_ratio,
        )
