"""What is to be done when the step that made it necessary is over, and before anything else.

An append moves a partition; two followers and a consumer that waited for it are to be answered.
Doing so within the append would answer each with the first of several batches that came together,
and in the middle of the machine's effects. Waking a task for each costs a turn of trio's loop,
which is more than the answer. So the call is left here, and whoever began the step runs it at the
end: the poller, after the sockets that stirred together (`net/poller.py`). Where nobody said that
he would, a task of this module does.

Calls are quick and synchronous, are run in the order they came, and may leave others. What one
raises stops the broker.
"""

from collections import deque
from collections.abc import Callable

import trio

Call = Callable[[], None]


class Errands:
    """The calls that are due; one per broker, used from its trio loop only."""

    def __init__(self) -> None:
        self._due: deque[Call] = deque()
        self._promised = False
        self._runner: trio.lowlevel.Task | None = None
        self._asleep = False

    def promise(self) -> None:
        """What comes from now on will be run by the caller, without a checkpoint in between."""
        self._promised = True

    def soon(self, call: Call) -> None:
        """Have it called at the end of this step."""
        self._due.append(call)
        if self._promised:
            return
        if self._runner is None:
            self._runner = trio.lowlevel.spawn_system_task(self._run)
        elif self._asleep:
            self._asleep = False
            trio.lowlevel.reschedule(self._runner)

    def run(self) -> None:
        """Run all that is due."""
        due = self._due
        while due:
            due.popleft()()

    def keep(self) -> None:
        """Run all that is due, also from before the promise; that was the last time."""
        self.run()
        self._promised = False

    async def _run(self) -> None:
        try:
            while True:
                self.run()
                self._asleep = True
                await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            self._runner = None
            self._asleep = False

    def _abort(self, _raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
        self._asleep = False
        return trio.lowlevel.Abort.SUCCEEDED
