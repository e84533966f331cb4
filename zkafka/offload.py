"""The one door to worker threads, for blocking file work.

Flushing, recovery, cold reads, creating and deleting logs go through `Offload.run`; appending to
the page cache does not (a hop costs some 70 microseconds). One capacity limit serves the whole
broker, so that a slow disk cannot grow the number of threads without bound. Only what is done to
all logs of a directory at once (start, stop, creation) has threads besides, `in_threads`.
"""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import attrs
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def in_threads(threads: int, fn: Callable[[T], object], items: Sequence[T]) -> None:
    """`fn` of each item, at most `threads` at a time, each in a thread of its own that ends with
    this call. For whoever runs in a worker thread already, on behalf of one log directory.

    Raises what one of them raised, when those that were running have ended; the rest is not begun.
    """
    if threads == 1 or len(items) < 2:
        for item in items:
            fn(item)
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(fn, item) for item in items]:
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


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
