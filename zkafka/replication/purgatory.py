"""Tasks asleep until a partition, a group or the metadata moves, or until time is up.

A produce that waits for its replicas, a fetch that waits for bytes, a CreateTopics that waits for
leaders: each is asleep here, as a task or as a call to be made (`Sleep`). Whoever moves something
calls `wake(key)`; the sleepers on that key, and only those, are judged at once, in the waker's
task, and those that are done resume: a task in its turn, a call when this step ends (`errands.py`).

Judging in the waker's task is what makes a wake cheap: a predicate costs a fraction of a
microsecond, resuming a task in vain some ten. So predicates are quick, read only, and raise
nothing; an AssertionError out of one stops the broker, as it should.

A `Watch` is for those who wait again and again on the same very many keys, as fetch sessions do: it
is set up once, remembers what was woken between two waits, and can be waited on at no cost per key.

Keys are anything hashable: a `TopicPartition` stands for its log, high watermark and leadership,
`METADATA` for the metadata cache.

Deadlines: nearly all waits end before theirs, so a cancel scope for each would be work for nothing.
They lie in one heap, watched by one task of trio's own kind that comes with the first deadline and
goes with the last. An entry whose wait is over stays until its time comes, or until such entries
are the most.

Source: Kafka's `DelayedOperationPurgatory`, which likewise lets the mover try to complete the
operations that watch its key, and its timing wheel.
"""

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from zkafka.errands import Errands

METADATA: Final = "metadata"
"""The key of the metadata cache."""

_OVER_MIN = 1_000
"""Entries of ended waits that may always stay."""

K = TypeVar("K", bound=Hashable)


@attrs.frozen
class PurgatoryStatistics:
    """`sleepers` wait now, on `keys` keys; the rest are totals."""

    sleepers: int
    keys: int
    completed: int
    timed_out: int


def _never(_key: Any) -> bool:
    return False


def _nothing() -> None: ...


class _Sleeper(ABC):
    """Somebody who sleeps. `waiting` until it is woken or aborted, whichever comes first: a task
    that trio has begun to cancel runs a little later, and must not be rescheduled in between."""

    __slots__ = ("awake", "judge", "waiting")

    def __init__(self, judge: Callable[[Any], bool]) -> None:
        self.judge = judge
        self.waiting = True
        self.awake = False

    def judge_wake(self, key: Hashable) -> None:
        if self.waiting and self.judge(key):
            self.release()

    def release(self) -> None:
        if self.waiting:
            self.waiting = False
            self.awake = True
            self._resume()

    def time_out(self) -> None:
        if self.waiting:
            self.waiting = False
            self._resume()

    @abstractmethod
    def _resume(self) -> None:
        """It waits no longer."""


class _TaskSleeper(_Sleeper):
    __slots__ = ("task",)

    def __init__(self, judge: Callable[[Any], bool]) -> None:
        super().__init__(judge)
        self.task = trio.lowlevel.current_task()

    def _resume(self) -> None:
        trio.lowlevel.reschedule(self.task)

    def abort(self, _raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
        self.waiting = False
        return trio.lowlevel.Abort.SUCCEEDED


class Sleep(_Sleeper):
    """A call to be made, once, when the wait is over; `cancel` unless it was.

    A task costs a turn of trio's loop to wake. What a request waits for is followed by its answer,
    which waits for nothing, so whoever ends the wait can see to that as well.
    """

    __slots__ = ("_call", "_home", "_keys", "_purgatory")

    def __init__(
        self,
        purgatory: "Purgatory",
        judge: Callable[[Any], bool],
        call: Callable[[], None],
        keys: Iterable[Hashable] = (),
        home: "Watch[Any] | None" = None,
    ) -> None:
        super().__init__(judge)
        self._purgatory = purgatory
        self._call = call
        self._keys = keys
        self._home = home

    def _resume(self) -> None:
        call = self._call
        self._purgatory._ended(self, timed_out=not self.awake)
        self._leave()
        self._purgatory._errands.soon(call)

    def cancel(self) -> None:
        """Make the call no more, if it is not due yet."""
        if self.waiting:
            self.waiting = False
            self._purgatory._ended(self, timed_out=None)
            self._leave()

    def _leave(self) -> None:
        self._purgatory._get_up(self, self._keys)
        home = self._home
        if home is not None and home._sleeper is self:
            home._sleeper = None
        # Nothing is kept for the sake of an entry among the deadlines: not here either.
        self._keys, self._home, self._call = (), None, _nothing


class _Deadlines:
    """When sleepers are to give up. Holds: while there are entries a task watches them, or is about
    to begin."""

    def __init__(self) -> None:
        # The number keeps sleepers from being compared.
        self._heap: list[tuple[float, int, _Sleeper]] = []
        self._numbers = itertools.count()
        self._over = 0
        """Entries of sleepers that wait no more, about."""
        self._watching = False
        self._pause: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_ms: int, sleeper: _Sleeper) -> None:
        """Let it time out at `at_ms` (monotonic)."""
        at = at_ms / 1000
        heapq.heappush(self._heap, (at, next(self._numbers), sleeper))
        if not self._watching:
            self._watching = True
            trio.lowlevel.spawn_system_task(self._watch)
        elif self._pause is not None and at < self._pause.deadline:
            self._pause.deadline = at

    def ended(self) -> None:
        """A sleeper with an entry has woken before its time."""
        self._over += 1
        if self._over > _OVER_MIN and 2 * self._over > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].waiting]
            heapq.heapify(self._heap)
            self._over = 0

    async def _watch(self) -> None:
        try:
            while self._heap:
                at, _, sleeper = self._heap[0]
                if sleeper.waiting and at > trio.current_time():
                    with trio.CancelScope(deadline=at) as self._pause:
                        await trio.sleep_forever()
                    self._pause = None
                else:
                    heapq.heappop(self._heap)
                    sleeper.time_out()
        finally:
            self._watching = False
            self._pause = None


class Purgatory:
    """Where unfinished requests wait; one per broker, used from its trio loop only."""

    def __init__(self, errands: Errands | None = None) -> None:
        self._errands = errands or Errands()
        # Insertion order is kept, so that sleepers on a key are judged first come, first served.
        self._sleepers: dict[Hashable, dict[_Sleeper, None]] = {}
        self._watches: dict[Hashable, dict[Watch[Any], None]] = {}
        self._deadlines = _Deadlines()
        self._sleeping = 0
        self._completed = 0
        self._timed_out = 0

    async def wait_until(
        self,
        keys: Iterable[Hashable],
        predicate: Callable[[], bool],
        deadline_ms: int | None = None,
    ) -> bool:
        """Sleep until `predicate` holds, judged now and whenever one of `keys` is woken.

        `deadline_ms` is a reading of the monotonic clock; None waits for ever. Returns whether the
        predicate held; False means that time is up. A predicate that holds already, or a deadline
        that is past, returns without sleeping.

        Waits: a cancellation takes the sleeper away, nothing stays behind.
        """
        if predicate():
            return True
        return await self.wait_for_wake(keys, lambda _key: predicate(), deadline_ms)

    async def wait_for_wake(
        self,
        keys: Iterable[Hashable],
        judge: Callable[[Hashable], bool],
        deadline_ms: int | None = None,
    ) -> bool:
        """Sleep until `judge`, told the key that was woken, says that the wait is over.

        For those who wait on very many keys: with `wait_until` each wake costs a look at all of
        them, here at the one that moved. The caller has looked at all of them once, in the same
        step (without a checkpoint in between), since only wakes from now on are judged.
        """
        if deadline_ms is not None and deadline_ms <= int(trio.current_time() * 1000):
            return False
        sleeper = _TaskSleeper(judge)
        watched = tuple(dict.fromkeys(keys))
        self._lie_down(sleeper, watched)
        try:
            return await self._sleep(sleeper, deadline_ms)
        finally:
            self._get_up(sleeper, watched)

    def call_after_wake(
        self,
        keys: Iterable[Hashable],
        judge: Callable[[Hashable], bool],
        deadline_ms: int,
        call: Callable[[], None],
    ) -> Sleep:
        """As `wait_for_wake`, for somebody who is no task: `call` when the wait is over, whichever
        way, but never before this returns."""
        watched = tuple(dict.fromkeys(keys))
        sleep = Sleep(self, judge, call, watched)
        self._lie_down(sleep, watched)
        self._begin(sleep, deadline_ms)
        return sleep

    def _lie_down(self, sleeper: _Sleeper, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._sleepers.setdefault(key, {})[sleeper] = None

    def _get_up(self, sleeper: _Sleeper, keys: Iterable[Hashable]) -> None:
        for key in keys:
            sleepers = self._sleepers[key]
            del sleepers[sleeper]
            if not sleepers:
                del self._sleepers[key]

    def _begin(self, sleep: Sleep, deadline_ms: int) -> None:
        self._sleeping += 1
        self._deadlines.add(deadline_ms, sleep)
        if deadline_ms <= int(trio.current_time() * 1000):
            sleep.time_out()

    async def _sleep(self, sleeper: _TaskSleeper, deadline_ms: int | None) -> bool:
        """Until it is woken; False when time is up."""
        if deadline_ms is not None:
            self._deadlines.add(deadline_ms, sleeper)
        self._sleeping += 1
        timed_out = None
        try:
            await trio.lowlevel.wait_task_rescheduled(sleeper.abort)
            timed_out = not sleeper.awake
        finally:
            self._ended(sleeper, timed_out=timed_out, has_deadline=deadline_ms is not None)
        return not timed_out

    def _ended(
        self, sleeper: _Sleeper, *, timed_out: bool | None, has_deadline: bool = True
    ) -> None:
        """It sleeps no longer; `timed_out` None: it was cancelled."""
        self._sleeping -= 1
        # Nothing is kept for the sake of an entry among the deadlines.
        sleeper.judge = _never
        if timed_out:
            self._timed_out += 1
            return
        if has_deadline:
            self._deadlines.ended()
        if timed_out is not None:
            self._completed += 1

    def wake(self, key: Hashable) -> None:
        """Judge those asleep on `key`; costs two dictionary look-ups when nobody is."""
        watches = self._watches.get(key)
        if watches is not None:
            for watch in tuple(watches):
                watch._moved(key)
        sleepers = self._sleepers.get(key)
        if sleepers is None:
            return
        # A copy: a judge may lead to another wake, though none may add a sleeper.
        for sleeper in tuple(sleepers):
            sleeper.judge_wake(key)

    def watch(self) -> "Watch[Any]":
        """A new `Watch` on nothing yet."""
        return Watch(self)

    def statistics(self) -> PurgatoryStatistics:
        """How many wait, and how waiting ended so far."""
        return PurgatoryStatistics(
            sleepers=self._sleeping,
            keys=len(self._sleepers),
            completed=self._completed,
            timed_out=self._timed_out,
        )


class Watch(Generic[K]):
    """Keys somebody cares for over many waits, and those of them woken since anybody asked.

    Ownership: whoever made it closes it. One may wait at a time: a second waiter lets the first go,
    as awake (of a fetch session's two requests the earlier one is stale).
    """

    __slots__ = ("_keys", "_purgatory", "_sleeper", "_woken")

    def __init__(self, purgatory: Purgatory) -> None:
        self._purgatory = purgatory
        self._keys: set[K] = set()
        self._woken: set[K] = set()
        self._sleeper: Sleep | None = None

    def add(self, key: K) -> None:
        """Remember wakes of `key` from now on."""
        self._keys.add(key)
        self._purgatory._watches.setdefault(key, {})[self] = None

    def discard(self, key: K) -> None:
        """Care for `key` no longer."""
        self._woken.discard(key)
        if key in self._keys:
            self._keys.remove(key)
            watches = self._purgatory._watches[key]
            del watches[self]
            if not watches:
                del self._purgatory._watches[key]

    def take(self) -> set[K]:
        """The keys woken since the last call."""
        woken, self._woken = self._woken, set()
        return woken

    def close(self) -> None:
        """Care for nothing any longer, and let a waiter go."""
        for key in tuple(self._keys):
            self.discard(key)
        self._release()

    def call_after(
        self, judge: Callable[[K], bool], deadline_ms: int, call: Callable[[], None]
    ) -> Sleep:
        """Wait until `judge`, told a key that was woken, says that the wait is over, or until
        `deadline_ms` (monotonic); then `call`, but never before this returns.

        The caller has looked at what `take` told it in the same step: only wakes from now on are
        judged. What was woken meanwhile is for the next `take`, whichever way the wait ends.
        """
        self._release()
        sleep = self._sleeper = Sleep(self._purgatory, judge, call, home=self)
        self._purgatory._begin(sleep, deadline_ms)
        return sleep

    def _moved(self, key: K) -> None:
        self._woken.add(key)
        if self._sleeper is not None:
            self._sleeper.judge_wake(key)

    def _release(self) -> None:
        if self._sleeper is not None:
            self._sleeper.release()
