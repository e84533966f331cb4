"""The one door to worker threads, for blocking file work.

Flushing, recovery, cold reads, creating and deleting logs go through `Offload.run`; appending to
the page cache does not (a hop costs some 70 microseconds). One capacity limit serves the whole
broker, so that a slow disk cannot grow the number of threads without bound.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import attrs
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@attrs.frozen
class OffloadStatistics:
    """`running` calls are in a thread now, `waiting` ones queue for one."""

    threads: int
    running: int
    waiting: int


class Offload:
    """Runs blocking functions in at most `threads` worker threads at a time."""

    def __init__(self, threads: int = 8) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """What `fn(*args)` returns, or raises, having run it in a worker thread.

        Waits: for a free thread, then for `fn`. A cancellation while waiting for a thread leaves
        nothing behind; one that comes while `fn` runs takes effect after it, so file work is
        never abandoned half seen.
        """
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter)

    def statistics(self) -> OffloadStatistics:
        """How busy the threads are."""
        limits = self._limiter.statistics()
        return OffloadStatistics(
            threads=int(limits.total_tokens),
            running=limits.borrowed_tokens,
            waiting=limits.tasks_waiting,
        )
