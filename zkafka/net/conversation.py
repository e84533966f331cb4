"""One client's requests and our answers, in order.

Laws:

- Requests are begun in the order they came, and answered in that order.
- Only Produce overlaps, and only with Produce: a Produce is appended (`Dispatcher.begin`) while
  earlier ones still wait for their replicas. Every other request starts when all before it
  are answered.
- Produces that wait are at most `requests_max`, and `request_bytes_max` with one more; then
  the connection is read no further.
- One task at a time sends: the reader, while no Produce waits; else the writer.

The reader does everything by itself as long as nothing waits: requests that came together are begun
one after the other and their answers leave together, without a task switch. The writer starts
with the first Produce that must wait.

Ends: with the end of the stream, a lost connection, a `CloseConnection` answer, or a
RemoteProtocolError (what came before it is answered first). `stop` ends it after the requests that
were begun. Cancelling ends it at once. Whichever way, buffers and log slices are given back.
"""

import logging
from collections import deque
from collections.abc import Callable

import attrs
import trio

from zkafka.clock import Clock
from zkafka.errors import RemoteProtocolError, excerpt
from zkafka.net.transport import ConnectionLost, Transport, release_slices
from zkafka.protocol.apis import ApiKey
from zkafka.protocol.codec import Parts
from zkafka.protocol.connection import (
    Answer,
    Answered,
    Budget,
    CloseConnection,
    Connection,
    ConnectionInfo,
    Dispatcher,
    Pending,
    Request,
)

logger = logging.getLogger(__name__)

TURN_RECEIVES = 8
"""System calls that receive something, without a wait between them, before others get a turn."""
TURN_REQUESTS = 64
"""The same for requests begun: some 2 ms of one-record produces."""


@attrs.define
class Traffic:
    """What one listener's connections brought and took; shared by them, counted per call."""

    requests: int = 0
    answers: int = 0
    bytes_in: int = 0


class MemoryWait:
    """Where connections sleep while the budget is used up; one per listener."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._lot = trio.lowlevel.ParkingLot()
        budget.on_freed(self._lot.unpark_all)

    async def wait(self) -> None:
        """Until memory came back; it may be gone again."""
        self.budget.waiting += 1
        try:
            await self._lot.park()
        finally:
            self.budget.waiting -= 1


class _Closing(Exception):
    """An answer said to close."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Conversation:
    """See the head of this file. `run` is called once, by the task that owns the connection."""

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        info: ConnectionInfo,
        *,
        memory: MemoryWait,
        clock: Clock,
        traffic: Traffic,
        request_max_bytes: int,
        requests_max: int,
        request_bytes_max: int,
    ) -> None:
        self.info = info
        self._transport = transport
        self._dispatcher = dispatcher
        self._memory = memory
        self._clock = clock
        self._traffic = traffic
        self._requests_max = requests_max
        self._request_bytes_max = request_bytes_max
        self._connection = Connection(memory.budget, request_max_bytes=request_max_bytes)
        self._queue: deque[tuple[Pending, int]] = deque()
        self._queued_bytes = 0
        self._unanswered = 0
        """Queued Produces whose answers are not sent yet, those of the writer included."""
        self._queued = trio.lowlevel.ParkingLot()
        self._answered = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._start_writer: Callable[[], None] | None = None
        self._stopping = False
        self._busy = False
        now_ms = clock.monotonic_ms()
        self._active_ms = now_ms
        """When bytes last came or answers last left."""
        self._frame_since_ms = now_ms
        """When the frame now half received began to come."""

    # --- What the listener's sweep asks and does ---

    @property
    def idle_since_ms(self) -> int | None:
        """When (monotonic) the client last said something or was answered; None while we owe it
        an answer."""
        return None if self._busy or self._unanswered else self._active_ms

    @property
    def blocked_since(self) -> float | None:
        """When the client last took something of the answer being sent, by trio's time."""
        return self._transport.blocked_since

    @property
    def frame_since_ms(self) -> int | None:
        """Since when a half received frame has been holding memory worth mentioning."""
        return self._frame_since_ms if self._connection.buffered and not self._busy else None

    def stop(self) -> None:
        """Begin no further request; end when those begun are answered."""
        self._stopping = True
        self._end_if_stopped()

    def _end_if_stopped(self) -> None:
        # The reader, when it is busy, sees for itself that it should stop.
        if self._stopping and not self._busy and not self._unanswered:
            self._scope.cancel()

    def drop(self, reason: str) -> None:
        """End at once, whatever is going on."""
        logger.info("dropping connection peer=%s: %s", self.peer, reason)
        self._scope.cancel()

    @property
    def peer(self) -> str:
        """`host:port` of the client."""
        return f"{self.info.peer_host}:{self.info.peer_port}"

    # --- The tasks ---

    async def run(self) -> None:
        """The whole connection, closed at the end. Raises only what stops the broker."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._start_writer = lambda: nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self._queue.clear()
            self._connection.close()
            await self._transport.aclose()

    async def _read(self) -> None:
        try:
            await self._read_requests()
            await self._wait_answered()
        except ConnectionLost as error:
            logger.debug("connection lost peer=%s: %s", self.peer, error)
        except _Closing as closing:
            if closing.reason:
                logger.info("closing connection peer=%s: %s", self.peer, excerpt(closing.reason))
        except RemoteProtocolError as error:
            logger.info("closing connection peer=%s: %s", self.peer, excerpt(str(error)))
            await self._wait_answered()

    async def _read_requests(self) -> None:
        """The reader. `answers` are those complete and not sent, while no Produce waits."""
        connection = self._connection
        answers: Parts = []
        receives = requests = 0
        try:
            while not self._stopping:
                request = connection.next_request()
                if request is None:
                    if answers:
                        await self._send(answers)
                    self._busy = False
                    if receives >= TURN_RECEIVES or requests >= TURN_REQUESTS:
                        receives = requests = 0
                        await trio.lowlevel.checkpoint()
                    if not await self._receive():
                        return
                    receives += 1
                    self._busy = True
                    continue
                self._traffic.requests += 1
                requests += 1
                if requests >= TURN_REQUESTS:
                    requests = receives = 0
                    if answers:
                        await self._send(answers)
                    await trio.lowlevel.checkpoint()
                try:
                    if request.header.api_key == ApiKey.PRODUCE:
                        await self._produce(request, answers)
                    else:
                        await self._handle(request, answers)
                finally:
                    request.release()
            if answers:
                await self._send(answers)
        except (RemoteProtocolError, _Closing):
            if answers:
                await self._send(answers)
            raise
        finally:
            release_slices(answers)

    async def _receive(self) -> bool:
        """Receive something; False at the end of the stream."""
        connection, transport = self._connection, self._transport
        fresh = not connection.buffered
        while True:
            room = connection.get_buffer()
            if room is None:
                await self._memory.wait()
                continue
            count = transport.receive_nowait(room)
            if count is not None:
                break
            room.release()
            connection.rest()
            await transport.wait_readable()
        if count == 0:
            return False
        connection.received(count)
        self._traffic.bytes_in += count
        self._active_ms = self._clock.monotonic_ms()
        if fresh:
            self._frame_since_ms = self._active_ms
        return True

    async def _produce(self, request: Request, answers: Parts) -> None:
        pending = self._dispatcher.begin(request, self.info)
        if isinstance(pending, bytes):
            if not self._unanswered:
                self._traffic.answers += 1
                answers.append(pending)
                return
            pending = Answered(pending)
        if pending.unopened:
            if answers:
                await self._send(answers)
            await pending.open()
        if not self._unanswered and pending.ready:
            self._add(await pending.finish(), answers)
            return
        if answers:
            await self._send(answers)
        self._queue.append((pending, request.size))
        self._queued_bytes += request.size
        self._unanswered += 1
        if self._start_writer is not None:
            self._start_writer()
            self._start_writer = None
        self._queued.unpark()
        while (
            self._unanswered >= self._requests_max or self._queued_bytes >= self._request_bytes_max
        ):
            await self._answered.park()

    async def _handle(self, request: Request, answers: Parts) -> None:
        if answers:
            await self._send(answers)
        await self._wait_answered()
        self._add(await self._dispatcher.handle(request, self.info), answers)

    def _add(self, answer: Answer, answers: Parts) -> None:
        if isinstance(answer, CloseConnection):
            raise _Closing(answer.reason)
        if answer is not None:
            self._traffic.answers += 1
            answers += answer

    async def _wait_answered(self) -> None:
        while self._unanswered:
            await self._answered.park()

    async def _send(self, answers: Parts) -> None:
        """Send them all; the list is empty afterwards, also when that failed."""
        parts = answers[:]
        answers.clear()
        await self._transport.send(parts if len(parts) < 2 else _joined(parts))
        self._active_ms = self._clock.monotonic_ms()

    async def _write(self) -> None:
        """The writer: answers Produces in order, those that are ready together."""
        answers: Parts = []
        try:
            while True:
                while not self._queue:
                    await self._queued.park()
                count = size = 0
                try:
                    while self._queue and (not count or self._queue[0][0].ready):
                        pending, request_size = self._queue[0]
                        answer = await pending.finish()
                        self._queue.popleft()
                        count += 1
                        size += request_size
                        self._add(answer, answers)
                finally:
                    if answers:
                        await self._send(answers)
                self._unanswered -= count
                self._queued_bytes -= size
                self._answered.unpark_all()
                self._end_if_stopped()
        except ConnectionLost as error:
            logger.debug("connection lost peer=%s: %s", self.peer, error)
            self._scope.cancel()
        except _Closing as closing:
            if closing.reason:
                logger.info("closing connection peer=%s: %s", self.peer, excerpt(closing.reason))
            self._scope.cancel()


def _joined(parts: Parts) -> Parts:
    """Small answers that leave together, as one piece."""
    if all(type(part) is bytes for part in parts):
        return [b"".join(parts)]
    return parts
