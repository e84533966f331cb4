"""One client's requests and our answers, in order.

Laws:

- Requests are begun in the order they came, and answered in that order.
- Only Produce overlaps, and only with Produce: a Produce is appended (`Dispatcher.begin`) while
  earlier ones still wait for their replicas. Every other request starts when all before it
  are answered.
- Produces that wait are at most `requests_max`, and `request_bytes_max` with one more; then
  the connection is read no further.
- One at a time sends: the reader, while nothing that was begun waits; else whoever ends the wait,
  and the writer what the socket had no room for.

After a Produce or a Fetch the reader sleeps, and what comes is answered without waking it, in
whatever task notices (`poller.py`): requests that came together are begun one after the other and
their answers leave together. What has to wait for replicas or bytes waits without a task, and is
answered by whoever brings them (`Pending.when_ready`). The reader wakes for all other requests, and
with the writer for what does not fit into the socket.

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

TURN = 64
"""Requests begun without a wait between them, before others get a turn: a millisecond of one-record
produces."""
RECEIVE_COST = 8
"""What a system call that receives something counts for in a turn, in requests."""
LITTLE = 4096
"""Bytes received at once of which we think that their sender waits for answers."""
_PRODUCE = int(ApiKey.PRODUCE)
_FETCH = int(ApiKey.FETCH)


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
        """Queued requests whose answers are not sent yet, those of the writer included."""
        self._exclusive = False
        """Whether what is queued is a Fetch: nothing is begun before it is answered."""
        self._unsent: Parts = []
        """Answers to what was queued; if there are any, the writer sends them."""
        self._left = 0
        """Requests they answer, and the bytes those had."""
        self._left_bytes = 0
        self._queued = trio.lowlevel.ParkingLot()
        self._answered = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._start_writer: Callable[[], None] | None = None
        self._stopping = False
        self._busy = False
        self._turn = 0
        """What was done since others last had their turn, in requests."""
        self._received = 0
        """Bytes that came last."""
        self._on_the_spot = False
        """Whether the last request was one that `begin` takes: then the next may well be answered
        on the spot; any other needs this task, which had better wake at once."""
        self._answers: Parts = []
        """Those complete and not sent, while no Produce waits."""
        self._held: tuple[Request, Pending | None] | None = None
        """A request that the reader has to wait for, and what became of it if it was begun."""
        self._closing: _Closing | None = None
        """An answer said so, when those before it are sent."""
        self._failure: RemoteProtocolError | ConnectionLost | None = None
        """What `_serve` met, for the reader to end with."""
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
                    try:
                        await self._read()
                    finally:
                        # While the nursery still takes a writer: an answer may be due already.
                        self._give_up()
                    nursery.cancel_scope.cancel()
        finally:
            release_slices(self._answers)
            release_slices(self._unsent)
            if self._held is not None:
                request, held = self._held
                request.release()
                if held is not None:
                    held.give_up()
            self._connection.close()
            await self._transport.aclose()

    def _give_up(self) -> None:
        """Nobody waits any more for what was begun."""
        for pending, _ in self._queue:
            pending.give_up()
        self._queue.clear()

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
        """The reader: `_advance` as far as that goes, and what it cannot do."""
        try:
            while True:
                if not self._advance():
                    await self._go_on()
                    continue
                if self._stopping:
                    return
                self._busy = False
                if not await self._receive():
                    return
                self._busy = True
        except (RemoteProtocolError, _Closing):
            if self._answers:
                await self._send(self._answers)
            raise

    def _advance(self) -> bool:
        """Begin what came, and send what is answered; False if that has to wait for something."""
        failure = self._failure
        if failure is not None:
            raise failure
        if self._held is not None:
            return False
        connection, answers = self._connection, self._answers
        while not self._stopping:
            if self._turn >= TURN:
                return False
            request = connection.next_request()
            if request is None:
                break
            self._traffic.requests += 1
            self._turn += 1
            api_key = request.header.api_key
            self._on_the_spot = api_key in (_PRODUCE, _FETCH)
            try:
                if self._exclusive or (api_key != _PRODUCE and not self._may_fetch(api_key)):
                    self._held = request, None
                    return False
                pending = self._begin(request)
                if pending is not None:
                    if pending.overlaps and not self._may_queue(pending, request.size):
                        self._held = request, pending
                        return False
                    self._enqueue(pending, request.size)
            except BaseException:
                request.release()
                raise
            request.release()
        return not answers or self._sent(answers)

    def _begin(self, request: Request) -> Pending | None:
        """Begin a Produce or a Fetch; None if its answer is among the answers."""
        begun = self._dispatcher.begin(request, self.info)
        if isinstance(begun, bytes):
            if self._unanswered:
                return Answered(begun)
            self._answers.append(begun)
        elif isinstance(begun, list):
            assert not self._unanswered, "a Fetch is begun when all before it is answered"
            self._answers += begun
        else:
            return begun
        self._traffic.answers += 1
        return None

    async def _go_on(self) -> None:
        """What `_advance` could not do: send more than the socket takes, give others their turn,
        wait for what answers the request it took."""
        if self._held is None:
            if self._answers:
                await self._send(self._answers)
            if self._turn >= TURN:
                await self._yield()
            return
        request, pending = self._held
        try:
            if pending is None:
                if self._answers:
                    await self._send(self._answers)
                await self._wait_answered()
                if self._stopping:
                    return
                if self._on_the_spot:
                    pending = self._begin(request)
                else:
                    await self._handle(request, self._answers)
            if pending is not None:
                self._held = request, pending
                await self._await_turn(pending, request.size, self._answers)
        except BaseException:
            if pending is not None:
                pending.give_up()
            raise
        finally:
            self._held = None
            request.release()

    async def _yield(self) -> None:
        self._turn = 0
        await trio.lowlevel.checkpoint()

    def _serve(self) -> bool:
        """The reader sleeps, and something came: answer it on the spot. True wakes the reader: to
        receive more, to `_go_on`, or to end; `_busy` if something was received.

        A small Produce costs recv, pwritev and send here; its bytes are copied by the kernel alone,
        into the buffer and from there into the page cache.
        """
        connection, transport = self._connection, self._transport
        room = connection.get_buffer()
        if room is None:
            return True
        self._turn = 0
        try:
            count = transport.receive_nowait(room)
            if not count:
                return count == 0
            self._received_bytes(count)
            self._busy = True
            if not self._advance():
                return True
        except (RemoteProtocolError, ConnectionLost) as error:
            self._failure = error
            self._busy = True
            return True
        if connection.buffered or count >= LITTLE:
            return True
        self._busy = False
        connection.rest()
        return False

    async def _receive(self) -> bool:
        """Receive something; False at the end of the stream.

        Between requests, after little came, the client is more likely to wait for us than to have
        sent more: then asking the socket would mostly be in vain, and the kernel is to tell when
        there is something. Then, too, each of many busy connections gets its turn.
        """
        connection, transport = self._connection, self._transport
        if not connection.buffered and self._received < LITTLE:
            connection.rest()
            self._turn = 0
            if self._on_the_spot:
                await transport.wait_served(self._serve)
                if self._busy:
                    return True
            else:
                await transport.wait_readable()
        while True:
            room = connection.get_buffer()
            if room is None:
                await self._memory.wait()
                continue
            self._turn += RECEIVE_COST
            if self._turn >= TURN:
                await self._yield()
            count = transport.receive_nowait(room)
            if count is not None:
                break
            connection.rest()
            self._turn = 0
            await transport.wait_readable()
        if count == 0:
            return False
        self._received_bytes(count)
        return True

    def _received_bytes(self, count: int) -> None:
        connection = self._connection
        self._active_ms = self._clock.monotonic_ms()
        if not connection.buffered:
            self._frame_since_ms = self._active_ms
        connection.received(count)
        self._received = count
        self._traffic.bytes_in += count

    async def _await_turn(self, pending: Pending, size: int, answers: Parts) -> None:
        """The answer to a request of `size` bytes, if it is ready; else its place in the queue."""
        if pending.unopened:
            if answers:
                await self._send(answers)
            await pending.open()
        if not self._unanswered and pending.ready:
            self._add(pending.answer(), answers)
            return
        if answers:
            await self._send(answers)
        self._enqueue(pending, size)
        while (
            self._unanswered >= self._requests_max or self._queued_bytes >= self._request_bytes_max
        ):
            await self._answered.park()

    def _may_fetch(self, api_key: int) -> bool:
        """Whether this is a Fetch, and one that waits may be queued in the step that begins it: it
        would not hear of what moves in between."""
        return (
            api_key == _FETCH
            and not self._unanswered
            and (not self._answers or self._sent(self._answers))
        )

    def _may_queue(self, pending: Pending, size: int) -> bool:
        """Whether this is one for the queue, and what comes after it may be read at once."""
        return (
            not pending.unopened
            and (self._unanswered > 0 or not pending.ready)
            and self._unanswered + 1 < self._requests_max
            and self._queued_bytes + size < self._request_bytes_max
            and (not self._answers or self._sent(self._answers))
        )

    def _enqueue(self, pending: Pending, size: int) -> None:
        self._queue.append((pending, size))
        self._queued_bytes += size
        self._unanswered += 1
        self._exclusive = not pending.overlaps
        if len(self._queue) == 1 and not self._left:
            self._answer_queued()

    def _answer_queued(self) -> None:
        """Answer what is ready at the head of the queue, together; the rest when it is. Whoever
        made it ready calls this. What the socket has no room for is left to the writer."""
        queue, answers = self._queue, self._unsent
        try:
            while queue and queue[0][0].ready:
                pending, size = queue.popleft()
                self._left += 1
                self._left_bytes += size
                self._add(pending.answer(), answers)
            if answers and not self._sent(answers):
                self._wake_writer()
                return
        except ConnectionLost as error:
            self._lost(error)
            return
        except _Closing as closing:
            self._closing = closing
            self._wake_writer()
            return
        if self._left:
            self._account()
        if queue:
            queue[0][0].when_ready(self._answer_queued)

    def _account(self) -> None:
        """The answers are sent: take note, and let those go on who wait for that."""
        self._unanswered -= self._left
        self._queued_bytes -= self._left_bytes
        self._left = self._left_bytes = 0
        self._exclusive = False
        self._active_ms = self._clock.monotonic_ms()
        self._answered.unpark_all()
        self._end_if_stopped()

    async def _handle(self, request: Request, answers: Parts) -> None:
        self._add(await self._dispatcher.handle(request, self.info), answers)
        self._active_ms = self._clock.monotonic_ms()

    def _add(self, answer: Answer, answers: Parts) -> None:
        if isinstance(answer, CloseConnection):
            raise _Closing(answer.reason)
        if answer is not None:
            self._traffic.answers += 1
            answers += answer

    async def _wait_answered(self) -> None:
        while self._unanswered:
            await self._answered.park()

    def _sent(self, answers: Parts) -> bool:
        """Send them at once, if they are small and the socket has room; what is left of them is for
        `_send`."""
        try:
            left = self._transport.send_nowait(answers)
        except ConnectionLost:
            answers.clear()  # their slices are released
            raise
        if left is not answers:
            answers[:] = left
        return not left

    async def _send(self, answers: Parts) -> None:
        """Send them all; the list is empty afterwards, also when that failed."""
        parts = answers[:]
        answers.clear()
        await self._transport.send(parts if len(parts) < 2 else _joined(parts))
        self._active_ms = self._clock.monotonic_ms()

    def _wake_writer(self) -> None:
        if self._start_writer is not None:
            self._start_writer()
            self._start_writer = None
        self._queued.unpark()

    async def _write(self) -> None:
        """The writer: sends what `_answer_queued` could not, and has that go on."""
        try:
            while True:
                if self._unsent:
                    await self._send(self._unsent)
                if self._closing is not None:
                    break
                if self._left:
                    self._account()
                    self._answer_queued()
                else:
                    await self._queued.park()
        except ConnectionLost as error:
            self._lost(error)
            return
        if self._closing.reason:
            logger.info("closing connection peer=%s: %s", self.peer, excerpt(self._closing.reason))
        self._scope.cancel()

    def _lost(self, error: ConnectionLost) -> None:
        logger.debug("connection lost peer=%s: %s", self.peer, error)
        self._scope.cancel()


def _joined(parts: Parts) -> Parts:
    """Small answers that leave together, as one piece."""
    if all(type(part) is bytes for part in parts):
        return [b"".join(parts)]
    return parts
