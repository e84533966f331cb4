"""One client's connection without a socket: bytes in, requests out; and what answers them.

The driver asks for room, receives into it and says how much came; then it takes requests until
there is none. Nothing is copied on the way in but the beginnings of frames that would not fit
where they began:

    while (request := connection.next_request()) is None:
        room = connection.get_buffer()          # None: the broker's budget is used up, wait
        connection.received(sock.recv_into(room))

Laws:

- A buffer grows by doubling when it is full, so never beyond twice the bytes received, whatever
  size a frame announces. It starts at 64 KiB, or at the size that this connection's last
  frames filled, up to 2 MiB.
- A request's body is a writable view into the buffer. It holds until `Request.release()`; the
  same memory then takes other bytes. While any request is lent out its buffer is neither
  moved nor reused.
- All buffers of all connections count against one `Budget`. A resting connection (nothing half
  received, nothing lent) holds none.
- Against deadlock: the smallest buffer is always granted, and one connection at a time may go
  beyond the budget, so some frame always completes. The budget is exceeded by at most one
  largest frame and the smallest buffers.

Source: the framing of Kafka's protocol (int32 size, header, body); socket.request.max.bytes.
"""

import struct
from collections.abc import Callable
from typing import Protocol

import attrs

from zkafka.errors import RemoteProtocolError
from zkafka.protocol.codec import Parts, RequestHeader, decode_request_header

KIB = 1024
MIB = 1024 * KIB

FLOOR = 4 * KIB
"""The buffer that is always granted. Most requests that are not Produce fit."""
START = 64 * KIB
"""What a connection begins with while the budget lasts: some 300 pipelined one-record requests in
one system call."""
EXPECTED_MAX = 2 * MIB
"""The largest buffer to begin with, on the evidence of the frames before: a batch of the default
max.message.bytes and its surroundings."""

_unpack_size = struct.Struct(">i").unpack_from


class Request:
    """One request as it came: its header decoded, its body a writable view.

    `size` is the frame's, without the four bytes of the size itself. Whoever processes it calls
    `release` when nothing refers to the body any more; the second time does nothing.
    """

    __slots__ = ("_lender", "body", "header", "size")

    def __init__(
        self, header: RequestHeader, body: memoryview, size: int, lender: "_Lender | None" = None
    ) -> None:
        self.header = header
        self.body = body
        self.size = size
        self._lender = lender

    def __repr__(self) -> str:
        return f"<Request {self.header} {self.size} bytes>"

    def release(self) -> None:
        """The body is not needed any more; a use of it from here on is a ValueError."""
        lender = self._lender
        if lender is not None:
            self._lender = None
            self.body.release()
            lender.take_back()


# --- What answers -------------------------------------------------------------------------------


@attrs.frozen
class ConnectionInfo:
    """Who is at the other end: `peer_host` is the textual address without port."""

    connection_id: int
    peer_host: str
    peer_port: int
    listener_name: str


@attrs.frozen
class CloseConnection:
    """An answer that says: close, after what came before was answered. `reason` is for our log,
    written at INFO if it is not empty."""

    reason: str = ""


Answer = Parts | CloseConnection | None
"""The response's parts with size and header (`codec.encode_response`); None for no response
(Produce with acks=0)."""


class Pending(Protocol):
    """A request that was begun, and whose answer may have to wait: a Produce that was appended, or
    a Fetch that found too little."""

    @property
    def ready(self) -> bool:
        """Whether `answer` may be called. Once it is ready, it stays so."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether more like it may be begun before it is answered: a Produce."""
        ...

    @property
    def unopened(self) -> bool:
        """Whether `open` must be called before anything else, and before another request is
        begun. The request's bytes are still in use then."""
        ...

    async def open(self) -> None:
        """Append what could not be appended at once. Waits for worker threads."""
        ...

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have it called, in a step of its own, when this is ready, or its time is up, which makes
        it so. Once, and not for one that is ready."""
        ...

    def answer(self) -> Answer:
        """The answer; once."""
        ...

    def give_up(self) -> None:
        """There will be nobody to answer: call nobody, and give back what is held. Harmless at any
        time, and twice."""
        ...


class Answered:
    """A Produce whose answer is there, as a `Pending`."""

    ready = True
    overlaps = True
    unopened = False

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def open(self) -> None:
        """Never due."""

    def when_ready(self, call: Callable[[], None]) -> None:
        """Never due."""

    def answer(self) -> Answer:
        """The answer."""
        return [self._answer]

    def give_up(self) -> None:
        """Holds nothing."""


class Dispatcher(Protocol):
    """What answers requests; each connection calls it in the order of arrival.

    Errors, from both: RemoteProtocolError closes the connection with a line at INFO. Everything
    else is the dispatcher's to turn into an answer; what does leave it stops the broker.
    """

    def begin(self, request: Request, connection: ConnectionInfo) -> Pending | bytes | Parts:
        """Append a Produce, or read for a Fetch, synchronously; bytes and parts are the whole
        answer. Nothing refers to the request's body after the call, or after `open` if that is due:
        the caller releases it."""
        ...

    async def handle(self, request: Request, connection: ConnectionInfo) -> Answer:
        """Answer any other API. The request's body is gone after the call."""
        ...


# --- Memory -------------------------------------------------------------------------------------


class Budget:
    """The bytes that all connections of a broker may hold in receive buffers.

    Buffers have powers of two as sizes; those given back are kept, up to `spare_max` bytes, since
    fresh memory costs a page fault for each 4 KiB. Not for use from several threads.

    Holds: `used` is what is lent; only FLOOR-sized buffers and one holder's may take it beyond
    `limit`.
    """

    def __init__(self, limit: int = 256 * MIB, *, spare_max: int = 16 * MIB) -> None:
        self.limit = limit
        self.used = 0
        self.waiting = 0
        """Connections that were refused and now wait; kept by their drivers."""
        self._spare: dict[int, list[_Lender]] = {}
        self._spare_size = 0
        self._spare_max = spare_max
        self._overdrawn_by: object | None = None
        self._freed: list[Callable[[], object]] = []

    def on_freed(self, call: Callable[[], object]) -> None:
        """Call this whenever memory came back after somebody was refused; it must not raise."""
        self._freed.append(call)

    @property
    def scarce(self) -> bool:
        """Whether somebody waits or the limit is reached: give back what is not needed."""
        return self.waiting > 0 or self.used >= self.limit

    def take(self, size: int, holder: object) -> "_Lender | None":
        """A buffer of exactly `size` bytes, a power of two; None if it is not to be had now."""
        if self.used + size > self.limit and size > FLOOR and self._overdrawn_by is not holder:
            if self._overdrawn_by is not None:
                return None
            self._overdrawn_by = holder
        return self._lend(size)

    def try_take(self, size: int) -> "_Lender | None":
        """As `take`, but never beyond the limit: for what one can do without."""
        return self._lend(size) if self.used + size <= self.limit else None

    def _lend(self, size: int) -> "_Lender":
        self.used += size
        spare = self._spare.get(size)
        if spare:
            self._spare_size -= size
            return spare.pop()
        return _Lender(size, self)

    def give(self, buffer: "_Lender") -> None:
        """Take a buffer back; nobody may use its bytes any more."""
        size = buffer.size
        self.used -= size
        assert self.used >= 0, "given back twice"
        if self._spare_size + size <= self._spare_max:
            buffer.retired = False
            self._spare_size += size
            spare = self._spare.get(size)
            if spare is None:
                self._spare[size] = [buffer]
            else:
                spare.append(buffer)
        if self.waiting:
            self._tell()

    def settle(self, holder: object) -> None:
        """`holder` has given back everything: another may go beyond the limit."""
        if self._overdrawn_by is holder:
            self._overdrawn_by = None
            if self.waiting:
                self._tell()

    def _tell(self) -> None:
        for call in self._freed:
            call()


class _Lender:
    """A buffer that requests point into, and how many of them."""

    __slots__ = ("_budget", "lent", "retired", "size", "view")

    def __init__(self, size: int, budget: Budget) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))
        self.lent = 0
        self.retired = False
        self._budget = budget

    def take_back(self) -> None:
        self.lent -= 1
        assert self.lent >= 0
        if self.retired and not self.lent:
            self._budget.give(self)

    def retire(self) -> None:
        """The connection goes on in another buffer; back to the budget with the last request."""
        self.retired = True
        if not self.lent:
            self._budget.give(self)


# --- The connection -----------------------------------------------------------------------------


class Connection:
    """The server's side of one connection; see the head of this file."""

    def __init__(self, budget: Budget, *, request_max_bytes: int = 100 * MIB) -> None:
        self._budget = budget
        self._request_max_bytes = request_max_bytes
        self._current: _Lender | None = None
        self._start = 0
        """Where the next frame begins, in the current buffer."""
        self._end = 0
        """Where the received bytes end."""
        self._frame = 0
        """Size of the next frame with its four bytes, 0 while unknown."""
        self._expected = START

    @property
    def buffered(self) -> int:
        """Bytes received that belong to no request yet."""
        return self._end - self._start

    @property
    def held(self) -> int:
        """Bytes of the budget held for receiving."""
        return 0 if self._current is None else self._current.size

    def get_buffer(self) -> memoryview | None:
        """Room to receive into, never empty; None if the budget has no memory for it now. The view
        is for reading into, and not to be kept or released.

        Called when `next_request` has given all it had.
        """
        current = self._current
        if current is None:
            return self._first_buffer().view
        if self._start == self._end and not current.lent:
            self._start = self._end = 0
            if self._budget.scarce and current.size > FLOOR:
                self.rest()
                current = self._first_buffer()
        capacity = current.size
        needed = self._frame or 4
        if self._start + needed > capacity:
            if current.lent:
                moved = self._move(capacity)
            elif self._start:
                self._compact(current)
                moved = current
            else:
                moved = current
            if moved is None:
                return None
            current = moved
            capacity = current.size
            if self._end == capacity:
                # Full, and the frame goes on: grow by what has really come.
                moved = self._move(2 * capacity)
                if moved is None:
                    return None
                current = moved
                capacity = current.size
        # Of a large frame take the rest and no more: the next one then begins at the front.
        stop = self._start + needed
        return current.view[self._end : stop if needed >= START and stop < capacity else capacity]

    def received(self, count: int) -> None:
        """`count` bytes were put at the front of the room last given."""
        assert self._current is not None
        self._end += count
        assert self._end <= self._current.size

    def next_request(self) -> Request | None:
        """The next whole request, or None for more bytes.

        Errors: RemoteProtocolError for a size that is negative or above the limit, and for a
        header that cannot be read; the connection is of no use then.
        """
        current = self._current
        available = self._end - self._start
        frame = self._frame
        if not frame:
            if available < 4:
                return None
            assert current is not None
            (size,) = _unpack_size(current.view, self._start)
            if not 0 <= size <= self._request_max_bytes:
                raise RemoteProtocolError(f"request of {size} bytes announced")
            self._frame = frame = size + 4
        if available < frame:
            return None
        assert current is not None
        start = self._start
        self._frame = 0
        self._start = start + frame
        view = current.view[start + 4 : self._start]
        header, offset = decode_request_header(view)
        if frame > self._expected:
            self._expected = min(_power_of_two(frame), EXPECTED_MAX)
        current.lent += 1
        return Request(header, view[offset:], frame - 4, current)

    def rest(self) -> None:
        """Give back the buffer, if nothing is in it and nothing of it is lent."""
        current = self._current
        if current is not None and self._start == self._end and not current.lent:
            self._current = None
            self._start = self._end = 0
            self._budget.give(current)
            self._budget.settle(self)

    def close(self) -> None:
        """Give back everything; requests still lent give back theirs when released."""
        if self._current is not None:
            self._current.retire()
            self._current = None
            self._start = self._end = 0
        self._budget.settle(self)

    def _first_buffer(self) -> _Lender:
        expected = START if self._budget.waiting else self._expected
        buffer = self._budget.try_take(expected) or self._budget.try_take(START)
        if buffer is None:
            buffer = self._budget.take(FLOOR, self)
            assert buffer is not None
        self._current = buffer
        return buffer

    def _compact(self, current: _Lender) -> None:
        """Move the beginning of a frame to the front; nobody looks at what is there."""
        count = self._end - self._start
        # The ranges may overlap: assignment between views is a memmove then.
        current.view[:count] = current.view[self._start : self._end]
        self._start, self._end = 0, count

    def _move(self, capacity: int) -> _Lender | None:
        """Go on in another buffer, with the beginning of the frame copied to its front."""
        old = self._current
        assert old is not None
        new = self._budget.take(capacity, self)
        if new is None:
            return None
        count = self._end - self._start
        new.view[:count] = old.view[self._start : self._end]
        self._start, self._end = 0, count
        self._current = new
        old.retire()
        return new


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
