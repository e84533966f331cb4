"""Requests to other brokers: one connection each, pipelined, answered in order.

A `Peer` connects when it is first asked for something, and again after a failure. Whatever goes
wrong (refused, reset, no answer in time, nonsense) is one exception, `PeerUnreachable`: it says
that there is no answer, and leaves open whether the request was carried out. A broken connection
takes all requests in flight with it.

There is no task that reads. Answers come in the order of the requests, so the request that has been
waiting longest reads, its own and those of requests given up before it, and then hands
over to the next. A cancelled request leaves its place in the order behind; the connection
goes on. One that was half sent, or ran out of time, ends it.

An idle connection that the other side closed meanwhile (a restart, its idle limit) is noticed
before the next request is sent, so that this one does not fail for it.

Records in an answer are a view into a buffer made for this answer alone: whoever holds the view
keeps it, nobody reuses it.
"""

import contextlib
import errno
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from zkafka.errors import PeerUnreachable, RemoteProtocolError
from zkafka.model import NO_BROKER, BrokerId, BrokerInfo, Endpoint
from zkafka.net.transport import ConnectionLost, RunInThread, SocketTransport, Transport
from zkafka.protocol import hot_fetch
from zkafka.protocol.apis import APIS
from zkafka.protocol.codec import decode_response, encode_request
from zkafka.protocol.fields import schema_of
from zkafka.protocol.messages.fetch import FetchRequest
from zkafka.server.metadata import MetadataImage

RESPONSE_MAX_BYTES = 100 << 20
"""A larger answer is refused. As large as the largest request; a follower asks for 10 MiB."""
SCRATCH = 16 * 1024
"""Answers up to this size are received together with the size before and the answers behind."""
CONNECT_TIMEOUT_MS = 10_000
"""Kafka's socket.connection.setup.timeout.ms."""
REQUEST_TIMEOUT_MS = 30_000
"""Kafka's request.timeout.ms."""

_unpack_size = struct.Struct(">i").unpack_from
_NO_SCOPE = contextlib.nullcontext()

OpenTransport = Callable[[str, int], Awaitable[Transport]]
"""Connects to host and port; OSError if that fails. A simulation hands in another."""


def tcp_connector(
    run_in_thread: RunInThread, *, bind_address: str = "", receive_buffer_bytes: int = -1
) -> OpenTransport:
    """Connects over TCP, from `bind_address` where one is given."""

    async def connect(host: str, port: int) -> Transport:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        error: OSError | None = None
        for family, *_, address in found:
            try:
                sock = await _connected(family, address, bind_address, receive_buffer_bytes)
            except OSError as failure:
                error = error or failure
            else:
                return SocketTransport(sock, run_in_thread)
        raise error or OSError(f"no address for {host}")

    return connect


async def _connected(
    family: int, address: Any, bind_address: str, receive_buffer_bytes: int
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if receive_buffer_bytes > 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if bind_address:
            sock.bind((bind_address, 0))
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if sock.getsockname() == sock.getpeername():
            # A port of the ephemeral range that nobody listens on, on this machine: the kernel may
            # choose it as the source too, and the connection is then to itself.
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        sock.close()
        raise
    return sock


@attrs.define(eq=False)
class _Waiting:
    """The place of one request in the order of answers."""

    correlation_id: int
    given_up: bool = False
    woken: trio.Event | None = None
    """Of one that waits for its turn to read."""

    def wake(self) -> None:
        """It is its turn, or there will be none."""
        if self.woken is not None:
            self.woken.set()


class _Link:
    """One connection while it lasts; `broken` says why it is of no use any more."""

    def __init__(self, transport: Transport, response_max_bytes: int) -> None:
        self.transport = transport
        self.broken: str | None = None
        self._response_max_bytes = response_max_bytes
        self._order: deque[_Waiting] = deque()
        self._scratch = bytearray(SCRATCH)
        self._start = 0
        self._end = 0
        self._frame: memoryview | None = None
        """The large answer being received, and how much of it is there."""
        self._filled = 0
        self._memory = bytearray()
        """The last large answer's; for the next, until a small one comes."""

    def is_stale(self) -> bool:
        """Whether an idle connection has come to its end unnoticed."""
        if self._order or self._start != self._end:
            return False
        self._start = self._end = 0
        try:
            count = self.transport.receive_nowait(memoryview(self._scratch))
        except ConnectionLost:
            return True
        # Bytes that nobody asked for are no better than an end.
        return count is not None

    async def send(self, parts: list[Any], correlation_id: int) -> _Waiting:
        """Send a request and take its place in the order."""
        waiting = _Waiting(correlation_id)
        self._order.append(waiting)
        sent = False
        try:
            await self.transport.send(parts)
            sent = True
        finally:
            if not sent:
                self.break_off("a request was not sent completely")
        return waiting

    async def answer(self, waiting: _Waiting) -> memoryview:
        """The answer to a request that was sent: the frame without its size."""
        answered = False
        try:
            while self.broken is None and self._reader() is not waiting:
                waiting.woken = trio.Event()
                await waiting.woken.wait()
            if self.broken is None and self._frame is None and self._start == self._end:
                # Right after sending nothing can be there; and others get their turn.
                await self.transport.wait_readable()
            while True:
                if self.broken is not None:
                    raise ConnectionLost(self.broken)
                frame = await self._receive()
                first = self._order.popleft()
                if first is waiting:
                    answered = True
                    return frame
        finally:
            if not answered:
                waiting.given_up = True
            reader = self._reader()
            if reader is not None:
                reader.wake()

    def _reader(self) -> _Waiting | None:
        for waiting in self._order:
            if not waiting.given_up:
                return waiting
        return None

    def break_off(self, reason: str) -> None:
        """All requests in flight end with ConnectionLost. The transport is closed by the peer."""
        if self.broken is None:
            self.broken = reason
        for waiting in self._order:
            waiting.wake()

    async def _receive(self) -> memoryview:
        """One frame. A cancellation loses nothing: what came so far is kept for the next call."""
        while True:
            if self._frame is None:
                frame = self._next_in_scratch()
                if frame is not None:
                    return frame
            elif self._filled == len(self._frame):
                done, self._frame = self._frame, None
                return done
            if self._frame is not None:
                room = self._frame[self._filled :]
            else:
                room = memoryview(self._scratch)[self._end :]
            count = self.transport.receive_nowait(room)
            if count is None:
                await self.transport.wait_readable()
            elif count == 0:
                raise ConnectionLost("closed by the other side")
            elif self._frame is not None:
                self._filled += count
            else:
                self._end += count

    def _next_in_scratch(self) -> memoryview | None:
        """A small frame that is there, copied; or None, with room made for the rest of it."""
        available = self._end - self._start
        if available >= 4:
            (size,) = _unpack_size(self._scratch, self._start)
            if not 4 <= size <= self._response_max_bytes:
                raise RemoteProtocolError(f"answer of {size} bytes announced")
            start, stop = self._start + 4, self._start + 4 + size
            if stop <= self._end:
                self._start = stop
                self._memory = bytearray()
                return memoryview(bytes(self._scratch[start:stop]))
            if size + 4 > SCRATCH:
                self._frame = self._room_for(size)
                self._filled = self._end - start
                self._frame[: self._filled] = self._scratch[start : self._end]
                self._start = self._end = 0
                return None
        if self._start:
            self._scratch[:available] = self._scratch[self._start : self._end]
            self._start, self._end = 0, available
        return None

    def _room_for(self, size: int) -> memoryview:
        """Memory for a large answer: the last one's, if that is enough and nobody looks at it any
        more. Fresh memory is zeroed, and costs a page fault for each 4 KiB."""
        if len(self._memory) < size or _is_viewed(self._memory):
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]


def _is_viewed(memory: bytearray) -> bool:
    """Whether there is a memoryview of it: nothing may resize it then."""
    try:
        memory.pop()
    except BufferError:
        return True
    memory.append(0)
    return False


class Peer:
    """A connection to one broker's listener. Several tasks may ask at the same time.

    Ownership: whoever made it calls `aclose`.
    """

    def __init__(
        self,
        broker_id: BrokerId,
        endpoint: Endpoint | None,
        client_id: str,
        *,
        open_transport: OpenTransport,
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS,
        response_max_bytes: int = RESPONSE_MAX_BYTES,
    ) -> None:
        """`endpoint` None: the broker has no such listener; each request fails."""
        self.broker_id = broker_id
        self.endpoint = endpoint
        self._client_id = client_id
        self._client_name = client_id.encode()
        self._open_transport = open_transport
        self._request_timeout_ms = request_timeout_ms
        self._connect_timeout_ms = connect_timeout_ms
        self._response_max_bytes = response_max_bytes
        self._link: _Link | None = None
        # Connecting and sending wait; the order of the requests on the wire is that of their
        # places, so one at a time does both. Nearly always nobody else does, and a trio.Lock costs
        # as much as the rest of a request.
        self._sending = False
        self._turn = trio.lowlevel.ParkingLot()
        self._correlation_id = 0

    def __repr__(self) -> str:
        return f"<Peer broker={self.broker_id} {self.endpoint}>"

    async def request(
        self, message: Any, version: int | None = None, *, timeout_ms: float | None = None
    ) -> Any:
        """The response to `message`, in the highest version unless told otherwise.

        Waits: to connect if need be, to send, and for the answer; `timeout_ms` (request.timeout.ms
        by default) for all of it together. Cancelled, it may or may not have been carried out.
        With an infinite timeout no cancel scope is made: a follower asks thousands of times a
        second, and has one of its own.
        Errors: PeerUnreachable; LocalProtocolError for a message that cannot be written.
        """
        api = APIS[_api_key(message)]
        if version is None:
            version = api.max_version
        self._correlation_id = (self._correlation_id + 1) & 0x7FFF_FFFF
        correlation_id = self._correlation_id
        parts: list[Any]
        fetch = type(message) is FetchRequest
        by_hand = fetch and hot_fetch.request(message, version, correlation_id, self._client_name)
        if by_hand:
            parts = [by_hand]
        else:
            parts = encode_request(message, version, correlation_id, self._client_id)
        timeout_ms = self._request_timeout_ms if timeout_ms is None else timeout_ms
        link: _Link | None = None
        answer: Any = None
        try:
            scope = _NO_SCOPE if timeout_ms == math.inf else trio.move_on_after(timeout_ms / 1000)
            with scope:
                while self._sending:
                    await self._turn.park()
                self._sending = True
                try:
                    link = await self._connected()
                    waiting = await link.send(parts, correlation_id)
                finally:
                    self._sending = False
                    self._turn.unpark()
                frame = await link.answer(waiting)
                found = hot_fetch.answered(version, frame) if fetch else None
                answered, answer = found or decode_response(api.response_class, version, frame)
                if answered != correlation_id:
                    raise RemoteProtocolError(f"answer {answered} to request {correlation_id}")
        except (ConnectionLost, RemoteProtocolError, OSError) as error:
            await self._drop(link, str(error))
            raise PeerUnreachable(f"{self._name()}: {error}") from error
        if answer is None:
            await self._drop(link, "no answer in time")
            raise PeerUnreachable(f"{self._name()}: no answer to {api.name} within {timeout_ms} ms")
        return answer

    async def aclose(self) -> None:
        """Drop the connection, and the requests in flight; the next request connects anew."""
        await self._drop(self._link, "closed by us")

    async def _connected(self) -> _Link:
        link = self._link
        if link is not None:
            if link.broken is None and not link.is_stale():
                return link
            await self._drop(link, "closed by the other side")
        if self.endpoint is None:
            raise ConnectionLost("it has no listener that we know")
        transport = None
        with trio.move_on_after(self._connect_timeout_ms / 1000):
            transport = await self._open_transport(self.endpoint.host, self.endpoint.port)
        if transport is None:
            raise ConnectionLost(f"no connection within {self._connect_timeout_ms} ms")
        self._link = _Link(transport, self._response_max_bytes)
        return self._link

    async def _drop(self, link: _Link | None, reason: str) -> None:
        if link is None:
            return
        if self._link is link:
            self._link = None
        link.break_off(reason)
        await link.transport.aclose()

    def _name(self) -> str:
        where = "nowhere" if self.endpoint is None else self.endpoint.address
        return f"broker {self.broker_id} at {where}"


def _api_key(message: Any) -> int:
    key = schema_of(type(message)).api_key
    assert key is not None, type(message)
    return key


class Peers:
    """Makes connections to the brokers of the cluster, over the inter-broker listener."""

    def __init__(
        self,
        image: Callable[[], MetadataImage],
        listener_name: str,
        *,
        client_id: str,
        open_transport: OpenTransport,
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
    ) -> None:
        self._image = image
        self._listener_name = listener_name
        self._client_id = client_id
        self._open_transport = open_transport
        self._request_timeout_ms = request_timeout_ms

    def connect(self, broker_id: BrokerId) -> Peer:
        """An unconnected peer where the metadata has the broker now. Errors: PeerUnreachable if
        it has none of that id."""
        broker = self._image().brokers.get(broker_id)
        if broker is None:
            raise PeerUnreachable(f"broker {broker_id} is not alive")
        return self.connect_to(broker)

    def connect_to(self, broker: BrokerInfo, *, request_timeout_ms: int | None = None) -> Peer:
        """An unconnected peer for a broker as somebody else knows it (the controller)."""
        return Peer(
            broker.broker_id,
            broker.endpoints.get(self._listener_name),
            self._client_id,
            open_transport=self._open_transport,
            request_timeout_ms=request_timeout_ms or self._request_timeout_ms,
        )


class ControllerLink:
    """Requests to whoever is controller by the metadata at that moment.

    Whoever changes the metadata calls `controller_changed` if they name another one.
    """

    def __init__(self, image: Callable[[], MetadataImage], peers: Peers) -> None:
        self._image = image
        self._peers = peers
        self._peer: Peer | None = None
        self._asking: dict[trio.CancelScope, BrokerId] = {}

    async def request(
        self, message: Any, version: int | None = None, *, timeout_ms: float | None = None
    ) -> Any:
        """The controller's response. Errors: PeerUnreachable, also where no controller is known, or
        as soon as another one is: the one asked may be stopped, and would keep us to the timeout.

        A controller that resigned answers NOT_CONTROLLER; the next request goes to whom the
        metadata names by then.
        """
        controller = self._image().controller_id
        if controller == NO_BROKER:
            raise PeerUnreachable("no controller is known")
        found = self._peers.connect(controller)
        with trio.CancelScope() as scope:
            self._asking[scope] = controller
            try:
                peer = self._peer
                if peer is None or (peer.broker_id, peer.endpoint) != (controller, found.endpoint):
                    self._peer = found
                    if peer is not None:
                        await peer.aclose()
                    peer = found
                return await peer.request(message, version, timeout_ms=timeout_ms)
            finally:
                del self._asking[scope]
        raise PeerUnreachable(f"broker {controller} is not the controller any more")

    def controller_changed(self) -> None:
        """Give up the requests to whom the metadata no longer name."""
        controller = self._image().controller_id
        for scope, asked in self._asking.items():
            if asked != controller:
                scope.cancel()

    async def aclose(self) -> None:
        """Drop the connection; the next request connects anew."""
        if self._peer is not None:
            await self._peer.aclose()
