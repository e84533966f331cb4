"""Many quiet sockets, watched at once: whoever has something to say is served on the spot.

A task that waits for its own socket costs a registration, a wake-up and a turn of trio's loop: some
850 instructions of the interpreter and 12 us, a quarter of all that a small Produce takes. So the
connections of a listener do not wait one by one. Their sockets stay in one epoll of ours, trio
watches that, and when it stirs `run` asks it who is there and calls each in turn: a connection
receives, answers and sleeps on, and its task has not run. What must wait for something else
(a full socket, memory, any API but Produce and Fetch) wakes the connection's task.

    a pass                   one turn of trio's loop; epoll_ctl and two epoll_wait or more
    for each socket in it    recv, send

Fair: of those that are ready each is served before any is served again, since the kernel puts what
it reported at the end of its list; what one may do in one service is its own bound
(`conversation.TURN`). After EVENTS services everybody else in the broker gets a turn.

What a service leads to elsewhere (an append answers the fetches that wait for it) is done when all
that stirred together are served: the errands (`errands.py`).

A socket that stirs while nobody waits for it (its connection is busy) is left out until somebody
does.
"""

import select
import socket
from collections.abc import Callable

import trio

from zkafka.errands import Errands

EVENTS = 32
"""Services in one pass: a millisecond of one-record produces."""

Serve = Callable[[], bool]
"""Does what the socket asks for, without waiting; answers whether the waiting task is to go on."""


class Poller:
    """The sockets of one listener. `run` serves them, until cancelled; `close` comes last."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Serve, trio.lowlevel.Task]] = {}
        self._watched: set[int] = set()
        """Descriptors in the epoll: of those who wait, and of those who did and heard nothing."""

    async def run(self) -> None:
        """Serve until cancelled. Errors: what a `Serve` lets escape."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._errands.promise()
            self._pass()
            self._errands.keep()

    def _pass(self) -> None:
        left = EVENTS
        while left > 0:
            found = self._epoll.poll(0, left)
            if not found:
                return
            left -= len(found)
            for fd, _ in found:
                waiter = self._waiting.get(fd)
                if waiter is None:
                    # With no events asked for, the kernel would still tell of a reset, for ever.
                    self._unwatch(fd)
                elif waiter[0]():
                    del self._waiting[fd]
                    trio.lowlevel.reschedule(waiter[1])
            self._errands.run()

    async def wait(self, sock: socket.socket, serve: Serve) -> None:
        """Sleep while `serve` is called, each time that `sock` is readable, until it answers True.

        Errors: ClosedResourceError when `forget` comes first. A cancellation loses nothing.
        """
        fd = sock.fileno()
        assert fd not in self._waiting, "one task at a time"
        if fd not in self._watched:
            self._epoll.register(fd, select.EPOLLIN)
            self._watched.add(fd)
        self._waiting[fd] = serve, trio.lowlevel.current_task()

        def abort(_raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
            del self._waiting[fd]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if sock.fileno() != fd:
            raise trio.ClosedResourceError

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.remove(fd)
            self._epoll.unregister(fd)

    def forget(self, sock: socket.socket) -> None:
        """`sock` is closed right after this; it may never have been waited for."""
        fd = sock.fileno()
        self._unwatch(fd)
        waiter = self._waiting.pop(fd, None)
        if waiter is not None:
            trio.lowlevel.reschedule(waiter[1])

    def close(self) -> None:
        """Nobody waits any more."""
        assert not self._waiting
        if not self._epoll.closed:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
